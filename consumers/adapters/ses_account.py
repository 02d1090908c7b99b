"""What our SES account allows: quota, standing, the configuration set with its events, and the suppression list.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html. Reads only; nothing here changes an account.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from bridge.runtime.clock import Clock
from bridge.runtime.sealing import email_hmac
from consumers.adapters.aws import SES_EVENT_TYPES, AwsConfig, client, unreachable
from consumers.domain.accounts import EmailAccount
from consumers.domain.contacts import spellings

_TRACKING = frozenset({"OPEN", "CLICK"})
_UNLIMITED = -1


class SesAccount:
    """One account, region and configuration set."""

    def __init__(self, config: AwsConfig, configuration_set: str, clock: Clock) -> None:
        self._config = config
        self._configuration_set = configuration_set
        self._clock = clock
        self._opened: Any = None

    @property
    def _ses(self) -> Any:
        if self._opened is None:
            self._opened = client(self._config, "sesv2", may_repeat=True)
        return self._opened

    def read(self) -> EmailAccount:
        """Return the account as it is now. Raises Unreachable."""
        # before the call, so that whatever is sent meanwhile counts twice rather than not at all
        read_at = self._clock.now()
        with unreachable("SES"):
            account = self._ses.get_account()
            known = self._configuration_set_as_it_is()
            destinations = [] if known is None else self._destinations()
        quota = account.get("SendQuota", {})
        allowed = int(quota.get("Max24HourSend", 0))
        handed = {
            kind
            for each in destinations
            if each.get("Enabled") and "SnsDestination" in each
            for kind in each.get("MatchingEventTypes", ())
        }
        watched = {kind for each in destinations if each.get("Enabled") for kind in each.get("MatchingEventTypes", ())}
        known = known or {}
        engagement = known.get("VdmOptions", {}).get("DashboardOptions", {}).get("EngagementMetrics")
        return EmailAccount(
            read_at=read_at,
            per_second=float(quota.get("MaxSendRate", 0)),
            quota=None if allowed == _UNLIMITED else allowed,
            sent=int(quota.get("SentLast24Hours", 0)),
            production_access=bool(account.get("ProductionAccessEnabled")),
            sending_enabled=bool(account.get("SendingEnabled")),
            enforcement=str(account.get("EnforcementStatus", "HEALTHY")),
            suppressed_reasons=_reasons(account, known),
            configuration_set=self._configuration_set,
            set_exists=bool(known),
            set_sending_enabled=bool(known.get("SendingOptions", {}).get("SendingEnabled", True)),
            events_missing=tuple(kind for kind in SES_EVENT_TYPES if kind not in handed),
            tracking=bool(watched & _TRACKING) or engagement == "ENABLED",
        )

    def suppressed(self) -> Iterator[tuple[str, str]]:
        """Yield each address that our notices cannot reach, with the reason (BOUNCE, COMPLAINT), a page at a time. One
        that the configuration set lets through although the account lists it is not among them. Raises Unreachable.

        For hashing at once: an address is neither kept nor shown.
        """
        with unreachable("SES"):
            reasons = _reasons(self._ses.get_account(), self._configuration_set_as_it_is() or {})
        token: dict[str, str] = {}
        while reasons:
            with unreachable("SES"):
                page = self._ses.list_suppressed_destinations(PageSize=1000, Reasons=list(reasons), **token)
            for each in page.get("SuppressedDestinationSummaries", ()):
                yield each["EmailAddress"], each["Reason"]
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}

    def _configuration_set_as_it_is(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ses.get_configuration_set(ConfigurationSetName=self._configuration_set)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NotFoundException", "ConfigurationSetDoesNotExist"):
                return None
            raise
        return found

    def _destinations(self) -> list[dict[str, Any]]:
        answer = self._ses.get_configuration_set_event_destinations(ConfigurationSetName=self._configuration_set)
        found: list[dict[str, Any]] = answer.get("EventDestinations", [])
        return found


def hashed_suppressions(listed: Iterable[tuple[str, str]], join_key: bytes) -> dict[str, str]:
    """Return the reason of each suppressed address by the join key's hash of it, so that sealed contacts can be compared.

    SES knows a domain in its ASCII form only; a shop may have stored the other one, so both are hashed.
    """
    found: dict[str, str] = {}
    for address, reason in listed:
        found.update({email_hmac(join_key, each): reason for each in spellings(address)})
    return found


def _reasons(account: Mapping[str, Any], configuration_set: Mapping[str, Any]) -> tuple[str, ...]:
    """Return for which reasons SES sends us nothing: those of the configuration set, or the account's if it has none."""
    own = configuration_set.get("SuppressionOptions", {}).get("SuppressedReasons")
    return tuple(account.get("SuppressionAttributes", {}).get("SuppressedReasons", ()) if own is None else own)
