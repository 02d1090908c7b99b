"""Stage clock: keeps the duties of open incidents in step, warns at 50, 75 and 90 % of a deadline and when one is missed.

What duties there are is decided in the case room and the domain; this looks, tells and measures. Until awareness is
recorded the conservative date counts, from the detection on, also while nobody has counted the people yet.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health, counter, gauge
from consumers.case.watch import Watched
from consumers.domain.clocks import Mark, RunningClock, highest_mark

log = structlog.get_logger()

TOLD = counter(
    "tocsin_deadline_marks_total",
    "deadline warnings and misses told, exercises left out",
    question="are deadlines getting close?",
)
CLOSEST = gauge(
    "tocsin_deadline_closest_seconds",
    "seconds to the closest deadline of a duty that is not met, exercises left out; absent duties leave it at +Inf",
    question="how long have we got?",
)
RUNNING = gauge(
    "tocsin_deadline_running_count",
    "duties with a running clock, exercises left out",
    question="how many duties are still open?",
)
MISSED = gauge(
    "tocsin_deadline_missed_count",
    "duties whose deadline has passed and that nobody recorded as met, exercises left out",
    question="have we missed a deadline?",
)
UNVERIFIED = gauge(
    "tocsin_verification_oldest_seconds",
    "seconds since the detection of the oldest incident whose verification is undecided; 0 if there is none",
    question="does an incident wait to be looked at?",
)
MOVED = counter("tocsin_duties_moved_total", "answers to duties that changed", question="does the ground still move?")
UNUSABLE = gauge(
    "tocsin_incidents_unusable_count",
    "open incidents with a recorded fact that the law cannot read",
    question="do all incidents have their duties?",
)
REVIEWS_OVERDUE = gauge(
    "tocsin_law_review_overdue_count",
    "versions of rules that nobody has looked at for a quarter",
    question="does anybody check the law?",
)
DIFFERING = gauge(
    "tocsin_evidence_differing_count",
    "ended incidents of which ledger, evidence log and providers' receipts do not say the same",
    question="is what we could prove what happened?",
)


class Watch(Protocol):
    """Keeps incidents' duties in step and escalates their verification."""

    def look(self, now: datetime) -> Watched: ...


class ClockTable(Protocol):
    """Where clocks and marks are kept."""

    def running(self) -> Sequence[RunningClock]: ...
    def tell(self, marks: Sequence[Mark]) -> int: ...


class ClockStage:
    """Looks once a second. Several may run: a mark is told once."""

    def __init__(
        self,
        table: ClockTable,
        watch: Watch,
        clock: Clock,
        health: Health,
        *,
        look_seconds: float = 1.0,
        chores: Sequence[Callable[[], object]] = (),
    ) -> None:
        """`chores`: what else becomes due when time passes or incidents end; each is done at every look."""
        self._table = table
        self._watch = watch
        self._clock = clock
        self._health = health
        self._look_seconds = look_seconds
        self._chores = chores

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop`."""
        self._health.ready()
        while not stop.is_set():
            try:
                self.look()
                self._health.ready("case store")
            except Unreachable as error:
                log.warning("the clock waits", reason=str(error))
                self._health.missing("case store", str(error))
            stop.wait(self._look_seconds)

    def look(self) -> int:
        """Tell every mark that was passed and not told; return how many."""
        now = self._clock.now()
        try:
            self._measure(self._watch.look(now))
            self._health.ready("law")
        except BadInput as error:
            # clocks that were written go on being watched, whatever has become of the rules
            log.error("the law cannot be read", reason=str(error))
            self._health.missing("law", str(error).splitlines()[0])
        for chore in self._chores:
            chore()
        clocks = self._table.running()
        real = [clock for clock in clocks if not clock.exercise]
        RUNNING.set(len(real))
        MISSED.set(sum(clock.deadline_at <= now for clock in real))
        CLOSEST.set(min(((clock.deadline_at - now).total_seconds() for clock in real), default=float("inf")))
        marks = [mark for mark in (highest_mark(clock, now) for clock in clocks) if mark is not None]
        told = self._table.tell(marks) if marks else 0
        TOLD.inc(min(told, sum(not mark.clock.exercise for mark in marks)))
        return told

    @staticmethod
    def _measure(seen: Watched) -> None:
        MOVED.inc(seen.moved_count)
        UNVERIFIED.set(seen.unverified_seconds)
        UNUSABLE.set(seen.unusable_count)
        REVIEWS_OVERDUE.set(seen.reviews_overdue)
