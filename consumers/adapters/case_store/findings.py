"""What an incident's answers rest on: the partitions' records, who was left out of them, and what the store itself said."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime

import sqlalchemy as sa

from bridge.contracts.events import PartitionResolved
from consumers.adapters.case_store.tables import affected, crosscheck, exclusion, resolution
from consumers.case.records import CrosscheckRecord, ExclusionRecord


def left_out() -> sa.ColumnElement[bool]:
    """Return the condition for rows of `affected` that somebody left out. Who is there by record is never left out."""
    condition: sa.ColumnElement[bool] = affected.c.exclusion_id.is_not(None) & (affected.c.standing == "possible")
    return condition


class FindingRows:
    """The part of `consumers.case.store.CaseWork` that is about answers."""

    _connection: sa.Connection

    def resolutions(self, incident_id: str, revision: int) -> Sequence[PartitionResolved]:
        rows = self._connection.execute(
            sa.select(resolution.c.event)
            .where((resolution.c.incident_id == incident_id) & (resolution.c.revision == revision))
            .order_by(resolution.c.partition)
        ).scalars()
        return [PartitionResolved.model_validate_json(text) for text in rows]

    def exclusions(self, incident_id: str) -> Sequence[ExclusionRecord]:
        rows = self._connection.execute(
            sa.select(*(exclusion.c[each.name] for each in fields(ExclusionRecord)))
            .where(exclusion.c.incident_id == incident_id)
            .order_by(exclusion.c.decided_at.desc())
        ).mappings()
        return [ExclusionRecord(**row) for row in rows]

    def exclude_possible(self, incident_id: str, revision: int, exclusion_id: str) -> int:
        return int(
            self._connection.execute(
                sa.update(affected)
                .where(
                    (affected.c.incident_id == incident_id)
                    & (affected.c.revision == revision)
                    & (affected.c.standing == "possible")
                    & affected.c.exclusion_id.is_(None)
                )
                .values(exclusion_id=exclusion_id)
            ).rowcount
        )

    def add_exclusion(self, record: ExclusionRecord) -> None:
        self._connection.execute(sa.insert(exclusion).values(**asdict(record)))

    def withdraw_exclusions(self, incident_id: str, revision: int, *, by: str, at: datetime) -> int:
        self._connection.execute(
            sa.update(exclusion)
            .where(
                (exclusion.c.incident_id == incident_id)
                & (exclusion.c.revision == revision)
                & exclusion.c.withdrawn_at.is_(None)
            )
            .values(withdrawn_at=at, withdrawn_by=by)
        )
        return int(
            self._connection.execute(
                sa.update(affected)
                .where((affected.c.incident_id == incident_id) & (affected.c.revision == revision) & left_out())
                .values(exclusion_id=None)
            ).rowcount
        )

    def crosschecks(self, incident_id: str) -> Sequence[CrosscheckRecord]:
        rows = self._connection.execute(
            sa.select(*(crosscheck.c[each.name] for each in fields(CrosscheckRecord)))
            .where(crosscheck.c.incident_id == incident_id)
            .order_by(crosscheck.c.checked_at.desc())
        ).mappings()
        return [CrosscheckRecord(**row) for row in rows]

    def add_crosscheck(self, record: CrosscheckRecord) -> None:
        self._connection.execute(sa.insert(crosscheck).values(**asdict(record)))

    def name_crosscheck(self, crosscheck_id: str, *, by: str, at: datetime, reason: str) -> None:
        self._connection.execute(
            sa.update(crosscheck)
            .where(crosscheck.c.crosscheck_id == crosscheck_id)
            .values(named_at=at, named_by=by, reason=reason)
        )
