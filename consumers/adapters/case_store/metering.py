"""The meter's SQL: which planned attempts go onto the belt next, and that they do. How a portion is shared is decided in
`consumers.domain.metering`; who may not be told now, by whoever made the meter.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel, DeliverNotice
from bridge.contracts.topics import DELIVERY_COMMANDS
from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.canaries import allowance, is_judged
from consumers.adapters.case_store.claims import command_of, moment_after, set_alike
from consumers.adapters.case_store.engine import IN_LIST, CaseDatabase, in_parts, insert_many, upsert
from consumers.adapters.case_store.packed import PackedColumns
from consumers.adapters.case_store.tables import (
    attempt,
    gate,
    incident,
    lane_pace,
    lane_rate,
    recipient,
    release,
    segment,
)
from consumers.adapters.case_store.twins import known_by, standing_elsewhere, twins_of
from consumers.domain.canary import CanaryState, canary_of
from consumers.domain.gates import Gate
from consumers.domain.ledger import BoundedLane, Lane, LaneAge
from consumers.domain.metering import Belt, Queue, QueueKey, shares

NEVER_DUE = datetime(9999, 12, 31, tzinfo=UTC)
_KEPT_FOR = timedelta(minutes=1)
"""Whoever is kept back is looked at again after this, whatever the reason; lifting a gate lets them go at once."""
_PAGES = 20
"""So many times a queue is read on, at most, past people who are kept back; the next tick goes on from there."""
_COUNT_SECONDS = 5.0
_MANY = 20_000
_MANY_FOR = timedelta(seconds=1)

_ATTEMPT = (
    "attempt_id", "state_at", "recipient_id", "incident_id", "release_id", "channel", "send_count", "due_at", "priority",
)  # fmt: skip
_PERSON = ("root", "residence", "controller", "segment_id", "deadline_at")
# composed once: they are asked four times a second
_REAL_RELEASES = (
    sa.select(release.c.incident_id)
    .join(incident, incident.c.incident_id == release.c.incident_id)
    .where((release.c.state == "releasing") & incident.c.exercise.is_(sa.false()))
    .order_by(release.c.released_at)
    .limit(1)
)
_RUNNING_RELEASES = (
    sa.select(
        release.c.incident_id,
        release.c.release_id,
        release.c.canary_state,
        release.c.policy,
        incident.c.epoch,
        incident.c.exercise,
    )
    .join(incident, incident.c.incident_id == release.c.incident_id)
    .where(release.c.state == "releasing")
    .order_by(release.c.released_at)
)
_INCIDENTS = sa.select(incident.c.incident_id)
_REAL_INCIDENTS = _INCIDENTS.where(incident.c.exercise.is_(sa.false()))
_ON_BELT = (
    sa.select(sa.func.count())
    .select_from(attempt)
    .where(
        attempt.c.incident_id.in_(sa.bindparam("incident_ids", expanding=True))
        & (attempt.c.state == AttemptState.COMMANDED)
        & (attempt.c.channel == sa.bindparam("channel"))
    )
)
_WAITS = sa.select(
    *(
        sa.select(sa.literal(1))
        .where(
            attempt.c.incident_id.in_(sa.bindparam("incident_ids", expanding=True))
            & (attempt.c.state == AttemptState.PLANNED)
            & (attempt.c.channel == channel)
        )
        .exists()
        .label(channel.name)
        for channel in Channel
    )
)


class KeptWhy(StrEnum):
    """Why somebody's message is not put on the belt for a while."""

    GATE = "gate"
    REGION = "region"
    TOLD_ELSEWHERE = "told_elsewhere"
    DEFERRED = "deferred"


KeptBack = Callable[[sa.Connection, Mapping[Any, Any], Sequence[Gate]], KeptWhy | None]
EndAsTold = Callable[[sa.Connection, Mapping[str, str], datetime], None]
"""Ends people whom another incident has told the same; in which of its recipients, by theirs."""


