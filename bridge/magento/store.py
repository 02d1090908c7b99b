"""Reading Magento's database: the next changes, the present state of what changed, and settling what was published.

Each statement is its own transaction with its own view of what is committed, so nothing is locked against the shop and no
transaction is long. Not here: the connection and who may lead (`bridge.magento.session`), publishing, sealing.
"""

import re
from collections.abc import Collection, Sequence
from decimal import Decimal

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
    BELONGING_FIELDS,
    OWN_FIELDS,
    Belongings,
    CustomerState,
    Removed,
    State,
    Unreadable,
    WrittenRecords,
    beat_of,
    customer_state,
    customer_state_of,
    end_of_event,
    is_root,
    notice_read_state,
    order_state,
    provenance_state,
)
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Store

log = structlog.get_logger()

CATALOG_SECONDS = 60.0
_VIEWS = tuple(View)
_IS_ORDER = re.compile(r"order/[0-9]+").fullmatch
_PLAIN_TEXT, _NUMBER = rb'"[^"\\\x00-\x1f]*"', rb"(?:null|-?[0-9.]+)"
_OWN_PART = re.compile(
    rb"[0-9]+\t[^\t]+\t[^\t]+\t\{"
    + b"".join(
        b'"%b":%b,' % (name, _NUMBER if name in (b"customer_id", b"order_id", b"entity_id", b"confidence") else
        b"(?:null|%b)" % _PLAIN_TEXT)
        for name in (
            b"root", b"record_id", b"customer_id", b"order_id", b"entity_id", b"run_id", b"dataset_version", b"generated_at",
            b"deleted_at", b"supersedes", b"confidence", b"storage_location", b"loaded_at",
        )
    )
).fullmatch  # fmt: skip
"""Whether a line of `statements.WRITTEN_PROVENANCE` is whole, and its beginning of an event is JSON as it stands."""
_CONTROL = bytes(range(0x20))


def _needs_no_escape(own: bytes, count: int, not_null: int) -> bool:
    """Return whether what `count` rows say of their own is JSON as it stands, where all of them are written.

    A quotation mark or a control character in a value makes more of them than there should be: counting those of a batch takes a
    tenth of looking at each line.
    """
    quotes = statements.OWN_QUOTES * count + 2 * not_null
    return (
        b"\\" not in own
        and own.count(b'"') == quotes
        and len(own) - len(own.translate(None, _CONTROL)) == _SEPARATORS * count - 1
    )


