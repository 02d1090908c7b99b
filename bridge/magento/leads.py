"""Who leads: exactly one relay reads and settles a store's changes, by a lock of its session or by a leased row.

GET_LOCK is the plain way: the server frees it with the session, and a deletion over another session is then impossible. A
Galera cluster knows the lock on one node only, so there a row says who leads and until when. Its fencing number grows with
every change of hands, and each settling is one transaction with a renewal on condition of that number: the cluster certifies
both or neither. That a leader of yesterday publishes nothing more is not done here but by Kafka's transactional id.
"""

import time
from typing import Protocol

import sqlalchemy as sa

from bridge.magento import statements
from bridge.magento.reader import LeadLost

LOCK_NAME = "tocsin-relay"
LEAD_SECONDS = 3
"""A relay that says nothing for so long loses the lead: its session, and with it the lock, or its lease."""
_RENEW_SECONDS = 1.0
_NOW_MS = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED)"
_CONFLICTS = frozenset({1205, 1213})
"""Lock wait, deadlock: what loses against a concurrent change of the same row is told so, on a cluster by certification."""


class Lead(Protocol):
    """The lead of one session. Database errors pass through: the session translates them."""

    def take(self, connection: sa.Connection) -> bool:
        """Take it; return False while another one has it."""
        ...

    def keep(self, connection: sa.Connection) -> None:
        """Before any statement: renew what is due. Raises LeadLost."""
        ...

    def begin(self, connection: sa.Connection) -> None:
        """Begin to settle. Raises LeadLost."""
        ...

    def end(self, connection: sa.Connection) -> None:
        """What was settled since `begin` is settled from here on."""
        ...

    def catch_up(self, connection: sa.Connection) -> None:
        """Before the first reading under this lead: wait for all that a leader before may have seen."""
        ...

    def release(self, connection: sa.Connection) -> None:
        """Let the next one lead at once."""
        ...


class NamedLock:
    """GET_LOCK on the one server that the shop writes to; it ends with the session."""

    def __init__(self, database: str | None, prefix: str) -> None:
        # One relay a database and table prefix; MySQL takes at most 64 characters.
        self._name = f"{LOCK_NAME}:{database}:{prefix}"[:64]

    def take(self, connection: sa.Connection) -> bool:
        return bool(connection.scalar(sa.text("SELECT GET_LOCK(:name, 0)"), {"name": self._name}) == 1)

    def keep(self, connection: sa.Connection) -> None:
        pass

    def begin(self, connection: sa.Connection) -> None:
        pass

    def end(self, connection: sa.Connection) -> None:
        pass

    def catch_up(self, connection: sa.Connection) -> None:
        pass

    def release(self, connection: sa.Connection) -> None:
        pass


class Lease:
    """A row of `tocsin_relay_lease`: holder, fencing number, and until when, by the clock of the node that is asked."""

    def __init__(self, prefix: str, holder: str, *, on_galera: bool = True) -> None:
        self._prefix = prefix
        self._holder = holder[:128]
        self._on_galera = on_galera
        self._number: int | None = None
        self._renewed = 0.0
        self._caught_up = False

    def take(self, connection: sa.Connection) -> bool:
        try:
            connection.exec_driver_sql("START TRANSACTION")
            taken = self._run(connection, statements.TAKE_LEASE, holder=self._holder)
            self._number = int(connection.scalar(self._text(statements.LEASE_NUMBER)) or 0)
            connection.exec_driver_sql("COMMIT")
        except sa.exc.DBAPIError as error:
            if error.orig is None or error.orig.args[:1] not in {(code,) for code in _CONFLICTS}:
                raise
            # Another one takes it at this very moment.
            connection.exec_driver_sql("ROLLBACK")
            return False
        if self._number == 0:
            # No row yet, or one that nobody ever took.
            self._run(connection, statements.ADD_LEASE)
            return self.take(connection)
        self._renewed = time.monotonic()
        return taken

    def keep(self, connection: sa.Connection) -> None:
        if time.monotonic() - self._renewed >= _RENEW_SECONDS:
            self._renew(connection)

    def begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("START TRANSACTION")
        self._renew(connection)

    def end(self, connection: sa.Connection) -> None:
        # A crash before this line has settled nothing: what was published is published once more.
        connection.exec_driver_sql("COMMIT")

    def catch_up(self, connection: sa.Connection) -> None:
        if self._caught_up or not self._on_galera:
            return
        # The leader before may have led on another node, whose newest changes have not been applied here yet: what it read
        # there and published must not be followed by something older from here.
        connection.exec_driver_sql("SET SESSION wsrep_sync_wait = 1")
        connection.scalar(self._text(statements.LEASE_NUMBER))
        connection.exec_driver_sql("SET SESSION wsrep_sync_wait = 0")
        self._caught_up = True

    def release(self, connection: sa.Connection) -> None:
        self._run(connection, statements.RELEASE_LEASE, number=self._number)

    def _renew(self, connection: sa.Connection) -> None:
        if not self._run(connection, statements.RENEW_LEASE, number=self._number):
            raise LeadLost("another relay took the lease of this store while this one was silent")
        self._renewed = time.monotonic()

    def _run(self, connection: sa.Connection, text: str, **values: object) -> bool:
        return connection.execute(self._text(text), values).rowcount == 1

    def _text(self, text: str) -> sa.TextClause:
        text = text.replace("{now_ms}", _NOW_MS).replace("{lead_ms}", str(LEAD_SECONDS * 1000))
        return sa.text(statements.filled(text, self._prefix))
