"""Delivery alone, as processes: a case store with approved releases in it, and the stages that carry them out.

What comes before (capture, index, planning, approvals) has tests of its own; its result is written into the tables here.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from click.testing import CliRunner
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.contracts.envelope import open_envelope
from bridge.contracts.events import Contact, DeliverNotice, NoticeRead, each_of
from bridge.contracts.topics import DELIVERY_COMMANDS, DELIVERY_OUTCOMES
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import headers_of
from bridge.runtime.kafka import new_consumer
from bridge.runtime.sealing import Sealer, load_public_key
from bridge.runtime.settings import load_settings
from bridge.runtime.supervisor import Running, Supervisor
from consumers import cli
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.aws import client, provision_sandbox
from consumers.adapters.case_store import outbox, tables
from consumers.adapters.case_store.engine import CaseDatabase, migrate
from consumers.adapters.notice_renderer import sample_key
from consumers.adapters.template_catalog import ApprovedBundles, read_bundle
from consumers.bootstrap.providers import aws_config
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.commands import initialise, stage_command
from consumers.domain.simulators import SIMULATED_PHONE, is_simulated_email
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.leaves import canonical_content
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from tests.e2e import delivery_oracle as oracle
from tests.e2e.delivery_oracle import Attempt, Scripted
from tests.e2e.demo_process import ROOT, last_words
from tests.e2e.parts import start_part
from tests.processes import module, typist
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase

SUPERVISED = ("release", "outbox", "receipts", "evidence")
POLICY = ("email", "sms")
OTHERS = ("account_notice", "letter")
OWN_MAILBOX = "canary@shop.example.com"
RECEIPT_LEASE_SECONDS = 3
"""What a killed receiver had taken is there again after this."""
GIVEN_UP_AFTER, REPEATED_AFTER, NEAR = timedelta(seconds=10), timedelta(seconds=12), timedelta(seconds=8)
"""A dead dispatcher's claim is given up and then repeated no sooner than this, with a receipt's time-out of 12 s or more."""
_REPEATED = tables.attempt.c.state.in_(("planned", "commanded")) & (tables.attempt.c.send_count > 0)
_IN_DOUBT = _REPEATED | tables.attempt.c.state.in_(("intended", "unknown"))
NOBODYS = (OWN_MAILBOX, SIMULATED_PHONE)
"""Where canary messages go, beside SES's simulator."""


@dataclass(frozen=True)
class Row:
    """One attempt, with whose it is."""

    incident_id: str
    root: str
    attempt: Attempt


