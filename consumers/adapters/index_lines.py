"""How DuckDB reads provenance records from the lines in which they came, and which lines it must not take."""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from bridge.contracts.events import Kind, Sensitivity
from consumers.adapters.index_schema import DERIVED_ROOT, RECORD_COLUMNS, SETS, type_of


def _type_in_line(name: str) -> str:
    kind = RECORD_COLUMNS[name]
    # A list is stored as the text that it is here: to read it as a list and write it again would cost more than all its records'
    # other fields do.
    return "JSON" if name in SETS else "VARCHAR" if kind == "TIMESTAMP" else type_of(kind)


_LINES = "{" + ", ".join(f"{name}: '{_type_in_line(name)}'" for name in RECORD_COLUMNS) + "}"
_INSTANT = (
    "CASE WHEN {0} IS NULL THEN NULL WHEN {0} LIKE '%Z' OR regexp_matches({0}, '[+-][0-9]{{2}}:[0-9]{{2}}$') "
    "THEN {0}::TIMESTAMP ELSE error('{0} has no zone') END AS {0}"
)
ROOT_TO_STORE = f"nullif(root, {DERIVED_ROOT.format('')})"
TO_STORE = ", ".join(
    [
        f"{ROOT_TO_STORE} AS root",
        *(f"to_json(coalesce({name}, []))::VARCHAR AS {name}" for name in SETS),
    ]
)
READ = ", ".join(
    [
        *(_INSTANT.format(name) for name, kind in RECORD_COLUMNS.items() if kind == "TIMESTAMP"),
        "own_root AS root",
        *(f"coalesce({name}::VARCHAR, '[]') AS {name}" for name in SETS),
        "coalesce(faults, []) AS faults",
    ]
)
"""What is stored of a line, see `lines_given`."""


def lines_given(path: str, longest: int) -> str:
    """Return the query for the records in the file at `path`, each with its offset; no line is longer than `longest`."""
    lines = f"read_json('{path}', columns = {_LINES}, format = 'newline_delimited', maximum_object_size = {longest})"
    return f"(SELECT *, {ROOT_TO_STORE} AS own_root FROM (FROM {lines} POSITIONAL JOIN ({_COUNTED})))"


def _one_of(name: str, values: type[StrEnum]) -> str:
    names = ", ".join(f"'{value.value}'" for value in values)
    return f"{name} NOT IN ({names})"


_REQUIRED = (
    "record_id", "root", "entity_type", "entity_id", "attribute", "model_id", "model_version", "generated_at", "kind",
    "sensitivity",
)  # fmt: skip
WRONG = " OR ".join(
    [
        *(f"{name} IS NULL" for name in _REQUIRED),
        # Of all that is asked of a line this is the dearest, and most roots are made of an id anyway.
        "own_root IS NOT NULL AND NOT regexp_full_match(own_root, '(customer|order)/[0-9]+')",
        "own_root IS NULL AND coalesce(customer_id, order_id) < 0",
        *(f"{name} IS NOT NULL AND NOT starts_with({name}::VARCHAR, '[')" for name in SETS),
        _one_of("kind", Kind),
        _one_of("sensitivity", Sensitivity),
    ]
)

_COUNTED = """SELECT unnest(range(first, after)) AS at_offset FROM (
    SELECT unnest(string_split(?, ',')::BIGINT[]) AS first, unnest(string_split(?, ',')::BIGINT[]) AS after)"""
"""Offsets from their runs, see `runs_of`."""


def runs_of(offsets: Sequence[int]) -> tuple[str, str]:
    """Return where numbers that follow each other begin, and what comes after each such run, as lists with commas."""
    gaps = [(last, first) for last, first in pairwise(offsets) if first - last != 1]
    firsts = [offsets[0], *(first for _, first in gaps)]
    afters = [*(last + 1 for last, _ in gaps), offsets[-1] + 1]
    return ",".join(map(str, firsts)), ",".join(map(str, afters))
