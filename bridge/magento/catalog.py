"""What is the same for many customers: store views, their locale and country, regions, registered attributes.

Read once and then now and then; a change here concerns customers who did not change, and reaches them by backfill.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.magento.regions import country_code, residence_code

DEFAULT_LOCALE = "en_US"
"""What Magento's own configuration says where the database says nothing."""

LOCALE_PATH = "general/locale/code"
COUNTRY_PATH = "general/country/default"
AI_ATTRIBUTES_PATH = "tocsin/provenance/ai_attributes"
"""Where the module keeps which attributes AI systems write, as JSON rows with `entity_type` and `attribute`."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A registered customer attribute: where its values lie."""

    code: str
    attribute_id: int
    backend_type: str


class Place(NamedTuple):
    """Where an address lies: ISO country, residence, and Magento's code of the region, each None where it is not known."""

    country: str | None
    code: str | None
    region_code: str | None
    unknown: bool
    """Whether a country is named that there is not."""


class StoreView(NamedTuple):
    """What a person's store view says of them; `country` is where it sells."""

    store_id: int
    website_id: int
    locale: str
    country: str | None


_Value = str | int | None
_NOWHERE: tuple[str | None, str | None] = (None, None)
_MOST_KEPT = 8192


@dataclass(frozen=True, slots=True)
class Catalog:
    """The store's own order of things."""

    website_of_store: Mapping[int, int] = field(default_factory=dict)
    configuration: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    """By path, scope (`default`, `websites`, `stores`) and scope id."""
    regions: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Country and Magento's region code by region id."""
    attributes: tuple[Attribute, ...] = ()
    _places: dict[tuple[_Value, _Value], Place] = field(default_factory=dict, repr=False, compare=False)
    _views: dict[tuple[_Value, _Value], StoreView] = field(default_factory=dict, repr=False, compare=False)

    def place(self, country_id: _Value, region_id: _Value) -> Place:
        """Return where an address with these stored values lies. Thousands share one, so each is worked out once."""
        known = self._places.get((country_id, region_id))
        if known is not None:
            return known
        named = str(country_id).strip() if country_id else ""
        country = country_code(named)
        region_country, region_code = self.regions.get(int(region_id), _NOWHERE) if region_id else _NOWHERE
        code = residence_code(country, region_country, region_code) if country else None
        if len(self._places) >= _MOST_KEPT:
            self._places.clear()
        found = Place(country, code, region_code, unknown=country is None and named != "")
        self._places[country_id, region_id] = found
        return found

    def view(self, store_id: _Value, website_id: _Value) -> StoreView:
        """Return the store view of a person with these stored values, in the same way."""
        known = self._views.get((store_id, website_id))
        if known is not None:
            return known
        store = int(store_id or 0)
        website = self.website(store, None if website_id in (None, "") else int(website_id or 0))
        if len(self._views) >= _MOST_KEPT:
            self._views.clear()
        found = StoreView(store, website, self.locale(store, website), self.country(store, website))
        self._views[store_id, website_id] = found
        return found

    def says_more_than(self, later: "Catalog") -> bool:
        """Return whether `later` says something else, or nothing, of a store view, a website or a region that is known here."""
        views = self.website_of_store.items() | {(0, website) for website in self.website_of_store.values()}
        there = later.website_of_store.items() | {(0, website) for website in later.website_of_store.values()}
        return (
            not views <= there
            or any(
                (self.locale(*view), self.country(*view)) != (later.locale(*view), later.country(*view))
                for view in views
            )
            or any(later.regions.get(number) != region for number, region in self.regions.items())
        )

    def website(self, store_id: int, website_id: int | None = None) -> int:
        """Return the website of a person: their own, else their store view's, else 0."""
        return website_id if website_id is not None else self.website_of_store.get(store_id, 0)

    def locale(self, store_id: int, website_id: int) -> str:
        """Return the locale (`de_DE`) of a store view; of a website for those who belong to no view."""
        return self._configured(LOCALE_PATH, store_id, website_id) or DEFAULT_LOCALE

    def country(self, store_id: int, website_id: int) -> str | None:
        """Return the country that a store view names as its default, if it names one."""
        return self._configured(COUNTRY_PATH, store_id, website_id)

    def _configured(self, path: str, store_id: int, website_id: int) -> str | None:
        for scope, scope_id in (("stores", store_id), ("websites", website_id), ("default", 0)):
            if value := self.configuration.get((path, scope, scope_id)):
                return value
        return None


def ai_written(configured: str | None, entity_type: str) -> tuple[str, ...]:
    """Return the codes of the attributes of `entity_type` that the store's configuration says AI systems write.

    What cannot be read is left out, as the module does it: the relay must not suffer from it.
    """
    try:
        rows = json.loads(configured or "[]")
    except ValueError:
        return ()
    listed = rows.values() if isinstance(rows, dict) else rows if isinstance(rows, list) else ()
    codes = (row.get("attribute") for row in listed if isinstance(row, dict) and row.get("entity_type") == entity_type)
    return tuple(dict.fromkeys(code.strip() for code in codes if isinstance(code, str) and code.strip()))
