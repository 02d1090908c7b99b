"""The consume loop and the publisher on a real broker: nothing is skipped, and others read what we write."""

import base64
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as TheirPartition
from structlog.testing import capture_logs

from bridge.contracts.envelope import Envelopes, Message, open_envelope, seal_envelope, tombstone
from bridge.contracts.events import IncidentRevised, NoticeRead
from bridge.contracts.partitioner import partition_of
from bridge.contracts.scope import Scope
from bridge.contracts.topics import ACCOUNT_NOTICES, DEAD_LETTERS, DELIVERY_OUTCOMES, INCIDENTS, MOST_BYTES, Topic
from bridge.runtime.clock import SetClock
from bridge.runtime.consume import GAPS, Received, consume
from bridge.runtime.dead_letters import DeadLetters, TooManyDeadLetters
from bridge.runtime.kafka import Fenced, NotPublished, Positions, Publisher, client_settings
from bridge.runtime.redrive import dead_letters, reasons_against
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health
from consumers.adapters.incident_feed import IncidentFeed
from tests.servers.kafka import KafkaServer

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TOPIC = DELIVERY_OUTCOMES
PARTITIONS = 4


@pytest.fixture
def kafka(kafka_server: KafkaServer, topic_prefix: str) -> Kafka:
    settings = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)
    admin = AdminClient(client_settings(settings))
    config = {"max.message.bytes": str(MOST_BYTES)}
    wanted = [
        NewTopic(topic_prefix + TOPIC.name, PARTITIONS, 1, config=config),
        NewTopic(topic_prefix + DEAD_LETTERS.name, 1, 1, config=config),
    ]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=60)
    for topic in wanted:
        known_to_the_broker(admin, topic.topic)
    return settings


def known_to_the_broker(admin: AdminClient, topic: str) -> None:
    """Wait until the broker itself knows of `topic`: the controller, which makes it, tells it a moment later."""
    until = time.monotonic() + 15
    while (found := admin.list_topics(topic, timeout=60).topics.get(topic)) is None or found.error is not None:
        assert time.monotonic() < until, f"{topic} is not known"


class Shelf:
    """Where members keep results and positions together, as the case store does."""

    def __init__(self, positions: Mapping[tuple[str, int], int] | None = None) -> None:
        self.lock = threading.Lock()
        self.positions = dict(positions or {})
        self.kept: list[Received] = []

    @property
    def ids(self) -> list[str]:
        with self.lock:
            return [notice_of(received) for received in self.kept]


class Member:
    """A handler over a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.owned: set[tuple[str, int]] = set()
        self.before_handling: Callable[[Sequence[Received], Positions], None] = lambda batch, positions: None
        self.letters: DeadLetters | None = None

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        self.owned.update(partitions)
        with self.shelf.lock:
            return {key: self.shelf.positions[key] for key in partitions if key in self.shelf.positions}

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.owned.difference_update(partitions)

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        self.before_handling(batch, positions)
        with self.shelf.lock:
            self.shelf.kept.extend(batch)
            self.shelf.positions.update(positions)

    def tick(self) -> None:
        """Nothing is due between batches."""


@contextmanager
def running(kafka: Kafka, member: Member, *, batch_size: int = 100, whole: bool = False) -> Iterator[None]:
    """Consume on a thread until the block ends. Raises what the loop raised."""
    stop, errors = threading.Event(), []

    def work() -> None:
        try:
            consume_until(kafka, member, stop, batch_size=batch_size, whole=whole)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


class Waits(threading.Event):
    """One that tells for how many seconds it was waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        return super().wait(timeout)


def consume_until(
    kafka: Kafka,
    member: Member,
    stop: threading.Event,
    *,
    limit: int = 100,
    batch_size: int = 100,
    health: Health | None = None,
    whole: bool = False,
) -> None:
    letters = member.letters = DeadLetters(lambda: Publisher(kafka), "test", SetClock(NOW), limit_per_minute=limit)
    consume(
        kafka, "group", [TOPIC], member, stop=stop, dead_letters=letters, health=health or Health(), batch_size=batch_size,
        poll_seconds=0.05, whole=whole,
    )  # fmt: skip


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def read(number: int) -> Message:
    event = NoticeRead(notice_id=f"n{number}", customer_id=number, read_at=NOW)
    return seal_envelope(event, key=f"notice/{number}", root=f"customer/{number}", source="/relay", at=NOW)


