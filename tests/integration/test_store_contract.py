"""What the relay relies on in a store's server, on each kind: MariaDB, a node of a Galera cluster, MySQL over TLS.

`make mysql-check URL=...` runs these on the MySQL at that URL; with Docker they run on one of its own.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from structlog.testing import capture_logs

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from bridge.contracts.events import AccountNotice, Channel, ProvenanceRecorded
from bridge.contracts.scope import Scope
from bridge.magento.answers import SqlStoreAnswers
from bridge.magento.backfill import Backfill
from bridge.magento.changelogs import View
from bridge.magento.grants import grants, rights_on
from bridge.magento.leads import LEAD_SECONDS
from bridge.magento.look import StoreLook
from bridge.magento.notices import AccountNoticeTable
from bridge.magento.reader import LeadLost
from bridge.magento.references import StoreReferences
from bridge.magento.servers import Product, Server, prepare_session
from bridge.magento.session import LeadSession, store_engine
from bridge.magento.snapshots import CustomerState, NoticeReadState, OrderState, Removed, State, WrittenProvenance
from bridge.magento.store import SqlStore
from bridge.runtime.clock import SystemClock
from bridge.runtime.sealing import email_hmac
from bridge.runtime.settings import Store
from tests.integration.test_relay import nasty_rows
from tests.servers.mariadb import MariaDbServer, StoreDatabase, fresh_database
from tests.store_rows import StoreRows, add, provenance_row, run

REGISTERED = ("fraud_score", "income_band")
MARCH_3 = datetime(2026, 3, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def database(store_server: MariaDbServer) -> Iterator[StoreDatabase]:
    """One database for all tests of a server: making its tables takes longer than most of them."""
    with fresh_database(store_server, with_tables=True) as made:
        yield made


@pytest.fixture
def shop(database: StoreDatabase) -> Iterator[StoreRows]:
    engine = sa.create_engine(database.url)
    rows = StoreRows(engine)
    rows.base()
    yield rows
    with engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        names = [row[0] for row in connection.exec_driver_sql("SHOW TABLES")]
        filled = [name for name in names if connection.exec_driver_sql(f"SELECT 1 FROM `{name}` LIMIT 1").first()]
        for name in filled:
            if name != "tocsin_heartbeat":
                connection.exec_driver_sql(f"DELETE FROM `{name}`")
        # What deleting tells.
        for view in View:
            connection.exec_driver_sql(f"DELETE FROM {view.changelog}")
        connection.commit()
    engine.dispose()


@pytest.fixture
def account(database: StoreDatabase, server: Server) -> Iterator[Store]:
    """Settings for an account that has exactly what `tocsin relay grants` prints."""
    name = f"relay_{os.urandom(4).hex()}"
    with database.connect() as connection, connection.cursor() as cursor:
        # On MySQL this is caching_sha2_password; the client goes over TLS wherever the server can.
        cursor.execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'relay'")
        for statement in grants(database.name, name, "%", "", by_lease=server.galera):
            cursor.execute(statement)
        url = sa.make_url(database.url).set(username=name, password="relay")
        yield Store(url=SecretStr(url.render_as_string(hide_password=False)), registered_attributes=REGISTERED)
        cursor.execute(f"DROP USER '{name}'@'%'")


@pytest.fixture(scope="module")
def server(database: StoreDatabase) -> Server:
    engine = store_engine(Store(url=SecretStr(database.url)))
    with engine.connect() as connection:
        found = prepare_session(connection)
    engine.dispose()
    return found


@pytest.fixture
def reader(account: Store, shop: StoreRows) -> Iterator[SqlStore]:
    with leading(account) as made:
        yield made


@contextmanager
def leading(settings: Store, session: LeadSession | None = None) -> Iterator[SqlStore]:
    reader = SqlStore(settings, SystemClock(), session)
    assert reader.take_lead()
    try:
        yield reader
    finally:
        reader.close()


def everything(reader: SqlStore) -> list[State]:
    """Read and settle until nothing is left; return the newest state of each entity in reading order."""
    found: list[State] = []
    while batch := reader.next_batch(1000):
        found += reader.states_of(batch)
        reader.settle(batch)
    return found


def records_of(states: Iterable[State]) -> list[ProvenanceRecorded]:
    """Return provenance as events, whether the database or the model has written them."""
    written = [
        ProvenanceRecorded.model_validate_json(state.event) if isinstance(state, WrittenProvenance) else state
        for state in states
    ]
    return [record for record in written if isinstance(record, ProvenanceRecorded)]


def test_a_shop_is_read_with_the_printed_rights(reader: SqlStore, shop: StoreRows) -> None:
    shop.customer(42, country="US", region_id=12, lastname="Ünlü-Straße 你")
    shop.add("customer_entity_decimal", attribute_id=201, entity_id=42, value=0.5)
    shop.order(7, country="DE")
    shop.order(8, customer_id=42, country="FR")
    shop.provenance("r-1", "customer/42", confidence=0.731, input_fields='["a", "b"]')
    shop.provenance("r-2", "order/7", deleted_at="2026-04-01 00:00:00")
    shop.add(
        "tocsin_account_notice", notice_id="a-1", customer_id=42, incident_id="INC-2026-0001", title="t", body="b",
        locale="de_DE", created_at="2026-03-01 10:00:00", read_at="2026-03-02 08:00:00",
    )  # fmt: skip
    states = everything(reader)
    (customer,) = [state for state in states if isinstance(state, CustomerState)]
    assert customer.channels == (Channel.EMAIL, Channel.SMS, Channel.ACCOUNT_NOTICE, Channel.LETTER)
    assert [(claim.code, claim.source) for claim in customer.residence] == [
        ("US-CA", "default_billing"),
        ("FR", "last_order"),
    ]
    assert (customer.contact.last_name, customer.faults) == ("Ünlü-Straße 你", ())
    assert float(customer.attribute_values["fraud_score"]) == 0.5
    assert customer.locale == "de_DE"
    (order,) = [state for state in states if isinstance(state, OrderState)]
    assert (order.order_id, order.customer_id, order.stored_email) == (7, None, "buyer7@shop.example.com")
    first, second = records_of(states)
    assert (first.record_id, first.confidence, first.categories, first.input_fields, first.faults) == (
        "r-1", 0.731, ("fraud_assessment",), ("a", "b"), (),
    )  # fmt: skip
    assert first.generated_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert (second.root, second.deleted_at) == ("order/7", datetime(2026, 4, 1, tzinfo=UTC))
    (read,) = [state for state in states if isinstance(state, NoticeReadState)]
    assert read == NoticeReadState("a-1", 42, datetime(2026, 3, 2, 8, tzinfo=UTC))
    assert not any(shop.changelog(view) for view in View)


def test_records_are_counted_as_they_are_published(reader: SqlStore, account: Store, shop: StoreRows) -> None:
    dates = ("2026-04-01 00:00:00", "2026-02-01 00:00:00", "0000-00-00 00:00:00", "2026-00-10 00:00:00", None)
    made = ("2026-03-01 10:00:00", "0000-00-00 00:00:00", "2040-01-01 00:00:00")
    rows = [
        provenance_row(f"d-{deleted_at}-{generated_at}", "customer/1", deleted_at=deleted_at, generated_at=generated_at)
        for deleted_at in dates
        for generated_at in made
    ]
    for root in ("Customer/1", "customer/", "order/1x", "elsewhere/1", "order/1"):
        for customer_id in (None, 0, 42):
            row = provenance_row(f"n-{root}-{customer_id}", "customer/1", customer_id=customer_id, order_id=0)
            rows.append(row | {"root": root})
    rows.append(provenance_row("", "customer/1"))
    with shop.engine.begin() as connection:
        # as Magento's own sessions
        run(connection, "SET SESSION sql_mode = ''")
        for row in rows:
            add(connection, "tocsin_provenance", row)
    records = records_of(everything(reader))
    look = StoreLook(account, SystemClock())
    look.open()
    counted = look.counts()["provenance"]
    assert counted + look.otherwise_read() == sum(record.deleted_at is None for record in records) != counted
    look.close()


def test_a_large_batch_comes_whole(reader: SqlStore, shop: StoreRows) -> None:
    rows = ", ".join(f"({number}, 'p{number}@shop.example.com', 1, 1)" for number in range(1001, 3001))
    shop.run(f"INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES {rows}")
    batch = reader.next_batch(5000)
    assert batch.customer_ids == list(range(1001, 3001))
    reader.settle(batch)
    assert not any(shop.changelog(view) for view in View)


def test_a_backlog_read_ahead_is_each_row_once(reader: SqlStore, shop: StoreRows) -> None:
    rows = ", ".join(f"({number}, 'p{number}@shop.example.com', 1, 1)" for number in range(1, 61))
    shop.run(f"INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES {rows}")
    for number in (70, 3, 90, 3, 91):
        shop.provenance(f"r-{number}-{len(shop.changelog('tocsin_provenance'))}", f"customer/{number}")
    shop.run("UPDATE customer_entity SET store_id = 2 WHERE entity_id IN (9, 5, 7)")
    logged = {view: shop.changelog(view) for view in View}
    # A gap, as a save that was rolled back leaves one, and one that commits late fills.
    versions = [version for (version,) in shop.run("SELECT version_id FROM tocsin_customer_cl ORDER BY version_id")]
    shop.run(f"DELETE FROM tocsin_customer_cl WHERE version_id = {versions[30]}")
    batches = [reader.next_batch(10)]
    while batches[-1]:
        batches.append(reader.next_batch(10, besides=batches[-1]))
        reader.settle(batches[-2])
    read = [customer_id for batch in batches for customer_id in batch.customer_ids]
    assert read == [*range(1, 31), *range(32, 61), 5, 7, 9]
    assert sum(map(len, batches)) == sum(map(len, logged.values())) - 1
    assert any(isinstance(batch.customer_ids, range) for batch in batches)
    assert not any(shop.changelog(view) for view in View)


def test_what_is_gone_is_removed(reader: SqlStore, shop: StoreRows) -> None:
    shop.customer(42)
    shop.order(7, customer_id=42)
    shop.provenance("r-1", "order/7", customer_id=42)
    shop.provenance("r-2", "customer/42")
    everything(reader)
    shop.run("DELETE FROM customer_entity")
    shop.run("DELETE FROM tocsin_provenance WHERE record_id = 'r-2'")
    states = everything(reader)
    assert Removed("customer/42", "customer/42") in states
    assert Removed("provenance/r-2", "customer/42") in states
    (order,) = [state for state in states if isinstance(state, OrderState)]
    assert order.customer_id is None


def test_whose_an_address_or_a_value_was_is_read_anew_when_it_is_given_to_another(
    reader: SqlStore, shop: StoreRows
) -> None:
    """As whoever merges two accounts does it: the one that loses them changes in no row of its own."""
    shop.customer(1, country="FR")
    shop.customer(2)
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=1, value="high")
    shop.order(7, country="US")
    shop.order(8, country="US")
    shop.provenance("r-7", "order/7")
    shop.provenance("r-8", "order/8")
    everything(reader)
    shop.run("UPDATE customer_address_entity SET parent_id = 2 WHERE entity_id = 1")
    (first, second) = [state for state in everything(reader) if isinstance(state, CustomerState)]
    assert (first.customer_id, second.customer_id) == (1, 2)
    assert [claim.source for claim in first.residence] == []
    assert first.contact.postal_address == ()
    shop.run("UPDATE customer_entity_varchar SET entity_id = 2 WHERE entity_id = 1")
    values = {
        state.customer_id: state.attribute_values for state in everything(reader) if isinstance(state, CustomerState)
    }
    assert values == {1: {}, 2: {"income_band": "high"}}
    shop.run("UPDATE sales_order_address SET parent_id = 8 WHERE entity_id = 7")
    orders = {state.order_id: state.residence for state in everything(reader) if isinstance(state, OrderState)}
    assert set(orders) == {7, 8}
    assert orders[7] == ()


@pytest.mark.parametrize("limit", [1, 100])
def test_a_record_that_is_given_to_another_person_is_taken_from_the_first(
    reader: SqlStore, shop: StoreRows, limit: int
) -> None:
    """Against the rule, as whoever merges two accounts may do it: the first one's partition hears of nothing else."""
    shop.provenance("r-1", "customer/1")
    shop.provenance("r-2", "customer/1")
    everything(reader)
    shop.run("UPDATE tocsin_provenance SET root = 'customer/2', customer_id = 2 WHERE record_id = 'r-1'")
    shop.run("UPDATE tocsin_provenance SET record_id = 'r-3' WHERE record_id = 'r-2'")
    shop.run("UPDATE tocsin_provenance SET sensitivity = 'low' WHERE record_id = 'r-3'")
    states: list[State] = []
    while batch := reader.next_batch(limit):
        states += reader.states_of(batch)
        reader.settle(batch)
    removed = [(state.key, state.root) for state in states if isinstance(state, Removed)]
    assert removed == [("provenance/r-1", "customer/1"), ("provenance/r-2", "customer/1")]
    assert {(each.record_id, each.root) for each in records_of(states)} == {
        ("r-1", "customer/2"),
        ("r-3", "customer/1"),
    }
    # What is removed must not be the last word, in whichever batch it comes.
    after = states[states.index(Removed("provenance/r-1", "customer/1")) :]
    assert "r-1" in {each.record_id for each in records_of(after)}


