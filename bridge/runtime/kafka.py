"""Kafka clients as Tocsin needs them: a publisher that knows when everything is acknowledged, and consumers that start
where their reader's own store says.

The partition is set explicitly from the root, or by the client from a key that is the root. Production consumers read
committed records only.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as _TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.contracts.envelope import Message, Record
from bridge.contracts.errors import Refused, TocsinError, Unreachable
from bridge.contracts.partitioner import partition_of, partition_of_bytes
from bridge.contracts.topics import MOST_BYTES, Topic
from bridge.runtime.generations import (
    GENERATIONAL,
    LOOK_SECONDS,
    generations_in,
    has_generations,
    read_name,
    topic_name,
)
from bridge.runtime.kafka_auth import confluent_auth
from bridge.runtime.settings import Kafka

log = logging.getLogger("kafka client")


class NotPublished(TocsinError):
    """A record was not acknowledged; nothing of the batch may be settled."""


class Fenced(Refused):
    """Another process took over this transactional id: this one must publish and delete nothing more."""


RIGHTS_HINT = "`tocsin topics show --acls` prints the rights that each process needs"
_POLL_EVERY = 100
"""Records between looks at what the client has to report."""
_THE_KEYS = -1
"""Instead of a partition: the one where the client's own partitioner puts the key."""
_MOST_ROOTS = 60_000
"""Some 6 MB of them."""
_LARGE = 100_000
"""Bytes of a message whose fate is asked for by itself: a topic with an old or imposed bound may refuse it, and who mends that
must know which. Of the others a commit says enough.
"""


class _Complaints:
    """Logs what a client reports about its connections: each kind once in a while, not at every attempt."""

    def __init__(self, every_seconds: float = 30.0) -> None:
        self._every_seconds = every_seconds
        self._said: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._said.get(error.code(), -self._every_seconds) >= self._every_seconds:
            self._said[error.code()] = now
            log.warning("%s", error.str())


def client_settings(kafka: Kafka) -> dict[str, Any]:
    """Return what every confluent-kafka client needs."""
    return {
        "bootstrap.servers": kafka.bootstrap_servers,
        # at 3 a client says "connection refused" twenty times a second for as long as the broker is away
        "log_level": 2,
        "error_cb": _Complaints(),
    } | confluent_auth(kafka)


