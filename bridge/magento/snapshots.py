"""The current state of an entity, made of what the store's row says: pure, and never stopped by a bad value.

What cannot be understood is left out and its field is named in `faults`, so that one bad row delays nobody behind it.
States hold contacts in clear: they live in the relay's memory only, between reading and sealing, and show nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeVar

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from bridge.contracts.events import Channel, Contact, Kind, ProvenanceRecorded, Residence, Sensitivity
from bridge.magento.catalog import Catalog
from bridge.magento.regions import country_code, residence_code

Row = Mapping[str, Any]
Source = Literal["default_billing", "default_shipping", "last_order", "order_billing", "order_shipping", "store"]

FAULTS = (
    "row", "email", "telephone", "country_id", "generated_at", "deleted_at", "kind", "sensitivity", "confidence",
    "categories", "elements", "input_fields", "root", "record_id", "read_at",
)  # fmt: skip
"""Every field that can be named as not understood."""

_ROOT = re.compile(r"(customer|order)/[0-9]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CITY_BEFORE_POSTCODE = frozenset({"AU", "CA", "US"})


@dataclass(frozen=True, slots=True)
class CustomerState:
    """A customer as the store has them now."""

    customer_id: int
    website_id: int
    store_id: int
    locale: str
    residence: tuple[Residence, ...]
    channels: tuple[Channel, ...]
    contact: Contact = field(repr=False)
    stored_email: str | None = field(repr=False)
    """As stored, valid or not: what leaked lists are compared with."""
    attribute_values: Mapping[str, str] = field(repr=False)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order that holds provenance, with the order's own contact."""

    order_id: int
    customer_id: int | None
    website_id: int
    store_id: int
    locale: str
    residence: tuple[Residence, ...]
    channels: tuple[Channel, ...]
    contact: Contact = field(repr=False)
    stored_email: str | None = field(repr=False)
    faults: tuple[str, ...] = ()


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
    """A provenance record whose event the database has written already, byte for byte as its model would."""

    record_id: str
    root: str
    event: bytes


State = CustomerState | OrderState | ProvenanceRecorded | WrittenProvenance | NoticeReadState | Removed | Beat


class _Address:
    """One address of a row, by the prefix of its keys."""

    def __init__(self, row: Row, prefix: str, catalog: Catalog, faults: list[str]) -> None:
        def text(key: str) -> str | None:
            value = row.get(f"{prefix}_{key}")
            return (str(value).strip() or None) if value is not None else None

        self.telephone = text("telephone")
        self.country = country_code(text("country"))
        if self.country is None and text("country") is not None:
            faults.append("country_id")
        region_country, region_code = catalog.regions.get(row.get(f"{prefix}_region_id") or 0, (None, None))
        self.code = residence_code(self.country, region_country, region_code) if self.country else None
        self._street = [line.strip() for line in (text("street") or "").splitlines() if line.strip()]
        self._city, self._postcode = text("city"), text("postcode")
        self._region = region_code or text("region")
        self.first_name, self.last_name = text("first_name"), text("last_name")

    def lines(self, first_name: str | None, last_name: str | None) -> tuple[str, ...]:
        """Return the lines of an envelope, or nothing if a letter would not find its way."""
        if not (self._street and self._city and self.country):
            return ()
        names = " ".join(part for part in (self.first_name or first_name, self.last_name or last_name) if part)
        if self.country in _CITY_BEFORE_POSTCODE:
            place = " ".join(part for part in (f"{self._city},", self._region, self._postcode) if part)
        else:
            place = " ".join(part for part in (self._postcode, self._city) if part)
        return tuple(line for line in (names, *self._street, place, self.country) if line)


def customer_state(customer_id: int, document: str, catalog: Catalog, default_country: str | None) -> CustomerState:
    """Return a customer's state from the JSON that the database built of their row and addresses."""
    faults: list[str] = []
    row = _row(document, faults)
    store_id = row.get("store_id") or 0
    website_id = catalog.website(store_id, row.get("website_id"))
    billing, shipping, order = (_Address(row, prefix, catalog, faults) for prefix in ("billing", "shipping", "order"))
    contact = _contact(row, (billing, shipping), faults)
    values: Mapping[str, Any] = row.get("attributes") or {}
    return CustomerState(
        customer_id=customer_id,
        website_id=website_id,
        store_id=store_id,
        locale=catalog.locale(store_id, website_id),
        residence=_residence(
            (("default_billing", billing), ("default_shipping", shipping), ("last_order", order)),
            default_country or catalog.country(store_id, website_id),
        ),
        channels=_channels(contact, has_account=True),
        contact=contact,
        stored_email=row.get("email") or None,
        attribute_values={code: str(value) for code, value in values.items() if value is not None},
        faults=_named_once(faults),
    )


