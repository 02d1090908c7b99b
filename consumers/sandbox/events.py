"""What SES and SNS report about a message, in the shapes that AWS documents.

SES: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
SMS: https://docs.aws.amazon.com/sns/latest/dg/sms_stats_cloudwatch.html - AWS writes these to CloudWatch Logs only. The
sandbox publishes the same JSON to every topic whose name ends in `SMS_STATUS_SUFFIX` instead, in an SNS envelope.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from consumers.sandbox.envelopes import iso_millis

ACCOUNT = "000000000000"
SMS_STATUS_SUFFIX = "-sms-status"
SES_SUBJECT = "Amazon SES Email Event Notification"
SES_TEST_MESSAGE = "Successfully validated SNS topic for Amazon SES event publishing."


class Fate(StrEnum):
    """What became of an accepted message."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    SUPPRESSED = "suppressed"
    """The address was on the account's suppression list: SES sends nothing and reports a bounce."""
    RENDERING_FAILED = "rendering_failed"


SES_EVENTS: dict[Fate, tuple[str, ...]] = {
    Fate.DELIVERED: ("Send", "Delivery"),
    Fate.BOUNCED: ("Send", "Bounce"),
    Fate.SUPPRESSED: ("Send", "Bounce"),
    Fate.RENDERING_FAILED: ("Rendering Failure",),
}
"""Event types in order; the first comes at once, a later one after the receipt delay."""

MATCHING_TYPES = {"Send": "SEND", "Delivery": "DELIVERY", "Bounce": "BOUNCE", "Rendering Failure": "RENDERING_FAILURE"}
"""Event type -> its name among a destination's `MatchingEventTypes`."""


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
        """The last event that is reported about it."""
        if self.channel == "sms":
            return "SUCCESS" if self.fate is Fate.DELIVERED else "FAILURE"
        return SES_EVENTS[self.fate][-1]

    def event_at(self, event: str) -> datetime:
        """Return when `event` happens."""
        return self.received_at if event == "Send" else self.due_at


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
            "processingTimeMillis": int((message.due_at - message.received_at) / timedelta(milliseconds=1)),
            "recipients": [message.to],
            "smtpResponse": "250 2.0.0 OK",
            "reportingMTA": "sandbox.invalid",
        }
    elif event == "Bounce":
        suppressed = message.fate is Fate.SUPPRESSED
        body["bounce"] = {
            "feedbackId": f"{message.id}-bounce",
            "bounceType": "Permanent",
            "bounceSubType": "OnAccountSuppressionList" if suppressed else "General",
            "bouncedRecipients": [
                {
                    "emailAddress": message.to,
                    "action": "failed",
                    "status": "5.1.1",
                    "diagnosticCode": "smtp; 550 5.1.1 user unknown",
                }
            ],
            "timestamp": at,
            "reportingMTA": "dns; sandbox.invalid",
        }
    elif event == "Rendering Failure":
        body["failure"] = {
            "errorMessage": f"Attribute '{message.missing_slot}' is not present in the rendering data.",
            "templateName": "",
        }
    return body


def sms_status(message: Message) -> dict[str, Any]:
    """Return the JSON that SNS writes about a delivered or failed SMS."""
    delivered = message.fate is Fate.DELIVERED
    dwell = int((message.due_at - message.received_at) / timedelta(milliseconds=1))
    response = "Message has been accepted by phone carrier" if delivered else "Unknown error attempting to reach phone"
    return {
        "notification": {
            "messageId": message.id,
            "timestamp": message.received_at.strftime("%Y-%m-%d %H:%M:%S.")
            + f"{message.received_at.microsecond // 1000:03d}",
        },
        "delivery": {
            "phoneCarrier": "Sandbox",
            "destination": message.to,
            "priceInUSD": 0.05,
            "smsType": "Transactional",
            "providerResponse": response,
            "dwellTimeMs": dwell,
            "dwellTimeMsUntilDeviceAck": dwell,
        },
        "status": message.final_event,
    }
