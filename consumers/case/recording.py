"""What people record of an incident: facts, and since when the company is aware. Each change says what it moves.

A correction is a new record; what it corrects stays as history. What is recorded is checked as one whole against the model
of `consumers.domain.facts`, so that no fact enters that the law could not read.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.acting import Actor, needed
from consumers.case.duties import refresh
from consumers.case.events import written
from consumers.case.permissions import Act
from consumers.case.records import FactRecord, IncidentRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.verification import end_clock_pages, synthetic_against
from consumers.case.workflow import AWARENESS, found, known_facts, still_open, write_fact
from consumers.domain.duties import Law, Movement
from consumers.domain.facts import Facts, parse_facts

_AHEAD = timedelta(minutes=1)


def awareness_values(names: Sequence[str], at: datetime, now: datetime) -> dict[str, str]:
    """Return what `incident aware` records. Raises BadInput for no instant of awareness, or one in the future."""
    for name in names:
        if name not in AWARENESS:
            raise BadInput(f"--as {name}: not an instant of awareness{nearest(name, AWARENESS)}; "
                           f"known: {', '.join(AWARENESS)}")  # fmt: skip
    if not names:
        raise BadInput(f"--as: name at least one of {', '.join(AWARENESS)}")
    if at > now + _AHEAD:
        raise BadInput(f"--at {at.isoformat()} lies in the future; awareness is recorded, not planned")
    return dict.fromkeys(names, written(at))


def record_awareness(
    store: CaseStore,
    incident_id: str,
    names: Sequence[str],
    at: datetime,
    actor: Actor,
    now: datetime,
    reason: str | None,
    law: Law | None = None,
) -> Sequence[Movement]:
    """Record that the company became aware at `at`, in the senses that `names` names; return what moved."""
    role = actor.acting_for(Act.RECORD_AWARENESS)
    why = needed(reason)
    values = awareness_values(names, at, now)

    def work(case: CaseWork) -> Sequence[Movement]:
        incident = still_open(case, incident_id)
        for name, value in values.items():
            write_fact(case, incident, name, value, actor, role, now, why)
        end_clock_pages(case, incident, by=actor.person_id, at=now)
        return () if law is None else refresh(case, incident, law, now, quiet=True)

    return store.change(work)


def checked_facts(incident_id: str, values: Mapping[str, Any]) -> None:
    """Raise BadInput for what `incident facts` may not record: no fact, awareness, the detection."""
    for name, value in values.items():
        if name not in Facts.model_fields:
            raise BadInput(f"--set {name}: no such fact{nearest(name, Facts.model_fields)}")
        if name in AWARENESS and value is not None:
            raise BadInput(
                f"--set {name}: awareness is recorded by `tocsin incident aware {incident_id} --as {name} --at INSTANT "
                "--reason TEXT`"
            )
        if name == "detected_at":
            raise BadInput("--set detected_at: the detection is the alert's own and does not change")


def record_facts(
    store: CaseStore,
    incident_id: str,
    values: Mapping[str, Any],
    actor: Actor,
    now: datetime,
    reason: str | None,
    law: Law | None = None,
) -> Sequence[Movement]:
    """Record facts; a value of None makes a fact unknown again. Returns what moved.

    Raises BadInput for what is no fact or has no sense beside the others, Refused for `sensitivity=synthetic_only`
    without the evidence that it takes.
    """
    role = actor.acting_for(Act.RECORD_FACT)
    if any(name in AWARENESS for name in values):
        actor.acting_for(Act.RECORD_AWARENESS)
    why = needed(reason)
    checked_facts(incident_id, values)

    def work(case: CaseWork) -> Sequence[Movement]:
        incident = still_open(case, incident_id)
        merged = {name: value for name, value in {**known_facts(case, incident), **values}.items() if value is not None}
        parse_facts(merged, source=f"facts of {incident_id}")
        if values.get("sensitivity") == "synthetic_only" and law is not None:
            against = synthetic_against(case, incident, law)
            if against is not None:
                raise Refused(
                    f"{incident_id} is not recorded as synthetic_only: {against}; `tocsin incident verify {incident_id} "
                    "--match-test leaked.csv --reason TEXT` gathers the evidence"
                )
        for name, value in values.items():
            write_fact(case, incident, name, value, actor, role, now, why)
        end_clock_pages(case, incident, by=actor.person_id, at=now)
        return () if law is None else refresh(case, incident, law, now, quiet=True)

    return store.change(work)


def history(store: CaseStore, incident_id: str) -> tuple[IncidentRecord, Sequence[FactRecord]]:
    """Return every record of every fact, oldest first."""
    return store.look(lambda case: (found(case, incident_id), case.facts(incident_id)))