def test_only_what_was_read_is_deleted(reader: SqlStore, shop: StoreRows) -> None:
    shop.customer(1)
    batch = reader.next_batch(10)
    shop.run("UPDATE customer_entity SET store_id = 2")
    reader.settle(batch)
    assert shop.changelog("tocsin_customer") == [1]
    ahead = reader.next_batch(10)
    shop.run("UPDATE customer_entity SET store_id = 1")
    assert len(reader.next_batch(10, besides=ahead)) == 1


def test_what_commits_late_is_read(reader: SqlStore, shop: StoreRows, database: StoreDatabase) -> None:
    late = database.connect(autocommit=False)
    try:
        with late.cursor() as cursor:
            cursor.execute("INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES (1, 'a', 1, 1)")
            shop.customer(2)
            assert {state.customer_id for state in everything(reader) if isinstance(state, CustomerState)} == {2}
            late.commit()
    finally:
        late.close()
    assert {state.customer_id for state in everything(reader) if isinstance(state, CustomerState)} == {1}


def test_what_commits_late_before_a_backlog_is_read_when_looking_back(
    reader: SqlStore, shop: StoreRows, database: StoreDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = "INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES "
    late = database.connect(autocommit=False)
    try:
        with late.cursor() as cursor:
            cursor.execute(f"{insert} (5001, 'late5001', 1, 1)")
            for number in range(5002, 5008):
                shop.run(f"{insert} ({number}, 'next{number}', 1, 1)")
            first = reader.next_batch(2)
            late.commit()
    finally:
        late.close()
    monkeypatch.setattr(reader, "_look_back_at", time.monotonic() + 600)
    second = reader.next_batch(2, besides=first)
    reader.settle(first)
    monkeypatch.setattr(reader, "_look_back_at", time.monotonic())
    third = reader.next_batch(2, besides=second)
    reader.settle(second)
    last = reader.next_batch(2, besides=third)
    reader.settle(third)
    read = [list(batch.customer_ids) for batch in (first, second, third, last)]
    assert read == [[5002, 5003], [5004, 5005], [5001, 5006], [5007]]
    # Behind the others it was the last one: whether it is the last of all is not known yet.
    assert last.full
    assert not reader.next_batch(2, besides=last)
    reader.settle(last)
    assert not any(shop.changelog(view) for view in View)


def test_reading_and_settling_wait_for_no_save_and_no_save_for_them(
    reader: SqlStore, shop: StoreRows, database: StoreDatabase
) -> None:
    shop.customer(1)
    shop.customer(2)
    saving = database.connect(autocommit=False)
    try:
        with saving.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
            cursor.execute("UPDATE customer_entity SET store_id = 2 WHERE entity_id = 1")
            batch = reader.next_batch(10)
            states = reader.states_of(batch)
            assert {state.customer_id for state in states if isinstance(state, CustomerState)} == {1, 2}
            reader.settle(batch)
            cursor.execute("UPDATE customer_entity SET store_id = 2 WHERE entity_id = 2")
        saving.commit()
    finally:
        saving.close()
    assert sorted(shop.changelog("tocsin_customer")) == [1, 2]


def test_the_largest_batch_is_looked_up_by_key(account: Store, shop: StoreRows) -> None:
    """50,000 ids: MySQL gives up looking them up unless told otherwise, MariaDB makes a table of them."""
    shop.customer(42)
    listed = ",".join(str(number) for number in range(1, 50_001))
    engine = store_engine(account)
    with engine.connect() as connection:
        prepare_session(connection)
        text = f"SELECT firstname FROM customer_entity WHERE entity_id IN ({listed})"
        assert len(connection.exec_driver_sql(f"EXPLAIN {text}").all()) == 1, "a plan of one table"
        given_up = [row for row in connection.exec_driver_sql("SHOW WARNINGS") if row[1] == 3170]
        assert not given_up
        assert connection.exec_driver_sql(text).all() == [("Placeholder",)]
    engine.dispose()


def test_rows_that_no_shop_should_hold_delay_nobody(
    reader: SqlStore, shop: StoreRows, database: StoreDatabase, server: Server
) -> None:
    shop.customer(1)
    with database.connect() as connection, connection.cursor() as cursor:
        # As Magento's own sessions.
        cursor.execute("SET SESSION sql_mode = ''")
        if server.product is Product.MARIADB:
            # Half of a surrogate pair: MariaDB keeps it where it is sent as binary, and no client can decode it.
            cursor.execute("UPDATE customer_entity SET firstname = _binary x'4AEDA080' WHERE entity_id = 1")
            cursor.execute("SET SESSION check_constraint_checks = 0")
        for number, categories in ((1, "{no json"), (2, '["' + "x" * 3_000_000 + '"]')):
            row = provenance_row(f"r-{number}", "customer/1", categories=categories)
            if server.product is Product.MYSQL and number == 1:
                row["categories"] = '{"no": "list"}'
            row["generated_at"] = ("0000-00-00 00:00:00", "9999-12-31 23:59:59")[number - 1]
            names = ", ".join(row)
            cursor.execute(
                f"INSERT INTO tocsin_provenance ({names}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values())
            )
    shop.provenance("r-3", "customer/1")
    shop.customer(2)
    states = everything(reader)
    first, second = [state for state in states if isinstance(state, CustomerState)]
    assert first.contact.email == "person1@shop.example.com"
    assert first.faults == (("encoding",) if server.product is Product.MARIADB else ())
    assert second.faults == ()
    records = [state for state in states if isinstance(state, ProvenanceRecorded)]
    assert {record.record_id: set(record.faults) for record in records} == {
        "r-1": {"generated_at", "categories"},
        "r-2": {"generated_at", "categories"},
    }
    assert [state.record_id for state in states if isinstance(state, WrittenProvenance)] == ["r-3"]


def test_what_the_server_writes_is_what_the_model_writes(account: Store, shop: StoreRows, server: Server) -> None:
    # (A line feed in an id, and the server's way is given up for all.)
    nasty = [row for row in nasty_rows() if "\n" not in row["record_id"]]
    rows = [row for row in nasty if server.product is Product.MARIADB or _is_json(row)]
    with shop.engine.begin() as connection:
        connection.execute(sa.text("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"))
        if server.product is Product.MARIADB:
            connection.execute(sa.text("SET SESSION check_constraint_checks = 0"))
        connection.execute(sa.insert(sa.table("tocsin_provenance", *(sa.column(name) for name in rows[0]))), rows)
    session = LeadSession(account)
    with leading(account, session) as reader:
        batch = reader.next_batch(10_000)
        assert len(batch) == len(rows)
        states = reader.states_of(batch)
        assert sum(isinstance(state, WrittenProvenance) for state in states) > 100
        written = {record.record_id: record for record in records_of(states)}
        session.writes_events = False
        modelled = {record.record_id: record for record in records_of(reader.states_of(batch))}
        reader.settle(batch)
    assert written == modelled


def _is_json(row: dict[str, Any]) -> bool:
    """Return whether MySQL takes the row's lists, which it keeps as JSON."""
    try:
        for name in ("categories", "elements", "input_fields"):
            if row[name] is not None:
                json.loads(row[name])
    except ValueError:
        return False
    return True


def test_each_kind_is_told_only_what_it_knows(account: Store, shop: StoreRows, server: Server) -> None:
    engine = store_engine(account)
    with engine.connect() as connection:
        prepare_session(connection)
        own = {
            Product.MARIADB: ("in_predicate_conversion_threshold", "range_optimizer_max_mem_size"),
            Product.MYSQL: ("range_optimizer_max_mem_size", "in_predicate_conversion_threshold"),
        }
        known, foreign = own[server.product]
        assert connection.exec_driver_sql(f"SELECT @@SESSION.{known}").scalar() == 0
        assert connection.exec_driver_sql(f"SHOW VARIABLES LIKE '{foreign}'").first() is None
        if server.product is Product.MYSQL:
            ((_, cipher),) = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            assert cipher, "caching_sha2_password without TLS"
            user, host = str(connection.scalar(sa.text("SELECT CURRENT_USER()"))).split("@")
            ((plugin,),) = shop.run(
                "SELECT plugin FROM mysql.user WHERE user = :user AND host = :host", user=user, host=host
            )
            assert plugin == "caching_sha2_password"
    engine.dispose()


# Rights


def test_the_printed_rights_are_no_more_than_needed(account: Store, database: StoreDatabase, server: Server) -> None:
    engine = store_engine(account)
    with engine.connect() as connection:
        rights = rights_on(connection, database.name, "", by_lease=server.galera)
        assert (rights.missing, rights.excess, rights.reads_secrets) == ([], [], False)
        for forbidden in (
            "SELECT password_hash FROM customer_entity",
            "SELECT rp_token FROM customer_entity",
            "UPDATE customer_entity SET email = ''",
            "DELETE FROM tocsin_provenance",
            "DELETE FROM tocsin_heartbeat",
            "DELETE FROM tocsin_account_notice",
        ):
            with pytest.raises(sa.exc.DBAPIError):
                connection.exec_driver_sql(forbidden)
    engine.dispose()


def test_the_shops_own_account_is_accepted_and_its_excess_said(database: StoreDatabase, shop: StoreRows) -> None:
    shop.customer(1)
    with capture_logs() as said, leading(Store(url=SecretStr(database.url))) as reader:
        assert len(reader.next_batch(10)) > 0
        reader.resign()
        assert reader.take_lead()
    (warning,) = [entry for entry in said if "may do more than the bridge needs" in entry["event"]]
    assert warning["log_level"] == "warning"
    assert warning["may_read_password_hashes"]
    assert warning["excess"]


def test_an_order_is_published_again_though_no_record_of_it_is_left(
    account: Store, reader: SqlStore, shop: StoreRows
) -> None:
    shop.order(7)
    shop.order(8)
    shop.order(9)
    shop.provenance("r-1", "order/7")
    shop.provenance("r-2", "order/8", order_id=None)
    everything(reader)
    shop.run("DELETE FROM tocsin_provenance WHERE record_id = 'r-1'")
    everything(reader)
    look = StoreLook(account, SystemClock())
    look.open()
    assert [state.order_id for state in look.orders_kept([7, 8, 9, 10])] == [7, 9]
    look.enqueue_numbers("order", [7, 8])
    assert look.pending_numbers("order", [7, 8, 9]) == {7, 8}
    look.enqueue_numbers("order", [10])
    look.close()
    states = everything(reader)
    assert {state.order_id for state in states if isinstance(state, OrderState)} == {7, 8}
    assert {state for state in states if isinstance(state, Removed)} == {Removed("order/10", "order/10")}


def test_an_order_without_a_record_is_followed_until_it_is_gone(reader: SqlStore, shop: StoreRows) -> None:
    """Somebody deletes its only record by SQL: its contact changes afterwards, its customer goes, and in the end the order."""

    def orders() -> list[tuple[int, int | None, str | None]]:
        states = [state for state in everything(reader) if isinstance(state, OrderState)]
        return [(state.order_id, state.customer_id, state.stored_email) for state in states]

    shop.customer(42)
    shop.order(7, customer_id=42)
    shop.order(8)
    shop.order(9)
    shop.provenance("r-1", "order/7", customer_id=42)
    shop.provenance("r-2", "order/8", order_id=None)
    assert orders() == [(7, 42, "buyer7@shop.example.com"), (8, None, "buyer8@shop.example.com")]
    shop.run("DELETE FROM tocsin_provenance WHERE record_id = 'r-1'")
    assert orders() == [(7, 42, "buyer7@shop.example.com")]
    # The second one is named by its record's root only, the third one by none: it was never published.
    shop.run("UPDATE sales_order SET customer_email = CONCAT('new', entity_id, '@shop.example.com')")
    assert orders() == [(7, 42, "new7@shop.example.com"), (8, None, "new8@shop.example.com")]
    shop.run("DELETE FROM customer_entity WHERE entity_id = 42")
    assert orders() == [(7, None, "new7@shop.example.com")]
    assert shop.run("SELECT order_id, customer_id FROM tocsin_kept_order ORDER BY order_id") == [(7, None), (8, None)]
    shop.run("DELETE FROM sales_order WHERE entity_id = 7")
    assert Removed("order/7", "order/7") in everything(reader)
    assert shop.run("SELECT order_id FROM tocsin_kept_order") == [(8,)]


def test_records_without_a_row_are_all_removed_however_often_they_are_told(
    account: Store, reader: SqlStore, shop: StoreRows
) -> None:
    look = StoreLook(account, SystemClock())
    look.open()
    look.enqueue_gone_records([("r-1", "customer/1"), ("r-2", "customer/2")])
    look.enqueue_gone_records([("r-3", "customer/3")])
    look.close()
    removed = {state.key for state in everything(reader) if isinstance(state, Removed)}
    assert removed == {"provenance/r-1", "provenance/r-2", "provenance/r-3"}


def assign(shop: StoreRows) -> None:
    """A guest's order with a record, which is then assigned to a customer."""
    shop.customer(42)
    shop.order(7)
    shop.provenance("r-1", "order/7")
    # as Magento does it, for which the list of orders has no foreign key
    shop.run("UPDATE sales_order SET customer_id = 42, customer_is_guest = 0 WHERE entity_id = 7")
    shop.run("INSERT INTO sales_order_grid (entity_id, customer_id) VALUES (7, 42)")


def test_an_order_that_was_assigned_to_a_customer_is_nobodys_once_that_account_is_deleted(
    account: Store, reader: SqlStore, shop: StoreRows
) -> None:
    assign(shop)
    orders = [state for state in everything(reader) if isinstance(state, OrderState)]
    assert [(order.order_id, order.customer_id) for order in orders] == [(7, 42)]
    look = StoreLook(account, SystemClock())
    look.open()
    shop.run("DELETE FROM customer_entity WHERE entity_id = 42")
    assert look.pending_numbers("order", [7]) == {7}
    look.close()
    orders = [state for state in everything(reader) if isinstance(state, OrderState)]
    assert [(order.order_id, order.customer_id) for order in orders] == [(7, None)]
    assert Channel.ACCOUNT_NOTICE not in orders[0].channels


def test_an_order_that_was_assigned_is_nobodys_also_if_it_is_saved_after_the_account_is_deleted(
    account: Store, reader: SqlStore, shop: StoreRows
) -> None:
    """To save it makes its line in the list of orders anew, which then names nobody either."""
    assign(shop)
    everything(reader)
    assert shop.run("SELECT order_id, customer_id FROM tocsin_kept_order") == [(7, 42)]
    shop.run("DELETE FROM customer_entity WHERE entity_id = 42")
    shop.run("UPDATE sales_order_grid SET customer_id = NULL WHERE entity_id = 7")
    look = StoreLook(account, SystemClock())
    look.open()
    assert look.pending_numbers("order", [7]) == {7}
    look.close()
    # read, and a crash before it is settled
    reader.states_of(reader.next_batch(100))
    orders = [state for state in everything(reader) if isinstance(state, OrderState)]
    assert [(order.order_id, order.customer_id) for order in orders] == [(7, None)]
    assert shop.run("SELECT order_id FROM tocsin_kept_order") == [], "its record says the same now"


def test_an_account_without_the_list_of_orders_reads_all_the_same_and_is_told(
    account: Store, database: StoreDatabase, reader: SqlStore, shop: StoreRows
) -> None:
    user = sa.make_url(account.url.get_secret_value()).username
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"REVOKE SELECT (entity_id, customer_id) ON `{database.name}`.sales_order_grid FROM '{user}'@'%'"
        )
    assign(shop)
    everything(reader)
    with capture_logs() as logs:
        shop.run("DELETE FROM customer_entity WHERE entity_id = 42")
        assert Removed("customer/42", "customer/42") in everything(reader)
    assert ["relay grants" in line["event"] for line in logs if line["log_level"] == "warning"] == [True]


