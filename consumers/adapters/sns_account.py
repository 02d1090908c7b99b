"""What our SNS account allows for SMS: spend limit, its own sandbox, opted-out numbers, numbers to send from.

https://docs.aws.amazon.com/sns/latest/api/API_GetSMSAttributes.html. What was spent stands in CloudWatch alone.
"""

from datetime import datetime
from typing import Any

import structlog

from bridge.contracts.errors import Unreachable
from bridge.runtime.clock import Clock
from consumers.adapters.aws import AwsConfig, client, unreachable
from consumers.domain.accounts import SmsAccount, month_began

log = structlog.get_logger()


class SnsAccount:
    """One account and region."""

    def __init__(self, config: AwsConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._clients: dict[str, Any] = {}

    @property
    def _sns(self) -> Any:
        return self._client("sns")

    @property
    def _cloudwatch(self) -> Any:
        return self._client("cloudwatch")

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = client(self._config, service, may_repeat=True)
        return self._clients[service]

    def read(self, *, lists: bool = False) -> SmsAccount:
        """Return the account as it is now. Raises Unreachable.

        `lists`: also count who opted out and see which numbers we hold; SNS allows few of these calls.
        """
        read_at = self._clock.now()
        with unreachable("SNS"):
            attributes = self._sns.get_sms_attributes().get("attributes", {})
            in_sandbox = bool(self._sns.get_sms_sandbox_account_status().get("IsInSandbox"))
            opted_out, numbers = self._lists() if lists else (None, None)
        limit = attributes.get("MonthlySpendLimit")
        return SmsAccount(
            read_at=read_at,
            in_sandbox=in_sandbox,
            spend_limit=None if limit is None else float(limit),
            spent=self._spent(read_at),
            status_logged="DeliveryStatusIAMRole" in attributes
            and attributes.get("DeliveryStatusSuccessSamplingRate") == "100",
            opted_out=opted_out,
            numbers=numbers,
        )

    def _lists(self) -> tuple[int, tuple[str, ...]]:
        opted_out = sum(1 for _ in self._pages("list_phone_numbers_opted_out", "nextToken", "phoneNumbers"))
        numbers = {
            each["Iso2CountryCode"]
            for each in self._pages("list_origination_numbers", "NextToken", "PhoneNumbers")
            if each.get("Status", "ACTIVE") == "ACTIVE" and "Iso2CountryCode" in each
        }
        return opted_out, tuple(sorted(numbers))

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
        try:
            with unreachable("CloudWatch"):
                answer = self._cloudwatch.get_metric_statistics(
                    Namespace="AWS/SNS",
                    MetricName="SMSMonthToDateSpentUSD",
                    StartTime=month_began(now),
                    EndTime=now,
                    Period=6 * 3600,
                    Statistics=["Maximum"],
                )
        except Unreachable as error:
            # all else about the account is worth knowing without it
            log.warning("what SMS have cost is not known", reason=str(error))
            return None
        points = answer.get("Datapoints", ())
        return max((float(each["Maximum"]) for each in points), default=None)
