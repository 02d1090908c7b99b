"""The current state of an entity, made of what the store's row says: pure, and never stopped by a bad value.

What cannot be understood is left out and its field is named in `faults`, so that one bad row delays nobody behind it.
States hold contacts in clear: they live in the relay's memory only, between reading and sealing, and show nothing.
"""

import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from email_validator import EmailNotValidError, validate_email
from pydantic import ValidationError
from pydantic_core import to_json

from bridge.contracts.events import Channel, Contact, Kind, ProvenanceRecorded, Residence, Sensitivity
from bridge.magento.catalog import Catalog, Place
from bridge.magento.regions import country_code
from bridge.magento.statements import SHARED_FIELDS, UNIT, WITHIN
from bridge.magento.telephones import e164

Row = Mapping[str, Any]
Source = Literal["default_billing", "default_shipping", "last_order", "order_billing", "order_shipping", "store"]

FAULTS = (
    "row", "email", "telephone", "country_id", "generated_at", "deleted_at", "kind", "sensitivity", "confidence",
    "categories", "elements", "input_fields", "root", "record_id", "read_at",
    "encoding", "address",
)  # fmt: skip
"""Every field that can be named as not understood; `encoding` is text that is no UTF-8, whichever field it stands in."""

# 18 digits fit every reader's 64 bits.
_ROOT = re.compile(r"(customer|order)/[0-9]{1,18}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_STREET = 2000
_MOST_WORDS = 1000
_LONGEST_WORD = 255
_CLOCKS_DIFFER = timedelta(days=1)
_RECORDED_WITHIN = timedelta(days=1)
"""A job writes what it made when it ends; what is recorded later than this is history that was loaded."""
_OLDEST = datetime(1990, 1, 1, tzinfo=UTC)
_MOST_KEPT = 8192
_CITY_BEFORE_POSTCODE = frozenset({"AU", "CA", "US"})


class Belonging(NamedTuple):
    """What a person has in common with thousands: where in the store, and where in the world they belong."""

    website_id: int
    store_id: int
    locale: str
    residence: tuple[Residence, ...]
    billing: Place
    shipping: Place
    faults: tuple[str, ...]
    """What of it could not be understood."""
    members: str
    """Website, store view, locale and residence as members of a JSON object, as their event has them."""


class _PersonState(msgspec.Struct, gc=False):
    """What the states of customers and orders share. Its repr shows no contact."""

    belonging: Belonging
    channels: tuple[Channel, ...]
    contact: Contact
    stored_email: str | None
    """As stored, valid or not: what leaked lists are compared with."""
    faults: tuple[str, ...]

    @property
    def website_id(self) -> int:
        return self.belonging.website_id

    @property
    def store_id(self) -> int:
        return self.belonging.store_id

    @property
    def locale(self) -> str:
        return self.belonging.locale

    @property
    def residence(self) -> tuple[Residence, ...]:
        return self.belonging.residence


class CustomerState(_PersonState, gc=False):
    """A customer as the store has them now."""

    customer_id: int
    attribute_values: Mapping[str, str]

    def __repr__(self) -> str:
        return f"CustomerState({self.customer_id})"

    def person(self) -> "Person":
        """Return what an event says of them."""
        number = str(self.customer_id)
        return f"customer/{number}", number, self.belonging, self.channels, self.contact, self.stored_email, self.faults


class OrderState(_PersonState, gc=False):
    """An order that holds provenance, with the order's own contact."""

    order_id: int
    customer_id: int | None

    def __repr__(self) -> str:
        return f"OrderState({self.order_id})"

    def person(self) -> "Person":
        """Return what an event says of whoever ordered."""
        number = "null" if self.customer_id is None else str(self.customer_id)
        return (
            f"order/{self.order_id}",
            number,
            self.belonging,
            self.channels,
            self.contact,
            self.stored_email,
            self.faults,
        )


Person = tuple[str, str, Belonging, tuple[Channel, ...], Contact, str | None, tuple[str, ...]]
"""What the events of customers and orders say: root, customer id as JSON, what they share with thousands, channels, contact,
e-mail as stored, and faults.
"""


@dataclass(frozen=True, slots=True)
class NoticeReadState:
    """An account notice that its customer has read."""

    notice_id: str
    customer_id: int
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Removed:
    """The store no longer holds the entity."""

    key: str
    root: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The heartbeat row: which relay wrote it last, and when, to the second."""

    relay: str
    beat_at: datetime


class WrittenProvenance(NamedTuple):
    """A provenance record whose event is written already, with what its model would say."""

    record_id: str
    root: str
    event: bytes


class WrittenRecords(Collection[WrittenProvenance]):
    """Provenance records of the database's answer to `statements.WRITTEN_PROVENANCE`, record by record: root, record id, the
    beginning of the event, and which of `ends` it ends with.
    """

    def __init__(
        self,
        roots: Sequence[bytes] = (),
        record_ids: Sequence[bytes] = (),
        beginnings: Sequence[bytes] = (),
        shared: Sequence[bytes] = (),
        ends: Mapping[bytes, bytes] = MappingProxyType({}),
        *,
        holds_orders: bool = False,
    ) -> None:
        self._roots = roots
        self._record_ids = record_ids
        self._beginnings = beginnings
        self._shared = shared
        self._ends = ends
        self._holds_orders = holds_orders

    def __len__(self) -> int:
        return len(self._roots)

    def __iter__(self) -> Iterator[WrittenProvenance]:
        for record_id, root, event in zip(self._record_ids, self._roots, self._events(), strict=True):
            yield WrittenProvenance(record_id.decode(), root.decode(), event)

    def __contains__(self, record: object) -> bool:
        return any(each == record for each in self)

    def orders(self) -> Iterator[str]:
        """Yield the roots that are orders."""
        for root in self._roots if self._holds_orders else ():
            if root.startswith(b"order/"):
                yield root.decode()

    def written(self) -> Iterable[tuple[bytes, bytes, bytes]]:
        """Return key, root and event of each, as `bridge.contracts.envelope.Envelopes.records` takes them."""
        return zip(map(b"provenance/".__add__, self._record_ids), self._roots, self._events(), strict=True)

    def _events(self) -> Iterable[bytes]:
        return map(bytes.__add__, self._beginnings, map(self._ends.__getitem__, self._shared))


@lru_cache(maxsize=1024)
def end_of_event(shared: bytes) -> bytes | None:
    """Return the JSON that a provenance event ends with, from what the row shares with many (`statements.SHARED_FIELDS`).

    None where a field is not as it should be, or its end is cut off: then the whole row is the model's.
    """
    try:
        *values, end = shared.decode().split(UNIT)
    except UnicodeDecodeError:
        return None
    if end != "." or len(values) != len(SHARED_FIELDS):
        return None
    entity_type, attribute, model_id, model_version, *judged_by, source, input_fields, ground = values
    if not (entity_type and attribute and model_id and model_version):
        return None
    judged = _judged(*judged_by, input_fields)
    if judged is None:
        return None
    of_kind, of_input = judged
    # Text the model takes as it is; a run may name a version of its own in every row, so it is not asked for each.
    return (
        f'"entity_type":{_quoted(entity_type)},"attribute":{_quoted(attribute)},"model_id":{_quoted(model_id)}'
        f',"model_version":{_quoted(model_version)},{of_kind},"source_system":{_quoted_or_null(source)},{of_input}'
        f',"legal_basis":{_quoted_or_null(ground)},"faults":[]}}'
    ).encode()


_quoted = json.encoder.encode_basestring
"""Text as JSON, as the models write it: what is not ASCII stays as it is."""


def _quoted_or_null(value: str) -> str:
    return _quoted(value[1:]) if value else "null"


@lru_cache(maxsize=1024)
def _judged(kind: str, sensitivity: str, categories: str, elements: str, input_fields: str) -> tuple[str, str] | None:
    """Return the members of an event that say these values, the last one by itself, or None where the model finds fault."""
    row = {
        "entity_type": "any", "attribute": "any", "model_id": "any", "model_version": "any", "kind": kind,
        "sensitivity": sensitivity, "categories": categories, "elements": elements, "input_fields": input_fields[1:] or None,
    }  # fmt: skip
    try:
        record = provenance_state(json.dumps(_ANY_ROW | row))
    except ValidationError:
        return None
    if record is None or record.faults:
        return None
    # without their braces
    of_kind = record.model_dump_json(include={"kind", "sensitivity", "categories", "elements"})[1:-1]
    return of_kind, record.model_dump_json(include={"input_fields"})[1:-1]


_ANY_ROW = {
    "root": "customer/1", "record_id": "any", "customer_id": 1, "entity_id": 1, "generated_at": "2026-01-01 00:00:00",
    "created_at": "2026-01-01 00:00:00",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that does not even say what it is about; it is counted and settled, and nothing is published of it."""

    row_id: int
    faults: tuple[str, ...]


State = (
    CustomerState | OrderState | ProvenanceRecorded | WrittenProvenance | NoticeReadState | Removed | Beat | Unreadable
)


_BELONGING_FIELDS = (
    "website_id", "store_id", "billing_country", "billing_region_id", "shipping_country", "shipping_region_id",
    "order_country", "order_region_id",
)  # fmt: skip
ADDRESS_FIELDS = ("region", "postcode", "city", "street", "telephone", "first_name", "last_name")
"""Of an address, what is one person's own."""
_NAMES = ("email", "first_name", "last_name")
_BILLING, _SHIPPING = (tuple(f"{each}_{name}" for name in ADDRESS_FIELDS) for each in ("billing", "shipping"))
_NO_ADDRESS: tuple[str, ...] = ("", WITHIN, *("",) * len(ADDRESS_FIELDS))
"""An address as `statements.ADDRESSES_AT_ONCE` says it, split: whose it is, where, and ADDRESS_FIELDS."""
_STREET, _TELEPHONE = (2 + ADDRESS_FIELDS.index(each) for each in ("street", "telephone"))


def _texts(row: Row, names: Sequence[str]) -> Sequence[str]:
    return ["" if (value := row.get(name)) is None else str(value) for name in names]


def belonging_of(
    website: str, store: str, billing: Place, shipping: Place, order: Place, catalog: Catalog, default_country: str | None
) -> Belonging:  # fmt: skip
    """Return what a customer has in common with many; `order` is where their newest order was billed."""
    view = catalog.view(store, website)
    claims: tuple[tuple[Source, str | None], ...] = (
        ("default_billing", billing.code), ("default_shipping", shipping.code), ("last_order", order.code),
    )  # fmt: skip
    unknown = billing.unknown or shipping.unknown or order.unknown
    residence = _residence(claims, default_country or view.country)
    return _belonging(
        view.website_id, view.store_id, view.locale, residence, billing, shipping, ("country_id",) if unknown else ()
    )


def _belonging(
    website_id: int, store_id: int, locale: str, residence: tuple[Residence, ...], billing: Place, shipping: Place,
    faults: tuple[str, ...],
) -> Belonging:  # fmt: skip
    members = (
        f'"website_id":{website_id},"store_id":{store_id},"locale":{json.dumps(locale, ensure_ascii=False)}'
        f',"residence":{to_json(residence).decode()}'
    )
    return Belonging(website_id, store_id, locale, residence, billing, shipping, faults, members)


class Belongings(dict[tuple[str, str, str, str], Belonging]):
    """What customers have in common, by website and store, and by country and region id of default billing address, default
    shipping address and last order, each pair as one text with `statements.WITHIN` between.

    Thousands share one, so each is worked out once.
    """

    def __init__(self, catalog: Catalog, default_country: str | None) -> None:
        super().__init__()
        self._catalog = catalog
        self._default_country = default_country

    def __missing__(self, said: tuple[str, str, str, str]) -> Belonging:
        if len(self) >= _MOST_KEPT:
            self.clear()
        (website, store), *places = (each.split(WITHIN) for each in said)
        billing, shipping, order = (self._catalog.place(*place) for place in places)
        found = self[said] = belonging_of(
            website, store, billing, shipping, order, self._catalog, self._default_country
        )
        return found


class ReadCustomers(Collection[CustomerState]):
    """Customers as the database answered to `statements.CUSTOMERS_AT_ONCE` and its kin, whose states are made when they are
    asked for: making them takes longer than reading them, so it falls to the thread that publishes.

    All stand in one order: their ids, what is said of each, of their default billing and shipping addresses (one object where
    they are one address), country and region id of their newest orders, and each attribute's values.
    """

    def __init__(
        self,
        numbers: Sequence[str],
        rows: Sequence[str],
        billing: Sequence[str | None],
        shipping: Sequence[str | None],
        orders: Sequence[str],
        values: Mapping[str, Sequence[str | None]],
        belongings: Belongings,
    ) -> None:
        self.numbers = numbers
        self._rows = rows
        self._billing = billing
        self._shipping = shipping
        self._orders = orders
        self.values = values
        self._belongings = belongings

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, state: object) -> bool:
        return any(each == state for each in self)

    def __iter__(self) -> Iterator[CustomerState]:
        columns = list(self.values.values())
        theirs = zip(*columns, strict=True) if columns else itertools.repeat((), len(self))
        for (_, number, belonging, channels, contact, stored, faults), values in zip(
            self.people(), theirs, strict=True
        ):
            there = {code: value for code, value in zip(self.values, values, strict=True) if value is not None}
            yield CustomerState(belonging, channels, contact, stored, faults, int(number), there)

    def people(self) -> Iterator[Person]:
        """Yield what the events say of each."""
        belongings = self._belongings
        for number, row, billed, shipped, order in zip(
            self.numbers, self._rows, self._billing, self._shipping, self._orders, strict=True
        ):
            # Split here, one after the other: a batch's fields all at once would be megabytes of small objects.
            shop, email, first_name, last_name = row.split(UNIT)
            billing: Sequence[str] = _NO_ADDRESS
            if billed is not None:
                fields = billed.split(UNIT)
                if fields[0] == number:
                    billing = fields
            shipping, at = "", billing[1]
            if shipped is not billed:
                at = WITHIN
                if shipped is not None:
                    whose, place, _ = shipped.split(UNIT, 2)
                    if whose == number:
                        shipping, at = shipped, place
            belonging = belongings[shop, billing[1], at, order]
            channels, contact, faults = _reached(email, first_name, last_name, belonging, billing, shipping)
            yield f"customer/{number}", number, belonging, channels, contact, email or None, faults


