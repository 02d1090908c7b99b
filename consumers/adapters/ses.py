"""E-mail by Amazon SES v2: one approved text to up to 50 recipients in one SendBulkEmail call.

The text goes along as inline template content; SES fills the slots and escapes nothing (the slots come escaped). Each
entry carries its attempt as a message tag, so that receipts find it. Never retries: what became of a call whose answer
was lost is settled by receipts.
"""

import re
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from consumers.adapters.aws import AwsConfig, client, failed_call_state
from consumers.domain.sending import BulkEmail, EmailEntry, SendResult, SendState, wire_email

ATTEMPT_TAG = "attempt"
INCIDENT_TAG = "incident"

ENTRY_STATES: dict[str, SendState] = {
    "SUCCESS": SendState.ACCEPTED,
    "MESSAGE_REJECTED": SendState.REJECTED,
    "INVALID_PARAMETER": SendState.REJECTED,
    "FAILED": SendState.REJECTED,
    # For no reason that it names, and maybe for ever: the next channel must not wait for this one.
    "TRANSIENT_FAILURE": SendState.DEFERRED,
    "ACCOUNT_THROTTLED": SendState.THROTTLED,
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": SendState.UNAVAILABLE,
    # Faults of the account or its set-up, cured by time or a person and not by another channel: the message waits.
    "ACCOUNT_SUSPENDED": SendState.UNAVAILABLE,
    "ACCOUNT_SENDING_PAUSED": SendState.UNAVAILABLE,
    "CONFIGURATION_SET_NOT_FOUND": SendState.UNAVAILABLE,
    "CONFIGURATION_SET_SENDING_PAUSED": SendState.UNAVAILABLE,
    "INVALID_SENDING_POOL_NAME": SendState.UNAVAILABLE,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": SendState.UNAVAILABLE,
    "TEMPLATE_NOT_FOUND": SendState.UNAVAILABLE,
}
"""Every BulkEmailEntryResult status; a test holds this against botocore's model."""

BAD_REQUEST = "BadRequestException"
"""The one error of a whole call that may be a single entry's fault. `MessageRejected` is not: for a whole call it means
a sender that is not verified, which a person cures."""

OK = 200
_TAG_VALUE = re.compile(r"[A-Za-z0-9_-]{1,256}")


