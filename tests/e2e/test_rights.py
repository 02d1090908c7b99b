"""Every process with exactly the rights that `tocsin topics show --acls` prints, on a broker that asks for them.

All stages run, each a process that signs in under its own name, and so does whoever types commands; people are told, messages
that nobody can read are kept aside and put back, and a new generation of topics is filled and switched to.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there, not listed in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from bridge.contracts.topics import DEAD_LETTERS, STORE_CHANGES, TOPICS
from bridge.runtime.acls import COMMANDS, GROUPS, acls
from consumers.adapters.case_store import tables
from consumers.bootstrap.stages import STAGES
from consumers.commands import metrics_addresses
from consumers.demo import shop
from consumers.demo.progress import open_changes
from consumers.demo.shop import Shop
from tests.conftest import way_or_skip
from tests.e2e.all_stages import NOW, Running, all_stages, somebody
from tests.kafka_rights import decisions, give_rights
from tests.servers import kafka as kafka_servers
from tests.servers.certificates import certificate
from tests.servers.kafka import KafkaServer, Secured

PREFIX = "shop."
PROCESSES = (*STAGES, COMMANDS)
READ = {
    (each.process, each.name.removeprefix(PREFIX))
    for each in acls(PREFIX)
    if each.process in GROUPS and each.resource == "topic" and "Read" in each.operations
}
"""Which process reads which topic."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, Path]]:
    pem, key = certificate()
    ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca_file.write_text(pem, encoding="utf-8")
    wanted = Secured(pem, key, {f"tocsin-{each}": f"of-{each}" for each in PROCESSES}, 3600)
    with kafka_servers.kafka_server(way_or_skip("Apache Kafka", kafka_servers.PROGRAMS), wanted) as server:
        give_rights(server, acls(PREFIX))
        yield server, ca_file


def signed_in_as(process: str) -> Mapping[str, str]:
    return {
        "TOCSIN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "TOCSIN_KAFKA__SASL_MECHANISM": "PLAIN",
        "TOCSIN_KAFKA__SASL_USERNAME": f"tocsin-{process}",
        "TOCSIN_KAFKA__SASL_PASSWORD": f"of-{process}",
    }


