"""`tocsin run dispatch` whose partitions a successor gets sooner after a kill: `python -m tests.e2e.dispatch_process CONFIG`."""

import sys
from functools import partial
from pathlib import Path

from bridge.runtime import consume as loop
from bridge.runtime.kafka import new_consumer
from consumers.bootstrap.parts import parts_for
from consumers.commands import run_stage

if __name__ == "__main__":
    loop.new_consumer = partial(new_consumer, session_timeout_ms=2500, heartbeat_interval_ms=400)  # type: ignore[attr-defined]
    sys.exit(run_stage(parts_for(Path(sys.argv[1])), "dispatch"))
