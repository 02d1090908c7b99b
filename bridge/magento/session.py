"""A session on the store's database: how it is opened, what it is told, and the lead that it may hold.

Everything that the relay reads or deletes goes over one connection, which also holds the lead: when that is gone (a
freeze, a cut, a restart), so is the way to delete anything. Each statement is its own transaction with its own view of
what is committed. Not here: what is read (`bridge.magento.store`).
"""

import codecs
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.pool import NullPool

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from bridge.magento import statements
from bridge.magento.grants import needed_tables, rights_on
from bridge.magento.leads import LEAD_SECONDS, Lead, Lease, NamedLock
from bridge.magento.reader import LeadLost
from bridge.magento.servers import check_tables, prepare_session
from bridge.magento.statements import checked_prefix
from bridge.runtime.mysql import connects_so
from bridge.runtime.settings import Store

log = structlog.get_logger()

_LENIENT = "tocsin-utf8"


def _lenient(name: str) -> codecs.CodecInfo | None:
    def decode(data: Any, _errors: str = "strict") -> tuple[str, int]:
        return codecs.utf_8_decode(data, "replace", True)

    return codecs.CodecInfo(codecs.utf_8_encode, decode, name=_LENIENT) if name.replace("_", "-") == _LENIENT else None


codecs.register(_lenient)

_SPEAKING_ERRORS = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146})
"""Access and missing names: MySQL's message for these names accounts, tables and columns, never a row's values."""

_MEANINGS = {
    1021: "its disk is full",
    1040: "it has too many connections (max_connections); see which clients hold them",
    1053: "it shuts down",
    1114: "a table is full, or its disk",
    1129: "it blocks this host after failed connections; run FLUSH HOSTS there",
    1203: "this account has as many connections as it may (max_user_connections)",
    1205: "a row was locked for longer than innodb_lock_wait_timeout",
    1213: "a deadlock was undone",
    1226: "this account has used up what its resource limits allow",
    1290: "it is read-only",
    1317: "somebody ended the statement",
    1792: "its sessions are read-only (transaction_read_only)",
    1836: "it is read-only",
    1927: "somebody ended the session",
    1969: "the statement took longer than max_statement_time",
    3024: "the statement took longer than max_execution_time",
}
"""What stops a server from answering and is no mistake in `store.url`."""


