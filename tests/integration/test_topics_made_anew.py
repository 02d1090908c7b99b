"""Topics that are deleted and made anew, and have grown past where their readers were: nothing of the new one is passed over."""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.account_notices import AccountNoticesStage
from bridge.contracts.envelope import Record, seal_envelope
from bridge.contracts.events import AccountNotice, CaseEvent, IncidentRevised, NoticeRead
from bridge.contracts.partitioner import partition_of
from bridge.contracts.scope import Scope
from bridge.contracts.topics import (
    ACCOUNT_NOTICES,
    CASE_EVENTS,
    DEAD_LETTERS,
    DELIVERY_OUTCOMES,
    INCIDENTS,
    LEAK_ALERTS,
    RESOLUTIONS,
    STORE_CHANGES,
    Topic,
)
from bridge.generation_switch import TopicReader
from bridge.runtime import kafka as writing
from bridge.runtime import topic_ids as looking
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import GAPS, Received, consume, headers_of
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Positions, Publisher, client_settings
from bridge.runtime.settings import Intake, Kafka
from bridge.runtime.telemetry import Health
from bridge.runtime.topic_ids import TopicIds
from consumers.adapters.alert_mappings import AlertMappings
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.positions import read_positions, write_positions
from consumers.adapters.incident_feed import IncidentFeed
from consumers.case.alerts import Known
from consumers.case.events import case_event
from consumers.stages.intake import IntakeStage
from tests.integration.test_evidence_stage import incidents as logged
from tests.integration.test_evidence_stage import running as evidence_running
from tests.servers.kafka import KafkaServer
from tests.unit.case.cases import GIVEN, KNOWN, Case

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TEMPLATES = Path(__file__).parents[2] / "templates" / "alert-mappings"


class Broker:
    """Topics of one partition each, that can be lost and made anew."""

    def __init__(self, server: KafkaServer, prefix: str) -> None:
        self.kafka = Kafka(bootstrap_servers=server.bootstrap_servers, topic_prefix=prefix)
        self.admin = AdminClient(client_settings(self.kafka))

    def make(self, *topics: Topic, partitions: int = 1) -> None:
        names = [self.kafka.topic_prefix + topic.name for topic in topics]
        for future in self.admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
            future.result(60)
        # the controller answers before the broker's own picture has them
        until(lambda: set(names) <= set(self.admin.list_topics(timeout=60).topics))

    def make_anew(self, topic: Topic, partitions: int = 1) -> None:
        name = self.kafka.topic_prefix + topic.name
        self.admin.delete_topics([name])[name].result(60)
        until(lambda: name not in self.admin.list_topics(timeout=60).topics)
        self.make(topic, partitions=partitions)

    def publish(self, topic: Topic, events: Sequence[AccountNotice | CaseEvent | IncidentRevised | NoticeRead]) -> None:
        publisher = Publisher(self.kafka)
        for number, event in enumerate(events):
            key = getattr(event, "incident_id", None) or f"notice/{number}"
            publisher.send(topic, seal_envelope(event, key=key, root="customer/1", source="/test", at=NOW))
        publisher.flush()
        publisher.close()


@pytest.fixture
def broker(kafka_server: KafkaServer, topic_prefix: str) -> Broker:
    made = Broker(kafka_server, topic_prefix)
    made.make(DEAD_LETTERS)
    return made


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_LOOK_SECONDS", 0.2)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def on_a_thread(run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a stage as its process would; its errors fail the test."""
    stop, failed = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert failed == []


def gaps(topic: Topic) -> float:
    return float(GAPS.labels(topic.name)._value.get())


