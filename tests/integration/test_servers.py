"""The test servers themselves: they answer, they have what tests rely on, and they end with their owner."""

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.servers import mview
from tests.servers.kafka import KafkaServer
from tests.servers.local import ServerDidNotStart, running
from tests.servers.mariadb import StoreDatabase

Sql = Callable[..., list[tuple[object, ...]]]
ROOT = Path(__file__).parents[2]


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# Kafka


def test_a_committed_transaction_is_read(kafka_server: KafkaServer, topic_prefix: str) -> None:
    topic = f"{topic_prefix}round-trip"
    address: dict[str, str | int | float | bool] = {"bootstrap.servers": kafka_server.bootstrap_servers}
    admin = AdminClient(address)
    admin.create_topics([NewTopic(topic, num_partitions=2)])[topic].result(timeout=60)
    producer = Producer({**address, "transactional.id": f"{topic_prefix}producer"})
    producer.init_transactions(15)
    for value, finish in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=1)
        producer.flush(15)
        finish(15)
    consumer = Consumer({**address, "group.id": f"{topic_prefix}group", "isolation.level": "read_committed"})
    try:
        consumer.assign([TopicPartition(topic, 1, 0)])
        message = consumer.poll(15)
        assert message is not None
        assert message.value() == b"committed"
    finally:
        consumer.close()


