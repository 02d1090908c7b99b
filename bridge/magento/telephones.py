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
    other_ways: tuple[str, ...]
    """The country's own code, and the international prefix where that is one."""
    any_other_way: _Matches | None
    """Whether it begins with an international prefix, where there are several."""
    national_prefix: Callable[[str], re.Match[str] | None]
    """What a national prefix may be, where it is not `0` or the like."""
    only_prefix: str
    """The one national prefix that there is."""
    transforms: bool
    """Whether a national prefix may be replaced rather than dropped."""
    any_number: _Matches
    known: dict[int, _Matches]
    """By length, whether it is a number of a known type; no such length, no such number."""
    leading_digits: _Matches | None
    comes_first: bool
    """Whether it is asked first among those that share the country code, and of any number."""


def e164(stored: str, country: str | None) -> str | None:
    """Return `stored` in E.164, or None if it is no valid number; `country` (ISO 3166-1) is where it is at home."""
    return _by_plan(stored, country) or (_by_library(stored, country) if _DIGIT(stored) else None)


_DIGIT = re.compile(r"\d").search


def _by_plan(stored: str, country: str | None) -> str | None:
    if len(stored) > _MOST_CHARACTERS or not stored.isascii():
        return None
    international = stored[:1] == "+"
    digits = (stored[1:] if international else stored).replace(" ", "")
    if not digits.isdigit():
        digits = digits.translate(_PUNCTUATION)
        if not digits.isdigit():
            return None
    if international:
        found = _international(digits[:3])
        if found is None:
            return None
        regions, plan = found
        national = digits[len(plan.country_code) :]
    else:
        at_home = _plan(country)
        if at_home is None or digits.startswith(at_home.other_ways):
            return None
        if at_home.any_other_way is not None and at_home.any_other_way(digits):
            return None
        plan, regions, national = at_home, at_home.regions, digits
    # Most plans have one national prefix.
    if (prefix := plan.only_prefix) and not national.startswith(prefix):
        stripped = None
    else:
        stripped = national[len(prefix) :] if prefix else _without_prefix(national, plan)
    if stripped is not None:
        if plan.transforms:
            return None
        known = plan.known.get(len(stripped))
        # What is of a known type is a number at all.
        if plan.comes_first and known is not None and stripped[:1] != "0" and known(stripped):
            return f"+{plan.country_code}{stripped}"
        if plan.any_number(stripped) or not plan.any_number(national):
            national = stripped
    # A zero that belongs to the number (Italy) has rules of its own.
    if not national or national[0] == "0":
        return None
    known = plan.known.get(len(national))
    # Where a country code is one region's alone, or it comes first, nobody else need be asked of what it knows.
    if plan.comes_first and known is not None and known(national):
        return f"+{plan.country_code}{national}"
    return f"+{plan.country_code}{national}" if _valid(national, regions) else None


def _without_prefix(national: str, plan: _Plan) -> str | None:
    """Return what follows the national prefix, or None if there is none."""
    prefix = plan.national_prefix(national)
    return None if prefix is None else national[prefix.end() :]


def _valid(national: str, regions: tuple[str, ...]) -> bool:
    length = len(national)
    for region in regions:
        plan = _plan(region)
        if plan is None:
            continue
        known = plan.known.get(length)
        if plan.leading_digits is not None:
            if plan.leading_digits(national):
                return known is not None and bool(known(national))
        elif known is not None and known(national):
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
def _international(first_digits: str) -> tuple[tuple[str, ...], _Plan] | None:
    """Return whose number begins so, and the plan of the first of them."""
    regions = _regions_of(first_digits)
    plan = None if regions is None else _plan(regions[0])
    return None if regions is None or plan is None else (regions, plan)


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
    prefix = metadata.national_prefix_for_parsing
    any_number = metadata.general_desc.national_number_pattern
    types = [each for name in _TYPES if (each := getattr(metadata, name)) is not None and each.national_number_pattern]
    lengths = metadata.general_desc.possible_length or range(1, _MOST_CHARACTERS + 1)
    known: dict[int, _Matches] = {}
    for length in lengths:
        of_length = [
            f"(?:{each.national_number_pattern})"
            for each in types
            if not each.possible_length or length in each.possible_length
        ]
        if of_length:
            known[length] = re.compile(rf"(?=(?:{any_number})\Z)(?:{'|'.join(of_length)})").fullmatch
    regions = tuple(COUNTRY_CODE_TO_REGION_CODE[metadata.country_code])
    abroad = metadata.international_prefix or ""
    return _Plan(
        country_code=str(metadata.country_code),
        regions=regions,
        other_ways=(str(metadata.country_code), *([abroad] if abroad.isdigit() else [])),
        any_other_way=re.compile(abroad).match if abroad and not abroad.isdigit() else None,
        only_prefix=prefix if prefix and prefix.isdigit() else "",
        national_prefix=re.compile(prefix or r"(?!)").match,
        transforms=bool(metadata.national_prefix_transform_rule),
        any_number=re.compile(any_number).fullmatch,
        known=known,
        leading_digits=re.compile(metadata.leading_digits).match if metadata.leading_digits else None,
        comes_first=regions[0] == region and not metadata.leading_digits,
    )