def _address(row: Row, names: Sequence[str]) -> Sequence[str]:
    return "", WITHIN, *_texts(row, names)


def customer_state(
    customer_id: int, document: str | None, catalog: Catalog, default_country: str | None
) -> CustomerState:
    """Return a customer's state from the JSON that the database built of their row and addresses."""
    faults: list[str] = []
    row = _row(document, faults)
    values: Mapping[str, Any] = row.get("attributes") or {}
    stored = {attribute.code: values.get(attribute.code) for attribute in catalog.attributes}
    there = {code: str(value) for code, value in stored.items() if value is not None}
    website, store, *places = _texts(row, _BELONGING_FIELDS)
    billing, shipping, order = (catalog.place(*places[each : each + 2]) for each in (0, 2, 4))
    own_shipping = _address(row, _SHIPPING)
    if row.get("same_address"):
        shipping, own_shipping = billing, _NO_ADDRESS
    belonging = belonging_of(website, store, billing, shipping, order, catalog, default_country)
    email, first_name, last_name = _texts(row, _NAMES)
    channels, contact, found = _reached(email, first_name, last_name, belonging, _address(row, _BILLING), own_shipping)
    if faults:
        found = tuple(dict.fromkeys((*faults, *found)))
    return CustomerState(belonging, channels, contact, email or None, found, customer_id, there)


