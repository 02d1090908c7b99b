"""Stage outbox: publishes what other stages and commands wrote to the outbox table, in order, and then forgets it.

A stage of its own, so that one process publishes for all of them, commands of people included: order needs a single
writer. A lease keeps a second one in waiting; the transactional id fences a first one that came back to life.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import structlog

from bridge.contracts.envelope import Envelopes, Message
from bridge.contracts.errors import Unreachable
from bridge.contracts.packs import Packed, regrouped
from bridge.contracts.topics import TOPICS, Topic
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import NotPublished
from bridge.runtime.telemetry import Health, counter, gauge

log = structlog.get_logger()

PUBLISHED = counter(
    "tocsin_outbox_published_total",
    "events of the outbox that were published",
    question="do decisions reach the topics?",
)
DEPTH = gauge(
    "tocsin_outbox_waiting_count", "events of the outbox not yet published", question="does the outbox keep up?"
)
AGE = gauge(
    "tocsin_outbox_oldest_age_seconds", "age of the oldest row not yet published", question="does the outbox keep up?"
)

_TOPICS = {topic.name: topic for topic in TOPICS}
_GATHERED_TIMES = 4
"""As long as an idle look, what comes after something was published is gathered."""


class WaitingRow(Protocol):
    """A message in the outbox: an event, or a pack of `event_count`."""

    @property
    def topic(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ce_type(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def written_at(self) -> datetime: ...
    @property
    def event_count(self) -> int: ...


Row = TypeVar("Row", bound=WaitingRow)


class OutboxTable(Protocol[Row]):
    """Where rows wait."""

    def next_batch(self, limit: int) -> Sequence[Row]: ...
    def settle(self, batch: Sequence[Row]) -> None: ...
    def depth(self) -> tuple[int, datetime | None]: ...


class TransactionalPublisher(Protocol):
    """Publishes a batch whole or not at all. Raises NotPublished, Fenced or Unreachable."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def send(self, topic: Topic, message: Message) -> None: ...
    def partition_count(self, topic: Topic) -> int: ...


class Lease(Protocol):
    """Who publishes."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class OutboxStage(Generic[Row]):
    """Publishes the outbox while it holds the lease."""

    def __init__(
        self,
        table: OutboxTable[Row],
        lease: Lease,
        open_publisher: Callable[[], TransactionalPublisher],
        clock: Clock,
        health: Health,
        *,
        batch_size: int = 5000,
        idle_seconds: float = 0.05,
    ) -> None:
        self._table = table
        self._lease = lease
        self._open_publisher = open_publisher
        self._clock = clock
        self._health = health
        self._batch_size = batch_size
        self._idle_seconds = idle_seconds

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop`; wait while another holds the lease or Kafka is away. Raises Fenced when taken over."""
        publisher: TransactionalPublisher | None = None
        observed = 0.0
        try:
            while not stop.is_set():
                if not self._lease.take():
                    publisher = None
                    # whoever holds it says how much waits: what this process saw last would be shown for ever
                    DEPTH.set(0)
                    AGE.set(0)
                    self._health.ready()
                    stop.wait(1.0)
                    continue
                try:
                    if publisher is None:
                        publisher = self._open_publisher()
                        self._health.ready()
                    count = self.publish_once(publisher)
                    self._health.ready("kafka")
                except (NotPublished, Unreachable) as error:
                    # what became of its transaction is unknown; a new one, opened under the lease, begins by ending it
                    publisher = None
                    log.warning("outbox waits", reason=str(error))
                    self._health.missing("kafka", str(error))
                    # it grows above all while nothing leaves
                    self._observe()
                    stop.wait(1.0)
                    continue
                if time.monotonic() - observed > 1:
                    self._observe()
                    observed = time.monotonic()
                if count < self._batch_size:
                    # what comes meanwhile goes together: a transaction costs the broker as much as hundreds of events, and where
                    # something has just come, more will
                    stop.wait(_GATHERED_TIMES * self._idle_seconds if count else self._idle_seconds)
        finally:
            self._lease.release()

    def publish_once(self, publisher: TransactionalPublisher) -> int:
        """Publish the next batch in one transaction; return how many events it held.

        A crash after the commit and before `settle` publishes the batch again: the same events under the same ids. Every
        reader bears that: the ledger claims once, the index takes the newest, evidence tells by a leaf's content.
        """
        batch = self._table.next_batch(self._batch_size)
        if not batch:
            return 0
        envelopes: Envelopes | None = None
        at: datetime | None = None
        with publisher.transaction():
            for row in batch:
                if envelopes is None or row.written_at != at:
                    at = row.written_at
                    envelopes = Envelopes("/tocsin/case", at)
                topic = _TOPICS[row.topic]
                for root, key, event_id, value, _ in _as_the_topic_is(row, topic, publisher):
                    publisher.send(topic, envelopes.message(row.ce_type, key, root, value.encode(), event_id))
        self._table.settle(batch)
        count = sum(row.event_count for row in batch)
        PUBLISHED.inc(count)
        return count

    def _observe(self) -> None:
        waiting, oldest = self._table.depth()
        DEPTH.set(waiting)
        AGE.set(0 if oldest is None else max(0.0, (self._clock.now() - oldest).total_seconds()))


def _as_the_topic_is(row: WaitingRow, topic: Topic, publisher: TransactionalPublisher) -> Iterable[Packed]:
    """Return what to publish of a row: it as it stands, but of a pack for a topic with other partitions than the declared
    ones (the demo's cluster has four) a pack for each of these.
    """
    whole = Packed(row.root, row.key, row.event_id, row.value, row.event_count)
    if row.event_count == 1:
        return (whole,)
    count = publisher.partition_count(topic)
    return (whole,) if count == topic.partitions else regrouped(whole, count)
