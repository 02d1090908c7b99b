"""What people may write as facts, and how a slip of theirs is answered."""

from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.facts import parse_facts


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"detcted_at": "2026-06-08T03:12:00Z"}, ["'detcted_at'", "did you mean 'detected_at'"]),
        ({"aware_at": "2026-06-08T03:12:00"}, ["aware_at", "no offset"]),
        ({"aware_at": "yesterday"}, ["aware_at", "ISO 8601"]),
        ({"aware_at": 1780000000}, ["aware_at", "ISO 8601"]),
        ({"le_hold_from": {"US-CA": "2026-06-08T03:12:00"}}, ["le_hold_from.US-CA", "no offset"]),
        ({"le_hold_from": {"US-CX": "2026-06-08T03:12:00Z"}}, ["le_hold_from", "'US-CX' does not exist"]),
        ({"residents": {"US-XX": 3}}, ["residents", "'US-XX' does not exist"]),
        ({"residents": {"UK": 3}}, ["did you mean 'GB'"]),
        ({"residents": {"DE": -1}}, ["residents.DE", "a count is 0 or more"]),
        ({"residents": {"DE": True}}, ["residents.DE"]),
        ({"residents": {"DE": "3"}}, ["residents.DE"]),
        ({"gdpr_risk": "hgih"}, ["gdpr_risk", "'hgih'", "did you mean 'high'"]),
        ({"entity": ["payment_institutoin"]}, ["entity", "did you mean 'payment_institution'"]),
        ({"establishments": ["US-CA"]}, ["establishments", "'US-CA' is no country"]),
        ({"encrypted": "false"}, ["encrypted", "write true or false"]),
        ({"harm_likely": {"us-ca-ind": "yes"}}, ["harm_likely.us-ca-ind: write true or false"]),
        ({"establishments": ["EU"]}, ["establishments.0", "'EU' is no country"]),
        ({"residents": [1]}, ["residents: write an object of code: number"]),
        (
            {"le_hold_from": {"US-CA": "2026-06-08T03:12:00Z"}, "le_hold_released_at": "2026-06-07T03:12:00Z"},
            ["before le_hold_from"],
        ),
        ({"controller_zone": "Berlin"}, ["controller_zone", "IANA"]),
        ({"le_hold_released_at": "2026-06-08T03:12:00Z"}, ["le_hold_released_at", "without le_hold_from"]),
        (
            {"le_hold_from": "2026-06-08T03:12:00Z", "le_hold_released_at": "2026-06-07T03:12:00Z"},
            ["le_hold_released_at", "before le_hold_from"],
        ),
    ],
)
def test_a_slip_is_refused_by_name(facts: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_facts(facts, source="facts.json")
    for word in ["facts.json", *words]:
        assert word in str(refusal.value)


def test_instants_are_kept_in_utc() -> None:
    facts = parse_facts({"aware_at": "2026-06-09T16:00:00+02:00"})
    assert facts.aware_at == datetime(2026, 6, 9, 14, tzinfo=UTC)
    assert facts.aware_at is not None
    assert facts.aware_at.tzinfo is UTC


def test_one_word_may_stand_for_a_list_of_one() -> None:
    assert parse_facts({"entity": "frfi"}).entity == ("frfi",)


def test_residences_fold_into_the_law_that_follows_them() -> None:
    facts = parse_facts({"residents": {"PR": 2, "US-PR": 3, "DE-BY": 1, "DE": 4, "unknown": 7}})
    assert facts.residents == {"US-PR": 5, "DE": 5, "unknown": 7}


def test_a_slip_in_one_form_is_not_told_of_the_other() -> None:
    with pytest.raises(BadInput) as refusal:
        parse_facts({"individual_notices_sent_at": {"US-CA": "2026-06-08T03:12:00"}})
    assert str(refusal.value).count(";") == 1
    with pytest.raises(BadInput) as refusal:
        parse_facts({"individual_notices_sent_at": "2026-06-08"})
    assert "object" not in str(refusal.value)
