"""What people decided since the backup from which a case store was restored, as the evidence log knows it: what of it the
store must be given again, what keeps people from being told until somebody has looked, and what to type for each.

The log holds no reason, no value and no name, so that most of it only a person can say again.
"""

from collections.abc import Mapping

from consumers.case.events import CASE_EVENT_KINDS

_BY_TOCSIN = frozenset({"incident.opened", "release.canary_held"})
"""Nobody's decisions, and a store that lacks them errs as much."""
_ELSEWHERE = frozenset({"notice.approved", "notice.revoked", "provider.circuit_ordered", "law.adopted"})
"""Decisions that concern every incident."""
_CHANGE_NOTHING = frozenset(
    {
        "people.listed", "people.bounced_listed", "people.added", "person.looked_at", "subject.exported",
        "evidence.exported", "evidence.log_read", "restore.reconciled",
    }
)  # fmt: skip
_KEEP_NOBODY_BACK = frozenset(
    {
        "incident.opened", "incident.acknowledged", "incident.verified", "incident.match_tested",
        "incident.dismissal_proposed", "incident.everybody_confirmed", "incident.crosschecked",
        "incident.differences_named", "incident.possible_included", "correction.started", "duty.met", "duty.met_withdrawn",
        "publication.recorded", "publication.withdrawn", "letters.posted", "letters.returned", "dossier.made",
        "dossier.submitted", "gate.lifted", "release.prepared", "release.approved", "release.glass_broken",
        "preflight.overridden", "release.resumed", "release.retried", "notice.approved", "erasure.requested",
    }
)  # fmt: skip
AGAIN: Mapping[str, str] = {
    "incident.opened": "its alert must come again: tocsin alert send FILE",
    "incident.rescoped": "tocsin incident rescope INCIDENT --reason TEXT",
    "incident.closed": "tocsin incident close INCIDENT --reason TEXT",
    "incident.dismissed": "tocsin incident dismiss INCIDENT --reason TEXT",
    "incident.acknowledged": "tocsin incident ack INCIDENT",
    "incident.possible_excluded": "tocsin incident possible INCIDENT",
    "incident.possible_included": "tocsin incident possible INCIDENT",
    "incident.crosschecked": "tocsin incident crosscheck INCIDENT",
    "fact.recorded": "tocsin incident facts INCIDENT",
    "fact.instant_recorded": "tocsin incident facts INCIDENT",
    "risk.assessed": "tocsin incident assess INCIDENT",
    "duty.met": "tocsin incident obligations INCIDENT",
    "duty.met_withdrawn": "tocsin incident obligations INCIDENT",
    "dossier.submitted": "tocsin incident obligations INCIDENT",
    "gate.set": "tocsin incident hold INCIDENT --kind KIND --reason TEXT",
    "gate.lifted": "tocsin incident show INCIDENT",
    "release.prepared": "tocsin incident prepare INCIDENT",
    "release.approved": "tocsin incident sheet INCIDENT -o sheet.html",
    "release.glass_broken": "tocsin incident show INCIDENT",
    "release.paused": "tocsin incident pause INCIDENT --reason TEXT",
    "release.resumed": "tocsin incident resume INCIDENT --reason TEXT",
    "release.canary_held": "tocsin incident watch INCIDENT",
    "release.cancelled": "tocsin incident cancel INCIDENT --reason TEXT",
    "release.withdrawn": "tocsin incident withdraw INCIDENT --reason TEXT",
    "release.retried": "tocsin incident retry INCIDENT --reason TEXT",
    "release.rate_set": "tocsin incident rate INCIDENT --channel CHANNEL --per-second NUMBER --reason TEXT",
    "erasure.requested": "ask who took it down whose it was: tocsin subject erase REF --reason TEXT",
    "publication.recorded": "tocsin delivery publication list INCIDENT",
    "notice.approved": "tocsin notices list",
    "notice.revoked": "tocsin notices list",
    "law.adopted": "tocsin law check",
    "provider.circuit_ordered": "tocsin delivery circuits",
}
"""By kind of entry: what is typed to do it again, or to see what is to be done."""


def is_decision(kind: str, *, by_person: bool) -> bool:
    """Say whether a case store without this entry's act, or what came of it, was put back in time. Looks change nothing."""
    if kind in _BY_TOCSIN:
        return True
    return by_person and kind not in _CHANGE_NOTHING and (kind in CASE_EVENT_KINDS or kind in _ELSEWHERE)


def keeps_back(kind: str) -> bool:
    """Say whether somebody may be told, without it, who must not be: what is not known to be harmless may be such a one."""
    return kind not in _KEEP_NOBODY_BACK


def again(kind: str, incident_id: str | None) -> str:
    """Return what is typed to do it again, or to look."""
    return AGAIN.get(kind, "tocsin incident show INCIDENT").replace("INCIDENT", incident_id or "INCIDENT")
