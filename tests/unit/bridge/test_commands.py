"""The bridge's commands as their user meets them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from bridge.commands import COMMANDS
from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.topics import LEAK_ALERTS, STORE_CHANGES, TOPICS
from bridge.magento.backfill import Backfill
from bridge.magento.grants import LOOKED_UP_COLUMNS, READ_COLUMNS, grants
from bridge.runtime.acls import GROUPS, acls
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Kafka, Paths, Settings, Store
from bridge.runtime.topics_admin import (
    Difference,
    TopicAsIs,
    checked_imposed,
    declared_settings,
    differences_of,
    nearest_permitted,
)
from tests.store_rows import StoreRows

Run = Callable[..., Result]


@pytest.fixture
def call(store_settings: Store, tmp_path: Path) -> Run:
    def invoke(*arguments: str, store: Store = store_settings, kafka: Kafka | None = None) -> Result:
        parts = Parts()
        settings = Settings(store=store, kafka=kafka or Kafka(), paths=Paths(data=tmp_path / "data"))
        parts.provide(Settings, lambda: settings)
        (command,) = [each for each in COMMANDS if each.name == arguments[0]]
        return CliRunner().invoke(command, arguments[1:], obj=parts)

    return invoke


def test_the_rooms_nouns() -> None:
    assert [command.name for command in COMMANDS] == ["relay", "topics", "dead-letters"]


# grants


def test_grants_are_by_column_and_never_name_a_secret(call: Run) -> None:
    store = Store(url=SecretStr("mysql+pymysql://tocsin:pw@db.example.com/shop"), table_prefix="m2_")
    printed = call("relay", "grants", "--host", "10.0.0.%", store=store).output
    assert "password_hash" not in printed
    assert "rp_token" not in printed
    assert "pw" not in printed
    lines = printed.splitlines()
    assert all(line.startswith("GRANT ") and line.endswith(" TO 'tocsin'@'10.0.0.%';") for line in lines)
    assert "GRANT SELECT (`store_id`, `website_id`) ON `shop`.`m2_store` TO 'tocsin'@'10.0.0.%';" in lines
    assert "GRANT SELECT, INSERT, DELETE ON `shop`.`m2_tocsin_customer_cl` TO 'tocsin'@'10.0.0.%';" in lines


def test_grants_quote_names() -> None:
    line = grants("a`b", "o'hara", "%", "")[0]
    assert "ON `a``b`.`store` TO 'o''hara'@'%';" in line
    with pytest.raises(BadInput, match="table_prefix"):
        grants("shop", "tocsin", "%", "x`; DROP")


def test_a_file_needs_no_grants(call: Run) -> None:
    assert "nothing to grant" in call("relay", "grants").output


def test_columns_read_are_the_stores(shop: StoreRows) -> None:
    for table, columns in {**READ_COLUMNS, **LOOKED_UP_COLUMNS}.items():
        shop.run(f"SELECT {', '.join(columns)} FROM {table}")


# backfill


def test_backfill_enqueues_all_that_is_published(call: Run, shop: StoreRows) -> None:
    for number in range(1, 8):
        shop.customer(number)
    shop.order(7)
    shop.order(8)
    shop.provenance("r-1", "order/7")
    shop.provenance("r-2", "order/7", attribute="x")
    for table in ("tocsin_customer_cl", "tocsin_order_cl", "tocsin_provenance_cl"):
        shop.run(f"DELETE FROM {table}")
    dry = call("relay", "backfill", "--dry-run")
    assert "customers: 7 to enqueue" in dry.output
    assert shop.changelog("tocsin_customer") == []
    result = call("relay", "backfill", "--chunk", "3")
    assert result.exit_code == 0, result.output
    assert "orders: 1 enqueued" in result.output
    assert shop.changelog("tocsin_customer") == list(range(1, 8))
    assert shop.changelog("tocsin_order") == [7]
    assert shop.run("SELECT record_id, root FROM tocsin_provenance_cl") == [("r-1", "order/7"), ("r-2", "order/7")]


def test_a_stopped_backfill_goes_on_where_it_was(shop: StoreRows, store_settings: Store, tmp_path: Path) -> None:
    for number in range(1, 8):
        shop.customer(number)
    shop.run("DELETE FROM tocsin_customer_cl")
    progress = tmp_path / "data" / "progress.json"
    first = Backfill(store_settings, progress)
    assert next(iter(first.run("customers", 3))) == 3
    first.close()
    second = Backfill(store_settings, progress)
    assert second.left("customers") == 4
    assert list(second.run("customers", 3)) == [3, 1]
    assert shop.changelog("tocsin_customer") == list(range(1, 8))
    assert second.left("customers") == 7, "finished: the next one starts over"
    second.close()


def test_of_two_backfills_at_once_one_is_refused(shop: StoreRows, store_settings: Store, tmp_path: Path) -> None:
    """Each would write the notes that it read before: what is done would seem to have stopped, and the next run leave it out."""
    for number in range(1, 8):
        shop.customer(number)
    shop.provenance("r-1", "customer/1")
    progress = tmp_path / "progress.json"
    first, second = Backfill(store_settings, progress), Backfill(store_settings, progress)
    chunks = first.run("customers", 3)
    assert next(chunks) == 3
    for attempt in (lambda: next(second.run("provenance", 3)), lambda: second.restart("customers")):
        with pytest.raises(Refused, match=r"another backfill is at work.*progress\.json"):
            attempt()
    assert list(chunks) == [3, 1]
    first.close()
    assert list(second.run("provenance", 3)) == [1]
    second.close()


def test_a_backfill_that_goes_on_says_so(call: Run, shop: StoreRows, store_settings: Store, tmp_path: Path) -> None:
    """Whoever wants all of the store published, long after a run that was stopped, must learn that this is not all."""
    for number in range(1, 8):
        shop.customer(number)
    stopped = Backfill(store_settings, tmp_path / "data" / "relay-backfill.json")
    next(stopped.run("customers", 3))
    stopped.close()
    anew = call("relay", "backfill", "--entity", "customers", "--restart", "--dry-run").output
    assert anew == "customers: 7 to enqueue\n"
    going_on = "customers: going on behind 3, where one was stopped; --restart begins anew\n"
    assert call("relay", "backfill", "--entity", "customers").output.startswith(going_on)
    assert "going on" not in call("relay", "backfill", "--entity", "customers").output


def test_a_spoilt_progress_file_is_named(store_settings: Store, tmp_path: Path) -> None:
    progress = tmp_path / "progress.json"
    progress.write_text("[]", encoding="utf-8")
    backfill = Backfill(store_settings, progress)
    with pytest.raises(BadInput, match=r"progress\.json"):
        backfill.left("customers")
    with pytest.raises(BadInput, match="did you mean 'customers'"):
        next(iter(backfill.run("custmers", 1)))
    backfill.close()


# topics


def test_show_prints_the_declaration(call: Run) -> None:
    shown = json.loads(call("topics", "show", "--json").output)
    assert [row["topic"] for row in shown] == [topic.name for topic in TOPICS]
    assert "tocsin.store-changes" in call("topics", "show").output


@pytest.mark.parametrize("verb", ["apply", "diff"])
def test_the_embedded_kafka_needs_nothing(call: Run, verb: str) -> None:
    result = call("topics", verb, kafka=Kafka(embedded=True))
    assert result.exit_code == 0
    assert "nothing to do" in result.output


AS_DECLARED = TopicAsIs(6, 1, {"cleanup.policy": "compact", "max.message.bytes": "8388608"} | STORE_CHANGES.settings)


def changed(**changes: Any) -> TopicAsIs:
    values: dict[str, Any] = {"partitions": AS_DECLARED.partitions, "replication": 1, "settings": AS_DECLARED.settings}
    return TopicAsIs(**(values | changes))


@pytest.mark.parametrize(
    ("actual", "brokers", "found"),
    [
        (AS_DECLARED, 1, []),
        (None, 1, [("topic", "create")]),
        (changed(partitions=4), 1, [("partitions", "none")]),
        (changed(settings={**AS_DECLARED.settings, "cleanup.policy": "delete"}), 1, [("cleanup.policy", "alter")]),
        # one copy and two that must be in step would stop all writing: first the copies, then the setting
        (AS_DECLARED, 3, [("replication", "reassign")]),
        (changed(replication=3), 3, [("min.insync.replicas", "alter")]),
    ],
)
def test_differences(actual: TopicAsIs | None, brokers: int, found: list[tuple[str, str]]) -> None:
    assert [(each.what, each.remedy) for each in differences_of(STORE_CHANGES, actual, brokers)] == found


def test_what_a_managed_broker_imposes_counts_as_declared() -> None:
    imposed = {"max.compaction.lag.ms": "604800000"}
    actual = changed(settings={**AS_DECLARED.settings, **imposed})
    assert differences_of(STORE_CHANGES, actual, 1, imposed) == []
    assert [each.what for each in differences_of(STORE_CHANGES, AS_DECLARED, 1, imposed)] == ["max.compaction.lag.ms"]
    with pytest.raises(BadInput, match=r"did you mean 'tocsin\.store-changes'"):
        checked_imposed(Kafka(topic_settings={"tocsin.store-change": {}}))
    with pytest.raises(BadInput, match=r"cleanup\.policy"):
        checked_imposed(Kafka(topic_settings={STORE_CHANGES.name: {"cleanup.policy": "delete"}}))


@given(st.integers(-1000, 10**12), st.integers(-1000, 10**12), st.integers(0, 10**12))
def test_the_nearest_permitted_value_is_found(wanted: int, low: int, width: int) -> None:
    high = low + width
    if low <= wanted <= high or abs(wanted) < 1:
        return
    expected = low if wanted < low else high
    step = abs(wanted - expected)
    if width < step:
        return  # a range narrower than its distance may be stepped over; brokers' are wide
    assert nearest_permitted(wanted, lambda number: low <= number <= high) == expected


def test_rights_are_those_of_the_declaration(call: Run) -> None:
    found = {(each.process, each.name): each.operations for each in acls("shop.")}
    assert found["relay", "shop.tocsin.store-changes"] == ("Describe", "Write")
    assert found["relay", "shop.relay"] == ("Describe", "Write")
    assert found["index", "shop.tocsin.store-changes"] == ("Describe", "Read")
    assert ("dispatch", "shop.tocsin.store-changes") not in found
    # every consumer keeps aside what it cannot read
    assert {process for process, name in found if name == "shop.tocsin.dead-letters"} == {*GROUPS, "commands"}
    printed = call("topics", "show", "--acls", kafka=Kafka(topic_prefix="shop.")).output
    assert (
        "--allow-principal User:tocsin-relay --operation Describe --operation Write --transactional-id shop.relay"
        in printed
    )


def test_what_loses_messages_is_a_difference_only_where_the_broker_says_so() -> None:
    """Managed brokers refuse to be told some of it, and have it right."""
    settings = declared_settings(LEAK_ALERTS, 1)

    def differing(**found: str) -> list[tuple[str, str]]:
        as_is = TopicAsIs(1, 1, settings | {name.replace("_", "."): value for name, value in found.items()})
        return [(each.what, each.declared) for each in differences_of(LEAK_ALERTS, as_is, 1)]

    assert differing() == differing(retention_bytes="-1", unclean_leader_election_enable="false") == []
    assert differing(retention_bytes="5", unclean_leader_election_enable="true") == [
        ("retention.bytes", "-1"), ("unclean.leader.election.enable", "false"),
    ]  # fmt: skip
    imposed = {"retention.bytes": "5"}
    as_is = TopicAsIs(1, 1, settings | imposed)
    assert differences_of(LEAK_ALERTS, as_is, 1, imposed) == []


def test_three_brokers_keep_what_one_loses() -> None:
    assert "min.insync.replicas" not in declared_settings(STORE_CHANGES, 1)
    assert declared_settings(STORE_CHANGES, 3)["min.insync.replicas"] == "2"
    assert Difference("t", "w", "d", None, "create").actual is None


# dead letters


def test_redrive_wants_to_know_which(call: Run) -> None:
    for arguments in ((), ("abc", "--all")):
        result = call("dead-letters", "redrive", *arguments)
        assert isinstance(result.exception, BadInput)
        assert not isinstance(result.exception, Refused)
