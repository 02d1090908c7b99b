"""What people do to an incident: acknowledge, correct its scope, hold, close. What they know of it is `recording`'s.

Each function checks the permission, writes its rows and its case event, and tells the index what it must know, in one
transaction of the store. Releasing has a module of its own.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from bridge.contracts.errors import BadInput, Refused, nearest
from bridge.contracts.scope import AskedScope, Scope
from consumers.case.acting import Actor, needed, record_act
from consumers.case.alerts import Known, judge_scope, listed, wrong_names
from consumers.case.events import Body, case_event, new_salt, salted_sha256, written
from consumers.case.findings import finding
from consumers.case.intake_rules import ASK_FOR_SCOPE, announce, proposal_id_of
from consumers.case.permissions import Act, Role
from consumers.case.records import (
    AudienceRow,
    FactRecord,
    GateRecord,
    IncidentRecord,
    ObligationRecord,
    ProposalRecord,
    page_id_of,
)
from consumers.case.rewriting import ScopeRewriter
from consumers.case.scoping import refuse_unknown
from consumers.case.store import CaseStore, CaseWork
from consumers.domain.approvals import Mode
from consumers.domain.gates import Gate, gate_for
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE, jurisdiction
from consumers.domain.obligations import OWED


class State(StrEnum):
    """Where an incident stands."""

    SUSPECTED = "suspected"
    VERIFYING = "verifying"
    CONFIRMED = "confirmed"
    DISMISSED = "dismissed"
    CLOSED = "closed"


class Move(StrEnum):
    """What can happen to its state."""

    ACKNOWLEDGE = "acknowledge"
    CONFIRM = "confirm"
    RELEASE = "release"
    DISMISS = "dismiss"
    CLOSE = "close"


TRANSITIONS: Mapping[tuple[State, Move], State] = {
    (State.SUSPECTED, Move.ACKNOWLEDGE): State.VERIFYING,
    (State.VERIFYING, Move.ACKNOWLEDGE): State.VERIFYING,
    (State.CONFIRMED, Move.ACKNOWLEDGE): State.CONFIRMED,
    (State.SUSPECTED, Move.CONFIRM): State.CONFIRMED,
    (State.VERIFYING, Move.CONFIRM): State.CONFIRMED,
    (State.CONFIRMED, Move.CONFIRM): State.CONFIRMED,
    # who releases notices says by it that the leak is real
    (State.SUSPECTED, Move.RELEASE): State.CONFIRMED,
    (State.VERIFYING, Move.RELEASE): State.CONFIRMED,
    (State.CONFIRMED, Move.RELEASE): State.CONFIRMED,
    (State.SUSPECTED, Move.DISMISS): State.DISMISSED,
    (State.VERIFYING, Move.DISMISS): State.DISMISSED,
    (State.SUSPECTED, Move.CLOSE): State.CLOSED,
    (State.VERIFYING, Move.CLOSE): State.CLOSED,
    (State.CONFIRMED, Move.CLOSE): State.CLOSED,
    (State.DISMISSED, Move.CLOSE): State.CLOSED,
}
"""All that can happen. What is not here is refused."""

AWARENESS: tuple[str, ...] = (
    "aware_at", "controller_aware_at", "processor_aware_at", "discovered_at", "determined_at", "determined_material_at",
    "confirmed_at", "noticed_at", "aware_and_scope_identified_at",
)  # fmt: skip
"""Instants that a named person records by `incident aware`."""

VOIDABLE = ("prepared", "releasing", "paused")


def moved(incident: IncidentRecord, move: Move) -> State:
    """Return the state after `move`. Raises Refused when the table has no such row."""
    try:
        return TRANSITIONS[State(incident.state), move]
    except KeyError:
        raise Refused(f"{incident.incident_id} is {incident.state}; it cannot {move} from there") from None


def found(work: CaseWork, incident_id: str) -> IncidentRecord:
    """Return the incident. Raises BadInput with the nearest id."""
    incident = work.incident(incident_id)
    if incident is None:
        known = [each.incident_id for each in work.incidents()]
        raise BadInput(f"there is no incident {incident_id}{nearest(incident_id, known)}; see `tocsin incident list`")
    return incident


def still_open(work: CaseWork, incident_id: str) -> IncidentRecord:
    """Return an incident that has not ended. Raises BadInput or Refused."""
    incident = found(work, incident_id)
    if incident.state in (State.DISMISSED, State.CLOSED):
        raise Refused(f"{incident_id} is {incident.state}; nothing about it changes any more")
    return incident


def acknowledge(store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None = None) -> None:
    """Somebody looks: pages about it stop, a suspected incident is being verified. Repeating it changes nothing."""
    role = actor.acting_for(Act.ACKNOWLEDGE)

    def work(case: CaseWork) -> None:
        incident = found(case, incident_id)
        state = moved(incident, Move.ACKNOWLEDGE)
        case.acknowledge_pages(incident_id, by=actor.person_id, at=now)
        if incident.acknowledged_at is not None:
            return
        case.update_incident(
            incident_id, {"state": state.value, "acknowledged_at": now, "acknowledged_by": actor.person_id}
        )
        record_act(
            case, actor, role, "incident.acknowledged", {"state": state.value}, at=now, incident=incident, reason=reason
        )

    store.change(work)


@dataclass(frozen=True, slots=True)
class Rescoped:
    """A corrected scope in force."""

    incident: IncidentRecord
    voided: Sequence[str]


_NOTHING_KNOWN = ScopeRewriter()


def rescope(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    *,
    scope: AskedScope | None = None,
    settings: Mapping[str, Sequence[str]] | None = None,
    proposal_id: str | None = None,
    as_given: bool = False,
    reason: str | None,
    rewriter: ScopeRewriter = _NOTHING_KNOWN,
    known: Known | None = None,
) -> Rescoped:
    """Give an incident another scope: a new revision that the index resolves anew.

    The scope is `scope`, an accepted proposal, or the one in force (or as the alert gave it) with `settings` changed; it is
    rewritten by what `rewriter` knows now. Raises Refused for an alias that leads nowhere, and for a name that is not among
    `known`: nobody would be found by it, and that would look like an answer.
    Releases of the old revision are void and the epoch rises, so that commands still on the belt mail nobody.
    """
    role = actor.acting_for(Act.RESCOPE)
    why = needed(reason)

    def work(case: CaseWork) -> Rescoped:
        incident = still_open(case, incident_id)
        asked = (
            scope if scope is not None else _scope_from(case, incident, settings or {}, proposal_id, as_given=as_given)
        )
        if known is not None:
            try:
                refuse_unknown(asked, known, now)
            except Refused as refused:
                raise Refused(f"{refused}; take it all the same with --as-given") from None
        done = rewriter.rewritten(asked)
        new, rewriting = done.scope, None if done.rewriting is None else done.rewriting.model_dump(mode="json")
        assert new is not None
        if not new.canonical():
            raise BadInput(
                "a scope that restricts nothing would reach every customer; name at least one model or field"
            )
        doubted = bool((incident.scope_unresolved or {}).get("unknown"))
        if new.sha256() == incident.scope_sha256 and not doubted:
            raise Refused(f"{incident_id} has this very scope already")
        accepted = {proposal_id_of(incident_id, new), *([] if proposal_id is None else [proposal_id])}
        for each in accepted:
            _decide(case, incident_id, each, actor, now, accepted=True)
        if (former := _former_scope(incident, rewriter)) is not None and former != new:
            # an alert that goes on naming it tells nothing new
            former_id = proposal_id_of(incident_id, former)
            case.add_proposal(ProposalRecord(former_id, incident_id, former.canonical(), now))
            _decide(case, incident_id, former_id, actor, now, accepted=False)
        case.end_pages(incident_id, ASK_FOR_SCOPE, by=actor.person_id, at=now)
        # where the index has not read everything yet, what it does not know is compared later
        unread = known is not None and not known.are_current(now) and bool(wrong_names(asked, known, rewriter))
        unresolved = {"unchecked": True, "since": written(now)} if unread else None
        voided = void_releases(case, incident_id, by=actor.person_id, at=now)
        revised = replace(
            incident,
            revision=incident.revision + 1,
            scope=new.canonical(),
            scope_sha256=new.sha256(),
            scope_unresolved=unresolved,
            scope_rewriting=rewriting,
            epoch=incident.epoch + 1,
        )
        case.update_incident(
            incident_id,
            {
                "revision": revised.revision,
                "scope": revised.scope,
                "scope_sha256": revised.scope_sha256,
                "scope_unresolved": unresolved,
                "scope_rewriting": rewriting,
                "epoch": revised.epoch,
            },
        )
        announce(case, revised)
        body: Body = {"revision": revised.revision, "scope_sha256": new.sha256(), "voided": len(voided)}
        record_act(case, actor, role, "incident.rescoped", body, at=now, incident=revised, reason=why)
        return Rescoped(revised, voided)

    return store.change(work)


def _decide(case: CaseWork, incident_id: str, proposal_id: str, actor: Actor, now: datetime, *, accepted: bool) -> None:
    case.decide_proposal(proposal_id, by=actor.person_id, at=now, accepted=accepted)
    case.acknowledge_page(page_id_of(incident_id, "scope_proposed", proposal_id), by=actor.person_id, at=now)


def _former_scope(incident: IncidentRecord, rewriter: ScopeRewriter) -> Scope | None:
    """Return the scope that was in force, or what the alert's words would have been taken for; None: for nothing."""
    if incident.scope is not None:
        return Scope.model_validate(incident.scope)
    given = (incident.scope_unresolved or {}).get("as_given", {})
    return judge_scope(given, None, incident.opened_at, rewriter).scope


