"""Which worker of `pytest -n 3` runs what: two share whatever starts servers, a third does unit tests in the time they wait.

Tests with servers wait for a third of their time, and some say within which seconds something must happen: the third worker
stands back for them.
"""

import os
from typing import Any

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

ASIDE = "gw2"
"""The third worker's id, as xdist gives it."""
_UNIT = "tests/unit/"


def stand_back() -> None:
    """Let the others go first, if this process is the third worker."""
    if os.environ.get("PYTEST_XDIST_WORKER") == ASIDE:
        os.nice(5)


class UnitTestsAside(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests stay together; the third worker takes unit tests alone, and the others take them last."""

    workqueue: Any
    """Files that nobody has yet, in the order of the folders."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        is_aside = node.gateway.id == ASIDE
        for file in self.workqueue:
            if file.startswith(_UNIT) is is_aside:
                self.workqueue.move_to_end(file, last=False)
                break
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        ends = node.gateway.id == ASIDE and not any(file.startswith(_UNIT) for file in self.workqueue)
        if ends and not node.shutting_down:
            node.shutdown()
            return
        super()._reschedule(node)
