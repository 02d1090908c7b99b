"""Stage clock: watches the deadlines of open incidents, warns at 50, 75 and 90 % and when one is missed.

It computes no law: planning wrote the duties with their dates. Until awareness is recorded the conservative date counts.
"""

import threading
from collections.abc import Sequence
from typing import Protocol

import structlog

from bridge.contracts.errors import Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health, counter, gauge
from consumers.domain.clocks import Mark, RunningClock, highest_mark

log = structlog.get_logger()

TOLD = counter(
    "tocsin_deadline_marks_total", "deadline warnings and misses told", question="are deadlines getting close?"
)
CLOSEST = gauge(
    "tocsin_deadline_closest_seconds",
    "seconds to the closest deadline of a duty that is not met; absent duties leave it at +Inf",
    question="how long have we got?",
)
RUNNING = gauge(
    "tocsin_deadline_running_count", "duties with a running clock", question="how many duties are still open?"
)


class ClockTable(Protocol):
    """Where clocks and marks are kept."""

    def running(self) -> Sequence[RunningClock]: ...
    def tell(self, marks: Sequence[Mark]) -> int: ...


class ClockStage:
    """Looks once a second. Several may run: a mark is told once."""

    def __init__(self, table: ClockTable, clock: Clock, health: Health, *, look_seconds: float = 1.0) -> None:
        self._table = table
        self._clock = clock
        self._health = health
        self._look_seconds = look_seconds

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
        clocks = self._table.running()
        RUNNING.set(len(clocks))
        CLOSEST.set(min(((clock.deadline_at - now).total_seconds() for clock in clocks), default=float("inf")))
        marks = [mark for mark in (highest_mark(clock, now) for clock in clocks) if mark is not None]
        told = self._table.tell(marks) if marks else 0
        TOLD.inc(told)
        return told
