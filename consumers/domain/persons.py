"""One person out of several roots: the same customer id, or the same e-mail address within one controller, however its domain is
written. What no mail can be sent to ("n/a", "none") is nobody's address: shops write it for many.

What each root's records say is joined, so that nobody gets two notices and nobody gets half of one. Not for who is
affected (`resolution`) nor for what they are told (`disclosure`, `segments`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from bridge.contracts.errors import BadInput
from bridge.contracts.events import (
    SENSITIVITY_ORDER,
    Channel,
    CustomerAffected,
    Kind,
    Residence,
    SealedContact,
    Sensitivity,
    Why,
)
from consumers.domain.jurisdictions import jurisdiction


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A `Residence` of an `Affected`."""

    code: str
    source: str


class Reason(msgspec.Struct, frozen=True, gc=False):
    """The `Why` of an `Affected`."""

    record_ids: tuple[str, ...]
    attributes: tuple[str, ...]
    models: tuple[str, ...]
    kinds: tuple[Kind, ...]
    disclosures: tuple[str, ...]
    highest_sensitivity: Sensitivity
    categories: tuple[str, ...]
    elements: tuple[str, ...]
    input_fields: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `Why` has in JSON."""
        fields = msgspec.structs.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


class Affected(msgspec.Struct, frozen=True, gc=False):
    """A `CustomerAffected` as it is read again where there are a hundred thousand: checked when it came, a fifth as dear."""

    root: str
    customer_id: int | None
    website_id: int
    store_id: int
    locale: str
    residence: tuple[Claim, ...] = ()
    channels: tuple[Channel, ...] = ()
    contact: dict[str, str | None] | None = None
    email_hmac: str | None = None
    standing: str = "recorded"
    departed: bool = False
    late: bool = False
    why: Reason | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """One data subject of one incident."""

    root: str
    """The primary root: its contact is the one that is used."""
    roots: tuple[str, ...]
    customer_id: int | None
    controller: str
    website_id: int
    store_id: int
    locale: str
    residence: tuple[Residence | Claim, ...]
    homes: tuple[str, ...]
    """Jurisdictions where the person may live, sorted; empty is unknown."""
    channels: tuple[Channel, ...]
    contact: SealedContact | dict[str, str | None] | None = field(repr=False)
    standing: str
    late: bool
    sensitivity: Sensitivity
    why: Why | Reason | None
    """None where a value is held without any record."""

    @property
    def disclosures(self) -> tuple[str, ...]:
        """Keys of the sentences that this person's notice must contain."""
        return () if self.why is None else self.why.disclosures

    @property
    def elements(self) -> tuple[str, ...]:
        """Data elements exposed of this person."""
        return () if self.why is None else self.why.elements


