"""Topics, dead letters and account notices on a real Kafka."""

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there, not listed in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from bridge.account_notices import AccountNoticesStage
from bridge.commands import COMMANDS
from bridge.contracts.envelope import Message, seal_envelope
from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import AccountNotice, IncidentRevised
from bridge.contracts.partitioner import partition_of
from bridge.contracts.scope import Scope
from bridge.contracts.topics import (
    ACCOUNT_NOTICES,
    DEAD_LETTERS,
    DEPARTED_CUSTOMERS,
    INCIDENTS,
    LEAK_ALERTS,
    STORE_CHANGES,
    TOPICS,
)
from bridge.contracts.topics import DELIVERY_OUTCOMES as OUTCOMES
from bridge.generation_switch import TopicReader
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.clock import SetClock, SystemClock
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.generations import topic_name, unpin
from bridge.runtime.kafka import Publisher, new_consumer
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Kafka, Paths, Settings, Store
from bridge.runtime.telemetry import Health
from bridge.runtime.topics_admin import TopicsAdmin
from tests.processes import module, piped, typist
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase
from tests.store_rows import StoreRows

AT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 30) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def kafka(kafka_server: KafkaServer, topic_prefix: str) -> Iterator[Kafka]:
    yield Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    ours = [name for name in admin.list_topics(timeout=60).topics if name.startswith(topic_prefix)]
    for future in (admin.delete_topics(ours) if ours else {}).values():
        future.result(timeout=60)


@pytest.fixture
def call(kafka: Kafka, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        parts = Parts()
        parts.provide(Settings, lambda: Settings(kafka=kafka, paths=Paths(data=tmp_path)))
        (command,) = [each for each in COMMANDS if each.name == arguments[0]]
        return CliRunner().invoke(command, arguments[1:], obj=parts)

    return invoke


Call = Callable[..., Result]


def test_topics_are_created_and_brought_in_line(kafka: Kafka, call: Call) -> None:
    before = call("topics", "diff")
    assert isinstance(before.exception, Refused)
    assert json.loads(call("topics", "apply", "--dry-run", "--json").output)[0]["remedy"] == "create"
    assert TopicsAdmin(kafka).actual() == {}
    assert call("topics", "apply").exit_code == 0
    assert call("topics", "diff").exit_code == 0
    made = TopicsAdmin(kafka).actual()
    assert {name: each.partitions for name, each in made.items()} == {each.name: each.partitions for each in TOPICS}
    assert made[STORE_CHANGES.name].settings["cleanup.policy"] == "compact"
    assert call("topics", "apply").output.startswith("0 done")


def test_what_would_lose_messages_is_set_right_wherever_it_comes_from(kafka: Kafka, call: Call) -> None:
    """Acknowledged or unread ones: by a leader that lacks them, or by a bound in bytes. Some clusters have these by default."""
    cluster = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    losing = {"unclean.leader.election.enable": "true", "log.retention.bytes": "1000000"}

    (broker,) = cluster.list_topics(timeout=60).brokers

    def by_default(operation: AlterConfigOpType) -> None:
        entries = [ConfigEntry(name, value, incremental_operation=operation) for name, value in losing.items()]
        resource = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=entries)
        for future in cluster.incremental_alter_configs([resource]).values():
            future.result(timeout=60)

    def in_force() -> bool:
        asked = ConfigResource(ResourceType.BROKER, str(broker))
        found = cluster.describe_configs([asked])[asked].result(timeout=60)
        return all(found[name].value == value for name, value in losing.items())

    def is_right() -> bool:
        found = TopicsAdmin(kafka).actual()
        bounds = {found[topic.name].settings["retention.bytes"] for topic in TOPICS if topic.cleanup == "delete"}
        return bounds == {"-1"} and {each.settings["unclean.leader.election.enable"] for each in found.values()} == {
            "false"
        }

    by_default(AlterConfigOpType.SET)
    try:
        wait_for("the cluster's defaults", in_force)
        applied = call("topics", "apply")
        assert applied.exit_code == 0, applied.exception
        # a broker shows a moment later what it was told
        wait_for("all topics are right", is_right)
    finally:
        by_default(AlterConfigOpType.DELETE)
    set_on_topic(kafka, kafka.topic_prefix + LEAK_ALERTS.name, {"retention.bytes": "1000"})
    wait_for("the broker shows it", lambda: len(TopicsAdmin(kafka).differences()) == 1)
    (found,) = TopicsAdmin(kafka).differences()
    assert (found.topic, found.what, found.actual, found.remedy) == (
        LEAK_ALERTS.name, "retention.bytes", "1000", "alter",
    )  # fmt: skip
    assert isinstance(call("topics", "diff").exception, Refused)
    assert call("topics", "apply").exit_code == 0
    wait_for("it is right again", lambda: TopicsAdmin(kafka).differences() == [])


