"""A ProviderLane (`consumers.domain.sending`): a channel's providers in order of preference, each behind its circuit.

Circuits are this process's own: each dispatcher learns from its own calls, and a restart tries the first provider again.
What it has learned is told to the case store, where the meter and people see it, and orders of people come from there.
Not for deciding who is told, nor by which channel.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import counter, gauge
from consumers.domain.circuit import Circuit, CircuitPolicy, CircuitReading, CircuitState, ill
from consumers.domain.sending import NO_BOUND, Allowance, SendResult, Turn

log = structlog.get_logger()

PROVIDERS = ("ses", "smtp", "sns", "sms_gateway")

CIRCUIT = gauge(
    "tocsin_provider_circuit_open",
    "1 while a provider gets no messages, 0.5 while a few try whether it is well again, else 0",
    question="which provider is ill, and does its lane run over the other one?",
    labels={"provider": PROVIDERS},
)
BY_PROVIDER = counter(
    "tocsin_provider_messages_total",
    "messages given to a provider",
    question="how much runs over the second provider?",
    labels={"provider": PROVIDERS},
)
_SHOWN = {CircuitState.CLOSED: 0.0, CircuitState.HALF_OPEN: 0.5, CircuitState.OPEN: 1.0}


class Named(Protocol):
    """Any provider."""

    name: str


P = TypeVar("P", bound=Named)


class CircuitLane(Generic[P]):
    """The providers of one channel. `bound` says what a provider's account allows in one call and at all."""

    def __init__(
        self,
        channel: Channel,
        providers: Sequence[P],
        policy: CircuitPolicy,
        clock: Clock,
        *,
        bound: Callable[[str], Allowance] = lambda _: NO_BOUND,
    ) -> None:
        if not providers:
            raise ValueError(f"{channel.value}: no provider")
        self._channel = channel
        self._providers = providers
        self._policy = policy
        self._clock = clock
        self._bound = bound
        self._circuits = {provider.name: Circuit(policy, clock.now()) for provider in providers}
        self._said = dict.fromkeys(self._circuits, CircuitState.CLOSED)
        self._obeyed: dict[str, tuple[CircuitState, object]] | None = None
        # sending and telling are two threads
        self._lock = threading.Lock()
        self.changed = threading.Event()
        """Set when a circuit has changed its state; whoever tells the case store clears it."""

    def turn(self, refused: Collection[str] = ()) -> Turn[P] | None:
        """Return who is called next of those that are not `refused`; None while each is ill, so that messages had better wait."""
        now = self._clock.now()
        with self._lock:
            for provider in self._providers:
                if provider.name in refused:
                    continue
                allowed = self._circuits[provider.name].allowance(now)
                self._say(provider.name)
                bound = self._bound(provider.name)
                if allowed == 0 or bound.at_most == 0:
                    continue
                # a second's worth at once: tokens are recipients, and a larger call would be throttled in part
                a_second = None if bound.per_second is None else max(1, int(bound.per_second))
                bounds = [each for each in (allowed, bound.at_most, a_second) if each is not None]
                return Turn(provider, min(bounds, default=None))
        return None

    def stands_still(self) -> bool:
        """Return whether no provider may be called now; nobody's probes are used up by asking."""
        return self.turn() is None

    def takers(self) -> Collection[str]:
        """Return the names of the providers that take messages now."""
        now = self._clock.now()
        with self._lock:
            return [
                each.name
                for each in self._providers
                if self._circuits[each.name].allowance(now) != 0 and self._bound(each.name).at_most != 0
            ]

    def record(self, provider: P, results: Sequence[SendResult], took: timedelta) -> None:
        """Learn from the answer to one call."""
        was_ill = ill(results, took, self._policy)
        with self._lock:
            self._circuits[provider.name].record(self._clock.now(), len(results), was_ill, took)
            self._say(provider.name)
        BY_PROVIDER.labels(provider.name).inc(len(results))

    def readings(self) -> list[CircuitReading]:
        """Return every circuit as it stands."""
        now = self._clock.now()
        with self._lock:
            return [circuit.reading(name, self._channel.value, now) for name, circuit in self._circuits.items()]

    def obey(self, orders: Mapping[str, tuple[CircuitState, object]]) -> None:
        """Carry out what people ordered of circuits; each order once. The second part of an order tells it from others.

        What was ordered closed before this process began needs nothing: it began so.
        """
        now = self._clock.now()
        with self._lock:
            before, first = self._obeyed or {}, self._obeyed is None
            self._obeyed = {name: order for name, order in orders.items() if name in self._circuits}
            for name, order in self._obeyed.items():
                if before.get(name) == order:
                    continue
                if order[0] is CircuitState.OPEN:
                    self._circuits[name].order_open(now)
                elif not first:
                    self._circuits[name].close(now)
                self._say(name)

    def _say(self, name: str) -> None:
        state = self._circuits[name].state(self._clock.now())
        CIRCUIT.labels(name).set(_SHOWN[state])
        if state is not self._said[name]:
            self._said[name] = state
            self.changed.set()
            others = [other for other in self._circuits if other != name]
            log.warning("circuit", channel=self._channel.value, provider=name, state=state.value, others=others)


class CircuitBook(Protocol):
    """Where circuits are told, and where people's orders stand. Both raise Unreachable."""

    def tell(self, dispatcher: str, readings: Sequence[CircuitReading]) -> None: ...
    def orders(self) -> Mapping[str, tuple[CircuitState, object]]: ...


class CircuitTeller:
    """Keeps lanes and the case store in step, in a thread of its own: a change at once, everything every few seconds."""

    def __init__(self, lanes: Sequence[CircuitLane[Any]], book: CircuitBook, dispatcher: str) -> None:
        self._lanes = lanes
        self._book = book
        self._dispatcher = dispatcher

    def run(self, stop: threading.Event, *, pause_seconds: float = 0.25, every: int = 8) -> None:
        """Tell and obey until `stop`. A silent case store is tried again; what is sent does not wait for it."""
        turn = 0
        while not stop.is_set():
            if turn % every == 0 or any(lane.changed.is_set() for lane in self._lanes):
                try:
                    self.tell()
                except Unreachable as error:
                    log.warning("circuits are not told", reason=str(error))
            turn += 1
            stop.wait(pause_seconds)

    def tell(self) -> None:
        """Carry out orders and tell how circuits stand. Raises Unreachable."""
        orders = self._book.orders()
        for lane in self._lanes:
            # before reading: a change in between is told the next time
            lane.changed.clear()
            lane.obey(orders)
        self._book.tell(self._dispatcher, [each for lane in self._lanes for each in lane.readings()])