def notice_of(received: Received) -> str:
    assert isinstance(received.event, NoticeRead)
    return received.event.notice_id


def publish(kafka: Kafka, *messages: Message, partition: int | None = None) -> None:
    publisher = Publisher(kafka)
    for message in messages:
        if partition is None:
            publisher.send(TOPIC, message)
        else:
            publisher.send_raw(TOPIC, partition, message.key.encode(), message.value, message.headers)
    publisher.flush()


def end_of(kafka: Kafka, topic: Topic, partition: int = 0) -> int:
    client = Consumer(client_settings(kafka) | {"group.id": kafka.topic_prefix + "look"})
    try:
        _low, high = client.get_watermark_offsets(
            TopicPartition(kafka.topic_prefix + topic.name, partition), timeout=60
        )
        return int(high)
    finally:
        client.close()


def their_records(kafka: Kafka, topic: Topic) -> list[Any]:
    """What kafka-python reads of `topic`, committed records only."""
    name = kafka.topic_prefix + topic.name
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        partitions = [TheirPartition(name, number) for number in sorted(consumer.partitions_for_topic(name))]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        give_up_at = time.monotonic() + 30
        while any(consumer.position(each) < ends[each] for each in partitions):
            assert time.monotonic() < give_up_at
            for records in consumer.poll(timeout_ms=200).values():
                found.extend(records)
        return found
    finally:
        consumer.close()


# reading


def test_a_message_that_cannot_be_read_is_a_dead_letter_before_the_position_moves(kafka: Kafka) -> None:
    garbage = Message("k", "customer/1", b"\xff\x00 not json", [("ce_type", b"tocsin.account-notice.read.v1")])
    publish(kafka, read(1), garbage, read(2), partition=0)
    shelf = Shelf()
    member = Member(shelf)
    letters_when_handling: dict[int, int] = {}

    def look(_batch: Sequence[Received], positions: Positions) -> None:
        letters_when_handling[positions[(TOPIC.name, 0)]] = end_of(kafka, DEAD_LETTERS)

    member.before_handling = look
    with running(kafka, member):
        wait_for("all three are behind us", lambda: shelf.positions.get((TOPIC.name, 0)) == 3)
    assert shelf.ids == ["n1", "n2"]
    assert all(count == 1 for position, count in letters_when_handling.items() if position >= 2)
    (letter,) = their_records(kafka, DEAD_LETTERS)
    kept = json.loads(letter.value)
    assert base64.b64decode(kept["value"]) == garbage.value
    assert (kept["topic"], kept["partition"], kept["offset"], kept["consumer"]) == (TOPIC.name, 0, 1, "test")
    assert base64.b64decode(kept["headers"]["ce_type"]) == b"tocsin.account-notice.read.v1"


def test_a_message_too_large_for_a_letter_holds_up_nobody(kafka: Kafka) -> None:
    """A topic's bound is for what a producer packed: unpacked it may be many times that."""
    producer = Producer(client_settings(kafka) | {"message.max.bytes": 100_000_000, "compression.type": "gzip"})
    name = kafka.topic_prefix + TOPIC.name
    failed: list[Any] = []
    for value in (os.urandom(7_000_000), b"A" * 60_000_000):
        producer.produce(name, value, b"k", 0, on_delivery=lambda error, _: failed.append(error))
        assert producer.flush(60) == 0
    assert failed == [None, None]
    publish(kafka, read(1), partition=0)
    shelf = Shelf()
    with running(kafka, Member(shelf)):
        wait_for("all three are behind us", lambda: shelf.positions.get((TOPIC.name, 0)) == 3)
    assert shelf.ids == ["n1"]
    letters = list(dead_letters(kafka))
    assert [letter.offset for letter in letters] == [0, 1]
    assert all(letter.left_out_bytes for letter in letters)
    for reason in reasons_against(kafka, letters).values():
        assert "is too large for a letter and lacks" in reason
        assert f"the original is in {TOPIC.name}, partition 0, offset" in reason
    assert len(reasons_against(kafka, letters)) == 2


