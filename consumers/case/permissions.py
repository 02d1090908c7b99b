"""Which role may do what. One table, deny by default: an act that a role's row does not name is refused.

Not here: who somebody is (`people`), and how many must agree (`consumers.domain.approvals`).
"""

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """What a member of staff may be; one person may be several."""

    VIEWER = "viewer"
    RESPONDER = "responder"
    DPO = "dpo"
    COUNSEL = "counsel"
    APPROVER = "approver"
    SRE = "sre"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Act(StrEnum):
    """Everything that asks who."""

    VIEW_INCIDENT = "incident.view"
    ACKNOWLEDGE = "incident.acknowledge"
    RESCOPE = "incident.rescope"
    CONFIRM_EVERYBODY = "incident.confirm_everybody"
    RECORD_FACT = "incident.record_fact"
    RECORD_AWARENESS = "incident.record_awareness"
    VERIFY = "incident.verify"
    DISMISS = "incident.dismiss"
    ASSESS_RISK = "incident.assess_risk"
    RECORD_DUTY = "incident.record_duty"
    CLOSE = "incident.close"
    SET_GATE = "gate.set"
    LIFT_GATE = "gate.lift"
    EXCLUDE_POSSIBLE = "incident.exclude_possible"
    CROSSCHECK = "incident.crosscheck"
    NAME_DIFFERENCES = "incident.name_differences"
    PREPARE = "release.prepare"
    APPROVE = "release.approve"
    OVERRIDE_PREFLIGHT = "release.override_preflight"
    BREAK_GLASS = "release.break_glass"
    PAUSE_RELEASE = "release.pause"
    STEER_RELEASE = "release.steer"
    CANCEL_RELEASE = "release.cancel"
    RECORD_PUBLICATION = "publication.record"
    RECORD_POST = "letters.record"
    APPROVE_NOTICE = "notice.approve"
    REVOKE_NOTICE = "notice.revoke"
    LOOK_AT_PERSON = "person.look"
    EXPORT_SUBJECT = "subject.export"
    ERASE_SUBJECT = "subject.erase"
    EXPORT_EVIDENCE = "evidence.export"
    READ_LOG = "evidence.read_log"
    ADOPT_LAW = "law.adopt"
    REDRIVE = "dead_letters.redrive"
    MANAGE_PEOPLE = "people.manage"


_RESPOND = frozenset(
    {
        Act.VIEW_INCIDENT, Act.ACKNOWLEDGE, Act.RESCOPE, Act.RECORD_FACT, Act.RECORD_AWARENESS, Act.VERIFY, Act.DISMISS,
        Act.CROSSCHECK, Act.CONFIRM_EVERYBODY, Act.PAUSE_RELEASE,
    }
)  # fmt: skip
# stopping is for whoever sees something wrong; going on, and never going on, are for fewer
_APPROVE = frozenset({Act.VIEW_INCIDENT, Act.APPROVE, Act.BREAK_GLASS, Act.PAUSE_RELEASE})

PERMISSIONS: dict[Role, frozenset[Act]] = {
    Role.VIEWER: frozenset({Act.VIEW_INCIDENT}),
    Role.RESPONDER: _RESPOND | {Act.PREPARE, Act.RECORD_POST},
    Role.DPO: _RESPOND
    | _APPROVE
    | {
        Act.PREPARE, Act.CLOSE, Act.SET_GATE, Act.LIFT_GATE, Act.STEER_RELEASE, Act.LOOK_AT_PERSON, Act.EXPORT_SUBJECT,
        Act.CANCEL_RELEASE,
        Act.ERASE_SUBJECT, Act.EXPORT_EVIDENCE, Act.ASSESS_RISK, Act.RECORD_DUTY, Act.EXCLUDE_POSSIBLE,
        Act.NAME_DIFFERENCES, Act.RECORD_PUBLICATION, Act.RECORD_POST,
        Act.OVERRIDE_PREFLIGHT,
    },
    Role.COUNSEL: _APPROVE
    | {
        Act.PREPARE, Act.RECORD_FACT, Act.RECORD_AWARENESS, Act.VERIFY, Act.DISMISS, Act.ASSESS_RISK, Act.RECORD_DUTY,
        Act.SET_GATE, Act.LIFT_GATE, Act.CANCEL_RELEASE, Act.APPROVE_NOTICE, Act.REVOKE_NOTICE, Act.ADOPT_LAW,
        Act.EXCLUDE_POSSIBLE, Act.CROSSCHECK, Act.NAME_DIFFERENCES, Act.CONFIRM_EVERYBODY,
        Act.RECORD_PUBLICATION, Act.OVERRIDE_PREFLIGHT,
    },
    Role.APPROVER: _APPROVE,
    Role.SRE: frozenset(
        {Act.VIEW_INCIDENT, Act.ACKNOWLEDGE, Act.CROSSCHECK, Act.PAUSE_RELEASE, Act.STEER_RELEASE, Act.REDRIVE}
    ),
    Role.AUDITOR: frozenset({Act.VIEW_INCIDENT, Act.EXPORT_EVIDENCE, Act.READ_LOG}),
    Role.ADMIN: frozenset({Act.MANAGE_PEOPLE}),
}  # fmt: skip


def permitting_roles(act: Act) -> tuple[Role, ...]:
    """Return the roles that may do `act`, in the order of the table."""
    return tuple(role for role in Role if act in PERMISSIONS.get(role, frozenset()))


def role_for(act: Act, roles: Iterable[Role]) -> Role | None:
    """Return the first of `roles` (in the table's order) that permits `act`, or None: denied."""
    held = set(roles)
    return next((role for role in permitting_roles(act) if role in held), None)
