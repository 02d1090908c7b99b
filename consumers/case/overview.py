"""What is known of an incident and what is not, in one answer: for `incident show`, and for whoever asks by JSON.

Counts always say of how many, and from how many partitions. While anything about coverage is open, the answer is never
"nobody". Holds no personal data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bridge.contracts.scope import Scope
from consumers.case.findings import everybody_in_words, finding
from consumers.case.records import (
    FactRecord,
    GateRecord,
    IncidentRecord,
    LateRecord,
    MatchTestRecord,
    MovementRecord,
    ObligationRecord,
    PartitionsRecord,
    PlanRecord,
    ProposalRecord,
    ReleaseRecord,
)
from consumers.case.releasing import of_partitions
from consumers.case.standing import unconfirmed_everybody
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import AWARENESS, found, is_shared, known_facts, unmet_duties, unmet_in_words
from consumers.domain import approvals as rule
from consumers.domain.approvals import Mode
from consumers.domain.canary import CanaryState
from consumers.domain.coverage import gaps_in_words, is_complete
from consumers.domain.duties import Exposure


@dataclass(frozen=True, slots=True)
class NextStep:
    """Who must do what, with the very command."""

    who: str
    command: str
    why: str


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """A release with its approvals."""

    record: ReleaseRecord
    approvals: Sequence[tuple[str, str, datetime]]
    """Person, role, when."""
    missing: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """One incident."""

    incident: IncidentRecord
    people: str
    """In one sentence: how many, of how many, from how many partitions."""
    partitions: PartitionsRecord
    plan: PlanRecord | None
    facts: Mapping[str, Any]
    not_known: Sequence[str]
    obligations: Sequence[ObligationRecord]
    history: Sequence[FactRecord]
    match_tests: Sequence[MatchTestRecord]
    exposures: Sequence[Exposure]
    movements: Sequence[MovementRecord]
    proposals: Sequence[ProposalRecord]
    releases: Sequence[ReleaseView]
    gates: Sequence[GateRecord]
    ends: Mapping[str, int]
    segments_without_text: Sequence[str]
    late: LateRecord
    everybody: str | None
    """That the scope is about everybody, and who confirmed it or must."""
    next: NextStep | None


def overview(store: CaseStore, incident_id: str) -> Overview:
    """Return everything about an incident, read at one moment. Raises BadInput if there is none of this id."""

    def work(case: CaseWork) -> Overview:
        incident = found(case, incident_id)
        partitions = case.partitions(incident_id, incident.revision)
        plan = case.plan(incident_id, incident.revision)
        facts = known_facts(case, incident)
        releases = [_release_view(case, each) for each in case.releases(incident_id)]
        segments = case.segments(incident_id, incident.revision)
        proposals = [each for each in case.proposals(incident_id) if each.decided_at is None]
        obligations = case.obligations(incident_id)
        without_text = [each.name for each in segments if each.bundle_sha256 is None]
        ends = case.ends(incident_id)
        late = case.late(incident_id)
        everybody = everybody_in_words(incident, partitions)
        unconfirmed = unconfirmed_everybody(case, incident)
        if everybody is not None and unconfirmed is None:
            confirmed = case.everybody_confirmation(incident_id, str(incident.scope_sha256))
            everybody += "" if confirmed is None else f"; {confirmed.confirmed_by} confirmed that it is meant so"
        return Overview(
            incident=incident,
            people=people_in_words(incident, partitions, plan),
            partitions=partitions,
            plan=plan,
            facts=facts,
            not_known=list(_not_known(incident, partitions, facts)),
            obligations=obligations,
            history=case.facts(incident_id),
            match_tests=case.match_tests(incident_id),
            exposures=(case.exposures(incident_id) or (0, ()))[1],
            movements=case.movements(incident_id),
            proposals=proposals,
            releases=releases,
            gates=[each for each in case.gates(incident_id) if each.lifted_at is None],
            ends=ends,
            segments_without_text=without_text,
            late=late,
            everybody=unconfirmed or everybody,
            next=next_step(
                incident,
                plan,
                partitions,
                facts,
                releases,
                without_text,
                len(segments),
                unconfirmed=unconfirmed is not None,
                waiting=late.late_waiting + late.supplements_waiting,
                all_ended=bool(ends) and not case.without_end_count(incident_id),
                obligations=obligations,
                told_wrongly=late.not_concerned + late.told_too_much,
            ),
        )

    return store.look(work)


def _release_view(case: CaseWork, record: ReleaseRecord) -> ReleaseView:
    approvals = case.approvals(record.release_id)
    missing = None
    if record.state == "prepared":
        preparer = rule.Act(record.prepared_by, record.prepared_role)
        missing = rule.missing(Mode(record.mode), preparer, [rule.Act(each.person, each.role) for each in approvals])
    return ReleaseView(record, [(each.person, each.role, each.approved_at) for each in approvals], missing)


def people_in_words(incident: IncidentRecord, partitions: PartitionsRecord, plan: PlanRecord | None = None) -> str:
    """Return how many people are affected as far as is known. "Nobody" only when every partition says so with
    coverage from before the exposure window and without untagged writes.
    """
    answered = of_partitions(partitions)
    if incident.scope is None:
        return "not known: the scope is not resolved yet"
    if partitions.partition_count is None:
        return "not known yet: no partition has answered"
    recorded = partitions.affected_count - partitions.possible_count
    complete = partitions.answered >= partitions.partition_count
    affected = partitions.affected_count + partitions.late_count
    words = f"{affected:,} people"
    if plan is not None and plan.state == "complete":
        # one person may be found under several accounts and guest orders
        words = f"{plan.recipient_count:,} people ({affected:,} accounts and orders)"
    words += f" from {answered}: {recorded:,} by record"
    if partitions.late_count:
        words += f", {partitions.late_count:,} late"
    untagged = sum(each.untagged_count for each in partitions.coverage)
    if partitions.possible_count or untagged:
        words += f", {partitions.possible_count:,} possible ({untagged:,} untagged writes)"
    if partitions.excluded_count:
        words += f", {partitions.excluded_count:,} of them left out by a named person"
    if not complete:
        return f"{words}; the others have not answered, so there may be more"
    if incident.scope_unresolved:
        return f"{words}; names in the scope are in doubt, so there may be more"
    if is_complete(list(partitions.coverage), Scope.model_validate(incident.scope).exposed_from):
        return words if affected else f"nobody, says every partition ({answered}), by full coverage"
    return f"{words}; coverage is incomplete, so there may be more"


def _not_known(incident: IncidentRecord, partitions: PartitionsRecord, facts: Mapping[str, Any]) -> Sequence[str]:
    unknown = []
    unresolved = incident.scope_unresolved or {}
    for each in unresolved.get("unknown", []):
        near = ", ".join(unresolved.get("nearest", {}).get(each["value"], []))
        shown = f" {each['value']!r}" if each["value"] else ""
        unknown.append(f"{each['field']}{shown}: {each['why']}{f'; near: {near}' if near else ''}")
    if unresolved.get("unchecked"):
        unknown.append(
            "the names in the scope are not compared with the index yet: it has not said that it read what was there when "
            "the alert came"
        )
    if incident.unsigned_source:
        unknown.append("the source is unsigned: anybody who can write the topic may have sent this")
    if incident.scope is not None:
        if partitions.partition_count is None or partitions.answered < partitions.partition_count:
            unknown.append(f"who is affected: {of_partitions(partitions)} have answered")
        exposed_from = Scope.model_validate(incident.scope).exposed_from
        unknown += [f"coverage: {gap}" for each in partitions.coverage for gap in gaps_in_words(each, exposed_from)]
        if exposed_from is None:
            unknown.append("since when the data lay open: the scope has no exposed_from")
    if not any(facts.get(name) for name in AWARENESS):
        unknown.append("awareness: nobody has recorded any; the conservative clock runs from the detection")
    return list(dict.fromkeys(unknown))


def next_step(
    incident: IncidentRecord,
    plan: PlanRecord | None,
    partitions: PartitionsRecord,
    facts: Mapping[str, Any],
    releases: Sequence[ReleaseView],
    without_text: Sequence[str],
    segment_count: int,
    *,
    unconfirmed: bool = False,
    waiting: int = 0,
    all_ended: bool = False,
    obligations: Sequence[ObligationRecord] = (),
    told_wrongly: int = 0,
) -> NextStep | None:
    """Return the one next thing to do; None when the incident has ended."""
    name = incident.incident_id
    if incident.state in ("dismissed", "closed"):
        return None
    if incident.acknowledged_at is None:
        return NextStep("responder", f"tocsin incident ack {name}", "nobody has acknowledged it")
    if incident.scope is None or (incident.scope_unresolved or {}).get("unknown"):
        typed = str(
            (incident.scope_unresolved or {}).get("type", f"tocsin incident rescope {name} --scope FILE --reason TEXT")
        )
        return NextStep("responder or dpo", typed, "its scope is unresolved")
    if unconfirmed:
        return NextStep(
            "responder, dpo or counsel", f"tocsin incident confirm-everybody {name} --reason TEXT",
            "its scope is about everybody, or nearly",
        )  # fmt: skip
    ordinary = [each for each in releases if each.record.mode != Mode.BREAK_GLASS]
    newest = ordinary[0] if ordinary else None
    if newest is not None and newest.record.state == "prepared" and not all_ended:
        return NextStep(
            newest.missing or "an approver",
            f"tocsin incident sheet {name} -o sheet.html",
            "it waits for approval by the sheet's hash",
        )
    started = [each for each in ordinary if each.record.state in ("releasing", "paused", "finished")]
    if waiting and started:
        return NextStep(
            "responder, dpo or counsel", f"tocsin incident prepare {name}",
            f"{waiting:,} late people or supplements wait for an approval of their own",
        )  # fmt: skip
    running = next((each for each in ordinary if each.record.state in ("releasing", "paused")), None)
    if running is not None and running.record.state == "paused":
        why = (
            "its canary holds its release"
            if running.record.canary_state == CanaryState.HELD
            else "its release is paused"
        )
        return NextStep("sre or dpo", f"tocsin incident resume {name} --reason TEXT", why)
    if running is not None:
        return NextStep("sre", f"tocsin incident watch {name}", "its release is releasing")
    if facts.get("sensitivity") == "synthetic_only":
        return NextStep(
            "a responder, then a second person", f"tocsin incident dismiss {name} --reason TEXT",
            "purely synthetic and matching nobody: recorded, not notified",
        )  # fmt: skip
    if not any(facts.get(fact) for fact in AWARENESS):
        return NextStep(
            "responder, dpo or counsel",
            f"tocsin incident aware {name} --as controller_aware_at --at INSTANT --reason TEXT",
            "awareness is not recorded",
        )
    if plan is None or plan.state != "complete":
        return NextStep("nobody: wait", f"tocsin incident show {name}", f"{of_partitions(partitions)} have answered")
    if told_wrongly:
        return NextStep(
            "responder, dpo or counsel", f"tocsin incident correct {name} --reason TEXT",
            f"{told_wrongly:,} people were told what is not true of them, and nobody has begun to put it right",
        )  # fmt: skip
    seen = finding(incident, partitions)
    if not plan.recipient_count and seen == "nobody":
        return NextStep(
            "dpo",
            f"tocsin incident close {name} --reason TEXT",
            "nobody is affected, by full coverage: that is a finding",
        )
    if not plan.recipient_count and seen == "none_found":
        return NextStep(
            "dpo", f"tocsin incident close {name} --unnotified --reason TEXT",
            "none were found, and coverage is incomplete: widen the scope or load history, or decide that it is enough",
        )  # fmt: skip
    if all_ended:
        if unmet := unmet_duties(obligations):
            duty = unmet[0].regime_id
            if is_shared(unmet[0], obligations):
                duty += f" --controller {unmet[0].controller}"
            return NextStep(
                "dpo", f"tocsin incident duty {name} {duty} --reference NUMBER --reason TEXT",
                f"everybody has an end state, but nobody has recorded that {unmet_in_words(unmet)}",
            )  # fmt: skip
        return NextStep("dpo", f"tocsin incident close {name} --reason TEXT", "everybody has an end state")
    if without_text and len(without_text) == segment_count:
        return NextStep("counsel", f"tocsin notices segments {name}", "no segment has an approved text")
    return NextStep("responder, dpo or counsel", f"tocsin incident prepare {name}", "the plan is complete")
