"""The case store as the case room sees it: one transaction as a unit of work over incidents, releases and pages.

SQL only: what is allowed and what follows is decided in `consumers.case`. A crash inside a change leaves nothing of it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from bridge.contracts.events import CaseEvent, IncidentRevised, PartitionResolved
from bridge.contracts.topics import CASE_EVENTS, INCIDENTS
from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.corrections import CorrectionRows
from consumers.adapters.case_store.duties import DutyTables
from consumers.adapters.case_store.engine import CaseDatabase, byte_order, upsert
from consumers.adapters.case_store.findings import FindingRows, left_out
from consumers.adapters.case_store.late_people import LatePeopleRows
from consumers.adapters.case_store.looking import LookingRows
from consumers.adapters.case_store.pages import PageRows
from consumers.adapters.case_store.positions import NO_TOPIC_IDS, read_positions, write_positions
from consumers.adapters.case_store.providers import ProviderRows
from consumers.adapters.case_store.publications import PublicationRows
from consumers.adapters.case_store.releases import ReleaseRows
from consumers.adapters.case_store.steering import SteeringRows
from consumers.adapters.case_store.tables import (
    act,
    affected,
    alert,
    fact,
    incident,
    incident_number,
    plan,
    recipient,
    resolution,
    scope_proposal,
    still_concerned,
    webhook_seen,
)
from consumers.case.intake_rules import ENDED
from consumers.case.records import (
    ActRecord,
    AlertRecord,
    FactRecord,
    IncidentRecord,
    PartitionsRecord,
    PlanRecord,
    Positions,
    ProposalRecord,
)
from consumers.case.store import CaseWork
from consumers.domain.coverage import merged_coverage

T = TypeVar("T")

_CASE_ROOT = "tocsin"
"""Root of case events that belong to no incident."""
_EVENTS_AT_ONCE = 500
_IDS_AT_ONCE = 2000
"""Of very many, so many are written out before the next are made: a million people fit into no process."""


class SqlCaseStore:
    """Implements `consumers.case.store.CaseStore`."""

    def __init__(self, database: CaseDatabase, clock: Clock, topic_ids: Mapping[str, str] = NO_TOPIC_IDS) -> None:
        """`topic_ids`: of what the caller reads, see `bridge.runtime.topic_ids`."""
        self._topic_ids = topic_ids
        self._database = database
        self._clock = clock

    def change(self, work: Callable[[CaseWork], T]) -> T:
        """Run `work` in one write transaction, again from its start after a deadlock. Raises Unreachable."""
        return self._database.writing(
            lambda connection: work(SqlCaseWork(connection, self._clock.now(), locking=True, topic_ids=self._topic_ids))
        )

    def look(self, work: Callable[[CaseWork], T]) -> T:
        """Run `work` for reading. Raises Unreachable."""
        with self._database.read() as connection:
            return work(SqlCaseWork(connection, self._clock.now()))

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Return where `stage` left off."""
        return read_positions(self._database, stage, partitions, self._topic_ids)


