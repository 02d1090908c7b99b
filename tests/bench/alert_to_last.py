"""From a monitor's alert to the last person's message in the provider's hands, every stage a process of its own on this machine.

The index holds as many customers as records, of whom a tenth fall under the alert. What people do on the way (facts and
awareness, prepare, the sheet, two approvals) is typed as commands the moment it is possible: no stage's share, and told apart.
Measured: seconds, the phases, each process's CPU seconds between the two moments and its share, and the most memory that
each of our processes held, commands included, from its start on. Goals: no stage but dispatch above a third of what all
stages use, and no process above 500 MB, however many people. Exactly the right people must have been sent to, once each, by
the stand-in's count and the ledger's.

`BENCH_RECORDS` says how many records, `BENCH_AFFECTED_TENTHS` how many tenths of the customers fall under the alert,
`BENCH_DISPATCHERS` how many processes send, `BENCH_INDEXERS` how many hold the index. A million people in one release are
BENCH_RECORDS=1000000 BENCH_AFFECTED_TENTHS=10: twenty minutes, and 15 GB of disk. The stand-in for AWS reports no receipts:
what these cost is `delivery_receipts`. At toy size nothing is started: who must be told is compared with the domain's matching.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import ProvenanceRecorded
from bridge.contracts.scope import Scope
from bridge.contracts.topics import STORE_CHANGES
from bridge.runtime.clock import SystemClock
from bridge.runtime.sealing import Sealer, generate_sealing_keys, load_join_key, load_public_key
from consumers.adapters.case_store import tables
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.demo.typist import Typist
from consumers.domain.scope_matching import matches
from consumers.domain.standing import EVERYBODY_SHARE
from tests.bench.stand import delivery, measure, servers
from tests.bench.stand.delivery import ROOT, Office
from tests.bench.stand.population import Population, address
from tests.bench.stand.workers import Installation

_RECORDS = {"full": 1_000_000, "middle": 100_000, "toy": 200}
_MOST_SHARE = 1 / 3
_MOST_MB = 500
_WITHIN_SECONDS = 3600
_MONITOR = "model-monitor"
_STAFF = {"rosa": Role.RESPONDER, "dora": Role.DPO, "carl": Role.COUNSEL}
_STAGES = ("intake", "planning", "release", "outbox", "evidence", "receipts", "clock", "pager")
_SERVERS = ("mariadb", "kafka")


def main(size: str) -> dict[str, object]:
    """Return the seconds, the phases and the shares, and whether the goal holds. Raises PeerMissing, and RuntimeError if
    anybody was missed, sent to twice, or sent to in error.
    """
    population = Population(
        int(os.environ.get("BENCH_RECORDS", _RECORDS[size])), int(os.environ.get("BENCH_AFFECTED_TENTHS", "1"))
    )
    if size == "toy":
        return _without_servers(population)
    dispatchers = int(os.environ.get("BENCH_DISPATCHERS", "2"))
    with ExitStack() as kept:
        stand = kept.enter_context(servers.stand(small=False, binary_log=False))
        aws = kept.enter_context(delivery.go_stand_in())
        office = kept.enter_context(delivery.installed(stand, aws, _settings()))
        case = Case(office, kept)
        sealer = Sealer(load_public_key(office.settings.paths.sealing_public_key), SystemClock())
        join_key = load_join_key(office.settings.paths.join_key)
        began = time.monotonic()
        topic = office.settings.kafka.topic_prefix + STORE_CHANGES.name
        messages = population.publish(stand.bootstrap_servers, topic, STORE_CHANGES.partitions, sealer, join_key)
        published = time.monotonic()
        office.start(*["index"] * int(os.environ.get("BENCH_INDEXERS", "2")))
        office.ready()
        index = Installation(office.folder, office.settings.kafka)
        index.wait_for_head(list(office.running.values()))
        built = time.monotonic()
        office.start(*_STAGES, *["dispatch"] * dispatchers)
        office.ready()
        case.approve_texts()
        seen = _followed(office, case, population, stand.pids)
        _check(office, case.incident_id, population)
        office.stop()
    people = len(population.affected())
    return {
        "records, customers, affected": f"{population.records}, {population.records}, {people}",
        "store's changes published, and read by the index, s": f"{published - began:.0f}, {built - published:.0f}"
        f" ({messages} messages)",
    } | seen.told(people)


def _settings() -> dict[str, dict[str, Any]]:
    return {
        "store": {"base_url": "https://shop.example.com/", "default_country": "DE"},
        "intake": {
            "port": 0, "secrets": {_MONITOR: f"keys/{_MONITOR}.secret"}, "mappings": {_MONITOR: "generic"},
        },
        # so fast that the belt is never what is waited for, and never so long that a command on it seems lost
        "delivery": {"email_per_second": 20_000, "belt_seconds": 60},
    }  # fmt: skip


class Case:
    """The people who act, by the commands that they type."""

    def __init__(self, office: Office, kept: ExitStack) -> None:
        self.office = office
        self.incident_id = ""
        self.commands: list[tuple[str, float, int]] = []
        """What was typed since the alert, how many seconds each took, and the most memory that it held, in MB."""
        self._tokens: dict[str, Path] = {}
        folder = office.folder
        (folder / "keys" / f"{_MONITOR}.secret").write_text(f"whsec_{secrets.token_hex(24)}\n", encoding="ascii")
        (folder / "keys" / f"{_MONITOR}.secret").chmod(0o600)
        for person, role in _STAFF.items():
            token = folder / "keys" / f"{person}.token"
            token.write_text(add_person(office.settings.paths.people, person, person.title(), [role]) + "\n")
            token.chmod(0o600)
            self._tokens[person] = token
        controllers = office.settings.paths.templates / "law" / "controllers.yaml"
        text = controllers.read_text(encoding="utf-8")
        controllers.write_text(text.replace("The shop's legal entity", "Example Shop"), encoding="utf-8")
        self._typist = Typist()
        kept.callback(self._typist.close)

    def type(self, who: str, *words: str) -> str:
        """Run a command as `who`; return what it printed. Raises RuntimeError if it does not succeed."""
        began, most_mb = time.monotonic(), 0
        command = [sys.executable, "-m", "consumers.cli", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOCSIN_TOKEN_FILE": str(self._tokens[who])}
        with TemporaryFile() as out, TemporaryFile() as err:
            process = self._typist.start(command, environment, out, errors=err, folder=self.office.folder)
            while process.poll() is None:
                with suppress(FileNotFoundError, ProcessLookupError):
                    most_mb = max(most_mb, measure.rss_mb(process.pid))
                time.sleep(0.02)
            self.commands.append((" ".join(words[:2]), time.monotonic() - began, most_mb))
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        if process.returncode:
            raise RuntimeError(f"`tocsin {' '.join(words)}` ended with {process.returncode}: {texts[1]}")
        return texts[0]

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all commands so far."""
        return measure.children_cpu_seconds(self._typist.pid)

    def approve_texts(self) -> None:
        until = (datetime.now(UTC) + timedelta(days=300)).date().isoformat()
        self.type("carl", "notices", "approve", "ai-data-leak", "--jurisdictions", "*", "--until", until)
        self.commands.clear()

    def alert(self, population: Population) -> None:
        file = self.office.folder / "alert.json"
        file.write_text(json.dumps(population.alert(_MONITOR, datetime.now(UTC))), encoding="utf-8")
        self.type("rosa", "alert", "send", str(file), "--source", _MONITOR)

    def record_facts(self) -> None:
        """Record what is known of the incident, and that the shop is aware of it."""
        self.type(
            "dora", "incident", "facts", self.incident_id, "--set", "encrypted=false", "--set", "gdpr_risk=high",
            "--set", "significant_harm=true", "--set", "licensee=none", "--reason", "log was public and in clear",
        )  # fmt: skip
        instants = "aware_at,controller_aware_at,discovered_at,determined_at"
        now = datetime.now(UTC).isoformat()
        self.type(
            "dora",
            "incident",
            "aware",
            self.incident_id,
            "--as",
            instants,
            "--at",
            now,
            "--reason",
            "seen by our staff",
        )

    def prepare(self) -> None:
        self.type("rosa", "incident", "prepare", self.incident_id)

    def confirm_everybody(self) -> None:
        """Say that the scope is meant to be about everybody, or nearly: without it nobody can approve."""
        self.type("dora", "incident", "confirm-everybody", self.incident_id, "--reason", "the whole log was public")

    def approve(self) -> None:
        for who in ("dora", "carl"):
            page = self.office.folder / "sheet.html"
            sheet = json.loads(self.type(who, "incident", "sheet", self.incident_id, "-o", str(page), "--json"))
            words = ("--sheet", sheet["sheet_sha256"], "--reason", "numbers, text and law checked")
            self.type(who, "incident", "approve", self.incident_id, *words)


