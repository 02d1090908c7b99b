"""Kafka behind TLS, a sign-in and rights: both clients, tokens that end, and each process with exactly its ACLs."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import TopicPartition as IndependentPartition
from pydantic import SecretStr

from bridge.contracts.envelope import open_envelope, seal_envelope
from bridge.contracts.errors import Refused, TocsinError, Unreachable
from bridge.contracts.events import IncidentRevised, StoreBeat
from bridge.contracts.scope import Scope
from bridge.contracts.topics import DELIVERY_OUTCOMES, INCIDENTS, LEAK_ALERTS, STORE_CHANGES
from bridge.generation_switch import TopicReader
from bridge.runtime.acls import acls
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import headers_of
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.generations import Generations, ask_generations
from bridge.runtime.kafka import NotPublished, Publisher, as_topic_partition, new_consumer
from bridge.runtime.kafka_auth import TOKEN_SOURCES, Token, independent_auth
from bridge.runtime.redrive import dead_letters, redrive
from bridge.runtime.settings import Kafka
from bridge.runtime.topics_admin import TopicsAdmin
from consumers.adapters.incident_feed import IncidentFeed, TopicHeads
from tests.conftest import way_or_skip
from tests.kafka_rights import give_rights
from tests.servers import kafka as kafka_servers
from tests.servers.certificates import certificate
from tests.servers.kafka import KafkaServer, Secured

TOKEN_SECONDS = 8
"""The client takes a new token after four fifths of it. A broker takes nobody's second sign-in within a second: with 4 s, whoever
connected right before that had to sign in again too soon, and was refused."""
AT = datetime(2026, 3, 1, 10, tzinfo=UTC)


class Tokens:
    """Signs in one principal with tokens that end soon: the broker of the test takes them unsigned (RFC 7515, `none`)."""

    def __init__(self, principal: str) -> None:
        self._principal = principal
        self.given = 0

    def token(self) -> Token:
        self.given += 1
        now = time.time()
        claims = {"sub": self._principal, "iat": now, "exp": now + TOKEN_SECONDS}
        parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
        encoded = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        return Token(encoded + ".", now + TOKEN_SECONDS)


def sign_in(monkeypatch: pytest.MonkeyPatch, process: str) -> None:
    """Have each client from now on sign in as `process`."""
    monkeypatch.setitem(TOKEN_SOURCES, "msk_iam", lambda _kafka: Tokens(f"tocsin-{process}"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    """A broker of its own: the other tests' one asks nobody who they are."""
    pem, key = certificate()
    ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca_file.write_text(pem, encoding="utf-8")
    wanted = Secured(pem, key, {"planner": "s3cret"}, TOKEN_SECONDS)
    with kafka_servers.kafka_server(way_or_skip("Apache Kafka", kafka_servers.PROGRAMS), wanted) as server:
        TopicsAdmin(Kafka(bootstrap_servers=server.bootstrap_servers)).apply()
        give_rights(server, acls())
        yield server, ca_file


