"""What waits for the lanes of releases that run, by deadline: those before whom, or behind whom, another one would have its turn.

For whoever looks before a release. Not for who goes next (`metering`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store.changes import channels_of, policies_of
from consumers.adapters.case_store.metering import NEVER_DUE, running_incidents
from consumers.adapters.case_store.tables import attempt, lane_rate, recipient, release, still_concerned
from consumers.case.records import WaitingBeside
from consumers.domain.delivery import what_next


def waiting_beside(
    connection: sa.Connection, incident_id: str, *, exercise: bool
) -> Mapping[Channel, Sequence[WaitingBeside]]:
    """Return how many first and further messages wait of the releases of all other incidents, by channel and deadline; of those
    that go at a rate of their own by incident, too. Exercises, which give way to everybody else, count for another `exercise`
    only.
    """
    running = [
        each
        for each in running_incidents(connection)
        if each.incident_id != incident_id and (exercise or not each.exercise)
    ]
    found: dict[Channel, Counter[tuple[datetime | None, str, float | None]]] = {
        channel: Counter() for channel in Channel
    }
    if not running:
        return {}
    own: dict[tuple[str, str], float] = {
        (row.incident_id, row.channel): row.per_second
        for row in connection.execute(
            sa.select(lane_rate).where(lane_rate.c.incident_id.in_([each.incident_id for each in running]))
        )
    }

    def add(incident_id: str, channel: Channel, deadline_at: datetime | None, number: int) -> None:
        rate = own.get((incident_id, channel.value))
        found[channel][deadline_at, "" if rate is None else incident_id, rate] += number

    for row in connection.execute(
        sa.select(attempt.c.incident_id, attempt.c.channel, attempt.c.due_at, sa.func.count().label("number"))
        .where(
            attempt.c.incident_id.in_([each.incident_id for each in running])
            & attempt.c.state.in_((AttemptState.PLANNED.value, AttemptState.COMMANDED.value))
            & attempt.c.release_id.in_([name for each in running for name in each.release_ids])
        )
        .group_by(attempt.c.incident_id, attempt.c.channel, attempt.c.due_at)
    ):
        add(row.incident_id, Channel(row.channel), None if row.due_at >= NEVER_DUE else row.due_at, row.number)
    for each in running:
        approved = {
            segment_id
            for (policy,) in connection.execute(
                sa.select(release.c.policy).where(release.c.release_id.in_(each.release_ids))
            )
            for segment_id in policy.get("segments", {})
        }
        policies = policies_of(connection, approved)
        alike = (recipient.c.segment_id, recipient.c.channels, recipient.c.deadline_at)
        for row in connection.execute(
            sa.select(*alike, sa.func.count().label("number"))
            .where(
                (recipient.c.incident_id == each.incident_id)
                & recipient.c.final_state.is_(None)
                & recipient.c.held_reason.is_(None)
                & recipient.c.segment_id.in_(sorted(policies))
                & still_concerned()
                & ~sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id)
            )
            .group_by(*alike)
        ):
            for channel in what_next((), policies[row.segment_id], channels_of(row.channels)).channels:
                add(each.incident_id, channel, row.deadline_at, row.number)
    return {
        channel: [WaitingBeside(at, count, name, rate) for (at, name, rate), count in counted.items()]
        for channel, counted in found.items()
        if counted
    }
