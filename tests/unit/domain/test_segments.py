"""The segment policy: first match, nobody falls out, bad policies are refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Channel, Kind, Sensitivity
from consumers.domain.segments import (
    Addressee,
    SegmentKey,
    covers,
    parse_policy,
    policy_schema,
    segment_key_from,
    touches,
)

SHIPPED = yaml.safe_load((Path(__file__).parents[3] / "templates" / "segments.yaml").read_text(encoding="utf-8"))
LAST = {"name": "rest", "bundle": "b", "channels": ["email"], "lane": "standard", "priority": 50}


def addressee(**changes: Any) -> Addressee:
    values: dict[str, Any] = {
        "sensitivity": Sensitivity.LOW, "kinds": frozenset({Kind.DERIVED}), "categories": frozenset({"income"}),
        "residences": ("DE",), "locale": "de_AT", "controller": "shop", "website_id": 1, "standing": "recorded",
    }  # fmt: skip
    return Addressee(**{**values, **changes})


PEOPLE = st.builds(
    Addressee,
    sensitivity=st.sampled_from(list(Sensitivity)),
    kinds=st.frozensets(st.sampled_from(list(Kind))),
    categories=st.frozensets(st.sampled_from(["income", "spending", "other"])),
    residences=st.lists(st.sampled_from(["DE", "US-CA", "US-MA", "CH"]), unique=True).map(tuple),
    locale=st.sampled_from(["de_AT", "en", ""]),
    controller=st.just("shop"),
    website_id=st.integers(0, 3),
    standing=st.sampled_from(["recorded", "possible"]),
)


@given(PEOPLE)
def test_everybody_falls_in_exactly_one_segment(person: Addressee) -> None:
    policy = parse_policy(SHIPPED)
    rule = policy.rule_for(person)
    earlier = policy.rules[: policy.rules.index(rule)]
    assert rule.when.matches(person)
    assert not any(other.when.matches(person) for other in earlier)
    assert policy.group_of(person.residences)


@pytest.mark.parametrize(
    ("when", "changes", "matches"),
    [
        ({"sensitivity_at_least": "high"}, {"sensitivity": Sensitivity.CRITICAL}, True),
        ({"sensitivity_at_least": "high"}, {"sensitivity": Sensitivity.MEDIUM}, False),
        ({"kinds": ["inferred", "derived"]}, {}, True),
        ({"kinds": ["synthetic"]}, {}, False),
        ({"categories": ["income"]}, {}, True),
        ({"residences": ["EU"]}, {}, True),
        ({"residences": ["EU"]}, {"residences": ()}, False),
        ({"residences": ["unknown"]}, {"residences": ()}, True),
        ({"residences": ["US"]}, {"residences": ("DE", "US-CA")}, True),
        ({"locales": ["de"]}, {}, True),
        ({"locales": ["de_DE"]}, {}, False),
        ({"websites": [2]}, {}, False),
        ({"stores": [4]}, {"store_id": 4}, True),
        ({"stores": [4]}, {"store_id": 5}, False),
        ({"scenarios": ["memorised"]}, {"scenario": "memorised"}, True),
        ({"scenarios": ["memorised"]}, {}, False),
        ({"controllers": ["shop"]}, {}, True),
        ({"standing": "possible"}, {}, False),
        ({"kinds": ["derived"], "websites": [2]}, {}, False),
    ],
)
def test_conditions(when: dict[str, Any], changes: dict[str, Any], matches: bool) -> None:
    policy = parse_policy({"rules": [{**LAST, "name": "first", "when": when}, LAST]})
    assert (policy.rule_for(addressee(**changes)).name == "first") is matches


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([], "write a list of rules"),
        ([{**LAST, "when": {"locales": ["de"]}}], "the last rule must have no `when`"),
        ([{**LAST, "name": "all"}, LAST], "so that the rules after it never match"),
        ([{**LAST, "chanels": ["email"]}], "did you mean 'channels'"),
        ([{**LAST, "channels": ["email", "email"]}], "each once"),
        ([{**LAST, "channels": ["emial"]}], "did you mean 'email'"),
        ([{**LAST, "name": "a", "when": {"residences": ["UK"]}}, LAST], "is no jurisdiction"),
        ([{**LAST, "name": "a", "when": {"sensitivity": "high"}}, LAST], "did you mean 'sensitivity_at_least'"),
        ([{**LAST, "when": {"kinds": ["derived"]}}, LAST], "taken by an earlier rule"),
        ([{**LAST, "priority": "high"}], "whole number"),
        ([{**LAST, "offer": "credit"}], "no offer is named 'credit'"),
        ([{**LAST, "name": "a", "when": {"stores": ["x"]}}, LAST], "list of store ids"),
    ],
)
def test_a_bad_policy_is_refused(rules: list[Any], complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_policy({"rules": rules})
    assert complaint in str(caught.value)


OFFER = {
    "service": "credit monitoring",
    "provider": "P",
    "months": 24,
    "enrol": "https://p.example",
    "until": "2027-01-31",
}


def test_an_offer_is_named_by_a_rule_and_written_once() -> None:
    policy = parse_policy({"offers": {"credit": OFFER}, "rules": [{**LAST, "offer": "credit"}]})
    assert dict(policy.offer_of(policy.rules[0])) == {**OFFER, "months": "24"}
    for broken, complaint in (
        ({**OFFER, "months": None}, "offers.credit.months: missing"),
        ({**OFFER, "mnths": 1}, "did you mean 'months'"),
        ({**OFFER, "code": "{{x}}"}, "offers.credit.code: holds a brace"),
    ):
        with pytest.raises(BadInput) as caught:
            parse_policy({"offers": {"credit": broken}, "rules": [LAST]})
        assert complaint in str(caught.value)


def test_the_schema_takes_what_the_parser_takes() -> None:
    schema = Draft202012Validator(policy_schema())
    assert list(schema.iter_errors(SHIPPED)) == []
    full = {
        "offers": {"credit": OFFER}, "own_texts": {"us": ["US"]},
        "rules": [
            {**LAST, "name": "a", "offer": "credit", "when": {
                "sensitivity_at_least": "high", "kinds": ["derived"], "categories": ["income"], "residences": ["US"],
                "locales": ["en"], "controllers": ["shop"], "websites": [1], "stores": [2], "scenarios": ["s"],
                "standing": "recorded"}},
            LAST,
        ],
    }  # fmt: skip
    assert list(schema.iter_errors(full)) == []
    assert parse_policy(full).rules[0].when.stores == {2}
    bad: list[dict[str, Any]] = [
        {"rules": [{**LAST, "chanels": []}]},
        {"rules": [{**LAST, "priority": "x"}]},
        {"rules": []},
    ]
    for broken in bad:
        assert list(schema.iter_errors(broken))
        with pytest.raises(BadInput):
            parse_policy(broken)


def test_coverage_of_jurisdictions() -> None:
    assert covers(["EU"], ["DE", "FR"])
    assert not covers(["EU"], ["DE", "CH"])
    assert covers(["US"], ["US-CA"])
    assert not covers(["EU", "US"], [])
    assert covers(["unknown"], [])
    assert covers(["*"], [])
    assert touches(["US-MA"], ["DE", "US-MA"])


@given(st.lists(st.text(max_size=10)), st.text(max_size=5), st.one_of(st.none(), st.text(max_size=5)))
def test_keys_round_trip_and_name_themselves(disclosures: list[str], locale: str, start: str | None) -> None:
    key = SegmentKey(
        incident_id="INC-2026-0001", revision=1, controller="shop", locale=locale, disclosures=tuple(disclosures),
        policy="p", group="general", standing="recorded", bundle="b", bundle_sha256=None,
        channels=(Channel.EMAIL.value,), sms_details=False, scenario="", detected_on="2026-01-01", exposed_from=start,
        exposed_to=None, sender=(("contact", ""), ("name", "n")),
    )  # fmt: skip
    again = segment_key_from(key.as_json())
    assert again == key
    assert again.segment_id == key.segment_id


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadInput):
        segment_key_from({"incident_id": "x"})
