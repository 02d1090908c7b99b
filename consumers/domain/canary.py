"""The canary of a release: a few people of each segment first, and what their receipts say about all the others.

Pure. The policy is part of what two people approve; how far a canary is stands in the ledger, so that a crash forgets
nothing. Not for the circuit of a provider (`circuit`), which is about calls, not about texts and addresses.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class CanaryState(StrEnum):
    """Where the canary of a release stands. A release without one has none of these."""

    TESTING = "testing"
    PASSED = "passed"
    HELD = "held"
    """Too many did not arrive, or too few receipts came: the release is paused until a named person resumes it."""
    WAIVED = "waived"
    """A named person resumed it."""


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """How a release is tried first."""

    per_segment: int
    """So many people of each segment."""
    wait_seconds: int
    """So long receipts are waited for, counted from the last hand-over."""
    bound_percent: int
    """More that did not arrive, in percent of those with a receipt, hold the rest."""

    def as_json(self) -> dict[str, int]:
        """Return it as a release policy holds it."""
        return asdict(self)


def canary_of(policy: Mapping[str, Any]) -> CanaryPolicy | None:
    """Return the canary of a release policy; None: it has none."""
    given = policy.get("canary")
    return None if given is None else CanaryPolicy(**given)


@dataclass(frozen=True, slots=True)
class CanarySeen:
    """What became of the canaries, by e-mail and SMS: whether an account page was read says nothing so soon."""

    left: int
    """Canaries that have left, by any channel: none, or some."""
    to_send: int
    """Canaries that have not left yet."""
    arrived: int
    failed: int
    """Bounced or rejected."""
    silent: int
    """Handed over or on their way, without a final receipt."""
    last_handed_over_at: datetime | None


def judge(policy: CanaryPolicy, seen: CanarySeen, now: datetime) -> CanaryState:
    """Return TESTING while there is something to wait for, PASSED, or HELD."""
    if seen.to_send or not seen.left:
        # of a release whose first people are all held nothing is known yet
        return CanaryState.TESTING
    known = seen.arrived + seen.failed
    since = seen.last_handed_over_at
    waited = since is None or now >= since + timedelta(seconds=policy.wait_seconds)
    if seen.silent and not waited:
        return CanaryState.TESTING
    if seen.silent > known:
        # most say nothing: receipts do not reach us, or the messages nobody
        return CanaryState.HELD
    return CanaryState.HELD if seen.failed * 100 > policy.bound_percent * known else CanaryState.PASSED