def test_a_customer_who_loses_an_order_lives_no_more_where_it_was_billed(reader: SqlStore, shop: StoreRows) -> None:
    for number in (42, 43, 44):
        shop.customer(number)
    shop.order(7, customer_id=42, country="FR")
    shop.order(8, customer_id=44, country="FR")
    everything(reader)
    shop.run("UPDATE sales_order SET customer_id = 43 WHERE entity_id = 7")
    shop.run("DELETE FROM sales_order WHERE entity_id = 8")
    residences = {
        state.customer_id: {(each.code, each.source) for each in state.residence}
        for state in everything(reader)
        if isinstance(state, CustomerState)
    }
    home = ("DE", "default_billing")
    assert residences == {42: {home}, 43: {home, ("FR", "last_order")}, 44: {home}}


def test_notices_and_backfill_with_the_printed_rights(
    account: Store, reader: SqlStore, shop: StoreRows, tmp_path: Path
) -> None:
    table = AccountNoticeTable(account)
    notice = AccountNotice(
        notice_id="a-1", customer_id=42, incident_id="INC-2026-0001", title="t", body="b",
        locale="de_DE", posted_at=datetime(2026, 3, 1, tzinfo=UTC),
    )  # fmt: skip
    table.write([notice, notice])
    table.write([], [("a-1", datetime(2026, 3, 2, tzinfo=UTC))])
    # what the server refuses, the check does, too: it would be tried for ever
    largest = notice.model_copy(update={"notice_id": "a-2", "customer_id": 2**32 - 1})
    table.check(largest)
    table.write([largest])
    for customer_id in (2**32, -1):
        refused = notice.model_copy(update={"notice_id": "a-3", "customer_id": customer_id})
        with pytest.raises(Unreachable):
            table.write([refused])
        with pytest.raises(BadInput):
            table.check(refused)
    table.close()
    shop.run("DELETE FROM tocsin_account_notice WHERE notice_id = 'a-2'")
    ((withdrawn,),) = shop.run("SELECT withdrawn_at IS NOT NULL FROM tocsin_account_notice")
    assert withdrawn
    shop.customer(42)
    shop.provenance("r-1", "order/7")
    everything(reader)
    backfill = Backfill(account, tmp_path / "progress.json")
    for entity in ("customers", "provenance", "orders", "account-notices"):
        list(backfill.run(entity, 2))
    backfill.close()
    states = everything(reader)
    assert [state.customer_id for state in states if isinstance(state, CustomerState)] == [42]
    assert [record.record_id for record in records_of(states)] == ["r-1"]


