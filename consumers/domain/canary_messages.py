"""Canary messages: sent to a simulator, or to an address of our own, so that an outage is found before a breach.

Each goes the whole way that a notice goes after dispatch: provider, event, topic, queue, receipts stage. Pure; what is
tried here are providers and receipts, nobody is told anything. Not to be confused with the canary of a release
(`consumers.domain.canary`), which are real people who are told first.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from bridge.contracts.events import Channel
from consumers.domain.sending import ReceiptKind, SendResult, SendState

ID_PREFIX = "ca9a27"
"""Every canary message's id begins so: a receipt without it is not looked for among them."""
TEXT = "This message tests that notices can be delivered. Nothing has happened, and there is nothing to do."
SUBJECT = "Delivery test"


class CanaryStage(StrEnum):
    """How far one has come."""

    SENDING = "sending"
    """Written before the provider is called: a crash leaves it so, and its receipts or its time limit end it."""
    SENT = "sent"
    ARRIVED = "arrived"
    FAILED = "failed"
    YIELDED = "yielded"
    """The provider asked for less: real notices go first. Says nothing of the provider."""


class Purpose(StrEnum):
    """Why one was sent."""

    CANARY = "canary"
    """By itself, every few minutes."""
    CHECK = "check"
    """By somebody who typed `tocsin delivery check`."""


@dataclass(frozen=True, slots=True)
class CanaryRoute:
    """One way to try: a channel's provider in a region."""

    channel: Channel
    provider: str
    region: str


Send = Callable[[str], SendResult]
"""Sends the message of an id; returns what the provider said, and never raises for it."""


@dataclass(frozen=True, slots=True)
class CanaryStanding:
    """How a route has done of late."""

    last_arrived_at: datetime | None
    """When the last message arrived; None: none of those that are kept."""
    first_began_at: datetime | None
    failing: int
    """How many failed in a row since."""


@dataclass(frozen=True, slots=True)
class CanaryLane:
    """A route that the settings name a destination for, how often it is tried, and how long a receipt may take."""

    route: CanaryRoute
    every: timedelta
    patience: timedelta
    send: Send = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CanaryMessage:
    """One message. Its destination is not kept: the settings name it."""

    message_id: str
    route: CanaryRoute
    purpose: Purpose
    expects: ReceiptKind
    stage: CanaryStage
    began_at: datetime
    settled_at: datetime | None = None
    """When it arrived or failed, as the receipt or our own clock says."""
    provider_message_id: str | None = None
    code: str | None = None
    """Why it failed: the provider's word, the receipt's kind, or `NO_RECEIPT`."""
    kinds: tuple[str, ...] = ()
    """Receipts in the order of their coming."""

    @property
    def is_open(self) -> bool:
        """Whether its end is still waited for."""
        return self.stage in (CanaryStage.SENDING, CanaryStage.SENT)

    @property
    def seconds(self) -> float | None:
        """How long it took to arrive."""
        if self.stage is not CanaryStage.ARRIVED or self.settled_at is None:
            return None
        return max(0.0, (self.settled_at - self.began_at).total_seconds())


NO_RECEIPT = "NO_RECEIPT"

_STAGE_OF_ANSWER = {
    SendState.ACCEPTED: CanaryStage.SENT,
    # it may have been taken: receipts say
    SendState.UNKNOWN: CanaryStage.SENT,
    SendState.THROTTLED: CanaryStage.YIELDED,
    SendState.DEFERRED: CanaryStage.YIELDED,
    SendState.UNAVAILABLE: CanaryStage.FAILED,
    SendState.REJECTED: CanaryStage.FAILED,
}
_NOT_ARRIVED = frozenset(
    {ReceiptKind.BOUNCED_HARD, ReceiptKind.BOUNCED_SOFT, ReceiptKind.REJECTED, ReceiptKind.RENDERING_FAILED}
)
_IMPLIES_DELIVERED = frozenset({ReceiptKind.DELIVERED, ReceiptKind.READ, ReceiptKind.COMPLAINED})


def stage_after_answer(state: SendState) -> CanaryStage:
    """Return how far a message is once its provider has answered."""
    return _STAGE_OF_ANSWER[state]


def stage_after_receipt(stage: CanaryStage, expects: ReceiptKind, kind: ReceiptKind) -> CanaryStage:
    """Return how far a message is once a receipt has come. What has arrived stays so; one that was given up may arrive."""
    if stage is CanaryStage.ARRIVED:
        return stage
    if kind is expects or (expects is ReceiptKind.DELIVERED and kind in _IMPLIES_DELIVERED):
        return CanaryStage.ARRIVED
    if kind in _NOT_ARRIVED:
        return CanaryStage.FAILED
    return CanaryStage.SENT if stage is CanaryStage.SENDING else stage


def next_id(route: CanaryRoute, previous_id: str | None) -> str:
    """Return the id of the message that follows `previous_id` on a route: the same for whoever asks, so that of two
    processes that begin at the same moment only one can.
    """
    after = f"{route.channel.value}/{route.provider}/{route.region}/{previous_id or secrets.token_hex(8)}"
    return ID_PREFIX + hashlib.sha256(after.encode()).hexdigest()[: 32 - len(ID_PREFIX)]


def check_id() -> str:
    """Return a new id for a message that somebody asked for."""
    return ID_PREFIX + secrets.token_hex(16)[: 32 - len(ID_PREFIX)]


def may_be_canary(message_id: str) -> bool:
    """Say whether an id looks like a canary message's; one in 16 million attempts' does, too."""
    return message_id.startswith(ID_PREFIX)


def is_due(lane: CanaryLane, last: CanaryMessage | None, now: datetime) -> bool:
    """Say whether the next message of a lane is due: one at a time, one an interval, and soon again after giving way."""
    if last is None:
        return True
    if last.is_open:
        return False
    wait = min(lane.every, _AFTER_YIELDING) if last.stage is CanaryStage.YIELDED else lane.every
    return now - last.began_at >= wait


def is_overdue(message: CanaryMessage, patience: timedelta, now: datetime) -> bool:
    """Say whether an open message's receipt has taken too long."""
    return message.is_open and now - message.began_at >= patience


_AFTER_YIELDING = timedelta(minutes=1)
