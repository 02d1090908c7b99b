"""What holds for every incident, whatever its facts: tried on random ones, and judged by the second calculator."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import obligations_for
from consumers.domain.rules import Rules
from consumers.law.commands import as_record
from tests.unit.law import second_calculator
from tests.unit.law.casebook import AS_OF, differs
from tests.unit.law.incidents import INSTANTS, PLAIN, RESIDENCES, Facts, holds, incidents, instants_around

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


def _answers(facts: Facts, rules: Rules) -> Answers:
    obligations = obligations_for(parse_facts(facts), rules, datetime.fromisoformat(AS_OF))
    return {obligation.regime_id: as_record(obligation) for obligation in obligations}


@given(facts=st.one_of(incidents(), incidents(gaps=False), incidents(keyed=True)))
def test_second_calculator_agrees(facts: Facts, rules: Rules) -> None:
    found = _answers(facts, rules)
    for regime_id, answer in second_calculator.answers_of(facts, AS_OF).items():
        if answer.sure:
            assert not differs(answer.compared(), found[regime_id]), (regime_id, found[regime_id]["because"])


@fewer
@given(facts=incidents(), hold=holds(FIRST))
def test_no_deadline_moves_earlier_when_a_hold_is_added(facts: Facts, hold: Facts, rules: Rules) -> None:
    free = {name: value for name, value in facts.items() if not name.startswith("le_hold")}
    before, after = _answers(free, rules), _answers({**free, **hold}, rules)
    for regime_id in ONLY_SUSPENDING:
        was, now = before[regime_id]["deadline_utc"], after[regime_id]["deadline_utc"]
        assert now is None or (was is not None and now >= was), regime_id
        assert before[regime_id]["status"] not in SETTLED or after[regime_id] == before[regime_id], regime_id


@fewer
@given(
    facts=incidents(keyed=True), zone=st.sampled_from(("Pacific/Kiritimati", "Pacific/Pago_Pago", "America/St_Johns"))
)
def test_nothing_depends_on_the_zone_of_the_machine(facts: Facts, zone: str, rules: Rules) -> None:
    expected = _answers(facts, rules)
    with _machine_in(zone):
        assert _answers(facts, rules) == expected


@fewer
@given(facts=incidents(), zone=st.sampled_from(("Asia/Tokyo", "America/Los_Angeles")))
def test_zone_of_the_controller_moves_no_instant(facts: Facts, zone: str, rules: Rules) -> None:
    plain, shown = _answers(facts, rules), _answers({**facts, "controller_zone": zone}, rules)
    fields = ("status", "deadline_utc", "relief_latest_utc", "conservative_deadline_utc", "started_at", "missing_facts")
    for regime_id, answer in plain.items():
        assert {field: answer[field] for field in fields} == {field: shown[regime_id][field] for field in fields}


@fewer
@given(facts=incidents())
def test_dates_stand_in_their_order(facts: Facts, rules: Rules) -> None:
    for regime_id, answer in _answers(facts, rules).items():
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
@given(facts=incidents(), learned=st.data())
def test_a_fact_that_is_learned_makes_nothing_due_that_was_not(
    facts: Facts, learned: st.DataObject, rules: Rules
) -> None:
    unknown = sorted({*PLAIN, *INSTANTS} - facts.keys())
    if not unknown:
        return
    name = learned.draw(st.sampled_from(unknown))
    value = learned.draw(PLAIN[name] if name in PLAIN else instants_around(FIRST))
    before, after = _answers(facts, rules), _answers({**facts, name: value}, rules)
    for regime_id, was in before.items():
        now = after[regime_id]
        dated = name in INSTANTS and {regime_id, rules.duty(regime_id).definition_of} & DATED_DEFINITIONS
        if was["status"] == "not_due" and now["version"] == was["version"] and not dated:
            assert now["status"] in SETTLED, (regime_id, name, was["because"], now["because"])


@fewer
@given(facts=incidents(), residence=st.sampled_from(RESIDENCES))
def test_a_resident_more_takes_no_duty_from_a_recipient(facts: Facts, residence: str, rules: Rules) -> None:
    residents = facts.get("residents", {})
    more = {**residents, residence: residents.get(residence, 0) + 1}
    before, after = _answers({**facts, "residents": residents}, rules), _answers({**facts, "residents": more}, rules)
    owed_before, owed_after = _by_recipient(before), _by_recipient(after)
    for recipient, was in owed_before.items():
        now = owed_after.get(recipient, {})
        assert now, recipient
        first, later = _earliest(was), _earliest(now)
        assert first is None or (later is not None and later <= first), recipient
        for regime_id in was.keys() - now.keys():
            because = " ".join(after[regime_id]["because"])
            assert any(other in because for other in now), (regime_id, because)


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