def ask_no_more(case: CaseWork, incident_id: str, release_id: str, *, by: str, at: datetime) -> None:
    """Page nobody any more for the approval of what is approved, or cannot be any more."""
    case.acknowledge_page(page_id_of(incident_id, "approval_needed", release_id), by=by, at=at)


def void_releases(case: CaseWork, incident_id: str, *, by: str, at: datetime) -> Sequence[str]:
    """Void what was prepared or runs; return the release ids."""
    voided = []
    epoch = found(case, incident_id).epoch
    for release in case.releases(incident_id):
        if release.state in VOIDABLE:
            # whoever calls raises the epoch, or ends the incident
            case.update_release(release.release_id, {"state": "void", "stopped_epoch": epoch + 1})
            ask_no_more(case, incident_id, release.release_id, by=by, at=at)
            # whoever nothing was sent to begins anew under the next release, or not at all
            case.withdraw_attempts(release.release_id)
            voided.append(release.release_id)
    return voided


def _scope_from(
    case: CaseWork,
    incident: IncidentRecord,
    settings: Mapping[str, Sequence[str]],
    proposal_id: str | None,
    *,
    as_given: bool,
) -> AskedScope:
    if proposal_id is not None:
        waiting = [each for each in case.proposals(incident.incident_id) if each.decided_at is None]
        chosen = next((each for each in waiting if each.proposal_id == proposal_id), None)
        if chosen is None:
            known = [each.proposal_id for each in waiting]
            raise BadInput(f"{incident.incident_id} has no open proposal {proposal_id}{nearest(proposal_id, known)}")
        return AskedScope.model_validate(chosen.scope)
    if not settings and not as_given:
        raise BadInput("say the new scope: --proposal ID, --scope FILE, --set field=value, or --as-given")
    basis = dict(
        (incident.scope_rewriting or {}).get("asked")
        or incident.scope
        or (incident.scope_unresolved or {}).get("as_given", {})
    )
    for name, values in settings.items():
        if name not in AskedScope.model_fields:
            raise BadInput(f"--set {name}: a scope has no such field{nearest(name, AskedScope.model_fields)}")
        single = name.endswith(("_from", "_to", "_at")) or name in ("everyone", "with_descendants")
        basis[name] = values[-1] if single else list(values)
        if basis[name] in ("", [""]):
            del basis[name]
    try:
        return AskedScope.model_validate(listed(basis))
    except ValueError as error:
        first = str(error).splitlines()
        raise BadInput(f"the scope is not valid: {' '.join(line.strip() for line in first[1:3])}") from None


