"""MariaDB and Kafka of a size that benchmarks need, and a store with customers and provenance in it."""

import atexit
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from confluent_kafka import Consumer, KafkaError, TopicPartition
from pymysql.cursors import Cursor

from tests.bench.run import PeerMissing
from tests.bench.stand import measure
from tests.servers import choice, kafka, mariadb

JVM = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")


@dataclass(frozen=True, slots=True)
class Stand:
    """Both servers with one store."""

    store: mariadb.StoreDatabase
    bootstrap_servers: str

    @property
    def pids(self) -> dict[str, int]:
        port = int(self.bootstrap_servers.rsplit(":", 1)[1])
        return {"mariadb": measure.listening_on(self.store.server.port), "kafka": measure.listening_on(port)}


@contextmanager
def stand(*, small: bool, binary_log: bool = True) -> Iterator[Stand]:
    """Yield the servers with an empty store; `small` ones are shared by all tries at toy size. Raises PeerMissing.

    `binary_log`: as Debezium needs it; MariaDB comes without.
    """
    with ExitStack() as own:
        database, broker = small_servers() if small else _started(own, JVM, kafka.AS_RELEASED, binary_log=binary_log)
        store = own.enter_context(mariadb.fresh_database(database, with_tables=True))
        if not small:
            with database.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET GLOBAL innodb_buffer_pool_size = 2147483648")
                cursor.execute("SET GLOBAL innodb_log_file_size = 1073741824")
        yield Stand(store, broker.bootstrap_servers)


def warm(stand: Stand, topic: str, messages: int) -> None:
    """Read so many messages of `topic`, or all, as a reader who is none of those compared."""
    settings = {"group.id": "warm", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": stand.bootstrap_servers} | settings)
    partitions = [
        TopicPartition(topic, each, 0) for each in consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ]
    consumer.assign(partitions)
    read, unread, give_up_at = 0, {each.partition for each in partitions}, time.monotonic() + 300
    while unread and read < messages:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"the broker gave only {read} messages of {topic}")
        for message in consumer.consume(5000, timeout=0.5):
            error = message.error()
            if error is None:
                read += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
    consumer.close()


@cache
def small_servers() -> tuple[mariadb.MariaDbServer, kafka.KafkaServer]:
    """Return the servers of all tries at toy size; tests lend theirs."""
    kept = ExitStack()
    atexit.register(kept.close)
    return _started(kept, kafka.JVM, {})


def _started(
    keeper: ExitStack, jvm: Sequence[str], settings: Mapping[str, str], *, binary_log: bool = True
) -> tuple[mariadb.MariaDbServer, kafka.KafkaServer]:
    ways = []
    for name, programs in (("MariaDB", mariadb.PROGRAMS), ("Kafka", kafka.PROGRAMS)):
        way = choice.way_to(name, programs, choice.look_around(programs, os.environ))
        if isinstance(way, choice.Missing):
            raise PeerMissing(way.reason)
        ways.append(way)
    return (
        keeper.enter_context(mariadb.mariadb_server(ways[0], binary_log=binary_log)),
        keeper.enter_context(kafka.kafka_server(ways[1], jvm=jvm, settings=settings)),
    )


