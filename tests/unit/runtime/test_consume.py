"""The consume loop over a scripted consumer: order of steps, where reading begins, and which errors end it."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from bridge.contracts.envelope import Spoilt, seal_bytes, seal_envelope
from bridge.contracts.errors import TocsinError, Unreachable
from bridge.contracts.events import Channel, DeliverNotice, DeliverNotices, NoticeRead, each_of
from bridge.contracts.topics import DELIVERY_OUTCOMES
from bridge.runtime import consume as loop
from bridge.runtime.consume import Lines, PassedOver, Received, Unopened, consume
from bridge.runtime.kafka import Positions
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAME = DELIVERY_OUTCOMES.name
KAFKA = Kafka(topic_prefix="p.")


class Record:
    """A message as confluent-kafka gives it."""

    def __init__(
        self,
        partition: int,
        offset: int,
        value: bytes | None = b"garbage",
        *,
        key: bytes = b"key",
        headers: Any = None,
        fault: Any = None,
    ) -> None:
        self._fields = (f"p.{NAME}", partition, offset, key, value, headers, (1, 1234), fault)

    topic = property(lambda self: lambda: self._fields[0])
    partition = property(lambda self: lambda: self._fields[1])
    offset = property(lambda self: lambda: self._fields[2])
    key = property(lambda self: lambda: self._fields[3])
    value = property(lambda self: lambda: self._fields[4])
    headers = property(lambda self: lambda: self._fields[5])
    timestamp = property(lambda self: lambda: self._fields[6])
    error = property(lambda self: lambda: self._fields[7])


def good(partition: int, offset: int) -> Record:
    sealed = seal_envelope(
        NoticeRead(notice_id=f"n{offset}", customer_id=1, read_at=NOW),
        key="key",
        root="customer/1",
        source="/s",
        at=NOW,
    )
    return Record(partition, offset, sealed.value, headers=list(sealed.headers))


class World:
    """Consumer, handler and dead letters in one, with a journal of the order."""

    def __init__(self, *batches: list[Record] | Exception) -> None:
        self.batches = list(batches)
        self.journal: list[Any] = []
        self.stop = threading.Event()
        self.health = Health()
        self.health.ready()
        self.known: dict[tuple[str, int], int] = {}
        self.callbacks: dict[str, Callable[..., None]] = {}
        self.commit_error: Exception | None = None
        self.revoked_before = 0
        """When so many batches are left behind the next one, partition 1 is revoked."""
        self.received: list[Received] = []
        self.partitions: list[TopicPartition] = []

    def run(self, **options: Any) -> None:
        consume(
            KAFKA, "g", [DELIVERY_OUTCOMES], self, stop=self.stop, dead_letters=self, health=self.health, **options  # type: ignore[arg-type]  # as DeadLetters
        )  # fmt: skip

    # the consumer

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.journal.append(("subscribe", topics))
        self.callbacks = callbacks

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.partitions = partitions

    def assignment(self) -> list[TopicPartition]:
        return self.partitions

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return partitions

    def get_watermark_offsets(self, partition: TopicPartition, cached: bool) -> tuple[int, int]:
        return -1001, -1001  # as long as nothing was fetched

    def consume(self, count: int, timeout: float) -> list[Record]:
        if not self.batches:
            self.stop.set()
            return []
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        if self.revoked_before and len(self.batches) == self.revoked_before:
            self.callbacks["on_revoke"](self, [TopicPartition(f"p.{NAME}", 1)])
        return batch

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        if self.commit_error is not None:
            raise self.commit_error
        self.journal.append(("commit", [(item.topic, item.partition, item.offset) for item in offsets]))

    def close(self) -> None:
        self.journal.append("close")

    # dead letters

    most_at_once = 1000
    are_frequent = False

    def put(self, topic: str, message: Record, reason: str) -> None:
        self.journal.append(("letter", topic, message.offset()))

    def put_spoilt(self, topic: str, message: Record, spoilt: Spoilt) -> None:
        self.journal.append(("letter", topic, message.offset(), spoilt.place))

    def flush(self) -> None:
        self.journal.append("flush")

    # the handler

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return self.known

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.journal.append(("revoked", list(partitions)))

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        self.received.extend(batch)
        self.journal.append(("handle", [item.offset for item in batch], dict(positions)))

    def tick(self) -> None:
        self.journal.append("tick")


@pytest.fixture
def world_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def make(*batches: list[Record] | Exception) -> World:
        world = World(*batches)
        monkeypatch.setattr("bridge.runtime.consume.new_consumer", lambda kafka, group, **_options: world)
        return world

    return make


WorldOf = Callable[..., World]


def test_dead_letters_are_stored_then_the_batch_is_handled_then_progress_is_shown(world_of: WorldOf) -> None:
    world = world_of([good(0, 4), Record(0, 5), good(1, 9)])
    world.run()
    assert world.journal == [
        ("subscribe", [f"p.{NAME}"]),
        ("letter", NAME, 5),
        "flush",
        ("handle", [4, 9], {(NAME, 0): 6, (NAME, 1): 10}),
        ("commit", [(f"p.{NAME}", 0, 6), (f"p.{NAME}", 1, 10)]),
        "tick",
        "tick",
        "close",
    ]


def test_a_batch_of_dead_letters_alone_moves_the_position(world_of: WorldOf) -> None:
    world = world_of([Record(0, 5)])
    world.run()
    assert ("handle", [], {(NAME, 0): 6}) in world.journal


def test_a_message_is_handed_over_with_its_logical_topic_and_headers(world_of: WorldOf) -> None:
    world = world_of([good(3, 7)])
    world.run()
    (received,) = world.received
    assert (received.topic, received.partition, received.offset, received.key) == (NAME, 3, 7, "key")
    assert (received.headers["ce_root"], received.timestamp_ms, received.tombstone) == (b"customer/1", 1234, False)
    assert "notice_id" not in repr(received).partition("event=")[0]


def test_reading_begins_at_the_handlers_position_or_at_the_beginning(world_of: WorldOf) -> None:
    world = world_of()
    world.known = {(NAME, 0): 17}
    world.run()
    assert world.health.reasons() == {"assignment": "waiting for partitions"}
    world.callbacks["on_assign"](world, [TopicPartition(f"p.{NAME}", 0), TopicPartition(f"p.{NAME}", 1)])
    assert [item.offset for item in world.partitions] == [17, OFFSET_BEGINNING]
    assert world.health.reasons() == {}
    world.callbacks["on_lost"](world, [TopicPartition(f"p.{NAME}", 1)])
    assert world.journal[-1] == ("revoked", [(NAME, 1)])


@pytest.mark.parametrize("code", [KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT])
def test_an_error_that_passes_is_waited_out(world_of: WorldOf, code: int) -> None:
    world = world_of([Record(0, 0, fault=KafkaError(code))], [good(0, 1)])
    world.run()
    assert ("handle", [1], {(NAME, 0): 2}) in world.journal


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "tocsin topics apply"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Kafka: "),
        (KafkaError._MAX_POLL_EXCEEDED, "Kafka: "),
    ],
)
def test_an_error_that_does_not_ends_the_loop_by_name(world_of: WorldOf, code: int, words: str) -> None:
    world = world_of([good(0, 1), Record(0, 0, fault=KafkaError(code))])
    with pytest.raises(Unreachable, match=words):
        world.run()
    assert world.received == []
    assert world.journal[-1] == "close"


def test_progress_that_cannot_be_shown_stops_nothing(world_of: WorldOf) -> None:
    world = world_of([good(0, 1)], [good(0, 2)])
    world.commit_error = KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))
    world.run()
    assert [received.offset for received in world.received] == [1, 2]


def test_progress_is_shown_at_once_and_then_now_and_then_but_never_later_than_the_end(world_of: WorldOf) -> None:
    world = world_of([good(0, 1)], [good(0, 2)], [good(0, 3)])
    world.run()
    commits = [step for step in world.journal if step[0] == "commit"]
    assert commits == [("commit", [(f"p.{NAME}", 0, 2)]), ("commit", [(f"p.{NAME}", 0, 4)])]
    assert world.journal[-2:] == [commits[-1], "close"]


@pytest.mark.parametrize("fault", [ZeroDivisionError(), TocsinError("x")])
def test_what_the_handler_raises_ends_the_loop_without_showing_progress(world_of: WorldOf, fault: Exception) -> None:
    world = world_of([good(0, 1)])

    def fail(batch: Sequence[Received], positions: Positions) -> None:
        raise fault

    world.handle = fail  # type: ignore[method-assign]  # a handler that fails
    with pytest.raises(type(fault)):
        world.run()
    assert world.journal[-1] == "close"
    assert all(step[0] != "commit" for step in world.journal)


def test_pieces_that_wait_are_gathered_to_one_batch_up_to_its_size(
    world_of: WorldOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PIECE", 2)
    pieces = [[good(0, number), good(1, number)] for number in range(4)]
    world = world_of(*pieces, [good(0, 4)], [good(0, 5)])
    world.run(batch_size=6)
    handled = [step[1:] for step in world.journal if step[0] == "handle"]
    assert handled == [
        ([0, 0, 1, 1, 2, 2], {(NAME, 0): 3, (NAME, 1): 3}),
        ([3, 3, 4], {(NAME, 0): 5, (NAME, 1): 4}),
        ([5], {(NAME, 0): 6}),
    ]


def test_what_was_gathered_of_a_partition_is_dropped_when_it_is_revoked(
    world_of: WorldOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PIECE", 4)
    lines = Unopened(DELIVERY_OUTCOMES, "row/")
    first = [good(0, 1), good(1, 1), Record(0, 2, b'{"a":1}', key=b"row/1"), Record(1, 2, b'{"a":2}', key=b"row/2")]
    world = world_of(first, [good(0, 3)], [])
    world.revoked_before = 1
    world.run(batch_size=10, unopened=lines)
    assert ("handle", [1, 3], {(NAME, 0): 4}) in world.journal
    assert {partition: each.offsets for partition, each in lines.take().items()} == {0: [2]}


@pytest.mark.parametrize("count", range(6))
def test_lines_are_split_where_asked_however_they_lie_in_chunks(count: int) -> None:
    offsets, texts = [3, 4, 6, 9, 10], [b'{"a":1}', b'{"a":2}', b'{"a":3}', b'{"a":4}', b'{"a":5}']
    lines = Lines(offsets, [texts[0], b"\n".join(texts[1:4]), texts[4]])
    first, others = lines.split(count)
    assert (first.offsets, others.offsets) == (offsets[:count], offsets[count:])
    for part, expected in ((first, texts[:count]), (others, texts[count:])):
        assert [line for chunk in part.chunks for line in chunk.split(b"\n")] == expected


def test_lines_are_collected_by_key_and_form_with_their_offsets(world_of: WorldOf) -> None:
    lines = Unopened(DELIVERY_OUTCOMES, "row/")
    row = b"row/1"
    world = world_of(
        [
            Record(0, 4, b'{"a":1}', key=row),
            good(0, 5),
            Record(0, 6, b'{"a":2}', key=row),
            Record(1, 3, b'{"a":3}', key=row),
            Record(0, 7, b'{"a":\n4}', key=row),
            Record(0, 8, b'["a"]', key=row),
            Record(0, 9, None, key=row),
            Record(0, 10, b'{"a":1}', key=b"other"),
        ]
    )
    world.run(unopened=lines)
    # What is not collected goes its usual way: opened, or set aside.
    assert ("handle", [5], {(NAME, 0): 11, (NAME, 1): 4}) in world.journal
    assert [step[2] for step in world.journal if step[0] == "letter"] == [7, 8, 9, 10]
    taken = lines.take()
    assert (taken[0].offsets, taken[0].chunks) == ([4, 6], [b'{"a":1}\n{"a":2}'])
    assert (taken[1].offsets, taken[1].chunks) == ([3], [b'{"a":3}'])
    assert lines.take() == {}


def test_what_is_passed_over_moves_the_position_once_and_is_never_opened(world_of: WorldOf) -> None:
    world = world_of([good(0, 4), Record(0, 5, key=b"INC-1")], [Record(1, 7, key=b"INC-2")], [])
    world.run(unopened=PassedOver(DELIVERY_OUTCOMES, "INC-"))
    handled = [step[1:] for step in world.journal if step[0] == "handle"]
    assert handled == [([4], {(NAME, 0): 6}), ([], {(NAME, 1): 8})]
    assert "letter" not in [step[0] for step in world.journal]


def pack(partition: int, offset: int, *attempts: str | None) -> Record:
    """A pack of commands; None stands for one that cannot be read."""

    def one(attempt: str) -> str:
        return DeliverNotice(
            incident_id="INC-2026-0001", release_id="r", epoch=1, recipient_id="p", attempt_id=attempt, channel=Channel.EMAIL,
            lane="l",
        ).model_dump_json()  # fmt: skip

    events = ",".join('{"attempt_id":"x"}' if each is None else one(each) for each in attempts)
    value = f'{{"events":[{events}]}}'
    sealed = seal_bytes(
        value.encode(), ce_type=DeliverNotices.ce_type, key="p", root="p", source="/tocsin/case", at=NOW
    )
    return Record(partition, offset, sealed.value, headers=list(sealed.headers))


def test_of_a_pack_only_what_cannot_be_read_becomes_a_dead_letter(world_of: WorldOf) -> None:
    world = world_of([pack(0, 4, "a", None, "b"), pack(0, 5, None)])
    world.run()
    letters = [step for step in world.journal if step[0] == "letter"]
    assert letters == [("letter", NAME, 4, 1), ("letter", NAME, 5)], "the second holds nothing else: set aside whole"
    assert world.journal.index(letters[1]) < world.journal.index("flush")
    assert ("handle", [4], {(NAME, 0): 6}) in world.journal
    (received,) = world.received
    assert [each.attempt_id for each in each_of(received.event) if isinstance(each, DeliverNotice)] == ["a", "b"]


def test_a_batch_is_bounded_by_its_events_where_packs_come(world_of: WorldOf) -> None:
    records = [[pack(0, offset, *"abcd")] for offset in range(5)]
    world = world_of(*records)
    world.run(batch_size=10, records_at_once=1)
    assert [step[1] for step in world.journal if step[0] == "handle"] == [[0, 1, 2], [3, 4]]


def test_a_batch_is_bounded_by_what_its_messages_weigh(world_of: WorldOf) -> None:
    records = [[pack(0, offset, *events)] for offset, events in enumerate(("ab", "ab", "abcdefgh", "a", "a"))]
    world = world_of(*records)
    world.run(batch_size=100, records_at_once=1, weight_of=lambda received: len(each_of(received.event)) / 4)
    assert [step[1] for step in world.journal if step[0] == "handle"] == [[0, 1], [2], [3, 4]], "a pack is never parted"
