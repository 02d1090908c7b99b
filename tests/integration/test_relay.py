"""The relay between a real MariaDB and a real Kafka: killed, frozen, overtaken, and read by an independent client."""

import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer
from kafka import TopicPartition as IndependentPartition
from pydantic import SecretStr

from bridge.contracts.envelope import open_envelope, tombstone
from bridge.contracts.errors import Refused, TocsinError
from bridge.contracts.events import CustomerChanged, EntityRemoved, Event, OrderChanged, ProvenanceRecorded
from bridge.contracts.partitioner import partition_of
from bridge.contracts.topics import DELIVERY_OUTCOMES, STORE_CHANGES, TOPICS, Topic
from bridge.magento import store as store_module
from bridge.magento.backfill import Backfill
from bridge.magento.changelogs import ChangeBatch, View
from bridge.magento.reader import InTurn
from bridge.magento.session import LeadSession
from bridge.magento.snapshots import CustomerState, ReadCustomers, Removed, State, WrittenProvenance
from bridge.magento.store import SqlStore, open_store
from bridge.put_back import StoreMark, put_back_since
from bridge.relay import BEAT_KEY, TRANSACTIONAL_ID, RelayStage
from bridge.runtime.clock import SystemClock
from bridge.runtime.kafka import Fenced, Publisher
from bridge.runtime.sealing import Opener, Sealer, generate_sealing_keys
from bridge.runtime.settings import Kafka, Relay, Store
from bridge.runtime.telemetry import Health
from bridge.runtime.topics_admin import TopicsAdmin
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase
from tests.store_rows import StoreRows, add, provenance_row, run

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("relay_process.py")
KEYS = generate_sealing_keys()
REGISTERED = ("fraud_score", "income_band")


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 30) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def kafka(kafka_server: KafkaServer, topic_prefix: str) -> Iterator[Kafka]:
    settings = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)
    TopicsAdmin(settings).apply()
    yield settings
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    for future in admin.delete_topics([topic_prefix + topic.name for topic in TOPICS]).values():
        future.result(timeout=60)


@pytest.fixture
def shop(mariadb_database: StoreDatabase) -> Iterator[StoreRows]:
    engine = sa.create_engine(mariadb_database.url)
    rows = StoreRows(engine)
    rows.base()
    yield rows
    engine.dispose()


@pytest.fixture
def store(mariadb_database: StoreDatabase) -> Store:
    return Store(url=SecretStr(mariadb_database.url), registered_attributes=REGISTERED)


class Read:
    """What kafka-python, reading committed records from the start, finds on a topic."""

    def __init__(self, kafka: Kafka, topic: Topic) -> None:
        name = kafka.topic_prefix + topic.name
        consumer = KafkaConsumer(
            bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False,
            group_id=None, consumer_timeout_ms=1000,
        )  # fmt: skip
        self.records: list[Any] = []
        try:
            partitions = [IndependentPartition(name, number) for number in sorted(consumer.partitions_for_topic(name))]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            give_up_at = time.monotonic() + 20
            while any(consumer.position(each) < ends[each] for each in partitions):
                assert time.monotonic() < give_up_at, "the topic was not read to its end"
                for found in consumer.poll(timeout_ms=200).values():
                    self.records += [record for record in found if record.key != BEAT_KEY.encode()]
        finally:
            consumer.close()

    @property
    def keys(self) -> list[str]:
        return [record.key.decode() for record in self.records]

    def newest(self) -> Mapping[str, Event]:
        return {record.key.decode(): opened(record) for record in self.records}


def opened(record: Any) -> Event:
    return open_envelope(record.key, record.value, dict(record.headers))


