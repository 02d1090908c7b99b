"""The demo's shop: customers, orders and AI provenance in Magento's tables, and a memory of it for the oracle.

People are made of syllables that form no words, live at `*.example.com`, and have telephone numbers from ranges kept
for fiction where a country has one. The same seed makes the same shop. Works on every database that has the tables.
"""

import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

FRAUD_SCORER, INCOME_ESTIMATOR, SPEND_PROFILER = "fraud-scorer", "income-estimator", "spend-profiler"
MODEL_VERSIONS: Mapping[str, Sequence[str]] = {
    FRAUD_SCORER: ("5", "6", "7", "8"),
    INCOME_ESTIMATOR: ("1.0", "1.1", "1.2", "2.0"),
    SPEND_PROFILER: ("2025-10", "2026-01", "2026-04", "2026-07"),
}
"""Each version wrote for thirty days, the newest until now."""

LEAKED_MODEL, LEAKED_VERSION = FRAUD_SCORER, "7"

_DAYS_PER_VERSION = 30


@dataclass(frozen=True, slots=True)
class Place:
    """A jurisdiction of the demo: where its people live and how they are reached."""

    code: str
    country: str
    region: str | None
    city: str
    postcode: str
    store_id: int
    locale: str
    weight: int


PLACES: tuple[Place, ...] = (
    Place("DE", "DE", None, "Beispielstadt", "10115", 2, "de_DE", 22),
    Place("AT", "AT", None, "Musterdorf", "1010", 2, "de_DE", 8),
    Place("CH", "CH", None, "Probewil", "8001", 2, "de_DE", 6),
    Place("FR", "FR", None, "Exempleville", "75001", 1, "en_GB", 8),
    Place("NL", "NL", None, "Voorbeeldam", "1011", 1, "en_GB", 6),
    Place("IE", "IE", None, "Sampletown", "D01 F5P2", 1, "en_GB", 5),
    Place("GB", "GB", None, "Specimenham", "SW1A 1AA", 1, "en_GB", 12),
    Place("US-CA", "US", "CA", "Placeholder Beach", "90001", 3, "en_US", 12),
    Place("US-NY", "US", "NY", "Instance Falls", "10001", 3, "en_US", 8),
    Place("US-TX", "US", "TX", "Mock Springs", "73301", 3, "en_US", 6),
    Place("CA-QC", "CA", "QC", "Exemple-sur-Mer", "H2X 1Y4", 3, "en_US", 4),
    Place("AU", "AU", None, "Testabarra", "2600", 3, "en_US", 3),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One AI write as the shop remembers it."""

    record_id: str
    root: str
    model_id: str
    version: str
    attribute: str
    kind: str
    category: str
    generated_at: datetime
    deleted_at: datetime | None


@dataclass(slots=True)
class Person:
    """One human of the demo, under one root or several."""

    number: int
    place: Place
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    email: str = field(repr=False)
    phone: str | None = field(repr=False)
    """E.164, or None where the shop holds no usable number."""
    street: str = field(repr=False)
    customer_id: int | None
    order_ids: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    email_fate: str = "delivered"
    """What becomes of their mail, in the sandbox's words."""
    sms_works: bool = True
    reads_account_notice: bool = False
    leaves: bool = False
    """Deletes the account after the AI wrote about them and before the leak is known."""

    letter_comes_back: bool = False
    """Does not live at the address that the shop knows."""

    @property
    def email_works(self) -> bool:
        """Whether their mail arrives."""
        return self.email_fate not in ("bounce", "softbounce", "silent")


@dataclass(slots=True)
class Shop:
    """What was written."""

    seed: int
    now: datetime
    people: list[Person]

    @property
    def records(self) -> Iterator[Record]:
        for person in self.people:
            yield from person.records

    def personal_values(self) -> Iterator[tuple[str, str]]:
        """Yield (what, value) of every personal value in the shop, for the search for leaks."""
        for person in self.people:
            yield "email", person.email
            yield "name", f"{person.first_name} {person.last_name}"
            yield "address", person.street
            if person.phone is not None:
                yield "phone", person.phone


_CONSONANTS = ("br", "dr", "fl", "gr", "kr", "pl", "qu", "tr", "v", "z", "x", "w", "zh", "kv", "vr")
_VOWELS = ("a", "e", "i", "o", "u", "ae", "oo", "y")


def _word(rng: random.Random, syllables: int) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(syllables)).capitalize()