def known_facts(case: CaseWork, incident: IncidentRecord) -> dict[str, Any]:
    """Return what is known: of each fact the newest record, and the detection."""
    facts: dict[str, Any] = {"detected_at": incident.detected_at.isoformat()}
    for record in case.facts(incident.incident_id):
        facts[record.name] = record.value
    return facts


def write_fact(
    case: CaseWork,
    incident: IncidentRecord,
    name: str,
    value: Any,
    actor: Actor,
    role: Role,
    now: datetime,
    reason: str,
) -> None:
    """Write one fact as `actor` records it, with its case event. None makes it unknown again; history stays."""
    case.add_fact(FactRecord(incident.incident_id, name, value, now, actor.person_id, reason))
    body: Body
    if name.endswith("_at") and isinstance(value, str):
        kind, body = "fact.instant_recorded", {"name": name, "at": written(datetime.fromisoformat(value))}
    else:
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        kind, body = (
            "fact.recorded",
            {"name": name, "value_sha256": hashlib.sha256(canonical.encode()).hexdigest()},
        )
    record_act(case, actor, role, kind, body, at=now, incident=incident, reason=reason)


GATE_KINDS = ("law_enforcement_hold", "authority_first", "notice_incomplete")


@dataclass(frozen=True, slots=True)
class Held:
    """What a hold covers, or would. Counts are of people whom the incident's scope is about."""

    gate_id: str | None
    covered: int
    covered_told: int
    """Of these, who has an end already: a hold takes nothing back."""
    named: int
    """Single people named, whether or not `covered` holds them, too."""


