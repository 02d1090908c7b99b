"""SMS delivery status from CloudWatch Logs, the only place where SNS reports it.

SNS writes one line for each message into two log groups, if the account lets it (`DeliveryStatusIAMRole`) and samples
all successes (`DeliveryStatusSuccessSamplingRate` = 100). "SUCCESS" means that the carrier took it. A line may come
hours late. Nothing durable is kept here: after a start the last days are read again, and the ledger knows what it has.

https://docs.aws.amazon.com/sns/latest/dg/sms_stats_cloudwatch.html
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from consumers.adapters.aws import AwsConfig, caller_account, client, unreachable
from consumers.adapters.receipt_fields import instant, json_object, readable, text
from consumers.adapters.sns_sms import SnsSms
from consumers.domain.sending import Receipt, ReceiptDelivery, ReceiptKind

LOOK_BACK = timedelta(hours=72)
"""How far a start, and then one look an hour, reads back: longer than a carrier keeps a message that it cannot deliver."""
FULL_LOOK_EVERY = timedelta(hours=1)
OVERLAP = timedelta(minutes=15)
"""How far an ordinary look goes back behind the newest line seen: lines are not written in order of their times."""

FAILURES: dict[str, tuple[ReceiptKind, str]] = {
    "Blocked as spam by phone carrier": (ReceiptKind.REJECTED, "carrier_filter"),
    "Phone carrier has blocked this message": (ReceiptKind.REJECTED, "carrier_filter"),
    "Message body is invalid": (ReceiptKind.REJECTED, "invalid_text"),
    "No quota left for account": (ReceiptKind.REJECTED, "spend_limit"),
    "This delivery would exceed max price": (ReceiptKind.REJECTED, "max_price"),
    "Destination is on a blocked list": (ReceiptKind.BOUNCED_HARD, "blocked_number"),
    "Phone is on a blocked list": (ReceiptKind.BOUNCED_HARD, "blocked_number"),
    "Phone has blocked SMS": (ReceiptKind.BOUNCED_HARD, "sms_blocked"),
    "Phone number is opted out": (ReceiptKind.BOUNCED_HARD, "opted_out"),
    "Invalid phone number": (ReceiptKind.BOUNCED_HARD, "invalid_number"),
    "Unknown error attempting to reach phone": (ReceiptKind.BOUNCED_SOFT, "unknown"),
    "Phone is currently unreachable/unavailable": (ReceiptKind.BOUNCED_SOFT, "phone_unreachable"),
    "Phone carrier is currently unreachable/unavailable": (ReceiptKind.BOUNCED_SOFT, "carrier_unreachable"),
}
"""Every failure that AWS documents -> what it says about the message, and our word for it. The message did not arrive in
any of them; `REJECTED` blames the account or the text, a soft bounce the moment, a hard one the number. Where AWS does not
know, and for words that it does not document, a soft one: no number is written off on a guess."""


class CloudWatchSmsStatus:
    """A ReceiptSource (`consumers.domain.sending`). Looks at most every `every` for new lines."""

    name = "cloudwatch"

    def __init__(self, config: AwsConfig, clock: Clock, every: timedelta = timedelta(seconds=5)) -> None:
        self._config = config
        self._logs = client(config, "logs", may_repeat=True)
        self._clock = clock
        self._every = every
        self._groups: Sequence[str] | None = None
        self._next_look_at = clock.now()
        self._next_full_look_at = clock.now()
        self._look: Iterator[list[dict[str, Any]]] | None = None
        self._waiting: list[dict[str, Any]] = []
        self._newest: int = 0
        self._settled: dict[str, int] = {}
        """Event id -> time in milliseconds, of lines that an ordinary look may meet again."""
        self._lent: dict[str, int] = {}
        self._unreadable: dict[str, int] = {}
        """Those of them that are dead letters by now: once is enough, for as long as they are read."""
        self._bad: set[str] = set()
        """Of what was lent last."""

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:  # noqa: ARG002  logs cannot be waited on
        """Return up to `limit` lines not yet settled; at once, even if there are none. Raises Unreachable."""
        while not self._waiting:
            if self._look is None:
                # not longer than that, also when the clock was set back
                if timedelta(0) < self._next_look_at - self._clock.now() <= self._every:
                    return []
                self._look = self._begin()
            try:
                page = next(self._look, None)
            except Exception:
                self._look = None  # the next call looks from the same time again
                raise
            if page is None:
                self._end()
                return []
            known = (self._settled, self._unreadable)
            self._waiting = [event for event in page if not any(event["eventId"] in each for each in known)]
        chosen, self._waiting = self._waiting[:limit], self._waiting[limit:]
        for event in chosen:
            self._lent[event["eventId"]] = event["timestamp"]
            self._newest = max(self._newest, event["timestamp"])
        deliveries = [_delivery(event) for event in chosen]
        self._bad = {delivery.handle for delivery in deliveries if delivery.error is not None}
        return deliveries

    def settle(self, handles: Sequence[str]) -> None:
        """Remember what has been stored durably. A crash before this reads it again."""
        for handle in handles:
            (self._unreadable if handle in self._bad else self._settled)[handle] = self._lent.pop(handle)

    def _begin(self) -> Iterator[list[dict[str, Any]]]:
        now = self._clock.now()
        full = not timedelta(0) < self._next_full_look_at - now <= FULL_LOOK_EVERY
        since = oldest = int((now - LOOK_BACK).timestamp() * 1000)
        if full:
            self._next_full_look_at = now + FULL_LOOK_EVERY
        else:
            # what was lent out and never settled is older than what follows it, and is read again
            oldest_open = min(self._lent.values(), default=self._newest)
            since = max(since, min(self._newest, oldest_open) - int(OVERLAP.total_seconds() * 1000))
        self._lent.clear()
        self._settled = {known: at for known, at in self._settled.items() if at >= since}
        self._unreadable = {known: at for known, at in self._unreadable.items() if at >= oldest}
        return self._pages(since)

    def _end(self) -> None:
        self._look = None
        self._next_look_at = self._clock.now() + self._every

    def _pages(self, since: int) -> Iterator[list[dict[str, Any]]]:
        for group in self._log_groups():
            token: dict[str, str] = {}
            while True:
                with unreachable(f"CloudWatch Logs, group {group}"):
                    try:
                        answer = self._logs.filter_log_events(logGroupName=group, startTime=since, **token)
                    except ClientError as error:
                        if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
                            break  # SNS makes a group with its first line
                        raise
                yield answer.get("events", [])
                if "nextToken" not in answer:
                    break
                token = {"nextToken": answer["nextToken"]}

    def _log_groups(self) -> Sequence[str]:
        if self._groups is None:
            direct = f"sns/{self._config.region}/{caller_account(self._config)}/DirectPublishToPhoneNumber"
            self._groups = (direct, f"{direct}/Failure")
        return self._groups


def _delivery(event: dict[str, Any]) -> ReceiptDelivery:
    raw = event["message"].encode()
    try:
        status = json_object(event["message"], "SMS status")
        receipt = readable("SMS status", lambda: _receipt(status, event["timestamp"], hashlib.sha256(raw).hexdigest()))
    except BadInput as error:
        return ReceiptDelivery(event["eventId"], (), str(error), raw)
    return ReceiptDelivery(event["eventId"], (receipt,), raw=raw)


def _receipt(status: dict[str, Any], written_at: int, raw_sha256: str) -> Receipt:
    message_id = text(status["notification"]["messageId"])
    kind, word = _meaning(text(status["status"]), status["delivery"]["providerResponse"])
    return Receipt(
        provider=SnsSms.name,
        provider_event_id=f"{message_id}/{status['status']}",
        provider_message_id=message_id,
        attempt_id=None,
        kind=kind,
        sub_type=word,
        occurred_at=_occurred(status, written_at),
        raw_sha256=raw_sha256,
    )


def _occurred(status: dict[str, Any], written_at: int) -> datetime:
    sent = instant(status["notification"]["timestamp"])
    dwelt = status["delivery"].get("dwellTimeMs")
    if isinstance(dwelt, int):
        return sent + timedelta(milliseconds=dwelt)
    return max(sent, datetime.fromtimestamp(written_at / 1000, UTC))


def _meaning(status: str, response: object) -> tuple[ReceiptKind, str | None]:
    if not isinstance(response, str):
        raise TypeError("expected text")
    if status == "SUCCESS":
        return ReceiptKind.DELIVERED, None
    if status == "FAILURE":
        return FAILURES.get(response, (ReceiptKind.BOUNCED_SOFT, "unlisted"))
    raise ValueError(status)
