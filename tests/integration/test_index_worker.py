"""Index workers as real processes: killed in the middle, without their files, two at once, on Kafka and on the mock."""

import contextlib
import csv
import io
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner
from confluent_kafka import OFFSET_BEGINNING, Producer
from confluent_kafka import TopicPartition as _TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.contracts.envelope import Message, open_envelope, seal_envelope, tombstone
from bridge.contracts.errors import TocsinError
from bridge.contracts.events import (
    CustomerAffected,
    CustomerChanged,
    Event,
    IncidentRevised,
    Kind,
    PartitionResolved,
    ProvenanceRecorded,
    Sensitivity,
)
from bridge.contracts.scope import Scope
from bridge.contracts.topics import (
    AFFECTED_CUSTOMERS,
    DEAD_LETTERS,
    DEPARTED_CUSTOMERS,
    INCIDENTS,
    RESOLUTIONS,
    STORE_CHANGES,
    Topic,
)
from bridge.runtime.kafka import Publisher, new_consumer
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Kafka, Settings, load_settings
from consumers.adapters.commands import data_map, index
from consumers.adapters.index_client import IndexClient
from consumers.demo.typist import Typed
from consumers.domain.resolution import set_root
from consumers.domain.scope_matching import matches
from tests.processes import module, typist
from tests.servers.kafka import KafkaServer

BASE = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
HASH = "ab" * 32
SCOPE = Scope(
    model_ids=("fraud-scorer",), model_versions=("3",), exposed_from=BASE, exposed_to=BASE + timedelta(days=40)
)
CUSTOMERS = 200
RECORDS = 3000
ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def customers() -> list[CustomerChanged]:
    return [
        CustomerChanged(root=f"customer/{n}", customer_id=n, website_id=1, store_id=1, locale="de_DE", email_hmac=HASH)
        for n in range(CUSTOMERS)
    ]


def records(count: int = RECORDS) -> list[ProvenanceRecorded]:
    return [
        ProvenanceRecorded(
            root=f"customer/{n % CUSTOMERS}",
            record_id=f"r{n}",
            customer_id=n % CUSTOMERS,
            order_id=None,
            entity_type="customer",
            entity_id=n % CUSTOMERS,
            attribute="fraud_score",
            model_id="fraud-scorer" if n % 3 else "narrator",
            model_version=str(n % 7),
            generated_at=BASE + timedelta(days=n % 90),
            kind=Kind.DERIVED,
            sensitivity=Sensitivity.HIGH,
            categories=("financial",),
        )
        for n in range(count)
    ]


def expected(scope: Scope) -> dict[str, tuple[str, ...]]:
    """Record ids by affected root, by the definition."""
    found: dict[str, list[str]] = {}
    for each in records():
        if matches(scope, each, None):
            found.setdefault(each.root, []).append(each.record_id)
    return {root: tuple(sorted(ids)) for root, ids in found.items()}


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