@dataclass(frozen=True, slots=True)
class _Running:
    """An incident with releases that run."""

    incident_id: str
    epoch: int
    exercise: bool
    release_ids: tuple[str, ...]
    canaries: tuple[tuple[str, Mapping[str, Any]], ...]
    """Release and policy of each that is still being tried on a few."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What there is room for on a belt, and how many lay there when."""

    room: int
    on_belt: int
    at: datetime


@dataclass(frozen=True, slots=True)
class FreeLanes:
    """Lanes on which nothing waits while one incident alone is told: whose turn it is may go at once."""

    incident_id: str
    places: Mapping[Channel, _Place]

    @property
    def most(self) -> int:
        """For how many there is room on the freest."""
        return max((place.room for place in self.places.values()), default=0)


class Meter:
    """Fills the belt. What it remembers between portions is fairness and pace only: a crash forgets no message."""

    def __init__(self, database: CaseDatabase, clock: Clock, kept_back: KeptBack, end_as_told: EndAsTold) -> None:
        self._database = database
        self._clock = clock
        self._kept_back = kept_back
        self._end_as_told = end_as_told
        self._carry: dict[Channel, MutableMapping[QueueKey, float]] = defaultdict(dict)
        self._credit: dict[tuple[str, Channel], tuple[float, datetime]] = {}
        self._backlog: Mapping[tuple[str, str, bool], int] = {}
        self._count_again = 0.0
        self._issued: dict[tuple[str, Channel], int] = defaultdict(int)
        self._belts: dict[Channel, Belt] = defaultdict(Belt)
        self._paced_at: datetime | None = None

    def meter(self, lane: Lane) -> int:
        """Put commands for the most urgent planned attempts of `lane` on the belt; return how many.

        The belt holds at most `lane.belt` commands that nobody has taken up, and less where they are taken up more slowly
        than the lane would go: what is urgent must not wait behind them. Command, epoch and outbox row are one transaction:
        a crash leaves either a planned attempt or a command that will be published.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> tuple[_Place, Mapping[str, int]]:
            place = self._place(connection, lane, now)
            rows = self._most_urgent(connection, lane, place.room, now) if place.room > 0 else []
            rows = self._not_told_elsewhere(connection, rows, now)
            alike: dict[tuple[int, datetime], list[str]] = defaultdict(list)
            for row in rows:
                alike[row["current_epoch"], moment_after(row["state_at"], now)].append(row["attempt_id"])
            for (epoch, at), ids in alike.items():
                commanded = {
                    "state": AttemptState.COMMANDED.value,
                    "state_at": at,
                    "commanded_at": now,
                    "epoch": epoch,
                }
                set_alike(connection, ids, AttemptState.PLANNED, commanded)
            write_commands(connection, rows, now)
            issued: dict[str, int] = defaultdict(int)
            for row in rows:
                issued[row["incident_id"]] += 1
            return place, issued

        place, issued = self._database.writing(work)
        # only now: a transaction that was rolled back and run again has spent nothing
        self._note(lane.channel, place, issued)
        return sum(issued.values())

    def _place(self, connection: sa.Connection, lane: Lane, now: datetime) -> _Place:
        belt = self._belts[lane.channel]
        # of very many, those counted last and what was put there since: never too few, and counted anew within a second
        known = belt.left >= _MANY and timedelta(0) <= now - belt.counted_at < _MANY_FOR
        on_belt, at = (belt.left, belt.counted_at) if known else (_on_belt(connection, lane.channel), now)
        return _Place(min(belt.room(lane.belt, lane.per_second, on_belt, at), lane.at_once), on_belt, at)

    def _note(self, channel: Channel, place: _Place, issued: Mapping[str, int]) -> None:
        self._belts[channel].note(place.on_belt, sum(issued.values()), place.at)
        for incident_id, count in issued.items():
            self._issued[incident_id, channel] += count
            if (incident_id, channel) in self._credit:
                credit, at = self._credit[incident_id, channel]
                self._credit[incident_id, channel] = credit - count, at

    def free_lanes(self, connection: sa.Connection, lanes: Sequence[Lane], now: datetime) -> FreeLanes | None:
        """Return those of `lanes` on which nobody's turn could come before that of who begins now; None where somebody must
        choose: between incidents, or for a hold, a canary or a rate of its own.
        """
        running = running_incidents(connection)
        if not lanes or len(running) != 1 or running[0].exercise or running[0].canaries:
            return None
        (each,) = running
        if open_gates(connection, each.incident_id):
            return None
        taken = _waiting_channels(connection, [each.incident_id])
        taken |= set(
            connection.execute(
                sa.select(lane_rate.c.channel).where(lane_rate.c.incident_id == each.incident_id)
            ).scalars()
        )
        places = {
            lane.channel: place
            for lane in lanes
            if lane.channel not in taken and (place := self._place(connection, lane, now)).room > 0
        }
        return FreeLanes(each.incident_id, places)

    def note_begun(self, free: FreeLanes | None, commanded: Mapping[Channel, int]) -> None:
        """Take note of what went onto free lanes at once, when it is committed."""
        for channel, count in commanded.items():
            if free is not None:
                self._note(channel, free.places[channel], {free.incident_id: count})

    def waiting_channels(self) -> Collection[Channel]:
        """Return the channels for which something waits, of releases that run; a look at the index for each."""
        with self._database.read() as connection:
            ids = [each.incident_id for each in running_incidents(connection)]
            return _waiting_channels(connection, ids) if ids else ()

    def note_pace(self, lanes: Mapping[Channel, float]) -> None:
        """Write how fast each running incident has gone since the last time, for whoever watches; `lanes` says how fast
        each lane may go now.
        """
        now = self._clock.now()
        seconds = None if self._paced_at is None else (now - self._paced_at).total_seconds()

        def work(connection: sa.Connection) -> None:
            rows = [
                {
                    "incident_id": each.incident_id,
                    "channel": channel.value,
                    "per_second": self._issued.get((each.incident_id, channel), 0) / seconds,
                    "lane_per_second": most,
                    "measured_at": now,
                }
                for each in running_incidents(connection)
                for channel, most in lanes.items()
                if seconds
            ]
            upsert(connection, lane_pace, rows, update=("per_second", "lane_per_second", "measured_at"))

        if seconds is None or seconds > 0:
            if seconds is not None:
                self._database.writing(work)
            self._issued.clear()
            self._paced_at = now

    def _most_urgent(self, connection: sa.Connection, lane: Lane, room: int, now: datetime) -> list[Mapping[str, Any]]:
        running = _first_the_real_ones(running_incidents(connection))
        if not running:
            return []
        at_most = self._own_rates(connection, lane.channel, [each.incident_id for each in running], now)
        self._count(connection, [each.incident_id for each in running])
        gated = set(connection.execute(sa.select(gate.c.incident_id).where(gate.c.lifted_at.is_(None))).scalars())
        ready: dict[QueueKey, list[Mapping[str, Any]]] = {}
        queues: list[Queue] = []
        for each in running:
            limit = min(room, at_most.get(each.incident_id, room))
            gates = open_gates(connection, each.incident_id) if each.incident_id in gated else []
            for fallback in (False, True):
                rows = self._ready(connection, lane.channel, each, gates, now, fallback=fallback, limit=limit)
                if rows:
                    key = (each.incident_id, fallback)
                    backlog = self._backlog.get((each.incident_id, lane.channel, fallback), 0)
                    ready[key] = rows
                    queues.append(Queue(*key, min(row["due_at"] for row in rows), len(rows), backlog))
        counts = shares(
            room, queues, now, lane.per_second, at_most=at_most, carry=self._carry[lane.channel]
        )  # fmt: skip
        chosen = [row for key, count in counts.items() for row in ready[key][:count]]
        return sorted(chosen, key=lambda row: (row["due_at"], row["priority"]))

    def _not_told_elsewhere(
        self, connection: sa.Connection, rows: list[Mapping[str, Any]], now: datetime
    ) -> list[Mapping[str, Any]]:
        """Return who of these is not told the same by another incident, or about to be: of next channels and repeats, as it
        may have begun since the first one. Whose turn begins was asked then, and has no part in this.
        """
        again = [row["recipient_id"] for row in rows if row["fallback"] or row["send_count"] > 0]
        twins = twins_of(connection, again)
        told_in, going = standing_elsewhere(connection, twins)
        if told_in:
            self._end_as_told(connection, told_in, now)
        # of two incidents' messages in one portion the more urgent goes
        taken = {row["recipient_id"] for row in rows} - set(again)
        found, waits = [], []
        for row in rows:
            name = row["recipient_id"]
            if name in told_in:
                continue
            if name in going or taken.intersection(twins.get(name, ())):
                waits.append(row["attempt_id"])
                continue
            taken.add(name)
            found.append(row)
        mark_kept(connection, {KeptWhy.TOLD_ELSEWHERE: waits}, now)
        return found

    def _own_rates(
        self, connection: sa.Connection, channel: Channel, incident_ids: Sequence[str], now: datetime
    ) -> Mapping[str, int]:
        """Return how many may go now of each incident that has a rate of its own."""
        rates = {
            row.incident_id: row.per_second
            for row in connection.execute(
                sa.select(lane_rate.c.incident_id, lane_rate.c.per_second).where(
                    lane_rate.c.incident_id.in_(incident_ids) & (lane_rate.c.channel == channel)
                )
            )
        }
        for key in [key for key in self._credit if key[1] == channel and key[0] not in rates]:
            del self._credit[key]
        for incident_id, rate in rates.items():
            credit, at = self._credit.get((incident_id, channel), (0.0, now))
            # as with the lane: what was not used is not saved up beyond one second
            grown = min(credit + rate * max((now - at).total_seconds(), 0.0), max(rate, 1.0))
            self._credit[incident_id, channel] = grown, now
        return {incident_id: int(self._credit[incident_id, channel][0]) for incident_id in rates}

    def _count(self, connection: sa.Connection, incident_ids: Sequence[str]) -> None:
        """Count what waits, now and then: how far deadlines need the lane hardly changes within seconds."""
        began = time.monotonic()
        if began < self._count_again:
            return
        rows = connection.execute(
            sa.select(attempt.c.incident_id, attempt.c.channel, attempt.c.fallback, sa.func.count())
            .where(attempt.c.incident_id.in_(incident_ids) & (attempt.c.state == AttemptState.PLANNED))
            .group_by(attempt.c.incident_id, attempt.c.channel, attempt.c.fallback)
        )
        self._backlog = {(row[0], row[1], bool(row[2])): row[3] for row in rows}
        took = time.monotonic() - began
        self._count_again = began + max(_COUNT_SECONDS, 50 * took)

    def _ready(
        self,
        connection: sa.Connection,
        channel: Channel,
        running: _Running,
        gates: Sequence[Gate],
        now: datetime,
        *,
        fallback: bool,
        limit: int,
    ) -> list[Mapping[str, Any]]:
        """Return up to `limit` attempts of one queue that may go now, the most urgent first.

        Whoever is kept back is marked and read past: they use up nobody's room, now or in the next ticks.
        """
        if not running.canaries or fallback:
            return self._read_on(connection, channel, running, gates, now, fallback, limit, None)
        # the canary of one release keeps nobody back of another, which may have begun long before
        tested = {release_id for release_id, _ in running.canaries}
        others = replace(running, release_ids=tuple(each for each in running.release_ids if each not in tested))
        found: list[Mapping[str, Any]] = []
        for release_id, policy in running.canaries:
            own = replace(running, release_ids=(release_id,))
            rooms = allowance(connection, running.incident_id, release_id, policy, judged=is_judged(channel))
            for segment_id, room in rooms.items():
                wanted = min(room, limit - len(found))
                found += self._read_on(connection, channel, own, gates, now, False, wanted, segment_id)
        if others.release_ids:
            found += self._read_on(connection, channel, others, gates, now, False, limit - len(found), None)
        return found

    def _read_on(
        self,
        connection: sa.Connection,
        channel: Channel,
        running: _Running,
        gates: Sequence[Gate],
        now: datetime,
        fallback: bool,
        limit: int,
        segment_id: str | None,
    ) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        seen: set[str] = set()
        for number in range(_PAGES):
            if len(found) >= limit:
                break
            # once somebody is kept back there may be very many
            wanted = limit - len(found) if number == 0 else max(limit - len(found), IN_LIST)
            page = _waiting(connection, channel, running, now, seen, fallback, wanted, segment_id)
            kept: dict[KeptWhy, list[str]] = defaultdict(list)
            for row in page:
                if (why := self._kept_back(connection, row, gates)) is not None:
                    kept[why].append(row["attempt_id"])
            mark_kept(connection, kept, now)
            seen |= {row["attempt_id"] for row in page}
            kept_ids = {attempt_id for those in kept.values() for attempt_id in those}
            found += [row for row in page if row["attempt_id"] not in kept_ids]
            if len(page) < wanted:
                break
        return found[:limit]


def real_release_running(connection: sa.Connection) -> str | None:
    """Return the incident whose release has run longest of those that are no exercises. While there is one, every exercise stands
    still: nothing of one is metered, claimed or sent. It follows from the releases as they stand, so that a crash can neither
    forget it nor keep it.
    """
    found: str | None = connection.execute(_REAL_RELEASES).scalar()
    return found


def _first_the_real_ones(running: list[_Running]) -> list[_Running]:
    real = [each for each in running if not each.exercise]
    return real or running


def _on_belt(connection: sa.Connection, channel: Channel) -> int:
    """Return how many commands of one channel nobody has taken up. While a real release runs dispatch sends an exercise's
    commands back: they take no room from those who are really concerned.
    """
    exercises = real_release_running(connection) is None
    ids = connection.execute(_INCIDENTS if exercises else _REAL_INCIDENTS).scalars().all()
    return sum(
        connection.execute(_ON_BELT, {"incident_ids": some, "channel": channel}).scalar_one() for some in in_parts(ids)
    )


def running_incidents(connection: sa.Connection) -> list[_Running]:
    """Return the incidents of which a release runs."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_RUNNING_RELEASES):
        found[row.incident_id].append(row)
    return [
        _Running(
            incident_id,
            rows[0].epoch,
            bool(rows[0].exercise),
            tuple(row.release_id for row in rows),
            tuple(
                (row.release_id, row.policy)
                for row in rows
                if row.canary_state == CanaryState.TESTING and canary_of(row.policy) is not None
            ),
        )
        for incident_id, rows in found.items()
    ]