class SesEmail:
    """An EmailProvider (`consumers.domain.sending`)."""

    name = "ses"
    max_entries = 50
    calls_at_once = 16

    def __init__(self, config: AwsConfig, configuration_set: str) -> None:
        self._ses = client(config, "sesv2", may_repeat=False, check_parameters=False)
        # The SDK signs and sends, and says what went wrong. To build the body of a bulk, and to compare its answer with a
        # model, it takes longer than for all else: the body is handed over ready-made, and the answer taken from it unread,
        # both in the thread that asks.
        self._asking = _Asking()
        self._ses.meta.events.register("before-call.sesv2.SendBulkEmail", self._put_body)
        self._ses.meta.events.register("before-parse.sesv2.SendBulkEmail", self._take_results)
        self._configuration_set = configuration_set
        self._shared: tuple[Any, str] = (None, "")

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        """Return one result for each entry, in order. May be called by several threads at once.

        Raises ValueError for more entries than one call takes, or for an id that cannot be a tag.
        """
        if not 0 < len(message.entries) <= self.max_entries:
            raise ValueError(f"a bulk call takes 1 to {self.max_entries} entries, got {len(message.entries)}")
        for value in (message.incident_id, *(entry.attempt_id for entry in message.entries)):
            if not _TAG_VALUE.fullmatch(value):
                raise ValueError(f"{value!r} cannot be an SES tag: letters, digits, _ and - only")
        incident = f'{{"Name":"{INCIDENT_TAG}","Value":"{message.incident_id}"}}'
        # An entry's tags replace the default ones, so each carries both.
        wire_entries = [
            f'{{"Destination":{{"ToAddresses":[{_json(wire_email(message, entry))}]}},"ReplacementTags":'
            f'[{{"Name":"{ATTEMPT_TAG}","Value":"{entry.attempt_id}"}},{incident}],"ReplacementEmailContent":'
            f'{{"ReplacementTemplate":{{"ReplacementTemplateData":{_json(_json(entry.slots))}}}}}}}'
            for entry in message.entries
        ]
        return self._send(self._shared_part(message), message.entries, wire_entries)

    def _send(self, shared: str, entries: Sequence[EmailEntry], wire_entries: Sequence[str]) -> Sequence[SendResult]:
        self._asking.results = None
        self._asking.body = f'{shared},"BulkEmailEntries":[{",".join(wire_entries)}]}}'.encode()
        try:
            answer = self._ses.send_bulk_email(DefaultContent={}, BulkEmailEntries=[])
        except ParamValidationError:
            raise
        except (ClientError, BotoCoreError) as error:
            state, code = failed_call_state(error, frozenset({BAD_REQUEST}))
            if code == BAD_REQUEST and len(entries) > 1:
                # Nothing was taken, and one recipient's fault must not cost the others their mail: halve and try again.
                half = len(entries) // 2
                return [
                    *self._send(shared, entries[:half], wire_entries[:half]),
                    *self._send(shared, entries[half:], wire_entries[half:]),
                ]
            return [SendResult(entry.attempt_id, state, code=code) for entry in entries]
        results = self._asking.results
        if results is None:
            results = msgspec.convert(answer.get("BulkEmailEntryResults", []), list[_EntryResult])
        if len(results) != len(entries):
            return [SendResult(entry.attempt_id, SendState.UNKNOWN, code="ResultCountMismatch") for entry in entries]
        return [_result(entry, result) for entry, result in zip(entries, results, strict=True)]

    def _put_body(self, params: dict[str, Any], **_more: Any) -> None:
        params["body"] = self._asking.body

    def _take_results(self, response_dict: dict[str, Any], **_more: Any) -> None:
        if response_dict["status_code"] != OK:
            return
        try:
            self._asking.results = _answer_of(response_dict["body"]).BulkEmailEntryResults
        except (msgspec.DecodeError, ValueError):
            # it was answered, and nobody can say what: as if the answer had been lost
            self._asking.results = []
        response_dict["body"] = b"{}"

    def _shared_part(self, message: BulkEmail) -> str:
        """Return the JSON of all that the entries share, its brace left open; kept while the text stays the same."""
        text = (message.from_address, message.reply_to, message.subject, message.html, message.text)
        known, shared = self._shared
        if known != text:
            content = {"Subject": message.subject, "Html": message.html, "Text": message.text}
            request = {
                "FromEmailAddress": message.from_address,
                **({"ReplyToAddresses": [message.reply_to]} if message.reply_to else {}),
                "ConfigurationSetName": self._configuration_set,
                "DefaultContent": {"Template": {"TemplateContent": content, "TemplateData": "{}"}},
            }
            shared = _json(request)[:-1]
            self._shared = (text, shared)
        return shared


class _EntryResult(msgspec.Struct):
    """A BulkEmailEntryResult, without the words of its `Error`: they may hold an address."""

    Status: str | None = None
    MessageId: str | None = None


class _Answer(msgspec.Struct):
    BulkEmailEntryResults: list[_EntryResult]


_answer_of = msgspec.json.Decoder(_Answer).decode


class _Asking(threading.local):
    """What one thread asks, and was answered."""

    body = b""
    results: list[_EntryResult] | None = None


_encode = msgspec.json.Encoder().encode


def _json(value: object) -> str:
    return _encode(value).decode()


def _result(entry: EmailEntry, result: _EntryResult) -> SendResult:
    status = result.Status or ""
    # A status newer than this table says nothing to us: receipts settle it.
    state = ENTRY_STATES.get(status, SendState.UNKNOWN)
    return SendResult(entry.attempt_id, state, result.MessageId, None if status == "SUCCESS" else status)
