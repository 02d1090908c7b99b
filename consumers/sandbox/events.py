"""What SES and SNS report about a message, in the shapes that AWS documents.

SES: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
SMS: https://docs.aws.amazon.com/sns/latest/dg/sms_stats_cloudwatch.html - AWS writes these to CloudWatch Logs only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from consumers.sandbox.envelopes import iso_millis
from consumers.sandbox.fates import Behaviour

ACCOUNT = "000000000000"
SES_SUBJECT = "Amazon SES Email Event Notification"
SES_TEST_MESSAGE = "Successfully validated SNS topic for Amazon SES event publishing."


class Fate(StrEnum):
    """What became of an accepted message."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    SOFT_BOUNCED = "soft_bounced"
    BOUNCED_LATE = "bounced_late"
    """Taken by a server that could not hand it on."""
    COMPLAINED = "complained"
    DELAYED = "delayed"
    """Delivered late."""
    REJECTED = "rejected"
    """Taken by the call, never sent: a virus (e-mail), or the carrier's filter (SMS)."""
    SPAM_FOLDER = "spam_folder"
    """Delivered where nobody looks."""
    SILENT = "silent"
    """Nobody ever reports what became of it."""
    SUPPRESSED = "suppressed"
    """The address was on the account's suppression list: SES sends nothing and reports a bounce."""
    SUPPRESSED_BY_SES = "suppressed_by_ses"
    """The same for an address on SES's global suppression list."""
    AUTO_RESPONSE = "auto_response"
    """Delivered; an automatic response came back to the return path."""
    SUPPRESSED_COMPLAINT = "suppressed_complaint"
    """The same for an address whose owner complained once: SES reports a complaint about what it never sent."""
    RENDERING_FAILED = "rendering_failed"
    OPTED_OUT = "opted_out"
    """The number is on the list of those who answered STOP."""
    NO_QUOTA = "no_quota"
    """The account's spend limit for SMS is used up."""


FATES = {
    Behaviour.BOUNCE: Fate.BOUNCED,
    Behaviour.SOFTBOUNCE: Fate.SOFT_BOUNCED,
    Behaviour.LATEBOUNCE: Fate.BOUNCED_LATE,
    Behaviour.COMPLAINT: Fate.COMPLAINED,
    Behaviour.DELAY: Fate.DELAYED,
    Behaviour.REJECT: Fate.REJECTED,
    Behaviour.SPAM: Fate.SPAM_FOLDER,
    Behaviour.SILENT: Fate.SILENT,
    Behaviour.OOTO: Fate.AUTO_RESPONSE,
    Behaviour.SUPPRESSED: Fate.SUPPRESSED_BY_SES,
}
"""What becomes of an accepted message; every other behaviour ends in its delivery."""

SES_EVENTS: dict[Fate, tuple[str, ...]] = {
    Fate.DELIVERED: ("Send", "Delivery"),
    Fate.BOUNCED: ("Send", "Bounce"),
    Fate.SOFT_BOUNCED: ("Send", "DeliveryDelay", "Bounce"),
    Fate.BOUNCED_LATE: ("Send", "Delivery", "Bounce"),
    Fate.COMPLAINED: ("Send", "Delivery", "Complaint"),
    Fate.DELAYED: ("Send", "DeliveryDelay", "Delivery"),
    Fate.REJECTED: ("Send", "Reject"),
    Fate.SPAM_FOLDER: ("Send", "Delivery"),
    Fate.SILENT: ("Send",),
    Fate.SUPPRESSED: ("Send", "Bounce"),
    Fate.SUPPRESSED_BY_SES: ("Send", "Bounce"),
    Fate.AUTO_RESPONSE: ("Send", "Delivery", "Bounce"),
    Fate.SUPPRESSED_COMPLAINT: ("Send", "Complaint"),
    Fate.RENDERING_FAILED: ("Rendering Failure",),
}
"""Event types in order; `Send` comes at once, each later one a receipt delay after the one before."""

MATCHING_TYPES = {
    "Send": "SEND",
    "Delivery": "DELIVERY",
    "DeliveryDelay": "DELIVERY_DELAY",
    "Bounce": "BOUNCE",
    "Complaint": "COMPLAINT",
    "Reject": "REJECT",
    "Rendering Failure": "RENDERING_FAILURE",
}
"""Event type -> its name among a destination's `MatchingEventTypes`."""

