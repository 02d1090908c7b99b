"""Does the store say the same? Its own answer to the frozen scope, against the frozen answer, differences by their cause.

The store is asked by one JOIN that knows neither topic nor index, and judged by the definition of a scope instead of the
index's SQL: what both roads say is sure. What nothing explains keeps everybody from approving until a person has named it.
While Kafka is down it is the emergency list.
"""

import hashlib
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import rfc8785

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import PartitionResolved
from bridge.contracts.queries import RootTimes
from bridge.contracts.scope import Scope
from bridge.contracts.store_answers import Presence, StoreAnswers
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.permissions import Act
from consumers.case.records import CrosscheckRecord, IncidentRecord
from consumers.case.reproducing import AnswerIndex, Frozen, FrozenFiles
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, still_open
from consumers.domain.answering import Answer, answered
from consumers.domain.differing import Differing, RecordSet, as_sets, changed_since, differing

PATIENCE_SECONDS = 10.0
"""How long the index may take to show what the store has already told."""


class Cause(StrEnum):
    """Why the frozen answer and the store's own differ."""

    DEPARTED = "departed"
    """The customer, the order or the record is gone from the store; the index keeps what it was."""
    LATER = "later"
    """It changed after the resolution, and the index has it so too: a late addition, or no longer in scope."""
    LAG = "lag"
    """The store has changed and the relay has not told it yet."""
    INDEX_ONLY = "index_only"
    """Only the index could see it: a value that was written without a record, and has been replaced or explained since."""
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Explained:
    """One root on which they differ."""

    difference: Differing
    cause: Cause
    at: datetime | None = None
    """When it changed, where that is known."""


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """Both answers held against each other."""

    answer: Answer
    agreeing_count: int | None
    """None: there is no frozen answer to compare with."""
    differences: Sequence[Explained]
    remarks: Sequence[str]
    """What could not be asked."""
    record: CrosscheckRecord | None = None
    """As written to the case store; None: nothing was."""

    @property
    def counts(self) -> Mapping[str, int]:
        """People by cause, and those on whom both agree."""
        causes = Counter(each.cause.value for each in self.differences)
        return {"agreeing": self.agreeing_count or 0, **{cause.value: causes[cause.value] for cause in Cause}}


@dataclass(slots=True)
class _Asked:
    """Everything that a difference is judged by."""

    answer: Answer
    presence: Presence
    now: Mapping[str, RecordSet] | None
    """The index's answer of now; None: it does not answer."""
    times: Mapping[str, RootTimes]
    resolved_at: datetime
    departed: frozenset[str] = field(default_factory=frozenset)


def list_from_store(scope: Scope, store: StoreAnswers) -> Crosscheck:
    """Return the store's own answer to `scope`: the emergency list, which needs neither Kafka nor index nor case store."""
    return Crosscheck(_ask(scope, store), None, (), ("there is no frozen answer to compare with",))


