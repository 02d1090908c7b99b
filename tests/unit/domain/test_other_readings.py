"""What an answer says beside its date: other readings and doubts, which never move it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import Obligation, obligations_for
from consumers.domain.rules import Rules

FACTS: dict[str, Any] = {
    "detected_at": "2026-06-08T03:12:00Z",
    "controller_aware_at": "2026-06-09T14:20:00Z",
    "aware_at": "2026-06-09T14:20:00Z",
    "discovered_at": "2026-06-09T14:20:00Z",
    "role": "controller",
    "entity": "online_retailer",
    "establishments": ["DE"],
    "targets": ["DE"],
    "residents": {"DE": 3, "US-CA": 5501, "US-NY": 50, "JP": 2000},
    "data_elements": ["full_name", "ssn"],
    "sensitivity": "real",
    "encrypted": False,
    "gdpr_risk": "high",
    "glba_exempt": False,
    "external_attack": False,
}


def answer(rules: Rules, regime_id: str, **changed: Any) -> Obligation:
    found = obligations_for(parse_facts({**FACTS, **changed}), rules, datetime(2026, 11, 23, 12, tzinfo=UTC))
    return next(each for each in found if each.regime_id == regime_id)


def test_the_whole_hour_is_told_and_is_not_the_deadline(rules: Rules) -> None:
    found = answer(rules, "eu-gdpr-33")
    assert found.deadline_at == datetime(2026, 6, 12, 14, 20, tzinfo=UTC)
    assert "counted in whole hours it would end 2026-06-12 15:00 UTC (Reg. 1182/71 Art. 3(1))" in found.information
    on_the_hour = answer(rules, "eu-gdpr-33", controller_aware_at="2026-06-09T14:00:00Z")
    assert not any("whole hours" in sentence for sentence in on_the_hour.information)


@pytest.mark.parametrize(("aware_at", "told"), [("2026-06-09T03:12:00Z", False), ("2026-06-09T03:13:00Z", True)])
def test_a_long_time_to_awareness_is_not_accepted_in_silence(aware_at: str, told: bool, rules: Rules) -> None:
    found = answer(rules, "eu-gdpr-33", controller_aware_at=aware_at)
    assert any("after the detection" in sentence for sentence in found.information) is told


def test_japans_later_reading_is_told(rules: Rules) -> None:
    found = answer(rules, "jp-ppc-final")
    assert found.deadline_at == datetime(2026, 7, 8, 14, 59, 59, tzinfo=UTC)
    assert any("one day later" in sentence for sentence in found.information)


def test_a_threshold_that_all_persons_together_would_meet_is_told(rules: Rules) -> None:
    (sentence,) = answer(rules, "us-ny-cra").information
    assert sentence == "read as all persons notified at one time, 5,551, the threshold is met; ask counsel"
    assert answer(rules, "us-ny-cra", data_elements=["email"]).information == ()
    assert answer(rules, "us-ny-cra", residents={"US-NY": 50, "US-CA": 10}).information == ()
