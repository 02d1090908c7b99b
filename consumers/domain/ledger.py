"""What release, dispatch and receipts exchange with the ledger: small frozen facts, no SQL and no provider."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from bridge.contracts.events import AccountNotice, Channel
from consumers.domain.delivery import Trigger

_NUMBER = re.compile(r"/([0-9]+)")
_NEIGHBOURS = 1024


def attempt_id_of(recipient_id: str, number: int) -> str:
    """Return the id of somebody's n-th attempt, 32 hexadecimal digits: always the same, and one person has no two of a number.

    It begins alike for an incident's people whose customer or order numbers are near each other: a database keeps rows in
    the order of their ids, and who is sent to together then lies together. A digest alone had it look for every row of a
    million somewhere else. How near is so coarse that an id, which providers and logs see, tells nobody's number.
    """
    digest = hashlib.sha256(f"{recipient_id}/{number}".encode()).hexdigest()
    incident_id, _, root = recipient_id.partition(":")
    found = _NUMBER.search(root)
    near = digest[:6] if found is None else f"{int(found[1]) // _NEIGHBOURS % 0x1000000:06x}"
    return hashlib.sha256(incident_id.encode()).hexdigest()[:2] + near + digest[8:32]


@dataclass(frozen=True, slots=True)
class Lane:
    """How much of one channel may lie on the belt, and how much of it is put there at once."""

    channel: Channel
    belt: int
    at_once: int
    per_second: float = 0.0
    """The lane's rate now, which says what deadlines need of it; 0: not known, and the earliest deadline takes all."""


@dataclass(frozen=True, slots=True)
class Begun:
    """How many people had their turn."""

    people: int
    commanded: Mapping[Channel, int]
    """Whose commands are on the belt already, by channel; all others wait for the meter."""
    more: bool
    """There may be others."""


@dataclass(frozen=True, slots=True)
class LaneAge:
    """How one channel stands over all releases that run, exercises left out."""

    waiting: int = 0
    """Messages that have not been taken up by a dispatcher, kept-back ones left out."""
    queue_seconds: float = 0.0
    """How long the oldest of them has waited."""
    silent_seconds: float = 0.0
    """How long ago the oldest message without a final receipt was handed over."""
    seconds_to_deadline: float | None = None
    """Until the earliest deadline of those that wait; None: none is owed. Below 0 it has passed."""
    bounded: "Sequence[BoundedLane]" = ()
    """Incidents that go at a rate of their own."""

    def joined(self, waiting: int, queue_seconds: float, seconds_to_deadline: float | None) -> "LaneAge":
        """Return how it stands with so many more waiting."""
        deadlines = [each for each in (self.seconds_to_deadline, seconds_to_deadline) if each is not None]
        return replace(
            self, waiting=self.waiting + waiting, queue_seconds=max(self.queue_seconds, queue_seconds),
            seconds_to_deadline=min(deadlines, default=None),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BoundedLane:
    """One incident that goes by a channel at a rate of its own, in messages a second."""

    waiting: int
    per_second: float
    seconds_to_deadline: float | None


@dataclass(frozen=True, slots=True)
class Command:
    """A delivery command as read from the topic; nothing in it is believed before the ledger confirms it."""

    attempt_id: str
    recipient_id: str
    release_id: str
    epoch: int
    exercise: bool = False


class Intent(msgspec.Struct, frozen=True):
    """A claimed attempt with all that is needed to send it. The contact is still sealed, and in JSON."""

    attempt_id: str
    recipient_id: str
    incident_id: str
    release_id: str
    channel: Channel
    provider: str
    epoch: int
    send_count: int
    root: str
    customer_id: int | None
    locale: str
    website_id: int
    contact: str | None
    segment_id: str
    segment_key: Mapping[str, Any]
    bundle_sha256: str | None
    deadline_at: datetime | None
    detected_at: datetime
    exercise: bool
    refused: tuple[str, ...] = ()
    """Providers in whose region no rule lets this person's notices pass."""

    def __repr__(self) -> str:
        return f"Intent({self.attempt_id!r})"


class SentReport(msgspec.Struct, frozen=True):
    """What became of one claimed attempt. `notice` is the account notice to post, for that channel."""

    attempt_id: str
    trigger: Trigger
    send_count: int
    provider_message_id: str | None = None
    body_sha256: str | None = None
    code: str | None = None
    provider: str | None = None
    """Who was asked, where that is another one than planned."""
    notice: AccountNotice | None = None
    exercise: bool = False
    """Left out of what is measured."""
    not_before: datetime | None = None
    """Of one that goes back to waiting: until then others go first."""
    called: bool = False
    """The ledger was told that a provider is asked."""
    deferred: bool = False
    """This one message is not taken now: the ledger knows since when, and for how long it may go on."""
    gone: bool = False
    """Refused, as nobody is at the person's address or number any more."""
    number_mark: str | None = None
    """The keyed hash of the number that was called: what is reported of the call later names no number."""

    def __repr__(self) -> str:
        return f"SentReport({self.attempt_id!r}, {self.trigger.value}, {self.send_count}, code={self.code!r})"


class SentText(msgspec.Struct, frozen=True):
    """The digest of a text that a provider has, or may have, and of which call of its attempt."""

    attempt_id: str
    send_count: int
    body_sha256: str
    number_mark: str | None = None
    """The keyed hash of the number that is called."""


@dataclass(frozen=True, slots=True)
class Unreported:
    """A message that a provider took, and of which it has not said for good what became."""

    attempt_id: str
    message_id: str
    handed_over_at: datetime
    expires_at: datetime
    """The next channel begins then."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What became of a batch of receipts."""

    applied: int
    kept_aside: int
    repeated: int
    exercises: frozenset[str] = frozenset()
    """Ids of those events that are about an exercise: left out of what is measured."""
    known: frozenset[tuple[str, str]] = frozenset()
    """Provider and id of those events that the ledger had already."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How far an incident's people are; `open` have no end yet and are not held. A supplement counts apart: the person
    was told before.
    """

    people: int
    reached: int
    substituted: int
    unreachable: int
    held: int
    open: int
    supplements: int = 0
    supplements_open: int = 0
    """Of `supplements` those without an end, held ones included."""


@dataclass(frozen=True, slots=True)
class ChannelCount:
    """How many attempts of one channel and provider stand in one state."""

    channel: str
    provider: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class WrittenLetter:
    """A letter that lies, or lay, ready for the post."""

    attempt_id: str
    message_id: str
    state: str
    waits: bool
    """Nobody has said that they posted it, and nothing has reached its reader since it was given up."""
    kept_back: str | None = None
    """Why it may not go to the post now, of one that waits."""
