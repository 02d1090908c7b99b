"""The relay: publishes the current state of what changed in the store, and only then forgets that it changed.

One relay is active; a second one waits. Each batch is one Kafka transaction under one fixed transactional id, so a relay
that was replaced is shut out by its successor's start. Contacts are sealed here: nothing readable leaves. Reading the store
is `bridge.magento`'s; the other direction is `bridge.account_notices`.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

import structlog

from bridge.contracts.envelope import Message, seal_envelope, tombstone
from bridge.contracts.errors import Unreachable
from bridge.contracts.events import Contact as _Contact
from bridge.contracts.events import (
    CustomerChanged,
    NoticeRead,
    OrderChanged,
    ProvenanceRecorded,
    SealedContact,
    StoreBeat,
)
from bridge.contracts.topics import DELIVERY_OUTCOMES, STORE_CHANGES, Topic
from bridge.magento.changelogs import ChangeBatch, View
from bridge.magento.reader import StoreReader
from bridge.magento.snapshots import FAULTS, Beat, CustomerState, NoticeReadState, OrderState, Removed, State
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import NotPublished
from bridge.runtime.sealing import email_hmac, value_hmac
from bridge.runtime.settings import Relay as RelaySettings
from bridge.runtime.telemetry import Health, counter, gauge, histogram

log = structlog.get_logger()

TRANSACTIONAL_ID = "relay"
SOURCE = "/relay"
BEAT_KEY = "heartbeat"

ACTIVE = gauge("tocsin_relay_active", "1 while this relay is the active one", question="does exactly one relay work?")
AGE = gauge(
    "tocsin_relay_oldest_unpublished_seconds",
    "upper bound on the age of the oldest change that is committed in the store and not yet published",
    question="how old is what the index knows?",
)
CHANGES = counter(
    "tocsin_relay_changes_total",
    "changelog rows settled",
    question="which changes come from the store, and how many?",
    labels={"view": [view.value for view in View]},
)
RECORDS = counter(
    "tocsin_relay_records_total",
    "messages published",
    question="what does the relay publish?",
    labels={"kind": ["customer", "order", "provenance", "notice_read", "tombstone", "beat"]},
)
FAULTY = counter(
    "tocsin_relay_faults_total",
    "fields of the store's rows that could not be understood",
    question="is the store's data readable?",
    labels={"field": FAULTS},
)
ERRORS = counter(
    "tocsin_relay_errors_total",
    "batches or starts that failed and are repeated",
    question="does the relay struggle, and with what?",
    labels={"part": ["store", "kafka"]},
)
BATCH = histogram(
    "tocsin_relay_batch_seconds",
    "from reading a batch to having settled it",
    question="how long does a batch take?",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

_LOOK_SECONDS = 0.5
"""How often a waiting relay shows that it lives, or looks whether it may lead."""
_BEAT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


class Publishing(Protocol):
    """What the relay needs of a publisher (`bridge.runtime.kafka.Publisher`)."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def send(self, topic: Topic, message: Message) -> None: ...
    def send_to_all(self, topic: Topic, message: Message) -> None: ...
    def close(self) -> None: ...


class Sealing(Protocol):
    """Seals a contact for a root."""

    def seal(self, contact: _Contact, root: str) -> SealedContact: ...


_T = TypeVar("_T")
Outgoing = tuple[Topic, Message]


