"""What holds for every incident, whatever its facts: tried on random ones, and judged by the second calculator."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import obligations_for
from consumers.domain.rules import Rules
from consumers.law.commands import as_record
from consumers.law.loader import load_rules
from tests.unit.law import second_calculator
from tests.unit.law.casebook import AS_OF, differs
from tests.unit.law.conftest import SHIPPED
from tests.unit.law.incidents import (
    INSTANTS,
    PLAIN,
    RESIDENCES,
    Facts,
    complete,
    first_day,
    gappy,
    hold,
    incident,
    keyed,
    seeds,
    value_of,
)

ONLY_SUSPENDING = {
    row["regime_id"]
    for row in second_calculator.DUTIES
    if row["hold_rule"] in ("none", "suspends", "P7D_after_release_if_elapsed")
}
SETTLED = {"not_due", "not_in_force", "superseded"}
FIRST = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
DATED_DEFINITIONS = {
    row["regime_id"] for row in second_calculator.COMBINATIONS if row["in_force_from"] or row["in_force_to"]
}

fewer = settings(max_examples=settings().max_examples // 3)
"""For properties that take two answers or more an incident."""

Answers = Mapping[str, Mapping[str, Any]]


@cache
def _rules() -> Rules:
    """The shipped rules; no fixture, for hypothesis prints every argument of an example that fails."""
    return load_rules(SHIPPED)


def _answers(facts: Facts) -> Answers:
    obligations = obligations_for(parse_facts(facts), _rules(), datetime.fromisoformat(AS_OF))
    return {obligation.regime_id: as_record(obligation) for obligation in obligations}


@given(facts=complete | gappy | keyed)
def test_second_calculator_agrees(facts: Facts) -> None:
    found = _answers(facts)
    for regime_id, answer in second_calculator.answers_of(facts, AS_OF).items():
        if answer.sure:
            assert not differs(answer.compared(), found[regime_id]), (regime_id, found[regime_id]["because"])


@fewer
@given(facts=complete | gappy, seed=seeds)
def test_no_deadline_moves_earlier_when_a_hold_is_added(facts: Facts, seed: int) -> None:
    free = {name: value for name, value in facts.items() if not name.startswith("le_hold")}
    begin = min((datetime.fromisoformat(free[name]) for name in INSTANTS if name in free), default=FIRST)
    before, after = _answers(free), _answers({**free, **hold(Random(seed), begin)})
    for regime_id in ONLY_SUSPENDING:
        was, now = before[regime_id]["deadline_utc"], after[regime_id]["deadline_utc"]
        assert now is None or (was is not None and now >= was), regime_id
        assert before[regime_id]["status"] not in SETTLED or after[regime_id] == before[regime_id], regime_id


@fewer
@given(facts=keyed, zone=st.sampled_from(("Pacific/Kiritimati", "Pacific/Pago_Pago", "America/St_Johns")))
def test_nothing_depends_on_the_zone_of_the_machine(facts: Facts, zone: str) -> None:
    expected = _answers(facts)
    with _machine_in(zone):
        assert _answers(facts) == expected


@fewer
@given(facts=complete, zone=st.sampled_from(("Asia/Tokyo", "America/Los_Angeles")))
def test_zone_of_the_controller_moves_no_instant(facts: Facts, zone: str) -> None:
    plain, shown = _answers(facts), _answers({**facts, "controller_zone": zone})
    fields = ("status", "deadline_utc", "relief_latest_utc", "conservative_deadline_utc", "started_at", "missing_facts")
    for regime_id, answer in plain.items():
        assert {field: answer[field] for field in fields} == {field: shown[regime_id][field] for field in fields}


@fewer
@given(facts=complete | gappy)
def test_dates_stand_in_their_order(facts: Facts) -> None:
    for regime_id, answer in _answers(facts).items():
        strict, relief, conservative = (
            answer[field] and datetime.fromisoformat(answer[field])
            for field in ("deadline_utc", "relief_latest_utc", "conservative_deadline_utc")
        )
        assert relief is None or strict < relief, regime_id
        assert (strict is not None) == (answer["status"] == "due"), regime_id
        if strict and "le_hold_released_at" not in facts:
            assert conservative <= strict, regime_id
        if strict:
            assert datetime.fromisoformat(answer["deadline_local"]) == strict, regime_id
        assert answer["status"] == "pending" or not answer["missing_facts"], regime_id


@fewer
@given(facts=gappy, seed=seeds)
def test_a_fact_that_is_learned_makes_nothing_due_that_was_not(facts: Facts, seed: int) -> None:
    random = Random(seed)
    unknown = sorted({*PLAIN, *INSTANTS} - facts.keys())
    assume(unknown)
    name = random.choice(unknown)
    before = _answers(facts)
    after = _answers({**facts, name: value_of(name, random, first_day(random))})
    for regime_id, was in before.items():
        now = after[regime_id]
        dated = name in INSTANTS and {regime_id, _rules().duty(regime_id).definition_of} & DATED_DEFINITIONS
        if was["status"] == "not_due" and now["version"] == was["version"] and not dated:
            assert now["status"] in SETTLED, (regime_id, name, was["because"], now["because"])


@given(facts=complete | gappy, seed=seeds)
def test_a_resident_more_takes_no_duty_from_a_recipient(facts: Facts, seed: int) -> None:
    residents = dict(facts.get("residents") or {"US-OH": 499})
    residence = Random(seed).choice([*RESIDENCES, *residents, *residents, *residents])
    more = {**residents, residence: residents.get(residence, 0) + 1}
    before, after = _answers({**facts, "residents": residents}), _answers({**facts, "residents": more})
    owed_before, owed_after = _by_recipient(before), _by_recipient(after)
    for recipient, was in owed_before.items():
        now = owed_after.get(recipient, {})
        assert now, recipient
        first, later = _earliest(was), _earliest(now)
        assert first is None or (later is not None and later <= first), recipient
        for regime_id in was.keys() - now.keys():
            because = " ".join(after[regime_id]["because"])
            assert any(other in because for other in now), (regime_id, because)


def test_the_department_hears_sooner_at_five_hundred() -> None:
    """The one duty that a resident more replaces: 45 CFR 164.408(b) takes the place of (c), and says so."""
    facts = {
        "role": "controller",
        "entity": ["hipaa_covered_entity"],
        "data_elements": ["full_name", "medical_information"],
        "sensitivity": "real",
        "encrypted": False,
        "discovered_at": "2026-05-03T12:00:00-04:00",
    }
    small = _answers({**facts, "residents": {"US-OH": 499}})
    large = _answers({**facts, "residents": {"US-OH": 500}})
    assert small["us-hipaa-hhs-small"]["status"] == large["us-hipaa-hhs-large"]["status"] == "due"
    assert large["us-hipaa-hhs-large"]["deadline_utc"] < small["us-hipaa-hhs-small"]["deadline_utc"]
    assert large["us-hipaa-hhs-small"]["status"] == "not_due"
    assert "us-hipaa-hhs-large" in " ".join(large["us-hipaa-hhs-small"]["because"])


def test_incidents_are_worth_the_trial() -> None:
    """Random incidents owe something: a property over duties that nobody has would hold for nothing."""
    trials = 60
    answers = [answer for seed in range(trials) for answer in _answers(incident(seed)).values()]
    statuses = Counter(answer["status"] for answer in answers)
    assert len({answer["regime_id"] for answer in answers if answer["status"] not in SETTLED}) >= 150
    assert statuses["due"] >= 6 * trials
    assert statuses["due_no_fixed_deadline"] >= 4 * trials
    assert statuses["pending"] >= trials
    assert sum(answer["relief_latest_utc"] is not None for answer in answers) >= 3


def _by_recipient(answers: Answers) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for regime_id, answer in answers.items():
        if answer["status"] not in SETTLED:
            found.setdefault((answer["jurisdiction"], answer["recipient"]), {})[regime_id] = answer
    return found


def _earliest(owed: Mapping[str, Mapping[str, Any]]) -> str | None:
    return min((answer["deadline_utc"] for answer in owed.values() if answer["deadline_utc"]), default=None)


@contextmanager
def _machine_in(zone: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def test_machine_really_changes_its_zone() -> None:
    with _machine_in("Pacific/Kiritimati"):
        assert time.localtime(0).tm_hour == 14 or time.timezone == -14 * 3600
    assert pytest.approx(time.time(), abs=60) == datetime.now().astimezone().timestamp()
