"""Intake and the case's rules on real servers: the topic on Apache Kafka, decisions that race on MariaDB."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from structlog.testing import capture_logs

from bridge.contracts.errors import Refused
from bridge.contracts.topics import LEAK_ALERTS
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import GAPS
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher
from bridge.runtime.settings import Intake, Kafka
from bridge.runtime.telemetry import Health
from consumers.adapters.alert_mappings import AlertMappings
from consumers.adapters.case_store import tables
from consumers.case import releasing, workflow
from consumers.case.alerts import Known
from consumers.case.webhooks import Secrets
from consumers.domain.approvals import Mode
from consumers.stages.intake import IntakeStage
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, GIVEN, KNOWN, NOW, RESPONDER, Case

SECRETS = Secrets((b"s" * 32,))
TEMPLATES = Path(__file__).parents[2] / "templates" / "alert-mappings"


class Names:
    def known_names(self) -> Known:
        return KNOWN


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


class Running:
    """The stage on a thread, as its process would run it."""

    def __init__(self, case: Case, kafka: Kafka, folder: Path) -> None:
        self.stop = threading.Event()
        publisher = Publisher(kafka)
        stage = IntakeStage(
            store=case.store,
            reader=AlertMappings(TEMPLATES, {}),
            names=Names(),
            secrets={"monitor": SECRETS},
            settings=Intake(port=0),
            kafka=kafka,
            run_file=folder / "run" / "intake.json",
            clock=SystemClock(),
            dead_letters=lambda: DeadLetters(lambda: publisher, "intake", SystemClock()),
            health=Health(),
        )
        self._pool = ThreadPoolExecutor(1)
        self._ended = self._pool.submit(stage.run, self.stop)

    def end(self) -> None:
        self.stop.set()
        self._ended.result(30)
        self._pool.shutdown()


class Monitor:
    """Signs alerts and writes them on the topic."""

    def __init__(self, kafka_server: KafkaServer, topic_prefix: str) -> None:
        self.kafka = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)
        self.topic = topic_prefix + LEAK_ALERTS.name
        self.admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
        for future in self.admin.create_topics([NewTopic(self.topic, 1, 1)]).values():
            future.result(30)
        self._publisher = Publisher(self.kafka)

    def send(self, n: int) -> None:
        body = json.dumps({"fingerprint": f"leak-{n}", "scope": GIVEN}).encode()
        headers = SECRETS.sign(f"msg_{n}", SystemClock().now(), body)
        signature = [(name, value.encode()) for name, value in headers.items()]
        self._publisher.send_raw(LEAK_ALERTS, 0, b"monitor", body, signature)
        self._publisher.flush()


def test_alerts_that_are_gone_from_the_topic_are_said_to_be_and_the_others_taken(
    kafka_server: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    monitor, case = Monitor(kafka_server, topic_prefix), Case(tmp_path)
    running = Running(case, monitor.kafka, tmp_path)
    try:
        monitor.send(0)
        until(lambda: len(case.rows(tables.incident)) == 1)
    finally:
        running.end()
    for n in range(1, 6):
        monitor.send(n)
    # as the topic's retention does while intake is away
    for future in monitor.admin.delete_records([TopicPartition(monitor.topic, 0, 4)]).values():
        future.result(30)
    before = GAPS.labels(LEAK_ALERTS.name)._value.get()
    with capture_logs() as said:
        running = Running(case, monitor.kafka, tmp_path)
        try:
            until(lambda: len(case.rows(tables.incident)) == 3)
        finally:
            running.end()
    assert [(each["wanted"], each["first"]) for each in said if "gone from a topic" in each["event"]] == [(1, 4)]
    assert GAPS.labels(LEAK_ALERTS.name)._value.get() == before + 1
    assert case.rows(tables.kafka_position)[0]["next_offset"] == 6
    case.database.close()


def test_alerts_on_the_topic_are_taken_once_over_a_restart(
    kafka_server: KafkaServer, topic_prefix: str, tmp_path: Path
) -> None:
    monitor = Monitor(kafka_server, topic_prefix)
    case = Case(tmp_path)
    monitor.send(1)
    for n in (2, 3):
        running = Running(case, monitor.kafka, tmp_path)
        try:
            monitor.send(n)
            until(lambda n=n: len(case.rows(tables.incident)) == n)  # type: ignore[misc]  # bound on purpose
        finally:
            running.end()
    rows = case.rows(tables.incident)
    assert [row["repeat_count"] for row in rows] == [0, 0, 0]
    assert not any(row["unsigned_source"] for row in rows)
    assert case.rows(tables.kafka_position)[0]["next_offset"] == 3
    case.database.close()


@pytest.fixture
def on_mariadb(empty_mariadb_database: StoreDatabase, tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path, empty_mariadb_database.url)
    yield case
    case.database.close()


def test_on_mariadb_two_last_approvals_at_once_release_once(on_mariadb: Case) -> None:
    case = on_mariadb
    for round_ in range(5):
        name = case.receive(fingerprint=f"leak-{round_}").incident_id
        case.execute(tables.segment.delete())
        case.execute(tables.recipient.delete())
        case.plan(name)
        policy = releasing.prepare(
            case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=1
        ).release.policy_sha256
        barrier = threading.Barrier(3)

        def approve(who: object, name: str = name, policy: str = policy, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(60)
            try:
                return releasing.approve(case.store, name, policy, who, NOW, mode=Mode.TWO_APPROVERS).releasing  # type: ignore[arg-type]
            except Refused:
                return False

        with ThreadPoolExecutor(3) as pool:
            assert sorted(pool.map(approve, (DPO, COUNSEL, APPROVER))) == [False, False, True]
    assert case.kinds().count("release.started") == 5


def test_on_mariadb_alerts_at_once_number_without_gaps_and_names_differ_by_case(on_mariadb: Case) -> None:
    case = on_mariadb
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: case.receive(fingerprint="leak" if n % 2 else "LEAK", message_id=f"x{n}"), range(12)))
    rows = case.rows(tables.incident)
    assert sorted(row["incident_id"] for row in rows) == ["INC-2026-0001", "INC-2026-0002"]
    assert sum(row["repeat_count"] for row in rows) == 10


def test_on_mariadb_closing_removes_every_contact(on_mariadb: Case) -> None:
    case = on_mariadb
    name = case.receive().incident_id
    case.plan(name)
    done = workflow.close(case.store, name, DPO, NOW, unnotified=True, reason="told by letter")
    assert done.contacts_removed == 3
    assert all(row["contact"] is None for row in case.rows(tables.recipient))
    assert not any("ciphertext" in row["event"] for row in case.rows(tables.affected))