def test_the_beat_is_noted(reader: SqlStore, shop: StoreRows) -> None:
    reader.beat("host:1")
    assert shop.run("SELECT relay FROM tocsin_heartbeat") == [("host:1",)]


@pytest.mark.parametrize("bound", ["max_join_size = 20", "sql_select_limit = 60"])
def test_a_server_that_bounds_what_a_session_reads_is_read_whole(
    account: Store, database: StoreDatabase, shop: StoreRows, bound: str
) -> None:
    shop.customer(1)
    for number in range(1, 71):
        shop.order(number)
        shop.provenance(f"r-{number}", f"order/{number}")
    with set_globally(database, bound), leading(account) as reader:
        states = everything(reader)
    assert [state for state in states if isinstance(state, Removed)] == []
    assert len([state for state in states if isinstance(state, OrderState)]) == 70


@contextmanager
def set_globally(database: StoreDatabase, setting: str) -> Iterator[None]:
    name = setting.split()[0]
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT @@GLOBAL.{name}")
        (before,) = cursor.fetchone() or (None,)
        cursor.execute(f"SET GLOBAL {setting}")
        try:
            yield
        finally:
            cursor.execute(f"SET GLOBAL {name} = {before}")


def test_a_comparison_may_wait_longer_than_a_host_keeps_a_session(
    account: Store, database: StoreDatabase, shop: StoreRows
) -> None:
    shop.customer(1)
    with set_globally(database, "wait_timeout = 1"):
        look = StoreLook(account, SystemClock())
        look.open()
    time.sleep(2)
    assert look.counts()["customer"] == 1
    look.close()


