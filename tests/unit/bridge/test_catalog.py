"""What is the same for many changes under them: whoever can mend it is told."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from bridge.magento import store as store_module
from bridge.magento.store import SqlStore, open_store
from bridge.runtime.clock import SystemClock
from bridge.runtime.settings import Store
from tests.store_rows import StoreRows


@pytest.fixture
def reader(shop: StoreRows, store_settings: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    monkeypatch.setattr(store_module, "CATALOG_SECONDS", -1.0)
    made = open_store(store_settings, SystemClock())
    assert isinstance(made, SqlStore)
    assert made.take_lead()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ("UPDATE core_config_data SET value = 'fr_FR' WHERE scope_id = 1", ["tocsin relay backfill`"]),
        ("UPDATE core_config_data SET value = 'fr_FR' WHERE scope_id = 0", ["tocsin relay backfill`"]),
        (
            "INSERT INTO core_config_data (scope, scope_id, path, value) VALUES ('default', 0, 'general/country/default', 'FR')",
            ["tocsin relay backfill`"],
        ),
        ("DELETE FROM store WHERE store_id = 2", ["tocsin relay backfill`"]),
        ("UPDATE directory_country_region SET code = 'NV' WHERE region_id = 12", ["tocsin relay backfill`"]),
        ("DELETE FROM eav_attribute WHERE attribute_id = 201", ["--entity customers`"]),
        # of these nobody was told anything else before
        ("INSERT INTO store (store_id, code, website_id, group_id, name) VALUES (3, 'new', 1, 1, 'View')", []),
        ("INSERT INTO directory_country_region (region_id, country_id, code) VALUES (13, 'US', 'NV')", []),
        ("UPDATE core_config_data SET value = 'de_DE' WHERE scope_id = 1", []),
    ],
)
def test_what_the_store_says_of_many_at_once_is_told_where_it_changes(
    reader: SqlStore, shop: StoreRows, change: str, advice: list[str]
) -> None:
    shop.run(change)
    with capture_logs() as logs:
        assert reader.catalog is not None
    warnings = [line["event"] for line in logs if line["log_level"] == "warning" and "backfill" in line["event"]]
    assert len(warnings) == len(advice)
    assert all(part in line for part, line in zip(advice, warnings, strict=True)), warnings
    with capture_logs() as logs:
        assert reader.catalog is not None
    assert [line for line in logs if "backfill" in line["event"]] == [], "once"
