"""Reads provenance history that somebody exported: CSV, newline-delimited JSON, or Parquet, one record a row.

Finds what is wrong with a row before the store is asked, and says it by line; no row's content is kept or logged. Not for
sending anything (`provenance_import`).
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import duckdb

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import Kind, Sensitivity

TEXTS: Mapping[str, tuple[int, bool]] = {
    "attribute": (255, True), "model_id": (128, True), "model_version": (128, True), "run_id": (128, False),
    "dataset_version": (128, False), "source_system": (128, False), "storage_location": (255, False),
    "legal_basis": (64, False),
}  # fmt: skip
"""Longest in characters, and whether it must be there: as the module checks them."""
IDS: Mapping[str, bool] = {"entity_id": True, "customer_id": False, "order_id": False}
LISTS = ("categories", "elements", "input_fields")
FIELDS = (
    "record_id", "root", "entity_type", *IDS, *TEXTS, "generated_at", "deleted_at", "supersedes", "kind", "confidence",
    "sensitivity", *LISTS,
)  # fmt: skip
_RECORD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_ENTITY_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ROOT = re.compile(r"(customer|order)/[1-9][0-9]{0,9}")
_UNFIT = re.compile("[\x00-\x1f\x7f]|[\U00010000-\U0010ffff]")
_GREATEST_ID = 4_294_967_295
_SOON = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One row: its record as the store takes it, or what is wrong with it."""

    line: int
    record: Mapping[str, Any] | None = field(repr=False)
    deleted_at: str | None = None
    """The store is told separately: a record is written first and retired then."""
    faults: tuple[str, ...] = ()
    """`field: what is wrong and what to do`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the columns of a file become the fields of records."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> column, where the names differ."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Field -> value of every row."""
    skipped: frozenset[str] = frozenset()
    zone: tzinfo | None = None
    """Of instants without one; None: they are refused."""


def format_of(path: Path, given: str | None) -> str:
    """Return csv, ndjson or parquet. Raises BadInput for a name that does not say which."""
    known = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".parquet": "parquet"}
    found = given or known.get(path.suffix.lower())
    if found is None:
        raise BadInput(f"{path}: its name does not say what it is; give --format csv, ndjson or parquet")
    return found


def read_history(path: Path, kind: str, reading: Reading, now: datetime, *, after: int = 0) -> Iterator[HistoryRow]:
    """Yield the rows of a file behind line `after`. Lines count from 1, a CSV's header included; Parquet has rows.

    Raises BadInput for a file that cannot be read as `kind`, or has columns that nobody knows.
    """
    for field_name in (*reading.columns, *reading.constants):
        if field_name not in FIELDS:
            raise BadInput(f"a record has no field {field_name!r}{nearest(field_name, FIELDS)}")
    rows = {"csv": _csv_rows, "ndjson": _json_rows, "parquet": _parquet_rows}[kind](path)
    by_column = {column: name for name, column in reading.columns.items()}
    for line, row in rows:
        if line <= after:
            continue
        if isinstance(row, str):
            yield HistoryRow(line, None, faults=(row,))
            continue
        named: dict[str, Any] = dict(reading.constants)
        for column, value in row.items():
            name = by_column.get(column, column)
            if column in reading.skipped:
                continue
            if name not in FIELDS or (column in reading.columns and column not in by_column):
                raise BadInput(
                    f"{path}, line {line}: a record has no field {column!r}{nearest(column, FIELDS)}; say what it is with "
                    f"--map FIELD={column}, or leave it out with --skip {column}"
                )
            if not (value is None or value == ""):
                named[name] = value
        yield _checked(line, named, reading.zone, now)