_SEPARATORS = 4
"""Three tabs and a record separator a line."""
_RECORD = statements.RECORD.encode()


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

    # Leading

    def take_lead(self) -> bool:
        if self._session.leads:
            return True
        taken = self._session.take_lead()
        if taken:
            self._read_catalog()
            log.info("this relay reads the store now")
        return taken

    def keep_lead(self) -> None:
        self._session.keep_lead()

    def resign(self) -> None:
        self._session.resign()

    def close(self) -> None:
        self._session.close()

    # Reading

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
        found = self._session.rows(statements.changelogs(limit, in_flight))
        for number, version_sum, entity_sum, versions, entities in found:
            if version_sum is not None:
                view = _VIEWS[number]
                version_ids[view], entity_ids[view] = _numbers(versions, version_sum), _numbers(entities, entity_sum)
        full = any(len(read) == limit for read in version_ids.values())
        return batch_of(version_ids, entity_ids, full)

    def states_of(self, batch: ChangeBatch) -> Collection[State]:
        self._refresh_catalog()
        removed: list[State] = []
        customer_ids = dict.fromkeys(batch.customer_ids)
        # An order may be its customer's newest address. (Of a deleted order nobody knows whose it was.)
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
        written, modelled, gone_records, nothing = self._provenance_states(batch)
        removed += [*gone_records, *nothing]
        # An order's first provenance record is what makes it known; one whose last record was deleted by SQL stays so.
        named = [*(each.root for each in modelled), *(each.root for each in gone_records), *written.orders()]
        roots = dict.fromkeys(int(root[6:]) for root in named if _IS_ORDER(root))
        orders = self._order_states(list(order_ids | roots), list(roots), removed)
        reads = [
            notice_read_state(notice_id, customer_id, read_at, self._clock.now())
            for notice_id, customer_id, read_at in self._session.rows(statements.READ_NOTICES, batch.notice_row_ids)
        ]
        beats = [beat_of(*row) for row in self._session.rows(statements.HEARTBEAT)] if batch.beat else []
        beaten = [beat for beat in beats if beat is not None]
        return InTurn(removed, *customers, orders, written, modelled, reads, beaten)

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
        if not ids or self._all_customers is None or not self._session.writes_events:
            return set(), (), ids
        ((count, text),) = self._session.rows(self._all_customers, ids)
        if text is None:
            return set(), (), ids
        catalog = self._catalog
        rows = _rows_in(text, count, len(OWN_FIELDS) + len(catalog.attributes) + 2, len(BELONGING_FIELDS) - 1)
        if rows is None:
            return set(), (), ids
        found = set(ids) if count == len(ids) else {int(row[: row.index(statements.UNIT)]) for row in rows}
        orders, belongings = self._last_orders(ids), self._belongings
        codes = [attribute.code for attribute in catalog.attributes]
        unit, own_at, values_at, nothing = statements.UNIT, 2, 2 + len(OWN_FIELDS), statements.WITHIN

        def state(row: str) -> CustomerState:
            # Split here, one after the other: a batch's fields all at once would be megabytes of small objects.
            each = row.split(unit)
            customer_id = int(each[0])
            values = {}
            # the sign before each tells an empty value from none; behind them all stands a full stop
            for code, value in zip(codes, each[values_at:], strict=False):
                if value:
                    values[code] = value[1:]
            belonging = belongings[each[1], orders.get(customer_id, nothing)]
            return customer_state_of(customer_id, belonging, each[own_at:values_at], values)

        return found, Customers(rows, state), ()

    def _last_orders(self, customer_ids: Sequence[int]) -> dict[int, str]:
        """Return country and region id of the address of each customer's newest order, with a separator between."""
        ((count, text),) = self._session.rows(statements.LAST_ORDERS_AT_ONCE, customer_ids)
        if text is None:
            return {}
        orders = _rows_in(text, count, 2, 1)
        if orders is None:
            rows = self._session.rows(statements.LAST_ORDERS, customer_ids)
            return {row[0]: statements.WITHIN.join(map(_without_separator, row[1:])) for row in rows}
        return {int(each[0]): each[1] for each in (order.split(statements.UNIT) for order in orders)}

    def _order_states(self, ids: Sequence[int], roots: Sequence[int], removed: list[State]) -> list[State]:
        country = self._settings.default_country
        found = {row[0]: row[1] for row in self._session.rows(statements.orders(), ids)}
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
    ) -> tuple[WrittenRecords, Sequence[ProvenanceRecorded], Sequence[Removed], Sequence[Unreadable]]:
        row_ids = batch.provenance_row_ids
        written, left = self._written_provenance(row_ids)
        if not left:
            return written, (), (), ()
        modelled, unreadable = self._modelled_provenance(left)
        found = {row_id for row_id, _ in modelled} | unreadable
        gone = [row_id for row_id in left if row_id not in found]
        removed, unknown = self._gone_provenance(batch, gone) if gone else ([], [])
        nothing = [*(Unreadable(row_id, ("root",)) for row_id in sorted(unreadable)), *unknown]
        return written, [record for _, record in modelled], removed, nothing

    def _written_provenance(self, row_ids: Sequence[int]) -> tuple[WrittenRecords, Sequence[int]]:
        """Return the records that the database could write, and the ids of the other rows: those that need the model, or are
        gone.
        """
        nothing = WrittenRecords((), (), {}, holds_orders=False)
        if not row_ids or not self._session.writes_events:
            return nothing, row_ids
        ((count, orders, not_null, own, shared),) = self._session.rows(statements.WRITTEN_PROVENANCE, row_ids)
        if own is None or shared is None:
            return nothing, row_ids
        lines, of_many = own.split(_RECORD), shared.split(_RECORD)
        # A separator in a value, or one that was cut short: not worth telling apart.
        if len(lines) != count or len(of_many) != count:
            return nothing, row_ids
        try:
            if not own.isascii():
                own.decode()
        except UnicodeDecodeError:
            return nothing, row_ids
        ends = {each: end for each in set(of_many) if (end := end_of_event(each)) is not None}
        if (
            count == len(row_ids)
            and len(ends) == len(set(of_many))
            and _needs_no_escape(own, count, not_null)
            and _OWN_PART(lines[-1])
        ):
            # All are there and all are written: what is left to do with them falls to the thread that publishes.
            return WrittenRecords(lines, of_many, ends, holds_orders=orders > 0), ()
        written: list[bytes] = []
        written_of_many: list[bytes] = []
        left = dict.fromkeys(row_ids)
        for line, each in zip(lines, of_many, strict=True):
            if each in ends and _OWN_PART(line):
                written.append(line)
                written_of_many.append(each)
                del left[int(line[: line.index(b"\t")])]
        return WrittenRecords(written, written_of_many, ends, holds_orders=orders > 0), list(left)

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

    def _gone_provenance(self, batch: ChangeBatch, row_ids: Sequence[int]) -> tuple[list[Removed], list[Unreadable]]:
        version_ids = batch.version_ids.get(View.PROVENANCE, ())
        if not version_ids:
            # asked for beside the changelog
            return [], []
        text = statements.GONE_PROVENANCE.replace("{first}", str(version_ids[0])).replace(
            "{last}", str(version_ids[-1])
        )
        # The same row twice: the later one is newer.
        said = {row_id: (record_id, root) for row_id, record_id, root in self._session.rows(text, row_ids)}
        removed: list[Removed] = []
        unknown: list[Unreadable] = []
        for row_id in row_ids:
            record_id, root = said.get(row_id, (None, None))
            if record_id and root and is_root(root):
                removed.append(Removed(f"provenance/{record_id}", root))
            else:
                log.error("a provenance row is gone and its changelog does not say which record", row_id=row_id)
                unknown.append(Unreadable(row_id, ("record_id",)))
        return removed, unknown

    # Settling

    def settle(self, batch: ChangeBatch) -> None:
        settling = statements.settling if self._session.writes_events else statements.settling_unordered
        # A crash between two of these reads the rest again and publishes it again.
        with self._session.settling():
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
        read_at = self._catalog_read_at
        if read_at is None or self._clock.now().timestamp() - read_at > CATALOG_SECONDS:
            self._read_catalog()

    def _read_catalog(self) -> None:
        configuration = {(row[0], row[1], row[2]): row[3] for row in self._session.rows(statements.CONFIGURATION)}
        attributes = self._registered(ai_written(configuration.get((AI_ATTRIBUTES_PATH, "default", 0)), "customer"))
        before = self._catalog.attributes
        if self._catalog_read_at is not None and attributes != before:
            # Those who do not change from now on keep the hashes of before.
            log.warning(
                "which attributes AI systems write has changed: run `tocsin relay backfill --entity customers`",
                attributes=[attribute.code for attribute in attributes],
            )
        self._catalog = Catalog(
            website_of_store=dict(tuple(row) for row in self._session.rows(statements.STORES)),
            configuration=configuration,
            regions={row[0]: (row[1], row[2]) for row in self._session.rows(statements.REGIONS)},
            attributes=attributes,
        )
        self._belongings = Belongings(self._catalog, self._settings.default_country)
        self._customers = statements.customers(attributes)
        self._all_customers = statements.customers_at_once(attributes)
        self._catalog_read_at = self._clock.now().timestamp()

    def _registered(self, configured: Sequence[str]) -> tuple[Attribute, ...]:
        """Return the customer attributes named by our settings and by the module's configuration.

        Settings that name one whose values lie in no value table are refused; of the store's own it is said once.
        """
        available = {row[0]: Attribute(*row) for row in self._session.rows(statements.ATTRIBUTES)}
        found: list[Attribute] = []
        for code in dict.fromkeys((*self._settings.registered_attributes, *configured)):
            ours = code in self._settings.registered_attributes
            attribute = available.get(code)
            if attribute is not None and (ours or attribute.backend_type in statements.BACKEND_TYPES):
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
        from bridge.magento.demo_store import DemoSession

        return SqlStore(settings, clock, DemoSession(settings))
    return SqlStore(settings, clock)


def _rows_in(text: bytes, count: int, units: int, within: int) -> list[str] | None:
    """Return the `count` rows that the database wrote as one value, if each has `units` and `within` of these separators.

    None where a field holds one, the value was cut short, or it is no UTF-8: which row it is is not worth telling apart.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return None
    # No row has fewer than it should, but one that is cut short, and that is the last: so counting all is enough.
    if decoded.count(statements.UNIT) != units * count or decoded.count(statements.WITHIN) != within * count:
        return None
    rows = decoded.split(statements.RECORD)
    return rows if len(rows) == count and decoded.endswith(statements.UNIT + ".") else None


def _without_separator(value: str | int | None) -> str:
    # a country with one in it is none without it either
    return "" if value is None else str(value).replace(statements.WITHIN, "?")


def _numbers(listed: str | None, total: int | Decimal) -> list[int]:
    numbers = [int(number) for number in (listed or "").split(",") if number]
    if sum(numbers) != total:
        # Settling a number that lost its last digits would forget a change that nobody read.
        raise Refused("the store's server cuts short what it lists: set its max_allowed_packet to 1 MB or more")
    return numbers
