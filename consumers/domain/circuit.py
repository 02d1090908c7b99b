"""When a provider is ill: its circuit opens, its lane moves on, and a few real messages try whether it is well again.

Pure: instants come in, a verdict goes out. What counts as an ill answer says `ill`; a refused address never does. See
https://martinfowler.com/bliki/CircuitBreaker.html for the pattern's words.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from consumers.domain.sending import SendResult, SendState


class CircuitState(StrEnum):
    """A circuit that is closed lets everything through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a provider counts as ill, and how it is tried again. Bounds count calls, of up to 50 messages each."""

    in_a_row: int = 3
    """So many ill calls one after the other open the circuit at once."""
    window: timedelta = timedelta(seconds=60)
    at_least: int = 10
    error_share: float = 0.5
    """This share of ill calls among at least `at_least` in the window opens it, too."""
    slow_after: timedelta = timedelta(seconds=10)
    """An answer that took longer counts as ill."""
    open_for: timedelta = timedelta(seconds=30)
    """Until probes; doubled each time they fail, up to `open_for_at_most`."""
    open_for_at_most: timedelta = timedelta(minutes=10)
    probes: int = 5
    """So many messages are tried when half open; the circuit closes once as many got a well answer."""


def ill(results: Sequence[SendResult], took: timedelta, policy: CircuitPolicy) -> bool:
    """Say whether a call's answer speaks of an ill provider: too slow, or half of it lost or not taken for no fault of
    the messages. Being throttled is no illness: the provider works and wants less.
    """
    lost = sum(result.state in (SendState.UNKNOWN, SendState.UNAVAILABLE) for result in results)
    return took > policy.slow_after or 2 * lost >= max(1, len(results))


class Circuit:
    """One provider's circuit, as one process sees it. Not for several threads at once."""

    def __init__(self, policy: CircuitPolicy) -> None:
        self._policy = policy
        self._state = CircuitState.CLOSED
        self._calls: deque[tuple[datetime, bool]] = deque()
        self._ill_in_a_row = 0
        self._open_until: datetime | None = None
        self._open_for = policy.open_for
        self._probes_left = 0
        self._well_probes = 0

    def state(self, now: datetime) -> CircuitState:
        """Return the state at `now`; an open circuit becomes half open by itself."""
        if self._state is CircuitState.OPEN and self._open_until is not None and now >= self._open_until:
            self._state = CircuitState.HALF_OPEN
            self._probes_left, self._well_probes = self._policy.probes, 0
        return self._state

    def allowance(self, now: datetime) -> int | None:
        """Return how many messages may go to the provider now: None for as many as there are."""
        match self.state(now):
            case CircuitState.CLOSED:
                return None
            case CircuitState.OPEN:
                return 0
            case CircuitState.HALF_OPEN:
                return self._probes_left

    def record(self, now: datetime, messages: int, was_ill: bool) -> None:
        """Take note of one call with so many messages."""
        match self.state(now):
            case CircuitState.CLOSED:
                self._record_closed(now, was_ill)
            case CircuitState.HALF_OPEN if was_ill:
                self._open_for = min(self._open_for * 2, self._policy.open_for_at_most)
                self._open(now)
            case CircuitState.HALF_OPEN:
                self._probes_left = max(0, self._probes_left - messages)
                self._well_probes += messages
                if self._well_probes >= self._policy.probes:
                    self._close()
            case CircuitState.OPEN:
                pass  # the answer of a call that began before it opened

    def _record_closed(self, now: datetime, was_ill: bool) -> None:
        self._calls.append((now, was_ill))
        while self._calls and self._calls[0][0] <= now - self._policy.window:
            self._calls.popleft()
        self._ill_in_a_row = self._ill_in_a_row + 1 if was_ill else 0
        ill_calls = sum(was for _, was in self._calls)
        too_many = len(self._calls) >= self._policy.at_least and ill_calls >= self._policy.error_share * len(
            self._calls
        )
        if self._ill_in_a_row >= self._policy.in_a_row or too_many:
            self._open(now)

    def _open(self, now: datetime) -> None:
        self._state = CircuitState.OPEN
        self._open_until = now + self._open_for
        self._calls.clear()
        self._ill_in_a_row = 0

    def _close(self) -> None:
        self._state = CircuitState.CLOSED
        self._open_for = self._policy.open_for
