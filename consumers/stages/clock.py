"""Stage clock: keeps the duties of open incidents in step, warns at 50, 75 and 90 % of a deadline and when one is missed.

What duties there are is decided in the case room and the domain; this looks, tells and measures. Until awareness is
recorded the conservative date counts, from the detection on, also while nobody has counted the people yet.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health, counter, gauge
from consumers.case.figures import CaseFigures
from consumers.case.watch import Watched
from consumers.domain.clocks import LATE_PEOPLE, Mark, RunningClock, elapsed_share, highest_mark

log = structlog.get_logger()

_FIGURES_SECONDS = 5.0

TOLD = counter(
    "tocsin_deadline_marks_total",
    "deadline warnings and misses told, exercises left out",
    question="are deadlines getting close?",
)
CLOSEST = gauge(
    "tocsin_deadline_closest_seconds",
    "seconds to the closest deadline ahead, of a duty that is not met, exercises left out; +Inf if there is none",
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
REVIEW_DUE = gauge(
    "tocsin_law_review_due_seconds",
    "until the next version of a rule is to be checked again; below 0 it is overdue",
    question="when must somebody look at the law again?",
)
DUE = gauge(
    "tocsin_deadline_seconds",
    "seconds to a duty's earliest deadline in any open incident, counted from the earliest recorded instant (conservative) and"
    " from the recorded fact, such as awareness; +Inf: it is not owed, or met",
    question="how long have we got for each duty, at worst and as recorded?",
    labels={"duty": (LATE_PEOPLE,), "clock": ("conservative", "recorded")},
)
ELAPSED = gauge(
    "tocsin_deadline_elapsed_ratio",
    "how much of a duty's time has passed, of the clock closest to its end; 1 and more: all missed, 0: not owed, or met",
    question="which duty runs out of time?",
    labels={"duty": (LATE_PEOPLE,)},
)
APPROVALS = gauge(
    "tocsin_approvals_waiting_count",
    "releases that are prepared and lack an approval",
    question="does a release wait for people?",
)
APPROVALS_AGE = gauge(
    "tocsin_approvals_oldest_seconds",
    "how long the oldest release that lacks an approval has waited; 0 if there is none",
    question="has a release waited for people too long?",
)
AFFECTED = gauge(
    "tocsin_affected_count",
    "accounts and orders that open incidents concern, as the index answered: by a record, or possibly",
    question="how many does it concern?",
    labels={"standing": ("recorded", "possible")},
)
COVERAGE_GAPS = gauge(
    "tocsin_coverage_incomplete_count",
    "open incidents that the index answered without being able to say that these are all: the window begins before records"
    " do, or something was written without",
    question="may there be people whom no record names?",
)
UNTAGGED = gauge(
    "tocsin_untagged_writes_count",
    "values written without a record in the windows of open incidents",
    question="does a model write past the module?",
)
SILENT_PARTITIONS = gauge(
    "tocsin_resolution_partitions_missing_count",
    "partitions of the index that have not answered to an open incident which others have answered",
    question="are the counts of all partitions?",
)


class Watch(Protocol):
    """Keeps incidents' duties in step and escalates their verification."""

    def look(self, now: datetime) -> Watched: ...


class ClockTable(Protocol):
    """Where clocks and marks are kept."""

    def running(self) -> Sequence[RunningClock]: ...
    def tell(self, marks: Sequence[Mark]) -> int: ...
    def end_pages(self, clocks: Sequence[RunningClock]) -> None: ...


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
        figures: Callable[[], CaseFigures] = CaseFigures,
    ) -> None:
        """`chores`: what else becomes due when time passes or incidents end; each is done at every look. `figures`: how open
        incidents stand, asked every five seconds."""
        self._table = table
        self._watch = watch
        self._clock = clock
        self._health = health
        self._look_seconds = look_seconds
        self._chores = chores
        self._figures = figures
        self._figures_due = 0.0
        self._duties: set[str] = {LATE_PEOPLE}

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
        self._show_clocks([clock for clock in clocks if not clock.exercise], now)
        if time.monotonic() >= self._figures_due:
            self._figures_due = time.monotonic() + _FIGURES_SECONDS
            _show_figures(self._figures())
        marks = [mark for mark in (highest_mark(clock, now) for clock in clocks) if mark is not None]
        told = self._table.tell(marks) if marks else 0
        self._table.end_pages(clocks)
        TOLD.inc(min(told, sum(not mark.clock.exercise for mark in marks)))
        return told

    def _show_clocks(self, clocks: Sequence[RunningClock], now: datetime) -> None:
        RUNNING.set(len(clocks))
        MISSED.set(sum(clock.deadline_at <= now for clock in clocks))
        # what is missed is counted above, and must not hide how long there is for the others
        ahead = [left for clock in clocks if (left := (clock.deadline_at - now).total_seconds()) > 0]
        CLOSEST.set(min(ahead, default=math.inf))
        due: dict[tuple[str, str], float] = {}
        elapsed: dict[str, float] = {}
        for clock in clocks:
            for which, at in (("conservative", clock.conservative_at), ("recorded", clock.recorded_at)):
                if at is not None:
                    key = clock.regime_id, which
                    due[key] = min(due.get(key, math.inf), (at - now).total_seconds())
            share = elapsed_share(clock, now)
            elapsed[clock.regime_id] = max(
                elapsed.get(clock.regime_id, share), share, key=lambda each: (each < 1, each)
            )
        self._duties.update(elapsed)
        for duty in self._duties:
            ELAPSED.labels(duty).set(elapsed.get(duty, 0.0))
            for which in ("conservative", "recorded"):
                DUE.labels(duty, which).set(due.get((duty, which), math.inf))

    def _measure(self, seen: Watched) -> None:
        self._duties.update(seen.duties)
        REVIEW_DUE.set(seen.review_due_seconds)
        MOVED.inc(seen.moved_count)
        UNVERIFIED.set(seen.unverified_seconds)
        UNUSABLE.set(seen.unusable_count)
        REVIEWS_OVERDUE.set(seen.reviews_overdue)


def _show_figures(seen: CaseFigures) -> None:
    APPROVALS.set(seen.approvals_waiting)
    APPROVALS_AGE.set(seen.approvals_oldest_seconds)
    AFFECTED.labels("recorded").set(seen.recorded_people)
    AFFECTED.labels("possible").set(seen.possible_people)
    COVERAGE_GAPS.set(seen.coverage_incomplete)
    UNTAGGED.set(seen.untagged_writes)
    SILENT_PARTITIONS.set(seen.partitions_missing)
