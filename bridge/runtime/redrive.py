"""Reading dead letters, and putting them back: the original bytes, on the partition where they first were."""

import base64
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope, seal_envelope
from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import DeadLettered
from bridge.contracts.partitioner import partition_of
from bridge.contracts.topics import DEAD_LETTERS, STORE_CHANGES, TOPICS
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.consume import headers_of
from bridge.runtime.dead_letters import QUEUE
from bridge.runtime.generations import has_generations, pinned, read_name
from bridge.runtime.kafka import NotPublished, Publisher, new_consumer, partition_count
from bridge.runtime.settings import Kafka

log = structlog.get_logger()

REDRIVEN_HEADER = "tocsin-redriven"
"""Says on the message which dead letter it was."""
SENT_HEADER = "tocsin-sent-at"
"""Says on it when the original was written, in milliseconds since 1970: a signature is of that time."""

SETTLE_SECONDS = 3.0
"""How long a redrive watches for what comes back. Whoever reads later, or does not run, has not said anything by then."""

_PUT_BACK = "/put-back"
"""Ends the event id of a message that says of a letter that it was put back."""
_SILENCE_SECONDS = 15.0
_NOT_YET_LED = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)


def dead_letters(kafka: Kafka) -> Iterator[DeadLettered]:
    """Yield all dead letters that are stored now, oldest first, with when each was put back; repeats of one after a crash once.

    Raises Unreachable.
    """
    put_back: dict[str, datetime] = {}
    # They come after the letters, of which there may be too many to hold.
    for message in _stored(kafka):
        if _says_put_back(message) and (said := _letter_in(message)) is not None and said.put_back_at is not None:
            put_back[said.dead_letter_id] = said.put_back_at
    seen: set[str] = set()
    for message in _stored(kafka):
        letter = None if _says_put_back(message) else _letter_in(message)
        if letter is not None and letter.dead_letter_id not in seen:
            seen.add(letter.dead_letter_id)
            yield letter.model_copy(update={"put_back_at": put_back.get(letter.dead_letter_id)})


def _says_put_back(message: Message) -> bool:
    return headers_of(message).get("ce_id", b"").endswith(_PUT_BACK.encode())


def _stored(kafka: Kafka) -> Iterator[Message]:
    consumer = new_consumer(kafka, "dead-letters-reader")
    name = kafka.topic_prefix + DEAD_LETTERS.name
    try:
        for partition in range(partition_count(consumer, name)):
            low, high = bounds(consumer, _TopicPartition(name, partition))
            consumer.assign([_TopicPartition(name, partition, low)])
            position = low
            while position < high:
                message = consumer.poll(_SILENCE_SECONDS)
                if message is None:
                    raise Unreachable(
                        f"{name}: nothing came for {_SILENCE_SECONDS:.0f} s at offset {position} of {high}"
                    )
                error = message.error()
                if error is not None:
                    raise Unreachable(f"{name}: {error.str()}")
                position = int(message.offset() or 0) + 1
                yield message
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    finally:
        consumer.close()


def _letter_in(message: Message) -> DeadLettered | None:
    """Return the dead letter in a message; None for one that is none, which keeps nobody from the others."""
    try:
        event = open_envelope(message.key(), message.value(), headers_of(message))
    except BadInput as fault:
        log.error("a message among the dead letters is none", offset=message.offset(), reason=str(fault))
        return None
    return event if isinstance(event, DeadLettered) else None


