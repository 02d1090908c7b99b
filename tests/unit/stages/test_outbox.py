"""The outbox stage: in order, whole batches, the same events after a crash, and one publisher at a time."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bridge.contracts.envelope import Message, open_envelope
from bridge.contracts.errors import Unreachable
from bridge.contracts.events import CaseEvent
from bridge.contracts.partitioner import partition_of
from bridge.contracts.topics import CASE_EVENTS, DELIVERY_COMMANDS, Topic
from bridge.runtime.clock import SetClock
from bridge.runtime.kafka import Fenced, NotPublished
from bridge.runtime.telemetry import Health
from consumers.stages.outbox import AGE, DEPTH, OutboxStage

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """A row as the outbox table gives it."""

    event_id: str
    value: str
    topic: str = CASE_EVENTS.name
    root: str = "INC-2026-0001"
    key: str = "INC-2026-0001"
    ce_type: str = CaseEvent.ce_type
    written_at: datetime = NOW
    event_count: int = 1


class Killed(BaseException):
    """The process ends here."""


class Table:
    """Rows that wait."""

    def __init__(self, count: int) -> None:
        self.rows = [row_of(number) for number in range(1, count + 1)]
        self.die_before_settling = False

    def next_batch(self, limit: int) -> Sequence[Row]:
        return self.rows[:limit]

    def settle(self, batch: Sequence[Row]) -> None:
        if self.die_before_settling:
            self.die_before_settling = False
            raise Killed
        self.rows = [row for row in self.rows if row not in batch]

    def depth(self) -> tuple[int, datetime | None]:
        return len(self.rows), NOW - timedelta(seconds=5) if self.rows else None


class Topics:
    """What is published, and how many publishers were opened."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.transactions: list[int] = []
        self.opened = 0
        self.faults: list[Exception] = []
        self.partition_count = DELIVERY_COMMANDS.partitions

    def open(self) -> "Publisher":
        self.opened += 1
        return Publisher(self)


class Publisher:
    """Publishes to the list, transaction by transaction."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._pending: list[Message] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._pending = []
        yield
        if self._topics.faults:
            raise self._topics.faults.pop(0)
        self._topics.published.extend(self._pending)
        self._topics.transactions.append(len(self._pending))

    def send(self, topic: Topic, message: Message) -> None:
        assert topic in (CASE_EVENTS, DELIVERY_COMMANDS)
        self._pending.append(message)

    def partition_count(self, topic: Topic) -> int:
        assert topic is DELIVERY_COMMANDS
        return self._topics.partition_count


class Lease:
    """Held, or lost after so many times."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)
        self.released = False

    def take(self) -> bool:
        return self._answers.pop(0) if self._answers else True

    def release(self) -> None:
        self.released = True


def row_of(number: int) -> Row:
    event = CaseEvent(case_event_id=f"e{number}", kind="test.done", incident_id=None, actor=None, occurred_at=NOW)
    return Row(f"e{number}", event.model_dump_json())


def stage_of(table: Table, topics: Topics, lease: Lease | None = None, batch_size: int = 10) -> OutboxStage[Row]:
    return OutboxStage(
        table, lease or Lease(), topics.open, SetClock(NOW), Health(), batch_size=batch_size, idle_seconds=0.001
    )


def numbers(topics: Topics) -> list[int]:
    return [int(dict(message.headers)["ce_id"].decode().removeprefix("e")) for message in topics.published]


def run_until_empty(stage: OutboxStage[Row], table: Table) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stage.run, args=(stop,))
    thread.start()
    pause = threading.Event()
    for _ in range(1000):
        if not table.rows:
            break
        pause.wait(0.01)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert table.rows == []


def test_rows_leave_in_order_and_in_whole_batches() -> None:
    table, topics = Table(25), Topics()
    stage = stage_of(table, topics)
    assert [stage.publish_once(topics.open()) for _ in range(4)] == [10, 10, 5, 0]
    assert numbers(topics) == list(range(1, 26))
    assert topics.transactions == [10, 10, 5]


def test_a_published_row_is_the_event_with_its_own_id_time_and_root() -> None:
    table, topics = Table(1), Topics()
    stage_of(table, topics).publish_once(topics.open())
    (message,) = topics.published
    headers = dict(message.headers)
    assert open_envelope(message.key.encode(), message.value, headers).model_dump()["case_event_id"] == "e1"
    assert (headers["ce_id"], headers["ce_time"], message.root) == (b"e1", b"2026-03-01T00:00:00Z", "INC-2026-0001")


