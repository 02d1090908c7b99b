"""The delivery state machine: one table for an attempt, and what a person's attempts add up to.

Sent is not delivered. Receipts come late, twice, out of order and contradict each other; each such case is a row here.
A pair that is not in the table changes nothing. Of two that contradict each other the one that costs a message more wins:
a bounce takes a delivery back, whichever came first, and the next channel begins even for somebody who had been counted
as reached; only the reader's own doing (read, complained) shows for good that a message arrived.
Not for deciding *whether* somebody is notified, nor when.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from bridge.contracts.events import AttemptState, Channel
from consumers.domain.fallback import Fallback
from consumers.domain.sending import ReceiptKind, SendState


class Trigger(StrEnum):
    """What happens to an attempt besides receipts."""

    COMMAND = "command"
    INTEND = "intend"
    ACCEPTED = "accepted"
    THROTTLED = "throttled"
    REFUSED = "refused"
    LOST = "lost"
    """Nobody knows whether the provider took it: time-out, connection reset, or the dispatcher died."""
    REPEAT = "repeat"
    """Unknown for too long and not yet repeated: a repeated legal notice is better than a missing one, once."""
    EXPIRE = "expire"
    RECALL = "recall"
    """The command is stale: paused, re-planned or never picked up."""
    CANCEL = "cancel"


class PersonEnd(StrEnum):
    """How a person ends; nobody is left in between."""

    REACHED = "reached"
    SUBSTITUTED = "substituted"
    UNREACHABLE_REPORTED = "unreachable_reported"


_S, _T, _R = AttemptState, Trigger, ReceiptKind

_BEFORE_OUTCOME = (_S.INTENDED, _S.UNKNOWN, _S.HANDED_OVER)
"""The provider may have the message; a receipt that overtakes the dispatcher's own note finds it `intended`."""

_BEFORE_REPEAT = (_S.PLANNED, _S.COMMANDED)
"""A repeat waits while the first call's receipt comes after all: it says what the repeat would have been for. Without a
first call there is no message that a receipt could be about.
"""

_OWN: dict[tuple[AttemptState, Trigger | ReceiptKind], AttemptState] = {
    (_S.PLANNED, _T.COMMAND): _S.COMMANDED,
    (_S.PLANNED, _T.CANCEL): _S.CANCELLED,
    (_S.COMMANDED, _T.INTEND): _S.INTENDED,
    (_S.COMMANDED, _T.RECALL): _S.PLANNED,
    (_S.COMMANDED, _T.CANCEL): _S.CANCELLED,
    (_S.INTENDED, _T.ACCEPTED): _S.HANDED_OVER,
    (_S.INTENDED, _T.THROTTLED): _S.PLANNED,
    (_S.INTENDED, _T.RECALL): _S.PLANNED,
    (_S.INTENDED, _T.REFUSED): _S.REJECTED,
    (_S.INTENDED, _T.LOST): _S.UNKNOWN,
    (_S.UNKNOWN, _T.ACCEPTED): _S.HANDED_OVER,
    (_S.UNKNOWN, _T.REFUSED): _S.REJECTED,
    # a slow dispatcher's word, after the sweeper had given up on it: nothing has left the house
    (_S.UNKNOWN, _T.THROTTLED): _S.PLANNED,
    (_S.UNKNOWN, _T.RECALL): _S.PLANNED,
    (_S.UNKNOWN, _T.REPEAT): _S.PLANNED,
    (_S.UNKNOWN, _T.EXPIRE): _S.EXPIRED,
    (_S.HANDED_OVER, _T.EXPIRE): _S.EXPIRED,
    (_S.DELIVERED, _R.READ): _S.READ,
    # an asynchronous bounce after the receiving server had said yes: the message did not arrive
    (_S.DELIVERED, _R.BOUNCED_HARD): _S.BOUNCED,
    (_S.DELIVERED, _R.BOUNCED_SOFT): _S.BOUNCED,
    # a complaint is made about a message that arrived
    (_S.DELIVERED, _R.COMPLAINED): _S.COMPLAINED,
    (_S.BOUNCED, _R.COMPLAINED): _S.COMPLAINED,
    (_S.BOUNCED, _R.READ): _S.READ,
    # too late for the plan, still true: the person has it
    (_S.EXPIRED, _R.DELIVERED): _S.DELIVERED,
    (_S.EXPIRED, _R.COMPLAINED): _S.COMPLAINED,
    (_S.EXPIRED, _R.READ): _S.READ,
    (_S.EXPIRED, _R.BOUNCED_HARD): _S.BOUNCED,
    (_S.EXPIRED, _R.BOUNCED_SOFT): _S.BOUNCED,
    (_S.EXPIRED, _R.REJECTED): _S.REJECTED,
    (_S.EXPIRED, _R.RENDERING_FAILED): _S.REJECTED,
    # called back before its repeat, as another channel had arrived: the first call's message has arrived as well
    (_S.CANCELLED, _R.DELIVERED): _S.DELIVERED,
    (_S.CANCELLED, _R.COMPLAINED): _S.COMPLAINED,
    (_S.CANCELLED, _R.READ): _S.READ,
    (_S.CANCELLED, _R.BOUNCED_HARD): _S.BOUNCED,
    (_S.CANCELLED, _R.BOUNCED_SOFT): _S.BOUNCED,
    # the repeat was refused, and makes no message: what arrived is the first call's
    (_S.REJECTED, _R.DELIVERED): _S.DELIVERED,
    (_S.REJECTED, _R.COMPLAINED): _S.COMPLAINED,
    (_S.REJECTED, _R.READ): _S.READ,
}
_REPORTED: dict[tuple[AttemptState, Trigger | ReceiptKind], AttemptState] = {
    (before, receipt): after
    for before in (*_BEFORE_OUTCOME, *_BEFORE_REPEAT)
    for receipt, after in {
        _R.SENT: _S.HANDED_OVER,
        _R.DELAYED: _S.HANDED_OVER,
        _R.DELIVERED: _S.DELIVERED,
        _R.BOUNCED_HARD: _S.BOUNCED,
        # SES reports a soft bounce when it has given up on the message
        _R.BOUNCED_SOFT: _S.BOUNCED,
        _R.COMPLAINED: _S.COMPLAINED,
        _R.REJECTED: _S.REJECTED,
        _R.RENDERING_FAILED: _S.REJECTED,
        _R.READ: _S.READ,
    }.items()
    if (before, after) != (_S.HANDED_OVER, _S.HANDED_OVER)
}
TRANSITIONS = _OWN | _REPORTED
"""State and trigger -> next state; a pair that is missing changes nothing."""