def test_a_setting_is_altered_and_a_partition_count_never(kafka: Kafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    wanted = [
        NewTopic(kafka.topic_prefix + STORE_CHANGES.name, num_partitions=6, config={"cleanup.policy": "delete"}),
        NewTopic(kafka.topic_prefix + LEAK_ALERTS.name, num_partitions=3),
    ]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=60)
    wait_for("the brokers show them", lambda: len(TopicsAdmin(kafka).actual()) == 2)
    with pytest.raises(Refused, match=r"tocsin\.leak-alerts: partitions 3, declared 1.*nothing was done"):
        TopicsAdmin(kafka).apply()
    assert TopicsAdmin(kafka).actual()[STORE_CHANGES.name].settings["cleanup.policy"] == "delete"
    admin.delete_topics([kafka.topic_prefix + LEAK_ALERTS.name])[kafka.topic_prefix + LEAK_ALERTS.name].result(
        timeout=60
    )
    wait_for("the topic is gone", lambda: LEAK_ALERTS.name not in TopicsAdmin(kafka).actual())
    done = TopicsAdmin(kafka).apply()
    assert [each.what for each in done if each.topic == STORE_CHANGES.name and each.remedy == "alter"] == [
        "cleanup.policy",
        "delete.retention.ms",
        "max.compaction.lag.ms",
        "max.message.bytes",
    ]
    wait_for("the broker has it", lambda: TopicsAdmin(kafka).differences() == [])


def test_dead_letters_are_listed_shown_and_put_back_byte_for_byte(kafka: Kafka, call: Call) -> None:
    TopicsAdmin(kafka).apply()
    empty = call("dead-letters", "list")
    assert (empty.exception, empty.output) == (None, "no dead letters\n")
    letters = DeadLetters(lambda: Publisher(kafka), "index", SystemClock())
    for _ in range(2):
        letters.put_raw(STORE_CHANGES.name, 4, 17, b"customer/42", b"\xff{no json", [("ce_type", b"x")], "not JSON")
    letters.put_raw(LEAK_ALERTS.name, 0, 3, None, None, [], "no key")
    letters.flush()
    listed = json.loads(call("dead-letters", "list", "--json").output)
    assert [(row["topic"], row["partition"], row["offset"]) for row in listed] == [
        (STORE_CHANGES.name, 4, 17),
        (LEAK_ALERTS.name, 0, 3),
    ]
    wanted = listed[0]["id"]
    assert call("dead-letters", "show", wanted[:8], "--value").stdout_bytes == b"\xff{no json"
    assert isinstance(call("dead-letters", "show", "zzz").exception, BadInput)
    dry = call("dead-letters", "redrive", "--all", "--dry-run").output
    assert dry.startswith("1 states of the store left out")
    assert dry.endswith("1 to put back\n")
    # the store knows a newer state than any letter
    refused = call("dead-letters", "redrive", wanted)
    assert isinstance(refused.exception, Refused)
    assert "tocsin relay backfill --entity customers" in str(refused.exception)
    letters.put_raw(OUTCOMES.name, 5, 9, b"notice/a", b"\xff{no json", [("ce_type", b"x")], "not JSON")
    letters.flush()
    other = json.loads(call("dead-letters", "list", "--json").output)[-1]["id"]
    result = call("dead-letters", "redrive", other)
    assert result.exit_code == 0, result.output
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{kafka.topic_prefix}test"})
    try:
        consumer.assign([TopicPartition(kafka.topic_prefix + OUTCOMES.name, 5, 0)])
        message = consumer.poll(20)
        assert message is not None
        assert (message.key(), message.value()) == (b"notice/a", b"\xff{no json")
        assert dict(message.headers() or []) == {"ce_type": b"x", "tocsin-redriven": other.encode()}
    finally:
        consumer.close()


