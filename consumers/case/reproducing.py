"""Does a resolution hold? Its frozen files must give root and counts again, and so must the index while nothing changed.

Reads only. Not for what the store itself says (`crosschecking`), nor for whether planning has everybody (it refuses itself).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import PartitionResolved
from bridge.contracts.queries import Members, MemberSeen, RootTimes
from bridge.contracts.scope import Scope
from consumers.case.records import IncidentRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found
from consumers.domain.differing import Differing, as_sets, changed_since, differing
from consumers.domain.resolution import Member, members_root


class Frozen(Protocol):
    """A frozen answer."""

    @property
    def header(self) -> Mapping[str, Any]: ...
    @property
    def members(self) -> list[Member]: ...
    @property
    def departed(self) -> frozenset[str]: ...
    @property
    def residence(self) -> Mapping[str, tuple[str, ...]]: ...


class FrozenFiles(Protocol):
    """Where frozen answers lie."""

    def read(self, sha256: str) -> Frozen:
        """Return an answer. Raises Refused that says what is wrong with its file."""
        ...


class AnswerIndex(Protocol):
    """The index, asked anew. Every method raises Unreachable if no worker answers."""

    def members(self, scope: Scope) -> Members: ...
    def members_of(self, scope: Scope, partitions: Collection[int]) -> Mapping[int, Sequence[MemberSeen]]: ...
    def times(self, roots: Sequence[str]) -> Mapping[str, RootTimes]: ...


@dataclass(frozen=True, slots=True)
class PartitionAgain:
    """One partition's answer, computed again."""

    record: PartitionResolved
    fault: str | None
    """What is wrong with the frozen file; None: it gives root and counts of the record."""
    index_root: str | None = None
    """What the index gives now; None: its partition did not answer, or was not asked."""

    @property
    def same_now(self) -> bool | None:
        """Whether the index gives the same root still; None: not known."""
        return None if self.index_root is None else self.index_root == self.record.merkle_root


@dataclass(frozen=True, slots=True)
class Changed:
    """A root that the index answers otherwise today."""

    partition: int
    difference: Differing
    at: datetime | None
    """When it changed; None: nothing known has changed since the resolution, so that the difference has no explanation."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A resolution, computed again."""

    incident: IncidentRecord
    partitions: Sequence[PartitionAgain]
    partition_count: int | None
    index_silent: str | None
    """Why the index was not compared, or not whole; None: every partition was."""
    changes: Sequence[Changed]

    @property
    def holds(self) -> bool:
        """Whether every frozen file is as its record says, and every change since has its time."""
        return all(each.fault is None for each in self.partitions) and all(each.at is not None for each in self.changes)


def reproduce(
    store: CaseStore, incident_id: str, files: FrozenFiles, index: AnswerIndex | None, *, revision: int | None = None
) -> Reproduction:
    """Compute root and counts of a revision (the newest by default) again: from its frozen files, and from the index.

    `index` None: it is not asked. Raises Refused where no partition has answered.
    """

    def work(case: CaseWork) -> tuple[IncidentRecord, Sequence[PartitionResolved]]:
        incident = found(case, incident_id)
        return incident, case.resolutions(incident_id, incident.revision if revision is None else revision)

    incident, records = store.look(work)
    if not records:
        shown = incident.revision if revision is None else revision
        raise Refused(f"{incident_id}: no partition has answered to revision {shown}; there is nothing to reproduce")
    frozen: dict[int, Frozen] = {}
    faults: dict[int, str | None] = {}
    for record in records:
        try:
            frozen[record.partition] = files.read(record.artefact_sha256)
            faults[record.partition] = _fault(record, frozen[record.partition])
        except Refused as error:
            faults[record.partition] = str(error)
    partition_count = max(record.partition_count for record in records)
    silent: str | None = "it was not asked"
    roots: dict[int, str] = {}
    changes: list[Changed] = []
    if index is not None and incident.scope is not None:
        # An older revision had another scope, which only its files know.
        scope = Scope.model_validate(incident.scope)
        if any(record.scope_sha256 != scope.sha256() for record in records):
            silent = "the scope has been corrected since; ask for the newest revision"
        else:
            silent, roots, changes = _from_index(scope, records, frozen, index)
    return Reproduction(
        incident,
        [PartitionAgain(each, faults[each.partition], roots.get(each.partition)) for each in records],
        partition_count,
        silent,
        changes,
    )


def _fault(record: PartitionResolved, frozen: Frozen) -> str | None:
    """Return what the frozen file says otherwise than the record."""
    members = frozen.members
    again = {
        "merkle_root": members_root(members),
        "affected_count": len(members),
        "possible_count": sum(standing == "possible" for _, _, standing in members),
    }
    for name, value in again.items():
        if value != getattr(record, name):
            return f"its people give {name} {value}, its record says {getattr(record, name)}"
    said = {"incident_id", "revision", "partition", "partition_count", "scope_sha256", "position_offset"}
    for name in sorted(said):
        if frozen.header.get(name) != getattr(record, name):
            return f"its header says {name} {frozen.header.get(name)}, its record says {getattr(record, name)}"
    return None


def _from_index(
    scope: Scope, records: Sequence[PartitionResolved], frozen: Mapping[int, Frozen], index: AnswerIndex
) -> tuple[str | None, dict[int, str], list[Changed]]:
    try:
        now = index.members(scope)
        if now.partition_count != max(record.partition_count for record in records):
            return (
                f"the store's changes lie in {now.partition_count} partitions now; the roots of {len(records)} cannot be "
                "compared with theirs",
                {},
                [],
            )
        roots = {partition: each.merkle_root for partition, each in now.partitions.items()}
        moved = [
            each
            for each in records
            if each.partition in frozen and roots.get(each.partition, each.merkle_root) != each.merkle_root
        ]
        members = index.members_of(scope, [each.partition for each in moved]) if moved else {}
        differences = [
            (record, each)
            for record in moved
            if record.partition in members
            for each in differing(
                as_sets(frozen[record.partition].members),
                as_sets((each.root, each.record_ids, each.standing) for each in members[record.partition]),
            )
        ]
        times = index.times(sorted({each.root for _, each in differences})) if differences else {}
    except Unreachable as error:
        return str(error), {}, []
    changes = [
        Changed(
            record.partition, each, changed_since(times.get(each.root), each.record_ids, record.resolved_at)
        )
        for record, each in differences
    ]  # fmt: skip
    silent = None
    if not now.complete:
        silent = f"partitions {', '.join(map(str, now.silent_partitions))} did not answer"
    return silent, roots, changes
