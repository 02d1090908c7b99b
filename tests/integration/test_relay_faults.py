"""Plugs pulled on a relay at work: itself killed or frozen at each step, its broker, its database, its connection.

After each the topic, read committed, holds what the store holds, and no entity went back in time.
"""

import json
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from bridge.contracts.envelope import open_envelope
from bridge.contracts.events import CustomerChanged, Event
from bridge.contracts.topics import STORE_CHANGES, TOPICS
from bridge.magento.changelogs import View
from bridge.magento.store import SqlStore
from bridge.relay import TRANSACTIONAL_ID
from bridge.runtime.clock import SystemClock
from bridge.runtime.kafka import Publisher, new_consumer
from bridge.runtime.sealing import generate_sealing_keys
from bridge.runtime.settings import Kafka, Store
from bridge.runtime.topics_admin import TopicsAdmin
from tests.integration.relay_process import STEPS
from tests.processes import module, piped
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import MariaDbServer, StoreDatabase, fresh_database
from tests.shopping import Shop, assert_agrees, wait_for
from tests.store_rows import StoreRows

ROOT = Path(__file__).parents[2]
KEYS = generate_sealing_keys()
TAKEOVER_SECONDS = 5
"""Within this a standby leads once the leader says nothing more."""


# One database and one set of topics for all faults: each leaves them as whole as it found them.


@pytest.fixture(scope="module")
def kafka(kafka_server: KafkaServer) -> Iterator[Kafka]:
    prefix = f"faults-{uuid.uuid4().hex[:12]}."
    settings = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=prefix)
    TopicsAdmin(settings).apply()
    yield settings
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    for future in admin.delete_topics([prefix + topic.name for topic in TOPICS]).values():
        future.result(timeout=60)


@pytest.fixture(scope="module")
def database(mariadb_server: MariaDbServer) -> Iterator[StoreDatabase]:
    with fresh_database(mariadb_server, with_tables=True) as made:
        yield made


@pytest.fixture(scope="module")
def rows(database: StoreDatabase) -> Iterator[StoreRows]:
    engine = sa.create_engine(database.url, pool_pre_ping=True)
    made = StoreRows(engine)
    made.base()
    yield made
    engine.dispose()


