"""`tocsin relay verify` and `status` beside a real relay and a real index: what differs is named by cause, and repaired."""

import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from bridge.contracts.envelope import seal_envelope
from bridge.contracts.events import IncidentRevised
from bridge.contracts.scope import Scope
from bridge.contracts.topics import DEPARTED_CUSTOMERS, INCIDENTS
from bridge.runtime.kafka import Publisher
from bridge.runtime.settings import Kafka
from tests.integration.whole_way import Installation, wait_for
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase
from tests.store_rows import StoreRows, run

CUSTOMERS = range(1, 41)


@pytest.fixture
def shop(mariadb_database: StoreDatabase) -> Iterator[StoreRows]:
    engine = sa.create_engine(mariadb_database.url)
    rows = StoreRows(engine)
    rows.base()
    for number in CUSTOMERS:
        rows.customer(number)
        rows.provenance(f"r-{number}", f"customer/{number}", confidence=0.25)
    rows.order(7)
    rows.provenance("o-7", "order/7")
    # a writer that names the order in the root only, where no index finds it
    rows.order(8)
    rows.provenance("o-8", "order/8", order_id=None)
    # and one whose only record somebody deletes
    rows.order(9)
    rows.provenance("o-9", "order/9")
    yield rows
    engine.dispose()


@pytest.fixture
def tocsin(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, mariadb_database: StoreDatabase, shop: StoreRows
) -> Iterator[Installation]:
    installation = Installation(
        tmp_path / "tocsin", kafka_server, topic_prefix, mariadb_database, registered_attributes=["fraud_score"]
    )
    assert installation.tocsin("topics", "apply").returncode == 0
    installation.start("relay", "index")
    yield installation
    installation.stop()
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    ours = [name for name in admin.list_topics(timeout=15).topics if name.startswith(topic_prefix)]
    for future in admin.delete_topics(ours).values():
        future.result(timeout=15)


def behind_the_triggers(shop: StoreRows, statement: str) -> None:
    """Change the store so that nobody is told: as a lost changelog row, or a table without its trigger."""
    with shop.engine.begin() as connection:
        run(connection, statement)
        for view in ("tocsin_customer", "tocsin_customer_address", "tocsin_order", "tocsin_provenance"):
            run(connection, f"DELETE FROM {view}_cl")


def causes(report: Any) -> dict[tuple[str, str], list[str]]:
    return {(each["entity"], each["cause"].partition(",")[0]): each["examples"] for each in report["differences"]}


def person_of(tocsin: Installation, root: str) -> Any:
    return tocsin.facts("index", "inspect", root)[1]["person"]


def tell(kafka: Kafka, status: str) -> None:
    """Tell the index of an incident that nobody is concerned by."""
    scope = Scope(model_ids=("nobody-knows-it",))
    at = datetime(2026, 4, 1, tzinfo=UTC)
    event = IncidentRevised.model_validate(
        {
            "incident_id": "INC-2026-0001",
            "revision": 1 if status == "open" else 2,
            "status": status,
            "scope": scope,
            "scope_sha256": scope.sha256(),
            "detected_at": at,
        }
    )
    publisher = Publisher(kafka)
    publisher.send(INCIDENTS, seal_envelope(event, key="INC-2026-0001", root="INC-2026-0001", source="/case", at=at))
    publisher.flush()
    publisher.close()


