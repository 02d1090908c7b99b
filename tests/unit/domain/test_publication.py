"""Whom a public notice stands in for: only whom every law that owes them a notice lets be told so."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.notice_rules import MediumRule, NoticeRule, Substitute
from consumers.domain.publication import MEDIA, Publication, needs_of, stand_in, substitute_media
from tests.unit.shipped_law import shipped_law

BOTH = frozenset(MEDIA)
NEEDS = {"us-ca": BOTH, "br": frozenset({"website_posting"})}


def there(medium: str, *, controller: str = "c", covers: tuple[str, ...] = ("*",)) -> Publication:
    return Publication(f"{medium}-{controller}", medium, controller, covers,
                       {regime: media for regime, media in NEEDS.items() if medium in media})  # fmt: skip


WEB, PRESS = there("website_posting"), there("state_media")


def test_every_regime_that_owes_a_notice_must_let_it_and_all_its_media_must_stand() -> None:
    assert stand_in(["br"], ["BR"], "c", [WEB]) == (WEB.publication_id,)
    assert stand_in(["us-ca"], ["US-CA"], "c", [WEB]) == ()
    assert stand_in(["us-ca"], ["US-CA"], "c", [WEB, PRESS]) == (PRESS.publication_id, WEB.publication_id)
    assert stand_in(["br", "in"], ["BR", "IN"], "c", [WEB, PRESS]) == ()
    assert stand_in([], ["BR"], "c", [WEB, PRESS]) == ()


def test_it_stands_for_its_controllers_people_where_it_stands() -> None:
    assert stand_in(["br"], ["BR"], "other", [WEB]) == ()
    only_brazil = there("website_posting", covers=("BR",))
    assert stand_in(["br"], ["BR"], "c", [only_brazil]) == (only_brazil.publication_id,)
    assert stand_in(["br"], ["BR", "DE"], "c", [only_brazil]) == ()
    assert stand_in(["br"], [], "c", [only_brazil]) == ()  # unknown residence


@given(
    st.sets(st.sampled_from(["us-ca", "br", "in"])),
    st.lists(st.sampled_from([WEB, PRESS, there("website_posting", controller="d")]), unique_by=id),
)
def test_nobody_counts_as_told_whom_one_law_does_not_let(owed: set[str], standing: list[Publication]) -> None:
    used = stand_in(owed, ["US-CA"], "c", standing)
    media = {each.medium for each in standing if each.controller == "c"}
    assert bool(used) == (bool(owed) and all(regime in NEEDS and NEEDS[regime] <= media for regime in owed))


def test_the_media_of_a_substitute_are_read_from_the_law() -> None:
    some = Substitute(None, None, None, None)
    rule = NoticeRule(
        "r", (), "", (MediumRule("email", "yes", None, some, "high", None),
                      MediumRule("website_posting", "conditional", None, some, "high", None),
                      MediumRule("state_media", "yes", None, None, "high", None)), "",
    )  # fmt: skip
    assert substitute_media(rule) == {"website_posting"}
    assert needs_of("state_media", {"r": rule}) == {}


def test_our_rules_name_regimes_with_and_without_a_substitute() -> None:
    notices = shipped_law().rules.notices
    needs = needs_of("website_posting", notices)
    assert {"website_posting"} <= set(needs["eu-gdpr-34"])
    assert len(needs) > 20
    assert len(needs) < len(notices)
