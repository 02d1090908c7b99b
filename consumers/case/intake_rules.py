"""From an alert that arrived to an incident: one per (source, fingerprint), repeats counted, nothing closed.

All of it happens in the caller's transaction, together with the position or the webhook id that brought the alert: an
alert is taken once, and a crash takes it again or not at all. Resolving is not notifying: an incident opens suspected
and is announced to the index at once.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bridge.contracts.events import AlertReceived, CaseEvent, IncidentRevised
from bridge.contracts.scope import AskedScope, Rewriting, Scope
from consumers.case.alerts import JudgedScope, ReadAlert
from consumers.case.events import Body, case_event, written
from consumers.case.records import AlertRecord, IncidentRecord, PageRecord, ProposalRecord, page_id_of
from consumers.case.rewriting import ScopeRewriter
from consumers.case.store import CaseStore, CaseWork

ENDED = ("dismissed", "closed")
ASK_FOR_SCOPE = ("scope_unresolved", "scope_unchecked")
"""Pages that ask a person what a scope means."""
UNREADABLE_TITLE = "unreadable alert"
MAX_FINGERPRINT = 200


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message from a monitor. `message_id` is unique for the source: a webhook id, or a place on the topic."""

    source: str
    message_id: str
    body: bytes = field(repr=False)
    arrived_at: datetime
    signed: bool
    alerts: Sequence[tuple[ReadAlert, JudgedScope]] = ()
    """Empty: the body could not be read."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one alert."""

    incident_id: str
    opened: bool
    exercise: bool = False


def take(work: CaseWork, arrival: Arrival) -> Sequence[Taken]:
    """Open or update the incidents that `arrival` is about; return them, at least one."""
    work.lock_intake(arrival.arrived_at.year)
    if not arrival.alerts:
        return [_take_unreadable(work, arrival)]
    return [_take_one(work, arrival, read, judged) for read, judged in arrival.alerts]


def _take_unreadable(work: CaseWork, arrival: Arrival) -> Taken:
    alert = AlertReceived(
        source=arrival.source,
        fingerprint=f"unreadable-{_sha256(arrival.body)}",
        title=UNREADABLE_TITLE,
        detected_at=arrival.arrived_at,
    )
    return _take_one(work, arrival, ReadAlert(alert), JudgedScope(None), readable=False)


def _take_one(
    work: CaseWork, arrival: Arrival, read: ReadAlert, judged: JudgedScope, *, readable: bool = True
) -> Taken:
    alert = read.alert
    # a real leak must never be counted as the repeat of an exercise
    fingerprint = f"exercise:{alert.fingerprint}" if alert.exercise else alert.fingerprint
    if len(fingerprint) > MAX_FINGERPRINT:
        fingerprint = _sha256(fingerprint.encode())
    latest = work.latest_of(arrival.source, fingerprint)
    if latest is None or _is_new_occurrence(latest, alert, judged):
        incident = _open(work, arrival, alert, judged, fingerprint, latest, readable=readable)
        _keep(work, arrival, incident.incident_id, readable=readable)
        return Taken(incident.incident_id, opened=True, exercise=alert.exercise)
    if _keep(work, arrival, latest.incident_id, readable=readable):
        work.update_incident(latest.incident_id, {"repeat_count": latest.repeat_count + 1})
        body: Body = {"alert_sha256": _sha256(arrival.body), "firing": alert.status == "firing", "readable": readable}
        work.publish_case_event(fact_of_tocsin("incident.alert_repeated", latest, arrival.arrived_at, body))
        if alert.status == "firing":
            _note_repeat(work, arrival, latest, judged)
    return Taken(latest.incident_id, opened=False, exercise=alert.exercise)


def _is_new_occurrence(latest: IncidentRecord, alert: AlertReceived, judged: JudgedScope) -> bool:
    """Whether an alert for an ended incident tells of another leak: it began later, or it is about something else."""
    if latest.state not in ENDED or alert.status == "resolved":
        return False
    ended_at = latest.closed_at or latest.opened_at
    other_scope = judged.scope is not None and judged.scope.sha256() != latest.scope_sha256
    return alert.detected_at > ended_at or other_scope


