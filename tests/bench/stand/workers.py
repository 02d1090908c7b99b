"""The index as a store runs it: workers that are `tocsin run index`, each a process of its own, sharing six partitions."""

import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.contracts.topics import (
    AFFECTED_CUSTOMERS,
    DEPARTED_CUSTOMERS,
    INCIDENTS,
    RESOLUTIONS,
    STORE_CHANGES,
)
from bridge.runtime.kafka import cluster_id
from bridge.runtime.settings import Kafka
from tests.bench.stand import measure, processes
from tests.bench.stand.provenance import PARTITIONS

_ROOT = Path(__file__).parents[3]
_OTHERS = ((DEPARTED_CUSTOMERS, PARTITIONS), (INCIDENTS, 1), (AFFECTED_CUSTOMERS, PARTITIONS), (RESOLUTIONS, 1))


@dataclass(slots=True)
class Installation:
    """Settings and topics of one Tocsin; its index begins with nothing."""

    folder: Path
    kafka: Kafka
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def index(self) -> Path:
        return self.folder / "data" / "index"

    @property
    def changes(self) -> str:
        """Return the name of the store's changes on the cluster."""
        return self.kafka.topic_prefix + STORE_CHANGES.name

    @contextmanager
    def running(self, workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Keep so many workers running; at the end they stop as on SIGTERM."""
        command = [sys.executable, "-m", "consumers.cli", "--config", str(self.folder / "tocsin.toml"), "run", "index"]
        started = []
        for number in range(workers):
            with (self.folder / f"worker-{number}.log").open("ab") as log:
                started.append(processes.start(command, log))
        try:
            yield started
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                if process.wait(120):
                    raise RuntimeError(f"a worker ended with {process.returncode}: {self.said()}")
        finally:
            for process in started:
                process.kill()
                process.wait()

    def forget(self) -> None:
        """Let the next worker begin with nothing, as on a new machine."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        group = self.kafka.topic_prefix + "index"
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        # What a worker showed of its progress is no longer true.
        with suppress(KafkaException):
            admin.delete_consumer_groups([group])[group].result(30)

    def said(self) -> str:
        """Return the end of what the workers logged."""
        logs = sorted(self.folder.glob("worker-*.log"))
        return "\n".join(log.read_text(encoding="utf-8", errors="replace")[-1500:] for log in logs)

    def wait_for_head(self, processes: list[subprocess.Popen[bytes]], seconds: float = 900) -> "Seen":
        """Wait until everything published has been taken; return what was seen of the workers meanwhile."""
        names = [TopicPartition(self.changes, partition) for partition in range(PARTITIONS)]
        watch = Consumer({"bootstrap.servers": self.kafka.bootstrap_servers, "group.id": "watch"})
        ends = {each.partition: watch.get_watermark_offsets(each, timeout=30)[1] for each in names}
        watch.close()
        # As a member that never joins: to ask as an administrator ends in librdkafka with a segmentation fault now and then.
        group = Consumer(
            {"bootstrap.servers": self.kafka.bootstrap_servers, "group.id": self.kafka.topic_prefix + "index"}
        )
        pids = {str(process.pid): process.pid for process in processes}
        seen = Seen(sum(ends.values()))
        give_up_at = time.monotonic() + seconds
        while True:
            if any(process.poll() is not None for process in processes) or time.monotonic() > give_up_at:
                raise TimeoutError(f"the workers did not take everything: {self.said()}")
            seen.rss_mb = max(seen.rss_mb, sum(measure.rss_mb(pid) for pid in pids.values()))
            with suppress(KafkaException):
                known = group.committed(names, timeout=10)
                taken = sum(max(0, each.offset) for each in known)
                seen.costs.append((taken, sum(measure.cpu_seconds(pids).values())))
                if taken >= seen.total:
                    group.close()
                    return seen
            time.sleep(0.05)

    @property
    def cluster(self) -> str:
        """Return the id of the cluster, which the index file names."""
        return cluster_id(self.kafka)

    def disk_mb(self) -> float:
        """Return what the index holds on disk, in MB."""
        return sum(file.stat().st_size for file in self.index.rglob("*") if file.is_file()) / 1e6


@dataclass(slots=True)
class Seen:
    """What was seen of workers that take `total` records."""

    total: int
    rss_mb: int = 0
    """The most memory that all held together."""
    costs: list[tuple[int, float]] = field(default_factory=list)
    """Records taken, and CPU seconds used until then."""

    def growth(self) -> float:
        """Return what one of the last records cost, against one of the first; the start of the processes left out."""
        parts = []
        for low, high in ((0.05, 0.5), (0.5, 1.0)):
            inside = [cost for cost in self.costs if low * self.total <= cost[0] <= high * self.total]
            if len(inside) > 1 and inside[-1][0] > inside[0][0]:
                parts.append((inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0]))
        return parts[1] / parts[0] if len(parts) == 2 and parts[0] else 1.0


def install(bootstrap_servers: str, folder: Path) -> Installation:
    """Write settings into `folder` and make the topics; that of the store's changes is left to whoever fills it."""
    kafka = Kafka(bootstrap_servers=bootstrap_servers, topic_prefix=f"bench-{uuid.uuid4().hex[:8]}.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tocsin.toml").write_text(
        f'[kafka]\nbootstrap_servers = "{bootstrap_servers}"\ntopic_prefix = "{kafka.topic_prefix}"\n'
        "[metrics]\nport_base = 0\n",
        encoding="utf-8",
    )
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    topics = [NewTopic(kafka.topic_prefix + topic.name, count, 1) for topic, count in _OTHERS]
    for future in admin.create_topics(topics).values():
        future.result(30)
    return Installation(folder, kafka)
