"""The two-person rule against a naive oracle, and each hazard by name."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.approvals import (
    APPROVING_ROLES,
    Act,
    Mode,
    can_be_met,
    missing,
    objection,
    reach_until,
    role_to_act_under,
    satisfied,
)

PEOPLE = ("ana", "ben", "cem", "dia")
ROLES = ("dpo", "counsel", "approver", "responder", "viewer", "admin")
acts = st.builds(Act, st.sampled_from(PEOPLE), st.sampled_from(ROLES))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def naive(mode: Mode, preparer: Act, approvals: list[Act]) -> bool:
    """The rule as the README says it, by trying everything."""
    if mode is Mode.TWO_APPROVERS:
        return any(
            one.person != two.person
            and one.role != two.role
            and preparer.person not in (one.person, two.person)
            and one.role in ("dpo", "counsel", "approver")
            and two.role in ("dpo", "counsel", "approver")
            for one, two in permutations(approvals, 2)
        )
    if mode is Mode.FOUR_EYES:
        return any(
            one.person != preparer.person and one.role != preparer.role and one.role in ("dpo", "counsel", "approver")
            for one in approvals
        )
    return any(one.role in ("dpo", "counsel", "approver") for one in approvals)


@given(st.sampled_from(Mode), acts, st.lists(acts, max_size=6))
def test_the_rule_is_what_the_oracle_says(mode: Mode, preparer: Act, approvals: list[Act]) -> None:
    assert satisfied(mode, preparer, approvals) is naive(mode, preparer, approvals)
    assert (missing(mode, preparer, approvals) is None) is naive(mode, preparer, approvals)


@given(st.sampled_from([Mode.TWO_APPROVERS, Mode.FOUR_EYES]), acts, st.lists(acts, max_size=12))
def test_one_person_alone_never_releases(mode: Mode, preparer: Act, approvals: list[Act]) -> None:
    alone = [Act(preparer.person, act.role) for act in approvals]
    assert not satisfied(mode, preparer, alone)
    if mode is Mode.TWO_APPROVERS:
        assert not satisfied(mode, preparer, [Act("ben", act.role) for act in approvals])


@given(st.sampled_from(Mode), acts, st.lists(acts, max_size=12))
def test_approvals_taken_one_by_one_release_no_sooner_than_the_rule(
    mode: Mode, preparer: Act, candidates: list[Act]
) -> None:
    taken: list[Act] = []
    for candidate in candidates:
        if objection(mode, preparer, taken, candidate) is None:
            taken.append(candidate)
        if satisfied(mode, preparer, taken):
            break
    assert satisfied(mode, preparer, taken) is naive(mode, preparer, taken)
    assert len({act.person for act in taken}) == len(taken) or mode is not Mode.TWO_APPROVERS


def test_the_role_that_counts_is_chosen() -> None:
    preparer = Act("ana", "responder")
    given_already = [Act("ben", "dpo")]
    chosen = role_to_act_under(Mode.TWO_APPROVERS, preparer, given_already, "cem", ["dpo", "counsel"])
    assert chosen == "counsel"
    with pytest.raises(ValueError, match="none of viewer"):
        role_to_act_under(Mode.TWO_APPROVERS, preparer, [], "cem", ["viewer"])


def test_a_rule_that_nobody_can_meet_is_seen_before_the_night_it_is_needed() -> None:
    two = [("ana", ["responder"]), ("ben", ["dpo"]), ("cem", ["counsel"])]
    assert can_be_met(Mode.TWO_APPROVERS, two, ["responder", "dpo"])
    assert not can_be_met(Mode.TWO_APPROVERS, two[1:], ["responder", "dpo"])
    assert can_be_met(Mode.FOUR_EYES, two[1:], ["responder", "dpo"])


@pytest.mark.parametrize("role", APPROVING_ROLES)
def test_broken_glass_reaches_only_near_deadlines(role: str) -> None:
    assert satisfied(Mode.BREAK_GLASS, Act("ana", role), [Act("ana", role)])
    assert reach_until(Mode.BREAK_GLASS, NOW) == NOW + timedelta(hours=24)
    assert reach_until(Mode.TWO_APPROVERS, NOW) is None
    assert reach_until(Mode.FOUR_EYES, NOW) is None
