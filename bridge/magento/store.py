"""Reading Magento's database: the next changes, the present state of what changed, and settling what was published.

Each statement is its own transaction with its own view of what is committed, so nothing is locked against the shop and no
transaction is long. Not here: the connection and who may lead (`bridge.magento.session`), publishing, sealing.
"""

import itertools
import re
import time
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import msgspec
import structlog
from pydantic import ValidationError

from bridge.contracts.errors import Refused, nearest
from bridge.contracts.events import ProvenanceRecorded
from bridge.magento import statements
from bridge.magento.catalog import AI_ATTRIBUTES_PATH, Attribute, Catalog, ai_written
from bridge.magento.changelogs import ChangeBatch, View, batch_of
from bridge.magento.reader import Customers, InTurn, StoreReader
from bridge.magento.session import LeadSession, store_url
from bridge.magento.snapshots import (
    Belongings,
    CustomerState,
    OrderState,
    ReadCustomers,
    Removed,
    State,
    Unreadable,
    WrittenRecords,
    beat_of,
    customer_state,
    end_of_event,
    instant,
    is_root,
    notice_read_state,
    order_state,
    provenance_state,
)
from bridge.magento.watch import NEWEST, TOLD_COLUMNS, Watch
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Store

log = structlog.get_logger()

CATALOG_SECONDS = 60.0
_VIEWS = tuple(View)
_BATCHES_UNTIL_UNBROKEN = 20
"""A backlog whose ids have gaps now will have some for a while: until then they are listed without asking."""
FEW_NUMBERS = 1_000_000_000
"""Of four thousand million: a quarter."""
LOOK_BACK_SECONDS = 1.0
"""How long a backlog is read on behind what was read before, until its beginning is looked at again: there the server walks
over all that was settled and is not purged yet, which a backup of the shop holds up for as long as it takes.
"""
BATCHES_UNTIL_ALIKE = 3
"""After rows that were not as those before, a few batches are read by the statement for any."""
_IS_ORDER = re.compile(r"order/[0-9]+").fullmatch
_PLAIN_TEXT, _NUMBER = rb'"[^"\\\x00-\x1f]*"', rb"(?:null|-?[0-9.]+)"
_BEGINNING = re.compile(
    rb"\{"
    + b"".join(
        b'"%b":%b,' % (name, _NUMBER if name in (b"customer_id", b"order_id", b"entity_id", b"confidence") else
        b"(?:null|%b)" % _PLAIN_TEXT)
        for name in (
            b"root", b"record_id", b"customer_id", b"order_id", b"entity_id", b"run_id", b"dataset_version", b"generated_at",
            b"deleted_at", b"supersedes", b"confidence", b"storage_location", b"loaded_at",
        )
    )
).fullmatch  # fmt: skip
"""Whether a beginning of an event, of `statements.WRITTEN_PROVENANCE`, is whole, and JSON as it stands."""
_RECORD, _NEEDS_MODEL = statements.RECORD.encode(), statements.NEEDS_MODEL.encode()
_OWN_FIELDS = 4
_QUOTED = ("run_id", "dataset_version", "deleted_at", "supersedes", "storage_location")
"""Those of `statements.MAY_BE_NULL` that are written with quotation marks."""
MANY_ROWS = 1000
"""Provenance rows that are worth a statement made for what they have in common."""
SOME_CUSTOMERS = 30
"""Customers that are worth writing them as one value."""
MANY_CUSTOMERS = 400
"""Customers that, where they lie together, are worth several statements instead of one that joins all that belongs to them."""
_TO_ESCAPE = bytes(range(0x20)) + b'"\\'


def _needs_no_escape(own: bytes, count: int, not_null: int) -> bool:
    """Return whether what `count` rows say of their own is JSON as it stands, for each of them.

    A quotation mark, a backslash or a control character in a value makes more of them than there should be: counting those of a
    batch takes a tenth of looking at each row.
    """
    if _NEEDS_MODEL in own:
        return False
    there = len(own) - len(own.translate(None, _TO_ESCAPE))
    return there == statements.OWN_QUOTES * count + 2 * not_null + _OWN_FIELDS * count - 1


