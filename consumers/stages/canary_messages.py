"""Sends canary messages: to a simulator, or to an address of our own, every few minutes. Runs beside dispatch, under a lease.

Breach notices are rare: without these an outage of a provider, or of the way of receipts, is found on the worst day. Reads
no notice, knows no person, opens no circuit, and gives way to every real notice of its channel. Its receipts are settled
by the stage receipts.
"""

import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from bridge.contracts.errors import TocsinError
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import gauge
from consumers.domain.canary_messages import CanaryLane, CanaryMessage, CanaryRoute, CanaryStage, CanaryStanding
from consumers.domain.sending import SendResult

log = structlog.get_logger()

_TRAFFIC = "canary"
_LABELS: dict[str, Sequence[str]] = {
    "traffic": [_TRAFFIC],
    "channel": [Channel.EMAIL, Channel.SMS],
    "provider": ["ses", "smtp", "sns", "sms_gateway"],
    "region": [],
}
"""A route appears in the process dispatch once the settings name a destination for it, and not before."""

AGE = gauge(
    "tocsin_canary_age_seconds",
    "since the last canary message arrived; before the first one: since the first one was sent, or dispatch began",
    question="how long ago did we last see that notices would arrive?",
    labels=_LABELS,
)
EVERY = gauge(
    "tocsin_canary_every_seconds",
    "how often a canary message is to be sent, as set",
    question="how old may the last one be?",
    labels=_LABELS,
)
FAILING = gauge(
    "tocsin_canary_failing_count",
    "canary messages in a row that failed since the last one that arrived, at most 20",
    question="is it more than one lost message?",
    labels=_LABELS,
)


class CanaryBook(Protocol):
    """What is known of canary messages. All methods raise Unreachable."""

    def due(self, lane: CanaryLane) -> bool: ...
    def gives_way(self, channel: Channel) -> bool: ...
    def yielded(self, route: CanaryRoute) -> None: ...
    def begin(self, lane: CanaryLane) -> CanaryMessage | None: ...
    def answered(self, message: CanaryMessage, result: SendResult) -> CanaryMessage: ...
    def give_up(self, lane: CanaryLane) -> CanaryMessage | None: ...
    def standing(self, route: CanaryRoute) -> CanaryStanding: ...


class Lease(Protocol):
    """Who sends."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class CanaryMessages:
    """One active sender; in all other processes only the numbers are kept."""

    def __init__(
        self, book: CanaryBook, lanes: Sequence[CanaryLane], lease: Lease, clock: Clock, *, tick_seconds: float = 2.0
    ) -> None:
        self._book = book
        self._lanes = lanes
        self._lease = lease
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._waiting: set[CanaryRoute] = set()
        self._arrived: dict[CanaryRoute, datetime] = {}
        began = clock.now()
        for lane in lanes:
            labels = _labels(lane.route)
            self._arrived[lane.route] = began
            # asked at each scrape, so that it grows whatever this thread does
            AGE.labels(*labels).set_function(partial(self._age, lane.route))
            EVERY.labels(*labels).set(lane.every.total_seconds())
            FAILING.labels(*labels)

    def run(self, stop: threading.Event) -> None:
        """Send what is due until `stop`."""
        try:
            while not stop.wait(self._tick_seconds):
                self.tick()
        finally:
            self._lease.release()

    def tick(self) -> None:
        """Send what is due if this process is the one that does, and see how each route stands."""
        for lane in self._lanes:
            try:
                if self._lease.take():
                    self._tend(lane)
                self._look(lane)
            except TocsinError as error:
                log.warning("canary messages wait", channel=lane.route.channel.value, provider=lane.route.provider,
                            reason=str(error))  # fmt: skip

    def _tend(self, lane: CanaryLane) -> None:
        late = self._book.give_up(lane)
        if late is not None:
            log.warning("a canary message has no receipt", **_words(late))
        if not self._book.due(lane):
            return
        if self._book.gives_way(lane.route.channel):
            if lane.route not in self._waiting:
                self._waiting.add(lane.route)
                self._book.yielded(lane.route)
            return
        self._waiting.discard(lane.route)
        message = self._book.begin(lane)
        if message is None:
            return
        # a crash from here on leaves a row that says `sending`, and at most this one message on its way
        noted = self._book.answered(message, lane.send(message.message_id))
        if noted.stage is CanaryStage.FAILED:
            log.warning("a canary message was refused", **_words(noted))

    def _look(self, lane: CanaryLane) -> None:
        seen = self._book.standing(lane.route)
        last = seen.last_arrived_at or seen.first_began_at
        if last is not None:
            self._arrived[lane.route] = last
        FAILING.labels(*_labels(lane.route)).set(seen.failing)

    def _age(self, route: CanaryRoute) -> float:
        return max(0.0, (self._clock.now() - self._arrived[route]).total_seconds())


def _labels(route: CanaryRoute) -> tuple[str, str, str, str]:
    return _TRAFFIC, route.channel.value, route.provider, route.region


def _words(message: CanaryMessage) -> dict[str, str]:
    return {
        "message": message.message_id,
        "channel": message.route.channel.value,
        "provider": message.route.provider,
        "code": message.code or "",
        "receipts": ",".join(message.kinds),
    }