def crosscheck(
    case_store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: Callable[[], datetime],
    store: StoreAnswers,
    files: FrozenFiles,
    index: AnswerIndex,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Crosscheck:
    """Hold the store's answer against the frozen one, and write down by cause how many differ.

    Raises Refused where the scope is unresolved. Where not every partition has answered nothing is compared or written.
    """
    role = actor.acting_for(Act.CROSSCHECK)

    def look(case: CaseWork) -> tuple[IncidentRecord, Sequence[PartitionResolved]]:
        incident = found(case, incident_id)
        return incident, case.resolutions(incident_id, incident.revision)

    incident, records = case_store.look(look)
    if incident.scope is None:
        raise Refused(
            f"{incident_id}: its scope is unresolved, so there is nothing to ask; see `tocsin incident show {incident_id}`"
        )
    scope = Scope.model_validate(incident.scope)
    answer = _ask(scope, store)
    count = max((record.partition_count for record in records), default=None)
    if count is None or len(records) < count:
        remark = (
            f"{len(records)} of {count or '?'} partitions have answered: there is nothing frozen to compare with yet"
        )
        return Crosscheck(answer, None, (), (remark,))
    frozen: dict[str, RecordSet] = {}
    departed: set[str] = set()
    for record in records:
        one: Frozen = files.read(record.artefact_sha256)
        frozen |= as_sets(one.members)
        departed |= one.departed
    differences = differing(frozen, answer.members)
    explained, remarks = _explained(
        scope, answer, differences, frozenset(departed), min(record.resolved_at for record in records), store, index,
        patience_seconds,
    )  # fmt: skip
    done = Crosscheck(answer, len(frozen.keys() | answer.members.keys()) - len(differences), explained, remarks)
    unexplained = sorted(each.difference.root for each in explained if each.cause is Cause.UNEXPLAINED)
    record_of = CrosscheckRecord(
        crosscheck_id=uuid.uuid4().hex,
        incident_id=incident_id,
        revision=incident.revision,
        checked_at=now(),
        checked_by=actor.person_id,
        counts=done.counts,
        unexplained_count=len(unexplained),
        # Salted by the scope's hash and so not by nothing; ids of people could be guessed, and what is kept is a count.
        unexplained_sha256=_unexplained_sha256(scope, unexplained),
    )

    def write(case: CaseWork) -> None:
        current = still_open(case, incident_id)
        if current.revision != incident.revision:
            raise Refused(f"{incident_id}: the scope was corrected meanwhile; cross-check it again")
        case.add_crosscheck(record_of)
        body: Body = {
            "crosscheck_id": record_of.crosscheck_id,
            "revision": incident.revision,
            **{f"{name}_count": value for name, value in done.counts.items()},
            "unexplained_sha256": record_of.unexplained_sha256,
        }
        record_act(case, actor, role, "incident.crosschecked", body, at=record_of.checked_at, incident=current)

    case_store.change(write)
    return Crosscheck(done.answer, done.agreeing_count, done.differences, done.remarks, record_of)


def name_differences(
    case_store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None
) -> CrosscheckRecord:
    """Take responsibility for what the newest cross-check could not explain. Raises Refused if there is nothing to name."""
    role = actor.acting_for(Act.NAME_DIFFERENCES)
    why = needed(reason)

    def work(case: CaseWork) -> CrosscheckRecord:
        incident = still_open(case, incident_id)
        newest = newest_crosscheck(case, incident)
        if newest is None or not newest.blocks:
            raise Refused(f"{incident_id}: no cross-check of revision {incident.revision} waits for anybody")
        case.name_crosscheck(newest.crosscheck_id, by=actor.person_id, at=now, reason=why)
        body: Body = {
            "crosscheck_id": newest.crosscheck_id,
            "unexplained_count": newest.unexplained_count,
            "unexplained_sha256": newest.unexplained_sha256,
        }
        record_act(case, actor, role, "incident.differences_named", body, at=now, incident=incident, reason=why)
        return newest

    return case_store.change(work)


def newest_crosscheck(case: CaseWork, incident: IncidentRecord) -> CrosscheckRecord | None:
    """Return the newest cross-check of the revision in force, or None."""
    return next(
        (each for each in case.crosschecks(incident.incident_id) if each.revision == incident.revision), None
    )  # fmt: skip


def _unexplained_sha256(scope: Scope, roots: Sequence[str]) -> str:
    return hashlib.sha256(rfc8785.dumps([scope.sha256(), *roots])).hexdigest()


def _ask(scope: Scope, store: StoreAnswers) -> Answer:
    store.open()
    try:
        return answered(
            scope,
            store.records(scope),
            store.value_holders(),
            store.writers(),
            store.people() if scope.everyone else (),
        )
    finally:
        store.close()


def _explained(
    scope: Scope,
    answer: Answer,
    differences: Sequence[Differing],
    departed: frozenset[str],
    resolved_at: datetime,
    store: StoreAnswers,
    index: AnswerIndex,
    patience_seconds: float,
) -> tuple[list[Explained], list[str]]:
    """Return the cause of each difference, and what could not be asked about them."""
    if not differences:
        return [], []
    roots = [each.root for each in differences]
    record_ids = sorted({record_id for each in differences for record_id in each.record_ids})
    store.open()
    try:
        presence = store.presence(roots, record_ids)
    finally:
        store.close()
    patience = threading.Event()
    waited = 0.0
    while True:
        now, remarks = _index_now(scope, index)
        times = {} if now is None else index.times(roots)
        asked = _Asked(answer, presence, now, times, resolved_at, departed)
        explained = [_judged(each, asked) for each in differences]
        open_still = any(each.cause is Cause.UNEXPLAINED for each in explained)
        if not open_still or now is None or waited >= patience_seconds:
            return explained, remarks
        # What the relay has told may still be on its way to the index.
        patience.wait(1.0)
        waited += 1.0


def _index_now(scope: Scope, index: AnswerIndex) -> tuple[dict[str, RecordSet] | None, list[str]]:
    try:
        said = index.members(scope)
        if not said.complete:
            silent = ", ".join(map(str, said.silent_partitions))
            return None, [f"the index was not asked: partitions {silent} do not answer"]
        members = index.members_of(scope, sorted(said.partitions))
        return {
            root: record_set
            for some in members.values()
            for root, record_set in as_sets((each.root, each.record_ids, each.standing) for each in some).items()
        }, []
    except Unreachable as error:
        return None, [f"the index was not asked: {error}"]


def _judged(each: Differing, asked: _Asked) -> Explained:
    """Return the cause of one difference: the first that can be shown."""
    root, presence, times = each.root, asked.presence, asked.times.get(each.root)
    if root in presence.pending_roots or presence.pending_records.intersection(each.record_ids):
        return Explained(each, Cause.LAG)
    if asked.now is not None and asked.now.get(root) == each.now:
        return Explained(each, Cause.LATER, changed_since(times, each.record_ids, asked.resolved_at))
    if _is_gone(each, asked):
        gone_at = None if times is None else times.person_at if times.departed else None
        return Explained(each, Cause.DEPARTED, gone_at)
    if each.frozen is not None and not each.frozen[0] and (each.now is None or root in asked.answer.may_hold):
        return Explained(each, Cause.INDEX_ONLY, max(times.untagged_at, default=None) if times else None)
    if asked.now is None:
        written = [asked.answer.newest[one].created_at for one in each.record_ids if one in asked.answer.newest]
        newest = max((at for at in written if at is not None), default=None)
        if newest is not None and newest > asked.resolved_at:
            return Explained(each, Cause.LATER, newest)
    return Explained(each, Cause.UNEXPLAINED, changed_since(times, each.record_ids, asked.resolved_at))


def _is_gone(each: Differing, asked: _Asked) -> bool:
    """Return whether the store lacks what it lacks because it was deleted there, as far as the index can say so."""
    if each.frozen is None:
        return False
    times = asked.times.get(each.root)
    if each.root not in asked.presence.roots:
        # Without the index to say so: the store's word that there is nobody is all there is.
        return asked.now is None or each.root in asked.departed or (times is not None and times.departed)
    kept = frozenset[str]() if each.now is None else each.now[0]
    missing = each.frozen[0] - kept
    if not missing or kept - each.frozen[0] or missing & asked.presence.records:
        return False
    if times is None or asked.now is None:
        return asked.now is None
    deleted = {record.record_id for record in times.records if record.deleted_at is not None}
    return missing <= deleted
