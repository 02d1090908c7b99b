"""Scopes in doubt, looked at again: what the index had not read yet when the alert came, it knows later.

A name counts as wrong only once the index has read what the store held, and what was published, before the alert. Until
then the scope stands as it was given, and nobody is asked; what turns out to be known goes on by itself, what does not is
a page with near names. What is in doubt stands in the incident's row, so that no restart forgets it. Not here: judging an alert
(`alerts`), another scope that a person gives (`workflow`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bridge.contracts.errors import BadInput
from bridge.contracts.scope import AskedScope
from consumers.case.alerts import NAMES, JudgedScope, Known, ScopeFault, in_doubt, judge_scope, wrong_names
from consumers.case.intake_rules import ASK_FOR_SCOPE, ENDED, fact_of_tocsin, page_responders, understand
from consumers.case.records import IncidentRecord
from consumers.case.rewriting import ScopeRewriter
from consumers.case.store import CaseStore, CaseWork

STORE_WITHIN = timedelta(minutes=1)
"""So long a name may still be on its way from the store: a relay that stands for longer keeps no question back."""
CHECKED_WITHIN = timedelta(minutes=15)
"""After so long without an answer a person hears that nobody can say whether the names are right."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of scopes in doubt, by incident id."""

    known: Sequence[str] = ()
    """Their names are known now: they go on by themselves."""
    wrong: Sequence[str] = ()
    late: Sequence[str] = ()
    """The index could not say in time."""
    waiting: bool = False
    """Some were not compared yet, and nobody was asked about them."""


@dataclass(slots=True)
class _Verdict:
    incident: IncidentRecord
    understood: JudgedScope | None = None
    """A scope where there was none."""
    wrong: Sequence[ScopeFault] = ()
    late: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)


def doubtful_scopes(store: CaseStore) -> Sequence[IncidentRecord]:
    """Return the open incidents whose scope's names were not compared with the index, or were not known to it."""
    return [each for each in store.look(lambda case: case.doubtful_scopes()) if _may_become_known(each)]


def _may_become_known(incident: IncidentRecord) -> bool:
    """Return whether nothing but names is in doubt: nobody but a person mends another fault."""
    doubt = incident.scope_unresolved or {}
    fields = {each["field"] for each in doubt.get("unknown", ())}
    return bool(doubt.get("unchecked")) or (bool(fields) and fields <= NAMES)


def _is_waiting(incident: IncidentRecord) -> bool:
    doubt = incident.scope_unresolved or {}
    return bool(doubt.get("unchecked")) and not doubt.get("paged")


def check_scopes(
    store: CaseStore, doubtful: Sequence[IncidentRecord], known: Known | None, rewriter: ScopeRewriter, at: datetime
) -> Checked:
    """Compare the scopes of `doubtful` with the names `known` now, None if the index does not answer; write what follows.

    Repeated, it changes nothing more. Raises Unreachable.
    """
    verdicts = [verdict for each in doubtful if (verdict := _verdict(each, known, rewriter, at)) is not None]

    def work(case: CaseWork) -> Checked:
        became: dict[str, list[str]] = {"known": [], "wrong": [], "late": []}
        for verdict in verdicts:
            before = verdict.incident
            incident = case.incident(before.incident_id)
            # a person, or another intake, was faster
            if (
                incident is None
                or incident.state in ENDED
                or (incident.revision, incident.scope_unresolved) != (before.revision, before.scope_unresolved)
            ):
                continue
            became[_settle(case, incident, verdict, known, at)].append(incident.incident_id)
        return Checked(became["known"], became["wrong"], became["late"])

    # A crash before the commit leaves all of them in doubt: they are compared again. After it row, page and event agree.
    done = store.change(work) if verdicts else Checked()
    decided = {*done.known, *done.wrong, *done.late}
    waiting = any(_is_waiting(each) and each.incident_id not in decided for each in doubtful)
    return Checked(done.known, done.wrong, done.late, waiting)


def _verdict(incident: IncidentRecord, known: Known | None, rewriter: ScopeRewriter, at: datetime) -> _Verdict | None:
    """Return what is to be written; None: nothing yet."""
    doubt = incident.scope_unresolved or {}
    since = datetime.fromisoformat(doubt["since"]) if "since" in doubt else incident.opened_at
    if incident.scope is None:
        judged = judge_scope(doubt.get("as_given", {}), known, incident.opened_at, rewriter)
        return _Verdict(incident, judged) if judged.scope is not None and not judged.unchecked else None
    late = _is_waiting(incident) and at >= since + CHECKED_WITHIN
    asked = dict((incident.scope_rewriting or {}).get("asked") or incident.scope)
    wrong: Sequence[ScopeFault] = ()
    if known is not None:
        try:
            wrong = wrong_names(AskedScope.model_validate(asked), known, rewriter)
        except BadInput:
            return None
        if not wrong:
            return _Verdict(incident)
        if known.hold_all_of(since) and (known.beat_at >= since or at >= since + STORE_WITHIN):
            return _Verdict(incident, wrong=wrong, asked=asked) if doubt.get("unchecked") else None
    return _Verdict(incident, wrong=wrong, late=True) if late else None


def _settle(case: CaseWork, incident: IncidentRecord, verdict: _Verdict, known: Known | None, at: datetime) -> str:
    """Write a verdict; return what became of the scope."""
    name = incident.incident_id
    if verdict.understood is not None:
        understand(case, incident, verdict.understood, at)
        return "known"
    if verdict.late:
        case.update_incident(name, {"scope_unresolved": {**(incident.scope_unresolved or {}), "paged": True}})
        page_responders(
            case, incident, "scope_unchecked", at, mark=str(incident.revision),
            next_command="tocsin index status",
            facts={
                "because": "the index does not answer" if known is None else known.lacking,
                **{key: value for key, value in in_doubt(verdict.wrong, name).items() if key != "type"},
            },
        )  # fmt: skip
        return "late"
    checked = fact_of_tocsin(
        "incident.scope_checked", incident, at,
        {"revision": incident.revision, "scope_sha256": incident.scope_sha256, "unknown_count": len(verdict.wrong)},
    )  # fmt: skip
    case.publish_case_event(checked)
    case.end_pages(name, ASK_FOR_SCOPE, by=None, at=at)
    if not verdict.wrong:
        case.update_incident(name, {"scope_unresolved": None})
        return "known"
    doubt = in_doubt(verdict.wrong, name)
    case.update_incident(name, {"scope_unresolved": {**doubt, "as_given": verdict.asked}})
    page_responders(
        case, incident, "scope_unresolved", at, mark=str(incident.revision), next_command=doubt["type"],
        facts={"unsigned_source": incident.unsigned_source, "unknown": doubt["unknown"], "nearest": doubt["nearest"]},
    )  # fmt: skip
    return "wrong"
