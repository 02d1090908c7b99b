"""The model registry as this room needs it: read at a look, remembered in the case store, asked when a scope is rewritten.

Reading a registry is an adapter's work, what a look changes is decided in the domain; here looks are made and kept. A
registry that does not answer stops nothing: the last known state goes on being used, and is named with its age.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from bridge.contracts.errors import BadInput, Unreachable
from consumers.domain.registry import RegistryMemory, RegistrySnapshot, observe


class ModelRegistry(Protocol):
    """A model registry outside Tocsin."""

    @property
    def kind(self) -> str:
        """Return the adapter's name, under which what it said is remembered."""
        ...

    def read(self) -> RegistrySnapshot:
        """Return all that the registry says now. Raises Unreachable, or BadInput for what cannot be understood."""
        ...


class RegistryRecords(Protocol):
    """Where it is remembered what registries said."""

    def memory(self, registry: str) -> RegistryMemory:
        """Return all that is remembered. Raises Unreachable."""
        ...

    def remember(self, registry: str, work: Callable[[RegistryMemory], RegistryMemory]) -> RegistryMemory:
        """Replace what is remembered by what `work` makes of it, in one transaction. Raises Unreachable."""
        ...


class RegistryWatch:
    """Looks at a registry and remembers what it saw."""

    def __init__(self, registry: ModelRegistry, records: RegistryRecords, *, look_seconds: float) -> None:
        self._registry = registry
        self._records = records
        self._longest_gap = timedelta(seconds=max(3 * look_seconds, look_seconds + 60))

    @property
    def kind(self) -> str:
        return self._registry.kind

    def memory(self) -> RegistryMemory:
        """Return what is remembered. Raises Unreachable."""
        return self._records.memory(self._registry.kind)

    def look(self, now: datetime) -> RegistryMemory:
        """Look once, at `now`; return what is known then. An answer that fails is remembered as such, and raised by nobody.

        Raises Unreachable when the case store does not answer.
        """
        try:
            snapshot = self._registry.read()
        except (Unreachable, BadInput) as error:
            why = str(error)[:500]
            return self._records.remember(self._registry.kind, lambda memory: _failed(memory, why, now))
        # A crash before the commit leaves the last state; the next look finds the same.
        return self._records.remember(
            self._registry.kind, lambda memory: observe(memory, snapshot, now, longest_gap=self._longest_gap)
        )


def _failed(memory: RegistryMemory, why: str, now: datetime) -> RegistryMemory:
    since = memory.fault.partition(": ")[0] if memory.fault else f"no answer since {now:%Y-%m-%d %H:%M} UTC"
    return replace(memory, fault=f"{since}: {why}")