class InSql:
    """A handler that keeps results and positions as the stages with a case store do."""

    def __init__(self, kafka: Kafka, database: CaseDatabase, topic_ids: TopicIds) -> None:
        self._kafka, self._database, self._topic_ids = kafka, database, topic_ids
        self.came: list[str] = []

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return read_positions(self._database, "s", partitions, self._topic_ids)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None: ...

    def tick(self) -> None: ...

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        self.came += [each.event.notice_id for each in batch if isinstance(each.event, NoticeRead)]
        with self._database.write() as connection:
            write_positions(connection, "s", positions, self._topic_ids)

    def run(self, stop: threading.Event) -> None:
        letters = DeadLetters(lambda: Publisher(self._kafka), "test", SystemClock())
        consume(
            self._kafka, "group", [DELIVERY_OUTCOMES], self, stop=stop, dead_letters=letters, health=Health(),
            poll_seconds=0.05, topic_ids=self._topic_ids,
        )  # fmt: skip


def reads(first: int, count: int) -> list[NoticeRead]:
    return [NoticeRead(notice_id=f"n{n}", customer_id=1, read_at=NOW) for n in range(first, first + count)]


@pytest.mark.parametrize("count", [12, 3])
@pytest.mark.parametrize("lives", [True, False], ids=["while it is read", "while its reader is away"])
def test_a_position_in_sql_is_of_one_topic(broker: Broker, tmp_path: Path, lives: bool, count: int) -> None:
    broker.make(DELIVERY_OUTCOMES)
    database = CaseDatabase(f"sqlite:///{tmp_path / 'case.sqlite'}")
    tables.metadata.create_all(database.engine)
    broker.publish(DELIVERY_OUTCOMES, reads(0, 5))
    before = gaps(DELIVERY_OUTCOMES)
    first = InSql(broker.kafka, database, TopicIds(broker.kafka, [DELIVERY_OUTCOMES]))
    wanted = {f"n{n}" for n in range(100, 100 + count)}
    with on_a_thread(first.run):
        until(lambda: len(first.came) == 5)
        if lives:
            broker.make_anew(DELIVERY_OUTCOMES)
            broker.publish(DELIVERY_OUTCOMES, reads(100, count))
            until(lambda: wanted <= set(first.came))
    if not lives:
        broker.make_anew(DELIVERY_OUTCOMES)
        broker.publish(DELIVERY_OUTCOMES, reads(100, count))
        second = InSql(broker.kafka, database, TopicIds(broker.kafka, [DELIVERY_OUTCOMES]))
        with on_a_thread(second.run):
            until(lambda: wanted <= set(second.came))
            until(lambda: read_positions(database, "s", [(DELIVERY_OUTCOMES.name, 0)]) != {})
        assert second.came == sorted(wanted)
    assert gaps(DELIVERY_OUTCOMES) == before + 1
    third = InSql(broker.kafka, database, TopicIds(broker.kafka, [DELIVERY_OUTCOMES]))
    with on_a_thread(third.run):
        broker.publish(DELIVERY_OUTCOMES, reads(200, 1))
        until(lambda: third.came == ["n200"])
    database.close()


class Names:
    def known_names(self) -> Known:
        return KNOWN


def intake(broker: Broker, case: Case, folder: Path) -> Callable[[threading.Event], None]:
    """Return what runs the stage, each time as a process that begins."""

    def run(stop: threading.Event) -> None:
        ids = TopicIds(broker.kafka, [LEAK_ALERTS])
        IntakeStage(
            store=SqlCaseStore(case.database, SystemClock(), ids), reader=AlertMappings(TEMPLATES, {}), names=Names(),
            secrets={}, settings=Intake(port=0), kafka=broker.kafka, run_file=folder / "run" / "intake.json",
            clock=SystemClock(), health=Health(), topic_ids=ids,
            dead_letters=lambda: DeadLetters(lambda: Publisher(broker.kafka), "intake", SystemClock()),
        ).run(stop)  # fmt: skip

    return run