_AREA_CODES_US = {
    "US-CA": ("213", "415", "619", "916"),
    "US-NY": ("212", "315", "518", "716"),
    "US-TX": ("210", "512", "713", "915"),
}


def _phone(place: Place, n: int) -> str:
    """Return the n-th number of a place, in E.164. Ranges for fiction: US and CA 555-01xx, DE and AU by their regulators."""
    if place.country == "US":
        codes = _AREA_CODES_US[place.code]
        return f"+1{codes[n // 100 % len(codes)]}55501{n % 100:02d}"
    if place.country == "CA":
        return f"+1{('514', '418', '450', '819')[n // 100 % 4]}55501{n % 100:02d}"
    if place.country == "DE":
        return f"+4917139200{n % 100:02d}" if n < 100 else f"+49152288173{n % 100:02d}"
    if place.country == "AU":
        return f"+6149157{n % 10_000:04d}"
    return {
        "AT": f"+43664999{n % 10_000:04d}",
        "CH": f"+4178999{n % 10_000:04d}",
        "FR": f"+3369999{n % 10_000:04d}",
        "NL": f"+3161999{n % 10_000:04d}",
        "IE": f"+35385999{n % 10_000:04d}",
        "GB": f"+447400{n % 1_000_000:06d}",
    }[place.country]


def make_shop(customers: int, seed: int, now: datetime, *, silence: bool = True) -> Shop:
    """Invent `customers` customers, guests beside them, their orders and what AI systems wrote about them.

    `silence`: of a few mails nothing is ever reported, so that their readers wait for the next channel.
    """
    rng = random.Random(seed)  # noqa: S311  a reproducible shop, no secret
    people: list[Person] = []
    per_place: dict[str, int] = {}
    order_id = 0
    guests = max(4, customers // 25)
    for number in range(1, customers + guests + 1):
        place = rng.choices(PLACES, weights=[place.weight for place in PLACES])[0]
        index = per_place[place.code] = per_place.get(place.code, -1) + 1
        is_guest = number > customers
        first, last = _word(rng, 2), f"{_word(rng, 3)}{_word(rng, 2).lower()}"
        works = rng.random() >= 0.06
        throttled = works and rng.random() < 0.03
        fate = "throttle" if throttled else "delivered" if works else "bounce"
        person = Person(
            number=number,
            place=place,
            first_name=first,
            last_name=last,
            email=f"{first.lower()}.{last.lower()}.{number}{_tag(fate)}@{place.code.lower()}.example.com",
            phone=_phone(place, index) if rng.random() < 0.85 else None,
            street=f"{_word(rng, 3)} {_word(rng, 2)} {number}",
            customer_id=None if is_guest else number,
            email_fate=fate,
            reads_account_notice=rng.random() < 0.5,
        )
        orders = 1 if is_guest else rng.choices((0, 1, 2), weights=(75, 18, 7))[0]
        for _ in range(orders):
            order_id += 1
            person.order_ids.append(order_id)
        _write_provenance(rng, seed, person, now)
        people.append(person)
    shop = Shop(seed, now, people)
    _arrange_special_cases(shop, silence=silence)
    return shop


def _tag(fate: str) -> str:
    return "" if fate == "delivered" else f"+{fate}"


def _write_provenance(rng: random.Random, seed: int, person: Person, now: datetime) -> None:
    if person.customer_id is not None:
        root = f"customer/{person.customer_id}"
        for model_id, attribute, kind, category, share in (
            (FRAUD_SCORER, "fraud_score", "derived", "fraud_assessment", 0.4),
            (INCOME_ESTIMATOR, "income_band", "inferred", "income", 0.3),
            (SPEND_PROFILER, "spending_profile", "derived", "spending", 0.3),
        ):
            if rng.random() < share:
                person.records.append(_record(rng, seed, root, model_id, attribute, kind, category, now))
    for order_id in person.order_ids:
        root = f"order/{order_id}"
        if rng.random() < 0.6:
            person.records.append(
                _record(rng, seed, root, FRAUD_SCORER, "reversal_suggestion", "inferred", "payment_dispute", now)
            )
        if rng.random() < 0.4:
            person.records.append(
                _record(rng, seed, root, FRAUD_SCORER, "transaction_narrative", "synthetic", "transactions", now)
            )


def _record(
    rng: random.Random,
    seed: int,
    root: str,
    model_id: str,
    attribute: str,
    kind: str,
    category: str,
    now: datetime,
) -> Record:
    versions = MODEL_VERSIONS[model_id]
    generated_at = now - timedelta(seconds=rng.randrange(3600, len(versions) * _DAYS_PER_VERSION * 86400))
    age = (now - generated_at) / timedelta(days=_DAYS_PER_VERSION)
    deleted_at = None
    if rng.random() < 0.08:
        deleted_at = generated_at + (now - generated_at) * rng.random()
    return Record(
        record_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"demo/{seed}/{root}/{attribute}")),
        root=root,
        model_id=model_id,
        version=versions[len(versions) - 1 - min(int(age), len(versions) - 1)],
        attribute=attribute,
        kind=kind,
        category=category,
        generated_at=generated_at.replace(microsecond=0),
        deleted_at=None if deleted_at is None else deleted_at.replace(microsecond=0),
    )