@dataclass(slots=True)
class _Seen:
    marks: dict[str, float] = field(default_factory=dict)
    """Seconds after the alert, by what was reached, in order."""
    cpu: dict[str, float] = field(default_factory=dict)
    """CPU seconds until the last message was taken, by process."""
    rss_mb: dict[str, int] = field(default_factory=dict)
    commands: Sequence[tuple[str, float, int]] = ()
    logged_seconds: float = 0.0

    def told(self, people: int) -> dict[str, object]:
        """Return it by what it is, with units."""
        stages = by_stage(self.cpu, without={*_SERVERS, "aws", "commands"})
        shares, with_servers = shares_of(stages), shares_of(stages | {name: self.cpu[name] for name in _SERVERS})
        largest = max((name for name in stages if name != "dispatch"), key=lambda name: stages[name])
        holds = shares[largest] <= _MOST_SHARE
        ours = {name: mb for name, mb in self.rss_mb.items() if name not in {*_SERVERS, "aws"}}
        ours |= {name: mb for name, _, mb in self.commands}
        too_large = {name: mb for name, mb in ours.items() if mb > _MOST_MB}
        before, phases = 0.0, {}
        for name, at in self.marks.items():
            phases[name] = f"{at:.1f} (+{at - before:.1f})"
            before = at
        return {
            "alert -> last message taken, s": round(before, 1),
            "seconds after the alert (and after the one before)": phases,
            "of it waiting for commands, s": round(sum(seconds for _, seconds, _ in self.commands), 1),
            "commands, s (MB)": [f"{name} {seconds:.1f} ({mb})" for name, seconds, mb in self.commands],
            "alert -> everything in the evidence log, s": round(self.logged_seconds, 1),
            "CPU seconds": {name: round(used, 1) for name, used in self.cpu.items()},
            "us of CPU a person, all stages": round(sum(stages.values()) / people * 1e6),
            "share of stages' CPU": _percent(shares),
            "share of CPU with the servers' own": _percent(with_servers),
            "largest but dispatch (at most a third)": f"{largest} {shares[largest]:.0%} {'holds' if holds else 'MISSED'}",
            "MB a process": self.rss_mb,
            f"most MB of a process (at most {_MOST_MB})": f"{max(ours.values())} "
            f"{'holds' if not too_large else f'MISSED: {too_large}'}",
        }


