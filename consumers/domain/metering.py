"""Who goes next: how one portion of a lane is shared between incidents, and in each between first attempts and fallbacks.

Earliest deadline first, but a part of the lane that no deadline needs is shared alike, so that a small incident does not
wait for the end of a huge one, nor a fallback for the end of all first attempts. Pure; not for how large a portion is.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import exp

from bridge.contracts.events import Channel

FAIR = 0.5
"""At most this part of a lane is shared alike; the rest goes by deadline, whatever they leave open."""

ACCOUNT_NOTICES_PER_SECOND = 500.0
"""What the store's own table takes without anybody noticing."""

_WATCHED_SECONDS = 5.0
"""So long a belt is watched before it is known how fast commands are taken up, as many at once as are sent in seconds; also
how soon what was seen is forgotten.
"""
_PROBE = 0.1
"""Of a second of the lane: what lies on a belt from which nobody takes."""

_LONG = 1000
"""Commands: two packs."""

_NEVER = datetime.min.replace(tzinfo=UTC)

QueueKey = tuple[str, bool]
"""Incident, and whether these are fallbacks."""


def lane_rates(email_per_second: float, sms_per_second: float) -> Mapping[Channel, float]:
    """Return the metered channels with what their providers grant, in messages a second."""
    return {
        Channel.EMAIL: email_per_second,
        Channel.SMS: sms_per_second,
        Channel.ACCOUNT_NOTICE: ACCOUNT_NOTICES_PER_SECOND,
    }


def letters_per_second(batch: int, batch_seconds: float) -> float:
    """Return how fast letters are written, which go in batches of at most so many."""
    return batch / batch_seconds


@dataclass(frozen=True, slots=True)
class Queue:
    """Attempts of one incident that wait for the same lane."""

    incident_id: str
    fallback: bool
    due_at: datetime
    """The earliest deadline among them; the far future where none is owed."""
    ready: int
    """So many can go now."""
    backlog: int
    """So many wait in all, as counted last."""

    @property
    def key(self) -> QueueKey:
        """What tells it from the others."""
        return self.incident_id, self.fallback


def needed_share(queues: Sequence[Queue], now: datetime, per_second: float) -> float:
    """Return which part of the lane the deadlines need, 0 to 1: at 1 nothing else may go first.

    A deadline that has passed needs nothing any more: it is the first in order, and keeps nobody else from theirs.
    """
    waiting, needed = 0, 0.0
    for queue in sorted(queues, key=lambda each: each.due_at):
        seconds = (queue.due_at - now).total_seconds()
        if seconds <= 0:
            continue
        waiting += max(queue.backlog, queue.ready)
        needed = max(needed, waiting / (per_second * seconds) if per_second > 0 else 1.0)
    return min(needed, 1.0)


def shares(
    room: int,
    queues: Sequence[Queue],
    now: datetime,
    per_second: float,
    *,
    at_most: Mapping[str, int] | None = None,
    carry: MutableMapping[QueueKey, float] | None = None,
) -> Mapping[QueueKey, int]:
    """Return how many of each queue go now, `room` in all where that many are ready.

    `per_second` is the lane's rate. `at_most` bounds incidents that have a rate of their own. `carry` remembers the
    fractions that a queue is still owed from portions before; losing it costs a queue less than one message.
    """
    waiting = sorted((each for each in queues if each.ready > 0), key=lambda each: (each.due_at, each.key))
    left = dict(at_most or {})
    owed: MutableMapping[QueueKey, float] = {} if carry is None else carry
    given = {each.key: 0 for each in waiting}
    for key in [key for key in owed if key not in given]:
        del owed[key]

    def give(queue: Queue, wanted: int) -> int:
        nonlocal room
        bound = left.get(queue.incident_id, wanted)
        count = max(0, min(wanted, room, bound, queue.ready - given[queue.key]))
        given[queue.key] += count
        room -= count
        if queue.incident_id in left:
            left[queue.incident_id] -= count
        return count

    if len(waiting) > 1:
        spare = min(FAIR, 1.0 - needed_share(waiting, now, per_second))
        alike = room * spare / len(waiting)
        for each in waiting:
            owed[each.key] = owed.get(each.key, 0.0) + alike
        for each in sorted(waiting, key=lambda each: -owed[each.key]):
            owed[each.key] = min(owed[each.key] - give(each, int(owed[each.key])), 1.0)
    for each in waiting:
        give(each, room)
    return given


class Belt:
    """How many commands of one lane may lie on its belt: what is taken up within the time that the belt is to hold, where
    that is less than the lane would carry. A dispatcher that is slower than the lane would else have minutes of commands
    before it, past which nothing urgent comes, and which are called back as lost before their turn.
    """

    def __init__(self) -> None:
        self.left = 0
        """Commands that lay there when they were counted, and those put there since."""
        self.counted_at = _NEVER
        self._watched_seconds = 0.0
        self._per_second = 0.0

    def bound(self, most: int, per_second: float, on_belt: int, now: datetime) -> int:
        """Return how many may lie there; `most`: at the lane's own rate, `on_belt`: do now. Before it is known how fast they
        are taken up, a second of the lane: who is fast takes it up in that time, and who is slow has no minutes of it before
        them. Of a lane whose rate nobody gave, `most`.
        """
        if per_second <= 0:
            return most
        taken, watched = self._watched(on_belt, now)
        if watched < _WATCHED_SECONDS:
            return min(most, max(1, int(per_second)))
        # a few lie there in any case, or who took nothing up could never show that they do again
        return min(most, max(1, int(per_second * _PROBE), int(taken * most / per_second)))

    def room(self, most: int, per_second: float, on_belt: int, now: datetime) -> int:
        """Return how many more may be put there now. A long belt is filled up a quarter at a time: commands that come one by one
        for each that was taken up travel in packs of a few, and each pack is claimed as a whole, for the work of a full one.
        """
        bound = self.bound(most, per_second, on_belt, now)
        room = bound - on_belt
        return 0 if bound >= _LONG and room < bound / 4 else max(room, 0)

    def note(self, on_belt: int, issued: int, now: datetime) -> None:
        """Take note that `on_belt` lay there and `issued` were put there, too."""
        self._per_second, self._watched_seconds = self._watched(on_belt, now)
        self.left, self.counted_at = on_belt + issued, now

    def _watched(self, on_belt: int, now: datetime) -> tuple[float, float]:
        """Return how many a second are taken up, the last seconds counting most, and for how long that has been watched."""
        seconds = (now - self.counted_at).total_seconds()
        if seconds > _WATCHED_SECONDS or seconds < 0:
            # nobody looked: what happened meanwhile says nothing of now
            return 0.0, 0.0
        if seconds == 0:
            return self._per_second, self._watched_seconds
        part = max(1 - exp(-seconds / _WATCHED_SECONDS), seconds / (self._watched_seconds + seconds))
        now_taken = max(self.left - on_belt, 0) / seconds
        return self._per_second + part * (now_taken - self._per_second), self._watched_seconds + seconds


def projected_end(now: datetime, waiting: Mapping[str, int], per_second: Mapping[str, float]) -> datetime | None:
    """Return when the last of what waits by channel will have left; None where some of it goes not at all."""
    longest = 0.0
    for channel, count in waiting.items():
        rate = per_second.get(channel, 0.0)
        if count and rate <= 0:
            return None
        longest = max(longest, count / rate if count else 0.0)
    return now + timedelta(seconds=longest)
