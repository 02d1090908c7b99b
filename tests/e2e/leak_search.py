"""A search for personal values where they must not be: topics, index, artefacts, case store, logs, metrics, evidence.

It decodes what it reads (base64 in all phases, hexadecimal, JSON and percent escapes, UTF-16, compression, and these
within each other, four deep) and looks in each reading for the values themselves, whatever their case, and for their
unsalted digests. So a needle's forms need not be listed, and a hundred thousand needles cost as much as one.
Not for keyed hashes and ciphertext, which are allowed, and not for mailbox, letters and store, which hold people by design.

How it is fast: of each needle one window of eight bytes is in a set; every reading is seen as integers at its eight
phases, and the set's own C loop compares them. Only where a window fits are bytes compared.
"""

import base64
import contextlib
import fnmatch
import gzip
import hashlib
import io
import json
import re
import shutil
import sqlite3
import stat
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from consumers.demo.shop import make_shop
from consumers.evidence.faults import Malformed
from consumers.evidence.tiles import ENTRIES, decode_bundle, parse_path

Value = tuple[str, str]
"""What it is (`email`, `phone`, `name`, `address`) and the value."""

_MAX_DEPTH = 4
_BLOCK_BYTES = 1 << 20
_READ_BYTES, _OVERLAP_BYTES = 4 << 20, 8 << 10
_MAX_INFLATED_BYTES = 64 << 20
_NEAR_BYTES = 48
"""So close must a first name stand to its last name to be one with it: `"firstname": "...", "lastname": "..."`."""
_KEPT_PER_FORM = 5
"""So many findings of one kind and form are kept of a place; more of the same say nothing new."""


class Unreadable(Exception):
    """A place could not be searched, so that nothing can be said of it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that was written as one: a message, a row, a file. Its parts are searched together, then apart."""

    where: str
    parts: Sequence[tuple[str, bytes]]

    @property
    def content(self) -> bytes:
        return b"\n".join(content for _, content in self.parts)


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to search. `read` may be called once and reads as it goes."""

    name: str
    read: Callable[[], Iterator[Piece]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A personal value where none may be. Names the place and the form, never the value."""

    place: str
    where: str
    what: str
    form: str


# --- what is looked for -----------------------------------------------------------------------------------------------

_KEY_BYTES = 8
_DIGESTS: tuple[tuple[str, Callable[[bytes], Any]], ...] = (
    ("MD5", lambda content: hashlib.md5(content, usedforsecurity=False)),
    ("SHA-1", lambda content: hashlib.sha1(content, usedforsecurity=False)),
    ("SHA-256", hashlib.sha256),
)


@dataclass(frozen=True, slots=True)
class _Needle:
    content: bytes
    value: int
    form: str


class _Table:
    """Needles by one window of eight bytes each: the one that the fewest others have."""

    def __init__(self, needles: Sequence[_Needle]) -> None:
        shared = Counter(key for needle in needles for key, _ in _windows(needle.content))
        self.entries: dict[int, list[tuple[int, _Needle]]] = {}
        for needle in needles:
            key, at = min(_windows(needle.content), key=lambda window: shared[window[0]])
            self.entries.setdefault(key, []).append((at, needle))
        self._keys = set(self.entries)

    def hits(self, content: bytes) -> Iterator[tuple[int, _Needle]]:
        """Yield each needle in `content` with its position."""
        view = memoryview(content)
        for phase in range(_KEY_BYTES):
            usable = (len(content) - phase) // _KEY_BYTES * _KEY_BYTES
            if usable <= 0:
                break
            numbers = view[phase : phase + usable].cast("Q")
            if self._keys.isdisjoint(numbers):
                continue
            for index, number in enumerate(numbers):
                for at, needle in self.entries.get(number, ()):
                    start = phase + index * _KEY_BYTES - at
                    if start >= 0 and content.startswith(needle.content, start):
                        yield start, needle