def _is_text(value: bytes) -> bool:
    try:
        return value.isascii() or bool(value.decode())
    except UnicodeDecodeError:
        return False


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is to be noted of orders, whose they are by order, and of which nothing more."""

    keep: Mapping[int, int | None]
    forget: Set[int]


class SqlStore:
    """A store on MariaDB or MySQL."""

    def __init__(self, settings: Store, clock: Clock, session: LeadSession | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._session = session or LeadSession(settings)
        self._catalog = Catalog()
        self._catalog_read_at: float | None = None
        self._warned_of: set[str] = set()
        self._belongings = Belongings(self._catalog, settings.default_country)
        self._customers = ""
        self._all_customers: str | None = None
        self._batches_until_unbroken = 0
        self._look_back_at = 0.0
        self._alike = statements.ANY_ROWS
        """What the rows of the batch before had in common."""
        self._batches_until_alike = 0
        self._may_read_grid: bool | None = None
        """None until it is asked."""
        self._may_keep: bool | None = None
        self._kept: dict[int, _Kept] = {}
        """What is to be noted of orders once a batch is settled, by the batch's identity."""
        self._watch = Watch()

    # Leading

    def take_lead(self) -> bool:
        if self._session.leads:
            return True
        taken = self._session.take_lead()
        if taken:
            self._read_catalog()
            self._may_read_grid = self._may_keep = None
            self._kept.clear()
            self._watch = Watch()
            log.info("this relay reads the store now")
        return taken

    def keep_lead(self) -> None:
        self._session.keep_lead()

    def resign(self) -> None:
        self._session.resign()

    def close(self) -> None:
        self._session.close()

    # Reading

    def waiting_since(self) -> datetime | None:
        now = self._clock.now()
        if not self._session.writes_events or self._session.rows(statements.HAVE_TIMES)[0][0] < len(View):
            return None
        times = [instant(row[0]) for row in self._session.rows(statements.OLDEST_TIMES)]
        return min([now, *(at for at in times if at is not None)])

    def heard(self) -> Mapping[str, bool]:
        (newest,) = self._session.rows(NEWEST)
        return self._watch.look({table: number or 0 for table, number in zip(TOLD_COLUMNS, newest, strict=True)})

    def numbers_left(self) -> Mapping[str, int]:
        """Return which changelogs run out of numbers for changes, and how many they have left."""
        if not self._session.writes_events:
            return {}
        few = statements.NUMBERS_LEFT.replace("{few}", str(FEW_NUMBERS))
        return {row[0]: max(0, int(row[1])) for row in self._session.rows(few)}

    @property
    def catalog(self) -> Catalog:
        """What is the same for many, at most `CATALOG_SECONDS` old."""
        self._refresh_catalog()
        return self._catalog

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        self._session.catch_up()
        in_flight = besides.version_ids if besides is not None else {}
        version_ids: dict[View, Sequence[int]] = {}
        entity_ids: dict[View, Sequence[int]] = {}
        left = set(View)
        now = time.monotonic()
        # Ids commit out of order: who comes late stands before what was read already, and is found when looking back.
        behind = besides is not None and besides.full and now < self._look_back_at
        if not behind:
            self._look_back_at = now + LOOK_BACK_SECONDS
        if besides is not None and besides.full and self._batches_until_unbroken == 0:
            for number, count, first, last, least, greatest in self._session.rows(
                statements.unbroken(limit, in_flight, behind=behind)
            ):
                view = _VIEWS[number]
                # Behind what was read, only as many as are asked for were looked at: fewer may be followed by others.
                looked_on = behind and view in in_flight
                if not count:
                    if not looked_on:
                        left.discard(view)
                elif count == last - first + 1 and least == greatest and (count == limit or not looked_on):
                    left.discard(view)
                    version_ids[view] = range(first, last + 1)
                    entity_ids[view] = range(first + least, last + least + 1)
            if left:
                self._batches_until_unbroken = _BATCHES_UNTIL_UNBROKEN
        elif self._batches_until_unbroken:
            self._batches_until_unbroken -= 1
        found = self._session.rows(statements.changelogs(limit, in_flight, left, behind=behind)) if left else ()
        for number, version_sum, entity_sum, versions, entities in found:
            if version_sum is not None:
                view = _VIEWS[number]
                version_ids[view], entity_ids[view] = _numbers(versions, version_sum), _numbers(entities, entity_sum)
        for view, ids in entity_ids.items():
            self._watch.told(view, ids)
        # Behind the others there may be none left, and still some before them.
        full = bool(version_ids) if behind else any(len(read) == limit for read in version_ids.values())
        return batch_of(version_ids, entity_ids, full)

    def states_of(self, batch: ChangeBatch) -> Collection[State]:
        self._refresh_catalog()
        removed: list[State] = []
        customer_ids = dict.fromkeys(batch.customer_ids)
        # An order may be its customer's newest address. (Whose it was before it was deleted or moved, its trigger told.)
        if batch.order_ids:
            customer_ids |= dict.fromkeys(
                row[0] for row in self._session.rows(statements.CUSTOMERS_OF_ORDERS, batch.order_ids)
            )
        found, customers = self._customer_states(list(customer_ids))
        gone = [customer_id for customer_id in customer_ids if customer_id not in found]
        removed += [Removed(f"customer/{customer_id}", f"customer/{customer_id}") for customer_id in gone]
        # What a foreign key nulls tells nobody: a deleted customer's orders are guests' orders from now on.
        order_ids = dict.fromkeys(batch.order_ids)
        if gone:
            order_ids |= dict.fromkeys(row[0] for row in self._session.rows(statements.ORDERS_OF_CUSTOMERS, gone))
            if self.reads_grid():
                once = self._session.rows(statements.ORDERS_ONCE_OF_CUSTOMERS, gone)
                order_ids |= dict.fromkeys(row[0] for row in once)
            if self.keeps_orders():
                kept = self._session.rows(statements.KEPT_ORDERS_OF_CUSTOMERS, gone)
                order_ids |= dict.fromkeys(row[0] for row in kept)
        written, modelled, gone_records, asked, nothing = self._provenance_states(batch)
        removed += [*gone_records, *nothing]
        # An order's first provenance record is what makes it known; one whose last record was deleted by SQL stays so.
        named = [*(each.root for each in modelled), *(each.root for each in gone_records), *asked, *written.orders()]
        roots = dict.fromkeys(int(root[6:]) for root in named if _IS_ORDER(root))
        orders = self._order_states(list(order_ids | roots), list(roots), removed)
        if batch.version_ids and (order_ids or roots):
            self._note_orders(batch, list(order_ids | roots), orders)
        reads = [
            notice_read_state(notice_id, customer_id, read_at, self._clock.now())
            for notice_id, customer_id, read_at in self._session.rows(statements.READ_NOTICES, batch.notice_row_ids)
        ]
        beats = [beat_of(*row) for row in self._session.rows(statements.HEARTBEAT)] if batch.beat else []
        beaten = [beat for beat in beats if beat is not None]
        return InTurn(removed, *customers, orders, written, modelled, reads, beaten)

    def reads_grid(self) -> bool:
        """Return whether the store shows which orders a deleted customer had, though no record says so."""
        if self._may_read_grid is None:
            self._may_read_grid = (
                not self._session.writes_events or self._session.rows(statements.GRID_COLUMNS)[0][0] == 2
            )
            if not self._may_read_grid:
                log.warning(
                    "guests' orders that were assigned to a customer keep that customer when the account is deleted: give the"
                    " store's account what `tocsin relay grants` prints, then run `tocsin relay verify --repair`"
                )
        return self._may_read_grid

    def keeps_orders(self) -> bool:
        """Return whether the store notes which orders stay published without a record that says so, and whose they were."""
        if self._may_keep is None:
            self._may_keep = self._session.writes_events and bool(self._session.rows(statements.KEPT_TABLE_THERE)[0][0])
            if self._session.writes_events and not self._may_keep:
                log.warning(
                    "orders whose records were deleted by SQL are published no more when they change: run bin/magento"
                    " setup:upgrade, and give the store's account what `tocsin relay grants` prints"
                )
        return self._may_keep

    def _note_orders(self, batch: ChangeBatch, ids: Sequence[int], orders: Sequence[OrderState]) -> None:
        """Remember what no record will say of these orders: that they are published, or whose they are now."""
        if not self.keeps_orders():
            return
        by_records: set[tuple[int, int | None]] = set()
        noted: dict[int, int | None] = {}
        for order_id, customer_id, is_noted in self._session.rows(statements.KNOWN_ORDERS, ids):
            if is_noted:
                noted[order_id] = customer_id
            else:
                by_records |= {(order_id, customer_id), (order_id, None)}
        needed = {
            order.order_id: order.customer_id
            for order in orders
            if (order.order_id, order.customer_id) not in by_records
        }
        keep = {number: whose for number, whose in needed.items() if noted.get(number, -1) != whose}
        self._kept[id(batch)] = _Kept(keep, noted.keys() - needed.keys())

    def _customer_states(self, ids: Sequence[int]) -> tuple[set[int], list[Collection[CustomerState]]]:
        """Return the ids of those who are there, and their states, which are made when they are asked for."""
        found, at_once, left = self._customers_at_once(ids)
        catalog, country = self._catalog, self._settings.default_country
        rows = self._session.rows(self._customers, left)
        found |= {row[0] for row in rows}
        one_by_one = Customers(rows, lambda row: customer_state(row[0], row[1], catalog, country))
        return found, [at_once, one_by_one]

    def _customers_at_once(self, ids: Sequence[int]) -> tuple[set[int], Collection[CustomerState], Sequence[int]]:
        """Return who could be read at once, their states, and who must be read one by one."""
        nobody: tuple[set[int], Collection[CustomerState], Sequence[int]] = set(), (), ids
        if len(ids) < SOME_CUSTOMERS or not self._session.writes_events:
            return nobody
        if len(ids) >= MANY_CUSTOMERS and max(ids) - min(ids) < 2 * len(ids):
            read = self._customers_beside(ids)
        else:
            read = self._customers_joined(ids)
        if read is None:
            return nobody
        return set(ids) if len(read) == len(ids) else set(map(int, read.numbers)), read, ()

    def _customers_joined(self, ids: Sequence[int]) -> ReadCustomers | None:
        """Return the customers with all that is joined to them, or None if they must be read one by one."""
        if self._all_customers is None:
            return None
        ((count, numbers, text, same, *said),) = self._session.rows(self._all_customers, ids)
        rows = _rows_in(text, count, units=3, within=1)
        billing, shipping = (_rows_in(each, count, units=8, within=1) for each in said[:2])
        if rows is None or billing is None or shipping is None:
            return None
        values: dict[str, Sequence[str | None]] = {}
        for attribute, there, each in zip(self._catalog.attributes, said[2::2], said[3::2], strict=True):
            theirs: Sequence[str | None] | None = _rows_in(each, count)
            if theirs is None or theirs.count(statements.NOTHING) != count - there:
                return None
            if there < count:
                theirs = [None if value == statements.NOTHING else value for value in theirs]
            values[attribute.code] = theirs
        shipping = [
            one if each == "1" else other for each, one, other in zip(same.split(","), billing, shipping, strict=True)
        ]
        return self._read(ids, numbers.split(","), rows, billing, shipping, values)

    def _customers_beside(self, ids: Sequence[int]) -> ReadCustomers | None:
        """Return the same, for many who lie together, with what belongs to them asked for by itself."""
        ((count, numbers, text, billed, shipped),) = self._session.rows(statements.CUSTOMERS_AT_ONCE, ids)
        rows = _rows_in(text, count, units=3, within=1)
        if rows is None:
            return None
        # What is deleted or changed between these statements is in the changelog once more, and comes again.
        addresses = self._default_addresses(_list_of(billed), _list_of(shipped))
        if addresses is None:
            return None
        customers = numbers.split(",")
        values: dict[str, Sequence[str | None]] = {}
        for attribute in self._catalog.attributes:
            theirs = self._values(attribute, ids, numbers, customers)
            if theirs is None:
                return None
            values[attribute.code] = theirs
        return self._read(ids, customers, rows, *addresses, values)

    def _read(
        self,
        ids: Sequence[int],
        customers: Sequence[str],
        rows: Sequence[str],
        billing: Sequence[str | None],
        shipping: Sequence[str | None],
        values: Mapping[str, Sequence[str | None]],
    ) -> ReadCustomers:
        orders = list(map(self._last_orders(ids).get, customers, itertools.repeat(statements.WITHIN)))
        return ReadCustomers(customers, rows, billing, shipping, orders, values, self._belongings)

    def _default_addresses(
        self, billing: Sequence[int], shipping: Sequence[int]
    ) -> tuple[Sequence[str | None], Sequence[str | None]] | None:
        """Return what is said of addresses, given by their ids, or None if it cannot be told apart."""
        ids = {*billing, *shipping} - {0}
        said: dict[int, str] = {}
        if ids:
            ((count, numbers, found),) = self._session.rows(statements.filled_near(statements.ADDRESSES_AT_ONCE, ids))
            rows = _rows_in(found, count, units=8, within=1) if count else []
            if rows is None:
                return None
            said = dict(zip(_list_of(numbers), rows, strict=True))
        return list(map(said.get, billing)), list(map(said.get, shipping))

    def _values(
        self, attribute: Attribute, ids: Sequence[int], numbers: str, customers: Sequence[str]
    ) -> Sequence[str | None] | None:
        """Return the value of each of `customers`, whose ids are `numbers`, or None if they cannot be told apart."""
        ((count, holders, said),) = self._session.rows(
            statements.filled_near(statements.values_at_once(attribute), ids)
        )
        if not count:
            return [None] * len(customers)
        values = _rows_in(said, count)
        if values is None:
            return None
        if holders == numbers:
            return values
        return list(map(dict(zip(holders.split(","), values, strict=True)).get, customers))

    def _last_orders(self, customer_ids: Sequence[int]) -> dict[str, str]:
        """Return country and region id of the address of each customer's newest order, with a separator between."""
        ((count, customers, said),) = self._session.rows(statements.LAST_ORDERS_AT_ONCE, customer_ids)
        if not count:
            return {}
        places = _rows_in(said, count, within=1)
        if places is None:
            rows = self._session.rows(statements.LAST_ORDERS, customer_ids)
            return {str(row[0]): statements.WITHIN.join(map(_without_separator, row[1:])) for row in rows}
        return dict(zip(customers.split(","), places, strict=True))

    def orders_of(self, ids: Sequence[int]) -> list[OrderState]:
        """Return the states of those orders that exist, whether or not they hold provenance."""
        self._refresh_catalog()
        return self._order_states(ids, ids, [])

    def _order_states(self, ids: Sequence[int], roots: Sequence[int], removed: list[State]) -> list[OrderState]:
        country = self._settings.default_country
        query = statements.orders(kept=bool(ids) and self.keeps_orders())
        found = {row[0]: row[1] for row in self._session.rows(query, ids)}
        # A writer may name the order in the root only, where no index finds it.
        named = [order_id for order_id in roots if order_id in found and found[order_id] is None]
        found |= {row[0]: row[1] for row in self._session.rows(statements.orders(hold_provenance=True), named)}
        removed += [Removed(f"order/{gone}", f"order/{gone}") for gone in ids if gone not in found]
        return [
            order_state(order_id, document, self._catalog, country)
            for order_id, document in found.items()
            if document is not None
        ]

    def _provenance_states(
        self, batch: ChangeBatch
    ) -> tuple[WrittenRecords, Sequence[ProvenanceRecorded], Sequence[Removed], Sequence[str], Sequence[Unreadable]]:
        row_ids = batch.provenance_row_ids
        written, left = self._written_provenance(row_ids)
        if not left:
            return written, (), (), (), ()
        modelled, unreadable = self._modelled_provenance(left)
        found = {row_id for row_id, _ in modelled} | unreadable
        gone = [row_id for row_id in left if row_id not in found]
        removed, asked, unknown = self._gone_provenance(batch, gone) if gone else ([], [], [])
        nothing = [*(Unreadable(row_id, ("root",)) for row_id in sorted(unreadable)), *unknown]
        records = [record for _, record in modelled]
        return written, [*records, *self._written_anew(removed, row_ids)], removed, asked, nothing

    def _written_anew(self, removed: Sequence[Removed], besides: Collection[int]) -> list[ProvenanceRecorded]:
        """Return the records of other rows that have the id of one of `removed`.

        Their rows may have been published before a deletion that committed late: without them it would be the last word.
        """
        if not removed:
            return []
        ids = [each.key.partition("/")[2] for each in removed]
        rows = [row[0] for row in self._session.rows_with(statements.ROWS_OF_RECORDS, ids)]
        modelled, _ = self._modelled_provenance([row_id for row_id in rows if row_id not in besides])
        return [record for _, record in modelled]

    def _written_provenance(self, row_ids: Sequence[int]) -> tuple[WrittenRecords, Sequence[int]]:
        """Return the records that the database could write, and the ids of the other rows: those that need the model, or are
        gone.
        """
        if not row_ids or not self._session.writes_events:
            return WrittenRecords(), row_ids
        alike = self._alike
        if len(row_ids) < MANY_ROWS or self._batches_until_alike:
            self._batches_until_alike = max(0, self._batches_until_alike - 1)
            alike = statements.ANY_ROWS
        written, left = self._written_if(alike, row_ids)
        if left and alike != statements.ANY_ROWS:
            self._batches_until_alike = BATCHES_UNTIL_ALIKE
            return self._written_if(statements.ANY_ROWS, row_ids)
        return written, left

    def _written_if(self, alike: statements.Alike, row_ids: Sequence[int]) -> tuple[WrittenRecords, Sequence[int]]:
        """Return the same, where the rows are `alike`; of others they may be fewer, or none."""
        nothing = WrittenRecords()
        ((count, late, *there, own, shared),) = self._session.rows(statements.written_provenance(alike), row_ids)
        if own is None or shared is None:
            return nothing, row_ids
        values = dict(zip(statements.MAY_BE_NULL, there, strict=True))
        if any(values[name] for name in alike.without):
            return nothing, row_ids
        self._alike = statements.Alike(
            frozenset(name for name, number in values.items() if not number),
            True if late == count else None if late else False,
        )
        orders, not_null = values["order_id"], late + sum(values[name] for name in _QUOTED)
        fields, of_many = own.split(_RECORD), shared.split(_RECORD)
        # A separator in a value, or one that was cut short: not worth telling apart.
        if len(fields) != _OWN_FIELDS * count or len(of_many) != count:
            return nothing, row_ids
        ids, roots, record_ids, beginnings = (fields[place::_OWN_FIELDS] for place in range(_OWN_FIELDS))
        distinct = set(of_many)
        ends = {each: end for each in distinct if (end := end_of_event(each)) is not None}
        if (
            count == len(row_ids)
            and len(ends) == len(distinct)
            and _needs_no_escape(own, count, not_null)
            and _is_text(own)
            and _BEGINNING(beginnings[-1])
        ):
            # All are there and all are written: what is left to do with them falls to the thread that publishes.
            return WrittenRecords(roots, record_ids, beginnings, of_many, ends, holds_orders=orders > 0), ()
        left = dict.fromkeys(row_ids)
        good: list[int] = []
        for place, (beginning, end) in enumerate(zip(beginnings, of_many, strict=True)):
            # Root and record id stand in the beginning, too.
            if end in ends and _BEGINNING(beginning) and _is_text(beginning):
                good.append(place)
                del left[int(ids[place])]
        roots, record_ids, beginnings, of_many = (
            [column[place] for place in good] for column in (roots, record_ids, beginnings, of_many)
        )
        return WrittenRecords(roots, record_ids, beginnings, of_many, ends, holds_orders=orders > 0), list(left)

    def _modelled_provenance(self, row_ids: Sequence[int]) -> tuple[Sequence[tuple[int, ProvenanceRecorded]], set[int]]:
        """Return the records of rows that are there, and the ids of rows that say of nobody what they are about."""
        modelled: list[tuple[int, ProvenanceRecorded]] = []
        unreadable: set[int] = set()
        for row_id, document in self._session.rows(statements.PROVENANCE, row_ids):
            try:
                record = provenance_state(document)
            except ValidationError:
                record = None
            if record is None:
                log.error("a provenance row names nobody: neither root nor customer nor order", row_id=row_id)
                unreadable.add(row_id)
            else:
                modelled.append((row_id, record))
        return modelled, unreadable

    def _gone_provenance(
        self, batch: ChangeBatch, row_ids: Sequence[int]
    ) -> tuple[list[Removed], list[str], list[Unreadable]]:
        """Return what is to be removed, the orders that are asked for without a record, and of whom nothing is said."""
        version_ids = batch.version_ids.get(View.PROVENANCE, ())
        if not version_ids:
            # asked for beside the changelog
            return [], [], []
        text = statements.GONE_PROVENANCE.replace("{first}", str(version_ids[0])).replace(
            "{last}", str(version_ids[-1])
        )
        # Each counts: a row may have named another record before, and what has no row is told of under ids that repeat.
        said: dict[int, dict[tuple[str, str], None]] = {}
        for row_id, record_id, root in self._session.rows(text, row_ids):
            if root and is_root(root) and (record_id or _IS_ORDER(root)):
                said.setdefault(row_id, {})[record_id or "", root] = None
        unknown = [Unreadable(row_id, ("record_id",)) for row_id in row_ids if row_id not in said]
        for each in unknown:
            log.error("a provenance row is gone and its changelog does not say which record", row_id=each.row_id)
        told = [each for of_row in said.values() for each in of_row]
        removed = [Removed(f"provenance/{record_id}", root) for record_id, root in told if record_id]
        return removed, [root for record_id, root in told if not record_id], unknown

    # Settling

    def settle(self, batch: ChangeBatch) -> None:
        settling = statements.settling if self._session.writes_events else statements.settling_unordered
        # A crash between two of these reads the rest again and publishes it again.
        with self._session.settling():
            kept = self._kept.pop(id(batch), None)
            if kept is not None and kept.keep:
                rows = [{"order_id": number, "customer_id": whose} for number, whose in kept.keep.items()]
                self._session.change_with(statements.KEEP_ORDERS, rows)
            if kept is not None and kept.forget:
                self._session.change(statements.forgetting(kept.forget))
            # A crash before the changes are settled reads them again, and notes the same.
            for view, version_ids in batch.version_ids.items():
                for text in settling(view, version_ids):
                    self._session.change(text)

    def beat(self, relay: str) -> None:
        values = {"relay": relay[:128], "beat_at": f"{self._clock.now():%Y-%m-%d %H:%M:%S}"}
        if self._session.change_with(statements.BEAT, values) == 0:
            # The bridge may not add it; the shop's pages and the lag then say nothing, and changes flow all the same.
            log.error("tocsin_heartbeat has no row with id 1; run bin/magento setup:upgrade, which adds it")

    # What is the same for many

    def _refresh_catalog(self) -> None:
        # not by the clock, which may be set back
        if self._catalog_read_at is None or time.monotonic() - self._catalog_read_at > CATALOG_SECONDS:
            self._read_catalog()

    def _read_catalog(self) -> None:
        configuration = {(row[0], row[1], row[2]): row[3] for row in self._session.rows(statements.CONFIGURATION)}
        attributes = self._registered(ai_written(configuration.get((AI_ATTRIBUTES_PATH, "default", 0)), "customer"))
        before = self._catalog
        self._catalog = Catalog(
            website_of_store=dict(tuple(row) for row in self._session.rows(statements.STORES)),
            configuration=configuration,
            regions={row[0]: (row[1], row[2]) for row in self._session.rows(statements.REGIONS)},
            attributes=attributes,
        )
        if self._catalog_read_at is not None:
            # Those who do not change from now on keep the hashes, and what their store view said, of before.
            if attributes != before.attributes:
                log.warning(
                    "which attributes AI systems write has changed: run `tocsin relay backfill --entity customers`",
                    attributes=[attribute.code for attribute in attributes],
                )
            if before.says_more_than(self._catalog):
                log.warning(
                    "a store view, its locale or country, or a region was changed or removed: run `tocsin relay backfill`, or"
                    " whoever belonged to it is told as before"
                )
        for changelog, left in self.numbers_left().items():
            if changelog not in self._warned_of:
                self._warned_of.add(changelog)
                log.error(
                    "a changelog runs out of numbers, after which no change is told; run bin/magento tocsin:capture:enable,"
                    " which gives it more",
                    changelog=changelog,
                    left=left,
                )
        self._belongings = Belongings(self._catalog, self._settings.default_country)
        self._customers = statements.customers(attributes)
        self._all_customers = statements.customers_joined(attributes)
        self._catalog_read_at = time.monotonic()

    def _registered(self, configured: Sequence[str]) -> tuple[Attribute, ...]:
        """Return the customer attributes named by our settings and by the module's configuration.

        Of one whose values lie in no value table it is said once: a shop may move an attribute while all this runs, and that
        must stop nothing.
        """
        available = {row[0]: Attribute(*row) for row in self._session.rows(statements.ATTRIBUTES)}
        found: list[Attribute] = []
        for code in dict.fromkeys((*self._settings.registered_attributes, *configured)):
            ours = code in self._settings.registered_attributes
            attribute = available.get(code)
            if attribute is not None and statements.has_value_table(attribute):
                found.append(attribute)
            elif code not in self._warned_of:
                self._warned_of.add(code)
                where = "store.registered_attributes" if ours else f"the store's {AI_ATTRIBUTES_PATH}"
                log.warning(
                    f"{where} names an attribute that customers have no values of{nearest(code, available)}; its untagged"
                    " writes are not found",
                    attribute=code,
                )
        return tuple(found)


