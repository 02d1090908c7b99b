"""The provenance index: one DuckDB file per partition of `store-changes`, held by the partition's owner alone.

State and position commit in one transaction, so a file is exactly-once by construction; a file that is lost, foreign,
cut off, of another schema or too old is rebuilt from the topics, and the log says so. Contacts lie here only sealed.
Not for deciding what a change or an incident means: that is the stage's work.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import structlog

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import (
    Coverage,
    CustomerAffected,
    CustomerChanged,
    CustomerDeparted,
    Kind,
    OrderChanged,
    ProvenanceRecorded,
    Sensitivity,
)
from bridge.contracts.queries import (
    DataMapRow,
    Inspection,
    PartitionDataMap,
    PartitionNames,
    PartitionPreview,
    PartitionStatus,
    PersonSeen,
)
from bridge.contracts.scope import Scope
from bridge.contracts.topics import STORE_CHANGES
from consumers.adapters.scope_sql import asks_for_versions, compile_scope, stored
from consumers.domain.resolution import ANY_ATTRIBUTE, Found, Person, why_of
from consumers.domain.scope_matching import jurisdictions, named_attributes, named_models

log = structlog.get_logger()

_Columns = Mapping[str, str | list[str]]

SCHEMA_VERSION = 2
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
    "faults": ["VARCHAR"],
}
_FROZEN_COLUMNS: _Columns = {
    "root": "VARCHAR",
    "customer_id": "BIGINT",
    "standing": "VARCHAR",
    "record_ids": ["VARCHAR"],
    "residence": ["VARCHAR"],
    "event": "VARCHAR",
}


_MAY_CHANGE = frozenset({"record_id", "deleted_at", "faults"})
# What was not there before may come (a later version reads more of a row), and what was unreadable may be put right.
_ALTERED = (
    "provenance.altered OR (len(provenance.faults) = 0 AND ("
    + " OR ".join(
        f"(provenance.{name} IS NOT NULL AND provenance.{name} IS DISTINCT FROM excluded.{name})"
        for name in _RECORD_COLUMNS
        if name not in _MAY_CHANGE
    )
    + "))"
)


def _columns(columns: _Columns, key: str | None = None) -> str:
    return ", ".join(
        f"{name} {kind if isinstance(kind, str) else kind[0] + '[]'}{' PRIMARY KEY' if name == key else ''}"
        for name, kind in columns.items()
    )


# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only
_SCHEMA = f"""
CREATE TABLE meta (schema_version INTEGER, topic VARCHAR, cluster VARCHAR, partition INTEGER, partition_count INTEGER,
    head_at TIMESTAMP);
CREATE TABLE position (topic VARCHAR PRIMARY KEY, next_offset BIGINT);
CREATE TABLE customer ({_columns(_PERSON_COLUMNS, "root")});
CREATE TABLE departed ({_columns(_DEPARTED_COLUMNS, "root")});
CREATE TABLE provenance ({_columns(_RECORD_COLUMNS, "record_id")}, altered BOOLEAN DEFAULT false);
CREATE TABLE beat (written_at TIMESTAMP, visible_at TIMESTAMP);
CREATE TABLE resolved (incident_id VARCHAR, revision INTEGER, PRIMARY KEY (incident_id, revision));
CREATE TABLE member (incident_id VARCHAR, revision INTEGER, root VARCHAR, standing VARCHAR,
    PRIMARY KEY (incident_id, revision, root));
CREATE VIEW person AS
    SELECT *, NULL::TIMESTAMP AS departed_at, NULL::TIMESTAMP AS expires_at FROM customer
    UNION ALL SELECT * FROM departed WHERE root NOT IN (SELECT root FROM customer);
CREATE VIEW untagged AS
    SELECT held.root, held.customer_id, held.attribute
    FROM (SELECT root, customer_id, unnest(attributes) AS attribute FROM person) held
    ANTI JOIN provenance ON provenance.root = held.root AND provenance.attribute = held.attribute;
