"""The relay: publishes the current state of what changed in the store, and only then forgets that it changed.

One relay is active; a second one waits. Each batch is one Kafka transaction under one fixed transactional id, so a relay
that was replaced is shut out by its successor's start. Contacts are sealed here: nothing readable leaves. Reading the store
is `bridge.magento`'s; the other direction is `bridge.account_notices`.
"""

import gc
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog

from bridge.contracts.envelope import Envelopes, Message, Record
from bridge.contracts.errors import Unreachable
from bridge.contracts.events import (
    Channel,
    CustomerChanged,
    NoticeRead,
    OrderChanged,
    ProvenanceRecorded,
    StoreBeat,
)
from bridge.contracts.topics import DELIVERY_OUTCOMES, STORE_CHANGES, Topic
from bridge.magento.changelogs import ChangeBatch, View
from bridge.magento.reader import Customers, InTurn, StoreReader
from bridge.magento.snapshots import (
    ALL_CHANNELS,
    FAULTS,
    Beat,
    CustomerState,
    NoticeReadState,
    OrderState,
    Person,
    ReadCustomers,
    Removed,
    State,
    Unreadable,
    WrittenProvenance,
    WrittenRecords,
)
from bridge.magento.watch import TOLD_COLUMNS
from bridge.runtime.allocation import keep_freed_memory
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Fenced, NotPublished
from bridge.runtime.sealing import Seal, email_hmacs, value_hmac
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
WAITING = gauge(
    "tocsin_relay_waiting_count",
    "changes that the relay has read and not settled; with a backlog these are as many as it reads at once, and more wait",
    question="does the relay have a backlog?",
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
UNREADABLE = counter(
    "tocsin_relay_unreadable_total",
    "provenance rows that do not say about whom they are: settled, and nothing is published of them",
    question="does the store hold rows that can concern nobody?",
)
UNTOLD = gauge(
    "tocsin_relay_untold_count",
    "1 for a table to which the shop added a row of which no trigger told: what changes there is not seen",
    question="does the store's database still tell of its changes?",
    labels={"table": list(TOLD_COLUMNS)},
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
_MADE_AT_ONCE = 50
"""Events made ahead between two looks whether what is awaited has come."""
_SWITCH_SECONDS = 0.001
_WATCH_SECONDS = 60.0
"""How often it is looked whether triggers told of what is new in the store."""
_FIRST_IDLE_SECONDS = 0.002
_FIRST_LIMIT = 500
_LEAST_LIMIT = 50
_COMMIT_TARGETS = 10
"""How often its target time a batch may wait for its commit before it counts as too large."""
_PROVENANCE = ProvenanceRecorded.ce_type
_CUSTOMER = CustomerChanged.ce_type
_ORDER = OrderChanged.ce_type
_FIRST_PAUSE_SECONDS = 0.2
_FENCED_AGAIN_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 5.0


class StoreMark(Protocol):
    """Remembers how far the store was (`bridge.put_back`)."""

    def saw(self, number: int, at: datetime) -> None: ...


class Publishing(Protocol):
    """What the relay needs of a publisher (`bridge.runtime.kafka.Publisher`)."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def send(self, topic: Topic, message: Message) -> None: ...
    def send_records(self, topic: Topic, records: Iterable[Record]) -> None: ...
    def send_to_all(self, topic: Topic, message: Message) -> None: ...
    def close(self) -> None: ...


class Sealing(Protocol):
    """Seals contacts (`bridge.runtime.sealing.Sealer`)."""

    def seals(self, count: int) -> Seal: ...


_T = TypeVar("_T")
_contact_json = msgspec.json.Encoder().encode
_quoted = json.encoder.encode_basestring
"""Text as JSON, as the models write it: what is not ASCII stays as it is."""
Outgoing = tuple[Topic, Message]


class CustomerEvents:
    """Key, root and JSON of customers' events, in their order: each made when it is asked for, or some of them ahead."""

    def __init__(
        self, states: Collection[State], events: Iterator[tuple[bytes, bytes, str]], faults: Counter[str]
    ) -> None:
        self.states = states
        self.faults = faults
        """What could not be understood, by name; whole once all events are made."""
        self._events = events
        self._made: list[tuple[bytes, bytes, str]] = []

    def make(self, count: int) -> bool:
        """Make the next `count`; return whether there were so many."""
        made = list(itertools.islice(self._events, count))
        self._made += made
        return len(made) == count

    def __iter__(self) -> Iterator[tuple[bytes, bytes, str]]:
        return itertools.chain(self._made, self._events)


class StateMessages:
    """Turns a state of the store into its message: contacts sealed, values hashed."""

    def __init__(self, sealer: Sealing, join_key: bytes) -> None:
        self._sealer = sealer
        self._join_key = join_key
        self._email_hmac = email_hmacs(join_key)
        self._value_hmacs: dict[str, _HashedValues] = {}
        self._channels = _Kept[tuple[Channel, ...]](_array)

    def of(self, states: Iterable[State], at: datetime) -> Iterator[Outgoing]:
        """Yield the topics and messages for `states`, in their order; each is made when it is asked for."""
        envelopes = Envelopes(SOURCE, at)
        count = Counter[str]()
        faults = Counter[str]()
        written = 0
        for state in states:
            if type(state) is WrittenProvenance:
                record_id, root, event = state
                yield STORE_CHANGES, envelopes.message(_PROVENANCE, f"provenance/{record_id}", root, event)
                written += 1
                continue
            if type(state) is Unreadable:
                faults.update(state.faults)
                UNREADABLE.inc()
                continue
            kind, topic, message, faulty = self._modelled(state, envelopes)
            yield topic, message
            count[kind] += 1
            if faulty:
                faults.update(faulty)
        count["provenance"] += written
        for kind, number in count.items():
            RECORDS.labels(kind).inc(number)
        for name, number in faults.items():
            FAULTY.labels(name).inc(number)

    def events_of(self, states: Customers | ReadCustomers) -> CustomerEvents:
        """Return the events for customers."""
        faults = Counter[str]()
        people: Iterable[Person]
        if isinstance(states, ReadCustomers):
            people, hashes = states.people(), self._hashes(states.values, len(states))
        else:
            # Of these there are few: who could not be read at once.
            each = list(states)
            people, hashes = map(CustomerState.person, each), map(self._hashes_of, each)
        seal = self._sealer.seals(len(states))
        return CustomerEvents(states, self._written(people, seal, '"attribute_hmacs":{', hashes, "}", faults), faults)

    def customers(self, events: CustomerEvents, at: datetime) -> Iterator[Record]:
        """Yield the messages for customers."""
        yield from Envelopes(SOURCE, at).records(_CUSTOMER, events)
        RECORDS.labels("customer").inc(len(events.states))
        for name, number in events.faults.items():
            FAULTY.labels(name).inc(number)

    def written(self, records: WrittenRecords, at: datetime) -> Iterator[Record]:
        """Yield the messages for provenance that the database has written, without an object for each."""
        yield from Envelopes(SOURCE, at).records(_PROVENANCE, records.written())
        RECORDS.labels("provenance").inc(len(records))

    def _modelled(self, state: State, envelopes: Envelopes) -> tuple[str, Topic, Message, Sequence[str]]:
        match state:
            case Removed(removed, root):
                return "tombstone", STORE_CHANGES, envelopes.tombstone(removed, root), ()
            case ProvenanceRecorded():
                record = f"provenance/{state.record_id}"
                return "provenance", STORE_CHANGES, envelopes.of(state, record, state.root), state.faults
            case CustomerState():
                key, customer = self._customer(state, self._sealer.seals(1))
                root = key.decode()
                return "customer", STORE_CHANGES, envelopes.message(_CUSTOMER, root, root, customer), state.faults
            case OrderState():
                key, order = self._order(state, self._sealer.seals(1))
                root = key.decode()
                return "order", STORE_CHANGES, envelopes.message(_ORDER, root, root, order), state.faults
            case NoticeReadState():
                read = NoticeRead(notice_id=state.notice_id, customer_id=state.customer_id, read_at=state.read_at)
                notice, root = f"notice/{state.notice_id}", f"customer/{state.customer_id}"
                return "notice_read", DELIVERY_OUTCOMES, envelopes.of(read, notice, root, f"{state.notice_id}/read"), ()
            case Beat():
                return "beat", STORE_CHANGES, envelopes.of(StoreBeat(beat_at=state.beat_at), BEAT_KEY, BEAT_KEY), ()
        raise TypeError(f"no message for {type(state).__name__}")

    def _customer(self, state: CustomerState, seal: Seal) -> tuple[bytes, bytes]:
        """Return key and JSON of a CustomerChanged, as the model would write it, for a tenth of its time."""
        ((key, _, event),) = self._written(
            [state.person()], seal, '"attribute_hmacs":{', [self._hashes_of(state)], "}", Counter()
        )
        return key, event.encode()

    def _order(self, state: OrderState, seal: Seal) -> tuple[bytes, bytes]:
        """Return key and JSON of an OrderChanged, in the same way."""
        ((key, _, event),) = self._written([state.person()], seal, '"order_id":', [str(state.order_id)], "", Counter())
        return key, event.encode()

    def _written(
        self, people: Iterable[Person], seal: Seal, name: str, members: Iterable[str], end: str, faults: Counter[str]
    ) -> Iterator[tuple[bytes, bytes, str]]:
        """Yield key, root and JSON of the event of each of `people`, and count their faults.

        `name`, their own of `members`, and `end` are what the event has beside that.
        """
        channels_of, email_hmac, all_channels = self._channels.of, self._email_hmac, _array(ALL_CHANNELS)
        for (root, customer_id, belonging, channels, contact, stored, faulty), own in zip(people, members, strict=True):
            key = root.encode()
            email_hash = f'"{email_hmac(stored)}"' if stored and not stored.isspace() else "null"
            sealed = seal(_contact_json(contact), key)
            if stored and not stored.isascii() and contact.email is not None:
                # hashed as it is stored, and once more as mail is sent to it: its domain may be stored in ASCII elsewhere
                sealed = f'{sealed[:-1]},"mailbox":"{email_hmac(contact.email)}"}}'
            event = (
                f'{{"root":"{root}","customer_id":{customer_id},{belonging.members}'
                f',"channels":{all_channels if channels is ALL_CHANNELS else channels_of(channels)}'
                f',"contact":{sealed},"email_hmac":{email_hash},{name}{own}{end}'
                f',"faults":{_array(faulty) if faulty else "[]"}}}'
            )
            yield key, key, event
            if faulty:
                faults.update(faulty)

    def _hashes(self, values: Mapping[str, Sequence[str | None]], count: int) -> Iterable[str]:
        """Return the members that say the hashes of `count` customers' values, given by attribute."""
        columns = [map(self._hashed(code).__getitem__, each) for code, each in values.items()]
        if not columns:
            return itertools.repeat("", count)
        if len(columns) == 1:
            return columns[0]
        if any(None in each for each in values.values()):
            return (",".join(filter(None, each)) for each in zip(*columns, strict=True))
        return map(",".join, zip(*columns, strict=True))

    def _hashes_of(self, state: CustomerState) -> str:
        return ",".join([self._hashed(code)[value] for code, value in state.attribute_values.items()])

    def _hashed(self, code: str) -> "_HashedValues":
        if code not in self._value_hmacs:
            self._value_hmacs[code] = _HashedValues(self._join_key, code)
        return self._value_hmacs[code]


class _HashedValues(dict[str | None, str]):
    """By value of an attribute, the member of a JSON object that says its hash; nothing for a value that is not there."""

    def __init__(self, join_key: bytes, code: str) -> None:
        super().__init__()
        self._join_key = join_key
        self._code = code

    def __missing__(self, value: str | None) -> str:
        if value is None:
            return ""
        written = f'{_quoted(self._code)}:"{value_hmac(self._join_key, self._code, value)}"'
        # Scores and classes repeat.
        if len(value) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[value] = written
        return written


_LONGEST_KEPT, _MOST_KEPT = 32, 10_000


def _array(words: Iterable[str]) -> str:
    return f"[{','.join(map(_quoted, words))}]"


class _Kept(Generic[_T]):
    """What is written of a value that many states share: the very same object, so that it need not even be compared."""

    def __init__(self, write: Callable[[_T], str]) -> None:
        self._write = write
        self._known: dict[int, tuple[_T, str]] = {}

    def of(self, value: _T) -> str:
        known = self._known.get(id(value))
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            # While it is kept here, no other object can have its id.
            known = self._known[id(value)] = value, self._write(value)
        return known[1]


class BatchSize:
    """How many changes to ask for, up to `largest`: as many as keep a batch's work near `target_seconds`.

    The broker's commit takes its time for any batch: smaller ones would only wait for it more often.
    """

    def __init__(self, largest: int, target_seconds: float) -> None:
        self._largest = largest
        self._target_seconds = target_seconds
        self.limit = min(largest, _FIRST_LIMIT)

    def took(self, seconds: float, committing_seconds: float, *, full: bool) -> None:
        """Learn how long a batch took; one that was not `full` says nothing about a larger one."""
        # So long a commit comes of much that was sent; a transaction must not outlast its time either.
        seconds += max(0.0, committing_seconds - _COMMIT_TARGETS * self._target_seconds)
        if seconds > self._target_seconds:
            # at once, and in proportion: the store or Kafka is slow now
            self.limit = max(
                min(_LEAST_LIMIT, self._largest), int(self.limit * max(0.25, self._target_seconds / seconds))
            )
        elif full and seconds < self._target_seconds / 2:
            self.limit = min(self._largest, self.limit * 2)

    def failed(self) -> None:
        """Learn that a batch may have been too large: for a throttled broker, or for a bound on how long a statement takes."""
        self.limit = max(min(_LEAST_LIMIT, self._largest), self.limit // 2)


@dataclass(slots=True)
class _Prepared:
    """A batch whose states are read, ready to be sealed and published."""

    batch: ChangeBatch
    states: Collection[State]
    began: float
    read_at: datetime
    read_seconds: float = 0.0
    sending_seconds: float = 0.0
    """How long its events were made and sent."""
    committing_seconds: float = 0.0
    ahead: CustomerEvents | None = None
    """Events of one of its parts, some of which are made before its transaction begins."""

    @property
    def parts(self) -> Sequence[Collection[State]]:
        """The states, by how they were read."""
        return self.states.parts if isinstance(self.states, InTurn) else (self.states,)


class RelayStage:
    """The stage `relay`. `open_publisher` starts a publisher under `TRANSACTIONAL_ID`, which shuts out every earlier one.

    `may_publish` is asked before each batch: the demo's Kafka keeps little, so there the relay waits for its readers. `mark`
    knows how far the store was: without, nobody sees that it was put back in time.
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
        mark: StoreMark | None = None,
    ) -> None:
        self._mark = mark
        self._reader = reader
        self._open_publisher = open_publisher
        self._messages = StateMessages(sealer, join_key)
        self._settings = settings
        self._clock = clock
        self._health = health
        self._may_publish = may_publish
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._fenced_at = -_FENCED_AGAIN_SECONDS
        self._complete_until = clock.now()
        self._batch_size = BatchSize(settings.batch_size, settings.batch_seconds)
        self._beat_at: datetime | None = None
        self._untold: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; wait out a store or a Kafka that does not answer.

        Raises Fenced when another relay took over (this one has then settled nothing that it did not publish), and
        Refused or BadInput when the store is not prepared.
        """
        # What start-up made lives as long as the process: the collector need not look at it again with every batch.
        gc.freeze()
        # Every batch takes and frees the megabytes that the one before it did.
        keep_freed_memory()
        # The thread that reads must not wait long for the one that publishes, or the store idles after every answer.
        sys.setswitchinterval(_SWITCH_SECONDS)
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
                except Fenced:
                    ERRORS.labels("kafka").inc()
                    if not self._may_open_anew():
                        raise
                    log.warning("another relay, whose lead was gone, shut this one out; it leads, and opens anew")
                except (Unreachable, NotPublished) as error:
                    ERRORS.labels(
                        "kafka" if isinstance(error, NotPublished) or "Kafka" in str(error) else "store"
                    ).inc()
                    self._health.missing("relay", str(error))
                    self._batch_size.failed()
                    log.warning("the relay waits", reason=str(error), seconds=self._pause_seconds)
                    self._reader.resign()
                    self._show_age()
                    stop.wait(self._pause_seconds)
                    self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        finally:
            self._reader.resign()
            ACTIVE.set(0)

    def _may_open_anew(self) -> bool:
        """Whether this relay is entitled to its transactional id after being shut out.

        One that froze between taking the lead and opening its publisher opens it when it wakes: the leader of now is shut
        out, and the other one finds its lead gone. Twice in a row is something else, such as two stores on one id.
        """
        before, self._fenced_at = self._fenced_at, time.monotonic()
        if self._fenced_at - before < _FENCED_AGAIN_SECONDS:
            return False
        try:
            self._reader.keep_lead()
        except Unreachable:
            return False
        return True

    def _lead(self, stop: threading.Event) -> None:
        publisher: Publishing | None = None
        try:
            # Of what was before it led, or ran, the changelogs alone know.
            self._complete_until = self._reader.waiting_since() or self._complete_until
            # Leaving the block waits for what is in flight; only then is the publisher closed.
            with ThreadPoolExecutor(1, thread_name_prefix="publish") as elsewhere:
                publisher = self._attended(elsewhere.submit(self._open_publisher))
                ACTIVE.set(1)
                self._health.ready("relay")
                self._drain(publisher, elsewhere, stop)
        finally:
            ACTIVE.set(0)
            WAITING.set(0)
            self._show_untold(set())
            if publisher is not None:
                publisher.close()

    def _drain(self, publisher: Publishing, elsewhere: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Publish batch after batch. While one is on its way, the one before it is settled and the next one is read."""
        following: _Prepared | None = None
        unsettled: _Prepared | None = None
        beat_due = watch_due = 0.0
        idle_seconds = _FIRST_IDLE_SECONDS
        while not stop.is_set():
            if time.monotonic() >= beat_due:
                self._beat_at = self._clock.now()
                self._reader.beat(self._name)
                beat_due = time.monotonic() + self._settings.beat_seconds
            if not self._may_publish():
                self._settle(unsettled)
                unsettled = None
                self._reader.keep_lead()
                self._show_age()
                stop.wait(self._settings.idle_seconds)
                continue
            prepared = following or self._prepare(besides=unsettled)
            following = None
            WAITING.set(len(prepared.batch))
            if not prepared.batch:
                if unsettled is not None:
                    self._settle(unsettled)
                    unsettled = None
                    continue
                self._complete_until = prepared.read_at
                self._show_age()
                if time.monotonic() >= watch_due:
                    self._watch_triggers()
                    watch_due = time.monotonic() + _WATCH_SECONDS
                # Look again soon while changes come, and ever less often while they do not.
                stop.wait(idle_seconds)
                idle_seconds = min(idle_seconds * 1.5, self._settings.idle_seconds)
                continue
            idle_seconds = min(_FIRST_IDLE_SECONDS, self._settings.idle_seconds)
            following = self._publish(prepared, unsettled, publisher, elsewhere)
            unsettled = prepared
            self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._settle(unsettled)

    def _watch_triggers(self) -> None:
        """Look whether something told of what the shop added, and say so of each table of which nothing did."""
        heard = self._reader.heard()
        untold = self._untold - {table for table, was_told in heard.items() if was_told}
        for table in sorted(table for table, was_told in heard.items() if not was_told):
            if table not in untold:
                log.error(
                    "no trigger told of a new row: what changes in this table is not seen; run bin/magento"
                    " tocsin:capture:enable, then tocsin relay verify --repair",
                    table=table,
                )
            untold.add(table)
        self._show_untold(untold)

    def _show_untold(self, tables: set[str]) -> None:
        self._untold = tables
        for table in TOLD_COLUMNS:
            UNTOLD.labels(table).set(table in tables)

    def _publish(
        self, prepared: _Prepared, unsettled: _Prepared | None, publisher: Publishing, elsewhere: ThreadPoolExecutor
    ) -> _Prepared | None:
        """Publish a batch and settle the one before it; return the next one if it was worth reading meanwhile."""
        sent = threading.Event()
        published = elsewhere.submit(self._transact, publisher, prepared, sent) if prepared.states else None
        try:
            self._settle(unsettled)
            # With a backlog, reading the next batch costs nothing now. Without, it is better read later: newer.
            if prepared.batch.full and self._may_publish():
                following = self._prepare(besides=prepared)
                if published is not None:
                    self._write_ahead(following, sent, published)
                return following
            return None
        finally:
            # Also when settling or reading fails: nothing else may use the publisher before this transaction has ended.
            if published is not None:
                self._attended(published)
            prepared.ahead = None

    def _write_ahead(self, following: _Prepared, sent: threading.Event, published: Future[None]) -> None:
        """Make events of the next batch while the broker takes the one before it: else this process would only wait."""
        part = max(
            (part for part in following.parts if isinstance(part, Customers | ReadCustomers)), key=len, default=None
        )
        if not part:
            return
        while not sent.wait(_LOOK_SECONDS) and not published.done():
            self._reader.keep_lead()
        # The other thread makes none now, nor before this one ends: what makes them is not for two at once.
        following.ahead = self._messages.events_of(part)
        while not published.done() and following.ahead.make(_MADE_AT_ONCE):
            pass

    def _settle(self, published: _Prepared | None) -> None:
        """Forget the changes of a batch that is published."""
        if published is None:
            return
        # A crash before this line publishes the batch again, and loses nothing. The deletes go over the session that
        # holds the lead: were it lost meanwhile, this raises and deletes nothing.
        self._reader.settle(published.batch)
        for view, version_ids in published.batch.version_ids.items():
            CHANGES.labels(view.value).inc(len(version_ids))
        BATCH.observe(time.monotonic() - published.began)
        self._batch_size.took(
            published.read_seconds + published.sending_seconds, published.committing_seconds, full=published.batch.full
        )
        if not published.batch.full:
            self._complete_until = published.read_at
        self._show_age()

    def _prepare(self, besides: _Prepared | None) -> _Prepared:
        began, read_at = time.monotonic(), self._clock.now()
        batch = self._reader.next_batch(self._batch_size.limit, besides.batch if besides is not None else None)
        if self._mark is not None and batch.beat:
            self._mark.saw(max(batch.version_ids[View.HEARTBEAT]), read_at)
        states = self._reader.states_of(batch) if batch else ()
        timed = self._with_instants(states) if batch.beat else states
        return _Prepared(batch, timed, began, read_at, read_seconds=time.monotonic() - began)

    def _with_instants(self, states: Collection[State]) -> Collection[State]:
        # A heartbeat stands among what was read as a list, not among what is made of rows later.
        parts = states.parts if isinstance(states, InTurn) else (states,)
        return InTurn(*(list(map(self._timed, part)) if isinstance(part, (list, tuple)) else part for part in parts))

    def _timed(self, state: State) -> State:
        """Return the heartbeat with the instant at which this relay wrote it: the row keeps whole seconds only."""
        if isinstance(state, Beat) and state.relay == self._name and self._beat_at is not None:
            return Beat(state.relay, self._beat_at)
        return state

    def _transact(self, publisher: Publishing, prepared: _Prepared, sent: threading.Event) -> None:
        """Publish a batch in one transaction; `sent` is set once nothing is left but to wait for the broker."""
        now, began = self._clock.now(), time.monotonic()
        with publisher.transaction():
            for part in prepared.parts:
                match part:
                    case WrittenRecords():
                        publisher.send_records(STORE_CHANGES, self._messages.written(part, now))
                    case Customers() | ReadCustomers():
                        ahead = prepared.ahead
                        events = ahead if ahead is not None and ahead.states is part else self._messages.events_of(part)
                        publisher.send_records(STORE_CHANGES, self._messages.customers(events, now))
                    case _:
                        for topic, message in self._messages.of(part, now):
                            if message.key == BEAT_KEY:
                                publisher.send_to_all(topic, message)
                            else:
                                publisher.send(topic, message)
            sent.set()
            sent_at = time.monotonic()
        prepared.sending_seconds, prepared.committing_seconds = sent_at - began, time.monotonic() - sent_at

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