def test_topics_are_not_made_by_asking_for_them(kafka_server: KafkaServer, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    admin.list_topics(f"{topic_prefix}never-created", timeout=60)
    assert f"{topic_prefix}never-created" not in admin.list_topics(timeout=60).topics


# MariaDB


@pytest.fixture
def sql(mariadb_database: StoreDatabase) -> Iterator[Sql]:
    connection = mariadb_database.connect()

    def run(statement: str, *values: object) -> list[tuple[object, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())

    yield run
    connection.close()


@pytest.fixture
def told(sql: Sql) -> Callable[[str], list[object]]:
    """Return the entity ids in a changelog, and empty it."""

    def take(view: str) -> list[object]:
        rows = sql(f"SELECT entity_id FROM {view}_cl ORDER BY version_id")
        sql(f"DELETE FROM {view}_cl")
        return [entity_id for (entity_id,) in rows]

    return take


@pytest.fixture
def customer(sql: Sql, told: Callable[[str], list[object]]) -> int:
    sql("INSERT INTO store_website (website_id, code) VALUES (1, 'base')")
    sql("INSERT INTO store_group (group_id, website_id, name) VALUES (1, 1, 'Main')")
    sql("INSERT INTO store (store_id, code, website_id, group_id, name) VALUES (1, 'default', 1, 1, 'Default')")
    sql("INSERT INTO customer_entity (entity_id, website_id, store_id, email) VALUES (42, 1, 1, 'a@shop.example.com')")
    assert told("tocsin_customer") == [42]
    return 42


def test_a_changed_customer_is_told_and_a_log_in_is_not(
    sql: Sql, told: Callable[[str], list[object]], customer: int
) -> None:
    sql("UPDATE customer_entity SET failures_num = 1, rp_token = 'x', session_cutoff = NOW(), lock_expires = NOW()")
    sql("UPDATE customer_entity SET email = email")
    assert told("tocsin_customer") == []
    sql("UPDATE customer_entity SET email = NULL")
    assert told("tocsin_customer") == [customer]


def test_addresses_and_attributes_tell_of_their_customer(
    sql: Sql, told: Callable[[str], list[object]], customer: int
) -> None:
    sql(
        "INSERT INTO customer_address_entity (entity_id, parent_id, city, country_id, firstname, lastname, street,"
        " telephone) VALUES (7, %s, 'X', 'DE', 'X', 'X', 'X', '0')",
        customer,
    )
    sql("DELETE FROM customer_address_entity")
    assert told("tocsin_customer_address") == [customer, customer]
    sql("INSERT INTO eav_entity_type (entity_type_id, entity_type_code, entity_model) VALUES (1, 'customer', 'x')")
    sql("INSERT INTO eav_attribute (attribute_id, entity_type_id, attribute_code) VALUES (200, 1, 'fraud_score')")
    sql("INSERT INTO customer_entity_decimal (attribute_id, entity_id, value) VALUES (200, %s, 0.5)", customer)
    assert told("tocsin_customer_eav") == [customer]


def test_what_a_foreign_key_removes_or_nulls_is_told_by_its_parent_only(
    sql: Sql, told: Callable[[str], list[object]], customer: int
) -> None:
    sql(
        "INSERT INTO sales_order (entity_id, customer_id, customer_email) VALUES (9, %s, 'a@shop.example.com')",
        customer,
    )
    sql(
        "INSERT INTO customer_address_entity (parent_id, city, country_id, firstname, lastname, street, telephone)"
        " VALUES (%s, 'X', 'DE', 'X', 'X', 'X', '0')",
        customer,
    )
    for view in ("tocsin_order", "tocsin_customer_address"):
        told(view)
    sql("DELETE FROM customer_entity")
    assert sql("SELECT customer_id FROM sales_order") == [(None,)]
    assert sql("SELECT * FROM customer_address_entity") == []
    assert told("tocsin_customer") == [customer]
    assert told("tocsin_order") == []
    assert told("tocsin_customer_address") == []


def test_an_order_tells_of_contact_and_customer_only(sql: Sql, told: Callable[[str], list[object]]) -> None:
    sql("INSERT INTO sales_order (entity_id, customer_email, status) VALUES (9, 'a@shop.example.com', 'pending')")
    assert told("tocsin_order") == [9]
    sql("UPDATE sales_order SET status = 'complete', total_paid = 5, customer_note = 'x'")
    assert told("tocsin_order") == []
    for column, value in {"customer_email": "b", "customer_lastname": "b", "billing_address_id": 3}.items():
        sql(f"UPDATE sales_order SET {column} = %s", value)
        assert told("tocsin_order") == [9], column
    sql("INSERT INTO sales_order_address (parent_id, country_id) VALUES (9, 'FR')")
    assert told("tocsin_order") == [9]


def test_a_notice_tells_of_its_reading_only(sql: Sql, told: Callable[[str], list[object]]) -> None:
    sql(
        "INSERT INTO tocsin_account_notice (id, notice_id, customer_id, incident_id, title, body, locale, created_at)"
        " VALUES (3, 'n-1', 42, 'INC-2026-0001', 'x', 'y', 'en_US', NOW())"
    )
    told("tocsin_account_notice")
    sql("UPDATE tocsin_account_notice SET title = 'z', withdrawn_at = NOW()")
    assert told("tocsin_account_notice") == []
    sql("UPDATE tocsin_account_notice SET read_at = NOW()")
    assert told("tocsin_account_notice") == [3]


def test_an_import_of_many_rows_tells_of_each_that_changes(
    sql: Sql, told: Callable[[str], list[object]], customer: int
) -> None:
    rows = "(42, 1, 1, 'a@shop.example.com'), (43, 1, 1, 'b@shop.example.com'), (44, 1, 1, 'c@shop.example.com')"
    upsert = (
        f"INSERT INTO customer_entity (entity_id, website_id, store_id, email) VALUES {rows}"
        " ON DUPLICATE KEY UPDATE email = VALUES(email), updated_at = NOW()"
    )
    sql(upsert)
    assert told("tocsin_customer") == [43, 44]  # 42 is as it was
    sql(upsert.replace("c@shop", "d@shop"))
    assert told("tocsin_customer") == [44]
    sql("INSERT INTO eav_entity_type (entity_type_id, entity_type_code, entity_model) VALUES (1, 'customer', 'x')")
    sql("INSERT INTO eav_attribute (attribute_id, entity_type_id, attribute_code) VALUES (200, 1, 'fraud_score')")
    for score, changed in (("0.5", [42, 43]), ("0.7", [43])):
        sql(
            f"INSERT INTO customer_entity_decimal (attribute_id, entity_id, value) VALUES (200, 42, 0.5), (200, 43, {score})"
            " ON DUPLICATE KEY UPDATE value = VALUES(value)"
        )
        assert told("tocsin_customer_eav") == changed


def test_a_change_that_is_rolled_back_is_not_told(
    mariadb_database: StoreDatabase, told: Callable[[str], list[object]], customer: int
) -> None:
    shop = mariadb_database.connect(autocommit=False)
    with shop.cursor() as cursor:
        cursor.execute("UPDATE customer_entity SET email = 'x@shop.example.com' WHERE entity_id = %s", (customer,))
        cursor.execute("SELECT entity_id FROM tocsin_customer_cl")
        assert cursor.fetchall() == ((customer,),)
    shop.rollback()
    shop.close()
    assert told("tocsin_customer") == []


def test_a_deleted_provenance_row_leaves_its_record_and_root(sql: Sql) -> None:
    sql(
        "INSERT INTO tocsin_provenance (record_id, root, customer_id, entity_type, entity_id, attribute, model_id,"
        " model_version, generated_at, kind, sensitivity, categories, elements)"
        " VALUES ('r-1', 'customer/42', 42, 'customer', 42, 'fraud_score', 'scorer', '7',"
        " '2026-03-01 10:00:00.123456', 'inferred', 'high', '[]', '[]')"
    )
    sql("DELETE FROM tocsin_provenance_cl")
    sql("DELETE FROM tocsin_provenance")
    assert sql("SELECT record_id, root FROM tocsin_provenance_cl") == [("r-1", "customer/42")]


def test_the_tables_are_those_that_the_module_declares(sql: Sql) -> None:
    declared = {
        (table.attrib["name"], column.attrib["name"]): (
            column.attrib["{http://www.w3.org/2001/XMLSchema-instance}type"],
            column.attrib["nullable"] == "true",
        )
        for table in ET.parse(mview.MODULE / "etc" / "db_schema.xml").getroot().iterfind("table")
        for column in table.iterfind("column")
    }
    found = {
        (table, column): (kind, nullable == "YES")
        for table, column, kind, nullable in sql(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name LIKE 'tocsin%%' AND table_name NOT LIKE '%%\\_cl'"
        )
    }
    assert found == declared


# Their end


def test_a_server_ends_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the owner, so that no finally runs: the server dies, and its folder goes."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pid_file = tmp_path / "pid"
    program = (
        "import sys, time; from pathlib import Path; from tests.servers.local import running\n"
        "scratch, pid = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "with running('sleeper', ['sh', '-c', f'echo $$ > {pid}.part && mv {pid}.part {pid} && exec sleep 600'],"
        " scratch, pid.exists):\n"
        "    print('up', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(scratch), str(pid_file)], cwd=ROOT, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        server = int(pid_file.read_text(encoding="ascii"))
        assert is_running(server)
        owner.kill()
        owner.wait(timeout=60)
    wait_for("the server's end", lambda: not is_running(server))
    wait_for("the folder's removal", lambda: not scratch.exists())


def test_a_server_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    supervisor_file = tmp_path / "supervisor"
    script = f"echo $PPID > {supervisor_file}; echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 600"
    with running("sleeper", ["sh", "-c", script], tmp_path, pid_file.exists):
        server = int(pid_file.read_text(encoding="ascii"))
        os.kill(int(supervisor_file.read_text(encoding="ascii")), signal.SIGKILL)
        wait_for("the server's end", lambda: not is_running(server))


def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerDidNotStart, match=r"exit code 3\nno such option"),
        running("broken", ["sh", "-c", "echo no such option; exit 3"], tmp_path, lambda: False),
    ):
        pass


def test_a_server_that_stays_silent_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerDidNotStart, match="did not answer within 0 s"),
        running("silent", ["sleep", "600"], tmp_path, lambda: False, timeout_seconds=0.2),
    ):
        pass