def _windows(content: bytes) -> list[tuple[int, int]]:
    last = len(content) - _KEY_BYTES
    return [(int.from_bytes(content[at : at + _KEY_BYTES], sys.byteorder), at) for at in {0, last // 2, last}]


_NOT_A_WORD = bytes(byte for byte in range(256) if not chr(byte).isalnum() or byte > 127)


def _squeezed(content: bytes) -> bytes:
    return content.lower().translate(None, _NOT_A_WORD)


class Needles:
    """Everything to look for, made once from all values."""

    def __init__(self, values: Iterable[Value]) -> None:
        """Raise ValueError for a value that is not ASCII or too short to be told from chance."""
        self.values: list[Value] = list(dict.fromkeys(values))
        plain: list[_Needle] = []
        squeezed: list[_Needle] = []
        digests: list[_Needle] = []
        self._first_names: dict[int, bytes] = {}
        self.phones: dict[bytes, int] = {}
        for number, (what, value) in enumerate(self.values):
            if not value.isascii() or len(_squeezed(value.encode())) < _KEY_BYTES:
                raise ValueError(
                    f"value {number} ({what}) is not ASCII or has fewer than {_KEY_BYTES} letters or digits"
                )
            folded = value.strip().lower()
            digested = [("", value), (" of lower case", folded)] if folded != value else [("", value)]
            if what == "phone":
                digits = re.sub(r"\D", "", value)
                digested.append((" without +", digits))
                plain.append(_Needle(digits.encode(), number, "plain"))
                self.phones[digits.encode()] = number
            elif what == "email":
                plain.append(_Needle(folded.encode(), number, "plain"))
            else:
                words = folded.split()
                if what == "name" and len(words) > 1 and len(words[-1]) >= _KEY_BYTES:
                    plain.append(_Needle(words[-1].encode(), number, "first and last name side by side"))
                    self._first_names[number] = words[0].encode()
                else:
                    squeezed.append(_Needle(_squeezed(folded.encode()), number, "plain"))
                    squeezed.append(_Needle(_squeezed(" ".join(words[::-1]).encode()), number, "last word first"))
            for note, text in digested:
                for name, digest in _DIGESTS:
                    digests.append(_Needle(digest(text.encode()).digest(), number, name + note))
        self._plain, self._squeezed, self._digests = _Table(plain), _Table(squeezed), _Table(digests)

    def in_text(self, text: bytes) -> Iterator[tuple[int, str]]:
        """Yield (number of the value, form) of what stands in printable text."""
        lower = text.lower()
        for at, needle in self._plain.hits(lower):
            what, value = self.values[needle.value]
            end = at + len(needle.content)
            if what == "phone":
                before = re.sub(rb"(?<!\d)00$", b"", text[max(0, at - 3) : at])
                if before[-1:].isdigit() or text[end : end + 1].isdigit():
                    continue
                yield needle.value, "plain" if before.endswith(b"+") else "plain without +"
            elif what == "name":
                if self._first_names[needle.value] in lower[max(0, at - _NEAR_BYTES) : end + _NEAR_BYTES]:
                    exact = text.endswith(value.encode(), 0, end)
                    yield needle.value, "plain" if exact else needle.form
            else:
                yield needle.value, "plain" if text.startswith(value.encode(), at) else "case-folded"
        for _, needle in self._squeezed.hits(_squeezed(text)):
            form = needle.form
            if form == "plain" and self.values[needle.value][1].encode() not in text:
                form = "case-folded, or with other separators"
            yield needle.value, form
        for match in _PHONE.finditer(text):
            number = self.phones.get(re.sub(rb"\D", b"", match[0]).removeprefix(b"00"))
            if number is not None:
                yield number, "plain without +" if match[0].isdigit() else "with separators"

    def in_bytes(self, content: bytes) -> Iterator[tuple[int, str]]:
        """Yield (number of the value, form) of the raw digests in binary content."""
        for _, needle in self._digests.hits(content):
            yield needle.value, needle.form


_PHONE = re.compile(rb"\d{1,4}[ ()./-]{1,2}\d[\d ()./-]{4,18}\d")

# --- how a reading is decoded -----------------------------------------------------------------------------------------

_PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]{8,}")
# the last character of big-endian text has its zero before it
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){7,}[\x20-\x7e]?")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{11,}(?:\r?\n[A-Za-z0-9+/_-]+)*")
_HEX = re.compile(rb"[0-9a-fA-F]{16,}")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))")
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_COSMETIC = frozenset({"escaped", "percent"})
"""Decodings that are no other form: what they show may have been seen without them."""


def _unescape(match: re.Match[bytes]) -> bytes:
    wide, narrow, other = match.groups()
    if wide is not None:
        return chr(int(wide, 16)).encode(errors="replace")
    if narrow is not None:
        return bytes([int(narrow, 16)])
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(other, other)


def _base64_readings(text: bytes) -> bytes:
    """Return every run of base64, decoded in each of the four phases that it may have inside something longer."""
    decoded = []
    for match in _BASE64.finditer(text):
        run = match[0].translate(_URLSAFE, b"\r\n")
        for phase in range(4):
            part = run[phase:]
            # "A" is six zero bits: it completes the last group and adds nothing that could be found
            decoded.append(base64.b64decode(part + b"A" * (-len(part) % 4)))
    return b"\x00".join(decoded)


