"""What store and index compare without moving the rows: a fingerprint of each entity, and the range it is counted in.

Both sides compute them by themselves, the index in its own SQL; a test holds the two equal. No cryptographic claim: they
find what was lost, not what somebody forged with the join key in hand.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from bridge.contracts.events import CustomerChanged, OrderChanged, ProvenanceRecorded

Entity = Literal["customer", "order", "provenance"]

RANGE_SIZE = 1000
"""Customers and orders are counted by a thousand ids."""
RANGE_DIGITS = 4
"""Records are counted by the first hex digits of their id's SHA-256: 65,536 ranges."""
HASH_DIGITS = 15
"""Hex digits of SHA-256 in a fingerprint: below 2^60, so that sums stay exact everywhere."""
SUM_MODULUS = 1 << 60

FIELD, ITEM, NOTHING = "\x1f", "\x1e", "\x01"
"""Between fields, between the items of one, and what stands for a field that is not there."""

PERSON_FIELDS = (
    "root", "customer_id", "website_id", "store_id", "locale", "residence", "channels", "email_hmac", "attribute_hmacs",
    "contact", "faults",
)  # fmt: skip
"""Of a contact counts the digest alone: seals differ each time."""
RECORD_FIELDS = (
    "record_id", "root", "customer_id", "order_id", "entity_type", "entity_id", "attribute", "model_id", "model_version",
    "run_id", "dataset_version", "generated_at", "supersedes", "kind", "confidence", "sensitivity", "categories", "elements",
    "source_system", "storage_location", "input_fields", "legal_basis", "faults",
)  # fmt: skip
"""All that an append-only record may never change; `deleted_at` and `loaded_at` stand beside it."""


def range_of(key: str) -> int:
    """Return the range in which `key` (`customer/42`, `order/77`, `provenance/<record id>`) is counted."""
    kind, _, name = key.partition("/")
    if kind == "provenance":
        return int(hashlib.sha256(name.encode()).hexdigest()[:RANGE_DIGITS], 16)
    return int(name) // RANGE_SIZE


def person_fingerprint(person: CustomerChanged | OrderChanged) -> int:
    """Return the fingerprint of a customer's or an order's state."""
    return _hashed(
        (
            person.root,
            _text(person.customer_id),
            str(person.website_id),
            str(person.store_id),
            person.locale,
            ITEM.join(f"{each.code} {each.source}" for each in person.residence),
            ITEM.join(channel.value for channel in person.channels),
            _text(person.email_hmac),
            _hashes(person.attribute_hmacs if isinstance(person, CustomerChanged) else {}),
            _text(person.contact.digest if person.contact is not None else None),
            ITEM.join(person.faults),
        )
    )


def content_fingerprint(record: ProvenanceRecorded) -> int:
    """Return the fingerprint of what a record may never change."""
    return _hashed(_record_fields(record))


def record_fingerprint(record: ProvenanceRecorded) -> int:
    """Return the fingerprint of a record, `deleted_at` and `loaded_at` included."""
    instants = (record.deleted_at, record.loaded_at)
    return _hashed(
        (*_record_fields(record), *(_text(None if at is None else _microseconds(at.timestamp())) for at in instants))
    )


def _record_fields(record: ProvenanceRecorded) -> tuple[str, ...]:
    return (
        record.record_id,
        record.root,
        _text(record.customer_id),
        _text(record.order_id),
        record.entity_type,
        str(record.entity_id),
        record.attribute,
        record.model_id,
        record.model_version,
        _text(record.run_id),
        _text(record.dataset_version),
        str(_microseconds(record.generated_at.timestamp())),
        _text(record.supersedes),
        record.kind.value,
        _text(None if record.confidence is None else round(record.confidence * 1_000_000)),
        record.sensitivity.value,
        ITEM.join(record.categories),
        ITEM.join(record.elements),
        _text(record.source_system),
        _text(record.storage_location),
        ITEM.join(record.input_fields),
        _text(record.legal_basis),
        ITEM.join(record.faults),
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _hashes(by_attribute: Mapping[str, str]) -> str:
    return ITEM.join(sorted(f"{code} {value}" for code, value in by_attribute.items()))


def _text(value: str | int | None) -> str:
    return NOTHING if value is None else str(value)


def _hashed(fields: Iterable[str]) -> int:
    return int(hashlib.sha256(FIELD.join(fields).encode()).hexdigest()[:HASH_DIGITS], 16)