"""


class _Matched(NamedTuple):
    """A matching record as far as *why* needs it."""

    root: str
    customer_id: int | None
    record_id: str
    attribute: str
    model_id: str
    model_version: str
    kind: Kind
    sensitivity: Sensitivity
    categories: tuple[str, ...]
    elements: tuple[str, ...]
    input_fields: tuple[str, ...]


class PartitionReader:
    """Questions to one partition's file, on one connection. Sees committed state, and what its own transaction wrote."""

    def __init__(self, partition: int, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.partition = partition
        self.path = path
        self._connection = connection

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
            "SELECT * FROM provenance WHERE record_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY record_id",
            list(record_ids),
        )
        return [_record(row) for row in rows]

    def answer(self, scope: Scope, roots: Iterable[str] | None = None) -> list[Found]:
        """Return everyone that `scope` concerns (of `roots` only, if given), sorted by root.

        Recorded: a record certainly matches. Possible: a record may match but lacks the fact that decides, or a
        registered attribute's value is held without any record and may come from what the scope names.
        """
        only = None if roots is None else list(roots)
        certain: dict[str, list[_Matched]] = {}
        uncertain: dict[str, list[_Matched]] = {}
        customers: dict[str, int | None] = {}
        for match, verdict in self._matched(scope, only):
            (certain if verdict else uncertain).setdefault(match.root, []).append(match)
            customers[match.root] = match.customer_id
        for root, customer_id in self._untagged_holders(scope, only):
            customers.setdefault(root, customer_id)
        named = self._everyone(scope, only) if scope.everyone else {}
        for root, (customer_id, _) in named.items():
            customers.setdefault(root, customer_id)
        persons = self.persons(customers)
        found = []
        for root in sorted(customers):
            records = certain.get(root) or uncertain.get(root)
            found.append(
                Found(
                    root=root,
                    customer_id=customers[root],
                    standing="recorded" if root in certain or named.get(root, (None, False))[1] else "possible",
                    why=why_of(records) if records else None,
                    person=persons.get(root),
                )
            )
        return found

    def _compiled(self, scope: Scope) -> tuple[str, list[Any]]:
        if not asks_for_versions(scope):
            return compile_scope(scope)
        rows = self._connection.execute("SELECT DISTINCT model_version FROM provenance").fetchall()
        return compile_scope(scope, [version for (version,) in rows])

    def _matched(self, scope: Scope, roots: list[str] | None) -> Iterator[tuple[_Matched, bool | None]]:
        predicate, parameters = self._compiled(scope)
        restriction = "" if roots is None else "WHERE r.root IN (SELECT unnest(?::VARCHAR[]))"
        rows = self._connection.execute(
            f"""SELECT * FROM (
                SELECT r.root, coalesce(p.customer_id, r.customer_id), r.record_id, r.attribute, r.model_id,
                    r.model_version, r.kind, r.sensitivity, r.categories, r.elements, r.input_fields,
                    {predicate} AS verdict
                FROM provenance r LEFT JOIN person p ON p.root = r.root {restriction}
            ) WHERE verdict IS NOT FALSE""",
            [*parameters, *([] if roots is None else [roots])],
        )
        while chunk := rows.fetchmany(5000):
            for row in chunk:
                matched = _Matched(
                    root=row[0],
                    customer_id=row[1],
                    record_id=row[2],
                    attribute=row[3],
                    model_id=row[4],
                    model_version=row[5],
                    kind=Kind(row[6]),
                    sensitivity=Sensitivity(row[7]),
                    categories=tuple(row[8]),
                    elements=tuple(row[9]),
                    input_fields=tuple(row[10]),
                )
                yield matched, row[11]

    def _untagged_holders(self, scope: Scope, roots: list[str] | None) -> list[tuple[str, int | None]]:
        predicate, parameters = self._compiled(scope)
        restriction = "" if roots is None else "WHERE root IN (SELECT unnest(?::VARCHAR[]))"
        # A value without a record counts as a record of each model that is known to write the attribute. Where the scope
        # names a model that this partition has never seen, nothing says what it writes: it may have written anything.
        seen = {row["model_id"] for row in self._rows("SELECT DISTINCT model_id FROM provenance")}
        anyone = "UNION SELECT u.*, NULL FROM u" if named_models(scope) - seen else ""
        rows = self._rows(
            f"""WITH u AS (SELECT * FROM untagged {restriction}),
                w AS (SELECT DISTINCT attribute, model_id FROM provenance),
                c AS (SELECT u.*, w.model_id FROM u LEFT JOIN w ON w.attribute = u.attribute {anyone}),
                r AS (SELECT c.*, '' AS record_id, 'customer' AS entity_type, NULL::VARCHAR AS model_version,
                    NULL::VARCHAR AS run_id, NULL::VARCHAR AS dataset_version, NULL::VARCHAR AS source_system,
                    NULL::VARCHAR AS storage_location, NULL::VARCHAR AS kind, NULL::VARCHAR AS sensitivity,
                    NULL::VARCHAR[] AS categories, NULL::TIMESTAMP AS generated_at, NULL::TIMESTAMP AS deleted_at FROM c)
            SELECT DISTINCT root, customer_id FROM (
                SELECT r.root, r.customer_id, {predicate} AS verdict FROM r LEFT JOIN person p ON p.root = r.root
            ) WHERE verdict IS NOT FALSE""",
            *([] if roots is None else [roots]),
            *parameters,
        )
        return [(row["root"], row["customer_id"]) for row in rows]

    def _everyone(self, scope: Scope, roots: list[str] | None) -> dict[str, tuple[int | None, bool]]:
        """Return whom the person's fields name, by root: the customer id, and whether they certainly do."""
        predicate, parameters = compile_scope(scope)
        restriction = "" if roots is None else "WHERE p.root IN (SELECT unnest(?::VARCHAR[]))"
        rows = self._rows(
            f"""SELECT root, customer_id, verdict FROM (
                SELECT r.root, r.customer_id, {predicate} AS verdict
                FROM person r JOIN person p ON p.root = r.root {restriction}
            ) WHERE verdict IS NOT FALSE""",
            *parameters,
            *([] if roots is None else [roots]),
        )
        return {row["root"]: (row["customer_id"], bool(row["verdict"])) for row in rows}

    def coverage(self, scope: Scope) -> tuple[Coverage, ...]:
        """Return since when this partition has records of what the scope names, and how many values have none.

        What the scope names and no record here does appears with `recorded_since` None.
        """
        models, attributes = named_models(scope), named_attributes(scope)
        since: dict[tuple[str, str], datetime | None] = {}
        written: set[str] = set()
        seen_models: set[str] = set()
        for row in self._rows(
            "SELECT model_id, attribute, min(generated_at) AS since FROM provenance GROUP BY model_id, attribute"
        ):
            written.add(row["attribute"])
            seen_models.add(row["model_id"])
            if (not models or row["model_id"] in models) and (not attributes or row["attribute"] in attributes):
                since[row["model_id"], row["attribute"]] = _in_utc(row["since"])
        untagged = self._untagged_counts()
        everyone_untagged = int(self._value("SELECT count(DISTINCT root) FROM untagged"))
        unexplained = {
            attribute for attribute in untagged if attribute not in written and attribute in (attributes or {attribute})
        }
        for model in models or {ANY_ATTRIBUTE}:
            for attribute in unexplained | attributes:
                if models or attribute not in written:
                    since.setdefault((model, attribute), None)
            if model not in seen_models and not attributes and (models or not since):
                since.setdefault((model, ANY_ATTRIBUTE), None)
        return tuple(
            Coverage(
                model_id=model,
                attribute=attribute,
                recorded_since=at,
                untagged_count=everyone_untagged if attribute == ANY_ATTRIBUTE else untagged.get(attribute, 0),
            )
            for (model, attribute), at in sorted(since.items())
        )

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

    def members(self, incident_id: str, revision: int, roots: Iterable[str]) -> dict[str, str]:
        """Return the standing of those of `roots` that were published for this revision."""
        rows = self._rows(
            """SELECT root, standing FROM member
            WHERE incident_id = ? AND revision = ? AND root IN (SELECT unnest(?::VARCHAR[]))""",
            incident_id,
            revision,
            list(roots),
        )
        return {row["root"]: row["standing"] for row in rows}

    def expired(self, now: datetime) -> list[str]:
        """Return the roots of departed people whose time is over."""
        rows = self._rows("SELECT root FROM departed WHERE expires_at <= ? ORDER BY root", stored(now))
        return [row["root"] for row in rows]

    def preview(self, scope: Scope) -> PartitionPreview:
        """Count what `answer` would find."""
        found = self.answer(scope)
        counts: dict[str, dict[str, int]] = {name: {} for name in ("jurisdiction", "kind", "sensitivity", "channel")}

        def count(by: str, value: str) -> None:
            counts[by][value] = counts[by].get(value, 0) + 1

        for each in found:
            residence = each.person.residence if each.person else ()
            count("jurisdiction", residence[0].code if residence else "unknown")
            for kind in each.why.kinds if each.why else ():
                count("kind", kind.value)
            count("sensitivity", each.why.highest_sensitivity.value if each.why else "unknown")
            for channel in (each.person.channels if each.person else ()) or ("none",):
                count("channel", str(channel))
        return PartitionPreview(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            affected_count=len(found),
            possible_count=sum(each.standing == "possible" for each in found),
            departed_count=sum(not isinstance(each.person, CustomerChanged | OrderChanged) for each in found),
            record_count=sum(len(each.why.record_ids) for each in found if each.why),
            by_jurisdiction=counts["jurisdiction"],
            by_kind=counts["kind"],
            by_sensitivity=counts["sensitivity"],
            by_channel=counts["channel"],
            coverage=self.coverage(scope),
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
        return PartitionStatus(
            partition=self.partition,
            position_offset=self.positions().get(STORE_CHANGES.name, 0),
            resolved=tuple(each["name"] for each in resolved),
            file_bytes=self.path.stat().st_size,
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
            """SELECT model_id, model_version, entity_type, attribute, count(*) AS record_count,
                count(DISTINCT root) AS root_count, list(DISTINCT sensitivity) AS sensitivities,
                list(DISTINCT legal_basis) AS legal_bases, list(DISTINCT storage_location) AS storage_locations,
                max(generated_at) AS last_generated_at
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
        )


class PartitionFile(PartitionReader):
    """One partition's file, open for its owner's single writing thread."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside durable together, or none of them."""
        with self._watched():
            self._connection.begin()
            try:
                yield
            except BaseException:
                # A crash or error before the commit leaves the file as it was: the batch is read again.
                with contextlib.suppress(duckdb.Error):
                    self._connection.rollback()
                raise
            self._connection.commit()

    def answer(self, scope: Scope, roots: Iterable[str] | None = None) -> list[Found]:
        """Return everyone that `scope` concerns, see `PartitionReader.answer`."""
        with self._watched():
            return super().answer(scope, roots)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            damaged = isinstance(
                error, duckdb.FatalException | duckdb.InternalException | duckdb.SerializationException
            )
            if not damaged and "corrupt" not in str(error).lower():
                raise
            self.path.with_suffix(".rebuild").touch()
            raise Unreachable(
                f"the index file of partition {self.partition} is damaged and will be rebuilt from zero: {error}"
            ) from error

    def put_persons(self, persons: Sequence[CustomerChanged | OrderChanged]) -> None:
        """Store the present state of customers and orders; at most one for each root."""
        self._upsert("customer", "root", _PERSON_COLUMNS, [_person_row(each) for each in persons])

    def drop_persons(self, roots: Sequence[str]) -> None:
        """Forget customers and orders that the store no longer holds."""
        self._connection.execute("DELETE FROM customer WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def put_departed(self, departed: Sequence[CustomerDeparted]) -> None:
        """Store people who are gone and still owed a notice; at most one for each root."""
        self._upsert("departed", "root", _DEPARTED_COLUMNS, [_person_row(each) for each in departed])

    def drop_departed(self, roots: Sequence[str]) -> None:
        """Forget departed people whose time is over."""
        self._connection.execute("DELETE FROM departed WHERE root IN (SELECT unnest(?::VARCHAR[]))", [list(roots)])

    def put_records(self, records: Sequence[ProvenanceRecorded]) -> None:
        """Store records as the store holds them now; at most one for each record id.

        Append-only: whose content was read in full before and is another now is remembered as altered.
        """
        rows = [each.model_dump(mode="json") for each in records]
        self._upsert("provenance", "record_id", _RECORD_COLUMNS, rows, also=f"altered = {_ALTERED}")

    def keep_records(self, records: Sequence[ProvenanceRecorded]) -> None:
        """Store kept copies of deleted records, unless the store's own word on a record is known."""
        rows = [each.model_dump(mode="json") for each in records]
        self._upsert("provenance", "record_id", _RECORD_COLUMNS, rows, replace=False)

    def mark_deleted(self, deleted_at: Mapping[str, datetime]) -> None:
        """Set `deleted_at` of records that have none yet; instants by record id."""
        rows = [{"record_id": record_id, "at": _text(at)} for record_id, at in deleted_at.items()]
        for chunk in _chunks(rows):
            self._connection.execute(
                """UPDATE provenance SET deleted_at = gone.at
                FROM (SELECT unnest(from_json(?, '[{"record_id": "VARCHAR", "at": "TIMESTAMP"}]'), max_depth := 2)) gone
                WHERE provenance.record_id = gone.record_id AND provenance.deleted_at IS NULL""",
                [json.dumps(chunk)],
            )

    def set_positions(self, positions: Mapping[str, int]) -> None:
        """Store the next offset to read of each logical topic."""
        for topic, offset in positions.items():
            self._connection.execute(
                "INSERT INTO position VALUES (?, ?) ON CONFLICT (topic) DO UPDATE SET next_offset = excluded.next_offset",
                [topic, offset],
            )

    def note_head(self, at: datetime) -> None:
        """Remember that at `at` the file held everything published: younger tombstones cannot have been missed."""
        self._connection.execute("UPDATE meta SET head_at = ?", [stored(at)])

    def note_beat(self, written_at: datetime, visible_at: datetime) -> None:
        """Remember when the newest heartbeat was written in the store, and when it was visible here."""
        self._connection.execute("DELETE FROM beat")
        self._connection.execute("INSERT INTO beat VALUES (?, ?)", [stored(written_at), stored(visible_at)])

    def mark_resolved(self, incident_id: str, revision: int, standings: Mapping[str, str]) -> None:
        """Remember that this revision is answered and who was published, standings by root."""
        self._connection.execute("INSERT OR IGNORE INTO resolved VALUES (?, ?)", [incident_id, revision])
        self.add_members(incident_id, revision, standings)

    def add_members(self, incident_id: str, revision: int, standings: Mapping[str, str]) -> None:
        """Remember further people as published for this revision, or with a new standing."""
        rows = [{"root": root, "standing": standing} for root, standing in standings.items()]
        for chunk in _chunks(rows):
            self._connection.execute(
                """INSERT INTO member SELECT ?, ?, root, standing
                FROM (SELECT unnest(from_json(?, '[{"root": "VARCHAR", "standing": "VARCHAR"}]'), max_depth := 2))
                ON CONFLICT (incident_id, revision, root) DO UPDATE SET standing = excluded.standing""",
                [incident_id, revision, json.dumps(chunk)],
            )

    def freeze(self, header: Mapping[str, Any], members: Sequence[CustomerAffected]) -> bytes:
        """Return an answer as a Parquet file: one row for each member, `header` as its metadata.

        Sealed contacts and keyed hashes are left out: the frozen answer outlives the person's own data.
        """
        rows = [
            {
                "root": each.root,
                "customer_id": each.customer_id,
                "standing": each.standing,
                "record_ids": list(each.why.record_ids) if each.why else [],
                "residence": [residence.code for residence in each.residence],
                "event": each.model_copy(update={"contact": None, "email_hmac": None}).model_dump_json(),
            }
            for each in members
        ]
        target = self._scratch("freeze")
        metadata = json.dumps(header, default=str).replace("'", "''")
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE frozen ({_columns(_FROZEN_COLUMNS)})")
        try:
            for chunk in _chunks(rows):
                self._connection.execute(
                    f"INSERT INTO frozen BY NAME SELECT unnest(from_json(?, '{json.dumps([_FROZEN_COLUMNS])}'), "
                    "max_depth := 2)",
                    [json.dumps(chunk)],
                )
            self._connection.execute(
                f"COPY (SELECT * FROM frozen ORDER BY root) TO {_quoted(str(target))} "
                f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{tocsin: '{metadata}'}})"
            )
            return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)
            self._connection.execute("DROP TABLE IF EXISTS frozen")

    def thaw(self, content: bytes) -> tuple[dict[str, Any], list[CustomerAffected]]:
        """Return header and members of a frozen answer, sorted by root. Raises Refused if it is none."""
        target = self._scratch("thaw")
        try:
            target.write_bytes(content)
            name = _quoted(str(target))
            header = self._value(f"SELECT decode(value) FROM parquet_kv_metadata({name}) WHERE decode(key) = 'tocsin'")
            events = self._rows(f"SELECT event FROM read_parquet({name}) ORDER BY root")
        except duckdb.Error as error:
            raise Refused(f"a frozen answer cannot be read: {error}") from error
        finally:
            target.unlink(missing_ok=True)
        if header is None:
            raise Refused("a frozen answer has no header: not written by Tocsin")
        return json.loads(header), [CustomerAffected.model_validate_json(row["event"]) for row in events]

    def _scratch(self, purpose: str) -> Path:
        return self.path.with_suffix(f".{purpose}.partial")

    def _upsert(
        self,
        table: str,
        key: str,
        columns: _Columns,
        rows: Sequence[Mapping[str, Any]],
        *,
        replace: bool = True,
        also: str = "",
    ) -> None:
        changes = ", ".join(
            [*(f"{name} = excluded.{name}" for name in columns if name != key), *([also] if also else [])]
        )
        action = f"DO UPDATE SET {changes}" if replace else "DO NOTHING"
        for chunk in _chunks(rows):
            # One JSON document for the whole chunk: a row at a time costs DuckDB a hundred times as much.
            self._connection.execute(
                f"INSERT INTO {table} BY NAME SELECT unnest(from_json(?, '{json.dumps([columns])}'), max_depth := 2) "
                f"ON CONFLICT ({key}) {action}",
                [json.dumps(chunk)],
            )


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
        memory_limit: str = "512MB",
    ) -> None:
        self._directory = directory
        self._rebuild_after = rebuild_after
        self._takeover_seconds = takeover_seconds
        self._memory_limit = memory_limit
        self._files: dict[int, PartitionFile] = {}
        self._connections: dict[int, tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]] = {}
        self._locks: dict[int, int] = {}
        self._serving = threading.Lock()

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
            path = self._path(partition)
            identity = (SCHEMA_VERSION, topic, cluster, partition, partition_count)
            for leftover in self._directory.glob(f"p{partition}.*.partial"):
                leftover.unlink()
            if path.exists():
                try:
                    connection = self._checked(path, identity, bounds, now)
                except _Unusable as reason:
                    log.warning("index file is rebuilt from zero", partition=partition, reason=str(reason))
                    connection = self._created(path, identity, now)
            else:
                log.info("index file is built from zero", partition=partition, reason="there is none")
                connection = self._created(path, identity, now)
            # Only now: a crash before leaves the request standing.
            self._marker(partition).unlink(missing_ok=True)
        except BaseException:
            os.close(descriptor)
            raise
        with self._serving:
            self._locks[partition] = descriptor
            self._connections[partition] = (connection, connection.cursor())
            self._files[partition] = PartitionFile(partition, path, connection)
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
                os.close(self._locks.pop(each))

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[PartitionReader]]:
        """Lend readers of all owned partitions to another thread; a partition is not given up meanwhile."""
        with self._serving:
            cursors = {partition: spare.cursor() for partition, (_, spare) in sorted(self._connections.items())}
            try:
                yield [PartitionReader(each, self._path(each), cursor) for each, cursor in cursors.items()]
            finally:
                for cursor in cursors.values():
                    cursor.close()

    def ask_rebuild(self, partition: int) -> None:
        """Ask the owner, whoever it is, to rebuild a partition's file from the topics."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._marker(partition).touch()

    def rebuild_asked(self, partition: int) -> bool:
        """Return whether somebody asked for a rebuild of an owned partition."""
        return self._marker(partition).exists()

    def _path(self, partition: int) -> Path:
        return self._directory / f"p{partition}.duckdb"

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

    def _connect(self, path: Path) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(
            str(path),
            config={
                "threads": 2,
                "memory_limit": self._memory_limit,
                "temp_directory": str(path.with_suffix(".spill")),
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        connection.execute("SET wal_autocheckpoint = '16MB'")
        return connection

    def _created(
        self, path: Path, identity: tuple[int, str, str, int, int], now: datetime
    ) -> duckdb.DuckDBPyConnection:
        for each in (path, path.with_name(path.name + ".wal")):
            each.unlink(missing_ok=True)
        connection = self._connect(path)
        # A crash before the commit leaves a file without a meta row: unusable, so built again.
        connection.begin()
        connection.execute(_SCHEMA)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?, ?, ?, ?)", [*identity, stored(now)])
        connection.commit()
        return connection

    def _checked(
        self,
        path: Path,
        identity: tuple[int, str, str, int, int],
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
    ) -> duckdb.DuckDBPyConnection:
        if self._marker(identity[3]).exists():
            raise _Unusable("somebody asked for it")
        try:
            connection = self._connect(path)
        except duckdb.Error as error:
            if "lock" in str(error).lower():
                raise Unreachable(f"another program has {path} open; close it: the owner works alone") from error
            raise _Unusable(f"it cannot be opened: {error}") from error
        try:
            self._check(connection, path, identity, bounds, now)
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
        block_size, blocks = connection.execute(
            "SELECT block_size, total_blocks FROM pragma_database_size()"
        ).fetchall()[0]
        # DuckDB opens a file whose end is missing and fails only when it comes to the missing block.
        if path.stat().st_size < block_size * blocks:
            raise _Unusable("its end is missing")
        found = connection.execute("SELECT * FROM meta").fetchall()
        if len(found) != 1:
            raise _Unusable("it was never finished")
        *was, head_at = found[0]
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


def _record(row: Mapping[str, Any]) -> ProvenanceRecorded:
    instants = {name: row[name] and _in_utc(row[name]) for name in ("generated_at", "deleted_at")}
    return ProvenanceRecorded.model_validate({name: row[name] for name in _RECORD_COLUMNS} | instants)


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)


def _text(at: datetime) -> str:
    return stored(at).isoformat(sep=" ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _chunks(rows: Sequence[Mapping[str, Any]], size: int = 5000) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
