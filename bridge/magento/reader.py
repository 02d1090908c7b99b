"""What the relay asks of a store: the next changes, the present state of what changed, and settling what was published.

SQL is the first implementation (`bridge.magento.store`). Not here: how a store is reached, and who may lead.
"""

from collections.abc import Collection
from typing import Protocol

from bridge.contracts.errors import Unreachable
from bridge.magento.changelogs import ChangeBatch
from bridge.magento.snapshots import State


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

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        """Return up to `limit` of the oldest changes of each view, without those of `besides`, which is in flight.

        Raises LeadLost, or Refused when the store is not prepared.
        """
        ...

    def states_of(self, batch: ChangeBatch) -> Collection[State]:
        """Return the newest committed state of everything that `batch` is about, removals first. Raises LeadLost."""
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
