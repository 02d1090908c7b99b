"""The demo's scenario and oracle on a real Apache Kafka and a real MariaDB, as the store and as the case store.

Exit code 0 says: ledger, mailbox and evidence log name exactly the people whom the scenario expects, by the channels and
with the sentences that it expects, and the log verifies offline.
"""

import json
from pathlib import Path

import pymysql

from tests.e2e import demo_process
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase


def test_exactly_those_concerned_are_told_on_real_parts(
    kafka_server: KafkaServer,
    topic_prefix: str,
    mariadb_database: StoreDatabase,
    empty_mariadb_database: StoreDatabase,
    tmp_path: Path,
) -> None:
    surroundings = {
        "kafka": {"bootstrap_servers": kafka_server.bootstrap_servers, "topic_prefix": topic_prefix},
        "store_url": mariadb_database.url,
        "case_store_url": empty_mariadb_database.url,
    }
    done = demo_process.run(
        tmp_path / "demo", "--customers", "200", "--seed", "21",
        module="tests.e2e.on_real_parts", given=json.dumps(surroundings),
    )  # fmt: skip
    assert done.exit_code == 0, done.story
    assert done.summary["faults"] == []
    assert [stage for stage, count in done.summary["restarts"].items() if count] == [], done.story
    assert done.summary["ends"].keys() == {"reached", "unreachable_reported"}
    # and nothing embedded took part
    assert not list((tmp_path / "demo").glob("*.db"))
    assert not (tmp_path / "demo" / "logs" / "kafka.log").exists()
    with empty_mariadb_database.connect() as connection:
        assert _tried_channels(connection) == {"email", "sms", "account_notice", "letter"}


def _tried_channels(connection: "pymysql.connections.Connection[pymysql.cursors.Cursor]") -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT channel FROM attempt")
        return {channel for (channel,) in cursor.fetchall()}
