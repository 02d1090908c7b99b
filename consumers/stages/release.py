"""Stage release: meters delivery commands out of the ledger, most urgent first, never more than a short belt.

It starts what two people approved, sweeps up what got stuck and marks what is finished. It sends nothing and decides
nothing about who may be told: approvals, gates and segments were decided before.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import structlog

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.settings import Delivery
from bridge.runtime.telemetry import Health, counter, gauge
from consumers.domain.canary import CanaryState
from consumers.domain.ledger import Begun, Lane, LaneAge
from consumers.domain.metering import letters_per_second
from consumers.domain.sending import NO_BOUND, Rates

log = structlog.get_logger()

COMMANDED = counter(
    "tocsin_delivery_commands_total",
    "delivery commands put on the belt",
    question="does the release go on?",
    labels={"channel": [channel.value for channel in Channel]},
)
SWEPT = counter(
    "tocsin_delivery_swept_total",
    "attempts that had waited too long and were moved on",
    question="do attempts get stuck between dispatch and receipts?",
)
ATTEMPTS = gauge(
    "tocsin_delivery_attempts_count",
    "attempts by where they stand in the ledger, exercises left out; told by whoever meters, 0 by all others",
    question="how far are notices, and by which channel?",
    labels={"channel": [channel.value for channel in Channel], "state": [state.value for state in AttemptState]},
)

CANARIES = counter(
    "tocsin_release_canaries_total",
    "releases that were tried on a few people first, by what their receipts said",
    question="did a release stop itself?",
    labels={"state": [CanaryState.PASSED.value, CanaryState.HELD.value]},
)

_LANES: dict[str, Sequence[str]] = {"channel": [channel.value for channel in Channel]}
QUEUE_AGE = gauge(
    "tocsin_delivery_queue_age_seconds",
    "how long the oldest message has waited for its turn, of releases that run",
    question="does somebody wait too long for their turn?",
    labels=_LANES,
)
SILENCE = gauge(
    "tocsin_delivery_oldest_without_receipt_seconds",
    "how long ago the oldest message without a final receipt was handed over",
    question="do receipts come back?",
    labels=_LANES,
)
WAITING = gauge(
    "tocsin_delivery_waiting_count",
    "messages that wait for their turn, of releases that run, or lie on the belt",
    question="how much is still to go?",
    labels=_LANES,
)
LANE_RATE = gauge(
    "tocsin_delivery_lane_rate_per_second",
    "messages a second that a lane may carry now",
    question="is a lane slowed down?",
    labels=_LANES,
)
PROJECTED_END = gauge(
    "tocsin_delivery_projected_end_seconds",
    "seconds until all that waits for a lane has left, at the rate that it may go; +Inf: nothing leaves",
    question="when will the releases that run have left?",
    labels=_LANES,
)
LATENESS = gauge(
    "tocsin_delivery_projected_lateness_seconds",
    "by how much a lane's projected end is past the earliest deadline of those who wait for it; below 0: so much is left",
    question="will somebody be told too late?",
    labels=_LANES,
)

_COUNT_EVERY_SECONDS = 5.0
_BEGUN_AT_ONCE = 10_000


class ReleaseLedger(Protocol):
    """What release asks of the ledger."""

    def releasing(self) -> Collection[str]: ...
    def begin_attempts(self, limit: int, lanes: Sequence[Lane] = ()) -> Begun: ...
    def waiting_channels(self) -> Collection[Channel]: ...
    def meter(self, lane: Lane) -> int: ...
    def sweep(
        self,
        *,
        command_patience: timedelta | None,
        intent_patience: timedelta,
        unknown_patience: timedelta,
        expired: bool,
    ) -> int: ...
    def judge_canaries(self) -> Sequence[tuple[str, str, CanaryState]]: ...
    def finish_releases(self) -> Sequence[tuple[str, str]]: ...
    def attempts(self) -> Mapping[tuple[str, str], int]: ...
    def remind_of_holds(self) -> None: ...
    def note_pace(self, lanes: Mapping[Channel, float]) -> None: ...
    def lane_ages(self, *, beginning: bool = False) -> Mapping[Channel, LaneAge]: ...


class Lease(Protocol):
    """Who meters."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


_REST_AFTER_ALL = 50
"""Times as long as it took: what looks over all attempts, of which there may be millions, is due again."""


