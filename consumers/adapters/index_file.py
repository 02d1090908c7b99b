"""One partition's index file as its owner writes it: batches, merges of what came, frozen answers, erasures.

State and position commit in one transaction, so a file is exactly-once by construction.
"""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import (
    CustomerChanged,
    CustomerDeparted,
    OrderChanged,
    ProvenanceRecorded,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.fingerprints import HASH_DIGITS, content_fingerprint
from bridge.contracts.scope import Scope
from consumers.adapters import index_answers
from consumers.adapters.index_lines import READ, TO_STORE, WRONG, lines_given, runs_of
from consumers.adapters.index_reader import PartitionReader
from consumers.adapters.index_rows import mark_of, record_of, watch_of
from consumers.adapters.index_schema import (
    ALTERED,
    DEPARTED_COLUMNS,
    DIFFERS,
    HELD_COLUMNS,
    MARK_COLUMNS,
    PERSON_COLUMNS,
    RECORD,
    RECORD_COLUMNS,
    SETS,
    SETTLED,
    STORED,
    Columns,
    root_told,
)
from consumers.adapters.scope_sql import stored
from consumers.domain.resolution import Found, Member, Person
from consumers.domain.scope_matching import jurisdictions
from consumers.domain.standing import Published
from consumers.domain.untagged import Held

_MERGE_AT = 100_000
"""Records that came since the last merge, before the next one; a larger file waits for as many as it holds."""
_GROUP = 4 * 122_880
"""Records that are written together while many wait: DuckDB writes row groups of 122,880 into the file past its log. What is
left over at the end goes by that way, too, if it is behind a whole one; alone it would be copied and compressed at the commit."""
_MANY = 122_880 // 4
"""Records in one commit from which on smaller row groups are left as they are. DuckDB would put any that lie side by side
together at each checkpoint, up to four into three: while many records come, that wrote all of them twice."""
_GROUP_SECONDS = 20.0
"""How long they wait for each other at most."""
_LONGEST = 262_144
"""Lines of so many bytes are read in any case. DuckDB takes twice that from the kernel at each reading; by itself it takes 32 MB,
which a batch of some thousand lines feels."""
_NO_ROOM = ("No space left", "Could not write", "Disk quota exceeded", "File too large")
"""How DuckDB speaks of a full disk once it has closed the file for it, which is no damage."""
_FROZEN = "root, customer_id, standing, record_ids, residence, event"
"""The columns of a frozen answer."""
_EVENTS_AT_ONCE = 5000
DAMAGED = "damaged"
"""What the request for a rebuild says where the file itself gave cause: then it answers nothing more."""


_SAID_ANEW = """ON CONFLICT (incident_id, revision, root) DO UPDATE SET standing = excluded.standing,
    disclosures = excluded.disclosures, elements = excluded.elements, rank = excluded.rank"""


class MemoryFile:
    """Lines that DuckDB is to read, in a file that lies in memory alone: nothing of them comes to the disk beside the index."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("lines", os.MFD_CLOEXEC)

    def hold(self, chunks: Iterable[bytes]) -> str:
        """Take these lines in the place of those before; return the path to read them from. Raises OSError."""
        size = 0
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                written = os.pwrite(self._descriptor, rest, size)
                size, rest = size + written, rest[written:]
            size += os.pwrite(self._descriptor, b"\n", size)
        os.ftruncate(self._descriptor, size)
        return f"/proc/self/fd/{self._descriptor}"

    def __del__(self) -> None:
        os.close(self._descriptor)


class PartitionFile(PartitionReader):
    """One partition's file, open for its owner's single writing thread."""

    def __init__(self, partition: int, path: Path, connection: duckdb.DuckDBPyConnection, memory: MemoryFile) -> None:
        super().__init__(partition, path, connection)
        self._memory = memory
        self._open_since: float | None = None
        self._waiting = 0
        self._settled = 0
        self._joining: bool | None = None
        # Unknown until it is counted.
        self._came = sys.maxsize
        self._kept_contents: list[ProvenanceRecorded] = []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside durable together, or none of them; what batches left open becomes durable before."""
        self.settle()
        with self.batch():
            yield
        self.settle()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Write a batch with its position, which becomes durable with those that follow: by `settle`.

        A crash before that leaves the file as it was before the first of them: all are read again. So does an error,
        which ends whatever is open.
        """
        with self._watched():
            if self._open_since is None:
                self._connection.begin()
                self._open_since = time.monotonic()
            try:
                yield
            except BaseException:
                self._open_since, self._waiting, self._came = None, 0, sys.maxsize
                with contextlib.suppress(duckdb.Error):
                    self._connection.rollback()
                raise

    def is_open(self) -> bool:
        """Return whether batches left something that is not durable yet."""
        return self._open_since is not None

    def is_due(self) -> bool:
        """Return whether what batches left open should become durable: it is a row group, or some seconds old."""
        return self._open_since is not None and (
            self._waiting >= _GROUP or time.monotonic() - self._open_since >= _GROUP_SECONDS
        )

    def room(self) -> int:
        """Return how many more records make what is open whole row groups, to be settled before the next one."""
        return max(1, _GROUP - self._waiting)

    def settle(self) -> None:
        """Make durable what batches left open."""
        if self._open_since is None:
            return
        with self._watched():
            joining = self._waiting < _MANY
            # A crash or error before this commit leaves the file as it was: the batches are read again.
            self._open_since, self._waiting = None, 0
            try:
                if joining != self._joining:
                    # One joining at a time: it may write three row groups anew, and live changes wait for it.
                    self._connection.execute(f"SET max_vacuum_tasks = {int(joining)}")
                    self._joining = joining
                self._connection.commit()
            except BaseException:
                self._came = sys.maxsize
                raise

    def answer(self, scope: Scope, roots: Iterable[str] | None = None) -> list[Found]:
        """Return everyone that `scope` concerns, see `PartitionReader.answer`."""
        with self._watched():
            return super().answer(scope, roots)

    def find(self, scope: Scope) -> Iterator[Member]:
        """Find everyone that `scope` concerns, for `freeze`, and yield them sorted by root."""
        with self._watched():
            index_answers.answer(self._connection, scope)
        return self._members("answer")

    def _members(self, table: str) -> Iterator[Member]:
        rows = self._connection.execute(f"SELECT root, coalesce(record_ids, []), standing FROM {table} ORDER BY root")
        while chunk := rows.fetchmany(10_000):
            yield from chunk

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            if any(word in str(error) for word in _NO_ROOM):
                # What was committed stays; a start with room again reads the rest anew.
                raise self._unwritable(error) from error
            damaged = isinstance(
                error, duckdb.FatalException | duckdb.InternalException | duckdb.SerializationException
            )
            if not damaged and "corrupt" not in str(error).lower():
                raise
            self.path.with_name(f"p{self.partition}.rebuild").write_text(DAMAGED, encoding="utf-8")
            raise Unreachable(
                f"the index file of partition {self.partition} is damaged and will be rebuilt from zero: {error}"
            ) from error

    def _unwritable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"the index file of partition {self.partition} cannot be written: {error}; see that there is room in "
            f"{self.path.parent}, then start the worker again: it goes on where it was"
        )

    def put_persons(
        self, persons: Sequence[CustomerChanged | OrderChanged], seen_at: Mapping[str, datetime] | None = None
    ) -> None:
        """Store the present state of customers and orders, at most one for each root, and when it was published."""
        seen = {root: _text(at) for root, at in (seen_at or {}).items()}
        rows = [_person_row(each) | {"seen_at": seen.get(each.root)} for each in persons]
        self._upsert("customer", "root", PERSON_COLUMNS, rows)

    def drop_persons(self, roots: Sequence[str]) -> None:
        """Forget customers and orders that the store no longer holds."""
        self._connection.execute("DELETE FROM customer WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def put_departed(self, departed: Sequence[CustomerDeparted]) -> None:
        """Store people who are gone and still owed a notice; at most one for each root."""
        self._upsert("departed", "root", DEPARTED_COLUMNS, [_person_row(each) for each in departed])

    def drop_departed(self, roots: Sequence[str]) -> None:
        """Forget departed people whose time is over."""
        self._connection.execute("DELETE FROM departed WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def append(self, offsets: Sequence[int], lines: Sequence[bytes]) -> list[int]:
        """Store records from their JSON, without making an object of each; return the offsets left out.

        `lines` are chunks of one line or more each, without a break at the end; each line is one object, `offsets` says at
        which offset it came. Left out is what is no record by the model's rules, as far as DuckDB can tell; where it can
        read a batch at all only in part, the whole batch. Fields that the model does not have are passed over: a newer relay
        may send some. Raises Refused if these are not as many lines as offsets.
        """
        if not offsets:
            return []
        try:
            path = self._memory.hold(lines)
        except OSError as error:
            raise self._unwritable(error) from error
        given = lines_given(path, max(_LONGEST, *map(len, lines)))
        runs = runs_of(offsets)
        left_out: list[int] = []
        try:
            taken = self._value(
                f"""INSERT INTO record BY NAME SELECT * EXCLUDE (own_root) REPLACE ({READ}), false AS altered
                FROM {given} WHERE NOT ({WRONG})""",
                *runs,
            )
            if taken < len(offsets):
                left_out = [
                    row["at_offset"] for row in self._rows(f"SELECT at_offset FROM {given} WHERE {WRONG}", *runs)
                ]
        except (duckdb.InvalidInputException, duckdb.DataError):
            # What it says may hold the value itself. There is no way back to before the statement but to the last commit.
            raise BadInput("some of these records cannot be read by the database") from None
        if taken + len(left_out) != len(offsets) or None in left_out:
            raise Refused(f"{len(offsets)} offsets are no {taken + len(left_out)} lines; report this as a fault")
        self._waiting += taken
        self._came += taken
        return left_out

    def roots_since(self, offset: int) -> list[str]:
        """Return the roots of the records that came at `offset` or later and were not merged yet."""
        return [row["root"] for row in self._rows("SELECT DISTINCT root FROM fresh WHERE at_offset >= ?", offset)]

    def put_records(self, records: Sequence[tuple[int, ProvenanceRecorded]]) -> None:
        """Store records as the store holds them now, each with its offset; the last offset of an id holds.

        Append-only: whose content was read in full before and is another now is remembered as altered.
        """
        offsets = [offset for offset, _ in records]
        try:
            refused = self.append(offsets, [record.model_dump_json().encode() for _, record in records])
        except BadInput:
            refused = offsets
        if refused:
            raise Refused(f"records at offsets {refused[:5]} are valid and could not be stored; report this as a fault")

    def keep_records(self, records: Sequence[ProvenanceRecorded]) -> None:
        """Store kept copies of deleted records, unless the store's own word on a record is known."""
        rows = [each.model_dump(mode="json") for each in records]
        for chunk in _chunks(rows):
            self._connection.execute(
                f"""INSERT INTO record BY NAME SELECT * REPLACE ({TO_STORE}), -1 AS at_offset, false AS altered FROM
                (SELECT unnest(from_json(?, '{json.dumps([RECORD_COLUMNS])}'), max_depth := 2))
                WHERE record_id NOT IN (SELECT record_id FROM record)""",
                [json.dumps(chunk)],
            )

    def mark_deleted(self, deleted: Mapping[str, tuple[int, datetime]]) -> list[str]:
        """Set `deleted_at` of records that have none yet; offset and instant of each tombstone by record id.

        Returns the ids that are gone; one that came again behind its tombstone is not.
        """
        rows = [{"record_id": name, "at_offset": offset, "at": _text(at)} for name, (offset, at) in deleted.items()]
        again: set[str] = set()
        for chunk in _chunks(rows):
            self._connection.execute(
                """CREATE OR REPLACE TEMP TABLE gone AS SELECT unnest(from_json(?,
                '[{"record_id": "VARCHAR", "at_offset": "BIGINT", "at": "TIMESTAMP"}]'), max_depth := 2)""",
                [json.dumps(chunk)],
            )
            later = (
                "SELECT gone.record_id FROM gone JOIN fresh USING (record_id) WHERE fresh.at_offset > gone.at_offset"
            )
            again.update(row["record_id"] for row in self._rows(later))
            self._connection.execute(
                f"""UPDATE record SET deleted_at = gone.at FROM gone
                WHERE record.record_id = gone.record_id AND record.deleted_at IS NULL AND gone.record_id NOT IN ({later})"""
            )
            self._connection.execute("DROP TABLE gone")
        return sorted(set(deleted) - again)

    def merge(self, *, least: int | None = None, at: datetime | None = None) -> bool:
        """Settle the records that came, once they are enough (`least`); return whether it did.

        Nothing is copied: of an id that came again the older records are superseded, and all up to the last one are settled.
        What a record said before it was altered becomes a record of its own, deleted at `at`: see `take_kept_contents`.
        """
        if self._came < (max(_MERGE_AT, self._settled) if least is None else least):
            return False
        upto, fresh, settled = self._connection.execute(
            "SELECT (SELECT max(at_offset) + 1 FROM fresh), (SELECT count(*) FROM fresh), (SELECT count(*) FROM settled)"
        ).fetchall()[0]
        self._came, self._settled = fresh, settled
        if not fresh or fresh < (max(_MERGE_AT, settled) if least is None else least):
            return False
        self._connection.execute(
            """CREATE OR REPLACE TEMP TABLE again AS SELECT record_id, max(at_offset) AS newest,
                coalesce(max(at_offset) FILTER (at_offset < (SELECT min(at_offset) FROM fresh)), min(at_offset)) AS earlier
            FROM record WHERE record_id IN (SELECT record_id FROM fresh)
                AND at_offset NOT IN (SELECT at_offset FROM superseded) GROUP BY record_id HAVING count(*) > 1"""
        )
        if self._value("SELECT count(*) FROM again"):
            # As `merged` says it, of those alone that came again: to compare all would cost more than to store them.
            self._connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE changed AS SELECT n.record_id, n.at_offset FROM again
                JOIN record n ON n.record_id = again.record_id AND n.at_offset = again.newest
                JOIN record b ON b.record_id = again.record_id AND b.at_offset = again.earlier
                WHERE b.altered OR ({DIFFERS})"""
            )
            if self._value("SELECT count(*) FROM changed"):
                self._keep_contents(at or datetime.now(UTC))
                self._connection.execute(
                    """UPDATE record SET altered = true FROM changed
                    WHERE record.record_id = changed.record_id AND record.at_offset = changed.at_offset"""
                )
            self._connection.execute("DROP TABLE changed")
            self._connection.execute(
                """DELETE FROM record USING again WHERE record.record_id = again.record_id AND record.at_offset < 0"""
            )
            self._connection.execute(
                """INSERT INTO superseded SELECT at_offset FROM record JOIN again USING (record_id)
                WHERE at_offset < newest AND at_offset NOT IN (SELECT at_offset FROM superseded)"""
            )
            self._clear(settled + fresh)
        self._connection.execute("DROP TABLE again")
        self._connection.execute(SETTLED.format(columns=STORED, upto=upto))
        self._came, self._settled = 0, settled + fresh
        return True

    def _clear(self, records: int) -> None:
        """Delete what is superseded once it is a quarter of all."""
        if 4 * self._value("SELECT count(*) FROM superseded") > max(records, 4 * _MERGE_AT):
            self._connection.execute("DELETE FROM record WHERE at_offset IN (SELECT at_offset FROM superseded)")
            self._connection.execute("DELETE FROM superseded")

    def _keep_contents(self, at: datetime) -> None:
        rows = self._rows(
            f"""SELECT b.* REPLACE ({", ".join(f"{index_answers.listed(f'b.{name}')} AS {name}" for name in SETS)}) FROM (
                SELECT {RECORD} FROM settled WHERE record_id IN (SELECT record_id FROM again)
                UNION ALL SELECT {RECORD} FROM fresh WHERE record_id IN (SELECT record_id FROM again)
            ) b JOIN newest n ON n.record_id = b.record_id WHERE {DIFFERS}"""
        )
        kept: dict[str, ProvenanceRecorded] = {}
        for before in map(record_of, rows):
            name = f"{before.record_id}{ALTERED}{content_fingerprint(before):0{HASH_DIGITS}x}"
            kept[name] = before.model_copy(update={"record_id": name, "deleted_at": before.deleted_at or at})
        self.keep_records(list(kept.values()))
        self._kept_contents.extend(kept.values())

    def take_kept_contents(self) -> list[ProvenanceRecorded]:
        """Return, once, what merging found that altered records had said before: their topic must have it, too."""
        taken, self._kept_contents = self._kept_contents, []
        return taken

    def put_held(self, held: Mapping[tuple[str, str], Held | None]) -> None:
        """Store values as last seen, by root and attribute; None: there is no value any more."""
        rows = [
            {
                "root": root,
                "attribute": attribute,
                "hmac": value and value.hmac,
                "seen_at": value and _text(value.seen_at),
                "record_at": value and value.record_at and _text(value.record_at),
            }
            for (root, attribute), value in held.items()
        ]
        self._upsert("held", "root, attribute", HELD_COLUMNS, rows)
        self._connection.execute("DELETE FROM held WHERE hmac IS NULL")

    def put_marks(self, marks: Sequence[UntaggedWrite]) -> None:
        """Store untagged writes; one with the same root, attribute and time takes the earlier one's place."""
        rows = [each.model_dump(mode="json") for each in marks]
        self._upsert("untagged_write", "root, attribute, seen_at", MARK_COLUMNS, rows)

    def drop_marks(self, keys: Sequence[tuple[str, str, datetime]]) -> None:
        """Forget untagged writes, by root, attribute and when they were seen."""
        for root, attribute, seen_at in keys:
            self._connection.execute(
                "DELETE FROM untagged_write WHERE root = ? AND attribute = ? AND seen_at = ?",
                [root, attribute, stored(seen_at)],
            )

    def put_watch(self, started: Sequence[WatchStarted], *, kept: bool) -> None:
        """Remember since when what is watched; of an attribute the earliest holds. `kept`: the topic has it."""
        for each in started:
            after = each.after and stored(each.after)
            known = self._value(
                "SELECT min(started_at) FROM watch WHERE attribute = ? AND silent_from IS NOT DISTINCT FROM ?::TIMESTAMP",
                each.attribute,
                after,
            )
            if known is None or stored(each.at) < known or (kept and stored(each.at) == known):
                self._connection.execute(
                    "DELETE FROM watch WHERE attribute = ? AND silent_from IS NOT DISTINCT FROM ?::TIMESTAMP",
                    [each.attribute, after],
                )
                row = [each.attribute, stored(each.at), after, kept]
                self._connection.execute("INSERT INTO watch VALUES (?, ?, ?, ?)", row)

    def unkept_watch(self) -> list[WatchStarted]:
        """Return what of it the topic does not have yet."""
        return [watch_of(row) for row in self._rows("SELECT * FROM watch WHERE NOT kept")]

    def watched_attributes(self) -> set[str]:
        """Return the attributes of which it is known since when they are watched."""
        return {row["attribute"] for row in self._rows("SELECT DISTINCT attribute FROM watch")}

    def forget(self, before: datetime) -> tuple[list[tuple[str, str]], list[UntaggedWrite]]:
        """Forget records that were deleted, and untagged values that were replaced, before `before`.

        Returns the records' ids with their roots, and the untagged writes.
        """
        self._connection.execute("UPDATE meta SET kept_since = ?", [stored(before)])
        records = [
            (row["record_id"], row["root"])
            for row in self._rows(
                f"""DELETE FROM record WHERE deleted_at < ? AND record_id NOT IN (SELECT record_id FROM fresh)
                RETURNING record_id, {root_told()} AS root""",
                stored(before),
            )
        ]
        marks = self._rows("DELETE FROM untagged_write WHERE until < ? RETURNING *", stored(before))
        return records, [mark_of(row) for row in marks]

    def put_erased(self, erased: Mapping[str, datetime]) -> None:
        """Remember who was erased, and when; `forget_erased` acts on it, now and whenever their records come again."""
        rows = [{"root": root, "erased_at": _text(at)} for root, at in erased.items()]
        self._upsert("erased", "root", {"root": "VARCHAR", "erased_at": "TIMESTAMP"}, rows)

    def drop_erased(self, roots: Sequence[str]) -> None:
        """Forget who was erased."""
        self._connection.execute("DELETE FROM erased WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def erased_before(self, before: datetime) -> list[str]:
        """Return who was erased before `before`."""
        return [row["root"] for row in self._rows("SELECT root FROM erased WHERE erased_at < ?", stored(before))]

    def forget_erased(self) -> list[tuple[str, str]]:
        """Forget all that is held of those who were erased and whom the store holds no more, open incidents' answers too.

        Returns what the departed topic may still have of them: keys with their roots.
        """
        gone = "SELECT root FROM erased WHERE root NOT IN (SELECT root FROM customer)"
        if not self._value(f"SELECT count(*) FROM ({gone})"):
            return []
        found = [
            (f"provenance/{row['record_id']}", row["root"])
            for row in self._rows(
                f"DELETE FROM record WHERE {root_told('record.')} IN ({gone}) RETURNING record_id, {root_told()} AS root"
            )
        ]
        found += [
            (f"untagged/{mark.root}/{mark.attribute}/{round(mark.seen_at.timestamp() * 1000)}", mark.root)
            for mark in map(mark_of, self._rows(f"DELETE FROM untagged_write WHERE root IN ({gone}) RETURNING *"))
        ]
        found += [(row["root"], row["root"]) for row in self._rows(
            f"DELETE FROM departed WHERE root IN ({gone}) RETURNING root"
        )]  # fmt: skip
        for table in ("held", "member"):
            self._connection.execute(f"DELETE FROM {table} WHERE root IN ({gone})")
        return sorted(set(found))

    def set_positions(self, positions: Mapping[str, int]) -> None:
        """Store the next offset to read of each logical topic."""
        for topic, offset in positions.items():
            # To let DuckDB find the conflict costs more than twice as much, and this is done for every batch.
            if not self._value("UPDATE position SET next_offset = ? WHERE topic = ?", offset, topic):
                self._connection.execute("INSERT INTO position VALUES (?, ?)", [topic, offset])

    def note_head(self, at: datetime) -> None:
        """Remember that at `at` the file held everything published: younger tombstones cannot have been missed."""
        self._connection.execute("UPDATE meta SET head_at = ?", [stored(at)])
        # A new file's `head_at` is when it was made: what is asked here is whether it was ever read to the end.
        self._connection.execute("DELETE FROM read_to_end")
        self._connection.execute("INSERT INTO read_to_end VALUES (?)", [stored(at)])

    def note_beat(self, written_at: datetime, visible_at: datetime) -> None:
        """Remember when the newest heartbeat was written in the store, and when it was visible here."""
        self._connection.execute("DELETE FROM beat")
        self._connection.execute("INSERT INTO beat VALUES (?, ?)", [stored(written_at), stored(visible_at)])

    def mark_resolved(self, incident_id: str, revision: int) -> None:
        """Remember that this revision is answered, by what was frozen or thawed last."""
        self._connection.execute("INSERT OR IGNORE INTO resolved VALUES (?, ?)", [incident_id, revision])
        # To look for what is there already takes as long as all the rest, and nearly always nothing is.
        known = self._value(
            "SELECT 1 FROM member WHERE incident_id = ? AND revision = ? LIMIT 1", incident_id, revision
        )
        self._connection.execute(
            f"""INSERT INTO member SELECT ?, ?, root, standing, disclosures, elements, rank FROM frozen
                {_SAID_ANEW if known else ""}""",
            [incident_id, revision],
        )

    def add_members(self, incident_id: str, revision: int, published: Mapping[str, Published]) -> None:
        """Remember further people as published for this revision, or what more was published of them."""
        rows = [
            {
                "root": root,
                "standing": each.standing,
                "disclosures": sorted(each.concern.disclosures),
                "elements": sorted(each.concern.elements),
                "rank": each.concern.rank,
            }
            for root, each in published.items()
        ]
        for chunk in _chunks(rows):
            self._connection.execute(
                f"""INSERT INTO member SELECT ?, ?, root, standing, disclosures, elements, rank
                FROM (SELECT unnest(from_json(?, '[{{"root": "VARCHAR", "standing": "VARCHAR",
                    "disclosures": ["VARCHAR"], "elements": ["VARCHAR"], "rank": "INTEGER"}}]'), max_depth := 2))
                {_SAID_ANEW}""",
                [incident_id, revision, json.dumps(chunk)],
            )

    def freeze(self, header: Mapping[str, Any]) -> bytes:
        """Return what `find` found as a Parquet file, a row for each member, `header` as its metadata, and keep it for `events`.

        Sealed contacts and keyed hashes are left out: the frozen answer outlives the person's own data.
        """
        target = self._scratch("freeze")
        metadata = json.dumps(header, default=str).replace("'", "''")
        with self._watched():
            try:
                self._connection.execute(
                    f"""CREATE OR REPLACE TEMP TABLE frozen AS
                        SELECT a.root, {index_answers.OF_PERSON} AS customer_id, a.standing,
                            coalesce(a.record_ids, []) AS record_ids,
                            coalesce(json_extract_string(p.residence, '$[*].code'), []) AS residence,
                            {index_answers.EVENT} AS event, coalesce(a.disclosures, []) AS disclosures,
                            coalesce(a.elements, []) AS elements, coalesce(a.rank, 0) AS rank
                        FROM answer a LEFT JOIN person p ON p.root = a.root ORDER BY a.root""",
                    [header["incident_id"], header["revision"], header["partition"]],
                )
                self._connection.execute(
                    f"""COPY (SELECT {_FROZEN} FROM frozen) TO {quoted(str(target))}
                        (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, KV_METADATA {{tocsin: '{metadata}'}})"""
                )
                return target.read_bytes()
            finally:
                target.unlink(missing_ok=True)
                self._connection.execute("DROP TABLE IF EXISTS answer")

    def thaw(self, content: bytes) -> tuple[dict[str, Any], Iterator[Member]]:
        """Return header and members of a frozen answer, sorted by root, and keep it, see `events`.

        Raises Refused if it is none.
        """
        target = self._scratch("thaw")
        try:
            target.write_bytes(content)
            name = quoted(str(target))
            header = self._value(f"SELECT decode(value) FROM parquet_kv_metadata({name}) WHERE decode(key) = 'tocsin'")
            self._connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE frozen AS
                    SELECT {_FROZEN}, {index_answers.SAID_IN_EVENT} FROM read_parquet({name}) ORDER BY root"""
            )
        except duckdb.Error as error:
            raise Refused(f"a frozen answer cannot be read: {error}") from error
        finally:
            target.unlink(missing_ok=True)
        if header is None:
            raise Refused("a frozen answer has no header: not written by Tocsin")
        return json.loads(header), self._members("frozen")

    def events(self) -> Iterator[Sequence[tuple[str, str]]]:
        """Yield root and event (`CustomerAffected` as JSON) of each member of what was frozen or thawed last, sorted by root,
        some thousands at a time.

        The sealed contact is the person's present one; who is gone for good has none.
        """
        last = ""
        # Some thousands at once: DuckDB holds a whole result, and all of a large one twice, sorted and as JSON.
        while rows := self._connection.execute(
            # put together as text: both are JSON, and to parse them costs more than all the rest
            f"""SELECT f.root, concat(left(f.event, -1), ',"contact":', coalesce(p.contact, 'null'),
                    ',"email_hmac":', coalesce(to_json(p.email_hmac), 'null'), '}}')
                FROM (SELECT root, event FROM frozen WHERE root > ? ORDER BY root LIMIT {_EVENTS_AT_ONCE}) f
                LEFT JOIN person p ON p.root = f.root ORDER BY f.root""",
            [last],
        ).fetchall():
            last = rows[-1][0]
            yield rows

    def _scratch(self, purpose: str) -> Path:
        return self.path.with_suffix(f".{purpose}.partial")

    def _upsert(self, table: str, key: str, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        for chunk in _chunks(rows):
            # One JSON document for the whole chunk: a row at a time costs DuckDB a hundred times as much.
            self._connection.execute(
                f"CREATE OR REPLACE TEMP TABLE chunk AS SELECT unnest(from_json(?, '{json.dumps([columns])}'), max_depth := 2)",
                [json.dumps(chunk)],
            )
            self._connection.execute(f"DELETE FROM {table} WHERE ({key}) IN (SELECT ({key}) FROM chunk)")
            self._connection.execute(f"INSERT INTO {table} BY NAME FROM chunk")
            self._connection.execute("DROP TABLE chunk")


def _person_row(person: Person) -> dict[str, Any]:
    dumped = person.model_dump(mode="json")
    hmacs = dumped.get("attribute_hmacs", {})
    return dumped | {
        "residence": json.dumps(dumped["residence"]),
        "jurisdictions": list(jurisdictions(person)),
        "contact": None if dumped["contact"] is None else json.dumps(dumped["contact"]),
        "attribute_hmacs": json.dumps(hmacs),
        "attributes": sorted(hmacs),
        "faults": dumped.get("faults", []),
    }


def _text(at: datetime) -> str:
    return stored(at).isoformat(sep=" ")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _chunks(rows: Sequence[Mapping[str, Any]], size: int = 5000) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