SMS_STATUS: dict[Fate, tuple[str, str]] = {
    Fate.DELIVERED: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.DELAYED: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.BOUNCED_LATE: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.COMPLAINED: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.SPAM_FOLDER: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.AUTO_RESPONSE: ("SUCCESS", "Message has been accepted by phone carrier"),
    Fate.BOUNCED: ("FAILURE", "Invalid phone number"),
    Fate.SUPPRESSED_BY_SES: ("FAILURE", "Invalid phone number"),
    Fate.SOFT_BOUNCED: ("FAILURE", "Phone is currently unreachable/unavailable"),
    Fate.REJECTED: ("FAILURE", "Blocked as spam by phone carrier"),
    Fate.OPTED_OUT: ("FAILURE", "Phone number is opted out"),
    Fate.NO_QUOTA: ("FAILURE", "No quota left for account"),
}
"""Status and provider response of an SMS; a fate that is missing is never reported."""

GATEWAY_STATUS: dict[Fate, tuple[str, int | None]] = {
    Fate.DELIVERED: ("delivered", None),
    Fate.DELAYED: ("delivered", None),
    Fate.BOUNCED_LATE: ("delivered", None),
    Fate.COMPLAINED: ("delivered", None),
    Fate.SPAM_FOLDER: ("delivered", None),
    Fate.AUTO_RESPONSE: ("delivered", None),
    Fate.BOUNCED: ("undelivered", 30005),
    Fate.SUPPRESSED_BY_SES: ("undelivered", 30005),
    Fate.SOFT_BOUNCED: ("undelivered", 30003),
    Fate.REJECTED: ("undelivered", 30007),
}
"""The same from a Twilio-compatible gateway: message status and error code."""

SMS_PRICE_USD = 0.05


def due_after(fate: Fate, delay: timedelta) -> timedelta:
    """Return how long after its acceptance the last event about a message comes."""
    return delay * max(1, len(SES_EVENTS.get(fate, ())) - 1)


@dataclass(frozen=True, slots=True)
class Message:
    """One accepted e-mail or SMS."""

    id: str
    channel: str
    to: str = field(repr=False)
    sender: str = field(repr=False)
    reply_to: tuple[str, ...]
    text_sha256: str
    slots: Mapping[str, str] = field(repr=False)
    tags: Mapping[str, str]
    configuration_set: str | None
    region: str
    received_at: datetime
    due_at: datetime
    """When its last event is reported."""
    behaviour: str
    fate: Fate
    missing_slot: str | None = None

    @property
    def final_event(self) -> str:
        """The last event that is reported about it; empty if there is none."""
        if self.channel == "sms":
            return SMS_STATUS[self.fate][0] if self.fate in SMS_STATUS else ""
        return SES_EVENTS[self.fate][-1]

    def event_at(self, event: str) -> datetime:
        """Return when `event` happens."""
        if event == "Send":
            return self.received_at
        order = SES_EVENTS[self.fate]
        return self.received_at + (self.due_at - self.received_at) * order.index(event) / max(1, len(order) - 1)


_BOUNCES: dict[Fate, tuple[str, str, str, str]] = {
    Fate.BOUNCED: ("Permanent", "General", "5.1.1", "550 5.1.1 user unknown"),
    Fate.BOUNCED_LATE: ("Permanent", "General", "5.1.1", "550 5.1.1 user unknown"),
    Fate.SUPPRESSED: ("Permanent", "OnAccountSuppressionList", "5.1.1", "550 5.1.1 user unknown"),
    Fate.SUPPRESSED_BY_SES: ("Permanent", "Suppressed", "5.1.1", "550 5.1.1 user unknown"),
    # SES has no word of its own for an automatic response: it is this one, and not counted as a bounce
    Fate.AUTO_RESPONSE: ("Transient", "General", "4.0.0", "automatic response"),
    Fate.SOFT_BOUNCED: ("Transient", "MailboxFull", "4.2.2", "452 4.2.2 mailbox full"),
}
"""Bounce type and sub-type, enhanced status code and what the receiving server said."""


def event_id(message: Message, event: str, destination: str) -> str:
    """Return the SNS message id of one event: the same after a restart, so that nobody counts it twice."""
    return str(uuid5(NAMESPACE_URL, f"{message.id}/{event}/{destination}"))


