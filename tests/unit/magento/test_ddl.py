"""What counts as a difference between the tests' store and a real one."""

from tests.magento.ddl import Schema, differences, statements_of

OURS = Schema(
    columns={("a", "id"): "int NOT NULL"},
    keys={("a", "id"): "unique"},
    actions={("a", "parent"): "CASCADE"},
    triggers={("a", "INSERT"): ("INSERT IGNORE INTO `tocsin_a_cl` (`entity_id`) VALUES (NEW.`id`);",)},
)


def test_a_store_that_has_more_does_not_differ() -> None:
    theirs = Schema(
        columns={**OURS.columns, ("a", "erp_state"): "varchar(8) NULL", ("b", "id"): "int NOT NULL"},
        keys=OURS.keys,
        actions=OURS.actions,
        triggers={("a", "INSERT"): (*OURS.triggers["a", "INSERT"], "INSERT IGNORE INTO `feed_cl` VALUES (NEW.`id`);")},
    )
    assert differences(OURS, theirs) == []


def test_each_thing_that_is_missing_or_another_is_named() -> None:
    theirs = Schema(
        columns={("a", "id"): "bigint NOT NULL"},
        actions={("a", "parent"): "SET NULL"},
        triggers={("a", "INSERT"): ("INSERT IGNORE INTO `tocsin_a_cl` (`entity_id`) VALUES (NEW.`other`);",)},
    )
    assert [line.split(":")[0] for line in differences(OURS, theirs)] == [
        "column a.id",
        "index a.id",
        "foreign key a.parent",
        "trigger on a after INSERT",
        "trigger on a after INSERT",
    ]


def test_statements_are_compared_without_prefix_and_spacing() -> None:
    body = "BEGIN\nIF (x)  THEN INSERT IGNORE INTO `m2_tocsin_a_cl` (`entity_id`) VALUES (1); END IF;\n\nEND"
    assert statements_of(body, "m2_") == (
        "IF (x) THEN INSERT IGNORE INTO `tocsin_a_cl` (`entity_id`) VALUES (1); END IF;",
    )
