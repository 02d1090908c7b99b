"""An incident's duties, kept in step with what they rest on; the gates that follow from them; duties that were met.

`refresh` is the one place that writes duties: planning calls it with a new count, whoever records a fact calls it with the
fact, the clock stage calls it when either of them died in between or the rules changed. All of it is the caller's
transaction, so that duties, gates and what the log learns are there together or not at all. The law itself is
`consumers.domain`'s.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, case_event, new_salt, salted_sha256, written
from consumers.case.permissions import Act, Role
from consumers.case.records import GateRecord, IncidentRecord, MetRecord, PageRecord, page_id_of
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, known_facts, still_open, write_fact
from consumers.domain.duties import (
    OPEN,
    DutyRow,
    Exposure,
    Law,
    Movement,
    answers_for,
    cause_of,
    digest,
    duty_rows,
    ground,
    movements,
)
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE, members
from consumers.domain.obligations import OWED, Status
from consumers.domain.rules import Duty, DutyVersion

FROM_DUTY = "(duty)"
"""Stands for nobody: a gate that follows from a duty."""
_TOLD_AT_ONCE = 20
_SUBMITTED = ("initial_submitted_at", "intermediate_submitted_at", "notification_submitted_at")
"""Instants that start the clock of a further report: recorded when the report before it is."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What the duties of an incident rest on now."""

    revision: int
    """Whose people are counted; the incident's own while nobody is."""
    exposures: Sequence[Exposure]
    controllers: Sequence[str]
    recorded: Mapping[str, Any]


def basis_of(case: CaseWork, incident: IncidentRecord, law: Law) -> Basis:
    """Return what `incident`'s duties rest on. Until people are counted every controller concerned may be the one."""
    counted = case.exposures(incident.incident_id)
    recorded = known_facts(case, incident)
    recorded.pop("detected_at", None)
    if counted is None:
        return Basis(incident.revision, (), concerned(incident.scope, law), recorded)
    revision, exposures = counted
    known = [each for each in exposures if each.controller in law.controllers.by_key]
    return Basis(revision, known, [each.controller for each in known], recorded)


def concerned(scope: Mapping[str, Any] | None, law: Law) -> list[str]:
    """Return the controllers that answer for the websites that a scope names, or all of them."""
    websites = (scope or {}).get("website_ids", ())
    keys = {law.controllers.of_website(int(website))[0] for website in websites} or set(law.controllers.by_key)
    return sorted(keys)


def rows_of(incident: IncidentRecord, basis: Basis, law: Law) -> list[DutyRow]:
    """Return every duty's answer. Raises BadInput for a recorded fact that cannot be used."""
    answers = answers_for(
        basis.recorded,
        incident.detected_at,
        law,
        {each.controller: each for each in basis.exposures},
        basis.controllers,
        source=f"facts of {incident.incident_id}",
    )
    return duty_rows(answers)


def stands(case: CaseWork, incident: IncidentRecord, law: Law) -> bool:
    """Say whether the written duties rest on what is known now."""
    return case.duty_ground(incident.incident_id) == _ground(basis_of(case, incident, law), law)


def _ground(basis: Basis, law: Law) -> dict[str, str]:
    resting = ground(recorded=basis.recorded, found=basis.exposures, controllers=basis.controllers, law=law)
    return {**resting, "revision": str(basis.revision), "counted": "yes" if basis.exposures else "no"}


def refresh(
    case: CaseWork, incident: IncidentRecord, law: Law, now: datetime, *, quiet: bool = False
) -> Sequence[Movement]:
    """Work the duties out anew if anything that they rest on has changed; return what moved.

    `quiet` pages nobody: whoever made the change reads it on their screen. The first answer moves nothing.
    Raises BadInput for a recorded fact that cannot be used; nothing is written then.
    """
    name = incident.incident_id
    basis = basis_of(case, incident, law)
    resting, before = _ground(basis, law), case.duty_ground(name)
    if resting == before:
        return ()
    rows = rows_of(incident, basis, law)
    known = case.duty_rows(name)
    cause = cause_of(before, resting)
    # until people are counted every duty that may exist is pending: that most of them fall away then is no news
    counted_now = before is not None and before.get("counted") != resting["counted"]
    compared = before is not None and not counted_now
    moved = [each for each in movements(known, rows, cause) if each.material] if compared else []
    case.write_duties(name, basis.revision, rows)
    case.set_duty_ground(name, resting, now)
    case.add_movements(name, moved, now)
    _reconcile_gates(case, incident, basis, rows, law, now)
    if not compared or moved:
        case.publish_case_event(
            case_event(
                "obligations.computed",
                incident_id=name,
                actor=None,
                role=None,
                at=now,
                body=_computed(basis, rows, moved, law),
                exercise=incident.exercise,
            )
        )
    if moved and not quiet:
        _page_moved(case, incident, moved, now)
    if counted_now:
        _page_counted(case, incident, basis, rows, now)
    return moved


