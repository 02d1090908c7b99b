"""Triggers as Magento words them."""

from tests.servers.mview import Subscription, shipped_views, triggers

COLUMNS = {"thing": ["id", "name", "noise", "updated_at"]}


def test_an_update_tells_of_columns_that_are_not_ignored() -> None:
    told = Subscription("view", "thing", "id", ignored=frozenset({"noise"}))
    _, update, _ = triggers([told], COLUMNS)
    assert "NOT(NEW.`name` <=> OLD.`name`)" in update
    assert "noise" not in update
    assert "updated_at" not in update


def test_a_deletion_carries_the_old_row() -> None:
    _, _, delete = triggers([Subscription("view", "thing", "id", additional=(("name", "label"),))], COLUMNS)
    assert "INSERT IGNORE INTO `view_cl` (`entity_id`, `label`) VALUES (OLD.`id`, OLD.`name`);" in delete


def test_views_on_one_table_share_its_triggers() -> None:
    statements = list(triggers([Subscription("one", "thing", "id"), Subscription("two", "thing", "id")], COLUMNS))
    assert len(statements) == 3
    assert all("`one_cl`" in statement and "`two_cl`" in statement for statement in statements)


def test_the_module_ignores_what_a_log_in_changes() -> None:
    customer = next(one for one in shipped_views() if one.table == "customer_entity")
    assert {"failures_num", "first_failure", "lock_expires", "session_cutoff", "rp_token"} <= customer.ignored
    assert "email" not in customer.ignored


def test_every_view_belongs_to_the_relay() -> None:
    assert {one.view for one in shipped_views()} == {
        "tocsin_customer",
        "tocsin_customer_address",
        "tocsin_customer_eav",
        "tocsin_order",
        "tocsin_provenance",
        "tocsin_account_notice",
        "tocsin_heartbeat",
    }


def test_only_told_columns_count_where_they_are_named() -> None:
    told = Subscription("view", "thing", "id", told=frozenset({"name", "gone"}))
    _, update, _ = triggers([told], COLUMNS)
    assert "IF (NOT(NEW.`name` <=> OLD.`name`)) THEN" in update


def test_a_table_without_any_told_column_tells_of_all() -> None:
    _, update, _ = triggers([Subscription("view", "thing", "id", told=frozenset({"gone"}))], COLUMNS)
    assert "NOT(NEW.`noise` <=> OLD.`noise`)" in update


def test_an_order_tells_of_no_column_that_another_module_adds() -> None:
    order = next(one for one in shipped_views() if one.table == "sales_order")
    _, update, _ = triggers([order], {"sales_order": ["entity_id", "status", "customer_email", "erp_state"]})
    assert "IF (NOT(NEW.`customer_email` <=> OLD.`customer_email`)) THEN" in update


def test_an_order_tells_of_the_customer_whose_it_was() -> None:
    order = next(one for one in shipped_views() if one.table == "sales_order")
    insert, update, delete = triggers([order], {"sales_order": ["entity_id", "customer_id"]})
    former = "THEN INSERT IGNORE INTO `tocsin_customer_cl` (`entity_id`) VALUES (OLD.`customer_id`); END IF;"
    changed = "OLD.`customer_id` IS NOT NULL AND NOT(NEW.`customer_id` <=> OLD.`customer_id`)"
    assert f"IF ({changed}) {former}" in update
    assert f"IF (OLD.`customer_id` IS NOT NULL) {former}" in delete
    assert "tocsin_customer_cl" not in insert