def _open(
    work: CaseWork,
    arrival: Arrival,
    alert: AlertReceived,
    judged: JudgedScope,
    fingerprint: str,
    latest: IncidentRecord | None,
    *,
    readable: bool,
) -> IncidentRecord:
    year = arrival.arrived_at.year
    number = work.next_number(year)
    incident_id = f"INC-{year}-{number:04d}"
    unresolved = judged.unresolved(incident_id)
    incident = IncidentRecord(
        incident_id=incident_id,
        number=number,
        year=year,
        source=arrival.source,
        fingerprint=fingerprint,
        occurrence=1 if latest is None else latest.occurrence + 1,
        title=alert.title or "leak alert without a title",
        scenario=alert.scenario,
        state="suspected",
        revision=1,
        scope=None if judged.scope is None else judged.scope.canonical(),
        scope_sha256=None if judged.scope is None else judged.scope.sha256(),
        scope_unresolved=unresolved,
        unsigned_source=not arrival.signed,
        exercise=alert.exercise,
        repeat_count=0,
        # nobody detects a leak in the future: a monitor whose clock is ahead must not shorten the conservative clock
        detected_at=min(alert.detected_at, arrival.arrived_at),
        opened_at=arrival.arrived_at,
        scope_rewriting=None if judged.rewriting is None else judged.rewriting.model_dump(mode="json"),
    )
    work.add_incident(incident)
    work.publish_case_event(
        case_event(
            "incident.opened",
            incident_id=incident_id,
            actor=None,
            role=None,
            at=arrival.arrived_at,
            exercise=alert.exercise,
            body={
                "revision": 1,
                "detected_at": written(incident.detected_at),
                "scope_sha256": incident.scope_sha256,
                "scope_resolved": incident.scope is not None,
                "unsigned_source": incident.unsigned_source,
                "readable": readable,
                "alert_sha256": _sha256(arrival.body),
            },
        )
    )
    announce(work, incident)
    kind = "unreadable_alert" if not readable else "scope_unresolved" if incident.scope is None else "incident_opened"
    page_responders(
        work, incident, kind, arrival.arrived_at, mark=_mark_of(judged) if kind == "scope_unresolved" else "",
        next_command=_next_command(incident, unresolved),
        facts={"unsigned_source": incident.unsigned_source, "unknown": (unresolved or {}).get("unknown", [])},
    )  # fmt: skip
    return incident


def announce(work: CaseWork, incident: IncidentRecord) -> None:
    """Tell the index of this revision. While the scope is unresolved there is nothing to resolve, and nothing is said."""
    if incident.scope is None or incident.scope_sha256 is None:
        return
    work.publish_incident(
        IncidentRevised.model_validate(
            {
                "incident_id": incident.incident_id,
                "revision": incident.revision,
                "status": "closed" if incident.state in ENDED else "open",
                "scope": incident.scope,
                "scope_sha256": incident.scope_sha256,
                "detected_at": incident.detected_at,
                "exercise": incident.exercise,
                "rewriting": incident.scope_rewriting,
            }
        )
    )


def understand(work: CaseWork, incident: IncidentRecord, judged: JudgedScope, at: datetime) -> None:
    """Take the scope of an alert whose words are known by now: a new revision, and nobody needs to say what was meant."""
    assert judged.scope is not None
    changes: dict[str, Any] = {
        "revision": incident.revision + 1,
        "scope": judged.scope.canonical(),
        "scope_sha256": judged.scope.sha256(),
        "scope_unresolved": None,
        "scope_rewriting": None if judged.rewriting is None else judged.rewriting.model_dump(mode="json"),
    }
    revised = replace(incident, **changes)
    work.update_incident(incident.incident_id, changes)
    announce(work, revised)
    body: Body = {"revision": revised.revision, "scope_sha256": revised.scope_sha256}
    work.publish_case_event(fact_of_tocsin("incident.scope_understood", revised, at, body))
    work.end_pages(incident.incident_id, ASK_FOR_SCOPE, by=None, at=at)
    if incident.acknowledged_at is None:
        page_responders(
            work, revised, "incident_opened", at, next_command=f"tocsin incident ack {incident.incident_id}",
            facts={"unsigned_source": incident.unsigned_source},
        )  # fmt: skip


def _note_repeat(work: CaseWork, arrival: Arrival, latest: IncidentRecord, judged: JudgedScope) -> None:
    """Note what a firing repeat adds: another scope is a proposal; one after the end is a reason to look again."""
    alert_sha256 = _sha256(arrival.body)
    if latest.state in ENDED:
        work.publish_case_event(
            fact_of_tocsin("incident.alert_after_end", latest, arrival.arrived_at, {"alert_sha256": alert_sha256})
        )
        page_responders(
            work, latest, "alert_after_end", arrival.arrived_at,
            next_command=f"tocsin incident show {latest.incident_id}", facts={},
        )  # fmt: skip
        return
    if judged.scope is None:
        # the same words again are the same page: whoever has said what they mean is not asked again
        mark = _mark_of(judged)
        if judged.given and dict(judged.given) != (latest.scope_unresolved or {}).get("as_given"):
            page_responders(
                work, latest, "scope_unresolved", arrival.arrived_at, mark=mark,
                next_command=f"tocsin incident rescope {latest.incident_id} --scope FILE --reason TEXT",
                facts={"unknown": (judged.unresolved(latest.incident_id) or {}).get("unknown", [])},
            )  # fmt: skip
        return
    if judged.scope.sha256() == latest.scope_sha256:
        return
    if latest.scope is None and dict(judged.given) == (latest.scope_unresolved or {}).get("as_given"):
        # the same words, which the index knows now
        if not judged.unchecked:
            understand(work, latest, judged, arrival.arrived_at)
        return
    # as it was asked: whoever accepts it has it rewritten by what is known then
    asked = judged.scope.canonical() if judged.rewriting is None else judged.rewriting.asked
    _propose(work, latest, judged.scope, asked, arrival.arrived_at, alert_sha256)