def _computed(basis: Basis, rows: Sequence[DutyRow], moved: Sequence[Movement], law: Law) -> Body:
    dates = [row.deadline_at or row.conservative_deadline_at for row in rows if row.status in OPEN]
    earliest = min((at for at in dates if at is not None), default=None)
    return {
        "revision": basis.revision,
        "controller_count": len(basis.controllers),
        "owed_count": sum(row.status in OWED for row in rows),
        "pending_count": sum(row.status == Status.PENDING for row in rows),
        "moved_count": len(moved),
        "answers_sha256": digest([row.detail for row in rows]),
        "rules_sha256": law.rules.rules_version,
        "earliest_at": None if earliest is None else written(earliest),
    }


def _page_moved(case: CaseWork, incident: IncidentRecord, moved: Sequence[Movement], now: datetime) -> None:
    number = f"{len(moved)} {'duty' if len(moved) == 1 else 'duties'}"
    case.raise_page(
        PageRecord(
            page_id=page_id_of(incident.incident_id, "duties.moved", written(now)),
            incident_id=incident.incident_id,
            kind="duties.moved",
            severity="warning",
            roles=("dpo", "responder"),
            title=f"{incident.incident_id}: {number} moved"[:300],
            body={
                "moved": [each.sentence for each in moved[:_TOLD_AT_ONCE]],
                "and_more": max(0, len(moved) - _TOLD_AT_ONCE),
                "exercise": incident.exercise,
                "next": f"tocsin incident obligations {incident.incident_id}",
            },
            raised_at=now,
        )
    )


def _page_counted(
    case: CaseWork, incident: IncidentRecord, basis: Basis, rows: Sequence[DutyRow], now: datetime
) -> None:
    """Tell in one sentence how large it is, how long there is, and what nobody has begun yet."""
    people = sum(each.people_count for each in basis.exposures)
    places = {code for each in basis.exposures for code in each.residents if code != UNKNOWN_RESIDENCE}
    running = [row for row in rows if row.status in ("due", Status.PENDING) and _watched(row) is not None]
    first = min(running, key=lambda row: (_watched(row), row.regime_id), default=None)
    words = f"{incident.incident_id} {incident.state}: about {people:,} people in {len(places)} jurisdictions"
    if first is not None:
        counted = "recorded" if first.deadline_at else "conservative"
        hours = (_watched(first) - now).total_seconds() / 3600
        words += f"; {first.regime_id} ({counted}) {f'{hours:.0f} h left' if hours >= 0 else 'missed'}"
    if incident.acknowledged_at is None:
        words += "; verification not begun"
    command = "ack" if incident.acknowledged_at is None else "show"
    case.raise_page(
        PageRecord(
            page_id=page_id_of(incident.incident_id, "incident.counted", str(basis.revision)),
            incident_id=incident.incident_id,
            kind="incident.counted",
            severity="warning" if incident.exercise else "critical",
            roles=("responder", "dpo"),
            title=words[:300],
            body={
                "people": people,
                "jurisdictions": sorted(places),
                "earliest_deadline_at": None if first is None else written(_watched(first)),
                "exercise": incident.exercise,
                "next": f"tocsin incident {command} {incident.incident_id}",
            },
            raised_at=now,
        )
    )


def _watched(row: DutyRow) -> Any:
    return row.deadline_at or row.conservative_deadline_at


# Gates that follow from duties


@dataclass(frozen=True, slots=True)
class _Wanted:
    kind: str
    controller: str
    regime_id: str
    covers: tuple[str, ...]


def _wanted_gates(
    basis: Basis, rows: Iterable[DutyRow], met: Iterable[MetRecord], law: Law
) -> Iterable[tuple[tuple[str, str, str], _Wanted]]:
    done = {(each.controller, each.regime_id) for each in met if each.withdrawn_at is None}
    for row in rows:
        covers = tuple(sorted(members(row.detail["jurisdiction"])))
        key = (row.controller, row.regime_id)
        if row.status == Status.DUE_BEFORE_INDIVIDUAL_NOTICE and row.recipient != "individual" and key not in done:
            # who must be told first: nobody who lives there hears of it before the authority does
            wanted = _Wanted("authority_first", *key, covers)
            yield (wanted.kind, *key), wanted
        if row.recipient == "individual" and row.status in OPEN and _held(basis.recorded, row, law):
            wanted = _Wanted("law_enforcement_hold", *key, covers)
            yield (wanted.kind, *key), wanted