def test_a_redrive_stops_when_too_many_come_back_and_hides_nothing_newer(kafka: Kafka, call: Call) -> None:
    TopicsAdmin(kafka).apply()
    letters = DeadLetters(lambda: Publisher(kafka), "receipts", SystemClock())
    for offset in range(12):
        letters.put_raw(OUTCOMES.name, 0, 1000 + offset, b"k", b"{no json", [], "not JSON")
    # a compacted topic: first nothing newer, then something
    letters.put_raw(INCIDENTS.name, 0, -1, b"INC-2026-0001", b"{no json", [], "not JSON")
    letters.flush()
    stop = threading.Event()

    def cannot_read_them_either() -> None:
        consumer = new_consumer(kafka, "receipts")
        consumer.assign([TopicPartition(kafka.topic_prefix + OUTCOMES.name, 0, 0)])
        again = DeadLetters(lambda: Publisher(kafka), "receipts", SystemClock())
        while not stop.is_set():
            for message in consumer.consume(10, timeout=0.1):
                again.put(OUTCOMES.name, message, "again")
                again.flush()
        consumer.close()

    reading = threading.Thread(target=cannot_read_them_either)
    reading.start()
    try:
        result = call(
            "dead-letters", "redrive", "--all", "--topic", OUTCOMES.name, "--per-second", "4", "--stop-after", "2"
        )
    finally:
        stop.set()
        reading.join()
    assert isinstance(result.exception, Refused)
    assert re.search(
        r"stopped: (4|8|12) of 12 were put back and \d+ of them are dead letters again", str(result.exception)
    )
    assert "receipts: again" in str(result.exception)
    # what was put back and failed again is another letter by now: the next redrive puts each message back once
    rows = [row for row in letters_of(call) if row["topic"] == OUTCOMES.name]
    done = [row["id"] for row in rows if row["put_back_at"] is not None]
    assert len(done) in (4, 8, 12)
    dry = call("dead-letters", "redrive", "--all", "--topic", OUTCOMES.name, "--dry-run")
    assert f"{len(done)} left out that were put back before" in dry.output
    assert dry.output.endswith(f"\n{len(rows) - len(done)} to put back\n")
    assert not any(each in dry.output for each in done)
    by_name = call("dead-letters", "redrive", done[0])
    assert isinstance(by_name.exception, Refused)
    assert "was put back on" in str(by_name.exception)
    before = len(their_messages(kafka, kafka.topic_prefix + OUTCOMES.name))
    assert call("dead-letters", "redrive", "--again", done[0]).exit_code == 0
    assert len(their_messages(kafka, kafka.topic_prefix + OUTCOMES.name)) == before + 1
    publisher = Publisher(kafka)
    publisher.send_raw(INCIDENTS, 0, b"INC-2026-0001", b"{}", [])
    publisher.flush()
    publisher.close()
    refused = call("dead-letters", "redrive", "--all", "--topic", INCIDENTS.name)
    assert isinstance(refused.exception, Refused)
    assert "newer message of the same key at offset 0" in str(refused.exception)


def their_messages(kafka: Kafka, name: str) -> list[Any]:
    """Return all that a topic, by its name on the cluster, holds."""
    reader = TopicReader(kafka, name)
    try:
        return [message for messages in reader.to_end() for message in messages]
    finally:
        reader.close()


def letters_of(call: Call) -> list[dict[str, Any]]:
    # warnings come before it, in another stream
    shown = call("dead-letters", "list", "--json").output
    found: list[dict[str, Any]] = json.loads(shown[shown.index("[\n") :])
    return found