def test_a_changelog_that_runs_out_of_numbers_is_told_in_time(
    account: Store, database: StoreDatabase, shop: StoreRows, server: Server
) -> None:
    look = StoreLook(account, SystemClock())
    look.open()
    assert look.numbers_left() == {}
    number = "ALTER TABLE tocsin_customer_cl MODIFY version_id {} UNSIGNED NOT NULL AUTO_INCREMENT"
    with database.connect() as connection, connection.cursor() as cursor:
        # As Magento makes them.
        cursor.execute(number.format("INT"))
        try:
            assert look.numbers_left() == {}
            cursor.execute("ALTER TABLE tocsin_customer_cl AUTO_INCREMENT = 4294967290")
            if server.product is Product.MYSQL:
                cursor.execute("ANALYZE TABLE tocsin_customer_cl")
            assert look.numbers_left() == {"tocsin_customer_cl": 6}
            with capture_logs() as said, leading(account):
                pass
        finally:
            cursor.execute(number.format("BIGINT"))
    look.close()
    (told,) = [line for line in said if "runs out of numbers" in line["event"]]
    assert (told["log_level"], told["changelog"], told["left"]) == ("error", "tocsin_customer_cl", 6)


def test_the_changelogs_say_since_when_changes_wait(reader: SqlStore, database: StoreDatabase, shop: StoreRows) -> None:
    began = SystemClock().now()
    everything(reader)
    since = reader.waiting_since()
    assert since is not None
    assert since >= began
    shop.customer(1)
    shop.run("UPDATE tocsin_customer_cl SET changed_at = '2026-03-03 00:00:00'")
    assert reader.waiting_since() == MARCH_3
    # As in a shop whose module is older, or was never upgraded.
    shop.run("ALTER TABLE tocsin_heartbeat_cl DROP COLUMN changed_at")
    try:
        assert reader.waiting_since() is None
    finally:
        shop.run("ALTER TABLE tocsin_heartbeat_cl ADD COLUMN changed_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP")