class Dispatcher:
    """One process of the stage dispatch."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._process: Running | None = None
        self.start()

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as output:
            self._process = typist().start(
                module("tests.e2e.dispatch_process", self._config), output=output, folder=ROOT
            )

    def tend(self) -> None:
        """Start it again if it has ended, as a supervisor does."""
        assert self._running.poll() != 2, last_words(self._log)
        self.start()

    @property
    def _running(self) -> Running:
        assert self._process is not None
        return self._process

    def send(self, signal_: signal.Signals) -> None:
        self._running.send_signal(signal_)

    def kill(self) -> None:
        """SIGKILL; it is gone on return."""
        self._running.send_signal(signal.SIGKILL)
        self._running.wait()

    def exit_code(self, seconds: float = 60) -> int:
        """Wait until it ends by itself."""
        return self._running.wait(seconds)

    def end(self) -> int:
        self._running.send_signal(signal.SIGCONT)
        self._running.send_signal(signal.SIGTERM)
        return self._running.wait(60)


class Delivery:
    """An installation whose delivery stages run on real servers."""

    def __init__(self, folder: Path, sandbox: str, database: CaseDatabase) -> None:
        self.folder, self.sandbox, self.database = folder, sandbox, database
        self.config = folder / "tocsin.toml"
        self.settings = load_settings(self.config)
        self.people: list[Scripted] = []
        self._numbers = count(1)
        self._token = add_person(self.settings.paths.people, "dora", "Dora Dpo", [Role.DPO])
        self._sealer = Sealer(load_public_key(self.settings.paths.sealing_public_key), SystemClock())
        artefacts = DirectoryArtefactStore(self.settings.paths.artefacts)
        self._bundle = read_bundle(self.settings.paths.templates, "ai-data-leak")
        ApprovedBundles(self.settings.paths.templates, artefacts).keep(self._bundle)
        self._dispatcher: Dispatcher | None = None
        self.supervisor: Supervisor | None = None
        self._halt = threading.Event()
        self._running: threading.Thread | None = None
        self._exit_codes: list[int] = []
        self.taken_elsewhere: Callable[[], list[dict[str, Any]]] = list
        """Returns what providers outside the sandbox took: `to`, `channel`, `attempt_id`."""

    # --- what is scripted ----------------------------------------------------------------------------------------

    def incident(
        self,
        fates: Sequence[Mapping[str, str]],
        *,
        disturbed: Sequence[str] = (),
        residence: str = "DE",
        due_in: timedelta = timedelta(hours=72),
    ) -> str:
        """Approve a release for one person for each of `fates` (channel -> fate), and return its incident.

        `disturbed` are the channels of which the test makes calls end without an answer.
        """
        number, now = next(self._numbers), datetime.now(UTC)
        incident_id = f"INC-2026-{number:04d}"
        policy = [channel for channel in (*POLICY, *OTHERS) if any(channel in each for each in fates)]
        people = [self._person(incident_id, n, each, policy, disturbed) for n, each in enumerate(fates, number * 1000)]
        phones = {p.addresses["sms"]: p.fates["sms"] for p in people if "sms" in p.addresses}
        self.control("behaviours", phones)
        key = sample_key(
            self._bundle, "en", incident_id=incident_id, bundle_sha256=self._bundle.sha256, channels=tuple(policy)
        )
        approved = {"bundle_sha256": self._bundle.sha256, "channels": policy}
        with self.database.write() as connection:
            connection.execute(
                sa.insert(tables.incident).values(
                    incident_id=incident_id, number=number, year=2026, source="monitor", fingerprint=incident_id,
                    fingerprint_sha256=f"{number:064d}", occurrence=1, title="t", state="confirmed", revision=1,
                    unsigned_source=False, exercise=False, repeat_count=0, detected_at=now, opened_at=now, epoch=1,
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(tables.segment).values(
                    segment_id=key.segment_id, incident_id=incident_id, revision=1, name="all", key=key.as_json(),
                    bundle_sha256=self._bundle.sha256, channels=policy, lane="urgent", priority=1, sms_details=False,
                    count=len(people),
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(tables.recipient),
                [self._row(person, key.segment_id, now + due_in, residence) for person in people],
            )
            connection.execute(
                sa.insert(tables.release).values(
                    release_id=f"release-{number}", incident_id=incident_id, revision=1,
                    policy={"segments": {key.segment_id: approved}}, policy_sha256="0" * 64, mode="two_approvers",
                    state="releasing", late_cap=1, prepared_by="p", prepared_role="responder", prepared_at=now,
                    released_at=now,
                )
            )  # fmt: skip
        self.people.extend(people)
        return incident_id

    def _person(
        self, incident_id: str, number: int, fates: Mapping[str, str], policy: Sequence[str], disturbed: Sequence[str]
    ) -> Scripted:
        email = fates.get("email")
        tag = "" if email in (None, "delivered") else f"+{email}"
        addresses = {"email": f"person.{number}{tag}@shop.example.com", "sms": f"+49151{number:08d}"}
        return Scripted(
            f"customer/{number}", incident_id, policy, fates,
            {channel: address for channel, address in addresses.items() if channel in fates}, frozenset(disturbed),
        )  # fmt: skip

    def _row(self, person: Scripted, segment_id: str, due_at: datetime, residence: str) -> dict[str, Any]:
        number = int(person.root.partition("/")[2])
        street = ("1 Road", "10115 Berlin", "DE") if "letter" in person.fates else ()
        contact = Contact(
            email=person.addresses.get("email"),
            phone=person.addresses.get("sms"),
            first_name="Vrae",
            postal_address=street,
        )
        return {
            "recipient_id": f"{person.incident_id}:{person.root}", "incident_id": person.incident_id, "revision": 1,
            "root": person.root, "roots": [person.root], "subject_commitment": f"{number:064d}", "customer_id": number,
            "controller": "c", "website_id": 1, "store_id": 1, "locale": "en", "standing": "recorded", "late": False,
            "residence": [{"code": residence, "source": "store"}], "jurisdictions": [], "highest_sensitivity": "high",
            "segment_id": segment_id, "channels": list(person.fates), "why": {},
            "contact": self._sealer.seal(contact, person.root).model_dump(mode="json"),
            "deadline_at": due_at,
        }  # fmt: skip

    @property
    def dispatcher(self) -> Dispatcher:
        """The first process of dispatch."""
        assert self._dispatcher is not None
        return self._dispatcher

    def start_dispatch(self) -> None:
        self._dispatcher = Dispatcher(self.config, self.folder / "logs" / "dispatch.log")

    def start_stages(self) -> None:
        """Start every stage but dispatch."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_"))}
        commands = {stage: stage_command(self.config, stage) for stage in SUPERVISED}
        supervisor = Supervisor(commands, logs=self.folder / "logs", environment=environment, start=typist().start)
        self.supervisor, self._halt, self._exit_codes = supervisor, threading.Event(), []
        halt, codes = self._halt, self._exit_codes
        self._running = threading.Thread(target=lambda: codes.append(supervisor.run(halt)), daemon=True)
        self._running.start()

    def stop_stages(self) -> list[int]:
        """End them; return the exit code of their supervisor, 0 if all ended cleanly."""
        self._halt.set()
        if self._running is not None:
            self._running.join(90)
        return self._exit_codes

    # --- what is done to it --------------------------------------------------------------------------------------

    def attend(self, incident_id: str) -> None:
        """Let readers of account notices confirm them, post the letters that lie ready, and say which came back: as scripted."""
        fates = {person.root: person.fates for person in self.people if person.incident_id == incident_id}
        rows = [row for row in self.rows(incident_id) if row.attempt.channel in OTHERS]
        now = datetime.now(UTC)
        reads = [
            NoticeRead(notice_id=each.attempt.attempt_id, customer_id=int(each.root.partition("/")[2]), read_at=now)
            for each in rows
            if (each.attempt.state, fates[each.root].get(each.attempt.channel)) == ("handed_over", "read")
        ]
        with self.database.write() as connection:
            outgoing = [
                outbox.Outgoing(
                    DELIVERY_OUTCOMES, root=f"customer/{each.customer_id}", key=f"notice/{each.notice_id}",
                    event_id=f"{each.notice_id}-read", event=each,
                )
                for each in reads
            ]  # fmt: skip
            outbox.append(connection, outgoing, now)
        self._post(incident_id, {each.attempt.attempt_id: fates[each.root].get("letter", "") for each in rows})

    def _post(self, incident_id: str, fates: Mapping[str, str]) -> None:
        why = ("--reason", "scripted")
        for batch in json.loads(self.tocsin("delivery", "letters", "list", incident_id, "--json")):
            if not batch["ready"]:
                continue
            manifest = json.loads((Path(batch["folder"]) / "manifest.json").read_text())
            back = [str(each["number"]) for each in manifest["letters"] if fates[each["attempt"]] == "returned"]
            self.tocsin("delivery", "letters", "posted", incident_id, batch["batch"], *why)
            if back:
                self.tocsin("delivery", "letters", "returned", incident_id, batch["batch"], *back, *why)

    def control(self, what: str, posted: object) -> None:
        request = urllib.request.Request(
            f"{self.sandbox}/_control/{what}", json.dumps(posted).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    def held(self) -> int:
        """Return how many calls the sandbox holds at this moment."""
        with urllib.request.urlopen(f"{self.sandbox}/_control/faults", timeout=30) as answer:
            return sum(json.load(answer)["held"].values())

    def holds(self, count: int) -> bool:
        """Say whether the sandbox holds so many calls; those of the dead are among them."""
        return self.held() >= count

    @contextmanager
    def frozen(self, stage: str) -> Iterator[None]:
        """Stop a supervised process while it holds no lock, and let it go on afterwards."""
        assert self.supervisor is not None
        pid = self.until(partial(self.supervisor.pid, stage), f"{stage} runs")

        def stopped() -> bool:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.12)
            if self._transactions() == 0:
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        self.until(stopped, f"{stage} is between two transactions")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill(self, stage: str) -> None:
        """SIGKILL of a supervised process; another has taken its place on return."""
        assert self.supervisor is not None
        killed = self.supervisor.pid(stage)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        self.until_without_dispatch(
            lambda: self.supervisor is not None and self.supervisor.pid(stage) not in (None, killed),
            f"{stage} is started again",
        )

    def until_nobody_is_in_doubt(self) -> None:
        """Wait until what became of every call is known."""
        self.until(lambda: not self._attempts_are(_IN_DOUBT), "nobody is in doubt")

    def until_no_repeat_is_near(self) -> None:
        """Wait, where what is done next might meet somebody whose first call met the last: of two calls nobody may have taken
        either, and there is no third.
        """
        a, now = tables.attempt.c, datetime.now(UTC)
        near = (
            _REPEATED
            | ((a.state == "unknown") & (a.state_at < now - REPEATED_AFTER + NEAR))
            | ((a.state == "intended") & (a.state_at < now - GIVEN_UP_AFTER - REPEATED_AFTER + NEAR))
        )
        if self._attempts_are(near):
            self.until_nobody_is_in_doubt()

    def _attempts_are(self, condition: sa.ColumnElement[bool]) -> bool:
        with self.database.read() as connection:
            return (
                connection.execute(sa.select(tables.attempt.c.attempt_id).where(condition).limit(1)).first() is not None
            )

    @contextmanager
    def locked(self, incident_id: str) -> Iterator[None]:
        """Hold the rows of the incident's attempts, so that whoever wants to change one waits."""
        with self.database.write() as connection:
            connection.execute(
                sa.select(tables.attempt.c.attempt_id)
                .where(tables.attempt.c.incident_id == incident_id)
                .with_for_update()
            ).all()
            yield

    def somebody_waits(self) -> bool:
        """Say whether a transaction of the case store waits for a lock."""
        return self._transactions("trx_state = 'LOCK WAIT'") > 0

    def _transactions(self, which: str = "trx_rows_locked > 0") -> int:
        with self.database.read() as connection:
            query = sa.text(f"SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE {which}")
            return int(connection.execute(query).scalar_one())

    def tocsin(self, *words: str) -> str:
        """Run a command in this process as the data protection officer; return what it printed."""
        done = CliRunner().invoke(
            cli.build(),
            ["--config", str(self.config), *words],
            env={"TOCSIN_TOKEN": self._token},
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        return done.output

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
        """Wait for `condition`, starting dispatch again meanwhile if it ends."""
        return self._until(condition, what, seconds, self._dispatcher)

    def until_without_dispatch(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for `condition` while dispatch stays as it is."""
        return self._until(condition, what, 90, None)

    def _until(self, condition: Callable[[], Any], what: str, seconds: float, dispatcher: Dispatcher | None) -> Any:
        give_up_at = time.monotonic() + seconds
        while not (found := condition()):
            if dispatcher is not None:
                dispatcher.tend()
            assert time.monotonic() < give_up_at, f"waited in vain until {what}\n{self.words()}"
            # not sooner: the server shows the same list of transactions to whoever asks within a tenth of a second
            time.sleep(0.12)
        return found

    def words(self) -> str:
        """Return what the processes said last, and where attempts stand."""
        states = Counter((row.incident_id, row.attempt.channel, row.attempt.state) for row in self.rows())
        logs = [f"{log.name}\n{last_words(log)}" for log in sorted(self.folder.glob("logs/*.log"))]
        return "\n".join([str(sorted(states.items())), *logs])[-8000:]

    # --- what can be seen ----------------------------------------------------------------------------------------

    def rows(self, incident_id: str | None = None) -> list[Row]:
        """Return all attempts in their order."""
        a, r = tables.attempt.c, tables.recipient.c
        query = (
            sa.select(r.incident_id, r.root, a.attempt_id, a.channel, a.state, a.called_count)
            .join(tables.recipient, r.recipient_id == a.recipient_id)
            .order_by(a.recipient_id, a.number)
        )
        with self.database.read() as connection:
            found = connection.execute(query if incident_id is None else query.where(r.incident_id == incident_id))
            return [Row(row[0], row[1], Attempt(*row[2:])) for row in found]

    def all_in(self, incident_id: str, *states: str) -> bool:
        """Say whether everybody of the incident has an attempt, and all attempts are in one of `states`."""
        rows = self.rows(incident_id)
        people = sum(person.incident_id == incident_id for person in self.people)
        return len({row.root for row in rows}) == people and all(row.attempt.state in states for row in rows)

    def any_in(self, incident_id: str, *states: str) -> bool:
        return any(row.attempt.state in states for row in self.rows(incident_id))

    def has_ended(self, incident_id: str) -> bool:
        """Say whether everybody of the incident has an end."""
        return all(end is not None for (of, _), end in self.ends().items() if of == incident_id)

    def none_in(self, incident_id: str, *states: str) -> bool:
        return not self.any_in(incident_id, *states)

    def ends(self) -> dict[tuple[str, str], str | None]:
        r = tables.recipient.c
        with self.database.read() as connection:
            return {
                (row[0], row[1]): row[2] for row in connection.execute(sa.select(r.incident_id, r.root, r.final_state))
            }

    def states(self, incident_id: str) -> Counter[str]:
        """Return how many of an incident's attempts are in each state."""
        return Counter(row.attempt.state for row in self.rows(incident_id))

    def arrived_without_text(self) -> int:
        """Return of how many messages that arrived the ledger has no digest of the text."""
        arrived = tables.attempt.c.state.in_(("delivered", "complained", "read"))
        with self.database.read() as connection:
            query = sa.select(sa.func.count()).where(arrived & tables.attempt.c.body_sha256.is_(None))
            return int(connection.execute(query).scalar_one())

    def called_without_number(self) -> int:
        """Return of how many SMS on which a provider has reported the ledger does not know the number, by its hash."""
        a = tables.attempt.c
        reported = a.state.in_(("delivered", "complained", "read", "bounced"))
        with self.database.read() as connection:
            query = sa.select(sa.func.count()).where(reported & (a.channel == "sms") & a.phone_hmac.is_(None))
            return int(connection.execute(query).scalar_one())

    def taken(self, incident_id: str) -> int:
        """Return how many messages to an incident's people the providers have taken."""
        addresses = {
            each for person in self.people if person.incident_id == incident_id for each in person.addresses.values()
        }
        return sum(message["to"] in addresses for message in self.mailbox())

    def receipts_waiting(self) -> int:
        """Return how many receipts lie in the queue, or are lent out of it."""
        sqs = client(aws_config(self.settings), "sqs", may_repeat=True)
        url = sqs.get_queue_url(QueueName=self.settings.delivery.receipts_queue)["QueueUrl"]
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])

    def commands(self) -> Counter[str]:
        """Return how many commands lie on the topic for each attempt, the old ones included."""
        counted = Counter[str]()
        consumer = new_consumer(self.settings.kafka, "commands-counted")
        topic = self.settings.kafka.topic_prefix + DELIVERY_COMMANDS.name
        try:
            left = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(DELIVERY_COMMANDS.partitions)]
            ends = {each.partition: consumer.get_watermark_offsets(each)[1] for each in left}
            consumer.assign([each for each in left if ends[each.partition]])
            # a mark of the last transaction lies behind the last command
            while any(at.offset < ends[at.partition] for at in consumer.position(consumer.assignment())):
                for message in consumer.consume(1000, timeout=0.2):
                    event = open_envelope(message.key(), message.value(), headers_of(message))
                    counted.update(each.attempt_id for each in each_of(event) if isinstance(each, DeliverNotice))
        finally:
            consumer.close()
        return counted

    def circuit(self, provider: str) -> str | None:
        """Return how the living dispatcher says that a provider's circuit stands."""
        c = tables.provider_circuit.c
        query = sa.select(c.state).where(c.provider == provider).order_by(c.told_at.desc()).limit(1)
        with self.database.read() as connection:
            state: str | None = connection.execute(query).scalar()
            return state

    def mailbox(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.sandbox}/_mailbox.json?bodies=0", timeout=30) as answer:
            messages = [*json.load(answer)["messages"], *self.taken_elsewhere()]
        return [each for each in messages if not (is_simulated_email(each["to"]) or each["to"] in NOBODYS)]

    def is_over(self) -> bool:
        """Say whether everybody has an end and everything is published."""
        if any(end is None for end in self.ends().values()):
            return False
        with self.database.read() as connection:
            return not connection.execute(sa.select(sa.func.count()).select_from(tables.outbox)).scalar_one()

    def until_judged(self, seconds: float = 120) -> None:
        """Wait until everybody has an end, and the evidence log all of it; then fail with what the oracle finds."""
        self.until(self.is_over, "everybody has an end", seconds)
        give_up_at = time.monotonic() + 30
        while (found := self.faults()) and time.monotonic() < give_up_at:
            time.sleep(0.5)
        assert found == [], f"{len(found)} differences\n" + "\n".join([*found[:20], self.words()])

    def faults(self) -> list[str]:
        """Return what the oracle finds."""
        attempts: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
        for row in self.rows():
            attempts[row.incident_id, row.root].append(row.attempt)
        steps, ends = self._logged()
        messages = self.mailbox()
        return oracle.judge(
            self.people, self.ends(), attempts, steps, ends, Counter(message["to"] for message in messages),
            Counter(message["attempt_id"] for message in messages if message["attempt_id"]),
        )  # fmt: skip

    def _logged(self) -> tuple[dict[tuple[str, str], list[tuple[str, str]]], dict[tuple[str, str], str]]:
        """Read the evidence log: the last state of each attempt in order, and each end, by (incident, root)."""
        files = LogFolder(self.settings.paths.evidence)
        signed = files.read(CHECKPOINT)
        states: dict[tuple[str, str], dict[int, tuple[str, str]]] = defaultdict(dict)
        ends: dict[tuple[str, str], str] = {}
        size = 0 if signed is None else Checkpoint.parse_text(Note.parse(signed).text).size
        for _, entry in LogReader(files, size).entries() if size else ():
            leaf = canonical_content(entry)
            if leaf["type"] == "tocsin.delivery-outcome":
                who = (leaf["incident_id"], f"customer/{int(leaf['subject'])}")
                states[who][leaf["attempt_number"]] = (leaf["channel"], leaf["state"])
            elif leaf["type"] == "tocsin.case.person.finished":
                ends[leaf["incident_id"], f"customer/{int(leaf['body']['subject'])}"] = leaf["body"]["state"]
        return {who: [step for _, step in sorted(numbers.items())] for who, numbers in states.items()}, ends

    def second_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.config, self.folder / "logs" / "dispatch-2.log")

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.settings.kafka.bootstrap_servers})


