"""What dispatch hands to a provider and what comes back: the words that providers' adapters and stages share.

A provider meets one small Protocol (`EmailProvider`, `SmsProvider`, `LetterWriter`, `ReceiptSource`). Adding one is one
module under `consumers/adapters/` and one line in `consumers/bootstrap/`, where the channel's providers stand in order.
Objects here may hold an address or a number in memory; nothing here is logged, stored or published.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from bridge.contracts.errors import Refused
from bridge.contracts.events import Channel
from consumers.domain.simulators import SIMULATED_PHONE, simulated_email

SPECIMEN_ADDRESS = ("SPECIMEN", "NOT FOR THE POST")
"""What stands on the envelope of a letter that nobody may get."""


class SendState(StrEnum):
    """What a provider said to one entry of a call."""

    ACCEPTED = "accepted"
    THROTTLED = "throttled"
    """Not taken, as it came too fast: goes back to waiting, never failed."""
    DEFERRED = "deferred"
    """Not taken now, for a reason of this message's own (a greylist, a full mailbox) or none that is named: tried again for as
    long as the channel may take.
    """
    UNAVAILABLE = "unavailable"
    """Not taken, as the provider or our account there cannot send at all: goes back to waiting, or to another provider."""
    REJECTED = "rejected"
    """Refused for good on this channel."""
    UNKNOWN = "unknown"
    """The call may have been taken (timeout, connection reset): receipts settle it."""


class EmailEntry(msgspec.Struct, frozen=True):
    """One recipient of a bulk call. `attempt_id` travels as a message tag, so that receipts find their attempt."""

    attempt_id: str
    to_address: str
    slots: Mapping[str, str]
    """Scalar values by slot name, already escaped per part: `name` for text, `name_html` for HTML."""

    def __repr__(self) -> str:
        return f"EmailEntry({self.attempt_id!r})"


@dataclass(frozen=True, slots=True)
class BulkEmail:
    """One approved text for many recipients. `{{slot}}` in the parts is filled by the provider for each entry."""

    from_address: str
    reply_to: str | None
    subject: str
    html: str
    text: str
    incident_id: str
    entries: Sequence[EmailEntry]
    exercise: bool
    """True: nobody real may get it. The provider itself puts the simulator's address in place of every entry's."""


def wire_email(message: BulkEmail, entry: EmailEntry) -> str:
    """Return the address that goes onto the wire for `entry`; an exercise's is never the person's, whoever asks."""
    return simulated_email() if message.exercise else entry.to_address


def wire_phone(phone_e164: str, *, exercise: bool) -> str:
    """Return the number that goes onto the wire; an exercise's is never the person's, whoever asks."""
    return SIMULATED_PHONE if exercise else phone_e164


class SendResult(msgspec.Struct, frozen=True):
    """The provider's answer to one entry."""

    attempt_id: str
    state: SendState
    provider_message_id: str | None = None
    code: str | None = None
    """The provider's own status word (`MESSAGE_REJECTED`, `TooManyRequestsException`); never free text."""
    gone: bool = False
    """Refused, as nobody is at this address or number any more: what a hard bounce says, said at once."""


@dataclass(frozen=True, slots=True)
class EmailTemplate:
    """The approved text that an audience shares; `{{slot}}` is filled for each person."""

    from_address: str
    reply_to: str | None
    subject: str
    html: str
    text: str


class PreparedEmail(msgspec.Struct, frozen=True):
    """One person's e-mail before sending: the shared text, their slots, and the hash of the filled body."""

    template: EmailTemplate
    slots: Mapping[str, str]
    body_sha256: str

    def __repr__(self) -> str:
        return f"PreparedEmail({self.body_sha256!r})"


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A text that is final as it stands (SMS), with its hash."""

    text: str = field(repr=False)
    body_sha256: str


@dataclass(frozen=True, slots=True)
class PreparedAccountNotice:
    """An account notice: approved text without names."""

    title: str
    body: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class PreparedLetter:
    """One person's letter as a PDF that shows their address in the window, and its hash."""

    pdf: bytes = field(repr=False)
    address: Sequence[str] = field(repr=False)
    """Lines as on the envelope, country last."""
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter of a batch."""

    attempt_id: str
    send_count: int
    pdf: bytes = field(repr=False)
    address: Sequence[str] = field(repr=False)


class NotPrintable(Refused):
    """Somebody's own name or address cannot stand in their letter: they are told by another channel."""