def bounds(consumer: Consumer, partition: _TopicPartition) -> tuple[int, int]:
    """Return the first offset and the one after the last, once the partition has a leader who says so."""
    give_up_at = time.monotonic() + _SILENCE_SECONDS
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, timeout=_SILENCE_SECONDS)
            return low, high
        except KafkaException as error:
            # A topic is led a moment after it was created; librdkafka does not call that retriable here.
            passing = error.args[0].retriable() or error.args[0].code() in _NOT_YET_LED
            if not passing or time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def find(letters: Sequence[DeadLettered], wanted: Sequence[str]) -> list[DeadLettered]:
    """Return the letters whose id starts with one of `wanted`, each once and in the order in which they are kept.

    Raises BadInput if one names none, or several.
    """
    found = set()
    for start in wanted:
        fitting = [letter.dead_letter_id for letter in letters if letter.dead_letter_id.startswith(start)]
        if len(fitting) != 1:
            count = "no dead letter" if not fitting else f"{len(fitting)} dead letters"
            raise BadInput(f"{start!r} names {count}; `tocsin dead-letters list` shows the ids")
        found.update(fitting)
    return [letter for letter in letters if letter.dead_letter_id in found]


def original_key(letter: DeadLettered) -> bytes | None:
    """Return the original key."""
    return None if letter.key is None else base64.b64decode(letter.key)


def original_value(letter: DeadLettered) -> bytes | None:
    """Return the original value; None was a tombstone."""
    return None if letter.value is None else base64.b64decode(letter.value)


def original_headers(letter: DeadLettered) -> Mapping[str, bytes]:
    """Return the original headers."""
    return {name: base64.b64decode(value) for name, value in letter.headers.items()}