def _reached(
    email: str, first_name: str, last_name: str, belonging: Belonging, billing: Sequence[str], shipping: Sequence[str]
) -> tuple[tuple[Channel, ...], Contact, tuple[str, ...]]:
    """Return how a customer can be reached, and what could not be understood."""
    contact, found = _contact(email, first_name, last_name, belonging.billing, billing, belonging.shipping, shipping)
    faults = tuple(dict.fromkeys((*belonging.faults, *found))) if found else belonging.faults
    if contact.email and contact.phone and contact.postal_address:
        return ALL_CHANNELS, contact, faults
    exist = contact.email is not None, contact.phone is not None, True, contact.postal_address != ()
    return _CHANNELS[exist], contact, faults


def order_state(order_id: int, document: str | None, catalog: Catalog, default_country: str | None) -> OrderState:
    """Return an order's state; the contact is the order's own, which for a guest is the only one."""
    faults: list[str] = []
    row = _row(document, faults)
    store_id = row.get("store_id") or 0
    website_id = catalog.website(store_id)
    customer_id = row.get("customer_id") or None
    billing, shipping = (
        catalog.place(row.get(f"{each}_country"), row.get(f"{each}_region_id")) for each in ("billing", "shipping")
    )
    claims: tuple[tuple[Source, str | None], ...] = (
        ("order_billing", billing.code), ("order_shipping", shipping.code),
    )  # fmt: skip
    if billing.unknown or shipping.unknown:
        faults.append("country_id")
    residence = _residence(claims, default_country or catalog.country(store_id, website_id))
    locale = catalog.locale(store_id, website_id)
    email, first_name, last_name = _texts(row, _NAMES)
    contact, found = _contact(
        email, first_name, last_name, billing, _address(row, _BILLING), shipping, _address(row, _SHIPPING)
    )
    return OrderState(
        belonging=_belonging(website_id, store_id, locale, residence, billing, shipping, ()),
        channels=_CHANNELS[
            contact.email is not None, contact.phone is not None, customer_id is not None, contact.postal_address != ()
        ],
        contact=contact,
        stored_email=email or None,
        faults=_named_once([*faults, *found]),
        order_id=order_id,
        customer_id=customer_id,
    )


