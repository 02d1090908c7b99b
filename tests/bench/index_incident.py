"""From an incident's publication to every affected person published and every partition's record written.

Against the sum of what cannot be saved: the bare query of all partitions' files, and a bare produce of the same records. One
worker, one producer. Goal: at most three times that sum. Full size has 2 million records, and about 22,000 people concerned.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from bridge.contracts.envelope import seal_envelope
from bridge.contracts.events import IncidentRevised
from bridge.contracts.topics import AFFECTED_CUSTOMERS, INCIDENTS, RESOLUTIONS
from bridge.runtime.kafka import Publisher
from tests.bench.index_build import resolved
from tests.bench.stand import servers, workers
from tests.bench.stand.provenance import PARTITIONS, SCOPE, Provenance
from tests.bench.stand.workers import Installation

_RECORDS = {"full": 2_000_000, "middle": 200_000, "toy": 2000}
_TURNS = {"full": 3, "middle": 3, "toy": 1}
_MOST = 3.0


def main(size: str) -> dict[str, object]:
    """Return the times in seconds and their ratio, and whether the goal holds."""
    provenance = Provenance(_RECORDS[size])
    with (
        servers.stand(small=size == "toy") as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
    ):
        installation = workers.install(stand.bootstrap_servers, Path(folder))
        provenance.publish(stand.bootstrap_servers, installation.changes)
        # one for all: a client's first message may wait half a second until it knows the brokers
        publisher = Publisher(installation.kafka)
        with installation.running(1) as processes:
            installation.wait_for_head(processes)
            answers = [_answered(installation, publisher, number) for number in range(_TURNS[size] + 1)]
        publisher.close()
        queries = resolved(installation, workers=1)
        published = _read(installation, AFFECTED_CUSTOMERS.name, PARTITIONS, answers[-1][1] * len(answers))
        people = [each for each in published if (each.key() or b"").startswith(b"INC-2026-0000/")]
        produced = [_produced(installation, people) for _ in range(_TURNS[size])]
    if len(people) != queries["answer"][0]:
        raise RuntimeError(f"{len(people)} people were published, of {queries['answer'][0]} whom the query finds")
    ours = statistics.median(seconds for seconds, _ in answers[1:])
    query, produce = statistics.median(queries["queries"]), statistics.median(produced)
    ratio = ours / (query + produce)
    return {
        "people": len(people),
        "incident to the last record, s": round(ours, 3),
        "bare query, s": round(query, 3),
        "bare produce, s": round(produce, 3),
        f"against their sum (at most {_MOST})": f"{ratio:.2f} {'holds' if ratio <= _MOST else 'MISSED'}",
    }


def _answered(installation: Installation, publisher: Publisher, number: int) -> tuple[float, int]:
    """Publish an incident; return the seconds until every partition's record is there, and how many people they name."""
    at = datetime.now(UTC)
    incident = IncidentRevised(
        incident_id=f"INC-2026-{number:04}",
        revision=1,
        status="open",
        scope=SCOPE,
        scope_sha256=SCOPE.sha256(),
        detected_at=at,
    )
    consumer, name = _consumer(installation), installation.kafka.topic_prefix + RESOLUTIONS.name
    consumer.assign([TopicPartition(name, 0, consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=10)[1])])
    key = incident.incident_id
    publisher.send(INCIDENTS, seal_envelope(incident, key=key, root=key, source="/case", at=at))
    began = time.monotonic()
    publisher.flush()
    records: list[Message] = []
    while len(records) < PARTITIONS:
        if time.monotonic() - began > 120:
            raise TimeoutError(f"{len(records)} of {PARTITIONS} partitions answered: {installation.said()}")
        records += consumer.consume(PARTITIONS, 0.05)
    seconds = time.monotonic() - began
    consumer.close()
    return seconds, sum(_count(record) for record in records)


def _count(record: Message) -> int:
    return int(json.loads(record.value() or b"{}")["affected_count"])


def _read(installation: Installation, topic: str, partitions: int, count: int) -> list[Message]:
    consumer = _consumer(installation)
    name = installation.kafka.topic_prefix + topic
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(partitions)])
    found: list[Message] = []
    give_up_at = time.monotonic() + 120
    while len(found) < count and time.monotonic() < give_up_at:
        found += [each for each in consumer.consume(10_000, 0.5) if each.error() is None]
    consumer.close()
    return found


def _produced(installation: Installation, people: Sequence[Message]) -> float:
    """Produce the same records once more, from memory, and wait for all acknowledgements; return the seconds."""
    producer = Producer(
        {
            "bootstrap.servers": installation.kafka.bootstrap_servers, "enable.idempotence": True, "compression.type": "lz4",
            "linger.ms": 2, "queue.buffering.max.messages": 1_000_000,
        }
    )  # fmt: skip
    topic = installation.kafka.topic_prefix + AFFECTED_CUSTOMERS.name
    records: list[tuple[Any, ...]] = [(each.value(), each.key(), each.partition(), each.headers()) for each in people]
    producer.list_topics(topic, timeout=10)
    began = time.monotonic()
    for value, key, partition, headers in records:
        producer.produce(topic, value, key, partition, headers=headers)
    if producer.flush(60):
        raise RuntimeError("Kafka did not take the records")
    return time.monotonic() - began


def _consumer(installation: Installation) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": installation.kafka.bootstrap_servers, "group.id": "bench", "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed",
        }
    )  # fmt: skip