_GIVEN_UP = (_R.BOUNCED_SOFT, _R.REJECTED, _R.RENDERING_FAILED)
"""What ends a message and says nothing of the address: another one to it may arrive."""

_OF_ANOTHER_CALL: dict[tuple[AttemptState, Trigger | ReceiptKind], AttemptState] = {
    # the first call's message is given up when its repeat's is on its way, or has arrived
    **{(_S.HANDED_OVER, receipt): _S.HANDED_OVER for receipt in _GIVEN_UP},
    (_S.DELIVERED, _R.BOUNCED_SOFT): _S.DELIVERED,
    # or was before the repeat's arrived
    (_S.BOUNCED, _R.DELIVERED): _S.DELIVERED,
}
"""The same of a receipt about another message than the one by which an attempt stands where it does."""

ARRIVED = frozenset({_S.DELIVERED, _S.READ, _S.COMPLAINED})
ARRIVED_FOR_GOOD = frozenset({_S.READ, _S.COMPLAINED})
"""By the reader's own doing: nothing that a provider says takes it back."""
FAILED = frozenset({_S.BOUNCED, _S.REJECTED, _S.EXPIRED})
FAILURES = frozenset({_R.BOUNCED_HARD, *_GIVEN_UP})
"""Receipts by which a message has not arrived."""
LIVE = frozenset({_S.PLANNED, _S.COMMANDED, _S.INTENDED, _S.HANDED_OVER, _S.UNKNOWN})

OF_SEND: dict[SendState, Trigger] = {
    SendState.ACCEPTED: Trigger.ACCEPTED,
    SendState.THROTTLED: Trigger.THROTTLED,
    SendState.DEFERRED: Trigger.THROTTLED,
    SendState.UNAVAILABLE: Trigger.THROTTLED,
    SendState.REJECTED: Trigger.REFUSED,
    SendState.UNKNOWN: Trigger.LOST,
}
"""What a provider's answer does to the attempt."""


