"""Providers' circuits as people see and steer them: how each stands by all dispatchers' word, and who took one out of service.

Dispatchers obey within about two seconds. What makes a provider ill decides `consumers.domain.circuit`, not this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bridge.contracts.errors import BadInput, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.permissions import Act
from consumers.case.records import CircuitOrder
from consumers.case.store import CaseStore, CaseWork
from consumers.domain.accounts import Price, month_began
from consumers.domain.circuit import CircuitReading, CircuitState
from consumers.domain.regions import Regions

_WORST_FIRST = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED)


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider. Shares 0 to 1, seconds a call, money in the currency of the settings; None: not known."""

    provider: str
    channel: str
    second: bool
    state: str
    """`closed`, `open`, `half_open`, or `unknown` while no dispatcher says anything."""
    since: datetime | None
    try_at: datetime | None
    dispatchers: int
    calls: int
    error_share: float | None
    mean_seconds: float | None
    sent_this_month: int
    spent: float | None
    budget: float | None
    over_budget: bool
    order: CircuitOrder | None
    region: str = ""
    region_said: bool = True
    """False: the settings do not name it, and it is taken to be the first provider's."""
    closed_to: Sequence[str] = ()
    """Of whom, in words, no notice may pass there."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the settings say of a provider."""

    channel: str
    second: bool
    price: Price
    region: str
    region_said: bool = True


def look(store: CaseStore, known: Mapping[str, Known], regions: Regions, now: datetime) -> Sequence[ProviderView]:
    """Return every provider of the settings, by `known`."""

    def work(case: CaseWork) -> Sequence[ProviderView]:
        readings = [each for _, each in case.circuits()]
        orders, sent = case.circuit_orders(), case.sent_through(month_began(now))
        return [
            replace(
                _view(name, each.channel, each.second, each.price, [r for r in readings if r.provider == name],
                      orders.get(name), sent.get(name, 0)),
                region=each.region, region_said=each.region_said, closed_to=regions.closed_to(each.region),
            )
            for name, each in known.items()
        ]  # fmt: skip

    return store.look(work)


def _view(
    name: str,
    channel: str,
    second: bool,
    price: Price,
    readings: Sequence[CircuitReading],
    order: CircuitOrder | None,
    sent: int,
) -> ProviderView:
    worst = min(readings, key=lambda each: (_WORST_FIRST.index(each.state), each.since), default=None)
    calls = sum(each.calls for each in readings)
    return ProviderView(
        provider=name,
        channel=channel,
        second=second,
        state="unknown" if worst is None else worst.state.value,
        since=None if worst is None else worst.since,
        try_at=None if worst is None else worst.try_at,
        dispatchers=len(readings),
        calls=calls,
        error_share=sum(each.error_share * each.calls for each in readings) / calls if calls else None,
        mean_seconds=sum(each.mean_seconds * each.calls for each in readings) / calls if calls else None,
        sent_this_month=sent,
        spent=price.spent(sent),
        budget=price.budget,
        over_budget=price.exceeded(sent),
        order=order,
    )


def order_circuit(
    store: CaseStore,
    provider: str,
    wanted: CircuitState,
    known: Sequence[str],
    actor: Actor,
    now: datetime,
    reason: str | None,
) -> CircuitOrder:
    """Take a provider out of service (`open`), or let its circuit close and learn by itself again (`closed`).

    Raises BadInput for a provider that the settings do not have, Refused for somebody who may not steer.
    """
    role = actor.acting_for(Act.STEER_RELEASE)
    why = needed(reason)
    if provider not in known:
        raise BadInput(f"the settings have no provider {provider}{nearest(provider, known)}; known: {', '.join(known)}")
    order = CircuitOrder(provider, wanted.value, now, actor.person_id)

    def work(case: CaseWork) -> CircuitOrder:
        case.order_circuit(order)
        body = {"provider": provider, "wanted": wanted.value}
        record_act(case, actor, role, "provider.circuit_ordered", body, at=now, reason=why)
        return order

    return store.change(work)
