"""Every law's content requirements against every notice: nothing uncovered, nothing forbidden said, nobody else's block."""

from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from consumers.adapters.notice_renderer import (
    FULL_SENDER,
    ONE_OF_EACH,
    SAMPLE_OFFER,
    SAMPLE_SENDER,
    compose,
    sample_key,
)
from consumers.adapters.template_catalog import Bundle, bundle_names, read_bundle
from consumers.domain.notice_checklist import (
    FRAME,
    NEVER_SAID,
    Checklist,
    Readings,
    Situation,
    checklist,
    parse_readings,
    sections_that_texts_name,
)
from consumers.domain.notices import ComposedNotice, Sender
from tests.unit.shipped_law import shipped_law

TEMPLATES = Path(__file__).parents[3] / "templates"
ON = date(2026, 11, 23)
RULES = shipped_law().rules
NAMES = tuple(name for name in bundle_names(TEMPLATES) if name != "correction")
"""All that tell of an incident; a correction takes one of them back, and no law prescribes it."""
FACTS = (("authority_notified", "yes"), ("people", "22000"))
EVERYTHING = frozenset(RULES.elements)
ONE_EACH = tuple(text.format("fraud-scorer") for text in ONE_OF_EACH)


@cache
def bundle(name: str) -> Bundle:
    return read_bundle(TEMPLATES, name)


def asked(
    *regimes: str, elements: frozenset[str] = EVERYTHING, sender: Sender = FULL_SENDER, offer: bool = True
) -> Checklist:
    situation = Situation(elements, sender, offer)
    return checklist(RULES.notices, regimes, regimes, ON, situation, bundle("ai-data-leak").readings)


def composed(
    found: Checklist,
    name: str = "ai-data-leak",
    locale: str = "en",
    *,
    states: tuple[str, ...] = (),
    sender: Sender = FULL_SENDER,
    offer: bool = True,
    facts: tuple[tuple[str, str], ...] = FACTS,
) -> ComposedNotice:
    key = sample_key(
        bundle(name), locale, disclosures=ONE_EACH, asks=found.asked_sections, forbids=found.forbidden_sections,
        states=states, sender=sender.as_pairs(), facts=facts, offer=tuple(sorted(SAMPLE_OFFER.items())) if offer else (),
    )  # fmt: skip
    return compose(bundle(name), key)


def home_of(regime: str) -> tuple[str, ...]:
    code = RULES.by_id[regime].jurisdiction
    return (code,) if code.startswith("US-") else ()


@pytest.mark.parametrize("name", NAMES)
def test_every_notice_covers_what_every_law_asks_and_says_nothing_that_one_forbids(name: str) -> None:
    uncovered = []
    notices: dict[tuple[object, ...], ComposedNotice] = {}
    for locale in bundle(name).locales:
        for regime in RULES.notices:
            found = asked(regime)
            key = (locale, found.asked_sections, found.forbidden_sections, home_of(regime))
            if key not in notices:
                notices[key] = composed(found, name, locale, states=home_of(regime))
            uncovered += [f"{locale}: {objection}" for objection in found.objections(notices[key].covers)]
            assert not found.unread
    if "fr" in bundle(name).locales:
        assert uncovered == []
    else:
        # residents of Quebec must find it in French: without one they are held, and told so
        assert {"language_of_recipient" in each and "ca-qc-law25-ind" in each for each in uncovered} == {True}
        assert len(uncovered) == len(bundle(name).locales)


def test_the_shipped_rows_are_all_there_is_to_ask() -> None:
    sections = {row.section for rule in RULES.notices.values() for row in rule.content_on(ON)}
    known = {*sections_that_texts_name(), *FRAME, "none_prescribed", "must_not_state"}
    assert sections <= known
    assert not NEVER_SAID & sections


def test_every_prohibition_is_read_and_every_reading_is_of_a_prohibition() -> None:
    written = {
        (regime, row.text)
        for regime, rule in RULES.notices.items()
        for row in rule.content
        if row.section == "must_not_state"
    }
    assert set(bundle("ai-data-leak").readings.forbids) == written


def test_massachusetts_hears_nothing_of_the_breach_and_rhode_island_the_number() -> None:
    massachusetts = composed(asked("us-ma-ind"), states=("US-MA",))
    assert not {"nature_of_incident", "cause_of_incident", "number_affected"} & massachusetts.covers
    assert {"police_report_right", "security_freeze_right", "credit_monitoring_offer"} <= massachusetts.covers
    for word in ("leaked", "could be seen", "22"):
        assert word not in massachusetts.account_body.replace("1-", "").split("If You Live")[0]
    rhode_island = composed(asked("us-ri-ind"), states=("US-RI",))
    assert "affects 22 000 people" in rhode_island.text
    assert "150 South Main Street, Providence" in rhode_island.text


