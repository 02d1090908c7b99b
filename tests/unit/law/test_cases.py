"""Every incident of the casebook: the product, the expectation written by hand and a second calculator say the same.

The expectation is the measure. The second calculator (`second_calculator`) shares no code with the product; what it is
sure of is compared for every regime, not only for those that the case is about.
"""

from collections import Counter
from datetime import datetime
from functools import cache
from typing import Any

import pytest

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import obligations_for
from consumers.domain.rules import Rules
from consumers.law.commands import as_record
from tests.unit.law import second_calculator
from tests.unit.law.casebook import AS_OF, Case, cases, differs

WITHOUT_DATE = {"us-circia"}
"""Adopted, without a known date: no incident can make it due."""
SETTLED = {"not_due", "not_in_force", "superseded"}
COUNTED_OFTEN = 3
"""Every counting rule is met by at least so many cases."""


def _answers(case: Case, rules: Rules) -> dict[str, dict[str, Any]]:
    obligations = obligations_for(parse_facts(case.facts), rules, datetime.fromisoformat(AS_OF))
    return {obligation.regime_id: as_record(obligation) for obligation in obligations}


@cache
def _second_answers(case_name: str) -> dict[str, second_calculator.Answer]:
    facts = next(case.facts for case in cases() if str(case) == case_name)
    return second_calculator.answers_of(facts, AS_OF)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_case(case: Case, rules: Rules) -> None:
    answers = _answers(case, rules)
    for regime_id, wanted in case.expect.items():
        assert not differs(wanted, answers[regime_id]), (regime_id, case.reasoning, answers[regime_id]["because"])
        assert answers[regime_id]["because"]
    for regime_id, answer in _second_answers(str(case)).items():
        if answer.sure:
            assert not differs(answer.compared(), answers[regime_id]), (regime_id, answers[regime_id]["because"])


@pytest.mark.parametrize("case", cases(), ids=str)
def test_second_calculator_reaches_what_was_worked_out_by_hand(case: Case) -> None:
    for regime_id, wanted in case.expect.items():
        answer = _second_answers(str(case))[regime_id]
        if answer.sure:
            assert not differs(wanted, answer.as_record()), regime_id


def test_cases_are_many_and_each_gives_reasoning_and_source() -> None:
    assert len(cases()) >= 450
    assert [name for name, count in Counter(map(str, cases())).items() if count > 1] == []
    assert [str(case) for case in cases() if not (case.reasoning and case.source and case.expect)] == []


def test_second_calculator_is_sure_of_nearly_all_cases() -> None:
    settled = [all(_second_answers(str(case))[regime_id].sure for regime_id in case.expect) for case in cases()]
    assert sum(settled) >= 0.95 * len(settled)


def test_every_version_of_every_regime_is_owed_in_some_case() -> None:
    owed = set()
    for case in cases():
        for regime_id, wanted in case.expect.items():
            answer = _second_answers(str(case))[regime_id]
            if wanted["status"] not in SETTLED or answer.status == "superseded":
                owed.add((regime_id, str(answer.version) if answer.version else ""))
    versions = {(row["regime_id"], row["version"]) for row in second_calculator.DUTIES}
    assert {version for version in versions if version[0] not in WITHOUT_DATE} - owed == set()
    named = {regime_id for case in cases() for regime_id in case.expect}
    assert named == {regime_id for regime_id, _ in versions}


def test_every_combination_of_data_elements_is_met_where_something_is_owed() -> None:
    met = set()
    for case in cases():
        incident = second_calculator.incident_of(case.facts, AS_OF)
        for regime_id, wanted in case.expect.items():
            if wanted["status"] not in SETTLED:
                met |= incident.exposed_combinations(regime_id)
    combinations = {(row["regime_id"], row["combination_id"]) for row in second_calculator.COMBINATIONS}
    assert combinations - met == set()


def test_every_counting_rule_is_met_by_several_cases() -> None:
    met = Counter(rule for case in cases() for rule in case.rules)
    known = {row["rule_id"] for row in second_calculator.COUNTING_RULES}
    assert set(met) - known == set()
    assert {rule: met[rule] for rule in known if met[rule] < COUNTED_OFTEN} == {}


def test_some_incidents_touch_many_jurisdictions() -> None:
    touched = sorted(len(case.facts.get("residents", {})) for case in cases())
    assert sum(5 <= number <= 20 for number in touched) >= 7
    assert touched[-1] == 20
