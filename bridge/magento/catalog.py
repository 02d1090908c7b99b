"""What is the same for many customers: store views, their locale and country, regions, registered attributes.

Read once and then now and then; a change here concerns customers who did not change, and reaches them by backfill.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Catalog:
    """The store's own order of things."""

    website_of_store: Mapping[int, int] = field(default_factory=dict)
    configuration: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    """By path, scope (`default`, `websites`, `stores`) and scope id."""
    regions: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Country and Magento's region code by region id."""
    attributes: tuple[Attribute, ...] = ()

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
