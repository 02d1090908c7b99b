"""Topics, dead letters and account notices on a real Kafka."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from bridge.account_notices import AccountNoticesStage
from bridge.commands import COMMANDS
from bridge.contracts.envelope import Message, seal_envelope
from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import AccountNotice
from bridge.contracts.topics import ACCOUNT_NOTICES, DEAD_LETTERS, LEAK_ALERTS, STORE_CHANGES, TOPICS
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.clock import SystemClock
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Publisher
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Kafka, Paths, Settings, Store
from bridge.runtime.telemetry import Health
from bridge.runtime.topics_admin import TopicsAdmin
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
    ours = [name for name in admin.list_topics(timeout=15).topics if name.startswith(topic_prefix)]
    for future in (admin.delete_topics(ours) if ours else {}).values():
        future.result(timeout=15)


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


def test_a_setting_is_altered_and_a_partition_count_never(kafka: Kafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    wanted = [
        NewTopic(kafka.topic_prefix + STORE_CHANGES.name, num_partitions=6, config={"cleanup.policy": "delete"}),
        NewTopic(kafka.topic_prefix + LEAK_ALERTS.name, num_partitions=3),
    ]
    for future in admin.create_topics(wanted).values():
        future.result(timeout=15)
    wait_for("the brokers show them", lambda: len(TopicsAdmin(kafka).actual()) == 2)
    with pytest.raises(Refused, match=r"tocsin\.leak-alerts: partitions 3, declared 1.*nothing was done"):
        TopicsAdmin(kafka).apply()
    assert TopicsAdmin(kafka).actual()[STORE_CHANGES.name].settings["cleanup.policy"] == "delete"
    admin.delete_topics([kafka.topic_prefix + LEAK_ALERTS.name])[kafka.topic_prefix + LEAK_ALERTS.name].result(
        timeout=15
    )
    wait_for("the topic is gone", lambda: LEAK_ALERTS.name not in TopicsAdmin(kafka).actual())
    done = TopicsAdmin(kafka).apply()
    assert [each.what for each in done if each.topic == STORE_CHANGES.name and each.remedy == "alter"] == [
        "cleanup.policy",
        "delete.retention.ms",
        "max.compaction.lag.ms",
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
    assert call("dead-letters", "redrive", "--all", "--dry-run").output.endswith("2 to put back\n")
    result = call("dead-letters", "redrive", wanted)
    assert result.exit_code == 0, result.output
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{kafka.topic_prefix}test"})
    try:
        consumer.assign([TopicPartition(kafka.topic_prefix + STORE_CHANGES.name, 4, 0)])
        message = consumer.poll(20)
        assert message is not None
        assert (message.key(), message.value()) == (b"customer/42", b"\xff{no json")
        assert dict(message.headers() or []) == {"ce_type": b"x", "tocsin-redriven": wanted.encode()}
    finally:
        consumer.close()


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
        shop.run("DELETE FROM tocsin_account_notice WHERE notice_id = 'a-3'")
        publisher.send(ACCOUNT_NOTICES, notice("a-1", withdrawn=True, title="", body=""))
        publisher.flush()
        # a-3 is not posted again: what was acknowledged is not read again.
        run_until("one is withdrawn", lambda: posted() == [("a-1", text, 0)])
        reader = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"{kafka.topic_prefix}test"})
        topic = TopicPartition(kafka.topic_prefix + DEAD_LETTERS.name, 0)
        assert reader.get_watermark_offsets(topic, timeout=15) == (0, 1)
        reader.close()
    finally:
        publisher.close()
        engine.dispose()