def fill(cursor: Cursor, customers: int, records: int) -> None:
    """Write a shop: each customer with two addresses and two AI-written values, every third with an order."""
    for statement in _SHOP:
        cursor.execute(statement)
    cursor.execute("SET foreign_key_checks = 0")
    for statement in (_CUSTOMERS, *_ADDRESSES, *_VALUES):
        cursor.execute(statement.replace("{n}", str(customers)))
    for statement in _ORDERS:
        cursor.execute(statement.replace("{n}", str(customers // 3 or 1)))
    cursor.execute(_RECORDS.replace("{n}", str(records)).replace("{customers}", str(customers)))
    cursor.execute("SET foreign_key_checks = 1")
    cursor.execute("ANALYZE TABLE customer_entity, customer_address_entity, sales_order, tocsin_provenance")
    forget(cursor)


def forget(cursor: Cursor) -> None:
    """Empty the changelogs."""
    cursor.execute("SHOW TABLES LIKE 'tocsin%\\_cl'")
    for (table,) in cursor.fetchall():
        cursor.execute(f"TRUNCATE {table}")


def drop_triggers(cursor: Cursor) -> None:
    """Make the store one that knows nothing of us: what changes from now on is told to no changelog."""
    cursor.execute("SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()")
    for (name,) in cursor.fetchall():
        cursor.execute(f"DROP TRIGGER `{name}`")


class Backlog:
    """A changelog filled anew from 1 and drained in order: how many of its rows still wait.

    It looks from the first row that it saw last, or the server would walk over all that was deleted since the start and is
    not purged yet, many times a second, and at the cost of what is measured.
    """

    def __init__(self, cursor: Cursor, view: str) -> None:
        self._cursor = cursor
        self._text = f"SELECT MIN(version_id), MAX(version_id) FROM {view}_cl WHERE version_id >= %s"
        self._first = 0
        self.total = self.left()

    def left(self) -> int:
        """Return how many rows wait."""
        self._cursor.execute(self._text, (self._first,))
        ((first, last),) = self._cursor.fetchall()
        if first is None:
            return 0
        self._first = int(first)
        return int(last) - self._first + 1


_SHOP = (
    "SET time_zone = '+00:00'",
    "INSERT INTO store_website (website_id, code) VALUES (1, 'main')",
    "INSERT INTO store_group (group_id, website_id, name) VALUES (1, 1, 'Main')",
    "INSERT INTO store (store_id, code, website_id, group_id, name) VALUES (1, 'main', 1, 1, 'Main')",
    "INSERT INTO core_config_data (scope, scope_id, path, value) VALUES ('stores', 1, 'general/locale/code', 'de_DE')",
    "INSERT INTO directory_country_region (region_id, country_id, code, default_name)"
    " VALUES (12, 'US', 'CA', 'California'), (81, 'DE', 'BAY', 'Bayern')",
    "INSERT INTO eav_entity_type (entity_type_id, entity_type_code, entity_model) VALUES (1, 'customer', 'x')",
    "INSERT INTO eav_attribute (attribute_id, entity_type_id, attribute_code, backend_type)"
    " VALUES (201, 1, 'fraud_score', 'decimal'), (202, 1, 'income_band', 'varchar')",
)
_CUSTOMERS = """
INSERT INTO customer_entity
    (entity_id, website_id, store_id, email, firstname, lastname, default_billing, default_shipping, password_hash)
SELECT seq, 1, 1, CONCAT('customer', seq, '@', ELT(seq % 4 + 1, 'mail', 'post', 'shop', 'inbox'), '.example.com'),
    ELT(seq % 4 + 1, 'Anna', 'Jürgen', 'Zoë', 'Søren'), CONCAT('Lastname', seq % 5000), seq * 2 - 1, seq * 2, SHA2(seq, 256)
FROM seq_1_to_{n}
"""
_ADDRESSES = tuple(
    "INSERT INTO customer_address_entity (entity_id, parent_id, city, country_id, firstname, lastname, postcode, region,"
    f" region_id, street, telephone) SELECT seq * 2 - {1 - which}, seq, CONCAT('City', seq % 900),"
    " ELT(seq % 3 + 1, 'DE', 'FR', 'US'), 'Anna', CONCAT('Lastname', seq % 5000), LPAD(seq % 99999, 5, '0'), 'Region',"
    " ELT(seq % 3 + 1, 81, NULL, 12), CONCAT(seq % 200, ' Main Street'), ELT(seq % 3 + 1, CONCAT('+49 171 ', LPAD(seq, 7, '3')),"
    " CONCAT('06 ', LPAD(seq, 8, '1')), CONCAT('(213) 555-', LPAD(seq % 10000, 4, '0'))) FROM seq_1_to_{n}"
    for which in (0, 1)
)
_VALUES = (
    "INSERT INTO customer_entity_decimal (attribute_id, entity_id, value) SELECT 201, seq, seq % 1000 / 1000 FROM seq_1_to_{n}",
    "INSERT INTO customer_entity_varchar (attribute_id, entity_id, value)"
    " SELECT 202, seq, ELT(seq % 4 + 1, 'low', 'middle', 'high', 'top') FROM seq_1_to_{n}",
)
_ORDERS = (
    "INSERT INTO sales_order (entity_id, store_id, customer_id, customer_email, billing_address_id, increment_id)"
    " SELECT seq, 1, seq * 3, CONCAT('customer', seq * 3, '@example.com'), seq, LPAD(seq, 9, '0') FROM seq_1_to_{n}",
    "INSERT INTO sales_order_address (entity_id, parent_id, country_id, firstname, lastname, street, city, postcode, telephone,"
    " address_type) SELECT seq, seq, ELT(seq % 4 + 1, 'DE', 'US', 'FR', 'IT'), 'A', 'B', 'S 1', 'C', '12345', 'n/a', 'billing'"
    " FROM seq_1_to_{n}",
)
_RECORDS = """
INSERT INTO tocsin_provenance (record_id, root, customer_id, entity_type, entity_id, attribute, model_id, model_version, run_id,
    dataset_version, generated_at, kind, confidence, sensitivity, categories, elements, source_system, storage_location,
    input_fields, legal_basis)
SELECT UUID(), CONCAT('customer/', seq % {customers} + 1), seq % {customers} + 1, 'customer', seq % {customers} + 1,
    CONCAT('attribute_', seq % 10), CONCAT('churn-model-', seq % 5), 'v0', UUID(), CONCAT('ds-', seq % 30),
    NOW() - INTERVAL seq SECOND, ELT(seq % 3 + 1, 'inferred', 'synthetic', 'derived'), seq % 10000 / 10000,
    ELT(seq % 4 + 1, 'low', 'medium', 'high', 'critical'), '["profiling","marketing"]', '["email","purchase_history"]',
    'ml-pipeline', 's3://bucket/predictions/2026/part', '["orders","page_views"]', 'consent'
FROM seq_1_to_{n}
"""
