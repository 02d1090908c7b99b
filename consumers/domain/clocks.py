"""How far a duty's clock has run, and at which points somebody must hear of it. Pure; instants come as arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WARN_AT_PERCENT: Sequence[int] = (50, 75, 90)
MISSED_PERCENT = 100
LATE_PEOPLE = "late-people"
"""Stands for a duty's name where it is about those who were found late, whatever the duty."""


@dataclass(frozen=True, slots=True)
class RunningClock:
    """One duty that is owed and not yet met. `started_at` is when its conservative clock began."""

    incident_id: str
    revision: int
    controller: str
    regime_id: str
    recipient: str
    started_at: datetime
    deadline_at: datetime
    conservative: bool
    """The deadline counts from the earliest recorded instant: awareness is not recorded yet."""
    exercise: bool
    conservative_at: datetime | None = None
    """The deadline counted from the earliest recorded instant, usually the detection."""
    recorded_at: datetime | None = None
    """The deadline counted from the recorded fact, such as awareness; None while nobody recorded it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that a clock has passed; 100 means the deadline is missed."""

    clock: RunningClock
    percent: int


def elapsed_share(clock: RunningClock, now: datetime) -> float:
    """Return how much of the time has passed: 0 at the start, 1 at the deadline, more after it."""
    whole = (clock.deadline_at - clock.started_at).total_seconds()
    return max(0.0, (now - clock.started_at).total_seconds() / whole) if whole > 0 else 1.0


def highest_mark(clock: RunningClock, now: datetime) -> Mark | None:
    """Return the highest point that `clock` has passed, or None before the first.

    Only the highest is told: whoever starts Tocsin late should hear "90 %", not three warnings in a row.
    """
    if now >= clock.deadline_at:
        return Mark(clock, MISSED_PERCENT)
    whole = (clock.deadline_at - clock.started_at).total_seconds()
    if whole <= 0:
        return Mark(clock, MISSED_PERCENT)
    passed = 100 * (now - clock.started_at).total_seconds() / whole
    reached = [percent for percent in WARN_AT_PERCENT if passed >= percent]
    return Mark(clock, reached[-1]) if reached else None