class Relaying:
    """A relay on a thread of this process."""

    def __init__(self, kafka: Kafka, store: Store, batch_size: int = 500, mark: StoreMark | None = None) -> None:
        clock = SystemClock()
        self.stop = threading.Event()
        self.error: Exception | None = None
        self._reader = open_store(store, clock)
        self.stage = RelayStage(
            self._reader,
            lambda: Publisher(kafka, transactional_id=TRANSACTIONAL_ID),
            Sealer(KEYS.public, clock),
            bytes(32),
            Relay(batch_size=batch_size, idle_seconds=0.01),
            clock,
            Health(),
            mark=mark,
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.stage.run(self.stop)
        except Exception as error:
            self.error = error

    def __enter__(self) -> "Relaying":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        self._thread.join(60)
        self._reader.close()
        assert not self._thread.is_alive()
        assert self.error is None, self.error


def dumped(database: StoreDatabase) -> bytes:
    """Return a backup, as mariadb-dump makes it."""
    return _client("mariadb-dump", database, "--single-transaction", "--triggers", database.name)


def put_back(database: StoreDatabase, backup: bytes) -> None:
    _client("mariadb", database, database.name, given=backup)


def _client(program: str, database: StoreDatabase, *words: str, given: bytes | None = None) -> bytes:
    server = database.server
    address = [f"--host={server.host}", f"--port={server.port}", f"--user={server.user}", "--skip-ssl"]
    return subprocess.run(
        [program, *address, *words], input=given, stdout=subprocess.PIPE, check=True,
        env={**os.environ, "MYSQL_PWD": server.password},
    ).stdout  # fmt: skip


def is_settled(shop: StoreRows) -> bool:
    return not any(shop.changelog(view) for view in View)


def relay_until_settled(kafka: Kafka, store: Store, shop: StoreRows, batch_size: int = 500) -> None:
    with Relaying(kafka, store, batch_size):
        wait_for("all settled", lambda: is_settled(shop))


# What is published


def test_an_independent_client_reads_the_shop(kafka: Kafka, store: Store, shop: StoreRows) -> None:
    shop.customer(42, country="US", region_id=12)
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=42, value=0.5)
    shop.customer(43, store_id=2, website_id=2)
    shop.order(7, country="DE")
    shop.order(8, customer_id=43, country="FR")
    shop.provenance("r-1", "customer/42", confidence=0.731, generated_at="2026-03-01 10:00:00.123456")
    shop.provenance("r-2", "order/7", kind="synthetic")
    relay_until_settled(kafka, store, shop)
    read = Read(kafka, STORE_CHANGES)
    newest = read.newest()
    assert set(newest) == {"customer/42", "customer/43", "order/7", "provenance/r-1", "provenance/r-2"}
    for record in read.records:
        root = dict(record.headers)["ce_root"].decode()
        assert record.partition == partition_of(root, STORE_CHANGES.partitions)
        for personal in (b"example.com", b"Placeholder", b"Musterweg", b"secret-hash", b"5550101"):
            assert personal not in record.value
    first, second, order = newest["customer/42"], newest["customer/43"], newest["order/7"]
    assert isinstance(first, CustomerChanged)
    assert [(claim.code, claim.source) for claim in first.residence] == [("US-CA", "default_billing")]
    assert set(first.attribute_hmacs) == {"fraud_score"}
    assert first.faults == ()
    assert first.contact is not None
    contact = Opener([KEYS.private]).open(first.contact, "customer/42")
    assert contact.postal_address == (
        "Placeholder Number42", "Musterweg 1", "Hinterhaus", "Beispielstadt, CA 10115", "US",
    )  # fmt: skip
    assert isinstance(second, CustomerChanged)
    assert (second.locale, second.website_id) == ("en_GB", 2)
    assert [(claim.code, claim.source) for claim in second.residence] == [
        ("DE", "default_billing"),
        ("FR", "last_order"),
    ]
    assert isinstance(order, OrderChanged)
    assert (order.customer_id, order.locale) == (None, "de_DE")
    record_1 = newest["provenance/r-1"]
    assert isinstance(record_1, ProvenanceRecorded)
    assert (record_1.generated_at.microsecond, record_1.confidence, record_1.faults) == (0, 0.731, ())


