"""Reading dead letters, and putting them back: the original bytes, on the partition where they first were."""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope
from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import DeadLettered
from bridge.contracts.topics import DEAD_LETTERS, TOPICS
from bridge.runtime.consume import headers_of
from bridge.runtime.kafka import Publisher, new_consumer, partition_count
from bridge.runtime.settings import Kafka

REDRIVEN_HEADER = "tocsin-redriven"
"""Says on the message which dead letter it was."""

_SILENCE_SECONDS = 15.0
_NOT_YET_LED = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)


def dead_letters(kafka: Kafka) -> Iterator[DeadLettered]:
    """Yield all dead letters that are stored now, oldest first; repeats of one after a crash once. Raises Unreachable."""
    consumer = new_consumer(kafka, "dead-letters-reader")
    name = kafka.topic_prefix + DEAD_LETTERS.name
    seen: set[str] = set()
    try:
        for partition in range(partition_count(consumer, name)):
            low, high = _bounds(consumer, _TopicPartition(name, partition))
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
                event = open_envelope(message.key(), message.value(), headers_of(message))
                if isinstance(event, DeadLettered) and event.dead_letter_id not in seen:
                    seen.add(event.dead_letter_id)
                    yield event
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    finally:
        consumer.close()


def _bounds(consumer: Consumer, partition: _TopicPartition) -> tuple[int, int]:
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
    """Return the letters whose id starts with one of `wanted`. Raises BadInput if one names none, or several."""
    found = []
    for start in wanted:
        fitting = [letter for letter in letters if letter.dead_letter_id.startswith(start)]
        if len(fitting) != 1:
            count = "no dead letter" if not fitting else f"{len(fitting)} dead letters"
            raise BadInput(f"{start!r} names {count}; `tocsin dead-letters list` shows the ids")
        found += fitting
    return found


def original_key(letter: DeadLettered) -> bytes | None:
    """Return the original key."""
    return None if letter.key is None else base64.b64decode(letter.key)


def original_value(letter: DeadLettered) -> bytes | None:
    """Return the original value; None was a tombstone."""
    return None if letter.value is None else base64.b64decode(letter.value)


def original_headers(letter: DeadLettered) -> Mapping[str, bytes]:
    """Return the original headers."""
    return {name: base64.b64decode(value) for name, value in letter.headers.items()}


def redrive(publisher: Publisher, letters: Sequence[DeadLettered]) -> None:
    """Publish `letters` where they came from and wait until all are stored.

    Raises Refused, before anything is published, for a letter from a topic or partition that does not exist. A crash in
    between repeats some: consumers pass over what they have seen, or dead-letter it again.
    """
    topics = {topic.name: topic for topic in TOPICS}
    for letter in letters:
        topic = topics.get(letter.topic)
        if topic is None:
            raise Refused(
                f"dead letter {letter.dead_letter_id} is of topic {letter.topic!r}, which is not declared any more"
            )
        if letter.partition >= publisher.partition_count(topic):
            raise Refused(
                f"dead letter {letter.dead_letter_id}: {letter.topic} has no partition {letter.partition} any more"
            )
    for letter in letters:
        headers = {**original_headers(letter), REDRIVEN_HEADER: letter.dead_letter_id.encode()}
        publisher.send_raw(
            topics[letter.topic],
            letter.partition,
            original_key(letter) or b"",
            original_value(letter),
            list(headers.items()),
        )
    publisher.flush()
