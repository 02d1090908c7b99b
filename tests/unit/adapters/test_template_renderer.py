"""Composing and filling notices: hostile templates are refused at check time, hostile names are harmless."""

import html
import unicodedata
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import Refused, TocsinError
from bridge.contracts.events import Contact
from consumers.adapters.notice_renderer import check, compose, sample_key
from consumers.adapters.template_catalog import Bundle, read_bundle
from consumers.domain.notices import body_sha256, fill, outside_gsm7, plain_name, slots_for, sms_parts
from consumers.sandbox.texts import template as sandbox_template

TEMPLATES = Path(__file__).parents[3] / "templates"
NAME = "ai-data-leak"
SCORE = "derived|fraud-scorer|fraud_assessment"


@cache
def shipped() -> Bundle:
    return read_bundle(TEMPLATES, NAME)


def edited(changes: Mapping[str, str]) -> Bundle:
    return Bundle(NAME, {**shipped().files, **changes})


def test_the_shipped_notice_is_complete() -> None:
    assert check(shipped()) == []


@pytest.mark.parametrize("locale", ["en", "de"])
def test_mails_are_short_and_say_first_what_matters(locale: str) -> None:
    notice = compose(shipped(), sample_key(shipped(), locale, disclosures=(SCORE,)))
    assert len(notice.text.split()) <= 600
    first_screen = " ".join(notice.text.split()[:90])
    assert ("AI system" if locale == "en" else "KI-System") in first_screen
    assert notice.sms_parts <= 2
    assert outside_gsm7(notice.sms) == ""
    for part in (notice.sms, notice.account_title, notice.account_body):
        assert "{{" not in part
    for word in ("score", "Betrug", "fraud"):
        assert word not in notice.sms
    assert "https://shop.invalid/customer/account/" in notice.sms


def test_californias_headings_stand_in_the_english_text() -> None:
    notice = compose(shipped(), sample_key(shipped(), "en_US", asks=("prescribed_headings", "prescribed_title")))
    headings = (
        "What Happened",
        "What Information Was Involved",
        "What We Are Doing",
        "What You Can Do",
        "For More Information",
    )
    places = [notice.text.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert notice.text.startswith("Notice of Data Breach\n")
    assert all(f">{heading}</h2>" in notice.html for heading in headings)


def test_massachusetts_is_not_told_the_nature_of_the_breach() -> None:
    notice = compose(
        shipped(), sample_key(shipped(), "en", forbids=("nature_of_incident",), asks=("police_report_right",))
    )
    for phrase in ("leaked", "could be seen", "this was possible"):
        assert phrase not in notice.text
    assert "police report" in notice.text
    assert "nature_of_incident" not in notice.covers


def test_real_data_alone_is_not_called_machine_made() -> None:
    notice = compose(shipped(), sample_key(shipped(), "en", disclosures=("real|fraud-scorer|contact",)))
    for phrase in ("made or worked out", "machine", "invented", "estimate"):
        assert phrase not in notice.text


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ nmae }}", "en/subject.j2:1: unknown variable 'nmae'"),
        ("x\n{{ sendr.name }}", "en/subject.j2:2: "),
        ("{{ sender.nam }}", "'sender.nam'; did you mean 'name'"),
        ("{{ slot('nme') }}", "unknown slot 'nme'; did you mean 'name'"),
        ("{{ slot('name') }}", "the slot 'name' may not stand here"),
        ("{{ slot(group) }}", "the only calls are slot('name')"),
        ("{{ ''.__class__.__mro__ }}", "only `sender` has fields"),
        ("{{ sender['__class__'] }}", "Getitem is not allowed"),
        ("{{ cycler.__init__.__globals__ }}", "only `sender` has fields"),
        ("{% for a in range(10**9) %}x{% endfor %}", "loops run over"),
        ("{% for a in disclosures %}{% for b in disclosures %}x{% endfor %}{% endfor %}", "neither nested"),
        ("{{ 'x' * 10000000000 }}", "Mul is not allowed"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "Macro is not allowed"),
        ("{% set x = 1 %}{{ x }}", "Assign is not allowed"),
        ("{% include 'subject.j2' %}", "includes itself"),
        ("{{ covers('natur_of_incident') }}x", "'natur_of_incident'; did you mean 'nature_of_incident'"),
        ("{{ covers() }}x", "the only calls are"),
        ("{% include '../../tocsin.toml' %}", "no template is named"),
        ("{{ group | upper }}", ""),
        ("{% if %}", "en/subject.j2:1: "),
        ("{{ '{{name}}' }}", "double braces"),
        ("", "subject: is empty"),
        ("x" * 200, "at most 150"),
    ],
)
def test_hostile_templates_are_refused_before_anything_is_sent(source: str, complaint: str) -> None:
    problems = check(edited({f"notices/{NAME}/en/subject.j2": source}))
    assert problems
    assert complaint in "\n".join(problems)


