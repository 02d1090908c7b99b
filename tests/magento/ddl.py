"""Compares the tables and triggers of a real store with those that the tests use."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymysql.connections import Connection
from pymysql.cursors import Cursor


@dataclass(frozen=True, slots=True)
class Schema:
    """As much of a database as matters to the bridge, names without Magento's table prefix."""

    columns: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Type and nullability by table and column."""
    keys: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Columns of each index, by table and its columns' names (indexes are named differently here and there)."""
    actions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What a foreign key does on deletion, by table and column."""
    triggers: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Statements of a trigger, by table and event."""


def differences(ours: Schema, theirs: Schema) -> list[str]:
    """Return what differs of `ours` in `theirs`, a line each. What only `theirs` has is no difference."""
    found: list[str] = []
    for what, mine, real in (
        ("column", ours.columns, theirs.columns),
        ("index", ours.keys, theirs.keys),
        ("foreign key", ours.actions, theirs.actions),
    ):
        for (table, name), value in sorted(mine.items()):
            there = real.get((table, name))
            if there is None:
                found.append(f"{what} {table}.{name}: tests have {value!r}, the store has none")
            elif there != value:
                found.append(f"{what} {table}.{name}: tests have {value!r}, the store has {there!r}")
    for (table, event), statements in sorted(ours.triggers.items()):
        there_statements = theirs.triggers.get((table, event), ())
        found += [
            f"trigger on {table} after {event}: the store lacks {statement!r}"
            for statement in statements
            if statement not in there_statements
        ]
        found += [
            f"trigger on {table} after {event}: only the store has {statement!r}"
            for statement in there_statements
            if "`tocsin_" in statement and statement not in statements
        ]
    return found


def read_schema(connection: "Connection[Cursor]", prefix: str, tables: Iterable[str] | None = None) -> Schema:
    """Read the connected database: `tables` (names without `prefix`), or all of it."""
    wanted = None if tables is None else set(tables)

    def known(name: str) -> str | None:
        bare = name.removeprefix(prefix)
        return bare if name.startswith(prefix) and (wanted is None or bare in wanted) else None

    with connection.cursor() as cursor:

        def rows(statement: str) -> list[tuple[str, ...]]:
            cursor.execute(statement)
            return [(known(row[0]) or "", *(str(value) for value in row[1:])) for row in cursor if known(row[0])]

        columns = rows(
            "SELECT table_name, column_name, column_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = DATABASE()"
        )
        keys = rows(
            "SELECT table_name, GROUP_CONCAT(column_name ORDER BY seq_in_index), MIN(non_unique)"
            " FROM information_schema.statistics WHERE table_schema = DATABASE() GROUP BY table_name, index_name"
        )
        actions = rows(
            "SELECT k.table_name, k.column_name, c.delete_rule FROM information_schema.key_column_usage k"
            " JOIN information_schema.referential_constraints c ON c.constraint_schema = k.constraint_schema"
            " AND c.constraint_name = k.constraint_name AND c.table_name = k.table_name"
            " WHERE k.table_schema = DATABASE()"
        )
        triggers = rows(
            "SELECT event_object_table, event_manipulation, action_statement FROM information_schema.triggers"
            " WHERE trigger_schema = DATABASE()"
        )
    return Schema(
        columns={
            (table, name): f"{_kind(kind)} {'NULL' if null == 'YES' else 'NOT NULL'}"
            for table, name, kind, null in columns
        },
        # Where two indexes have the same columns, the unique one counts.
        keys={
            (table, names): "unique" if flag == "0" else "index"
            for table, names, flag in sorted(keys, key=lambda row: row[2], reverse=True)
        },
        actions={(table, name): rule for table, name, rule in actions},
        triggers={(table, event): statements_of(body, prefix) for table, event, body in triggers},
    )


def statements_of(body: str, prefix: str) -> tuple[str, ...]:
    """Return the statements of a trigger's body, one line each as mview writes them, without the changelogs' prefix.

    Sorted: which view's statement comes first is which view Magento met first, and says nothing.
    """
    lines = [" ".join(line.split()) for line in body.splitlines()]
    return tuple(
        sorted(
            line.replace(f"INTO `{prefix}", "INTO `") for line in lines if line and line.upper() not in ("BEGIN", "END")
        )
    )


def _kind(column_type: str) -> str:
    """Return a column's type without the display width that MySQL 8 no longer shows; MariaDB's JSON is a longtext."""
    kind = re.sub(r"^((?:tiny|small|medium|big)?int)\(\d+\)", r"\1", column_type)
    return "json" if kind == "longtext" else kind
