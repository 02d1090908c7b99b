"""From a complete plan to a running release: prepare, approve, break the glass.

A release policy binds what approvers saw: scope, rules, the approved text and the channels of each segment, the frozen
list of people, the cap for late additions, and the rule itself. Its canonical JSON (RFC 8785) is hashed; an approval
names that hash, and is refused when today's answer would be another. The approval that satisfies the rule starts the
release in its own transaction: there is no moment in which it is approved and not running.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.crosschecking import newest_crosscheck
from consumers.case.events import Body, case_event, written
from consumers.case.permissions import Act, Role
from consumers.case.possible import in_force
from consumers.case.records import (
    ApprovalRecord,
    IncidentRecord,
    PageRecord,
    PartitionsRecord,
    ReleaseRecord,
    page_id_of,
)
from consumers.case.standing import unconfirmed_everybody
from consumers.case.steering import named, say_paused_with_others
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import VOIDABLE, Move, ask_no_more, found, known_facts, moved, still_open
from consumers.domain import approvals as rule
from consumers.domain.approvals import APPROVING_ROLES, Mode
from consumers.domain.canary import CanaryPolicy, CanaryState, canary_of

Recorder = Callable[[], None]
"""Writes into the same transaction what pre-flight found."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A policy that waits for approvals, and what the preparer should know of it."""

    release: ReleaseRecord
    segments_without_text: Sequence[str]
    people_without_text: int
    late_count: int
    again: bool
    """True when this very policy was prepared before: nothing was written."""
    everybody: str | None = None
    """Why a named person must confirm the scope before this can be approved."""
    ended_count: int = 0
    """Of the people whom the policy lists, who has an end already, as an earlier release told them: nobody tells them again."""


@dataclass(frozen=True, slots=True)
class SeenSheet:
    """The sheet that an approver has before them. `check` raises Refused if anything on it has changed since, or blocks."""

    sha256: str
    policy_sha256: str
    check: Callable[[CaseWork, IncidentRecord, ReleaseRecord], Recorder]


@dataclass(frozen=True, slots=True)
class Approved:
    """What an approval did."""

    release: ReleaseRecord
    role: Role
    releasing: bool
    missing: str | None


def prepare(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    *,
    mode: Mode,
    late_cap: int,
    for_those_waiting: bool = False,
    canary: CanaryPolicy | None = None,
    reason: str | None = None,
    preflight: Callable[[CaseWork, IncidentRecord, ReleaseRecord], None] | None = None,
) -> Prepared:
    """Build the release policy of the incident's current revision and keep it for approval.

    `for_those_waiting`: where more have come late than `late_cap` covers, all of them are covered, and `late_cap` more.
    `canary`: who is tried first, and what holds the rest; None: nobody. `preflight` records what stands in the way so far;
    it keeps nobody from preparing. An older prepared policy becomes void.
    Raises Refused while not every partition has answered, nothing can be sent,
    or a release runs already.
    """
    role = actor.acting_for(Act.PREPARE)

    def work(case: CaseWork) -> Prepared:
        incident = still_open(case, incident_id)
        came_late = case.late_count(incident_id) if for_those_waiting else 0
        cap = late_cap if came_late <= late_cap else came_late + late_cap
        policy = build_policy(case, incident, mode=mode, late_cap=cap, canary=canary)
        if not policy["segments"]:
            raise Refused(
                f"{incident_id}: no segment has an approved text, so nothing can be sent; "
                f"see `tocsin notices segments {incident_id}`"
            )
        for release in case.releases(incident_id):
            running = release.state in ("releasing", "paused") and release.mode != Mode.BREAK_GLASS
            if running and not _widens(policy, release.policy):
                raise Refused(f"{incident_id}: release {release.release_id} is {release.state} already")
            if release.state == "prepared" and release.policy_sha256 == policy_sha256(policy):
                return _prepared(case, incident, release, again=True)
        voided = [each.release_id for each in case.releases(incident_id) if each.state == "prepared"]
        for release_id in voided:
            case.update_release(release_id, {"state": "void"})
            ask_no_more(case, incident_id, release_id, by=actor.person_id, at=now)
        release = _write_release(case, incident, policy, mode, actor, role, now, cap)
        body: Body = {
            **named(release),
            "revision": incident.revision,
            "recipient_count": policy["recipient_count"],
            "late_cap": cap,
            "voided": len(voided),
        }
        record_act(case, actor, role, "release.prepared", body, at=now, incident=incident, reason=reason)
        if preflight is not None:
            preflight(case, incident, release)
        done = _prepared(case, incident, release, again=False)
        _page(
            case, incident, "approval_needed", now, mark=release.release_id,
            next_command=f"tocsin incident sheet {incident_id} -o sheet.html",
            facts={"recipient_count": policy["recipient_count"], "ended_count": done.ended_count, "mode": mode.value},
        )  # fmt: skip
        return done

    return store.change(work)