@pytest.fixture(scope="module")
def running(secured: tuple[KafkaServer, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server, ca_file = secured
    kafka = {"bootstrap_servers": server.secured_servers, "ca_file": str(ca_file), "topic_prefix": PREFIX}

    with all_stages(tmp_path_factory.mktemp("installation"), kafka, signed_in_as) as made:
        yield made


def test_every_process_works_with_the_rights_that_are_printed_and_needs_each(
    running: Running, secured: tuple[KafkaServer, Path]
) -> None:
    running.until(lambda: _ready(running) == set(STAGES), "every stage is ready", 120)
    with running.store.begin() as connection:
        shop.write_base(connection)
    _topics_as_an_earlier_version_made_them_are_altered(running, secured[0])
    for words in (("rotate",), ("rotate", "--finish")):
        running.type("dora", "sealing", *words)
    running.approve_texts()
    told = _everybody_is_told(running, "7", 1)
    running.type("dora", "incident", "close", told, "--reason", "everybody was told")
    running.type("dora", "subject", "erase", "customer/4", "--reason", "asked for")
    _what_nobody_can_read_is_kept_aside_and_put_back(running, secured[0])
    running.type("dora", "topics", "switch-generation", "--partitions", "7", seconds=240)
    running.until(
        lambda: running.tried("dora", "topics", "switch-generation", "--finish").returncode == 0,
        "the old generation is deleted", 120,
    )  # fmt: skip
    _everybody_is_told(running, "6", 11)
    assert {stage: count for stage, count in running.supervisor.restarts.items() if count} == {}, running.words()
    kept = running.rows(tables.kafka_position)
    assert {row["stage"] for row in kept if row["topic_id"]} == {"intake", "planning", "dispatch", "receipts"}
    decided = decisions(secured[0])
    assert sorted(decided["Denied"]) == []
    assert sorted(_printed() - decided["Allowed"]) == []


def _ready(running: Running) -> set[str]:
    return {stage for stage, address in metrics_addresses(running.settings).items() if _answers(address)}


def _answers(metrics: str) -> bool:
    try:
        with urllib.request.urlopen(metrics.replace("/metrics", "/readyz"), timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _everybody_is_told(running: Running, version: str, first: int) -> str:
    """Have a version's log leak, and everybody told of it: by mail, on the account page, after the account is gone.
    Returns the incident's id.
    """
    people = [somebody(number, "DE", version) for number in range(first, first + 3)]
    reader, leaver = people[1:]
    reader.email, reader.reads_account_notice = f"person.{reader.number}+bounce@de.example.com", True
    leaver.leaves = True
    # were nearly everybody concerned, an approver would be asked whether that is meant
    written = Shop(1, NOW, [*people, *(somebody(number, "DE", "8") for number in range(first + 3, first + 10))])
    with running.store.begin() as connection:
        shop.write_people(connection, written)
    running.until(lambda: open_changes(running.store) == 0, "the relay has carried the shop", 90)
    with running.store.begin() as connection:
        assert shop.delete_leavers(connection, written) == 1
    running.until(lambda: open_changes(running.store) == 0, "and that somebody left", 90)
    before = {row["incident_id"] for row in running.rows(tables.incident)}
    running.alert(f"log-{version}", version)
    (incident_id,) = running.until(
        lambda: {row["incident_id"] for row in running.rows(tables.incident)} - before, "intake opens the incident", 180
    )
    running.until(lambda: running.progress.plan_state(incident_id) == "complete", "the plan is complete", 180)
    running.approve(incident_id)

    def notices_read() -> int:
        with running.store.begin() as connection:
            return shop.read_account_notices(connection, written, datetime.now(UTC))

    running.until(notices_read, "the notice is on the account page", 180)
    running.until(lambda: running.progress.is_finished(incident_id), "everybody is told", 180)
    ends = {
        row["root"]: row["final_state"] for row in running.rows(tables.recipient) if row["incident_id"] == incident_id
    }
    assert ends == {f"customer/{each.number}": "reached" for each in people}
    for kind in ("case.person.finished", "delivery-outcome", "notice-read", "partition-resolved"):
        running.until(partial(running.leaves, kind), f"the evidence log has {kind}", 180)
    return str(incident_id)


def _topics_as_an_earlier_version_made_them_are_altered(running: Running, server: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", "1048588", incremental_operation=AlterConfigOpType.SET)
    old = [ConfigResource(ResourceType.TOPIC, PREFIX + topic.name, incremental_configs=[entry]) for topic in TOPICS]
    for future in admin.incremental_alter_configs(old).values():
        future.result(30)
    assert running.tried("dora", "topics", "diff").returncode == 1
    running.type("dora", "topics", "apply")
    running.until(lambda: running.tried("dora", "topics", "diff").returncode == 0, "the topics are as declared")


def _what_nobody_can_read_is_kept_aside_and_put_back(running: Running, server: KafkaServer) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap_servers})
    for topic in TOPICS:
        if topic is not DEAD_LETTERS:
            # two: before one goes back, what lies behind it is looked at
            producer.produce(PREFIX + topic.name, b"\xff", b"one", 0)
            producer.produce(PREFIX + topic.name, b"\xff", b"another", 0)
    assert producer.flush(30) == 0

    def kept() -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = json.loads(running.type("dora", "dead-letters", "list", "--json"))
        return letters

    running.until(lambda: len(kept()) == 2 * len(READ), "each reader keeps them aside", 180)
    first = kept()
    assert {(each["consumer"], each["topic"]) for each in first} == READ
    running.type("dora", "dead-letters", "show", first[0]["id"])
    said = running.type("dora", "dead-letters", "redrive", "--all", "--stop-after", "100")
    back = [each for each in first if each["topic"] != STORE_CHANGES.name]
    assert f"{len(back)} put back" in said
    # read again by all who read there, and by none of them understood
    running.until(lambda: len(kept()) > len(first), "they are kept aside again", 180)


def _printed() -> set[tuple[str, str, str, str]]:
    """Return the rights, one by one."""
    return {
        (f"tocsin-{each.process}", operation, each.resource, each.name)
        for each in acls(PREFIX)
        if each.process in PROCESSES
        for operation in each.operations
    }