def set_gate(
    store: CaseStore,
    incident_id: str,
    kind: str,
    covers: Sequence[str],
    actor: Actor,
    now: datetime,
    reason: str | None,
) -> str:
    """Hold the people whom `covers` names (jurisdictions, or `*`) until the gate is lifted; return the gate's id."""
    done = hold_people(store, incident_id, kind, actor, now, covers=covers, reason=reason)
    assert done.gate_id is not None
    return done.gate_id


def hold_people(
    store: CaseStore,
    incident_id: str,
    kind: str,
    actor: Actor,
    now: datetime,
    *,
    covers: Sequence[str] = (),
    segments: Sequence[str] = (),
    people: Sequence[str] = (),
    until: datetime | None = None,
    as_given: bool = False,
    reason: str | None,
    dry_run: bool = False,
) -> Held:
    """Hold everybody in these jurisdictions (or `*`), of these segments, and these single people (by root).

    It lasts until somebody lifts it: `until` is what was asked for, and pages whoever must decide when it comes. Covered
    people stop at dispatch's next look at the epoch, all others go on. Raises BadInput for whom the incident is not about;
    `as_given` takes a jurisdiction where nobody of it lives so far.
    """
    role = actor.acting_for(Act.SET_GATE)
    why = needed(reason)
    if kind not in GATE_KINDS:
        raise BadInput(f"--kind {kind}: unknown{nearest(kind, GATE_KINDS)}; known: {', '.join(GATE_KINDS)}")
    codes = sorted(set(covers))
    if not codes and not segments and not people:
        raise BadInput("--covers: name jurisdictions such as DE or US-CA, or '*' for everybody; or --segment, --person")
    if until is not None and until <= now:
        raise BadInput(f"--until {written(until)}: lies in the past")
    gate_id = uuid.uuid4().hex

    def work(case: CaseWork) -> Held:
        incident = still_open(case, incident_id)
        known = {each.segment_id for each in case.segments(incident_id, incident.revision)}
        for segment_id in segments:
            if segment_id not in known:
                raise BadInput(f"--segment {segment_id}: {incident_id} has none of this id{nearest(segment_id, known)}; "
                               f"see `tocsin notices segments {incident_id}`")  # fmt: skip
        roots = case.primary_roots(incident_id, people)
        for root in people:
            if root not in roots:
                raise BadInput(f"--person {root}: {incident_id} is not about them; write customer/<id> or order/<id>")
        # as asked for, too: who is several roots may be known by another one tomorrow, or be two people
        named, person_count = sorted({*roots, *roots.values()}), len(set(roots.values()))
        gate = Gate(gate_id, kind, codes, None, frozenset(segments), frozenset(named))
        audience = case.audience(incident_id)
        _refuse_holding_nobody(incident_id, codes, audience, as_given=as_given)
        covered = told = 0
        for row in audience:
            claims = [str(claim["code"]) for claim in row.residence]
            if gate_for(claims, [gate], row.controller, segment_id=row.segment_id) is not None:
                covered += row.count
                told += row.count if row.final_state is not None else 0
        if dry_run:
            return Held(None, covered, told, person_count)
        case.add_gate(
            GateRecord(gate_id, incident_id, kind, codes, now, actor.person_id, why, segments=sorted(set(segments)) or None,
                       people=named or None, until_at=until)
        )  # fmt: skip
        # recalls what dispatch has in hand already; whoever is not covered is commanded anew
        case.update_incident(incident_id, {"epoch": incident.epoch + 1})
        salt = new_salt()
        names = json.dumps([sorted(set(segments)), named], separators=(",", ":"))
        body: Body = {
            "gate_id": gate_id,
            "gate": kind,
            "covers": codes,
            "segment_count": len(set(segments)),
            "person_count": person_count,
            "named_sha256": salted_sha256(salt, names) if segments or named else None,
            "until_at": None if until is None else written(until),
        }
        record_act(case, actor, role, "gate.set", body, at=now, incident=incident, reason=why, salt=salt)
        if kind == "law_enforcement_hold":
            _record_hold(case, incident, codes, actor, role, now, why)
        return Held(gate_id, covered, told, person_count)

    return store.look(work) if dry_run else store.change(work)


