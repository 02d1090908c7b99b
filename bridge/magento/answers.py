"""What the store itself answers to a scope: one read-only JOIN of provenance, customers, addresses and orders, in pages.

For the day on which somebody doubts the index, or has none. Reads with the relay's grants, takes no lock, and no
transaction is longer than one page. Whether a record falls under the scope is not decided here: the conditions leave out
what certainly does not, by columns that the relay publishes as they are, and a reader judges the rest.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

from pydantic import ValidationError

from bridge.contracts.scope import Scope
from bridge.contracts.store_answers import Presence, StorePerson, StoreRecord, ValueHolder
from bridge.magento import statements
from bridge.magento.look import StoreLook
from bridge.magento.snapshots import (
    CustomerState,
    OrderState,
    created_at_of,
    customer_state,
    order_state,
    provenance_state,
)
from bridge.runtime.clock import Clock
from bridge.runtime.sealing import email_hmac
from bridge.runtime.settings import Store

_PAGE = 2000
_AT_ONCE = 1000
_LAST_ID = 4_294_967_296

# What the relay publishes as it stands in the row. Kinds, sensitivities and times that it cannot read it replaces.
_PLAIN = {
    "model_ids": "r.model_id",
    "attributes": "r.attribute",
    "record_ids": "r.record_id",
    "run_ids": "r.run_id",
    "dataset_versions": "r.dataset_version",
    "source_systems": "r.source_system",
    "storage_locations": "r.storage_location",
}
_EMPTY_MEANS_UNKNOWN = frozenset({"model_ids", "attributes"})


class SqlStoreAnswers:
    """Implements `bridge.contracts.store_answers.StoreAnswers` on the store, or on `store.replica_url`."""

    def __init__(self, settings: Store, clock: Clock, join_key: bytes) -> None:
        if settings.replica_url is not None:
            settings = settings.model_copy(update={"url": settings.replica_url})
        self._settings = settings
        self._look = StoreLook(settings, clock)
        self._join_key = join_key

    def open(self) -> None:
        self._look.open()
        self._look.read_only()

    def close(self) -> None:
        self._look.close()

    def records(self, scope: Scope) -> Iterator[StoreRecord]:
        narrowing, values = _narrowing(scope)
        text = statements.answers(narrowing)
        after = 0
        while rows := self._look.bound(text, values, after=after, limit=_PAGE):
            after = int(rows[-1][0])
            for _, document, customer_id, customer, order_id, order in rows:
                try:
                    record = provenance_state(document)
                except ValidationError:
                    record = None
                if record is None:
                    # It names nobody: neither the relay nor anybody else can tell whom it is about.
                    continue
                person = None
                if customer_id is not None:
                    person = self._customer(int(customer_id), customer)
                elif order_id is not None:
                    person = self._order(int(order_id), order)
                if person is None or person.root != record.root:
                    # The row's root is not one that can be read; the relay takes who the other columns name.
                    person = self._person(record.root)
                yield StoreRecord(record, person, created_at_of(document))

    def value_holders(self) -> Iterator[ValueHolder]:
        for attribute in self._look.catalog.attributes:
            text = statements.value_holders(attribute)
            after = 0
            while rows := self._look.bound(text, {}, after=after, limit=_AT_ONCE):
                after = int(rows[-1][0])
                for state in self._look.customers_of([int(row[0]) for row in rows]):
                    yield ValueHolder(self._person_of(state), attribute.code)

    def writers(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for attribute, model_id in self._look.bound(statements.WRITERS, {}):
            found[attribute or "unknown"].add(model_id or "unknown")
        return {attribute: frozenset(models) for attribute, models in found.items()}

    def people(self) -> Iterator[StorePerson]:
        after = 0
        while True:
            ids, customers = self._look.customers(after, _LAST_ID, _AT_ONCE)
            yield from map(self._person_of, customers)
            if not ids:
                break
            after = ids[-1]
        after = 0
        while True:
            ids, orders = self._look.orders(after, _LAST_ID, _AT_ONCE)
            yield from map(self._person_of, orders)
            if not ids:
                return
            after = ids[-1]

    def presence(self, roots: Sequence[str], record_ids: Sequence[str]) -> Presence:
        there: set[str] = set()
        pending: set[str] = set()
        for kind in ("customer", "order"):
            ids = [int(root.partition("/")[2]) for root in roots if root.startswith(f"{kind}/")]
            for some in _parts(ids):
                if kind == "customer":
                    there |= {f"customer/{state.customer_id}" for state in self._look.customers_of(some)}
                else:
                    there |= {f"order/{order_id}" for order_id in self._look.orders_there(some)}
                pending |= {f"{kind}/{number}" for number in self._look.pending_numbers(kind, some)}
        rows: set[str] = set()
        pending_records: set[str] = set()
        for words in _parts(list(record_ids)):
            rows |= self._look.rows_of_records(words).keys()
            pending_records |= self._look.pending_records(words)
        return Presence(frozenset(there), frozenset(rows), frozenset(pending), frozenset(pending_records))

    # People

    def _customer(self, customer_id: int, document: str) -> StorePerson:
        catalog = self._look.catalog
        return self._person_of(customer_state(customer_id, document, catalog, self._settings.default_country))

    def _order(self, order_id: int, document: str) -> StorePerson:
        catalog = self._look.catalog
        return self._person_of(order_state(order_id, document, catalog, self._settings.default_country))

    def _person(self, root: str) -> StorePerson | None:
        kind, _, number = root.partition("/")
        found: Sequence[CustomerState | OrderState]
        found = self._look.customers_of([int(number)]) if kind == "customer" else self._look.orders_of([int(number)])
        return self._person_of(found[0]) if found else None

    def _person_of(self, state: CustomerState | OrderState) -> StorePerson:
        root = f"customer/{state.customer_id}" if isinstance(state, CustomerState) else f"order/{state.order_id}"
        email = state.stored_email
        return StorePerson(
            root,
            state.customer_id,
            state.website_id,
            state.store_id,
            state.residence,
            email_hmac(self._join_key, email) if email and email.strip() else None,
        )


def _narrowing(scope: Scope) -> tuple[str, dict[str, Any]]:
    """Return a condition that leaves out only what certainly does not fall under `scope`, and its values."""
    conditions: list[str] = []
    values: dict[str, Any] = {}

    def collect(part: Scope) -> None:
        for name, column in _PLAIN.items():
            if wanted := getattr(part, name):
                place = f"v{len(values)}"
                values[place] = list(wanted)
                missing = f" OR {column} = ''" if name in _EMPTY_MEANS_UNKNOWN else f" OR {column} IS NULL"
                conditions.append(f"({column} IN :{place}{missing})")
        if part.exposed_from is not None:
            # What was deleted before is out; a deletion before the record itself the relay does not believe.
            place = f"v{len(values)}"
            values[place] = f"{part.exposed_from.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
            sensible = "r.deleted_at >= r.generated_at AND r.deleted_at >= r.created_at"
            conditions.append(f"(r.deleted_at IS NULL OR r.deleted_at >= :{place} OR NOT ({sensible}))")
        for each in part.all_of:
            collect(each)

    collect(scope)
    return (" AND ".join(conditions) or "1 = 1"), values


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
