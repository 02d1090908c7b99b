"""A sandbox in this process and the adapters that talk to it, for the contract tests of AWS."""

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bridge.runtime.clock import Clock, SystemClock
from consumers.adapters.aws import AwsConfig, provision_sandbox
from consumers.adapters.ses import SesEmail
from consumers.adapters.sms_status import CloudWatchSmsStatus
from consumers.adapters.sns_sms import SnsSms
from consumers.adapters.sqs_receipts import SnsSignatures, SqsReceipts
from consumers.domain.sending import BulkEmail, EmailEntry, ReceiptDelivery, ReceiptSource
from consumers.sandbox.server import Sandbox

QUEUE = "tocsin-receipts"
CONFIGURATION_SET = "tocsin"
SENDER = "privacy@shop.example.com"


@dataclass(frozen=True)
class Aws:
    """The sandbox's address and clients of it."""

    url: str
    config: AwsConfig

    @property
    def email(self) -> SesEmail:
        return SesEmail(self.config, CONFIGURATION_SET)

    @property
    def sms(self) -> SnsSms:
        return SnsSms(self.config, "Shop")

    def receipts(self, hosts: Sequence[str] = ("127.0.0.1",)) -> SqsReceipts:
        return SqsReceipts(self.config, QUEUE, SnsSignatures(hosts, "000000000000"))

    def sms_status(self, clock: Clock | None = None) -> CloudWatchSmsStatus:
        return CloudWatchSmsStatus(self.config, clock or SystemClock(), every=timedelta(milliseconds=1))

    def mailbox(self) -> dict[str, Any]:
        listing: dict[str, Any] = json.loads(get(f"{self.url}/_mailbox.json"))
        return listing

    def script(self, behaviours: object) -> None:
        self.control("behaviours", behaviours)

    def control(self, what: str, posted: object) -> None:
        request = urllib.request.Request(
            f"{self.url}/_control/{what}",
            data=json.dumps(posted).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def provisioned(url: str) -> Aws:
    """Return clients of the sandbox at `url`, which then has sender, configuration set and queue."""
    config = AwsConfig("eu-central-1", url)
    provision_sandbox(
        config, sender_domain="shop.example.com", configuration_set=CONFIGURATION_SET, receipts_queue=QUEUE
    )
    return Aws(url, config)


@contextmanager
def running(folder: Path | None = None, receipt_delay_seconds: float = 0.02) -> Iterator[Aws]:
    """A provisioned sandbox; a fault inside it fails the test at the end."""
    sandbox = Sandbox(receipt_delay_seconds=receipt_delay_seconds)
    url = sandbox.start(folder=folder)
    try:
        yield provisioned(url)
    finally:
        sandbox.stop()


def bulk(*entries: EmailEntry, exercise: bool = False) -> BulkEmail:
    """Return a mail to `entries` with the slots `name` and `name_html`."""
    return BulkEmail(
        from_address=f"Shop <{SENDER}>",
        reply_to="dpo@shop.example.com",
        subject="About your data, {{name}}",
        html="<p>Dear {{name_html}},</p>",
        text="Dear {{name}},",
        incident_id="INC-2026-0001",
        entries=entries,
        exercise=exercise,
    )


def entry(attempt: str, to: str, **slots: str) -> EmailEntry:
    """Return an entry with both name slots filled unless `slots` says otherwise."""
    return EmailEntry(attempt, to, slots or {"name": "<Ann & Bo>", "name_html": "&lt;Ann &amp; Bo&gt;"})


def drain(receipts: ReceiptSource, count: int) -> list[ReceiptDelivery]:
    """Return at least `count` deliveries about somebody, settled. Fails if they do not come within 20 s."""
    got: list[ReceiptDelivery] = []
    until = time.monotonic() + 20
    while time.monotonic() < until:
        batch = receipts.receive(50, 2)
        receipts.settle([delivery.handle for delivery in batch])
        got.extend(delivery for delivery in batch if delivery.receipts or delivery.error)
        if len(got) >= count:
            return got
    raise AssertionError(f"{len(got)} of {count} receipts came")
