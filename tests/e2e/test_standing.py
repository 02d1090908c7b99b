"""An open incident is a standing query: what arrives late is told once, what is more is supplemented, then it is closed.

All stages run, each a process, on an embedded Kafka and the AWS sandbox; people act by their commands.
"""

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from bridge.runtime.settings import Settings, load_settings
from bridge.runtime.supervisor import Supervisor
from consumers import cli
from consumers.adapters.aws import provision_sandbox
from consumers.adapters.case_store import tables
from consumers.bootstrap import STAGES, aws_config
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.commands import initialise, stage_command
from consumers.demo import shop, witnesses
from consumers.demo.progress import Progress, open_changes
from consumers.demo.shop import LEAKED_MODEL, PLACES, Person, Record, Shop
from consumers.demo.surroundings import embedded, open_engine
from consumers.domain.standing import late_order
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.leaves import canonical_content
from consumers.evidence.merkle import root_over
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from tests.e2e.demo_process import last_words
from tests.e2e.parts import start_part
from tests.processes import typist

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOW = (NOW - timedelta(days=40), NOW - timedelta(days=2))
PLACE = {place.code: place for place in PLACES}
STAFF = {"rosa": Role.RESPONDER, "dora": Role.DPO, "carl": Role.COUNSEL}
BEFORE = "We have written to you about this incident before."
BEFORE_IN_GERMAN = "Wir haben Ihnen zu diesem Vorfall schon geschrieben."


@dataclass
class Running:
    """An installation whose stages all run."""

    settings: Settings
    sandbox: str
    stages: threading.Thread
    tokens: Mapping[str, str]

    def __post_init__(self) -> None:
        self.store = open_engine(self.settings.store.url.get_secret_value())
        self.cases = open_engine(self.settings.case_store.url.get_secret_value())
        self.progress = Progress(self.cases)

    def type(self, who: str, *words: str) -> str:
        """Run a command as `who`; return what it printed. A refusal is raised."""
        config = str(self.settings.paths.data / "tocsin.toml")
        environment = {name: None for name in os.environ if name.startswith("TOCSIN_")}
        done = CliRunner().invoke(
            cli.build(), ["--config", config, *words], env={**environment, "TOCSIN_TOKEN": self.tokens[who]},
            catch_exceptions=False,
        )  # fmt: skip
        return done.output

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        give_up_at = time.monotonic() + seconds
        while not (found := condition()):
            assert self.stages.is_alive(), "a stage refuses its settings"
            assert time.monotonic() < give_up_at, f"waited in vain until {what}\n{self.words()}"
            time.sleep(0.1)
        return found

    def words(self) -> str:
        """Return what the processes said last."""
        return "\n".join(last_words(log) for log in sorted((self.settings.paths.data / "logs").glob("*.log")))

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        with self.cases.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def people(self) -> dict[str, dict[str, Any]]:
        """Return recipients by root and round."""
        return {f"{row['root']}#{row['round']}": row for row in self.rows(tables.recipient)}

    def mails(self, person: Person) -> list[dict[str, Any]]:
        return [each for each in witnesses.mailbox(self.sandbox) if person.email in json.dumps(each)]

    def write(self, person: Person, *records: Record) -> None:
        """Let the AI write about somebody, as its job does."""
        with self.store.begin() as connection:
            shop._insert(connection, "tocsin_provenance", [shop._provenance_row(person, each) for each in records])

    def approve(self, incident_id: str) -> None:
        """Prepare and approve, by two people."""
        policy = json.loads(self.type("rosa", "incident", "prepare", incident_id, "--json"))["policy_sha256"]
        for who in ("dora", "carl"):
            self.type(who, "incident", "approve", incident_id, "--policy", policy, "--reason", "read")

    def leaves(self, kind: str) -> list[dict[str, Any]]:
        """Return what the evidence log has of one kind of case event."""
        files = LogFolder(self.settings.paths.evidence)
        signed = files.read(CHECKPOINT)
        if signed is None:
            return []
        reader = LogReader(files, Checkpoint.parse_text(Note.parse(signed).text).size)
        leaves = [canonical_content(entry) for _, entry in reader.entries()]
        return [leaf for leaf in leaves if leaf["type"] == f"tocsin.case.{kind}"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("installation")
    with ExitStack() as stack:

        def start(name: str, command: Sequence[str]) -> Mapping[str, Any]:
            return stack.enter_context(start_part(name, command, folder))

        surroundings = embedded(folder, start)
        sandbox = start("sandbox", [sys.executable, "-m", "consumers.sandbox", "--folder", str(folder / "mailbox")])
        initialise(
            folder,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "kafka": dict(surroundings.kafka),
                "store": {
                    "url": surroundings.store_url,
                    "base_url": "https://shop.example.com/",
                    "default_country": "DE",
                },
                "case_store": {"url": surroundings.case_store_url},
                "paths": {"data": "."},
                "intake": {"port": 0},
                "delivery": {
                    "mode": "sandbox",
                    "test_store": True,
                    "endpoint_url": sandbox["url"],
                    "from_address": "security@shop.example.com",
                    "certificate_hosts": ["127.0.0.1"],
                },
                "metrics": {"port_base": 0},
            },
        )
        controllers = folder / "templates" / "law" / "controllers.yaml"
        text = controllers.read_text(encoding="utf-8")
        controllers.write_text(text.replace("The shop's legal entity", "Example Shop"), encoding="utf-8")
        settings = load_settings(folder / "tocsin.toml")
        tokens = {name: add_person(settings.paths.people, name, name.title(), [role]) for name, role in STAFF.items()}
        provision_sandbox(
            aws_config(settings),
            sender_domain="shop.example.com",
            configuration_set=settings.delivery.configuration_set,
            receipts_queue=settings.delivery.receipts_queue,
        )
        commands = {stage: stage_command(folder / "tocsin.toml", stage) for stage in STAGES}
        supervisor, halt = Supervisor(commands, logs=folder / "logs", start=typist().start), threading.Event()
        stages = threading.Thread(target=supervisor.run, args=[halt], daemon=True)
        stages.start()
        made = Running(settings, sandbox["url"], stages, tokens)
        try:
            yield made
        finally:
            halt.set()
            stages.join(60)
            made.store.dispose()
            made.cases.dispose()