class Cluster:
    """A cluster with Tocsin's topics under a prefix, a store that publishes, and a folder for workers."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.settings_file = folder / "tocsin.toml"
        self.settings_file.write_text(
            f'[kafka]\nbootstrap_servers = "{kafka.bootstrap_servers}"\ntopic_prefix = "{kafka.topic_prefix}"\n'
            "[relay]\ndeparted_retention_days = 30\n",
            encoding="utf-8",
        )
        self.client = IndexClient(folder / "data" / "run", timeout_seconds=10)
        self.processes: list[Typed] = []

    def create_topics(self, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        names = [
            (topic, 1 if topic is INCIDENTS else partitions)
            for topic in (STORE_CHANGES, DEPARTED_CUSTOMERS, INCIDENTS, AFFECTED_CUSTOMERS, RESOLUTIONS, DEAD_LETTERS)
        ]
        futures = admin.create_topics([NewTopic(self.kafka.topic_prefix + topic.name, n, 1) for topic, n in names])
        for future in futures.values():
            future.result(30)

    def publish(self, topic: Topic, messages: list[Message], *, transactional: bool = True) -> None:
        publisher = Publisher(self.kafka, transactional_id="store" if transactional else None)
        for start in range(0, len(messages), 500):
            if not transactional:
                for message in messages[start : start + 500]:
                    publisher.send(topic, message)
                publisher.flush()
                continue
            with publisher.transaction():
                for message in messages[start : start + 500]:
                    publisher.send(topic, message)
        publisher.close()

    def publish_store(self, *, transactional: bool = True) -> None:
        messages = [seal_envelope(each, key=each.root, root=each.root, source="/relay", at=NOW) for each in customers()]
        messages += [record_message(each) for each in records()]
        self.publish(STORE_CHANGES, messages, transactional=transactional)

    def alert(self, number: int, scope: Scope = SCOPE) -> str:
        incident_id = f"INC-2026-{number:04}"
        event = IncidentRevised(
            incident_id=incident_id,
            revision=1,
            status="open",
            scope=scope,
            scope_sha256=scope.sha256(),
            detected_at=NOW,
        )
        message = seal_envelope(event, key=incident_id, root=incident_id, source="/case", at=NOW)
        self.publish(INCIDENTS, [message], transactional=False)
        return incident_id

    def start_worker(self, *arguments: str, settings: Path | None = None, most_bytes: int | None = None) -> Typed:
        """Start one; `arguments` say where it stands still. It writes no file longer than `most_bytes`, as on a full disk."""
        command = module("tests.integration.index_worker", settings or self.settings_file, *arguments)
        with self.log(len(self.processes)).open("wb") as log:
            process = typist().start(command, output=log, folder=ROOT)
        if most_bytes is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        self.processes.append(process)
        return process

    def log(self, worker: int) -> Path:
        return self.folder / f"worker-{worker}.log"

    def kill_when_held(self, worker: Typed) -> None:
        held = self.folder / "held"
        wait_for(held.exists, "the worker stands still")
        worker.kill()
        worker.wait(30)
        held.unlink()

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(30)

    def read(self, topic: Topic) -> list[Any]:
        """Return every event of `topic` so far."""
        consumer = new_consumer(self.kafka, "test-reader", enable_partition_eof=True)
        try:
            name = self.kafka.topic_prefix + topic.name
            count = len(consumer.list_topics(name, timeout=10).topics[name].partitions)
            consumer.assign([_TopicPartition(name, each, OFFSET_BEGINNING) for each in range(count)])
            found: list[Event] = []
            ended: set[int | None] = set()
            while len(ended) < count:
                for message in consumer.consume(1000, timeout=1):
                    if message.error():
                        ended.add(message.partition())
                    else:
                        headers: Any = dict(message.headers() or [])
                        found.append(open_envelope(message.key(), message.value(), headers))
            return found
        finally:
            consumer.close()

    def answer(self, incident_id: str) -> tuple[dict[int, PartitionResolved], dict[str, CustomerAffected]]:
        """Wait until all partitions have answered; return their records and the people by root."""

        def complete() -> dict[int, PartitionResolved] | None:
            answers = {each.partition: each for each in self.read(RESOLUTIONS) if each.incident_id == incident_id}
            return answers if answers and len(answers) == next(iter(answers.values())).partition_count else None

        resolutions = wait_for(complete, f"every partition answers {incident_id}")
        people = {each.root: each for each in self.read(AFFECTED_CUSTOMERS) if each.incident_id == incident_id}
        for partition, resolved in resolutions.items():
            members = [each for each in people.values() if each.partition == partition and not each.late]
            assert len(members) == resolved.affected_count
            assert set_root(members) == resolved.merkle_root
        return resolutions, people

    def owned(self) -> dict[int, int] | None:
        """Return the position of each partition, once every one of them has an owner that answers."""
        with contextlib.suppress(TocsinError):
            status = self.client.status()
            if status.complete:
                return {each.partition: each.position_offset for each in status.partitions}
        return None


def record_message(each: ProvenanceRecorded) -> Message:
    return seal_envelope(each, key=f"provenance/{each.record_id}", root=each.root, source="/relay", at=NOW)


def run_command(cluster: Cluster, command: click.Command, *arguments: str) -> str:
    parts = Parts()
    parts.provide(Settings, lambda: load_settings(cluster.settings_file))
    result = CliRunner().invoke(command, list(arguments), obj=parts, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def ids_of(people: Mapping[str, CustomerAffected]) -> dict[str, tuple[str, ...]]:
    return {root: each.why.record_ids if each.why else () for root, each in people.items()}


@pytest.fixture
def cluster(kafka_server: KafkaServer, topic_prefix: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix), tmp_path)
    cluster.create_topics(3)
    yield cluster
    cluster.stop_all()


@pytest.fixture
def mock_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """librdkafka's own: four partitions by itself, no topic administration."""
    host = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1})
    brokers = wait_for(lambda: host.list_topics(timeout=5).brokers, "the mock cluster starts")
    broker = next(iter(brokers.values()))
    cluster = Cluster(Kafka(bootstrap_servers=f"{broker.host}:{broker.port}", embedded=True), tmp_path)
    yield cluster
    cluster.stop_all()
    host.flush(5)


