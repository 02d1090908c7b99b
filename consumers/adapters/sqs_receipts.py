"""Receipts from an SQS queue: SES events in SNS envelopes whose signature is checked.

A message that is no receipt of ours, or whose signature does not hold, comes back with an `error` and its bytes, never
as a receipt. What becomes of an SMS is not reported here; see `sms_status`.

Signature: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
Events: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
"""

import base64
import hashlib
import re
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from consumers.adapters.aws import AwsConfig, client, is_loopback, unreachable
from consumers.adapters.receipt_fields import instant, json_object, readable, text, word
from consumers.adapters.ses import ATTEMPT_TAG
from consumers.adapters.ses import SesEmail as _Ses
from consumers.domain.contacts import mailbox_provider
from consumers.domain.sending import SUPPRESSED, Receipt, ReceiptDelivery, ReceiptKind

log = structlog.get_logger()

MAX_PER_CALL = 10
"""What SQS lends out, and deletes, in one call."""

CALLS_AT_ONCE = 8

CERTIFICATE_PATH = re.compile(r"/SimpleNotificationService-[0-9a-f]{32}\.pem")
CERTIFICATE_TIMEOUT_SECONDS = 10
MAX_CERTIFICATE_BYTES = 64 * 1024
MAX_CACHED_CERTIFICATES = 16

SIGNED_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
SIGNATURE_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303  SNS's version 1

SES_TEST_MESSAGE = "Successfully validated SNS topic for Amazon SES event publishing."
"""SES publishes this once when an event destination is made. It is about nobody."""

_REGION = r"[a-z]{2}(?:-[a-z]+)+-\d+"
_UNREPORTED = frozenset({"Open", "Click", "Subscription"})
"""SES events that say nothing about whether a notice arrived; they are settled without a receipt."""

_SIMPLE_EVENTS: dict[str, tuple[ReceiptKind, str, str | None]] = {
    "Send": (ReceiptKind.SENT, "send", None),
    "Delivery": (ReceiptKind.DELIVERED, "delivery", None),
    "Complaint": (ReceiptKind.COMPLAINED, "complaint", "complaintFeedbackType"),
    "DeliveryDelay": (ReceiptKind.DELAYED, "deliveryDelay", "delayType"),
    "Reject": (ReceiptKind.REJECTED, "reject", None),
    "Rendering Failure": (ReceiptKind.RENDERING_FAILED, "failure", None),
}
"""Event type -> kind, the member that tells more, and in it the member that is the sub-type."""

_BOUNCE_KINDS = {
    "Permanent": ReceiptKind.BOUNCED_HARD,
    "Transient": ReceiptKind.BOUNCED_SOFT,
    # SES could not tell: taken for soft, so that no address is written off on a guess.
    "Undetermined": ReceiptKind.BOUNCED_SOFT,
}


class SnsSignatures:
    """Checks that SNS signed an envelope, with a certificate from a host on the allow-list.

    `certificate_hosts` are host names, with a port if one is meant; `*` stands for exactly one AWS region, so that
    `sns.*.amazonaws.com` covers no bucket or balancer under that domain. Plain HTTP is allowed to loopback only, and
    only if the list names it. `account` is the 12-digit AWS account that the topic must belong to.
    """

    def __init__(self, certificate_hosts: Sequence[str], account: str | None = None) -> None:
        self._hosts = [re.compile(re.escape(host.lower()).replace(r"\*", _REGION)) for host in certificate_hosts]
        self._account = account
        self._keys: dict[str, rsa.RSAPublicKey] = {}

    def check(self, envelope: dict[str, Any]) -> None:
        """Return if the signature holds. Raises Refused that names what does not, Unreachable for a certificate that
        cannot be had now."""
        if envelope.get("Type") != "Notification":
            raise Refused("SNS message is no Notification")
        version = str(envelope.get("SignatureVersion"))
        if version not in SIGNATURE_HASHES:
            raise Refused("SNS signature version is neither 1 nor 2")
        arn = str(envelope.get("TopicArn", "")).split(":")
        if self._account is not None and (len(arn) != 6 or arn[4] != self._account):
            raise Refused("SNS topic belongs to another AWS account")
        key = self._key(str(envelope.get("SigningCertURL", "")))
        try:
            signature = base64.b64decode(str(envelope.get("Signature", "")), validate=True)
        except ValueError:
            raise Refused("SNS signature is no base64") from None
        signed = "".join(f"{name}\n{envelope[name]}\n" for name in SIGNED_FIELDS if envelope.get(name) is not None)
        try:
            key.verify(signature, signed.encode(), padding.PKCS1v15(), SIGNATURE_HASHES[version])
        except InvalidSignature:
            raise Refused("SNS signature does not match the message") from None
        except UnicodeEncodeError:
            raise Refused("SNS message is no Unicode text") from None

    def _key(self, url: str) -> rsa.RSAPublicKey:
        if url not in self._keys:
            self._check_address(url)
            key = _public_key(_fetch(url))
            if len(self._keys) >= MAX_CACHED_CERTIFICATES:
                self._keys.clear()
            self._keys[url] = key
        return self._keys[url]

    def _check_address(self, url: str) -> None:
        if not (url.isascii() and url.isprintable()):
            raise Refused("SNS certificate address is no URL")
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise Refused("SNS certificate address is no URL") from None
        with_port = f"{host}:{port}" if port is not None else host
        if not any(known.fullmatch(name) for known in self._hosts for name in (host, with_port)):
            raise Refused("SNS certificate host is not on the allow-list (delivery.certificate_hosts)")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
            raise Refused("SNS certificate address is not https")
        if not CERTIFICATE_PATH.fullmatch(parts.path) or {"?", "#", "@"} & set(url):
            raise Refused("SNS certificate address is not one of SNS's")
        if port is not None and not any(known.fullmatch(with_port) for known in self._hosts) and not is_loopback(host):
            raise Refused("SNS certificate port is not on the allow-list (delivery.certificate_hosts)")