class Broker:
    """Asks whether a broker answers, over a connection of its own that is made when first asked."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._client: AdminClient | None = None

    def ask(self) -> None:
        """Return if one does. Raises Unreachable."""
        if self._client is None:
            self._client = AdminClient(client_settings(self._kafka))
        try:
            # By no name: a broker with ACLs notes each question for a topic that this account may not see.
            self._client.list_topics(timeout=1.5)
        except KafkaException as error:
            raise Unreachable(
                f"Kafka does not answer: {error.args[0].name()}; check kafka.bootstrap_servers"
            ) from error


class Publisher:
    """Publishes messages on the partition of their root. One thread at a time.

    With a `transactional_id`, `transaction()` makes a batch visible at once and fences every earlier holder of the id.
    Raises NotPublished, Fenced or Unreachable; never returns from `flush` with a record unacknowledged. Once a
    transaction has failed, its outcome may be unknown: open a new publisher, which begins by ending it. Whoever does so
    must still be entitled to the id, for that shuts out every other holder.
    """

    def __init__(self, kafka: Kafka, *, transactional_id: str | None = None, patience_seconds: float = 15.0) -> None:
        self._kafka = kafka
        self._patience_seconds = patience_seconds
        config = client_settings(kafka) | {
            "enable.idempotence": True,
            "compression.type": "lz4",
            # The end of a transaction waits for no lingering: what is sent before then goes to each partition in one request,
            # and a request a partition is what a batch costs the broker.
            "linger.ms": 2 if transactional_id is None else 500,
            # Java's, as `bridge.contracts.partitioner`: for what is written under its root.
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
            # The client's own bound is a megabyte, and what is above it would be refused for ever, with all that waits behind it.
            "message.max.bytes": MOST_BYTES,
            # Who waits for all of them asks for none but those that failed: to be told of each costs a third of sending it.
            "delivery.report.only.error": True,
        }
        if transactional_id is not None:
            config["transactional.id"] = kafka.topic_prefix + transactional_id
            config["transaction.timeout.ms"] = 30_000
        self._producer = Producer(config)
        self._transactional = transactional_id is not None
        self._partition_counts: dict[str, int] = {}
        self._names: dict[str, Sequence[str]] = {}
        self._names_due = 0.0
        self._roots_of = ""
        self._roots: dict[bytes, int] = {}
        self._failed: list[KafkaError] = []
        self._too_large = ""
        self._sent = 0
        if self._transactional:
            self._call(self._producer.init_transactions, patience_seconds)

    def partition_count(self, topic: Topic) -> int:
        """Return the number of partitions that `topic` really has, in the generation that is read."""
        return self._count(self._written(topic)[0])

    def _count(self, name: str) -> int:
        if name not in self._partition_counts:
            self._partition_counts[name] = partition_count(self._producer, name)
        return self._partition_counts[name]

    def _written(self, topic: Topic) -> Sequence[str]:
        """Return the names on the cluster that messages of `topic` go to: the generation that is read, then one being filled."""
        now = time.monotonic()
        if now < self._names_due and (names := self._names.get(topic.name)):
            return names
        prefix = self._kafka.topic_prefix
        if self._kafka.embedded or not has_generations(topic):
            return (prefix + topic.name,)
        self._names_due = now + LOOK_SECONDS
        try:
            shown = self._producer.list_topics(timeout=5).topics
        except KafkaException as error:
            # Known generations are good for a while: a switch waits until all writers have been seen to follow.
            if topic.name not in self._names:
                raise self._translated(error) from error
            return self._names[topic.name]
        generations = generations_in(shown, prefix)
        self._recount(shown)
        for each in GENERATIONAL:
            written = [generations.active, *([generations.filling] if generations.filling is not None else [])]
            self._names[each.name] = tuple(topic_name(prefix, each.name, number) for number in written)
        return self._names[topic.name]

    def _recount(self, shown: Mapping[str, Any]) -> None:
        """Follow a topic that has another partition count than before: one made anew, or one that was given more.

        The client puts keys by the count that it sees. By the former one, records would lie where their customers do not.
        """
        for name, count in self._partition_counts.items():
            now = len(shown[name].partitions) if name in shown and shown[name].error is None else 0
            if now not in (0, count):
                log.warning(
                    "%s has %d partitions now, not %d: roots are written where they lie among these", name, now, count
                )
                self._partition_counts[name] = now
                self._roots_of = ""

    def send(self, topic: Topic, message: Message) -> None:
        """Queue `message`; `flush` or the end of the transaction waits for it."""
        key, root, value, headers = message
        self.send_under(topic, root, key.encode(), value, headers)

    def send_under(
        self,
        topic: Topic,
        root: str,
        key: bytes,
        value: str | bytes | None,
        headers: Sequence[tuple[str, str | bytes | None]],
    ) -> None:
        """Queue a record where its root lies, in each generation that is written."""
        for name in self._written(topic):
            self.send_to(name, partition_of(root, self._count(name)), key, value, headers)

    def send_records(self, topic: Topic, records: Iterable[Record], *, partition: int | None = None) -> None:
        """Queue many messages of one topic, as `send` does one; `partition` says where all their roots lie, if that is known."""
        names = self._written(topic)
        if len(names) > 1:
            counts = [(name, self._count(name)) for name in names]
            for key, root, value, headers in records:
                for name, count in counts:
                    self.send_to(name, partition_of_bytes(root, count), key, value, list(headers.items()))
            return
        (name,), produce = names, self._producer.produce
        count = self._count(name)
        known = self._known_partitions(name)
        report = None if self._transactional else self._delivered
        for number, (key, root, value, headers) in enumerate(records, 1):
            if partition is not None:
                at = partition
            elif key is root:
                # The client finds the partition of a key by itself, for a tenth of the work.
                at = _THE_KEYS
            elif (found := known.get(root)) is not None:
                at = found
            else:
                # What is written of a customer is theirs again soon.
                at = known[root] = partition_of_bytes(root, count)
            if value is not None and len(value) > _LARGE:
                self.send_to(name, at, key, value, list(headers.items()))
                continue
            try:
                # By place, not by name: that costs the client a third of the call. Before the headers stand two callbacks and
                # the time.
                produce(name, value, key, at, report, None, 0, headers)
            except BufferError:
                self.send_to(name, at, key, value, list(headers.items()))
            except KafkaException as error:
                raise self._translated(error) from error
            if report is not None and not number % _POLL_EVERY:
                self._producer.poll(0)

    def _known_partitions(self, name: str) -> dict[bytes, int]:
        """Return where the roots that were written lately lie: a customer changes more than once, or with many records."""
        if self._roots_of != name or len(self._roots) > _MOST_ROOTS:
            self._roots_of, self._roots = name, {}
        return self._roots

    def send_to_all(self, topic: Topic, message: Message) -> None:
        """Queue `message` on every partition, whatever its root."""
        for name in self._written(topic):
            for partition in range(self._count(name)):
                self.send_to(name, partition, message.key.encode(), message.value, message.headers)

    def send_raw(
        self, topic: Topic, partition: int, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Queue a record on an explicit partition of the generation that is read."""
        self.send_to(self._written(topic)[0], partition, key, value, headers)

    def send_to(
        self,
        name: str,
        partition: int,
        key: bytes,
        value: str | bytes | None,
        headers: Sequence[tuple[str, str | bytes | None]],
    ) -> None:
        """Queue a record on a topic given by its name on the cluster."""
        large = value is not None and len(value) > _LARGE
        while True:
            try:
                # A commit says itself whether any record of its transaction failed: no report on each is needed then.
                if self._transactional and not large:
                    self._producer.produce(name, value, key, partition, headers=list(headers))
                else:
                    self._producer.produce(name, value, key, partition, self._delivered, headers=list(headers))
            except BufferError:
                self._producer.poll(0.05)
                continue
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise NotPublished(
                        f"a message of {len(value or b''):,} bytes for topic {name} is not published: {MOST_BYTES:,} are the "
                        "most, with its key and headers"
                    ) from error
                raise self._translated(error) from error
            self._sent += 1
            if not self._sent % _POLL_EVERY:
                self._producer.poll(0)
            return

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append(error)
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._too_large = (
                    f"topic {message.topic()} refuses a message of {len(message.value() or b''):,} bytes "
                    "(max.message.bytes); run `tocsin topics apply`"
                )

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait until every queued record is acknowledged. Raises NotPublished if one is not."""
        left = self._producer.flush(timeout_seconds)
        if self._failed or left:
            failed, self._failed = self._failed, []
            self._producer.purge(in_queue=True, in_flight=True)
            self._producer.flush(5)
            self._failed = []
            reason = failed[0].str() if failed else f"no acknowledgement within {timeout_seconds:.0f} s"
            reason, self._too_large = self._too_large or reason, ""
            raise NotPublished(f"{left + len(failed)} records were not published: {reason}; they will be sent again")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Publish what is sent inside as one transaction: all of it or nothing.

        A crash before the commit leaves an open transaction that the next `init_transactions` of this id aborts.
        """
        self._call(self._producer.begin_transaction)
        # what an earlier one failed by, and what its end swept away
        self._failed, self._too_large = [], ""
        try:
            yield
            # raises also when a single record was not acknowledged
            self._call(self._producer.commit_transaction, self._patience_seconds)
        except Fenced:
            raise
        except NotPublished as error:
            # why is reported apart from the commit that failed with it
            self._call(self._producer.poll, 0)
            self._abort()
            raise NotPublished(self._too_large or str(error)) from error
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(10.0)
        except KafkaException as error:
            raise self._translated(error) from error

    def _call(self, function: Any, *arguments: Any) -> None:
        give_up_at = time.monotonic() + self._patience_seconds
        while True:
            try:
                function(*arguments)
            except KafkaException as error:
                if error.args[0].retriable() and time.monotonic() < give_up_at:
                    self._producer.poll(0.1)
                    continue
                raise self._translated(error) from error
            return

    @staticmethod
    def _translated(error: KafkaException) -> TocsinError:
        kafka_error: KafkaError = error.args[0]
        if kafka_error.code() in (
            KafkaError._FENCED,
            KafkaError.INVALID_PRODUCER_EPOCH,
            KafkaError.PRODUCER_FENCED,
        ):
            return Fenced("another process took over this publisher; this one stops and publishes nothing more")
        if kafka_error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT):
            return Unreachable(f"Kafka does not answer: {kafka_error.str()}; check kafka.bootstrap_servers")
        hint = f"; {RIGHTS_HINT}" if is_forbidden(kafka_error) else ""
        return NotPublished(f"Kafka refused a record: {kafka_error.str()}{hint}")

    def close(self) -> None:
        """Let go. Outside a transaction a transactional publisher owes nothing: what a fenced one still holds is dropped.

        (confluent-kafka's flush of a fenced producer may fail with a SystemError of its own.)
        """
        if self._transactional:
            self._producer.purge(in_queue=True, in_flight=True)
        else:
            self._producer.flush(5)