def merge(affected: Iterable[CustomerAffected | Affected], controller_of: Callable[[int], str]) -> list[Person]:
    """Return the people behind `affected` (unique roots), sorted by primary root, whatever the order of arrival."""
    members = sorted(affected, key=lambda each: each.root)
    controllers: dict[int, str] = {}
    parent = list(range(len(members)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[tuple[str, object], int] = {}
    for index, member in enumerate(members):
        controller = controllers.get(member.website_id)
        if controller is None:
            controller = controllers[member.website_id] = controller_of(member.website_id)
        for mark in _marks(member, controller):
            first = seen.setdefault(mark, index)
            if first != index:
                parent[find(index)] = find(first)
    groups: dict[int, list[CustomerAffected | Affected]] = {}
    for index, member in enumerate(members):
        groups.setdefault(index if parent[index] == index else find(index), []).append(member)
    return sorted((_person(group, controllers) for group in groups.values()), key=lambda person: person.root)


def alone(member: CustomerAffected | Affected, controller: str) -> Person:
    """Return the person behind one root that has nothing in common with any other: what `merge` makes of it, sooner."""
    claims: tuple[Residence | Claim, ...] = tuple(member.residence)
    residence = claims if len(claims) < 2 else tuple(dict.fromkeys(claims))
    channels, why = member.channels, member.why
    if len(channels) > 1:
        channels = tuple(dict.fromkeys(channels))
    return Person(
        root=member.root,
        roots=(member.root,),
        customer_id=member.customer_id,
        controller=controller,
        website_id=member.website_id,
        store_id=member.store_id,
        locale=member.locale,
        residence=residence,
        homes=homes_of(residence),
        channels=channels,
        contact=member.contact,
        standing="recorded" if member.standing == "recorded" else "possible",
        late=member.late,
        sensitivity=Sensitivity.CRITICAL if why is None else why.highest_sensitivity,
        why=why,
    )


def _marks(member: CustomerAffected | Affected, controller: str) -> Iterable[tuple[str, object]]:
    customer_id = _customer_id(member)
    if customer_id is not None:
        yield "customer", customer_id
    if _is_theirs(member):
        yield "contact", (controller, _mailbox(member))


def _is_theirs(member: CustomerAffected | Affected) -> bool:
    """Return whether the e-mail that is stored says who somebody is; it is hashed as it is stored, valid or not."""
    return member.email_hmac is not None and Channel.EMAIL in member.channels


def _customer_id(member: CustomerAffected | Affected) -> int | None:
    if member.customer_id is None and member.root.startswith("customer/"):
        return int(member.root.partition("/")[2])
    return member.customer_id


def loose_marks(member: CustomerAffected | Affected) -> Iterable[int]:
    """Yield numbers of which roots of one person have at least one in common, in this process.

    Others may have one in common as well, so `merge` decides; but whoever has none in common need not be looked at together.
    """
    customer_id = _customer_id(member)
    if customer_id is not None:
        yield hash(("customer", customer_id))
    if _is_theirs(member):
        yield hash(_mailbox(member))


def _mailbox(member: CustomerAffected | Affected) -> str | None:
    """Return the hash of an address with its domain in ASCII, where it is known to be stored otherwise, else as it is stored."""
    contact = member.contact
    if contact is None:
        return member.email_hmac
    mailbox = contact.get("mailbox") if isinstance(contact, dict) else contact.mailbox
    return mailbox or member.email_hmac


def _rank(member: CustomerAffected | Affected) -> tuple[bool, bool, bool, int]:
    """Who can be reached comes first, then customers before orders, then who is still there, then the oldest."""
    kind, _, number = member.root.partition("/")
    return (member.contact is None, kind != "customer", member.departed, int(number))


def _person(members: Sequence[CustomerAffected | Affected], controllers: Mapping[int, str]) -> Person:
    primary, *others = sorted(members, key=_rank)
    everyone = (primary, *others)
    residence = tuple(dict.fromkeys(claim for member in everyone for claim in member.residence))
    why = joined([member.why for member in everyone if member.why is not None])
    customer_id = next((member.customer_id for member in everyone if member.customer_id is not None), None)
    channels = list(primary.channels)
    account = next((member for member in everyone if member.root == f"customer/{customer_id}"), None)
    if account is not None and not account.departed and Channel.ACCOUNT_NOTICE in account.channels:
        channels.append(Channel.ACCOUNT_NOTICE)
    return Person(
        root=primary.root,
        roots=tuple(sorted(member.root for member in everyone)),
        customer_id=customer_id,
        controller=controllers[primary.website_id],
        website_id=primary.website_id,
        store_id=primary.store_id,
        locale=next((member.locale for member in everyone if member.locale), ""),
        residence=residence,
        homes=homes_of(residence),
        channels=tuple(dict.fromkeys(channels)),
        contact=primary.contact,
        standing="recorded" if any(member.standing == "recorded" for member in everyone) else "possible",
        late=all(member.late for member in everyone),
        sensitivity=Sensitivity.CRITICAL if why is None else why.highest_sensitivity,
        why=why,
    )


_Why = TypeVar("_Why", bound=Why | Reason)


def joined(whys: Sequence[_Why]) -> _Why | None:
    """Return what several reasons say together, every list sorted and without repeats; None for no reason."""
    if not whys:
        return None
    if len(whys) == 1:
        return whys[0]

    def union(name: str) -> tuple[str, ...]:
        return tuple(sorted({value for why in whys for value in getattr(why, name)}))

    return type(whys[0])(
        record_ids=union("record_ids"),
        attributes=union("attributes"),
        models=union("models"),
        kinds=tuple(sorted({kind for why in whys for kind in why.kinds})),
        disclosures=union("disclosures"),
        highest_sensitivity=max((why.highest_sensitivity for why in whys), key=SENSITIVITY_ORDER.index),
        categories=union("categories"),
        elements=union("elements"),
        input_fields=union("input_fields"),
    )


def homes_of(residence: Sequence[Residence | Claim]) -> tuple[str, ...]:
    """Return the jurisdictions of residence claims, sorted; empty where nobody knows.

    The store's default country counts only where nothing else is known. A code that does not exist is no claim.
    """
    return _homes(tuple((claim.code, claim.source) for claim in residence))


@lru_cache(maxsize=4096)
def _homes(residence: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    stated = [code for code, source in residence if source != "store"] or [code for code, _ in residence]
    return tuple(sorted({home for code in stated if (home := _home(code)) is not None}))


def _home(code: str) -> str | None:
    try:
        return jurisdiction(code)
    except BadInput:
        return None


Alike = tuple[Person, int]
"""One of several people of whom everything is the same that decides what they are owed and told, and how many they are."""


def likeness(person: Person) -> tuple[Any, ...]:
    """Return all of a person that decides in which segment they are, what they are owed, and what they are told."""
    why = person.why
    return (
        person.controller,
        person.website_id,
        person.store_id,
        person.locale,
        person.homes,
        person.standing,
        person.sensitivity,
        None if why is None else (why.kinds, why.categories, why.disclosures, why.elements),
    )


def residents(people: Iterable[Alike], unknown: str) -> Mapping[str, int]:
    """Return how many people may live in each jurisdiction; who may live in two counts in both, for thresholds."""
    counts: dict[str, int] = {}
    for person, number in people:
        for home in person.homes or (unknown,):
            counts[home] = counts.get(home, 0) + number
    return dict(sorted(counts.items()))
