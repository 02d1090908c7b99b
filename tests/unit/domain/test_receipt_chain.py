"""Which link of the way of receipts is missing, from what is known once the wait is over."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bridge.contracts.events import Channel
from consumers.domain.canary_messages import CanaryMessage, CanaryRoute, CanaryStage, Purpose
from consumers.domain.receipt_chain import (
    EVENT_OF,
    ReceiptChain,
    ReceiptsStage,
    missing_after_waiting,
    missing_before_sending,
)
from consumers.domain.sending import ReceiptKind

TOPIC = "arn:aws:sns:eu-central-1:000000000000:tocsin-events"
WHOLE = ReceiptChain(
    "tocsin", "tocsin-receipts", set_exists=True, events_by_topic={TOPIC: frozenset(EVENT_OF.values())},
    subscribed={TOPIC: True}, queue_exists=True, waiting=0,
)  # fmt: skip
BLIND = ReceiptChain("tocsin", "tocsin-receipts", events_known=False)
"""Credentials that may send and look at nothing."""
RUNS, ELSEWHERE = ReceiptsStage(True), ReceiptsStage(None)


def message(stage: CanaryStage, *kinds: str, code: str | None = None) -> CanaryMessage:
    return CanaryMessage(
        "ca9a27", CanaryRoute(Channel.EMAIL, "ses", "eu-central-1"), Purpose.CHECK, ReceiptKind.BOUNCED_HARD, stage,
        datetime(2026, 3, 1, tzinfo=UTC), code=code, kinds=kinds,
    )  # fmt: skip


OPEN, ARRIVED = message(CanaryStage.SENT), message(CanaryStage.ARRIVED, "sent", "bounced_hard")


@pytest.mark.parametrize("chain", [WHOLE, BLIND])
def test_what_holds_or_cannot_be_seen_is_not_missing(chain: ReceiptChain) -> None:
    assert missing_before_sending(chain) is None
    assert missing_after_waiting(chain, [ARRIVED, ARRIVED], RUNS, []) is None


@pytest.mark.parametrize(
    ("found", "chain", "stage", "undecodable", "link", "do"),
    [
        (message(CanaryStage.FAILED, code="AccessDeniedException"), WHOLE, RUNS, [], "SES", "let our credentials send"),
        (message(CanaryStage.FAILED, code="SomethingNew"), WHOLE, RUNS, [], "SES", "SES's documentation"),
        (message(CanaryStage.YIELDED, code="ACCOUNT_THROTTLED"), WHOLE, RUNS, [], "SES", "try again"),
        (message(CanaryStage.FAILED, "sent", "rejected", code="rejected"), WHOLE, RUNS, [], "SES", "ask AWS"),
        (OPEN, WHOLE, RUNS, ["SNS topic belongs to another AWS account"], "receipt", "delivery.aws_account"),
        (OPEN, WHOLE, RUNS, ["SQS message is no JSON object"], "receipt", "raw delivery"),
        (OPEN, WHOLE, RUNS, ["SES event of an unknown type"], "receipt", "tocsin dead-letters redrive"),
        (OPEN, WHOLE, ReceiptsStage(False), [], "stage receipts", "tocsin run receipts"),
        (OPEN, WHOLE, ReceiptsStage(True, {"sqs": "no credentials"}), [], "stage receipts", "mend what it names"),
        (OPEN, replace(WHOLE, waiting=3), ELSEWHERE, [], "stage receipts", "tocsin run receipts"),
        (OPEN, WHOLE, ELSEWHERE, [], "queue", "sqs:SendMessage"),
        (OPEN, replace(WHOLE, subscribed={TOPIC: None}), RUNS, [], "queue", f"subscribed to {TOPIC}"),
        (OPEN, BLIND, RUNS, [], "queue", "--wait 300"),
        (message(CanaryStage.SENT, "sent"), WHOLE, RUNS, [], "events", "event types"),
    ],
)
def test_the_missing_link_is_named_with_what_to_do(
    found: CanaryMessage, chain: ReceiptChain, stage: ReceiptsStage, undecodable: list[str], link: str, do: str
) -> None:
    missing = missing_after_waiting(chain, [found], stage, undecodable)
    assert missing is not None
    assert missing.link == link
    assert do in missing.do