def test_letters_that_may_not_go_back_keep_no_other_one_here(kafka: Kafka, call: Call) -> None:
    TopicsAdmin(kafka).apply()
    letters = DeadLetters(lambda: Publisher(kafka), "receipts", SystemClock())
    letters.put_raw("queue:ses", 0, 77, None, b"sealed", [], "no receipt")
    letters.put_raw("queue:cloudwatch", 0, 78, None, b"sealed", [], "no status")
    letters.put_raw(ACCOUNT_NOTICES.name, 2, -1, b"notice/1", b"{}", [], "not JSON")
    letters.put_raw(OUTCOMES.name, 5, 9, b"k", b"{}", [], "not JSON")
    letters.flush()
    # what is no letter keeps nobody from those that are
    publisher = Publisher(kafka)
    publisher.send_raw(DEAD_LETTERS, 0, b"k", b"no letter", [])
    publisher.flush()
    publisher.close()
    result = call("dead-letters", "redrive", "--all")
    assert result.exit_code == 0, result.exception
    assert "came from the queue of ses, sealed, and no queue takes it back" in result.output
    assert (
        "\n2 put back; 0 of them became dead letters again within 3 s\nthe others are not known to be used: "
        in result.output
    )
    assert "start the stage receipts again; it reads the last three days anew" in result.output
    # what comes later goes back, too, whatever lies there of before
    letters.put_raw(OUTCOMES.name, 5, 10, b"k", b"{}", [], "not JSON")
    letters.flush()
    # what is logged goes to the process's error output, which nobody has set up here
    with structlog.testing.capture_logs():
        facts = json.loads(call("dead-letters", "redrive", "--all", "--again", "--dry-run", "--json").stdout)
    assert (facts["put_back"], facts["came_back"], facts["watched_seconds"]) == (0, [], 0)
    result = call("dead-letters", "redrive", "--all", "--again", "--dry-run")
    assert result.exit_code == 0, result.exception
    assert f"was put back already: {ACCOUNT_NOTICES.name} partition 2 holds it at offset 0" in result.output
    assert result.output.endswith("2 to put back\n")
    result = call("dead-letters", "redrive", "--all", "--dry-run")
    assert "2 left out that were put back before" in result.output
    assert result.output.endswith("1 to put back\n")
    (queued,) = [row["id"] for row in letters_of(call) if row["topic"] == "queue:ses"]
    refused = call("dead-letters", "redrive", queued)
    assert isinstance(refused.exception, Refused)
    assert "no queue takes it back" in str(refused.exception)


def test_letters_go_back_in_the_order_in_which_they_came_however_they_are_named(kafka: Kafka, call: Call) -> None:
    TopicsAdmin(kafka).apply()
    letters = DeadLetters(lambda: Publisher(kafka), "receipts", SystemClock())
    for offset in (7, 8):
        letters.put_raw(OUTCOMES.name, 5, offset, b"k", str(offset).encode(), [], "not JSON")
    letters.flush()
    first, second = (row["id"] for row in letters_of(call))
    assert call("dead-letters", "redrive", second, first, second).exit_code == 0
    found = their_messages(kafka, kafka.topic_prefix + OUTCOMES.name)
    assert [message.value() for message in found] == [b"7", b"8"]


def test_a_letter_goes_where_its_root_lies_in_the_generation_of_now(kafka: Kafka, call: Call) -> None:
    admin = TopicsAdmin(kafka)
    admin.apply()
    letters = DeadLetters(lambda: Publisher(kafka), "index", SystemClock())

    def at(minute: int) -> list[tuple[str, bytes]]:
        return [("ce_root", b"customer/1"), ("ce_time", f"2026-03-01T10:{minute:02}:00Z".encode())]

    before = partition_of("customer/1", 6)
    for number, key in enumerate((b"customer/1", b"untagged/1")):
        letters.put_raw(DEPARTED_CUSTOMERS.name, before, number, key, b"{}", at(5), "not JSON")
    letters.flush()
    admin.create_generation(2, 11)
    admin.activate(2)
    unpin(kafka)
    assert partition_of("customer/1", 11) != before
    target = topic_name(kafka.topic_prefix, DEPARTED_CUSTOMERS.name, 2)
    # something older of the one key, something newer of the other
    publisher = Publisher(kafka)
    publisher.send_to(target, partition_of("customer/1", 11), b"customer/1", b"old", at(4))
    publisher.send_to(target, partition_of("customer/1", 11), b"untagged/1", b"new", at(6))
    publisher.flush()
    publisher.close()
    result = call("dead-letters", "redrive", "--all")
    assert result.exit_code == 0, result.exception
    assert "would hide it" in result.output
    assert "\n1 put back" in result.output
    found = [(message.partition(), message.key(), message.value()) for message in their_messages(kafka, target)]
    assert found[2:] == [(partition_of("customer/1", 11), b"customer/1", b"{}")]
    assert their_messages(kafka, kafka.topic_prefix + DEPARTED_CUSTOMERS.name) == []