def provenance_state(document: str | None) -> ProvenanceRecorded | None:
    """Return a provenance record, or None if it does not say about whom it is.

    Where a fact is unreadable the answer errs towards telling: sensitivity `critical`, kind `inferred`, and a record
    without a sensible time counts as written when its row was, or else as always having been there. Nothing was written
    after its row, and nothing is deleted before it was written.
    """
    faults: list[str] = []
    row = _row(document, faults)
    root, record_id = _root_of(row, faults), row.get("record_id")
    if root is None or not record_id:
        return None
    entity, _, entity_id = root.partition("/")
    generated_at = instant(row.get("generated_at"))
    created_at = instant(row.get("created_at"))
    if generated_at is None or (created_at is not None and generated_at - created_at > _CLOCKS_DIFFER):
        faults.append("generated_at")
        generated_at = created_at or _EPOCH
    elif generated_at < _OLDEST:
        faults.append("generated_at")
    deleted_at = instant(row.get("deleted_at"))
    if row.get("deleted_at") is not None and (deleted_at is None or deleted_at < generated_at):
        faults.append("deleted_at")
        deleted_at = None
    confidence = row.get("confidence")
    try:
        confidence = None if confidence is None else float(confidence)
    except (TypeError, ValueError):
        confidence = math.nan
    if confidence is not None and not math.isfinite(confidence):
        confidence = None
        faults.append("confidence")
    return ProvenanceRecorded(
        root=root,
        record_id=str(record_id),
        customer_id=row.get("customer_id") or (int(entity_id) if entity == "customer" else None),
        order_id=row.get("order_id") or (int(entity_id) if entity == "order" else None),
        entity_type=row.get("entity_type") or entity,
        entity_id=row.get("entity_id") or int(entity_id),
        attribute=row.get("attribute") or "unknown",
        model_id=row.get("model_id") or "unknown",
        model_version=row.get("model_version") or "unknown",
        run_id=row.get("run_id"),
        dataset_version=row.get("dataset_version"),
        generated_at=generated_at,
        deleted_at=deleted_at,
        supersedes=row.get("supersedes"),
        kind=_member(Kind, row.get("kind"), Kind.INFERRED, "kind", faults),
        confidence=confidence,
        sensitivity=_member(Sensitivity, row.get("sensitivity"), Sensitivity.CRITICAL, "sensitivity", faults),
        categories=_words(row, "categories", faults),
        elements=_words(row, "elements", faults),
        source_system=row.get("source_system"),
        storage_location=row.get("storage_location"),
        input_fields=_words(row, "input_fields", faults),
        legal_basis=row.get("legal_basis"),
        loaded_at=created_at if created_at is not None and created_at - generated_at > _RECORDED_WITHIN else None,
        faults=_named_once(faults),
    )


