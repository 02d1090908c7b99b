"""A ProviderLane (`consumers.domain.sending`): a channel's providers in order of preference, each behind its circuit.

Circuits are this process's own: each dispatcher learns from its own calls, and a restart tries the first provider again.
Not for deciding who is told, nor by which channel.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

import structlog

from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import counter, gauge
from consumers.domain.circuit import Circuit, CircuitPolicy, CircuitState, ill
from consumers.domain.sending import SendResult, Turn

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
    """The providers of one channel."""

    def __init__(self, channel: Channel, providers: Sequence[P], policy: CircuitPolicy, clock: Clock) -> None:
        if not providers:
            raise ValueError(f"{channel.value}: no provider")
        self._channel = channel
        self._providers = providers
        self._policy = policy
        self._clock = clock
        self._circuits = {provider.name: Circuit(policy) for provider in providers}
        self._said = dict.fromkeys(self._circuits, CircuitState.CLOSED)

    def turn(self) -> Turn[P] | None:
        """Return who is called next; None while every provider is ill, so that messages had better wait."""
        now = self._clock.now()
        for provider in self._providers:
            allowed = self._circuits[provider.name].allowance(now)
            self._say(provider.name)
            if allowed != 0:
                return Turn(provider, allowed)
        return None

    def record(self, provider: P, results: Sequence[SendResult], took: timedelta) -> None:
        """Learn from the answer to one call."""
        was_ill = ill(results, took, self._policy)
        self._circuits[provider.name].record(self._clock.now(), len(results), was_ill)
        BY_PROVIDER.labels(provider.name).inc(len(results))
        self._say(provider.name)

    def _say(self, name: str) -> None:
        state = self._circuits[name].state(self._clock.now())
        CIRCUIT.labels(name).set(_SHOWN[state])
        if state is not self._said[name]:
            self._said[name] = state
            others = [other for other in self._circuits if other != name]
            log.warning("circuit", channel=self._channel.value, provider=name, state=state.value, others=others)