def test_a_letter_hides_nothing_of_a_topic_that_was_made_anew_since(kafka: Kafka, call: Call) -> None:
    """There something newer lies at a lower offset; and another letter may be of the same place."""
    admin = TopicsAdmin(kafka)
    admin.apply()
    publisher = Publisher(kafka)
    letters = DeadLetters(lambda: publisher, "account-notices", SetClock(AT))
    letters.put_raw(ACCOUNT_NOTICES.name, 2, 500, b"notice/1", b"first", [], "not JSON")
    letters.put_raw(ACCOUNT_NOTICES.name, 2, 0, b"notice/2", b"second", [], "not JSON")
    letters.flush()
    # made anew: what was written there before is gone
    publisher.send_raw(ACCOUNT_NOTICES, 2, b"notice/1", b"newer", [])
    publisher.flush()
    letters.put_raw(ACCOUNT_NOTICES.name, 2, 0, b"notice/3", b"third", [], "not JSON")
    letters.flush()
    result = call("dead-letters", "redrive", "--all")
    assert result.exit_code == 0, result.exception
    assert "partition 2 holds a newer message of the same key at offset 0" in result.output
    assert "\n2 put back" in result.output
    found = [message.value() for message in their_messages(kafka, kafka.topic_prefix + ACCOUNT_NOTICES.name)]
    assert found == [b"newer", b"second", b"third"]
    publisher.close()


def test_a_letter_does_not_bring_back_what_was_removed_since(kafka: Kafka, call: Call) -> None:
    """Compaction removes the original once something newer has its key, and a removal itself some days later."""
    TopicsAdmin(kafka).apply()
    name = kafka.topic_prefix + DEPARTED_CUSTOMERS.name
    compact_at_once(kafka, name)
    publisher = Publisher(kafka)
    letters = DeadLetters(lambda: publisher, "index", SystemClock())

    def write(key: bytes, value: bytes | None) -> None:
        publisher.send_to(name, 0, key, value, [("ce_root", key)])
        publisher.flush()

    for key in (b"customer/1", b"customer/2"):
        write(key, b"{departed")
    for message in their_messages(kafka, name):
        letters.put(DEPARTED_CUSTOMERS.name, message, "not JSON")
    # a removal that nobody could read
    letters.put_raw(DEPARTED_CUSTOMERS.name, 0, 1, b"customer/3", None, [("ce_root", b"customer/3")], "not UTF-8")
    letters.flush()
    write(b"customer/1", None)

    def removed() -> bool:
        write(b"something else", b"")  # compaction leaves alone what is written last
        time.sleep(0.2)
        return b"customer/1" not in {message.key() for message in their_messages(kafka, name)}

    wait_for("compaction", removed, timeout_seconds=120)
    result = call("dead-letters", "redrive", "--all")
    assert result.exit_code == 0, result.exception
    assert "holds nothing of its key any more" in result.output
    assert "\n2 put back" in result.output
    assert {message.key(): message.value() for message in their_messages(kafka, name)} == {
        b"customer/2": b"{departed", b"customer/3": None, b"something else": b"",
    }  # fmt: skip
    publisher.close()


def compact_at_once(kafka: Kafka, name: str) -> None:
    at_once = {
        "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "delete.retention.ms": "0", "max.compaction.lag.ms": "100",
    }  # fmt: skip
    set_on_topic(kafka, name, at_once)


