"""The letter as a PDF: tagged, the same each time, and names in it are words."""

from datetime import date
from pathlib import Path

import pytest

from bridge.contracts.errors import Refused
from bridge.contracts.events import Contact
from consumers.adapters.letters import letter_pdf, letter_source
from consumers.adapters.notice_renderer import FULL_SENDER, compose, sample_key, slots_for
from consumers.adapters.template_catalog import read_bundle
from consumers.domain.sending import NotPrintable

BUNDLE = read_bundle(Path(__file__).parents[3] / "templates", "derived-scores")
NOTICE = compose(BUNDLE, sample_key(BUNDLE, "de"))
HOSTILE = '#panic("x") $x$ *b* [ <l> \\ = // #include "/etc/passwd"'


def slots(first_name: str | None = None) -> dict[str, str]:
    return slots_for(Contact(first_name=first_name), "INC-2026-0001", date(2026, 11, 23), NOTICE.language)


@pytest.mark.parametrize("paper", ["a4", "us-letter"])
def test_a_letter_is_a_tagged_pdf_and_the_same_each_time(paper: str) -> None:
    address = ["Zoë Müller", "Lange Straße 1", "12345 Ort"]
    pdf = letter_pdf(NOTICE.letter, slots(), NOTICE.language, FULL_SENDER, address, paper=paper)
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/StructTreeRoot" in pdf
    assert b"/Lang" in pdf
    assert 10_000 < len(pdf) < 200_000
    assert pdf == letter_pdf(NOTICE.letter, slots(), NOTICE.language, FULL_SENDER, address, paper=paper)


def test_names_and_addresses_are_words_not_source() -> None:
    pdf = letter_pdf(NOTICE.letter, slots(HOSTILE), NOTICE.language, FULL_SENDER, [HOSTILE, "a\x00b\u202e", ""])
    assert pdf.startswith(b"%PDF-")


def test_a_value_becomes_no_heading_and_no_item() -> None:
    tags = [block["tag"] for block in letter_source(NOTICE.letter, slots())]
    for name in ("# Heading", "- item", "## x", "a\n\n# b"):
        assert [block["tag"] for block in letter_source(NOTICE.letter, slots(name))] == tags


def test_what_cannot_be_set_is_refused() -> None:
    with pytest.raises(Refused, match="8"):
        letter_pdf(NOTICE.letter, slots(), NOTICE.language, FULL_SENDER, ["line"] * 9)
    with pytest.raises(Refused, match="'a5'; there are a4, us-letter"):
        letter_pdf(NOTICE.letter, slots(), NOTICE.language, FULL_SENDER, [], paper="a5")
    with pytest.raises(Refused, match="no value for the slot 'name'"):
        letter_pdf(NOTICE.letter, {"date": "x", "case_number": "y"}, NOTICE.language, FULL_SENDER, [])


@pytest.mark.parametrize(
    "name", ["Ann \N{BOUQUET}", "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}", "Ann \N{HEAVY BLACK HEART}\ufe0f"]
)
def test_a_picture_in_a_name_keeps_nobody_from_a_letter(name: str) -> None:
    pdf = letter_pdf(NOTICE.letter, slots(name), NOTICE.language, FULL_SENDER, [name, "Lange Straße 1", "DE"])
    assert pdf.startswith(b"%PDF-")


@pytest.mark.parametrize(("name", "line"), [("王小明", "Lange Straße 1"), ("Ann", "ถนนสุขุมวิท")])
def test_a_name_or_an_address_of_a_script_that_is_not_here_is_that_persons_alone_and_not_repeated(
    name: str, line: str
) -> None:
    with pytest.raises(NotPrintable) as found:
        letter_pdf(NOTICE.letter, slots(name), NOTICE.language, FULL_SENDER, [name, line, "DE"])
    assert not set(str(found.value)) & set("王小明ถนนสุขุมวิท")


def test_a_letter_whose_own_words_cannot_be_set_is_no_fault_of_its_reader() -> None:
    with pytest.raises(Refused, match="its own words") as found:
        letter_pdf("# 王\n\nDear {{name}}", slots("Ann"), NOTICE.language, FULL_SENDER, ["Ann", "DE"])
    assert not isinstance(found.value, NotPrintable)
