"""Reading Magento's database: the next changes, the present state of what changed, and settling what was published.

Everything goes over one connection, which also holds the lock that makes this relay the active one: when the lock is gone
(a freeze, a cut, a restart), so is the way to delete anything. Each statement is its own transaction with its own view of
what is committed, so nothing is locked against the shop and no transaction is long. Not here: publishing, sealing.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from pydantic import ValidationError
from sqlalchemy.pool import NullPool

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable, nearest
from bridge.magento import statements
from bridge.magento.catalog import Attribute, Catalog
from bridge.magento.changelogs import ChangeBatch, ProvenanceRow, View, batch_of
from bridge.magento.snapshots import (
    Removed,
    State,
    customer_state,
    notice_read_state,
    order_state,
    provenance_state,
)
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Store

log = structlog.get_logger()

LOCK_NAME = "tocsin-relay"
LOCK_SESSION_SECONDS = 3
"""A relay that says nothing for so long loses its session, and with it the lock."""
CATALOG_SECONDS = 60.0
_SPEAKING_ERRORS = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146})
"""Access and missing names: MySQL's message for these names accounts, tables and columns, never a row's values."""


class LeadLost(Unreachable):
    """This relay is no longer the active one, and may settle nothing more."""


class StoreReader(Protocol):
    """All that the relay asks of a store. One thread at a time."""

    def take_lead(self) -> bool:
        """Become the active reader; return False while another one is. Raises Unreachable."""
        ...

    def keep_lead(self) -> None:
        """Show that this reader lives; at least every second while it leads. Raises LeadLost."""
        ...

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        """Return up to `limit` of the oldest changes of each view, without those of `besides`, which is in flight.

        Raises LeadLost, or Refused when the store is not prepared.
        """
        ...

    def states_of(self, batch: ChangeBatch) -> Sequence[State]:
        """Return the newest committed state of everything that `batch` is about, removals first. Raises LeadLost."""
        ...

    def settle(self, batch: ChangeBatch) -> None:
        """Delete exactly the changelog rows of `batch`. Raises LeadLost; then they will be read again."""
        ...

    def beat(self, relay: str) -> None:
        """Note in the store that `relay` is alive. Raises LeadLost."""
        ...

    def resign(self) -> None:
        """Give up the lead, if held; never raises."""
        ...

    def close(self) -> None: ...


class SqlStore:
    """A store on MariaDB or MySQL."""

    def __init__(self, settings: Store, clock: Clock) -> None:
        self._settings = settings
        self._prefix = checked_prefix(settings.table_prefix)
        self._clock = clock
        self._engine = store_engine(settings)
        self._connection: sa.Connection | None = None
        self._catalog = Catalog()
        self._catalog_read_at: float | None = None
        self._customers = ""

    # Leading

    def take_lead(self) -> bool:
        if self._connection is not None:
            return True
        try:
            with translated(self._settings, Unreachable):
                self._connection = self._engine.connect()
                leads = self._lock()
            if leads:
                self._read_catalog()
                log.info("this relay reads the store now")
                return True
        except TocsinError:
            self.resign()
            raise
        self.resign()
        return False

    def _lock(self) -> bool:
        prepare_session(self._session())
        for name in ("wait_timeout", "net_read_timeout", "net_write_timeout"):
            self._session().exec_driver_sql(f"SET SESSION {name} = {LOCK_SESSION_SECONDS}")
        # One relay a database and table prefix; MySQL takes at most 64 characters.
        name = f"{LOCK_NAME}:{self._engine.url.database}:{self._prefix}"[:64]
        return bool(self._session().scalar(sa.text("SELECT GET_LOCK(:name, 0)"), {"name": name}) == 1)

    def keep_lead(self) -> None:
        self._rows("SELECT 1")

    def resign(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing the session frees its lock; one that is broken has lost it already.
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        self.resign()
        self._engine.dispose()

    # Reading

    def next_batch(self, limit: int, besides: ChangeBatch | None = None) -> ChangeBatch:
        rows: dict[View, Sequence[tuple[int, int]]] = {}
        provenance: list[ProvenanceRow] = []
        full = False
        for view in View:
            in_flight = set(besides.version_ids.get(view, ())) if besides is not None else set()
            read = self._rows(statements.changelog(view), limit=limit + len(in_flight))
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
            customer_ids |= dict.fromkeys(row[0] for row in self._rows(statements.CUSTOMERS_OF_ORDERS, batch.order_ids))
        customers = self._customer_states(list(customer_ids), removed)
        # What a foreign key nulls tells nobody: a deleted customer's orders are guests' orders from now on.
        left = [customer_id for customer_id in customer_ids if customer_id not in customers]
        order_ids = dict.fromkeys(batch.order_ids)
        if left:
            order_ids |= dict.fromkeys(row[0] for row in self._rows(statements.ORDERS_OF_CUSTOMERS, left))
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
            for notice_id, customer_id, read_at in self._rows(statements.READ_NOTICES, batch.notice_row_ids)
        ]
        return [*removed, *customers.values(), *orders, *records, *reads]

    def _customer_states(self, ids: Sequence[int], removed: list[State]) -> dict[int, State]:
        country = self._settings.default_country
        found: dict[int, State] = {
            row[0]: customer_state(row[0], row[1], self._catalog, country) for row in self._rows(self._customers, ids)
        }
        removed += [Removed(f"customer/{gone}", f"customer/{gone}") for gone in ids if gone not in found]
        return found

    def _order_states(self, ids: Sequence[int], roots: Sequence[int], removed: list[State]) -> list[State]:
        country = self._settings.default_country
        found = {row[0]: row[1] for row in self._rows(statements.orders(), ids)}
        # A writer may name the order in the root only, where no index finds it.
        named = [order_id for order_id in roots if order_id in found and found[order_id] is None]
        found |= {row[0]: row[1] for row in self._rows(statements.orders(hold_provenance=True), named)}
        removed += [Removed(f"order/{gone}", f"order/{gone}") for gone in ids if gone not in found]
        return [
            order_state(order_id, document, self._catalog, country)
            for order_id, document in found.items()
            if document is not None
        ]

    def _provenance_states(self, changed: Sequence[ProvenanceRow], removed: list[State]) -> list[State]:
        documents = {row[0]: row[1] for row in self._rows(statements.PROVENANCE, [row.row_id for row in changed])}
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
        for view, version_ids in batch.version_ids.items():
            with self._running():
                text = statements.filled(statements.settling(view), self._prefix, version_ids)
                self._session().exec_driver_sql(text)

    def beat(self, relay: str) -> None:
        values = {"relay": relay[:128], "beat_at": f"{self._clock.now():%Y-%m-%d %H:%M:%S}"}
        with self._running():
            beat = sa.text(statements.filled(statements.BEAT, self._prefix))
            if self._session().execute(beat, values).rowcount == 0:
                self._session().execute(sa.text(statements.filled(statements.ADD_HEARTBEAT, self._prefix)), values)

    # What is the same for many

    def _refresh_catalog(self) -> None:
        read_at = self._catalog_read_at
        if read_at is None or self._clock.now().timestamp() - read_at > CATALOG_SECONDS:
            self._read_catalog()

    def _read_catalog(self) -> None:
        available = {row[0]: Attribute(*row) for row in self._rows(statements.ATTRIBUTES)}
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
            website_of_store=dict(tuple(row) for row in self._rows(statements.STORES)),
            configuration={(row[0], row[1], row[2]): row[3] for row in self._rows(statements.CONFIGURATION)},
            regions={row[0]: (row[1], row[2]) for row in self._rows(statements.REGIONS)},
            attributes=tuple(attributes),
        )
        self._customers = statements.customers(attributes)
        self._catalog_read_at = self._clock.now().timestamp()

    # The connection

    def _session(self) -> sa.Connection:
        if self._connection is None:
            raise LeadLost("this relay does not read the store: it has no connection")
        return self._connection

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            with translated(self._settings, LeadLost):
                yield
        except TocsinError:
            self.resign()
            raise

    def _rows(self, text: str, ids: Sequence[int] | None = None, *, limit: int = 0) -> Sequence[Any]:
        if ids is not None and not ids:
            return ()
        with self._running():
            return self._session().exec_driver_sql(statements.filled(text, self._prefix, ids or (), limit)).all()


def open_store(settings: Store, clock: Clock) -> StoreReader:
    """Return the reader for `settings.url`: MariaDB, MySQL, or the demo's SQLite. Raises BadInput for any other."""
    backend = _url(settings).get_backend_name()
    if backend == "sqlite":
        from bridge.magento.demo_store import DemoStore

        return DemoStore(settings, clock)
    return SqlStore(settings, clock)


