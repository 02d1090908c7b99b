"""Provenance of a large shop, the same for every system that is compared: into a topic, into MariaDB's tables, or both.

A record is what the relay would publish, of about 670 bytes with its own headers; a tenth come a second time, later in the
topic, deleted by then: the one change that a record may see. Equal numbers give equal bytes. A record is made by DuckDB's SQL,
because at ten million of them Python would need minutes.

The question: whom did one model in one of three versions touch within a window of exposure, and for each person: the union of
the categories, the kinds, and the highest sensitivity. About every tenth person. An answer is compared as the number of people
and an MD5 over lines `customer|categories|sensitivity|kinds`, customers ascending, lists sorted and joined by commas.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pymysql
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pymysql.cursors import Cursor

from bridge.contracts.envelope import Envelopes
from bridge.contracts.events import SENSITIVITY_ORDER, ProvenanceRecorded
from bridge.contracts.partitioner import partition_of
from bridge.contracts.scope import Scope
from tests.servers.mariadb import StoreDatabase

PARTITIONS = 6
RECORDS_PER_PERSON = 10
UPDATES = 10
"""Every tenth record comes again, deleted."""
MODEL, VERSIONS = "model-2", ("1.3.0", "1.4.0", "2.1.0")
FROM, TO = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
SCOPE = Scope(model_ids=(MODEL,), model_versions=VERSIONS, exposed_from=FROM, exposed_to=TO)
PUBLISHED_AT = datetime(2026, 11, 20, tzinfo=UTC)

Person = tuple[int, Iterable[str], str, Iterable[str]]
"""Customer, categories, highest sensitivity, kinds."""


_MACROS = """
CREATE MACRO one_of(list, number) AS list[(1 + number % len(list))::BIGINT];
CREATE MACRO written(minute) AS strftime(TIMESTAMP '2025-01-01' + INTERVAL 1 MINUTE * minute::BIGINT, '%Y-%m-%dT%H:%M:%S.%gZ');
CREATE MACRO some_of(names, number) AS list_sort(list_distinct([one_of(names, number), one_of(names, number // 11)]));
CREATE MACRO as_json(names) AS '["' || array_to_string(names, '","') || '"]';
"""
_RECORDS = """
SELECT n, 1 + s % {people} AS customer_id, format('{{:08x}}-{{:04x}}-7{{:03x}}-a{{:03x}}-{{:012x}}', n, s >> 48,
        (s >> 16) & 4095, s & 4095, (s >> 13) & 281474976710655) AS record_id,
    one_of(['customer', 'address', 'order', 'quote', 'wishlist'], s >> 40) AS entity_type, (s >> 24) % 9000000 AS entity_id,
    one_of(['segment', 'churn_score', 'fraud_score', 'income_band', 'lifetime_value', 'gender_guess', 'interests', 'risk_band'],
        s >> 5) AS attribute,
    'model-' || (s >> 20) % 8 AS model_id, (1 + c % 20 // 10) || '.' || c % 10 || '.0' AS model_version,
    written(minute)[:10] AS day, (c >> 5) % 5000 AS run, written(minute) AS generated_at,
    CASE WHEN ({again}) OR (c >> 30) % 10 >= 7 THEN written(minute + 1 + (c >> 33) % 288000) END AS deleted_at,
    one_of(['synthetic', 'derived', 'inferred', 'real'], c >> 13) AS kind, (c >> 7) % 10000 / 10000 AS confidence,
    one_of(['low', 'medium', 'high', 'critical'], (c >> 21) % 16 // 5) AS sensitivity,
    some_of(['contact', 'address', 'purchase', 'payment', 'health', 'location', 'behaviour', 'demographic', 'device'], c >> 9)
        AS categories,
    some_of(['email', 'account_number', 'purchase_history', 'location_trace', 'fraud_score'], c >> 11) AS elements,
    one_of(['magento', 'crm', 'helpdesk', 'warehouse'], s >> 7) AS source_system,
    some_of(['customer_entity.dob', 'customer_address_entity.postcode', 'sales_order.grand_total', 'sales_order.items',
        'quote.items_count'], s >> 9) AS input_fields,
    one_of(['consent', 'contract', 'legitimate_interest', 'legal_obligation'], s >> 11) AS legal_basis
FROM (SELECT n, s, c, (c >> 8) % 777600 AS minute FROM (
    SELECT range AS n, (hash(range, 7) >> 1)::BIGINT AS s, (hash(range, 11) >> 1)::BIGINT AS c
    FROM range({first}, {last}) {where}))
"""
_JSON = """
'{"root":"customer/' || customer_id || '","record_id":"' || record_id || '","customer_id":' || customer_id
|| ',"order_id":null,"entity_type":"' || entity_type || '","entity_id":' || entity_id || ',"attribute":"' || attribute
|| '","model_id":"' || model_id || '","model_version":"' || model_version || '","run_id":"run-' || day || '-' || run
|| '","dataset_version":"ds-' || day || '.' || run % 50 || '","generated_at":"' || generated_at || '","deleted_at":'
|| coalesce('"' || deleted_at || '"', 'null') || ',"kind":"' || kind || '","confidence":' || confidence
|| ',"sensitivity":"' || sensitivity || '","categories":' || as_json(categories) || ',"elements":' || as_json(elements)
|| ',"source_system":"' || source_system || '","storage_location":"s3://ai-' || model_id || '/eu-central-1/' || day || '/part-'
|| run || '.parquet","input_fields":' || as_json(input_fields) || ',"legal_basis":"' || legal_basis || '"}'
"""
_CHUNK = 200_000
_TABLES = """
CREATE TABLE bench_customer (entity_id INT UNSIGNED PRIMARY KEY, website_id SMALLINT, email VARCHAR(255), firstname VARCHAR(255),
    lastname VARCHAR(255), default_billing INT UNSIGNED) ENGINE=InnoDB;
CREATE TABLE bench_address (entity_id INT UNSIGNED PRIMARY KEY, parent_id INT UNSIGNED, city VARCHAR(255), country_id CHAR(2),
    postcode VARCHAR(20), street TEXT, KEY (parent_id)) ENGINE=InnoDB;
INSERT INTO bench_customer SELECT seq, 1, CONCAT('c', seq, '@shop.example.com'), CONCAT('F', seq), CONCAT('L', seq), seq
    FROM seq_1_to_{people};
INSERT INTO bench_address SELECT seq, seq, CONCAT('City', seq % 500), 'DE', LPAD(seq % 99999, 5, '0'), CONCAT('Street ', seq)
    FROM seq_1_to_{people};
CREATE TABLE bench_provenance (record_id VARCHAR(64) PRIMARY KEY, customer_id INT UNSIGNED NOT NULL,
    entity_type VARCHAR(16) NOT NULL, entity_id INT UNSIGNED NOT NULL, attribute VARCHAR(32) NOT NULL,
    model_id VARCHAR(32) NOT NULL, model_version VARCHAR(16) NOT NULL, generated_at DATETIME(3) NOT NULL,
    deleted_at DATETIME(3) NULL, kind VARCHAR(24) NOT NULL,
    confidence DOUBLE, sensitivity TINYINT NOT NULL, categories VARCHAR(255) NOT NULL) ENGINE=InnoDB
"""
_ROWS = """
SELECT record_id, customer_id, entity_type, entity_id, attribute, model_id, model_version, replace(generated_at[:23], 'T', ' '),
    replace(deleted_at[:23], 'T', ' '), kind, confidence, list_position(['low', 'medium', 'high', 'critical'], sensitivity) - 1,
    array_to_string(categories, ',')
"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """So many records about a tenth as many people."""

    records: int

    @property
    def people(self) -> int:
        return max(1, self.records // RECORDS_PER_PERSON)

    @property
    def messages(self) -> int:
        """Return how many messages they are, those that come again included."""
        return self.records + -(-self.records // UPDATES)

    def publish(self, bootstrap_servers: str, topic: str) -> None:
        """Make `topic` and write every message to it, with the envelope that the relay gives it."""
        _create(bootstrap_servers, topic)
        partitions = [partition_of(f"customer/{each}", PARTITIONS) for each in range(self.people + 1)]
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers, "linger.ms": 50, "batch.size": 524_288, "compression.type": "lz4",
                "queue.buffering.max.messages": 500_000, "queue.buffering.max.kbytes": 524_288,
            }
        )  # fmt: skip
        failed: list[KafkaError] = []
        producer_poll, produce = producer.poll, producer.produce
        envelopes = Envelopes("/relay", PUBLISHED_AT)
        for customer_id, record_id, value in self.messages_once():
            message = envelopes.message(
                ProvenanceRecorded.ce_type, f"provenance/{record_id}", f"customer/{customer_id}", value.encode()
            )
            while True:
                try:
                    produce(
                        topic,
                        message.value,
                        message.key.encode(),
                        partitions[customer_id],
                        headers=list(message.headers),
                    )
                    break
                except BufferError:
                    producer_poll(0.1)
        if producer.flush(120) or failed:
            raise RuntimeError(f"Kafka did not take all records: {failed[:1]}")

    def load(self, store: StoreDatabase) -> None:
        """Write the last state of every record to a table, with the index that the question wants, and people to join."""
        server = store.server
        with (
            pymysql.connect(
                host=server.host, port=server.port, user=server.user, password=server.password, database=store.name,
                charset="utf8mb4", autocommit=True, local_infile=True,
            ) as connection,
            connection.cursor() as cursor,
        ):  # fmt: skip
            self._load(cursor)

    def _load(self, cursor: Cursor) -> None:
        for statement in _TABLES.format(people=self.people).split(";\n"):
            cursor.execute(statement)
        with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder, _database() as database:
            for first in range(0, self.records, 1_000_000):
                last = min(self.records, first + 1_000_000)
                file = Path(folder) / "rows.tsv"
                again = f"n % {UPDATES} = 0"
                rows = (
                    _ROWS
                    + f"FROM ({_RECORDS.format(people=self.people, again=again, first=first, last=last, where='')})"
                )
                database.execute(
                    f"COPY ({rows}) TO '{file}' (HEADER false, DELIMITER '\t', NULLSTR '\\N', QUOTE '', ESCAPE '')"
                )
                cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE bench_provenance CHARACTER SET utf8mb4")
        cursor.execute(
            "ALTER TABLE bench_provenance ADD KEY resolution (model_id, model_version, generated_at, deleted_at),"
            " ADD KEY (customer_id)"
        )
        cursor.execute("ANALYZE TABLE bench_provenance, bench_customer, bench_address")

    def messages_once(self) -> Iterator[tuple[int, str, str]]:
        with _database() as database:
            for again, where in (("false", ""), ("true", f"WHERE range % {UPDATES} = 0")):
                for first in range(0, self.records, _CHUNK):
                    last = min(self.records, first + _CHUNK)
                    records = _RECORDS.format(people=self.people, again=again, first=first, last=last, where=where)
                    yield from database.execute(f"SELECT customer_id, record_id, {_JSON} FROM ({records})").fetchall()


def digest(people: Iterable[Person]) -> tuple[int, str]:
    """Return how many people an answer names, and the MD5 of it."""
    md5 = hashlib.md5(usedforsecurity=False)
    count = 0
    for customer, categories, sensitivity, kinds in sorted(people, key=lambda person: person[0]):
        md5.update(f"{customer}|{','.join(sorted(categories))}|{sensitivity}|{','.join(sorted(kinds))}\n".encode())
        count += 1
    return count, md5.hexdigest()


def sensitivity(rank: int) -> str:
    """Return the name of a sensitivity that is stored as a number from 0."""
    return SENSITIVITY_ORDER[rank].value


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": 2})
    database.execute(_MACROS)
    return database


def _create(bootstrap_servers: str, topic: str) -> None:
    settings = {"cleanup.policy": "delete", "retention.ms": "-1"}
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=settings)])[topic].result(30)
