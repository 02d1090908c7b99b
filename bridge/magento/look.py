"""Looking at the store beside the relay that leads: what verification and status need to know of it.

Never leads, takes no lock, and no transaction is longer than one statement. Writes one thing only, when asked to: changelog
rows, as a change would, so that what was lost is published again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from bridge.contracts.events import ProvenanceRecorded
from bridge.magento import statements
from bridge.magento.catalog import Catalog
from bridge.magento.changelogs import CUSTOMER_VIEWS, ChangeBatch, View
from bridge.magento.servers import prepare_session
from bridge.magento.session import LeadSession
from bridge.magento.snapshots import CustomerState, OrderState, beat_of, provenance_state
from bridge.magento.store import SqlStore
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Store

_NO_ROW = 4_294_967_295
"""The largest row id there is, which no row has: under it, and below, records are reported that have no row any more."""

_IDS = {
    "customer": "SELECT c.entity_id FROM {p}customer_entity c WHERE c.entity_id > {after} AND c.entity_id < {before}"
    " ORDER BY c.entity_id LIMIT {limit}",
    "order": "SELECT DISTINCT r.order_id FROM {p}tocsin_provenance r WHERE r.order_id > {after} AND r.order_id < {before}"
    " ORDER BY r.order_id LIMIT {limit}",
}
_RECORD_IDS = (
    "SELECT id, record_id FROM {p}tocsin_provenance WHERE id > {after} AND id < {before} ORDER BY id LIMIT {limit}"
)
_ORDERS_THERE = "SELECT o.entity_id FROM {p}sales_order o WHERE o.entity_id IN ({ids})"
_ORDERS_WITH_RECORDS = "SELECT DISTINCT r.order_id FROM {p}tocsin_provenance r WHERE r.order_id IN ({ids})"
_ROWS_OF_ROOTS = "SELECT MIN(r.id), r.root FROM {p}tocsin_provenance r WHERE r.root IN :words GROUP BY r.root"
_PENDING = "SELECT DISTINCT l.entity_id FROM {p}{changelog} l WHERE l.entity_id IN ({ids})"
# What of another table an entity's state says, and so waits with that table's changes.
_PENDING_BY_ORDER = (
    "SELECT DISTINCT o.customer_id FROM {p}tocsin_order_cl l JOIN {p}sales_order o ON o.entity_id = l.entity_id"
    " WHERE o.customer_id IN ({ids})"
)
_PENDING_BY_RECORD = (
    "SELECT DISTINCT r.order_id FROM {p}tocsin_provenance_cl l JOIN {p}tocsin_provenance r ON r.id = l.entity_id"
    " WHERE r.order_id IN ({ids})"
)
_PENDING_BY_ROOT = "SELECT DISTINCT l.root FROM {p}tocsin_provenance_cl l WHERE l.root IN :words"
_PENDING_BY_CUSTOMER = (
    "SELECT DISTINCT r.order_id FROM {p}tocsin_customer_cl l JOIN {p}tocsin_provenance r ON r.customer_id = l.entity_id"
    " WHERE r.order_id IN ({ids})"
)
_PENDING_BY_GRID = (
    "SELECT DISTINCT g.entity_id FROM {p}tocsin_customer_cl l JOIN {p}sales_order_grid g ON g.customer_id = l.entity_id"
    " WHERE g.entity_id IN ({ids})"
)
_PENDING_BY_KEPT = (
    "SELECT DISTINCT k.order_id FROM {p}tocsin_customer_cl l JOIN {p}tocsin_kept_order k ON k.customer_id = l.entity_id"
    " WHERE k.order_id IN ({ids})"
)
_PENDING_RECORDS = "SELECT DISTINCT l.record_id FROM {p}tocsin_provenance_cl l WHERE l.record_id IN :words"
_WAITING = "SELECT COUNT(*) FROM (SELECT 1 FROM {p}{changelog} LIMIT {limit}) l"
_COUNTS = {
    "customer": "SELECT COUNT(c.entity_id) FROM {p}customer_entity c",
    "order": "SELECT COUNT(DISTINCT r.order_id) FROM {p}tocsin_provenance r"
    " JOIN {p}sales_order o ON o.entity_id = r.order_id",
    "provenance": "SELECT COUNT(r.id) FROM {p}tocsin_provenance r WHERE r.deleted_at IS NULL",
}
_OTHERWISE_READ = """
SELECT r.id, r.deleted_at IS NULL FROM {p}tocsin_provenance r WHERE r.id > {after} AND (
    r.deleted_at IS NOT NULL AND (
        r.deleted_at < r.generated_at OR r.generated_at > r.created_at
        OR CAST(r.deleted_at AS CHAR) LIKE '%-00%' OR CAST(r.generated_at AS CHAR) LIKE '%-00%'
    )
    OR IFNULL(r.customer_id, 0) = 0 AND IFNULL(r.order_id, 0) = 0 AND (
        HEX({without_digits}) NOT IN (HEX('customer/'), HEX('order/')) OR r.root IN ('customer/', 'order/')
        OR LENGTH(r.root) > 24
    )
    OR r.record_id = ''
) ORDER BY r.id LIMIT {limit}
""".replace("{without_digits}", "REPLACE(" * 10 + "r.root" + "".join(f",'{digit}','')" for digit in range(10)))
"""Rows of which the relay may say something else than their columns do, as to whether there is a record and it is deleted."""
_ENQUEUE = "INSERT INTO {p}{changelog} (entity_id) VALUES {rows}"
_RECORDS_TO_ENQUEUE = (
    "SELECT r.id AS row_id, r.record_id, r.root FROM {p}tocsin_provenance r WHERE r.id IN ({ids}) ORDER BY r.id"
)
_ENQUEUE_RECORD = "INSERT INTO {p}tocsin_provenance_cl (entity_id, record_id, root) VALUES (:row_id, :record_id, :root)"

_WAIT_SECONDS = 28_800

MOST_COUNTED = 1_000_000
"""Waiting changes are counted up to here: a glance must stay cheap however long the backlog is."""


class _LookSession(LeadSession):
    """A session that never asks for the lead."""

    def _lock(self) -> bool:
        if self.engine.dialect.name != "sqlite":
            connection = self._opened()
            prepare_session(connection)
            # Between two readings the index is waited for, longer than some hosts keep a session.
            connection.exec_driver_sql(f"SET SESSION wait_timeout = {_WAIT_SECONDS}")
        return True


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A provenance row; `record` None if it names nobody, so that it can never be published."""

    row_id: int
    record: ProvenanceRecorded | None


