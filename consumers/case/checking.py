"""A check of delivery: messages to SES's simulators, their receipts by the way of all receipts, and the link that is missing.

Tells nobody anything and changes nothing but its own rows.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from bridge.contracts.errors import Unreachable
from consumers.domain.canary_messages import CanaryMessage, CanaryRoute, CanaryStage
from consumers.domain.receipt_chain import (
    MissingLink,
    ReceiptChain,
    ReceiptsStage,
    missing_after_waiting,
    missing_before_sending,
)
from consumers.domain.sending import ReceiptKind, SendResult
from consumers.domain.simulators import MailboxScenario

EXPECTED = {
    MailboxScenario.SUCCESS: ReceiptKind.DELIVERED,
    MailboxScenario.BOUNCE: ReceiptKind.BOUNCED_HARD,
    MailboxScenario.COMPLAINT: ReceiptKind.COMPLAINED,
}
"""Which simulators are written to, and what each must lead to."""

_NOT_REACHED = frozenset(
    {
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ReadTimeoutError",
        "ProxyConnectionError",
    }
)


class CheckBook(Protocol):
    """Rows of messages. All methods raise Unreachable."""

    def begin_check(self, route: CanaryRoute, expects: ReceiptKind) -> CanaryMessage: ...
    def answered(self, message: CanaryMessage, result: SendResult) -> CanaryMessage: ...
    def messages(self, message_ids: Collection[str]) -> Mapping[str, CanaryMessage]: ...
    def last(self, route: CanaryRoute) -> CanaryMessage | None: ...


class Surroundings(Protocol):
    """What surrounds a receipt on its way."""

    def chain(self) -> ReceiptChain:
        """Return what AWS says. Raises Unreachable when SES does not answer."""
        ...

    def stage(self) -> ReceiptsStage: ...

    def undecodable(self, since: datetime) -> Sequence[str]:
        """Return why receipts went to the dead letters since then; empty also where Kafka does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class CheckMeans:
    """What a check needs."""

    route: CanaryRoute
    tried: Sequence[CanaryRoute]
    """Routes that are tried all year."""
    book: CheckBook
    surroundings: Surroundings
    send: Callable[[MailboxScenario, str], SendResult]
    """Sends the message of an id to a simulator."""
    now: Callable[[], datetime]
    pause: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found."""

    messages: Mapping[MailboxScenario, CanaryMessage]
    """Empty when a link was missing before anything was sent."""
    missing: MissingLink | None


def check_delivery(means: CheckMeans, wait: timedelta) -> Checked:
    """Send to each simulator, wait until every receipt is there or `wait` is over, and name what is missing.

    Raises Unreachable when SES or the case store does not answer.
    """
    chain = means.surroundings.chain()
    missing = missing_before_sending(chain)
    if missing is not None:
        return Checked({}, missing)
    began = means.now()
    messages: dict[MailboxScenario, CanaryMessage] = {}
    for scenario, expects in EXPECTED.items():
        # a crash after this leaves a row that nobody waits for
        begun = means.book.begin_check(means.route, expects)
        messages[scenario] = means.book.answered(begun, means.send(scenario, begun.message_id))
        if messages[scenario].stage is CanaryStage.FAILED and messages[scenario].code in _NOT_REACHED:
            raise Unreachable(
                f"SES cannot be reached ({messages[scenario].code}); is the network open and delivery.aws_region right?"
            )
    while any(each.is_open for each in messages.values()) and means.now() - began < wait:
        means.pause(0.5)
        known = means.book.messages([each.message_id for each in messages.values()])
        messages = {scenario: known.get(each.message_id, each) for scenario, each in messages.items()}
    if any(each.is_open for each in messages.values()):
        # only where something is missing: it reads a whole topic
        undecodable, chain = means.surroundings.undecodable(began), means.surroundings.chain()
    else:
        undecodable = ()
    missing = missing_after_waiting(chain, list(messages.values()), means.surroundings.stage(), undecodable)
    return Checked(messages, missing)