def exposure_window(now: datetime) -> tuple[datetime, datetime]:
    """Return the window in which the leaked log lay open."""
    return (now - timedelta(days=40)).replace(microsecond=0), (now - timedelta(days=2)).replace(microsecond=0)


def _arrange_special_cases(shop: Shop, *, silence: bool) -> None:
    """Make sure that every way to end occurs, whatever the seed: among those whom the leaked version wrote about."""
    start, _ = exposure_window(shop.now)
    hit = [
        person
        for person in shop.people
        if any(
            record.model_id == LEAKED_MODEL
            and record.version == LEAKED_VERSION
            and (record.deleted_at is None or record.deleted_at > start)
            for record in person.records
        )
    ]
    customers = [person for person in hit if person.customer_id is not None and person.email_works]
    # the mail bounces, the SMS arrives
    for person in customers[0:3]:
        _script_email(person, "bounce")
        person.phone = person.phone or _phone(person.place, 90 + person.number % 9)
    # the mail bounces, there is no number; the account notice is read, or it is not
    for person, reads in zip(customers[3:7], (True, True, False, False), strict=False):
        _script_email(person, "bounce")
        person.phone, person.reads_account_notice = None, reads
        person.letter_comes_back = person is customers[5]
    # the mail bounces, the SMS fails too
    for person in customers[7:9]:
        _script_email(person, "bounce")
        person.phone = person.phone or _phone(person.place, 80 + person.number % 9)
        person.sms_works = False
    # deleted their account since: reachable from what was kept for that, but without an account page
    for person in customers[9:12]:
        person.leaves = True
    # the mailbox is full, and the SMS arrives
    for person in customers[12:13]:
        _script_email(person, "softbounce")
        person.phone = person.phone or _phone(person.place, 70 + person.number % 9)
    # the mail arrives and its reader complains; it is taken, and the answer to the call is lost
    for person, fate in zip(customers[13:15], ("complaint", "timeout"), strict=False):
        _script_email(person, fate)
    # nothing is ever heard of the mail, and the SMS arrives
    for person in customers[15:18] if silence else ():
        _script_email(person, "silent")
        person.phone = person.phone or _phone(person.place, 60 + person.number % 9)
    # a shared number would make a failing SMS fail for somebody else as well, or would not be tried for them
    failing = {person.phone for person in shop.people if not person.sms_works}
    of_one = set[str | None]()
    for person in shop.people:
        if person.phone in failing and (person.sms_works or person.phone in of_one):
            person.phone = None
        elif person.phone in failing:
            of_one.add(person.phone)


def _script_email(person: Person, fate: str) -> None:
    local, _, domain = person.email.partition("@")
    person.email = f"{local.partition('+')[0]}{_tag(fate)}@{domain}"
    person.email_fate = fate


_BATCH = 1000


