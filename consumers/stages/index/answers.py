"""Finds whom an open incident concerns, freezes that, publishes it, and adds whoever comes to fall under it later."""

import hashlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import metadata
from itertools import islice
from typing import Any, NamedTuple

import structlog

from bridge.contracts.envelope import Envelopes, event_id_of
from bridge.contracts.errors import Refused
from bridge.contracts.events import CustomerAffected, IncidentRevised, PartitionResolved
from bridge.contracts.scope import Scope
from bridge.contracts.topics import AFFECTED_CUSTOMERS, DEPARTED_CUSTOMERS, RESOLUTIONS, STORE_CHANGES, Topic
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import histogram
from consumers.domain.resolution import Found, Member, affected, member_leaf
from consumers.domain.standing import Published, concern_of
from consumers.evidence.merkle import leaf_hashes, root_over
from consumers.stages.index.messages import SOURCE, message_of
from consumers.stages.index.ports import ArtefactStore, Outgoing, PartitionFile
from consumers.stages.index.reach import Reach

log = structlog.get_logger()

RESOLUTION = histogram(
    "tocsin_index_resolution_seconds",
    "from the start of a partition's evaluation to its published record, exercises left out",
    question="how fast are the affected known?",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

_FINDERS = 2
"""Answers that are found at a time, while the one before them is published: it is for DuckDB to do most of the work."""
_LEAVES_AT_ONCE = 4096
"""A power of two: so many leaves make a whole subtree."""
_AFFECTED_NAMESPACE = uuid.UUID("6f1d2f0a-4f7e-5b43-9a35-8c8f6f4f2a11")


class Due(NamedTuple):
    """A revision that a partition may answer now."""

    partition: int
    file: PartitionFile
    incident: IncidentRevised
    scope: Scope


class _Answer(NamedTuple):
    """What a partition answers: frozen, and kept by its file to be published."""

    resolved: PartitionResolved
    just_found: bool
    started: float


class Answers:
    """The open incidents, and what this worker's partitions have answered to them."""

    def __init__(
        self,
        *,
        artefacts: ArtefactStore,
        outgoing: Outgoing,
        reach: Reach,
        clock: Clock,
        retention_days: int,
        rules_sha256: Callable[[], str | None],
    ) -> None:
        self._artefacts = artefacts
        self._outgoing = outgoing
        self._reach = reach
        self._clock = clock
        self._retention_days = retention_days
        self._rules_sha256 = rules_sha256
        self._partition_count = 0
        self._newest: dict[str, IncidentRevised] = {}
        self._targets: dict[tuple[str, int, int], Mapping[str, int]] = {}
        """How far a partition must have read before it may answer, by incident, revision and partition."""
        self._finders = ThreadPoolExecutor(_FINDERS, thread_name_prefix="find")

    def begin(self, partition_count: int) -> None:
        """Count answers by so many partitions."""
        self._partition_count = partition_count

    def close(self) -> None:
        """Wait for what is being found."""
        self._finders.shutdown()

    def take(self, incident: IncidentRevised, files: Mapping[int, PartitionFile]) -> None:
        """Learn of an incident's revision, which `files` are to answer."""
        known = self._newest.get(incident.incident_id)
        if known is not None and known.revision > incident.revision:
            return
        self._newest[incident.incident_id] = incident
        self._targets = {key: target for key, target in self._targets.items() if key[0] != incident.incident_id}
        if incident.status == "open":
            for partition, file in files.items():
                self._aim(incident, partition, file)

    def assigned(self, partition: int, file: PartitionFile) -> None:
        """Have a partition that begins answer what is open."""
        for incident in self._open_incidents():
            self._aim(incident, partition, file)

    def revoked(self, partition: int) -> None:
        """Leave what is open to another worker."""
        self._targets = {key: target for key, target in self._targets.items() if key[2] != partition}

    def due(self, files: Mapping[int, PartitionFile]) -> tuple[list[Due], list[int]]:
        """Return what may be answered now, and for each answer that may not yet its partition."""
        due: list[Due] = []
        behind: list[int] = []
        for incident in self._open_incidents():
            for partition, file in files.items():
                target = self._targets.get((incident.incident_id, incident.revision, partition))
                if target is None or incident.scope is None:
                    continue
                if self._reach.reached(partition, file.positions(), target):
                    due.append(Due(partition, file, incident, incident.scope))
                else:
                    behind.append(partition)
        return due, behind

    def resolve(self, due: Sequence[Due]) -> None:
        """Answer what is due, and publish each answer, in this order, while the next ones are being found."""
        waiting, ahead = deque(due), deque[tuple[Due, Future[_Answer]]]()
        try:
            while waiting or ahead:
                # A file is used by one thread at a time.
                in_use = {each.partition for each, _ in ahead}
                while waiting and len(ahead) <= _FINDERS and waiting[0].partition not in in_use:
                    each = waiting.popleft()
                    ahead.append((each, self._finders.submit(self._answer, each)))
                    in_use.add(each.partition)
                each, answer = ahead[0]
                self._publish(each, answer.result())
                ahead.popleft()
        finally:
            # Whoever closes the files because of an error must not do so under the other threads.
            wait([answer for _, answer in ahead])

    def add_late(self, partition: int, file: PartitionFile, touched: set[str], since: int | None) -> None:
        """Publish, unflushed, those who newly fall under an incident that this partition has answered, and those of whom
        more does: of `touched`, and of those whom a record from offset `since` on is about.
        """
        answered = [
            incident for incident in self._open_incidents() if file.is_resolved(incident.incident_id, incident.revision)
        ]
        if answered and since is not None:
            touched = touched.union(file.roots_since(since))
        for incident in answered if touched else ():
            assert incident.scope is not None
            self._publish_late(partition, file, incident, file.answer(incident.scope, sorted(touched)))

    def _open_incidents(self) -> list[IncidentRevised]:
        return [each for each in self._newest.values() if each.status == "open" and each.scope is not None]

    def _aim(self, incident: IncidentRevised, partition: int, file: PartitionFile) -> None:
        """Fix how far the partition must have read before it may answer: to what was published when it took the incident."""
        if incident.scope is None or file.is_resolved(incident.incident_id, incident.revision):
            return
        self._targets[incident.incident_id, incident.revision, partition] = self._reach.ends_of(partition)

    def _answer(self, due: Due) -> _Answer:
        """Freeze the partition's answer, unless that was done before, and have its file keep it; in whatever thread."""
        started = time.monotonic()
        key, file, incident = self._artefact_key(due), due.file, due.incident
        sha256 = self._artefacts.find(key)
        just_found = False
        if sha256 is None:
            header = self._header(due, started)
            frozen = file.freeze(header)
            # A crash before the next line leaves nothing: the answer is found anew, at the position of that time.
            sha256 = self._artefacts.put_once(key, frozen)
            just_found = sha256 == hashlib.sha256(frozen).hexdigest()
        if not just_found:
            # A crash after that, a lost file or another owner finds the frozen answer and publishes the same people again
            # under the same ids, so that planning never sees two answers of one partition.
            header, members = file.thaw(self._artefacts.get(sha256))
            if _summed_up(members)[2] != header["merkle_root"]:
                raise Refused(f"artefact {key} does not hold what its header says; restore it from the store's backup")
        resolved = PartitionResolved(**header, artefact=key, artefact_sha256=sha256, exercise=incident.exercise)
        return _Answer(resolved, just_found, started)

    def _publish(self, due: Due, answer: _Answer) -> None:
        """Publish what is frozen, and only then call it answered."""
        partition, file, incident, scope = due
        resolved = answer.resolved
        # Everybody found here lives on this partition of the topic, too, if it has as many.
        same = self._outgoing.partition_count(AFFECTED_CUSTOMERS) == self._partition_count
        envelopes, prefix = Envelopes(SOURCE, self._clock.now()), f"{incident.incident_id}/"
        for some in file.events():
            written = (((prefix + root).encode(), root.encode(), event) for root, event in some)
            ids = [event_id_of(_AFFECTED_NAMESPACE.bytes, f"{prefix}{root}/{incident.revision}") for root, _ in some]
            self._outgoing.send_records(
                AFFECTED_CUSTOMERS,
                envelopes.records(CustomerAffected.ce_type, written, ids),
                partition=partition if same else None,
            )
        # A crash before the flush leaves some people published and no record: planning waits, and all are sent again.
        self._outgoing.flush()
        self._send(
            RESOLUTIONS,
            resolved,
            key=f"{incident.incident_id}/{incident.revision}/{partition}",
            root=incident.incident_id,
        )
        self._outgoing.flush()
        with file.transaction():
            file.mark_resolved(incident.incident_id, incident.revision)
            if not answer.just_found:
                # What changed since that answer (a restart, a rebuilt file, another owner) was never held against it.
                self._publish_late(partition, file, incident, file.answer(scope))
                self._outgoing.flush()
        # A crash before this commit publishes people and record once more, with the same content.
        del self._targets[incident.incident_id, incident.revision, partition]
        if not incident.exercise:
            RESOLUTION.observe(time.monotonic() - answer.started)
        log.info(
            "resolved",
            incident=incident.incident_id,
            revision=incident.revision,
            partition=partition,
            affected=resolved.affected_count,
            possible=resolved.possible_count,
        )

    def _header(self, due: Due, started: float) -> dict[str, Any]:
        """Find the partition's answer; return what its record says of it, and leave it to be frozen."""
        partition, file, incident, scope = due
        affected_count, possible_count, root = _summed_up(file.find(scope))
        return {
            "incident_id": incident.incident_id,
            "revision": incident.revision,
            "partition": partition,
            "partition_count": self._partition_count,
            "scope_sha256": scope.sha256(),
            "position_topic": STORE_CHANGES.name,
            "position_offset": file.positions().get(STORE_CHANGES.name, 0),
            "departed_offset": file.positions().get(DEPARTED_CUSTOMERS.name, 0),
            "affected_count": affected_count,
            "possible_count": possible_count,
            "people_count": file.people_count(),
            "merkle_root": root,
            "coverage": [each.model_dump(mode="json") for each in file.coverage(scope)],
            "code_version": _code_version(),
            "rules_sha256": self._rules_sha256(),
            "retention": f"records, until {self._retention_days} d after their deletion",
            "duration_seconds": round(time.monotonic() - started, 6),
            "resolved_at": self._clock.now().isoformat(),
            "rewriting": None if incident.rewriting is None else incident.rewriting.model_dump(mode="json"),
        }

    def _artefact_key(self, due: Due) -> str:
        partition, _, incident, asked = due
        # The scope's hash keeps an answer apart from one to another scope under the same number (a case store restored).
        scope = asked.sha256()[:16]
        return f"resolutions/{incident.incident_id}/{incident.revision}/p{partition}-of-{self._partition_count}-{scope}.parquet"

    def _publish_late(
        self, partition: int, file: PartitionFile, incident: IncidentRevised, found: Sequence[Found]
    ) -> None:
        known = file.members(incident.incident_id, incident.revision, [each.root for each in found])
        said: dict[str, Published] = {}
        for each in found:
            concern, before = concern_of(each.why), known.get(each.root)
            # Who was only possible and may have been excluded as such is published again once there is a record, and
            # whoever is there already once more of their data is found. The same facts again are said once.
            now = Published(each.standing, concern) if before is None else before.after(each.standing, concern)
            if now is None:
                continue
            said[each.root] = now
            late = affected(
                each, incident_id=incident.incident_id, revision=incident.revision, partition=partition, late=True
            )
            self._send_affected(late, more=before is not None)
        if said:
            more = len(known.keys() & said.keys())
            log.info(
                "late additions", incident=incident.incident_id, revision=incident.revision,
                people=len(said) - more, more_affected=more,
            )  # fmt: skip
            file.add_members(incident.incident_id, incident.revision, said)

    def _send_affected(self, event: CustomerAffected, *, more: bool) -> None:
        name = f"{event.incident_id}/{event.root}/{event.revision}/late/{event.standing}"
        if more and event.why is not None:
            name += "/" + "/".join(event.why.record_ids)
        self._send(
            AFFECTED_CUSTOMERS,
            event,
            key=f"{event.incident_id}/{event.root}",
            root=event.root,
            event_id=str(uuid.uuid5(_AFFECTED_NAMESPACE, name)),
        )

    def _send(
        self,
        topic: Topic,
        event: CustomerAffected | PartitionResolved,
        *,
        key: str,
        root: str,
        event_id: str | None = None,
    ) -> None:
        self._outgoing.send(topic, message_of(event, key=key, root=root, at=self._clock.now(), event_id=event_id))


def _summed_up(members: Iterable[Member]) -> tuple[int, int, str]:
    """Return how many members there are, how many of them only possible, and their Merkle root, in hex."""
    counts: Counter[str] = Counter()
    subtrees: list[bytes] = []
    ahead = iter(members)
    while some := list(islice(ahead, _LEAVES_AT_ONCE)):
        counts.update(standing for _, _, standing in some)
        subtrees.append(root_over(leaf_hashes(member_leaf(*member) for member in some)))
    return counts.total(), counts["possible"], root_over(subtrees).hex()


def _code_version() -> str:
    try:
        return metadata.version("tocsin")
    except metadata.PackageNotFoundError:
        return "not installed"
