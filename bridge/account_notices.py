"""Account notices: from `tocsin.account-notices` into the store's table, from which the customer's account page reads.

The way back, that a customer has read one, is the relay's. Writes are idempotent and a withdrawal is final, so Kafka's
committed offset, committed after the store has the rows, is position enough: a repeat changes nothing. A store that was put back
from a backup, or went over to a server that lacked the newest commits, has not what the offset says: so the newest notices
before it are looked for, and where one is missing the topic is read from its beginning.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as _KafkaMessage
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope
from bridge.contracts.errors import BadInput, MustStop, Unreachable
from bridge.contracts.events import AccountNotice
from bridge.contracts.topics import ACCOUNT_NOTICES
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.consume import Received, consume, headers_of, made_anew
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
_LOOK_SECONDS = 60.0
"""How often it is looked whether the store still holds what was written last."""
_LOOK_BACK = 500
"""Offsets before a position among which the newest notices are looked for: some are tombstones and marks of transactions."""
_LOOKED_FOR = 20
_READ_SECONDS = 15.0


class NoticeWriting(Protocol):
    """The store's notice table (`bridge.magento.notices.AccountNoticeTable`)."""

    def check(self, notice: AccountNotice) -> None: ...
    def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None: ...
    def missing(self, notice_ids: Collection[str]) -> frozenset[str]: ...


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
        self._newest: tuple[str, ...] = ()
        """What was written last."""
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return self._committed(partitions)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Nothing is in flight between batches."""

    def tick(self) -> None:
        """Look now and then whether the store still holds what was written last. Raises MustStop."""
        if not self._newest or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        try:
            missing = self._table.missing(self._newest)
        except Unreachable:
            # What is away says nothing of what it holds.
            return
        if missing:
            raise MustStop(
                f"the store lacks {len(missing)} of the {len(self._newest)} account notices that were written last, as after a"
                " backup was put back; starting anew, which reads all that may be missing again"
            )

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
                try:
                    self._check(received.event)
                except BadInput as fault:
                    self._refuse(received, str(fault))
                    refused = True
                    continue
                notices.append(received.event)
        if refused:
            self._dead_letters.flush()
        if notices or withdrawn:
            self._write(notices, withdrawn)
        if notices:
            self._newest = tuple({notice.notice_id for notice in notices[-_LOOKED_FOR:]})
        taken_back = sum(notice.withdrawn for notice in notices)
        WRITTEN.labels("posted").inc(len(notices) - taken_back)
        WRITTEN.labels("withdrawn").inc(len(withdrawn) + taken_back)

    def is_written(self, notice: AccountNotice) -> bool:
        """Return whether such a notice comes into the store, and not among the dead letters."""
        try:
            self._check(notice)
        except BadInput:
            return False
        return True

    def _check(self, notice: AccountNotice) -> None:
        if notice.exercise and not self._test_store:
            # dispatch publishes none: whoever does, no customer reads of a leak that never was
            raise BadInput("an exercise's account notice, and delivery.test_store is not set")
        self._table.check(notice)

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
        self._is_written: Callable[[AccountNotice], bool] = lambda _: True

    def run(self, stop: threading.Event) -> None:
        """Write notices until `stop`."""
        self._health.ready()
        handler = AccountNotices(
            self._table, self._committed, self._dead_letters, stop, self._health, test_store=self._test_store
        )
        self._is_written = handler.is_written
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
        """Return the group's committed offsets; a partition without one, with one of a topic that was deleted, or with notices
        that the store lost, is read from the beginning.
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
        for topic, partition in self._lost(positions):
            # As above: what is still there stays as it is, and a withdrawal is final.
            log.error(
                "the store lacks account notices that it had; reading them all again",
                topic=topic, partition=partition, wanted=positions.pop((topic, partition)),
            )  # fmt: skip
        return positions

    def _lost(self, positions: Positions) -> list[tuple[str, int]]:
        """Return the partitions whose newest notices before the position are not all in the store. Raises Unreachable."""
        newest: dict[tuple[str, int], dict[bytes, str]] = {key: {} for key in positions}
        for key, message in self._before(positions):
            name = message.key() or b""
            newest[key].pop(name, None)
            try:
                event = open_envelope(name, message.value(), headers_of(message))
            except BadInput:
                continue
            if isinstance(event, AccountNotice) and self._is_written(event):
                newest[key][name] = event.notice_id
        asked = {key: list(names.values())[-_LOOKED_FOR:] for key, names in newest.items()}
        if not any(asked.values()):
            return []
        missing = self._table.missing([each for ids in asked.values() for each in ids])
        return [key for key, ids in asked.items() if not missing.isdisjoint(ids)]

    def _before(self, positions: Positions) -> Iterator[tuple[tuple[str, int], _KafkaMessage]]:
        """Yield the messages that stand shortly before these positions, in their order."""
        prefix = self._kafka.topic_prefix
        reader = new_consumer(self._kafka, STAGE, enable_partition_eof=True)
        try:
            starts: dict[tuple[str, int], int] = {}
            for (topic, partition), offset in positions.items():
                low, high = reader.get_watermark_offsets(_TopicPartition(prefix + topic, partition), timeout=15)
                start = max(low, offset - _LOOK_BACK)
                if start < min(offset, high):
                    starts[topic, partition] = start
            reader.assign([_TopicPartition(prefix + topic, at, start) for (topic, at), start in starts.items()])
            unread, give_up_at = set(starts), time.monotonic() + _READ_SECONDS
            while unread:
                if time.monotonic() > give_up_at:
                    raise Unreachable("Kafka does not give the account notices that were written last")
                for message in reader.consume(500, timeout=0.5):
                    key = (str(message.topic()).removeprefix(prefix), int(message.partition() or 0))
                    error, offset = message.error(), int(message.offset() or 0)
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        if error.retriable():
                            continue
                        raise Unreachable(
                            f"Kafka does not give the account notices that were written last: {error.str()}"
                        )
                    if error is None and offset < positions[key]:
                        yield key, message
                    if error is not None or offset + 1 >= positions[key]:
                        unread.discard(key)
        except KafkaException as error:
            raise Unreachable(f"Kafka does not say where the account notices stopped: {error.args[0].str()}") from error
        finally:
            reader.close()