class SqsReceipts:
    """A ReceiptSource (`consumers.domain.sending`)."""

    name = "sqs"

    def __init__(self, config: AwsConfig, queue_name: str, signatures: SnsSignatures) -> None:
        # Receiving and deleting may be repeated: what is lent out twice comes again, and deleting twice is nothing.
        self._sqs = client(config, "sqs", may_repeat=True, check_parameters=False)
        self._queue_name = queue_name
        self._queue_url: str | None = None
        self._signatures = signatures
        # SQS lends ten at a time: so many calls at once are what thousands a second need at its latency
        self._callers = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="sqs")

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:
        """Return up to `limit` waiting deliveries, waiting up to `wait_seconds` (at most 20) for the first. Raises Unreachable if
        SQS is, or the signing certificates of all of them.

        A message whose certificate alone cannot be had now holds up no other: it comes again by itself, as all do after an error.
        """
        messages = self._lent(min(MAX_PER_CALL, limit), min(20, wait_seconds))
        if len(messages) == MAX_PER_CALL < limit:
            sizes = [min(MAX_PER_CALL, limit - start) for start in range(MAX_PER_CALL, limit, MAX_PER_CALL)]
            for start in range(0, len(sizes), CALLS_AT_ONCE):
                lent = list(self._callers.map(lambda size: self._lent(size, 0), sizes[start : start + CALLS_AT_ONCE]))
                messages += [message for some in lent for message in some]
                if not all(lent):
                    break
        return self._deliveries(messages)

    def _deliveries(self, messages: Sequence[dict[str, Any]]) -> Sequence[ReceiptDelivery]:
        found: list[ReceiptDelivery] = []
        away: dict[str, Unreachable] = {}
        reason = ""
        for message in messages:
            try:
                found.append(self._delivery(message["ReceiptHandle"], message["Body"], away))
            except Unreachable as error:
                reason = str(error)
        if len(found) < len(messages):
            if not found:
                raise Unreachable(reason)
            log.warning("receipts wait for a signing certificate", count=len(messages) - len(found), reason=reason)
        return found

    def _lent(self, limit: int, wait_seconds: int) -> list[dict[str, Any]]:
        with unreachable(f"SQS queue {self._queue_name}"):
            answer = self._sqs.receive_message(
                QueueUrl=self._url(), MaxNumberOfMessages=limit, WaitTimeSeconds=wait_seconds
            )
        found: list[dict[str, Any]] = answer.get("Messages") or []
        return found

    def settle(self, handles: Sequence[str]) -> None:
        """Remove what has been stored durably. An entry that SQS fails to remove comes again, and is known by then."""
        batches = [handles[start : start + MAX_PER_CALL] for start in range(0, len(handles), MAX_PER_CALL)]
        for _ in self._callers.map(self._remove, batches):
            pass

    def _remove(self, handles: Sequence[str]) -> None:
        with unreachable(f"SQS queue {self._queue_name}"):
            self._sqs.delete_message_batch(
                QueueUrl=self._url(),
                Entries=[{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)],
            )

    def _url(self) -> str:
        if self._queue_url is None:
            self._queue_url = self._sqs.get_queue_url(QueueName=self._queue_name)["QueueUrl"]
        return self._queue_url

    def _delivery(self, handle: str, body: str, away: dict[str, Unreachable]) -> ReceiptDelivery:
        """Return what is in a message. `away`: addresses of certificates that did not answer; none is asked for twice."""
        raw = body.encode()
        try:
            envelope = json_object(body, "SQS message")
            address = str(envelope.get("SigningCertURL", ""))
            if address in away:
                raise away[address]
            try:
                self._signatures.check(envelope)
            except Unreachable as error:
                away[address] = error
                raise
            return ReceiptDelivery(handle, parse_notification(envelope, hashlib.sha256(raw).hexdigest()), raw=raw)
        except Unreachable:
            raise
        except TocsinError as error:
            return ReceiptDelivery(handle, (), str(error), raw)