class StateMessages:
    """Turns a state of the store into its message: contacts sealed, values hashed."""

    def __init__(self, sealer: Sealing, join_key: bytes) -> None:
        self._sealer = sealer
        self._join_key = join_key

    def of(self, state: State, at: datetime) -> Outgoing:
        """Return the topic and message for `state`."""
        match state:
            case Removed(key, root):
                RECORDS.labels("tombstone").inc()
                return STORE_CHANGES, tombstone(key=key, root=root, source=SOURCE, at=at)
            case ProvenanceRecorded():
                RECORDS.labels("provenance").inc()
                key = f"provenance/{state.record_id}"
                self._count(state.faults)
                return STORE_CHANGES, seal_envelope(state, key=key, root=state.root, source=SOURCE, at=at)
            case CustomerState():
                RECORDS.labels("customer").inc()
                root = f"customer/{state.customer_id}"
                self._count(state.faults)
                event = self._customer(state, root)
                return STORE_CHANGES, seal_envelope(event, key=root, root=root, source=SOURCE, at=at)
            case OrderState():
                RECORDS.labels("order").inc()
                root = f"order/{state.order_id}"
                self._count(state.faults)
                order = self._order(state, root)
                return STORE_CHANGES, seal_envelope(order, key=root, root=root, source=SOURCE, at=at)
            case NoticeReadState():
                RECORDS.labels("notice_read").inc()
                read = NoticeRead(notice_id=state.notice_id, customer_id=state.customer_id, read_at=state.read_at)
                return DELIVERY_OUTCOMES, seal_envelope(
                    read,
                    key=f"notice/{state.notice_id}",
                    root=f"customer/{state.customer_id}",
                    source=SOURCE,
                    at=at,
                    event_id=f"{state.notice_id}/read",
                )
            case Beat():
                RECORDS.labels("beat").inc()
                beat = StoreBeat(beat_at=state.beat_at)
                return STORE_CHANGES, seal_envelope(beat, key=BEAT_KEY, root=BEAT_KEY, source=SOURCE, at=at)

    def _customer(self, state: CustomerState, root: str) -> CustomerChanged:
        return CustomerChanged(
            root=root,
            customer_id=state.customer_id,
            website_id=state.website_id,
            store_id=state.store_id,
            locale=state.locale,
            residence=state.residence,
            channels=state.channels,
            contact=self._sealer.seal(state.contact, root),
            email_hmac=self._hashed(state.stored_email),
            attribute_hmacs={
                code: value_hmac(self._join_key, code, value) for code, value in state.attribute_values.items()
            },
            faults=state.faults,
        )

    def _order(self, state: OrderState, root: str) -> OrderChanged:
        return OrderChanged(
            root=root,
            order_id=state.order_id,
            customer_id=state.customer_id,
            website_id=state.website_id,
            store_id=state.store_id,
            locale=state.locale,
            residence=state.residence,
            channels=state.channels,
            contact=self._sealer.seal(state.contact, root),
            email_hmac=self._hashed(state.stored_email),
            faults=state.faults,
        )

    def _hashed(self, email: str | None) -> str | None:
        return email_hmac(self._join_key, email) if email and email.strip() else None

    @staticmethod
    def _count(faults: Iterable[str]) -> None:
        for name in faults:
            FAULTY.labels(name).inc()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch whose states are read and sealed, ready to be published."""

    batch: ChangeBatch
    messages: Sequence[Outgoing]
    began: float
    read_at: datetime


class RelayStage:
    """The stage `relay`. `open_publisher` starts a publisher under `TRANSACTIONAL_ID`, which shuts out every earlier one.

    `may_publish` is asked before each batch: the demo's Kafka keeps little, so there the relay waits for its readers.
    """

    def __init__(
        self,
        reader: StoreReader,
        open_publisher: Callable[[], Publishing],
        sealer: Sealing,
        join_key: bytes,
        settings: RelaySettings,
        clock: Clock,
        health: Health,
        *,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        self._reader = reader
        self._open_publisher = open_publisher
        self._messages = StateMessages(sealer, join_key)
        self._settings = settings
        self._clock = clock
        self._health = health
        self._may_publish = may_publish
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._complete_until = clock.now()
        self._beat_at: datetime | None = None

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; wait out a store or a Kafka that does not answer.

        Raises Fenced when another relay took over (this one has then settled nothing that it did not publish), and
        Refused or BadInput when the store is not prepared.
        """
        self._health.missing("relay", "not yet connected to the store")
        self._health.ready()
        try:
            while not stop.is_set():
                try:
                    if self._reader.take_lead():
                        self._lead(stop)
                    else:
                        # A standby is as it should be.
                        self._health.ready("relay")
                        AGE.set(0)
                        stop.wait(_LOOK_SECONDS)
                except (Unreachable, NotPublished) as error:
                    ERRORS.labels(
                        "kafka" if isinstance(error, NotPublished) or "Kafka" in str(error) else "store"
                    ).inc()
                    self._health.missing("relay", str(error))
                    log.warning("the relay waits", reason=str(error), seconds=self._pause_seconds)
                    self._reader.resign()
                    self._show_age()
                    stop.wait(self._pause_seconds)
                    self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        finally:
            self._reader.resign()
            ACTIVE.set(0)

    def _lead(self, stop: threading.Event) -> None:
        publisher: Publishing | None = None
        try:
            # Leaving the block waits for what is in flight; only then is the publisher closed.
            with ThreadPoolExecutor(1, thread_name_prefix="publish") as elsewhere:
                publisher = self._attended(elsewhere.submit(self._open_publisher))
                ACTIVE.set(1)
                self._health.ready("relay")
                self._drain(publisher, elsewhere, stop)
        finally:
            ACTIVE.set(0)
            if publisher is not None:
                publisher.close()

    def _drain(self, publisher: Publishing, elsewhere: ThreadPoolExecutor, stop: threading.Event) -> None:
        prepared: _Prepared | None = None
        beat_due = 0.0
        while not stop.is_set():
            if time.monotonic() >= beat_due:
                self._beat_at = self._clock.now()
                self._reader.beat(self._name)
                beat_due = time.monotonic() + _BEAT_SECONDS
            if not self._may_publish():
                self._reader.keep_lead()
                self._show_age()
                stop.wait(self._settings.idle_seconds)
                continue
            prepared = prepared or self._prepare()
            if not prepared.batch:
                self._complete_until, prepared = prepared.read_at, None
                self._show_age()
                stop.wait(self._settings.idle_seconds)
                continue
            prepared = self._publish_and_settle(prepared, publisher, elsewhere)
            self._pause_seconds = _FIRST_PAUSE_SECONDS

    def _publish_and_settle(
        self, prepared: _Prepared, publisher: Publishing, elsewhere: ThreadPoolExecutor
    ) -> _Prepared | None:
        """Publish a batch and settle it; return the next one if it was worth reading meanwhile."""
        following: _Prepared | None = None
        if prepared.messages:
            published = elsewhere.submit(_publish, publisher, prepared.messages)
            try:
                # With a backlog, reading the next batch costs nothing now. Without, it is better read later: newer.
                if prepared.batch.full and self._may_publish():
                    following = self._prepare(besides=prepared.batch)
            finally:
                # Also when reading fails: nothing else may use the publisher before this transaction has ended.
                self._attended(published)
        # A crash before this line publishes the batch again, and loses nothing. The deletes go over the session that
        # holds the lead: were it lost meanwhile, this raises and deletes nothing.
        self._reader.settle(prepared.batch)
        for view, version_ids in prepared.batch.version_ids.items():
            CHANGES.labels(view.value).inc(len(version_ids))
        BATCH.observe(time.monotonic() - prepared.began)
        if not prepared.batch.full:
            self._complete_until = prepared.read_at
        self._show_age()
        return following

    def _prepare(self, besides: ChangeBatch | None = None) -> _Prepared:
        began, read_at = time.monotonic(), self._clock.now()
        batch = self._reader.next_batch(self._settings.batch_size, besides)
        states = self._reader.states_of(batch) if batch else ()
        at = self._clock.now()
        return _Prepared(batch, [self._messages.of(self._timed(state), at) for state in states], began, read_at)

    def _timed(self, state: State) -> State:
        """Return the heartbeat with the instant at which this relay wrote it: the row keeps whole seconds only."""
        if isinstance(state, Beat) and state.relay == self._name and self._beat_at is not None:
            return Beat(state.relay, self._beat_at)
        return state

    def _attended(self, work: Future[_T]) -> _T:
        """Wait for `work` on the other thread while showing the store that this relay lives."""
        while True:
            wait([work], timeout=_LOOK_SECONDS)
            if work.done():
                return work.result()
            self._reader.keep_lead()
            self._show_age()

    def _show_age(self) -> None:
        # Changelogs carry no time. All that was committed before the last complete reading is published.
        AGE.set(max(0.0, (self._clock.now() - self._complete_until).total_seconds()))


def _publish(publisher: Publishing, messages: Sequence[Outgoing]) -> None:
    with publisher.transaction():
        for topic, message in messages:
            if message.key == BEAT_KEY:
                publisher.send_to_all(topic, message)
            else:
                publisher.send(topic, message)