def order_state(order_id: int, document: str, catalog: Catalog, default_country: str | None) -> OrderState:
    """Return an order's state; the contact is the order's own, which for a guest is the only one."""
    faults: list[str] = []
    row = _row(document, faults)
    store_id = row.get("store_id") or 0
    website_id = catalog.website(store_id)
    customer_id = row.get("customer_id") or None
    billing, shipping = (_Address(row, prefix, catalog, faults) for prefix in ("billing", "shipping"))
    contact = _contact(row, (billing, shipping), faults)
    return OrderState(
        order_id=order_id,
        customer_id=customer_id,
        website_id=website_id,
        store_id=store_id,
        locale=catalog.locale(store_id, website_id),
        residence=_residence(
            (("order_billing", billing), ("order_shipping", shipping)),
            default_country or catalog.country(store_id, website_id),
        ),
        channels=_channels(contact, has_account=customer_id is not None),
        contact=contact,
        stored_email=row.get("email") or None,
        faults=_named_once(faults),
    )


def provenance_state(document: str) -> ProvenanceRecorded | None:
    """Return a provenance record, or None if it does not say about whom it is.

    Where a fact is unreadable the answer errs towards telling: sensitivity `critical`, kind `inferred`, and a record
    without a readable time counts as written when its row was, or else as always having been there.
    """
    faults: list[str] = []
    row = _row(document, faults)
    root, record_id = _root_of(row, faults), row.get("record_id")
    if root is None or not record_id:
        return None
    entity, _, entity_id = root.partition("/")
    generated_at = _instant(row.get("generated_at"))
    if generated_at is None:
        faults.append("generated_at")
        generated_at = _instant(row.get("created_at")) or _EPOCH
    deleted_at = _instant(row.get("deleted_at"))
    if deleted_at is None and row.get("deleted_at") is not None:
        faults.append("deleted_at")
    confidence = row.get("confidence")
    try:
        confidence = None if confidence is None else float(confidence)
    except ValueError:
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
        faults=_named_once(faults),
    )


def notice_read_state(notice_id: str, customer_id: int, read_at: str, now: datetime) -> NoticeReadState:
    """Return a reading of a notice. An unreadable time becomes `now`: that it was read is what matters."""
    return NoticeReadState(notice_id, customer_id, _instant(read_at) or now)


def beat_of(relay: str, beat_at: str) -> Beat | None:
    """Return the heartbeat row's state, or None for one whose time is unreadable."""
    at = _instant(beat_at)
    return None if at is None else Beat(relay, at)


def _row(document: str, faults: list[str]) -> Row:
    try:
        row = json.loads(document)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        faults.append("row")
        return {}
    return row


def _contact(row: Row, addresses: tuple[_Address, _Address], faults: list[str]) -> Contact:
    billing, shipping = addresses
    first_name = row.get("first_name") or billing.first_name or None
    last_name = row.get("last_name") or billing.last_name or None
    return Contact(
        email=_email(row.get("email"), faults),
        phone=_phone(addresses, faults),
        first_name=first_name,
        last_name=last_name,
        postal_address=billing.lines(first_name, last_name) or shipping.lines(first_name, last_name),
    )


def _email(stored: str | None, faults: list[str]) -> str | None:
    if not stored or not stored.strip():
        return None
    try:
        # Providers take no address outside ASCII before the @; after it they take the domain's ASCII form.
        checked = validate_email(stored.strip(), check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        faults.append("email")
        return None
    return checked.ascii_email


def _phone(addresses: tuple[_Address, ...], faults: list[str]) -> str | None:
    tried = False
    for address in addresses:
        # Magento demands a telephone: "n/a" and "-" are how shops say that there is none.
        if address.telephone is None or not any(character.isdigit() for character in address.telephone):
            continue
        tried = True
        try:
            number = phonenumbers.parse(address.telephone, address.country)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    if tried:
        faults.append("telephone")
    return None


def _residence(claims: tuple[tuple[Source, _Address], ...], country_of_store: str | None) -> tuple[Residence, ...]:
    found = tuple(Residence(code=address.code, source=source) for source, address in claims if address.code is not None)
    # The store's country says where it sells, not where this person lives: only where nothing better is known.
    fallback = country_code(country_of_store)
    return found or ((Residence(code=fallback, source="store"),) if fallback else ())


def _channels(contact: Contact, *, has_account: bool) -> tuple[Channel, ...]:
    exists = {
        Channel.EMAIL: contact.email is not None,
        Channel.SMS: contact.phone is not None,
        Channel.ACCOUNT_NOTICE: has_account,
        Channel.LETTER: bool(contact.postal_address),
    }
    return tuple(channel for channel, here in exists.items() if here)


def _root_of(row: Row, faults: list[str]) -> str | None:
    root = row.get("root")
    if isinstance(root, str) and _ROOT.fullmatch(root):
        return root
    faults.append("root")
    if row.get("order_id"):
        return f"order/{row['order_id']}"
    return f"customer/{row['customer_id']}" if row.get("customer_id") else None


def _instant(stored: str | None) -> datetime | None:
    """Return a UTC column's value, or None for what is no date (`0000-00-00 00:00:00`)."""
    try:
        at = datetime.fromisoformat(stored) if stored else None
    except ValueError:
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
    except (TypeError, ValueError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        faults.append(name)
        return ()
    return tuple(words)


def _named_once(faults: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(faults))
