"""Rows that steering reads and writes: where attempts stand, who failed, rates of lanes. SQL only."""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.engine import in_parts
from consumers.adapters.case_store.hard_bounces import bounced_channels
from consumers.adapters.case_store.metering import insert_attempts
from consumers.adapters.case_store.tables import attempt, lane_rate, recipient, release, still_concerned
from consumers.case.records import FailedPerson, Retry, TriedOnce
from consumers.domain.delivery import ARRIVED, PersonEnd
from consumers.domain.ledger import attempt_id_of

_ANEW = (
    "commanded_at", "intended_at", "dispatcher", "handed_over_at", "expires_at", "provider_message_id", "body_sha256",
    "kept_until", "kept_why", "deferred_at", "phone_hmac",
)  # fmt: skip
"""What one attempt learned and the next one does not know."""


class SteeringRows:
    """Delivery as whoever steers it sees it."""

    _connection: sa.Connection

    def attempt_counts(self, incident_id: str) -> Mapping[tuple[str, str], int]:
        rows = self._connection.execute(
            sa.select(attempt.c.channel, attempt.c.state, sa.func.count())
            .where(attempt.c.incident_id == incident_id)
            .group_by(attempt.c.channel, attempt.c.state)
        )
        return {(row[0], row[1]): row[2] for row in rows}

    def earliest_open_deadline(self, incident_id: str) -> datetime | None:
        found: datetime | None = self._connection.execute(
            sa.select(sa.func.min(recipient.c.deadline_at, type_=recipient.c.deadline_at.type)).where(
                (recipient.c.incident_id == incident_id) & recipient.c.final_state.is_(None) & still_concerned()
            )
        ).scalar()
        return found

    def lane_rates(self, incident_id: str) -> Mapping[str, float]:
        rows = self._connection.execute(
            sa.select(lane_rate.c.channel, lane_rate.c.per_second).where(lane_rate.c.incident_id == incident_id)
        )
        return {row.channel: row.per_second for row in rows}

    def set_lane_rate(self, incident_id: str, channel: str, per_second: float | None, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.delete(lane_rate).where((lane_rate.c.incident_id == incident_id) & (lane_rate.c.channel == channel))
        )
        if per_second is not None:
            self._connection.execute(
                sa.insert(lane_rate).values(
                    incident_id=incident_id, channel=channel, per_second=per_second, set_at=at, set_by=by
                )
            )

    def failed_people(self, incident_id: str) -> Sequence[FailedPerson]:
        people = self._connection.execute(
            sa.select(
                recipient.c.recipient_id,
                recipient.c.segment_id,
                recipient.c.channels,
                recipient.c.contact,
            )
            .where(
                (recipient.c.incident_id == incident_id)
                & (recipient.c.final_state == PersonEnd.UNREACHABLE_REPORTED)
                & still_concerned()
            )
            .order_by(recipient.c.recipient_id)
        ).all()
        tried: dict[str, list[TriedOnce]] = defaultdict(list)
        ids = [row.recipient_id for row in people]
        # in whichever incident, while the contact is the same; not what a provider never tried, for its list of suppressed ones
        dead = bounced_channels(self._connection, ids)
        for some in in_parts(ids):
            for row in self._connection.execute(
                sa.select(attempt.c.recipient_id, attempt.c.channel, attempt.c.state)
                .where(attempt.c.recipient_id.in_(some))
                .order_by(attempt.c.number)
            ):
                hard = row.channel in dead.get(row.recipient_id, ())
                tried[row.recipient_id].append(TriedOnce(row.channel, row.state, hard))
        return [
            FailedPerson(
                row.recipient_id, row.segment_id, tuple(row.channels), row.contact is not None,
                tuple(tried[row.recipient_id]),
            )
            for row in people
        ]  # fmt: skip

    def add_retries(self, incident_id: str, release_id: str, retries: Sequence[Retry], now: datetime) -> None:
        for some in in_parts(retries):
            wanted = {each.recipient_id: each for each in some}
            last: dict[str, int] = {}
            patterns: dict[str, Mapping[Any, Any]] = {}
            for row in self._connection.execute(
                sa.select(attempt).where(attempt.c.recipient_id.in_(list(wanted))).order_by(attempt.c.number)
            ).mappings():
                last[row["recipient_id"]] = row["number"]
                if row["channel"] == wanted[row["recipient_id"]].channel:
                    patterns[row["recipient_id"]] = row
            rows = [
                {
                    # with whatever the segment's policy has said of this channel
                    **patterns[each.recipient_id],
                    **dict.fromkeys(_ANEW),
                    "attempt_id": attempt_id_of(each.recipient_id, last[each.recipient_id] + 1),
                    "number": last[each.recipient_id] + 1,
                    "release_id": release_id,
                    "state": AttemptState.PLANNED.value,
                    "state_at": now,
                    "send_count": 0,
                    "called_count": 0,
                    "message_salt": secrets.token_hex(16),
                    "bundle_sha256": each.bundle_sha256,
                }
                for each in wanted.values()
            ]
            insert_attempts(self._connection, rows)
            self._connection.execute(
                sa.update(recipient)
                .where((recipient.c.incident_id == incident_id) & recipient.c.recipient_id.in_(list(wanted)))
                .values(final_state=None, final_at=None)
            )

    def leave_untold(self, incident_id: str) -> Sequence[tuple[str, str]]:
        cancelled = self._connection.execute(
            sa.select(release.c.release_id)
            .where((release.c.incident_id == incident_id) & (release.c.state == "cancelled"))
            .limit(1)
        ).first()
        # whom one of two channels has reached was told, whatever became of the other
        arrived = sa.exists().where(
            (attempt.c.recipient_id == recipient.c.recipient_id)
            & attempt.c.state.in_([state.value for state in ARRIVED])
        )
        untold = (recipient.c.incident_id == incident_id) & recipient.c.final_state.is_(None) & still_concerned()
        untold &= ~arrived
        # of these it may still come in that they were told
        on_its_way = sa.exists().where(
            (attempt.c.recipient_id == recipient.c.recipient_id)
            & attempt.c.state.in_((AttemptState.INTENDED, AttemptState.HANDED_OVER, AttemptState.UNKNOWN))
        )
        otherwise = "release_cancelled" if cancelled is not None else "not_released"
        why = sa.case((on_its_way, "no_receipt_yet"), (recipient.c.held_reason.is_not(None), "held"), else_=otherwise)
        people = [
            (row.subject_commitment, str(row.why))
            for row in self._connection.execute(
                sa.select(recipient.c.subject_commitment, why.label("why"))
                .where(untold)
                .order_by(recipient.c.recipient_id)
            )
        ]
        unheld = untold & recipient.c.held_reason.is_(None)
        for those, reason in (
            (unheld & on_its_way, "closed before a receipt came of a message that was on its way"),
            (unheld, f"closed without notice: {otherwise.replace('_', ' ')}"),
        ):
            if people:
                self._connection.execute(sa.update(recipient).where(those).values(held_reason=reason))
        return people
