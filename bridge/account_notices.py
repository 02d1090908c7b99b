"""Account notices: from `tocsin.account-notices` into the store's table, from which the customer's account page reads.

The way back, that a customer has read one, is the relay's. Writes are idempotent and a withdrawal is final, so Kafka's
committed offset, committed after the store has the rows, is position enough: a repeat changes nothing.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.events import AccountNotice
from bridge.contracts.topics import ACCOUNT_NOTICES
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.consume import Received, consume, made_anew
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Positions, new_consumer
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter
from bridge.runtime.topic_ids import TopicIds

log = structlog.get_logger()

STAGE = "account-notices"

WRITTEN = counter(
    "tocsin_account_notices_total",
    "account notices written to the store",
    question="do notices reach the account pages?",
    labels={"act": ["posted", "withdrawn", "refused"]},
)

_LONGEST_PAUSE_SECONDS = 5.0


class NoticeWriting(Protocol):
    """The store's notice table (`bridge.magento.notices.AccountNoticeTable`)."""

    def check(self, notice: AccountNotice) -> None: ...
    def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None: ...


class KeepingAside(Protocol):
    """Where a notice goes that can never be written (`bridge.runtime.dead_letters.DeadLetters`)."""

    def put_raw(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Any,
        reason: str,
    ) -> None: ...
    def flush(self) -> None: ...


class AccountNotices:
    """The consume loop's handler."""

    def __init__(
        self,
        table: NoticeWriting,
        committed: Callable[[Sequence[tuple[str, int]]], Positions],
        dead_letters: KeepingAside,
        stop: threading.Event,
        health: Health,
        *,
        test_store: bool = False,
    ) -> None:
        """`test_store`: it has no real customers, so that it may show an exercise's notices."""
        self._table = table
        self._test_store = test_store
        self._committed = committed
        self._dead_letters = dead_letters
        self._stop = stop
        self._health = health

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return self._committed(partitions)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Nothing is in flight between batches."""

    def tick(self) -> None:
        """Nothing is due between batches."""

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:  # noqa: ARG002  Kafka keeps the position
        """Write a batch to the store, waiting while it does not answer."""
        notices: list[AccountNotice] = []
        withdrawn: list[tuple[str, datetime]] = []
        refused = False
        for received in batch:
            if received.tombstone:
                # Written after all notices of the batch: a withdrawal is final whatever came before or comes after it.
                at = datetime.fromtimestamp(received.timestamp_ms / 1000, UTC)
                withdrawn.append((received.key.removeprefix("notice/"), at))
            elif isinstance(received.event, AccountNotice):
                if received.event.exercise and not self._test_store:
                    # dispatch publishes none: whoever does, no customer reads of a leak that never was
                    self._refuse(received, "an exercise's account notice, and delivery.test_store is not set")
                    refused = True
                    continue
                try:
                    self._table.check(received.event)
                except BadInput as fault:
                    self._refuse(received, str(fault))
                    refused = True
                    continue
                notices.append(received.event)
        if refused:
            self._dead_letters.flush()
        if notices or withdrawn:
            self._write(notices, withdrawn)
        taken_back = sum(notice.withdrawn for notice in notices)
        WRITTEN.labels("posted").inc(len(notices) - taken_back)
        WRITTEN.labels("withdrawn").inc(len(withdrawn) + taken_back)

    def _refuse(self, received: Received, reason: str) -> None:
        key = received.key.encode()
        self._dead_letters.put_raw(
            received.topic,
            received.partition,
            received.offset,
            key,
            received.value,
            list(received.headers.items()),
            reason,
        )
        WRITTEN.labels("refused").inc()

    def _write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]]) -> None:
        pause_seconds = 0.2
        while True:
            try:
                self._table.write(notices, withdrawn)
            except Unreachable as error:
                # Nothing was acknowledged: should this process end now, the batch is read again.
                self._health.missing("store", str(error))
                log.warning("account notices wait for the store", reason=str(error))
                if self._stop.wait(pause_seconds):
                    raise
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                self._health.ready("store")
                return


class AccountNoticesStage:
    """The stage `account-notices`."""

    def __init__(
        self,
        table: AccountNoticeTable,
        kafka: Kafka,
        dead_letters: DeadLetters,
        health: Health,
        *,
        test_store: bool = False,
    ) -> None:
        self._table = table
        self._test_store = test_store
        self._kafka = kafka
        self._topic_ids = TopicIds(kafka, [ACCOUNT_NOTICES])
        self._dead_letters = dead_letters
        self._health = health

    def run(self, stop: threading.Event) -> None:
        """Write notices until `stop`."""
        self._health.ready()
        handler = AccountNotices(
            self._table, self._committed, self._dead_letters, stop, self._health, test_store=self._test_store
        )
        consume(
            self._kafka,
            STAGE,
            [ACCOUNT_NOTICES],
            handler,
            stop=stop,
            dead_letters=self._dead_letters,
            health=self._health,
            topic_ids=self._topic_ids,
        )

    def _committed(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Return the group's committed offsets; a partition without one, or with one of a topic that was deleted, is read from
        the beginning.
        """
        prefix = self._kafka.topic_prefix
        asker = new_consumer(self._kafka, STAGE)
        try:
            found = asker.committed([_TopicPartition(prefix + topic, partition) for topic, partition in partitions], 15)
        except KafkaException as error:
            raise Unreachable(f"Kafka does not say where the account notices stopped: {error.args[0].str()}") from error
        finally:
            asker.close()
        positions: dict[tuple[str, int], int] = {}
        for each in found:
            topic = each.topic.removeprefix(prefix)
            if each.offset < 0:
                continue
            if each.metadata and each.metadata != self._topic_ids.get(topic, each.metadata):
                # Read from its beginning: what is written twice changes nothing.
                made_anew(topic, each.partition, each.offset)
                continue
            positions[topic, each.partition] = each.offset
        return positions
