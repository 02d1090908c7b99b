"""A case store on SQLite, people with tokens, and alerts, for the tests of this room."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AlertReceived, Channel, Coverage, Kind, PartitionResolved, Sensitivity, Why
from bridge.contracts.scope import Scope
from bridge.runtime.clock import SetClock
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.outbox import unpacked
from consumers.case.acting import Actor, actor_of
from consumers.case.alerts import JudgedScope, Known, ReadAlert, judge_scope
from consumers.case.intake_rules import Arrival, Taken, take
from consumers.case.people import Person
from consumers.case.permissions import Role
from consumers.domain.duties import exposures
from consumers.domain.persons import Person as Affected
from tests.unit.shipped_law import shipped_law

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
KNOWN = Known({"fraud-scorer": frozenset({"6", "7"}), "income-band": frozenset({"1"})}, frozenset({"fraud_score"}))
GIVEN = {"model_ids": ["fraud-scorer"], "model_versions": ["7"], "exposed_from": "2026-03-01T00:00:00Z"}
STAFF_KEY = b"k" * 32


class Case:
    """A store and the ways to look into it."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.clock = SetClock(NOW)
        self.database = CaseDatabase(url or f"sqlite:///{folder / 'case.db'}")
        tables.metadata.create_all(self.database.engine)
        self.store = SqlCaseStore(self.database, self.clock)
        self._messages = 0

    def receive(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        fingerprint: str = "leak-1",
        known: Known | None = KNOWN,
        body: bytes = b"{}",
        message_id: str | None = None,
        **fields: Any,
    ) -> Taken:
        """Take one alert as intake would, at the clock's time."""
        self._messages += 1
        now = self.clock.now()
        alert = AlertReceived(
            **{"source": "monitor", "fingerprint": fingerprint, "title": "Log exposed", "detected_at": now, **fields}
        )
        scope = GIVEN if given is None else given
        judged: JudgedScope = judge_scope(scope, known, now)
        arrival = Arrival(
            "monitor", message_id or f"m{self._messages}", body, now, signed=True,
            alerts=[(ReadAlert(alert, scope), judged)],
        )  # fmt: skip
        return self.store.change(lambda work: take(work, arrival))[0]

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def published(self, topic: str) -> list[dict[str, Any]]:
        box = tables.outbox
        with self.database.read() as connection:
            rows = connection.execute(sa.select(box).where(box.c.topic == topic).order_by(box.c.outbox_id))
            return [json.loads(event.value) for row in rows for event in unpacked(row)]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.published("tocsin.case-events")]

    def execute(self, statement: Any, values: Any = None) -> None:
        with self.database.write() as connection:
            connection.execute(statement, values)

    def resolve(
        self, incident_id: str, *, partitions: int = 2, of: int = 2, affected: int = 0, coverage: bool = True
    ) -> None:
        """Let `partitions` of `of` partitions answer, with `affected` people in the first."""
        for partition in range(partitions):
            count = 0 if partition else affected
            event = PartitionResolved(
                incident_id=incident_id, revision=1, partition=partition, partition_count=of, scope_sha256="0" * 64,
                position_topic="tocsin.store-changes", position_offset=1, affected_count=count, possible_count=0,
                merkle_root="0" * 64, artefact="a", artefact_sha256="0" * 64, code_version="0", retention="P1Y",
                duration_seconds=0.1, resolved_at=NOW,
                coverage=(Coverage(model_id="fraud-scorer", attribute="fraud_score",
                                   recorded_since=datetime(2025, 1, 1, tzinfo=UTC)),) if coverage else (),
            )  # fmt: skip
            self.execute(
                sa.insert(tables.resolution).values(
                    incident_id=incident_id, revision=1, partition=partition, partition_count=of,
                    affected_count=count, possible_count=0, merkle_root="0" * 64, event=event.model_dump_json(),
                    received_at=NOW,
                )
            )  # fmt: skip

    def plan(self, incident_id: str, *, state: str = "complete", people: int = 3, deadline: datetime = NOW) -> None:
        """Write what planning would: a complete plan, one segment with an approved text, and its people."""
        self.resolve(incident_id, affected=people)
        self.execute(
            sa.insert(tables.plan).values(
                incident_id=incident_id, revision=1, state=state, rules_sha256="a" * 64, residents={"DE": people},
                recipient_count=people, held_count=0,
            )
        )  # fmt: skip
        self.add_segment(incident_id, "s1", bundle="b" * 64)
        for n in range(people):
            self.add_person(incident_id, f"customer/{n}", deadline=deadline)

    def count(
        self,
        incident_id: str,
        residents: Mapping[str, int],
        *,
        kinds: Sequence[str] = ("derived",),
        elements: Sequence[str] = ("email", "full_name", "fraud_score"),
        possible: int = 0,
        controller: str = "shop",
        revision: int = 1,
    ) -> None:
        """Write what planning counts: who lives where and what leaked of them."""
        why = Why(
            record_ids=("r",), attributes=("fraud_score",), models=("fraud-scorer@7",), kinds=tuple(map(Kind, kinds)),
            disclosures=(), highest_sensitivity=Sensitivity.HIGH, categories=(), elements=tuple(elements),
        )  # fmt: skip
        people = []
        for code, number in residents.items():
            person = Affected(
                root="customer/1", roots=("customer/1",), customer_id=1, controller=controller, website_id=1, store_id=1,
                locale="", residence=(), homes=() if code == "unknown" else (code,), channels=(), contact=None,
                standing="recorded", late=False, sensitivity=Sensitivity.HIGH, why=why,
            )  # fmt: skip
            people += [person] * number
        people[:possible] = [replace(each, standing="possible") for each in people[:possible]]
        [exposure] = exposures([(each, 1) for each in people], shipped_law().rules, NOW.date(), [controller])

        def write(work: Any) -> None:
            others = [each for each in work.exposures_of(incident_id, revision) if each.controller != controller]
            work.write_exposures(incident_id, revision, [*others, exposure])

        self.store.change(write)

    def add_segment(self, incident_id: str, segment_id: str, *, bundle: str | None) -> None:
        self.execute(
            sa.insert(tables.segment).values(
                segment_id=segment_id, incident_id=incident_id, revision=1, name=segment_id, key={}, bundle_sha256=bundle,
                channels=[Channel.EMAIL.value, Channel.SMS.value], lane="email", priority=1, sms_details=False, count=3,
            )
        )  # fmt: skip

    def add_person(self, incident_id: str, root: str, *, deadline: datetime = NOW, late: bool = False) -> None:
        self.execute(
            sa.insert(tables.recipient).values(
                recipient_id=f"{incident_id}:{root}", incident_id=incident_id, revision=1, root=root, roots=[root],
                subject_commitment="c" * 64, controller="shop", website_id=1, store_id=1, locale="de_DE", residence=[],
                jurisdictions=[], standing="recorded", late=late, highest_sensitivity="high", segment_id="s1",
                channels=["email"], contact={"ciphertext": "x"}, why={}, deadline_at=deadline,
            )
        )  # fmt: skip
        self.execute(
            sa.insert(tables.affected).values(
                incident_id=incident_id, revision=1, root=root, partition=0, standing="recorded", departed=False,
                late=late, member_leaf="0" * 64, event=json.dumps({"root": root, "contact": {"ciphertext": "x"}}),
            )
        )  # fmt: skip


def staff(person_id: str, *roles: Role) -> Actor:
    """Return somebody who holds `roles`."""
    return actor_of(Person(person_id, person_id.title(), roles, ()), STAFF_KEY)


RESPONDER = staff("rae", Role.RESPONDER)
DPO = staff("dan", Role.DPO)
COUNSEL = staff("col", Role.COUNSEL)
APPROVER = staff("abe", Role.APPROVER)
SRE = staff("sam", Role.SRE)
VIEWER = staff("vic", Role.VIEWER)


def scope(**fields: Any) -> Scope:
    return Scope(**fields)
