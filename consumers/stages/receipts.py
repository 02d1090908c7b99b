"""Stage receipts: what providers report later, and reads of account notices, settled into the ledger exactly once.

From the receipt queue (SQS) and from `delivery-outcomes` (account-page reads that the relay captured). A message that
cannot be read goes to the dead letters with its bytes; one that belongs to no known attempt is kept aside.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import NoticeRead
from bridge.contracts.topics import DELIVERY_OUTCOMES
from bridge.runtime.consume import PassedOver, Received, consume
from bridge.runtime.dead_letters import QUEUE, DeadLetters, TooManyDeadLetters
from bridge.runtime.kafka import Positions
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter, gauge
from bridge.runtime.topic_ids import TopicIds
from consumers.domain.contacts import MAILBOXES
from consumers.domain.ledger import Handed
from consumers.domain.sending import Receipt, ReceiptDelivery, ReceiptKind, ReceiptSource

log = structlog.get_logger()

STAGE = "receipts"

RECEIVED = counter(
    "tocsin_receipts_total",
    "receipts by what became of them, exercises left out",
    question="do providers report, and do we know what about?",
    labels={"result": ["applied", "kept_aside", "repeated", "undecodable"]},
)
FORGOTTEN = counter(
    "tocsin_receipts_forgotten_total",
    "receipts that had been kept aside for a month without their message, and were removed",
    question="do providers report about messages that are not ours?",
)
BY_KIND = counter(
    "tocsin_receipts_by_kind_total",
    "receipts by provider event, exercises left out, and by who keeps the mailbox (by its public domain; none where the"
    " provider does not say)",
    question="how many messages arrive, bounce or draw complaints, and does one mailbox provider put ours off?",
    labels={
        "provider": ["ses", "smtp", "sns", "sms_gateway", "store", "post"],
        "kind": [kind.value for kind in ReceiptKind],
        "mailbox": [*MAILBOXES, "none"],
    },
)
BEHIND = gauge(
    "tocsin_receipts_behind_seconds",
    "age of the oldest event among the receipts read last, of the source that is furthest behind, those that were known left"
    " out; 0 with none waiting",
    question="do we learn soon what became of messages?",
)

_FORGET_SECONDS = 3600.0
_LOOK_AGAIN_SECONDS = 0.25
"""After a source had nothing: an empty answer costs as much as a full one, here and at AWS."""
_POSITION_SECONDS = 1.0
"""How long a position may stay unwritten after which nothing but our own outcomes came: they are passed over again then."""


class ReceiptLedger(Protocol):
    """What receipts asks of the ledger."""

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions: ...
    def settle_receipts(
        self, receipts: Sequence[Receipt], *, stage: str = "", after: Positions | None = None
    ) -> Handed: ...
    def forget_strays(self) -> int: ...


class CanaryReceipts(Protocol):
    """Knows receipts of messages that went to simulators and to ourselves."""

    def settle(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
        """Take note of those, and return all others. Raises Unreachable."""
        ...


class Receipts:
    """The handler: reads by topic, provider events between batches."""

    def __init__(
        self,
        ledger: ReceiptLedger,
        sources: Sequence[ReceiptSource],
        dead_letters: DeadLetters,
        health: Health,
        seal: Callable[[bytes], bytes],
        canaries: CanaryReceipts | None = None,
        stands_still: Callable[[], str] = str,
    ) -> None:
        """`stands_still` says why nothing may be taken from the queues now, as they are another installation's; else ""."""
        self._ledger = ledger
        self._stands_still = stands_still
        self._canaries = canaries
        self._seal = seal
        self._sources = deque(sources)
        self._dead_letters = dead_letters
        self._health = health
        self._behind: dict[str, float] = {}
        self._look_at: dict[str, float] = {}
        self._held_back: set[str] = set()
        self._passed: dict[tuple[str, int], int] = {}
        self._write_at = 0.0
        self._forget_at = 0.0

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return self._ledger.positions(STAGE, partitions)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Leave positions that were not written to who takes over: they pass over the same again."""
        for each in partitions:
            self._passed.pop(each, None)

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        """Settle account-page reads. Our own outcomes travel on the same topic and are passed over.

        Reads and the position after them are one transaction. A crash before the position after outcomes alone is written
        passes over these again.
        """
        reads = [_read_receipt(received.event) for received in batch if isinstance(received.event, NoticeRead)]
        self._passed.update(positions)
        if reads or time.monotonic() >= self._write_at:
            self._settle(reads)

    def _settle(self, reads: Sequence[Receipt]) -> None:
        self._count(reads, self._ledger.settle_receipts(reads, stage=STAGE, after=self._passed))
        self._passed, self._write_at = {}, time.monotonic() + _POSITION_SECONDS

    def tick(self) -> None:
        """Settle what waits in the queues; at most two seconds at a time, so that the group does not lose us.

        They take turns, also from one tick to the next: what waits in one for long keeps back nothing of another.
        """
        if self._passed and time.monotonic() >= self._write_at:
            self._settle(())
        if reason := self._stands_still():
            self._health.missing("live", f"no receipt is taken: {reason}")
            return
        self._health.ready("live")
        self._forget_strays()
        until = time.monotonic() + 2
        empty = 0
        while empty < len(self._sources) and (now := time.monotonic()) < until:
            source = self._sources[0]
            self._sources.rotate(-1)
            if now < self._look_at.get(source.name, now):
                empty += 1
            elif self.drain_once(source):
                empty = 0
            else:
                self._look_at[source.name] = time.monotonic() + _LOOK_AGAIN_SECONDS
                empty += 1

    def _forget_strays(self) -> None:
        if time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + _FORGET_SECONDS
        if count := self._ledger.forget_strays():
            FORGOTTEN.inc(count)
            log.warning(
                "receipts removed that had been kept aside for a month: their messages are not ours", count=count
            )

    def drain_once(self, source: ReceiptSource) -> int:
        """Settle up to 1,000 deliveries of `source`; return how many.

        They are removed from the queue only after the ledger has them: a crash between delivers them again, and the
        event id makes the repeat harmless.
        """
        deliveries: list[ReceiptDelivery] = []
        try:
            deliveries.extend(source.receive(1000, 0))
            self._health.ready(source.name)
        except Unreachable as error:
            self._health.missing(source.name, str(error))
            log.warning("receipts wait", source=source.name, reason=str(error))
        if not deliveries:
            self._show_behind(source.name, ())
            return 0
        deliveries = self._readable_or_kept(source.name, deliveries)
        receipts: Sequence[Receipt] = [receipt for delivery in deliveries for receipt in delivery.receipts]
        if self._canaries is not None:
            # a crash between the two delivers all of them again, and neither counts anything twice
            receipts = self._canaries.settle(receipts)
        fresh = self._count(receipts, self._ledger.settle_receipts(receipts))
        source.settle([delivery.handle for delivery in deliveries])
        self._show_behind(source.name, fresh)
        return len(deliveries)

    def _readable_or_kept(self, source: str, deliveries: Sequence[ReceiptDelivery]) -> list[ReceiptDelivery]:
        """Return `deliveries` without those that the bound of dead letters does not let through: they stay in the queue, and hold
        up no other.
        """
        done: list[ReceiptDelivery] = []
        reason = None
        for delivery in deliveries:
            if delivery.error is not None:
                if reason is not None:
                    continue
                try:
                    self._keep(source, delivery)
                except TooManyDeadLetters as error:
                    reason = str(error)
                    continue
            done.append(delivery)
        self._dead_letters.flush()
        subject = f"dead letters of {source}"
        if reason is None:
            self._health.ready(subject)
            self._held_back.discard(source)
            return done
        self._health.missing(subject, reason)
        if source not in self._held_back:
            self._held_back.add(source)
            log.error("receipts stay in the queue: too many dead letters", source=source, reason=reason)
        return done

    def _show_behind(self, source: str, receipts: Sequence[Receipt]) -> None:
        ages = [receipt.occurred_at.timestamp() for receipt in receipts]
        self._behind[source] = max(0.0, time.time() - min(ages)) if ages else 0.0
        BEHIND.set(max(self._behind.values()))

    def _keep(self, source: str, delivery: ReceiptDelivery) -> None:
        offset = int(hashlib.sha256(delivery.raw).hexdigest()[:15], 16)
        # it may name its recipient: the bytes are kept, but sealed like a contact
        sealed = self._seal(delivery.raw)
        self._dead_letters.put_raw(f"{QUEUE}{source}", 0, offset, None, sealed, [], delivery.error or "unreadable")
        RECEIVED.labels("undecodable").inc()

    @staticmethod
    def _count(receipts: Sequence[Receipt], handed: Handed) -> Sequence[Receipt]:
        """Count what was read, and return those of it that were not known: a queue lends out twice, and logs are read again."""
        RECEIVED.labels("applied").inc(handed.applied - len(handed.exercises))
        RECEIVED.labels("kept_aside").inc(handed.kept_aside)
        RECEIVED.labels("repeated").inc(handed.repeated)
        identities = {(each.provider, each.provider_event_id): each for each in receipts}
        fresh = [each for identity, each in identities.items() if identity not in handed.known]
        real = [each for each in fresh if each.provider_event_id not in handed.exercises]
        for labels, count in Counter((each.provider, each.kind.value, each.mailbox) for each in real).items():
            BY_KIND.labels(*labels).inc(count)
        return fresh


def _read_receipt(event: NoticeRead) -> Receipt:
    return Receipt(
        provider="store",
        provider_event_id=f"{event.notice_id}/read",
        provider_message_id=event.notice_id,
        attempt_id=event.notice_id,
        kind=ReceiptKind.READ,
        sub_type=None,
        occurred_at=event.read_at,
        raw_sha256=hashlib.sha256(event.model_dump_json().encode()).hexdigest(),
    )


class ReceiptsStage:
    """Reads outcomes as a member of the group `receipts`, and the queues in between."""

    def __init__(
        self, kafka: Kafka, handler: Receipts, dead_letters: DeadLetters, health: Health, topic_ids: TopicIds
    ) -> None:
        self._kafka = kafka
        self._handler = handler
        self._dead_letters = dead_letters
        self._health = health
        self._topic_ids = topic_ids

    def run(self, stop: threading.Event) -> None:
        """Settle until `stop`."""
        self._health.ready()
        consume(
            self._kafka,
            STAGE,
            [DELIVERY_OUTCOMES],
            self._handler,
            stop=stop,
            dead_letters=self._dead_letters,
            health=self._health,
            topic_ids=self._topic_ids,
            batch_size=5000,
            poll_seconds=0.1,
            # Our own outcomes, in packs or not, are told by their keys and never opened; a piece of packs is megabytes.
            records_at_once=50,
            unopened=PassedOver(DELIVERY_OUTCOMES, "INC-"),
        )
