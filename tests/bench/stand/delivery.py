"""Delivery as an installation runs it: a case store on MariaDB in which an incident waits for its release, stages that are
processes, and a stand-in for AWS that is never what is waited for.
"""

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.contracts.events import Contact
from bridge.contracts.topics import TOPICS
from bridge.runtime.clock import SystemClock
from bridge.runtime.sealing import Sealer, load_public_key
from bridge.runtime.settings import Settings, load_settings
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.aws import AwsConfig, provision_sandbox
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase, migrate
from consumers.adapters.template_catalog import ApprovedBundles, read_bundle
from consumers.commands import initialise
from consumers.domain.segments import SegmentKey
from consumers.evidence.commitment import commit, new_person_key
from tests.bench.run import PeerMissing
from tests.bench.stand import measure, processes
from tests.bench.stand.servers import Stand
from tests.servers import mariadb

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache"
INCIDENT, RELEASE, BUNDLE = "INC-2026-0001", "r" * 32, "ai-data-leak"
_SENDER = {
    "name": "Example Shop", "contact": "privacy@shop.example.com", "shop_url": "https://shop.example.com/",
    "account_url": "https://shop.example.com/customer/", "address": "1 High Street, Exampleton",
}  # fmt: skip
_INSERTED_AT_ONCE = 2000


@dataclass(slots=True)
class Aws:
    """The stand-in, reached at `url`."""

    url: str
    process: "subprocess.Popen[str]"
    sandbox: bool = False

    def get(self, path: str) -> dict[str, Any]:
        """Return what it says at `path`."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def post(self, path: str, body: bytes = b"") -> None:
        """Tell it something."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body), timeout=60):
            return

    def accepted(self) -> int:
        """Return how many recipients it took, each time counted."""
        return int(self.get("/stats")["accepted"])


@contextmanager
def go_stand_in() -> Iterator[Aws]:
    """Build the stand-in for AWS and keep it running. Raises PeerMissing without Go."""
    with ExitStack() as kept:
        command = [str(built("aws"))]
        process = kept.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        kept.callback(process.kill)
        assert process.stdout is not None
        yield Aws(f"http://{process.stdout.readline().strip()}", process)


def built(name: str) -> Path:
    """Build the Go program `name` of this stand and return it. Raises PeerMissing without Go."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise PeerMissing("Go is not installed (Debian: golang-go); it builds the stand-in for AWS")
    CACHE.mkdir(exist_ok=True)
    target = CACHE / f"bench-{name}"
    done = subprocess.run(
        [go, "build", "-o", str(target), "."], cwd=Path(__file__).with_name(name), capture_output=True, text=True
    )
    if done.returncode:
        raise PeerMissing(f"Go could not build {name}: {done.stderr[-1500:]}")
    return target


@contextmanager
def sandbox() -> Iterator[Aws]:
    """Keep Tocsin's own sandbox running in place of the stand-in: slower, and there without Go."""
    command = [sys.executable, "-m", "consumers.sandbox"]
    with ExitStack() as kept:
        process = kept.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        kept.callback(process.kill)
        assert process.stdout is not None
        yield Aws(str(json.loads(process.stdout.readline())["url"]), process, sandbox=True)


