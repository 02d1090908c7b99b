"""How a room asks the composition root for what it needs without importing it.

A command does `parts.get(CaseStore)`, naming a Protocol of its own room; `consumers.bootstrap.parts` has registered what
builds it. Parts are built once, on first use, and closed in reverse order.
"""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any, TypeVar, overload

from bridge.contracts.errors import BadInput

T = TypeVar("T")


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class Parts:
    """A registry of lazily built parts, keyed by the type (usually a Protocol) that the asker declares.

    The composition root registers by the type's full name, `module.Type`: importing every room whose parts a process
    might ask for would take it longer than all else.
    """

    def __init__(self) -> None:
        self._factories: dict[str, Callable[[], Any]] = {}
        self._built: dict[str, Any] = {}
        self._stack = ExitStack()

    @overload
    def provide(self, kind: type[T], factory: Callable[[], T]) -> None: ...

    @overload
    def provide(self, kind: str, factory: Callable[[], Any]) -> None: ...

    def provide(self, kind: type[Any] | str, factory: Callable[[], Any]) -> None:
        """Register how to build `kind`. A later registration replaces an earlier one that was not built yet."""
        self._factories[kind if isinstance(kind, str) else _name(kind)] = factory

    @property
    def names(self) -> Collection[str]:
        """The full name of every type that is provided."""
        return tuple(self._factories)

    def get(self, kind: type[T]) -> T:
        """Return the part for `kind`, building it on first use. Raises BadInput if nothing provides it."""
        name = _name(kind)
        if name not in self._built:
            if name not in self._factories:
                raise BadInput(f"no part provides {name}; register it in bootstrap")
            part = self._factories[name]()
            self._built[name] = part
            close = getattr(part, "close", None)
            if callable(close):
                self._stack.callback(close)
        built: T = self._built[name]
        return built

    def close(self) -> None:
        """Close what was built, last first."""
        self._stack.close()
        self._built.clear()