def test_what_differs_is_named_by_cause_and_repaired(
    tocsin: Installation, shop: StoreRows, kafka_server: KafkaServer, topic_prefix: str
) -> None:
    incidents = Kafka(bootstrap_servers=kafka_server.bootstrap_servers, topic_prefix=topic_prefix)

    def agrees() -> bool:
        done = tocsin.tocsin("relay", "verify", "--patience", "10", "--json")
        return done.returncode == 0

    wait_for("store and index agree", agrees, 90)
    done = tocsin.tocsin("relay", "verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "store and index agree: 40 customers, 43 records, 2 orders, age of the oldest unpublished"
    )
    code, status = tocsin.facts("relay", "status")
    assert code == 0, status
    assert status["counts_agree"] is True
    assert status["relay"]["active"] is True
    assert (status["waiting"], status["missing"], status["faults"]) == (0, {}, [])
    assert 0 <= status["visible_seconds"] < 30

    # each of these is lost on the way
    behind_the_triggers(shop, "UPDATE customer_address_entity SET telephone = '0171 3920002' WHERE parent_id = 3")
    behind_the_triggers(shop, "DELETE FROM customer_entity WHERE entity_id = 4")
    behind_the_triggers(
        shop,
        "INSERT INTO customer_entity (entity_id, email, website_id, store_id) VALUES (99, 'x@shop.example.com', 1, 1)",
    )
    behind_the_triggers(shop, "UPDATE tocsin_provenance SET deleted_at = '2026-04-01 00:00:00' WHERE record_id = 'r-5'")
    behind_the_triggers(shop, "DELETE FROM tocsin_provenance WHERE record_id = 'r-6'")
    behind_the_triggers(shop, "UPDATE sales_order SET customer_email = 'other@shop.example.com' WHERE entity_id = 8")
    # told, and against the append-only rule all the same
    shop.run("UPDATE tocsin_provenance SET model_version = '8' WHERE record_id = 'r-7'")
    # deleted by SQL, told: the index keeps it as deleted
    shop.run("DELETE FROM tocsin_provenance WHERE record_id IN ('r-8', 'o-9')")
    # whose order stays known all the same: what is told of it is published, and what is lost on the way is found
    wait_for("the deletion is published", lambda: shop.changelog("tocsin_provenance") == [])
    shop.run("UPDATE sales_order SET customer_firstname = 'Other' WHERE entity_id = 9")
    wait_for("the change is published", lambda: shop.changelog("tocsin_order") == [])
    behind_the_triggers(shop, "UPDATE sales_order SET customer_email = 'moved@shop.example.com' WHERE entity_id = 9")
    # a bad row is seen, and agrees
    shop.run("UPDATE customer_entity SET email = 'no address' WHERE entity_id = 9")
    with shop.engine.connect() as holder, holder.begin():
        # verifying waits for no lock of the shop's, and no lock of it makes the shop wait
        run(holder, "UPDATE customer_entity SET lastname = 'Held' WHERE entity_id = 1")
        code, report = tocsin.facts("relay", "verify", "--patience", "6")
        holder.rollback()
    assert code == 1
    found = causes(report)
    assert found == {
        ("customer", "the index holds another state"): ["customer/3"],
        ("customer", "in the index"): ["customer/4"],
        ("customer", "in the store"): ["customer/99"],
        ("order", "the index holds another state"): ["order/8", "order/9"],
        ("provenance", "the index holds another state"): ["provenance/r-5"],
        ("provenance", "in the index"): ["provenance/r-6"],
        ("provenance", "changed by SQL after it was recorded; records are append-only"): ["provenance/r-7"],
    }
    assert report["deleted_by_sql"] == 2
    assert report["proven"] is True

    done = tocsin.tocsin("relay", "verify", "--repair", "--patience", "10")
    assert done.returncode == 1, done.stdout
    assert "7 were published again and agree now" in done.stdout
    assert "provenance/r-7" in done.stdout
    assert "r-5" not in done.stdout
    code, report = tocsin.facts("relay", "verify", "--entity", "customers")
    assert (code, report["customers"], report["differences"]) == (0, 40, [])

    code, status = tocsin.facts("relay", "status")
    assert code == 1
    assert status["faults"] == [{"entity": "customer", "field": "email", "count": 1, "examples": ["customer/9"]}]
    assert status["altered_records"] == 1
    screen = tocsin.tocsin("relay", "status").stdout
    assert "customer email: 1 (customer/9)" in screen
    assert "1 records were changed by SQL" in screen

    # while changes flow, and with one customer who never stands still, nothing is reported that is only on its way
    stop = threading.Event()

    def keep_busy() -> None:
        number = 0
        while not stop.wait(0.005):
            number += 1
            shop.run(f"UPDATE customer_entity SET lastname = 'N{number}' WHERE entity_id IN (1, {number % 40 + 1})")

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        code, report = tocsin.facts("relay", "verify", "--entity", "customers", "--patience", "6")
    finally:
        stop.set()
        busy.join()
    assert set(causes(report)) <= {("customer", "changed and not published yet")}

    # a new sealing key, while everything runs: all is sealed anew, and the old key goes
    done = tocsin.tocsin("sealing", "rotate")
    assert done.returncode == 0, done.stderr
    # customer 4 is gone from the store: nothing can seal that contact anew
    assert "1 departed customers, who would be lost" in done.stdout
    code, keys = tocsin.facts("sealing", "status")
    # three orders' contacts beside the customers'
    assert [(key["state"], key["contacts"], key["departed"]) for key in keys] == [("present", 43, 0), ("old", 0, 1)]
    refused = tocsin.tocsin("sealing", "rotate", "--finish")
    assert (refused.returncode, "1 departed" in refused.stdout) == (1, True)

    # more partitions, while everything runs; killed in the middle, and gone on with. What nobody can read goes along.
    publisher = Publisher(incidents)
    publisher.send_raw(DEPARTED_CUSTOMERS, 0, b"customer/\xff", b"{}", [])
    publisher.flush()
    publisher.close()
    shop.run("DELETE FROM customer_entity WHERE entity_id = 11")
    with tocsin.popen("topics", "switch-generation", "--partitions", "8") as killed:
        assert killed.stdout is not None
        assert any(line.startswith("3 copied") for line in killed.stdout)
        killed.kill()
    assert tocsin.facts("index", "status")[1]["partition_count"] == 6
    # an incident that is opened while they are filled is answered from the old partitions: nothing is switched before its end
    with tocsin.popen("topics", "switch-generation") as refused_switch:
        assert refused_switch.stdout is not None
        for line in refused_switch.stdout:
            if line.startswith("3 copied"):
                tell(incidents, "open")
    assert refused_switch.returncode == 1
    assert tocsin.facts("index", "status")[1]["partition_count"] == 6
    tell(incidents, "closed")
    # the index is behind, and knows somebody who is deleted before the new partitions hear of them
    tocsin.send_signal("index", signal.SIGSTOP)
    shop.run("DELETE FROM customer_entity WHERE entity_id = 13")
    with tocsin.popen("topics", "switch-generation") as switching:
        assert switching.stdout is not None
        said = ""
        for line in switching.stdout:
            said += line
            if line.startswith("5 verified"):
                tocsin.send_signal("index", signal.SIGCONT)
    assert switching.returncode == 0, said
    assert "5 verified: 38 customers" in said
    assert "7 followed: 8 of 8 partitions of the index answer" in said
    finished = tocsin.tocsin("topics", "switch-generation", "--finish")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("deleted: ") == 2
    # what the store itself does not know any more came along
    for number in (11, 13):
        assert person_of(tocsin, f"customer/{number}")["state"] == "departed"
    wait_for("the order without records follows", lambda: person_of(tocsin, "order/9")["state"] == "present")
    shop.run("UPDATE customer_entity SET lastname = 'Later' WHERE entity_id = 12")
    code, report = tocsin.facts("relay", "verify", "--patience", "10")
    # the record that was altered in the store is known as such in the new partitions, too
    assert [(each["entity"], each["cause"][:14]) for each in report["differences"]] == [
        ("provenance", "changed by SQL")
    ], report
    assert (code, report["customers"], report["partition_count"]) == (1, 38, 8), report
    assert tocsin.tocsin("topics", "diff").returncode == 0

    # the relay is killed: what changes now waits, and that is what is said
    wait_for("all is published", lambda: shop.changelog("tocsin_customer") == [])
    tocsin.stop("relay")
    shop.run("UPDATE customer_entity SET lastname = 'Waiting' WHERE entity_id = 2")
    code, report = tocsin.facts("relay", "verify", "--entity", "customers", "--patience", "1")
    assert code == 1
    assert causes(report) == {("customer", "changed and not published yet"): ["customer/2"]}
    # and without the index nothing can be compared
    tocsin.stop("index")
    done = tocsin.tocsin("relay", "verify")
    assert done.returncode == 3
    assert "tocsin run index" in done.stderr
    done = tocsin.tocsin("relay", "status")
    assert done.returncode == 3
    assert "1 changes not yet published" in done.stdout
