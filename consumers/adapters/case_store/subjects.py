"""All that the case store holds of one person, as a copy for them (GDPR Art. 15). Reads only."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.erasures import recipients_of, roots_of
from consumers.adapters.case_store.tables import (
    affected,
    attempt,
    erasure,
    gate,
    hard_bounce,
    incident,
    receipt,
    recipient,
    segment,
)

_SAID_OF_RECIPIENT = (
    "root", "roots", "customer_id", "controller", "website_id", "store_id", "locale", "residence", "jurisdictions", "standing",
    "late", "highest_sensitivity", "channels", "why", "deadline_at", "held_reason", "final_state", "final_at", "round",
    "told_in", "correction", "subject_commitment",
)  # fmt: skip
_SAID_OF_ATTEMPT = (
    "number", "channel", "provider", "state", "state_at", "handed_over_at", "provider_message_id", "body_sha256",
    "bundle_sha256",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldNotice:
    """One notice to a person, with what is needed to show its text and open the contact while it is held."""

    incident_id: str
    exercise: bool
    commitment: str
    root: str
    facts: Mapping[str, Any]
    segment_key: Mapping[str, Any] | None
    contact: Mapping[str, Any] | None


class SubjectRows:
    """Reads what is held of a person."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def roots(self, roots: Collection[str]) -> Sequence[str]:
        """Return everything that was merged into one person with any of `roots`."""
        with self._database.read() as connection:
            return sorted(roots_of(connection, set(roots)))

    def notices(self, roots: Collection[str]) -> Sequence[HeldNotice]:
        """Return the notices to a person in all incidents, with their attempts and receipts."""
        found = []
        with self._database.read() as connection:
            for name in [row.recipient_id for row in recipients_of(connection, roots)]:
                row = (
                    connection.execute(
                        sa.select(recipient, incident.c.exercise, incident.c.title, incident.c.state, segment.c.key)
                        .join(incident, incident.c.incident_id == recipient.c.incident_id)
                        .outerjoin(segment, segment.c.segment_id == recipient.c.segment_id)
                        .where(recipient.c.recipient_id == name)
                    )
                    .mappings()
                    .one()
                )
                facts = {
                    "incident_title": row["title"],
                    "incident_state": row["state"],
                    **{each: row[each] for each in _SAID_OF_RECIPIENT},
                    "attempts": self._attempts(connection, name),
                }
                contact = row["contact"]
                found.append(
                    HeldNotice(
                        row["incident_id"], bool(row["exercise"]), row["subject_commitment"], row["root"], facts, row["key"],
                        contact if isinstance(contact, dict) else None,
                    )
                )  # fmt: skip
        return found

    @staticmethod
    def _attempts(connection: sa.Connection, recipient_id: str) -> list[dict[str, Any]]:
        attempts = []
        for row in connection.execute(
            sa.select(attempt).where(attempt.c.recipient_id == recipient_id).order_by(attempt.c.number)
        ).mappings():
            receipts = connection.execute(
                sa.select(receipt.c.provider, receipt.c.kind, receipt.c.sub_type, receipt.c.occurred_at)
                .where(receipt.c.attempt_id == row["attempt_id"])
                .order_by(receipt.c.occurred_at)
            ).mappings()
            attempts.append(
                {"attempt_id": row["attempt_id"], **{each: row[each] for each in _SAID_OF_ATTEMPT},
                 "receipts": [dict(each) for each in receipts]}
            )  # fmt: skip
        return attempts

    def findings(self, roots: Collection[str]) -> Sequence[Mapping[str, Any]]:
        """Return by which incidents the person was found, as the index said it, contact left out."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(affected.c.incident_id, affected.c.revision, affected.c.event)
                .where(affected.c.root.in_(sorted(roots)))
                .order_by(affected.c.incident_id, affected.c.revision)
            ).all()
        found = []
        for row in rows:
            event = json.loads(row.event)
            event.pop("contact", None)
            found.append({"incident_id": row.incident_id, "revision": row.revision, "found": event})
        return found

    def bounces(self, roots: Collection[str]) -> Sequence[Mapping[str, Any]]:
        """Return the channels that are known to lead nowhere."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(hard_bounce.c.root, hard_bounce.c.channel, hard_bounce.c.bounced_at).where(
                    hard_bounce.c.root.in_(sorted(roots))
                )
            ).mappings()
            return [dict(row) for row in rows]

    def holds(self, roots: Collection[str]) -> Sequence[Mapping[str, Any]]:
        """Return the gates that name the person."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(gate.c.incident_id, gate.c.kind, gate.c.set_at, gate.c.lifted_at, gate.c.people).where(
                    gate.c.people.is_not(None)
                )
            ).all()
        return [
            {"incident_id": row.incident_id, "kind": row.kind, "set_at": row.set_at, "lifted_at": row.lifted_at}
            for row in rows
            if not set(roots).isdisjoint(row.people or ())
        ]

    def requests(self, roots: Collection[str]) -> Sequence[Mapping[str, Any]]:
        """Return the person's requests to be forgotten, with when each was carried out."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(erasure).order_by(erasure.c.requested_at)).all()
        return [
            {"requested_at": row.requested_at, "carried_out_at": row.carried_out_at}
            for row in rows
            if not {row.root, *row.roots}.isdisjoint(roots)
        ]

    def exercises(self, incident_ids: Collection[str]) -> Sequence[str]:
        """Return those of the incidents that are exercises."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(incident.c.incident_id).where(
                    incident.c.incident_id.in_(sorted(incident_ids)) & incident.c.exercise
                )
            ).scalars()
            return sorted(rows)

    def erased_at(self, roots: Collection[str]) -> datetime | None:
        """Return when somebody was erased last, or None."""
        done = [row["carried_out_at"] for row in self.requests(roots) if row["carried_out_at"] is not None]
        return max(done, default=None)
