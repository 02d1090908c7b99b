"""Who is only possibly affected: told like everybody else, unless a named person leaves them out and says why.

The decision is about the people who are possible at that moment. Who is found later is in again, and so is everybody of
whom a record turns up. An approval names the decision: what it leaves out is part of what is approved.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import rfc8785

from bridge.contracts.errors import Refused
from bridge.contracts.events import Coverage
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.permissions import Act
from consumers.case.records import ExclusionRecord, IncidentRecord, PartitionsRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, still_open
from consumers.domain.approvals import Mode


@dataclass(frozen=True, slots=True)
class Possible:
    """How the possibly affected stand."""

    incident: IncidentRecord
    partitions: PartitionsRecord
    exclusions: Sequence[ExclusionRecord]
    """Of the revision in force, withdrawn ones included, newest first."""


def possible(store: CaseStore, incident_id: str) -> Possible:
    """Return how many are only possibly affected, why, and who was left out by whom."""

    def work(case: CaseWork) -> Possible:
        incident = found(case, incident_id)
        of_revision = [each for each in case.exclusions(incident_id) if each.revision == incident.revision]
        return Possible(incident, case.partitions(incident_id, incident.revision), of_revision)

    return store.look(work)


def exclude(store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None) -> ExclusionRecord:
    """Leave out everybody who is only possibly affected now.

    Raises Refused while partitions are silent, when there is nobody to leave out, or when a release runs that was approved
    with them in it.
    """
    role = actor.acting_for(Act.EXCLUDE_POSSIBLE)
    why = needed(reason)

    def work(case: CaseWork) -> ExclusionRecord:
        incident = still_open(case, incident_id)
        partitions = case.partitions(incident_id, incident.revision)
        if partitions.partition_count is None or partitions.answered < partitions.partition_count:
            of = "?" if partitions.partition_count is None else partitions.partition_count
            raise Refused(
                f"{incident_id}: {partitions.answered} of {of} partitions have answered; who is possible is not known yet"
            )
        if partitions.persisted_count < partitions.affected_count:
            raise Refused(
                f"{incident_id}: {partitions.persisted_count:,} of {partitions.affected_count:,} affected are stored; wait"
            )
        for release in case.releases(incident_id):
            if release.state in ("releasing", "paused") and release.mode != Mode.BREAK_GLASS:
                raise Refused(
                    f"{incident_id}: release {release.release_id} is {release.state} and was approved with them in it"
                )
        exclusion_id = uuid.uuid4().hex
        count = case.exclude_possible(incident_id, incident.revision, exclusion_id)
        if not count:
            raise Refused(f"{incident_id}: nobody is only possibly affected who is not left out already")
        record = ExclusionRecord(
            exclusion_id, incident_id, incident.revision, count, coverage_sha256(partitions.coverage), now,
            actor.person_id, why,
        )  # fmt: skip
        case.add_exclusion(record)
        body: Body = {
            "exclusion_id": exclusion_id,
            "revision": incident.revision,
            "people_count": count,
            "coverage_sha256": record.coverage_sha256,
        }
        record_act(case, actor, role, "incident.possible_excluded", body, at=now, incident=incident, reason=why)
        return record

    return store.change(work)


def include(store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None) -> int:
    """Take everybody back in who was left out; return how many. Raises Refused if nobody was."""
    role = actor.acting_for(Act.EXCLUDE_POSSIBLE)
    why = needed(reason)

    def work(case: CaseWork) -> int:
        incident = still_open(case, incident_id)
        if not in_force(case, incident):
            raise Refused(f"{incident_id}: nobody was left out of revision {incident.revision}")
        count = case.withdraw_exclusions(incident_id, incident.revision, by=actor.person_id, at=now)
        body: Body = {"revision": incident.revision, "people_count": count}
        record_act(case, actor, role, "incident.possible_included", body, at=now, incident=incident, reason=why)
        return count

    return store.change(work)


def in_force(case: CaseWork, incident: IncidentRecord) -> Sequence[ExclusionRecord]:
    """Return the exclusions that hold for the revision in force, oldest first."""
    return [
        each
        for each in reversed(case.exclusions(incident.incident_id))
        if each.revision == incident.revision and each.withdrawn_at is None
    ]


def coverage_sha256(coverage: Sequence[Coverage]) -> str:
    """Return SHA-256 over the canonical JSON (RFC 8785) of merged coverage, in hex."""
    return hashlib.sha256(rfc8785.dumps([each.model_dump(mode="json") for each in coverage])).hexdigest()