def _widens(policy: Mapping[str, Any], running: Mapping[str, Any]) -> bool:
    """Whether `policy` covers people whom the running one does not: texts approved only later, or more late additions."""
    return bool(set(policy["segments"]) - set(running.get("segments", {}))) or (
        policy["late_cap"] > running.get("late_cap", 0)
    )


def _prepared(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, *, again: bool) -> Prepared:
    without = [each for each in case.segments(incident.incident_id, incident.revision) if each.bundle_sha256 is None]
    return Prepared(
        release,
        [each.name for each in without],
        sum(each.count for each in without),
        case.late_count(incident.incident_id),
        again,
        unconfirmed_everybody(case, incident),
        sum(
            each.count for each in case.audience(incident.incident_id) if each.final_state is not None and not each.late
        ),
    )


def build_policy(
    case: CaseWork, incident: IncidentRecord, *, mode: Mode, late_cap: int, canary: CanaryPolicy | None = None
) -> dict[str, Any]:
    """Return the policy as the case store has it now. Raises Refused ("n of m partitions") while the plan is incomplete.

    Late additions are not in the frozen list: the cap is what the approval says about them.
    """
    plan = case.plan(incident.incident_id, incident.revision)
    partitions = case.partitions(incident.incident_id, incident.revision)
    if known_facts(case, incident).get("sensitivity") == "synthetic_only":
        raise Refused(
            f"{incident.incident_id} is purely synthetic and matches nobody: it is recorded, not notified; dismiss it: "
            f"tocsin incident dismiss {incident.incident_id} --reason TEXT"
        )
    if plan is None or plan.state != "complete":
        if incident.scope is None:
            raise Refused(
                f"{incident.incident_id}: its scope is unresolved; see `tocsin incident show {incident.incident_id}`"
            )
        raise Refused(
            f"{incident.incident_id}: {of_partitions(partitions)} have answered, and {partitions.persisted_count} of "
            f"{partitions.affected_count} affected people are stored; a release needs all of them"
        )
    if plan.partly_drawn:
        raise Refused(
            f"{incident.incident_id}: its plan is being drawn up anew, and some people are not in it yet; try again in a "
            "minute; if that does not help, see that `tocsin run planning` runs"
        )
    checked = newest_crosscheck(case, incident)
    if checked is not None and checked.blocks:
        raise Refused(
            f"{incident.incident_id}: the store itself answers otherwise for {checked.unexplained_count:,} people, and nothing "
            f"explains it (cross-check of {written(checked.checked_at)}); find out why and cross-check again, or have a dpo or "
            f"counsel name it: tocsin incident crosscheck {incident.incident_id} --accept-unexplained --reason TEXT"
        )
    segments = {
        each.segment_id: {"bundle_sha256": each.bundle_sha256, **each.fallback.as_json()}
        for each in case.segments(incident.incident_id, incident.revision)
        if each.bundle_sha256 is not None
    }
    recipient_count, root = recipients_root(case.recipient_ids(incident.incident_id))
    excluded = in_force(case, incident)
    return {
        "incident_id": incident.incident_id,
        "revision": incident.revision,
        "scope_sha256": incident.scope_sha256,
        "rules_sha256": plan.rules_sha256,
        "bundles": sorted({str(each["bundle_sha256"]) for each in segments.values()}),
        "segments": segments,
        "recipients_root": root,
        "recipient_count": recipient_count,
        "possible_excluded": [each.exclusion_id for each in excluded],
        "possible_excluded_count": sum(each.people_count for each in excluded),
        "unexplained_accepted": None if checked is None or checked.named_at is None else checked.unexplained_sha256,
        "late_cap": late_cap,
        "mode": mode.value,
        "exercise": incident.exercise,
        **({} if canary is None else {"canary": canary.as_json()}),
    }


