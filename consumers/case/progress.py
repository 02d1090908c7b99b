"""How far a release is, in one look: who has been reached and how, who has not and why, and when it will end.

Counts only: nobody is named. When it ends is a projection from what waits and how fast it goes now; receipts and fallbacks
that are still to come are not in it, and the words say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from bridge.contracts.events import Channel
from consumers.case.intake_rules import ENDED
from consumers.domain.metering import projected_end

WAIT_FOR_CANARY = "wait for the canary"
"""What `Progress.why_not` calls it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one channel goes: of this incident lately, and what the whole lane may do. Messages a second."""

    per_second: float
    lane_per_second: float
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """An incident's delivery at one moment. Counts are of people where nothing else is said."""

    incident_id: str
    state: str
    exercise: bool
    releases: Sequence[tuple[str, str, str | None]]
    """Id, state and canary state of each release that is not void, newest first."""
    people: int
    reached: int
    substituted: int
    unreachable: int
    reached_by: Mapping[str, int]
    """Messages that arrived, by channel."""
    why_not: Mapping[str, int]
    """Who has no end yet, by what they wait for."""
    waiting: Mapping[str, int]
    """Messages that have not left, by channel: those that may, as things stand."""
    supplements: int
    supplements_open: int
    own_rates: Mapping[str, float]
    pace: Mapping[str, Pace]
    earliest_deadline_at: datetime | None
    """Of those without an end."""
    yields_to: str | None = None
    """An incident whose release runs, before which an exercise stands still."""

    @property
    def stopped(self) -> str | None:
        """Why nothing leaves, where nothing does: paused, held by its canary, cancelled, no release, or a real one first."""
        states = [state for _, state, _ in self.releases]
        if "releasing" in states:
            return None if self.yields_to is None else f"exercise waits while {self.yields_to} is released"
        if "paused" in states:
            held = any(canary == "held" for _, state, canary in self.releases if state == "paused")
            return "held by its canary" if held else "paused"
        # the newest that ever ran: one that came after a cancelled one has its people
        ended = next((state for state in states if state in ("cancelled", "finished")), "no release runs")
        return None if ended == "finished" else ended

    @property
    def tested(self) -> bool:
        """Whether somebody waits for what becomes of the first few."""
        return bool(self.why_not.get(WAIT_FOR_CANARY))

    @property
    def over(self) -> bool:
        """Whether there are people, and each of them has an end."""
        return self.people > 0 and not any(self.why_not.values()) and not self.supplements_open


class ProgressSource(Protocol):
    """Where progress is read."""

    def progress(self, incident_id: str) -> Progress:
        """Return how far an incident's release is. Raises BadInput for an unknown incident."""
        ...


_FRESH = timedelta(seconds=30)


def rates_now(seen: Progress, most: Mapping[Channel, float], now: datetime) -> Mapping[str, float]:
    """Return how fast each channel with something to send can be expected to go: as measured, else what it may."""
    rates: dict[str, float] = {}
    for channel in seen.waiting.keys() & {each.value for each in most}:
        pace = seen.pace.get(channel)
        bound = seen.own_rates.get(channel, most.get(Channel(channel), 0.0))
        fresh = pace is not None and now - pace.measured_at <= _FRESH
        if pace is not None and fresh:
            bound = min(bound, pace.lane_per_second)
        measured = pace.per_second if pace is not None and fresh else 0.0
        rates[channel] = min(measured, bound) if measured > 0 else bound
    return rates


def ends_at(seen: Progress, most: Mapping[Channel, float], now: datetime) -> datetime | None:
    """Return when the last message will have left at this pace; None while nothing leaves, or nothing is left."""
    if seen.stopped is not None or not any(seen.waiting.values()):
        return None
    rates = rates_now(seen, most, now)
    return projected_end(now, {channel: seen.waiting[channel] for channel in rates}, rates) if rates else None


def span(size: timedelta) -> str:
    """Return a duration in words: "2 h 10 min"."""
    minutes = int(size.total_seconds()) // 60
    if minutes < 1:
        return f"{max(int(size.total_seconds()), 0)} s"
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def _shut(seen: Progress) -> set[str]:
    """Return the channels by which no provider takes messages."""
    return {channel for channel, pace in seen.pace.items() if pace.lane_per_second <= 0}


def end_in_words(seen: Progress, end: datetime | None, now: datetime) -> str:
    """Return when it will end against the earliest deadline, in one sentence."""
    deadline = seen.earliest_deadline_at
    against = ""
    if seen.over:
        return "everybody has an end"
    if seen.state in ENDED:
        return f"the incident is {seen.state}: nothing leaves any more"
    if seen.stopped is not None:
        left = "" if deadline is None else f"; the earliest deadline {_from_now(deadline, now)}"
        return f"does not end: {seen.stopped}{left}"
    if end is None and any(seen.waiting[channel] for channel in seen.waiting.keys() & _shut(seen)):
        left = "" if deadline is None else f"; the earliest deadline {_from_now(deadline, now)}"
        return f"does not end: no provider takes messages now, see `tocsin delivery circuits`{left}"
    if end is None:
        if sum(seen.why_not.values()) == 0:
            return "everybody has an end"
        left = "" if deadline is None else f"; the earliest deadline {_from_now(deadline, now)}"
        return f"everything has left that may; what is open waits for receipts or for people to decide{left}"
    if deadline is not None:
        against = (
            f", {span(deadline - end)} before the earliest deadline"
            if end <= deadline
            else f", {span(end - deadline)} AFTER the earliest deadline"
        )
    if seen.tested:
        against += ", once the canary has passed: until then only the first of each segment leave"
    return f"the last message leaves in {span(end - now)}{against}"


def _from_now(at: datetime, now: datetime) -> str:
    return f"is in {span(at - now)}" if at >= now else f"passed {span(now - at)} ago"