def test_past_the_bound_the_consumer_stops_and_nothing_is_skipped(kafka: Kafka) -> None:
    garbage = [Message(f"k{number}", "customer/1", b"{}", []) for number in range(10)]
    publish(kafka, read(1), *garbage, read(2), partition=0)
    shelf, stop, health = Shelf(), Waits(), Health()

    def stopped() -> bool:
        return "nothing skipped" in health.reasons().get("dead letters", "")

    with ThreadPoolExecutor() as elsewhere:
        consuming = elsewhere.submit(consume_until, kafka, Member(shelf), stop, limit=3, health=health)
        wait_for("it has stopped", stopped)
        # whoever came after it would count anew: it does not end before the minute has
        wait_for("it waits for what is left of the minute", lambda: max(stop.waits, default=0) > 30)
        wait_for("three are stored", lambda: len(their_records(kafka, DEAD_LETTERS)) == 3)
        assert not consuming.done()
        stop.set()
        with pytest.raises(TooManyDeadLetters, match="nothing skipped"):
            consuming.result(30)
    assert shelf.positions.get((TOPIC.name, 0), 0) <= 4
    with running(kafka, Member(shelf)):  # as with a version that can cope
        wait_for("all are behind us", lambda: shelf.positions.get((TOPIC.name, 0)) == 12)
    assert sorted(set(shelf.ids)) == ["n1", "n2"]
    letters = {json.loads(record.value)["offset"] for record in their_records(kafka, DEAD_LETTERS)}
    assert letters == set(range(1, 11))


class Impatient(threading.Event):
    """Ends what would wait for the rest of a minute."""

    def wait(self, timeout: float | None = None) -> bool:
        if (timeout or 0) > 30:
            self.set()
        return super().wait(0 if self.is_set() else timeout)


def passes_at_the_bound(kafka: Kafka, member: Member, shelf: Shelf, *, end: int) -> list[int]:
    """Start the loop again and again, as a supervisor does, until `end` is reached; return where each stood."""
    stood: list[int] = []
    while not stood or stood[-1] < end:
        assert len(stood) < 12, stood
        stop = Impatient()
        before = shelf.positions.get((TOPIC.name, 0), 0)
        with ThreadPoolExecutor() as elsewhere:
            consuming = elsewhere.submit(consume_until, kafka, member, stop, limit=10, batch_size=100)
            try:
                wait_for("it stops or comes to the end", partial(_over, consuming, shelf, end))
            finally:
                stop.set()
            with suppress(TooManyDeadLetters):
                consuming.result(30)
        stood.append(_reached(shelf))
        assert stood[-1] > before, "not one message was passed"
        member.owned.clear()
    return stood


def _over(consuming: "Future[None]", shelf: Shelf, end: int) -> bool:
    return consuming.done() or _reached(shelf) >= end


def _reached(shelf: Shelf) -> int:
    with shelf.lock:
        return shelf.positions.get((TOPIC.name, 0), 0)


def test_however_many_cannot_be_read_they_are_passed_at_the_bound_and_none_is_lost(kafka: Kafka) -> None:
    garbage = [Message(f"k{number}", "customer/1", b"{}", []) for number in range(35)]
    publish(kafka, *garbage, read(1), partition=0)
    shelf = Shelf()
    stood = passes_at_the_bound(kafka, Member(shelf), shelf, end=36)
    assert stood == [10, 20, 30, 36]
    assert shelf.ids == ["n1"]
    offsets = [json.loads(record.value)["offset"] for record in their_records(kafka, DEAD_LETTERS)]
    assert sorted(offsets) == list(range(35))