class StoreLook:
    """The store as it is now. Every method raises Unreachable or Refused, see `bridge.magento.session.translated`."""

    def __init__(self, settings: Store, clock: Clock) -> None:
        self._session = _LookSession(settings)
        self._reader = SqlStore(settings, clock, self._session)

    def open(self) -> None:
        """Open the session."""
        self._session.take_lead()

    def close(self) -> None:
        self._session.close()

    # Walking

    def customers(self, after: int, before: int, limit: int) -> tuple[Sequence[int], Sequence[CustomerState]]:
        """Return up to `limit` customer ids in (after, before), and their states."""
        ids = self._ids(_IDS["customer"], after, before, limit)
        return ids, self.customers_of(ids)

    def orders(self, after: int, before: int, limit: int) -> tuple[Sequence[int], Sequence[OrderState]]:
        """Return up to `limit` ids in (after, before) of orders that provenance names by column, and their states."""
        ids = self._ids(_IDS["order"], after, before, limit)
        return ids, self._orders(ids)

    def records(self, after: int, before: int, limit: int) -> Sequence[RecordRow]:
        """Return up to `limit` provenance rows with ids in (after, before)."""
        ids = [row[0] for row in self._rows(_RECORD_IDS, after=after, before=before, limit=limit)]
        return self.records_of(ids)

    def record_ids(self, limit: int) -> Iterator[Sequence[tuple[int, str]]]:
        """Yield row ids with record ids, all of them, `limit` at a time."""
        after = 0
        while rows := self._rows(_RECORD_IDS, after=after, before=_NO_ROW + 1, limit=limit):
            yield [(row[0], row[1]) for row in rows]
            after = rows[-1][0]

    # By key

    def customers_of(self, ids: Sequence[int]) -> Sequence[CustomerState]:
        """Return the states of those of `ids` that exist."""
        states = self._reader.states_of(ChangeBatch(customer_ids=ids)) if ids else ()
        return [state for state in states if isinstance(state, CustomerState)]

    def orders_of(self, ids: Sequence[int]) -> Sequence[OrderState]:
        """Return the states of those of `ids` that hold provenance, also where only a record's root names them."""
        found = {state.order_id: state for state in self._orders(ids)}
        named = list(self._rows_of_roots([order_id for order_id in ids if order_id not in found]).values())
        states = self._reader.states_of(ChangeBatch(provenance_row_ids=named)) if named else ()
        return [*found.values(), *(state for state in states if isinstance(state, OrderState))]

    def records_of(self, row_ids: Sequence[int]) -> Sequence[RecordRow]:
        """Return the provenance rows with these row ids."""
        return [RecordRow(row[0], _record(row[1])) for row in self._session.rows(statements.PROVENANCE, row_ids)]

    def rows_of_records(self, record_ids: Sequence[str]) -> Mapping[str, int]:
        """Return row ids by record id."""
        return (
            {row[1]: row[0] for row in self._rows(statements.ROWS_OF_RECORDS, words=record_ids)} if record_ids else {}
        )

    def orders_kept(self, ids: Sequence[int]) -> Sequence[OrderState]:
        """Return the states of those of `ids` that exist and hold no provenance any more: once known, they stay so."""
        left = self.orders_not_named(ids)
        by_root = self._rows_of_roots(left)
        kept = [number for number in left if number not in by_root]
        states = self._reader.orders_of(kept) if kept else ()
        return [state for state in states if isinstance(state, OrderState)]

    def orders_not_named(self, ids: Sequence[int]) -> list[int]:
        """Return which of `ids` no record names by its column."""
        by_column = {row[0] for row in self._session.rows(_ORDERS_WITH_RECORDS, ids)}
        return [number for number in ids if number not in by_column]

    def _rows_of_roots(self, ids: Sequence[int]) -> Mapping[int, int]:
        """Return a row id for each of these orders that a record's root names. Reads all of provenance: ask for many."""
        rows = self._rows(_ROWS_OF_ROOTS, words=[f"order/{number}" for number in ids]) if ids else ()
        return {int(root.partition("/")[2]): row_id for row_id, root in rows}

    def orders_there(self, ids: Sequence[int]) -> frozenset[int]:
        """Return which of these orders exist, whether or not they hold provenance."""
        return frozenset(row[0] for row in self._session.rows(_ORDERS_THERE, ids))

    def _orders(self, ids: Sequence[int]) -> Sequence[OrderState]:
        states = self._reader.states_of(ChangeBatch(order_ids=ids)) if ids else ()
        return [state for state in states if isinstance(state, OrderState)]

    # What waits

    def pending_numbers(self, entity: str, ids: Sequence[int]) -> frozenset[int]:
        """Return which of these customers or orders have a change that is not published yet."""
        views = CUSTOMER_VIEWS if entity == "customer" else (View.ORDER,)
        texts = [_PENDING.replace("{changelog}", view.changelog) for view in views]
        # A customer's newest order says where they live; an order is known by its records, and its customer may be gone.
        texts += [_PENDING_BY_ORDER] if entity == "customer" else [_PENDING_BY_RECORD, _PENDING_BY_CUSTOMER]
        if entity == "order" and self._reader.reads_grid():
            texts.append(_PENDING_BY_GRID)
        if entity == "order" and self._reader.keeps_orders():
            texts.append(_PENDING_BY_KEPT)
        pending = {row[0] for text in texts for row in self._session.rows(text, ids)}
        if entity == "order" and ids:
            roots = self._rows(_PENDING_BY_ROOT, words=[f"order/{number}" for number in ids])
            pending |= {int(row[0].partition("/")[2]) for row in roots}
        return frozenset(pending)

    def pending_records(self, record_ids: Sequence[str]) -> frozenset[str]:
        """Return which of these records have a change that is not published yet."""
        return (
            frozenset(row[0] for row in self._rows(_PENDING_RECORDS, words=record_ids)) if record_ids else frozenset()
        )

    def waiting(self) -> Mapping[View, int]:
        """Return how many changes wait to be published, by view, each counted up to `MOST_COUNTED`; no heartbeat."""
        return {
            view: int(self._rows(_WAITING.replace("{changelog}", view.changelog), limit=MOST_COUNTED)[0][0])
            for view in View
            if view is not View.HEARTBEAT
        }

    def numbers_left(self) -> Mapping[str, int]:
        """Return which changelogs run out of numbers for changes, and how many they have left."""
        return self._reader.numbers_left()

    def counts(self) -> Mapping[str, int]:
        """Return how many customers, orders with provenance, and records that are not deleted there are."""
        return {entity: int(self._rows(text)[0][0]) for entity, text in _COUNTS.items()}

    def otherwise_read(self) -> int:
        """Return how many more records `counts` would name if it read each row as the relay does: fewer, if negative.

        A row that names nobody is no record, and a deletion before the record, or at no time, is none. Reads the whole table.
        """
        more = after = 0
        while rows := self._rows(_OTHERWISE_READ, after=after, limit=1000):
            counted = {row[0]: bool(row[1]) for row in rows}
            for row in self.records_of(list(counted)):
                is_there = row.record is not None and row.record.deleted_at is None
                more += is_there - counted[row.row_id]
            after = rows[-1][0]
        return more

    def heartbeat(self) -> tuple[str, datetime] | None:
        """Return which relay led last, and when it last said so (whole seconds, its clock)."""
        for row in self._rows(statements.HEARTBEAT):
            beat = beat_of(row[0], row[1])
            if beat is not None and beat.relay:
                return beat.relay, beat.beat_at
        return None

    # Repair

    def enqueue_numbers(self, entity: str, ids: Sequence[int]) -> None:
        """Have customers or orders published again, or removed if they are no more."""
        view = View.CUSTOMER if entity == "customer" else View.ORDER
        if ids:
            rows = ",".join(f"({int(number)})" for number in ids)
            self._session.change(_ENQUEUE.replace("{changelog}", view.changelog).replace("{rows}", rows))
        if entity == "order":
            # Of an order that is named by a record's root only, the relay hears by that record; of one without any, by a
            # change that names the order alone.
            left = self.orders_not_named(ids)
            by_root = self._rows_of_roots(left)
            self.enqueue_records(list(by_root.values()))
            self.enqueue_gone_records([("", f"order/{number}") for number in left if number not in by_root])

    def enqueue_records(self, row_ids: Sequence[int]) -> None:
        """Have provenance rows published again."""
        # Read and then insert, see `bridge.magento.backfill`.
        if rows := self._session.rows(_RECORDS_TO_ENQUEUE, row_ids):
            self._session.change_with(_ENQUEUE_RECORD, [dict(row._mapping) for row in rows])

    def enqueue_gone_records(self, gone: Sequence[tuple[str, str]]) -> None:
        """Have records (record id, root) marked as deleted that have no row any more; without a record id, their order."""
        for number, (record_id, root) in enumerate(gone):
            values = {"row_id": _NO_ROW - number, "record_id": record_id, "root": root}
            self._session.change_with(_ENQUEUE_RECORD, values)

    # The session

    @property
    def catalog(self) -> Catalog:
        """Return what is the same for many."""
        return self._reader.catalog

    def read_only(self) -> None:
        """Have the server refuse whatever would write: for who only asks, whatever the account may do."""
        if self._session.writes_events:
            self._session.change("SET SESSION TRANSACTION READ ONLY")

    def bound(self, text: str, values: Mapping[str, Any], *, after: int = 0, limit: int = 0) -> Sequence[Any]:
        """Return the rows of a query with values by name, one page of it."""
        filled = text.replace("{after}", str(int(after))).replace("{limit}", str(int(limit)))
        return self._session.rows_bound(filled, values)

    def _ids(self, text: str, after: int, before: int, limit: int) -> Sequence[int]:
        return [row[0] for row in self._rows(text, after=after, before=before, limit=limit)]

    def _rows(
        self, text: str, *, after: int = 0, before: int = 0, limit: int = 0, words: Sequence[str] = ()
    ) -> Sequence[Any]:
        filled = text.replace("{after}", str(int(after))).replace("{before}", str(int(before)))
        filled = filled.replace("{limit}", str(int(limit)))
        return self._session.rows_with(filled, words) if words else self._session.rows(filled)


def _record(document: str) -> ProvenanceRecorded | None:
    try:
        return provenance_state(document)
    except ValidationError:
        return None
