"""What can be asked of one partition of the index, by whoever holds a connection to its file. Writes nothing."""

# ruff: noqa: S608  statements are put together from the constants here, compiled predicates and placeholders only

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from bridge.contracts.events import (
    Coverage,
    CustomerDeparted,
    ProvenanceRecorded,
    Sensitivity,
    UntaggedWrite,
    WatchStarted,
)
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
from consumers.adapters import index_answers
from consumers.adapters.index_rows import in_utc, mark_of, person_of, record_of, watch_of
from consumers.adapters.index_schema import AS_LISTS, STORED
from consumers.adapters.scope_sql import stored
from consumers.domain.coverage import unwatched_stretches
from consumers.domain.resolution import ANY_ATTRIBUTE, Found, Person, members_root
from consumers.domain.scope_matching import named_attributes, named_models
from consumers.domain.standing import Concern, Published
from consumers.domain.untagged import Held

_NEWEST = f"""SELECT {STORED} FROM (SELECT * REPLACE ({AS_LISTS}) FROM ({{which}}))
    QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY at_offset DESC) = 1"""
"""What `provenance` has of a few, without looking at all that is fresh."""
_OF_ROOTS = """FROM record WHERE root IN (SELECT unnest(?::VARCHAR[]))
    UNION ALL FROM record WHERE root IS NULL AND customer_id IN (SELECT unnest(?::BIGINT[]))
    UNION ALL FROM record WHERE root IS NULL AND customer_id IS NULL AND order_id IN (SELECT unnest(?::BIGINT[]))"""


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
        return {row["root"]: person_of(row) for row in rows}

    def records(self, record_ids: Iterable[str]) -> list[ProvenanceRecorded]:
        """Return the records with these ids, by id."""
        rows = self._rows(
            f"{_NEWEST.format(which='FROM record WHERE record_id IN (SELECT unnest(?::VARCHAR[]))')} ORDER BY record_id",
            list(record_ids),
        )
        return [record_of(row) for row in rows]

    def last_seen(self, roots: Iterable[str]) -> dict[str, datetime]:
        """Return when the present state of each of `roots` was published."""
        rows = self._rows(
            "SELECT root, seen_at FROM customer WHERE seen_at IS NOT NULL AND root IN (SELECT unnest(?::VARCHAR[]))",
            list(roots),
        )
        return {row["root"]: in_utc(row["seen_at"]) for row in rows}

    def held(self, roots: Iterable[str]) -> dict[tuple[str, str], Held]:
        """Return the values of registered attributes that were last seen of `roots`, by root and attribute."""
        rows = self._rows("SELECT * FROM held WHERE root IN (SELECT unnest(?::VARCHAR[]))", list(roots))
        return {
            (row["root"], row["attribute"]): Held(
                row["hmac"], in_utc(row["seen_at"]), row["record_at"] and in_utc(row["record_at"])
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
        return {(row["root"], row["attribute"]): in_utc(row["newest_at"]) for row in rows}

    def has_open_marks(self) -> bool:
        """Return whether any untagged write's value still stands."""
        return bool(self._value("SELECT count(*) FROM untagged_write WHERE until IS NULL"))

    def open_marks(self, roots: Iterable[str]) -> dict[tuple[str, str], UntaggedWrite]:
        """Return the untagged writes of `roots` whose values still stand."""
        rows = self._rows(
            "SELECT * FROM untagged_write WHERE until IS NULL AND root IN (SELECT unnest(?::VARCHAR[])) ORDER BY seen_at",
            list(roots),
        )
        return {(row["root"], row["attribute"]): mark_of(row) for row in rows}

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
            since[key] = row["since"] and in_utc(max(row["since"], kept or row["since"]))
            if row["loaded"] is not None:
                loaded[key] = in_utc(max(row["loaded"], kept or row["loaded"]))
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
                    first_seen[row["attribute"]] = in_utc(row["seen_at"])
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
        return [watch_of(row) for row in rows]

    def last_beat(self) -> datetime | None:
        """Return when the newest heartbeat was written in the store."""
        at = self._value("SELECT max(written_at) FROM beat")
        return at and in_utc(at)

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
            known[row["root"]] = {**row, "person_at": row["person_at"] and in_utc(row["person_at"])}
        for row in self._rows(
            """SELECT root, record_id, generated_at, deleted_at, loaded_at FROM provenance
            WHERE root IN (SELECT unnest(?::VARCHAR[])) ORDER BY record_id""",
            list(roots),
        ):
            # Records of somebody whose person nobody knows: gone, and their time is over.
            about = known.setdefault(row["root"], {"root": row["root"], "departed": True})
            instants = {name: at and in_utc(at) for name, at in row.items() if name.endswith("_at")}
            about.setdefault("records", []).append(RecordTimes(record_id=row["record_id"], **instants))
        for row in self._rows(
            "SELECT * FROM untagged_write WHERE root IN (SELECT unnest(?::VARCHAR[])) ORDER BY seen_at", list(roots)
        ):
            about = known.setdefault(row["root"], {"root": row["root"], "departed": True})
            seen = [in_utc(row[name]) for name in ("seen_at", "until") if row[name] is not None]
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
        instants = {name: row[name] and in_utc(row[name]) for name in row if name.endswith("_at")}
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
        # Asked first: what is committed between the questions adds names, and takes none of what was promised here.
        ends = [] if self.is_old else self._rows("SELECT read_at FROM read_to_end")
        beats = [] if self.is_old else self._rows("SELECT written_at FROM beat")
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
            read_to_end_at=in_utc(ends[0]["read_at"]) if ends else None,
            beat_at=in_utc(beats[0]["written_at"]) if beats else None,
            rebuilding=self.is_old,
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
        return Inspection(partition=self.partition, person=seen, records=tuple(record_of(row) for row in records))

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
                    last_generated_at=in_utc(row.pop("last_generated_at")),
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
            DataMapGap(**row | {name: row[name] and in_utc(row[name]) for name in row if name.endswith("_at")})
            for row in rows
        )


def _numbers(kind: str, roots: Iterable[str]) -> list[int]:
    """Return the numbers of the roots of one kind that a column can hold: a root of another form is stored as it is."""
    named = (root.removeprefix(kind) for root in roots if root.startswith(kind))
    return [int(number) for number in named if len(number) <= 18]
