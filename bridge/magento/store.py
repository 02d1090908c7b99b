"""Reading Magento's database: the next changes, the present state of what changed, and settling what was published.

Each statement is its own transaction with its own view of what is committed, so nothing is locked against the shop and no
transaction is long. Not here: the connection and who may lead (`bridge.magento.session`), publishing, sealing.
"""

import re
from collections.abc import Sequence

import structlog
from pydantic import ValidationError

from bridge.contracts.errors import nearest
from bridge.magento import statements
from bridge.magento.catalog import Attribute, Catalog
from bridge.magento.changelogs import ChangeBatch, ProvenanceRow, View, batch_of
from bridge.magento.reader import StoreReader
from bridge.magento.session import LeadSession, store_url
from bridge.magento.snapshots import (
    Removed,
    State,
    beat_of,
    customer_state,
    notice_read_state,
    order_state,
    provenance_state,
)
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Store

log = structlog.get_logger()

CATALOG_SECONDS = 60.0


class SqlStore:
    """A store on MariaDB or MySQL."""

    def __init__(self, settings: Store, clock: Clock, session: LeadSession | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._session = session or LeadSession(settings)
        self._catalog = Catalog()
        self._catalog_read_at: float | None = None
        self._customers = ""

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

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        self._session.catch_up()
        rows: dict[View, Sequence[tuple[int, int]]] = {}
        provenance: list[ProvenanceRow] = []
        full = False
        for view in View:
            in_flight = set(besides.version_ids.get(view, ())) if besides is not None else set()
            read = self._session.rows(statements.changelog(view), limit=limit + len(in_flight))
            found = [row for row in read if row[0] not in in_flight][:limit]
            full = full or len(found) == limit
            rows[view] = [(row[0], row[1]) for row in found]
            if view is View.PROVENANCE:
                provenance = [ProvenanceRow(row[1], row[2], row[3]) for row in found]
        return batch_of(rows, provenance, full)

    def states_of(self, batch: ChangeBatch) -> Sequence[State]:
        self._refresh_catalog()
        removed: list[State] = []
        customer_ids = dict.fromkeys(batch.customer_ids)
        # An order may be its customer's newest address. (Of a deleted order nobody knows whose it was.)
        if batch.order_ids:
            customer_ids |= dict.fromkeys(
                row[0] for row in self._session.rows(statements.CUSTOMERS_OF_ORDERS, batch.order_ids)
            )
        customers = self._customer_states(list(customer_ids), removed)
        # What a foreign key nulls tells nobody: a deleted customer's orders are guests' orders from now on.
        left = [customer_id for customer_id in customer_ids if customer_id not in customers]
        order_ids = dict.fromkeys(batch.order_ids)
        if left:
            order_ids |= dict.fromkeys(row[0] for row in self._session.rows(statements.ORDERS_OF_CUSTOMERS, left))
        # An order's first provenance record is what makes it known.
        roots = dict.fromkeys(
            int(row.root.removeprefix("order/"))
            for row in batch.provenance
            if row.root is not None and re.fullmatch(r"order/[0-9]+", row.root)
        )
        orders = self._order_states(list(order_ids | roots), list(roots), removed)
        records = self._provenance_states(batch.provenance, removed)
        reads = [
            notice_read_state(notice_id, customer_id, read_at, self._clock.now())
            for notice_id, customer_id, read_at in self._session.rows(statements.READ_NOTICES, batch.notice_row_ids)
        ]
        beats = [beat_of(*row) for row in self._session.rows(statements.HEARTBEAT)] if batch.beat else []
        return [*removed, *customers.values(), *orders, *records, *reads, *(beat for beat in beats if beat is not None)]

    def _customer_states(self, ids: Sequence[int], removed: list[State]) -> dict[int, State]:
        country = self._settings.default_country
        found: dict[int, State] = {
            row[0]: customer_state(row[0], row[1], self._catalog, country)
            for row in self._session.rows(self._customers, ids)
        }
        removed += [Removed(f"customer/{gone}", f"customer/{gone}") for gone in ids if gone not in found]
        return found

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

    def _provenance_states(self, changed: Sequence[ProvenanceRow], removed: list[State]) -> list[State]:
        documents = {
            row[0]: row[1] for row in self._session.rows(statements.PROVENANCE, [row.row_id for row in changed])
        }
        states: list[State] = []
        for row in changed:
            document = documents.get(row.row_id)
            if document is None:
                if row.record_id and row.root:
                    removed.append(Removed(f"provenance/{row.record_id}", row.root))
                else:
                    log.error("a provenance row is gone and its changelog does not say which record", row_id=row.row_id)
                continue
            try:
                record = provenance_state(document)
            except ValidationError:
                record = None
            if record is None:
                log.error("a provenance row names nobody: neither root nor customer nor order", row_id=row.row_id)
                continue
            states.append(record)
        return states

    # Settling

    def settle(self, batch: ChangeBatch) -> None:
        # A crash between two of these reads the rest again and publishes it again.
        with self._session.settling():
            for view, version_ids in batch.version_ids.items():
                self._session.change(statements.settling(view), version_ids)

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
        available = {row[0]: Attribute(*row) for row in self._session.rows(statements.ATTRIBUTES)}
        attributes = []
        for code in self._settings.registered_attributes:
            if code in available:
                attributes.append(available[code])
            else:
                log.warning(
                    "store.registered_attributes names an attribute that customers do not have"
                    + nearest(code, available),
                    attribute=code,
                )
        self._catalog = Catalog(
            website_of_store=dict(tuple(row) for row in self._session.rows(statements.STORES)),
            configuration={(row[0], row[1], row[2]): row[3] for row in self._session.rows(statements.CONFIGURATION)},
            regions={row[0]: (row[1], row[2]) for row in self._session.rows(statements.REGIONS)},
            attributes=tuple(attributes),
        )
        self._customers = statements.customers(attributes)
        self._catalog_read_at = self._clock.now().timestamp()


def open_store(settings: Store, clock: Clock) -> StoreReader:
    """Return the reader for `settings.url`: MariaDB, MySQL, or the demo's SQLite. Raises BadInput for any other."""
    backend = store_url(settings).get_backend_name()
    if backend == "sqlite":
        from bridge.magento.demo_store import DemoSession

        return SqlStore(settings, clock, DemoSession(settings))
    return SqlStore(settings, clock)
