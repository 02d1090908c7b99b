"""The evidence stage on a real broker: what was published is in the log once, across restarts and a topic made anew."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.contracts.envelope import seal_envelope
from bridge.contracts.events import CaseEvent
from bridge.contracts.topics import CASE_EVENTS
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import GAPS
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher, client_settings
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health
from bridge.runtime.topic_ids import TopicIds
from consumers.adapters.tile_store import TileFolder
from consumers.case.events import case_event
from consumers.evidence.leaves import discover
from consumers.evidence.log import LogWriter
from consumers.evidence.note import SigningKey
from consumers.evidence.reader import LogFolder, LogReader
from consumers.evidence.verifier import verify_log
from consumers.stages.evidence import TOPICS, EvidenceStage
from tests.servers.kafka import KafkaServer

KEY = SigningKey("log.example/evidence", bytes(range(32)))
TYPES = discover()


@pytest.fixture
def kafka(kafka_server: KafkaServer, topic_prefix: str) -> Kafka:
    settings = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)
    create(settings, *(topic.name for topic in TOPICS))
    return settings


def create(kafka: Kafka, *names: str) -> None:
    admin = AdminClient(client_settings(kafka))
    for future in admin.create_topics([NewTopic(kafka.topic_prefix + name, 2, 1) for name in names]).values():
        future.result(timeout=60)


def event(number: int) -> CaseEvent:
    return case_event(
        "incident.acknowledged",
        incident_id=f"INC-2026-{number:04d}",
        actor=None,
        role=None,
        at=datetime(2026, 11, 23, tzinfo=UTC),
        body={"state": "verifying"},
    )


def publish(kafka: Kafka, numbers: range) -> None:
    publisher = Publisher(kafka)
    for number in numbers:
        made = event(number)
        key = made.incident_id or ""
        publisher.send(CASE_EVENTS, seal_envelope(made, key=key, root=key, source="/test", at=made.occurred_at))
    publisher.flush()
    publisher.close()


@contextmanager
def running(kafka: Kafka, folder: Path) -> Iterator[None]:
    """Run the stage on a thread; its errors fail the test."""
    clock, stop, failed = SystemClock(), threading.Event(), list[BaseException]()
    stage = EvidenceStage(
        kafka,
        lambda: LogWriter.open(TileFolder(folder), KEY),
        TYPES,
        secret=b"s" * 32,
        clock=clock,
        dead_letters=DeadLetters(lambda: Publisher(kafka), "evidence", clock),
        health=Health(),
        batch_seconds=0.05,
    )

    def run() -> None:
        try:
            stage.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()
        assert failed == []


def incidents(folder: Path) -> list[str]:
    """Return the incidents of all case events in the signed log, in order; empty before there is a log."""
    if not (folder / "checkpoint").exists():
        return []
    report = verify_log(LogFolder(folder), [KEY.verifier], TYPES)
    assert report.problems == []
    assert report.checkpoint is not None
    leaves = [json.loads(entry) for _, entry in LogReader(LogFolder(folder), report.checkpoint.size).entries()]
    return [leaf["incident_id"] for leaf in leaves if "source" in leaf]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


def test_everything_published_is_logged_once_across_restarts(kafka: Kafka, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for numbers in (range(50), range(50, 60), range(60, 61)):
        publish(kafka, numbers)
        with running(kafka, folder):
            until(lambda end=numbers.stop: len(incidents(folder)) >= end)  # type: ignore[misc]  # bound at definition
    assert sorted(incidents(folder)) == [f"INC-2026-{number:04d}" for number in range(61)]


def emptied(kafka: Kafka, topic: str) -> None:
    """Delete all messages of a topic, as its retention does."""
    admin = AdminClient(client_settings(kafka))
    places = [TopicPartition(kafka.topic_prefix + topic, partition, -1) for partition in range(2)]
    for future in admin.delete_records(places).values():
        future.result(60)


def test_a_gap_in_a_topic_that_stays_empty_is_told_once_however_often_the_stage_starts(
    kafka: Kafka, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    publish(kafka, range(20))
    with running(kafka, folder):
        until(lambda: len(incidents(folder)) >= 20)
    publish(kafka, range(20, 40))
    emptied(kafka, CASE_EVENTS.name)
    told = GAPS.labels(CASE_EVENTS.name)._value
    before = told.get()
    with running(kafka, folder):
        until(lambda: told.get() == before + 2)
    with running(kafka, folder):
        publish(kafka, range(40, 60))
        until(lambda: len(incidents(folder)) >= 40)
    with running(kafka, folder):
        time.sleep(2)
    assert told.get() == before + 2, "one for each partition"
    emptied(kafka, CASE_EVENTS.name)
    with running(kafka, folder):
        time.sleep(2)
    assert told.get() == before + 2, "all of it was read"


def test_a_topic_made_anew_is_read_from_its_beginning(kafka: Kafka, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    publish(kafka, range(20))
    with running(kafka, folder):
        until(lambda: len(incidents(folder)) >= 20)
    topic_ids = TopicIds(kafka, TOPICS)
    topic_ids.ask()
    before = dict(topic_ids)
    assert set(before) == {topic.name for topic in TOPICS}
    admin = AdminClient(client_settings(kafka))
    name = kafka.topic_prefix + CASE_EVENTS.name
    admin.delete_topics([name])[name].result(timeout=60)
    until(lambda: name not in admin.list_topics(timeout=60).topics)
    create(kafka, CASE_EVENTS.name)
    # the controller answers before the broker's own picture has the topic
    until(lambda: name in admin.list_topics(timeout=60).topics)
    publish(kafka, range(20, 25))
    with running(kafka, folder):
        until(lambda: len(incidents(folder)) >= 25)
    assert topic_ids.ask()
    assert topic_ids[CASE_EVENTS.name] != before[CASE_EVENTS.name]
    assert sorted(incidents(folder)) == [f"INC-2026-{number:04d}" for number in range(25)]