def length_of(path: Path, kind: str) -> int:
    """Return how many lines a file has, or rows if it is Parquet: for showing how far one is."""
    if kind == "parquet":
        with duckdb.connect() as connection:
            try:
                counted = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone()
            except duckdb.Error as error:
                raise BadInput(f"{path}: cannot be read as Parquet ({type(error).__name__})") from None
        return int(counted[0]) if counted else 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) + 1


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header or len(set(header)) != len(header):
                raise BadInput(f"{path}: the first line must name the columns, each once")
            while True:
                line = reader.line_num + 1
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield line, f"row: is no CSV ({error}); quote fields that hold commas or line breaks"
                    continue
                if not values:
                    continue
                if len(values) != len(header):
                    yield (
                        line,
                        f"row: has {len(values)} fields, the header {len(header)}; quote fields that hold commas",
                    )
                    continue
                yield line, dict(zip(header, values, strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError):
                    row = None
                yield line, row if isinstance(row, dict) else "row: is no JSON object; write one record a line"
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    with duckdb.connect() as connection:
        try:
            columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            # An instant with a zone is one of UTC: microseconds say it without another library.
            zoned = [name for name, kind, *_ in columns if kind == "TIMESTAMP WITH TIME ZONE"]
            replaced = ", ".join(f"epoch_us({_name(name)}) AS {_name(name)}" for name in zoned)
            shown = f"* REPLACE ({replaced})" if replaced else "*"
            rows = connection.execute(f"SELECT {shown} FROM read_parquet(?)", [str(path)])  # noqa: S608  names of its own
            line = 0
            while chunk := rows.fetchmany(1000):
                for values in chunk:
                    line += 1
                    row = dict(zip((name for name, *_ in columns), values, strict=True))
                    for name in zoned:
                        if row[name] is not None:
                            row[name] = datetime.fromtimestamp(row[name] / 1_000_000, UTC)
                    yield line, row
        except duckdb.Error as error:
            raise BadInput(f"{path}: cannot be read as Parquet ({type(error).__name__})") from None


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


# One row


class _Row:
    """A row on its way to being a record."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}
        self.faults: list[str] = []

    def refuse(self, name: str, why: str) -> None:
        self.faults.append(f"{name}: {why}")


def _checked(line: int, named: Mapping[str, Any], zone: tzinfo | None, now: datetime) -> HistoryRow:
    row = _Row()
    for name, (longest, needed) in TEXTS.items():
        _text(row, name, named.get(name), longest, needed=needed)
    for name, needed in IDS.items():
        _number(row, name, named.get(name), needed=needed)
    for name in ("record_id", "supersedes"):
        _matching(row, name, named.get(name), _RECORD_ID, "must have 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    _matching(
        row, "root", named.get("root"), _ROOT, "must be customer/<id> or order/<id>; leave it out to have it filled"
    )
    kinds = "customer, customer_address, order, or a name of your own of a-z 0-9 _"
    _matching(row, "entity_type", named.get("entity_type"), _ENTITY_TYPE, f"must be {kinds}", needed=True)
    _member(row, "kind", named.get("kind"), [kind.value for kind in Kind])
    _member(row, "sensitivity", named.get("sensitivity"), [level.value for level in Sensitivity])
    _confidence(row, named.get("confidence"))
    for name in LISTS:
        _words(row, name, named.get(name))
    generated_at = _instant(row, "generated_at", named.get("generated_at"), zone, now, needed=True)
    deleted_at = _instant(row, "deleted_at", named.get("deleted_at"), zone, now)
    if generated_at is not None and deleted_at is not None and deleted_at < generated_at:
        row.refuse("deleted_at", "lies before generated_at")
    if generated_at is not None:
        row.record["generated_at"] = _written(generated_at)
    if row.faults:
        return HistoryRow(line, None, faults=tuple(row.faults))
    return HistoryRow(line, row.record, None if deleted_at is None else _written(deleted_at))


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _text(row: _Row, name: str, value: Any, longest: int, *, needed: bool) -> None:
    if value is None:
        if needed:
            row.refuse(name, "is needed" + ("; write unknown where nobody knows it" if name == "model_version" else ""))
        return
    text = str(value).strip()
    if len(text) > longest:
        row.refuse(name, f"has {len(text)} characters; {longest} are the most")
    elif _UNFIT.search(text):
        row.refuse(name, "holds control characters or such as emoji, which the store cannot keep")
    else:
        row.record[name] = text


def _number(row: _Row, name: str, value: Any, *, needed: bool) -> None:
    if value is None:
        if needed:
            row.refuse(name, "is needed: the id of what was written about")
        return
    text = str(value).strip()
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= _GREATEST_ID:
        row.refuse(name, "is no whole number above 0")
    else:
        row.record[name] = number


def _matching(
    row: _Row, name: str, value: Any, pattern: "re.Pattern[str]", otherwise: str, *, needed: bool = False
) -> None:
    if value is None:
        if needed:
            row.refuse(name, f"is needed; {otherwise}")
        return
    text = str(value).strip()
    if pattern.fullmatch(text) is None:
        row.refuse(name, otherwise)
    else:
        row.record[name] = text


def _member(row: _Row, name: str, value: Any, members: Sequence[str]) -> None:
    text = "" if value is None else str(value).strip().lower()
    if text not in members:
        row.refuse(name, f"must be one of {', '.join(members)}; the same for all rows: --set {name}=...")
    else:
        row.record[name] = text


def _confidence(row: _Row, value: Any) -> None:
    if value is None:
        return
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        number = Decimal(-1)
    if not (number.is_finite() and 0 <= number <= 1):
        row.refuse("confidence", "is no number from 0 to 1")
    else:
        row.record["confidence"] = float(number)


def _words(row: _Row, name: str, value: Any) -> None:
    if value is None:
        return
    words: Any = value
    if isinstance(value, str):
        text = value.strip()
        try:
            words = json.loads(text) if text.startswith("[") else [word.strip() for word in text.split("|")]
        except ValueError:
            words = None
    if not isinstance(words, list) or not all(isinstance(word, str) and 0 < len(word) <= 128 for word in words):
        row.refuse(name, "must be a JSON array of words, or words with | between them")
    elif words:
        row.record[name] = words


def _instant(
    row: _Row, name: str, value: Any, zone: tzinfo | None, now: datetime, *, needed: bool = False
) -> datetime | None:
    if value is None:
        if needed:
            row.refuse(name, "is needed: when the model wrote")
        return None
    at = value if isinstance(value, datetime) else None
    if at is None:
        try:
            at = datetime.fromisoformat(str(value).strip())
        except ValueError:
            row.refuse(name, "is no instant such as 2026-03-01T10:00:00Z")
            return None
    if at.tzinfo is None and zone is None:
        row.refuse(name, "has no time zone; say which one all of the file means: --zone UTC")
        return None
    at = at.replace(tzinfo=zone) if at.tzinfo is None else at
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        row.refuse(name, "lies outside of all calendars")
        return None
    if at > now + _SOON:
        row.refuse(name, "lies in the future")
    elif at.year < 1970:
        row.refuse(name, "lies before 1970")
    else:
        return at
    return None