def _held(recorded: Mapping[str, Any], row: DutyRow, law: Law) -> bool:
    """Say whether law enforcement holds this notice, under a law that lets it."""
    duty = law.rules.by_id.get(row.detail["regime_id"])
    version = None if duty is None else _version(duty, row)
    if duty is None or version is None or version.hold is None:
        return False
    began = _keyed(recorded.get("le_hold_from"), duty)
    return began is not None and _keyed(recorded.get("le_hold_released_at"), duty) is None


def _version(duty: Duty, row: DutyRow) -> DutyVersion | None:
    return next((each for each in duty.versions if each.version == row.detail.get("version")), None)


def _keyed(value: Any, duty: Duty) -> Any:
    if not isinstance(value, Mapping):
        return value
    keys = (duty.regime_id, duty.follows, duty.limb_of, duty.jurisdiction, *sorted(members(duty.jurisdiction)))
    return next((value[key] for key in keys if key in value), None)


def _reconcile_gates(
    case: CaseWork, incident: IncidentRecord, basis: Basis, rows: Sequence[DutyRow], law: Law, now: datetime
) -> None:
    """Set the gates that the duties ask for and lift those that they no longer do.

    One that a person lifted stays lifted: their reason outweighs the rule that set it.
    """
    wanted = dict(_wanted_gates(basis, rows, case.met(incident.incident_id), law))
    there = [each for each in case.gates(incident.incident_id) if each.regime_id is not None]
    closed = {}
    for each in there:
        key = (each.kind, each.controller or "", each.regime_id or "")
        if each.lifted_at is None and key not in wanted:
            case.lift_gate(each.gate_id, by=FROM_DUTY, at=now)
            _gate_event(case, incident, "gate.lifted", each, now)
        elif each.lifted_at is None or each.lifted_by != FROM_DUTY:
            closed[key] = each
    fresh = [each for key, each in wanted.items() if key not in closed]
    for want in fresh:
        gate = GateRecord(
            uuid.uuid4().hex, incident.incident_id, want.kind, want.covers, now, FROM_DUTY, None,
            controller=want.controller, regime_id=want.regime_id,
        )  # fmt: skip
        case.add_gate(gate)
        _gate_event(case, incident, "gate.set", gate, now)
    if fresh:
        # recalls what dispatch has in hand already; whoever is not covered is commanded anew
        case.update_incident(incident.incident_id, {"epoch": incident.epoch + 1})


def _gate_event(case: CaseWork, incident: IncidentRecord, kind: str, gate: GateRecord, now: datetime) -> None:
    body: dict[str, Any] = {"gate_id": gate.gate_id, "gate": gate.kind, "regime_id": gate.regime_id}
    if kind == "gate.set":
        body["covers"] = list(gate.covers)
    case.publish_case_event(
        case_event(
            kind, incident_id=incident.incident_id, actor=None, role=None, at=now, body=body, exercise=incident.exercise
        )
    )


# What would move


def what_if(
    store: CaseStore, incident_id: str, changes: Mapping[str, Any], law: Law
) -> tuple[Sequence[Movement], Sequence[DutyRow]]:
    """Return what would move, and how the duties would stand, if `changes` were recorded. Writes nothing.

    A value of None makes a fact unknown. Raises BadInput for what is no fact or has no sense.
    """

    def work(case: CaseWork) -> tuple[Sequence[Movement], Sequence[DutyRow]]:
        incident = found(case, incident_id)
        basis = basis_of(case, incident, law)
        before = rows_of(incident, basis, law)
        after = rows_of(incident, replace(basis, recorded={**basis.recorded, **changes}), law)
        return movements(before, after, "what if"), after

    return store.look(work)


# Duties that were met