def test_what_keeps_a_server_from_answering_is_said(account: Store, database: StoreDatabase, shop: StoreRows) -> None:
    user = sa.make_url(account.url.get_secret_value()).username
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER '{user}'@'%' WITH MAX_USER_CONNECTIONS 1")
    with leading(account), pytest.raises(Unreachable, match=r"database error [0-9]+: this account has"):
        SqlStore(account, SystemClock()).take_lead()


# Leading


def test_a_leader_whose_session_is_cut_settles_nothing(account: Store, shop: StoreRows) -> None:
    shop.customer(1)
    first, second = SqlStore(account, SystemClock()), SqlStore(account, SystemClock())
    assert first.take_lead()
    assert not second.take_lead()
    batch = first.next_batch(10)
    user = sa.make_url(account.url.get_secret_value()).username
    for (session,) in shop.run("SELECT id FROM information_schema.processlist WHERE user = :user", user=user):
        # One of the two may just have hung up by itself.
        with suppress(sa.exc.OperationalError):
            shop.run(f"KILL CONNECTION {session}")
    with pytest.raises(LeadLost):
        first.settle(batch)
    until = time.monotonic() + 5
    while not second.take_lead():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert shop.changelog("tocsin_customer") == [1]
    second.settle(second.next_batch(10))
    assert shop.changelog("tocsin_customer") == []
    first.close()
    second.close()


