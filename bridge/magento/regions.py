"""Magento's countries and regions as ISO 3166 codes.

Magento names regions by codes of its own, which are ISO 3166-2 in some countries only. A region that has no ISO code here
leaves the country: a coarser residence is true, an invented code is not.
"""

from functools import lru_cache

import phonenumbers

COUNTRIES = (frozenset(phonenumbers.SUPPORTED_REGIONS) - {"AC", "TA", "XK"}) | {
    "AQ", "BV", "GS", "HM", "PN", "TF", "UM",
}  # fmt: skip
"""ISO 3166-1 alpha-2: where telephone numbers exist, less three codes that are not ISO's, and the uninhabited."""

_SAME_AS_ISO = frozenset({"AU", "BR", "CA", "CH", "IN", "MX", "US"})
_NO_STATE = {
    # Armed forces and freely associated states: Magento lists them among the states, ISO 3166-2:US does not.
    "US": frozenset({"AA", "AC", "AE", "AF", "AM", "AP", "FM", "MH", "PW"}),
}
_TRANSLATED = {
    "AT": {"BL": "1", "KN": "2", "NO": "3", "OO": "4", "SB": "5", "ST": "6", "TI": "7", "VB": "8", "WI": "9"},
    "DE": {
        "NDS": "NI", "BAW": "BW", "BAY": "BY", "BER": "BE", "BRG": "BB", "BRE": "HB", "HAM": "HH", "HES": "HE",
        "MEC": "MV", "NRW": "NW", "RHE": "RP", "SAR": "SL", "SAS": "SN", "SAC": "ST", "SCN": "SH", "THE": "TH",
    },
}  # fmt: skip


@lru_cache(maxsize=1024)
def country_code(country_id: str | None) -> str | None:
    """Return the ISO 3166-1 code of Magento's `country_id`, or None if it is none."""
    code = (country_id or "").strip().upper()
    return code if code in COUNTRIES else None


@lru_cache(maxsize=8192)
def residence_code(country: str, region_country: str | None, region_code: str | None) -> str:
    """Return `US-CA` for country `US` and its region `CA`, or the country where the region has no known ISO code.

    `region_country` is the country to which the store's region list gives the region; one of another country is ignored.
    """
    if region_code is None or region_country != country:
        return country
    region = region_code.strip().upper()
    if country in _TRANSLATED:
        region = _TRANSLATED[country].get(region, "")
    elif region.startswith(f"{country}-"):
        region = region.removeprefix(f"{country}-")
    elif country not in _SAME_AS_ISO or region in _NO_STATE.get(country, ()):
        return country
    return f"{country}-{region}" if region.isascii() and region.isalnum() and len(region) <= 3 else country
