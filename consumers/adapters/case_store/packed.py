"""Reads hundreds of rows as one JSON array that the server puts together: what a driver written in Python takes for one row,
it then takes for ten. For the few reads that delivery makes of everybody.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import AS_IT_STANDS, in_parts, literals_of
from consumers.adapters.case_store.tables import Instant

_Decode = Callable[[Any], Any]


class PackedRows:
    """Some columns of the rows of one table, found by the values of one column that is indexed."""

    def __init__(self, table: sa.Table, names: Sequence[str], *, by: str, locked: bool = False) -> None:
        """`locked`: until the transaction ends, as by SELECT ... FOR UPDATE."""
        self._table = table.name
        self._names = tuple(names)
        self._columns = [table.c[name] for name in names]
        self._by = by
        self._locked = locked
        self._decoders = [
            (place, decode) for place, column in enumerate(self._columns) if (decode := _decoder(column)) is not None
        ]

    def named(self, connection: sa.Connection, values: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of `values` as `of` does, each by the names of its columns."""
        for row in self.of(connection, values):
            yield dict(zip(self._names, row, strict=True))

    def of(self, connection: sa.Connection, values: Sequence[str]) -> Iterator[list[Any]]:
        """Yield the rows of `values` in no order, each a list in the order of the names. JSON columns are yielded as text.

        Raises ValueError where a server cuts what it returns.
        """
        is_sqlite = connection.dialect.name == "sqlite"
        every = ", ".join(_expression(column, is_sqlite=is_sqlite) for column in self._columns)
        packed = f"json_group_array(json_array({every}))" if is_sqlite else f"JSON_ARRAYAGG(JSON_ARRAY({every}))"
        head = f"SELECT {packed} FROM `{self._table}` WHERE `{self._by}` IN ("  # noqa: S608  names of our own columns
        tail = ") FOR UPDATE" if self._locked and not is_sqlite else ")"
        for some in in_parts(values):
            text = head + ", ".join(literals_of(connection, some)) + tail
            found = connection.exec_driver_sql(text, execution_options=AS_IT_STANDS).scalar_one()
            rows: list[list[Any]] = [] if found is None else json.loads(found)
            for place, decode in self._decoders:
                for row in rows:
                    if row[place] is not None:
                        row[place] = decode(row[place])
            yield from rows


def _expression(column: sa.Column[Any], *, is_sqlite: bool) -> str:
    name = f"`{column.name}`"
    if isinstance(column.type, sa.LargeBinary):
        # SQLite's HEX(NULL) is empty, not NULL
        return f"CASE WHEN {name} IS NOT NULL THEN HEX({name}) END"
    if isinstance(column.type, sa.JSON) and not is_sqlite:
        # else it is nested, and each server writes it in its own way
        return f"CAST({name} AS CHAR)"
    return name


def _decoder(column: sa.Column[Any]) -> _Decode | None:
    if isinstance(column.type, Instant):
        return _instant
    if isinstance(column.type, sa.LargeBinary):
        return bytes.fromhex
    return None


@lru_cache(maxsize=1024)
def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