def created_at_of(document: str | None) -> datetime | None:
    """Return when a provenance row was written, or None where it does not say."""
    return instant(_row(document, []).get("created_at"))


def notice_read_state(notice_id: str, customer_id: int, read_at: str, now: datetime) -> NoticeReadState:
    """Return a reading of a notice. An unreadable time becomes `now`: that it was read is what matters."""
    return NoticeReadState(notice_id, customer_id, instant(read_at) or now)


def beat_of(relay: str, beat_at: str) -> Beat | None:
    """Return the heartbeat row's state, or None for one whose time is unreadable."""
    at = instant(beat_at)
    return None if at is None else Beat(relay, at)


def _row(document: str | None, faults: list[str]) -> Row:
    if isinstance(document, bytes):
        # A column that someone made binary turns the whole document into bytes.
        document = document.decode(errors="replace")
    try:
        # None is a document that the server would not send, for its size.
        row = json.loads(document or "")
    except (ValueError, RecursionError):
        row = None
    if document and "\ufffd" in document:
        # What reading put in place of bytes that are no UTF-8.
        faults.append("encoding")
    if not isinstance(row, dict):
        faults.append("row")
        return {}
    return row


def _contact(
    email: str, first_name: str, last_name: str, at: Place, billing: Sequence[str],
    shipped_to: Place, shipping: Sequence[str],
) -> tuple[Contact, Sequence[str]]:  # fmt: skip
    """Return the contact that they make, and what of them could not be understood.

    Each value is empty where there is nothing. Addresses are as _NO_ADDRESS, which also stands for a shipping address that is the
    billing address; a shipping address as one text, as the database writes it, is looked into only where it is needed.
    """
    _, _, region, postcode, city, street, telephone, billing_first_name, billing_last_name = billing
    faults: list[str] = []
    other: Sequence[str] | None = None
    if not isinstance(shipping, str) or len(shipping) > _LONGEST_STREET:
        other = _split(shipping)
    if len(street) > _LONGEST_STREET or (other and len(other[_STREET]) > _LONGEST_STREET):
        # Longer than any envelope, and than what a message may hold: such an address is none.
        faults.append("address")
        street = street if len(street) <= _LONGEST_STREET else ""
        if other and len(other[_STREET]) > _LONGEST_STREET:
            other = [*other[:_STREET], "", *other[_STREET + 1 :]]
    checked = None
    if email and (stripped := email.strip()):
        checked = _email(stripped)
        if checked is None:
            faults.append("email")
    # Magento demands a telephone: "n/a" and "-" are how shops say that there is none.
    phone = e164(telephone.strip(), at.country) if telephone else None
    if phone is None:
        other = other or _split(shipping)
        other_telephone = other[_TELEPHONE]
        phone = e164(other_telephone.strip(), shipped_to.country) if other_telephone else None
        if phone is None and (_DIGIT(telephone) or _DIGIT(other_telephone)):
            faults.append("telephone")
    first = first_name or billing_first_name.strip() or None
    last = last_name or billing_last_name.strip() or None
    lines = _lines(at, region, postcode, city, street, billing_first_name, billing_last_name, first, last)
    if not lines:
        _, _, region, postcode, city, street, _, own_first_name, own_last_name = other or _split(shipping)
        lines = _lines(shipped_to, region, postcode, city, street, own_first_name, own_last_name, first, last)
    return Contact(checked, phone, first, last, lines), faults