def set_on_topic(kafka: Kafka, name: str, settings: dict[str, str]) -> None:
    entries = [
        ConfigEntry(each, value, incremental_operation=AlterConfigOpType.SET) for each, value in settings.items()
    ]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(timeout=60)


def test_what_is_larger_than_a_megabyte_stops_nobody(kafka: Kafka, call: Call) -> None:
    """An alert's body may have a megabyte, the incident that it makes has more, and so has the letter that keeps an alert."""
    TopicsAdmin(kafka).apply()
    scope = Scope(record_ids=tuple(uuid.uuid4().hex for _ in range(40_000)))
    revised = IncidentRevised(
        incident_id="INC-2026-0001", revision=1, status="open", scope=scope, scope_sha256=scope.sha256(), detected_at=AT
    )
    outbox = Publisher(kafka, transactional_id="outbox")
    with outbox.transaction():
        outbox.send(INCIDENTS, seal_envelope(revised, key="INC-2026-0001", root="INC-2026-0001", source="/case", at=AT))
    outbox.close()
    # the coordinator marks a transaction's end in each partition after it has said yes
    wait_for("the end of the transaction", lambda: their_messages(kafka, kafka.topic_prefix + INCIDENTS.name) != [])
    (message,) = their_messages(kafka, kafka.topic_prefix + INCIDENTS.name)
    assert json.loads(message.value())["scope_sha256"] == scope.sha256()
    alert = os.urandom(1_040_000)
    letters = DeadLetters(lambda: Publisher(kafka), "intake", SystemClock())
    letters.put_raw(LEAK_ALERTS.name, 0, 3, b"monitor", alert, [], "neither signed nor readable")
    letters.flush()
    assert call("dead-letters", "redrive", "--all").exit_code == 0
    (message,) = their_messages(kafka, kafka.topic_prefix + LEAK_ALERTS.name)
    assert message.value() == alert


def notice(notice_id: str, **changes: Any) -> Message:
    values: dict[str, Any] = {
        "notice_id": notice_id, "incident_id": "INC-2026-0001", "customer_id": 42, "locale": "de_DE", "title": "Hinweis",
        "body": "Ein Text mit Ümlauten 🔔.", "posted_at": AT,
    }  # fmt: skip
    event = AccountNotice(**(values | changes))
    return seal_envelope(event, key=f"notice/{notice_id}", root="customer/42", source="/test", at=AT)


def test_account_notices_reach_the_store_and_go_on_after_a_restart(
    kafka: Kafka, mariadb_database: StoreDatabase
) -> None:
    TopicsAdmin(kafka).apply()
    engine = sa.create_engine(mariadb_database.url)
    shop = StoreRows(engine)
    publisher = Publisher(kafka)
    store = Store(url=SecretStr(mariadb_database.url))

    def posted() -> list[tuple[Any, ...]]:
        return shop.run("SELECT notice_id, body, withdrawn_at IS NULL FROM tocsin_account_notice ORDER BY id")

    def run_until(what: str, condition: Callable[[], bool]) -> None:
        table = AccountNoticeTable(store)
        letters = DeadLetters(lambda: Publisher(kafka), "account-notices", SystemClock())
        stage = AccountNoticesStage(table, kafka, letters, Health())
        stop = threading.Event()
        thread = threading.Thread(target=stage.run, args=(stop,))
        thread.start()
        try:
            wait_for(what, condition)
        finally:
            stop.set()
            thread.join(30)
            table.close()
        assert not thread.is_alive()

    try:
        publisher.send(ACCOUNT_NOTICES, notice("a-1"))
        publisher.send(ACCOUNT_NOTICES, notice("a-2", title="x" * 300))
        publisher.send(ACCOUNT_NOTICES, notice("a-3"))
        publisher.flush()
        text = "Ein Text mit Ümlauten 🔔."
        run_until("two are posted", lambda: posted() == [("a-1", text, 1), ("a-3", text, 1)])
        shop.run("UPDATE tocsin_account_notice SET body = 'kept' WHERE notice_id = 'a-3'")
        publisher.send(ACCOUNT_NOTICES, notice("a-1", withdrawn=True, title="", body=""))
        publisher.flush()
        # a-3 is not written again: what was acknowledged is not read again.
        run_until("one is withdrawn", lambda: posted() == [("a-1", text, 0), ("a-3", "kept", 1)])
        reader = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{kafka.topic_prefix}test"})
        topic = TopicPartition(kafka.topic_prefix + DEAD_LETTERS.name, 0)
        assert reader.get_watermark_offsets(topic, timeout=60) == (0, 1)
        reader.close()
    finally:
        publisher.close()
        engine.dispose()


