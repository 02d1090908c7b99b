"""Pre-flight on the media by which a law lets its notice come."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.contracts.events import Channel
from consumers.case.preflight import DECIDE, _doubtful, _kept_back
from consumers.case.records import GateRecord
from consumers.case.sheet import doubtful_media
from consumers.domain.notice_rules import NoticeRule
from consumers.law.loader import load_rules

LAW = Path(__file__).parents[3] / "templates" / "law"


@pytest.fixture(scope="module")
def notices() -> dict[str, NoticeRule]:
    return dict(load_rules(LAW).notices)


def test_who_is_told_first_by_a_medium_on_a_condition_is_counted_by_duty(notices: dict[str, NoticeRule]) -> None:
    told = [
        (["us-ca-ind"], Channel.EMAIL, 40),
        (["us-ca-ind", "us-ny-ind"], Channel.EMAIL, 2),
        (["us-ca-ind"], Channel.LETTER, 5),
        (["us-al-ind"], Channel.EMAIL, 7),
        (["us-al-ind"], Channel.SMS, 3),
        (["us-al-ind"], None, 9),
        (["unheard-of"], Channel.EMAIL, 1),
    ]
    found = doubtful_media(told, notices)
    assert [(each.regime_id, each.medium, each.people, each.rule.allowed) for each in found] == [
        ("us-al-ind", "sms", 3, "unknown"),
        ("us-ca-ind", "email", 42, "conditional"),
        ("us-ny-ind", "email", 2, "conditional"),
    ]
    said = _doubtful(found[1])
    assert (said.level, said.about, said.next) == (DECIDE, "media", "tocsin law explain us-ca-ind")
    assert said.says.startswith("42 people would be told first by email, which us-ca-ind allows on a condition (e-sign")
    assert "1798.82" in said.says
    assert "serves beside a medium that it names" in _doubtful(found[0]).says


def test_of_american_laws_only_wisconsins_asks_more_of_a_letter_than_a_stamp(notices: dict[str, NoticeRule]) -> None:
    american = [regime for regime in notices if regime.startswith("us-") and regime.endswith("-ind")]
    doubted = doubtful_media([([regime], Channel.LETTER, 1) for regime in american], notices)
    assert [each.regime_id for each in doubted] == ["us-wi-ind"]


def test_the_duty_that_people_wait_for_is_named_with_whose_it_is() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    gate = GateRecord(
        "g1", "INC-1", "authority_first", ["DE"], at, "dpo", None, controller="shop", regime_id="eu-gdpr-33"
    )
    assert _kept_back("INC-1", gate, 3).next == "tocsin incident duty INC-1 eu-gdpr-33 --controller shop --reason TEXT"
