"""When a provider is ill: its circuit opens, its lane moves on, and a few real messages try whether it is well again.

Pure: instants come in, a verdict goes out. What counts as an ill answer says `ill`; a refused address never does. See
https://martinfowler.com/bliki/CircuitBreaker.html for the pattern's words.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from consumers.domain.sending import SendResult, SendState

_APART = timedelta(seconds=5)
"""So far two threads' instants may be out of order."""


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


@dataclass(frozen=True, slots=True)
class CircuitReading:
    """A circuit as one dispatcher sees it."""

    provider: str
    channel: str
    state: CircuitState
    since: datetime
    try_at: datetime | None
    """When an open one becomes half open; None: by order of a person, until a person ends it."""
    probes: int
    """How many messages may try it when it is half open."""
    calls: int
    """In the window; for an open one in the window before it opened."""
    error_share: float
    """Of those calls, 0 to 1."""
    mean_seconds: float
    """Of those calls."""


def ill(results: Sequence[SendResult], took: timedelta, policy: CircuitPolicy) -> bool:
    """Say whether a call's answer speaks of an ill provider: too slow, or half of it lost or not taken for no fault of
    the messages, or more of them put off at once than have a reason of their own. Being throttled is no illness: the provider
    works and wants less.
    """
    lost = sum(result.state in (SendState.UNKNOWN, SendState.UNAVAILABLE) for result in results)
    none_taken = len(results) > policy.probes and all(result.state is SendState.DEFERRED for result in results)
    return took > policy.slow_after or none_taken or 2 * lost >= max(1, len(results))


def let_through(readings: Iterable[CircuitReading], now: datetime) -> int | None:
    """Return how many messages of a channel some dispatcher has a turn for: None for as many as there are.

    While that is 0 messages had better wait where they are. A channel of which nobody says anything is not held up.
    """
    allowed: list[int] = []
    for each in readings:
        if each.state is CircuitState.CLOSED:
            return None
        tries = each.state is CircuitState.HALF_OPEN or (each.try_at is not None and now >= each.try_at)
        allowed.append(each.probes if tries else 0)
    return max(allowed, default=None)


class Circuit:
    """One provider's circuit, as one process sees it. Not for several threads at once."""

    def __init__(self, policy: CircuitPolicy, began_at: datetime | None = None) -> None:
        self._policy = policy
        self._state = CircuitState.CLOSED
        self._since = began_at
        self._calls: deque[tuple[datetime, bool, timedelta]] = deque()
        self._ill_calls = 0
        """Among `_calls`: counted along, because thousands a minute are too many to count at each."""
        self._ill_in_a_row = 0
        self._open_until: datetime | None = None
        self._open_for = policy.open_for
        self._ordered = False
        self._probes_left = 0
        self._well_probes = 0
        self._before_opening = (0, 0.0, 0.0)

    def state(self, now: datetime) -> CircuitState:
        """Return the state at `now`; an open circuit becomes half open by itself, unless a person opened it."""
        # also when the clock was set back
        due = self._open_until is not None and not self._open_until - self._open_for - _APART <= now < self._open_until
        if self._state is CircuitState.OPEN and due and not self._ordered:
            self._enter(CircuitState.HALF_OPEN, now)
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

    def record(self, now: datetime, messages: int, was_ill: bool, took: timedelta = timedelta(0)) -> None:
        """Take note of one call with so many messages."""
        match self.state(now):
            case CircuitState.CLOSED:
                self._record_closed(now, was_ill, took)
            case CircuitState.HALF_OPEN if was_ill:
                self._open_for = min(self._open_for * 2, self._policy.open_for_at_most)
                self._open(now)
            case CircuitState.HALF_OPEN:
                self._probes_left = max(0, self._probes_left - messages)
                self._well_probes += messages
                if self._well_probes >= self._policy.probes:
                    self.close(now)
            case CircuitState.OPEN:
                pass  # the answer of a call that began before it opened

    def order_open(self, now: datetime) -> None:
        """Keep it open until `close`: a person wants no message to go there."""
        self._ordered = True
        self._open(now)

    def close(self, now: datetime) -> None:
        """Let everything through and learn anew; an ill provider opens it again."""
        self._ordered = False
        self._open_for = self._policy.open_for
        self._calls.clear()
        self._ill_calls = 0
        self._ill_in_a_row = 0
        self._enter(CircuitState.CLOSED, now)

    def reading(self, provider: str, channel: str, now: datetime) -> CircuitReading:
        """Return what there is to say of it."""
        state = self.state(now)
        self._forget(now)
        calls, errors, seconds = self._summary() if state is CircuitState.CLOSED else self._before_opening
        return CircuitReading(
            provider=provider,
            channel=channel,
            state=state,
            since=self._since or now,
            try_at=None if self._ordered or state is not CircuitState.OPEN else self._open_until,
            probes=self._probes_left if state is CircuitState.HALF_OPEN else self._policy.probes,
            calls=calls,
            error_share=errors,
            mean_seconds=seconds,
        )

    def _record_closed(self, now: datetime, was_ill: bool, took: timedelta) -> None:
        self._calls.append((now, was_ill, took))
        self._ill_calls += was_ill
        self._forget(now)
        self._ill_in_a_row = self._ill_in_a_row + 1 if was_ill else 0
        too_many = len(self._calls) >= self._policy.at_least and self._ill_calls >= self._policy.error_share * len(
            self._calls
        )
        if self._ill_in_a_row >= self._policy.in_a_row or too_many:
            self._open(now)

    def _forget(self, now: datetime) -> None:
        while self._calls and self._calls[0][0] <= now - self._policy.window:
            self._ill_calls -= self._calls.popleft()[1]

    def _summary(self) -> tuple[int, float, float]:
        count = len(self._calls)
        if not count:
            return 0, 0.0, 0.0
        errors = sum(was for _, was, _ in self._calls) / count
        return count, errors, sum(took.total_seconds() for _, _, took in self._calls) / count

    def _open(self, now: datetime) -> None:
        if self._state is CircuitState.CLOSED:
            self._before_opening = self._summary()
        self._enter(CircuitState.OPEN, now)
        self._open_until = now + self._open_for
        self._calls.clear()
        self._ill_calls = 0
        self._ill_in_a_row = 0

    def _enter(self, state: CircuitState, now: datetime) -> None:
        if state is not self._state:
            self._since = now
        self._state = state