def test_removals_and_readings(kafka: Kafka, store: Store, shop: StoreRows) -> None:
    shop.customer(42)
    shop.order(7, customer_id=42)
    shop.provenance("r-1", "order/7", customer_id=42)
    shop.provenance("r-2", "customer/42")
    shop.add(
        "tocsin_account_notice", notice_id="a-1", customer_id=42, incident_id="INC-2026-0001", title="t", body="b",
        locale="de_DE", created_at="2026-03-01 10:00:00",
    )  # fmt: skip
    relay_until_settled(kafka, store, shop)
    assert Read(kafka, DELIVERY_OUTCOMES).keys == []
    shop.run("UPDATE tocsin_account_notice SET read_at = '2026-03-02 00:00:00'")
    shop.run("DELETE FROM customer_entity")
    shop.run("DELETE FROM tocsin_provenance WHERE record_id = 'r-2'")
    relay_until_settled(kafka, store, shop)
    newest = Read(kafka, STORE_CHANGES).newest()
    assert newest["customer/42"] == EntityRemoved(root="customer/42", key="customer/42")
    assert newest["provenance/r-2"] == EntityRemoved(root="customer/42", key="provenance/r-2")
    order = newest["order/7"]
    assert isinstance(order, OrderChanged)
    assert order.customer_id is None
    assert Read(kafka, DELIVERY_OUTCOMES).keys == ["notice/a-1"]


def test_a_row_that_the_database_should_not_hold_delays_nobody(kafka: Kafka, store: Store, shop: StoreRows) -> None:
    with shop.engine.begin() as connection:
        run(connection, "SET SESSION sql_mode = '', check_constraint_checks = 0")
        row = {
            "record_id": "r-1", "root": "customer/41", "customer_id": 41, "entity_type": "customer", "entity_id": 41,
            "attribute": "fraud_score", "model_id": "scorer", "model_version": "7", "generated_at": "0000-00-00 00:00:00",
            "kind": "odd", "sensitivity": "", "categories": "{no json", "elements": "[]",
        }  # fmt: skip
        add(connection, "tocsin_provenance", row)
    shop.provenance("r-2", "customer/42")
    relay_until_settled(kafka, store, shop)
    newest = Read(kafka, STORE_CHANGES).newest()
    bad = newest["provenance/r-1"]
    assert isinstance(bad, ProvenanceRecorded)
    assert set(bad.faults) == {"generated_at", "kind", "sensitivity", "categories"}
    assert "provenance/r-2" in newest


def test_a_backlog_in_many_batches_is_whole_and_in_order(kafka: Kafka, store: Store, shop: StoreRows) -> None:
    names = ", ".join(f"({number}, 'p{number}@shop.example.com', 1, 1)" for number in range(1, 5001))
    shop.run(f"INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES {names}")
    with Relaying(kafka, store, batch_size=300):
        for change in range(100):
            shop.run("UPDATE customer_entity SET store_id = :view WHERE entity_id = 4000", view=1 + change % 2)
        wait_for("all settled", lambda: is_settled(shop))
    read = Read(kafka, STORE_CHANGES)
    assert set(read.keys) == {f"customer/{number}" for number in range(1, 5001)}
    newest = read.newest()["customer/4000"]
    assert isinstance(newest, CustomerChanged)
    assert newest.store_id == 2


def test_backfill_takes_the_same_path(kafka: Kafka, store: Store, shop: StoreRows, tmp_path: Path) -> None:
    for number in range(1, 6):
        shop.customer(number)
    shop.order(7)
    shop.provenance("r-1", "order/7")
    for view in View:
        shop.run(f"DELETE FROM {view.changelog}")
    backfill = Backfill(store, tmp_path / "progress.json")
    for entity in ("customers", "provenance", "orders", "account-notices"):
        list(backfill.run(entity, 2))
    backfill.close()
    relay_until_settled(kafka, store, shop)
    assert set(Read(kafka, STORE_CHANGES).keys) == {
        *(f"customer/{number}" for number in range(1, 6)), "order/7", "provenance/r-1",
    }  # fmt: skip


# Changelogs


