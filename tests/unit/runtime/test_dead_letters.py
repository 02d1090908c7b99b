"""Dead letters: the bytes as they came, one identity for one message, and a bound past which nothing is published."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.envelope import Message, Spoilt, open_envelope
from bridge.contracts.events import DeadLettered
from bridge.contracts.topics import DEAD_LETTERS, MOST_BYTES, Topic
from bridge.runtime.clock import SetClock
from bridge.runtime.dead_letters import DeadLetters, TooManyDeadLetters

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Publisher:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.flushed = 0

    def send(self, topic: Topic, message: Message) -> None:
        assert topic is DEAD_LETTERS
        self.sent.append(message)

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def letters(self) -> list[DeadLettered]:
        opened = [open_envelope(sent.key.encode(), sent.value, dict(sent.headers)) for sent in self.sent]
        assert all(isinstance(letter, DeadLettered) for letter in opened)
        return [letter for letter in opened if isinstance(letter, DeadLettered)]


class World:
    """Dead letters of one consumer, its publisher and its stop-watch."""

    def __init__(self, limit: int = 100) -> None:
        self.publisher = Publisher()
        self.opened = 0
        self.seconds = 0.0
        self.letters = DeadLetters(
            self._open, "index", SetClock(NOW), limit_per_minute=limit, monotonic=lambda: self.seconds
        )

    def _open(self) -> Any:
        self.opened += 1
        return self.publisher

    def put(self, offset: int = 0, value: bytes | None = b"x", headers: Any = ()) -> None:
        self.letters.put_raw("tocsin.store-changes", 3, offset, b"k", value, headers, "unknown ce_type")


@given(
    st.binary(), st.none() | st.binary(), st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=9)))
)
def test_key_value_and_headers_are_kept_byte_for_byte(key: bytes, value: bytes | None, headers: Any) -> None:
    world = World()
    world.letters.put_raw("tocsin.store-changes", 3, 17, key, value, headers, "reason")
    (letter,) = world.publisher.letters()
    assert base64.b64decode(letter.key or "") == key
    assert (letter.value is None) == (value is None)
    assert base64.b64decode(letter.value or "") == (value or b"")
    assert {name: base64.b64decode(text) for name, text in letter.headers.items()} == {
        name: content or b"" for name, content in headers
    }
    assert (letter.topic, letter.partition, letter.offset, letter.consumer, letter.failed_at) == (
        "tocsin.store-changes", 3, 17, "index", NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "headers", "value"),
    [
        (b"k", [("ce_type", b"x")], b"A" * 20_000_000),
        (b"k" * 9_000_000, [], b"v"),
        (b"k", [("ce_type", b"x"), ("h", b"B" * 9_000_000), ("ce_id", b"1")], b"v"),
        (b"k", [(f"\x01{number}", b"") for number in range(900_000)], b"v"),
    ],
)
def test_of_a_message_too_large_for_a_letter_the_beginning_is_kept(
    key: bytes, headers: list[tuple[str, bytes]], value: bytes
) -> None:
    """Its consumer could otherwise never come past it."""
    world = World()
    world.letters.put_raw("tocsin.leak-alerts", 0, 3, key, value, headers, "no alert" + "!" * 9_000_000)
    (letter,) = world.publisher.letters()
    assert len(world.publisher.sent[0].value or b"") < MOST_BYTES - 100_000
    assert key.startswith(base64.b64decode(letter.key or ""))
    assert value.startswith(base64.b64decode(letter.value or ""))
    assert {name: base64.b64decode(text) for name, text in letter.headers.items()}.items() <= dict(headers).items()
    parts = [key, value, *(part for name, content in headers for part in (name.encode(), content))]
    kept = [letter.key or "", letter.value or "", *letter.headers.values()]
    kept_bytes = sum(len(base64.b64decode(part)) for part in kept) + sum(map(len, letter.headers))
    assert letter.left_out_bytes == sum(map(len, parts)) - kept_bytes > 0


@pytest.mark.parametrize(
    ("said_ms", "sent_at"), [(0, None), (1_000, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)), (1 << 62, None)]
)
def test_when_the_message_was_sent_is_kept(said_ms: int, sent_at: datetime | None) -> None:
    world = World()
    world.letters.put_raw("tocsin.leak-alerts", 0, 3, b"k", b"v", [], "no alert", timestamp_ms=said_ms)
    (letter,) = world.publisher.letters()
    assert letter.sent_at == sent_at


def test_the_same_message_again_is_the_same_letter() -> None:
    world = World()
    for offset in (1, 1, 2):
        world.put(offset)
    first, again, other = world.publisher.letters()
    assert first.dead_letter_id == again.dead_letter_id != other.dead_letter_id


@pytest.mark.parametrize("changed", [{"value": b"another"}, {"value": None}, {"headers": [("ce_id", b"2")]}])
def test_another_message_at_the_same_place_is_another_letter(changed: dict[str, Any]) -> None:
    """As in the next generation of a topic, or in one that was deleted and made anew: readers show each letter once."""
    world = World()
    world.put(1)
    world.put(1, **changed)
    letter, other = world.publisher.letters()
    assert letter.dead_letter_id != other.dead_letter_id


def test_what_came_of_a_queue_is_one_letter_however_it_is_sealed() -> None:
    world = World()
    for sealed in (b"sealed", b"sealed anew"):
        world.letters.put_raw("queue:ses", 0, 17, None, sealed, [], "no receipt")
    letter, again = world.publisher.letters()
    assert letter.dead_letter_id == again.dead_letter_id


def test_an_event_of_a_pack_is_kept_as_a_message_of_its_own() -> None:
    class Record:
        key = staticmethod(lambda: b"k")
        partition = staticmethod(lambda: 3)
        offset = staticmethod(lambda: 17)
        timestamp = staticmethod(lambda: (1, 5))
        headers = staticmethod(lambda: [("ce_type", b"the pack's"), ("ce_id", b"1")])

    world = World()
    for place in (4, 5, 4):
        world.letters.put_spoilt("tocsin.delivery-commands", Record(), Spoilt(place, "its own", b"{}", "why"))
    letter, other, again = world.publisher.letters()
    assert letter.dead_letter_id == again.dead_letter_id != other.dead_letter_id
    assert {name: base64.b64decode(text) for name, text in letter.headers.items()} == {
        "ce_id": b"1", "ce_type": b"its own",
    }  # fmt: skip
    assert (base64.b64decode(letter.value or ""), letter.error, letter.offset) == (b"{}", "why", 17)


def test_past_the_bound_nothing_is_published_and_the_place_is_named() -> None:
    world = World(limit=3)
    for offset in range(3):
        world.put(offset)
    with pytest.raises(TooManyDeadLetters, match=r"partition 3 offset 3 with nothing skipped.*unknown ce_type"):
        world.put(3)
    assert len(world.publisher.sent) == 3


def test_the_bound_is_for_any_sixty_seconds() -> None:
    world = World(limit=2)
    world.put(0)
    world.seconds = 40
    world.put(1)
    world.seconds = 60
    with pytest.raises(TooManyDeadLetters):
        world.put(2)
    world.seconds = 60.5
    world.put(2)
    with pytest.raises(TooManyDeadLetters):
        world.put(3)
    world.seconds = 101
    world.put(3)
    assert len(world.publisher.sent) == 4


def test_it_is_told_when_the_bound_lets_one_more_through() -> None:
    world = World(limit=2)
    world.put(0)
    world.seconds = 40
    assert world.letters.seconds_until_room() == 0
    world.put(1)
    assert world.letters.seconds_until_room() == 20
    world.seconds = 61
    assert world.letters.seconds_until_room() == 0
    world.put(2)
    assert world.letters.seconds_until_room() == 39


def test_no_publisher_is_opened_while_all_can_be_read() -> None:
    world = World()
    world.letters.flush()
    assert world.opened == 0
    world.put(0)
    world.put(1)
    assert (world.opened, world.publisher.flushed) == (1, 0)
    world.letters.flush()
    assert world.publisher.flushed == 2


def test_a_pack_whose_every_event_is_spoilt_counts_as_the_one_message_that_it_is() -> None:
    world = World(limit=2)
    for place in range(50):
        world.letters.put_raw("tocsin.delivery-commands", 3, 17, b"k", b"{}", (), "why", place=place)
    world.put(18)
    assert len(world.publisher.sent) == 51
    with pytest.raises(TooManyDeadLetters):
        world.put(19)


def test_how_many_may_be_processed_together_is_what_the_bound_still_lets_through() -> None:
    world = World(limit=20)
    assert (world.letters.most_at_once, world.letters.are_frequent, world.letters.seconds_until_room()) == (
        20,
        False,
        0,
    )
    world.put(0)
    assert (world.letters.most_at_once, world.letters.are_frequent) == (19, False)
    world.seconds = 10
    for offset in range(1, 20):
        world.put(offset)
    assert (world.letters.most_at_once, world.letters.are_frequent, world.letters.seconds_until_room()) == (1, True, 50)
    world.seconds = 60.5
    assert (world.letters.most_at_once, world.letters.seconds_until_room()) == (1, 0)
    world.seconds = 70.5
    assert (world.letters.most_at_once, world.letters.are_frequent) == (20, False)
