"""Who reads the demo's store: a file lock stands in for GET_LOCK; it is not lost by a process that merely sleeps."""

import os
from pathlib import Path

from bridge.magento.session import LeadSession
from bridge.runtime.locks import lock_file


class DemoSession(LeadSession):
    """Leads by a lock on a file beside the store, which ends with the process that holds it."""

    _lock_file: int | None = None

    def _lock(self) -> bool:
        self._lock_file = lock_file(Path(f"{self.engine.url.database}.relay-lock"))
        return self._lock_file is not None

    def _hang_up(self) -> None:
        super()._hang_up()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
