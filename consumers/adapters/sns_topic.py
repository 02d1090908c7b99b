"""Documents on an SNS topic: one Publish for each. A FIFO topic drops what is published again under the same id."""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from consumers.adapters.aws import AwsConfig, client, failed_call_state
from consumers.domain.sending import SendResult, SendState

REJECTIONS = frozenset({"InvalidParameter", "ParameterValueInvalid", "ValidationError", "NotFound", "InvalidArn"})
"""Error codes that blame the topic's name or the document: somebody must mend the settings."""


class SnsTopic:
    """A TopicPublisher (`consumers.stages.third_parties`)."""

    def __init__(self, config: AwsConfig) -> None:
        self._sns = client(config, "sns", may_repeat=False)
        # only the sandbox has an address of its own, and that is loopback (`Delivery.endpoint_url`)
        self._in_sandbox = config.endpoint_url is not None

    def publish(self, notice_id: str, topic_arn: str, document: str, *, exercise: bool) -> SendResult:
        """Return the provider's answer; its `attempt_id` is the notice's id. A lost answer is UNKNOWN.

        A topic has no simulator: of an exercise nothing is published outside the sandbox.
        """
        if exercise and not self._in_sandbox:
            return SendResult(notice_id, SendState.REJECTED, code="EXERCISE")
        fifo: dict[str, Any] = {}
        if topic_arn.endswith(".fifo"):
            fifo = {"MessageGroupId": "tocsin", "MessageDeduplicationId": notice_id}
        attributes = {"notice_id": {"DataType": "String", "StringValue": notice_id}}
        try:
            answer = self._sns.publish(TopicArn=topic_arn, Message=document, MessageAttributes=attributes, **fifo)
        except (ClientError, BotoCoreError) as error:
            state, code = failed_call_state(error, REJECTIONS)
            return SendResult(notice_id, state, code=code)
        return SendResult(notice_id, SendState.ACCEPTED, answer["MessageId"])
