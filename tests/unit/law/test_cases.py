"""Incidents whose duties were worked out by hand: facts, expected answers, reasoning and source lie in `cases/`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import obligations_for
from consumers.domain.rules import Rules
from consumers.law.commands import as_record

CASES = Path(__file__).parent / "cases"
AS_OF = datetime(2026, 11, 23, 12, tzinfo=UTC)
COVERED = ("eu-gdpr", "gb-ukgdpr", "ch-fadp", "us-ca", "us-ny", "us-tx", "ca-qc", "ca-pipeda", "au-ndb")


def _cases() -> list[Any]:
    found = []
    for file in sorted(CASES.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for case in content["cases"]:
            facts = {key: value for key, value in {**content["common"], **case["facts"]}.items() if value is not None}
            found.append(pytest.param(facts, case["expect"], id=f"{file.stem}: {case['name']}"))
    return found


@pytest.mark.parametrize(("facts", "expected"), _cases())
def test_case(facts: dict[str, Any], expected: dict[str, dict[str, Any]], rules: Rules) -> None:
    answers = {
        obligation.regime_id: as_record(obligation) for obligation in obligations_for(parse_facts(facts), rules, AS_OF)
    }
    for regime_id, wanted in expected.items():
        found = answers[regime_id]
        assert {key: found[key] for key in wanted} == wanted, (regime_id, found["because"])


def test_every_case_gives_reasoning_and_source() -> None:
    for file in CASES.glob("*.yaml"):
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["cases"]:
            assert case["reasoning"]
            assert case["source"]


def test_every_regime_of_the_demo_has_a_case(rules: Rules) -> None:
    named = {
        regime_id
        for file in CASES.glob("*.yaml")
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["cases"]
        for regime_id in case["expect"]
    }
    covered = {duty.regime_id for duty in rules.duties if duty.regime_id.startswith(COVERED)}
    assert covered - named - {"us-ny-dfs-ransom-30d"} == set()
