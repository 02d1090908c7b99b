"""The provenance index: one DuckDB file per partition of `store-changes`, held by the partition's owner alone.

State and position commit in one transaction, so a file is exactly-once by construction; a file that is lost, foreign,
cut off, of another schema or too old is rebuilt from the topics, and the log says so. Contacts lie here only sealed.
Not for deciding what a change or an incident means: that is the stage's work.
"""

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import _duckdb
import duckdb
import structlog
from pydantic import ValidationError

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import (
    Coverage,
    CustomerChanged,
    CustomerDeparted,
    Kind,
    OrderChanged,
    ProvenanceRecorded,
    Sensitivity,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.fingerprints import HASH_DIGITS, content_fingerprint
from bridge.contracts.queries import (
    DataMapGap,
    DataMapRow,
    Inspection,
    MembersAsked,
    MemberSeen,
    PartitionDataMap,
    PartitionMatch,
    PartitionMembers,
    PartitionNames,
    PartitionPreview,
    PartitionReach,
    PartitionStatus,
    PartitionTimes,
    PersonSeen,
    ReachGroup,
    RecordTimes,
    RootTimes,
)
from bridge.contracts.scope import Scope
from bridge.contracts.topics import DEPARTED_CUSTOMERS, STORE_CHANGES
from bridge.runtime.allocation import keep_what_jemalloc_frees
from consumers.adapters import index_answers
from consumers.adapters.scope_sql import stored
from consumers.domain.coverage import unwatched_stretches
from consumers.domain.resolution import ANY_ATTRIBUTE, Found, Member, Person, members_root
from consumers.domain.scope_matching import jurisdictions, named_attributes, named_models
from consumers.domain.standing import Concern, Published
from consumers.domain.untagged import Held

log = structlog.get_logger()

_Columns = Mapping[str, str | list[str]]

SCHEMA_VERSION = 11
"""Raised with every change of the tables; a file of another version is rebuilt."""

_PERSON_COLUMNS: _Columns = {
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "order_id": "BIGINT",
    "website_id": "BIGINT",
    "store_id": "BIGINT",
    "locale": "VARCHAR",
    "residence": "VARCHAR",
    "jurisdictions": ["VARCHAR"],
    "channels": ["VARCHAR"],
    "contact": "VARCHAR",
    "email_hmac": "VARCHAR",
    "attribute_hmacs": "VARCHAR",
    "attributes": ["VARCHAR"],
    "faults": ["VARCHAR"],
    "seen_at": "TIMESTAMP",
}
_DEPARTED_COLUMNS: _Columns = {**_PERSON_COLUMNS, "departed_at": "TIMESTAMP", "expires_at": "TIMESTAMP"}
_RECORD_COLUMNS: _Columns = {
    "record_id": "VARCHAR",
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "order_id": "BIGINT",
    "entity_type": "VARCHAR",
    "entity_id": "BIGINT",
    "attribute": "VARCHAR",
    "model_id": "VARCHAR",
    "model_version": "VARCHAR",
    "run_id": "VARCHAR",
    "dataset_version": "VARCHAR",
    "generated_at": "TIMESTAMP",
    "deleted_at": "TIMESTAMP",
    "supersedes": "VARCHAR",
    "kind": "VARCHAR",
    "confidence": "DOUBLE",
    "sensitivity": "VARCHAR",
    "categories": ["VARCHAR"],
    "elements": ["VARCHAR"],
    "source_system": "VARCHAR",
    "storage_location": "VARCHAR",
    "input_fields": ["VARCHAR"],
    "legal_basis": "VARCHAR",
    "loaded_at": "TIMESTAMP",
    "faults": ["VARCHAR"],
}
_HELD_COLUMNS: _Columns = {
    "root": "VARCHAR",
    "attribute": "VARCHAR",
    "hmac": "VARCHAR",
    "seen_at": "TIMESTAMP",
    "record_at": "TIMESTAMP",
}
_MARK_COLUMNS: _Columns = {
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "attribute": "VARCHAR",
    "since": "TIMESTAMP",
    "seen_at": "TIMESTAMP",
    "until": "TIMESTAMP",
    "record_at": "TIMESTAMP",
}
_DERIVED_ROOT = "coalesce('customer/' || {0}customer_id, 'order/' || {0}order_id)"
"""What most records' root is: it is stored only where it is another, as it is the dearest of all columns to read."""


def _root(of: str = "") -> str:
    return f"coalesce({of}root, {_DERIVED_ROOT.format(of)})"


_MAY_CHANGE = frozenset({"record_id", "deleted_at", "loaded_at", "faults"})
# What was not there before may come (a later version reads more of a row), and what was unreadable may be put right.
_DIFFERS = (
    "len(b.faults) = 0 AND ("
    + " OR ".join(
        f"(b.{name} IS NOT NULL AND b.{name} IS DISTINCT FROM n.{name})"
        for name in _RECORD_COLUMNS
        if name not in {"root", *_MAY_CHANGE}
    )
    + f" OR {_root('b.')} <> {_root('n.')})"
)
_RECORD = ", ".join(_RECORD_COLUMNS)
_STORED = ", ".join(f"{_root()} AS root" if name == "root" else name for name in _RECORD_COLUMNS)
"""The columns of `record`, roots told."""
_SETS = index_answers.SETS
"""Lists of which few differ among millions of records. They are stored as JSON text, which is read and written in a tenth of
the time that a list takes."""
_AS_LISTS = ", ".join(f"{index_answers.listed(name)} AS {name}" for name in _SETS)
_ALTERED = "~altered-"
"""In the id of a record that holds what another one said before somebody altered it in the store."""
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


def _columns(columns: _Columns) -> str:
    return ", ".join(f"{name} {_type(kind)}" for name, kind in columns.items())


def _type(kind: str | list[str]) -> str:
    return kind if isinstance(kind, str) else f"{kind[0]}[]"


def _type_in_line(name: str) -> str:
    kind = _RECORD_COLUMNS[name]
    # A list is stored as the text that it is here: to read it as a list and write it again would cost more than all its records'
    # other fields do.
    return "JSON" if name in _SETS else "VARCHAR" if kind == "TIMESTAMP" else _type(kind)


_LINES = "{" + ", ".join(f"{name}: '{_type_in_line(name)}'" for name in _RECORD_COLUMNS) + "}"
_INSTANT = (
    "CASE WHEN {0} IS NULL THEN NULL WHEN {0} LIKE '%Z' OR regexp_matches({0}, '[+-][0-9]{{2}}:[0-9]{{2}}$') "
    "THEN {0}::TIMESTAMP ELSE error('{0} has no zone') END AS {0}"
)
_ROOT_TO_STORE = f"nullif(root, {_DERIVED_ROOT.format('')})"
_TO_STORE = ", ".join(
    [
        f"{_ROOT_TO_STORE} AS root",
        *(f"to_json(coalesce({name}, []))::VARCHAR AS {name}" for name in _SETS),
    ]
)
_READ = ", ".join(
    [
        *(_INSTANT.format(name) for name, kind in _RECORD_COLUMNS.items() if kind == "TIMESTAMP"),
        "own_root AS root",
        *(f"coalesce({name}::VARCHAR, '[]') AS {name}" for name in _SETS),
        "coalesce(faults, []) AS faults",
    ]
)
"""What is stored of a line, see `_given`."""
_TEXTS = ", ".join(f"{name} AS {index_answers.text_of(name)}" for name in _SETS)
_COMPRESSED = frozenset({"run_id", "storage_location"})
"""Long texts that differ from record to record. DuckDB would try a dictionary of each; this takes less time, and no more room."""


def _stored_type(name: str) -> str | list[str]:
    if name in _COMPRESSED:
        return "VARCHAR USING COMPRESSION zstd"
    return "VARCHAR" if name in _SETS else _RECORD_COLUMNS[name]


_STORED_COLUMNS = {name: _stored_type(name) for name in _RECORD_COLUMNS}


def _given(path: str, longest: int) -> str:
    """Return the query for the records in the file at `path`, each with its offset; no line is longer than `longest`."""
    lines = f"read_json('{path}', columns = {_LINES}, format = 'newline_delimited', maximum_object_size = {longest})"
    return f"(SELECT *, {_ROOT_TO_STORE} AS own_root FROM (FROM {lines} POSITIONAL JOIN ({_COUNTED})))"


def _one_of(name: str, values: type[StrEnum]) -> str:
    names = ", ".join(f"'{value.value}'" for value in values)
    return f"{name} NOT IN ({names})"


_REQUIRED = (
    "record_id", "root", "entity_type", "entity_id", "attribute", "model_id", "model_version", "generated_at", "kind",
    "sensitivity",
)  # fmt: skip
_WRONG = " OR ".join(
    [
        *(f"{name} IS NULL" for name in _REQUIRED),
        # Of all that is asked of a line this is the dearest, and most roots are made of an id anyway.
        "own_root IS NOT NULL AND NOT regexp_full_match(own_root, '(customer|order)/[0-9]+')",
        "own_root IS NULL AND coalesce(customer_id, order_id) < 0",
        *(f"{name} IS NOT NULL AND NOT starts_with({name}::VARCHAR, '[')" for name in _SETS),
        _one_of("kind", Kind),
        _one_of("sensitivity", Sensitivity),
    ]
)

_COUNTED = """SELECT unnest(range(first, after)) AS at_offset FROM (
    SELECT unnest(string_split(?, ',')::BIGINT[]) AS first, unnest(string_split(?, ',')::BIGINT[]) AS after)"""
"""Offsets from their runs, see `_runs`."""
_LONGEST = 262_144
"""Lines of so many bytes are read in any case. DuckDB takes twice that from the kernel at each reading; by itself it takes 32 MB,
which a batch of some thousand lines feels."""
_NO_ROOM = ("No space left", "Could not write", "Disk quota exceeded", "File too large")
"""How DuckDB speaks of a full disk once it has closed the file for it, which is no damage."""
_FROZEN = "root, customer_id, standing, record_ids, residence, event"
"""The columns of a frozen answer."""
_EVENTS_AT_ONCE = 5000
_DAMAGED = "damaged"
"""What the request for a rebuild says where the file itself gave cause: then it answers nothing more."""
_NEWEST = f"""SELECT {_STORED} FROM (SELECT * REPLACE ({_AS_LISTS}) FROM ({{which}}))
    QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY at_offset DESC) = 1"""
"""What `provenance` has of a few, without looking at all that is fresh."""
_OF_ROOTS = """FROM record WHERE root IN (SELECT unnest(?::VARCHAR[]))
    UNION ALL FROM record WHERE root IS NULL AND customer_id IN (SELECT unnest(?::BIGINT[]))
    UNION ALL FROM record WHERE root IS NULL AND customer_id IS NULL AND order_id IN (SELECT unnest(?::BIGINT[]))"""
_SETTLED = """
CREATE OR REPLACE VIEW settled AS SELECT {columns}, altered FROM record ANTI JOIN superseded USING (at_offset)
    WHERE at_offset < {upto};
CREATE OR REPLACE VIEW fresh AS SELECT {columns}, at_offset FROM record WHERE at_offset >= {upto};
"""
"""Where the settled records end, as a number in both views: so DuckDB need not look at the others."""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only
_ERASED = "CREATE TABLE IF NOT EXISTS erased (root VARCHAR PRIMARY KEY, erased_at TIMESTAMP);"
"""Whom a request had forgotten. Made when a file is opened, too: one of an earlier version is the same but for this."""
_SCHEMA = f"""
CREATE TABLE meta (schema_version INTEGER, topic VARCHAR, cluster VARCHAR, partition INTEGER, partition_count INTEGER,
    head_at TIMESTAMP, kept_since TIMESTAMP);
CREATE TABLE position (topic VARCHAR PRIMARY KEY, next_offset BIGINT);
CREATE TABLE customer ({_columns(_PERSON_COLUMNS)});
CREATE TABLE departed ({_columns(_DEPARTED_COLUMNS)});
{_ERASED}
-- Records lie in the order in which they came, each with its offset (a kept copy: -1). Among the settled ones no two have
-- one id: all but the newest are in `superseded`, by offset. Behind them are the fresh ones, of which the newest of an id
-- holds. To look up every record by its id as it comes would cost more than all the rest of reading it, and to delete what
-- is superseded would write its row group anew.
CREATE TABLE record ({_columns(_STORED_COLUMNS)}, at_offset BIGINT, altered BOOLEAN);
CREATE TABLE superseded (at_offset BIGINT);
{_SETTLED.format(columns=_STORED, upto=0)}CREATE VIEW newest AS
    SELECT {_RECORD} FROM fresh
    WHERE (record_id, at_offset) IN (SELECT (record_id, max(at_offset)) FROM fresh GROUP BY record_id);
CREATE VIEW held_records AS
    SELECT {_RECORD} FROM settled WHERE record_id NOT IN (SELECT record_id FROM fresh) UNION ALL FROM newest;
CREATE VIEW provenance AS SELECT * REPLACE ({_AS_LISTS}) FROM held_records;
-- The same, and its lists as they are stored; and as it is while nothing is fresh.
CREATE VIEW told AS SELECT * REPLACE ({_AS_LISTS}), {_TEXTS} FROM held_records;
CREATE VIEW told_settled AS SELECT * REPLACE ({_AS_LISTS}), {_TEXTS} FROM settled;
-- What was known of fresh records before: the settled one, else the first that came.
CREATE VIEW earlier AS
    SELECT {_RECORD}, altered FROM settled WHERE record_id IN (SELECT record_id FROM fresh)
    UNION ALL SELECT {_RECORD}, false FROM fresh WHERE (record_id, at_offset) IN
        (SELECT (record_id, min(at_offset)) FROM fresh GROUP BY record_id HAVING count(*) > 1)
        AND record_id NOT IN (SELECT record_id FROM settled);
CREATE VIEW merged AS
    SELECT n.*, coalesce(b.altered OR ({_DIFFERS}), false) AS altered
    FROM newest n LEFT JOIN earlier b ON b.record_id = n.record_id;
-- Provenance, and whether a record's content was altered after it was first read.
CREATE VIEW audited AS
    SELECT * REPLACE ({_AS_LISTS},
        altered OR record_id IN (
            SELECT split_part(record_id, '{_ALTERED}', 1) FROM settled WHERE contains(record_id, '{_ALTERED}')
        ) AS altered)
    FROM (FROM settled WHERE record_id NOT IN (SELECT record_id FROM fresh) UNION ALL FROM merged)
    WHERE NOT contains(record_id, '{_ALTERED}');
CREATE TABLE held ({_columns(_HELD_COLUMNS)});
CREATE TABLE untagged_write ({_columns(_MARK_COLUMNS)});
-- Since when what is watched, see `WatchStarted`; `kept` once the topic has it too.
CREATE TABLE watch (attribute VARCHAR, started_at TIMESTAMP, silent_from TIMESTAMP, kept BOOLEAN);
CREATE TABLE beat (written_at TIMESTAMP, visible_at TIMESTAMP);
CREATE TABLE resolved (incident_id VARCHAR, revision INTEGER, PRIMARY KEY (incident_id, revision));
-- Who was published for a revision, and what was said of them: see `standing.Concern`.
CREATE TABLE member (incident_id VARCHAR, revision INTEGER, root VARCHAR, standing VARCHAR,
    disclosures VARCHAR[], elements VARCHAR[], rank INTEGER,
    PRIMARY KEY (incident_id, revision, root));
CREATE VIEW person AS
    SELECT *, NULL::TIMESTAMP AS departed_at, NULL::TIMESTAMP AS expires_at FROM customer
    UNION ALL SELECT * FROM departed WHERE root NOT IN (SELECT root FROM customer);
-- Values of registered attributes that no record at all is about; who changed one without a record is in untagged_write.
CREATE VIEW unexplained AS
    SELECT value.root, value.customer_id, value.attribute
    FROM (SELECT root, customer_id, unnest(attributes) AS attribute FROM person) value
    ANTI JOIN provenance ON provenance.root = value.root AND provenance.attribute = value.attribute;
CREATE VIEW untagged AS
    FROM unexplained UNION SELECT root, customer_id, attribute FROM untagged_write WHERE until IS NULL;
"""


_SAID_ANEW = """ON CONFLICT (incident_id, revision, root) DO UPDATE SET standing = excluded.standing,
    disclosures = excluded.disclosures, elements = excluded.elements, rank = excluded.rank"""


_FREED_SECONDS = 30


def keep_what_duckdb_frees() -> bool:
    """Let DuckDB use again what it has freed, see `keep_what_jemalloc_frees`; return whether it knows how."""
    return keep_what_jemalloc_frees(_duckdb.__file__, "duckdb_je_", _FREED_SECONDS)


class PartitionReader:
    """Questions to one partition's file, on one connection. Sees committed state, and what its own transaction wrote."""

    def __init__(
        self, partition: int, path: Path, connection: duckdb.DuckDBPyConnection, *, is_old: bool = False
    ) -> None:
        self.partition = partition
        self.path = path
        self.is_old = is_old
        self._connection = connection

    def close(self) -> None:
        """End this connection; the file stays open for others."""
        self._connection.close()

    def _rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        result = self._connection.execute(sql, list(parameters))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    rows = _rows
    """Ask the file in its own SQL; for the other questions of this room."""

    def _value(self, sql: str, *parameters: Any) -> Any:
        row = self._connection.execute(sql, list(parameters)).fetchone()
        return None if row is None else row[0]

    def positions(self) -> dict[str, int]:
        """Return the next offset to read, by logical topic name."""
        return {row["topic"]: row["next_offset"] for row in self._rows("SELECT topic, next_offset FROM position")}

    def persons(self, roots: Iterable[str]) -> dict[str, Person]:
        """Return who is known of `roots`: the present customer or order, else the departed one."""
        rows = self._rows("SELECT * FROM person WHERE root IN (SELECT unnest(?::VARCHAR[]))", list(roots))
        return {row["root"]: _person(row) for row in rows}

    def records(self, record_ids: Iterable[str]) -> list[ProvenanceRecorded]:
        """Return the records with these ids, by id."""
        rows = self._rows(
            f"{_NEWEST.format(which='FROM record WHERE record_id IN (SELECT unnest(?::VARCHAR[]))')} ORDER BY record_id",
            list(record_ids),
        )
        return [_record(row) for row in rows]

    def last_seen(self, roots: Iterable[str]) -> dict[str, datetime]:
        """Return when the present state of each of `roots` was published."""
        rows = self._rows(
            "SELECT root, seen_at FROM customer WHERE seen_at IS NOT NULL AND root IN (SELECT unnest(?::VARCHAR[]))",
            list(roots),
        )
        return {row["root"]: _in_utc(row["seen_at"]) for row in rows}

    def held(self, roots: Iterable[str]) -> dict[tuple[str, str], Held]:
        """Return the values of registered attributes that were last seen of `roots`, by root and attribute."""
        rows = self._rows("SELECT * FROM held WHERE root IN (SELECT unnest(?::VARCHAR[]))", list(roots))
        return {
            (row["root"], row["attribute"]): Held(
                row["hmac"], _in_utc(row["seen_at"]), row["record_at"] and _in_utc(row["record_at"])
            )
            for row in rows
        }

    def newest_records(self, roots: Iterable[str]) -> dict[tuple[str, str], datetime]:
        """Return when the newest record about each attribute of `roots` was generated."""
        given = list(roots)
        # Three questions: to compare the root that is told of every record would take longer than all of them.
        rows = self._rows(
            f"""SELECT root, attribute, max(generated_at) AS newest_at FROM ({_NEWEST.format(which=_OF_ROOTS)})
            GROUP BY root, attribute""",
            given,
            _numbers("customer/", given),
            _numbers("order/", given),
        )
        return {(row["root"], row["attribute"]): _in_utc(row["newest_at"]) for row in rows}

    def has_open_marks(self) -> bool:
        """Return whether any untagged write's value still stands."""
        return bool(self._value("SELECT count(*) FROM untagged_write WHERE until IS NULL"))

    def open_marks(self, roots: Iterable[str]) -> dict[tuple[str, str], UntaggedWrite]:
        """Return the untagged writes of `roots` whose values still stand."""
        rows = self._rows(
            "SELECT * FROM untagged_write WHERE until IS NULL AND root IN (SELECT unnest(?::VARCHAR[])) ORDER BY seen_at",
            list(roots),
        )
        return {(row["root"], row["attribute"]): _mark(row) for row in rows}

    def answer(self, scope: Scope, roots: Iterable[str] | None = None) -> list[Found]:
        """Return everyone that `scope` concerns (of `roots` only, if given), sorted by root.

        Recorded: a record certainly matches. Possible: a record may match but lacks the fact that decides, or a
        registered attribute's value is held without any record and may come from what the scope names.
        """
        index_answers.answer(self._connection, scope, None if roots is None else list(roots))
        rows = self._rows("SELECT * FROM answer ORDER BY root")
        persons = self.persons(row["root"] for row in rows)
        return [index_answers.found(row, persons.get(row["root"])) for row in rows]

    def coverage(self, scope: Scope) -> tuple[Coverage, ...]:
        """Return since when this partition has records of what the scope names, and how many values have none.

        What the scope names and no record here does appears with `recorded_since` None. What was deleted before the
        retention began is forgotten, so nothing counts as recorded since an earlier time.
        """
        models, attributes = named_models(scope), named_attributes(scope)
        since: dict[tuple[str, str], datetime | None] = {}
        loaded: dict[tuple[str, str], datetime] = {}
        wanted = [f"{name} IN ({', '.join('?' * len(names))})"
                  for name, names in (("model_id", models), ("attribute", attributes)) if names]  # fmt: skip
        for row in self._rows(
            f"""SELECT model_id, attribute, (SELECT max(kept_since) FROM meta) AS kept_since,
                min(generated_at) FILTER (loaded_at IS NULL) AS since, min(generated_at) FILTER (loaded_at IS NOT NULL) AS loaded
            FROM {index_answers.told(self._connection)} WHERE {" AND ".join(wanted) or "TRUE"} GROUP BY model_id, attribute""",
            *sorted(models),
            *sorted(attributes),
        ):
            key = (row["model_id"], row["attribute"])
            kept = row["kept_since"]
            since[key] = row["since"] and _in_utc(max(row["since"], kept or row["since"]))
            if row["loaded"] is not None:
                loaded[key] = _in_utc(max(row["loaded"], kept or row["loaded"]))
        untagged: dict[str, int] = {}
        first_seen: dict[str, datetime] = {}
        everyone_untagged = 0
        if index_answers.has_untagged_values(self._connection):
            values, window = index_answers.untagged_within(scope)
            for row in self._rows(
                f"SELECT attribute, count(DISTINCT root) AS people, min(seen_at) AS seen_at FROM ({values}) GROUP BY attribute",
                *window,
            ):
                untagged[row["attribute"]] = row["people"]
                if row["seen_at"] is not None:
                    first_seen[row["attribute"]] = _in_utc(row["seen_at"])
            everyone_untagged = int(self._value(f"SELECT count(DISTINCT root) FROM ({values})", *window))
        seen_models, written = {model for model, _ in since}, {attribute for _, attribute in since}
        unexplained = self._never_written(untagged.keys() & (attributes or untagged.keys()))
        for model in models or {ANY_ATTRIBUTE}:
            for attribute in unexplained | attributes:
                if models or attribute not in written:
                    since.setdefault((model, attribute), None)
            if model not in seen_models and not attributes and (models or not since):
                since.setdefault((model, ANY_ATTRIBUTE), None)
        watched = self.watched()
        return tuple(
            Coverage(
                model_id=model,
                attribute=attribute,
                recorded_since=at,
                loaded_since=loaded.get((model, attribute)),
                unwatched=unwatched_stretches(watched, attribute, scope.exposed_from, scope.exposed_to),
                untagged_count=everyone_untagged if attribute == ANY_ATTRIBUTE else untagged.get(attribute, 0),
                untagged_since=first_seen.get(attribute),
            )
            for (model, attribute), at in sorted(since.items())
        )

    def _never_written(self, attributes: Iterable[str]) -> set[str]:
        """Return those of `attributes` that no record at all is about."""
        asked = set(attributes)
        if not asked:
            return asked
        rows = self._rows(
            "SELECT DISTINCT attribute FROM provenance WHERE attribute IN (SELECT unnest(?::VARCHAR[]))", sorted(asked)
        )
        return asked - {row["attribute"] for row in rows}

    def watched(self) -> list[WatchStarted]:
        """Return since when what is watched, as far as it is known here."""
        rows = self._rows("SELECT * FROM watch ORDER BY attribute, started_at")
        return [_watch(row) for row in rows]

    def last_beat(self) -> datetime | None:
        """Return when the newest heartbeat was written in the store."""
        at = self._value("SELECT max(written_at) FROM beat")
        return at and _in_utc(at)

    def _untagged_counts(self) -> dict[str, int]:
        return {
            row["attribute"]: row["people"]
            for row in self._rows(
                "SELECT attribute, count(*) AS people FROM untagged GROUP BY attribute ORDER BY attribute"
            )
        }

    def is_resolved(self, incident_id: str, revision: int) -> bool:
        """Return whether this partition has answered this revision."""
        found = self._value(
            "SELECT count(*) FROM resolved WHERE incident_id = ? AND revision = ?", incident_id, revision
        )
        return bool(found)

    def members(self, incident_id: str, revision: int, roots: Iterable[str]) -> dict[str, Published]:
        """Return what was published, for this revision, of those of `roots` that were."""
        rows = self._rows(
            """SELECT root, standing, disclosures, elements, rank FROM member
            WHERE incident_id = ? AND revision = ? AND root IN (SELECT unnest(?::VARCHAR[]))""",
            incident_id,
            revision,
            list(roots),
        )
        return {
            row["root"]: Published(
                row["standing"], Concern(frozenset(row["disclosures"]), frozenset(row["elements"]), row["rank"])
            )
            for row in rows
        }

    def expired(self, now: datetime) -> list[str]:
        """Return the roots of departed people whose time is over."""
        rows = self._rows("SELECT root FROM departed WHERE expires_at <= ? ORDER BY root", stored(now))
        return [row["root"] for row in rows]

    def people_count(self) -> int:
        """Return how many data subjects are known, departed ones included, each root counted."""
        return int(self._value("SELECT count(*) FROM person"))

    def reach(self) -> PartitionReach:
        """Count everybody by country and channels, departed people included. Nobody's contact is looked at."""
        # grouped before a claim is taken apart: few residences differ among millions of people
        groups = self._rows(
            """WITH alike AS (SELECT residence, channels, count(*) AS count FROM person GROUP BY ALL)
            SELECT split_part(coalesce(json_extract_string(residence, '$[0].code'), 'unknown'), '-', 1) AS country,
                coalesce(channels, []) AS channels, sum(count)::BIGINT AS count FROM alike GROUP BY ALL ORDER BY ALL"""
        )
        unreadable = self._rows(
            """SELECT field, count(*) AS count FROM (SELECT unnest(faults) AS field FROM person WHERE len(faults) > 0)
            WHERE field IN ('email', 'telephone') GROUP BY field ORDER BY field"""
        )
        return PartitionReach(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            groups=tuple(ReachGroup(**row) for row in groups),
            unreadable={row["field"]: row["count"] for row in unreadable},
        )

    def preview(self, scope: Scope) -> PartitionPreview:
        """Count what `answer` would find."""
        index_answers.answer(self._connection, scope)
        known = "FROM answer a LEFT JOIN person p ON p.root = a.root"
        totals = self._rows(
            f"""SELECT count(*) AS affected_count, count(*) FILTER (a.standing = 'possible') AS possible_count,
                count(*) FILTER (p.root IS NULL OR p.departed_at IS NOT NULL) AS departed_count,
                coalesce(sum(len(a.record_ids)), 0)::BIGINT AS record_count {known}"""
        )[0]

        def counted(value: str) -> dict[str, int]:
            rows = self._rows(f"SELECT value, count(*) AS people FROM (SELECT {value} AS value {known}) GROUP BY value")
            return {row["value"]: row["people"] for row in rows}

        return PartitionPreview(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            people_count=self.people_count(),
            **totals,
            by_jurisdiction=counted("coalesce(json_extract_string(p.residence, '$[0].code'), 'unknown')"),
            by_kind=counted("unnest(a.kinds)"),
            by_sensitivity=counted(f"coalesce({index_answers.level('a.rank')}, 'unknown')"),
            by_channel=counted("unnest(CASE WHEN len(p.channels) > 0 THEN p.channels ELSE ['none'] END)"),
            coverage=self.coverage(scope),
            rebuilding=self.is_old,
        )

    def members_now(self, asked: MembersAsked) -> PartitionMembers:
        """Return what this partition would freeze for a scope now."""
        index_answers.answer(self._connection, asked.scope)
        found = self._rows("SELECT root, coalesce(record_ids, []) AS record_ids, standing FROM answer ORDER BY root")
        members = [(row["root"], row["record_ids"], row["standing"]) for row in found]
        shown = [each for each in members if each[0] > asked.after][: asked.limit]
        return PartitionMembers(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            affected_count=len(members),
            possible_count=sum(standing == "possible" for _, _, standing in members),
            merkle_root=members_root(members),
            members=tuple(
                MemberSeen(root=root, record_ids=tuple(ids), standing=standing) for root, ids, standing in shown
            ),
        )

    def times(self, roots: Sequence[str]) -> PartitionTimes:
        """Return when what is known of `roots` changed."""
        known: dict[str, dict[str, Any]] = {}
        for row in self._rows(
            """SELECT root, departed_at IS NOT NULL AS departed, coalesce(departed_at, seen_at) AS person_at FROM person
            WHERE root IN (SELECT unnest(?::VARCHAR[]))""",
            list(roots),
        ):
            known[row["root"]] = {**row, "person_at": row["person_at"] and _in_utc(row["person_at"])}
        for row in self._rows(
            """SELECT root, record_id, generated_at, deleted_at, loaded_at FROM provenance
            WHERE root IN (SELECT unnest(?::VARCHAR[])) ORDER BY record_id""",
            list(roots),
        ):
            # Records of somebody whose person nobody knows: gone, and their time is over.
            about = known.setdefault(row["root"], {"root": row["root"], "departed": True})
            instants = {name: at and _in_utc(at) for name, at in row.items() if name.endswith("_at")}
            about.setdefault("records", []).append(RecordTimes(record_id=row["record_id"], **instants))
        for row in self._rows(
            "SELECT * FROM untagged_write WHERE root IN (SELECT unnest(?::VARCHAR[])) ORDER BY seen_at", list(roots)
        ):
            about = known.setdefault(row["root"], {"root": row["root"], "departed": True})
            seen = [_in_utc(row[name]) for name in ("seen_at", "until") if row[name] is not None]
            about.setdefault("untagged_at", []).extend(seen)
        return PartitionTimes(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            roots=tuple(RootTimes(**known[root]) for root in sorted(known)),
        )

    def status(self) -> PartitionStatus:
        """Return where this partition stands."""
        row = self._rows(
            """SELECT (SELECT count(*) FROM customer WHERE order_id IS NULL) AS customer_count,
            (SELECT count(*) FROM customer WHERE order_id IS NOT NULL) AS order_count,
            (SELECT count(*) FROM departed) AS departed_count, (SELECT count(*) FROM provenance) AS record_count,
            (SELECT count(deleted_at) FROM provenance) AS deleted_record_count,
            (SELECT head_at FROM meta) AS head_at, (SELECT written_at FROM beat) AS beat_written_at,
            (SELECT visible_at FROM beat) AS beat_visible_at"""
        )[0]
        instants = {name: row[name] and _in_utc(row[name]) for name in row if name.endswith("_at")}
        resolved = self._rows("SELECT incident_id || '/' || revision AS name FROM resolved ORDER BY name")
        positions = self.positions()
        return PartitionStatus(
            partition=self.partition,
            position_offset=positions.get(STORE_CHANGES.name, 0),
            departed_offset=positions.get(DEPARTED_CUSTOMERS.name, 0),
            resolved=tuple(each["name"] for each in resolved),
            file_bytes=self.path.stat().st_size,
            rebuilding=self.is_old,
            **(row | instants),
        )

    def names(self) -> PartitionNames:
        """Return the model ids, versions and attributes that records or registered values name."""
        rows = self._rows(
            "SELECT model_id, list(DISTINCT model_version) AS versions FROM provenance GROUP BY model_id ORDER BY model_id"
        )
        attributes = self._rows(
            "SELECT attribute FROM provenance UNION SELECT unnest(attributes) FROM customer ORDER BY attribute"
        )
        return PartitionNames(
            partition=self.partition,
            models={row["model_id"]: tuple(sorted(row["versions"])) for row in rows},
            attributes=tuple(row["attribute"] for row in attributes),
        )

    def match(self, email_hmacs: Sequence[str], roots: Sequence[str]) -> PartitionMatch:
        """Return who is here of those behind leaked keys; departed people and records without a person count."""
        found: dict[str, list[str]] = {}
        for row in self._rows(
            "SELECT email_hmac, root FROM person WHERE email_hmac IN (SELECT unnest(?::VARCHAR[])) ORDER BY root",
            list(email_hmacs),
        ):
            found.setdefault(row["email_hmac"], []).append(row["root"])
        here = self._rows(
            "WITH asked AS (SELECT unnest(?::VARCHAR[]) AS root) SELECT root FROM asked WHERE root IN (SELECT root FROM person) "
            "OR root IN (SELECT root FROM provenance) ORDER BY root",
            list(roots),
        )
        return PartitionMatch(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            by_email_hmac={key: tuple(value) for key, value in found.items()},
            roots=tuple(row["root"] for row in here),
        )

    def inspect(self, root: str) -> Inspection:
        """Return what is held of `root`, contact and keyed hashes left out."""
        person = self.persons([root]).get(root)
        records = self._rows("SELECT * FROM provenance WHERE root = ? ORDER BY generated_at, record_id", root)
        untagged = self._rows("SELECT attribute FROM untagged WHERE root = ? ORDER BY attribute", root)
        seen = PersonSeen(root=root, state="absent")
        if person is not None:
            seen = PersonSeen(
                root=root,
                state="departed" if isinstance(person, CustomerDeparted) else "present",
                customer_id=person.customer_id,
                website_id=person.website_id,
                store_id=person.store_id,
                locale=person.locale,
                residence=tuple(f"{each.code} ({each.source})" for each in person.residence),
                channels=tuple(channel.value for channel in person.channels),
                has_contact=person.contact is not None,
                untagged_attributes=tuple(row["attribute"] for row in untagged),
            )
        return Inspection(partition=self.partition, person=seen, records=tuple(_record(row) for row in records))

    def data_map(self) -> PartitionDataMap:
        """Return which model version wrote which attribute, and which values no record explains."""
        rows = self._rows(
            """SELECT source_system, model_id, model_version, entity_type, attribute, count(*) AS record_count,
                count(deleted_at) AS deleted_count, list_sort(list(DISTINCT kind)) AS kinds,
                list_sort(list_distinct(flatten(list(categories)))) AS categories, count(DISTINCT root) AS root_count,
                list(DISTINCT sensitivity) AS sensitivities, list(DISTINCT legal_basis) AS legal_bases,
                list(DISTINCT storage_location) AS storage_locations, max(generated_at) AS last_generated_at
            FROM provenance GROUP BY ALL ORDER BY ALL"""
        )
        order = list(Sensitivity)
        return PartitionDataMap(
            partition=self.partition,
            rows=tuple(
                DataMapRow(
                    highest_sensitivity=max((Sensitivity(each) for each in row.pop("sensitivities")), key=order.index),
                    legal_bases=tuple(sorted(each for each in row.pop("legal_bases") or () if each)),
                    storage_locations=tuple(sorted(each for each in row.pop("storage_locations") or () if each)),
                    last_generated_at=_in_utc(row.pop("last_generated_at")),
                    **row,
                )
                for row in rows
            ),
            untagged=self._untagged_counts(),
            gaps=self._gaps(),
        )

    def _gaps(self) -> tuple[DataMapGap, ...]:
        rows = self._rows(
            """WITH people AS (SELECT attribute, count(*) AS people_count FROM untagged GROUP BY attribute),
                writes AS (SELECT attribute, count(*) AS write_count, min(seen_at) AS first_seen_at,
                    max(seen_at) AS last_seen_at FROM untagged_write GROUP BY attribute)
            SELECT attribute, coalesce(people_count, 0) AS people_count, coalesce(write_count, 0) AS write_count,
                first_seen_at, last_seen_at FROM people FULL JOIN writes USING (attribute) ORDER BY attribute"""
        )
        return tuple(
            DataMapGap(**row | {name: row[name] and _in_utc(row[name]) for name in row if name.endswith("_at")})
            for row in rows
        )


class _Memory:
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

    def __init__(self, partition: int, path: Path, connection: duckdb.DuckDBPyConnection, memory: _Memory) -> None:
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
            self.path.with_name(f"p{self.partition}.rebuild").write_text(_DAMAGED, encoding="utf-8")
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
        self._upsert("customer", "root", _PERSON_COLUMNS, rows)

    def drop_persons(self, roots: Sequence[str]) -> None:
        """Forget customers and orders that the store no longer holds."""
        self._connection.execute("DELETE FROM customer WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def put_departed(self, departed: Sequence[CustomerDeparted]) -> None:
        """Store people who are gone and still owed a notice; at most one for each root."""
        self._upsert("departed", "root", _DEPARTED_COLUMNS, [_person_row(each) for each in departed])

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
        given = _given(path, max(_LONGEST, *map(len, lines)))
        runs = _runs(offsets)
        left_out: list[int] = []
        try:
            taken = self._value(
                f"""INSERT INTO record BY NAME SELECT * EXCLUDE (own_root) REPLACE ({_READ}), false AS altered
                FROM {given} WHERE NOT ({_WRONG})""",
                *runs,
            )
            if taken < len(offsets):
                left_out = [
                    row["at_offset"] for row in self._rows(f"SELECT at_offset FROM {given} WHERE {_WRONG}", *runs)
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
                f"""INSERT INTO record BY NAME SELECT * REPLACE ({_TO_STORE}), -1 AS at_offset, false AS altered FROM
                (SELECT unnest(from_json(?, '{json.dumps([_RECORD_COLUMNS])}'), max_depth := 2))
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
                WHERE b.altered OR ({_DIFFERS})"""
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
        self._connection.execute(_SETTLED.format(columns=_STORED, upto=upto))
        self._came, self._settled = 0, settled + fresh
        return True

    def _clear(self, records: int) -> None:
        """Delete what is superseded once it is a quarter of all."""
        if 4 * self._value("SELECT count(*) FROM superseded") > max(records, 4 * _MERGE_AT):
            self._connection.execute("DELETE FROM record WHERE at_offset IN (SELECT at_offset FROM superseded)")
            self._connection.execute("DELETE FROM superseded")

    def _keep_contents(self, at: datetime) -> None:
        rows = self._rows(
            f"""SELECT b.* REPLACE ({", ".join(f"{index_answers.listed(f'b.{name}')} AS {name}" for name in _SETS)}) FROM (
                SELECT {_RECORD} FROM settled WHERE record_id IN (SELECT record_id FROM again)
                UNION ALL SELECT {_RECORD} FROM fresh WHERE record_id IN (SELECT record_id FROM again)
            ) b JOIN newest n ON n.record_id = b.record_id WHERE {_DIFFERS}"""
        )
        kept: dict[str, ProvenanceRecorded] = {}
        for before in map(_record, rows):
            name = f"{before.record_id}{_ALTERED}{content_fingerprint(before):0{HASH_DIGITS}x}"
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
        self._upsert("held", "root, attribute", _HELD_COLUMNS, rows)
        self._connection.execute("DELETE FROM held WHERE hmac IS NULL")

    def put_marks(self, marks: Sequence[UntaggedWrite]) -> None:
        """Store untagged writes; one with the same root, attribute and time takes the earlier one's place."""
        rows = [each.model_dump(mode="json") for each in marks]
        self._upsert("untagged_write", "root, attribute, seen_at", _MARK_COLUMNS, rows)

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
        return [_watch(row) for row in self._rows("SELECT * FROM watch WHERE NOT kept")]

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
                RETURNING record_id, {_root()} AS root""",
                stored(before),
            )
        ]
        marks = self._rows("DELETE FROM untagged_write WHERE until < ? RETURNING *", stored(before))
        return records, [_mark(row) for row in marks]

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
                f"DELETE FROM record WHERE {_root('record.')} IN ({gone}) RETURNING record_id, {_root()} AS root"
            )
        ]
        found += [
            (f"untagged/{mark.root}/{mark.attribute}/{round(mark.seen_at.timestamp() * 1000)}", mark.root)
            for mark in map(_mark, self._rows(f"DELETE FROM untagged_write WHERE root IN ({gone}) RETURNING *"))
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
                    f"""COPY (SELECT {_FROZEN} FROM frozen) TO {_quoted(str(target))}
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
            name = _quoted(str(target))
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

    def _upsert(self, table: str, key: str, columns: _Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        for chunk in _chunks(rows):
            # One JSON document for the whole chunk: a row at a time costs DuckDB a hundred times as much.
            self._connection.execute(
                f"CREATE OR REPLACE TEMP TABLE chunk AS SELECT unnest(from_json(?, '{json.dumps([columns])}'), max_depth := 2)",
                [json.dumps(chunk)],
            )
            self._connection.execute(f"DELETE FROM {table} WHERE ({key}) IN (SELECT ({key}) FROM chunk)")
            self._connection.execute(f"INSERT INTO {table} BY NAME FROM chunk")
            self._connection.execute("DROP TABLE chunk")


class _Unusable(Exception):
    """The file cannot serve; the message says why."""


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
        self._memory = _Memory()

    def open(
        self,
        partition: int,
        *,
        topic: str,
        cluster: str,
        partition_count: int,
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
    ) -> PartitionFile:
        """Take over a partition's file, or start it from zero where it cannot serve.

        `topic` is the physical name, `bounds` the first and next offset of each logical topic. Raises Unreachable if
        another process still holds the file after the takeover time.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = self._lock(partition)
        try:
            identity = (SCHEMA_VERSION, topic, cluster, partition, partition_count)
            for leftover in self._directory.glob(f"p{partition}.*.partial"):
                leftover.unlink()
            path, connection, old = self._chosen(identity, bounds, now)
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
        self, identity: tuple[int, str, str, int, int], bounds: Mapping[str, tuple[int, int]], now: datetime
    ) -> tuple[Path, duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection | None]:
        """Return the file to write to, open, and what answers meanwhile if that file is still being rebuilt."""
        partition = identity[3]
        path, beside, marker = self._path(partition), self._beside(partition), self._marker(partition)
        if beside.exists() and not marker.exists():
            # A rebuild that a crash, or another owner, interrupted.
            with contextlib.suppress(_Unusable):
                connection = self._checked(beside, identity, bounds, now)
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
            connection = self._checked(path, identity, bounds, now)
            _remove(beside)
            return path, connection, None
        except _Unusable as reason:
            damaged = marker.exists() and marker.read_text(encoding="utf-8") == _DAMAGED
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
        connection.execute(_SCHEMA)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?, ?, ?, ?, NULL)", [*identity, stored(now)])
        connection.commit()
        return connection

    def _checked(
        self,
        path: Path,
        identity: tuple[int, str, str, int, int],
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
    ) -> duckdb.DuckDBPyConnection:
        try:
            connection = self._connect(path)
        except duckdb.Error as error:
            if "lock" in str(error).lower():
                raise Unreachable(f"another program has {path} open; close it: the owner works alone") from error
            raise _Unusable(f"it cannot be opened: {error}") from error
        try:
            self._check(connection, path, identity, bounds, now)
            connection.execute(_ERASED)
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
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
    ) -> None:
        _check_whole(connection, path)
        found = connection.execute("SELECT * FROM meta").fetchall()
        if len(found) != 1:
            raise _Unusable("it was never finished")
        *was, head_at, _ = found[0]
        if tuple(was) != identity:
            raise _Unusable(f"it belongs to {tuple(was)}, not to {identity} (schema, topic, cluster, partition, of)")
        if now - _in_utc(head_at) > self._rebuild_after:
            raise _Unusable(
                f"it was last complete at {_in_utc(head_at):%Y-%m-%d %H:%M}; tombstones may be compacted away"
            )
        for topic, offset in connection.execute("SELECT topic, next_offset FROM position").fetchall():
            low, high = bounds.get(topic, (0, offset))
            if not low <= offset <= high:
                raise _Unusable(f"its position {offset} of {topic} lies outside of the topic's {low}..{high}")


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
        f"SELECT unnest(list_append(additional_block_ids, block_id)) AS block FROM pragma_storage_info({_quoted(table)})"
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


def _person(row: Mapping[str, Any]) -> Person:
    values = {
        name: row[name]
        for name in ("root", "customer_id", "website_id", "store_id", "locale", "channels", "email_hmac")
    }
    values["residence"] = json.loads(row["residence"])
    values["contact"] = None if row["contact"] is None else json.loads(row["contact"])
    if row["departed_at"] is not None:
        return CustomerDeparted(
            **values,
            attribute_hmacs=json.loads(row["attribute_hmacs"]),
            departed_at=_in_utc(row["departed_at"]),
            expires_at=_in_utc(row["expires_at"]),
        )
    if row["order_id"] is not None:
        return OrderChanged(**values, order_id=row["order_id"], faults=row["faults"])
    return CustomerChanged(**values, attribute_hmacs=json.loads(row["attribute_hmacs"]), faults=row["faults"])


def _mark(row: Mapping[str, Any]) -> UntaggedWrite:
    instants = {name: row[name] and _in_utc(row[name]) for name in ("since", "seen_at", "until", "record_at")}
    return UntaggedWrite.model_validate({**row, **instants})


def _watch(row: Mapping[str, Any]) -> WatchStarted:
    after = row["silent_from"] and _in_utc(row["silent_from"])
    return WatchStarted(attribute=row["attribute"], at=_in_utc(row["started_at"]), after=after)


def _record(row: Mapping[str, Any]) -> ProvenanceRecorded:
    instants = {name: row[name] and _in_utc(row[name]) for name in ("generated_at", "deleted_at", "loaded_at")}
    return ProvenanceRecorded.model_validate({name: row[name] for name in _RECORD_COLUMNS} | instants)


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)


def _text(at: datetime) -> str:
    return stored(at).isoformat(sep=" ")


def _numbers(kind: str, roots: Iterable[str]) -> list[int]:
    """Return the numbers of the roots of one kind that a column can hold: a root of another form is stored as it is."""
    named = (root.removeprefix(kind) for root in roots if root.startswith(kind))
    return [int(number) for number in named if len(number) <= 18]


def _runs(offsets: Sequence[int]) -> tuple[str, str]:
    """Return where numbers that follow each other begin, and what comes after each such run, as lists with commas."""
    gaps = [(last, first) for last, first in pairwise(offsets) if first - last != 1]
    firsts = [offsets[0], *(first for _, first in gaps)]
    afters = [*(last + 1 for last, _ in gaps), offsets[-1] + 1]
    return ",".join(map(str, firsts)), ",".join(map(str, afters))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _chunks(rows: Sequence[Mapping[str, Any]], size: int = 5000) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