def test_no_text_serves_both() -> None:
    found = asked("us-ma-ind", "us-ri-ind")
    objections = found.objections(composed(found, states=("US-MA", "US-RI")).covers)
    assert any("us-ri-ind nature_of_incident" in each and "us-ma-ind" in each for each in objections)
    assert any("us-ri-ind number_affected" in each and "93H" in each for each in objections)


def test_nobody_gets_another_states_block() -> None:
    agencies = bundle("ai-data-leak").agencies.states
    for locale in bundle("ai-data-leak").locales:
        for state, own in agencies.items():
            if f"{state.lower()}-ind" not in RULES.notices:
                continue
            text = composed(asked(f"{state.lower()}-ind"), locale=locale, states=(state,)).text
            for other, entry in agencies.items():
                for agency in entry.agencies:
                    assert other == state or agency.name not in text
            for agency in own.agencies:
                assert agency.name in text
                assert agency.telephone in text
    european = composed(asked("eu-gdpr-34")).text
    for word in ("Equifax", "Federal Trade", "credit report", "If You Live"):
        assert word not in european


@pytest.mark.parametrize(
    ("regime", "changes", "says"),
    [
        ("us-ct-ind", {"offer": False}, "us-ct-ind credit_monitoring_offer (Conn. Gen. Stat."),
        ("us-wy-ind", {"sender": SAMPLE_SENDER}, "us-wy-ind toll_free_number (Wyo. Stat."),
        ("us-mi-ind", {"sender": SAMPLE_SENDER}, "us-mi-ind contact_telephone"),
        ("us-dc-ind", {"sender": replace(FULL_SENDER, address="")}, "the sender's address is not known: us-dc-ind"),
        ("nz-ind", {"facts": ()}, "nz-ind authority_notified (Privacy Act 2020"),
        ("us-ri-ind", {"facts": ()}, "us-ri-ind number_affected"),
        ("eu-gdpr-34", {"sender": replace(SAMPLE_SENDER, contact="")}, "eu-gdpr-34 dpo_contact (GDPR Art 34"),
    ],
)
def test_what_is_missing_is_named_with_duty_section_and_citation(
    regime: str, changes: dict[str, object], says: str
) -> None:
    of_law = {name: value for name, value in changes.items() if name in ("offer", "sender")}
    found = asked(regime, **of_law)  # type: ignore[arg-type]
    notice = composed(found, states=home_of(regime), **changes)  # type: ignore[arg-type]
    objections = found.objections(notice.covers)
    assert any(says in each and "confidence" in each for each in objections), objections
    assert composed(asked(regime), states=home_of(regime)).covers, "with everything there it can go"
    assert asked(regime).objections(composed(asked(regime), states=home_of(regime)).covers) == []


def test_conditions_follow_what_leaked() -> None:
    def sections(regime: str, *elements: str) -> tuple[str, ...]:
        return asked(regime, elements=frozenset(elements)).asked_sections

    assert "credit_monitoring_offer" in sections("us-ct-ind", "full_name", "ssn")
    assert "credit_monitoring_offer" not in sections("us-ct-ind", "full_name", "card_number")
    login = ("email", "online_password")
    assert "advise_password_change" in sections("us-az-ind", *login)
    assert "advise_password_change" not in sections("us-az-ind", *login, "ssn")
    assert "credit_bureau_contacts" in sections("us-ca-ind", "full_name", "drivers_licence")
    assert "credit_bureau_contacts" not in sections("us-ca-ind", "full_name", "card_number")
    assert "parent_company_name" not in asked("us-ma-ind", sender=SAMPLE_SENDER).asked_sections


def test_recommendations_hold_nobody() -> None:
    found = asked("us-ca-ind", elements=frozenset({"full_name", "biometric"}))
    assert "biometric_authenticator_advice" in found.asked_sections
    covers = frozenset(ask.section for ask in found.asks) - {"biometric_authenticator_advice"}
    assert found.objections(covers) == []


def test_a_prohibition_that_nobody_has_read_holds_its_people() -> None:
    situation = Situation(EVERYTHING, FULL_SENDER)
    found = checklist(RULES.notices, (), ("us-il-ind",), ON, situation, Readings())
    (objection,) = found.objections(frozenset())
    assert "us-il-ind must_not_state (815 ILCS 530" in objection


def test_readings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(
        BadInput, match=r"must_not_state.us-il-ind.0: 'number_afected' .* did you mean 'number_affected'"
    ):
        parse_readings({"must_not_state": {"us-il-ind": [{"says": "x", "forbids": ["number_afected"]}]}})
    with pytest.raises(BadInput, match="the sender has no 'adress'; did you mean 'address'"):
        parse_readings({"sender": {"us-dc-ind": {"contact_point": ["adress"]}}})
