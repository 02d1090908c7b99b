"""Somebody decides something: checked against the permission table, written with its reason, announced as a case event.

Every function here works inside the caller's transaction, so that no decision is without its trace and no trace
without its decision.
"""

from dataclasses import dataclass
from datetime import datetime

from bridge.contracts.errors import BadInput
from consumers.case.events import CASE_EVENT_KINDS, Body, case_event, new_salt, salted_sha256
from consumers.case.people import Person, staff_commitment
from consumers.case.permissions import Act, Role
from consumers.case.records import ActRecord, IncidentRecord
from consumers.case.store import CaseWork


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the person by their token, and the commitment that stands for them in the log."""

    person: Person
    commitment: str

    @property
    def person_id(self) -> str:
        return self.person.person_id

    def acting_for(self, act: Act) -> Role:
        """Return the role under which this person does `act`. Raises Refused."""
        return self.person.acting_for(act)


def actor_of(person: Person, staff_key: bytes) -> Actor:
    """Return `person` as an actor."""
    return Actor(person, staff_commitment(staff_key, person.person_id))


def needed(reason: str | None) -> str:
    """Return the reason. Raises BadInput if there is none."""
    if reason is None or not reason.strip():
        raise BadInput("this decision needs a reason: --reason TEXT")
    return reason.strip()


def record_act(
    work: CaseWork,
    actor: Actor,
    role: Role,
    kind: str,
    body: Body,
    *,
    at: datetime,
    incident: IncidentRecord | None = None,
    reason: str | None = None,
    salt: str | None = None,
) -> None:
    """Write what `actor` did: the row with the reason, and the case event with the reason's salted hash.

    `salt` is given where other fields of `body` were hashed with it, so that it lies beside them.
    """
    salt = salt or (new_salt() if reason else None)
    if "reason_sha256" in CASE_EVENT_KINDS.get(kind, {}):
        body = {**body, "reason_sha256": salted_sha256(salt, reason) if salt and reason else None}
    incident_id = None if incident is None else incident.incident_id
    event = case_event(
        kind, incident_id=incident_id, actor=actor.commitment, role=role, at=at, body=body,
        exercise=incident is not None and incident.exercise,
    )  # fmt: skip
    work.publish_case_event(event)
    work.add_act(ActRecord(event.case_event_id, incident_id, kind, actor.person_id, role.value, reason, salt, at))