class LetterWriter(Protocol):
    """Lays letters out for the printer."""

    name: str

    def write(self, incident_id: str, letters: Sequence[Letter], *, exercise: bool) -> Sequence[SendResult]:
        """Write one batch durably; return one result a letter, in order. Raises TocsinError if nothing was written.

        An exercise's letters are written to nobody: Refused for any address but `SPECIMEN_ADDRESS`.
        """
        ...


class EmailProvider(Protocol):
    """Sends one text to up to `max_entries` recipients."""

    name: str
    max_entries: int
    calls_at_once: int
    """How many calls may be in flight, each from a thread of its own."""

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        """Return one result for each entry, in order. Never raises for what a provider says; only for our own bugs."""
        ...


class SmsProvider(Protocol):
    """Sends one text message."""

    name: str

    def send(self, attempt_id: str, phone_e164: str, text: str, *, exercise: bool) -> SendResult:
        """Return the provider's answer. Never raises for what a provider says.

        `exercise`: the simulator's number goes onto the wire in place of `phone_e164`.
        """
        ...


P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Turn(Generic[P]):
    """Whose turn it is, and for how many messages at most (None: as many as there are)."""

    provider: P
    at_most: int | None = None


class ProviderLane(Protocol[P]):
    """One channel's providers: who is called next."""

    def turn(self, refused: Collection[str] = ()) -> Turn[P] | None:
        """Return whose turn it is; None while every provider is ill, so that messages had better wait. `refused`: the names of
        those in whose region these messages may not pass.
        """
        ...

    def stands_still(self) -> bool:
        """Say whether nobody has a turn now, without taking one."""
        ...

    def record(self, provider: P, results: Sequence[SendResult], took: timedelta) -> None:
        """Learn from the answer to one call."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a channel's providers take now. None: nobody knows a bound beside the settings'."""

    per_second: float | None = None
    at_most: int | None = None
    """So many messages may still be put on their way: what a quota leaves, or the probes of an ill provider."""
    again_per_second: float = 0.0
    """Where that is 0: at what rate it comes back by itself, as a quota over 24 hours does."""


NO_BOUND = Allowance()


class Rates(Protocol):
    """What the providers' accounts and circuits allow at this moment; whoever meters asks before each portion."""

    def allowance(self, channel: Channel) -> Allowance:
        """Return the bounds of `channel`. Answers at once from what was read last, and never raises."""
        ...

    def issued(self, channel: Channel, count: int) -> None:
        """Note that `count` messages of `channel` were put on their way: they use up a quota before a provider says so."""
        ...


class ReceiptKind(StrEnum):
    """What a provider reports later about a message."""

    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED_HARD = "bounced_hard"
    BOUNCED_SOFT = "bounced_soft"
    COMPLAINED = "complained"
    DELAYED = "delayed"
    REJECTED = "rejected"
    RENDERING_FAILED = "rendering_failed"
    READ = "read"


SUPPRESSED = "OnAccountSuppressionList"
"""Sub-type of a bounce about a message that the provider took and never tried: nothing was learned of the address."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event about one message of one recipient."""

    provider: str
    provider_event_id: str
    """Unique per provider: deduplication key."""
    provider_message_id: str
    attempt_id: str | None
    """From the message tag, if the provider carries it."""
    kind: ReceiptKind
    sub_type: str | None
    occurred_at: datetime
    raw_sha256: str
    mailbox: str = "none"
    """Who keeps the mailbox (`domain.contacts.MAILBOXES`), where the provider says it. For counting; never stored."""


@dataclass(frozen=True, slots=True)
class ReceiptDelivery:
    """A received receipt, or bytes that are none (`receipt` is None, `error` says why), with the handle to settle it."""

    handle: str
    receipts: Sequence[Receipt]
    error: str | None = None
    raw: bytes = field(default=b"", repr=False)


class ReceiptSource(Protocol):
    """Where receipts wait until they are settled (an SQS queue)."""

    name: str

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:
        """Return up to `limit` waiting deliveries. They come again unless settled. Raises Unreachable."""
        ...

    def settle(self, handles: Sequence[str]) -> None:
        """Remove what has been stored durably. A crash before this delivers it again."""
        ...