def test_notices_that_a_store_lost_with_its_newest_commits_are_written_again(
    kafka: Kafka, mariadb_database: StoreDatabase, tmp_path: Path
) -> None:
    """As after a backup of the shop was put back: Kafka's offset says that they are there."""
    TopicsAdmin(kafka).apply()
    engine = sa.create_engine(mariadb_database.url)
    shop = StoreRows(engine)
    settings = tmp_path / "notices.json"
    given = {
        "bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": kafka.topic_prefix, "url": mariadb_database.url,
    }  # fmt: skip
    settings.write_text(json.dumps(given), encoding="utf-8")

    def rows() -> set[tuple[str, int]]:
        return set(shop.run("SELECT notice_id, withdrawn_at IS NULL FROM tocsin_account_notice"))

    def run_until(what: str, condition: Callable[[], bool]) -> None:
        process = typist().start(module("tests.integration.notices_process", settings))
        try:
            wait_for(what, condition)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()

    publisher = Publisher(kafka)
    try:
        for number in range(1, 5):
            publisher.send(ACCOUNT_NOTICES, notice(f"a-{number}"))
        publisher.send(ACCOUNT_NOTICES, notice("a-2", withdrawn=True, title="", body=""))
        publisher.send(ACCOUNT_NOTICES, notice("a-5", title="x" * 300))
        publisher.flush()
        there = {("a-1", 1), ("a-2", 0), ("a-3", 1), ("a-4", 1)}
        run_until("all are posted", lambda: rows() == there)
        shop.run("DELETE FROM tocsin_account_notice WHERE notice_id IN ('a-2', 'a-4')")
        run_until("they are back", lambda: rows() == there)
    finally:
        publisher.close()
        engine.dispose()


def test_a_writer_killed_between_commit_and_acknowledgement_repeats_and_changes_nothing(
    kafka: Kafka, mariadb_database: StoreDatabase, tmp_path: Path
) -> None:
    TopicsAdmin(kafka).apply()
    engine = sa.create_engine(mariadb_database.url)
    shop = StoreRows(engine)
    settings = tmp_path / "notices.json"
    settings.write_text(
        json.dumps(
            {
                "bootstrap_servers": kafka.bootstrap_servers,
                "topic_prefix": kafka.topic_prefix,
                "url": mariadb_database.url,
            }
        ),
        encoding="utf-8",
    )
    command = module("tests.integration.notices_process", settings)

    def rows() -> list[tuple[Any, ...]]:
        return shop.run(
            "SELECT notice_id, read_at IS NULL, withdrawn_at IS NULL FROM tocsin_account_notice ORDER BY id"
        )

    publisher = Publisher(kafka)
    try:
        publisher.send(ACCOUNT_NOTICES, notice("a-1"))
        publisher.send(ACCOUNT_NOTICES, notice("a-2"))
        publisher.flush()
        killed, said = piped([*command, "--hold"], os.environ, folder=Path.cwd())
        with said:
            # its log stands between
            assert "written\n" in iter(said.readline, "")
            killed.kill()
            killed.wait(30)
        assert rows()
        # meanwhile the customer reads one
        shop.run("UPDATE tocsin_account_notice SET read_at = '2026-03-02 00:00:00' WHERE notice_id = 'a-1'")
        publisher.send(ACCOUNT_NOTICES, notice("a-2", withdrawn=True, title="", body=""))
        publisher.flush()
        successor = typist().start(command)
        try:
            wait_for("the withdrawal arrives", lambda: rows() == [("a-1", 0, 1), ("a-2", 1, 0)])
            successor.terminate()
            assert successor.wait(30) == 0
        finally:
            successor.kill()
    finally:
        publisher.close()
        engine.dispose()
