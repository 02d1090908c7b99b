"""What AWS, the stage receipts and the dead letters say about the way of receipts. Reads only; a look takes no message."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from botocore.exceptions import ClientError

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import DeadLettered
from bridge.runtime.dead_letters import QUEUE
from consumers.adapters.aws import AwsConfig, client, unreachable
from consumers.adapters.sqs_receipts import SqsReceipts
from consumers.domain.receipt_chain import ReceiptChain, ReceiptsStage

_MAY_NOT = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException"})
_ABSENT = frozenset(
    {"NotFoundException", "NotFound", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue",
     "ConfigurationSetDoesNotExist"}
)  # fmt: skip
_ANSWER_SECONDS = 3.0
_QUEUE_LETTERS = QUEUE + SqsReceipts.name
"""What dead letters of receipts name as their topic; the receipts stage writes it so."""


class AwsSurroundings:
    """Implements `consumers.case.checking.Surroundings`."""

    def __init__(
        self,
        config: AwsConfig,
        configuration_set: str,
        queue: str,
        sender_objection: Callable[[], str | None],
        run_folder: Path,
        dead_letters: Callable[[], Iterable[DeadLettered]],
    ) -> None:
        self._ses, self._sns, self._sqs = (client(config, name, may_repeat=True) for name in ("sesv2", "sns", "sqs"))
        self._configuration_set = configuration_set
        self._queue = queue
        self._sender_objection = sender_objection
        self._run_file = run_folder / "receipts.metrics.json"
        self._dead_letters = dead_letters

    def chain(self) -> ReceiptChain:
        """Return what AWS says. Raises Unreachable when SES does not answer."""
        events = self._events_by_topic()
        queue_url, queue_exists = self._queue_url()
        attributes = {} if queue_url is None else self._attributes(queue_url)
        arn, waiting = attributes.get("QueueArn"), attributes.get("ApproximateNumberOfMessages")
        return ReceiptChain(
            configuration_set=self._configuration_set,
            queue=self._queue,
            cannot_send=self._cannot_send(),
            sender_objection=self._objection(),
            set_exists=self._set_exists(),
            events_by_topic=events or {},
            events_known=events is not None,
            subscribed={topic: self._is_subscribed(topic, arn) for topic in events or {}},
            queue_exists=queue_exists,
            waiting=None if waiting is None else int(waiting),
        )

    def stage(self) -> ReceiptsStage:
        """Ask the stage receipts of this machine whether it can do its job."""
        try:
            address = json.loads(self._run_file.read_text(encoding="utf-8"))["metrics"].removesuffix("metrics")
        except (OSError, ValueError, KeyError):
            return ReceiptsStage(None)
        try:
            # loopback or a machine of ours: no proxy between
            with build_opener(ProxyHandler({})).open(f"{address}readyz", timeout=_ANSWER_SECONDS):
                return ReceiptsStage(True)
        except HTTPError as error:
            with error:
                try:
                    said = json.loads(error.read())["missing"]
                except (ValueError, KeyError, OSError):
                    said = {"readyz": f"answered {error.code}"}
            return ReceiptsStage(True, {str(part): str(reason) for part, reason in said.items()})
        except (URLError, OSError):
            return ReceiptsStage(False)

    def undecodable(self, since: datetime) -> Sequence[str]:
        """Return why receipts went to the dead letters since then, newest first."""
        try:
            found = [
                (letter.failed_at, letter.error)
                for letter in self._dead_letters()
                if letter.topic == _QUEUE_LETTERS and letter.failed_at >= since
            ]
        except Unreachable:
            return ()
        return [reason for _, reason in sorted(found, reverse=True)]

    def _cannot_send(self) -> str | None:
        account = self._may_ask("SES", lambda: self._ses.get_account())
        if account is None or (account.get("SendingEnabled", True) and account.get("EnforcementStatus") != "SHUTDOWN"):
            return None
        if account.get("EnforcementStatus") == "SHUTDOWN":
            return "AWS has suspended the SES account: nothing is sent"
        return "sending is paused for the SES account"

    def _objection(self) -> str | None:
        try:
            return self._sender_objection()
        except Unreachable as error:
            if any(code in str(error) for code in _MAY_NOT):
                return None
            raise

    def _set_exists(self) -> bool | None:
        try:
            found = self._may_ask(
                "SES", lambda: self._ses.get_configuration_set(ConfigurationSetName=self._configuration_set)
            )
        except _NotThere:
            return False
        return None if found is None else True

    def _events_by_topic(self) -> Mapping[str, frozenset[str]] | None:
        try:
            answer = self._may_ask(
                "SES",
                lambda: self._ses.get_configuration_set_event_destinations(
                    ConfigurationSetName=self._configuration_set
                ),
            )
        except _NotThere:
            return {}
        if answer is None:
            return None
        found: dict[str, frozenset[str]] = {}
        for each in answer.get("EventDestinations", ()):
            if each.get("Enabled") and "SnsDestination" in each:
                topic = each["SnsDestination"]["TopicArn"]
                found[topic] = found.get(topic, frozenset()) | frozenset(each.get("MatchingEventTypes", ()))
        return found

    def _is_subscribed(self, topic: str, queue_arn: str | None) -> bool | None:
        if queue_arn is None:
            return None
        token: dict[str, str] = {}
        while True:
            try:
                page = self._may_ask(
                    "SNS",
                    lambda token=token: self._sns.list_subscriptions_by_topic(TopicArn=topic, **token),  # type: ignore[misc]
                )
            except _NotThere:
                return False
            if page is None:
                return None
            if any(each.get("Endpoint") == queue_arn for each in page.get("Subscriptions", ())):
                return True
            if not page.get("NextToken"):
                return False
            token = {"NextToken": page["NextToken"]}

    def _queue_url(self) -> tuple[str | None, bool | None]:
        try:
            answer = self._may_ask("SQS", lambda: self._sqs.get_queue_url(QueueName=self._queue))
        except _NotThere:
            return None, False
        return (None, None) if answer is None else (answer["QueueUrl"], True)

    def _attributes(self, queue_url: str) -> Mapping[str, str]:
        names = ["QueueArn", "ApproximateNumberOfMessages"]
        answer = self._may_ask("SQS", lambda: self._sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names))
        found: Mapping[str, str] = {} if answer is None else answer.get("Attributes", {})
        return found

    @staticmethod
    def _may_ask(what: str, call: Callable[[], Any]) -> Any:
        """Return the answer, None where our credentials may not ask. Raises _NotThere, or Unreachable."""
        with unreachable(what):
            try:
                return call()
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in _MAY_NOT:
                    return None
                if code in _ABSENT:
                    raise _NotThere from None
                raise


class _NotThere(Exception):
    """What was asked about does not exist."""
