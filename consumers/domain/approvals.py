"""Who must agree before a notice leaves: the two-person rule, pure, so that no interface can go around it.

Three modes. `two_approvers`: two persons, each acting under a different one of dpo, counsel and approver, neither of
them the preparer. `four_eyes` (small teams): the preparer and one approver who acts under another role than the
preparer did. `break_glass`: one named person, at once, for people whose deadline falls within 24 hours and no others.
A person is an id in the people file: somebody with two tokens is still one person.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

APPROVING_ROLES: tuple[str, ...] = ("dpo", "counsel", "approver")
BREAK_GLASS_REACH = timedelta(hours=24)


class Mode(StrEnum):
    """The rule that a release is held to."""

    TWO_APPROVERS = "two_approvers"
    FOUR_EYES = "four_eyes"
    BREAK_GLASS = "break_glass"


@dataclass(frozen=True, slots=True)
class Act:
    """One person preparing or approving, under one role."""

    person: str
    role: str


def satisfied(mode: Mode, preparer: Act, approvals: Sequence[Act]) -> bool:
    """Return whether `approvals` release what `preparer` prepared.

    `break_glass` is decided when its one person breaks the glass; any approval by a person of an approving role does.
    """
    counting = [act for act in approvals if _objection_alone(mode, preparer, act) is None]
    if mode is Mode.TWO_APPROVERS:
        return any(
            one.person != other.person and one.role != other.role
            for index, one in enumerate(counting)
            for other in counting[index + 1 :]
        )
    return bool(counting)


def objection(mode: Mode, preparer: Act, approvals: Sequence[Act], candidate: Act) -> str | None:
    """Return why `candidate` may not approve now, or None if the approval counts."""
    alone = _objection_alone(mode, preparer, candidate)
    if alone is not None:
        return alone
    if any(act.person == candidate.person for act in approvals):
        return "has approved already; one person never counts twice"
    if mode is Mode.TWO_APPROVERS:
        for act in approvals:
            if act.role == candidate.role:
                return f"acts as {candidate.role}, as {act.person} did; the second approval needs another role"
    return None


def role_to_act_under(mode: Mode, preparer: Act, approvals: Sequence[Act], person: str, roles: Sequence[str]) -> str:
    """Return the role of `roles` under which `person`'s approval counts; the first approving one where none does.

    Raises ValueError if none of `roles` may approve at all.
    """
    able = [role for role in APPROVING_ROLES if role in roles]
    if not able:
        raise ValueError(f"none of {', '.join(sorted(roles)) or 'no role'} is one of {', '.join(APPROVING_ROLES)}")
    for role in able:
        if objection(mode, preparer, approvals, Act(person, role)) is None:
            return role
    return able[0]


def missing(mode: Mode, preparer: Act, approvals: Sequence[Act]) -> str | None:
    """Return in words which approvals are still missing, or None when the rule is satisfied."""
    if satisfied(mode, preparer, approvals):
        return None
    if mode is Mode.TWO_APPROVERS:
        counting = [act for act in approvals if _objection_alone(mode, preparer, act) is None]
        if counting:
            others = [role for role in APPROVING_ROLES if role != counting[0].role]
            return (
                f"one more person acting as {' or '.join(others)}, neither {preparer.person} nor {counting[0].person}"
            )
        return f"two persons acting under two of {', '.join(APPROVING_ROLES)}, neither of them {preparer.person}"
    others = [role for role in APPROVING_ROLES if role != preparer.role or mode is Mode.BREAK_GLASS]
    return f"one person other than {preparer.person} acting as {' or '.join(others)}"


def can_be_met(mode: Mode, people: Sequence[tuple[str, Sequence[str]]], preparing_roles: Sequence[str]) -> bool:
    """Return whether some of `people` (id, roles) could prepare and approve a release together."""
    preparers = [Act(person, role) for person, roles in people for role in roles if role in preparing_roles]
    approvals = [Act(person, role) for person, roles in people for role in roles if role in APPROVING_ROLES]
    return any(satisfied(mode, preparer, approvals) for preparer in preparers)


def reach_until(mode: Mode, released_at: datetime) -> datetime | None:
    """Return until when somebody's earliest deadline may lie to be notified by a release of `mode`; None: no bound.

    A deadline already past is within reach; somebody without a deadline is not in the reach of broken glass. Counted from
    the release, not from now: as days pass it must not come to reach everybody on one word.
    """
    return released_at + BREAK_GLASS_REACH if mode is Mode.BREAK_GLASS else None


def _objection_alone(mode: Mode, preparer: Act, act: Act) -> str | None:
    if act.role not in APPROVING_ROLES:
        return f"acts as {act.role}; only {', '.join(APPROVING_ROLES)} approve"
    if mode is Mode.BREAK_GLASS:
        return None
    if act.person == preparer.person:
        return "prepared it; who prepares does not approve"
    if mode is Mode.FOUR_EYES and act.role == preparer.role:
        return f"acts as {act.role}, as the preparer did; four_eyes needs another role"
    return None