def _record_hold(
    case: CaseWork, incident: IncidentRecord, codes: Sequence[str], actor: Actor, role: Role, now: datetime, why: str
) -> None:
    """A hold moves the clocks of the laws that know one: say so in the facts, beside what was said before."""
    facts = known_facts(case, incident)
    began, released = facts.get("le_hold_from"), facts.get("le_hold_released_at")
    at = written(now)
    if "*" in codes:
        began, released = at, None
    elif began is None or isinstance(began, Mapping):
        keys = [code for code in codes if code != UNKNOWN_RESIDENCE]
        if not keys:
            return
        began = {**(began or {}), **dict.fromkeys(keys, at)}
        if isinstance(released, Mapping):
            released = {key: value for key, value in released.items() if key not in keys} or None
    else:
        return
    write_fact(case, incident, "le_hold_from", began, actor, role, now, why)
    if released != facts.get("le_hold_released_at"):
        write_fact(case, incident, "le_hold_released_at", released, actor, role, now, why)


def _record_release(
    case: CaseWork, incident: IncidentRecord, codes: Sequence[str], actor: Actor, role: Role, now: datetime, why: str
) -> None:
    facts = known_facts(case, incident)
    began, released = facts.get("le_hold_from"), facts.get("le_hold_released_at")
    at = written(now)
    if isinstance(began, Mapping):
        keys = [code for code in began if code in codes or "*" in codes]
        if not keys or not (released is None or isinstance(released, Mapping)):
            return
        write_fact(
            case,
            incident,
            "le_hold_released_at",
            {**(released or {}), **dict.fromkeys(keys, at)},
            actor,
            role,
            now,
            why,
        )
    elif began is not None and "*" in codes and released is None:
        write_fact(case, incident, "le_hold_released_at", at, actor, role, now, why)