def next_state(state: AttemptState, trigger: Trigger | ReceiptKind, *, of_another_call: bool = False) -> AttemptState:
    """Return the state after `trigger`; the same state where the table says nothing. `of_another_call`: see the function of
    this name.
    """
    after = TRANSITIONS.get((state, trigger), state)
    return _OF_ANOTHER_CALL.get((state, trigger), after) if of_another_call else after


Message = tuple[str, str]
"""A provider and what it calls one message; "" where its reports do not say."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was reported of one message of an attempt."""

    message: Message
    kind: ReceiptKind
    for_good: bool = False
    """Of a bounce: it says that nobody is at the address."""


def of_another_call(kind: ReceiptKind, message: Message, own: Message | None, told: Sequence[Told]) -> bool:
    """Say whether a receipt about `message`, one of an attempt that was called twice, leaves what another call's message did as
    it is. `own` is the one that the attempt knows last, `told` all that was reported of any.
    """
    if kind is ReceiptKind.DELIVERED:
        bounces = [each for each in told if each.kind in (ReceiptKind.BOUNCED_HARD, ReceiptKind.BOUNCED_SOFT)]
        return not any(each.for_good or each.message == message for each in bounces)
    if own is not None and message != own:
        return True
    arrived = {each.message for each in told if each.kind is ReceiptKind.DELIVERED} - {message}
    return any(not any(each.message == other and each.kind in FAILURES for each in told) for other in arrived)


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt of a person as the next decision sees it."""

    channel: Channel
    state: AttemptState


@dataclass(frozen=True, slots=True)
class Next:
    """What a person needs now: further channels, an end, or patience (neither)."""

    channels: tuple[Channel, ...] = ()
    end: PersonEnd | None = None

    @property
    def channel(self) -> Channel | None:
        """The first of `channels`."""
        return self.channels[0] if self.channels else None


def what_next(tried: Sequence[Tried], policy: Fallback, available: Collection[Channel]) -> Next:
    """Return what follows from a person's attempts under `policy`.

    Steps follow one another, each available channel is tried once; the channels of one step are begun together and each
    has its say: who got the mail is reached when it is known what became of the letter that the law asks for, too. While
    nothing has arrived and something is live nothing more is started. One that was called back before it left the house
    was not tried. Somebody for whom no channel is left, or ever was, is `unreachable_reported`: counted, and `substituted`
    once a public communication stands in for their notice (`publication.stand_in`).
    """
    live = {attempt.channel for attempt in tried if attempt.state in LIVE}
    arrived = {attempt.channel for attempt in tried if attempt.state in ARRIVED}
    if arrived:
        beside = {channel for step in policy.steps if arrived.intersection(step) for channel in step}
        return Next() if live & beside else Next(end=PersonEnd.REACHED)
    if live:
        return Next()
    begun = {attempt.channel for attempt in tried if attempt.state is not _S.CANCELLED}
    for step in policy.narrowed(available).steps:
        if waiting := tuple(channel for channel in step if channel not in begun):
            return Next(waiting)
    return Next(end=PersonEnd.UNREACHABLE_REPORTED)


_A_GREYLIST = timedelta(minutes=30)
"""RFC 5321, 4.5.4.1: a sender should wait so long before it tries again; servers that test senders count on it."""


def deferred_until(first_at: datetime, now: datetime, expires_at: datetime, timeout: timedelta) -> datetime | None:
    """Return when a message is tried again that is not taken for its recipient's sake, since `first_at`; None once the
    channel has had its time (`expires_at`, counted from then), so that the next one begins.

    A near or passed deadline leaves it half an hour all the same, within its channel's `timeout`: nobody's only channel is
    given up for a server that wants to see a sender twice.
    """
    over = max(expires_at, first_at + min(timeout, _A_GREYLIST))
    if now >= over:
        return None
    wait = min(max(now - first_at, timedelta(minutes=1)), timedelta(minutes=15))
    return min(now + wait, over)


def expires_at(
    handed_over_at: datetime, timeout: timedelta, deadline_at: datetime | None, needed_after: timedelta
) -> datetime:
    """Return when the next channel must begin if no final receipt came.

    Never later than the deadline less what the next channel needs, and never before half a minute has passed: a
    deadline that lies behind us makes nothing arrive sooner.
    """
    latest = handed_over_at + timeout
    if deadline_at is not None:
        latest = min(latest, deadline_at - needed_after)
    return max(latest, handed_over_at + min(timeout, timedelta(seconds=30)))
