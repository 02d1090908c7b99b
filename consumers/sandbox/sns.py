"""SNS and STS as far as Tocsin uses them: SMS, topics with queues subscribed to them, and who the caller is.

https://docs.aws.amazon.com/sns/latest/api/ and https://docs.aws.amazon.com/STS/latest/APIReference/
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from consumers.sandbox.events import ACCOUNT, Fate, Message
from consumers.sandbox.fates import Behaviour, recipient_key, script_for
from consumers.sandbox.state import State, Topic
from consumers.sandbox.texts import Text
from consumers.sandbox.wire import AwsError, Call

MAX_SMS_CHARACTERS = 1600

_E164 = re.compile(r"\+[1-9]\d{6,14}")
_TOPIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")


class SimpleNotificationService:
    """The operations; each runs with the state's lock held and returns the answer's members."""

    def __init__(self, state: State, receipt_delay_seconds: float) -> None:
        self._state = state
        self._delay = timedelta(seconds=receipt_delay_seconds)

    def operations(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        """Return the handler of each operation by its name."""
        return {
            "Publish": self.publish,
            "CreateTopic": self.create_topic,
            "SetTopicAttributes": self.set_topic_attributes,
            "Subscribe": self.subscribe,
        }

    def publish(self, call: Call) -> dict[str, Any]:
        """Send one SMS, or put a message into the queues subscribed to a topic."""
        targets = [name for name in ("PhoneNumber", "TopicArn", "TargetArn") if name in call.params]
        if len(targets) != 1:
            raise AwsError(
                "InvalidParameterException", "Invalid parameter: exactly one of TopicArn, TargetArn, PhoneNumber"
            )
        if not call.params["Message"]:
            raise AwsError("InvalidParameterException", "Invalid parameter: Empty message")
        if targets == ["PhoneNumber"]:
            return {"MessageId": self._send_sms(call, call.params["PhoneNumber"], call.params["Message"])}
        topic = self._topic(call.params[targets[0]])
        message_id = str(uuid4())
        self._state.commit(
            {
                "record": "published",
                "topic": topic.arn,
                "id": message_id,
                "subject": call.params.get("Subject"),
                "message": call.params["Message"],
                "at": self._state.clock.now().isoformat(),
            }
        )
        return {"MessageId": message_id}

    def create_topic(self, call: Call) -> dict[str, Any]:
        """Create a topic, or return the one of that name."""
        name = call.params["Name"]
        if not _TOPIC_NAME.fullmatch(name):
            raise AwsError("InvalidParameterException", "Invalid parameter: Topic Name")
        arn = f"arn:aws:sns:{call.region}:{ACCOUNT}:{name}"
        attributes = call.params.get("Attributes", {})
        _check_signature_version(attributes.get("SignatureVersion", "1"))
        if arn not in self._state.topics:
            self._state.commit({"record": "topic", "arn": arn, "attributes": attributes})
        return {"TopicArn": arn}

    def set_topic_attributes(self, call: Call) -> dict[str, Any]:
        """Change one attribute; `SignatureVersion` is the one that is played."""
        topic = self._topic(call.params["TopicArn"])
        name, value = call.params["AttributeName"], call.params.get("AttributeValue", "")
        if name == "SignatureVersion":
            _check_signature_version(value)
        self._state.commit({"record": "topic_attribute", "topic": topic.arn, "name": name, "value": value})
        return {}

    def subscribe(self, call: Call) -> dict[str, Any]:
        """Subscribe a queue to a topic, confirmed at once as within one AWS account."""
        topic = self._topic(call.params["TopicArn"])
        if call.params["Protocol"] != "sqs":
            raise AwsError(
                "InvalidParameterException", "Invalid parameter: the sandbox subscribes queues (protocol sqs) only"
            )
        endpoint = call.params.get("Endpoint", "")
        queue = next((name for name, known in self._state.queues.items() if known.arn == endpoint), None)
        if queue is None:
            raise AwsError("InvalidParameterException", "Invalid parameter: Endpoint is the ARN of no queue")
        for known in topic.subscriptions:
            if known.queue == queue:
                return {"SubscriptionArn": known.arn}
        arn = f"{topic.arn}:{uuid4()}"
        raw = call.params.get("Attributes", {}).get("RawMessageDelivery") == "true"
        self._state.commit({"record": "subscription", "topic": topic.arn, "arn": arn, "queue": queue, "raw": raw})
        return {"SubscriptionArn": arn}

    def _topic(self, arn: str) -> Topic:
        if arn not in self._state.topics:
            raise AwsError("NotFoundException", "Topic does not exist")
        return self._state.topics[arn]

    def _send_sms(self, call: Call, phone: str, words: str) -> str:
        if not _E164.fullmatch(phone):
            raise AwsError("InvalidParameterException", "Invalid parameter: PhoneNumber Reason: not E.164")
        if len(words) > MAX_SMS_CHARACTERS:
            raise AwsError("InvalidParameterException", "Invalid parameter: Message too long")
        script = script_for(phone, self._state.scripts)
        if script.behaviour is Behaviour.THROTTLE and self._state.throttled[phone] < script.times:
            self._state.commit({"record": "throttled", "to": recipient_key(phone)})
            raise AwsError("Throttling", "Rate exceeded")
        now = self._state.clock.now()
        attributes = call.params.get("MessageAttributes", {})
        text = Text("", "", words)
        message = Message(
            id=str(uuid4()),
            channel="sms",
            to=phone,
            sender=attributes.get("AWS.SNS.SMS.SenderID", {}).get("StringValue", ""),
            reply_to=(),
            text_sha256=text.sha256,
            slots={},
            tags={},
            configuration_set=None,
            region=call.region,
            received_at=now,
            due_at=now + self._delay,
            behaviour=script.behaviour,
            fate=Fate.BOUNCED if script.behaviour is Behaviour.BOUNCE else Fate.DELIVERED,
        )
        self._state.commit(*self._state.message_records(text, [message]))
        return message.id


def get_caller_identity(_call: Call) -> dict[str, Any]:
    """Return the sandbox's one account (STS)."""
    return {"UserId": "SANDBOX", "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/sandbox"}


def _check_signature_version(value: str) -> None:
    if value not in ("1", "2"):
        raise AwsError("InvalidParameterException", "Invalid parameter: SignatureVersion is 1 or 2")