def _hex_readings(text: bytes) -> bytes:
    decoded = []
    for match in _HEX.finditer(text):
        run = match[0]
        for part in (run, run[1:]):
            decoded.append(bytes.fromhex(part[: len(part) // 2 * 2].decode()))
    return b"\x00".join(decoded)


def _inflated(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for match in _COMPRESSED.finditer(content):
        # what only looks like the start of a stream fails
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj(47).decompress(view[match.start() :], _MAX_INFLATED_BYTES)


def _readings(content: bytes) -> Iterator[tuple[tuple[str, ...], bytes, bytes]]:
    """Yield each way to read `content`: how it was decoded, its bytes, and their printable runs."""
    waiting: list[tuple[tuple[str, ...], bytes]] = [((), content)]
    while waiting:
        way, reading = waiting.pop()
        text = b"\n".join(_PRINTABLE.findall(reading))
        yield way, reading, text
        if len(way) == _MAX_DEPTH:
            continue
        if b"\x00" in reading:
            waiting.append(((*way, "UTF-16"), b"\n".join(m[0].replace(b"\0", b"") for m in _WIDE.finditer(reading))))
        waiting.extend(((*way, "compressed"), inflated) for inflated in _inflated(reading))
        waiting.append(((*way, "base64"), _base64_readings(text)))
        waiting.append(((*way, "hex"), _hex_readings(text)))
        waiting.append(((*way, "UUID"), bytes.fromhex(b"".join(_UUID.findall(text)).replace(b"-", b"").decode())))
        lines = text.split(b"\n")
        escaped = b"\n".join(line for line in lines if b"\\" in line)
        waiting.append(((*way, "escaped"), _ESCAPE.sub(_unescape, escaped)))
        percent = b"\n".join(line for line in lines if b"%" in line)
        waiting.append(((*way, "percent"), urllib.parse.unquote_to_bytes(percent)))
        waiting = [(way, reading) for way, reading in waiting if len(reading) >= _KEY_BYTES]


def _found(needles: Needles, content: bytes) -> set[tuple[str, str]]:
    """Return (what, form) of everything in `content`."""
    found = set()
    for way, reading, text in _readings(content):
        hits = set(needles.in_text(text))
        if not reading.isascii():
            hits.update(needles.in_bytes(reading))
        form_of_way = [step for step in way if step not in _COSMETIC]
        for number, form in hits:
            found.add((needles.values[number][0], " > ".join([*form_of_way, form])))
    return found


def search(places: Iterable[Place], values: Iterable[Value]) -> list[Finding]:
    """Return where in `places` one of `values` can be read, sorted; of each place and form the first few only.

    Raises Unreadable when a place cannot be searched.
    """
    needles = Needles(values)
    findings: set[Finding] = set()
    for place in places:
        seen: Counter[tuple[str, str]] = Counter()
        name = _withheld(needles, place.name)
        for block in _blocks(place.read()):
            if not _found(needles, b"\n".join(piece.content for piece in block)):
                continue
            for where, what, form in _located(needles, block):
                seen[what, form] += 1
                if seen[what, form] <= _KEPT_PER_FORM:
                    findings.add(Finding(name, _withheld(needles, where), what, form))
    return sorted(findings)


def _blocks(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    block: list[Piece] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += sum(len(content) for _, content in piece.parts)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _located(needles: Needles, block: Sequence[Piece]) -> Iterator[tuple[str, str, str]]:
    """Yield (where, what, form): the part if the value is in one, else the piece, else the stretch of pieces."""
    any_piece = False
    for piece in block:
        whole = _found(needles, piece.content)
        any_piece = any_piece or bool(whole)
        if not whole or len(piece.parts) == 1:
            yield from ((f"{piece.where} {piece.parts[0][0]}".strip(), what, form) for what, form in whole)
            continue
        for part, content in piece.parts:
            in_part = _found(needles, content)
            whole -= in_part
            yield from ((f"{piece.where} {part}".strip(), what, form) for what, form in in_part)
        yield from ((piece.where, what, form) for what, form in whole)
    if not any_piece:
        stretch = f"{block[0].where} to {block[-1].where}"
        everything = b"\n".join(piece.content for piece in block)
        yield from ((stretch, what, form) for what, form in _found(needles, everything))


def _withheld(needles: Needles, name: str) -> str:
    return "(a name that is itself a personal value)" if _found(needles, name.encode()) else name


# --- places: topics ---------------------------------------------------------------------------------------------------


def topic_places(bootstrap_servers: str, prefix: str = "", timeout_seconds: float = 60) -> list[Place]:
    """Return every topic whose name begins with `prefix`, from its start to its present end, aborted records too.

    Raises Unreadable when reading a topic takes longer than `timeout_seconds`.
    """
    consumer = Consumer(_consumer_settings(bootstrap_servers))
    try:
        topics = consumer.list_topics(timeout=timeout_seconds).topics
    finally:
        consumer.close()
    return [
        Place(
            f"topic {name}",
            partial(_messages, bootstrap_servers, name, tuple(topic.partitions), timeout_seconds),
        )
        for name, topic in sorted(topics.items())
        if name.startswith(prefix)
    ]


def _consumer_settings(bootstrap_servers: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "leak-search",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_uncommitted",
        "fetch.wait.max.ms": 20,
        "log_level": 2,
    }


def _messages(bootstrap_servers: str, topic: str, partitions: Sequence[int], timeout_seconds: float) -> Iterator[Piece]:
    consumer = Consumer(_consumer_settings(bootstrap_servers))
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        unfinished = set(partitions)
        until = time.monotonic() + timeout_seconds
        while unfinished:
            message = consumer.poll(1.0)
            if message is None:
                if time.monotonic() > until:
                    raise Unreadable(f"topic {topic}: no end of partitions {sorted(unfinished)} in {timeout_seconds} s")
                continue
            until = time.monotonic() + timeout_seconds
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise Unreadable(f"topic {topic}: {error.str()}")
                unfinished.discard(message.partition())
                continue
            headers = message.headers() or ()
            listed = headers.items() if isinstance(headers, dict) else headers
            yield Piece(
                f"partition {message.partition()} offset {message.offset()}",
                [
                    ("key", _as_bytes(message.key())),
                    *((f"header {name}", name.encode() + b"=" + _as_bytes(content)) for name, content in listed),
                    ("value", _as_bytes(message.value())),
                ],
            )
    finally:
        consumer.close()


def _as_bytes(content: Any) -> bytes:
    if content is None:
        return b""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return (content if isinstance(content, str) else str(content)).encode(errors="replace")


# --- places: files ----------------------------------------------------------------------------------------------------


def folder_places(folder: Path, exclude: Sequence[str] = (), *, label: str = "") -> list[Place]:
    """Return every file below `folder` as a place: its name, its raw bytes, and what its format hides.

    `exclude` has glob patterns for paths relative to the folder; one that names a folder excludes all below it.
    Databases of running processes are read as copies. What cannot be read as its format says raises Unreadable.
    """
    places = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        names = [relative.as_posix(), *(parent.as_posix() for parent in relative.parents)]
        if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in exclude):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            places.append(Place(f"{label}{relative.as_posix()}", partial(_file, path)))
        elif stat.S_ISDIR(mode):
            places.append(Place(f"{label}{relative.as_posix()}/", partial(_name, path)))
    return places


def _name(path: Path) -> Iterator[Piece]:
    yield Piece("its name", [("", path.name.encode())])


def _file(path: Path) -> Iterator[Piece]:
    yield from _name(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            block, at = b"", 0
            while fresh := file.read(_READ_BYTES):
                block = block[-_OVERLAP_BYTES:] + fresh
                yield Piece(f"raw bytes near {at}", [("", block)])
                at += len(fresh)
    except FileNotFoundError:
        # a temporary file of a running process, gone since the folder was listed
        return
    if head[8:12] == b"DUCK":
        yield from _duckdb_rows(path)
    elif head.startswith(b"SQLite format 3\x00"):
        yield from _sqlite_rows(path)
    elif head.startswith(b"PAR1"):
        yield from _parquet_rows(path)
    elif head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        yield from _archived(path, path.read_bytes(), "")
    else:
        yield from _bundle_entries(path)


def _bundle_entries(path: Path) -> Iterator[Piece]:
    """Yield the entries of an evidence log's bundle, which its path tells."""
    parts = path.parts
    if "tile" not in parts:
        return
    start = len(parts) - 1 - parts[::-1].index("tile")
    try:
        name = parse_path("/".join(parts[start:]))
        if name.level == ENTRIES:
            for number, entry in enumerate(decode_bundle(path.read_bytes(), name)):
                yield Piece(f"entry {number}", [("", entry)])
    except Malformed:
        # no bundle; its raw bytes have been searched
        return


def _rows(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[Piece]:
    for number, row in enumerate(rows):
        yield Piece(
            f"{table} row {number}", [(column, _as_bytes(cell)) for column, cell in zip(columns, row, strict=True)]
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _fetched(cursor: Any) -> Iterator[Sequence[Any]]:
    while rows := cursor.fetchmany(1000):
        yield from rows


def _duckdb_rows(path: Path) -> Iterator[Piece]:
    with tempfile.TemporaryDirectory(prefix="leak-search-") as scratch:
        # a running owner locks the file; the copy of file and WAL is whole as soon as the owner is idle
        for attempt in range(5):
            copy = Path(scratch) / f"{attempt}.duckdb"
            shutil.copyfile(path, copy)
            wal = path.with_name(path.name + ".wal")
            if wal.exists():
                shutil.copyfile(wal, copy.with_name(copy.name + ".wal"))
            try:
                connection = duckdb.connect(str(copy))
                break
            except duckdb.Error as error:
                reason = error
        else:
            raise Unreadable(f"{path.name}: {reason}") from reason
        with connection:
            catalog = connection.execute(
                "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
            ).fetchall()
            names = "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_views() WHERE NOT internal"
            yield from _rows("catalog", ["sql"], connection.execute(names).fetchall())
            for schema, table in catalog:
                cursor = connection.execute(f"SELECT * FROM {_quoted(schema)}.{_quoted(table)}")
                yield from _rows(table, [column[0] for column in cursor.description], _fetched(cursor))


def _parquet_rows(path: Path) -> Iterator[Piece]:
    connection = duckdb.connect(":memory:")
    try:
        with connection:
            cursor = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            yield from _rows("parquet", [column[0] for column in cursor.description], _fetched(cursor))
            cursor = connection.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(path)])
            yield from _rows("metadata", ["key", "value"], _fetched(cursor))
    except duckdb.Error as error:
        raise Unreadable(f"{path.name}: {error}") from error


def _sqlite_rows(path: Path) -> Iterator[Piece]:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = bytes
            # one snapshot, so that a row that moves meanwhile is not missed
            connection.execute("BEGIN")
            tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
            yield from _rows("schema", ["name", "sql"], tables)
            for name, sql in tables:
                if b"VIRTUAL TABLE" in (sql or b"").upper():
                    # its rows stand in its shadow tables, which are listed, too
                    continue
                cursor = connection.execute(f"SELECT * FROM {_quoted(name.decode())}")
                yield from _rows(name.decode(), [column[0] for column in cursor.description], _fetched(cursor))
    except sqlite3.Error as error:
        raise Unreadable(f"{path.name}: {error}") from error


def _archived(path: Path, content: bytes, within: str, depth: int = 0) -> Iterator[Piece]:
    """Yield the members of a zip or tar archive or a compressed file, and of such within it."""
    members: list[tuple[str, bytes]] = []
    try:
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(name, archive.read(name)) for name in archive.namelist()]
        elif tarfile.is_tarfile(io.BytesIO(content)):
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for entry in tar:
                    file = tar.extractfile(entry)
                    members.append((entry.name, file.read() if file else b""))
        elif content.startswith(b"\x1f\x8b"):
            members = [("gzip", gzip.decompress(content))]
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"{path.name}{within}: {error}") from error
    for name, member in members:
        inside = f"{within}!{name}"
        yield Piece(f"member {inside}", [("name", name.encode()), ("content", member)])
        if member[:4] == b"PAR1" or member[8:12] == b"DUCK" or member.startswith(b"SQLite format 3\x00"):
            with tempfile.TemporaryDirectory(prefix="leak-search-") as scratch:
                copy = Path(scratch) / "member"
                copy.write_bytes(member)
                for piece in _file(copy):
                    yield Piece(f"member {inside} {piece.where}", piece.parts)
        elif depth < _MAX_DEPTH:
            yield from _archived(path, member, inside, depth + 1)


# --- places: what running processes show ------------------------------------------------------------------------------


def metrics_places(run_folder: Path, timeout_seconds: float = 10) -> list[Place]:
    """Return the metrics page of every process that has left its address in `run_folder`, which must be running."""
    places = []
    for path in sorted(run_folder.glob("*.metrics.json")):
        address = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        process = path.name.removesuffix(".metrics.json")
        places.append(Place(f"metrics of {process}", partial(_page, address, timeout_seconds)))
    return places


def _page(address: str, timeout_seconds: float) -> Iterator[Piece]:
    try:
        with urllib.request.urlopen(address, timeout=timeout_seconds) as answer:
            lines = answer.read().splitlines()
    except OSError as error:
        raise Unreadable(f"{address}: {error}") from error
    for number, line in enumerate(lines, 1):
        yield Piece(f"line {number}", [("", line)])


# --- the demo ---------------------------------------------------------------------------------------------------------

DEMO_EXCLUDED = ("mailbox", "letters", "store.db", "store.db-*", "monitoring/tsdb")
"""What holds people by design: what was sent to them, and the store itself. And Prometheus' files, which are large and hold
what each process shows, which is searched itself."""


def demo_places(folder: Path, temporary: Path | None = None) -> list[Place]:
    """Return everything that a running demo in `folder` leaves anywhere; its processes' TMPDIR is `temporary`."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return [
        *topic_places(summary["kafka"]),
        *metrics_places(folder / "run"),
        *folder_places(folder, DEMO_EXCLUDED),
        *(folder_places(temporary, label="temporary file ") if temporary else ()),
    ]


def demo_values(folder: Path) -> Iterator[Value]:
    """Yield every personal value of the demo in `folder`, made anew from its seed."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    now = datetime.fromisoformat(summary["now"])
    return make_shop(summary["customers"], summary["seed"], now).personal_values()


def named_in_log(folder: Path) -> tuple[Counter[str], list[str]]:
    """Return how much was looked for in the evidence log that leads to somebody, by what it is, and what was found.

    These are no personal values by themselves, and stand in the case store: ids of staff and customers, what is computed from
    them, providers' ids, reasons; each also as an unsalted digest.
    """
    columns = {
        "provider id": "SELECT provider_message_id FROM attempt WHERE provider_message_id IS NOT NULL "
        "UNION SELECT provider_event_id FROM receipt",
        "attempt id": "SELECT attempt_id FROM attempt",
        "recipient id": "SELECT recipient_id FROM recipient UNION SELECT root FROM affected",
        "reason": "SELECT reason FROM act WHERE reason IS NOT NULL",
        "staff id": "SELECT person FROM act UNION SELECT approved_by FROM notice_bundle",
    }
    wanted: list[tuple[str, str]] = []
    with contextlib.closing(sqlite3.connect(f"{(folder / 'case.db').resolve().as_uri()}?mode=ro", uri=True)) as cases:
        for what, query in columns.items():
            wanted += [(what, value) for (value,) in cases.execute(query)]
    for person_id, person in tomllib.loads((folder / "people.toml").read_text(encoding="utf-8"))["people"].items():
        wanted += [("staff id", person_id), ("staff name", person["name"])]
    entries = [
        entry
        for path in sorted((folder / "evidence/tile/entries").rglob("*"))
        if path.is_file()
        for entry in decode_bundle(path.read_bytes(), parse_path(path.relative_to(folder / "evidence").as_posix()))
    ]
    values: set[str] = set()
    for entry in entries:
        _collect(json.loads(entry), values)
    text = "\n".join(values)
    found = []
    for what, value in dict.fromkeys(wanted):
        digests = {digest(value.encode()).hexdigest() for _, digest in _DIGESTS}
        # a short word may be part of another one; as a value it may not stand there
        if value in values or not digests.isdisjoint(values) or (len(value) >= _KEY_BYTES and value in text):
            found.append(what)
    return Counter(what for what, _ in dict.fromkeys(wanted)), found


def _collect(content: Any, values: set[str]) -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            values.add(name)
            _collect(value, values)
    elif isinstance(content, list):
        for value in content:
            _collect(value, values)
    elif isinstance(content, str):
        values.add(content)


def main(folder: str, answer: str, temporary: str | None = None) -> int:
    """Search the running demo in `folder`; write the places searched and the findings to `answer` as JSON."""
    places = demo_places(Path(folder), Path(temporary) if temporary else None)
    values = list(demo_values(Path(folder)))
    findings = search(places, values)
    # who must be found is, so that an empty answer means something
    in_mailbox = search(folder_places(Path(folder) / "mailbox"), values)
    looked_for, in_log = named_in_log(Path(folder))
    report = {
        "looked_for_in_log": looked_for,
        "in_log": in_log,
        "places": [place.name for place in places],
        "findings": [asdict(finding) for finding in findings],
        "in_mailbox": sorted({finding.what for finding in in_mailbox}),
    }
    Path(answer).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