@pytest.fixture
def shop(database: StoreDatabase, rows: StoreRows) -> Iterator[Shop]:
    ((highest,),) = rows.run(
        "SELECT GREATEST((SELECT COALESCE(MAX(entity_id), 0) FROM customer_entity),"
        " (SELECT COALESCE(MAX(entity_id), 0) FROM sales_order), (SELECT COALESCE(MAX(id), 0) FROM tocsin_provenance))"
    )
    made = Shop(database, after=int(highest) + 1000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(database: StoreDatabase) -> Store:
    return Store(url=SecretStr(database.url))


class Process:
    """`relay_process.py`, with what it says."""

    def __init__(self, settings: Path, *options: str) -> None:
        command = module("tests.integration.relay_process", settings, *options)
        self.process, self._output = piped(command, os.environ, folder=ROOT)
        self._said: queue.Queue[str] = queue.Queue()
        self._heard: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        for line in self._output:
            self._heard.append(line.strip())
            self._said.put(line.strip())

    def says(self, *words: str, timeout_seconds: float = 30) -> str:
        """Wait for the first of `words` and return it."""
        give_up_at = time.monotonic() + timeout_seconds
        while (left := give_up_at - time.monotonic()) > 0:
            try:
                word = self._said.get(timeout=left)
            except queue.Empty:
                break
            if word in words:
                return word
        heard = "\n".join(self._heard[-30:])
        ended = f", ended with {self.process.poll()}" if self.process.poll() is not None else ""
        raise AssertionError(f"no {' or '.join(words)} within {timeout_seconds} s{ended}, but:\n{heard}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self._reading.join(60)
        self._output.close()


Starting = Callable[..., Process]


@pytest.fixture
def settings_file(kafka: Kafka, store: Store, tmp_path: Path) -> Path:
    content = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "topic_prefix": kafka.topic_prefix,
        "url": store.url.get_secret_value(),
        "public_key": KEYS.public.hex(),
        "batch_size": 20,
    }
    file = tmp_path / "relay.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.fixture
def start(settings_file: Path) -> Iterator[Starting]:
    started: list[Process] = []

    def begin(*options: str) -> Process:
        started.append(Process(settings_file, *options))
        return started[-1]

    yield begin
    for process in started:
        process.end()


Events = Callable[[], list[tuple[str, Event]]]


@pytest.fixture
def events(kafka: Kafka) -> Events:
    """Read all that is committed, partition by partition."""

    def read() -> list[tuple[str, Event]]:
        consumer = new_consumer(kafka, f"judge-{uuid.uuid4().hex[:12]}", enable_partition_eof=True)
        name = kafka.topic_prefix + STORE_CHANGES.name
        left = set(range(STORE_CHANGES.partitions))
        found: list[tuple[str, Event]] = []
        try:
            consumer.assign([TopicPartition(name, partition, 0) for partition in left])
            give_up_at = time.monotonic() + 30
            while left:
                assert time.monotonic() < give_up_at, "the topic was not read to its end"
                message = consumer.poll(1)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    key, value = message.key() or b"", message.value()
                    headers: Any = dict(message.headers() or ())
                    if b"/" in key:
                        found.append((key.decode(), open_envelope(key, value, headers)))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    assert error.retriable(), error
        finally:
            consumer.close()
        return found

    return read


def is_settled(rows: StoreRows) -> bool:
    return not any(rows.changelog(view) for view in View)


def all_settled(rows: StoreRows, timeout_seconds: float = 30) -> None:
    wait_for("all settled", lambda: is_settled(rows), timeout_seconds)


# The relay itself


@pytest.mark.parametrize(
    "steps", [("read", "sent", "published", "half-settled"), pytest.param(STEPS, marks=pytest.mark.soak)]
)
def test_killed_at_each_step_nothing_is_lost_or_put_back(
    rows: StoreRows, shop: Shop, start: Starting, events: Events, steps: Sequence[str]
) -> None:
    """One relay after the other dies at the next step of its loop, while the shop goes on."""
    for step in steps:
        for _ in range(40):
            shop.change()
        killed = start("--hold", step)
        killed.says(step)
        shop.change()
        killed.signal(signal.SIGKILL)
        killed.process.wait(60)
        assert not is_settled(rows), step
    start().says("leads")
    all_settled(rows)
    assert_agrees(events(), rows.run, shop.histories)


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step == "sent" else pytest.mark.soak) for step in STEPS]
)
def test_a_frozen_leader_that_wakes_publishes_and_deletes_nothing_more(
    kafka: Kafka,
    store: Store,
    rows: StoreRows,
    shop: Shop,
    start: Starting,
    events: Events,
    settings_file: Path,
    step: str,
) -> None:
    """Frozen past the takeover. Here the successor is the test, which leads and does nothing, so that every change of the
    topic or of a changelog would be the frozen one's."""
    for _ in range(60):
        shop.change()
    frozen = start("--hold", step)
    frozen.says(step)
    frozen.signal(signal.SIGSTOP)
    successor = SqlStore(store, SystemClock())
    try:
        assert wait_for("the successor leads", successor.take_lead, TAKEOVER_SECONDS) < TAKEOVER_SECONDS
        fence = Publisher(kafka, transactional_id=TRANSACTIONAL_ID)
        before = events(), {view: rows.changelog(view) for view in View}
        settings_file.with_suffix(".go").touch()
        frozen.signal(signal.SIGCONT)
        keeping = threading.Event()
        keeper = threading.Thread(target=_keep, args=(successor, keeping))
        keeper.start()
        try:
            word = frozen.says("stands by", "fenced", timeout_seconds=20)
            after = events(), {view: rows.changelog(view) for view in View}
        finally:
            keeping.set()
            keeper.join()
        assert after == before
        fence.close()
    finally:
        successor.close()
    # What woke goes on in its turn, or is started again.
    if word == "fenced":
        assert frozen.process.wait(60) == 1
        start().says("leads")
    all_settled(rows)
    assert_agrees(events(), rows.run, shop.histories)


