"""An index worker as a process of its own, for tests that kill it: `python -m tests.integration.index_worker SETTINGS [STEP]`.

At STEP it says so in the file `held`, beside the settings, and stands still: "appended" (a batch is written and not committed),
"beside" (a rebuild is to begin), "whole" (the rebuilt file is to take the old one's place), "found" (an answer is to be
frozen), "frozen" (it is, and nobody was told), "published" (all people are, and nothing says that the partition has answered).
"""

import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from bridge.runtime import consume as loop
from bridge.runtime.clock import SystemClock
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher, cluster_id, new_consumer
from bridge.runtime.settings import load_settings
from bridge.runtime.telemetry import Health, configure_logs
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.incident_feed import IncidentFeed, TopicHeads
from consumers.adapters.index_file import PartitionFile
from consumers.adapters.index_server import IndexServer
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.stages.index.stage import IndexStage

STEPS = ("appended", "beside", "whole", "found", "frozen", "published")


def hold_at(step: str, folder: Path) -> None:
    """Have this process stand still at `step`, once it comes there."""

    def held(function: Any, after: bool) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options) if after else None
            (folder / "held").touch()
            threading.Event().wait()
            return result

        return wrapped

    places: dict[str, tuple[type, str, bool]] = {
        "appended": (PartitionFile, "set_positions", True),
        "beside": (ProvenanceIndex, "_answering", True),
        "whole": (ProvenanceIndex, "switch", False),
        "found": (DirectoryArtefactStore, "put_once", False),
        "frozen": (DirectoryArtefactStore, "put_once", True),
        "published": (PartitionFile, "mark_resolved", False),
    }
    where, name, after = places[step]
    setattr(where, name, held(getattr(where, name), after))


def main(settings_file: str, step: str | None = None) -> None:
    """Run until SIGTERM."""
    if step is not None:
        hold_at(step, Path(settings_file).parent)
    # So that the partitions of a worker that was killed need not be waited for so long.
    loop.new_consumer = partial(new_consumer, session_timeout_ms=4000, heartbeat_interval_ms=500)  # type: ignore[attr-defined]
    settings = load_settings(Path(settings_file))
    configure_logs("index")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clock = SystemClock()
    publisher = Publisher(settings.kafka)
    dead_letters = DeadLetters(lambda: publisher, "index", clock)
    index = ProvenanceIndex(settings.paths.index)
    feed = IncidentFeed(settings.kafka, dead_letters)
    heads = TopicHeads(settings.kafka)
    stage = IndexStage(
        settings,
        index=index,
        artefacts=DirectoryArtefactStore(settings.paths.artefacts),
        incidents=feed,
        heads=heads,
        outgoing=publisher,
        api=IndexServer(settings.index.host, settings.paths.run, index),
        dead_letters=dead_letters,
        clock=clock,
        cluster=cluster_id(settings.kafka),
        health=Health(),
        upkeep_seconds=0.5,
    )
    try:
        stage.run(stop)
    finally:
        feed.close()
        heads.close()
        publisher.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
