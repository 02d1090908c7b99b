"""The index worker's side readers: all incidents from the start by assignment, and how far a partition reaches."""

import contextlib
import threading
import time
from collections.abc import Collection
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException
from confluent_kafka import Message as _KafkaMessage
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope
from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.events import IncidentRevised
from bridge.contracts.topics import INCIDENTS, Topic
from bridge.runtime.dead_letters import DeadLetters, TooManyDeadLetters
from bridge.runtime.kafka import as_topic_partition, new_consumer
from bridge.runtime.settings import Kafka

log = structlog.get_logger()

_CONNECT_SECONDS = 5.0
"""How long a reader waits for the brokers before it goes on all the same, and waits while it reads."""
_WAIT_SECONDS = 0.02
"""For more messages: the client gives the end of a partition only once so many came or this is over."""


class IncidentFeed:
    """Reads every partition of `incidents` outside of any group, so that each worker knows all incidents."""

    def __init__(self, kafka: Kafka, dead_letters: DeadLetters) -> None:
        self._kafka = kafka
        self._dead_letters = dead_letters
        self._consumer = new_consumer(kafka, "index-incidents", enable_partition_eof=True)
        self._partitions: list[_TopicPartition] = []

    def read_to_end(self, partition_count: int, stop: threading.Event) -> list[IncidentRevised]:
        """Return all incidents published so far, in order of each partition; waits until the end or until `stop`."""
        partitions = self._partitions = [
            as_topic_partition(self._kafka, INCIDENTS.name, each, OFFSET_BEGINNING) for each in range(partition_count)
        ]
        # A client that is given partitions before it knows their brokers looks for them only every half second.
        with contextlib.suppress(KafkaException):
            self._consumer.list_topics(partitions[0].topic, timeout=_CONNECT_SECONDS)
        self._consumer.assign(partitions)
        unread = set(range(partition_count))
        found: list[IncidentRevised] = []
        while unread and not stop.is_set():
            for message in self._consumer.consume(500, timeout=_WAIT_SECONDS):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                else:
                    found += self._once_there_is_room(message, stop)
        return found

    def _once_there_is_room(self, message: _KafkaMessage, stop: threading.Event) -> list[IncidentRevised]:
        """Return the incident in `message`. All are read at each start: a process that ended at the bound of dead letters
        would never begin.
        """
        while not stop.is_set():
            try:
                return self._incident(message)
            except TooManyDeadLetters as error:
                log.error("the index waits: too many dead letters", reason=str(error))
                stop.wait(self._dead_letters.seconds_until_room())
        return []

    def poll(self) -> list[IncidentRevised]:
        """Return what has arrived since; does not wait."""
        return [each for message in self._consumer.consume(500, timeout=0) for each in self._incident(message)]

    def begin_anew(self) -> None:
        """Read the topic from its beginning, now that it was made anew; `poll` gives what is there."""
        self._consumer.assign(self._partitions)

    def _incident(self, message: _KafkaMessage) -> list[IncidentRevised]:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF or error.retriable():
                return []
            if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
                log.warning("kafka is not reachable; waiting", reason=error.name())
                return []
            raise Unreachable(f"Kafka: {error.str()}")
        pairs: Any = message.headers() or []
        headers = {name: value.encode() if isinstance(value, str) else value or b"" for name, value in pairs}
        try:
            event = open_envelope(message.key(), message.value(), headers)
        except BadInput as fault:
            self._dead_letters.put(INCIDENTS.name, message, str(fault))
            self._dead_letters.flush()
            return []
        if not isinstance(event, IncidentRevised):
            self._dead_letters.put(INCIDENTS.name, message, f"{event.ce_type} does not belong on this topic")
            self._dead_letters.flush()
            return []
        return [event]

    def close(self) -> None:
        self._consumer.close()


class TopicHeads:
    """Asks the broker how far a partition reaches, as a reader of committed records sees it."""

    def __init__(self, kafka: Kafka, *, timeout_seconds: float = 10.0) -> None:
        self._kafka = kafka
        self._timeout_seconds = timeout_seconds
        self._consumer = new_consumer(kafka, "index-heads", enable_partition_eof=True)

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """Return the first and the next offset. Raises Unreachable."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                as_topic_partition(self._kafka, topic.name, partition, 0), timeout=self._timeout_seconds
            )
        except KafkaException as error:
            raise Unreachable(
                f"Kafka does not say how far {topic.name} partition {partition} reaches: {error.args[0].str()}"
            ) from error
        return int(low), int(high)

    def nothing_between(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        """Return whether no readable message lies in [position, upto). False too if the broker gives no answer in time."""
        self._consumer.assign([as_topic_partition(self._kafka, topic.name, partition, position)])
        try:
            for message in self._consumer.consume(1, timeout=self._timeout_seconds):
                error = message.error()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    return int(message.offset() or 0) >= upto
            return False
        finally:
            self._consumer.unassign()

    def messages(self, topic: Topic, partition: int, offsets: Collection[int]) -> list[_KafkaMessage]:
        """Return the messages at `offsets`; what compaction removed meanwhile is left out. Raises Unreachable."""
        first, last = min(offsets), max(offsets)
        wanted, found = frozenset(offsets), []
        self._consumer.assign([as_topic_partition(self._kafka, topic.name, partition, first)])
        try:
            position, give_up_at = first, time.monotonic() + self._timeout_seconds
            while position <= last:
                if time.monotonic() > give_up_at:
                    raise Unreachable(
                        f"Kafka does not give {topic.name} partition {partition} from offset {position} on again"
                    )
                for message in self._consumer.consume(1000, timeout=0.1):
                    error, offset = message.error(), int(message.offset() or 0)
                    if error is None:
                        position, give_up_at = offset + 1, time.monotonic() + self._timeout_seconds
                        if offset in wanted:
                            found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        position = max(offset, last + 1)
                    elif not error.retriable() and error.code() not in (
                        KafkaError._ALL_BROKERS_DOWN,
                        KafkaError._TRANSPORT,
                    ):
                        raise Unreachable(f"Kafka: {error.str()}")
            return found
        finally:
            self._consumer.unassign()

    def close(self) -> None:
        self._consumer.close()