class _Paced:
    """Says when something is due again: after `seconds`, or `rest` times as long as it took where that is more. What looks
    over a million people takes a second, and must leave the rest of the time to those who send.
    """

    def __init__(self, seconds: float, rest: int = 20) -> None:
        self._seconds = seconds
        self._rest = rest
        self._next = 0.0
        self._began = 0.0

    def due(self) -> bool:
        """Return whether it is, and take the time from now."""
        self._began = time.monotonic()
        return self._began >= self._next

    def done(self, *, again: bool = False) -> None:
        """Take note of its end; `again`: there is more to do at once."""
        took = time.monotonic() - self._began
        self._next = self._began if again else self._began + max(self._seconds, self._rest * took)


class ReleaseStage:
    """One active meter; a second one waits for its lease."""

    def __init__(
        self,
        ledger: ReleaseLedger,
        lease: Lease,
        delivery: Delivery,
        health: Health,
        *,
        rates: Rates | None = None,
        stands_still: Callable[[], bool] | None = None,
        tick_seconds: float = 0.25,
    ) -> None:
        """`stands_still`: while it says so nothing is put on any belt; what is there is swept up as ever."""
        self._ledger = ledger
        self._lease = lease
        self._delivery = delivery
        self._health = health
        self._live = rates
        self._stands_still = stands_still
        self._tick_seconds = tick_seconds
        self._credit: dict[Channel, float] = {}
        self._rate_now: dict[Channel, float] = {}
        self._begin = _Paced(0.0)
        self._releasing: frozenset[str] = frozenset()
        self._beginning = False
        self._gathered_seconds = delivery.letter_batch_seconds
        # what lies on the belt, and what waits for receipts, are looked over whole
        self._commands_due = _Paced(delivery.belt_seconds / 4, rest=_REST_AFTER_ALL)
        self._expired_due = _Paced(1.0, rest=_REST_AFTER_ALL)

    def run(self, stop: threading.Event) -> None:
        """Meter until `stop`."""
        before = time.monotonic()
        sweep, count, counted = _Paced(1.0), _Paced(_COUNT_EVERY_SECONDS, rest=_REST_AFTER_ALL), False
        self._health.ready()
        try:
            while not stop.is_set():
                now = time.monotonic()
                try:
                    if self._lease.take():
                        self.tick(now - before)
                        if sweep.due():
                            self._sweep()
                            sweep.done()
                        if count.due():
                            self._count()
                            count.done()
                            counted = True
                    elif counted:
                        # another process has the lease and counts: the sum over all of them stays right
                        show_attempts({})
                        show_lanes({}, {})
                        count, counted = _Paced(_COUNT_EVERY_SECONDS, rest=_REST_AFTER_ALL), False
                    self._health.ready("case store")
                except Unreachable as error:
                    log.warning("release waits", reason=str(error))
                    self._health.missing("case store", str(error))
                before = now
                stop.wait(self._tick_seconds)
        finally:
            self._lease.release()

    def tick(self, elapsed_seconds: float) -> int:
        """Begin attempts and meter each lane for `elapsed_seconds`; return how many commands were issued."""
        if self._stands_still is not None and self._stands_still():
            return 0
        lanes = [self._lane(channel, most, elapsed_seconds) for channel, most in self._rates()]
        releasing = frozenset(self._ledger.releasing())
        self._releasing &= releasing
        begun: Mapping[Channel, int] = {}
        # what has just been approved does not wait for the next look for late ones
        if self._begin.due() or releasing - self._releasing:
            found = self._ledger.begin_attempts(_BEGUN_AT_ONCE, lanes)
            # while there are more, at once; else looking for late ones must not cost more than all else
            self._begin.done(again=found.more)
            self._beginning = found.more
            self._releasing, begun = releasing, found.commanded
        issued = 0
        waiting = self._ledger.waiting_channels()
        for lane in lanes:
            channel, count = lane.channel, begun.get(lane.channel, 0)
            if lane.at_once > count and channel in waiting:
                count += self._ledger.meter(replace(lane, at_once=lane.at_once - count))
            if self._live is not None:
                self._live.issued(channel, count)
            self._credit[channel] -= count
            COMMANDED.labels(channel.value).inc(count)
            issued += count
        return issued + self._gather_letters(elapsed_seconds, wait=Channel.LETTER in waiting)

    def _lane(self, channel: Channel, most: float, elapsed_seconds: float) -> Lane:
        """Return what a lane that may carry `most` a second may carry now."""
        allowed = NO_BOUND if self._live is None else self._live.allowance(channel)
        rate = most if allowed.per_second is None else min(most, allowed.per_second)
        # unused credit is not saved up beyond one second: after a pause the provider must not see a burst
        credit = min(self._credit.get(channel, 0.0) + rate * elapsed_seconds, max(rate, 1.0))
        self._credit[channel] = credit
        # while no provider takes anything nothing leaves, whatever the rate; of a quota that is used up as much as comes back
        self._rate_now[channel] = min(rate, allowed.again_per_second) if allowed.at_most == 0 else rate
        belt, at_once = max(1, int(rate * self._delivery.belt_seconds)), int(credit)
        if allowed.at_most is not None:
            # what lies on the belt already uses up the bound, too
            belt, at_once = min(belt, allowed.at_most), min(at_once, allowed.at_most)
        return Lane(channel, belt=belt, at_once=at_once, per_second=rate)

    def _gather_letters(self, elapsed_seconds: float, *, wait: bool) -> int:
        """Let letters go together, so that the printer gets batches and not a folder for each."""
        most, seconds = self._delivery.letter_batch, self._delivery.letter_batch_seconds
        self._rate_now[Channel.LETTER] = letters_per_second(most, seconds)
        self._gathered_seconds += elapsed_seconds
        if not wait or self._gathered_seconds < seconds:
            return 0
        count = self._ledger.meter(Lane(Channel.LETTER, belt=most, at_once=most))
        COMMANDED.labels(Channel.LETTER.value).inc(count)
        if count:
            self._gathered_seconds = 0.0
        return count

    def _rates(self) -> Sequence[tuple[Channel, float]]:
        return (
            (Channel.EMAIL, self._delivery.email_per_second),
            (Channel.SMS, self._delivery.sms_per_second),
            (Channel.ACCOUNT_NOTICE, 500.0),
        )

    def _count(self) -> None:
        """Say where attempts stand, how old the oldest are and when each lane ends, in metrics and for whoever watches."""
        show_attempts(self._ledger.attempts())
        self._ledger.note_pace(self._rate_now)
        show_lanes(self._ledger.lane_ages(beginning=self._beginning), self._rate_now)
        self._ledger.remind_of_holds()

    def _sweep(self) -> None:
        patience = timedelta(seconds=self._delivery.belt_seconds)
        unknown_patience = min(timedelta(seconds=self._delivery.receipt_timeout_seconds), timedelta(minutes=5))
        commands, expired = self._commands_due.due(), self._expired_due.due()
        SWEPT.inc(
            self._ledger.sweep(
                command_patience=patience * 2 if commands else None,
                intent_patience=timedelta(seconds=max(10.0, self._delivery.belt_seconds)),
                unknown_patience=unknown_patience,
                expired=expired,
            )
        )
        if commands:
            self._commands_due.done()
        if expired:
            self._expired_due.done()
        for incident_id, release_id, state in self._ledger.judge_canaries():
            CANARIES.labels(state.value).inc()
            log.warning("canary judged", incident=incident_id, release=release_id, state=state.value)
        for incident_id, release_id in self._ledger.finish_releases():
            log.info("release finished", incident=incident_id, release=release_id)