def _split(address: Sequence[str]) -> Sequence[str]:
    if not isinstance(address, str):
        return address
    return address.split(UNIT) if address else _NO_ADDRESS


def _lines(
    place: Place, region: str, postcode: str, city: str, street: str, own_first_name: str, own_last_name: str,
    first_name: str | None, last_name: str | None,
) -> tuple[str, ...]:  # fmt: skip
    """Return the lines of an envelope, or nothing if a letter would not find its way."""
    country = place.country
    city = city.strip()
    if not (street and city and country):
        return ()
    first_name = own_first_name.strip() or first_name
    last_name = own_last_name.strip() or last_name
    names = f"{first_name} {last_name}" if first_name and last_name else first_name or last_name
    postcode = postcode.strip()
    if country in _CITY_BEFORE_POSTCODE:
        region = place.region_code or region.strip()
        line = " ".join([part for part in (f"{city},", region, postcode) if part])
    else:
        line = f"{postcode} {city}" if postcode else city
    # What can be printed has no line breaks.
    if street.isprintable() and (only := street.strip()):
        return (names, only, line, country) if names else (only, line, country)
    lines = [line for line in map(str.strip, street.splitlines()) if line]
    if not lines:
        return ()
    return (names, *lines, line, country) if names else (*lines, line, country)


