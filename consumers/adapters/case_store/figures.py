"""Counts over all open incidents from the case store, for metrics. Reads only."""

from collections import defaultdict

import sqlalchemy as sa

from bridge.contracts.events import PartitionResolved
from bridge.contracts.scope import Scope
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import incident, release, resolution
from consumers.case.figures import CaseFigures
from consumers.domain.coverage import is_complete, merged_coverage

_OPEN = incident.c.closed_at.is_(None) & (incident.c.state != "dismissed") & ~incident.c.exercise


class Figures:
    """Reads counts over open incidents; what partitions answered is read once for each new answer."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._coverage: dict[tuple[str, int, int], tuple[bool, int]] = {}

    def read(self) -> CaseFigures:
        """Return the counts as of now. Raises Unreachable."""
        with self._database.read() as connection:
            waiting, oldest = connection.execute(
                sa.select(sa.func.count(), sa.func.min(release.c.prepared_at, type_=release.c.prepared_at.type))
                .join(incident, incident.c.incident_id == release.c.incident_id)
                .where((release.c.state == "prepared") & _OPEN)
            ).one()
            answers = (
                connection.execute(
                    sa.select(
                        resolution.c.incident_id,
                        resolution.c.revision,
                        sa.func.count().label("answered"),
                        sa.func.max(resolution.c.partition_count).label("partition_count"),
                        sa.func.sum(resolution.c.affected_count).label("affected"),
                        sa.func.sum(resolution.c.possible_count).label("possible"),
                    )
                    .join(
                        incident,
                        (incident.c.incident_id == resolution.c.incident_id)
                        & (incident.c.revision == resolution.c.revision),
                    )
                    .where(_OPEN)
                    .group_by(resolution.c.incident_id, resolution.c.revision)
                )
                .mappings()
                .all()
            )
            keys = [(row["incident_id"], row["revision"], row["answered"]) for row in answers]
            self._learn(connection, [key for key in keys if key not in self._coverage])
        self._coverage = {key: self._coverage[key] for key in keys}
        possible = sum(int(row["possible"]) for row in answers)
        return CaseFigures(
            approvals_waiting=waiting,
            approvals_oldest_seconds=0.0 if oldest is None else (self._clock.now() - oldest).total_seconds(),
            recorded_people=sum(int(row["affected"]) for row in answers) - possible,
            possible_people=possible,
            coverage_incomplete=sum(not complete for complete, _ in self._coverage.values()),
            untagged_writes=sum(untagged for _, untagged in self._coverage.values()),
            partitions_missing=sum(row["partition_count"] - row["answered"] for row in answers),
        )

    def _learn(self, connection: sa.Connection, keys: list[tuple[str, int, int]]) -> None:
        parts: dict[str, list[PartitionResolved]] = defaultdict(list)
        scopes: dict[str, Scope] = {}
        for row in connection.execute(
            sa.select(incident.c.incident_id, incident.c.scope, resolution.c.event)
            .join(
                resolution,
                (resolution.c.incident_id == incident.c.incident_id) & (resolution.c.revision == incident.c.revision),
            )
            .where(incident.c.incident_id.in_([name for name, _, _ in keys]))
        ).mappings():
            parts[row["incident_id"]].append(PartitionResolved.model_validate_json(row["event"]))
            if row["scope"] is not None:
                scopes[row["incident_id"]] = Scope.model_validate(row["scope"])
        for key in keys:
            coverage = merged_coverage(each.coverage for each in parts[key[0]])
            scope = scopes.get(key[0])
            complete = scope is not None and is_complete(coverage, scope.exposed_from)
            self._coverage[key] = (complete, sum(each.untagged_count for each in coverage))
