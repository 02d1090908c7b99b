"""The short way through the numbering plans gives what the library gives, or nothing."""

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from bridge.magento.telephones import _by_library, _by_plan, e164

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
TYPES = (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE, PhoneNumberType.VOIP)
FORMATS = (PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.NATIONAL)


@pytest.mark.parametrize("region", REGIONS)
def test_every_regions_examples_are_read_as_the_library_reads_them(region: str) -> None:
    for kind in TYPES:
        number = phonenumbers.example_number_for_type(region, kind)
        if number is None:
            continue
        for shape in FORMATS:
            written = phonenumbers.format_number(number, shape)
            for home in (region, "DE", "US", "GB", None):
                short = _by_plan(written, home)
                assert short is None or short == _by_library(written, home), (written, home)


@given(
    st.text("0123456789", min_size=1, max_size=15),
    st.sampled_from(["", "+", "00", "0", "1"]),
    st.sampled_from([*REGIONS, None]),
)
def test_no_digits_make_the_short_way_say_anything_else(digits: str, before: str, region: str | None) -> None:
    short = _by_plan(before + digits, region)
    assert short is None or short == _by_library(before + digits, region)


@pytest.mark.parametrize(
    ("written", "country", "expected"),
    [
        ("0171 3920001", "DE", "+491713920001"),
        ("(213) 555-0101", "US", "+12135550101"),
        ("+49 (0)171 3920001", "US", "+491713920001"),
        ("06 12 34 56 78", "FR", "+33612345678"),
        ("+393123456789", "DE", "+393123456789"),
        ("030/901820", "DE", "+4930901820"),
    ],
)
def test_ordinary_numbers_take_the_short_way(written: str, country: str, expected: str) -> None:
    assert _by_plan(written, country) == expected == _by_library(written, country)


@pytest.mark.parametrize(
    "written", ["", "+", "12", "n/a", "call me", "+999123", "0171 3920001 ext. 5", "\u0660\u0661" * 6]
)
def test_what_is_no_number_or_not_simple_is_left_to_the_library(written: str) -> None:
    assert _by_plan(written, "DE") is None
    assert e164(written, "DE") == _by_library(written, "DE")
