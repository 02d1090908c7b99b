"""An installation whose stages all run, each a process, on SQLite and the AWS sandbox; people act by their commands."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from bridge.magento.demo_store import create_demo_store
from bridge.runtime.acls import COMMANDS
from bridge.runtime.settings import Settings, load_settings
from bridge.runtime.supervisor import Running as RunningProcess
from bridge.runtime.supervisor import Supervisor
from consumers.adapters.aws import provision_sandbox
from consumers.adapters.case_store import tables
from consumers.bootstrap.providers import aws_config
from consumers.bootstrap.stages import STAGES
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.commands import initialise, stage_command
from consumers.demo import shop, witnesses
from consumers.demo.progress import Progress
from consumers.demo.shop import LEAKED_MODEL, PLACES, Person, Record
from consumers.demo.surroundings import open_engine
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.leaves import canonical_content
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from tests.e2e.demo_process import last_words
from tests.e2e.parts import start_part
from tests.processes import typist

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOW = (NOW - timedelta(days=40), NOW - timedelta(days=2))
PLACE = {place.code: place for place in PLACES}
STAFF = {"rosa": Role.RESPONDER, "dora": Role.DPO, "carl": Role.COUNSEL}
Environment = Mapping[str, str]


@dataclass
class Running:
    """An installation whose stages all run."""

    settings: Settings
    sandbox: str
    supervisor: Supervisor
    stages: threading.Thread
    tokens: Mapping[str, str]
    environment: Environment
    """Of commands, whole."""

    def __post_init__(self) -> None:
        self.store = open_engine(self.settings.store.url.get_secret_value())
        self.cases = open_engine(self.settings.case_store.url.get_secret_value())
        self.progress = Progress(self.cases)

    def type(self, who: str, *words: str, seconds: float = 120) -> str:
        """Run a command as `who`, in a process of its own; return what it printed. It must succeed."""
        done = self.tried(who, *words, seconds=seconds)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}\n{self.words()}"
        return done.stdout

    def tried(self, who: str, *words: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a command as `who`, which may be refused."""
        config = str(self.settings.paths.data / "tocsin.toml")
        environment = {**self.environment, "TOCSIN_TOKEN": self.tokens[who]}
        return typist().type(["--config", config, *words], environment=environment, seconds=seconds)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        give_up_at = time.monotonic() + seconds
        while not (found := condition()):
            assert self.stages.is_alive(), f"a stage refuses its settings\n{self.words()}"
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

    def approve_texts(self) -> None:
        """Approve the shipped texts for everybody."""
        until = (NOW + timedelta(days=100)).date().isoformat()
        self.type("carl", "notices", "approve", "ai-data-leak", "--jurisdictions", "*", "--until", until)

    def alert(self, fingerprint: str, version: str, *, times: int = 1) -> None:
        """Send an alert that a model's version was leaked."""
        file = self.settings.paths.data / "alert.json"
        scope = {
            "model_ids": [LEAKED_MODEL], "model_versions": [version], "exposed_from": WINDOW[0].isoformat(),
            "exposed_to": WINDOW[1].isoformat(),
        }  # fmt: skip
        body = {"fingerprint": fingerprint, "title": "log was public", "detected_at": NOW.isoformat(), "scope": scope}
        file.write_text(json.dumps(body), encoding="utf-8")
        for _ in range(times):
            self.type("rosa", "alert", "send", str(file))

    def approve(self, incident_id: str) -> None:
        """Prepare and approve, by two people."""
        policy = json.loads(self.type("rosa", "incident", "prepare", incident_id, "--json"))["policy_sha256"]
        for who in ("dora", "carl"):
            self.type(who, "incident", "approve", incident_id, "--policy", policy, "--reason", "read")

    def leaves(self, kind: str) -> list[dict[str, Any]]:
        """Return what the evidence log has of one kind of leaf."""
        files = LogFolder(self.settings.paths.evidence)
        signed = files.read(CHECKPOINT)
        if signed is None:
            return []
        reader = LogReader(files, Checkpoint.parse_text(Note.parse(signed).text).size)
        leaves = [canonical_content(entry) for _, entry in reader.entries()]
        return [leaf for leaf in leaves if leaf["type"] == f"tocsin.{kind}"]


@contextmanager
def all_stages(
    folder: Path, kafka: Mapping[str, Any], environment_of: Callable[[str], Environment] | None = None
) -> Iterator[Running]:
    """Yield an installation in `folder` whose stages are started; `kafka` are its settings.

    `environment_of` gives what the environment of a stage, or of commands, has besides.
    """
    more = environment_of or (lambda _process: {})
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_"))}

    def start(
        command: Sequence[str], _environment: Mapping[str, str] | None, output: IO[bytes] | None
    ) -> RunningProcess:
        return typist().start(command, {**bare, **more(command[-1])}, output)

    with ExitStack() as stack:
        sandbox = stack.enter_context(
            start_part(
                "sandbox", [sys.executable, "-m", "consumers.sandbox", "--folder", str(folder / "mailbox")], folder
            )
        )["url"]
        create_demo_store(folder / "store.db")
        initialise(
            folder,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "kafka": dict(kafka),
                "store": {
                    "url": "sqlite:///store.db",
                    "base_url": "https://shop.example.com/",
                    "default_country": "DE",
                },
                "case_store": {"url": "sqlite:///case.db"},
                "paths": {"data": "."},
                "intake": {"port": 0},
                "relay": {"departed_retention_days": 30},
                "delivery": {
                    "mode": "sandbox",
                    "test_store": True,
                    "endpoint_url": sandbox,
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
        supervisor, halt = Supervisor(commands, logs=folder / "logs", start=start), threading.Event()
        stages = threading.Thread(target=supervisor.run, args=[halt], daemon=True)
        made = Running(settings, sandbox, supervisor, stages, tokens, {**bare, **more(COMMANDS)})
        if not settings.kafka.embedded:
            made.type("rosa", "topics", "apply")
        stages.start()
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
