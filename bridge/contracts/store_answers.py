"""What the store itself answers to a scope, without topics and index: the words that its SQL side and the case room share.

Facts as the relay would publish them, and no contact. Everything that matches is in it and much that does not: whether a
record falls under the scope is the asker's to decide.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from bridge.contracts.events import ProvenanceRecorded, Residence
from bridge.contracts.scope import Scope


@dataclass(frozen=True, slots=True)
class StorePerson:
    """A customer or an order, as far as scopes ask for them."""

    root: str
    customer_id: int | None
    website_id: int
    store_id: int
    residence: tuple[Residence, ...]
    email_hmac: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A provenance row with its person; None: the store holds no such customer or order any more."""

    record: ProvenanceRecorded
    person: StorePerson | None
    created_at: datetime | None
    """When the row was written, by the store's clock."""


@dataclass(frozen=True, slots=True)
class ValueHolder:
    """A customer who holds a value of a registered attribute that no record is about."""

    person: StorePerson
    attribute: str


@dataclass(frozen=True, slots=True)
class Presence:
    """What the store holds, and has not told yet, of roots and records that were asked about."""

    roots: frozenset[str]
    """Those that exist."""
    records: frozenset[str]
    pending_roots: frozenset[str]
    """Those with a change that the relay has not published yet."""
    pending_records: frozenset[str]


class StoreAnswers(Protocol):
    """The store or a replica of it, read only. Every method raises Unreachable or Refused."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def records(self, scope: Scope) -> Iterator[StoreRecord]:
        """Yield every record that may fall under `scope`, and others."""
        ...

    def value_holders(self) -> Iterator[ValueHolder]:
        """Yield who holds a value of a registered attribute without any record."""
        ...

    def writers(self) -> Mapping[str, frozenset[str]]:
        """Return the models that ever wrote each attribute."""
        ...

    def people(self) -> Iterator[StorePerson]:
        """Yield all customers, and all orders that hold provenance."""
        ...

    def presence(self, roots: Sequence[str], record_ids: Sequence[str]) -> Presence: ...
