"""What SNS writes of an SMS into CloudWatch Logs, if the account lets it (`DeliveryStatusIAMRole`): of successes only the sampled
share, into two log groups: https://docs.aws.amazon.com/sns/latest/dg/sms_stats_cloudwatch.html. `logs` reads it.
"""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from consumers.sandbox.events import ACCOUNT, SMS_STATUS, Message

_GROUP = "sns/{region}/{account}/DirectPublishToPhoneNumber{suffix}"


@dataclass(order=True, frozen=True, slots=True)
class LogEvent:
    """One line of a log group."""

    at: datetime
    number: int
    message: Message = field(compare=False, repr=False)


class SmsStatusLog:
    """The log groups by name, each in order of time. An event is there from its time on."""

    def __init__(self) -> None:
        self.groups: dict[str, list[LogEvent]] = {}
        self._written = 0

    def write(self, message: Message, attributes: Mapping[str, str]) -> None:
        """Log what became of `message`, if the account has it logged at all."""
        if message.fate not in SMS_STATUS or not attributes.get("DeliveryStatusIAMRole"):
            return
        failed = message.final_event == "FAILURE"
        if not failed and UUID(message.id).int % 100 >= int(attributes.get("DeliveryStatusSuccessSamplingRate", "0")):
            return
        name = _GROUP.format(region=message.region, account=ACCOUNT, suffix="/Failure" if failed else "")
        self._written += 1
        insort(self.groups.setdefault(name, []), LogEvent(message.due_at, self._written, message))
