"""The relay on the demo's store: what is published, in which order it is settled, and what a failure leaves behind."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge import relay
from bridge.contracts.envelope import Message, Record, open_envelope
from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import (
    Channel,
    CustomerChanged,
    EntityRemoved,
    Event,
    NoticeRead,
    OrderChanged,
    ProvenanceRecorded,
    StoreBeat,
)
from bridge.contracts.topics import DELIVERY_OUTCOMES, STORE_CHANGES, Topic
from bridge.magento import store as store_module
from bridge.magento.catalog import AI_ATTRIBUTES_PATH
from bridge.magento.changelogs import View
from bridge.magento.reader import LeadLost, StoreReader
from bridge.magento.snapshots import CustomerState
from bridge.magento.store import open_store
from bridge.magento.watch import TOLD_COLUMNS
from bridge.relay import AGE, FAULTY, UNREADABLE, BatchSize, CustomerEvents, RelayStage
from bridge.runtime.clock import SetClock, SystemClock
from bridge.runtime.kafka import Fenced, NotPublished
from bridge.runtime.sealing import Opener, Sealer, email_hmac, generate_sealing_keys, value_hmac
from bridge.runtime.settings import Relay, Store
from bridge.runtime.telemetry import Health
from tests.store_rows import StoreRows

KEYS = generate_sealing_keys()
JOIN_KEY = bytes(32)


class Topics:
    """Takes transactions whole, or fails them as told."""

    def __init__(self) -> None:
        self.transactions: list[list[tuple[Topic, Message]]] = []
        self.failures: list[Exception] = []
        self.beats: list[tuple[Topic, Message]] = []
        self.before_commit: Callable[[], None] = lambda: None
        self.opened = 0
        self.closed = 0
        self._open: list[tuple[Topic, Message]] = []

    def open(self) -> "Topics":
        self.opened += 1
        return self

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._open = []
        yield
        self.before_commit()
        if self.failures:
            raise self.failures.pop(0)
        if self._open:
            self.transactions.append(self._open)

    def send(self, topic: Topic, message: Message) -> None:
        self._open.append((topic, message))

    def send_records(self, topic: Topic, records: Iterable[Record]) -> None:
        for key, root, value, headers in records:
            written = [(name, each) for name, each in headers.items() if isinstance(each, bytes)]
            encoded = value.encode() if isinstance(value, str) else value
            self.send(topic, Message(key.decode(), root.decode(), encoded, written))

    def send_to_all(self, topic: Topic, message: Message) -> None:
        self.beats.append((topic, message))

    def close(self) -> None:
        self.closed += 1

    def messages(self, topic: Topic = STORE_CHANGES) -> list[Message]:
        return [message for batch in self.transactions for each, message in batch if each is topic]

    def newest(self) -> dict[str, Event]:
        """Return what a compacted store-changes would hold, tombstones included."""
        return {each.key: opened(each) for each in self.messages()}


def opened(message: Message) -> Event:
    return open_envelope(message.key.encode(), message.value, dict(message.headers))


class Running:
    """A relay on a thread of its own."""

    def __init__(self, stage: RelayStage) -> None:
        self.stop = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(stage,))
        self._thread.start()

    def _run(self, stage: RelayStage) -> None:
        try:
            stage.run(self.stop)
        except Exception as error:
            self.error = error

    def ended(self, timeout_seconds: float = 10) -> bool:
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        assert self.ended()


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.005)


Start = Callable[..., Running]


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def start(topics: Topics, store_settings: Store) -> Iterator[Start]:
    started: list[tuple[Running, StoreReader]] = []

    def begin(
        batch_size: int = 100,
        reader: StoreReader | None = None,
        may_publish: Callable[[], bool] = lambda: True,
        health: Health | None = None,
        batch_seconds: float = 0.5,
    ) -> Running:
        clock = SystemClock()
        reader = reader or open_store(store_settings, clock)
        settings = Relay(batch_size=batch_size, batch_seconds=batch_seconds, idle_seconds=0.005)
        stage = RelayStage(
            reader, topics.open, Sealer(KEYS.public, clock), JOIN_KEY, settings, clock, health or Health(),
            may_publish=may_publish,
        )  # fmt: skip
        running = Running(stage)
        started.append((running, reader))
        return running

    yield begin
    for running, reader in started:
        running.end()
        reader.close()


def is_empty(shop: StoreRows) -> bool:
    return not any(shop.changelog(view) for view in View)


def drain(shop: StoreRows, start: Start, **options: Any) -> Running:
    running = start(**options)
    wait_for("all settled", lambda: is_empty(shop))
    running.end()
    assert running.error is None
    return running


def test_a_customer_is_published_sealed(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42, country="US", region_id=12)
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=42, value=0.5)
    drain(shop, start)
    event = topics.newest()["customer/42"]
    assert isinstance(event, CustomerChanged)
    assert (event.website_id, event.store_id, event.locale) == (1, 1, "de_DE")
    assert event.channels == (Channel.EMAIL, Channel.SMS, Channel.ACCOUNT_NOTICE, Channel.LETTER)
    assert [claim.code for claim in event.residence] == ["US-CA"]
    assert event.email_hmac == email_hmac(JOIN_KEY, "person42@shop.example.com")
    assert event.attribute_hmacs == {"fraud_score": value_hmac(JOIN_KEY, "fraud_score", "0.5")}
    assert event.contact is not None
    contact = Opener([KEYS.private]).open(event.contact, "customer/42")
    assert (contact.email, contact.phone) == ("person42@shop.example.com", "+12135550101")


def test_an_address_is_hashed_as_it_is_stored_and_as_mail_is_sent_to_it(
    shop: StoreRows, topics: Topics, start: Start
) -> None:
    stored = [
        "Ann@B\u00fccher.example.com",
        "ann@xn--bcher-kva.example.com",
        "ann@shop.example.com",
        "n\u00e4@no address",
    ]
    for number, address in enumerate(stored, 1):
        shop.customer(number, email=address)
    drain(shop, start)
    newest = topics.newest()
    found = [newest[f"customer/{number}"] for number in range(1, 5)]
    events = [event for event in found if isinstance(event, CustomerChanged)]
    assert [event.email_hmac for event in events] == [email_hmac(JOIN_KEY, address) for address in stored]
    seals = [event.contact for event in events if event.contact is not None]
    assert [seal.mailbox for seal in seals] == [email_hmac(JOIN_KEY, stored[1]), None, None, None]
    opened_contact = Opener([KEYS.private]).open(seals[0], "customer/1")
    assert opened_contact.email is not None
    assert opened_contact.email.lower() == stored[1]
    assert Opener([KEYS.private]).open_json(seals[0].model_dump_json(), "customer/1") == opened_contact


def test_attributes_that_the_store_calls_ai_written_are_hashed_beside_those_of_the_settings(
    shop: StoreRows, topics: Topics, start: Start
) -> None:
    shop.add("eav_attribute", attribute_id=203, entity_type_id=1, attribute_code="churn", backend_type="varchar")
    shop.add("eav_attribute", attribute_id=204, entity_type_id=1, attribute_code="email", backend_type="static")
    rows = [{"entity_type": "customer", "attribute": code} for code in ("churn", "email", "unknown")]
    shop.add("core_config_data", scope="default", scope_id=0, path=AI_ATTRIBUTES_PATH, value=json.dumps(rows))
    shop.customer(42)
    shop.add("customer_entity_varchar", attribute_id=203, entity_id=42, value="soon")
    drain(shop, start)
    event = topics.newest()["customer/42"]
    assert isinstance(event, CustomerChanged)
    assert event.attribute_hmacs == {"churn": value_hmac(JOIN_KEY, "churn", "soon")}


def test_nothing_personal_leaves_in_clear(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    shop.order(7)
    shop.provenance("r-1", "order/7")
    drain(shop, start)
    for message in topics.messages():
        sent = repr((message.key, message.value, message.headers))
        for personal in ("example.com", "Placeholder", "Musterweg", "3920001", "secret-hash", "Beispielstadt"):
            assert personal not in sent


def test_one_event_for_many_changes_of_one_customer(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    for number in range(20):
        shop.run("UPDATE customer_entity SET lastname = :name", name=f"N{number}")
    drain(shop, start)
    assert [message.key for message in topics.messages()] == ["customer/42"]


def test_a_removed_customer_becomes_a_tombstone(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    shop.run("DELETE FROM customer_entity")
    drain(shop, start)
    (message,) = topics.messages()
    assert message.value is None
    assert opened(message) == EntityRemoved(root="customer/42", key="customer/42")


def test_an_order_is_published_once_it_holds_provenance(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.order(7)
    shop.order(8)
    drain(shop, start)
    assert topics.messages() == []
    shop.provenance("r-1", "order/7")
    drain(shop, start)
    newest = topics.newest()
    assert set(newest) == {"order/7", "provenance/r-1"}
    order, record = newest["order/7"], newest["provenance/r-1"]
    assert isinstance(order, OrderChanged)
    assert order.channels == (Channel.EMAIL, Channel.LETTER)
    assert isinstance(record, ProvenanceRecorded)
    assert (record.root, record.order_id, record.customer_id) == ("order/7", 7, None)


def test_an_order_that_only_a_records_root_names_is_published_too(
    shop: StoreRows, topics: Topics, start: Start
) -> None:
    shop.order(7)
    shop.provenance("r-1", "order/7", order_id=None)
    drain(shop, start)
    assert set(topics.newest()) == {"order/7", "provenance/r-1"}


def test_a_deleted_customers_orders_become_guests(shop: StoreRows, topics: Topics, start: Start) -> None:
    """The foreign key nulls the order's customer and tells nobody."""
    shop.customer(42)
    shop.order(7, customer_id=42)
    shop.provenance("r-1", "order/7", customer_id=42)
    drain(shop, start)
    before = topics.newest()["order/7"]
    assert isinstance(before, OrderChanged)
    assert before.customer_id == 42
    shop.run("DELETE FROM customer_entity")
    drain(shop, start)
    after = topics.newest()["order/7"]
    assert isinstance(after, OrderChanged)
    assert after.customer_id is None
    assert isinstance(topics.newest()["customer/42"], EntityRemoved)


