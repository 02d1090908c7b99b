"""Rows of releases, approvals and gates, and the segments that planning wrote. SQL only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.tables import (
    affected,
    approval,
    attempt,
    gate,
    recipient,
    release,
    segment,
    still_concerned,
)
from consumers.case.records import ApprovalRecord, AudienceRow, GateRecord, ReleaseRecord, SegmentRecord


class ReleaseRows:
    """What is released, by whose approval, and what holds it back."""

    _connection: sa.Connection
    _locking: bool

    def segments(self, incident_id: str, revision: int) -> Sequence[SegmentRecord]:
        # who was written to under an earlier scope and is affected still keeps their text for the next channel
        begun_before = (segment.c.revision < revision) & sa.exists().where(
            (recipient.c.segment_id == segment.c.segment_id)
            & (affected.c.incident_id == incident_id)
            & (affected.c.revision == revision)
            & (affected.c.root == recipient.c.root)
        )
        rows = self._connection.execute(
            sa.select(segment)
            .where((segment.c.incident_id == incident_id) & ((segment.c.revision == revision) | begun_before))
            .order_by(segment.c.segment_id)
        ).mappings()
        return [
            SegmentRecord(
                row["segment_id"], row["name"], row["bundle_sha256"], row["channels"], row["count"], row["key"],
                row["lane"], row["priority"], bool(row["sms_details"]),
            )
            for row in rows
        ]  # fmt: skip

    def audience(self, incident_id: str) -> Sequence[AudienceRow]:
        alike = (
            recipient.c.segment_id, recipient.c.controller, recipient.c.website_id, recipient.c.store_id,
            recipient.c.residence, recipient.c.jurisdictions, recipient.c.standing, recipient.c.late,
            recipient.c.held_reason, recipient.c.final_state, recipient.c.channels,
        )  # fmt: skip
        rows = self._connection.execute(
            sa.select(*alike, sa.func.count().label("count"), sa.func.min(recipient.c.deadline_at).label("earliest"))
            .where((recipient.c.incident_id == incident_id) & still_concerned())
            .group_by(*alike)
        ).mappings()
        return [
            AudienceRow(**{column.name: row[column] for column in alike}, count=row["count"],
                        earliest_deadline_at=row["earliest"])
            for row in rows
        ]  # fmt: skip

    def releases(self, incident_id: str) -> Sequence[ReleaseRecord]:
        rows = self._connection.execute(
            sa.select(release)
            .where(release.c.incident_id == incident_id)
            .order_by(release.c.prepared_at.desc(), release.c.release_id)
        ).mappings()
        return [ReleaseRecord(**row) for row in rows]

    def release(self, release_id: str) -> ReleaseRecord | None:
        query = sa.select(release).where(release.c.release_id == release_id)
        row = self._connection.execute(query.with_for_update() if self._locking else query).mappings().first()
        return None if row is None else ReleaseRecord(**row)

    def add_release(self, record: ReleaseRecord) -> None:
        self._connection.execute(sa.insert(release).values(**asdict(record)))

    def update_release(self, release_id: str, changes: Mapping[str, Any]) -> None:
        self._connection.execute(sa.update(release).where(release.c.release_id == release_id).values(**changes))

    def withdraw_attempts(self, release_id: str) -> int:
        incident_id = sa.select(release.c.incident_id).where(release.c.release_id == release_id).scalar_subquery()
        unsent = (attempt.c.send_count == 0) & attempt.c.state.in_(
            (AttemptState.PLANNED.value, AttemptState.COMMANDED.value)
        )
        sent = (
            sa.select(attempt.c.recipient_id)
            .where((attempt.c.incident_id == incident_id) & ~unsent)
            .distinct()
            # as a table of its own: MySQL does not look into the one that it deletes from
            .subquery("sent")
        )
        result = self._connection.execute(
            sa.delete(attempt).where(
                (attempt.c.incident_id == incident_id)
                & (attempt.c.release_id == release_id)
                & (attempt.c.fallback == sa.false())
                & unsent
                # what begins together goes together: who keeps one of two has begun, and never gets the other again
                & attempt.c.recipient_id.not_in(sa.select(sent.c.recipient_id))
            )
        )
        return int(result.rowcount)

    def approvals(self, release_id: str) -> Sequence[ApprovalRecord]:
        rows = self._connection.execute(
            sa.select(approval).where(approval.c.release_id == release_id).order_by(approval.c.approved_at)
        ).mappings()
        return [ApprovalRecord(**row) for row in rows]

    def add_approval(self, record: ApprovalRecord) -> None:
        self._connection.execute(sa.insert(approval).values(**asdict(record)))

    def gates(self, incident_id: str) -> Sequence[GateRecord]:
        rows = self._connection.execute(
            sa.select(gate).where(gate.c.incident_id == incident_id).order_by(gate.c.set_at)
        ).mappings()
        return [GateRecord(**row) for row in rows]

    def add_gate(self, record: GateRecord) -> None:
        self._connection.execute(sa.insert(gate).values(**asdict(record)))

    def lift_gate(self, gate_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(sa.update(gate).where(gate.c.gate_id == gate_id).values(lifted_at=at, lifted_by=by))
        # whom it kept back goes now, not when the meter looks at them again
        of_gate = sa.select(gate.c.incident_id).where(gate.c.gate_id == gate_id).scalar_subquery()
        self._connection.execute(
            sa.update(attempt)
            .where(
                (attempt.c.incident_id == of_gate)
                & (attempt.c.state == AttemptState.PLANNED)
                & attempt.c.kept_until.is_not(None)
            )
            .values(kept_until=None)
        )