@pytest.mark.parametrize("lives", [True, False], ids=["while it is read", "while its reader is away"])
def test_intake_takes_every_alert_of_a_topic_made_anew(broker: Broker, tmp_path: Path, lives: bool) -> None:
    """Unsigned ones, too, which are told apart by their places: the former topic had others there."""
    broker.make(LEAK_ALERTS)
    case = Case(tmp_path)

    run = intake(broker, case, tmp_path)

    def send(*leaks: int) -> None:
        publisher = Publisher(broker.kafka)
        for leak in leaks:
            body = json.dumps({"fingerprint": f"leak-{leak}", "scope": GIVEN}).encode()
            publisher.send_raw(LEAK_ALERTS, 0, b"monitor", body, [])
        publisher.flush()

    def counts() -> dict[str, int]:
        return {row["fingerprint"]: row["repeat_count"] for row in case.rows(tables.incident)}

    before = gaps(LEAK_ALERTS)
    wanted = {"leak-0": 1, "leak-1": 1, "leak-2": 0, "leak-3": 0, "leak-4": 0}
    send(0, 1)
    with on_a_thread(run):
        until(lambda: len(counts()) == 2)
        if lives:
            broker.make_anew(LEAK_ALERTS)
            send(0, 1, 2, 3, 4)
            until(lambda: counts() == wanted)
    if not lives:
        broker.make_anew(LEAK_ALERTS)
        send(0, 1, 2, 3, 4)
        with on_a_thread(run):
            until(lambda: counts() == wanted)
    assert gaps(LEAK_ALERTS) == before + 1
    case.database.close()


def test_intake_tells_of_a_gap_in_a_topic_that_stays_empty_once(broker: Broker, tmp_path: Path) -> None:
    broker.make(LEAK_ALERTS)
    case = Case(tmp_path)
    run = intake(broker, case, tmp_path)
    publisher = Publisher(broker.kafka)

    def send(*leaks: int) -> None:
        for leak in leaks:
            body = json.dumps({"fingerprint": f"leak-{leak}", "scope": GIVEN}).encode()
            publisher.send_raw(LEAK_ALERTS, 0, b"monitor", body, [])
        publisher.flush()

    send(0, 1)
    with on_a_thread(run):
        until(lambda: len(case.rows(tables.incident)) == 2)
    send(2, 3)
    place = TopicPartition(broker.kafka.topic_prefix + LEAK_ALERTS.name, 0, -1)
    broker.admin.delete_records([place])[place].result(60)
    before = gaps(LEAK_ALERTS)
    with on_a_thread(run):
        until(lambda: gaps(LEAK_ALERTS) == before + 1)
        time.sleep(1)
    with on_a_thread(run):
        time.sleep(5)
        send(4)
        until(lambda: len(case.rows(tables.incident)) == 3)
    assert gaps(LEAK_ALERTS) == before + 1
    case.database.close()