def _refuse_holding_nobody(
    incident_id: str, codes: Sequence[str], audience: Sequence[AudienceRow], *, as_given: bool
) -> None:
    """Raise for a jurisdiction that holds nobody, which would look like a hold: BadInput where nobody's residence is ever kept
    under its code, Refused where nobody lives of those who are known, unless that is meant (`as_given`).
    """
    homes = {str(claim["code"]) for row in audience for claim in row.residence}
    homes |= {UNKNOWN_RESIDENCE for row in audience if not row.residence}
    for code in codes:
        if code == "*" or code in homes:
            continue
        if code != UNKNOWN_RESIDENCE:
            try:
                home = jurisdiction(code)
            except BadInput as error:
                raise BadInput(f"--covers {code}: not a jurisdiction; {error}; or unknown, or '*'") from None
            if home != code:
                raise BadInput(f"--covers {code}: residences there are kept as {home}; write {home}")
        if homes and not as_given and gate_for(sorted(homes), [Gate("", "", [code])]) is None:
            shown = ", ".join(sorted(homes)[:10]) + (f" and {len(homes) - 10} more" if len(homes) > 10 else "")
            raise Refused(
                f"--covers {code}: nobody of {incident_id} lives there{nearest(code, homes)}; they live in {shown}; take it all "
                "the same, for whoever comes later, with --as-given"
            )


def lift_gate(
    store: CaseStore, incident_id: str, gate_id: str, actor: Actor, now: datetime, reason: str | None
) -> None:
    """Lift a gate. Lifting one that is lifted already changes nothing."""
    role = actor.acting_for(Act.LIFT_GATE)
    why = needed(reason)

    def work(case: CaseWork) -> None:
        incident = found(case, incident_id)
        gates = {gate.gate_id: gate for gate in case.gates(incident_id)}
        gate = gates.get(gate_id)
        if gate is None:
            raise BadInput(f"{incident_id} has no gate {gate_id}{nearest(gate_id, gates)}")
        if gate.lifted_at is not None:
            return
        case.lift_gate(gate_id, by=actor.person_id, at=now)
        body = {"gate_id": gate_id, "gate": gate.kind, "regime_id": gate.regime_id}
        record_act(case, actor, role, "gate.lifted", body, at=now, incident=incident, reason=why)
        if gate.kind == "law_enforcement_hold" and gate.regime_id is None:
            _record_release(case, incident, gate.covers, actor, role, now, why)

    store.change(work)


@dataclass(frozen=True, slots=True)
class Closed:
    """What closing did."""

    contacts_removed: int
    without_end: int
    finding: str
    """As of `findings.finding`."""
    unmet: Sequence[str]
    """Duties to others than the people that were owed without a record that they were met."""
    told_wrongly: int
    """People who were owed a correction that nobody had begun: none can be made any more."""