def record(person: Person, version: str, kind: str = "derived", category: str = "fraud_assessment") -> Record:
    return Record(
        record_id=str(uuid.uuid4()), root=f"customer/{person.customer_id}", model_id=LEAKED_MODEL, version=version,
        attribute="fraud_score", kind=kind, category=category, generated_at=NOW - timedelta(days=20), deleted_at=None,
    )  # fmt: skip


def somebody(number: int, place: str, version: str | None) -> Person:
    person = Person(
        number=number, place=PLACE[place], first_name=f"Vrae{number}", last_name="Kvoozha", phone=None,
        email=f"person.{number}@{place.lower()}.example.com", street=f"Qui {number}", customer_id=number,
    )  # fmt: skip
    if version is not None:
        person.records.append(record(person, version))
    return person


def test_what_arrives_late_is_told_once_and_what_is_more_is_supplemented(running: Running) -> None:
    told, also_told, late, *others = people = [
        somebody(1, "IE", "7"),
        somebody(2, "DE", "7"),
        somebody(3, "FR", "6"),
        *(somebody(number, "DE", "8") for number in range(4, 10)),
    ]
    with running.store.begin() as connection:
        shop.write_base(connection)
        shop.write_people(connection, Shop(1, NOW, people))
    running.until(running.progress.is_there, "the case store is there", 90)
    until = (NOW + timedelta(days=100)).date().isoformat()
    running.type("carl", "notices", "approve", "ai-data-leak", "--jurisdictions", "*", "--until", until)
    running.until(lambda: open_changes(running.store) == 0, "the relay has carried the shop", 90)

    alert = running.settings.paths.data / "alert.json"
    scope = {
        "model_ids": [LEAKED_MODEL], "model_versions": ["7"], "exposed_from": WINDOW[0].isoformat(),
        "exposed_to": WINDOW[1].isoformat(),
    }  # fmt: skip
    body = {"fingerprint": "log-7", "title": "log was public", "detected_at": NOW.isoformat(), "scope": scope}
    alert.write_text(json.dumps(body), encoding="utf-8")
    # an alert repeated is the same incident
    for _ in range(2):
        running.type("rosa", "alert", "send", str(alert))
    incident_id: str = running.until(running.progress.first_incident, "intake opens the incident")
    running.until(lambda: running.progress.plan_state(incident_id) == "complete", "the plan is complete")
    assert set(running.people()) == {"customer/1#1", "customer/2#1"}
    running.type("rosa", "incident", "ack", incident_id)
    running.approve(incident_id)
    running.until(lambda: running.progress.is_finished(incident_id), "both are reached")
    assert [len(running.mails(each)) for each in people] == [1, 1, *([0] * (1 + len(others)))]

    # late, through the relay: a record about somebody new, more of somebody who was told, and the same of another
    running.write(late, record(late, "7"))
    running.write(told, record(told, "7", "inferred", "payment_dispute"))
    running.write(also_told, record(also_told, "7"))
    added = running.until(lambda: running.people().get("customer/3#1"), "the late record adds its person")
    assert (bool(added["late"]), added["added_at"] is not None) == (True, True)
    running.until(lambda: running.people()["customer/3#1"]["final_state"] == "reached", "they are told within the cap")
    supplement = running.until(lambda: running.people().get("customer/1#2"), "more of somebody told is marked")
    assert (supplement["supplements"], supplement["final_state"]) == (f"{incident_id}:customer/1", None)
    running.until(
        lambda: (
            {"people.late", "people.more_affected", "release.people_wait"}
            <= {row["kind"] for row in running.rows(tables.page)}
        ),
        "people are paged",
    )
    assert len(running.mails(told)) == 1, "nobody has approved a supplement yet"
    shown = running.type("rosa", "incident", "show", incident_id)
    assert "late:         1 people" in shown
    assert "supplements:  1 for people who were told and of whom more was found: 0 ended, 1 wait for approval" in shown
    assert f"next: tocsin incident prepare {incident_id}" in shown

    running.approve(incident_id)
    running.until(lambda: running.people()["customer/1#2"]["final_state"] == "reached", "the supplement is sent")
    first, second = sorted(running.mails(told), key=lambda each: BEFORE in json.dumps(each))
    assert BEFORE not in json.dumps(first)
    assert BEFORE in json.dumps(second)
    assert set(running.people()) == {"customer/1#1", "customer/1#2", "customer/2#1", "customer/3#1"}
    assert [len(running.mails(each)) for each in people] == [2, 1, 1, *([0] * len(others))], "nobody is told twice"
    assert BEFORE_IN_GERMAN not in json.dumps(running.mails(also_told))

    # what came late is in the log with roots of its own
    running.until(
        lambda: sum(leaf["body"]["member_count"] for leaf in running.leaves("people.added_late")) == 2,
        "the evidence log has the late members",
    )
    members = running.rows(tables.late_member)
    roots = {
        number: root_over(late_order((row["root"], row["member_leaf"]) for row in members if row["number"] == number))
        for number in {row["number"] for row in members}
    }
    assert {leaf["body"]["number"]: leaf["body"]["members_root"] for leaf in running.leaves("people.added_late")} == {
        number: root.hex() for number, root in roots.items()
    }
    assert sum(leaf["body"]["new_count"] for leaf in running.leaves("people.added_late")) == 1

    listed = json.loads(running.type("dora", "incident", "people", incident_id, "--list", "--json"))
    assert [(each["root"], each["round"], each["final_state"]) for each in listed] == [
        ("customer/1", 1, "reached"), ("customer/1", 2, "reached"), ("customer/2", 1, "reached"),
        ("customer/3", 1, "reached"),
    ]  # fmt: skip
    running.until(lambda: _all_finished(running), "its releases are finished")
    running.type("dora", "incident", "close", incident_id, "--reason", "everybody was told")
    assert all(row["contact"] in (None, "null") for row in running.rows(tables.recipient))
    assert len(running.rows(tables.incident)) == 1


def _all_finished(running: Running) -> bool:
    return {row["state"] for row in running.rows(tables.release)} == {"finished"}