def is_forbidden(error: KafkaError) -> bool:
    """Return whether the broker knows who asks, and that they may not."""
    return error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )


def partition_count(client: Any, name: str) -> int:
    """Return the partition count of topic `name`. Raises Unreachable if the topic or the broker is not there."""
    try:
        metadata = client.list_topics(name, timeout=15)
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    topic = metadata.topics.get(name)
    if topic is not None and topic.error is not None and is_forbidden(topic.error):
        raise Unreachable(f"this account may not see topic {name}; {RIGHTS_HINT}")
    if topic is None or topic.error is not None or not topic.partitions:
        raise Unreachable(f"topic {name} does not exist; run `tocsin topics apply` first")
    return len(topic.partitions)


def partition_bounds(kafka: Kafka, name: str) -> dict[int, tuple[int, int]]:
    """Return the first and the next offset of each partition of topic `name`. Raises Unreachable."""
    asker = new_consumer(kafka, "asker")
    try:
        on_cluster = read_name(kafka, name)
        return {
            partition: asker.get_watermark_offsets(_TopicPartition(on_cluster, partition), timeout=15)
            for partition in range(partition_count(asker, on_cluster))
        }
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    finally:
        asker.close()


def new_consumer(kafka: Kafka, group: str, **overrides: Any) -> Consumer:
    """Return a consumer that commits nothing by itself and reads committed records only."""
    config = client_settings(kafka) | {
        "group.id": kafka.topic_prefix + group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": 10_000,
        # By the answer a member learns that another one came, who waits until it has given up what it is to give up.
        "heartbeat.interval.ms": 300,
        "max.poll.interval.ms": 300_000,
        "topic.metadata.refresh.interval.ms": 10_000,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32_768,
        # Once that much waits, no more is fetched for so long: by default a second, in which a busy reader runs dry.
        "fetch.queue.backoff.ms": 20,
    }
    return Consumer(config | {key.replace("_", "."): value for key, value in overrides.items()})


def cluster_id(kafka: Kafka) -> str:
    """Return the cluster's id. Raises Unreachable."""
    try:
        metadata = AdminClient(client_settings(kafka)).list_topics(timeout=15)
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
    return metadata.cluster_id or "unknown"


Positions = Mapping[tuple[str, int], int]
"""Next offset to read, by (logical topic name, partition)."""


def as_topic_partition(kafka: Kafka, name: str, partition: int, offset: int) -> _TopicPartition:
    """Return confluent's form of a position; `name` is the logical topic name."""
    return _TopicPartition(read_name(kafka, name), partition, offset)