def test_what_commits_late_with_a_lower_id_is_reached(
    kafka: Kafka, store: Store, shop: StoreRows, mariadb_database: StoreDatabase
) -> None:
    shop.customer(1)
    shop.customer(2)
    relay_until_settled(kafka, store, shop)
    late = mariadb_database.connect(autocommit=False)
    try:
        with Relaying(kafka, store, batch_size=2), late.cursor() as cursor:
            cursor.execute("UPDATE customer_entity SET store_id = 2 WHERE entity_id = 1")
            for change in range(20):
                shop.run("UPDATE customer_entity SET lastname = :name WHERE entity_id = 2", name=f"N{change}")
            wait_for("the others are settled", lambda: is_settled(shop))
            late.commit()
            wait_for("the late one is settled", lambda: is_settled(shop))
    finally:
        late.close()
    newest = Read(kafka, STORE_CHANGES).newest()["customer/1"]
    assert isinstance(newest, CustomerChanged)
    assert newest.store_id == 2


# Leading


def test_a_database_without_the_module_is_refused_by_name(empty_mariadb_database: StoreDatabase) -> None:
    reader = SqlStore(Store(url=SecretStr(empty_mariadb_database.url)), SystemClock())
    with pytest.raises(Refused, match=r"eav_attribute.*setup:upgrade"):
        reader.take_lead()
    reader.close()


def test_an_account_that_is_unknown_is_refused_without_its_password(mariadb_database: StoreDatabase) -> None:
    url = sa.make_url(mariadb_database.url).set(username="nobody", password="hunter2")
    reader = SqlStore(Store(url=SecretStr(url.render_as_string(hide_password=False))), SystemClock())
    with pytest.raises(TocsinError) as refused:
        reader.take_lead()
    assert "hunter2" not in str(refused.value)
    reader.close()


def test_a_second_start_under_the_same_id_fences_the_first(kafka: Kafka) -> None:
    first = Publisher(kafka, transactional_id=TRANSACTIONAL_ID)
    second = Publisher(kafka, transactional_id=TRANSACTIONAL_ID)
    with pytest.raises(Fenced), first.transaction():
        first.send(STORE_CHANGES, tombstone(key="customer/1", root="customer/1", source="/t", at=SystemClock().now()))
    first.close()
    second.close()
    assert Read(kafka, STORE_CHANGES).keys == []


# What the database writes

_NASTY = (
    "plain", "with space ", " ", "quote\"d", "back\\slash", "new\nline", "tab\tbed", "bell\x07", "delete\x7f", "nul\x00l", "a/b",
    "\u00fcml\u00e4ut", "\U0001f514", "line\u2028separator", "{\"a\": [1]}", "%s %Y", "'single'", "null", "0", "\u202eabc",
)  # fmt: skip