class Written:
    """The store's notice table."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.held: set[str] = set()

    def check(self, notice: AccountNotice) -> None: ...

    def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None:
        self.ids += [each.notice_id for each in notices]
        self.held |= {each.notice_id for each in notices}

    def missing(self, notice_ids: Collection[str]) -> frozenset[str]:
        return frozenset(notice_ids) - self.held


@pytest.mark.parametrize("lives", [True, False], ids=["while it is read", "while its reader is away"])
def test_every_account_notice_of_a_topic_made_anew_is_written(broker: Broker, lives: bool) -> None:
    broker.make(ACCOUNT_NOTICES)
    table = Written()

    def run(stop: threading.Event) -> None:
        letters = DeadLetters(lambda: Publisher(broker.kafka), "account-notices", SystemClock())
        AccountNoticesStage(table, broker.kafka, letters, Health()).run(stop)  # type: ignore[arg-type]  # as its table

    def notices(first: int, count: int) -> list[AccountNotice]:
        return [
            AccountNotice(
                notice_id=f"a{n}",
                incident_id="INC-2026-0001",
                customer_id=1,
                locale="de_DE",
                title="t",
                body="b",
                posted_at=NOW,
            )
            for n in range(first, first + count)
        ]

    broker.publish(ACCOUNT_NOTICES, notices(0, 3))
    wanted = {f"a{n}" for n in range(10, 18)}
    with on_a_thread(run):
        until(lambda: len(table.ids) == 3)
        if lives:
            broker.make_anew(ACCOUNT_NOTICES)
            broker.publish(ACCOUNT_NOTICES, notices(10, 8))
            until(lambda: wanted <= set(table.ids))
    if not lives:
        broker.make_anew(ACCOUNT_NOTICES)
        broker.publish(ACCOUNT_NOTICES, notices(10, 8))
        with on_a_thread(run):
            until(lambda: wanted <= set(table.ids))
    # nothing twice once that is over
    table.ids.clear()
    with on_a_thread(run):
        broker.publish(ACCOUNT_NOTICES, notices(20, 1))
        until(lambda: "a20" in table.ids)
    assert table.ids == ["a20"]


def test_the_log_has_every_case_event_of_a_topic_made_anew_while_it_is_read(broker: Broker, tmp_path: Path) -> None:
    broker.make(CASE_EVENTS, DELIVERY_OUTCOMES, RESOLUTIONS)

    def events(first: int, count: int) -> list[CaseEvent]:
        return [
            case_event(
                "incident.acknowledged", incident_id=f"INC-2026-{n:04d}", actor=None, role=None, at=NOW,
                body={"state": "verifying"},
            )
            for n in range(first, first + count)
        ]  # fmt: skip

    folder = tmp_path / "log"
    broker.publish(CASE_EVENTS, events(0, 5))
    with evidence_running(broker.kafka, folder):
        until(lambda: len(logged(folder)) >= 5)
        broker.make_anew(CASE_EVENTS)
        broker.publish(CASE_EVENTS, events(10, 3))
        until(lambda: {f"INC-2026-{n:04d}" for n in range(10, 13)} <= set(logged(folder)))


def test_incidents_of_a_topic_made_anew_are_read_from_its_beginning(broker: Broker) -> None:
    broker.make(INCIDENTS)

    def incidents(first: int, count: int) -> list[IncidentRevised]:
        scope = Scope(model_ids=("m",))
        return [
            IncidentRevised(
                incident_id=f"INC-2026-{n:04d}", revision=1, status="open", scope=scope, scope_sha256=scope.sha256(),
                detected_at=NOW,
            )
            for n in range(first, first + count)
        ]  # fmt: skip

    broker.publish(INCIDENTS, incidents(0, 2))
    feed = IncidentFeed(broker.kafka, DeadLetters(lambda: Publisher(broker.kafka), "index", SystemClock()))
    ids = TopicIds(broker.kafka, [INCIDENTS])
    ids.ask()
    assert len(feed.read_to_end(1, threading.Event())) == 2
    broker.make_anew(INCIDENTS)
    broker.publish(INCIDENTS, incidents(10, 5))
    found: set[str] = set()
    until(ids.have_changed)
    feed.begin_anew()

    def all_are_there() -> bool:
        found.update(each.incident_id for each in feed.poll())
        return {f"INC-2026-{n:04d}" for n in range(10, 15)} <= found

    until(all_are_there)
    feed.close()


def test_who_writes_follows_the_number_of_partitions(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record must lie where its customer does, whom the client puts by the count of now."""
    monkeypatch.setattr(writing, "LOOK_SECONDS", 0.0)
    broker.make(STORE_CHANGES, partitions=2)
    publisher = Publisher(broker.kafka, transactional_id="relay")
    roots = [f"customer/{number}".encode() for number in range(40)]
    customers: list[Record] = [(root, root, b"{}", {"ce_root": b""}) for root in roots]
    records: list[Record] = [(b"provenance/of-" + root, root, b"{}", {"ce_root": root}) for root in roots]

    def publish() -> None:
        with publisher.transaction():
            publisher.send_records(STORE_CHANGES, customers)
            publisher.send_records(STORE_CHANGES, records)

    publish()
    broker.make_anew(STORE_CHANGES, partitions=7)
    publish()
    publisher.close()
    reader = TopicReader(broker.kafka, broker.kafka.topic_prefix + STORE_CHANGES.name)
    found = [message for messages in reader.to_end() for message in messages]
    reader.close()
    assert len(found) == 80
    for message in found:
        root = headers_of(message)["ce_root"] or message.key()
        assert message.partition() == partition_of(root.decode(), 7), message.key()
