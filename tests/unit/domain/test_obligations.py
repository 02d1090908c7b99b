"""What must hold of every answer, whatever the facts; and the reasons that answers give."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.facts import Facts, parse_facts
from consumers.domain.obligations import OWED, Obligation, Status, notices_to_individuals, obligations_for
from consumers.domain.rules import Rules

AS_OF = datetime(2026, 11, 23, 12, tzinfo=UTC)
BASE = datetime(2026, 6, 8, 3, 12, tzinfo=UTC)
KNOWN: dict[str, Any] = {
    "detected_at": "2026-06-08T03:12:00Z",
    "controller_aware_at": "2026-06-09T14:00:00Z",
    "aware_at": "2026-06-09T14:00:00Z",
    "discovered_at": "2026-06-09T14:00:00Z",
    "determined_at": "2026-06-09T14:00:00Z",
    "role": "controller",
    "entity": ["online_retailer"],
    "licensee": "none",
    "establishments": ["DE"],
    "targets": ["DE", "GB", "US"],
    "residents": {"DE": 900, "GB": 9, "US-CA": 501, "US-TX": 250, "US-AZ": 1001},
    "data_elements": ["full_name", "ssn"],
    "sensitivity": "real",
    "encrypted": False,
    "gdpr_risk": "high",
    "harm_likely": True,
    "significant_harm": True,
    "glba_exempt": False,
}
_OPTIONS: dict[str, Any] = {
    "role": st.sampled_from(["controller", "processor"]),
    "entity": st.sampled_from(
        [["online_retailer"], ["payment_institution", "nis2_important"], ["frfi"], ["sec_registrant"]]
    ),
    "licensee": st.sampled_from(["none", "nydfs_covered_entity"]),
    "establishments": st.sampled_from([["DE"], ["US"], ["IE", "GB"]]),
    "targets": st.sampled_from([["DE", "US"], ["US"], []]),
    "residents": st.dictionaries(
        st.sampled_from(["DE", "GB", "CH", "US-CA", "US-NY", "US-TX", "US-AZ", "US-VT", "CA-QC", "AU", "JP", "SG"]),
        st.sampled_from([1, 250, 500, 501, 1001, 10001]),
        max_size=5,
    ),
    "data_elements": st.lists(
        st.sampled_from(["full_name", "email", "ssn", "account_number", "access_code", "medical_information"]),
        unique=True,
    ),
    "sensitivity": st.sampled_from(["real", "derived_or_memorised", "synthetic_only"]),
    "encrypted": st.booleans(),
    "key_compromised": st.booleans(),
    "gdpr_risk": st.sampled_from(["unlikely", "risk", "high"]),
    "harm_likely": st.booleans(),
    "significant_harm": st.booleans(),
    "significant": st.booleans(),
    "external_attack": st.booleans(),
    "glba_exempt": st.booleans(),
}
_INSTANTS = ("detected_at", "aware_at", "controller_aware_at", "discovered_at", "determined_at", "classified_major_at")


@st.composite
def some_facts(draw: st.DrawFn) -> dict[str, Any]:
    facts = {key: draw(options) for key, options in _OPTIONS.items() if draw(st.booleans())}
    for name in _INSTANTS:
        if draw(st.booleans()):
            facts[name] = (BASE + timedelta(minutes=draw(st.integers(0, 60 * 24 * 40)))).isoformat()
    return facts


def answers(facts: dict[str, Any] | Facts, rules: Rules) -> dict[tuple[str, str], Obligation]:
    parsed = facts if isinstance(facts, Facts) else parse_facts(facts)
    return {(o.regime_id, o.jurisdiction): o for o in obligations_for(parsed, rules, AS_OF)}


quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(facts=some_facts(), data=st.data())
def test_learning_a_fact_never_turns_not_due_into_due(facts: dict[str, Any], data: st.DataObject, rules: Rules) -> None:
    unknown = sorted(set(_OPTIONS) - facts.keys())
    assume(unknown)
    learned = data.draw(st.sampled_from(unknown))
    before, after = answers(facts, rules), answers({**facts, learned: data.draw(_OPTIONS[learned])}, rules)
    for key, was in before.items():
        if was.status is Status.NOT_DUE and key in after and after[key].version == was.version:
            assert after[key].status is not Status.DUE, (key, learned, was.because, after[key].because)


@quick
@given(facts=some_facts())
def test_what_an_answer_always_carries(facts: dict[str, Any], rules: Rules) -> None:
    found = answers(facts, rules)
    assert {regime for regime, _ in found} == set(rules.by_id)
    for obligation in found.values():
        assert obligation.citation
        assert (obligation.deadline_at is not None) is (obligation.status is Status.DUE)
        if obligation.status in (Status.NOT_DUE, Status.PENDING, Status.NOT_IN_FORCE, Status.SUPERSEDED):
            assert obligation.because
        if obligation.missing_facts:
            assert obligation.status is Status.PENDING
        if obligation.deadline_at and obligation.relief_latest_at:
            assert obligation.deadline_at < obligation.relief_latest_at
        if obligation.deadline_at and obligation.conservative_deadline_at:
            assert obligation.conservative_deadline_at <= obligation.deadline_at


@quick
@given(facts=some_facts(), held_hours=st.integers(0, 24 * 200))
def test_a_hold_that_only_suspends_moves_no_deadline_earlier(
    facts: dict[str, Any], held_hours: int, rules: Rules
) -> None:
    released_at = BASE + timedelta(hours=held_hours)
    held = {**facts, "le_hold_from": BASE.isoformat(), "le_hold_released_at": released_at.isoformat()}
    before, after = answers(facts, rules), answers(held, rules)
    for key, was in before.items():
        duty = rules.by_id[was.regime_id]
        if was.deadline_at and all(version.hold in (None, "suspends") for version in duty.versions):
            at = after[key].deadline_at
            assert at is None or at >= was.deadline_at


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    os.environ.pop("TZ", None)
    time.tzset()


def test_no_deadline_depends_on_the_zone_of_the_machine(rules: Rules, request: pytest.FixtureRequest) -> None:
    here = answers(KNOWN, rules)
    request.getfixturevalue("elsewhere")
    assert answers(KNOWN, rules) == here


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_zone_in_which_times_are_shown_moves_nothing(zone: str, rules: Rules) -> None:
    assert answers({**KNOWN, "controller_zone": zone}, rules) == answers(KNOWN, rules)


def test_answers_come_in_the_order_of_deadlines(rules: Rules) -> None:
    found = obligations_for(parse_facts(KNOWN), rules, AS_OF)
    dates = [o.deadline_at for o in found if o.deadline_at]
    assert dates == sorted(dates)
    assert found[0].status in OWED


def test_nothing_known_is_due_nowhere_and_names_what_is_missing(rules: Rules) -> None:
    found = answers({}, rules)
    assert not [o for o in found.values() if o.status in OWED]
    assert "controller_aware_at" in found["eu-gdpr-33", "EEA"].missing_facts
    assert "sensitivity" in found["eu-gdpr-33", "EEA"].missing_facts


def test_thresholds_count_those_whose_own_data_trigger(rules: Rules) -> None:
    facts = parse_facts(KNOWN)
    everybody = {o.regime_id: o.status for o in obligations_for(facts, rules, AS_OF)}
    some = {o.regime_id: o.status for o in obligations_for(facts, rules, AS_OF, triggered={"us-tx-ind": 249})}
    nobody = {o.regime_id: o.status for o in obligations_for(facts, rules, AS_OF, triggered={"us-tx-ind": 0})}
    assert (everybody["us-tx-ag"], everybody["us-tx-ind"]) == (Status.DUE, Status.DUE)
    assert (some["us-tx-ag"], some["us-tx-ind"]) == (Status.NOT_DUE, Status.DUE)
    assert (nobody["us-tx-ag"], nobody["us-tx-ind"]) == (Status.NOT_DUE, Status.NOT_DUE)


def test_a_state_that_exempts_financial_institutions_asks_whether_this_is_one(rules: Rules) -> None:
    key = ("us-az-ind", "US-AZ")
    assert answers(KNOWN, rules)[key].status is Status.DUE
    assert answers({**KNOWN, "glba_exempt": True}, rules)[key].status is Status.NOT_DUE
    open_question = answers({k: v for k, v in KNOWN.items() if k != "glba_exempt"}, rules)[key]
    assert open_question.status is Status.PENDING
    assert open_question.missing_facts == ("glba_exempt",)


def test_the_notices_to_individuals_are_those_owed_or_open(rules: Rules) -> None:
    owed = notices_to_individuals(obligations_for(parse_facts(KNOWN), rules, AS_OF))
    assert set(owed) == {"eu-gdpr-34", "gb-ukgdpr-34", "us-ca-ind", "us-tx-ind", "us-az-ind"}
    low = notices_to_individuals(obligations_for(parse_facts({**KNOWN, "gdpr_risk": "risk"}), rules, AS_OF))
    assert set(low) == {"us-ca-ind", "us-tx-ind", "us-az-ind"}


def test_doubtful_law_says_ask_counsel(rules: Rules) -> None:
    found = answers({**KNOWN, "residents": {"US-NY": 1}}, rules)
    assert found["us-ny-ag", "US-NY"].ask_counsel
    assert not answers(KNOWN, rules)["us-ca-ind", "US-CA"].ask_counsel


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"data_elements": ["emial"]}, "did you mean 'email'"),
        ({"harm_likely": {"us-tx-idn": True}}, "did you mean 'us-tx-ind'"),
    ],
)
def test_a_name_that_the_rules_do_not_have_is_refused(facts: dict[str, Any], words: str, rules: Rules) -> None:
    with pytest.raises(BadInput, match=words):
        obligations_for(parse_facts(facts), rules, AS_OF)


def test_a_naive_as_of_is_refused(rules: Rules) -> None:
    with pytest.raises(BadInput, match="no offset"):
        obligations_for(parse_facts({}), rules, datetime(2026, 6, 8))  # noqa: DTZ001