def nasty_rows() -> Iterator[dict[str, Any]]:
    """Rows in which each column in turn holds what a shop should not, or hardly ever, write there."""
    texts = ("record_id", "entity_type", "attribute", "model_id", "model_version", "run_id", "dataset_version", "supersedes",
             "source_system", "storage_location", "legal_basis")  # fmt: skip
    number = itertools.count(1)

    def row(**values: Any) -> dict[str, Any]:
        n = next(number)
        return provenance_row(f"r-{n}", "customer/42", **_WHOLE) | values

    for column in texts:
        yield from (row(**{column: f"{text}{next(number)}" if column == "record_id" else text}) for text in _NASTY)
        if column in ("run_id", "dataset_version", "supersedes", "source_system", "storage_location", "legal_basis"):
            yield from (row(**{column: None}), row(**{column: ""}))
    for confidence in (None, 0, 1, "0.5", "0.7310", "0.0001", "0.9999", "-0.5", "9.9999", "0.1000"):
        yield row(confidence=confidence)
    for at in ("2026-03-01 10:00:00", "2026-03-01 10:00:00.5", "2026-03-01 10:00:00.000001", "0001-01-01 00:00:00",
               "9999-12-31 23:59:59.999999", "0000-00-00 00:00:00", "2026-00-10 00:00:00", "2026-02-31 00:00:00",
               "0000-01-01 00:00:00"):  # fmt: skip
        yield row(generated_at=at)
        yield row(deleted_at=at)
    for words in ("[]", '["a"]', '["a","b"]', '["a", "b"]', '["a" ,"b"]', '["a\\u00fc"]', '["a\\"b"]', '["ü"]', "[1]", "{}",
                  '"a"', "null", "[null]", '["a",["b"]]', '["a","b"', "", "nonsense", '[ "a" ]', '["a"]["b"]'):  # fmt: skip
        yield from (row(categories=words), row(elements=words), row(input_fields=words))
    yield row(input_fields=None)
    for kind in ("synthetic", "derived", "inferred", "real", "Real", "odd", "", "real "):
        yield row(kind=kind)
    for sensitivity in ("low", "medium", "high", "critical", "HIGH", "", "high "):
        yield row(sensitivity=sensitivity)
    for root, customer_id, order_id in (
        ("customer/42", 42, None), ("customer/42", 42, 7), ("order/7", None, 7), ("order/7", 42, 7), ("customer/42", None, None),
        ("order/7", None, None), ("customer/042", 42, None), ("customer/42", 43, None), ("Customer/42", 42, None),
        ("customer/42 ", 42, None), ("customer/0", 0, None), ("order/7", 0, 7), ("nobody/1", 42, None), ("nobody/1", None, 7),
        ("nobody/1", None, None), ("", 42, 0), ("customer/42", 42, 0), ("customer/4\t2", 42, None),
    ):  # fmt: skip
        yield row(root=root, customer_id=customer_id, order_id=order_id)
        yield row(root=root, customer_id=customer_id, order_id=order_id, entity_id=0)


_WHOLE = {
    "run_id": "run-1", "dataset_version": "d1", "supersedes": "r-0", "confidence": "0.5", "source_system": "ml",
    "storage_location": "s3://bucket/part", "input_fields": '["orders"]', "legal_basis": "consent",
}  # fmt: skip