def test_a_pack_leaves_as_it_lies_there_but_in_parts_where_the_topic_has_other_partitions() -> None:
    people = [f"INC-2026-0001:customer/{number}" for number in range(100)]
    home = partition_of(people[0], DELIVERY_COMMANDS.partitions)
    people = [each for each in people if partition_of(each, DELIVERY_COMMANDS.partitions) == home]
    value = json.dumps({"events": [{"recipient_id": each} for each in people]}, separators=(",", ":"))
    pack = Row("e1", value, DELIVERY_COMMANDS.name, people[0], people[0], "tocsin.notices.deliver.v1", NOW, len(people))
    for count in (DELIVERY_COMMANDS.partitions, 4):
        table, topics = Table(0), Topics()
        table.rows, topics.partition_count = [pack], count
        assert stage_of(table, topics).publish_once(topics.open()) == len(people)
        told = [json.loads(message.value or b"")["events"] for message in topics.published]
        assert sorted(each["recipient_id"] for events in told for each in events) == sorted(people)
        for events, message in zip(told, topics.published, strict=True):
            assert (message.root, message.key) == (events[0]["recipient_id"],) * 2
            assert {partition_of(each["recipient_id"], count) for each in events} == {partition_of(message.root, count)}
        if count == DELIVERY_COMMANDS.partitions:
            assert [message.value for message in topics.published] == [value.encode()]
        else:
            assert len({dict(message.headers)["ce_id"] for message in topics.published}) == len(told) > 1


def test_a_crash_between_publish_and_settle_repeats_the_same_events() -> None:
    table, topics = Table(3), Topics()
    table.die_before_settling = True
    with pytest.raises(Killed):
        stage_of(table, topics).publish_once(topics.open())
    stage_of(table, topics).publish_once(topics.open())
    assert numbers(topics) == [1, 2, 3, 1, 2, 3]
    assert table.rows == []


def test_what_kafka_did_not_take_is_kept_and_a_new_publisher_settles_it() -> None:
    table, topics = Table(3), Topics()
    topics.faults = [NotPublished("no acknowledgement")]
    run_until_empty(stage_of(table, topics), table)
    assert (numbers(topics), topics.opened) == ([1, 2, 3], 2)


def test_who_is_fenced_ends_and_settles_nothing() -> None:
    table, topics, lease = Table(3), Topics(), Lease()
    topics.faults = [Fenced("another process took over")]
    with pytest.raises(Fenced):
        stage_of(table, topics, lease).run(threading.Event())
    assert (len(table.rows), topics.published, lease.released) == (3, [], True)


def test_who_waits_for_the_lease_opens_no_publisher_and_so_fences_nobody() -> None:
    table, topics, stop = Table(3), Topics(), threading.Event()

    class Taken(Lease):
        def take(self) -> bool:
            stop.set()
            return False

    stage_of(table, topics, Taken()).run(stop)
    assert (topics.opened, len(table.rows)) == (0, 3)


def test_after_losing_the_lease_the_publisher_is_opened_anew() -> None:
    table, topics = Table(25), Topics()
    run_until_empty(stage_of(table, topics, Lease(True, False, True)), table)
    assert (numbers(topics), topics.opened) == (list(range(1, 26)), 2)


def test_while_nothing_leaves_it_is_shown_how_long_the_oldest_waits() -> None:
    """The page for an outbox that is behind hangs on it; what is not published because Kafka is away counts above all."""
    table, topics, stop = Table(3), Topics(), threading.Event()

    def cannot() -> Publisher:
        stop.set()
        raise Unreachable("Kafka does not answer")

    DEPTH.set(0)
    AGE.set(0)
    topics.open = cannot  # type: ignore[method-assign]  # a broker that is away
    stage_of(table, topics).run(stop)
    assert (DEPTH._value.get(), AGE._value.get()) == (3, 5)


def test_whoever_lost_the_lease_shows_nothing_of_what_it_saw() -> None:
    table, topics, stop = Table(3), Topics(), threading.Event()
    DEPTH.set(3)
    AGE.set(500)

    class Taken(Lease):
        def take(self) -> bool:
            stop.set()
            return False

    stage_of(table, topics, Taken()).run(stop)
    assert (DEPTH._value.get(), AGE._value.get()) == (0, 0)


def test_depth_and_age_are_shown() -> None:
    table, topics, stop = Table(0), Topics(), threading.Event()
    table.depth = lambda: (4, NOW - timedelta(seconds=5))  # type: ignore[method-assign]  # rows that others just wrote

    class Once(Lease):
        def release(self) -> None:
            self.released = True

        def take(self) -> bool:
            stop.set()
            return True

    stage_of(table, topics, Once()).run(stop)
    assert (DEPTH._value.get(), AGE._value.get()) == (4, 5)