def of_partitions(partitions: PartitionsRecord) -> str:
    """Return "n of m partitions"; m is unknown until the first one answers."""
    total = "?" if partitions.partition_count is None else str(partitions.partition_count)
    return f"{partitions.answered} of {total} partitions"


def recipients_root(recipient_ids: Iterable[str]) -> tuple[int, str]:
    """Return how many sorted ids there are, and SHA-256 over their canonical JSON array, in hex."""
    array, count = hashlib.sha256(b"["), 0
    for recipient_id in recipient_ids:
        array.update((b"," if count else b"") + rfc8785.dumps(recipient_id))
        count += 1
    array.update(b"]")
    return count, array.hexdigest()


def policy_sha256(policy: Mapping[str, Any]) -> str:
    """Return SHA-256 over the canonical JSON (RFC 8785) of a policy, in hex."""
    return hashlib.sha256(rfc8785.dumps(dict(policy))).hexdigest()


def approve(
    store: CaseStore,
    name: str,
    policy: str,
    actor: Actor,
    now: datetime,
    *,
    mode: Mode,
    role: Role | None = None,
    reason: str | None = None,
    sheet: SeenSheet | None = None,
    preflight: Callable[[CaseWork, IncidentRecord, ReleaseRecord], Recorder] | None = None,
) -> Approved:
    """Approve the policy with the hash `policy`; the approval that satisfies the rule starts the release.

    `preflight` is for an approval without a sheet, whose `check` looks anyway: it raises Refused if something blocks. What
    it found is recorded with the approval that starts the release.
    `name` is a release or an incident. `mode` is the rule in force. Raises Refused when what was prepared, or anything on
    the sheet, has changed since, when this person's approval cannot count, or when there is nothing to approve.
    """
    actor.acting_for(Act.APPROVE)

    def work(case: CaseWork) -> Approved:
        # the incident's row is the lock: of two last approvals at one moment, the second one sees the first
        incident = still_open(case, waiting_release(case, name).incident_id)
        release = waiting_release(case, name)
        if release.state != "prepared":
            raise Refused(f"release {release.release_id} is {release.state}; there is nothing to approve")
        look = preflight if sheet is None else sheet.check
        record = None if look is None else look(case, incident, release)
        if release.policy_sha256 != policy:
            raise Refused(
                f"{incident.incident_id}: the policy that waits is {release.policy_sha256}, not {policy}; look at it "
                f"again with `tocsin incident show {incident.incident_id}`"
            )
        _refuse_if_changed(case, incident, release, mode)
        _refuse_unconfirmed(case, incident)
        preparer = rule.Act(release.prepared_by, release.prepared_role)
        given = [rule.Act(each.person, each.role) for each in case.approvals(release.release_id)]
        chosen = _chosen_role(actor, Mode(release.mode), preparer, given, role)
        candidate = rule.Act(actor.person_id, chosen.value)
        against = rule.objection(Mode(release.mode), preparer, given, candidate)
        if against is not None:
            raise Refused(f"{actor.person_id} {against}")
        shown = None if sheet is None else sheet.sha256
        case.add_approval(ApprovalRecord(release.release_id, actor.person_id, chosen.value, policy, now, reason, shown))
        given.append(candidate)
        body: Body = {**named(release), "approval_count": len(given), "sheet_sha256": shown}
        record_act(case, actor, chosen, "release.approved", body, at=now, incident=incident, reason=reason)
        releasing = rule.satisfied(Mode(release.mode), preparer, given)
        if releasing:
            if record is not None:
                record()
            _start(case, incident, release, now, approval_count=len(given))
            ask_no_more(case, incident.incident_id, release.release_id, by=actor.person_id, at=now)
            # whom a cancelled one left is this one's now; whom it cannot take over is a page of their own
            case.end_pages(incident.incident_id, ("release.cancelled",), by=actor.person_id, at=now)
        missing = rule.missing(Mode(release.mode), preparer, given)
        return Approved(case.release(release.release_id) or release, chosen, releasing, missing)

    return store.change(work)