def test_whoever_writes_or_reads_a_generation_sees_it_with_its_own_rights(
    secured: tuple[KafkaServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = TopicsAdmin(Kafka(bootstrap_servers=secured[0].bootstrap_servers))
    admin.create_generation(2, 7)
    try:
        for process in ("relay", "index", "outbox", "commands"):
            sign_in(monkeypatch, process)
            assert ask_generations(settings_of(secured)) == Generations(1, 2), process
        admin.activate(2)
        for process in ("relay", "index", "outbox", "commands"):
            sign_in(monkeypatch, process)
            assert ask_generations(settings_of(secured)) == Generations(2), process
    finally:
        server = AdminClient({"bootstrap.servers": secured[0].bootstrap_servers})
        made = [name for name in server.list_topics(timeout=15).topics if ".g2" in name]
        for future in server.delete_topics(made).values():
            future.result(timeout=15)


def test_each_reader_outside_of_a_group_may_read(
    secured: tuple[KafkaServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client asks for the coordinator of the group that it names, and one that may not is an error in place of a message."""
    plain = Kafka(bootstrap_servers=secured[0].bootstrap_servers)
    letters = DeadLetters(lambda: Publisher(plain), "receipts", SystemClock())
    for offset in range(3):
        letters.put_raw(DELIVERY_OUTCOMES.name, 0, offset, b"k", b"{}", [], "not JSON")
    letters.flush()
    scope = Scope(model_ids=("m",))
    incident = IncidentRevised(
        incident_id="INC-2026-0001", revision=1, status="open", scope=scope, scope_sha256=scope.sha256(), detected_at=AT
    )
    outbox = Publisher(plain)
    outbox.send(INCIDENTS, seal_envelope(incident, key="INC-2026-0001", root="INC-2026-0001", source="/case", at=AT))
    outbox.flush()
    outbox.close()
    kafka = settings_of(secured)

    sign_in(monkeypatch, "commands")
    kept = list(dead_letters(kafka))
    assert len(kept) == 3
    assert redrive(kafka, kept, per_second=10, stop_after=0).put_back == 3
    reader = TopicReader(kafka, INCIDENTS.name)
    assert [len(messages) for messages in reader.to_end()] == [1]
    assert list(reader.to_end()) == []
    reader.close()

    sign_in(monkeypatch, "index")
    aside = Publisher(kafka)
    feed = IncidentFeed(kafka, DeadLetters(lambda: aside, "index", SystemClock()))
    assert feed.read_to_end(INCIDENTS.partitions, threading.Event()) == [incident]
    heads = TopicHeads(kafka)
    assert heads.bounds(INCIDENTS, 0) == (0, 1)
    assert heads.nothing_between(INCIDENTS, 0, 0, 1) is False
    assert [message.offset() for message in heads.messages(INCIDENTS, 0, [0])] == [0]
    feed.close()
    heads.close()
    # and may keep aside what it cannot read
    letters = DeadLetters(lambda: aside, "index", SystemClock())
    letters.put_raw(INCIDENTS.name, 0, 7, b"k", b"{}", [], "not JSON")
    letters.flush()
    aside.close()


def settings_of(secured: tuple[KafkaServer, Path]) -> Kafka:
    server, ca_file = secured
    return Kafka(bootstrap_servers=server.secured_servers, auth="msk_iam", aws_region="eu-central-1", ca_file=ca_file)


def message(number: int) -> Any:
    beat = StoreBeat(beat_at=AT + timedelta(seconds=number))
    return seal_envelope(beat, key=f"beat/{number}", root="customer/1", source="/test", at=AT)


def test_both_clients_sign_in_and_go_on_when_their_tokens_end(
    secured: tuple[KafkaServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Tokens] = []

    def signed_in_as(principal: str) -> Tokens:
        sources.append(Tokens(principal))
        monkeypatch.setitem(TOKEN_SOURCES, "msk_iam", lambda _kafka: sources[-1])
        return sources[-1]

    kafka = settings_of(secured)
    tokens = signed_in_as("tocsin-relay")
    publisher = Publisher(kafka, transactional_id="relay")
    with publisher.transaction():
        publisher.send(STORE_CHANGES, message(1))
    first = tokens.given
    # the independent client reads what ours wrote ...
    reader_tokens = signed_in_as("tocsin-index")
    reader = KafkaConsumer(
        **independent_auth(kafka), isolation_level="read_committed", group_id=None, enable_auto_commit=False
    )
    partitions = [IndependentPartition(STORE_CHANGES.name, number) for number in range(STORE_CHANGES.partitions)]
    reader.assign(partitions)
    reader.seek_to_beginning(*partitions)

    def read_one() -> Any:
        give_up_at = time.monotonic() + 20
        while time.monotonic() < give_up_at:
            for records in reader.poll(timeout_ms=200).values():
                return records[0]
        raise AssertionError("nothing came")

    found = read_one()
    assert open_envelope(found.key, found.value, dict(found.headers)) == StoreBeat(beat_at=AT + timedelta(seconds=1))
    # ... and both go on after their tokens have ended: the broker closes connections that do not sign in again
    give_up_at = time.monotonic() + 45
    number = 1
    until = time.monotonic() + 2 * TOKEN_SECONDS
    while tokens.given < first + 2 or reader_tokens.given < 2 or time.monotonic() < until:
        assert time.monotonic() < give_up_at, (tokens.given, reader_tokens.given)
        number += 1
        with publisher.transaction():
            publisher.send(STORE_CHANGES, message(number))
        assert read_one().key == f"beat/{number}".encode()
    reader.close()
    # a right that the declaration does not give is not there
    refused = r"this account may not see topic tocsin\.incidents; `tocsin topics show --acls`"
    with pytest.raises(TocsinError, match=refused), publisher.transaction():
        publisher.send(INCIDENTS, message(0))
    publisher.close()

    # the other way round: the independent client writes, ours reads
    signed_in_as("tocsin-relay")
    writer = KafkaProducer(**independent_auth(kafka), acks="all")
    sent = message(99)
    where = writer.send(
        STORE_CHANGES.name,
        key=sent.key.encode(),
        value=sent.value,
        headers=list(sent.headers),
        partition=found.partition,
    ).get(timeout=20)
    writer.close()
    signed_in_as("tocsin-index")
    consumer = new_consumer(kafka, "index")
    consumer.assign([as_topic_partition(kafka, STORE_CHANGES.name, where.partition, where.offset)])
    read = consumer.poll(20)
    assert read is not None
    assert read.error() is None
    assert open_envelope(read.key(), read.value(), headers_of(read)) == StoreBeat(beat_at=AT + timedelta(seconds=99))
    consumer.close()


def test_a_password_signs_in_over_tls_and_a_wrong_one_does_not(secured: tuple[KafkaServer, Path]) -> None:
    server, ca_file = secured

    def signing_in(password: str) -> Kafka:
        return Kafka(
            bootstrap_servers=server.secured_servers, security_protocol="SASL_SSL", sasl_mechanism="PLAIN",
            sasl_username="planner", sasl_password=SecretStr(password), ca_file=ca_file,
        )  # fmt: skip

    admin = KafkaAdminClient(**independent_auth(signing_in("s3cret")))
    assert admin.describe_cluster()["cluster_id"]
    admin.close()
    consumer = new_consumer(signing_in("s3cret"), "planning")
    assert consumer.list_topics(timeout=20).brokers
    consumer.close()
    refused = new_consumer(signing_in("wrong"), "planning")
    with pytest.raises(KafkaException):
        refused.list_topics(timeout=3)
    refused.close()


def test_a_setting_that_the_broker_refuses_is_named_with_the_nearest_permitted_value(
    secured: tuple[KafkaServer, Path],
) -> None:
    server, _ = secured

    def admin(compaction_lag: str) -> TopicsAdmin:
        imposed = {STORE_CHANGES.name: {"max.compaction.lag.ms": compaction_lag, "delete.retention.ms": "86400000"}}
        kafka = Kafka(bootstrap_servers=server.bootstrap_servers, topic_prefix="imposed.", topic_settings=imposed)
        return TopicsAdmin(kafka)

    wanted = r'max\.compaction\.lag\.ms = -7 is refused, the nearest permitted value is 1; .*"max\.compaction\.lag\.ms" = "1"'
    with pytest.raises(Refused, match=wanted):
        admin("-7").apply()
    admin("1").apply()
    assert admin("1").actual()[STORE_CHANGES.name].settings["delete.retention.ms"] == "86400000"
    # on a topic that is there already, too
    with pytest.raises(Refused, match="the nearest permitted value is 1"):
        admin("0").apply()


def test_a_refused_setting_is_named_with_the_rights_of_the_commands_alone(
    secured: tuple[KafkaServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, "commands")
    imposed = {LEAK_ALERTS.name: {"retention.ms": "-7"}}
    kafka = settings_of(secured).model_copy(update={"topic_settings": imposed})
    wanted = r"retention\.ms = -7 is refused, the nearest permitted value is -1; "
    with pytest.raises(Refused, match=wanted):
        TopicsAdmin(kafka).apply()
    server = AdminClient({"bootstrap.servers": secured[0].bootstrap_servers})
    server.delete_topics([LEAK_ALERTS.name])[LEAK_ALERTS.name].result(timeout=30)
    until = time.monotonic() + 30
    while LEAK_ALERTS.name in server.list_topics(timeout=15).topics:
        assert time.monotonic() < until
    try:
        with pytest.raises(Refused, match=wanted):
            TopicsAdmin(kafka).apply()
        assert LEAK_ALERTS.name not in server.list_topics(timeout=15).topics
    finally:
        TopicsAdmin(settings_of(secured)).apply()


def test_tokens_that_cannot_be_had_for_a_while_end_no_client(
    secured: tuple[KafkaServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS's metadata service is away for some seconds now and then: a client goes on once it answers again."""

    class Failing(Tokens):
        fails = False
        failed = 0

        def token(self) -> Token:
            if self.fails:
                self.failed += 1
                raise Unreachable("no AWS credentials to sign with")
            return super().token()

    source = Failing("tocsin-relay")
    monkeypatch.setitem(TOKEN_SOURCES, "msk_iam", lambda _kafka: source)
    publisher = Publisher(settings_of(secured))

    def sent(number: int) -> bool:
        try:
            publisher.send(STORE_CHANGES, message(number))
            publisher.flush()
        except (Unreachable, NotPublished):
            return False
        return True

    def wait_for(condition: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until
            publisher._producer.poll(0.1)

    wait_for(lambda: sent(1), 60)
    source.fails = True
    wait_for(lambda: source.failed > 1, 60)
    source.fails = False
    wait_for(lambda: sent(2), 60)
    publisher.close()
    # one that has never had a token says why, before anything is tried
    source.fails = True
    with pytest.raises(Unreachable, match="no AWS credentials to sign with"):
        Publisher(settings_of(secured))
