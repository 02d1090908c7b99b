"""Kafka clients without a broker: settings, waiting with a bound, and what each error means to a caller."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr

from bridge.contracts.envelope import Message
from bridge.contracts.errors import TocsinError, Unreachable
from bridge.contracts.topics import CASE_EVENTS
from bridge.runtime import kafka
from bridge.runtime.kafka import (
    Fenced,
    NotPublished,
    Publisher,
    as_topic_partition,
    client_settings,
    cluster_id,
    new_consumer,
    partition_count,
)
from bridge.runtime.settings import Kafka

NOWHERE = Kafka(bootstrap_servers="127.0.0.1:1", topic_prefix="p.")


def test_secrets_and_certificates_reach_the_client() -> None:
    kafka = Kafka(
        bootstrap_servers="b:1", security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="u",
        sasl_password=SecretStr("s"), ca_file=Path("/ca.pem"),
    )  # fmt: skip
    settings = client_settings(kafka)
    assert (settings["sasl.mechanism"], settings["sasl.username"], settings["sasl.password"]) == (
        "SCRAM-SHA-512", "u", "s",
    )  # fmt: skip
    assert settings["ssl.ca.location"] == "/ca.pem"
    assert "sasl.mechanism" not in client_settings(NOWHERE)


def test_a_broker_that_is_not_there_is_said_within_the_patience() -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"kafka\.bootstrap_servers"):
        Publisher(NOWHERE, transactional_id="one", patience_seconds=0.5)
    assert time.monotonic() - began < 10


def test_a_record_that_nobody_acknowledges_is_not_published_and_forgotten_for_the_next_batch() -> None:
    publisher = Publisher(NOWHERE)
    publisher.send_raw(CASE_EVENTS, 0, b"k", b"v", [])
    with pytest.raises(NotPublished, match="1 records were not published"):
        publisher.flush(0.2)
    publisher.flush(0.2)


def test_what_one_transaction_failed_by_is_not_said_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        """A producer whose first transaction meets a topic's bound, and whose second one a lost right."""

        def __init__(self, _config: object) -> None:
            self.codes = [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED]
            self.reported: list[Callable[[], None]] = []

        def init_transactions(self, _seconds: float) -> None: ...
        def begin_transaction(self) -> None: ...
        def abort_transaction(self, _seconds: float) -> None: ...

        def produce(self, name: str, value: str, key: bytes, partition: int, report: Any, headers: object) -> None:
            message = SimpleNamespace(topic=lambda: name, value=lambda: value)
            self.reported.append(lambda: report(KafkaError(self.codes[0]), message))

        def poll(self, _seconds: float) -> None:
            while self.reported:
                self.reported.pop()()

        def commit_transaction(self, _seconds: float) -> None:
            self.poll(0)
            raise KafkaException(KafkaError(self.codes.pop(0)))

    monkeypatch.setattr(kafka, "Producer", Refusing)
    publisher = Publisher(NOWHERE, transactional_id="one")
    with pytest.raises(NotPublished, match=r"p\.x refuses a message of 200,000 bytes"), publisher.transaction():
        publisher.send_to("p.x", 0, b"k", "v" * 200_000, [])
    with pytest.raises(NotPublished, match="Kafka refused a record"), publisher.transaction():
        publisher.send_to("p.x", 0, b"k", "v" * 200_000, [])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError._FENCED, Fenced),
        (KafkaError.INVALID_PRODUCER_EPOCH, Fenced),
        (KafkaError.PRODUCER_FENCED, Fenced),
        (KafkaError._ALL_BROKERS_DOWN, Unreachable),
        (KafkaError._TRANSPORT, Unreachable),
        (KafkaError._TIMED_OUT, Unreachable),
        (KafkaError.MSG_SIZE_TOO_LARGE, NotPublished),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, NotPublished),
    ],
)
def test_an_error_becomes_what_a_caller_can_act_on(code: int, expected: type[TocsinError]) -> None:
    assert type(Publisher._translated(KafkaException(KafkaError(code)))) is expected


def test_a_topic_that_is_not_there_names_the_command_that_makes_it() -> None:
    class Metadata:
        topics: dict[str, object] = {}  # noqa: RUF012  an answer as the client gives it

    class Client:
        def list_topics(self, name: str, timeout: float) -> Metadata:
            return Metadata()

    with pytest.raises(Unreachable, match=r"topic p\.x does not exist; run `tocsin topics apply`"):
        partition_count(Client(), "p.x")


def test_a_topic_that_this_account_may_not_see_is_not_called_absent() -> None:
    class Hidden:
        error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        partitions: dict[int, object] = {}  # noqa: RUF012  an answer as the client gives it

    class Client:
        def list_topics(self, name: str, timeout: float) -> SimpleNamespace:
            return SimpleNamespace(topics={name: Hidden()})

    with pytest.raises(Unreachable, match=r"this account may not see topic p\.x; `tocsin topics show --acls` prints"):
        partition_count(Client(), "p.x")


def test_the_message_goes_to_the_partition_of_its_root() -> None:
    publisher = Publisher(NOWHERE)
    publisher._partition_counts["p.tocsin.case-events"] = 6
    sent: list[tuple[int, bytes]] = []
    publisher.send_to = lambda name, partition, key, value, headers: sent.append((partition, key))  # type: ignore[method-assign]  # no broker
    publisher.send(CASE_EVENTS, Message("some/key", "customer/42", b"", []))
    assert sent == [(1, b"some/key")]


def test_a_position_names_the_topic_with_its_prefix() -> None:
    position = as_topic_partition(NOWHERE, "tocsin.incidents", 3, 17)
    assert (position.topic, position.partition, position.offset) == ("p.tocsin.incidents", 3, 17)


def test_a_setting_of_the_consumer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KafkaException, match=r"no\.such"):
        new_consumer(NOWHERE, "g", no_such="x")
    new_consumer(NOWHERE, "g", auto_offset_reset="latest").close()


def test_the_cluster_of_nowhere_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, _settings: object) -> None:
            pass

        def list_topics(self, timeout: float) -> None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr("bridge.runtime.kafka.AdminClient", Absent)
    with pytest.raises(Unreachable, match="does not answer"):
        cluster_id(NOWHERE)


def test_a_broker_that_is_away_is_complained_about_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A client reports each attempt to connect, twenty a second; two kinds of trouble are told apart."""
    complain = client_settings(NOWHERE)["error_cb"]
    for _ in range(1000):
        complain(KafkaError(KafkaError._TRANSPORT, "Connection refused"))
        complain(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    assert [record.getMessage() for record in caplog.records] == ["Connection refused", "wrong password"]


def test_a_client_writes_no_log_line_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unreachable):
        Publisher(NOWHERE, transactional_id="one", patience_seconds=0.5)
    assert "FAIL" not in capfd.readouterr().err