def waiting_release(case: CaseWork, name: str) -> ReleaseRecord:
    """Return the release `name`, or of the incident `name` the one that waits for approval, else the one that runs.

    Raises BadInput for what is neither, Refused if nothing is prepared.
    """
    release = case.release(name)
    if release is not None:
        return release
    if not name.startswith("INC-"):
        raise BadInput(f"{name} is neither an incident nor a release; see `tocsin incident list`")
    releases = case.releases(found(case, name).incident_id)
    waiting = next((each for each in releases if each.state == "prepared"), None)
    if waiting is not None:
        return waiting
    running = next((each for each in releases if each.state in VOIDABLE and each.mode != Mode.BREAK_GLASS), None)
    if running is not None:
        return running
    still_open(case, name)
    raise Refused(f"{name}: nothing is prepared; `tocsin incident prepare {name}` first")


def _refuse_if_changed(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, mode: Mode) -> None:
    canary = canary_of(release.policy)
    current = build_policy(case, incident, mode=mode, late_cap=release.late_cap, canary=canary)
    if policy_sha256(current) != release.policy_sha256:
        changed = sorted(key for key in current if current[key] != release.policy.get(key))
        raise Refused(
            f"{incident.incident_id}: {', '.join(changed)} changed since this was prepared; nothing was approved. "
            f"Prepare it again: `tocsin incident prepare {incident.incident_id}`"
        )


def _refuse_unconfirmed(case: CaseWork, incident: IncidentRecord) -> None:
    doubt = incident.scope_unresolved or {}
    if unknown := doubt.get("unknown"):
        names = ", ".join(f"{each['field']} {each['value']!r}" for each in unknown)
        raise Refused(
            f"{incident.incident_id}: its scope names what the index does not know: {names}; correct it with `{doubt['type']}`, "
            "or say with --as-given that it is meant so"
        )
    words = unconfirmed_everybody(case, incident)
    if words is not None:
        raise Refused(f"{incident.incident_id}: {words}")


def _chosen_role(actor: Actor, mode: Mode, preparer: rule.Act, given: Sequence[rule.Act], wanted: Role | None) -> Role:
    if wanted is not None:
        if wanted not in actor.person.roles or wanted.value not in APPROVING_ROLES:
            able = [each for each in actor.person.roles if each.value in APPROVING_ROLES]
            raise BadInput(f"--role {wanted}: {actor.person_id} can approve as {' or '.join(able) or 'nobody'}"
                           f"{nearest(wanted.value, APPROVING_ROLES)}")  # fmt: skip
        return wanted
    return Role(
        rule.role_to_act_under(mode, preparer, given, actor.person_id, [each.value for each in actor.person.roles])
    )


def _start(
    case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, now: datetime, *, approval_count: int
) -> None:
    # a pause holds for the whole incident: what is approved meanwhile waits, too
    others = case.releases(incident.incident_id)
    paused = any(each.state == "paused" for each in others)
    changes: dict[str, Any] = {
        "state": "releasing",
        "released_at": now,
        "started_epoch": incident.epoch,
        "start_number": max((each.start_number or 0 for each in others), default=0) + 1,
    }
    if paused:
        changes |= {"state": "paused", "stopped_at": now}
    if canary_of(release.policy) is not None:
        changes["canary_state"] = CanaryState.TESTING.value
    case.update_release(release.release_id, changes)
    case.update_incident(incident.incident_id, {"state": moved(incident, Move.RELEASE).value})
    case.publish_case_event(
        case_event(
            "release.started",
            incident_id=incident.incident_id,
            actor=None,
            role=None,
            at=now,
            exercise=incident.exercise,
            body={
                **named(release),
                "recipient_count": release.policy["recipient_count"],
                "approval_count": approval_count,
            },
        )
    )
    if paused:
        say_paused_with_others(case, incident, release, now)