def test_what_the_database_writes_is_what_the_model_writes(
    store: Store, shop: StoreRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # (A line feed in an id, and the server's way is given up for its whole batch.)
    rows = sorted(nasty_rows(), key=lambda row: "\n" in row["record_id"])
    with shop.engine.begin() as connection:
        run(connection, "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', check_constraint_checks = 0")
        connection.execute(sa.insert(sa.table("tocsin_provenance", *(sa.column(name) for name in rows[0]))), rows)
    session = LeadSession(store)
    reader = SqlStore(store, SystemClock(), session)
    assert reader.take_lead()
    batch = reader.next_batch(10_000)
    assert len(batch) == len(rows)
    row_ids = batch.provenance_row_ids
    states = reader.states_of(ChangeBatch(provenance_row_ids=row_ids[:-1]))
    assert sum(isinstance(state, WrittenProvenance) for state in states) > 200
    written = dict(events(states))
    # Each alone, too: a batch in which nothing needs the model is judged as a whole, and read as if it were like the one before.
    monkeypatch.setattr(store_module, "MANY_ROWS", 1)
    monkeypatch.setattr(store_module, "BATCHES_UNTIL_ALIKE", 0)
    alone = dict(events(itertools.chain.from_iterable(reader.states_of(_of_row(row_id)) for row_id in row_ids)))
    session.writes_events = False
    modelled = dict(events(reader.states_of(batch)))
    reader.close()
    assert alone.keys() == modelled.keys()
    assert len(written) == len(alone) - 1
    for found in (written, alone):
        assert {key: (value, modelled[key]) for key, value in found.items() if value != modelled[key]} == {}


def _of_row(row_id: int) -> ChangeBatch:
    return ChangeBatch(provenance_row_ids=[row_id])


def events(states: Iterable[State]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each event says, in whatever order: every field, and none twice."""
    for state in states:
        if isinstance(state, WrittenProvenance):
            yield f"{state.root} {state.record_id}", json.loads(state.event, object_pairs_hook=_each_once)
        elif isinstance(state, ProvenanceRecorded):
            yield f"{state.root} {state.record_id}", json.loads(state.model_dump_json())


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_the_database_writes_ordinary_rows_and_leaves_the_others(store: Store, shop: StoreRows) -> None:
    shop.provenance("r-1", "customer/42", **_WHOLE)
    shop.provenance("r-2", "customer/42", run_id="back\\slash")
    shop.provenance("r-3", "order/7")
    shop.provenance("r-4", "order/8")
    shop.run("DELETE FROM tocsin_provenance WHERE record_id = 'r-4'")
    reader = SqlStore(store, SystemClock())
    assert reader.take_lead()
    states = reader.states_of(reader.next_batch(10))
    reader.close()
    assert Removed("provenance/r-4", "order/8") in states
    assert {state.record_id for state in states if isinstance(state, WrittenProvenance)} == {"r-1", "r-3"}
    assert {state.record_id for state in states if isinstance(state, ProvenanceRecorded)} == {"r-2"}


@pytest.mark.parametrize("longest", [40, 900, 1300])
def test_a_value_that_the_server_cuts_short_loses_nothing(store: Store, shop: StoreRows, longest: int) -> None:
    for number in range(1, 6):
        shop.provenance(f"r-{number}", "customer/42", **_WHOLE)
    session = LeadSession(store)
    reader = SqlStore(store, SystemClock(), session)
    assert reader.take_lead()
    session.change(f"SET SESSION group_concat_max_len = {longest}")
    states = reader.states_of(reader.next_batch(5))
    reader.close()
    assert {key.split()[1] for key, _ in events(states)} == {f"r-{number}" for number in range(1, 6)}
    assert not any(isinstance(state, Removed) for state in states)


def test_ids_that_the_server_cuts_short_are_not_settled(store: Store, shop: StoreRows) -> None:
    for number in range(101, 111):
        shop.customer(number)
    session = LeadSession(store)
    reader = SqlStore(store, SystemClock(), session)
    assert reader.take_lead()
    session.change("SET SESSION group_concat_max_len = 14")
    with pytest.raises(Refused, match="max_allowed_packet"):
        reader.next_batch(10)
    reader.close()


def test_settling_waits_for_no_save(store: Store, shop: StoreRows, mariadb_database: StoreDatabase) -> None:
    """Rows that the shop has not committed lie before, between and after those that are settled, in a small table."""
    for number in range(1, 13):
        shop.customer(number)
    shop.run("DELETE FROM tocsin_customer_cl WHERE version_id IN (1, 4, 6, 8, 10, 12)")
    reader = SqlStore(store, SystemClock())
    assert reader.take_lead()
    saving = mariadb_database.connect(autocommit=False)
    try:
        with saving.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tocsin_customer_cl (version_id, entity_id) VALUES (1, 1), (6, 1), (12, 1), (13, 1)"
            )
            for limit in (2, 10):
                batch = reader.next_batch(limit)
                reader.settle(batch)
            saving.commit()
    finally:
        saving.close()
        shop.run("SET GLOBAL innodb_lock_wait_timeout = 50")
    assert [version for (version,) in shop.run("SELECT version_id FROM tocsin_customer_cl ORDER BY version_id")] == [
        1,
        6,
        12,
        13,
    ]
    reader.close()


def test_customers_read_at_once_are_customers_read_one_by_one(
    store: Store, shop: StoreRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = itertools.count(100)
    for text in _NASTY:
        shop.customer(next(number), email=f"{text}@shop.example.com", firstname=text, lastname=text)
    for columns in (
        {"store_id": 2, "website_id": 2}, {"store_id": None, "website_id": None}, {"default_billing": None},
        {"firstname": None, "lastname": ""}, {"email": None}, {"default_shipping": 100}, {"default_billing": 100},
        {"default_billing": None, "default_shipping": 4_000_000}, {"default_billing": 5_000_000},
    ):  # fmt: skip
        shop.customer(next(number), **columns)
    last = next(number)
    shop.customer(last, country="US", region_id=12, default_shipping=last)
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=last, value="")
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=last, value="0.5000")
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=last - 1, value="a\nb")
    shop.order(7, customer_id=last, country="DE")
    shop.order(8, customer_id=last, country="FR")
    for address_id, text in enumerate((*_NASTY, "00 49 171 3920001", "+4917139200", "Musterweg 1\r\n\r\n2"), start=100):
        shop.run(
            "UPDATE customer_address_entity SET city = :text, street = :text, postcode = :text, region = :text,"
            " telephone = :text, country_id = :country WHERE entity_id = :id",
            id=address_id, text=text, country=text[:2],
        )  # fmt: skip
    # Far from all others, and a customer's beside their first one.
    shop.run("UPDATE customer_address_entity SET entity_id = 4000000 WHERE entity_id = :id", id=last - 2)
    session = LeadSession(store)
    reader = SqlStore(store, SystemClock(), session)
    assert reader.take_lead()
    both: list[dict[int, CustomerState]] = []
    batch = reader.next_batch(10_000)
    # joined, and beside each other
    for many in (1000, 10):
        monkeypatch.setattr(store_module, "MANY_CUSTOMERS", many)
        read = reader.states_of(batch)
        assert isinstance(read, InTurn)
        (part,) = [part for part in read.parts if isinstance(part, ReadCustomers)]
        assert len(part) == len(_NASTY) + 10
        both.append({state.customer_id: state for state in part})
    at_once, beside = both
    session.writes_events = False
    singly = {state.customer_id: state for state in reader.states_of(batch) if isinstance(state, CustomerState)}
    reader.close()
    assert len(at_once) == len(_NASTY) + 10
    assert at_once[last - 2].contact.postal_address
    assert at_once == beside == singly
    assert at_once[last].attribute_values == {"fraud_score": "0.5000", "income_band": ""}
    assert [(claim.code, claim.source) for claim in at_once[last].residence] == [
        ("US-CA", "default_billing"),
        ("US-CA", "default_shipping"),
        ("FR", "last_order"),
    ]


def test_a_customer_with_a_separator_in_a_field_is_read_all_the_same(
    store: Store, shop: StoreRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SOME_CUSTOMERS", 1)
    for number, name in enumerate(("a\x1fb", "c\x1ed", "e\x1df", "plain"), start=1):
        shop.customer(number, firstname=name)
    reader = SqlStore(store, SystemClock())
    assert reader.take_lead()
    states = list(reader.states_of(reader.next_batch(10)))
    names = [state.contact.first_name for state in states if isinstance(state, CustomerState)]
    assert names == ["a\x1fb", "c\x1ed", "e\x1df", "plain"]
    monkeypatch.setattr(store_module, "MANY_CUSTOMERS", 1)
    assert list(reader.states_of(reader.next_batch(10))) == states
    reader.close()


def test_a_shop_that_was_restored_from_a_backup_is_noticed(
    kafka: Kafka, store: Store, shop: StoreRows, mariadb_database: StoreDatabase, tmp_path: Path
) -> None:
    if shutil.which("mariadb-dump") is None:
        pytest.skip("no mariadb-dump here")
    file, verified = tmp_path / "store.json", tmp_path / "verified.json"
    mark = StoreMark(file, verified)

    def number() -> int:
        return int(json.loads(file.read_text())["number"]) if file.exists() else 0

    def lead() -> None:
        before = file.read_text() if file.exists() else ""
        with Relaying(kafka, store, mark=mark):
            wait_for("a heartbeat is read", lambda: file.exists() and file.read_text() != before)
            wait_for("all settled", lambda: is_settled(shop))

    shop.customer(1)
    lead()
    backup = dumped(mariadb_database)
    shop.customer(2)
    lead()
    lead()
    newest = number()
    assert put_back_since(file, None) is None
    put_back(mariadb_database, backup)
    lead()
    assert number() < newest
    assert put_back_since(file, None) is not None
    lead()
    assert put_back_since(file, None) is not None, "until somebody has verified"