def show_attempts(counts: Mapping[tuple[str, str], int]) -> None:
    """Let the metric say `counts`, by channel and state, and 0 for those that are not among them."""
    for channel in Channel:
        for state in AttemptState:
            ATTEMPTS.labels(channel.value, state.value).set(counts.get((channel.value, state.value), 0))


def show_lanes(ages: Mapping[Channel, LaneAge], rates: Mapping[Channel, float]) -> None:
    """Let the metrics say how each lane stands, and 0 where nothing waits."""
    for channel in Channel:
        age = ages.get(channel, LaneAge())
        rate = rates.get(channel)
        end, late = _projected(age, rate)
        QUEUE_AGE.labels(channel.value).set(age.queue_seconds)
        SILENCE.labels(channel.value).set(age.silent_seconds)
        WAITING.labels(channel.value).set(age.waiting)
        LANE_RATE.labels(channel.value).set(rate or 0.0)
        PROJECTED_END.labels(channel.value).set(end)
        LATENESS.labels(channel.value).set(late)


def _projected(age: LaneAge, rate: float | None) -> tuple[float, float]:
    """Return in how many seconds all of a lane has left, and how long after a deadline; infinite where nothing leaves.

    What has no rate is on its way at once.
    """
    if rate is None:
        return 0.0, 0.0 if age.seconds_to_deadline is None else -age.seconds_to_deadline
    parts = [(age.waiting, rate, age.seconds_to_deadline)]
    parts += [(each.waiting, min(each.per_second, rate), each.seconds_to_deadline) for each in age.bounded]
    ends = [(count / at if at > 0 else math.inf) if count else 0.0 for count, at, _ in parts]
    late = [end - due for end, (_, _, due) in zip(ends, parts, strict=True) if due is not None]
    return max(ends), max(late, default=0.0)
