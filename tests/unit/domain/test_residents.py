"""What a person triggers where they may live, and by when they must be told."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.facts import parse_facts
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.obligations import obligations_for
from consumers.domain.residents import earliest_deadline, regimes_for_person
from consumers.domain.rules import Rules

ON = date(2026, 6, 9)


@pytest.mark.parametrize(
    ("residence", "elements", "regimes"),
    [
        (["DE"], {"email"}, ("eu-gdpr-34",)),
        (["GB"], {"fraud_score"}, ("gb-ukgdpr-34",)),
        (["CH"], {"email"}, ("ch-fadp-24-ind",)),
        (["US-CA"], {"email", "fraud_score"}, ()),
        (["US-CA"], {"full_name", "ssn"}, ("us-ca-ind",)),
        (["US-NY"], {"email", "ssn"}, ("us-ny-ind",)),
        (["US-NY"], {"account_number"}, ("us-ny-ind",)),  # a person decides: nobody is left out before
        (["US-TX"], {"email", "ssn"}, ()),
        (["CA-QC"], {"email"}, ("ca-qc-law25-ind",)),
        (["CA-ON"], {"email"}, ("ca-pipeda-ind",)),
        (["AU"], {"email"}, ("au-ndb-ind",)),
        (["DE", "US-CA"], {"full_name", "ssn"}, ("eu-gdpr-34", "us-ca-ind")),
        (["DE", "unknown"], {"email"}, ("eu-gdpr-34",)),
        (["unknown"], {"email"}, ("unknown",)),
        ([], {"email"}, ("unknown",)),
        (["DE"], set(), ()),
    ],
)
def test_what_a_person_triggers(
    residence: list[str], elements: set[str], regimes: tuple[str, ...], rules: Rules
) -> None:
    assert regimes_for_person(residence, elements, rules, ON) == regimes


def test_an_element_that_nobody_knows_is_refused(rules: Rules) -> None:
    with pytest.raises(BadInput, match="did you mean 'email'"):
        regimes_for_person(["DE"], {"emial"}, rules, ON)


def test_the_earliest_deadline_is_that_of_the_residence(rules: Rules) -> None:
    facts = parse_facts(
        {
            "discovered_at": "2026-06-01T10:00:00-07:00",
            "determined_at": "2026-06-01T10:00:00-07:00",
            "role": "controller",
            "entity": "online_retailer",
            "residents": {"US-CA": 1, "US-TX": 1, "DE": 1},
            "data_elements": ["full_name", "ssn"],
            "sensitivity": "real",
            "encrypted": False,
            "establishments": ["DE"],
            "gdpr_risk": "high",
        }
    )
    obligations = obligations_for(facts, rules, datetime(2026, 6, 2, tzinfo=UTC))
    california = datetime(2026, 7, 2, 6, 59, 59, tzinfo=UTC)
    assert earliest_deadline(obligations, "US-CA") == california
    assert earliest_deadline(obligations, "US-TX") == datetime(2026, 8, 1, 4, 59, 59, tzinfo=UTC)
    assert earliest_deadline(obligations, "DE") is None
    assert earliest_deadline(obligations, UNKNOWN_RESIDENCE) == california
    later = [replace(o, deadline_at=None) for o in obligations if o.regime_id == "us-ca-ind"]
    assert earliest_deadline(later, "US-CA") == california  # the conservative date stands in
