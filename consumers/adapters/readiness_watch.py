"""Looks all year, once an hour, whether everybody in the index could be told in time, and says so in metrics.

Beside the stage release, in a thread of its own: nothing waits for it. Counts only; see `consumers.case.readiness`.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from bridge.contracts.errors import TocsinError
from bridge.contracts.events import Channel
from bridge.runtime.telemetry import gauge
from consumers.case.readiness import NOBODY, Readiness, YearRound, readiness_of

log = structlog.get_logger()

TAKES = gauge(
    "tocsin_readiness_seconds",
    "how long telling everybody in the index whose first channel this is would take, begun at the last look",
    question="would we meet any deadline at all, if everybody's data leaked today?",
    labels={"channel": [Channel.EMAIL.value, Channel.SMS.value]},
)
BOUND = gauge(
    "tocsin_readiness_bound_seconds",
    "how long it may take: delivery.readiness.bound_hours",
    question="how long may telling everybody take?",
)
PEOPLE = gauge(
    "tocsin_readiness_people_count",
    "accounts and guest orders in the index by the first channel that exists for them; none: no channel",
    question="by what could everybody be told?",
    labels={"channel": [*(channel.value for channel in Channel), NOBODY]},
)
IMPOSSIBLE = gauge(
    "tocsin_readiness_sms_impossible_count",
    "accounts and guest orders whose SMS would fail, as their country wants a number of its own and we hold none",
    question="for whom is SMS no fallback?",
)
COVERED = gauge(
    "tocsin_readiness_sms_covered_count",
    "SMS of one part that the month's spend limit still pays; +Inf where nobody has said a price",
    question="how many people could SMS reach before AWS stops it?",
)
STOPPING = gauge(
    "tocsin_readiness_stopping_count",
    "findings that keep somebody from being told, or from being told within the bound",
    question="could everybody be told today?",
)
AGE = gauge(
    "tocsin_readiness_age_seconds",
    "how long ago readiness was looked at with an answer of the index; before the first: since the start",
    question="is what readiness says still true?",
)

_AGAIN_SECONDS = 60.0
"""Until the next try after a look that failed; before the first that succeeded a sixth of it: the index may be starting too."""


class ReadinessWatch:
    """One process's hourly look."""

    def __init__(
        self,
        look: Callable[[], YearRound],
        bound: timedelta,
        every: timedelta,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` raises TocsinError when the index does not answer."""
        self._look = look
        self._every = every.total_seconds()
        self._clock = clock
        self._seen_at = clock()
        self._next = 0.0
        self._ever = False
        self._stopping: tuple[str, ...] = ()
        BOUND.set(bound.total_seconds())
        COVERED.set(float("inf"))

    def run(self, stop: threading.Event, *, pause_seconds: float = 5.0) -> None:
        """Look when it is due, until `stop`."""
        while not stop.is_set():
            self.turn()
            stop.wait(pause_seconds)

    def turn(self) -> None:
        """Look if it is due. Never raises for what the index or a provider says."""
        if self._clock() >= self._next:
            try:
                self._show(readiness_of(self._look()))
                self._seen_at, self._ever = self._clock(), True
                self._next = self._seen_at + self._every
            except TocsinError as error:
                log.warning("readiness is not known", reason=str(error))
                self._next = self._clock() + (_AGAIN_SECONDS if self._ever else _AGAIN_SECONDS / 6)
        AGE.set(self._clock() - self._seen_at)

    def _show(self, done: Readiness) -> None:
        for name, span in done.takes.items():
            TAKES.labels(name).set(span.total_seconds())
        for name, count in done.first.items():
            PEOPLE.labels(name).set(count)
        IMPOSSIBLE.set(sum(done.sms_impossible.values()))
        COVERED.set(float("inf") if done.sms_covered is None else done.sms_covered)
        STOPPING.set(len(done.stops))
        stopping = tuple(each.code or each.about for each in done.stops)
        if stopping != self._stopping:
            said = log.warning if stopping else log.info
            said("readiness", ready=not stopping, stopping=stopping, sentence=done.sentence())
            self._stopping = stopping
