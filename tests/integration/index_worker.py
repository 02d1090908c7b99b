"""An index worker as a process of its own, for tests that kill it: `python -m tests.integration.index_worker SETTINGS`."""

import signal
import sys
import threading
from pathlib import Path

from bridge.runtime.clock import SystemClock
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher, cluster_id
from bridge.runtime.settings import load_settings
from bridge.runtime.telemetry import Health, configure_logs
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.incident_feed import IncidentFeed, TopicHeads
from consumers.adapters.index_server import IndexServer
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.stages.index import IndexStage


def main(settings_file: str) -> None:
    """Run until SIGTERM."""
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
    main(sys.argv[1])
