"""What capture adds to a customer's save: the same transactions on a store with and without the module's triggers, in turn.

Replayed at SQL level, as Magento's repository saves a customer with an address: two updates and an upsert of an attribute.
Goal: at most 0.3 ms more in the middle, at most 1 ms more at the 99th percentile.
"""

import os
import statistics
import time
from collections.abc import Sequence

import pymysql
from pymysql.connections import Connection

from tests.bench.run import PeerMissing
from tests.bench.stand import servers
from tests.servers import choice, mariadb

_CUSTOMERS = 200
_ATTRIBUTE = 200


def main(size: str) -> dict[str, object]:
    """Return both stores' times and what capture adds, in milliseconds."""
    way = choice.way_to("MariaDB", mariadb.PROGRAMS, choice.look_around(mariadb.PROGRAMS, os.environ))
    if isinstance(way, choice.Missing):
        raise PeerMissing(way.reason)
    transactions = 10_000 if size == "full" else 100
    with (
        mariadb.mariadb_server(way) as server,
        mariadb.fresh_database(server, with_tables=True) as watched,
        mariadb.fresh_database(server, with_tables=True) as plain,
        watched.connect(autocommit=False) as first,
        plain.connect(autocommit=False) as second,
    ):
        with second.cursor() as cursor:
            servers.drop_triggers(cursor)
        for connection in (first, second):
            _fill(connection)
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(-100, transactions):
            # In turn, and each of the two as often first as second.
            order = ((0, first), (1, second)) if number % 2 else ((1, second), (0, first))
            for which, connection in order:
                took = save(connection, 1 + number % _CUSTOMERS, number)
                if number >= 0:
                    times[which].append(took)
        told = _count(first, "tocsin_customer_cl")
        assert told >= transactions, "the triggers did not tell of every save"
        assert _count(second, "tocsin_customer_cl") == 0, "the store to compare with has triggers"
    return report(*times)


def report(with_capture: Sequence[float], without: Sequence[float]) -> dict[str, object]:
    """Return percentiles of both, and the differences, of times in seconds."""
    found: dict[str, object] = {"transactions": len(without)}
    for name, index in (("p50", 49), ("p99", 98)):
        watched, plain = (statistics.quantiles(times, n=100)[index] * 1000 for times in (with_capture, without))
        found[f"{name} without, ms"] = round(plain, 3)
        found[f"{name} with, ms"] = round(watched, 3)
        found[f"{name} added, ms"] = round(watched - plain, 3)
    return found


def save(
    connection: "Connection[pymysql.cursors.Cursor]", customer_id: int, number: int, attribute_id: int = _ATTRIBUTE
) -> float:
    """Save a customer, the address and an attribute in one transaction, as a change; return the seconds it took."""
    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(
            "UPDATE customer_entity SET firstname = %s, updated_at = NOW() WHERE entity_id = %s",
            (f"Placeholder {number}", customer_id),
        )
        cursor.execute(
            "UPDATE customer_address_entity SET street = %s, updated_at = NOW() WHERE parent_id = %s",
            (f"Musterweg {number}", customer_id),
        )
        cursor.execute(
            "INSERT INTO customer_entity_varchar (attribute_id, entity_id, value) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE value = VALUES(value)",
            (attribute_id, customer_id, f"band {number}"),
        )
    connection.commit()
    return time.perf_counter() - began


def _fill(connection: "Connection[pymysql.cursors.Cursor]") -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO store_website (website_id, code) VALUES (1, 'base')")
        cursor.execute("INSERT INTO store_group (group_id, website_id, name) VALUES (1, 1, 'Main')")
        cursor.execute(
            "INSERT INTO store (store_id, code, website_id, group_id, name) VALUES (1, 'default', 1, 1, 'View')"
        )
        cursor.execute(
            "INSERT INTO eav_entity_type (entity_type_id, entity_type_code, entity_model) VALUES (1, 'customer', 'x')"
        )
        cursor.execute(
            "INSERT INTO eav_attribute (attribute_id, entity_type_id, attribute_code, backend_type)"
            f" VALUES ({_ATTRIBUTE}, 1, 'income_band', 'varchar')"
        )
        for number in range(1, _CUSTOMERS + 1):
            cursor.execute(
                "INSERT INTO customer_entity (entity_id, website_id, store_id, email) VALUES (%s, 1, 1, %s)",
                (number, f"person{number}@shop.example.com"),
            )
            cursor.execute(
                "INSERT INTO customer_address_entity (parent_id, city, country_id, firstname, lastname, street, telephone)"
                " VALUES (%s, 'Beispielstadt', 'DE', 'Placeholder', 'Person', 'Musterweg 1', '0')",
                (number,),
            )
    connection.commit()


def _count(connection: "Connection[pymysql.cursors.Cursor]", table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {table}")
        row = cursor.fetchone()
    return int(row[0]) if row else 0