def test_an_order_moves_its_customers_last_residence(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    drain(shop, start)
    shop.order(7, customer_id=42, country="FR")
    drain(shop, start)
    customer = topics.newest()["customer/42"]
    assert isinstance(customer, CustomerChanged)
    assert [(claim.code, claim.source) for claim in customer.residence] == [
        ("DE", "default_billing"),
        ("FR", "last_order"),
    ]


def test_a_record_deleted_by_sql_becomes_a_tombstone_of_its_root(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.provenance("r-1", "customer/42")
    shop.run("DELETE FROM tocsin_provenance")
    drain(shop, start)
    assert topics.newest() == {"provenance/r-1": EntityRemoved(root="customer/42", key="provenance/r-1")}


def test_an_order_is_published_again_when_its_last_record_is_deleted_by_sql(
    shop: StoreRows, topics: Topics, start: Start
) -> None:
    shop.order(7)
    shop.provenance("r-1", "order/7")
    drain(shop, start)
    shop.run("DELETE FROM tocsin_provenance")
    drain(shop, start)
    assert [message.key for message in topics.messages()].count("order/7") == 2
    assert isinstance(topics.newest()["order/7"], OrderChanged)


def test_a_record_written_anew_under_its_id_stays(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.provenance("r-1", "customer/42")
    shop.run("DELETE FROM tocsin_provenance")
    shop.provenance("r-1", "customer/42", model_version="8")
    drain(shop, start)
    assert isinstance(topics.newest()["provenance/r-1"], ProvenanceRecorded)


@pytest.mark.parametrize("root", ["customer/42", "customer/43"])
def test_a_record_written_anew_stays_also_if_its_deletion_is_read_after_it(
    shop: StoreRows, topics: Topics, start: Start, root: str
) -> None:
    shop.provenance("r-1", "customer/42")
    drain(shop, start)
    shop.run("DELETE FROM tocsin_provenance")
    ((version, row_id),) = shop.run("SELECT version_id, entity_id FROM tocsin_provenance_cl")
    shop.run("DELETE FROM tocsin_provenance_cl")
    shop.provenance("r-1", root, model_version="8")
    drain(shop, start)
    # a deletion that committed late
    shop.add("tocsin_provenance_cl", version_id=version, entity_id=row_id, record_id="r-1", root="customer/42")
    drain(shop, start)
    record = topics.newest()["provenance/r-1"]
    assert isinstance(record, ProvenanceRecorded)
    assert (record.root, record.model_version) == (root, "8")
    removed = [message for message in topics.messages() if isinstance(opened(message), EntityRemoved)]
    assert [opened(message) for message in removed] == [EntityRemoved(root="customer/42", key="provenance/r-1")]


@pytest.mark.parametrize(
    ("commit_seconds", "change_seconds", "least", "most"),
    [
        (0.01, 0.00002, 5000, 5000),
        # a broker that is slow with each commit
        (0.6, 0.00002, 5000, 5000),
        (4.0, 0.00002, 5000, 5000),
        # a store that is slow with each change
        (0.01, 0.002, 125, 250),
        (0.6, 0.002, 125, 250),
        # commits so slow that their transaction may not last
        (20.0, 0.00002, 50, 50),
    ],
)
def test_a_batch_is_as_large_as_its_work_allows(
    commit_seconds: float, change_seconds: float, least: int, most: int
) -> None:
    size = BatchSize(5000, 0.5)
    for _ in range(60):
        size.took(change_seconds * size.limit, commit_seconds, full=True)
    assert least <= size.limit <= most


def test_a_slow_commit_makes_no_batch_smaller(shop: StoreRows, topics: Topics, start: Start) -> None:
    """Each batch waits for the broker as long as the last one: in smaller ones a backlog would take many times as long."""
    topics.before_commit = lambda: time.sleep(0.25)
    running = start(batch_size=400, batch_seconds=0.2)
    for number in range(1, 11):
        shop.customer(number)
        wait_for("it is settled", lambda: is_empty(shop))
    before = len(topics.transactions)
    rows = ", ".join(f"({number}, 'p{number}@shop.example.com', 1, 1)" for number in range(1001, 1401))
    shop.run(f"INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES {rows}")
    wait_for("all settled", lambda: is_empty(shop))
    running.end()
    assert len(topics.transactions) - before <= 3


def test_a_clock_set_back_hides_no_store_view(shop: StoreRows, store_settings: Store, monkeypatch: Any) -> None:
    clock = SetClock(datetime(2026, 3, 2, tzinfo=UTC))
    reader = open_store(store_settings, clock)
    assert reader.take_lead()
    shop.customer(42, store_id=2)
    batch = reader.next_batch(10)
    (before,) = [state for state in reader.states_of(batch) if isinstance(state, CustomerState)]
    clock.at -= timedelta(days=1)
    shop.add("core_config_data", scope="stores", scope_id=2, path="general/locale/code", value="fr_FR")
    monkeypatch.setattr(store_module, "CATALOG_SECONDS", 0.0)
    (after,) = [state for state in reader.states_of(batch) if isinstance(state, CustomerState)]
    reader.close()
    assert (before.locale, after.locale) == ("en_GB", "fr_FR")


@pytest.mark.parametrize(
    "change", ["backend_type = 'static'", "attribute_code = 'fraud''score'"], ids=["moved", "renamed by SQL"]
)
def test_an_attribute_that_the_shop_changes_stops_nothing(
    shop: StoreRows, topics: Topics, start: Start, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Not the relay, and not what runs beside it, which all ends where one refuses its settings."""
    monkeypatch.setattr(store_module, "CATALOG_SECONDS", 0.0)
    rows = [{"entity_type": "customer", "attribute": code} for code in ("fraud_score", "fraud'score")]
    shop.add("core_config_data", scope="default", scope_id=0, path=AI_ATTRIBUTES_PATH, value=json.dumps(rows))
    shop.customer(42)
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=42, value=0.5)
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=42, value="high")
    running = start()
    wait_for("all settled", lambda: is_empty(shop))
    shop.run(f"UPDATE eav_attribute SET {change} WHERE attribute_id = 201")
    shop.run("UPDATE customer_entity SET lastname = 'Married'")
    wait_for("all settled", lambda: is_empty(shop) or running.error is not None)
    running.end()
    assert running.error is None
    event = topics.newest()["customer/42"]
    assert isinstance(event, CustomerChanged)
    assert event.attribute_hmacs == {"income_band": value_hmac(JOIN_KEY, "income_band", "high")}


def test_a_bad_row_delays_nobody(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.provenance("r-1", "customer/41", categories="{no json", generated_at="0000-00-00 00:00:00")
    shop.provenance("r-2", "nobody/0", entity_id=0, customer_id=None)
    shop.provenance("r-3", "customer/43")
    before = UNREADABLE._value.get(), FAULTY.labels("root")._value.get()
    drain(shop, start)
    assert (UNREADABLE._value.get(), FAULTY.labels("root")._value.get()) == (before[0] + 1, before[1] + 1)
    newest = topics.newest()
    assert set(newest) == {"provenance/r-1", "provenance/r-3"}
    bad = newest["provenance/r-1"]
    assert isinstance(bad, ProvenanceRecorded)
    assert bad.faults == ("generated_at", "categories")


def test_an_address_of_nobody_is_settled(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.add(
        "customer_address_entity", parent_id=None, city="x", country_id="DE", firstname="x", lastname="x", street="x",
        telephone="x",
    )  # fmt: skip
    drain(shop, start)
    assert topics.messages() == []


NOTICE = {
    "notice_id": "a-1", "customer_id": 42, "incident_id": "INC-2026-0001", "title": "t", "body": "b", "locale": "de_DE",
    "created_at": "2026-03-01 10:00:00",
}  # fmt: skip


def test_a_read_notice_comes_back_and_a_posted_one_does_not(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.add("tocsin_account_notice", **NOTICE)
    drain(shop, start)
    assert topics.transactions == []
    shop.customer(42)
    shop.run("UPDATE tocsin_account_notice SET read_at = '2026-03-02 08:30:00'")
    drain(shop, start)
    (message,) = topics.messages(DELIVERY_OUTCOMES)
    assert (message.key, message.root) == ("notice/a-1", "customer/42")
    assert dict(message.headers)["ce_id"] == b"a-1/read"
    assert opened(message) == NoticeRead(
        notice_id="a-1", customer_id=42, read_at=datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
    )
    assert len(topics.transactions) == 1, "state and reading travel in one transaction"


# Settling, and failures


def test_nothing_is_settled_before_the_commit(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    seen: list[list[Any]] = []
    topics.before_commit = lambda: seen.append(shop.changelog("tocsin_customer"))
    drain(shop, start)
    assert seen == [[42]]


def test_a_batch_that_was_not_published_is_published_again(shop: StoreRows, topics: Topics, start: Start) -> None:
    for number in range(1, 31):
        shop.customer(number)
    topics.failures = [NotPublished("no"), Unreachable("Kafka does not answer")]
    drain(shop, start, batch_size=10)
    assert set(topics.newest()) == {f"customer/{number}" for number in range(1, 31)}
    assert topics.opened == topics.closed == 3, "a failed publisher is not used again"


def test_a_leader_that_is_shut_out_opens_anew_once(shop: StoreRows, topics: Topics, start: Start) -> None:
    """One that woke without its lead opened a publisher. Twice is something else."""
    shop.customer(42)
    topics.failures = [Fenced("another process took over")]
    drain(shop, start)
    assert [message.key for message in topics.messages()] == ["customer/42"]
    assert topics.opened == topics.closed == 2
    shop.customer(43)
    topics.failures = [Fenced("another process took over"), Fenced("another process took over")]
    running = start()
    assert running.ended()
    assert isinstance(running.error, Fenced)
    assert shop.changelog("tocsin_customer") == [43]


def test_a_fenced_relay_without_its_lead_stops_and_settles_nothing(
    shop: StoreRows, topics: Topics, start: Start, store_settings: Store
) -> None:
    shop.customer(42)
    topics.failures = [Fenced("another process took over")]
    reader: Any = Failing(open_store(store_settings, SystemClock()), "keep_lead")
    running = start(reader=reader)
    assert running.ended()
    assert isinstance(running.error, Fenced)
    assert shop.changelog("tocsin_customer") == [42]
    assert topics.transactions == []


def test_a_backlog_is_read_ahead_and_nothing_is_read_twice(shop: StoreRows, topics: Topics, start: Start) -> None:
    for number in range(1, 101):
        shop.provenance(f"r-{number}", f"customer/{number}")
    drain(shop, start, batch_size=7)
    keys = [message.key for message in topics.messages()]
    assert keys == [f"provenance/r-{number}" for number in range(1, 101)]


def test_what_follows_is_made_while_the_broker_takes_what_was_sent(
    shop: StoreRows, topics: Topics, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()
    make = CustomerEvents.make

    def some(events: CustomerEvents, count: int) -> bool:
        whole = make(events, count)
        made.set()
        return whole

    def commit() -> None:
        # nothing follows the last
        if len(topics.transactions) < 2:
            assert made.wait(10)
            made.clear()

    monkeypatch.setattr("bridge.relay._MADE_AT_ONCE", 3)
    monkeypatch.setattr(CustomerEvents, "make", some)
    topics.before_commit = commit
    for number in range(1, 22):
        shop.customer(number)
    drain(shop, start, batch_size=7)
    messages = topics.messages()
    assert [message.key for message in messages] == [f"customer/{number}" for number in range(1, 22)]
    assert len({dict(message.headers)["ce_id"] for message in messages}) == 21
    assert [each.root for each in map(opened, messages) if isinstance(each, CustomerChanged)] == [
        message.key for message in messages
    ]


def test_the_newest_event_of_a_key_is_the_newest_state(shop: StoreRows, topics: Topics, start: Start) -> None:
    """A row that changes all the time, in the middle of a backlog."""
    for number in range(1, 51):
        shop.customer(number)
    running = start(batch_size=5)
    for change in range(50):
        shop.run("UPDATE customer_entity SET email = :email WHERE entity_id = 7", email=f"c{change}@shop.example.com")
    wait_for("all settled", lambda: is_empty(shop))
    running.end()
    event = topics.newest()["customer/7"]
    assert isinstance(event, CustomerChanged)
    assert event.email_hmac == email_hmac(JOIN_KEY, "c49@shop.example.com")


def test_a_lower_changelog_id_that_appears_late_is_reached(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    drain(shop, start)
    running = start(batch_size=2)
    shop.run("INSERT INTO tocsin_customer_cl (version_id, entity_id) VALUES (1, 42)")
    wait_for("the late change", lambda: is_empty(shop) and len(topics.messages()) == 2)
    running.end()


def test_only_one_of_two_relays_works_and_the_other_takes_over(shop: StoreRows, topics: Topics, start: Start) -> None:
    first = start()
    wait_for("the first leads", lambda: topics.opened == 1)
    health = Health()
    start(health=health)
    wait_for("the second is ready", lambda: health.reasons() == {})
    shop.customer(1)
    wait_for("all settled", lambda: is_empty(shop))
    assert topics.opened == 1
    first.end()
    shop.customer(2)
    wait_for("the second leads", lambda: topics.opened == 2)
    wait_for("all settled", lambda: is_empty(shop))
    assert set(topics.newest()) == {"customer/1", "customer/2"}


def test_a_relay_held_back_publishes_nothing_until_it_may(shop: StoreRows, topics: Topics, start: Start) -> None:
    allowed = threading.Event()
    shop.customer(42)
    start(may_publish=allowed.is_set)
    wait_for("the age is told", lambda: AGE._value.get() > 0)
    assert topics.transactions == []
    allowed.set()
    wait_for("all settled", lambda: is_empty(shop))


def test_the_age_is_that_of_the_changes_and_not_of_the_relay(
    shop: StoreRows, topics: Topics, start: Start, store_settings: Store
) -> None:
    """One that waited for days says nothing of days; one that begins after an outage says how long that was."""
    shop.customer(42)
    allowed = threading.Event()
    reader: Any = open_store(store_settings, SystemClock())
    reader.waiting_since = lambda: SystemClock().now() - timedelta(hours=3)
    start(reader=reader, may_publish=allowed.is_set)
    wait_for("the age is told", lambda: 3 * 3600 <= AGE._value.get() < 3 * 3600 + 60)
    allowed.set()
    wait_for("all is published", lambda: is_empty(shop) and AGE._value.get() < 60)


def test_a_slow_commit_keeps_the_lead_and_ends_with_its_own_error(
    shop: StoreRows, topics: Topics, start: Start, store_settings: Store
) -> None:
    """A commit that fails with a TimeoutError of its own, after longer than one look at the lead."""
    shop.customer(42)
    kept = threading.Event()
    reader = open_store(store_settings, SystemClock())
    keep = reader.keep_lead

    def keep_lead() -> None:
        keep()
        kept.set()

    reader.keep_lead = keep_lead  # type: ignore[method-assign]  # only to see that it is called
    topics.before_commit = lambda: wait_for("the lead is kept meanwhile", kept.is_set)
    topics.failures = [TimeoutError("its own")]
    running = start(reader=reader)
    assert running.ended()
    assert isinstance(running.error, TimeoutError)
    assert str(running.error) == "its own"
    assert shop.changelog("tocsin_customer") == [42]


class Failing:
    """A reader that loses its connection once, before or after the publishing."""

    def __init__(self, reader: StoreReader, at: str) -> None:
        self._reader = reader
        self._at = at
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        if name == self._at and not self.failed:

            def fail(*_arguments: object) -> None:
                self.failed = True
                raise LeadLost("store: gone")

            return fail
        return getattr(self._reader, name)


@pytest.mark.parametrize("at", ["next_batch", "states_of", "settle", "beat"])
def test_a_lost_store_repeats_work_and_loses_none(
    shop: StoreRows, topics: Topics, start: Start, store_settings: Store, at: str
) -> None:
    for number in range(1, 21):
        shop.customer(number)
    reader: Any = Failing(open_store(store_settings, SystemClock()), at)
    drain(shop, start, reader=reader, batch_size=6)
    assert reader.failed
    assert set(topics.newest()) == {f"customer/{number}" for number in range(1, 21)}


def test_a_store_that_is_not_prepared_is_refused_by_name(shop: StoreRows, start: Start) -> None:
    shop.run("DROP TABLE tocsin_provenance_cl")
    running = start()
    assert running.ended()
    assert isinstance(running.error, Refused)
    assert "tocsin_provenance_cl" in str(running.error)
    assert "setup:upgrade" in str(running.error)


def test_the_store_shows_when_the_relay_was_alive(shop: StoreRows, topics: Topics, start: Start) -> None:
    start()
    wait_for("a heartbeat", lambda: bool(shop.run("SELECT * FROM tocsin_heartbeat WHERE relay <> ''")))
    ((number, relay),) = shop.run("SELECT id, relay FROM tocsin_heartbeat")
    assert number == 1
    assert ":" in relay


def test_the_heartbeat_takes_the_way_of_all_changes(shop: StoreRows, topics: Topics, start: Start) -> None:
    began = SystemClock().now()
    start()
    wait_for("a heartbeat is published", lambda: bool(topics.beats))
    topic, message = topics.beats[0]
    beat = opened(message)
    assert topic is STORE_CHANGES
    assert isinstance(beat, StoreBeat)
    # to the microsecond, though the row keeps whole seconds
    assert began <= beat.beat_at <= SystemClock().now()
    wait_for("its changelog row is settled", lambda: is_empty(shop))


def test_every_message_is_json_of_its_type(shop: StoreRows, topics: Topics, start: Start) -> None:
    shop.customer(42)
    shop.provenance("r-1", "customer/42")
    drain(shop, start)
    for message in topics.messages():
        assert message.value is not None
        assert json.loads(message.value)["root"] == message.root


def test_every_message_is_byte_for_byte_what_its_model_would_write(
    shop: StoreRows, topics: Topics, start: Start
) -> None:
    shop.customer(42, firstname='quote"d \\ \x07 \u2028 \U0001f514', country="US", region_id=12)
    shop.customer(43, email="no address", default_billing=None)
    shop.customer(44, email="ann@b\u00fccher.example.com")
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=42, value=0.5)
    shop.order(7, customer_id=42)
    shop.provenance("r-1", "order/7")
    drain(shop, start)
    messages = topics.messages()
    assert len(messages) == 5
    for message in messages:
        assert message.value == opened(message).model_dump_json().encode()


def test_a_table_whose_triggers_are_gone_is_shown_until_they_are_back(
    shop: StoreRows, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_WATCH_SECONDS", 0.0)

    def untold() -> set[str]:
        return {table for table in TOLD_COLUMNS if relay.UNTOLD.labels(table)._value.get()}

    shop.customer(1)
    ((trigger,),) = shop.run("SELECT sql FROM sqlite_master WHERE name = 'trg_customer_entity_after_insert'")
    running = start()
    wait_for("all settled", lambda: is_empty(shop))
    shop.customer(2)
    wait_for("all settled", lambda: is_empty(shop))
    assert untold() == set()
    shop.run("DROP TRIGGER trg_customer_entity_after_insert")
    with capture_logs() as logged:
        shop.customer(3)
        wait_for("noticed", lambda: untold() == {"customer_entity"})
        shop.customer(4)
        wait_for("all settled", lambda: is_empty(shop))
    assert [line["table"] for line in logged if "no trigger told" in line["event"]] == ["customer_entity"]
    shop.run(trigger)
    shop.customer(5)
    wait_for("told again", lambda: untold() == set())
    running.end()


def test_a_batch_that_fails_is_tried_smaller(shop: StoreRows, topics: Topics, start: Start) -> None:
    """As where a broker is throttled, or a host bounds how long a statement may take: the same batch would fail for ever."""
    rows = ", ".join(f"({number}, 'p{number}@shop.example.com', 1, 1)" for number in range(1, 401))
    shop.run(f"INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES {rows}")

    def too_slow_for_many() -> None:
        if len(topics._open) > 120:
            raise NotPublished("no acknowledgement within 15 s")

    topics.before_commit = too_slow_for_many
    running = start(batch_size=400)
    wait_for("all settled", lambda: is_empty(shop), timeout_seconds=20)
    running.end()
    assert len({message.key for message in topics.messages()}) == 400
