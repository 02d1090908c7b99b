"""Composing and filling notices: hostile templates are refused at check time, hostile names are harmless."""

import html
import itertools
import re
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
from consumers.adapters.letters import letter_source
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


FIRST_SCREEN = {
    # what leaked, what a machine made, what to do
    "en": ("has leaked", "An AI system worked out this data", "Be careful"),
    "de": ("nach außen gelangt", "Ein KI-System hat diese Daten berechnet", "Seien Sie vorsichtig"),
    "fr": ("sorties de nos systèmes", "Un système d'IA a calculé ces données", "Méfiez-vous"),
    "es": ("Han salido datos", "Un sistema de IA ha calculado estos datos", "Tenga cuidado"),
}


@pytest.mark.parametrize("locale", FIRST_SCREEN)
def test_mails_are_short_and_say_first_what_matters(locale: str) -> None:
    notice = compose(shipped(), sample_key(shipped(), locale, disclosures=(SCORE,)))
    assert notice.words <= 600
    assert notice.reading <= {"en": 9, "de": 10, "fr": 40, "es": 40}[locale]
    first_screen = " ".join(notice.text.split()[:90])
    for says in FIRST_SCREEN[locale]:
        assert says in first_screen
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
        ("{% if " + "(" * 3000 + "group" + ")" * 3000 + " %}x{% endif %}", "nested too deeply"),
        ("{% if group %}" * 400 + "x" + "{% endif %}" * 400, "nested too deeply"),
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


def test_includes_that_multiply_are_refused_at_once() -> None:
    doubling = {
        f"notices/{NAME}/en/p{level}.j2": f"{{% include 'p{level + 1}.j2' %}}\n{{% include 'p{level + 1}.j2' %}}"
        for level in range(60)
    }
    bundle = edited(
        {**doubling, f"notices/{NAME}/en/p60.j2": "x", f"notices/{NAME}/en/opening.j2": "{% include 'p0.j2' %}"}
    )
    assert any("en/opening.j2:1: includes make" in problem for problem in check(bundle))


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


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_mails_html_is_readable_by_everybody() -> None:
    """WCAG 2.2 AA: 1.4.3 contrast, 1.3.1 headings in order, 3.1.1 language, 2.4.2 title, 1.4.4 no tiny or fixed text."""
    for locale in shipped().locales:
        page = compose(
            shipped(), sample_key(shipped(), locale, asks=("credit_bureau_contacts",), states=("US-NY",))
        ).html
        assert f'<html lang="{locale}"' in page
        assert re.search(r"<title>[^<]+</title>", page)
        levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.count("<table") == page.count('role="presentation"'), "layout tables are no data tables"
        backgrounds = re.findall(r"background-color:(#[0-9a-f]{6})", page)
        texts = re.findall(r"(?<!background-)color:(#[0-9a-f]{6})", page)
        assert backgrounds
        assert texts
        for text in texts:
            for background in backgrounds:
                light, dark = sorted((luminance(text), luminance(background)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, background)
        assert min(int(size) for size in re.findall(r"font-size:(\d+)px", page)) >= 14
        assert not re.search(r"<img|<link|<style|<script|src=|@import|url\(", page)
        assert set(re.findall(r'href="([^"]+)"', page)) == {"https://shop.invalid/customer/account/"}


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
PLAIN = slots_for(Contact(), "INC-2026-0001", date(2026, 11, 23), NOTICE.language)
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
    # the letter has no other headings, items and words than before: a value stays a value
    letter = letter_source(NOTICE.letter, slots)
    assert [block["tag"] for block in letter] == [block["tag"] for block in letter_source(NOTICE.letter, PLAIN)]
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