def test_a_worker_killed_in_the_middle_and_one_without_files_find_the_same_people(cluster: Cluster) -> None:
    worker = cluster.start_worker()
    wait_for(cluster.owned, "the worker owns all partitions")
    with ThreadPoolExecutor(1) as store:
        publishing = store.submit(cluster.publish_store)
        wait_for(lambda: sum((cluster.owned() or {}).values()) > 0, "the first batch is in")
        worker.kill()
        worker.wait(30)
        publishing.result(60)
    first = cluster.alert(1)
    worker = cluster.start_worker()
    resolutions, people = cluster.answer(first)
    assert ids_of(people) == expected(SCOPE)
    preview = cluster.client.preview(SCOPE)
    assert (preview.affected_count, preview.possible_count, preview.silent_partitions) == (len(people), 0, ())
    wait_for(lambda: cluster.client.known_names().read_to_end_at is not None, "the worker has read to the end")
    assert cluster.client.known_names().models.keys() == {"fraud-scorer", "narrator"}
    assert json.loads(run_command(cluster, index, "inspect", "customer/7", "--json"))["person"]["state"] == "present"
    assert "3 of 3 partitions answered" in run_command(cluster, index, "status")
    mapped = json.loads(run_command(cluster, data_map, "--json"))
    assert sum(row["record_count"] for row in mapped["rows"]) == RECORDS
    written = list(csv.DictReader(io.StringIO(run_command(cluster, data_map, "--csv"))))
    assert sum(int(row["record_count"] or 0) for row in written) == RECORDS
    assert "3 of 3 partitions answered" in run_command(cluster, data_map)

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    for file in (cluster.folder / "data" / "index").glob("p*.duckdb*"):
        file.unlink()
    # A record that the database takes, one that it takes no part of the batch for, and one that it leaves out.
    good = records(1)[0].model_copy(update={"record_id": "good", "model_id": "narrator"})
    other, unread, wrong = (record_message(good.model_copy(update={"record_id": name})) for name in "abc")
    unread = unread._replace(value=(unread.value or b"").replace(b'"entity_id":0', b'"entity_id":"none"'))
    wrong = wrong._replace(value=(wrong.value or b"").replace(b'"derived"', b'"guessed"'))
    cluster.publish(STORE_CHANGES, [record_message(good), unread, wrong, other])
    second = cluster.alert(2)
    cluster.start_worker()
    rebuilt, again = cluster.answer(second)
    assert ids_of(again) == ids_of(people)
    mapped = json.loads(run_command(cluster, data_map, "--json"))
    assert sum(row["record_count"] for row in mapped["rows"]) == RECORDS + 2
    assert len({each.dead_letter_id for each in cluster.read(DEAD_LETTERS)}) == 2
    assert {n: each.merkle_root for n, each in rebuilt.items()} == {
        n: each.merkle_root for n, each in resolutions.items()
    }
    repeated = [each for each in cluster.read(RESOLUTIONS) if each.incident_id == first]
    wait_for(
        lambda: len([each for each in cluster.read(RESOLUTIONS) if each.incident_id == first]) == 6,
        "the rebuilt files repeat the first answer",
    )
    assert {each.partition: each for each in repeated} == resolutions