def test_a_silent_leader_is_replaced_within_five_seconds_and_settles_nothing(account: Store, shop: StoreRows) -> None:
    shop.customer(1)
    first, second = SqlStore(account, SystemClock()), SqlStore(account, SystemClock())
    assert first.take_lead()
    batch = first.next_batch(10)
    began = time.monotonic()
    while not second.take_lead():
        assert time.monotonic() - began < 5
        time.sleep(0.2)
    assert time.monotonic() - began > LEAD_SECONDS - 1, "one that is merely busy is not replaced"
    with pytest.raises(LeadLost):
        first.settle(batch)
    assert shop.changelog("tocsin_customer") == [1]
    first.close()
    second.close()


def test_a_leader_that_resigns_is_followed_at_once(account: Store) -> None:
    first, second = SqlStore(account, SystemClock()), SqlStore(account, SystemClock())
    assert first.take_lead()
    assert not second.take_lead()
    first.resign()
    until = time.monotonic() + 1
    while not second.take_lead():
        assert time.monotonic() < until
    first.close()
    second.close()


def test_an_outdated_fencing_number_settles_nothing(
    account: Store, reader: SqlStore, shop: StoreRows, server: Server
) -> None:
    if not server.galera:
        assert shop.run("SELECT * FROM tocsin_relay_lease") == [], "leads by GET_LOCK, which has no number"
        return
    shop.customer(1)
    batch = reader.next_batch(10)
    ((number, holder),) = shop.run("SELECT fencing_number, holder FROM tocsin_relay_lease")
    assert number >= 1
    assert ":" in holder
    # As another relay does, while this one's session is alive and well.
    shop.run("UPDATE tocsin_relay_lease SET fencing_number = fencing_number + 1, held_until_ms = 0")
    with pytest.raises(LeadLost, match="lease"):
        reader.settle(batch)
    assert shop.changelog("tocsin_customer") == [1]
    assert reader.take_lead()
    assert shop.run("SELECT fencing_number FROM tocsin_relay_lease") == [(number + 2,)]


# Refused by name


def test_a_read_only_server_is_refused_by_name(account: Store, database: StoreDatabase) -> None:
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL read_only = 1")
        try:
            reader = SqlStore(account, SystemClock())
            with pytest.raises(Refused, match=r"read-only \(read_only is ON\)"):
                reader.take_lead()
            reader.close()
        finally:
            cursor.execute("SET GLOBAL read_only = 0")


def test_sales_tables_in_another_database_are_refused_by_name(
    account: Store, database: StoreDatabase, shop: StoreRows
) -> None:
    other = f"{database.name}_sales"
    # MariaDB moves no table that has triggers.
    triggers = [
        row[0]
        for row in shop.run(
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
            " AND event_object_table = 'sales_order_address'"
        )
    ]
    with database.connect() as connection, connection.cursor() as cursor:
        definitions = []
        for trigger in triggers:
            cursor.execute(f"SHOW CREATE TRIGGER {trigger}")
            definitions.append(cursor.fetchall()[0][2])
            cursor.execute(f"DROP TRIGGER {trigger}")
        cursor.execute(f"CREATE DATABASE {other}")
        cursor.execute(f"RENAME TABLE sales_order_address TO {other}.sales_order_address")
        try:
            reader = SqlStore(account, SystemClock())
            with pytest.raises(Refused, match=rf"sales tables \(sales_order_address\) are not in `{database.name}`"):
                reader.take_lead()
            reader.close()
            owner = SqlStore(Store(url=SecretStr(database.url)), SystemClock())
            with pytest.raises(Refused, match=f"but in `{other}`"):
                owner.take_lead()
            owner.close()
        finally:
            cursor.execute(f"RENAME TABLE {other}.sales_order_address TO {database.name}.sales_order_address")
            cursor.execute(f"DROP DATABASE {other}")
            for definition in definitions:
                cursor.execute(definition)


def test_a_missing_right_is_refused_by_table(account: Store, database: StoreDatabase) -> None:
    user = sa.make_url(account.url.get_secret_value()).username
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"REVOKE SELECT, UPDATE ON `{database.name}`.tocsin_heartbeat FROM '{user}'@'%'")
    reader = SqlStore(account, SystemClock())
    with pytest.raises(Refused, match=r"tocsin_heartbeat.*relay grants"):
        reader.take_lead()
    reader.close()


