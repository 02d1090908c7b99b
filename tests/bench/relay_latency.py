"""From a commit in the store to a read_committed consumer, at 500 commits a second: the relay, and Debezium beside it.

Debezium runs as it comes (at least once, without transactions), then with Connect's exactly-once support. A row's
`model_version` carries a mark that the record must contain. The consumer is a process of its own, so that sending does not
delay its clock.
"""

import multiprocessing
import re
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bridge.contracts.topics import STORE_CHANGES
from tests.bench.stand import measure, relay, servers
from tests.bench.stand.debezium import Debezium
from tests.bench.stand.servers import Stand

_RATE = 500
_RECORDS = 5000
_MARK = re.compile(rb"L(\d+)x(\d+)E")
_GOALS = {"p50_ms": 15.0, "p99_ms": 60.0, "cores": 0.35}


def main(size: str) -> dict[str, object]:
    """Return percentiles in milliseconds and cores used, and whether the relay's goals hold."""
    full = size != "toy"
    found: dict[str, object] = {}
    with (
        servers.stand(small=not full) as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        stand.store.connect() as connection,
        connection.cursor() as cursor,
    ):
        servers.fill(cursor, _RECORDS // 10, _RECORDS)
        installation = relay.install(stand, Path(folder))
        topic = installation.kafka.topic_prefix + STORE_CHANGES.name
        with installation.running() as process:
            ours = _follow(stand, topic, STORE_CHANGES.partitions, full, {"relay": process.pid})
        found |= {f"relay {name}": value for name, value in ours.items()}
        for name, goal in _GOALS.items():
            value = ours["cores_relay"] if name == "cores" else ours[name]
            found[f"relay {name} below {goal}"] = "holds" if value < goal else "MISSED"
        for number, exactly_once in enumerate((False, True) if full else ()):
            name = "exactly-once" if exactly_once else "latency"
            peer = Debezium(
                stand, Path(folder) / name, name, "tocsin_provenance", exactly_once=exactly_once, number=number
            )
            with peer.running() as connect:
                theirs = _follow(stand, peer.topic, 1, full, {"connect": connect.pid})
            found |= {
                f"debezium {'exactly once' if exactly_once else 'as it comes'} {key}": theirs[key] for key in theirs
            }
    return found


def _consume(
    bootstrap: str, topic: str, partitions: int, tag: int, seen: Event, stop: Event, arrivals: "Queue[Any]"
) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": f"bench-{tag}", "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50, "fetch.min.bytes": 1, "fetch.error.backoff.ms": 5, "isolation.level": "read_committed",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: dict[int, float] = {}
    while not stop.is_set():
        message = consumer.poll(0.2)
        now = time.time()
        value = message.value() if message is not None and not message.error() else None
        marks = _MARK.findall(value) if isinstance(value, bytes) else []
        if marks and int(marks[-1][0]) == tag:
            found.setdefault(int(marks[-1][1]), now)
            seen.set()
    consumer.close()
    arrivals.put(found)


def _follow(stand: Stand, topic: str, partitions: int, full: bool, pids: Mapping[str, int]) -> dict[str, float]:
    # a broker that is half a minute old still compiles itself beside what is measured
    warm_seconds, seconds = (25, 15) if full else (0, 1)
    processes = multiprocessing.get_context("spawn")
    tag = time.monotonic_ns() // 1_000_000 % 100_000
    seen, stop = processes.Event(), processes.Event()
    arrivals = processes.Queue()
    consumer = processes.Process(
        target=_consume, args=(stand.bootstrap_servers, topic, partitions, tag, seen, stop, arrivals), daemon=True
    )
    consumer.start()
    committed: list[float] = []
    pids = {**pids, **stand.pids}
    with stand.store.connect(autocommit=False) as connection, connection.cursor() as cursor:

        def commit() -> None:
            number = len(committed)
            row = number * 7919 % _RECORDS + 1
            cursor.execute(f"UPDATE tocsin_provenance SET model_version = 'L{tag}x{number}E' WHERE id = {row}")
            connection.commit()
            committed.append(time.time())

        def arrived() -> bool:
            commit()
            return seen.is_set()

        measure.wait_until("a first record at the consumer", arrived, 90, every=0.25)
        began, first, counted_from, before = time.monotonic(), len(committed), 0.0, dict[str, float]()
        start = 0
        while (passed := time.monotonic() - began) < warm_seconds + seconds:
            if passed >= warm_seconds and not before:
                start, counted_from, before = len(committed), time.monotonic(), measure.cpu_seconds(pids)
            wait = (len(committed) - first) / _RATE - passed
            if wait > 0:
                time.sleep(wait)
            commit()
        duration, after = time.monotonic() - counted_from, measure.cpu_seconds(pids)
    counted = range(start, len(committed))
    time.sleep(2.5)  # records still under way
    stop.set()
    found = arrivals.get(timeout=30)
    consumer.join(10)
    # A row that changed again before it was read shows its newest mark only: its earlier commits came with it.
    times = sorted((found[number] - committed[number]) * 1000 for number in counted if number in found)
    assert times, "no record of the counted commits reached the consumer"
    return {
        "commits_per_second": round(len(counted) / duration),
        "missing": len(counted) - len(times),
        **{f"p{round(share * 100)}_ms": round(measure.at(times, share), 1) for share in (0.5, 0.9, 0.99)},
        **{f"cores_{name}": round((after[name] - before[name]) / duration, 3) for name in pids},
    }
