"""Rows of corrections: who is owed one, and the recipients that put it right. SQL only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import CustomerAffected, Residence
from consumers.adapters.case_store.engine import in_parts, upsert
from consumers.adapters.case_store.late_people import owed_correction
from consumers.adapters.case_store.tables import affected, incident, recipient, segment
from consumers.case.records import PlannedCorrection, WronglyTold
from consumers.domain.persons import homes_of, joined


class CorrectionRows:
    """What starting a correction reads and writes."""

    _connection: sa.Connection

    def to_correct(self, incident_id: str) -> Sequence[WronglyTold]:
        rows = self._connection.execute(
            sa.select(
                recipient.c.recipient_id, recipient.c.correction, recipient.c.residence, recipient.c.roots,
                segment.c.key, segment.c.segment_id, segment.c.lane, segment.c.priority,
                incident.c.revision.label("current"),
            )
            .join(segment, segment.c.segment_id == recipient.c.segment_id)
            .join(incident, incident.c.incident_id == recipient.c.incident_id)
            .where((recipient.c.incident_id == incident_id) & owed_correction())
            .order_by(recipient.c.recipient_id)
        ).mappings()  # fmt: skip
        return [
            WronglyTold(
                recipient_id=row["recipient_id"],
                correction=row["correction"],
                homes=homes_of([Residence.model_validate(claim) for claim in row["residence"]]),
                disclosures=self._true_of(incident_id, row["current"], row["roots"])
                if row["correction"] == "told_too_much"
                else (),
                first_key=row["key"],
                lane=row["lane"],
                priority=row["priority"],
            )
            for row in rows.all()
        ]

    def _true_of(self, incident_id: str, revision: int, roots: Sequence[str]) -> tuple[str, ...]:
        """Return what the scope in force says of a person, from the events that it was resolved to."""
        events = self._connection.execute(
            sa.select(affected.c.event).where(
                (affected.c.incident_id == incident_id)
                & (affected.c.revision == revision)
                & affected.c.root.in_(list(roots))
            )
        ).scalars()
        whys = [why for text in events if (why := CustomerAffected.model_validate_json(text).why) is not None]
        why = joined(whys)
        return () if why is None else why.disclosures

    def add_corrections(
        self, incident_id: str, revision: int, planned: Sequence[PlannedCorrection], now: datetime
    ) -> None:
        segments: dict[str, dict[str, Any]] = {}
        for each in planned:
            key = each.key
            row = segments.setdefault(
                key.segment_id,
                {
                    "segment_id": key.segment_id, "incident_id": incident_id, "revision": revision,
                    "name": f"{key.policy}/{each.person.correction}/{key.controller}/{key.locale}"[:100],
                    "key": key.as_json(), "bundle_sha256": key.bundle_sha256, "channels": list(key.channels),
                    "lane": each.person.lane, "priority": each.person.priority, "sms_details": False, "count": 0,
                },
            )  # fmt: skip
            row["count"] += 1
        upsert(self._connection, segment, list(segments.values()), update=("count",))
        for chunk in in_parts(planned):
            firsts = {
                row["recipient_id"]: dict(row)
                for row in self._connection.execute(
                    sa.select(recipient).where(
                        recipient.c.recipient_id.in_([each.person.recipient_id for each in chunk])
                    )
                ).mappings()
            }
            upsert(
                self._connection,
                recipient,
                [_row(firsts[each.person.recipient_id], each, revision, now) for each in chunk],
            )


def _row(first: dict[str, Any], each: PlannedCorrection, revision: int, now: datetime) -> dict[str, Any]:
    """Return the recipient that puts `first` right: the same person and contact, a text of its own, no duty."""
    return {
        **first,
        "recipient_id": f"{first['recipient_id']}#c",
        "revision": revision,
        "jurisdictions": [],
        "late": False,
        "segment_id": each.key.segment_id,
        "why": {**(first["why"] or {}), "disclosures": list(each.person.disclosures)},
        "deadline_at": None,
        "held_reason": each.held_reason,
        "final_state": None,
        "final_at": None,
        "round": first["round"] + 1,
        "supplements": first["recipient_id"],
        "added_at": now,
        "notice_sha256": None,
        "told_in": None,
        "correction": None,
        "is_correction": True,
    }