def _waiting(
    connection: sa.Connection,
    channel: Channel,
    running: _Running,
    now: datetime,
    seen: Collection[str],
    fallback: bool,
    limit: int,
    segment_id: str | None,
) -> list[Mapping[str, Any]]:
    query = (
        sa.select(*(attempt.c[name] for name in _ATTEMPT))
        .where(
            (attempt.c.incident_id == running.incident_id)
            & (attempt.c.state == AttemptState.PLANNED)
            & (attempt.c.channel == channel)
            & (attempt.c.fallback == sa.literal(fallback))
            & attempt.c.release_id.in_(running.release_ids)
            & (attempt.c.kept_until.is_(None) | (attempt.c.kept_until <= now))
        )
        .order_by(attempt.c.due_at, attempt.c.priority)
        # a page of the index: what was found already is read past, not searched
        .limit(limit + len(seen))
    )
    if segment_id is not None:
        query = query.join(recipient, recipient.c.recipient_id == attempt.c.recipient_id).where(
            recipient.c.segment_id == segment_id
        )
    # their people are joined to those found: joined at once, the server put everybody who waits in order
    turn = query.subquery("turn")
    packed = PackedColumns([*turn.c, *(recipient.c[name] for name in _PERSON)])
    people = sa.select().select_from(turn.join(recipient, recipient.c.recipient_id == turn.c.recipient_id))
    rows = [row for row in packed.rows(connection, people) if row["attempt_id"] not in seen]
    rows = sorted(rows, key=itemgetter("due_at", "priority"))[:limit]
    lanes = {
        row.segment_id: row.lane
        for row in connection.execute(
            sa.select(segment.c.segment_id, segment.c.lane).where(
                segment.c.segment_id.in_(sorted({row["segment_id"] or "" for row in rows}))
            )
        )
    }
    for row in rows:
        row["lane"], row["current_epoch"], row["exercise"] = (
            lanes.get(row["segment_id"]),
            running.epoch,
            running.exercise,
        )
        row["fallback"] = fallback
    # an attempt of somebody whom planning has just taken out of their segment waits for planning
    return [row for row in rows if row["lane"] is not None]