@pytest.mark.parametrize(
    "planted",
    [
        "<script>alert(1)</script>",
        '<img src="https://shop.invalid/pixel.gif">',
        '<a href="https://elsewhere.invalid/">x</a>',
        '<a href="https://shop.invalid.elsewhere.invalid/">x</a>',
        '<a href="javascript:alert(1)">x</a>',
        '<p onclick="x()">x</p>',
        '<p style="display:none">x</p>',
        '<p style="background:url(https://elsewhere.invalid)">x</p>',
        '<meta http-equiv="refresh" content="0">',
        "<form></form>",
        "<iframe></iframe>",
    ],
)
def test_html_that_loads_hides_or_leads_away_is_refused(planted: str) -> None:
    layout = shipped().files["notices/shared/email.html.j2"].replace("{{ body }}", "{{ body }}" + planted)
    with pytest.raises(Refused, match="html"):
        compose(edited({"notices/shared/email.html.j2": layout}), sample_key(shipped(), "en"))


def test_markup_in_words_is_shown_not_obeyed() -> None:
    source = shipped().files["notices/shared/en/body.j2"] + "\n<script>1 < 2</script>\n"
    notice = compose(edited({f"notices/{NAME}/en/body.j2": source}), sample_key(shipped(), "en"))
    assert "&lt;script&gt;1 &lt; 2&lt;/script&gt;" in notice.html


def test_a_missing_sentence_names_its_key() -> None:
    with pytest.raises(TocsinError, match=r"inferred\|unheard-of\|income"):
        compose(shipped(), sample_key(shipped(), "en", disclosures=(SCORE, "inferred|unheard-of|income")))


def test_nothing_to_disclose_for_somebody_on_record_is_refused() -> None:
    with pytest.raises(Refused, match="nothing to disclose"):
        compose(shipped(), sample_key(shipped(), "en", disclosures=()))


NOTICE = compose(shipped(), sample_key(shipped(), "en"))
NASTY = st.text(
    st.one_of(st.characters(), st.sampled_from("{}<>&\"'\\\r\n\t\u202e\u200b\u2066\ufeff./:@")), max_size=60
)


@given(st.one_of(st.none(), NASTY), st.one_of(st.none(), NASTY))
def test_hostile_names_are_harmless(first: str | None, last: str | None) -> None:
    contact = Contact(first_name=first, last_name=last)
    slots = slots_for(contact, "INC-2026-0001", date(2026, 11, 23), NOTICE.language)
    assert 0 < len(slots["name"]) <= 80
    for value in slots.values():
        assert not {"{", "}", "<", ">", "\n", "\r", "\x00"} & set(value)
        assert all(unicodedata.category(char)[0] != "C" for char in value)
    assert html.unescape(slots["name_html"]) == slots["name"]
    parts = (NOTICE.subject, NOTICE.html, NOTICE.text)
    ours = tuple(fill(part, slots) for part in parts)
    sandbox = sandbox_template(*parts).filled(slots)
    assert ours == (sandbox.subject, sandbox.html, sandbox.text)
    assert "{{" not in "".join(ours)
    assert ours[1].count("<") == NOTICE.html.count("<")
    assert "\n" not in ours[0]
    assert body_sha256(*ours) == body_sha256(sandbox.subject, sandbox.html, sandbox.text)


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        ("Zo\u200be", "Müller", "Zoe Müller"),
        ("Anne  Marie", None, "Anne Marie"),
        ("Win a prize at evil.example.com", "", ""),
        ("http://x", "y", ""),
        ("J.", "O'Neil", "J. O'Neil"),
        ("{{case_number}}", "", "case_number"),
        ("a" * 10_000, "b", "a" * 79 + "…"),
    ],
)
def test_names_as_readers_see_them(first: str, last: str | None, shown: str) -> None:
    assert plain_name(Contact(first_name=first, last_name=last)) == shown


def test_a_slot_without_a_value_is_refused() -> None:
    with pytest.raises(Refused, match="'name'"):
        fill("Dear {{name}}", {"date": "x"})


def test_a_value_is_never_expanded_again() -> None:
    assert fill("{{a}}{{b}}", {"a": "{{b}}", "b": "c"}) == "{{b}}c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 160, (1, "gsm7")),
        ("a" * 161, (2, "gsm7")),
        ("€" * 80, (1, "gsm7")),
        ("€" * 81, (2, "gsm7")),
        ("a" * 306, (2, "gsm7")),
        ("a" * 307, (3, "gsm7")),
        ("ł" * 70, (1, "ucs2")),
        ("ł" * 71, (2, "ucs2")),
        ("😀" * 35, (1, "ucs2")),
        ("😀" * 36, (2, "ucs2")),
    ],
)
def test_sms_parts(text: str, expected: tuple[int, str]) -> None:
    assert sms_parts(text) == expected