def parse_notification(envelope: dict[str, Any], raw_sha256: str) -> tuple[Receipt, ...]:
    """Return the receipts in a verified SNS notification: one, or none for what is about nobody. Raises BadInput that
    names the event and member which cannot be read, never a value."""
    words = envelope.get("Message")
    if words == SES_TEST_MESSAGE:
        return ()
    message = json_object(words if isinstance(words, str) else "", "SNS Message")
    if "eventType" in message:
        receipt = readable("SES event", lambda: _ses_receipt(message, raw_sha256))
        return (receipt,) if receipt is not None else ()
    raise BadInput("SNS Message is no SES event")


def _ses_receipt(event: dict[str, Any], raw_sha256: str) -> Receipt | None:
    event_type = event["eventType"]
    if event_type in _UNREPORTED:
        return None
    mail = event["mail"]
    if event_type == "Bounce":
        detail = event["bounce"]
        kind, sub_type = _BOUNCE_KINDS[detail["bounceType"]], detail["bounceSubType"]
    elif event_type == "Complaint" and event["complaint"].get("complaintSubType") == SUPPRESSED:
        # No complaint about this message: SES took it and never tried, as its reader complained about another one.
        detail = event["complaint"]
        kind, sub_type = ReceiptKind.BOUNCED_HARD, SUPPRESSED
    elif event_type in _SIMPLE_EVENTS:
        kind, member, sub_type_member = _SIMPLE_EVENTS[event_type]
        detail = event[member]
        sub_type = detail.get(sub_type_member) if sub_type_member else None
    else:
        raise BadInput("SES event of an unknown type")
    occurred = text(detail.get("timestamp", mail["timestamp"]))
    message_id = text(mail["messageId"])
    attempts = mail.get("tags", {}).get(ATTEMPT_TAG, [])
    return Receipt(
        provider=_Ses.name,
        # SES may publish one event twice under two SNS ids; this names the event itself.
        provider_event_id=f"{message_id}/{event_type}/{text(detail.get('feedbackId', occurred))}",
        provider_message_id=message_id,
        attempt_id=text(attempts[0]) if attempts else None,
        kind=kind,
        sub_type=word(sub_type) if sub_type is not None else None,
        occurred_at=instant(occurred),
        raw_sha256=raw_sha256,
        mailbox=_mailbox(mail.get("destination")),
    )


def _mailbox(destination: Any) -> str:
    """Return who keeps the mailbox: SES names the only recipient of each of our messages."""
    is_one = isinstance(destination, list) and len(destination) == 1 and isinstance(destination[0], str)
    return mailbox_provider(destination[0]) if is_one else "none"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would lead past the allow-list of hosts."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=CERTIFICATE_TIMEOUT_SECONDS) as answer:
            certificate: bytes = answer.read(MAX_CERTIFICATE_BYTES)
            return certificate
    except HTTPError as error:
        error.close()
        if error.code >= 500 or error.code == 429:
            raise Unreachable(f"SNS signing certificate: its host answered {error.code}") from None
        raise Refused(f"SNS signing certificate: its host answered {error.code}") from None
    except (URLError, OSError, HTTPException) as error:
        raise Unreachable(f"SNS signing certificate cannot be fetched: {type(error).__name__}") from None


def _public_key(pem: bytes) -> rsa.RSAPublicKey:
    try:
        key = x509.load_pem_x509_certificate(pem).public_key()
    except ValueError:
        raise Refused("SNS signing certificate is no certificate") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise Refused("SNS signing certificate holds no RSA key")
    return key
