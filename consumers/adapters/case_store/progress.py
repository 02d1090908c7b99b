"""Reads how far a release is out of the ledger, and what its metrics say. SQL only."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.metering import KeptWhy, real_release_running
from consumers.adapters.case_store.tables import (
    attempt,
    incident,
    lane_pace,
    lane_rate,
    recipient,
    release,
    segment,
    still_concerned,
)
from consumers.case.progress import WAIT_FOR_CANARY, Pace, Progress
from consumers.domain.delivery import ARRIVED, PersonEnd

_WITH = (AttemptState.INTENDED.value, AttemptState.UNKNOWN.value, AttemptState.HANDED_OVER.value)

_KEPT = {
    KeptWhy.GATE: "are kept back by a hold",
    KeptWhy.REGION: "wait for a provider in a region through which regions.yaml lets their notices pass",
    KeptWhy.TOLD_ELSEWHERE: "wait for what becomes of another incident's notice of the same",
    KeptWhy.DEFERRED: "are put off by their mail server or its provider, and tried again",
}


class SqlProgress:
    """Implements `consumers.case.progress.ProgressSource`."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def progress(self, incident_id: str) -> Progress:
        """Return how far an incident's release is, as of one moment. Raises BadInput for an unknown incident."""
        with self._database.snapshot() as connection:
            row = connection.execute(
                sa.select(incident.c.state, incident.c.exercise).where(incident.c.incident_id == incident_id)
            ).first()
            if row is None:
                known = connection.execute(sa.select(incident.c.incident_id)).scalars().all()
                raise BadInput(
                    f"there is no incident {incident_id!r}{nearest(incident_id, known)}; see `tocsin incident list`"
                )
            releases = connection.execute(
                sa.select(release.c.release_id, release.c.state, release.c.canary_state, release.c.policy)
                .where((release.c.incident_id == incident_id) & (release.c.state != "void"))
                .order_by(release.c.prepared_at.desc())
            ).all()
            return Progress(
                incident_id=incident_id,
                state=row.state,
                exercise=bool(row.exercise),
                yields_to=real_release_running(connection) if row.exercise else None,
                releases=tuple((each.release_id, each.state, each.canary_state) for each in releases),
                **self._people(connection, incident_id),
                **self._attempts(connection, incident_id, {each.release_id: each for each in releases}),
                own_rates={
                    each.channel: each.per_second
                    for each in connection.execute(sa.select(lane_rate).where(lane_rate.c.incident_id == incident_id))
                },
                pace={
                    each.channel: Pace(each.per_second, each.lane_per_second, each.measured_at)
                    for each in connection.execute(sa.select(lane_pace).where(lane_pace.c.incident_id == incident_id))
                },
            )

    @staticmethod
    def _people(connection: sa.Connection, incident_id: str) -> dict[str, Any]:
        counted = recipient.c.final_state.is_not(None) | still_concerned()
        ends: dict[str | None, int] = defaultdict(int)
        supplements = supplements_open = 0
        earliest = None
        for row in connection.execute(
            sa.select(
                recipient.c.final_state,
                recipient.c.supplements.is_not(None).label("supplement"),
                sa.func.count().label("number"),
                sa.func.min(recipient.c.deadline_at, type_=recipient.c.deadline_at.type).label("earliest"),
            )
            .where((recipient.c.incident_id == incident_id) & counted)
            .group_by(recipient.c.final_state, recipient.c.supplements.is_not(None))
        ):
            if row.supplement:
                supplements += row.number
                supplements_open += row.number if row.final_state is None else 0
            else:
                ends[row.final_state] += row.number
            if row.final_state is None and row.earliest is not None:
                earliest = row.earliest if earliest is None else min(earliest, row.earliest)
        return {
            "people": sum(ends.values()),
            "reached": ends[PersonEnd.REACHED],
            "substituted": ends[PersonEnd.SUBSTITUTED],
            "unreachable": ends[PersonEnd.UNREACHABLE_REPORTED],
            "supplements": supplements,
            "supplements_open": supplements_open,
            "earliest_deadline_at": earliest,
        }

    def _attempts(self, connection: sa.Connection, incident_id: str, releases: Mapping[str, Any]) -> dict[str, Any]:
        now = self._clock.now()
        reached_by: dict[str, int] = defaultdict(int)
        why_not: dict[str, int] = defaultdict(int)
        waiting: dict[str, int] = defaultdict(int)
        of_incident = attempt.c.incident_id == incident_id
        for channel, count in connection.execute(
            sa.select(attempt.c.channel, sa.func.count())
            .where(of_incident & attempt.c.state.in_([state.value for state in ARRIVED]))
            .group_by(attempt.c.channel)
        ):
            reached_by[channel] += count
        kept = _kept(attempt, now)
        # of channels that are begun together the one that has come furthest says what somebody waits for
        counted = sa.case((_is_further(now), 0), else_=1) if _in_parallel(releases) else sa.literal(1)
        people = sa.func.sum(counted).label("people")
        for channel, state, count, number in connection.execute(
            sa.select(attempt.c.channel, attempt.c.state, sa.func.count(), people)
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .where(
                of_incident
                & attempt.c.state.in_((*_WITH, AttemptState.COMMANDED.value))
                & recipient.c.final_state.is_(None)
            )
            .group_by(attempt.c.channel, attempt.c.state)
        ):
            if state == AttemptState.COMMANDED:
                why_not[f"are on the belt ({channel})"] += int(number)
                waiting[channel] += count
            else:
                read = channel == Channel.ACCOUNT_NOTICE
                why_not[f"wait for {'them to read it' if read else 'a receipt'} ({channel})"] += int(number)
        for channel, release_id, why, held, count, number in connection.execute(
            sa.select(
                attempt.c.channel, attempt.c.release_id, attempt.c.kept_why, kept.label("held"), sa.func.count(), people
            )
            .where(of_incident & (attempt.c.state == AttemptState.PLANNED))
            .group_by(attempt.c.channel, attempt.c.release_id, attempt.c.kept_why, kept)
        ):
            found = releases.get(release_id)
            state = "void" if found is None else found.state
            if held:
                why_not[_KEPT.get(why, "are tried again soon")] += int(number)
            elif state == "releasing":
                testing = found is not None and found.canary_state == "testing"
                why_not[WAIT_FOR_CANARY if testing else f"wait for their turn ({channel})"] += int(number)
                waiting[channel] += count
            else:
                why_not[f"wait: their release is {state}"] += int(number)
        nobody = (
            (recipient.c.incident_id == incident_id)
            & recipient.c.final_state.is_(None)
            & still_concerned()
            & ~sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id)
        )
        first = {
            row.segment_id: next(iter(row.channels), Channel.EMAIL.value)
            for row in connection.execute(
                sa.select(segment.c.segment_id, segment.c.channels).where(segment.c.incident_id == incident_id)
            )
        }
        for held_reason, segment_id, count in connection.execute(
            sa.select(recipient.c.held_reason, recipient.c.segment_id, sa.func.count())
            .where(nobody)
            .group_by(recipient.c.held_reason, recipient.c.segment_id)
        ):
            if held_reason is not None:
                why_not[f"are held: {held_reason}"] += count
                continue
            why_not["are not begun"] += count
            # most have the first channel of their segment; who has not goes by a faster one
            waiting[first.get(segment_id, Channel.EMAIL.value)] += count
        return {
            "reached_by": dict(reached_by),
            "why_not": {why: count for why, count in why_not.items() if count},
            "waiting": {channel: count for channel, count in waiting.items() if count},
        }


def _in_parallel(releases: Mapping[str, Any]) -> bool:
    """Say whether somebody may have several channels at once."""
    return any(
        "together" in segment for each in releases.values() for segment in each.policy.get("segments", {}).values()
    )


def _kept(attempts: sa.FromClause, now: datetime) -> sa.ColumnElement[bool]:
    return sa.func.coalesce(attempts.c.kept_until > now, sa.false())


def _is_further(now: datetime) -> sa.ColumnElement[bool]:
    """Say of an attempt that another one of the same person has come further, or as far and is an earlier one."""
    other = attempt.alias("other")

    def step(attempts: sa.FromClause) -> sa.ColumnElement[int]:
        planned = attempts.c.state == AttemptState.PLANNED
        return sa.case(
            (attempts.c.state.in_(_WITH), 3),
            (attempts.c.state == AttemptState.COMMANDED, 2),
            (planned & ~_kept(attempts, now), 1),
            (planned, 0),
            else_=-1,
        )

    further = (step(other) > step(attempt)) | ((step(other) == step(attempt)) & (other.c.number < attempt.c.number))
    return sa.exists().where((other.c.recipient_id == attempt.c.recipient_id) & further)
