"""The provenance index: one DuckDB file per partition of `store-changes`, held by the partition's owner alone.

A file that is lost, foreign, cut off, of another schema or too old is rebuilt from the topics, and the log says so. Contacts
lie here only sealed. Not for deciding what a change or an incident means: that is the stage's work.
"""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import _duckdb
import duckdb
import structlog
from pydantic import ValidationError

from bridge.contracts.errors import Unreachable
from bridge.contracts.scope import Scope
from bridge.runtime.allocation import keep_what_jemalloc_frees
from bridge.runtime.consume import made_anew
from consumers.adapters import index_answers
from consumers.adapters.index_file import DAMAGED, MemoryFile, PartitionFile, quoted
from consumers.adapters.index_reader import PartitionReader
from consumers.adapters.index_rows import in_utc
from consumers.adapters.index_schema import ERASED, READ_TO_END, SCHEMA, TOPIC_ID
from consumers.adapters.scope_sql import stored

log = structlog.get_logger()

SCHEMA_VERSION = 11
"""Raised with every change of the tables; a file of another version is rebuilt."""


_FREED_SECONDS = 30


def keep_what_duckdb_frees() -> bool:
    """Let DuckDB use again what it has freed, see `keep_what_jemalloc_frees`; return whether it knows how."""
    return keep_what_jemalloc_frees(_duckdb.__file__, "duckdb_je_", _FREED_SECONDS)


class _Unusable(Exception):
    """The file cannot serve; the message says why."""


@dataclass(frozen=True, slots=True)
class _Sources:
    """The topics as they are, by logical name."""

    bounds: Mapping[str, tuple[int, int]]
    topic_ids: Mapping[str, str]