def test_however_many_a_handler_refuses_they_are_passed_at_the_bound(kafka: Kafka) -> None:
    """It keeps them aside while it handles their batch: a batch with more of them than the bound would never be handled."""
    publish(kafka, *(read(number) for number in range(35)), partition=0)

    class Refusing(Member):
        def handle(self, batch: Sequence[Received], positions: Positions) -> None:
            assert self.letters is not None
            for each in batch:
                key = each.key.encode()
                self.letters.put_raw(each.topic, each.partition, each.offset, key, each.value, [], "refused")
            self.letters.flush()
            with self.shelf.lock:
                self.shelf.positions.update(positions)

    shelf = Shelf()
    member = Refusing(shelf)
    stood = passes_at_the_bound(kafka, member, shelf, end=35)
    assert stood == [10, 20, 30, 35]
    offsets = {json.loads(record.value)["offset"] for record in their_records(kafka, DEAD_LETTERS)}
    assert offsets == set(range(35))


def test_incidents_that_cannot_be_read_hold_up_the_others_only_as_the_bound_does(kafka: Kafka) -> None:
    """All are read at each start: an index that ended at the bound would never begin."""
    seconds = 0.0

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal seconds
            seconds += (timeout or 0) + 0.1
            return False

    admin = AdminClient(client_settings(kafka))
    admin.create_topics([NewTopic(kafka.topic_prefix + INCIDENTS.name, 1, 1)])[
        kafka.topic_prefix + INCIDENTS.name
    ].result(60)
    known_to_the_broker(admin, kafka.topic_prefix + INCIDENTS.name)
    publisher = Publisher(kafka)
    for number in range(5):
        publisher.send_raw(INCIDENTS, 0, f"k{number}".encode(), b"{}", [])
    scope = Scope(model_ids=("m",))
    incident = IncidentRevised(
        incident_id="INC-2026-0001",
        revision=1,
        status="open",
        scope=scope,
        scope_sha256=scope.sha256(),
        detected_at=NOW,
    )
    publisher.send(INCIDENTS, seal_envelope(incident, key="INC-2026-0001", root="INC-2026-0001", source="/c", at=NOW))
    publisher.flush()
    letters = DeadLetters(
        lambda: Publisher(kafka), "index", SetClock(NOW), limit_per_minute=2, monotonic=lambda: seconds
    )
    feed = IncidentFeed(kafka, letters)
    assert feed.read_to_end(INCIDENTS.partitions, Stop()) == [incident]
    feed.close()
    assert seconds > 100
    assert len(their_records(kafka, DEAD_LETTERS)) == 5


def test_reading_goes_on_where_the_handler_says_not_where_kafka_was_told(kafka: Kafka) -> None:
    publish(kafka, *(read(number) for number in range(10)), partition=0)
    publish(kafka, *(read(number) for number in range(10, 13)), partition=1)
    first = Shelf()
    with running(kafka, Member(first)):
        wait_for("all are behind us", lambda: len(first.kept) == 13)
    # the handler's store was restored from a backup: it knows of five records of partition 0 and of nothing else
    restored = Shelf({(TOPIC.name, 0): 5})
    with running(kafka, Member(restored)):
        wait_for("what it lacks came again", lambda: len(restored.kept) == 8)
    assert sorted((received.partition, received.offset) for received in restored.kept) == [
        *((0, offset) for offset in range(5, 10)),
        *((1, offset) for offset in range(3)),
    ]


def test_members_that_come_and_go_lose_nothing(kafka: Kafka) -> None:
    total = 3000
    shelf = Shelf()
    first, second = Member(shelf), Member(shelf)
    sending = threading.Event()

    def send() -> None:
        publisher = Publisher(kafka)
        for number in range(total):
            publisher.send(TOPIC, read(number))
            if number % 100 == 99:
                publisher.flush()
                sending.wait(0.02)

    sender = threading.Thread(target=send)
    with running(kafka, second, batch_size=50):
        with running(kafka, first, batch_size=50):
            wait_for("both have partitions", lambda: bool(first.owned) and bool(second.owned))
            sender.start()
            wait_for("half is there", lambda: len(shelf.kept) > total / 2)
        wait_for("the other took over", lambda: len(second.owned) == PARTITIONS)
        sender.join()
        wait_for("all are there", lambda: len(set(shelf.ids)) == total)
    assert first.owned == set()
    ends = {(TOPIC.name, number): end_of(kafka, TOPIC, number) for number in range(PARTITIONS)}
    assert shelf.positions == ends
    by_partition: dict[int, list[int]] = {}
    for received in shelf.kept:
        by_partition.setdefault(received.partition, []).append(received.offset)
    for partition, offsets in by_partition.items():
        assert set(offsets) == set(range(ends[(TOPIC.name, partition)]))


