"""A session on the store's database: how it is opened, what it is told, and the lead that it may hold.

Everything that the relay reads or deletes goes over one connection, which also holds the lead: when that is gone (a
freeze, a cut, a restart), so is the way to delete anything. Each statement is its own transaction with its own view of
what is committed. Not here: what is read (`bridge.magento.store`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from bridge.magento import statements
from bridge.magento.reader import LeadLost
from bridge.runtime.settings import Store

LOCK_NAME = "tocsin-relay"
LOCK_SESSION_SECONDS = 3
"""A relay that says nothing for so long loses its session, and with it the lock."""
_SPEAKING_ERRORS = frozenset({1044, 1045, 1049, 1054, 1142, 1143, 1146})
"""Access and missing names: MySQL's message for these names accounts, tables and columns, never a row's values."""


class LeadSession:
    """The one connection of a leading relay, on MariaDB or MySQL: GET_LOCK makes it the leader, as long as it lasts.

    Every statement raises LeadLost (or Refused for what only a person can change) and closes the session.
    """

    def __init__(self, settings: Store) -> None:
        self._settings = settings
        self.prefix = checked_prefix(settings.table_prefix)
        self.engine = store_engine(settings)
        self._connection: sa.Connection | None = None

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
            self.resign()
            raise
        if not taken:
            self.resign()
        return taken

    def _lock(self) -> bool:
        prepare_session(self._opened())
        for name in ("wait_timeout", "net_read_timeout", "net_write_timeout"):
            self._opened().exec_driver_sql(f"SET SESSION {name} = {LOCK_SESSION_SECONDS}")
        # One relay a database and table prefix; MySQL takes at most 64 characters.
        name = f"{LOCK_NAME}:{self.engine.url.database}:{self.prefix}"[:64]
        return bool(self._opened().scalar(sa.text("SELECT GET_LOCK(:name, 0)"), {"name": name}) == 1)

    def keep_lead(self) -> None:
        """Show the server that this session lives."""
        self.rows("SELECT 1")

    def resign(self) -> None:
        """Close the session, and with it give up the lead; never raises."""
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

    def change(self, text: str, ids: Sequence[int] = ()) -> int:
        """Run a statement that changes rows; return how many."""
        with self._running():
            return self._opened().exec_driver_sql(statements.filled(text, self.prefix, ids)).rowcount

    def change_with(self, text: str, values: Mapping[str, Any]) -> int:
        """Run a statement with named values; return how many rows it changed."""
        with self._running():
            return self._opened().execute(sa.text(statements.filled(text, self.prefix)), values).rowcount

    def _opened(self) -> sa.Connection:
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


def checked_prefix(prefix: str) -> str:
    """Return Magento's table prefix. Raises BadInput if it could be more than part of a name."""
    if not re.fullmatch(r"[A-Za-z0-9_]{0,32}", prefix):
        raise BadInput(f"store.table_prefix {prefix!r}: letters, digits and _ only, as in Magento's app/etc/env.php")
    return prefix


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
        place = store_url(settings).set(username=None, password=None, query={}).render_as_string()
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