def ses_event(message: Message, event: str, subject: str) -> dict[str, Any]:
    """Return the JSON that SES publishes about `message`; `subject` is the filled subject line."""
    at = iso_millis(message.event_at(event))
    domain = message.sender.rpartition("@")[2]
    tags = {name: [value] for name, value in message.tags.items()}
    if message.configuration_set:
        tags["ses:configuration-set"] = [message.configuration_set]
    body: dict[str, Any] = {
        "eventType": event,
        "mail": {
            "timestamp": iso_millis(message.received_at),
            "source": message.sender,
            "sourceArn": f"arn:aws:ses:{message.region}:{ACCOUNT}:identity/{domain}",
            "sendingAccountId": ACCOUNT,
            "messageId": message.id,
            "destination": [message.to],
            "headersTruncated": False,
            "headers": [
                {"name": "From", "value": message.sender},
                {"name": "To", "value": message.to},
                {"name": "Subject", "value": subject},
            ],
            "commonHeaders": {
                "from": [message.sender],
                "to": [message.to],
                "messageId": message.id,
                "subject": subject,
            },
            "tags": tags | {"ses:from-domain": [domain], "ses:caller-identity": ["sandbox"]},
        },
    }
    if event == "Send":
        body["send"] = {}
    elif event == "Delivery":
        body["delivery"] = {
            "timestamp": at,
            "processingTimeMillis": int((message.event_at(event) - message.received_at) / timedelta(milliseconds=1)),
            "recipients": [message.to],
            "smtpResponse": "250 2.0.0 OK",
            "reportingMTA": "sandbox.invalid",
        }
    elif event == "Bounce":
        kind, sub_type, status, words = _BOUNCES[message.fate]
        body["bounce"] = {
            "feedbackId": f"{message.id}-bounce",
            "bounceType": kind,
            "bounceSubType": sub_type,
            "bouncedRecipients": [
                {"emailAddress": message.to, "action": "failed", "status": status, "diagnosticCode": f"smtp; {words}"}
            ],
            "timestamp": at,
            "reportingMTA": "dns; sandbox.invalid",
        }
    elif event == "DeliveryDelay":
        body["deliveryDelay"] = {
            "timestamp": at,
            "delayType": "MailboxFull" if message.fate is Fate.SOFT_BOUNCED else "TransientCommunicationFailure",
            "expirationTime": iso_millis(message.due_at),
            "delayedRecipients": [
                {"emailAddress": message.to, "status": "4.4.1", "diagnosticCode": "smtp; 421 4.4.1 try again later"}
            ],
            "reportingMTA": "sandbox.invalid",
        }
    elif event == "Complaint":
        suppressed = message.fate is Fate.SUPPRESSED_COMPLAINT
        body["complaint"] = {
            "feedbackId": f"{message.id}-complaint",
            "complaintSubType": "OnAccountSuppressionList" if suppressed else None,
            "complainedRecipients": [{"emailAddress": message.to}],
            "timestamp": at,
        }
        if not suppressed:
            arrived = iso_millis(message.event_at("Delivery"))
            body["complaint"] |= {"userAgent": "sandbox", "complaintFeedbackType": "abuse", "arrivalDate": arrived}
    elif event == "Reject":
        body["reject"] = {"reason": "Bad content"}
    elif event == "Rendering Failure":
        body["failure"] = {
            "errorMessage": f"Attribute '{message.missing_slot}' is not present in the rendering data.",
            "templateName": "",
        }
    return body


def sms_status(message: Message) -> dict[str, Any]:
    """Return the JSON that SNS writes about a delivered or failed SMS. Its fate is one of `SMS_STATUS`."""
    dwell = int((message.due_at - message.received_at) / timedelta(milliseconds=1))
    status, response = SMS_STATUS[message.fate]
    return {
        "notification": {
            "messageId": message.id,
            "timestamp": message.received_at.strftime("%Y-%m-%d %H:%M:%S.")
            + f"{message.received_at.microsecond // 1000:03d}",
        },
        "delivery": {
            "phoneCarrier": "Sandbox",
            "destination": message.to,
            "priceInUSD": SMS_PRICE_USD,
            "smsType": "Transactional",
            "providerResponse": response,
            "dwellTimeMs": dwell,
            "dwellTimeMsUntilDeviceAck": dwell,
        },
        "status": status,
    }
