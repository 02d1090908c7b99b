"""Order numbers and carts, looked up in the demo's SQLite store."""

from pydantic import SecretStr

from bridge.magento.references import StoreReferences
from bridge.runtime.settings import Store
from tests.store_rows import StoreRows


def test_the_store_answers_in_one_look_and_passes_over_what_is_no_number(
    shop: StoreRows, store_settings: Store
) -> None:
    shop.customer(3)
    shop.run(
        "INSERT INTO sales_order (entity_id, store_id, customer_id, increment_id, quote_id) VALUES (7, 1, 3, '000000007', 70)"
    )
    shop.run(
        "INSERT INTO sales_order (entity_id, store_id, increment_id, quote_id, customer_email) "
        "VALUES (8, 1, '000000008', 80, 'g@mail.example')"
    )
    shop.run("INSERT INTO quote (entity_id, customer_id, customer_email) VALUES (70, 3, 'c@mail.example')")
    found = StoreReferences(store_settings).look_up(["000000007", "000000008", "x' OR '1'='1"], ["70", "71", "1 OR 1"])
    assert sorted((each.kind, each.reference, each.order_id or 0, each.customer_id or 0, each.email) for each in found) == [
        ("order_number", "000000007", 7, 3, None), ("order_number", "000000008", 8, 0, "g@mail.example"),
        ("quote", "70", 0, 3, None), ("quote", "70", 7, 3, None),
    ]  # fmt: skip
    assert "mail.example" not in repr(found)
    assert StoreReferences(Store(url=SecretStr("sqlite:///nowhere.db"))).look_up([], []) == []
