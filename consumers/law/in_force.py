"""The law as it stands in its folder: read once, and anew when a file of it has changed.

A folder that has become wrong while processes run does not take their law away: what was read last stays in force, and
`fault` says what is wrong. At the start there is nothing to stay with, and the fault is raised.
"""

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from bridge.contracts.errors import BadInput
from consumers.domain.duties import Law
from consumers.law.loader import load_controllers, load_regions, load_rules

log = structlog.get_logger()

_Seen = dict[str, tuple[int, int]]


class FolderLaw:
    """Implements `consumers.domain.duties.LawInForce`."""

    def __init__(
        self, folder: Path, *, look_seconds: float = 5.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._look_seconds = look_seconds
        self._monotonic = monotonic
        self._law: Law | None = None
        self._seen: _Seen = {}
        self._look_at = 0.0
        self.fault: str | None = None
        """What is wrong with the folder as it is now; None while it can be read."""

    def __call__(self) -> Law:
        """Return the law in force. Raises BadInput if the folder is wrong and nothing was read before."""
        now = self._monotonic()
        if self._law is None or now >= self._look_at:
            self._look_at = now + self._look_seconds
            seen = self._stamps()
            if self._law is None or seen != self._seen:
                self._read(seen)
        assert self._law is not None
        return self._law

    def _read(self, seen: _Seen) -> None:
        try:
            controllers = load_controllers(self._folder)
            law = Law(load_rules(self._folder), controllers, load_regions(self._folder, controllers))
        except BadInput as error:
            if self._law is None:
                raise
            self.fault = str(error)
            log.error("the rules have changed and are not valid; the ones before stay in force", reason=self.fault)
        else:
            if self._law is not None:
                log.info("the rules have changed", rules=law.rules.rules_version[:12])
            self._law, self.fault = law, None
        self._seen = seen

    def _stamps(self) -> _Seen:
        stamps = {}
        for path in self._folder.glob("*.yaml"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # an editor replaces a file by renaming another over it
                continue
            stamps[path.name] = (stat.st_mtime_ns, stat.st_size)
        return stamps