class LeadSession:
    """The one connection of a leading relay, on MariaDB or MySQL, and its lead: a lock, or on a Galera cluster a lease.

    Every statement raises LeadLost (or Refused for what only a person can change) and closes the session.
    """

    def __init__(self, settings: Store, *, by_lease: bool = False) -> None:
        self._settings = settings
        self.prefix = checked_prefix(settings.table_prefix)
        self.engine = store_engine(settings)
        self.writes_events = self.engine.dialect.name != "sqlite"
        """Whether the server knows the functions of `statements.WRITTEN_PROVENANCE`, and DELETE with a LIMIT."""
        self._by_lease = by_lease
        self._connection: sa.Connection | None = None
        self._warned = False
        self._lead: Lead = NamedLock(self.engine.url.database, self.prefix)

    @property
    def leads(self) -> bool:
        """Whether a lead was taken and not yet given up; the server may have ended it since."""
        return self._connection is not None

    def take_lead(self) -> bool:
        """Open a session and take the lead; return False while another one holds it. Raises Unreachable or Refused."""
        if self.leads:
            return True
        try:
            with translated(self._settings, Unreachable):
                self._connection = self.engine.connect()
                taken = self._lock()
        except TocsinError:
            self._hang_up()
            raise
        if not taken:
            self._hang_up()
        return taken

    def _lock(self) -> bool:
        connection = self._opened()
        server = prepare_session(connection)
        check_tables(connection, self.prefix, needed_tables(by_lease=server.galera or self._by_lease))
        for name in ("wait_timeout", "net_read_timeout", "net_write_timeout"):
            connection.exec_driver_sql(f"SET SESSION {name} = {LEAD_SECONDS}")
        if server.galera or self._by_lease:
            # A leader that froze while settling holds the row until its session ends: look again rather than wait.
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
            holder = f"{socket.gethostname()}:{os.getpid()}"
            self._lead = Lease(self.prefix, holder, on_galera=server.galera)
        taken = self._lead.take(connection)
        if taken:
            log.info("this relay leads", server=str(server), by=type(self._lead).__name__)
            self._warn_of_excess(connection, by_lease=isinstance(self._lead, Lease))
        return taken

    def _warn_of_excess(self, connection: sa.Connection, *, by_lease: bool) -> None:
        rights = rights_on(connection, str(self.engine.url.database), self.prefix, by_lease=by_lease)
        if rights.excess and not self._warned:
            self._warned = True
            log.warning(
                "the store's account may do more than the bridge needs; where the host allows a second account, give it one"
                " with what `tocsin relay grants` prints",
                excess=list(rights.excess),
                may_read_password_hashes=rights.reads_secrets,
            )

    def keep_lead(self) -> None:
        """Show the server that this session lives."""
        self.rows("SELECT 1")

    def catch_up(self) -> None:
        """Before each batch: see at least what a leader before may have seen. Costs nothing but at the first."""
        with self._running():
            self._lead.catch_up(self._opened())

    def resign(self) -> None:
        """Give up the lead and close the session; never raises."""
        if self._connection is not None:
            with suppress(TocsinError, sa.exc.SQLAlchemyError):
                self._lead.release(self._connection)
        self._hang_up()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing the session frees its lock; one that is broken has lost it already.
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        self.resign()
        self.engine.dispose()

    # Statements: `bridge.magento.statements`, filled with this store's prefix

    def rows(self, text: str, ids: Sequence[int] | None = None, *, limit: int = 0) -> Sequence[Any]:
        """Return the rows of a query; none for an empty list of `ids`."""
        if ids is not None and not ids:
            return ()
        with self._running():
            return self._opened().exec_driver_sql(statements.filled(text, self.prefix, ids or (), limit)).all()

    def rows_with(self, text: str, words: Sequence[str]) -> Sequence[Any]:
        """Return the rows of a query with a list of words."""
        return self.rows_bound(text, {"words": list(words)})

    def rows_bound(self, text: str, values: Mapping[str, Any]) -> Sequence[Any]:
        """Return the rows of a query with values by name; a list stands for all of its members."""
        lists: list[sa.BindParameter[Any]] = [
            sa.bindparam(name, expanding=True) for name, value in values.items() if isinstance(value, list)
        ]
        query = sa.text(statements.filled(text, self.prefix)).bindparams(*lists)
        with self._running():
            return self._opened().execute(query, values).all()

    def change(self, text: str) -> int:
        """Run a statement that changes rows; return how many."""
        with self._running():
            return self._opened().exec_driver_sql(statements.filled(text, self.prefix)).rowcount

    def change_with(self, text: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
        """Run a statement with named values, or an INSERT with a list of them; return how many rows it changed."""
        with self._running():
            return self._opened().execute(sa.text(statements.filled(text, self.prefix)), values).rowcount

    @contextmanager
    def settling(self) -> Iterator[None]:
        """What is deleted inside is deleted only while this session leads. Raises LeadLost.

        With a lease all of it or nothing; with a lock each statement by itself.
        """
        with self._running():
            self._lead.begin(self._opened())
        yield
        with self._running():
            self._lead.end(self._opened())

    def _opened(self) -> sa.Connection:
        if self._connection is None:
            raise LeadLost("this relay does not read the store: it has no connection")
        return self._connection

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            with translated(self._settings, LeadLost):
                self._lead.keep(self._opened())
                yield
        except TocsinError:
            # The lead is lost or doubtful: whoever comes next finds it free by itself, within LEAD_SECONDS.
            self._hang_up()
            raise


def store_url(settings: Store) -> sa.URL:
    """Return `store.url`. Raises BadInput for a database that cannot be read."""
    try:
        url = sa.make_url(settings.url.get_secret_value())
    except sa.exc.ArgumentError:
        raise BadInput("store.url is no SQLAlchemy URL; it looks like mysql+pymysql://user@host/database") from None
    if url.drivername not in ("mysql+pymysql", "mariadb+pymysql", "sqlite"):
        raise BadInput(f"store.url: cannot read {url.drivername!r}; use mysql+pymysql:// (MariaDB and MySQL)")
    return url


def store_engine(settings: Store) -> sa.Engine:
    """Return an engine for the store: no pool, every statement its own transaction, no values in errors."""
    url = store_url(settings)
    if url.get_backend_name() == "sqlite":
        from bridge.magento.demo_store import demo_engine

        return demo_engine(url)
    engine = sa.create_engine(
        url.update_query_dict({"charset": "utf8mb4"}),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        # Else the driver takes a % in a statement without parameters for one.
        execution_options={"no_parameters": True},
        connect_args={"connect_timeout": 5, "read_timeout": 60, "write_timeout": 60},
    )
    connects_so(engine)

    @sa.event.listens_for(engine, "connect")
    def _read_anything(connection: Any, _record: object) -> None:
        # MariaDB keeps bytes that are no UTF-8 where a client sent them as binary, and one such name would else end the
        # reading of all. What is put in their place is named as a fault (`bridge.magento.snapshots`).
        connection.encoding = _LENIENT

    return engine


@contextmanager
def translated(settings: Store, otherwise: type[TocsinError]) -> Iterator[None]:
    """Turn database errors into ours: Refused for what only a person can change, else `otherwise`. No values in either."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        place = store_url(settings).set(username=None, password=None, query={}).render_as_string()
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        text = str(error.orig.args[-1]) if error.orig is not None and error.orig.args else ""
        if code in _SPEAKING_ERRORS or text.startswith(("no such table", "no such column")):
            raise Refused(
                f"store at {place}: {text}; install the Magento module (bin/magento setup:upgrade), check "
                "store.table_prefix, and give the account what `tocsin relay grants` prints"
            ) from None
        if code in _MEANINGS:
            raise otherwise(f"store at {place}: database error {code}: {_MEANINGS[code]}") from None
        shown = code if isinstance(code, int) else type(error.orig).__name__
        raise otherwise(
            f"store at {place}: database error {shown}; check that it runs and store.url is right"
        ) from None
