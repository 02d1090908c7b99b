"""Opens the case store and brings its schema up to date.

SQLite runs in WAL mode with full durability of each commit; every write transaction begins IMMEDIATE, so that two
processes wait for each other instead of failing half-way. MariaDB and MySQL run READ COMMITTED.
"""

import hashlib
import random
import select
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import OperationalError

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.runtime.mysql import connects_so
from consumers.adapters.case_store.tables import Instant

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is imported where it is used: it takes as long as all else together, and most commands only name this module.

T = TypeVar("T")

_encoded_json = msgspec.json.Encoder().encode


def case_store_url(url: str) -> sa.URL:
    """Return the setting `case_store.url` as read. Raises BadInput, which does not show it: it may hold a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise BadInput(
            "case_store.url: no SQLAlchemy URL; it looks like sqlite:///data/case.db or mysql+pymysql://user@host/database"
        ) from None
    if parsed.drivername not in ("sqlite", "mysql+pymysql", "mariadb+pymysql"):
        raise BadInput(f"case_store.url: {parsed.drivername} is not supported; use sqlite or mysql+pymysql")
    return parsed


class CaseDatabase:
    """The engine, and the two ways to use it: `read()` and `write()`."""

    def __init__(self, url: str) -> None:
        parsed = case_store_url(url)
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if self._sqlite:
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(parsed, connect_args={"timeout": 60}, pool_size=5, hide_parameters=True)
            sa.event.listen(self.engine, "connect", _configure_sqlite)
            self._reader = self.engine
        else:
            self.engine = sa.create_engine(
                parsed,
                isolation_level="READ COMMITTED",
                pool_recycle=600,
                pool_size=5,
                hide_parameters=True,  # of a failed statement: an exception may be logged
            )
            # What is only read begins no transaction, which costs another round trip to end.
            self._reader = sa.create_engine(
                parsed,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
                pool_recycle=600,
                pool_size=5,
                hide_parameters=True,
            )
            for engine in (self.engine, self._reader):
                connects_so(engine)
                sa.event.listen(engine, "connect", _configure_server_session)
                sa.event.listen(engine, "checkin", _note_use)
                sa.event.listen(engine, "checkout", _ask_if_doubtful)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading: what is committed when each statement begins. Raises Unreachable when the database does not
        answer.
        """
        with self._answering(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection that reads what was committed when it first read, however long it lasts and whatever is written
        meanwhile. Raises Unreachable when the database does not answer.
        """
        with self._answering(), self.engine.connect() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield connection
                finally:
                    connection.rollback()
            else:
                yield connection.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: committed on return, rolled back whole on any exception.

        A crash inside leaves nothing of it; a crash after it leaves all of it.
        """
        with self._answering(), self.engine.connect() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def writing(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction, again from its start when the server chose it as a deadlock's victim."""
        for remaining in range(9, -1, -1):
            try:
                with self.write() as connection:
                    return work(connection)
            except OperationalError as error:
                if remaining == 0 or not _is_deadlock(error):
                    raise
                # longer each time and never alike: two that met must not meet again
                time.sleep(random.uniform(0.005, 0.02) * (10 - remaining))  # noqa: S311  no secret
        raise AssertionError("unreachable")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if error.connection_invalidated or _is_absent(error):
                raise Unreachable(
                    "the case store does not answer; check case_store.url and that the server runs"
                ) from error
            raise

    def close(self) -> None:
        self.engine.dispose()
        self._reader.dispose()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite's own transaction handling would begin DEFERRED; write() begins explicitly
    connection.isolation_level = None
    for pragma in ("busy_timeout=60000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


_IDLE_IN_TRANSACTION_SECONDS = 120


_LONGEST_TEXT = 16 * 1024 * 1024


def _configure_server_session(connection: Any, _record: Any) -> None:
    """Let the server end the transaction of a process that froze in it, or whose host lost power: its locks would keep
    everybody's attempts from moving for hours. MySQL has no such bound; its `wait_timeout` is the administrator's.

    Servers cut what GROUP_CONCAT returns at a megabyte or a kilobyte by default; see `drawing`.
    """
    # of hundreds of values in one IN list servers would guess how many rows each has, and of a table that is just being filled
    # they guess all of them
    settings = f"SESSION group_concat_max_len = {_LONGEST_TEXT}, SESSION eq_range_index_dive_limit = 0"
    if "MariaDB" in connection.get_server_info():
        settings += f", SESSION idle_transaction_timeout = {_IDLE_IN_TRANSACTION_SECONDS}"
    with connection.cursor() as cursor:
        cursor.execute(f"SET {settings}")


_SURELY_THERE_SECONDS = 1.0
"""So long after its last use a connection is taken to stand, unless something has come on it that nobody asked for, as its end
does: to ask the server each time cost delivery a round trip for every other one.
"""
_USED_AT = "used_at"


def _note_use(_connection: Any, record: Any) -> None:
    record.info[_USED_AT] = time.monotonic()


def _ask_if_doubtful(connection: Any, record: Any, _proxy: Any) -> None:
    """Have a connection replaced, and with it all others, if its server has gone meanwhile."""
    used_at = record.info.get(_USED_AT)
    if used_at is None or (time.monotonic() - used_at < _SURELY_THERE_SECONDS and not _something_came(connection)):
        return
    try:
        connection.ping(reconnect=False)
    except connection.Error as error:
        raise sa.exc.InvalidatePoolError("the server has closed this connection") from error


def _something_came(connection: Any) -> bool:
    poll = select.poll()
    # the driver has no name for it that others may use
    poll.register(connection._sock, select.POLLIN)
    return bool(poll.poll(0))


def _write_ahead(connection: Any) -> None:
    """Set the journal mode, which the file keeps. Raises sqlite3.OperationalError if somebody holds it for a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Of processes that start together and all change the mode, SQLite refuses some at once, whatever the timeout.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


_THERE_ALREADY = (1050, 1060, 1061)
"""Table, column or index of that name exists."""


def _code(error: OperationalError) -> object:
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


def _is_deadlock(error: OperationalError) -> bool:
    return _code(error) in (1213, 1205)


def _is_absent(error: OperationalError) -> bool:
    return _code(error) in (2002, 2003, 2006, 2013)


def _config(connection: sa.Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def migrate(database: CaseDatabase) -> None:
    """Bring the schema to the newest version. Safe to call by every process at start: the first one does the work.

    On SQLite a crash inside leaves nothing of it. MariaDB and MySQL commit each table by itself: what a crash leaves
    there is refused by name at the next start. Raises Refused, or Unreachable when another process takes too long.
    """
    with database.read() as connection:
        if _current(connection) == newest_revision():
            return
    with database.write() as connection, _alone(connection):
        before = _current(connection)
        if before == newest_revision():
            return
        from alembic import command

        try:
            command.upgrade(_config(connection), "head")
        except OperationalError as error:
            if _code(error) not in _THERE_ALREADY:
                raise
            advice = "empty it and start again: nothing was stored yet" if before is None else "restore its backup"
            raise Refused(
                f"the case store holds part of a migration after {before or 'nothing'} that was interrupted; {advice}"
            ) from error


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Keep other migrating processes out. SQLite's write transaction does so already; elsewhere DDL ends a transaction."""
    if connection.dialect.name == "sqlite":
        yield
        return
    # The lock's name holds for the whole server and for at most 64 characters. (MySQL from 9.6 has no SHA1 of its own.)
    name = str(connection.execute(sa.text("SELECT DATABASE()")).scalar_one())
    lock = f"tocsin.migrate.{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()}"
    if connection.execute(sa.text("SELECT GET_LOCK(:name, 120)"), {"name": lock}).scalar() != 1:
        raise Unreachable("another process has been migrating the case store for two minutes; look what it waits for")
    try:
        yield
    finally:
        connection.execute(sa.text("DO RELEASE_LOCK(:name)"), {"name": lock})


_MIGRATIONS = Path(__file__).parent / "migrations"


def newest_revision() -> str:
    """Return the head of the migration history: the files are numbered by their revisions. Asked at every start, so that
    Alembic, which runs them all to know, is asked only where there is something to migrate.
    """
    return max(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def heads() -> Sequence[str]:
    """Return the heads of the migration history as Alembic reads it; there must be exactly one, the newest revision."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_heads()


def _current(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return version


IN_LIST = 500
"""Values in one IN list: from 1,000 on MariaDB makes a join of it, which costs seven times as much."""


def in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield `items` in parts that go into one IN list each."""
    for start in range(0, len(items), IN_LIST):
        yield items[start : start + IN_LIST]


def byte_order(connection: sa.Connection, column: "sa.Column[Any]") -> "sa.ColumnElement[Any]":
    """Return what to order by for the order that Python gives to texts: a server's collation may be another."""
    return column if connection.dialect.name == "sqlite" else sa.cast(column, sa.LargeBinary)


def upsert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, update: Sequence[str] = ()
) -> None:
    """Insert `rows`; where the primary key is there already, set the `update` columns, or leave the row as it is.

    `update` empty makes a repeat harmless: what is read twice from a topic is stored once.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        sqlite_statement = sqlite.insert(table)
        keys = [column.name for column in table.primary_key]
        if update:
            sqlite_statement = sqlite_statement.on_conflict_do_update(
                index_elements=keys, set_={name: sqlite_statement.excluded[name] for name in update}
            )
        else:
            sqlite_statement = sqlite_statement.on_conflict_do_nothing()
        connection.execute(sqlite_statement, [dict(row) for row in rows])
    else:
        statement = mysql.insert(table)
        if update:
            statement = statement.on_duplicate_key_update({name: statement.inserted[name] for name in update})
        else:
            # a no-op update, not INSERT IGNORE: that would also swallow over-long and null values
            key = next(iter(table.primary_key)).name
            statement = statement.on_duplicate_key_update({key: table.c[key]})
        connection.execute(statement, [dict(row) for row in rows])


_ROWS_AT_ONCE = 500
_LONGEST_STATEMENT = 2 * 1024 * 1024
"""Characters of its rows; a quarter of what servers take at least by default, in UTF-8."""
AS_IT_STANDS = {"no_parameters": True}
"""Or a percent sign in a value would be taken for the place of another."""


def update_many(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    each: Sequence[str],
    alike: Mapping[str, Any] | None = None,
) -> None:
    """Set the columns `each` as every row says, and `alike` to one value, in rows that the caller has locked.

    One statement for hundreds of rows. MariaDB and MySQL take that only as an insert whose keys are there already, so a row
    that is not there would be made: hence the lock.
    """
    if not rows:
        return
    same = dict(alike or {})
    (key,) = (column.name for column in table.primary_key)
    if connection.dialect.name == "sqlite":
        connection.execute(
            sa.update(table)
            .where(table.c[key] == sa.bindparam("b_key"))
            .values({name: sa.bindparam(f"b_{name}") for name in each} | same),
            [{"b_key": row[key]} | {f"b_{name}": row[name] for name in each} for row in rows],
        )
        return
    # columns that may not be null must be named, with any value: it is never stored
    unused = [column for column in table.columns if not column.nullable and column.name not in (key, *each)]
    names = ", ".join(f"`{name}`" for name in (key, *each, *(column.name for column in unused)))
    anything = ["'1970-01-01'" if isinstance(column.type, Instant) else "0" for column in unused]
    alike_text = literals_of(connection, [_bound(connection, table, name, value) for name, value in same.items()])
    changes = [f"`{name}` = VALUES(`{name}`)" for name in each]
    changes += [f"`{name}` = {text}" for name, text in zip(same, alike_text, strict=True)]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        every = _literals(connection, table, (key, *each), rows[start : start + _ROWS_AT_ONCE], anything)
        text = f"INSERT INTO `{table.name}` ({names}) VALUES {', '.join(every)} ON DUPLICATE KEY UPDATE {', '.join(changes)}"  # noqa: S608  literals
        connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def update_joined(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    each: Sequence[str],
    alike: Mapping[str, Any],
    where: str,
    same: Sequence[str],
) -> int:
    """Set the columns `each` as every row says, and `alike` to one value, in those rows of which this SQL is true and whose
    columns `same` are as the row says. Return of how many rows that held. MariaDB only; half the work of `update_many`.
    """
    (key,) = (column.name for column in table.primary_key)
    names = (key, *each, *same)
    literals = literals_of(connection, [_bound(connection, table, name, value) for name, value in alike.items()])
    changes = [f"`{table.name}`.`{name}` = `changed`.`{name}`" for name in each]
    changes += [f"`{table.name}`.`{name}` = {text}" for name, text in zip(alike, literals, strict=True)]
    held = " AND ".join(f"`{table.name}`.`{name}` = `changed`.`{name}`" for name in (key, *same))
    # that nothing is selected of the table first gives the values its columns' types and collations
    head = f"SELECT {', '.join(f'`{name}`' for name in names)} FROM `{table.name}` WHERE FALSE UNION ALL VALUES "  # noqa: S608  our own names
    found = 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        every = _literals(connection, table, names, rows[start : start + _ROWS_AT_ONCE], ())
        source = f"({head}{', '.join(every)}) AS `changed` STRAIGHT_JOIN `{table.name}` ON {held}"
        text = f"UPDATE {source} SET {', '.join(changes)} WHERE {where}"  # noqa: S608  literals
        found += connection.exec_driver_sql(text, execution_options=AS_IT_STANDS).rowcount
    return found


def insert_many(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    leave_known: bool = False,
    update: Sequence[str] = (),
) -> None:
    """Insert rows that all have the same columns, hundreds in a statement; `leave_known` leaves those as they are whose
    primary key is there already, `update` sets these columns of them.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        if update:
            upsert(connection, table, rows, update=update)
            return
        statement = sqlite.insert(table).on_conflict_do_nothing() if leave_known else sa.insert(table)
        connection.execute(statement, [dict(row) for row in rows])
        return
    names, key = tuple(rows[0]), next(iter(table.primary_key)).name
    quoted = ", ".join(f"`{name}`" for name in names)
    # not INSERT IGNORE: that would also swallow over-long and null values
    changes = [f"`{name}` = VALUES(`{name}`)" for name in update]
    if leave_known and not changes:
        changes = [f"`{key}` = `{table.name}`.`{key}`"]
    end = f" ON DUPLICATE KEY UPDATE {', '.join(changes)}" if changes else ""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        every = _literals(connection, table, names, rows[start : start + _ROWS_AT_ONCE], ())
        for some in _of_bounded_length(every):
            text = f"INSERT INTO `{table.name}` ({quoted}) VALUES {', '.join(some)}{end}"  # noqa: S608  literals
            connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def _of_bounded_length(rows: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield rows in parts that a server takes as one statement: of some people there are thousands of records to name."""
    start = length = 0
    for place, row in enumerate(rows):
        if length and length + len(row) > _LONGEST_STATEMENT:
            yield rows[start:place]
            start, length = place, 0
        length += len(row)
    yield rows[start:]


def update_alike(
    connection: sa.Connection, table: sa.Table, ids: Sequence[str], values: Mapping[str, Any], where: str = ""
) -> None:
    """Set the same `values`, none of them JSON, in all rows whose primary key is one of `ids`; `where`: and of which this SQL is
    true.

    As text, without SQLAlchemy's compiling of each id: that took longer than the server's work.
    """
    (key,) = (column.name for column in table.primary_key)
    row = {name: _bound(connection, table, name, value) for name, value in values.items()}
    literals = literals_of(connection, list(row.values()))
    changes = ", ".join(f"`{name}` = {literal}" for name, literal in zip(row, literals, strict=True))
    also = f" AND {where}" if where else ""
    # MariaDB would parse the JSON of a row's other columns again, which took it as long as the change
    only = "SET STATEMENT check_constraint_checks = OFF FOR " if is_mariadb(connection) else ""
    for some in in_parts(ids):
        every = ", ".join(literals_of(connection, some))
        text = f"{only}UPDATE `{table.name}` SET {changes} WHERE `{key}` IN ({every}){also}"  # noqa: S608  literals
        connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def is_mariadb(connection: sa.Connection) -> bool:
    """Say whether the server is MariaDB, and neither MySQL nor SQLite."""
    return bool(getattr(connection.dialect, "is_mariadb", False))


def literals_of(connection: sa.Connection, values: Sequence[Any]) -> list[str]:
    """Return values as SQL literals, escaped by the driver unless there is nothing in them that any mode would escape."""
    if connection.dialect.name == "sqlite":
        return [_sqlite_literal(value) for value in values]
    if set(map(type, values)) == {str} and _is_plain("".join(values)):
        # asked of all at once
        return [f"'{value}'" for value in values]
    escape: Callable[[Any], str] = connection.connection.driver_connection.escape  # type: ignore[union-attr]
    return [
        f"'{value}'" if isinstance(value, Plain) or (isinstance(value, str) and _is_plain(value)) else escape(value)
        for value in values
    ]


def _is_plain(text: str) -> bool:
    return "'" not in text and "\\" not in text and text.isprintable()


class Plain(str):
    """A text without anything that any SQL mode would escape; to look for that in a long one takes longer than to send it."""

    __slots__ = ()


def _sqlite_literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(int(value))
    return "'" + str(value).replace("'", "''") + "'"


def _bound(connection: sa.Connection, table: sa.Table, name: str, value: Any) -> Any:
    process = _processor(connection, table, name)
    return value if process is None else process(value)


def _processor(connection: sa.Connection, table: sa.Table, name: str) -> Callable[[Any], Any] | None:
    return table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect)


def _json_text(value: Any) -> str:
    return _encoded_json(value).decode()


def _literals(
    connection: sa.Connection,
    table: sa.Table,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    more: Sequence[str],
) -> list[str]:
    """Return each row as SQL literals, escaped by the driver. What all of them have alike is escaped once, and so is an
    object that several have in common, if it has to be converted first.
    """
    columns: list[Sequence[str]] = []
    for name in names:
        process = _json_text if isinstance(table.c[name].type, sa.JSON) else _processor(connection, table, name)
        values = [row[name] for row in rows]
        first = values[0]
        if all(value is first or value == first for value in values):
            columns.append(literals_of(connection, [first if process is None else process(first)]) * len(rows))
            continue
        if process is None:
            columns.append(literals_of(connection, values))
            continue
        # the rows hold all of them, so none takes over the id of another
        distinct = {id(value): value for value in values}
        literals = literals_of(connection, [process(each) for each in distinct.values()])
        by_id = dict(zip(distinct, literals, strict=True))
        columns.append([by_id[id(value)] for value in values])
    columns += [[text] * len(rows) for text in more]
    return [f"({', '.join(values)})" for values in zip(*columns, strict=True)]
