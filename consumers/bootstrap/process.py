"""What a stage is, and the process that it runs in: its lease, and others that run beside it."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Protocol

from bridge.contracts.errors import MustStop
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import Health

if TYPE_CHECKING:
    from consumers.adapters.case_store.engine import CaseDatabase
    from consumers.adapters.case_store.positions import Silence
    from consumers.adapters.live_guard import LiveGuard


class Stage(Protocol):
    """One step of the flow, in a process of its own."""

    def run(self, stop: Event) -> None:
        """Work until `stop` is set; what is in hand is finished first."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What a stage's process is."""

    name: str
    health: Health
    clock: Clock

    @property
    def holder(self) -> str:
        """A name that no other process has, for leases and claims."""
        return f"{self.name}@{socket.gethostname()}:{os.getpid()}"


class HeldLease:
    """A lease of the case store, renewed well before it ends. `take` is cheap to call often."""

    def __init__(
        self, database: "CaseDatabase", name: str, holder: str, clock: Clock, *, seconds: float = 10.0
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._clock = clock
        self._seconds = seconds
        self._renew_after = 0.0
        self._silence: Silence | None = None

    def take(self) -> bool:
        """Return whether this process holds the lease now."""
        from consumers.adapters.case_store.positions import Silence, take_lease

        if time.monotonic() < self._renew_after:
            return True
        if self._silence is None:
            self._silence = Silence()
        asked, now = time.monotonic(), self._clock.now()
        held = take_lease(self._database, self._name, self._holder, now, self._seconds, self._silence) is not None
        self._renew_after = asked + self._seconds / 3 if held else 0.0
        return held

    def release(self) -> None:
        """Give it up."""
        from consumers.adapters.case_store.positions import release_lease

        self._renew_after = 0.0
        release_lease(self._database, self._name, self._holder)


class Accompanied:
    """A stage with others beside it, in threads of their own, which end with it."""

    def __init__(self, stage: Stage, companions: Sequence[Callable[[Event], None]]) -> None:
        self._stage = stage
        self._companions = companions
        self._found: MustStop | None = None

    def run(self, stop: Event) -> None:
        """Run the stage until `stop`, or until one of the others says that it must stop. Raises MustStop then."""
        from threading import Thread

        over = Event()
        threads = [Thread(target=self._keep, args=(each, over, stop), daemon=True) for each in self._companions]
        for thread in threads:
            thread.start()
        try:
            self._stage.run(stop)
        finally:
            over.set()
            for thread in threads:
                thread.join(timeout=5)
        if self._found is not None:
            raise self._found

    def _keep(self, companion: Callable[[Event], None], over: Event, stop: Event) -> None:
        """Run a companion; a bug in one must not end the stage that it watches over."""
        import structlog

        while not over.is_set():
            try:
                companion(over)
            except MustStop as found:
                self._found = found
                stop.set()
                return
            except Exception as error:
                where = getattr(companion, "__qualname__", "companion")
                structlog.get_logger().error("began anew", part=where, error=type(error).__name__)
                over.wait(5)


class OnlyWhileLive:
    """A lease that is taken only while nothing differs: what a copy of the shop must not do."""

    def __init__(self, lease: HeldLease, guard: "LiveGuard | None") -> None:
        self._lease = lease
        self._guard = guard

    def take(self) -> bool:
        """Return whether this process holds the lease now and may act."""
        return (self._guard is None or self._guard.may_hand_over(())) and self._lease.take()

    def release(self) -> None:
        """Give it up."""
        self._lease.release()
