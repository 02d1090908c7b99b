"""SMS by Amazon SNS: one Publish for each message.

SNS carries no tag of ours into its status reports; receipts find their attempt by the message id that is returned here.
"""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from consumers.adapters.aws import AwsConfig, client, failed_call_state
from consumers.domain.sending import SendResult, SendState, wire_phone

REJECTIONS = frozenset({"InvalidParameter", "ParameterValueInvalid", "ValidationException", "ValidationError"})
"""Error codes of Publish that blame the number or the text."""


class SnsSms:
    """An SmsProvider (`consumers.domain.sending`). `sender_id` is shown as the sender where the country allows it."""

    name = "sns"

    def __init__(self, config: AwsConfig, sender_id: str | None = None) -> None:
        self._sns = client(config, "sns", may_repeat=False)
        self._attributes: dict[str, Any] = {
            "AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"},
        }
        if sender_id is not None:
            self._attributes["AWS.SNS.SMS.SenderID"] = {"DataType": "String", "StringValue": sender_id}

    def send(self, attempt_id: str, phone_e164: str, text: str, *, exercise: bool) -> SendResult:
        """Return the provider's answer. Never retries: a lost answer is UNKNOWN."""
        number = wire_phone(phone_e164, exercise=exercise)
        try:
            answer = self._sns.publish(PhoneNumber=number, Message=text, MessageAttributes=self._attributes)
        except ParamValidationError:
            raise
        except (ClientError, BotoCoreError) as error:
            state, code = failed_call_state(error, REJECTIONS)
            return SendResult(attempt_id, state, code=code)
        return SendResult(attempt_id, SendState.ACCEPTED, answer["MessageId"])
