"""Rows about people one by one: who came late, who was supplemented, who is to be put right; confirmed scopes. SQL only."""

from collections.abc import Sequence
from dataclasses import asdict, fields

import sqlalchemy as sa

from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import attempt, everybody_confirmation, recipient, still_concerned
from consumers.case.records import EverybodyRecord, LateRecord, PersonRecord
from consumers.domain.standing import Correction

_NAMES = [each.name for each in fields(PersonRecord) if each.name not in ("disclosures", "begun", "concerned")]


class LatePeopleRows:
    """What the case room asks about people."""

    _connection: sa.Connection

    def people(self, incident_id: str, kind: str | None = None) -> Sequence[PersonRecord]:
        begun = _begun()
        restriction = {
            None: sa.true(),
            "late": recipient.c.late & recipient.c.supplements.is_(None),
            "supplements": recipient.c.supplements.is_not(None) & ~recipient.c.is_correction,
            "told_wrongly": owed_correction(),
            "waiting": recipient.c.final_state.is_(None) & ~begun & still_concerned(),
        }[kind]
        rows = self._connection.execute(
            sa.select(recipient, begun.label("begun"), still_concerned().label("concerned"))
            .where((recipient.c.incident_id == incident_id) & restriction)
            .order_by(recipient.c.root, recipient.c.round)
        ).mappings()
        return [
            PersonRecord(
                **{name: row[name] for name in _NAMES},
                disclosures=tuple((row["why"] or {}).get("disclosures", ())),
                begun=bool(row["begun"]),
                concerned=bool(row["concerned"]),
            )
            for row in rows
        ]

    def late(self, incident_id: str) -> LateRecord:
        begun = _begun()
        untold = recipient.c.final_state.is_(None) & recipient.c.held_reason.is_(None) & ~begun & still_concerned()
        first = recipient.c.supplements.is_(None)
        supplement = recipient.c.supplements.is_not(None) & ~recipient.c.is_correction
        owed = owed_correction()
        counted = {
            "late": recipient.c.late & first,
            "late_waiting": recipient.c.late & first & untold,
            "supplements": supplement,
            "supplements_waiting": supplement & untold,
            "supplements_ended": supplement & recipient.c.final_state.is_not(None),
            "used_of_cap": recipient.c.late & begun,
            "not_concerned": owed & (recipient.c.correction == Correction.NOT_CONCERNED.value),
            "told_too_much": owed & (recipient.c.correction == Correction.TOLD_TOO_MUCH.value),
            "told_in_other_incident": recipient.c.told_in.is_not(None),
        }
        sums = [
            sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0).label(name)
            for name, condition in counted.items()
        ]
        query = sa.select(*sums).where(recipient.c.incident_id == incident_id)
        row = self._connection.execute(query).mappings().one()
        return LateRecord(**{name: int(row[name]) for name in counted})

    def everybody_confirmation(self, incident_id: str, scope_sha256: str) -> EverybodyRecord | None:
        query = sa.select(everybody_confirmation).where(
            (everybody_confirmation.c.incident_id == incident_id)
            & (everybody_confirmation.c.scope_sha256 == scope_sha256)
        )
        row = self._connection.execute(query).mappings().first()
        return None if row is None else EverybodyRecord(**row)

    def add_everybody_confirmation(self, record: EverybodyRecord) -> None:
        upsert(self._connection, everybody_confirmation, [asdict(record)])


def owed_correction() -> sa.ColumnElement[bool]:
    """Say of a recipient that they were told what is not true of them, and that nobody has begun to put it right."""
    begun = sa.alias(recipient, "put_right")
    return recipient.c.correction.is_not(None) & ~sa.exists().where(
        (begun.c.supplements == recipient.c.recipient_id) & begun.c.is_correction
    )


def _begun() -> sa.ColumnElement[bool]:
    return sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id)