def test_what_is_gone_from_a_topic_before_it_was_read_is_said_and_reading_goes_on(
    kafka: Kafka,
) -> None:
    publish(kafka, *(read(number) for number in range(10)), partition=0)
    publish(kafka, *(read(number) for number in range(10, 12)), partition=1)
    admin = AdminClient(client_settings(kafka))
    name = kafka.topic_prefix + TOPIC.name
    # as its retention does
    for future in admin.delete_records([TopicPartition(name, 0, 7)]).values():
        future.result(60)
    # as with a topic that was deleted and made anew: partition 1 ends at 2
    shelf = Shelf({(TOPIC.name, 0): 3, (TOPIC.name, 1): 50})
    before = GAPS.labels(TOPIC.name)._value.get()
    with running(kafka, Member(shelf)), capture_logs() as said:
        wait_for("the rest is there", lambda: len(shelf.kept) == 5)
    assert sorted(shelf.ids) == ["n10", "n11", "n7", "n8", "n9"]
    assert shelf.positions == {(TOPIC.name, 0): 10, (TOPIC.name, 1): 2}
    gaps = {(each["partition"], each["wanted"], each["first"]) for each in said if "gone from a topic" in each["event"]}
    assert gaps == {(0, 3, 7), (1, 50, 0)}
    assert GAPS.labels(TOPIC.name)._value.get() == before + 2


def emptied(kafka: Kafka, partition: int, before: int) -> None:
    """Delete all messages before an offset, as a topic's retention does."""
    admin = AdminClient(client_settings(kafka))
    place = TopicPartition(kafka.topic_prefix + TOPIC.name, partition, before)
    for future in admin.delete_records([place]).values():
        future.result(60)


def test_a_gap_in_what_is_empty_is_told_once(kafka: Kafka) -> None:
    publish(kafka, *(read(number) for number in range(10)), partition=0)
    emptied(kafka, 0, 10)
    shelf = Shelf({(TOPIC.name, 0): 3})
    before = GAPS.labels(TOPIC.name)._value.get()

    def go_on() -> None:
        member = Member(shelf)
        with running(kafka, member):
            wait_for("it reads", lambda: bool(member.owned))
            wait_for("reading goes on at the end", lambda: shelf.positions == {(TOPIC.name, 0): 10})
            time.sleep(2)

    go_on()
    go_on()
    assert GAPS.labels(TOPIC.name)._value.get() == before + 1


def test_who_needs_all_of_a_topic_begins_anew_after_a_gap(kafka: Kafka) -> None:
    publish(kafka, *(read(number) for number in range(10)), partition=0)
    shelf = Shelf({(TOPIC.name, 0): 3})
    member = Member(shelf)
    asked = 0

    def assigned(partitions: Sequence[tuple[str, int]]) -> Positions:
        """As the index's files, which compare their place with the topic when they are opened."""
        nonlocal asked
        asked += 1
        if asked > 1:
            shelf.positions.clear()
            return {}
        # Just after they have.
        emptied(kafka, 0, 7)
        return {(TOPIC.name, 0): 3}

    member.assigned = assigned  # type: ignore[method-assign]  # as another handler
    with running(kafka, member, whole=True):
        wait_for("all that is there", lambda: shelf.positions.get((TOPIC.name, 0)) == 10)
    assert asked == 2
    assert shelf.ids == ["n7", "n8", "n9"]


def test_a_handler_that_fails_ends_the_loop_and_reads_the_batch_again(kafka: Kafka) -> None:
    publish(kafka, *(read(number) for number in range(5)), partition=2)
    shelf = Shelf()
    failing = Member(shelf)

    def fail(_batch: Sequence[Received], _positions: Positions) -> None:
        raise ZeroDivisionError

    failing.before_handling = fail
    with pytest.raises(ZeroDivisionError):
        consume_until(kafka, failing, threading.Event())
    with running(kafka, Member(shelf)):
        wait_for("all are behind us", lambda: len(shelf.kept) == 5)
    assert shelf.ids == [f"n{number}" for number in range(5)]