def close(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    *,
    unnotified: bool = False,
    reason: str | None,
) -> Closed:
    """Close an incident: no release of it runs any more, its sealed contacts go, the index stops answering for it.

    Refuses while a release runs, and while people are without an end unless `unnotified` says that this is meant. How many
    they are, and how many duties to others are owed without a record that they were met, is in the case event.
    """
    role = actor.acting_for(Act.CLOSE)
    why = needed(reason)

    def work(case: CaseWork) -> Closed:
        incident = found(case, incident_id)
        state = moved(incident, Move.CLOSE)
        open_count = case.without_end_count(incident_id)
        refuse_while_running(case, incident, open_count)
        partitions = case.partitions(incident_id, incident.revision)
        # verification found nobody behind it: there is nobody to tell
        nobody_owed = known_facts(case, incident).get("sensitivity") == "synthetic_only"
        seen = finding(incident, partitions)
        uncertain = incident.scope is None or partitions.answered < (partitions.partition_count or 1)
        # what nobody found is a finding where coverage is full; where it is not, there may be somebody
        uncertain = uncertain or seen == "none_found"
        unplanned = partitions.affected_count if not case.ends(incident_id) else 0
        if (open_count or uncertain or unplanned) and not nobody_owed and not unnotified:
            count = open_count or unplanned
            known = "not every partition has answered who is affected"
            if count:
                known = f"{count:,} {'person has' if count == 1 else 'people have'} no end state"
            if not count and seen == "none_found":
                known = "none were found, but coverage is incomplete, so there may be somebody"
            raise Refused(f"{incident_id}: {known}; release first, or close with --unnotified and a reason")
        obligations, late = case.obligations(incident_id), case.late(incident_id)
        unmet = unmet_duties(obligations)
        void_releases(case, incident_id, by=actor.person_id, at=now)
        # nobody is left in between: each of them has this decision's reason, in the ledger and in the log
        case.publish_case_events(
            case_event(
                "person.not_notified", incident_id=incident_id, actor=None, role=None, at=now,
                body={"subject": subject, "why": reason_word}, exercise=incident.exercise,
            )
            for subject, reason_word in case.leave_untold(incident_id)
        )  # fmt: skip
        removed = case.remove_contacts(incident_id)
        case.update_incident(incident_id, {"state": state.value, "closed_at": now, "epoch": incident.epoch + 1})
        announce(case, replace(incident, state=state.value))
        body: Body = {
            "from": incident.state,
            "contacts_removed": removed,
            "without_end": open_count,
            "finding": seen,
            "unmet_duties": len(unmet),
        }
        record_act(case, actor, role, "incident.closed", body, at=now, incident=incident, reason=why)
        told_wrongly = late.not_concerned + late.told_too_much
        owed = [
            f"{each.regime_id} of {each.controller}" if is_shared(each, obligations) else each.regime_id
            for each in unmet
        ]
        return Closed(removed, open_count, seen, owed, told_wrongly)

    return store.change(work)


_NO_DATE = datetime.max.replace(tzinfo=UTC)


def unmet_duties(obligations: Sequence[ObligationRecord]) -> Sequence[ObligationRecord]:
    """Return duties to others than the people that are owed and not recorded as met, the earliest date first."""
    unmet = [
        each for each in obligations if each.status in OWED and each.recipient != "individual" and each.met is None
    ]
    return sorted(unmet, key=lambda each: (each.watched_at or _NO_DATE, each.regime_id))


def is_shared(duty: ObligationRecord, obligations: Sequence[ObligationRecord]) -> bool:
    """Say whether several controllers have the same duty, so that its name alone does not say whose is meant."""
    return sum(each.regime_id == duty.regime_id for each in obligations) > 1


def unmet_in_words(unmet: Sequence[ObligationRecord]) -> str:
    """Say that the duties were met, the first by name."""
    first, more = unmet[0], len(unmet) - 1
    by = "" if first.watched_at is None else f" by {written(first.watched_at)}"
    others = "" if not more else f" and {more} other duties were met" if more > 1 else " and 1 other duty were met"
    return f"{first.regime_id} (to {first.recipient.replace('_', ' ')}{by}){others or ' was met'}"


def refuse_while_running(case: CaseWork, incident: IncidentRecord, open_count: int) -> None:
    """Raise Refused while a release of the incident runs and people wait for its end."""
    for release in case.releases(incident.incident_id):
        # what broke the glass reaches its few and then stands by; it keeps nobody from closing
        if release.state in ("releasing", "paused") and release.mode != Mode.BREAK_GLASS and open_count:
            raise Refused(
                f"{incident.incident_id}: release {release.release_id} is {release.state} and {open_count} people have "
                f"no end state; see `tocsin delivery status {incident.incident_id}`"
            )
