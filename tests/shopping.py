"""A shop at work, and the judge of what a relay made of it.

The shop changes customers, orders and provenance all the time and remembers every state that each of them had, in order of
commit. The judge reads the topic as an independent consumer does: the newest event of every key must be what the store holds,
and no event may show a state older than one shown before.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pymysql

from bridge.contracts.events import CustomerChanged, EntityRemoved, Event, OrderChanged, ProvenanceRecorded
from bridge.runtime.sealing import email_hmac
from tests.servers.mariadb import StoreDatabase
from tests.store_rows import provenance_row

JOIN_KEY = bytes(32)
GONE = "gone"
Fingerprint = Any


class Shop:
    """Writes over one connection; what a broken one was just doing may or may not have been committed."""

    def __init__(self, database: StoreDatabase, *, after: int = 0, seed: int = 1, per_second: float = 200) -> None:
        self._database = database
        self._chance = random.Random(seed)
        self._pause_seconds = 1 / per_second
        self._connection: Any = None
        self._last = after
        self._versions: dict[int, int] = {}
        self._customers: list[int] = []
        self._orders: dict[int, int | None] = {}
        self._records: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: Exception | None = None
        self.changes = 0
        self.interruptions = 0
        self.histories: dict[str, list[Fingerprint]] = {}

    def __enter__(self) -> "Shop":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop changing things. Raises what went wrong."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(90)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.change()
                self._stop.wait(self._pause_seconds)
        except Exception as error:
            self._error = error

    def change(self) -> None:
        """Do one thing that shops do."""
        step = self._chance.choices(
            (
                self._register,
                self._move,
                self._record,
                self._withdraw,
                self._order,
                self._assign,
                self._leave,
                self._erase,
            ),
            (4, 12, 6, 2, 2, 2, 1, 1),
        )[0]
        try:
            if self._connection is None:
                self._connection = self._database.connect()
            step()
            self.changes += 1
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError):
            self.interruptions += 1
            if self._connection is not None and self._connection.open:
                self._connection.close()
            self._connection = None
            self._stop.wait(0.05)

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _write(self, key: str, fingerprint: Fingerprint, *statements: tuple[str, Sequence[Any]]) -> None:
        # Remembered before it is committed: a state that may have been is one that may be seen.
        self.histories.setdefault(key, []).append(fingerprint)
        self._connection.begin()
        with self._connection.cursor() as cursor:
            for text, values in statements:
                cursor.execute(text, values)
        self._connection.commit()

    def _insert(self, table: str, values: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        names, places = ", ".join(values), ", ".join(["%s"] * len(values))
        return f"INSERT INTO {table} ({names}) VALUES ({places})", list(values.values())

    def _register(self) -> None:
        number = self._number()
        email = f"p{number}.v0@shop.example.com"
        values = {"entity_id": number, "email": email, "website_id": 1, "store_id": 1}
        self._write(f"customer/{number}", fingerprint_of_email(email), self._insert("customer_entity", values))
        self._customers.append(number)
        self._versions[number] = 0

    def _move(self) -> None:
        if not self._customers:
            return
        number = self._chance.choice(self._customers)
        self._versions[number] += 1
        email = f"p{number}.v{self._versions[number]}@shop.example.com"
        update = "UPDATE customer_entity SET email = %s WHERE entity_id = %s"
        self._write(f"customer/{number}", fingerprint_of_email(email), (update, (email, number)))

    def _order(self) -> None:
        number = self._number()
        email = f"b{number}@shop.example.com"
        values = {"entity_id": number, "store_id": 1, "customer_email": email, "increment_id": f"{number:09d}"}
        insert = self._insert("sales_order", values)
        self._write(f"order/{number}", (None, fingerprint_of_email(email)), insert)
        self._orders[number] = None
        self._record(f"order/{number}")

    def _assign(self) -> None:
        """A guest's order becomes an account's."""
        guests = [number for number, customer in self._orders.items() if customer is None]
        if not guests or not self._customers:
            return
        number, customer = self._chance.choice(guests), self._chance.choice(self._customers)
        update = "UPDATE sales_order SET customer_id = %s WHERE entity_id = %s"
        fingerprint = (customer, fingerprint_of_email(f"b{number}@shop.example.com"))
        self._orders[number] = customer
        self._write(f"order/{number}", fingerprint, (update, (customer, number)))

    def _leave(self) -> None:
        """A customer is deleted, while changes of theirs may still be queued."""
        # Not one whose order was a guest's once: the foreign key makes it a guest's again, and nothing tells of that.
        free = [number for number in self._customers if number not in self._orders.values()]
        if len(free) < 5:
            return
        number = self._chance.choice(free)
        self._customers.remove(number)
        self._write(f"customer/{number}", GONE, ("DELETE FROM customer_entity WHERE entity_id = %s", (number,)))

    def _record(self, root: str | None = None) -> None:
        if root is None:
            if not self._customers:
                return
            root = f"customer/{self._chance.choice(self._customers)}"
        record_id = f"r-{self._number()}"
        insert = self._insert("tocsin_provenance", provenance_row(record_id, root))
        self._write(f"provenance/{record_id}", (root, False), insert)
        self._records[record_id] = root

    def _withdraw(self) -> None:
        if not self._records:
            return
        record_id = self._chance.choice(list(self._records))
        root = self._records.pop(record_id)
        update = "UPDATE tocsin_provenance SET deleted_at = '2026-06-01 00:00:00' WHERE record_id = %s"
        self._write(f"provenance/{record_id}", (root, True), (update, (record_id,)))

    def _erase(self) -> None:
        """A provenance row is deleted by SQL, against the rule."""
        if not self._records:
            return
        record_id = self._chance.choice(list(self._records))
        del self._records[record_id]
        delete = "DELETE FROM tocsin_provenance WHERE record_id = %s"
        self._write(f"provenance/{record_id}", GONE, (delete, (record_id,)))


def fingerprint_of_email(email: str) -> str:
    return email_hmac(JOIN_KEY, email)


def fingerprint_of(event: Event) -> Fingerprint:
    """Return what the shop remembers of an entity, as an event shows it."""
    match event:
        case CustomerChanged():
            return event.email_hmac
        case OrderChanged():
            return (event.customer_id, event.email_hmac)
        case ProvenanceRecorded():
            return (event.root, event.deleted_at is not None)
        case EntityRemoved():
            return GONE
        case _:
            raise AssertionError(f"not a change of the store: {type(event).__name__}")


def store_holds(run: Callable[..., list[tuple[Any, ...]]]) -> dict[str, Fingerprint]:
    """Return what an index of the store should hold: customers, provenance, and orders that hold some."""
    held: dict[str, Fingerprint] = {
        f"customer/{number}": fingerprint_of_email(email)
        for number, email in run("SELECT entity_id, email FROM customer_entity")
    }
    for record_id, root, deleted in run("SELECT record_id, root, deleted_at IS NOT NULL FROM tocsin_provenance"):
        held[f"provenance/{record_id}"] = (root, bool(deleted))
    for number, customer, email in run(
        "SELECT entity_id, customer_id, customer_email FROM sales_order o"
        " WHERE EXISTS (SELECT 1 FROM tocsin_provenance r WHERE r.order_id = o.entity_id)"
    ):
        held[f"order/{number}"] = (customer, fingerprint_of_email(email))
    return held


def assert_agrees(
    events: Sequence[tuple[str, Event]],
    run: Callable[..., list[tuple[Any, ...]]],
    histories: Mapping[str, Sequence[Any]],
) -> None:
    """Hold `events`, as read from their topic in order, to the store as it is and to each entity's history."""
    seen: dict[str, int] = {}
    newest: dict[str, Fingerprint] = {}
    for key, event in events:
        shown = newest[key] = fingerprint_of(event)
        if key in histories:
            history = histories[key]
            start = seen.get(key, 0)
            later = next((at for at in range(start, len(history)) if history[at] == shown), None)
            assert later is not None, f"{key}: {shown} came after {history[start]}, in {history}"
            seen[key] = later
    held = store_holds(run)
    # Whose provenance was erased by SQL is an order that nobody asks for any more.
    shown = {
        key: state for key, state in newest.items() if state != GONE and (not key.startswith("order/") or key in held)
    }
    missing = {key: state for key, state in held.items() if shown.get(key) != state}
    assert not missing, f"{len(missing)} of {len(held)} are not as in the store, such as {sorted(missing)[:5]}"
    too_many = sorted(set(shown) - set(held))
    assert not too_many, f"{len(too_many)} are no longer in the store, such as {too_many[:5]}"


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 30) -> float:
    """Wait until `condition`; return how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_seconds, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began
