"""Reads hundreds of rows with each row's columns joined to one text, and those that are found by their keys all in one: what a
driver written in Python takes for one value, it then takes for thousands. For the few reads that delivery and planning make of
everybody.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import AS_IT_STANDS, in_parts, is_mariadb, literals_of
from consumers.adapters.case_store.tables import Instant

_BETWEEN, _NULL, _END = "\x1f", "\x1e", "\x1d"
"""Between two columns, for one that is null, and after the last one of a row where rows are joined, too. No JSON holds them as
they stand, and nothing that a shop names.
"""

_Decode = Callable[[Any], Any]


class PackedColumns:
    """Some columns, of one table or several that are joined, which a query selects as one."""

    def __init__(self, columns: Sequence[sa.Column[Any]]) -> None:
        self._columns = columns
        self._names = tuple(column.name for column in columns)
        self._decoders = [
            (place, column.nullable, _decoder(column))
            for place, column in enumerate(columns)
            if column.nullable or _decoder(column) is not _as_it_is
        ]

    def rows(self, connection: sa.Connection, query: "sa.Select[Any]") -> Iterator[dict[str, Any]]:
        """Yield what `query`, which selects nothing yet, finds: each row by the names of its columns, in its order. On a
        server JSON columns are yielded as text.
        """
        if connection.dialect.name != "sqlite":
            every: sa.ColumnElement[str] = sa.literal_column(self.expression(connection))
            rows = self.unpacked(connection.execute(query.add_columns(every)).scalars())
            if rows is not None:
                for row in rows:
                    yield dict(zip(self._names, row, strict=True))
                return
        for found in connection.execute(query.add_columns(*self._columns)):
            yield dict(zip(self._names, found, strict=True))

    def expression(self, connection: sa.Connection) -> str:
        """Return the columns as one, in a server's SQL."""
        return f"CONCAT_WS('{_BETWEEN}', {self._every(connection)})"

    def joined(self, connection: sa.Connection) -> str:
        """Return, in a server's SQL, how many rows there are and the text of all of them, each with an end by which a text that
        the server cut is known.
        """
        return f"COUNT(*), GROUP_CONCAT(CONCAT_WS('{_BETWEEN}', {self._every(connection)}, '{_END}') SEPARATOR '')"

    def apart(self, count: int, joined: str | None) -> list[list[Any]] | None:
        """Return the rows that `joined` found as `unpacked` does; None also where not all of the text is there."""
        *lines, rest = (joined or "").split(_BETWEEN + _END)
        return self.unpacked(lines) if len(lines) == count and not rest else None

    def _every(self, connection: sa.Connection) -> str:
        mariadb = is_mariadb(connection)
        return ", ".join(_expression(column, mariadb=mariadb) for column in self._columns)

    def unpacked(self, lines: Iterable[str]) -> list[list[Any]] | None:
        """Return the rows as lists of the columns' values; None where a value holds what is between two of them."""
        rows: list[list[Any]] = [line.split(_BETWEEN) for line in lines]
        if not set(map(len, rows)) <= {len(self._names)}:
            return None
        for place, nullable, decode in self._decoders:
            if nullable:
                for row in rows:
                    row[place] = None if row[place] == _NULL else decode(row[place])
            else:
                for row in rows:
                    row[place] = decode(row[place])
        return rows


class PackedRows:
    """Some columns of the rows of one table, found by the values of one column that is indexed."""

    def __init__(self, table: sa.Table, names: Sequence[str], *, by: str, locked: bool = False) -> None:
        """`locked`: until the transaction ends, as by SELECT ... FOR UPDATE."""
        self._table = table.name
        self._names = tuple(names)
        self._columns = [table.c[name] for name in names]
        self._packed = PackedColumns(self._columns)
        self._by = by
        self._locked = locked

    def named(self, connection: sa.Connection, values: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of `values` as `of` does, each by the names of its columns."""
        for row in self.of(connection, values):
            yield dict(zip(self._names, row, strict=True))

    def of(self, connection: sa.Connection, values: Sequence[str]) -> Iterator[list[Any]]:
        """Yield the rows of `values` in no order, each a list in the order of the names. JSON columns are yielded as text."""
        is_sqlite = connection.dialect.name == "sqlite"
        tail = ") FOR UPDATE" if self._locked and not is_sqlite else ")"
        for some in in_parts(values):
            listed = ", ".join(literals_of(connection, some))
            where = f" FROM `{self._table}` WHERE `{self._by}` IN ({listed}{tail}"  # names of our own columns
            rows = None
            if not is_sqlite:
                text = f"SELECT {self._packed.joined(connection)}{where}"
                rows = self._packed.apart(*connection.exec_driver_sql(text, execution_options=AS_IT_STANDS).one())
            yield from self._apart(connection, where) if rows is None else rows

    def _apart(self, connection: sa.Connection, where: str) -> Iterator[list[Any]]:
        """Yield rows column by column: on SQLite, and where a value holds what is between two of them."""
        every = ", ".join(f"`{name}`" for name in self._names)
        places = [place for place, column in enumerate(self._columns) if isinstance(column.type, Instant)]
        for found in connection.exec_driver_sql(f"SELECT {every}{where}", execution_options=AS_IT_STANDS):
            row = list(found)
            for place in places:
                at = row[place]
                if at is not None:
                    row[place] = _instant(at) if isinstance(at, str) else at.replace(tzinfo=UTC)
            yield row


def _expression(column: sa.Column[Any], *, mariadb: bool) -> str:
    text = f"`{column.table.name}`.`{column.name}`"
    if isinstance(column.type, sa.LargeBinary):
        text = f"HEX({text})"
    elif isinstance(column.type, sa.JSON) and not mariadb:
        # a type of its own on MySQL
        text = f"CAST({text} AS CHAR)"
    return f"IFNULL({text}, '{_NULL}')" if column.nullable else text


def _decoder(column: sa.Column[Any]) -> _Decode:
    if isinstance(column.type, Instant):
        return _instant
    if isinstance(column.type, sa.LargeBinary):
        return bytes.fromhex
    if isinstance(column.type, (sa.Integer, sa.Boolean)):
        return int
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


@lru_cache(maxsize=1024)
def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
