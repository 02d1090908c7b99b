"""An incident with everything that an auditor's package is made of: ledger, log, frozen answer. Small, and by our own code."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import duckdb
import sqlalchemy as sa

from bridge.contracts.events import (
    EVENTS,
    CaseEvent,
    CustomerAffected,
    DeliverNotice,
    Kind,
    PartitionResolved,
    Sensitivity,
    Why,
    each_of,
)
from bridge.runtime.consume import Received
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.case_store.outbox import Outbox
from consumers.adapters.evidence_package import EvidencePackages, Packed
from consumers.domain.ledger import Command, Intent
from consumers.domain.resolution import Member, Standing, member_leaf, members_root
from consumers.domain.sending import ReceiptKind
from consumers.evidence.commitment import commit, incident_key
from consumers.evidence.leaves import Source, discover
from consumers.evidence.merkle import leaf_hash, root_over
from consumers.stages.evidence import LeafMaker
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, SMS_LANE, Case, sqlite_case_store
from tests.unit.evidence.logs import KEY, writing

VKEY = str(KEY.verifier)
RECORDS = {"customer/1": ("r1",), "customer/2": ("r2", "r3"), "customer/3": ("r4",), "order/9": ("r5",)}


class EvidenceCase(Case):
    """Four accounts and orders of one partition, and one who comes late; the log beside it."""

    def __init__(self, root: Path, database: CaseDatabase | None = None) -> None:
        super().__init__(database or sqlite_case_store(root / "case.db"))
        self.log = root / "evidence"
        self.artefacts = DirectoryArtefactStore(root / "artefacts")
        self.types = discover()
        self.sent: list[Intent] = []
        self._offset = 0

    def known_person(
        self, number: int, *others: str, channels: tuple[str, ...] = ("email", "sms"), **more: object
    ) -> str:
        root, key = f"customer/{number}", secrets.token_bytes(32)
        with self.database.write() as connection:
            connection.execute(sa.insert(tables.person_key).values(root=root, key=key, made_at=NOW))
        commitment = commit(incident_key(key, INCIDENT), root)
        roots = [root, *others]
        return self.person(number, channels, roots=roots, subject_commitment=commitment, **more)

    def resolve(self, records: dict[str, tuple[str, ...]], possible: Sequence[str] = ()) -> None:
        """Let one partition answer, as the index does: frozen file, record, rows."""
        standing: dict[str, Standing] = {root: "possible" if root in possible else "recorded" for root in records}
        members: list[Member] = [(root, ids, standing[root]) for root, ids in sorted(records.items())]
        artefact = self.artefacts.put(_parquet(members))
        record = PartitionResolved(
            incident_id=INCIDENT, revision=1, partition=0, partition_count=1, scope_sha256="1" * 64,
            position_topic="tocsin.store-changes", position_offset=7, affected_count=len(members),
            possible_count=len(possible), merkle_root=members_root(members), artefact=f"{INCIDENT}-1-0",
            artefact_sha256=artefact, code_version="0.1", retention="P3Y", duration_seconds=0.1, resolved_at=NOW,
        )  # fmt: skip
        with self.database.write() as connection:
            connection.execute(
                sa.insert(tables.resolution).values(
                    incident_id=INCIDENT, revision=1, partition=0, partition_count=1, affected_count=len(members),
                    possible_count=len(possible), merkle_root=record.merkle_root, event=record.model_dump_json(),
                    received_at=NOW,
                )
            )  # fmt: skip
            for root, ids in records.items():
                self._affected(connection, root, ids, standing[root], late=False)
        self.log_events(record)

    def add_late(self, root: str, ids: tuple[str, ...]) -> None:
        leaf = leaf_hash(member_leaf(root, ids, "recorded"))
        with self.database.write() as connection:
            self._affected(connection, root, ids, "recorded", late=True)
            connection.execute(
                sa.insert(tables.late_member).values(
                    incident_id=INCIDENT, revision=1, root=root, member_leaf=leaf.hex(), number=1, partition=0,
                    known=False,
                )
            )  # fmt: skip
        body = {
            "revision": 1, "number": 1, "member_count": 1, "new_count": 1, "members_root": root_over([leaf]).hex(),
            "total_count": 1,
        }  # fmt: skip
        self.log_events(case_event("people.added_late", body))

    @staticmethod
    def _affected(
        connection: sa.Connection, root: str, ids: tuple[str, ...], standing: Standing, *, late: bool
    ) -> None:
        why = Why(
            record_ids=ids, attributes=("risk_score",), models=("m@1",), kinds=(Kind.DERIVED,), disclosures=(),
            highest_sensitivity=Sensitivity.HIGH, categories=(), elements=(),
        )  # fmt: skip
        event = CustomerAffected(
            root=root, customer_id=None, website_id=1, store_id=1, locale="en", incident_id=INCIDENT, revision=1,
            partition=0, standing=standing, late=late, why=why if ids else None,
        )  # fmt: skip
        connection.execute(
            sa.insert(tables.affected).values(
                incident_id=INCIDENT, revision=1, root=root, partition=0, standing=standing, departed=False, late=late,
                member_leaf=leaf_hash(member_leaf(root, ids, standing)).hex(), event=event.model_dump_json(),
            )
        )  # fmt: skip

    def deliver(self) -> None:
        """Reach 1 by mail, 2 by SMS after a bounce; 3 cannot be reached."""
        for lane in (EMAIL_LANE, SMS_LANE):
            intents = self.claim(lane)
            self.hand_over(intents)
            for intent in intents:
                self.receive(intent, self._fate(intent))
        self.commands()

    @staticmethod
    def _fate(intent: Intent) -> ReceiptKind:
        bounces = intent.root == "customer/2" and intent.channel == "email"
        return ReceiptKind.BOUNCED_HARD if bounces else ReceiptKind.DELIVERED

    def commands(self) -> list[Command]:
        """Take what waits in the outbox: commands to whoever asks, all else into the log."""
        box, found = Outbox(self.database), []
        while batch := box.next_batch(1000):
            events = [each for row in batch for each in each_of(EVENTS[row.ce_type].model_validate_json(row.value))]
            commands = [event for event in events if isinstance(event, DeliverNotice)]
            found += [Command(each.attempt_id, each.recipient_id, each.release_id, each.epoch) for each in commands]
            self.log_events(*(event for event in events if not isinstance(event, DeliverNotice)))
            box.settle(batch)
        return found

    def log_events(self, *events: object) -> None:
        maker, leaves = LeafMaker(self.types, b"k" * 32), []
        for event in events:
            source = Source(cluster="c", topic="tocsin.case-events", partition=0, offset=self._offset)
            self._offset += 1
            received = Received("tocsin.case-events", 0, source.offset, "k", event, False, {}, b"")  # type: ignore[arg-type]
            leaves.append(maker.encode(received, source))
        if leaves:
            with writing(self.log) as writer:
                writer.append(leaves)

    def packages(self) -> EvidencePackages:
        return EvidencePackages(self.log, KEY.verifier, EvidenceRows(self.database), self.artefacts)

    def export(self, folder: Path, **options: bool) -> Packed:
        return self.packages().write(INCIDENT, folder, NOW, **options)


class Restored(EvidenceCase):
    """A copy of a case store as it is now, which takes its place later, beside the log that went on."""

    def __init__(self, case: EvidenceCase, database: CaseDatabase) -> None:
        self.clock, self.log, self.artefacts, self.types = case.clock, case.log, case.artefacts, case.types
        self.sent, self._offset = [], case._offset
        self.database = database
        self.ledger = Ledger(self.database, self.clock, case.policy)
        with case.database.read() as now, database.write() as kept:
            for table in tables.metadata.sorted_tables:
                rows = [dict(row) for row in now.execute(sa.select(table)).mappings()]
                kept.execute(sa.delete(table))
                if rows:
                    kept.execute(sa.insert(table), rows)

    def goes_on_after(self, case: EvidenceCase) -> None:
        """Write the log from where the other one left it."""
        self._offset = case._offset


def delivered_case(root: Path, database: CaseDatabase | None = None) -> EvidenceCase:
    """Return an incident in which everybody has an outcome."""
    case = EvidenceCase(root, database)
    case.known_person(1)
    case.known_person(2, "order/9")
    case.known_person(3, channels=())
    case.known_person(4, late=True)
    case.resolve(RECORDS)
    case.add_late("customer/4", ("r6",))
    case.deliver()
    return case


def case_event(kind: str, body: dict[str, object], incident_id: str | None = INCIDENT) -> CaseEvent:
    return CaseEvent.model_validate(
        {"case_event_id": secrets.token_hex(16), "kind": kind, "incident_id": incident_id, "actor": None,
         "occurred_at": NOW, "body": body}
    )  # fmt: skip


def _parquet(members: Sequence[Member]) -> bytes:
    import tempfile

    header = json.dumps(
        {"incident_id": INCIDENT, "revision": 1, "partition": 0, "partition_count": 1, "scope_sha256": "1" * 64,
         "position_offset": 7}
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE f (root VARCHAR, record_ids VARCHAR[], standing VARCHAR, residence VARCHAR[], event VARCHAR)"
        )
        connection.executemany(
            "INSERT INTO f VALUES (?, ?, ?, [], '{\"departed\": false}')",
            [[root, list(ids), standing] for root, ids, standing in members],
        )
        path = Path(folder) / "f.parquet"
        connection.execute(f"COPY f TO '{path}' (FORMAT parquet, KV_METADATA {{tocsin: '{header}'}})")
        return path.read_bytes()