def _insert(connection: sa.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    statement = sa.insert(sa.table(table, *(sa.column(name) for name in rows[0])))
    for start in range(0, len(rows), _BATCH):
        connection.execute(statement, [dict(row) for row in rows[start : start + _BATCH]])


def _naive(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=None)


def write_base(connection: sa.Connection) -> None:
    """Write what a shop has before its first customer: websites, stores, locales, regions, attributes."""
    _insert(
        connection,
        "store_website",
        [
            {"website_id": 1, "code": "europe", "name": "Europe", "default_group_id": 1, "is_default": 1},
            {"website_id": 2, "code": "overseas", "name": "Overseas", "default_group_id": 2, "is_default": 0},
        ],
    )
    _insert(
        connection,
        "store_group",
        [
            {"group_id": 1, "website_id": 1, "name": "Europe", "default_store_id": 1, "code": "europe"},
            {"group_id": 2, "website_id": 2, "name": "Overseas", "default_store_id": 3, "code": "overseas"},
        ],
    )
    _insert(
        connection,
        "store",
        [
            {"store_id": 1, "code": "en", "website_id": 1, "group_id": 1, "name": "English", "is_active": 1},
            {"store_id": 2, "code": "de", "website_id": 1, "group_id": 1, "name": "Deutsch", "is_active": 1},
            {"store_id": 3, "code": "us", "website_id": 2, "group_id": 2, "name": "English (US)", "is_active": 1},
        ],
    )
    _insert(
        connection,
        "core_config_data",
        [
            {"scope": "default", "scope_id": 0, "path": "general/locale/code", "value": "en_GB"},
            {"scope": "stores", "scope_id": 2, "path": "general/locale/code", "value": "de_DE"},
            {"scope": "websites", "scope_id": 2, "path": "general/locale/code", "value": "en_US"},
            {"scope": "default", "scope_id": 0, "path": "web/unsecure/base_url", "value": "https://shop.example.com/"},
        ],
    )
    _insert(
        connection,
        "directory_country_region",
        [
            {"region_id": region_id, "country_id": country, "code": code, "default_name": name}
            for region_id, country, code, name in _REGIONS
        ],
    )
    _insert(
        connection,
        "eav_entity_type",
        [
            {
                "entity_type_id": 1,
                "entity_type_code": "customer",
                "entity_model": "Magento\\Customer\\Model\\ResourceModel\\Customer",
                "entity_table": "customer_entity",
            }
        ],
    )
    _insert(
        connection,
        "eav_attribute",
        [
            {
                "attribute_id": attribute_id,
                "entity_type_id": 1,
                "attribute_code": code,
                "backend_type": backend,
                "is_user_defined": 1,
            }
            for attribute_id, code, backend in _ATTRIBUTES
        ],
    )


_REGIONS = (
    (12, "US", "CA", "California"),
    (43, "US", "NY", "New York"),
    (57, "US", "TX", "Texas"),
    (76, "CA", "QC", "Quebec"),
)
_ATTRIBUTES = ((201, "fraud_score", "int"), (202, "income_band", "varchar"), (203, "spending_profile", "varchar"))
REGISTERED_ATTRIBUTES = tuple(code for _, code, _ in _ATTRIBUTES)

_OUR_ELEMENTS = {
    "fraud_score": ("fraud_score",),
    "income_band": ("income_band_inferred",),
    "spending_profile": ("spending_profile",),
    "reversal_suggestion": ("reversal_suggestion",),
    "transaction_narrative": ("transaction_narrative_synthetic",),
}


def _elements(person: Person, record: Record) -> list[str]:
    """Return what the record exposes; the fraud scorer's log carries its inputs beside its answer."""
    inputs: list[str] = []
    if record.model_id == FRAUD_SCORER:
        inputs = ["full_name", "account_number", "transaction_history"]
        if person.place.country == "US" and record.attribute == "fraud_score":
            inputs.append("ssn")
    return sorted({*_OUR_ELEMENTS[record.attribute], *inputs})


def write_people(connection: sa.Connection, shop: Shop) -> None:
    """Write everybody, their orders and the provenance into the store's tables."""
    customers = [person for person in shop.people if person.customer_id is not None]
    _insert(
        connection,
        "customer_entity",
        [
            {
                "entity_id": person.customer_id,
                "website_id": 2 if person.place.store_id == 3 else 1,
                "store_id": person.place.store_id,
                "email": person.email,
                "group_id": 1,
                "firstname": person.first_name,
                "lastname": person.last_name,
                "default_billing": person.customer_id,
                "default_shipping": person.customer_id,
                "password_hash": "-",
            }
            for person in customers
        ],
    )
    _insert(
        connection,
        "customer_address_entity",
        [
            {
                "entity_id": person.customer_id,
                "parent_id": person.customer_id,
                "city": person.place.city,
                "country_id": person.place.country,
                "region_id": _region_id(person.place),
                "postcode": person.place.postcode,
                "firstname": person.first_name,
                "lastname": person.last_name,
                "street": person.street,
                "telephone": person.phone or "n/a",
            }
            for person in customers
        ],
    )
    _write_attribute_values(connection, customers)
    _write_orders(connection, shop)
    _insert(
        connection,
        "tocsin_provenance",
        [_provenance_row(person, record) for person in shop.people for record in person.records],
    )


def _region_id(place: Place) -> int | None:
    return next((r[0] for r in _REGIONS if r[1] == place.country and r[2] == place.region), None)


def _write_attribute_values(connection: sa.Connection, customers: Sequence[Person]) -> None:
    values: dict[str, list[dict[str, Any]]] = {"int": [], "varchar": []}
    for person in customers:
        for record in person.records:
            for attribute_id, code, backend in _ATTRIBUTES:
                if record.attribute == code and record.deleted_at is None:
                    value: int | str = person.number % 100 if backend == "int" else f"band-{person.number % 7}"
                    values[backend].append(
                        {"attribute_id": attribute_id, "entity_id": person.customer_id, "value": value}
                    )
    for backend, rows in values.items():
        _insert(connection, f"customer_entity_{backend}", rows)


def _write_orders(connection: sa.Connection, shop: Shop) -> None:
    orders: list[dict[str, Any]] = []
    addresses: list[dict[str, Any]] = []
    for person in shop.people:
        for order_id in person.order_ids:
            orders.append(
                {
                    "entity_id": order_id,
                    "state": "complete",
                    "status": "complete",
                    "store_id": person.place.store_id,
                    "customer_id": person.customer_id,
                    "customer_is_guest": 1 if person.customer_id is None else 0,
                    "customer_email": person.email,
                    "customer_firstname": person.first_name,
                    "customer_lastname": person.last_name,
                    "billing_address_id": order_id,
                    "increment_id": f"{order_id:09d}",
                }
            )
            addresses.append(
                {
                    "entity_id": order_id,
                    "parent_id": order_id,
                    "address_type": "billing",
                    "region_id": _region_id(person.place),
                    "postcode": person.place.postcode,
                    "firstname": person.first_name,
                    "lastname": person.last_name,
                    "street": person.street,
                    "city": person.place.city,
                    "email": person.email,
                    "telephone": person.phone or "n/a",
                    "country_id": person.place.country,
                }
            )
    _insert(connection, "sales_order", orders)
    _insert(connection, "sales_order_address", addresses)


def _provenance_row(person: Person, record: Record) -> dict[str, Any]:
    entity, _, entity_id = record.root.partition("/")
    return {
        "record_id": record.record_id,
        "root": record.root,
        "customer_id": person.customer_id,
        "order_id": int(entity_id) if entity == "order" else None,
        "entity_type": entity,
        "entity_id": int(entity_id),
        "attribute": record.attribute,
        "model_id": record.model_id,
        "model_version": record.version,
        "run_id": f"{record.model_id}-{record.generated_at:%Y%m%d}",
        "dataset_version": f"transactions-{record.generated_at:%Y-%m}",
        "generated_at": _naive(record.generated_at),
        "deleted_at": _naive(record.deleted_at),
        "kind": record.kind,
        "confidence": 0.9,
        "sensitivity": {"derived": "high", "inferred": "high", "synthetic": "medium"}[record.kind],
        "categories": json.dumps([record.category]),
        "elements": json.dumps(_elements(person, record)),
        "source_system": "risk-platform",
        "storage_location": "inference-log/eu-central-1",
        "input_fields": json.dumps(["customer.name", "order.payments"]),
        "legal_basis": "legitimate_interest",
        # recorded as it happened: this shop's jobs have always told
        "created_at": _naive(record.generated_at),
    }


def delete_leavers(connection: sa.Connection, shop: Shop) -> int:
    """Delete the accounts of those who leave, as the shop's admin does; return how many."""
    leavers = [person.customer_id for person in shop.people if person.leaves]
    customer = sa.table("customer_entity", sa.column("entity_id"))
    connection.execute(sa.delete(customer).where(customer.c.entity_id.in_(leavers)))
    return len(leavers)


def read_account_notices(connection: sa.Connection, shop: Shop, now: datetime) -> int:
    """Let those customers who do so read the notices that wait on their account page; return how many notices."""
    readers = [person.customer_id for person in shop.people if person.reads_account_notice and not person.leaves]
    notice = sa.table(
        "tocsin_account_notice",
        sa.column("id"),
        sa.column("customer_id"),
        sa.column("read_at"),
        sa.column("withdrawn_at"),
    )
    unread = [
        row.id
        for row in connection.execute(
            sa.select(notice.c.id, notice.c.customer_id).where(
                notice.c.read_at.is_(None) & notice.c.withdrawn_at.is_(None)
            )
        )
        if row.customer_id in set(readers)
    ]
    if unread:
        connection.execute(
            sa.update(notice).where(notice.c.id.in_(unread)).values(read_at=_naive(now.replace(microsecond=0)))
        )
    return len(unread)