def record_met(
    store: CaseStore,
    incident_id: str,
    regime_id: str,
    actor: Actor,
    now: datetime,
    law: Law,
    *,
    met_at: datetime,
    controller: str | None,
    reference: str | None,
    file: tuple[str, str] | None,
    reason: str | None,
) -> tuple[MetRecord, Sequence[Movement]]:
    """Record that a duty was met: when, under which number, with which file (name and SHA-256); return what moved.

    Raises BadInput for a duty that the incident does not have, or an instant in the future or before the detection;
    Refused if it is recorded already.
    """
    role = actor.acting_for(Act.RECORD_DUTY)
    why = needed(reason)
    if met_at > now:
        raise BadInput(f"--at {written(met_at)} lies in the future; a duty is recorded once it is met")

    def work(case: CaseWork) -> tuple[MetRecord, Sequence[Movement]]:
        incident = still_open(case, incident_id)
        duty = _the_duty(case, incident_id, regime_id, controller)
        if met_at < incident.detected_at:
            raise BadInput(f"--at {written(met_at)} lies before the detection {written(incident.detected_at)}")
        known = _in_force(case, incident_id, duty)
        if known is not None:
            raise Refused(
                f"{incident_id}: {duty.regime_id} was met {written(known.met_at)}, says {known.recorded_by}; take that "
                f"back first: tocsin incident duty {incident_id} {duty.regime_id} --withdraw --reason TEXT"
            )
        record = MetRecord(
            uuid.uuid4().hex, incident_id, duty.controller, duty.regime_id, met_at, now, actor.person_id, reference,
            None if file is None else file[0][:200], None if file is None else file[1], why,
        )  # fmt: skip
        case.add_met(record)
        salt = new_salt()
        body: Body = {
            "regime_id": duty.regime_id,
            "met_at": written(met_at),
            "reference_sha256": None if reference is None else salted_sha256(salt, reference),
            "file_sha256": None if file is None else salted_sha256(salt, file[1]),
        }
        record_act(case, actor, role, "duty.met", body, at=now, incident=incident, reason=why, salt=salt)
        _start_what_follows(case, incident, duty, record, law, actor, role, now)
        moved = refresh(case, incident, law, now, quiet=True)
        _lift_told(case, incident, law, now)
        return record, moved

    return store.change(work)


def withdraw_met(
    store: CaseStore, incident_id: str, regime_id: str, actor: Actor, now: datetime, law: Law,
    *, controller: str | None, reason: str | None,
) -> MetRecord:  # fmt: skip
    """Take back that a duty was met. The row stays, marked. Raises Refused if nothing is recorded."""
    role = actor.acting_for(Act.RECORD_DUTY)
    why = needed(reason)

    def work(case: CaseWork) -> MetRecord:
        incident = still_open(case, incident_id)
        duty = _the_duty(case, incident_id, regime_id, controller)
        record = _in_force(case, incident_id, duty)
        if record is None:
            raise Refused(f"{incident_id}: nobody has recorded that {duty.regime_id} was met")
        case.withdraw_met(record.duty_met_id, by=actor.person_id, at=now)
        body: Body = {"regime_id": duty.regime_id}
        record_act(case, actor, role, "duty.met_withdrawn", body, at=now, incident=incident, reason=why)
        _lift_told(case, incident, law, now)
        return record

    return store.change(work)


def _in_force(case: CaseWork, incident_id: str, duty: DutyRow) -> MetRecord | None:
    return next(
        (
            each
            for each in case.met(incident_id)
            if (each.controller, each.regime_id) == (duty.controller, duty.regime_id) and each.withdrawn_at is None
        ),
        None,
    )


def _the_duty(case: CaseWork, incident_id: str, regime_id: str, controller: str | None) -> DutyRow:
    rows = case.duty_rows(incident_id)
    named = [each for each in rows if each.regime_id == regime_id]
    if not named:
        raise BadInput(
            f"{incident_id} has no duty {regime_id}{nearest(regime_id, {each.regime_id for each in rows})}; see "
            f"`tocsin incident obligations {incident_id} --all`"
        )
    chosen = [each for each in named if controller in (None, each.controller)]
    if len(chosen) != 1:
        keys = ", ".join(each.controller for each in named)
        raise BadInput(f"{regime_id} is a duty of {keys}; say whose with --controller")
    return chosen[0]


def _start_what_follows(
    case: CaseWork,
    incident: IncidentRecord,
    duty: DutyRow,
    record: MetRecord,
    law: Law,
    actor: Actor,
    role: Role,
    now: datetime,
) -> None:
    """Record the submission where it starts the clock of a further report, under the name that that report looks up."""
    rule = law.rules.by_id.get(duty.detail["regime_id"])
    names = {duty.detail["regime_id"], rule.limb_of if rule else None} - {None}
    recorded = known_facts(case, incident)
    for fact in _SUBMITTED:
        keys = sorted(
            {
                other.clock_of
                for other in law.rules.duties
                for version in other.versions
                if version.clock_starts == fact and other.clock_of in names and other.clock_of is not None
            }
        )
        value = recorded.get(fact)
        if not keys or (value is not None and not isinstance(value, Mapping)):
            continue
        merged = {**(value or {}), **{key: written(record.met_at) for key in keys}}
        write_fact(case, incident, fact, merged, actor, role, now, record.reason or "the duty was met")


def _lift_told(case: CaseWork, incident: IncidentRecord, law: Law, now: datetime) -> None:
    """A gate that waited for this duty goes, or comes back, although no answer moved."""
    basis = basis_of(case, incident, law)
    current = case.incident(incident.incident_id) or incident
    _reconcile_gates(case, current, basis, case.duty_rows(incident.incident_id), law, now)