def release_status(store: CaseStore, incident_id: str) -> tuple[ReleaseRecord, str | None]:
    """Return the release that waits or runs, and in words which approvals are missing (None: it has them).

    Without such a one the release that ran last, on one word too. Raises Refused where none did.
    """

    def work(case: CaseWork) -> tuple[ReleaseRecord, str | None]:
        begun = [each for each in case.releases(incident_id) if each.state not in ("void", "withdrawn")]
        past = [each for each in begun if each.state not in VOIDABLE or each.mode == Mode.BREAK_GLASS]
        release = past[0] if past and past == begun else waiting_release(case, incident_id)
        if release.state != "prepared":
            return release, None
        preparer = rule.Act(release.prepared_by, release.prepared_role)
        given = [rule.Act(each.person, each.role) for each in case.approvals(release.release_id)]
        return release, rule.missing(Mode(release.mode), preparer, given)

    return store.look(work)


def break_glass(store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None) -> ReleaseRecord:
    """Release at once, on one person's word, to people whose deadline falls within 24 hours of now and no others.

    A release of its own, whose policy names that bound; what waits for approvals goes on waiting for everybody else.
    Every approver is paged. Raises Refused while the plan is incomplete, or if nobody's deadline is that near.
    """
    role = actor.acting_for(Act.BREAK_GLASS)
    why = needed(reason)
    before = rule.reach_until(Mode.BREAK_GLASS, now)
    assert before is not None

    def work(case: CaseWork) -> ReleaseRecord:
        incident = still_open(case, incident_id)
        for each in case.releases(incident_id):
            if each.state in ("releasing", "paused"):
                raise Refused(f"{incident_id}: release {each.release_id} ({each.mode}) is {each.state} already")
        _refuse_unconfirmed(case, incident)
        policy = build_policy(case, incident, mode=Mode.BREAK_GLASS, late_cap=0)
        policy["deadline_before"] = written(before)
        within = case.within_deadline_count(incident_id, before)
        if not policy["segments"] or not within:
            raise Refused(
                f"{incident_id}: nobody with an approved text has a deadline before {written(before)}; "
                "two people can approve in that time"
            )
        release = _write_release(case, incident, policy, Mode.BREAK_GLASS, actor, role, now, 0)
        case.add_approval(
            ApprovalRecord(release.release_id, actor.person_id, role.value, release.policy_sha256, now, why)
        )
        body: Body = {**named(release), "deadline_before": written(before), "within_reach_count": within}
        record_act(case, actor, role, "release.glass_broken", body, at=now, incident=incident, reason=why)
        _start(case, incident, release, now, approval_count=1)
        _page(
            case, incident, "glass_broken", now, mark=release.release_id, severity="critical",
            next_command=f"tocsin incident show {incident_id}",
            facts={"within_reach_count": within, "deadline_before": written(before)},
        )  # fmt: skip
        started = case.release(release.release_id)
        assert started is not None
        return started

    return store.change(work)


def _write_release(
    case: CaseWork,
    incident: IncidentRecord,
    policy: Mapping[str, Any],
    mode: Mode,
    actor: Actor,
    role: Role,
    now: datetime,
    late_cap: int,
) -> ReleaseRecord:
    release = ReleaseRecord(
        release_id=uuid.uuid4().hex,
        incident_id=incident.incident_id,
        revision=incident.revision,
        policy=policy,
        policy_sha256=policy_sha256(policy),
        mode=mode.value,
        state="prepared",
        late_cap=late_cap,
        prepared_by=actor.person_id,
        prepared_role=role.value,
        prepared_at=now,
    )
    case.add_release(release)
    return release


def _page(
    case: CaseWork,
    incident: IncidentRecord,
    kind: str,
    now: datetime,
    *,
    mark: str,
    next_command: str,
    facts: Mapping[str, Any],
    severity: str = "warning",
) -> None:
    case.raise_page(
        PageRecord(
            page_id=page_id_of(incident.incident_id, kind, mark),
            incident_id=incident.incident_id,
            kind=kind,
            severity=severity,
            roles=APPROVING_ROLES,
            title=f"{incident.incident_id}: {kind.replace('_', ' ')}",
            body={**facts, "exercise": incident.exercise, "next": next_command},
            raised_at=now,
        )
    )