def _keep(successor: SqlStore, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        successor.keep_lead()


def test_of_two_started_at_once_one_leads_and_the_other_follows_within_five_seconds(
    rows: StoreRows, shop: Shop, start: Starting, events: Events
) -> None:
    with shop:
        pair = start(), start()
        words = [relay.says("leads", "stands by") for relay in pair]
        assert sorted(words) == ["leads", "stands by"]
        leader, standby = pair if words[0] == "leads" else (pair[1], pair[0])
        wait_for("it relays", lambda: len(events()) > 20)
        leader.signal(signal.SIGKILL)
        began = time.monotonic()
        standby.says("leads")
        assert time.monotonic() - began < TAKEOVER_SECONDS
        # The dead one comes back and stands by; the new leader freezes.
        again = start()
        again.says("stands by")
        standby.signal(signal.SIGSTOP)
        began = time.monotonic()
        again.says("leads")
        assert time.monotonic() - began < TAKEOVER_SECONDS
        changes = shop.changes
        wait_for("the shop goes on", lambda: shop.changes > changes + 50)
        standby.signal(signal.SIGCONT)
        word = standby.says("stands by", "fenced", timeout_seconds=20)
        assert again.process.poll() is None
        if word == "fenced":
            assert standby.process.wait(60) == 1
    all_settled(rows)
    assert_agrees(events(), rows.run, shop.histories)


# What it stands on


def _outlives(
    rows: StoreRows, shop: Shop, start: Starting, events: Events, fault: Callable[[Process], None], more: int = 100
) -> Process:
    """Let a relay work for a busy shop through a fault, and hold topic and store to each other afterwards."""
    with shop:
        relay = start()
        relay.says("leads")
        wait_for("the shop is busy", lambda: shop.changes > 100)
        fault(relay)
        changes = shop.changes
        wait_for("the shop goes on", lambda: shop.changes > changes + more, 60)
    all_settled(rows, 60)
    assert relay.process.poll() is None, "it came through by itself"
    assert_agrees(events(), rows.run, shop.histories)
    return relay


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_a_broker_that_was_away_costs_no_change(
    kafka_server: KafkaServer, rows: StoreRows, shop: Shop, start: Starting, events: Events, seconds: float
) -> None:
    def pull_the_plug(_relay: Process) -> None:
        kafka_server.plug.pull()
        changes, began = shop.changes, time.monotonic()
        wait_for("the shop sells on", lambda: shop.changes > changes + 50 and time.monotonic() > began + seconds, 120)
        assert not is_settled(rows), "what is not published is not forgotten"
        kafka_server.plug.put_back()

    _outlives(rows, shop, start, events, pull_the_plug)


def test_a_database_that_was_restarted_costs_no_change(
    mariadb_server: MariaDbServer, rows: StoreRows, shop: Shop, start: Starting, events: Events
) -> None:
    def pull_the_plug(relay: Process) -> None:
        plug = mariadb_server.plug
        assert plug is not None
        plug.pull()
        plug.put_back()
        relay.says("leads")

    _outlives(rows, shop, start, events, pull_the_plug)
    assert shop.interruptions > 0


def test_a_connection_cut_again_and_again_costs_no_change(
    database: StoreDatabase, rows: StoreRows, shop: Shop, start: Starting, events: Events
) -> None:
    def cut(relay: Process) -> None:
        for _ in range(2):
            ((session,),) = rows.run("SELECT IS_USED_LOCK(:name)", name=f"tocsin-relay:{database.name}:")
            rows.run(f"KILL CONNECTION {session}")
            relay.says("leads")

    _outlives(rows, shop, start, events, cut)


# What the shop does


def test_what_commits_late_is_reached_soon_under_constant_load(
    database: StoreDatabase, rows: StoreRows, shop: Shop, start: Starting, events: Events
) -> None:
    """A save that took its changelog id long before, in the middle of others that never stop."""
    number = 10_000_000

    def commit_late(_relay: Process) -> None:
        late = database.connect(autocommit=False)
        try:
            with late.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO customer_entity (entity_id, email, website_id, store_id)"
                    f" VALUES ({number}, 'late@shop.example.com', 1, 1)"
                )
                changes = shop.changes
                wait_for("many others come and go", lambda: shop.changes > changes + 200)
                late.commit()
        finally:
            late.close()
        wait_for("the late one is settled", lambda: number not in rows.changelog(View.CUSTOMER), 2)

    _outlives(rows, shop, start, events, commit_late)
    assert f"customer/{number}" in dict(events())


def test_a_row_that_changes_a_thousand_times_a_second_delays_nobody(
    database: StoreDatabase, rows: StoreRows, shop: Shop, start: Starting, events: Events
) -> None:
    number = 20_000_000
    rows.customer(number)
    changed = 0

    def change_on(_relay: Process) -> None:
        nonlocal changed
        began, settled = time.monotonic(), False
        with database.connect() as hot, hot.cursor() as cursor:
            # the load goes on until the other one is settled: that it is afterwards would prove nothing
            while changed < 3000 or not settled:
                if changed > (time.monotonic() - began) * 1000:
                    time.sleep(0.0005)
                    continue
                changed += 1
                cursor.execute(
                    "UPDATE customer_entity SET email = %s WHERE entity_id = %s",
                    (f"h{changed}@shop.example.com", number),
                )
                if changed == 1500:
                    rows.customer(number + 1)
                elif changed > 1500 and changed % 100 == 0:
                    settled = number + 1 not in rows.changelog(View.CUSTOMER)
                assert changed < 10_000, "the other one was not settled while the first went on changing"

    _outlives(rows, shop, start, events, change_on)
    seen = [event for key, event in events() if key == f"customer/{number}"]
    assert len(seen) < changed / 2, "many changes in a batch are one event"
    assert isinstance(seen[-1], CustomerChanged)