def mark_kept(connection: sa.Connection, attempt_ids: Mapping[KeptWhy, Sequence[str]], now: datetime) -> None:
    """Let these wait, and others go before them, until they are looked at again; and say why."""
    for why, those in attempt_ids.items():
        for some in in_parts(those):
            connection.execute(
                sa.update(attempt)
                .where(attempt.c.attempt_id.in_(some))
                .values(kept_until=now + _KEPT_FOR, kept_why=why.value)
            )


def _waiting_channels(connection: sa.Connection, incident_ids: Sequence[str]) -> set[Channel]:
    found = connection.execute(_WAITS, {"incident_ids": incident_ids}).one()
    return {channel for channel, some in zip(Channel, found, strict=True) if some}


def write_commands(connection: sa.Connection, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Write the commands of attempts that are made `commanded` in the same transaction."""
    outbox.append_many(connection, DELIVERY_COMMANDS, DeliverNotice.ce_type, [command_of(row) for row in rows], now)


def insert_attempts(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert new attempts with what decides when they go: the person's deadline, their segment's sensitivity, and
    whether it is their first.
    """
    order: dict[str, Mapping[str, Any]] = {}
    people = sorted({row["recipient_id"] for row in rows})
    for some in in_parts(people):
        for each in connection.execute(
            sa.select(recipient.c.recipient_id, recipient.c.deadline_at, segment.c.priority)
            .outerjoin(segment, segment.c.segment_id == recipient.c.segment_id)
            .where(recipient.c.recipient_id.in_(some))
        ):
            order[each.recipient_id] = order_of(each.deadline_at, each.priority)
    # channels that begin together are all first ones
    beginning = {row["recipient_id"] for row in rows if row["number"] == 1}
    insert_many(
        connection,
        attempt,
        [{**row, **order[row["recipient_id"]], "fallback": row["recipient_id"] not in beginning} for row in rows],
    )


def order_of(deadline_at: datetime | None, priority: int | None) -> dict[str, Any]:
    """Return what puts an attempt in its place among those that wait, as a first one."""
    return {"due_at": deadline_at or NEVER_DUE, "priority": priority or 0, "fallback": False}


def open_gates(connection: sa.Connection, incident_id: str) -> list[Gate]:
    """Return the gates of an incident that nobody has lifted, single people by the roots that they are known by now."""
    return [
        Gate(
            row.gate_id,
            row.kind,
            tuple(row.covers),
            row.controller,
            frozenset(row.segments or ()),
            known_by(connection, incident_id, row.people or ()),
        )
        for row in connection.execute(
            sa.select(
                gate.c.gate_id, gate.c.kind, gate.c.covers, gate.c.controller, gate.c.segments, gate.c.people
            ).where((gate.c.incident_id == incident_id) & gate.c.lifted_at.is_(None))
        )
    ]


def lane_ages(connection: sa.Connection, now: datetime) -> Mapping[Channel, LaneAge]:
    """Return how each channel stands over all releases that run, exercises left out."""
    oldest = sa.func.min(attempt.c.state_at, type_=attempt.c.state_at.type)
    due = sa.func.min(attempt.c.due_at, type_=attempt.c.due_at.type)
    running = [each for each in running_incidents(connection) if not each.exercise]
    waiting = {
        row[0]: row
        for row in connection.execute(
            sa.select(attempt.c.channel, sa.func.count(), oldest, due)
            .where(
                attempt.c.incident_id.in_([each.incident_id for each in running])
                & _waits(now)
                & attempt.c.release_id.in_([name for each in running for name in each.release_ids])
            )
            .group_by(attempt.c.channel)
        )
    }
    bounded = _bounded(connection, running, now)
    silent: dict[str, datetime] = {}
    real = connection.execute(sa.select(incident.c.incident_id).where(incident.c.exercise.is_(sa.false())))
    for some in in_parts(real.scalars().all()):
        for channel, first in connection.execute(
            sa.select(attempt.c.channel, sa.func.min(attempt.c.handed_over_at, type_=attempt.c.handed_over_at.type))
            .where(attempt.c.incident_id.in_(some) & (attempt.c.state == AttemptState.HANDED_OVER))
            .group_by(attempt.c.channel)
        ):
            if first is not None:
                silent[channel] = min(first, silent.get(channel, first))
    found: dict[Channel, LaneAge] = {}
    for name in waiting.keys() | silent.keys():
        _, count, since, earliest = waiting.get(name, (name, 0, None, None))
        handed = silent.get(name)
        found[Channel(name)] = LaneAge(
            waiting=count,
            queue_seconds=0.0 if since is None else max((now - since).total_seconds(), 0.0),
            silent_seconds=0.0 if handed is None else max((now - handed).total_seconds(), 0.0),
            seconds_to_deadline=_seconds_to(earliest, now),
            bounded=bounded.get(name, ()),
        )
    return found


def _bounded(
    connection: sa.Connection, running: Sequence[_Running], now: datetime
) -> Mapping[str, Sequence[BoundedLane]]:
    """Return by channel what waits of incidents that have a rate of their own."""
    releases = {each.incident_id: each.release_ids for each in running}
    own = connection.execute(sa.select(lane_rate).where(lane_rate.c.incident_id.in_(list(releases)))).all()
    found: dict[str, list[BoundedLane]] = defaultdict(list)
    for row in own:
        count, due = connection.execute(
            sa.select(sa.func.count(), sa.func.min(attempt.c.due_at, type_=attempt.c.due_at.type)).where(
                (attempt.c.incident_id == row.incident_id)
                & (attempt.c.channel == row.channel)
                & _waits(now)
                & attempt.c.release_id.in_(releases[row.incident_id])
            )
        ).one()
        if count:
            found[row.channel].append(BoundedLane(count, row.per_second, _seconds_to(due, now)))
    return found


def _waits(now: datetime) -> sa.ColumnElement[bool]:
    return attempt.c.state.in_((AttemptState.PLANNED.value, AttemptState.COMMANDED.value)) & (
        attempt.c.kept_until.is_(None) | (attempt.c.kept_until <= now)
    )


def _seconds_to(due: datetime | None, now: datetime) -> float | None:
    return None if due is None or due >= NEVER_DUE else (due - now).total_seconds()