@contextmanager
def delivery_running(
    folder: Path, kafka: KafkaServer, topic_prefix: str, case_store: StoreDatabase, **delivery: Any
) -> Iterator[Delivery]:
    """Yield delivery at work; `delivery` are settings of that section. Every process must end cleanly."""
    (folder / "logs").mkdir(parents=True)
    with ExitStack() as stack:
        sandbox = stack.enter_context(
            start_part(
                "sandbox",
                [
                    sys.executable,
                    "-m",
                    "consumers.sandbox",
                    "--folder",
                    str(folder / "mailbox"),
                    "--receipt-delay",
                    "0.1",
                ],
                folder / "logs",
            )
        )["url"]
        initialise(
            folder,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": topic_prefix},
                "case_store": {"url": case_store.url},
                "paths": {"data": "."},
                "delivery": {
                    "endpoint_url": sandbox, "from_address": "security@shop.example.com",
                    "certificate_hosts": ["127.0.0.1"], "email_per_second": 500, "sms_per_second": 100,
                    # its calls would use up what a test has scripted for the next one
                    "canary_messages": {"every_minutes": 0}, "sms_status_poll_seconds": 0.2, **delivery,
                },
                "metrics": {"port_base": 0},
            },
        )  # fmt: skip
        database = CaseDatabase(case_store.url)
        stack.callback(database.close)
        migrate(database)
        running = Delivery(folder, sandbox, database)
        running.tocsin("topics", "apply")
        provision_sandbox(
            aws_config(running.settings), sender_domain="shop.example.com",
            configuration_set=running.settings.delivery.configuration_set,
            receipts_queue=running.settings.delivery.receipts_queue, receipt_lease_seconds=RECEIPT_LEASE_SECONDS,
        )  # fmt: skip
        running.start_stages()
        running.start_dispatch()
        try:
            yield running
            assert running.dispatcher.end() == 0, last_words(folder / "logs" / "dispatch.log")
        finally:
            running.dispatcher.kill()
            exit_codes = running.stop_stages()
        assert exit_codes == [0], running.words()
