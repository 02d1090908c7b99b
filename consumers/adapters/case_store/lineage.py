"""Run and dataset facts that pipelines reported, in the case store: they outlive every rebuild of the index.

Rows have natural keys, so that an event that comes twice, late or in another order leaves the same.
"""

import hashlib
from collections.abc import Collection

import sqlalchemy as sa

from consumers.adapters.case_store.engine import CaseDatabase, in_parts, upsert
from consumers.adapters.case_store.tables import lineage_dataset, lineage_run
from consumers.domain.openlineage import RunFact


class LineageTables:
    """Implements `consumers.domain.rewriting.Lineage` and the intake stage's `LineageStore`."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def keep(self, fact: RunFact, source: str) -> bool:
        """Keep what an event says of a run, in one transaction; return whether anything in it was new. Raises Unreachable."""
        return self._database.writing(lambda connection: _keep(connection, fact, source))

    def readers(self, dataset_versions: Collection[str]) -> set[str]:
        """Return the runs that had one of these as an input: by full name, by short name, or by the version alone."""
        hashes = [_sha256(each) for each in dataset_versions]
        table = lineage_dataset
        found: set[str] = set()
        with self._database.read() as connection:
            for chunk in in_parts(hashes):
                for column in (table.c.full_sha256, table.c.short_sha256, table.c.version_sha256):
                    query = sa.select(table.c.run_id).where(column.in_(chunk) & (table.c.role == "input"))
                    found.update(connection.execute(query).scalars())
        return found

    def outputs(self, run_ids: Collection[str]) -> set[str]:
        """Return what these runs wrote, as `namespace/name@version`."""
        table = lineage_dataset
        found: set[str] = set()
        with self._database.read() as connection:
            for chunk in in_parts(_known(run_ids)):
                query = sa.select(table.c.namespace, table.c.name, table.c.version).where(
                    table.c.run_id.in_(chunk) & (table.c.role == "output")
                )
                found.update(
                    f"{row.namespace}/{row.name}" + ("" if row.version is None else f"@{row.version}")
                    for row in connection.execute(query)
                )
        return found

    def children(self, run_ids: Collection[str]) -> set[str]:
        """Return the runs that these started."""
        return self._related(lineage_run.c.run_id, lineage_run.c.parent_run_id, run_ids)

    def parents(self, run_ids: Collection[str]) -> set[str]:
        """Return the runs that started these."""
        return self._related(lineage_run.c.parent_run_id, lineage_run.c.run_id, run_ids)

    def _related(self, wanted: sa.Column[str], by: sa.Column[str], run_ids: Collection[str]) -> set[str]:
        found: set[str] = set()
        with self._database.read() as connection:
            for chunk in in_parts(_known(run_ids)):
                query = sa.select(wanted).where(by.in_(chunk) & wanted.is_not(None))
                found.update(connection.execute(query).scalars())
        return found


def _keep(connection: sa.Connection, fact: RunFact, source: str) -> bool:
    first = {
        "run_id": fact.run_id, "source": source, "job_namespace": fact.job_namespace, "job_name": fact.job_name,
        "parent_run_id": None, "state": fact.state, "state_at": fact.at, "first_event_at": fact.at,
    }  # fmt: skip
    upsert(connection, lineage_run, [first])
    # Events of one run that come at once take turns from here on.
    known = connection.execute(
        sa.select(lineage_run).where(lineage_run.c.run_id == fact.run_id).with_for_update()
    ).mappings().one()  # fmt: skip
    changes: dict[str, object] = {}
    if fact.at > known["state_at"]:
        changes |= {"state": fact.state, "state_at": fact.at}
    if fact.at < known["first_event_at"]:
        changes["first_event_at"] = fact.at
    has_parent = fact.parent_run_id is not None and known["parent_run_id"] is None
    if has_parent:
        changes["parent_run_id"] = fact.parent_run_id
    if changes:
        connection.execute(sa.update(lineage_run).where(lineage_run.c.run_id == fact.run_id).values(**changes))
    query = sa.select(lineage_dataset.c.role, lineage_dataset.c.name_sha256).where(
        lineage_dataset.c.run_id == fact.run_id
    )
    before = {(row.role, row.name_sha256) for row in connection.execute(query)}
    rows = [each for each in fact.datasets if (each.role.value, _sha256(each.full)) not in before]
    upsert(
        connection,
        lineage_dataset,
        [
            {
                "run_id": fact.run_id, "role": each.role.value, "name_sha256": _sha256(each.full),
                "namespace": each.namespace, "name": each.name, "version": each.version,
                "full_sha256": _sha256(each.full), "short_sha256": _sha256(each.short),
                "version_sha256": None if each.version is None else _sha256(each.version), "seen_at": fact.at,
            }
            for each in rows
        ],
    )  # fmt: skip
    return has_parent or bool(rows)


def _known(run_ids: Collection[str]) -> list[str]:
    # what is longer than a UUID is no run of lineage; MariaDB would compare it cut off
    return sorted({each.lower() for each in run_ids if len(each) <= 36})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
