"""How many receipts SQS itself has set aside: what was lent out too often without being settled goes to the dead-letter queue
that the receipts queue names, where no stage of ours looks. Counted only: a person moves them back.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
"""

import threading

import structlog

from bridge.contracts.errors import TocsinError
from bridge.runtime.telemetry import gauge
from consumers.adapters.aws import AwsConfig, client, unreachable
from consumers.adapters.receipt_fields import json_object, readable, text

log = structlog.get_logger()

SET_ASIDE = gauge(
    "tocsin_receipts_set_aside_count",
    "messages in the dead-letter queue that the receipts queue names at SQS, as the stage receipts counted them last; 0 where"
    " it names none, or cannot be asked",
    question="has SQS given up on receipts that nobody settled?",
)


class SetAsideReceipts:
    """Counts them once a minute, in a thread of its own."""

    def __init__(self, config: AwsConfig, queue_name: str) -> None:
        self._sqs = client(config, "sqs", may_repeat=True)
        self._queue_name = queue_name
        self._said = ""

    def run(self, stop: threading.Event, *, pause_seconds: float = 60.0) -> None:
        """Count until `stop`. Who may not ask, or gets no answer, says so once and goes on."""
        while not stop.is_set():
            reason = ""
            try:
                SET_ASIDE.set(self.count())
            except TocsinError as error:
                reason = str(error)
                SET_ASIDE.set(0)
                if reason != self._said:
                    log.warning("what SQS sets aside of the receipts cannot be counted", reason=reason)
            self._said = reason
            stop.wait(pause_seconds)

    def count(self) -> int:
        """Return how many lie there, roughly, as SQS counts; 0 without such a queue. Raises Unreachable or BadInput."""
        policy = self._attribute(self._queue_name, "RedrivePolicy")
        if policy is None:
            return 0
        target = readable("redrive policy", lambda: text(json_object(policy, "redrive policy")["deadLetterTargetArn"]))
        found = self._attribute(target.rpartition(":")[2], "ApproximateNumberOfMessages")
        return int(found or 0)

    def _attribute(self, queue: str, name: str) -> str | None:
        with unreachable(f"SQS queue {queue}"):
            url = self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
            answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
        value: str | None = answer.get("Attributes", {}).get(name)
        return value