def test_a_tombstone_says_what_is_gone(kafka: Kafka) -> None:
    publish(kafka, tombstone(key="customer/7", root="customer/7", source="/relay", at=NOW))
    shelf = Shelf()
    with running(kafka, Member(shelf)):
        wait_for("it is there", lambda: len(shelf.kept) == 1)
    (received,) = shelf.kept
    assert (received.tombstone, received.value, received.key) == (True, None, "customer/7")
    assert received.event.model_dump() == {"root": "customer/7", "key": "customer/7"}


# transactions


def test_what_was_aborted_is_never_seen(kafka: Kafka) -> None:
    publisher = Publisher(kafka, transactional_id="one")
    with pytest.raises(ZeroDivisionError), publisher.transaction():
        for number in range(50):
            publisher.send(TOPIC, read(number))
        publisher.flush()  # the broker has them all
        raise ZeroDivisionError
    with publisher.transaction():
        publisher.send(TOPIC, read(100))
    shelf = Shelf()
    with running(kafka, Member(shelf)):
        wait_for("the committed one is there", lambda: len(shelf.kept) > 0)
        publish(kafka, *(read(number) for number in range(101, 105)))
        wait_for("and what followed", lambda: len(shelf.kept) == 5)
    assert sorted(shelf.ids) == ["n100", "n101", "n102", "n103", "n104"]


def test_an_open_transaction_of_a_dead_publisher_is_ended_by_its_successor(kafka: Kafka) -> None:
    dead = Publisher(kafka, transactional_id="one")
    unfinished = dead.transaction()
    unfinished.__enter__()
    dead.send(TOPIC, read(1))
    successor = Publisher(kafka, transactional_id="one")
    with successor.transaction():
        successor.send(TOPIC, read(2))
    with pytest.raises(Fenced):
        unfinished.__exit__(None, None, None)
    shelf = Shelf()
    with running(kafka, Member(shelf)):
        wait_for("the successor's is there", lambda: len(shelf.kept) == 1)
    assert shelf.ids == ["n2"]


def test_who_was_fenced_publishes_nothing_more(kafka: Kafka) -> None:
    former = Publisher(kafka, transactional_id="one")
    Publisher(kafka, transactional_id="one")
    with pytest.raises(Fenced), former.transaction():
        former.send(TOPIC, read(1))
    assert their_records(kafka, TOPIC) == []


def narrow_topic(kafka: Kafka) -> None:
    """Make the topic of account notices, whose broker takes no more than 1,000 bytes at once."""
    admin = AdminClient(client_settings(kafka))
    small = NewTopic(kafka.topic_prefix + ACCOUNT_NOTICES.name, 1, 1, config={"max.message.bytes": "1000"})
    for future in admin.create_topics([small]).values():
        future.result(timeout=60)
    known_to_the_broker(admin, kafka.topic_prefix + ACCOUNT_NOTICES.name)


def test_one_record_that_the_broker_refuses_ends_its_whole_transaction(kafka: Kafka) -> None:
    narrow_topic(kafka)
    publisher = Publisher(kafka, transactional_id="one")
    # what does not compress
    bulky = read(2)._replace(value=secrets.token_bytes(5000))
    with pytest.raises(NotPublished), publisher.transaction():
        publisher.send(ACCOUNT_NOTICES, read(1))
        publisher.send(ACCOUNT_NOTICES, bulky)
        publisher.send(ACCOUNT_NOTICES, read(3))
    successor = Publisher(kafka, transactional_id="one")
    with successor.transaction():
        successor.send(ACCOUNT_NOTICES, read(4))
    assert [record.key for record in their_records(kafka, ACCOUNT_NOTICES)] == [b"notice/4"]