def test_two_workers_share_the_partitions_and_one_takes_over(cluster: Cluster) -> None:
    one = cluster.start_worker()
    cluster.publish_store()
    wait_for(cluster.owned, "the first worker owns all partitions")
    two = cluster.start_worker()
    run = cluster.folder / "data" / "run"
    wait_for(lambda: len(list(run.glob("index-*.json"))) == 2 and cluster.owned(), "both workers own partitions")
    first = cluster.alert(1)
    _, people = cluster.answer(first)
    assert ids_of(people) == expected(SCOPE)

    one.kill()
    one.wait(30)
    late = records(1)[0].model_copy(
        update={"record_id": "late", "root": "customer/9999", "model_id": "fraud-scorer", "model_version": "3"}
    )
    gone = tombstone(key="customer/5", root="customer/5", source="/relay", at=NOW)
    cluster.publish(STORE_CHANGES, [record_message(late), gone])
    wait_for(cluster.owned, "the second worker owns all partitions")
    wait_for(
        lambda: [each for each in cluster.read(AFFECTED_CUSTOMERS) if each.root == "customer/9999" and each.late],
        "the late record adds its person",
    )
    second = cluster.alert(2)
    _, people = cluster.answer(second)
    assert ids_of(people) == expected(SCOPE) | {"customer/9999": ("late",)}
    two.send_signal(signal.SIGTERM)
    assert two.wait(30) == 0
    assert list(run.glob(f"index-{two.pid}.json")) == []


def test_a_rebuild_asked_for_happens_in_the_running_worker(cluster: Cluster) -> None:
    cluster.publish_store()
    worker = cluster.start_worker()
    total = CUSTOMERS + RECORDS

    def complete() -> bool:
        with contextlib.suppress(TocsinError):
            parts = cluster.client.status().partitions
            return sum(each.customer_count + each.record_count for each in parts) == total
        return False

    wait_for(complete, "everything is indexed")
    marker = cluster.folder / "data" / "index" / "p1.rebuild"
    assert "would be" in run_command(cluster, index, "rebuild", "--partition", "1", "--dry-run")
    assert not marker.exists()
    run_command(cluster, index, "rebuild", "--partition", "1")

    def rebuilt() -> bool:
        with contextlib.suppress(TocsinError):
            status = cluster.client.status()
            if status.complete:
                # Until the new file is whole, the old one answers.
                assert sum(each.customer_count + each.record_count for each in status.partitions) == total
                return not marker.exists() and not any(each.rebuilding for each in status.partitions)
        return False

    wait_for(rebuilt, "the owner has rebuilt the file")
    assert worker.poll() is None
    assert "took the old one's place" in cluster.log(0).read_text(encoding="utf-8")


def test_a_worker_killed_in_a_batch_a_freeze_or_a_rebuild_leaves_what_the_next_goes_on_with(cluster: Cluster) -> None:
    _killed_and_gone_on(cluster, freeze=("frozen",), rebuild=("whole",))


@pytest.mark.soak
def test_a_worker_killed_at_any_step_leaves_what_the_next_goes_on_with(cluster: Cluster) -> None:
    _killed_and_gone_on(cluster, freeze=("found", "frozen", "published"), rebuild=("beside", "whole", "whole"))


