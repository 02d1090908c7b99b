"""Where people live, as the law sees it: codes, and which jurisdictions cover a residence.

Codes are ISO 3166-1 (`DE`), ISO 3166-2 for the United States and Canada (`US-CA`, `CA-QC`), and zones that legislate for
themselves (`AE-DIFC`), which come from the table beside the rules. `US-CA` is California, `CA` is Canada.
Not for what a person triggers there (`residents`), a duty's conditions (`obligations`), or how time is counted (`deadlines`).
"""

from collections.abc import Collection
from functools import lru_cache

from bridge.contracts.errors import BadInput, nearest

UNKNOWN_RESIDENCE = "unknown"
"""The bucket of people whose residence nobody knows: they are told all the same, with the strictest notice."""


def _codes(text: str, prefix: str = "") -> frozenset[str]:
    return frozenset(prefix + code for code in text.split())


COUNTRIES = _codes(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA
    CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA
    GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP
    KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS
    MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS
    RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW
    TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """
)
US_STATES = _codes(
    "AL AK AZ AR CA CO CT DE DC FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR "
    "PA RI SC SD TN TX UT VT VA WA WV WI WY PR GU VI AS MP UM",
    "US-",
)
CA_PROVINCES = _codes("AB BC MB NB NL NS NT NU ON PE QC SK YT", "CA-")
EU = _codes("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK")
EEA = EU | {"IS", "LI", "NO"}
_ISO = COUNTRIES | US_STATES | CA_PROVINCES
_free_zones: set[str] = {"AE-ADGM", "AE-DIFC"}
"""As shipped; the table beside the rules adds to them."""

_PROVINCES_WITH_OWN_LAW = frozenset({"CA-QC", "CA-AB", "CA-BC"})
"""Substantially similar to PIPEDA, which so leaves residents of these provinces to the provincial law."""
_PART_OF = {
    # Outermost regions where Union law applies (Art. 355 TFEU) and the United States' territories have ISO codes of
    # their own; a shop's address carries those, the law is that of the whole.
    **dict.fromkeys(("GF", "GP", "MF", "MQ", "RE", "YT"), "FR"),
    "AX": "FI",
    **{code: f"US-{code}" for code in ("AS", "GU", "MP", "PR", "UM", "VI")},
}


def learn_free_zones(codes: Collection[str]) -> None:
    """Know `codes` of `free-zones.yaml` from now on; whoever loads the rules says them. What was known stays known."""
    if not _free_zones.issuperset(codes):
        _free_zones.update(codes)
        jurisdiction.cache_clear()
        covers.cache_clear()


def free_zones() -> frozenset[str]:
    """Return the zones that legislate for themselves."""
    return frozenset(_free_zones)


def jurisdictions() -> frozenset[str]:
    """Return every code that stands for a law of its own."""
    return _ISO | _free_zones


@lru_cache(maxsize=4096)
def jurisdiction(code: str) -> str:
    """Return the jurisdiction whose law follows from residence code `code`.

    Subdivisions outside the United States and Canada fold into their country (`DE-BY` is `DE`); overseas parts into
    the whole (`PR` is `US-PR`, `RE` is `FR`). Raises BadInput for a code that does not exist.
    """
    code = _PART_OF.get(code, code)
    if code in _ISO or code in _free_zones:
        return code
    country, dash, subdivision = code.partition("-")
    folds = dash and subdivision.isalnum() and 1 <= len(subdivision) <= 3 and country in COUNTRIES - {"US", "CA"}
    if folds:
        return _PART_OF.get(country, country)
    hint = "; did you mean 'GB'?" if code == "UK" else nearest(code, jurisdictions())
    raise BadInput(f"residence {code!r} does not exist{hint}; use ISO 3166 codes such as DE, US-CA, CA-QC")


def members(law_of: str) -> frozenset[str]:
    """Return the countries that law of `law_of` (`EU`, `EEA` or one code) covers.

    Union law reaches Iceland, Liechtenstein and Norway as far as it was taken over into the EEA Agreement; that it may
    not have been is for counsel, and said beside the answer.
    """
    return EEA if law_of in ("EU", "EEA") else frozenset({law_of})


@lru_cache(maxsize=32768)
def covers(law_of: str, code: str) -> bool:
    """Say whether law of `law_of` follows residence `code`.

    Canada's PIPEDA leaves Quebec, Alberta and British Columbia to the provinces; that federal works keep it there is
    for `obligations` to see, which knows the entity.
    """
    home = jurisdiction(code)
    if law_of == "CA":
        return home == "CA" or (home in CA_PROVINCES and home not in _PROVINCES_WITH_OWN_LAW)
    if law_of == "US":
        return home == "US" or home in US_STATES
    return home in members(law_of)


def provinces_with_own_law() -> frozenset[str]:
    """Return the provinces where PIPEDA binds federal works alone."""
    return _PROVINCES_WITH_OWN_LAW
