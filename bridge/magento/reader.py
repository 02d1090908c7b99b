"""What the relay asks of a store: the next changes, the present state of what changed, and settling what was published.

SQL is the first implementation (`bridge.magento.store`). Not here: how a store is reached, and who may lead.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from bridge.contracts.errors import Unreachable
from bridge.magento.changelogs import ChangeBatch
from bridge.magento.snapshots import CustomerState, State

_Row = TypeVar("_Row")


class LeadLost(Unreachable):
    """This relay is no longer the active one, and may settle nothing more."""


class StoreReader(Protocol):
    """All that the relay asks of a store. One thread at a time."""

    def take_lead(self) -> bool:
        """Become the active reader; return False while another one is. Raises Unreachable."""
        ...

    def keep_lead(self) -> None:
        """Show that this reader lives; at least every second while it leads. Raises LeadLost."""
        ...

    def waiting_since(self) -> datetime | None:
        """Return when the oldest change that waits was made, or now if none waits; None where the store does not say."""
        ...

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        """Return up to `limit` of the oldest changes of each view, without those of `besides`, which is in flight.

        With a backlog these may be the next ones behind `besides`; what committed late with lower ids is read within seconds.
        Raises LeadLost, or Refused when the store is not prepared.
        """
        ...

    def states_of(self, batch: ChangeBatch) -> Collection[State]:
        """Return the newest committed state of everything that `batch` is about, removals first. Raises LeadLost."""
        ...

    def heard(self) -> Mapping[str, bool]:
        """Return, of tables that the shop added rows to, whether a change told of the newest that was there at the last call.

        To be called once a batch came back empty. Raises LeadLost.
        """
        ...

    def settle(self, batch: ChangeBatch) -> None:
        """Delete exactly the changelog rows of `batch`. Raises LeadLost; then they will be read again."""
        ...

    def beat(self, relay: str) -> None:
        """Note in the store that `relay` is alive. Raises LeadLost."""
        ...

    def resign(self) -> None:
        """Give up the lead, if held; never raises."""
        ...

    def close(self) -> None: ...


class Customers(Collection[CustomerState]):
    """Customers' states that are made of rows whenever they are asked for.

    Making them takes longer than reading them: so it falls to the thread that publishes, while the session reads on.
    """

    def __init__(self, rows: Sequence[_Row], make: Callable[[_Row], CustomerState]) -> None:
        self._rows = rows
        self._make: Callable[[Any], CustomerState] = make

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[CustomerState]:
        return map(self._make, self._rows)

    def __contains__(self, state: object) -> bool:
        return any(each == state for each in self)


class InTurn(Collection[State]):
    """Several collections of states, one after the other."""

    def __init__(self, *parts: Collection[State]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[State]:
        return itertools.chain.from_iterable(self.parts)

    def __contains__(self, state: object) -> bool:
        return any(state in part for part in self.parts)