@dataclass(slots=True)
class Office:
    """An installation whose incident waits for its release."""

    folder: Path
    database: CaseDatabase
    settings: Settings
    people: int
    aws: Aws
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def start(self, *stages: str) -> None:
        """Start stages, each a process of its own; `dispatch` may be named more than once."""
        for number, stage in enumerate(stages):
            name = f"{stage}-{number}" if stages.count(stage) > 1 else stage
            with (self.folder / f"{name}.log").open("ab") as log:
                command = [sys.executable, "-m", "consumers.cli", "run", stage]
                self.running[name] = processes.start(command, log, folder=self.folder, more={"AWS_MAX_ATTEMPTS": "1"})

    def ready(self) -> None:
        """Wait until every stage that reads topics has partitions, and all others are at work."""
        for name in self.running:
            stage, log = name.partition("-")[0], self.folder / f"{name}.log"
            if stage in ("index", "planning", "dispatch", "evidence", "receipts"):
                self.wait(f"{name} is ready", lambda log=log: b'"assigned"' in log.read_bytes(), 120)  # type: ignore[misc]
            else:
                running = self.settings.paths.run / f"{stage}.metrics.json"
                self.wait(f"{name} is ready", running.exists, 120)

    def stop(self) -> None:
        """End all stages as on SIGTERM. Raises RuntimeError for one that did not end well."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            if process.wait(60):
                raise RuntimeError(f"{name} ended with {process.returncode}: {self.said()}")
        self.running.clear()

    def kill(self) -> None:
        """End what is left."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def said(self) -> str:
        """Return the end of what the stages logged."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(encoding='utf-8', errors='replace')[-1500:]}" for log in logs)

    def release(self) -> None:
        """Let the release run, as two approvals do."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(tables.release).values(
                    state="releasing", released_at=datetime.now(UTC).replace(microsecond=0)
                )
            )

    def states(self) -> dict[str, int]:
        """Return how many attempts stand in each state."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(tables.attempt.c.state, sa.func.count()).group_by(tables.attempt.c.state)
            )
            return {str(state): int(count) for state, count in rows}

    def leaves(self) -> int:
        """Return the size of the evidence log as its checkpoint says it."""
        checkpoint = self.settings.paths.evidence / "checkpoint"
        return int(checkpoint.read_text(encoding="utf-8").split("\n")[1]) if checkpoint.exists() else 0

    @property
    def pids(self) -> dict[str, int]:
        """Return the processes of our own that run."""
        return {name: process.pid for name, process in self.running.items()}

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 600, every: float = 0.05) -> None:
        """Wait for `condition`. Raises RuntimeError once a stage has died or the time is over."""
        give_up_at = time.monotonic() + seconds
        while not condition():
            dead = [name for name, process in self.running.items() if process.poll() is not None]
            if dead or time.monotonic() > give_up_at:
                raise RuntimeError(f"{what}: {dead or 'not in time'}; {self.states()}\n{self.said()}")
            time.sleep(every)


@contextmanager
def office(stand: Stand, aws: Aws, people: int, **delivery: Any) -> Iterator[Office]:
    """Yield an installation on the stand's servers, with so many people to be told by e-mail."""
    with installed(stand, aws, {"delivery": delivery}) as found:
        _fill(found.database, found.settings, people)
        found.people = people
        yield found


