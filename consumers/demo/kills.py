"""Kills stages in the middle of their work, to show that it changes nothing but time. Only for `tocsin demo --kill`.

What the middle of a stage's work is stands in one table; each stage is killed once, at the first look that finds it there.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bridge.runtime.supervisor import Supervisor
from consumers.demo.progress import Progress, open_changes


@dataclass(frozen=True, slots=True)
class Scene:
    """What a look can see: how far each part of the flow is."""

    store: sa.Engine
    changes_at_first: int
    cases: Progress
    artefacts: Path

    def capture_is_half_done(self) -> bool:
        """Some changes are published and settled, others are not."""
        return 0 < open_changes(self.store) < self.changes_at_first

    def incident_is_open(self) -> bool:
        """Intake has stored the incident, and may not have said so yet."""
        return self.cases.first_incident() is not None

    def answer_is_frozen(self) -> bool:
        """A partition's answer lies in the artefact store, and may not be published or marked yet."""
        return any(path.is_file() for path in (self.artefacts / "keys" / "resolutions").rglob("*"))

    def a_partition_is_planned(self) -> bool:
        """Planning has taken one partition's answer."""
        return self.cases.resolved_partition_count() > 0

    def attempts_in(self, *states: str, channel: str | None = None) -> bool:
        """There are attempts in one of `states`."""
        return any(state in states for by, state in self.cases.attempts() if channel in (None, by))


MIDDLE: Mapping[str, Callable[[Scene], bool]] = {
    "relay": Scene.capture_is_half_done,
    "intake": Scene.incident_is_open,
    "index": Scene.answer_is_frozen,
    "planning": Scene.a_partition_is_planned,
    "release": lambda scene: scene.attempts_in("commanded", "intended"),
    "dispatch": lambda scene: scene.attempts_in("intended"),
    "outbox": lambda scene: scene.attempts_in("commanded") and scene.cases.outbox_count() > 0,
    "receipts": lambda scene: scene.attempts_in("delivered", "bounced"),
    "evidence": lambda scene: scene.attempts_in("delivered", "bounced"),
    "clock": lambda scene: scene.attempts_in("handed_over", "delivered"),
    "pager": Scene.incident_is_open,
    "account-notices": lambda scene: scene.attempts_in("handed_over", channel="account_notice"),
}
"""Every stage, and what must be seen so that it is in the middle of its work."""

UNHURRIED: Mapping[str, Mapping[str, float]] = {
    "relay": {"batch_size": 50},
    "delivery": {
        "email_per_second": 8,
        "belt_seconds": 1,
        # longer than a receipt is lent out to a receiver that died, and yet not a minute
        "receipt_timeout_seconds": 35,
        "account_notice_timeout_seconds": 25,
    },
}
"""Settings under which each stage's work takes long enough to have a middle, and survives it within minutes."""


RECEIPT_LEASE_SECONDS = 10
"""For so long a receipt is lent out: what a receiver that was killed had taken is there again soon."""


class Killer:
    """Watches from a thread of its own until every named stage was killed, or the demo is over."""

    def __init__(self, stages: Sequence[str], scene: Scene, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._left = list(dict.fromkeys(stages))
        self._scene = scene
        self._supervisor = supervisor
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="killer", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> Sequence[str]:
        """Stop watching; return the stages that were never seen in the middle of their work, which proves nothing."""
        self._over.set()
        self._thread.join(30)
        return self._left

    def _watch(self) -> None:
        while self._left and not self._over.is_set():
            for stage in list(self._left):
                # before the stages have made the case store's tables only the relay can be in the middle of anything
                if stage != "relay" and not self._scene.cases.is_there():
                    continue
                pid = self._supervisor.pid(stage)
                if pid is not None and MIDDLE[stage](self._scene):
                    os.kill(pid, signal.SIGKILL)
                    self._left.remove(stage)
                    self._say(f"(the process {stage} was killed in the middle of its work; it starts again by itself)")
            self._over.wait(0.01)
