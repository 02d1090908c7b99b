"""What our SNS account allows for SMS: spend limit, its own sandbox, opted-out numbers, numbers to send from.

https://docs.aws.amazon.com/sns/latest/api/API_GetSMSAttributes.html. What was spent stands in CloudWatch alone.
"""

from datetime import datetime
from typing import Any

from bridge.runtime.clock import Clock
from consumers.adapters.aws import AwsConfig, client, unreachable
from consumers.domain.accounts import SmsAccount


class SnsAccount:
    """One account and region."""

    def __init__(self, config: AwsConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._opened: Any = None

    @property
    def _sns(self) -> Any:
        if self._opened is None:
            self._opened = client(self._config, "sns", may_repeat=True)
        return self._opened

    def read(self) -> SmsAccount:
        """Return the account as it is now. Raises Unreachable, or BadInput without credentials."""
        read_at = self._clock.now()
        with unreachable("SNS"):
            attributes = self._sns.get_sms_attributes().get("attributes", {})
            in_sandbox = bool(self._sns.get_sms_sandbox_account_status().get("IsInSandbox"))
            opted_out = sum(1 for _ in self._pages("list_phone_numbers_opted_out", "nextToken", "phoneNumbers"))
            numbers = {
                each["Iso2CountryCode"]
                for each in self._pages("list_origination_numbers", "NextToken", "PhoneNumbers")
                if each.get("Status", "ACTIVE") == "ACTIVE" and "Iso2CountryCode" in each
            }
        limit = attributes.get("MonthlySpendLimit")
        return SmsAccount(
            read_at=read_at,
            in_sandbox=in_sandbox,
            spend_limit=None if limit is None else float(limit),
            spent=self._spent(read_at),
            status_logged="DeliveryStatusIAMRole" in attributes
            and attributes.get("DeliveryStatusSuccessSamplingRate") == "100",
            opted_out=opted_out,
            numbers=tuple(sorted(numbers)),
        )

    def is_opted_out(self, phone_e164: str) -> bool:
        """Say whether a number answered STOP. Raises Unreachable."""
        with unreachable("SNS"):
            return bool(self._sns.check_if_phone_number_is_opted_out(phoneNumber=phone_e164).get("isOptedOut"))

    def _pages(self, operation: str, token_name: str, members: str) -> Any:
        token: dict[str, str] = {}
        while True:
            page = getattr(self._sns, operation)(**token)
            yield from page.get(members, ())
            if not page.get(token_name):
                return
            token = {token_name: page[token_name]}

    def _spent(self, now: datetime) -> float | None:
        """Return what SMS have cost this month in USD; None where CloudWatch does not say (the AWS sandbox has none)."""
        if self._config.endpoint_url is not None:
            return None
        with unreachable("CloudWatch"):
            answer = client(self._config, "cloudwatch", may_repeat=True).get_metric_statistics(
                Namespace="AWS/SNS",
                MetricName="SMSMonthToDateSpentUSD",
                StartTime=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
                EndTime=now,
                Period=3600,
                Statistics=["Maximum"],
            )
        points = answer.get("Datapoints", ())
        return max((float(each["Maximum"]) for each in points), default=None)
