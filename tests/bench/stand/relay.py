"""The relay as a store runs it: `tocsin run relay`, a process of its own, with keys of its own."""

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bridge.runtime.sealing import generate_join_key, generate_sealing_keys, write_key_file
from bridge.runtime.settings import Kafka
from bridge.runtime.topics_admin import TopicsAdmin
from tests.bench.stand import processes
from tests.bench.stand.servers import Stand

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings, keys and topics of one Tocsin."""

    folder: Path
    kafka: Kafka
    private_key: bytes

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Keep a relay running."""
        command = [sys.executable, "-m", "consumers.cli", "--config", str(self.folder / "tocsin.toml"), "run", "relay"]
        with (self.folder / "relay.log").open("ab") as log:
            process = processes.start(command, log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def said(self) -> str:
        """Return the end of what the relay logged."""
        return (self.folder / "relay.log").read_text(encoding="utf-8", errors="replace")[-2000:]


def install(stand: Stand, folder: Path) -> Installation:
    """Write settings and keys into `folder`, and make the topics."""
    keys = generate_sealing_keys()
    write_key_file(folder / "keys" / "sealing.pub", keys.public)
    write_key_file(folder / "keys" / "join.key", generate_join_key())
    kafka = Kafka(bootstrap_servers=stand.bootstrap_servers, topic_prefix=f"bench-{uuid.uuid4().hex[:8]}.")
    (folder / "tocsin.toml").write_text(
        f'[kafka]\nbootstrap_servers = "{kafka.bootstrap_servers}"\ntopic_prefix = "{kafka.topic_prefix}"\n'
        f'[store]\nurl = "{stand.store.url}"\nregistered_attributes = ["fraud_score", "income_band"]\n'
        "[metrics]\nport_base = 0\n",
        encoding="utf-8",
    )
    TopicsAdmin(kafka).apply()
    return Installation(folder, kafka, keys.private)
