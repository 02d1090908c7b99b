"""The demo's store tells of the same changes as a store on MariaDB, and has the same tables."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Refused
from bridge.magento.changelogs import View
from bridge.magento.demo_store import create_demo_store
from tests.servers import mview
from tests.servers.mariadb import TABLES
from tests.store_rows import StoreRows


def test_its_tables_are_magentos(shop: StoreRows) -> None:
    """Every table and column is one that Magento has, and every foreign key acts as Magento's does."""
    described = TABLES.read_text(encoding="utf-8")
    inspector = sa.inspect(shop.engine)
    for table in inspector.get_table_names():
        if table == "sqlite_sequence":
            continue
        found = re.search(rf"CREATE TABLE `{table}` \((.*?)\n\) ENGINE", described, re.DOTALL)
        assert found is not None, table
        columns = set(re.findall(r"^ +`(\w+)`", found[1], re.MULTILINE))
        assert {column["name"] for column in inspector.get_columns(table)} <= columns, table
        keys = re.findall(
            r"FOREIGN KEY \(`(\w+)`\)\s+REFERENCES `(\w+)` \(`\w+`\) ON DELETE (CASCADE|SET NULL)", found[1]
        )
        acting = {(key[3], key[2], key[6]) for key in shop.run(f"PRAGMA foreign_key_list({table})")}
        assert acting == set(keys), table


def test_its_changelogs_are_the_modules() -> None:
    assert {view.value for view in View} == {subscription.view for subscription in mview.shipped_views()}


def test_it_watches_what_the_module_watches(shop: StoreRows) -> None:
    triggers = {name for (name,) in shop.run("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    watched = {subscription.table for subscription in mview.shipped_views()}
    former = {"trg_sales_order_update_former", "trg_sales_order_delete_former"}
    assert triggers == former | {
        f"trg_{table}_after_{event}" for table in watched for event in ("insert", "update", "delete")
    }


def test_a_log_in_is_not_told_and_a_change_is(shop: StoreRows) -> None:
    shop.customer(42)
    assert shop.changelog("tocsin_customer") == [42]
    shop.run("UPDATE customer_entity SET failures_num = 1, rp_token = 'x', password_hash = 'y', session_cutoff = 'z'")
    shop.run("UPDATE customer_entity SET email = email")
    assert shop.changelog("tocsin_customer") == [42]
    shop.run("UPDATE customer_entity SET email = NULL")
    assert shop.changelog("tocsin_customer") == [42, 42]


def test_what_a_foreign_key_removes_or_nulls_is_told_by_its_parent_only(shop: StoreRows) -> None:
    shop.customer(42)
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=42, value="middle")
    shop.order(9, customer_id=42)
    for view in View:
        shop.run(f"DELETE FROM {view.changelog}")
    shop.run("DELETE FROM customer_entity")
    assert shop.run("SELECT customer_id FROM sales_order") == [(None,)]
    assert shop.run("SELECT * FROM customer_address_entity") == []
    assert {view: shop.changelog(view) for view in View if shop.changelog(view)} == {View.CUSTOMER: [42]}


def test_what_a_person_removes_or_nulls_is_told(shop: StoreRows) -> None:
    shop.customer(42)
    shop.add("customer_entity_varchar", attribute_id=202, entity_id=42, value="middle")
    shop.order(9, customer_id=42)
    for view in View:
        shop.run(f"DELETE FROM {view.changelog}")
    shop.run("DELETE FROM customer_address_entity")
    shop.run("DELETE FROM customer_entity_varchar")
    shop.run("UPDATE sales_order SET customer_id = NULL")
    shop.run("UPDATE sales_order SET status = 'complete', grand_total = 5")
    shop.run("DELETE FROM sales_order")
    assert shop.changelog("tocsin_customer_address") == [42]
    assert shop.changelog("tocsin_customer_eav") == [42]
    assert shop.changelog("tocsin_order") == [9, 9]


def test_a_customer_is_told_of_an_order_that_is_theirs_no_more(shop: StoreRows) -> None:
    for number in (42, 43):
        shop.customer(number)
    shop.order(7, customer_id=42)
    shop.order(8, customer_id=43)
    shop.order(9)
    shop.run("DELETE FROM tocsin_customer_cl")
    shop.run("UPDATE sales_order SET customer_email = NULL")
    assert shop.changelog("tocsin_customer") == []
    shop.run("UPDATE sales_order SET customer_id = 43 WHERE entity_id IN (7, 9)")
    shop.run("DELETE FROM sales_order WHERE entity_id = 8")
    assert shop.changelog("tocsin_customer") == [42, 43]


def test_a_deleted_record_leaves_its_id_and_root(shop: StoreRows) -> None:
    shop.provenance("r-1", "customer/42")
    shop.run("DELETE FROM tocsin_provenance")
    assert shop.run("SELECT record_id, root FROM tocsin_provenance_cl") == [("r-1", "customer/42")] * 2


def test_a_store_is_never_overwritten(store_path: Path) -> None:
    with pytest.raises(Refused, match="never overwritten"):
        create_demo_store(store_path)