def checked_prefix(prefix: str) -> str:
    """Return Magento's table prefix. Raises BadInput if it could be more than part of a name."""
    if not re.fullmatch(r"[A-Za-z0-9_]{0,32}", prefix):
        raise BadInput(f"store.table_prefix {prefix!r}: letters, digits and _ only, as in Magento's app/etc/env.php")
    return prefix


def _url(settings: Store) -> sa.URL:
    try:
        url = sa.make_url(settings.url.get_secret_value())
    except sa.exc.ArgumentError:
        raise BadInput("store.url is no SQLAlchemy URL; it looks like mysql+pymysql://user@host/database") from None
    if url.drivername not in ("mysql+pymysql", "mariadb+pymysql", "sqlite"):
        raise BadInput(f"store.url: cannot read {url.drivername!r}; use mysql+pymysql:// (MariaDB and MySQL)")
    return url


def store_engine(settings: Store) -> sa.Engine:
    """Return an engine for the store: no pool, every statement its own transaction, no values in errors."""
    url = _url(settings)
    if url.get_backend_name() == "sqlite":
        from bridge.magento.demo_store import demo_engine

        return demo_engine(url)
    return sa.create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "read_timeout": 60, "write_timeout": 60},
    )


def prepare_session(connection: sa.Connection) -> None:
    """Set what every session on MariaDB or MySQL needs, and on each of them only what it knows."""
    version = str(connection.scalar(sa.text("SELECT VERSION()")))
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    connection.exec_driver_sql("SET SESSION time_zone = '+00:00'")
    # Magento's own sessions cut over-long strings silently; ours must not.
    connection.exec_driver_sql("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
    if "mariadb" in version.lower():
        # Else IN lists of 1,000 and more become a temporary table: 71 us a row instead of 10.
        connection.exec_driver_sql("SET SESSION in_predicate_conversion_threshold = 0")


@contextmanager
def translated(settings: Store, otherwise: type[TocsinError]) -> Iterator[None]:
    """Turn database errors into ours: Refused for what only a person can change, else `otherwise`. No values in either."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        place = _url(settings).set(username=None, password=None, query={}).render_as_string()
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        text = str(error.orig.args[-1]) if error.orig is not None and error.orig.args else ""
        if code in _SPEAKING_ERRORS or text.startswith(("no such table", "no such column")):
            raise Refused(
                f"store at {place}: {text}; install the Magento module (bin/magento setup:upgrade), check "
                "store.table_prefix, and give the account what `tocsin relay grants` prints"
            ) from None
        shown = code if isinstance(code, int) else type(error.orig).__name__
        raise otherwise(
            f"store at {place}: database error {shown}; check that it runs and store.url is right"
        ) from None
