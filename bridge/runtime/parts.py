"""How a room asks the composition root for what it needs without importing it.

A command does `parts.get(CaseStore)`, naming a Protocol of its own room; `consumers.bootstrap` has registered what
builds it. Parts are built once, on first use, and closed in reverse order.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from bridge.contracts.errors import BadInput

T = TypeVar("T")


class Parts:
    """A registry of lazily built parts, keyed by the type (usually a Protocol) that the asker declares."""

    def __init__(self) -> None:
        self._factories: dict[type[Any], Callable[[], Any]] = {}
        self._built: dict[type[Any], Any] = {}
        self._unasked: list[Callable[[], None]] = []
        self._stack = ExitStack()

    def provide(self, kind: type[T], factory: Callable[[], T]) -> None:
        """Register how to build `kind`. A later registration replaces an earlier one that was not built yet."""
        self._factories[kind] = factory

    def provide_later(self, register: Callable[[], None]) -> None:
        """Let `register` call `provide` once a kind is asked for that nobody has provided: naming some is slow to import."""
        self._unasked.append(register)

    def get(self, kind: type[T]) -> T:
        """Return the part for `kind`, building it on first use. Raises BadInput if nothing provides it."""
        if kind not in self._built:
            while kind not in self._factories and self._unasked:
                self._unasked.pop(0)()
            if kind not in self._factories:
                raise BadInput(f"no part provides {kind.__module__}.{kind.__qualname__}; register it in bootstrap")
            part = self._factories[kind]()
            self._built[kind] = part
            close = getattr(part, "close", None)
            if callable(close):
                self._stack.callback(close)
        built: T = self._built[kind]
        return built

    def close(self) -> None:
        """Close what was built, last first."""
        self._stack.close()
        self._built.clear()
