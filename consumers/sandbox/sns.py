"""SNS and STS as far as Tocsin uses them: SMS, topics with queues subscribed to them, and who the caller is.

https://docs.aws.amazon.com/sns/latest/api/ and https://docs.aws.amazon.com/STS/latest/APIReference/
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from consumers.sandbox.events import ACCOUNT, FATES, SMS_PRICE_USD, SMS_STATUS, Fate, Message, due_after
from consumers.sandbox.fates import Behaviour, recipient_key
from consumers.sandbox.state import State, Topic
from consumers.sandbox.texts import Text
from consumers.sandbox.wire import AwsError, Call, Unanswered

MAX_SMS_CHARACTERS = 1600

SMS_ATTRIBUTES = frozenset(
    {
        "DefaultSenderID",
        "DefaultSMSType",
        "DeliveryStatusIAMRole",
        "DeliveryStatusSuccessSamplingRate",
        "MonthlySpendLimit",
        "UsageReportS3Bucket",
    }
)

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
            "ListSubscriptionsByTopic": self.list_subscriptions,
            "SetSMSAttributes": self.set_sms_attributes,
            "GetSMSAttributes": self.get_sms_attributes,
            "CheckIfPhoneNumberIsOptedOut": self.check_opted_out,
            "ListPhoneNumbersOptedOut": self.list_opted_out,
            "OptInPhoneNumber": self.opt_in,
            "GetSMSSandboxAccountStatus": self.sandbox_status,
            "ListOriginationNumbers": self.list_origination_numbers,
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

    def list_subscriptions(self, call: Call) -> dict[str, Any]:
        """Return who gets what a topic gets, on one page."""
        topic = self._topic(call.params["TopicArn"])
        return {
            "Subscriptions": [
                {
                    "SubscriptionArn": each.arn,
                    "Owner": ACCOUNT,
                    "Protocol": "sqs",
                    "Endpoint": self._state.queues[each.queue].arn,
                    "TopicArn": topic.arn,
                }
                for each in topic.subscriptions
            ]
        }

    def set_sms_attributes(self, call: Call) -> dict[str, Any]:
        """Change how the account sends SMS, and whether their status is logged."""
        attributes = call.params["attributes"]
        if unknown := sorted(attributes.keys() - SMS_ATTRIBUTES):
            raise AwsError("InvalidParameterException", f"Invalid parameter: no SMS attribute {unknown[0]}")
        rate = attributes.get("DeliveryStatusSuccessSamplingRate", "0")
        if not rate.isdecimal() or int(rate) > 100:
            raise AwsError("InvalidParameterException", "Invalid parameter: DeliveryStatusSuccessSamplingRate is 0-100")
        if not attributes.get("MonthlySpendLimit", "0").isdecimal():
            raise AwsError("InvalidParameterException", "Invalid parameter: MonthlySpendLimit is whole dollars")
        self._state.commit({"record": "sms_attributes", "attributes": attributes})
        return {}

    def get_sms_attributes(self, call: Call) -> dict[str, Any]:
        """Return those attributes that are set."""
        wanted = call.params.get("attributes", ())
        known = self._state.sms_attributes.items()
        return {"attributes": {name: value for name, value in known if not wanted or name in wanted}}

    def check_opted_out(self, call: Call) -> dict[str, Any]:
        """Say whether a number answered STOP."""
        return {"isOptedOut": call.params["phoneNumber"] in self._state.opted_out}

    def list_opted_out(self, call: Call) -> dict[str, Any]:
        """Return a page of up to 100 numbers that answered STOP; its token is a position."""
        token = call.params.get("nextToken", "0")
        if not token.isdecimal():
            raise AwsError("InvalidParameterException", "Invalid parameter: nextToken")
        numbers = sorted(self._state.opted_out)
        end = int(token) + 100
        return {"phoneNumbers": numbers[int(token) : end], **({"nextToken": str(end)} if end < len(numbers) else {})}

    def opt_in(self, call: Call) -> dict[str, Any]:
        """Take a number off that list."""
        self._state.commit({"record": "opted_in", "phone": call.params["phoneNumber"]})
        return {}

    def sandbox_status(self, _call: Call) -> dict[str, Any]:
        """Say whether SMS go to verified numbers only; they go everywhere here, whatever is said."""
        return {"IsInSandbox": self._state.limits.sms_sandbox}

    def list_origination_numbers(self, _call: Call) -> dict[str, Any]:
        """Return the numbers that SMS come from, one for each country of the account's limits."""
        countries = [each.strip() for each in self._state.limits.sms_numbers.split(",") if each.strip()]
        numbers = [
            {
                "PhoneNumber": f"+1555010{position:04d}",
                "Status": "ACTIVE",
                "Iso2CountryCode": country,
                "RouteType": "Transactional",
                "NumberCapabilities": ["SMS"],
            }
            for position, country in enumerate(countries)
        ]
        return {"PhoneNumbers": numbers}

    def _topic(self, arn: str) -> Topic:
        if arn not in self._state.topics:
            raise AwsError("NotFoundException", "Topic does not exist")
        return self._state.topics[arn]

    def _send_sms(self, call: Call, phone: str, words: str) -> str:
        if not _E164.fullmatch(phone):
            raise AwsError("InvalidParameterException", "Invalid parameter: PhoneNumber Reason: not E.164")
        if len(words) > MAX_SMS_CHARACTERS:
            raise AwsError("InvalidParameterException", "Invalid parameter: Message too long")
        script = self._state.script(phone)
        if script.behaviour is Behaviour.REFUSE:
            raise AwsError("InvalidParameterException", "Invalid parameter: PhoneNumber Reason: cannot receive SMS")
        if self._state.goes_unanswered(phone, Behaviour.LOST):
            self._state.commit({"record": "unanswered", "to": recipient_key(phone)})
            raise Unanswered
        if script.behaviour is Behaviour.THROTTLE and self._state.throttled[phone] < script.times:
            self._state.commit({"record": "throttled", "to": recipient_key(phone)})
            raise AwsError("Throttling", "Rate exceeded")
        now = self._state.clock.now()
        attributes = call.params.get("MessageAttributes", {})
        text = Text("", "", words)
        fate = self._fate(phone, script.behaviour)
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
            due_at=now + due_after(fate, self._delay),
            behaviour=script.behaviour,
            fate=fate,
        )
        if self._state.goes_unanswered(phone, Behaviour.TIMEOUT):
            taken = self._state.message_records(text, [message])
            self._state.commit(*taken, {"record": "unanswered", "to": recipient_key(phone)})
            raise Unanswered
        self._state.commit(*self._state.message_records(text, [message]))
        return message.id

    def _fate(self, phone: str, behaviour: Behaviour) -> Fate:
        if phone in self._state.opted_out:
            return Fate.OPTED_OUT
        limit = self._state.sms_attributes.get("MonthlySpendLimit")
        if limit is not None:
            paid = sum(1 for known in self._state.messages if known.channel == "sms" and known.fate in SMS_STATUS)
            if (paid + 1) * SMS_PRICE_USD > int(limit):
                return Fate.NO_QUOTA
        return FATES.get(behaviour, Fate.DELIVERED)


def get_caller_identity(_call: Call) -> dict[str, Any]:
    """Return the sandbox's one account (STS)."""
    return {"UserId": "SANDBOX", "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/sandbox"}


def _check_signature_version(value: str) -> None:
    if value not in ("1", "2"):
        raise AwsError("InvalidParameterException", "Invalid parameter: SignatureVersion is 1 or 2")
