"""A named person pauses a release in the middle and resumes it while a demo's processes work."""

import json
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bridge.contracts.errors import TocsinError
from bridge.runtime.clock import SystemClock
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.case import steering
from consumers.case.acting import actor_of
from consumers.case.people import Person
from consumers.case.permissions import Role

INCIDENT = "INC-2026-0001"
OBEYED_WITHIN = timedelta(seconds=2)
_PAUSED_FOR = 4.0
"""Seconds: two until everybody must have obeyed, and two in which nobody may be seen to begin a message."""


class PauseInTheMiddle(threading.Thread):
    """Waits until a few messages have left and many have not, pauses, and resumes; `error` says what went wrong."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="pause", daemon=True)
        self._folder = folder
        self._path = folder / "case.db"
        self.paused_at: datetime | None = None
        self.resumed_at: datetime | None = None
        self.error: str | None = None

    def run(self) -> None:
        """Pause and resume once."""
        dora = actor_of(Person("dora", "Dora", (Role.DPO,), ()), b"k" * 32)
        over = threading.Event()
        try:
            self._wait_for_the_middle(time.monotonic() + 390)
            database = CaseDatabase(f"sqlite:///{self._path}")
            store = SqlCaseStore(database, SystemClock())
            steering.pause(store, INCIDENT, dora, datetime.now(UTC), reason="to see that everybody obeys")
            self.paused_at = datetime.now(UTC)
            over.wait(_PAUSED_FOR)
            self.resumed_at = datetime.now(UTC)
            steering.resume(store, INCIDENT, dora, datetime.now(UTC), reason="they did")
            database.close()
        except (TocsinError, AssertionError) as error:
            self.error = repr(error)

    def received(self, after: datetime | None = None, before: datetime | None = None) -> int:
        """Return how many messages the provider itself says that it received between two instants."""
        at = []
        with (self._folder / "mailbox" / "journal.jsonl").open(encoding="utf-8") as journal:
            for line in journal:
                record = json.loads(line)
                if record["record"] == "message":
                    at.append(datetime.fromisoformat(record["received_at"]))
        return sum((after is None or each > after) and (before is None or each < before) for each in at)

    def _handed_over(self) -> int:
        # not only begun: what a killed dispatcher had begun is begun anew
        return self._count("handed_over_at IS NOT NULL AND channel <> 'account_notice'")

    def _left(self) -> int:
        return self._count("state IN ('planned', 'commanded') AND channel <> 'account_notice'")

    def _wait_for_the_middle(self, deadline: float) -> None:
        waiting = threading.Event()
        while not (self._handed_over() >= 3 and self._left() >= 10):
            assert time.monotonic() < deadline, "never in the middle of a release"
            waiting.wait(0.05)

    def _count(self, condition: str) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)) as store:
                return int(store.execute(f"SELECT count(*) FROM attempt WHERE {condition}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # not made yet
