"""The risk to people, assessed: the method proposes from what leaked, a named person confirms or changes it with a reason.

`gdpr_risk` follows from the decision, not from the proposal.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bridge.contracts.errors import BadInput
from consumers.case.acting import Actor, needed, record_act
from consumers.case.duties import basis_of, refresh
from consumers.case.permissions import Act
from consumers.case.records import AssessmentRecord, IncidentRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, still_open, write_fact
from consumers.domain.duties import Law, Movement, digest
from consumers.domain.severity import Severity, changed, propose

RISKS = ("unlikely", "risk", "high")


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the method says, and what was decided before."""

    severity: Severity
    elements: Sequence[str]
    decided: AssessmentRecord | None
    recorded_risk: str | None


def proposal(store: CaseStore, incident_id: str, law: Law, changes: Mapping[str, str]) -> Proposal:
    """Return the method's proposal for an incident, with factors changed as `changes` says. Writes nothing."""
    return store.look(lambda case: _proposal(case, found(case, incident_id), law, changes))


def _proposal(case: CaseWork, incident: IncidentRecord, law: Law, changes: Mapping[str, str]) -> Proposal:
    basis = basis_of(case, incident, law)
    facts = basis.recorded
    elements = facts.get("data_elements") or sorted({name for each in basis.exposures for name in each.elements})
    severity = propose(
        elements,
        law.rules.elements,
        {kind for each in basis.exposures for kind in each.kinds},
        sum(each.people_count for each in basis.exposures) if basis.exposures else None,
        external_attack=facts.get("external_attack"),
        data_recoverable=facts.get("data_recoverable"),
        encrypted=facts.get("encrypted"),
        key_compromised=facts.get("key_compromised"),
    )
    before = next(iter(case.assessments(incident.incident_id)), None)
    return Proposal(changed(severity, changes), elements, before, facts.get("gdpr_risk"))


def confirm(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    law: Law,
    *,
    changes: Mapping[str, str],
    risk: str | None,
    reason: str | None,
) -> tuple[AssessmentRecord, Sequence[Movement]]:
    """Record the assessment, and `gdpr_risk` as it says (or as `risk` says instead); return it and what moved."""
    role = actor.acting_for(Act.ASSESS_RISK)
    why = needed(reason)
    if risk is not None and risk not in RISKS:
        raise BadInput(f"--risk {risk}: one of {', '.join(RISKS)}")

    def work(case: CaseWork) -> tuple[AssessmentRecord, Sequence[Movement]]:
        incident = still_open(case, incident_id)
        severity = _proposal(case, incident, law, changes).severity
        factors = [asdict(each) for each in severity.factors]
        record = AssessmentRecord(
            uuid.uuid4().hex, incident_id, now, actor.person_id, factors, severity.hundredths, severity.risk,
            risk or severity.risk, why,
        )  # fmt: skip
        case.add_assessment(record)
        body: dict[str, Any] = {
            "severity_hundredths": severity.hundredths,
            "level": severity.level,
            "proposed": severity.risk,
            "risk": record.risk,
            "changed_count": severity.changed_count,
            "factors_sha256": digest(factors),
        }
        record_act(case, actor, role, "risk.assessed", body, at=now, incident=incident, reason=why)
        write_fact(case, incident, "gdpr_risk", record.risk, actor, role, now, why)
        return record, refresh(case, incident, law, now, quiet=True)

    return store.change(work)