def by_stage(cpu: Mapping[str, float], *, without: Collection[str]) -> dict[str, float]:
    """Return CPU seconds by stage: of processes that are numbered (`dispatch-0`) together."""
    found: dict[str, float] = {}
    for name, used in cpu.items():
        if name not in without:
            stage = name.rstrip("0123456789").removesuffix("-") if name[-1].isdigit() else name
            found[stage] = found.get(stage, 0.0) + used
    return found


def shares_of(used: Mapping[str, float]) -> dict[str, float]:
    """Return which part of the whole each is, largest first."""
    whole = sum(used.values()) or 1.0
    return {name: used[name] / whole for name in sorted(used, key=lambda name: -used[name])}


def _percent(shares: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{share:.1%}" for name, share in shares.items()}


def _followed(office: Office, case: Case, population: Population, server_pids: Mapping[str, int]) -> _Seen:
    """Send the alert, type what people type as soon as it can be, and wait until everybody affected was sent to."""
    people = len(population.affected())
    pids = {**office.pids, **server_pids, "aws": office.aws.process.pid}
    before, commands_before = measure.cpu_seconds(pids), case.cpu_seconds
    seen, began, began_at = _Seen(), time.monotonic(), time.time()

    def reached(what: str, condition: Callable[[], bool], every: float = 0.1) -> None:
        office.wait(what, condition, _WITHIN_SECONDS, every=every)
        seen.marks[what] = time.monotonic() - began

    case.alert(population)
    reached("incident", lambda: _scalar(office, sa.select(tables.incident.c.incident_id)) is not None)
    case.incident_id = str(_scalar(office, sa.select(tables.incident.c.incident_id)))
    case.record_facts()
    answers = sa.select(sa.func.count()).select_from(tables.resolution)
    reached("resolved", lambda: _scalar(office, answers) == STORE_CHANGES.partitions)
    reached("planned", lambda: _scalar(office, sa.select(tables.plan.c.state)) == "complete")
    case.prepare()
    if people >= EVERYBODY_SHARE * population.records:
        case.confirm_everybody()
    seen.marks["approvable"] = time.monotonic() - began
    case.approve()
    seen.marks["released"] = time.monotonic() - began

    def first() -> bool:
        return office.aws.accepted() > 0

    office.wait("somebody is sent to", first, every=0.05)
    office.wait("everybody is sent to", lambda: office.aws.accepted() >= people, _WITHIN_SECONDS, every=0.25)
    after = measure.cpu_seconds(pids)
    commands_after = case.cpu_seconds
    accepted_at = office.aws.get("/stats")["accepted_at"]
    seen.marks["first message taken"], seen.marks["last message taken"] = (
        each / 1e9 - began_at for each in accepted_at
    )
    seen.cpu = {name: after[name] - before[name] for name in pids} | {"commands": commands_after - commands_before}
    seen.commands = case.commands
    handed_over = "everybody is handed over"
    office.wait(handed_over, lambda: office.states().get("handed_over", 0) >= people, _WITHIN_SECONDS, every=0.5)
    outbox = sa.select(sa.func.count()).select_from(tables.outbox)
    office.wait("everything is published", lambda: _scalar(office, outbox) == 0, _WITHIN_SECONDS, every=0.5)
    office.wait("everything is logged", lambda: office.leaves() >= 2 * people, _WITHIN_SECONDS, every=0.5)
    seen.logged_seconds = time.monotonic() - began
    seen.rss_mb = {name: measure.rss_mb(pid) for name, pid in pids.items()}
    return seen


def _scalar(office: Office, query: "sa.Select[Any]") -> Any:
    with office.database.read() as connection:
        return connection.execute(query).scalar()


def _check(office: Office, incident_id: str, population: Population) -> None:
    """Compare stand-in and ledger with who had to be told. Raises RuntimeError."""
    expected = population.affected()
    sent: dict[str, int] = office.aws.get("/recipients")
    faults = compared(sent, {address(number) for number in expected})
    with office.database.read() as connection:
        recipient, attempt = tables.recipient.c, tables.attempt.c
        roots = set(connection.execute(sa.select(recipient.root).where(recipient.incident_id == incident_id)).scalars())
        states = connection.execute(sa.select(attempt.recipient_id, attempt.state)).all()
    if roots != {f"customer/{number}" for number in expected}:
        faults.append(f"the ledger has {len(roots)} people, of {len(expected)}, or others")
    if len(states) != len(expected) or {state for _, state in states} != {"handed_over"}:
        faults.append(f"the ledger has {len(states)} attempts, of {len(expected)}, in {sorted({s for _, s in states})}")
    if {name for name, _ in states} != {f"{incident_id}:{root}" for root in roots}:
        faults.append("attempts and people in the ledger differ")
    if faults:
        raise RuntimeError("; ".join(faults))


def compared(sent: Mapping[str, int], expected: Collection[str]) -> list[str]:
    """Return what is wrong with whom messages went to; nothing, if it was everybody of `expected`, once each."""
    faults = []
    if missed := set(expected) - sent.keys():
        faults.append(f"{len(missed)} people were not sent to")
    if wrong := sent.keys() - set(expected):
        faults.append(f"{len(wrong)} people were sent to in error")
    if twice := [name for name, count in sent.items() if count > 1]:
        faults.append(f"{len(twice)} people were sent to more than once")
    return faults


def _without_servers(population: Population) -> dict[str, object]:
    scope = Scope.model_validate(population.alert(_MONITOR, datetime.now(UTC))["scope"])
    found = set()
    sealer = Sealer(generate_sealing_keys().public, SystemClock())
    for ce_type, _, _, value in population.messages(sealer, bytes(32)):
        if ce_type == ProvenanceRecorded.ce_type:
            record = ProvenanceRecorded.model_validate_json(value)
            if matches(scope, record, None):
                found.add(record.customer_id)
    if found != set(population.affected()):
        raise RuntimeError(f"{len(found)} people match, of {len(population.affected())} who should")
    return {"people": len(found)}