def _killed_and_gone_on(cluster: Cluster, *, freeze: Sequence[str], rebuild: Sequence[str]) -> None:
    cluster.publish_store()
    cluster.kill_when_held(cluster.start_worker("appended"))
    first = cluster.alert(1)
    for step in freeze:
        cluster.kill_when_held(cluster.start_worker(step))
    worker = cluster.start_worker()
    answers, people = cluster.answer(first)
    assert ids_of(people) == expected(SCOPE)
    said = [each for each in cluster.read(RESOLUTIONS) if each.incident_id == first]
    assert {(each.partition, each.artefact_sha256) for each in said} == {
        (number, each.artefact_sha256) for number, each in answers.items()
    }
    wait_for(cluster.owned, "the worker owns all partitions")
    worker.kill()
    worker.wait(30)
    run_command(cluster, index, "rebuild")
    for step in rebuild:
        cluster.kill_when_held(cluster.start_worker(step))
    cluster.start_worker()
    _, again = cluster.answer(cluster.alert(2))
    assert ids_of(again) == expected(SCOPE)


def test_a_full_disk_is_named_and_nothing_is_lost(cluster: Cluster) -> None:
    cluster.publish_store()
    worker = cluster.start_worker(most_bytes=400_000)
    assert worker.wait(60) != 0
    said = cluster.log(0).read_text(encoding="utf-8")
    assert "cannot be written" in said
    assert "see that there is room" in said
    assert "damaged" not in said
    cluster.start_worker()
    _, people = cluster.answer(cluster.alert(1))
    assert ids_of(people) == expected(SCOPE)


def test_a_worker_suspended_past_the_takeover_says_nothing_else(cluster: Cluster) -> None:
    """On another machine, so no file lock stands between the two; the artefact store is shared."""
    cluster.publish_store()
    elsewhere = cluster.folder / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (elsewhere / "tocsin.toml").write_text(cluster.settings_file.read_text(encoding="utf-8"), encoding="utf-8")
    for shared in ("artefacts", "run"):
        (cluster.folder / "data" / shared).mkdir(parents=True, exist_ok=True)
        (elsewhere / "data" / shared).symlink_to(cluster.folder / "data" / shared)
    suspended = cluster.start_worker()
    wait_for(cluster.owned, "the first worker owns all partitions")
    suspended.send_signal(signal.SIGSTOP)
    first = cluster.alert(1)
    cluster.start_worker(settings=elsewhere / "tocsin.toml")
    answers, people = cluster.answer(first)
    assert ids_of(people) == expected(SCOPE)
    late = records(1)[0].model_copy(
        update={"record_id": "late", "root": "customer/9999", "model_id": "fraud-scorer", "model_version": "3"}
    )
    cluster.publish(STORE_CHANGES, [record_message(late)])
    suspended.send_signal(signal.SIGCONT)
    wait_for(
        lambda: cluster.log(0).read_text(encoding="utf-8").count('"assigned"') >= 2, "the suspended worker joined again"
    )
    wait_for(cluster.owned, "all partitions have an owner")
    wait_for(
        lambda: [each for each in cluster.read(AFFECTED_CUSTOMERS) if each.root == "customer/9999" and each.late],
        "the late record adds its person",
    )
    for each in cluster.read(RESOLUTIONS):
        assert (each.merkle_root, each.artefact_sha256) == (
            answers[each.partition].merkle_root, answers[each.partition].artefact_sha256,
        )  # fmt: skip
    assert not [each for each in cluster.read(AFFECTED_CUSTOMERS) if each.root not in people and not each.late]


def test_the_mock_cluster_is_served_from_before_any_topic_exists(mock_cluster: Cluster) -> None:
    mock_cluster.start_worker()
    assert wait_for(mock_cluster.owned, "the worker owns the partitions that came by themselves").keys() == {0, 1, 2, 3}
    mock_cluster.publish_store(transactional=False)
    resolutions, people = mock_cluster.answer(mock_cluster.alert(1))
    assert resolutions.keys() == {0, 1, 2, 3}
    assert ids_of(people) == expected(SCOPE)