class ProvenanceIndex:
    """The files of the partitions that this process owns, under one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        rebuild_after: timedelta = timedelta(days=6),
        takeover_seconds: float = 20.0,
        memory_limit: str = "128MB",
    ) -> None:
        self._directory = directory
        self._rebuild_after = rebuild_after
        self._takeover_seconds = takeover_seconds
        self._memory_limit = memory_limit
        self._files: dict[int, PartitionFile] = {}
        self._connections: dict[int, tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]] = {}
        self._old: dict[int, duckdb.DuckDBPyConnection] = {}
        self._locks: dict[int, int] = {}
        self._serving = threading.Lock()
        self._memory = MemoryFile()

    def open(
        self,
        partition: int,
        *,
        topic: str,
        cluster: str,
        partition_count: int,
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
        topic_ids: Mapping[str, str] | None = None,
    ) -> PartitionFile:
        """Take over a partition's file, or start it from zero where it cannot serve.

        `topic` is the physical name, `bounds` the first and next offset of each logical topic, `topic_ids` their ids, as far as
        the broker tells them. Raises Unreachable if another process still holds the file after the takeover time.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = self._lock(partition)
        try:
            identity = (SCHEMA_VERSION, topic, cluster, partition, partition_count)
            for leftover in self._directory.glob(f"p{partition}.*.partial"):
                leftover.unlink()
            sources = _Sources(bounds, topic_ids or {})
            path, connection, old = self._chosen(identity, sources, now)
            # A crash before leaves a file of a topic that may be made anew unnoticed until the next start.
            for each in sources.topic_ids.items():
                connection.execute("INSERT INTO topic_id VALUES (?, ?) ON CONFLICT DO NOTHING", each)
        except BaseException:
            os.close(descriptor)
            raise
        with self._serving:
            self._locks[partition] = descriptor
            self._connections[partition] = (connection, connection.cursor())
            self._files[partition] = PartitionFile(partition, path, connection, self._memory)
            if old is not None:
                self._old[partition] = old
            return self._files[partition]

    def _chosen(
        self, identity: tuple[int, str, str, int, int], sources: "_Sources", now: datetime
    ) -> tuple[Path, duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection | None]:
        """Return the file to write to, open, and what answers meanwhile if that file is still being rebuilt."""
        partition = identity[3]
        path, beside, marker = self._path(partition), self._beside(partition), self._marker(partition)
        if beside.exists() and not marker.exists():
            # A rebuild that a crash, or another owner, interrupted.
            with contextlib.suppress(_Unusable):
                connection = self._checked(beside, identity, sources, now)
                log.info("the rebuild of an index file goes on", partition=partition)
                return beside, connection, self._answering(path, identity)
        if not path.exists():
            log.info("index file is built from zero", partition=partition, reason="there is none")
            connection = self._created(path, identity, now)
            marker.unlink(missing_ok=True)
            return path, connection, None
        try:
            if marker.exists():
                raise _Unusable("somebody asked for it")
            connection = self._checked(path, identity, sources, now)
            _remove(beside)
            return path, connection, None
        except _Unusable as reason:
            damaged = marker.exists() and marker.read_text(encoding="utf-8") == DAMAGED
            old = None if damaged else self._answering(path, identity)
            log.warning(
                "index file is rebuilt from zero",
                partition=partition,
                reason=str(reason),
                old_file_answers=old is not None,
            )
        target = path if old is None else beside
        # A crash before the next line leaves the request or the unusable file, and the rebuild begins anew; after it, what
        # was built so far.
        connection = self._created(target, identity, now)
        marker.unlink(missing_ok=True)
        return target, connection, old

    def _answering(self, path: Path, identity: tuple[int, str, str, int, int]) -> duckdb.DuckDBPyConnection | None:
        """Return a file that is being replaced, to be read only, if it can still answer for this partition."""
        try:
            connection = duckdb.connect(str(path), read_only=True, config=self._config(path))
        except duckdb.Error:
            return None
        try:
            _check_whole(connection, path)
            found = connection.execute("SELECT topic, cluster, partition, partition_count FROM meta").fetchall()
            reader = PartitionReader(identity[3], path, connection, is_old=True)
            if found == [identity[1:]]:
                index_answers.adapt(connection)
                # Of another schema version: what it cannot be asked, it cannot answer.
                reader.status()
                reader.preview(Scope(model_ids=("-",)))
                return connection
        except (duckdb.Error, ValidationError, _Unusable):
            pass
        connection.close()
        return None

    def is_rebuilding(self, partition: int) -> bool:
        """Return whether an owned partition's file is being built beside the old one, which answers meanwhile."""
        return partition in self._files and self._files[partition].path == self._beside(partition)

    def switch(self, partition: int) -> PartitionFile:
        """Put a rebuilt file in the old one's place, now that it holds as much as the topics."""
        path, beside = self._path(partition), self._beside(partition)
        with self._serving:
            connection, spare = self._connections.pop(partition)
            del self._files[partition]
            spare.close()
            connection.execute("CHECKPOINT")
            connection.close()
            if (old := self._old.pop(partition, None)) is not None:
                old.close()
            # A crash before the replacement leaves the old file and the whole new one, which the next owner goes on with;
            # after it, the new one alone. The old one's log must not be read into the new one.
            if _wal(beside).exists():
                raise Unreachable(f"{beside} could not be written out whole; the next start goes on with it")
            _wal(path).unlink(missing_ok=True)
            beside.replace(path)
            connection = self._connect(path)
            self._connections[partition] = (connection, connection.cursor())
            self._files[partition] = PartitionFile(partition, path, connection, self._memory)
            log.info("a rebuilt index file took the old one's place", partition=partition)
            return self._files[partition]

    def close(self, partition: int | None = None) -> None:
        """Give up one partition, or all. Waits for readers; a later open finds everything committed."""
        with self._serving:
            for each in [partition] if partition is not None else list(self._files):
                if self._files.pop(each, None) is None:
                    continue
                connection, spare = self._connections.pop(each)
                spare.close()
                connection.close()
                if (old := self._old.pop(each, None)) is not None:
                    old.close()
                os.close(self._locks.pop(each))

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[PartitionReader]]:
        """Lend readers of all owned partitions to another thread; a partition is not given up meanwhile."""
        with self._serving:
            readers = [
                self._reader_of_old(each)
                if each in self._old
                else PartitionReader(each, self._files[each].path, spare.cursor())
                for each, (_, spare) in sorted(self._connections.items())
            ]
            try:
                yield readers
            finally:
                for reader in readers:
                    reader.close()

    def _reader_of_old(self, partition: int) -> PartitionReader:
        connection = self._old[partition].cursor()
        index_answers.adapt(connection)
        return PartitionReader(partition, self._path(partition), connection, is_old=True)

    def ask_rebuild(self, partition: int) -> None:
        """Ask the owner, whoever it is, to rebuild a partition's file from the topics."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._marker(partition).touch()

    def rebuild_asked(self, partition: int) -> bool:
        """Return whether somebody asked for a rebuild of an owned partition."""
        return self._marker(partition).exists()

    def _path(self, partition: int) -> Path:
        return self._directory / f"p{partition}.duckdb"

    def _beside(self, partition: int) -> Path:
        return self._directory / f"p{partition}.next.duckdb"

    def _marker(self, partition: int) -> Path:
        return self._directory / f"p{partition}.rebuild"

    def _lock(self, partition: int) -> int:
        descriptor = os.open(self._directory / f"p{partition}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + self._takeover_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                os.close(descriptor)
                raise Unreachable(
                    f"process {holder} still holds the index file of partition {partition} after "
                    f"{self._takeover_seconds:.0f} s; end it if it hangs"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor

    def _config(self, path: Path) -> dict[str, str | bool | int | float | list[str]]:
        return {
            # A second thread would take as much CPU again to write what one reads, and leave gaps in the file.
            "threads": 1,
            "memory_limit": self._memory_limit,
            "temp_directory": str(path.with_suffix(".spill")),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }

    def _connect(self, path: Path) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(path), config=self._config(path))
        connection.execute("SET wal_autocheckpoint = '16MB'")
        # What is read as JSON is read once.
        connection.execute("SET enable_external_file_cache = false")
        return connection

    def _created(
        self, path: Path, identity: tuple[int, str, str, int, int], now: datetime
    ) -> duckdb.DuckDBPyConnection:
        _remove(path)
        connection = self._connect(path)
        # A crash before the commit leaves a file without a meta row: unusable, so built again.
        connection.begin()
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?, ?, ?, ?, NULL)", [*identity, stored(now)])
        connection.commit()
        return connection

    def _checked(
        self,
        path: Path,
        identity: tuple[int, str, str, int, int],
        sources: "_Sources",
        now: datetime,
    ) -> duckdb.DuckDBPyConnection:
        try:
            connection = self._connect(path)
        except duckdb.Error as error:
            if "lock" in str(error).lower():
                raise Unreachable(f"another program has {path} open; close it: the owner works alone") from error
            raise _Unusable(f"it cannot be opened: {error}") from error
        try:
            self._check(connection, path, identity, sources, now)
            connection.execute(ERASED)
            connection.execute(TOPIC_ID)
            connection.execute(READ_TO_END)
            _compare_ids(connection, identity[3], sources)
        except duckdb.Error as error:
            connection.close()
            raise _Unusable(f"it cannot be read: {error}") from error
        except _Unusable:
            connection.close()
            raise
        return connection

    def _check(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        identity: tuple[int, str, str, int, int],
        sources: "_Sources",
        now: datetime,
    ) -> None:
        _check_whole(connection, path)
        found = connection.execute("SELECT * FROM meta").fetchall()
        if len(found) != 1:
            raise _Unusable("it was never finished")
        *was, head_at, _ = found[0]
        if tuple(was) != identity:
            raise _Unusable(f"it belongs to {tuple(was)}, not to {identity} (schema, topic, cluster, partition, of)")
        if now - in_utc(head_at) > self._rebuild_after:
            raise _Unusable(
                f"it was last complete at {in_utc(head_at):%Y-%m-%d %H:%M}; tombstones may be compacted away"
            )
        for topic, offset in connection.execute("SELECT topic, next_offset FROM position").fetchall():
            low, high = sources.bounds.get(topic, (0, offset))
            if not low <= offset <= high:
                raise _Unusable(f"its position {offset} of {topic} lies outside of the topic's {low}..{high}")


def _compare_ids(connection: duckdb.DuckDBPyConnection, partition: int, sources: _Sources) -> None:
    were = dict(connection.execute("SELECT topic, topic_id FROM topic_id").fetchall())
    anew = [topic for topic, topic_id in were.items() if sources.topic_ids.get(topic, topic_id) != topic_id]
    for topic, offset in connection.execute("SELECT topic, next_offset FROM position").fetchall():
        if topic in anew:
            made_anew(topic, partition, offset)
    if anew:
        raise _Unusable(f"{', '.join(anew)} was deleted and made anew")


def _check_whole(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    # DuckDB opens a file whose end is missing and fails only when it comes to the missing block. Of blocks that are free at
    # the end it may give back the room, and counts them all the same.
    size, blocks = connection.execute("SELECT block_size, total_blocks FROM pragma_database_size()").fetchall()[0]
    if path.stat().st_size < size * blocks and path.stat().st_size < size * (_last_block(connection) + 1):
        raise _Unusable("its end is missing")


def _last_block(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of the last block that a table's data lies in, from 0."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT temporary").fetchall()
    blocks = " UNION ALL ".join(
        f"SELECT unnest(list_append(additional_block_ids, block_id)) AS block FROM pragma_storage_info({quoted(table)})"
        for (table,) in tables
    )
    found = connection.execute(
        f"SELECT max(block) FROM (SELECT block_id AS block FROM pragma_metadata_info() UNION ALL {blocks})"
    )
    return int(found.fetchall()[0][0] or 0)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _remove(path: Path) -> None:
    # The log first: alone it would be read into the next file of this name.
    for each in (_wal(path), path):
        each.unlink(missing_ok=True)
