"""What one partition answers to an incident: who is affected and why, and the Merkle root that fixes the set.

Index, planning and whoever reproduces an answer compute the same leaves here, so that a set lost or altered on the way
shows. The tree is RFC 6962, section 2.1. Not the evidence log's tree: that one grows and proves, this one only sums up.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bridge.contracts.events import (
    SENSITIVITY_ORDER,
    CustomerAffected,
    CustomerChanged,
    CustomerDeparted,
    Kind,
    OrderChanged,
    Sensitivity,
    Why,
)

Standing = Literal["recorded", "possible"]
Person = CustomerChanged | OrderChanged | CustomerDeparted
"""A data subject as the index holds them."""

Member = tuple[str, Sequence[str], str]
"""One affected person as an answer's leaves know them: root, record ids, standing."""

ANY_ATTRIBUTE = "*"
"""Stands for the attributes of a model that the scope names and no record of this partition does."""
UNSPECIFIED = "unspecified"
"""The category of a disclosure whose record names none: the person is told all the same."""

_LEAF = b"\x00"
_NODE = b"\x01"


class MatchedRecord(Protocol):
    """What *why* is made of. `ProvenanceRecorded` has it."""

    @property
    def record_id(self) -> str: ...
    @property
    def attribute(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def model_version(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def sensitivity(self) -> Sensitivity: ...
    @property
    def categories(self) -> tuple[str, ...]: ...
    @property
    def elements(self) -> tuple[str, ...]: ...
    @property
    def input_fields(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """One data subject under one root that a scope concerns. `person` None: the store holds no such person any more."""

    root: str
    customer_id: int | None
    standing: Standing
    why: Why | None
    """None where a value is held without any record: nothing says why."""
    person: Person | None


def why_of(records: Iterable[MatchedRecord]) -> Why:
    """Sum up the records (at least one) that match for one person; every list sorted and without repeats."""
    found = list(records)
    return Why(
        record_ids=tuple(sorted({record.record_id for record in found})),
        attributes=tuple(sorted({record.attribute for record in found})),
        models=tuple(sorted({f"{record.model_id}@{record.model_version}" for record in found})),
        kinds=tuple(sorted({record.kind for record in found})),
        disclosures=tuple(
            sorted(
                {
                    f"{record.kind.value}|{record.model_id}|{category}"
                    for record in found
                    for category in record.categories or (UNSPECIFIED,)
                }
            )
        ),
        highest_sensitivity=max((record.sensitivity for record in found), key=SENSITIVITY_ORDER.index),
        categories=tuple(sorted({category for record in found for category in record.categories})),
        elements=tuple(sorted({element for record in found for element in record.elements})),
        input_fields=tuple(sorted({field for record in found for field in record.input_fields})),
    )


def affected(found: Found, *, incident_id: str, revision: int, partition: int, late: bool = False) -> CustomerAffected:
    """Return the event that says so, with everything that the index holds of the person."""
    person = found.person
    return CustomerAffected(
        root=found.root,
        customer_id=found.customer_id if person is None or person.customer_id is None else person.customer_id,
        website_id=0 if person is None else person.website_id,
        store_id=0 if person is None else person.store_id,
        locale="" if person is None else person.locale,
        residence=() if person is None else person.residence,
        channels=() if person is None else person.channels,
        contact=None if person is None else person.contact,
        email_hmac=None if person is None else person.email_hmac,
        incident_id=incident_id,
        revision=revision,
        partition=partition,
        standing=found.standing,
        departed=person is None or isinstance(person, CustomerDeparted),
        late=late,
        why=found.why,
    )


def member_leaf(root: str, record_ids: Iterable[str], standing: str) -> bytes:
    """Return the leaf's bytes for one affected person: canonical JSON of root, sorted record ids and standing."""
    ids = sorted(set(record_ids))
    names = "".join((root, standing, *ids))
    if names.isprintable() and '"' not in names and "\\" not in names:
        # nothing needs an escape: the same text, a tenth as dear, and there is one for each of a hundred thousand people
        listed = '","'.join(ids)
        listed = f'["{listed}"]' if ids else "[]"
        return f'["{root}",{listed},"{standing}"]'.encode()
    return json.dumps([root, ids, standing], ensure_ascii=False, separators=(",", ":")).encode()


def set_root(members: Iterable[CustomerAffected]) -> str:
    """Return the Merkle root, in hex, over the members' leaves, sorted by root; late additions are no members."""
    ordered = sorted(members, key=lambda member: member.root)
    return members_root((each.root, each.why.record_ids if each.why else (), each.standing) for each in ordered)


def members_root(members: Iterable[Member]) -> str:
    """Return the same over members that are sorted by root already."""
    return merkle_root([member_leaf(*member) for member in members])


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Return the RFC 6962 Merkle tree hash of `leaves`, in hex. No leaves: the hash of nothing."""
    if not leaves:
        return hashlib.sha256(b"").hexdigest()
    level = [hashlib.sha256(_LEAF + leaf).digest() for leaf in leaves]
    # Pairing from the left and carrying an odd last node up gives the RFC's split at the largest power of two.
    while len(level) > 1:
        paired = [
            hashlib.sha256(_NODE + level[index] + level[index + 1]).digest() for index in range(0, len(level) - 1, 2)
        ]
        level = paired + level[len(paired) * 2 :]
    return level[0].hex()