def redriven(letter: DeadLettered) -> list[tuple[str, bytes]]:
    """Return the headers under which a letter is put back."""
    sent = {} if letter.sent_at is None else {SENT_HEADER: b"%d" % round(letter.sent_at.timestamp() * 1000)}
    # One that was put back before says already when it was written first.
    headers = {**sent, **original_headers(letter), REDRIVEN_HEADER: letter.dead_letter_id.encode()}
    return list(headers.items())


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a redrive."""

    put_back: int
    came_back: tuple[str, ...]
    """Why some became dead letters again: the reasons, one a letter."""


_ENTITIES = {"customer": "customers", "order": "orders", "provenance": "provenance"}
_TOPICS = {topic.name: topic for topic in TOPICS}


def reasons_against(kafka: Kafka, letters: Sequence[DeadLettered], *, again: bool = False) -> dict[str, str]:
    """Return why some of `letters` are not put back, by their ids; `again`: not because they were before.

    The store's changes are never put back: the store itself knows the newest state. On other compacted topics a letter
    goes back only while nothing newer has its key. Raises Unreachable.
    """
    consumer = new_consumer(kafka, "dead-letters-reader", enable_partition_eof=True)
    try:
        counts = cache(partial(partition_count, consumer))
        found = (
            (
                letter.dead_letter_id,
                (None if again else _done(letter)) or _reason_against(consumer, kafka, letter, counts),
            )
            for letter in letters
        )
        return {each: f"dead letter {each}{reason}" for each, reason in found if reason is not None}
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    finally:
        consumer.close()


def _done(letter: DeadLettered) -> str | None:
    """What was put back and failed again is another letter by now: both would put the same message back."""
    if letter.put_back_at is None:
        return None
    return f" was put back on {letter.put_back_at:%Y-%m-%d %H:%M}Z; --again puts it back once more"


def _reason_against(
    consumer: Consumer, kafka: Kafka, letter: DeadLettered, partition_count_of: Callable[[str], int]
) -> str | None:
    topic = _TOPICS.get(letter.topic)
    if letter.left_out_bytes:
        return (
            f" is too large for a letter and lacks {letter.left_out_bytes:,} bytes; while the topic keeps it, the original is in "
            f"{letter.topic}, partition {letter.partition}, offset {letter.offset}"
        )
    if letter.topic == STORE_CHANGES.name:
        key = (original_key(letter) or b"").decode(errors="replace")
        entity = _ENTITIES.get(key.partition("/")[0])
        named = f" --entity {entity}" if entity else ""
        return (
            f" is a state of the store as it was on {letter.failed_at:%Y-%m-%d %H:%M}Z; put back, it could hide a newer one. "
            f"Run `tocsin relay verify --repair`, or `tocsin relay backfill{named}`: they publish the state of now"
        )
    if letter.topic == f"{QUEUE}cloudwatch":
        return (
            " is a status of an SMS and stays in CloudWatch Logs: once what kept it from being read is mended, start the stage "
            "receipts again; it reads the last three days anew"
        )
    if letter.topic.startswith(QUEUE):
        return (
            f" came from the queue of {letter.topic.removeprefix(QUEUE)}, sealed, and no queue takes it back; "
            "`tocsin dead-letters show` says why it could not be read"
        )
    if topic is None:
        return f" is of topic {letter.topic!r}, which is not declared any more"
    if not has_generations(topic) and letter.partition >= partition_count_of(kafka.topic_prefix + topic.name):
        return f": {letter.topic} has no partition {letter.partition} any more"
    return _superseded(consumer, kafka, letter) if topic.cleanup == "compact" else None


def root_of(letter: DeadLettered) -> str:
    """Return the root under which the original lies."""
    return original_headers(letter).get("ce_root", original_key(letter) or b"").decode(errors="replace")


def _superseded(consumer: Consumer, kafka: Kafka, letter: DeadLettered) -> str | None:
    """Return why a letter of a compacted topic would hide something newer of its key, or bring back what that has removed."""
    name, partition = kafka.topic_prefix + letter.topic, letter.partition
    # In a later generation a root lies elsewhere, and offsets say nothing: what was copied there tells by when it was said.
    by_time = has_generations(_TOPICS[letter.topic]) and pinned(kafka) > 1
    if by_time:
        name = read_name(kafka, letter.topic)
        partition = partition_of(root_of(letter), partition_count(consumer, name))
    place = _TopicPartition(name, partition)
    low, high = bounds(consumer, place)
    key, position = original_key(letter), low
    if position >= high:
        return None
    consumer.assign([_TopicPartition(name, partition, position)])
    # As long as it has neither the original nor anything older of its key, something newer has taken their place.
    superseded = letter.value is not None and (by_time or high > letter.offset)
    while position < high:
        message = consumer.poll(_SILENCE_SECONDS)
        error = message.error() if message is not None else None
        if message is None or (error is not None and error.code() == KafkaError._PARTITION_EOF):
            # What is left are marks of transactions: nothing that could be hidden.
            break
        if error is not None:
            raise Unreachable(f"{name}: {error.str()}")
        position = int(message.offset() or 0) + 1
        if not by_time and position - 1 <= letter.offset and _is_later(message, letter):
            # Written after the letter, and not behind its place: a topic that was made anew.
            superseded = False
        if message.key() != key:
            continue
        if not (_is_newer(message, letter) if by_time else _lies_behind(message, letter)):
            superseded = False
            continue
        if headers_of(message).get(REDRIVEN_HEADER) == letter.dead_letter_id.encode():
            return f" was put back already: {letter.topic} partition {partition} holds it at offset {position - 1}"
        return (
            f": {letter.topic} partition {partition} holds a newer message of the same key at offset {position - 1}; put back, "
            "this one would hide it"
        )
    if superseded:
        return (
            f": {letter.topic} partition {partition} holds nothing of its key any more: something newer took its place and was "
            "removed since, as who was erased or whose time is over; put back, this one would return"
        )
    return None


def _lies_behind(message: Message, letter: DeadLettered) -> bool:
    """Whether a message was written behind the letter's original.

    In a topic that was deleted and made anew since, it may lie at any offset: all of it was written after the letter.
    """
    return int(message.offset() or 0) > letter.offset or _is_later(message, letter)


def _is_later(message: Message, letter: DeadLettered) -> bool:
    return bool(message.timestamp()[1] > letter.failed_at.timestamp() * 1000)


def _is_newer(message: Message, letter: DeadLettered) -> bool:
    """Whether a message of the letter's key was said after it, and is no copy of it."""
    theirs, ours = headers_of(message), original_headers(letter)
    return theirs.get("ce_time", b"~") >= ours.get("ce_time", b"") and (
        theirs != ours or message.value() != original_value(letter)
    )