def _mark_of(judged: JudgedScope) -> str:
    return _sha256(json.dumps(judged.given, sort_keys=True, default=str).encode())


def proposal_id_of(incident_id: str, scope: Scope) -> str:
    """Return the id under which another scope is proposed: once, however often it is named."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{incident_id}/{scope.sha256()}").hex


def _propose(
    work: CaseWork,
    incident: IncidentRecord,
    scope: Scope,
    asked: Mapping[str, Any],
    at: datetime,
    alert_sha256: str | None,
) -> bool:
    proposal_id = proposal_id_of(incident.incident_id, scope)
    if not work.add_proposal(ProposalRecord(proposal_id, incident.incident_id, asked, at)):
        return False
    body = {"proposal_id": proposal_id, "alert_sha256": alert_sha256}
    work.publish_case_event(fact_of_tocsin("incident.scope_proposed", incident, at, body))
    page_responders(
        work, incident, "scope_proposed", at, mark=proposal_id,
        next_command=f"tocsin incident rescope {incident.incident_id} --proposal {proposal_id} --reason TEXT",
        facts={} if alert_sha256 is not None else {"because": "the registry or lineage knows more than when it was rewritten"},
    )  # fmt: skip
    return True


def review_scopes(store: CaseStore, rewriter: ScopeRewriter, at: datetime) -> Sequence[str]:
    """Propose another scope for each open incident whose words mean more, or less, by what is known now; return their ids.

    What leaked does not change by itself: a person accepts, and the incident is resolved anew. Raises Unreachable.
    """
    moved: dict[str, Scope] = {}
    asked_of: dict[str, dict[str, Any]] = {}
    for incident in store.look(lambda case: case.incidents()):
        if incident.scope_rewriting is None or incident.state in ENDED:
            continue
        asked = Rewriting.model_validate(incident.scope_rewriting).asked
        scope = rewriter.rewrite(AskedScope.model_validate(asked)).scope
        if scope is not None and scope.sha256() != incident.scope_sha256:
            moved[incident.incident_id], asked_of[incident.incident_id] = scope, asked

    def work(case: CaseWork) -> list[str]:
        proposed = []
        for incident_id, scope in moved.items():
            incident = case.incident(incident_id)
            if incident is None or incident.state in ENDED or incident.scope_sha256 == scope.sha256():
                continue
            if _propose(case, incident, scope, asked_of[incident_id], at, None):
                proposed.append(incident_id)
        return proposed

    return store.change(work) if moved else ()


def fact_of_tocsin(kind: str, incident: IncidentRecord, at: datetime, body: Body) -> CaseEvent:
    """Return a case event about `incident` that nobody but Tocsin has caused."""
    return case_event(
        kind, incident_id=incident.incident_id, actor=None, role=None, at=at, body=body, exercise=incident.exercise
    )


def _keep(work: CaseWork, arrival: Arrival, incident_id: str, *, readable: bool) -> bool:
    alert_id = _sha256(f"{arrival.source}/{arrival.message_id}/{incident_id}".encode())
    return work.add_alert(
        AlertRecord(alert_id, incident_id, arrival.source, arrival.arrived_at, arrival.signed, readable, arrival.body)
    )


def _next_command(incident: IncidentRecord, unresolved: Mapping[str, Any] | None) -> str:
    if incident.scope is None and unresolved is not None:
        return str(unresolved["type"])
    return f"tocsin incident ack {incident.incident_id}"


def page_responders(
    work: CaseWork,
    incident: IncidentRecord,
    kind: str,
    at: datetime,
    *,
    next_command: str,
    facts: Mapping[str, Any],
    mark: str = "",
) -> None:
    """Page the responders about `incident`."""
    work.raise_page(
        PageRecord(
            page_id=page_id_of(incident.incident_id, kind, mark),
            incident_id=incident.incident_id,
            kind=kind,
            severity="warning" if incident.exercise else "critical",
            roles=("responder",),
            title=f"{incident.incident_id} {incident.state}: {incident.title}"[:300],
            body={
                **facts,
                "detected_at": written(incident.detected_at),
                "exercise": incident.exercise,
                "next": next_command,
            },
            raised_at=at,
        )
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