def test_the_store_answers_a_scope_with_the_printed_rights_as_the_relay_would_publish(
    account: Store, shop: StoreRows
) -> None:
    shop.customer(42, country="US", region_id=12, email="Person42@Shop.Example.com ")
    shop.customer(43)
    shop.customer(44)
    shop.customer(45)
    for number in (43, 44, 45):
        shop.add("customer_entity_decimal", attribute_id=201, entity_id=number, value=0.5)
    shop.order(7, country="DE")
    shop.order(8, customer_id=42, country="FR")
    shop.provenance(
        "r-1", "customer/42", confidence=0.731, deleted_at="2026-03-02 10:00:00", created_at="2026-03-01 10:00:00"
    )
    shop.provenance("r-2", "order/8", customer_id=42, model_version="")
    shop.provenance("r-3", "order/7", attribute="income_band")
    shop.provenance("r-4", "customer/99")
    shop.provenance("r-5", "customer/44", model_id="other")
    shop.provenance("r-6", "nonsense/1", customer_id=43, order_id=None, entity_id=43, kind="?", sensitivity="")
    with leading(account) as reader:
        states = everything(reader)
    published = {record.record_id: record for record in records_of(states)}
    people = {
        f"customer/{state.customer_id}" if isinstance(state, CustomerState) else f"order/{state.order_id}": state
        for state in states
        if isinstance(state, CustomerState | OrderState)
    }
    answers = SqlStoreAnswers(account, SystemClock(), b"j" * 32)
    answers.open()
    try:
        found = {each.record.record_id: each for each in answers.records(Scope())}
        assert {record_id: each.record for record_id, each in found.items()} == published
        for each in found.values():
            state = people.get(each.record.root)
            if each.record.root == "customer/99":
                assert each.person is None
                continue
            assert state is not None
            assert each.person is not None
            assert (each.person.root, each.person.residence) == (each.record.root, state.residence)
            assert (each.person.website_id, each.person.store_id) == (state.website_id, state.store_id)
            assert each.person.customer_id == state.customer_id
            assert each.person.email_hmac == email_hmac(b"j" * 32, state.stored_email or "")
        narrow = Scope(model_ids=("scorer",), all_of=(Scope(attributes=("fraud_score",)),), exposed_from=MARCH_3)
        assert {each.record.record_id for each in answers.records(narrow)} == {"r-2", "r-4", "r-6"}
        assert [(each.person.root, each.attribute) for each in answers.value_holders()] == [
            ("customer/45", "fraud_score")
        ]
        assert answers.writers() == {
            "fraud_score": frozenset({"scorer", "other"}), "income_band": frozenset({"scorer"}),
        }  # fmt: skip
        assert {person.root for person in answers.people()} == {
            "customer/42", "customer/43", "customer/44", "customer/45", "order/7", "order/8",
        }  # fmt: skip
        shop.run("UPDATE sales_order SET store_id = 2 WHERE entity_id = 8")
        shop.provenance("r-7", "customer/42")
        presence = answers.presence(["customer/42", "customer/99", "order/8", "order/9"], ["r-1", "r-7", "gone"])
        assert presence.roots == {"customer/42", "order/8"}
        assert presence.records == {"r-1", "r-7"}
        assert presence.pending_records == {"r-7"}
        # the customer too: their newest order says where they live
        assert presence.pending_roots == {"customer/42", "order/8"}
        with pytest.raises(TocsinError, match=r"1792|READ ONLY"):
            answers._look.enqueue_numbers("customer", [42])
    finally:
        answers.close()


def test_order_numbers_and_carts_are_looked_up_with_the_printed_rights(account: Store, shop: StoreRows) -> None:
    shop.customer(3)
    shop.run(
        "INSERT INTO sales_order (entity_id, store_id, customer_id, increment_id, quote_id) VALUES (7, 1, 3, '000000007', 70)"
    )
    shop.run("INSERT INTO quote (entity_id, customer_email, password_hash) VALUES (71, 'g@mail.example', 'x')")
    found = StoreReferences(account).look_up(["000000007", "000000009"], ["70", "71"])
    shop.run("DELETE FROM quote")
    assert sorted((each.kind, each.reference, each.order_id or 0, each.customer_id or 0, each.email) for each in found) == [
        ("order_number", "000000007", 7, 3, None), ("quote", "70", 7, 3, None), ("quote", "71", 0, 0, "g@mail.example"),
    ]  # fmt: skip


def test_order_numbers_and_carts_are_looked_up_where_tables_differ_in_collation(
    account: Store, shop: StoreRows
) -> None:
    shop.run("ALTER TABLE quote MODIFY customer_email VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
    shop.run("INSERT INTO quote (entity_id, customer_email) VALUES (71, 'g@mail.example')")
    found = StoreReferences(account).look_up(["000000007"], ["71"])
    assert [(each.kind, each.email) for each in found] == [("quote", "g@mail.example")]


def test_a_table_that_was_swapped_for_a_copy_tells_nothing_and_is_noticed(reader: SqlStore, shop: StoreRows) -> None:
    """As tools that alter a table while the shop is open do it: triggers stay with the table that is put away."""

    def heard_after(customer_id: int) -> Mapping[str, bool]:
        everything(reader)
        reader.heard()
        shop.customer(customer_id)
        everything(reader)
        reader.heard()
        return reader.heard()

    assert heard_after(1) == {"customer_entity": True, "customer_address_entity": True}
    address, put_away = "customer_address_entity", "_customer_address_entity_old"
    shop.run(f"CREATE TABLE _customer_address_entity_new LIKE {address}")
    shop.run(f"RENAME TABLE {address} TO {put_away}, _customer_address_entity_new TO {address}")
    try:
        assert heard_after(2) == {"customer_entity": True, "customer_address_entity": False}
    finally:
        shop.run(f"DROP TABLE {address}")
        shop.run(f"RENAME TABLE {put_away} TO {address}")
    assert heard_after(3) == {"customer_entity": True, "customer_address_entity": True}
