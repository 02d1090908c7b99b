"""When a page goes to which receiver: at once, again until somebody acknowledges it, and on to more people after that.

Decides times only. What is said, and how it gets to a telephone, is the business of stage pager and its receivers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class ReceiverKind(StrEnum):
    """What a receiver is for."""

    ALERTMANAGER = "alertmanager"
    """Keeps alerts itself as long as it is told of them, and repeats them by its own routes."""
    ON_CALL = "on_call"
    ESCALATION = "escalation"
    """Hears of a page only when nobody has acknowledged it in time."""
    LAST_RESORT = "last_resort"
    """Hears of a page only when no other receiver took it in time, or when there is none."""


@dataclass(frozen=True, slots=True)
class PagingPolicy:
    """How patient we are."""

    repeat_critical: timedelta = timedelta(minutes=15)
    repeat_warning: timedelta = timedelta(hours=4)
    refresh: timedelta = timedelta(minutes=1)
    """How often Alertmanager is told that a page still stands: it forgets when it is restarted."""
    escalate_after: timedelta = timedelta(minutes=30)
    last_resort_after: timedelta = timedelta(minutes=10)
    longest_pause: timedelta = timedelta(minutes=2)
    """Between two tries of a receiver that does not answer."""


@dataclass(frozen=True, slots=True)
class StandingPage:
    """A page as the case store has it, with what makes it urgent now. Holds no personal data."""

    page_id: str
    incident_id: str | None
    kind: str
    severity: str
    title: str
    facts: Mapping[str, Any]
    """Counts and codes, of the page's body."""
    next_command: str | None
    raised_at: datetime
    settled: bool
    """Acknowledged, or its incident has ended."""
    exercise: bool
    deadline_at: datetime | None
    """The earliest deadline of a duty of its incident that is not met."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one receiver knows of one page."""

    delivered_at: datetime | None
    """When it last took it."""
    failures: int
    """In a row."""
    tried_at: datetime | None
    settled: bool
    """It knows that the page is settled."""


UNSENT = Sent(None, 0, None, settled=False)


def is_due(
    page: StandingPage,
    kind: ReceiverKind,
    sent: Sent,
    *,
    reached_other: bool,
    now: datetime,
    policy: PagingPolicy,
) -> bool:
    """Return whether `kind` must be told of `page` now. `reached_other`: some other receiver took the page once."""
    if sent.failures and sent.tried_at is not None:
        pause = min(policy.longest_pause, timedelta(seconds=2 ** min(sent.failures, 10)))
        if now < sent.tried_at + pause:
            return False
    if page.settled:
        return sent.delivered_at is not None and not sent.settled
    waiting = now - page.raised_at
    if kind is ReceiverKind.ESCALATION and waiting < policy.escalate_after:
        return False
    if kind is ReceiverKind.LAST_RESORT and (reached_other or waiting < policy.last_resort_after):
        return False
    if sent.delivered_at is None:
        return True
    if kind is ReceiverKind.ALERTMANAGER:
        return now >= sent.delivered_at + policy.refresh
    repeat = policy.repeat_critical if page.severity == "critical" else policy.repeat_warning
    if page.incident_id is None and page.raised_at <= sent.delivered_at:
        # nobody can acknowledge it: it is told again when it is raised again
        return False
    return now >= sent.delivered_at + repeat


def is_escalated(page: StandingPage, now: datetime, policy: PagingPolicy) -> bool:
    """Return whether nobody has acknowledged `page` in time."""
    return not page.settled and page.incident_id is not None and now - page.raised_at >= policy.escalate_after


def summary(page: StandingPage, now: datetime) -> str:
    """Return one line: what it is about, how many people, how long there is. Holds no personal data."""
    title = without_contacts(page.title)
    words = [title if page.incident_id is None or page.incident_id in title else f"{page.incident_id}: {title}"]
    words += [f"{name.removesuffix('_count').replace('_', ' ')} {value:,}" for name, value in counts(page).items()]
    if page.deadline_at is not None:
        hours = (page.deadline_at - now).total_seconds() / 3600
        words.append(
            f"{hours:.0f} h to the earliest deadline" if hours >= 0 else f"earliest deadline missed {-hours:.0f} h ago"
        )
    return ("EXERCISE: " if page.exercise else "") + "; ".join(words)


def counts(page: StandingPage) -> dict[str, int]:
    """Return the numbers among the page's facts; names that a monitor sent stay with us."""
    return {
        name: value
        for name, value in page.facts.items()
        if isinstance(value, int) and not isinstance(value, bool) and name.endswith("_count")
    }


_ADDRESS = re.compile(r"\S+@\S+")
_NUMBER = re.compile(r"\+?\d(?:[ ()/.-]{0,2}\d){6,}")
_REFERENCE = re.compile(r"INC-\d{4}-\d{4,}")


def without_contacts(text: str) -> str:
    """Return `text` with whatever looks like an address or a telephone number left out.

    A page leaves the house, and its title may be a monitor's words. References of incidents stay.
    """
    kept = _REFERENCE.findall(text)
    parts = _REFERENCE.split(text)
    cleaned = [_NUMBER.sub("[left out]", _ADDRESS.sub("[left out]", part)) for part in parts]
    return "".join(part + reference for part, reference in zip(cleaned, [*kept, ""], strict=True))