class _Returning:
    """Watches the dead letters for those of a redrive that come back."""

    def __init__(self, kafka: Kafka, ids: Collection[str]) -> None:
        self._ids = frozenset(ids)
        self._seen: set[str] = set()
        self._consumer = new_consumer(kafka, "dead-letters-reader")
        name = kafka.topic_prefix + DEAD_LETTERS.name
        places = [_TopicPartition(name, number) for number in range(partition_count(self._consumer, name))]
        self._consumer.assign(
            [_TopicPartition(name, place.partition, bounds(self._consumer, place)[1]) for place in places]
        )

    def look(self, seconds: float) -> list[str]:
        """Return the reasons of those that came back meanwhile; takes `seconds`."""
        reasons, until = [], time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.2))
            if message is None or message.error() is not None:
                continue
            event = _letter_in(message)
            if event is None or event.dead_letter_id in self._seen:
                continue
            if original_headers(event).get(REDRIVEN_HEADER, b"").decode(errors="replace") in self._ids:
                self._seen.add(event.dead_letter_id)
                reasons.append(f"{event.consumer}: {event.error}")
        return reasons

    def close(self) -> None:
        self._consumer.close()


def _note(publisher: Publisher, letters: Sequence[DeadLettered], at: datetime) -> None:
    """Have the letters say that they were put back."""
    try:
        for letter in letters:
            said = letter.model_copy(update={"put_back_at": at, "key": None, "headers": {}, "value": None})
            publisher.send(
                DEAD_LETTERS,
                seal_envelope(
                    said, key=said.dead_letter_id, root=said.dead_letter_id, source="/dead-letters", at=at,
                    event_id=said.dead_letter_id + _PUT_BACK,
                ),
            )  # fmt: skip
        publisher.flush()
    except (NotPublished, Unreachable) as error:
        raise NotPublished(
            f"{len(letters)} were put back, and that could not be noted: `--all` would put them back once more. {error}"
        ) from error


def redrive(
    kafka: Kafka,
    letters: Sequence[DeadLettered],
    *,
    per_second: int,
    stop_after: int,
    again: bool = False,
    settle_seconds: float = SETTLE_SECONDS,
    clock: Clock | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> Redriven:
    """Publish `letters` where they came from, `per_second` at most, and watch which become dead letters again. `again` puts
    back also what was put back before.

    Raises Refused, before anything is published, for a letter from a topic or partition that does not exist, or that could
    hide something newer; and in between when more than `stop_after` come back: the cause is still there. A crash in between
    repeats some: consumers pass over what they have seen, or dead-letter it again.
    """
    for reason in reasons_against(kafka, letters, again=again).values():
        raise Refused(reason)
    publisher = Publisher(kafka)
    returning = None
    came_back: list[str] = []
    try:
        returning = _Returning(kafka, [letter.dead_letter_id for letter in letters])
        for start in range(0, len(letters), per_second):
            batch = letters[start : start + per_second]
            for letter in batch:
                headers, key, value = redriven(letter), original_key(letter) or b"", original_value(letter)
                topic = _TOPICS[letter.topic]
                if has_generations(topic):
                    publisher.send_under(topic, root_of(letter), key, value, headers)
                else:
                    publisher.send_raw(topic, letter.partition, key, value, headers)
            publisher.flush()
            # A crash here leaves letters that were put back and do not say so: the next redrive repeats them.
            _note(publisher, batch, (clock or SystemClock()).now())
            progress(len(batch))
            done = start + len(batch)
            came_back += returning.look(1.0 if done < len(letters) else settle_seconds)
            if len(came_back) > stop_after:
                raise Refused(
                    f"stopped: {done} of {len(letters)} were put back and {len(came_back)} of them are dead letters again (more "
                    f"than {stop_after}). The cause is still there: {came_back[-1]}"
                )
    finally:
        publisher.close()
        if returning is not None:
            returning.close()
    return Redriven(len(letters), tuple(came_back))
