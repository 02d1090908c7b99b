"""Pre-flight's last word: a release that something blocks goes only when a named person takes that on.

What it found is in the evidence log, as of when the release was prepared and as of when it began. An override names one
finding of one prepared release, with a reason; it stands on the sheet, so that approvers see it, and in the evidence log.
Whatever is prepared anew is looked at anew.
"""

from collections.abc import Callable
from datetime import datetime

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, case_event
from consumers.case.permissions import Act
from consumers.case.preflight import DECIDE, NOTE, STOPS
from consumers.case.records import IncidentRecord, OverrideRecord, ReleaseRecord
from consumers.case.releasing import waiting_release
from consumers.case.sheet import Preflight
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import still_open

Look = Callable[[CaseWork, IncidentRecord], Preflight]
"""Looks at an incident within a transaction."""
PREPARED, RELEASED = "prepared", "released"
"""When a release is looked at for the record."""


def override(
    store: CaseStore, incident_id: str, code: str, actor: Actor, now: datetime, reason: str | None, look: Look
) -> OverrideRecord:
    """Let the prepared release go although the finding `code` blocks it; the same twice changes nothing.

    Raises BadInput for a finding that does not block now, Refused if nothing is prepared or this person may not.
    """
    role = actor.acting_for(Act.OVERRIDE_PREFLIGHT)
    why = needed(reason)

    def work(case: CaseWork) -> OverrideRecord:
        incident = still_open(case, incident_id)
        release = waiting_release(case, incident_id)
        if release.state != "prepared":
            raise Refused(f"release {release.release_id} is {release.state} already; there is nothing to override")
        blocking = sorted({each.code for each in look(case, incident).blocking()})
        if code not in blocking:
            known = f"blocking now: {', '.join(blocking)}" if blocking else "nothing blocks it"
            raise BadInput(
                f"--override {code}: no finding of this name blocks {incident_id}{nearest(code, blocking)}; {known}"
            )
        record = OverrideRecord(release.release_id, code, actor.person_id, role.value, now)
        if code not in {each.code for each in case.overrides(release.release_id)}:
            case.add_override(record)
            body = {"release_id": release.release_id, "policy_sha256": release.policy_sha256, "finding": code}
            record_act(case, actor, role, "preflight.overridden", body, at=now, incident=incident, reason=why)
        return record

    return store.change(work)


def refuse_blocked(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, seen: Preflight) -> None:
    """Raise Refused, naming what blocks, unless everything that does was overridden for this release."""
    blocking = seen.blocking(each.code for each in case.overrides(release.release_id))
    if blocking:
        first, more = blocking[0], len(blocking) - 1
        others = f" (and {more} more)" if more else ""
        raise Refused(
            f"{incident.incident_id}: pre-flight blocks the release: {first.says}{others}. Mend it, or let a dpo or counsel take "
            f"it on by name: tocsin incident preflight {incident.incident_id} --override {first.code} --reason TEXT"
        )


def record_preflight(
    case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, seen: Preflight, moment: str, now: datetime
) -> None:
    """Announce what pre-flight found, by names and counts: nothing that it says in words. `moment`: PREPARED or RELEASED."""
    overridden = {each.code for each in case.overrides(release.release_id)}
    people = seen.counts()

    def names(level: str) -> list[str]:
        return sorted({each.name for each in seen.findings if each.level == level})

    blocking = seen.blocking()
    body: Body = {
        "release_id": release.release_id, "policy_sha256": release.policy_sha256, "mode": release.mode, "moment": moment,
        "rules_sha256": release.policy["rules_sha256"],
        "blocking": sorted({each.name for each in blocking}),
        "overridden": sorted({each.name for each in blocking if each.code in overridden}),
        "blocked": bool(seen.blocking(overridden)),
        "stops": names(STOPS), "to_decide": names(DECIDE), "noted": names(NOTE), "finding_count": len(seen.findings),
        "people_count": people["people"], "held_count": people["held"], "without_channel_count": seen.without_channel(),
    }  # fmt: skip
    case.publish_case_event(
        case_event(
            "preflight.recorded", incident_id=incident.incident_id, actor=None, role=None, at=now, body=body,
            exercise=incident.exercise,
        )
    )  # fmt: skip