def open_store(settings: Store, clock: Clock) -> StoreReader:
    """Return the reader for `settings.url`: MariaDB, MySQL, or the demo's SQLite. Raises BadInput for any other."""
    backend = store_url(settings).get_backend_name()
    if backend == "sqlite":
        from bridge.magento.demo_session import DemoSession

        return SqlStore(settings, clock, DemoSession(settings))
    return SqlStore(settings, clock)


def _rows_in(text: bytes | None, count: int, *, units: int = 0, within: int = 0) -> list[str] | None:
    """Return the `count` rows that the database wrote as one value, if each has `units` and `within` of these separators.

    None where a field holds one, the value was cut short, or it is no UTF-8: which row it is is not worth telling apart.
    """
    try:
        # None is a value that the server would not send, for its size.
        decoded = (text or b"").decode()
    except UnicodeDecodeError:
        return None
    # No row has fewer than it should, but one that is cut short, and that is the last: so counting all is enough. One unit
    # separator and a full stop stand behind each.
    if not decoded.endswith(_END) or decoded.count(statements.UNIT) != (units + 1) * count:
        return None
    if decoded.count(statements.WITHIN) != within * count:
        return None
    rows = decoded[: -len(_END)].split(_END + statements.RECORD)
    return rows if len(rows) == count else None


_END = statements.UNIT + "."


def _without_separator(value: str | int | None) -> str:
    # a country with one in it is none without it either
    return "" if value is None else str(value).replace(statements.WITHIN, "?")


_list_of_numbers = msgspec.json.Decoder(list[int]).decode


def _list_of(listed: str | None) -> list[int]:
    return _list_of_numbers(f"[{(listed or '').rstrip(',')}]")


def _numbers(listed: str | None, total: int | Decimal) -> list[int]:
    numbers = _list_of(listed)
    if sum(numbers) != total:
        # Settling a number that lost its last digits would forget a change that nobody read.
        raise Refused("the store's server cuts short what it lists: set its max_allowed_packet to 1 MB or more")
    return numbers