@contextmanager
def installed(stand: Stand, aws: Aws, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[Office]:
    """Yield an installation on the stand's servers to which nothing has happened yet; `changes` go into its settings."""
    with ExitStack() as kept:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-bench-"))) / "office"
        # as deploy/README.md has it
        database = mariadb.fresh_database(stand.store.server, with_tables=False, collation="utf8mb4_bin")
        store = kept.enter_context(database)
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        ours: dict[str, dict[str, Any]] = {
            "kafka": {"bootstrap_servers": stand.bootstrap_servers, "topic_prefix": prefix},
            "store": {"url": stand.store.url},
            "case_store": {"url": store.url},
            "metrics": {"port_base": 0},
            "delivery": {
                "endpoint_url": aws.url,
                "from_address": "privacy@shop.example.com",
                # nothing is measured but notices
                "canary_messages": {"every_minutes": 0},
            },
        }
        for section, values in changes.items():
            ours.setdefault(section, {}).update(values)
        initialise(folder, admin_id="admin", admin_name="Admin", changes=ours)
        settings = _at(folder)
        cases = CaseDatabase(store.url)
        kept.callback(cases.close)
        migrate(cases)
        admin = AdminClient({"bootstrap.servers": stand.bootstrap_servers})
        for made in admin.create_topics(
            [NewTopic(prefix + topic.name, topic.partitions, 1) for topic in TOPICS]
        ).values():
            made.result(30)
        if aws.sandbox:
            provision_sandbox(
                AwsConfig(settings.delivery.aws_region, aws.url),
                sender_domain="shop.example.com",
                configuration_set=settings.delivery.configuration_set,
                receipts_queue=settings.delivery.receipts_queue,
            )
        found = Office(folder, cases, settings, 0, aws)
        try:
            yield found
        finally:
            found.kill()


def _at(folder: Path) -> Settings:
    settings = load_settings(folder / "tocsin.toml")
    paths = settings.paths
    whole = {
        name: folder / value for name in type(paths).model_fields if isinstance(value := getattr(paths, name), Path)
    }
    return settings.model_copy(update={"paths": paths.model_copy(update=whole)})


def _fill(database: CaseDatabase, settings: Settings, people: int) -> None:
    """Write the incident, one segment, a release that is prepared, and its people with their sealed contacts."""
    now = datetime.now(UTC).replace(microsecond=0)
    bundle = read_bundle(settings.paths.templates, BUNDLE)
    ApprovedBundles(settings.paths.templates, DirectoryArtefactStore(settings.paths.artefacts)).keep(bundle)
    key = SegmentKey(
        incident_id=INCIDENT, revision=1, controller="main", locale="en", policy="all", group="all", standing="recorded",
        disclosures=("derived|fraud-scorer|fraud_assessment",), bundle=BUNDLE, bundle_sha256=bundle.sha256,
        channels=("email",), sms_details=False, scenario="model_leak", detected_on=now.date().isoformat(),
        exposed_from=None, exposed_to=None, sender=tuple(sorted(_SENDER.items())),
    )  # fmt: skip
    approved = {"segments": {key.segment_id: {"bundle_sha256": bundle.sha256, "channels": ["email"]}}}
    with database.write() as connection:
        connection.execute(
            sa.insert(tables.incident).values(
                incident_id=INCIDENT, number=1, year=2026, source="bench", fingerprint="f", fingerprint_sha256="f" * 64,
                occurrence=1, title="t", state="confirmed", revision=1, unsigned_source=False, exercise=False,
                repeat_count=0, detected_at=now, opened_at=now, epoch=1,
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(tables.segment).values(
                segment_id=key.segment_id, incident_id=INCIDENT, revision=1, name="all", key=key.as_json(),
                bundle_sha256=bundle.sha256, channels=["email"], lane="email", priority=1, sms_details=False, count=people,
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(tables.release).values(
                release_id=RELEASE, incident_id=INCIDENT, revision=1, policy=approved, policy_sha256="0" * 64,
                mode="two_approvers", state="prepared", late_cap=10, prepared_by="admin", prepared_role="responder",
                prepared_at=now,
            )
        )  # fmt: skip
    sealer = Sealer(load_public_key(settings.paths.sealing_public_key), SystemClock())
    shared = {
        "incident_id": INCIDENT, "revision": 1, "controller": "main", "website_id": 1, "store_id": 1, "locale": "en",
        "residence": json.dumps([{"code": "DE", "source": "default_billing"}]), "jurisdictions": '["de.gdpr"]',
        "standing": "recorded", "late": 0, "highest_sensitivity": "high", "segment_id": key.segment_id,
        "channels": '["email"]', "why": "{}", "round": 1, "is_correction": 0,
        "deadline_at": (now + timedelta(hours=72)).replace(tzinfo=None),
    }  # fmt: skip
    for start in range(0, people, _INSERTED_AT_ONCE):
        numbers = range(start + 1, min(start + _INSERTED_AT_ONCE, people) + 1)
        rows, keys = [], []
        for number in numbers:
            root, person_key = f"customer/{number}", new_person_key()
            contact = Contact(email=f"person{number}@mail.example.com", first_name=f"Given{number}", last_name="Family")
            sealed = sealer.seal_json(msgspec.json.encode(contact), root)
            rows.append(
                {
                    **shared, "recipient_id": f"{INCIDENT}:{root}", "root": root, "roots": f'["{root}"]',
                    "customer_id": number, "subject_commitment": commit(person_key, root), "contact": sealed,
                    "notice_sha256": secrets.token_hex(32),
                }
            )  # fmt: skip
            keys.append({"root": root, "key": person_key, "made_at": now.replace(tzinfo=None)})
        with database.write() as connection:
            _insert(connection, "recipient", rows)
            _insert(connection, "person_key", keys)


def _insert(connection: sa.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(rows[0])
    values = ", ".join(f"%({name})s" for name in names)
    statement = f"INSERT INTO {table} ({', '.join(f'`{name}`' for name in names)}) VALUES ({values})"
    connection.exec_driver_sql(statement, [dict(row) for row in rows])


@dataclass(slots=True)
class Watched:
    """What was seen of one release."""

    seconds: float
    """From the release to the last person's being handed over, as the ledger says."""
    sent_seconds: float
    """To the provider's taking the last one."""
    logged_seconds: float
    """To the last leaf."""
    cpu: dict[str, float]
    """CPU seconds of each process."""
    rss_mb: dict[str, int]
    lags: list[int]
    """Leaves that the log was behind the provider's count, four times a second."""


def released(where: Office, servers: Mapping[str, int]) -> Watched:
    """Release, and wait until everybody is handed over and both leaves of each are in the log."""
    pids = {**where.pids, **servers, "aws": where.aws.process.pid}
    before = measure.cpu_seconds(pids)
    lags: list[int] = []

    def all_sent() -> bool:
        accepted = where.people if where.aws.sandbox else where.aws.accepted()
        lags.append(2 * accepted - where.leaves())
        return accepted >= where.people

    began = time.monotonic()
    where.release()
    where.wait("everybody is sent to", all_sent, every=0.25 if where.people > 1000 else 0.05)
    sent = time.monotonic() - began
    where.wait("everybody is handed over", lambda: where.states().get("handed_over", 0) >= where.people)
    seconds = time.monotonic() - began
    where.wait("everything is logged", lambda: where.leaves() >= 2 * where.people)
    logged = time.monotonic() - began
    after = measure.cpu_seconds(pids)
    return Watched(
        seconds, sent, logged, {name: round(after[name] - before[name], 2) for name in pids},
        {name: measure.rss_mb(pid) for name, pid in where.pids.items()}, lags,
    )  # fmt: skip
