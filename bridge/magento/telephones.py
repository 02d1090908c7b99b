"""Telephone numbers as shops store them, in E.164, by the numbering plans of `phonenumbers`.

That library reads anything that people write, one character at a time. A number in digits and common punctuation takes a
shorter way through the same plans; whatever that does not accept is left to the library, whose answer alone may be "no".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

_PUNCTUATION = str.maketrans("", "", " -()./")
_MOST_CHARACTERS = 40
_TYPES = (
    "mobile", "fixed_line", "premium_rate", "toll_free", "shared_cost", "voip", "personal_number", "pager", "uan", "voicemail",
)  # fmt: skip
"""Any of them will do: those that customers have come first."""

_Matches = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A region's numbering plan."""

    country_code: str
    regions: tuple[str, ...]
    """All that share the country code."""
    international_prefix: _Matches
    national_prefix: Callable[[str], re.Match[str] | None]
    transforms: bool
    """Whether a national prefix may be replaced rather than dropped."""
    any_number: _Matches
    lengths: frozenset[int]
    types: tuple[tuple[frozenset[int], _Matches], ...]
    leading_digits: _Matches | None

    def knows(self, national: str) -> bool:
        """Return whether `national` is a number of a known type."""
        length = len(national)
        if (self.lengths and length not in self.lengths) or not self.any_number(national):
            return False
        for lengths, matches in self.types:  # noqa: SIM110  the generator would cost more than the matching
            if (not lengths or length in lengths) and matches(national):
                return True
        return False


def e164(stored: str, country: str | None) -> str | None:
    """Return `stored` in E.164, or None if it is no valid number; `country` (ISO 3166-1) is where it is at home."""
    return _by_plan(stored, country) or _by_library(stored, country)


def _by_plan(stored: str, country: str | None) -> str | None:
    if len(stored) > _MOST_CHARACTERS or not stored.isascii():
        return None
    digits = stored.translate(_PUNCTUATION)
    if stored[:1] == "+":
        digits = digits[1:]
        regions = _regions_of(digits[:3])
        if not digits.isdigit() or regions is None:
            return None
        plan = _plan(regions[0])
        if plan is None:
            return None
        national = digits[len(plan.country_code) :]
    else:
        plan = _plan(country)
        if not digits.isdigit() or plan is None:
            return None
        if plan.international_prefix(digits) or digits.startswith(plan.country_code):
            return None
        regions = plan.regions
        national = digits
    prefix = plan.national_prefix(national)
    if prefix is not None:
        if plan.transforms:
            return None
        stripped = national[prefix.end() :]
        if plan.any_number(stripped) or not plan.any_number(national):
            national = stripped
    # A zero that belongs to the number (Italy) has rules of its own.
    if not national or national[0] == "0" or not _valid(national, regions):
        return None
    return f"+{plan.country_code}{national}"


def _valid(national: str, regions: tuple[str, ...]) -> bool:
    for region in regions:
        plan = _plan(region)
        if plan is None:
            continue
        if plan.leading_digits is not None:
            if plan.leading_digits(national):
                return plan.knows(national)
        elif plan.knows(national):
            return True
    return False


def _by_library(stored: str, country: str | None) -> str | None:
    try:
        number = phonenumbers.parse(stored, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


@lru_cache(maxsize=1024)
def _regions_of(first_digits: str) -> tuple[str, ...] | None:
    for length in (1, 2, 3):
        code = first_digits[:length]
        if len(code) == length and code.isdigit() and code[0] != "0" and int(code) in COUNTRY_CODE_TO_REGION_CODE:
            return tuple(COUNTRY_CODE_TO_REGION_CODE[int(code)])
    return None


@cache
def _plan(region: str | None) -> _Plan | None:
    metadata: Any = PhoneMetadata.metadata_for_region(region, None) if region else None
    if metadata is None or metadata.general_desc.national_number_pattern is None:
        return None
    types = []
    for name in _TYPES:
        numbers = getattr(metadata, name)
        if numbers is not None and numbers.national_number_pattern:
            matches = re.compile(numbers.national_number_pattern).fullmatch
            types.append((frozenset(numbers.possible_length), matches))
    prefix = metadata.national_prefix_for_parsing
    return _Plan(
        country_code=str(metadata.country_code),
        regions=tuple(COUNTRY_CODE_TO_REGION_CODE[metadata.country_code]),
        international_prefix=re.compile(metadata.international_prefix or r"(?!)").match,
        national_prefix=re.compile(prefix or r"(?!)").match,
        transforms=bool(metadata.national_prefix_transform_rule),
        any_number=re.compile(metadata.general_desc.national_number_pattern).fullmatch,
        lengths=frozenset(metadata.general_desc.possible_length),
        types=tuple(types),
        leading_digits=re.compile(metadata.leading_digits).match if metadata.leading_digits else None,
    )
