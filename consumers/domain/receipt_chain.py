"""The way of a receipt from SES to the ledger, link by link, and which link is missing. Pure.

    SES account -> sender -> configuration set -> its event destination -> SNS topic -> SQS queue -> stage receipts

Each link says what to do about it. Not for whether a notice may be sent: that is dispatch's to ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumers.domain.canary_messages import CanaryMessage, CanaryStage
from consumers.domain.sending import ReceiptKind

EVENT_OF = {
    ReceiptKind.DELIVERED: "DELIVERY",
    ReceiptKind.BOUNCED_HARD: "BOUNCE",
    ReceiptKind.COMPLAINED: "COMPLAINT",
}
"""The receipt that a check waits for -> SES's event type behind it."""


@dataclass(frozen=True, slots=True)
class ReceiptChain:
    """What AWS says of the chain. None: our credentials may not ask, or nobody answered."""

    configuration_set: str
    queue: str
    cannot_send: str | None = None
    """Why the account sends nothing now."""
    sender_objection: str | None = None
    """Why nothing may come from our sender."""
    set_exists: bool | None = None
    events_by_topic: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Event types that enabled destinations of the configuration set hand to each SNS topic."""
    events_known: bool = True
    subscribed: Mapping[str, bool | None] = field(default_factory=dict)
    """Whether our queue is subscribed to each of those topics."""
    queue_exists: bool | None = None
    waiting: int | None = None
    """Receipts in the queue that nobody has taken, as SQS counts them: roughly."""

    @property
    def events(self) -> frozenset[str]:
        """Every event type that is handed to some topic."""
        return frozenset().union(*self.events_by_topic.values())


@dataclass(frozen=True, slots=True)
class ReceiptsStage:
    """The stage receipts of this machine."""

    runs: bool | None
    """None: it was never started here, it may run elsewhere."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """What it says that it lacks."""


@dataclass(frozen=True, slots=True)
class MissingLink:
    """A link that does not hold."""

    link: str
    says: str
    do: str

    @property
    def sentence(self) -> str:
        """Both in one line."""
        return f"{self.says}; {self.do}"


_ADVICE = {
    "MessageRejected": "verify the sender (delivery.from_address) in SES in this region",
    "MESSAGE_REJECTED": "verify the sender (delivery.from_address) in SES in this region",
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": "finish the verification of the sender's MAIL FROM domain in SES",
    "MailFromDomainNotVerifiedException": "finish the verification of the sender's MAIL FROM domain in SES",
    "NotFoundException": "make the configuration set (deploy/aws/tocsin.yaml does), or correct delivery.configuration_set",
    "CONFIGURATION_SET_NOT_FOUND": "make the configuration set (deploy/aws/tocsin.yaml does), or correct "
    "delivery.configuration_set",
    "SendingPausedException": "ask why sending is paused (SES, account dashboard), and resume it",
    "ACCOUNT_SENDING_PAUSED": "ask why sending is paused (SES, account dashboard), and resume it",
    "CONFIGURATION_SET_SENDING_PAUSED": "resume sending for the configuration set in SES",
    "AccountSuspendedException": "AWS alone lifts it: answer its case in the support centre",
    "ACCOUNT_SUSPENDED": "AWS alone lifts it: answer its case in the support centre",
    "AccessDeniedException": "let our credentials send: the template's policy (deploy/aws/tocsin.yaml) names what is needed",
}
_OTHERWISE = "the code is in SES's documentation of SendBulkEmail"


def missing_before_sending(chain: ReceiptChain) -> MissingLink | None:
    """Return the first link that AWS itself says is missing; waiting for a receipt would be in vain."""
    name = chain.configuration_set
    if chain.cannot_send is not None:
        return MissingLink("account", chain.cannot_send, "see SES's account dashboard; AWS lifts what it has imposed")
    if chain.sender_objection is not None:
        return MissingLink("sender", chain.sender_objection, "until then SES refuses every notice")
    if chain.set_exists is False:
        return MissingLink(
            "configuration set",
            f"SES has no configuration set {name}",
            "make it (deploy/aws/tocsin.yaml does), or correct delivery.configuration_set",
        )
    if chain.events_known and chain.set_exists and not chain.events_by_topic:
        return MissingLink(
            "event destination",
            f"the configuration set {name} has no enabled event destination of type SNS",
            "give it one with the event types that deploy/aws/tocsin.yaml names",
        )
    if chain.events_known and chain.set_exists:
        lacking = [event for event in EVENT_OF.values() if event not in chain.events]
        if lacking:
            return MissingLink(
                "event destination",
                f"the configuration set {name} hands no {' and no '.join(each.lower() for each in lacking)} events to an "
                "SNS topic",
                "add them to its event destination",
            )
    if chain.queue_exists is False:
        return MissingLink(
            "queue",
            f"there is no SQS queue {chain.queue} in this region and account",
            "make it, or correct delivery.receipts_queue",
        )
    if chain.subscribed and all(is_subscribed is False for is_subscribed in chain.subscribed.values()):
        return MissingLink(
            "subscription",
            f"the queue {chain.queue} is not subscribed to {', '.join(sorted(chain.subscribed))}",
            "subscribe it (protocol sqs, no raw delivery: the envelope carries the signature)",
        )
    return None


def missing_after_waiting(
    chain: ReceiptChain, messages: Sequence[CanaryMessage], stage: ReceiptsStage, undecodable: Sequence[str]
) -> MissingLink | None:
    """Return the link that keeps a receipt from its message; None when all have come. `undecodable` are the reasons for
    which receipts went to the dead letters meanwhile; `messages` were sent and their time is over.
    """
    refused = [each for each in messages if each.stage is CanaryStage.FAILED and not each.kinds]
    if refused:
        code = refused[0].code or "without a code"
        return MissingLink("SES", f"SES refused the message: {code}", _ADVICE.get(code, _OTHERWISE))
    if any(each.stage is CanaryStage.YIELDED for each in messages):
        return MissingLink(
            "SES",
            "SES asked for less: real notices use up its rate now",
            "try again when they are sent, or raise the rate",
        )
    otherwise = [each for each in messages if each.stage is CanaryStage.FAILED]
    if otherwise:
        wanted, came = otherwise[0].expects.value, ", ".join(otherwise[0].kinds)
        return MissingLink(
            "SES", f"SES's simulator was to report {wanted}, and reported {came}", "ask AWS: the simulator is theirs"
        )
    open_ = [each for each in messages if each.stage is not CanaryStage.ARRIVED]
    if not open_:
        return None
    return _behind_ses(chain, messages, open_, stage, undecodable)


def _behind_ses(
    chain: ReceiptChain,
    messages: Sequence[CanaryMessage],
    open_: Sequence[CanaryMessage],
    stage: ReceiptsStage,
    undecodable: Sequence[str],
) -> MissingLink:
    waiting = "" if chain.waiting is None else f"; about {chain.waiting:,} receipts wait in {chain.queue}"
    if undecodable:
        return MissingLink("receipt", f"a receipt came and could not be read: {undecodable[0]}", _cure(undecodable[0]))
    if stage.runs is False:
        return MissingLink(
            "stage receipts", f"the stage receipts was started here and does not answer{waiting}", "tocsin run receipts"
        )
    if stage.missing:
        said = ", ".join(f"{part}: {reason}" for part, reason in sorted(stage.missing.items()))
        return MissingLink("stage receipts", f"the stage receipts is not ready ({said}){waiting}", "mend what it names")
    if chain.waiting:
        return MissingLink(
            "stage receipts",
            f"nobody reads the receipts{waiting}",
            "start it: tocsin run receipts; one may catch up only",
        )
    if any(each.kinds for each in messages):
        lacking = " and ".join(each.expects.value for each in open_)
        return MissingLink(
            "events",
            f"receipts come, but not those of {lacking}",
            "see the event types of the configuration set's destination, or wait longer: --wait 300",
        )
    unsure = [topic for topic, is_subscribed in chain.subscribed.items() if is_subscribed is None]
    ask = f"see whether it is subscribed to {', '.join(sorted(unsure))}, and " if unsure else "see "
    return MissingLink(
        "queue",
        f"SES took the messages, and the queue {chain.queue} stays empty",
        f"{ask}whether its policy lets sns.amazonaws.com send to it (sqs:SendMessage) and the topic's key lets SES publish; "
        "or wait longer: --wait 300",
    )


def _cure(reason: str) -> str:
    if "certificate" in reason:
        return "see delivery.certificate_hosts; `tocsin dead-letters list` shows it"
    if "account" in reason:
        return "see delivery.aws_account; `tocsin dead-letters list` shows it"
    if "signature" in reason or "Notification" in reason or "JSON" in reason:
        return "switch raw delivery off on the topic's subscription; `tocsin dead-letters list` shows it"
    return "`tocsin dead-letters list` shows it, and `tocsin dead-letters redrive` puts it back once that is mended"