class _IncidentRows:
    """Incidents, their alerts, proposals and facts, and what planning found."""

    _connection: sa.Connection
    _now: datetime
    _locking: bool
    _topic_ids: Mapping[str, str]

    def lock_intake(self, year: int) -> None:
        upsert(self._connection, incident_number, [{"year": year, "last": 0}])
        self._connection.execute(
            sa.select(incident_number.c.last).where(incident_number.c.year == year).with_for_update()
        )

    def next_number(self, year: int) -> int:
        self.lock_intake(year)
        self._connection.execute(
            sa.update(incident_number).where(incident_number.c.year == year).values(last=incident_number.c.last + 1)
        )
        return int(
            self._connection.execute(
                sa.select(incident_number.c.last).where(incident_number.c.year == year)
            ).scalar_one()
        )

    def incident(self, incident_id: str) -> IncidentRecord | None:
        return self._one(sa.select(incident).where(incident.c.incident_id == incident_id))

    def _one(self, query: sa.Select[Any]) -> IncidentRecord | None:
        row = self._connection.execute(query.with_for_update() if self._locking else query).mappings().first()
        return None if row is None else IncidentRecord(**{name: row[name] for name in _INCIDENT_FIELDS})

    def incidents(self) -> Sequence[IncidentRecord]:
        rows = self._connection.execute(
            sa.select(incident).order_by(incident.c.year.desc(), incident.c.number.desc())
        ).mappings()
        return [IncidentRecord(**{name: row[name] for name in _INCIDENT_FIELDS}) for row in rows]

    def doubtful_scopes(self) -> Sequence[IncidentRecord]:
        rows = self._connection.execute(
            sa.select(incident)
            .where(incident.c.state.not_in(ENDED) & incident.c.scope_unresolved.is_not(None))
            .order_by(incident.c.opened_at)
        ).mappings()
        return [IncidentRecord(**{name: row[name] for name in _INCIDENT_FIELDS}) for row in rows]

    def latest_of(self, source: str, fingerprint: str) -> IncidentRecord | None:
        return self._one(
            sa.select(incident)
            .where(
                (incident.c.source == source)
                & (incident.c.fingerprint_sha256 == hashlib.sha256(fingerprint.encode()).hexdigest())
            )
            .order_by(incident.c.occurrence.desc())
            .limit(1)
        )

    def add_incident(self, record: IncidentRecord) -> None:
        row = asdict(record)
        row["fingerprint_sha256"] = hashlib.sha256(record.fingerprint.encode()).hexdigest()
        self._connection.execute(sa.insert(incident).values(**_with_null(row)))

    def update_incident(self, incident_id: str, changes: Mapping[str, Any]) -> None:
        self._connection.execute(
            sa.update(incident).where(incident.c.incident_id == incident_id).values(**_with_null(changes))
        )

    def add_alert(self, record: AlertRecord) -> bool:
        known = self._connection.execute(sa.select(alert.c.alert_id).where(alert.c.alert_id == record.alert_id)).first()
        if known is None:
            self._connection.execute(sa.insert(alert).values(**asdict(record)))
        return known is None

    def add_proposal(self, record: ProposalRecord) -> bool:
        known = self._connection.execute(
            sa.select(scope_proposal.c.proposal_id).where(scope_proposal.c.proposal_id == record.proposal_id)
        ).first()
        if known is None:
            self._connection.execute(sa.insert(scope_proposal).values(**asdict(record)))
        return known is None

    def proposals(self, incident_id: str) -> Sequence[ProposalRecord]:
        rows = self._connection.execute(
            sa.select(scope_proposal)
            .where(scope_proposal.c.incident_id == incident_id)
            .order_by(scope_proposal.c.proposed_at)
        ).mappings()
        return [ProposalRecord(**row) for row in rows]

    def decide_proposal(self, proposal_id: str, *, by: str, at: datetime, accepted: bool) -> None:
        self._connection.execute(
            sa.update(scope_proposal)
            .where(scope_proposal.c.proposal_id == proposal_id)
            .values(decided_at=at, decided_by=by, accepted=accepted)
        )

    def webhook_incident(self, source: str, webhook_id: str) -> str | None:
        found: str | None = self._connection.execute(
            sa.select(webhook_seen.c.incident_id).where(
                (webhook_seen.c.source == source)
                & (webhook_seen.c.webhook_sha256 == hashlib.sha256(webhook_id.encode()).hexdigest())
            )
        ).scalar()
        return found

    def remember_webhook(self, source: str, webhook_id: str, incident_id: str, at: datetime) -> None:
        self._connection.execute(
            sa.insert(webhook_seen).values(
                source=source,
                webhook_sha256=hashlib.sha256(webhook_id.encode()).hexdigest(),
                seen_at=at,
                incident_id=incident_id,
            )
        )

    def forget_webhooks(self, before: datetime) -> None:
        self._connection.execute(sa.delete(webhook_seen).where(webhook_seen.c.seen_at < before))

    def add_fact(self, record: FactRecord) -> None:
        self._connection.execute(sa.insert(fact).values(**asdict(record)))

    def facts(self, incident_id: str) -> Sequence[FactRecord]:
        rows = self._connection.execute(
            sa.select(*(fact.c[each.name] for each in fields(FactRecord)))
            .where(fact.c.incident_id == incident_id)
            .order_by(fact.c.fact_id)
        ).mappings()
        return [FactRecord(**row) for row in rows]

    def remove_contacts(self, incident_id: str) -> int:
        # the event column holds CustomerAffected as received, contact and all: both copies go in this transaction
        removed = self._connection.execute(
            sa.update(recipient)
            .where((recipient.c.incident_id == incident_id) & (sa.cast(recipient.c.contact, sa.Text) != "null"))
            .values(contact=sa.null())
        ).rowcount
        self._connection.execute(
            sa.update(affected)
            .where(affected.c.incident_id == incident_id)
            .values(event=sa.func.json_remove(affected.c.event, "$.contact"))
        )
        return int(removed)

    def plan(self, incident_id: str, revision: int) -> PlanRecord | None:
        row = self._connection.execute(
            sa.select(plan).where((plan.c.incident_id == incident_id) & (plan.c.revision == revision))
        ).mappings().first()  # fmt: skip
        if row is None:
            return None
        return PlanRecord(
            row["state"], row["rules_sha256"], row["residents"] or {}, row["recipient_count"] or 0,
            row["held_count"] or 0, bool(row["partly_drawn"]),
        )  # fmt: skip

    def partitions(self, incident_id: str, revision: int) -> PartitionsRecord:
        rows = (
            self._connection.execute(
                sa.select(resolution).where(
                    (resolution.c.incident_id == incident_id) & (resolution.c.revision == revision)
                )
            )
            .mappings()
            .all()
        )
        events = [PartitionResolved.model_validate_json(row["event"]) for row in rows]
        counts = [event.people_count for event in events]
        late = self._connection.execute(
            sa.select(sa.func.count())
            .select_from(affected)
            .where((affected.c.incident_id == incident_id) & (affected.c.revision == revision) & affected.c.late)
        ).scalar_one()
        persisted = self._connection.execute(
            sa.select(sa.func.count())
            .select_from(affected)
            .where((affected.c.incident_id == incident_id) & (affected.c.revision == revision) & ~affected.c.late)
        ).scalar_one()
        excluded = self._connection.execute(
            sa.select(sa.func.count())
            .select_from(affected)
            .where((affected.c.incident_id == incident_id) & (affected.c.revision == revision) & left_out())
        ).scalar_one()
        return PartitionsRecord(
            answered=len(rows),
            partition_count=max((row["partition_count"] for row in rows), default=None),
            affected_count=sum(row["affected_count"] for row in rows),
            possible_count=sum(row["possible_count"] for row in rows),
            persisted_count=int(persisted),
            coverage=merged_coverage(event.coverage for event in events),
            excluded_count=int(excluded),
            people_count=None if not counts or None in counts else sum(count or 0 for count in counts),
            late_count=int(late),
        )

    def recipient_ids(self, incident_id: str) -> Iterator[str]:
        query = (
            sa.select(recipient.c.recipient_id)
            .where((recipient.c.incident_id == incident_id) & ~recipient.c.late)
            .order_by(byte_order(self._connection, recipient.c.recipient_id))
            .execution_options(yield_per=_IDS_AT_ONCE)
        )
        with self._connection.execute(query) as rows:
            yield from rows.scalars()

    def late_count(self, incident_id: str) -> int:
        return int(
            self._connection.execute(
                sa.select(sa.func.count())
                .select_from(recipient)
                .where((recipient.c.incident_id == incident_id) & recipient.c.late)
            ).scalar_one()
        )

    def without_end_count(self, incident_id: str) -> int:
        return int(
            self._connection.execute(
                sa.select(sa.func.count())
                .select_from(recipient)
                .where((recipient.c.incident_id == incident_id) & recipient.c.final_state.is_(None) & still_concerned())
            ).scalar_one()
        )

    def within_deadline_count(self, incident_id: str, before: datetime) -> int:
        return int(
            self._connection.execute(
                sa.select(sa.func.count())
                .select_from(recipient)
                .where(
                    (recipient.c.incident_id == incident_id)
                    & recipient.c.final_state.is_(None)
                    & recipient.c.held_reason.is_(None)
                    & recipient.c.segment_id.is_not(None)
                    & (recipient.c.deadline_at <= before)
                )
            ).scalar_one()
        )

    def ends(self, incident_id: str) -> Mapping[str, int]:
        rows = self._connection.execute(
            sa.select(recipient.c.final_state, sa.func.count())
            .where((recipient.c.incident_id == incident_id) & recipient.c.supplements.is_(None))
            .group_by(recipient.c.final_state)
        )
        return {row[0] or "open": row[1] for row in rows}

    def add_act(self, record: ActRecord) -> None:
        self._connection.execute(sa.insert(act).values(**asdict(record)))

    def acts(self, incident_id: str) -> Sequence[ActRecord]:
        rows = self._connection.execute(
            sa.select(act).where(act.c.incident_id == incident_id).order_by(act.c.occurred_at, act.c.case_event_id)
        ).mappings()
        return [ActRecord(**row) for row in rows]

    def publish_case_event(self, event: CaseEvent) -> None:
        root = event.incident_id or _CASE_ROOT
        outbox.append(
            self._connection, [outbox.Outgoing(CASE_EVENTS, root, root, event.case_event_id, event)], self._now
        )

    def publish_case_events(self, events: Iterable[CaseEvent]) -> None:
        waiting = iter(events)
        while some := list(islice(waiting, _EVENTS_AT_ONCE)):
            written = []
            for each in some:
                root = each.incident_id or _CASE_ROOT
                written.append(outbox.Written(root, root, each.case_event_id, each.model_dump_json()))
            outbox.append_many(self._connection, CASE_EVENTS, CaseEvent.ce_type, written, self._now)

    def publish_incident(self, event: IncidentRevised) -> None:
        event_id = f"{event.incident_id}/{event.revision}/{event.status}"
        outbox.append(
            self._connection,
            [outbox.Outgoing(INCIDENTS, event.incident_id, event.incident_id, event_id, event)],
            self._now,
        )

    def move_positions(self, stage: str, positions: Positions) -> None:
        write_positions(self._connection, stage, positions, self._topic_ids)


class SqlCaseWork(
    LookingRows,
    SteeringRows,
    _IncidentRows,
    ReleaseRows,
    DutyTables,
    PageRows,
    FindingRows,
    LatePeopleRows,
    CorrectionRows,
    ProviderRows,
    PublicationRows,
):
    """Everything within one transaction on `connection`. `now` is when outbox rows say they were written.

    `locking`: an incident or release once read stays locked, so that decisions about it come one after another.
    """

    def __init__(
        self,
        connection: sa.Connection,
        now: datetime,
        *,
        locking: bool = False,
        topic_ids: Mapping[str, str] = NO_TOPIC_IDS,
    ) -> None:
        self._topic_ids = topic_ids
        self._connection = connection
        self._now = now
        self._locking = locking


_INCIDENT_FIELDS = tuple(each.name for each in fields(IncidentRecord))


def _with_null(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with JSON columns that hold None as SQL's NULL, not as JSON's."""
    return {
        name: sa.null() if value is None and isinstance(incident.c[name].type, sa.JSON) else value
        for name, value in row.items()
    }
