"""What is news for somebody who was told, whom a corrected scope leaves, and what matches everybody."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import CustomerAffected, Kind, Sensitivity, Why
from bridge.contracts.scope import Scope
from consumers.domain.resolution import why_of
from consumers.domain.standing import (
    Concern,
    Correction,
    Published,
    concern_of,
    correction_for,
    deadline_after,
    grown,
    matches_everybody,
    notice_sha256,
    told_by,
)
from tests.unit.domain.test_scope_matching import record

NOW = datetime(2026, 3, 1, tzinfo=UTC)

RECORDS = st.builds(
    record,
    record_id=st.sampled_from("abcdef"),
    attribute=st.sampled_from(["score", "band"]),
    model_id=st.sampled_from(["m1", "m2"]),
    model_version=st.sampled_from(["1", "2"]),
    kind=st.sampled_from(list(Kind)),
    sensitivity=st.sampled_from(list(Sensitivity)),
    categories=st.sampled_from([(), ("x",), ("x", "y")]),
    elements=st.sampled_from([(), ("email",), ("email", "ssn")]),
)


def tells(records: list[Any]) -> tuple[set[tuple[str, str, str]], set[str], int]:
    """What the definition says, straight from the records: kind, system and category; elements; the worst sensitivity."""
    order = list(Sensitivity)
    return (
        {(r.kind.value, r.model_id, c) for r in records for c in (r.categories or ("unspecified",))},
        {element for r in records for element in r.elements},
        max(order.index(r.sensitivity) for r in records),
    )


@given(st.lists(st.lists(RECORDS, min_size=1, max_size=4), min_size=1, max_size=6))
def test_somebody_is_told_again_exactly_when_the_records_say_more(arrivals: list[list[Any]]) -> None:
    """Records arrive in steps, and somebody is told at each step of which that is due: never twice of the same."""
    known: list[Any] = []
    notices: list[Why] = []
    oracle: list[tuple[set[tuple[str, str, str]], set[str], int]] = []
    for step in arrivals:
        known.extend(step)
        why = why_of(known)
        now = tells(known)
        more = not oracle or not (now[0] <= oracle[-1][0] and now[1] <= oracle[-1][1] and now[2] <= oracle[-1][2])
        assert concern_of(why).beyond(told_by(notices)) is more
        if more:
            notices.append(why)
            oracle.append(now)
    assert told_by(notices) == concern_of(why_of(known)), "in the end everything that is known was told"
    assert all(first != then for first, then in pairwise(oracle))


@given(st.lists(RECORDS, min_size=1, max_size=4), st.lists(RECORDS, min_size=1, max_size=4), st.booleans())
def test_more_never_becomes_less_in_whatever_order_it_arrives(one: list[Any], other: list[Any], possible: bool) -> None:
    def event(records: list[Any], standing: Any = "recorded") -> CustomerAffected:
        return CustomerAffected(
            root="customer/1", customer_id=1, website_id=1, store_id=1, locale="", incident_id="INC-2026-0001",
            revision=1, partition=0, standing=standing, why=why_of(records),
        )  # fmt: skip

    first, second = event(one, "possible" if possible else "recorded"), event(other)
    there, back = grown(first, second), grown(second, first)
    assert concern_of(there.why) == concern_of(back.why)
    assert there.standing == back.standing == "recorded"
    expected = tells(other) if possible else tells([*one, *other])
    assert {tuple(key.split("|")) for key in concern_of(there.why).disclosures} == expected[0]
    assert grown(there, second).why == there.why, "a repeat adds nothing"


def test_what_was_published_is_published_again_only_with_news() -> None:
    said = Published("recorded", Concern(frozenset({"a"}), frozenset({"email"}), 2))
    assert said.after("recorded", Concern(frozenset({"a"}), frozenset(), 1)) is None
    assert said.after("possible", Concern(frozenset({"b"}), frozenset(), 4)) is None
    more = said.after("recorded", Concern(frozenset({"b"}), frozenset(), 3))
    assert more == Published("recorded", Concern(frozenset({"a", "b"}), frozenset({"email"}), 3))
    possible = Published("possible", Concern())
    assert possible.after("recorded", Concern()) == Published("recorded", Concern())


@pytest.mark.parametrize(
    ("told", "now", "expected"),
    [
        ({"a"}, {"a"}, None),
        ({"a"}, {"a", "b"}, None),
        ({"a", "b"}, {"a"}, Correction.TOLD_TOO_MUCH),
        ({"a"}, None, Correction.NOT_CONCERNED),
        (set(), None, Correction.NOT_CONCERNED),
    ],
)
def test_a_correction_is_owed_for_what_is_not_true(told: set[str], now: set[str] | None, expected: Any) -> None:
    current = None if now is None else Concern(frozenset(now))
    assert correction_for(Concern(frozenset(told)), current) is expected


@pytest.mark.parametrize(
    ("deadline", "added", "expected"),
    [(5, None, 5), (5, 3, 5), (5, 5, 7), (5, 8, 10), (None, 8, None)],
    ids=["in time", "still ahead", "just passed", "long passed", "no date binds"],
)
def test_a_late_persons_clock_runs_anew_once_the_duties_date_has_passed(
    deadline: int | None, added: int | None, expected: int | None
) -> None:
    def day(number: int | None) -> datetime | None:
        return None if number is None else NOW + timedelta(days=number)

    assert deadline_after(day(deadline), timedelta(days=2), day(added)) == day(expected)


@pytest.mark.parametrize(
    ("scope", "affected", "people", "expected"),
    [
        (Scope(model_ids=("m",)), 90, 100, True),
        (Scope(model_ids=("m",)), 89, 100, False),
        (Scope(model_ids=("m",)), 3, None, False),
        (Scope(model_ids=("m",)), 0, 0, False),
        (Scope(everyone=True), 0, None, True),
        (Scope(everyone=True, store_ids=(3,)), 5, 100, True),
        (Scope(everyone=True, website_ids=(1,)), 5, 100, True),
        (Scope(everyone=True, roots=("customer/1",)), 1, 100, False),
        (Scope(everyone=True, countries=("DE",)), 10, 100, False),
    ],
)
def test_what_matches_everybody(scope: Scope, affected: int, people: int | None, expected: bool) -> None:
    assert matches_everybody(scope, affected, people) is expected


def test_two_incidents_tell_the_same_only_if_all_of_it_is_the_same() -> None:
    same: dict[str, Any] = {
        "controller": "shop", "scenario": "log", "scope": Scope(model_ids=("m",), exposed_from=NOW), "exercise": False,
        "concern": Concern(frozenset({"a"}), frozenset({"email"}), 2), "standing": "recorded",
    }  # fmt: skip
    others: list[dict[str, Any]] = [
        {"controller": "other"}, {"scenario": None}, {"scope": Scope(model_ids=("m",), exposed_from=NOW, exposed_to=NOW)},
        {"scope": None}, {"exercise": True}, {"standing": "possible"},
        {"concern": Concern(frozenset({"a"}), frozenset({"email"}), 3)},
        {"concern": Concern(frozenset({"a", "b"}), frozenset({"email"}), 2)},
    ]  # fmt: skip
    hashes = [notice_sha256(**same), *(notice_sha256(**{**same, **other}) for other in others)]
    assert len(set(hashes)) == len(hashes)
    # whom else the two scopes are about says nothing of what this person is told
    assert notice_sha256(**{**same, "scope": Scope(exposed_from=NOW)}) == hashes[0]
