"""What a case makes of its people as they change: how many came late, who is to be put right, whether it is everybody.

Holds no personal data but roots, and these only in the list of people, which is asked for by name and recorded. Not for who
is told what (planning) nor for whether they may be (`releasing`).
"""

from collections.abc import Sequence
from datetime import datetime

from bridge.contracts.errors import Refused
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.findings import everybody_in_words
from consumers.case.permissions import Act
from consumers.case.records import EverybodyRecord, IncidentRecord, LateRecord, PersonRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, still_open

KINDS = ("late", "supplements", "told_wrongly", "waiting")


def unconfirmed_everybody(case: CaseWork, incident: IncidentRecord) -> str | None:
    """Return why a named person must confirm the scope first, with the command; None where nobody need."""
    words = everybody_in_words(incident, case.partitions(incident.incident_id, incident.revision))
    if words is None or case.everybody_confirmation(incident.incident_id, str(incident.scope_sha256)) is not None:
        return None
    return f"{words}. If that is meant: tocsin incident confirm-everybody {incident.incident_id} --reason TEXT"


def confirm_everybody(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None
) -> EverybodyRecord:
    """Record that a scope which matches everybody is meant so; it holds for this very scope and no other.

    Repeating it changes nothing. Raises Refused where the scope is about fewer, or not all partitions have answered.
    """
    role = actor.acting_for(Act.CONFIRM_EVERYBODY)
    why = needed(reason)

    def work(case: CaseWork) -> EverybodyRecord:
        incident = still_open(case, incident_id)
        partitions = case.partitions(incident_id, incident.revision)
        if partitions.partition_count is None or partitions.answered < partitions.partition_count:
            raise Refused(f"{incident_id}: not every partition has answered; whom the scope is about is not known yet")
        if everybody_in_words(incident, partitions) is None:
            raise Refused(f"{incident_id}: the scope is not about everybody; there is nothing to confirm")
        known = case.everybody_confirmation(incident_id, str(incident.scope_sha256))
        if known is not None:
            return known
        record = EverybodyRecord(
            incident_id=incident_id,
            scope_sha256=str(incident.scope_sha256),
            affected_count=partitions.affected_count + partitions.late_count,
            people_count=partitions.people_count,
            confirmed_at=now,
            confirmed_by=actor.person_id,
            reason=why,
        )
        case.add_everybody_confirmation(record)
        body: Body = {
            "revision": incident.revision,
            "scope_sha256": record.scope_sha256,
            "affected_count": record.affected_count,
            "people_count": record.people_count,
        }
        record_act(
            case, actor, role, "incident.everybody_confirmed", body, at=now, incident=incident, reason=why
        )  # fmt: skip
        return record

    return store.change(work)


def late_people(store: CaseStore, incident_id: str) -> LateRecord:
    """Return what came late and is to be put right, in numbers. Raises BadInput."""

    def work(case: CaseWork) -> LateRecord:
        found(case, incident_id)
        return case.late(incident_id)

    return store.look(work)


def list_people(
    store: CaseStore, incident_id: str, kind: str | None, actor: Actor, now: datetime
) -> Sequence[PersonRecord]:
    """Return people one by one, of one of KINDS or all; that it was asked for is recorded. Raises BadInput, Refused."""
    role = actor.acting_for(Act.LOOK_AT_PERSON)

    def work(case: CaseWork) -> Sequence[PersonRecord]:
        incident = found(case, incident_id)
        people = case.people(incident_id, kind)
        body: Body = {"people": kind or "all", "listed_count": len(people)}
        record_act(case, actor, role, "people.listed", body, at=now, incident=incident)
        return people

    return store.change(work)


def late_lines(late: LateRecord, cap: int | None) -> list[str]:
    """Return what `incident show` says of it, a line for each thing that there is."""
    lines = []
    if late.late or late.used_of_cap:
        of_cap = "" if cap is None else f"; {late.used_of_cap:,} of at most {cap:,} late notices are used"
        waiting = f", {late.late_waiting:,} of them wait for an approval" if late.late_waiting else ""
        lines.append(f"late:         {late.late:,} people, by records that came after the answer{waiting}{of_cap}")
    if late.supplements:
        lines.append(
            f"supplements:  {late.supplements:,} for people who were told and of whom more was found: "
            f"{late.supplements_ended:,} ended, {late.supplements_waiting:,} wait for approval"
        )
    if late.not_concerned or late.told_too_much:
        lines.append(
            f"told wrongly: {late.not_concerned:,} people whom the corrected scope is not about, "
            f"{late.told_too_much:,} who were told too much; each is owed a correction"
        )
    if late.told_in_other_incident:
        lines.append(
            f"told once:    {late.told_in_other_incident:,} people were told the same facts in another incident, "
            "and are not told twice"
        )
    return lines