_PLAIN_LOCAL_PART = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*").fullmatch
_LONGEST_LOCAL_PART, _LONGEST_EMAIL = 64, 254


def _email(text: str) -> str | None:
    local, at, domain = text.partition("@")
    if (
        at
        and len(local) <= _LONGEST_LOCAL_PART
        and len(text) <= _LONGEST_EMAIL
        and ((local.isalnum() and local.isascii()) or _PLAIN_LOCAL_PART(local))
    ):
        # Thousands share a domain, and a plain name before it needs no second look.
        checked_domain = _checked_domain(domain)
        return checked_domain and local + checked_domain
    return _checked_email(text)


@lru_cache(maxsize=4096)
def _checked_domain(domain: str) -> str | None:
    checked = _checked_email(f"x@{domain}")
    return checked and checked[1:]


def _checked_email(text: str) -> str | None:
    try:
        # Providers take no address outside ASCII before the @; after it they take the domain's ASCII form.
        return validate_email(text, check_deliverability=False, allow_smtputf8=False, strict=True).ascii_email
    except EmailNotValidError:
        return None


_DIGIT = re.compile(r"\d").search


@lru_cache(maxsize=8192)
def _residence(claims: tuple[tuple[Source, str | None], ...], country_of_store: str | None) -> tuple[Residence, ...]:
    found = tuple([Residence(code=code, source=source) for source, code in claims if code is not None])
    # The store's country says where it sells, not where this person lives: only where nothing better is known.
    fallback = None if found else country_code(country_of_store)
    return (Residence(code=fallback, source="store"),) if fallback else found


_CHANNELS = {
    exist: tuple(
        channel
        for channel, here in zip(
            (Channel.EMAIL, Channel.SMS, Channel.ACCOUNT_NOTICE, Channel.LETTER), exist, strict=True
        )
        if here
    )
    for exist in itertools.product((False, True), repeat=4)
}
"""By which of e-mail, telephone, account and postal address exist."""
ALL_CHANNELS = _CHANNELS[True, True, True, True]


def is_root(text: str) -> bool:
    """Return whether `text` names a root that a reader can take."""
    return _ROOT.fullmatch(text) is not None


def _root_of(row: Row, faults: list[str]) -> str | None:
    root = row.get("root")
    if isinstance(root, str) and is_root(root):
        return root
    faults.append("root")
    if row.get("order_id"):
        return f"order/{row['order_id']}"
    return f"customer/{row['customer_id']}" if row.get("customer_id") else None


def instant(stored: str | None) -> datetime | None:
    """Return a UTC column's value, or None for what is no date (`0000-00-00 00:00:00`)."""
    try:
        at = datetime.fromisoformat(stored) if stored else None
    except (TypeError, ValueError):
        return None
    if at is None:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], value: Any, otherwise: _Member, name: str, faults: list[str]) -> _Member:
    try:
        return kind(value)
    except ValueError:
        faults.append(name)
        return otherwise


def _words(row: Row, name: str, faults: list[str]) -> tuple[str, ...]:
    stored = row.get(name)
    if stored is None or stored == "":
        return ()
    try:
        words = json.loads(stored)
    except (TypeError, ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or len(words) > _MOST_WORDS:
        faults.append(name)
        return ()
    understood = tuple(
        word for word in words if isinstance(word, str) and _is_text(word) and len(word) <= _LONGEST_WORD
    )
    if len(understood) < len(words):
        faults.append(name)
    return understood


def _is_text(value: str) -> bool:
    """Return whether it can be written: JSON may escape half of a character beyond the basic plane."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named_once(faults: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(faults))