def test_many_records_go_where_they_are_said_to_lie_and_one_that_the_broker_refuses_is_told(kafka: Kafka) -> None:
    publisher = Publisher(kafka)
    envelopes = Envelopes("/index", NOW)
    ids = [f"id-{number}".encode() for number in range(300)]
    roots = [f"customer/{number}".encode() for number in range(300)]
    publisher.send_records(TOPIC, envelopes.records("x", ((root, root, "{}") for root in roots), ids), partition=1)
    publisher.flush()
    records = their_records(kafka, TOPIC)
    assert {record.partition for record in records} == {1}
    assert [(record.key, dict(record.headers)["ce_id"]) for record in records] == list(zip(roots, ids, strict=True))
    narrow_topic(kafka)
    bulky = secrets.token_hex(5000)
    publisher.send_records(ACCOUNT_NOTICES, envelopes.records("x", [(b"k", b"k", bulky)]))
    with pytest.raises(NotPublished, match="1 records were not published"):
        publisher.flush()
    publisher.flush()
    assert their_records(kafka, ACCOUNT_NOTICES) == []


def old_topic(kafka: Kafka) -> str:
    """Make the topic of account notices as an earlier version did: its broker takes a megabyte at once."""
    name = kafka.topic_prefix + ACCOUNT_NOTICES.name
    admin = AdminClient(client_settings(kafka))
    admin.create_topics([NewTopic(name, PARTITIONS, 1, config={"max.message.bytes": "1048588"})])[name].result(60)
    known_to_the_broker(admin, name)
    return name


@pytest.mark.parametrize("transactional_id", [None, "one"])
@pytest.mark.parametrize("many", [False, True])
def test_what_a_topic_refuses_as_too_large_names_the_topic_and_the_command(
    kafka: Kafka, transactional_id: str | None, many: bool
) -> None:
    name = old_topic(kafka)
    bulky = secrets.token_hex(1_100_000)

    def publish_one(value: str) -> None:
        publisher = Publisher(kafka, transactional_id=transactional_id)

        def send() -> None:
            publisher.send(ACCOUNT_NOTICES, read(1))
            if many:
                records = Envelopes("/index", NOW).records("x", [(b"k", b"r", "{}"), (b"k", b"k", value)])
                publisher.send_records(ACCOUNT_NOTICES, records)
            else:
                publisher.send(ACCOUNT_NOTICES, read(2)._replace(value=value.encode()))

        if transactional_id is None:
            send()
            publisher.flush()
        else:
            with publisher.transaction():
                send()

    wanted = rf"topic {name} refuses a message of 2,200,000 bytes .*run `tocsin topics apply`"
    with pytest.raises(NotPublished, match=wanted):
        publish_one(bulky)
    # what no topic takes is not the topic's fault
    with pytest.raises(
        NotPublished, match=rf"a message of 9,000,000 bytes for topic {name} is not published: 8,388,608"
    ):
        publish_one("x" * 9_000_000)


# other clients


def test_kafka_python_reads_what_we_write(kafka: Kafka) -> None:
    publisher = Publisher(kafka, transactional_id="one")
    messages = [read(number) for number in range(200)]
    with publisher.transaction():
        for message in messages:
            publisher.send(TOPIC, message)
    records = {record.key.decode(): record for record in their_records(kafka, TOPIC)}
    assert len(records) == 200
    for message in messages:
        record = records[message.key]
        headers = dict(record.headers)
        assert headers == dict(message.headers)
        assert (headers["ce_specversion"], headers["content-type"]) == (b"1.0", b"application/json")
        assert open_envelope(record.key, record.value, headers) == open_envelope(
            message.key.encode(), message.value, dict(message.headers)
        )
        assert record.partition == partition_of(message.root, PARTITIONS)


def test_kafka_python_would_put_every_root_on_the_same_partition(kafka: Kafka) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    try:
        roots = [f"customer/{number}" for number in range(40)] + [f"order/{number}" for number in range(40)]
        name = kafka.topic_prefix + TOPIC.name
        chosen = [producer.send(name, key=root.encode(), value=b"x") for root in roots]
        producer.flush(timeout=60)
        assert [future.get(timeout=60).partition for future in chosen] == [
            partition_of(root, PARTITIONS) for root in roots
        ]
    finally:
        producer.close()
