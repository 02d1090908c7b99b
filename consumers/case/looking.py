"""Looking at single people in the ledger: what became of each attempt for one of them, and whose addresses bounced.

Every look is an act of a named person with a case event, before anything is shown. Contacts are sealed; only a list with
addresses opens them, for a reason, where the key is. Not for whom an incident is about (`standing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Channel, Contact, SealedContact
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.permissions import Act
from consumers.case.records import BouncedRecord, FoundRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.verification import KeyKind, LeakedKey, LeakMatcher
from consumers.case.workflow import found


class ContactOpener(Protocol):
    """Opens sealed contacts. Raises KeyNotHeld, or Refused when this one contact cannot be read."""

    def open(self, sealed: SealedContact, root: str) -> Contact: ...


def roots_behind(
    matcher: LeakMatcher | None, *, email: str | None = None, customer_id: int | None = None, root: str | None = None
) -> Sequence[str]:
    """Return the roots under which the index knows somebody, by exactly one of these.

    Raises BadInput, or Refused if nobody is known by this address, or a partition that may know them does not answer.
    """
    if sum(each is not None for each in (email, customer_id, root)) != 1:
        raise BadInput("say who: one of --email, --customer and --root")
    if customer_id is not None:
        return [f"customer/{customer_id}"]
    if root is not None:
        return [root]
    assert email is not None
    assert matcher is not None
    key = LeakedKey(KeyKind.EMAIL, email.strip())
    matched = matcher.match([key])
    roots = sorted(matched.roots.get(key, ()))
    if not roots:
        silent = len(matched.silent_partitions)
        raise Refused(
            "nobody is known by this address"
            + (f", but {silent} of {matched.partition_count} partitions did not answer" if silent else "")
        )
    return roots


def find_person(store: CaseStore, roots: Sequence[str], actor: Actor, now: datetime) -> Sequence[FoundRecord]:
    """Return what every incident did to tell a person, newest incident first; that it was asked is recorded for each.

    Raises Refused if no incident is about them.
    """
    role = actor.acting_for(Act.LOOK_AT_PERSON)

    def work(case: CaseWork) -> Sequence[FoundRecord]:
        rows = case.find_recipients(roots)
        if not rows:
            raise Refused("no incident is about this person")
        for incident_id, subject in sorted({(each.incident_id, each.subject_commitment) for each in rows}):
            body: Body = {"view": "delivery_find", "subject_commitment": subject}
            record_act(case, actor, role, "person.looked_at", body, at=now, incident=found(case, incident_id))
        return rows

    return store.change(work)


@dataclass(frozen=True, slots=True)
class Bounced:
    """Somebody to whom a channel does not lead any more. `address` only where it was asked for and could be opened."""

    record: BouncedRecord
    address: str | None = field(default=None, repr=False)


def list_bounced(
    store: CaseStore,
    incident_id: str | None,
    actor: Actor,
    now: datetime,
    *,
    soft: bool = False,
    opener: ContactOpener | None = None,
    reason: str | None = None,
) -> Sequence[Bounced]:
    """Return whose addresses bounced, each once a channel, newest first; that it was asked for is recorded.

    With `opener` and a reason also the addresses, as far as their incident still holds the contact.
    """
    role = actor.acting_for(Act.LOOK_AT_PERSON)
    why = needed(reason) if opener is not None else reason

    def work(case: CaseWork) -> Sequence[BouncedRecord]:
        incident = None if incident_id is None else found(case, incident_id)
        rows = case.bounced(incident_id, soft=soft)
        # written before anything is opened: no look without its trace
        body: Body = {"listed_count": len(rows), "opened": opener is not None}
        record_act(case, actor, role, "people.bounced_listed", body, at=now, incident=incident, reason=why)
        return rows

    rows = store.change(work)
    return [Bounced(each, None if opener is None else _address(opener, each)) for each in rows]


def _address(opener: ContactOpener, record: BouncedRecord) -> str | None:
    if record.contact is None:
        return None
    contact = opener.open(SealedContact.model_validate(record.contact), record.root)
    return contact.phone if record.channel == Channel.SMS else contact.email
