"""SMS over a Twilio-compatible HTTP API: the second provider, and its reports.

A message is one POST to `Messages.json`; what becomes of it is called back to an address of ours, which names the
attempt and is signed. https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource and
https://www.twilio.com/docs/usage/security#validating-requests. Never repeats a message whose answer was lost.
"""

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from typing import Protocol
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import structlog
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from bridge.contracts.errors import BadInput, TocsinError, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import LoggedHttpServer, counter
from consumers.adapters.aws import is_loopback
from consumers.adapters.receipt_fields import json_object, readable, text
from consumers.domain.ledger import Unreported
from consumers.domain.sending import Receipt, ReceiptDelivery, ReceiptKind, SendResult, SendState, wire_phone

log = structlog.get_logger()

NAME = "sms_gateway"
ATTEMPT = "attempt"

REJECTIONS = frozenset({21211, 21214, 21217, 21408, 21421, 21610, 21612, 21614, 21617})
"""Error codes that blame the number or the text: no number, no mobile, opted out, a country that is closed, too long."""
NUMBER_GONE = frozenset({21211, 21217, 21610, 21614})
"""Of these what is so of the number, whatever is sent: none, none, opted out, no mobile."""

FINAL = {
    "sent": ReceiptKind.SENT,
    "delivered": ReceiptKind.DELIVERED,
    "read": ReceiptKind.READ,
    "undelivered": ReceiptKind.BOUNCED_HARD,
    "failed": ReceiptKind.BOUNCED_HARD,
}
ON_THE_WAY = frozenset({"accepted", "scheduled", "queued", "sending"})
"""Statuses that tell nothing new."""
FAILURES = {
    30001: (ReceiptKind.REJECTED, "queue_overflow"),
    30002: (ReceiptKind.REJECTED, "account_suspended"),
    30003: (ReceiptKind.BOUNCED_SOFT, "phone_unreachable"),
    30004: (ReceiptKind.BOUNCED_HARD, "sms_blocked"),
    30005: (ReceiptKind.BOUNCED_HARD, "invalid_number"),
    30006: (ReceiptKind.BOUNCED_HARD, "landline"),
    30007: (ReceiptKind.REJECTED, "carrier_filter"),
    30008: (ReceiptKind.BOUNCED_SOFT, "unknown"),
    # what a call is refused for at once, where it is a messaging service's: that takes everything, and finds out later
    21211: (ReceiptKind.BOUNCED_HARD, "invalid_number"),
    21217: (ReceiptKind.BOUNCED_HARD, "invalid_number"),
    21408: (ReceiptKind.REJECTED, "country_closed"),
    21610: (ReceiptKind.BOUNCED_HARD, "opted_out"),
    21612: (ReceiptKind.REJECTED, "no_route"),
    21614: (ReceiptKind.BOUNCED_HARD, "landline"),
    21617: (ReceiptKind.REJECTED, "invalid_text"),
}
"""https://www.twilio.com/docs/api/errors; words of `sms_status` where it has one."""

MAX_BODY_BYTES = 64 * 1024
SETTLE_SECONDS = 10

REFUSED = counter(
    "tocsin_receipt_callbacks_refused_total",
    "calls to the address for SMS reports that were not the gateway's",
    question="does somebody try to forge receipts, or is the token wrong?",
)


@dataclass(frozen=True, slots=True)
class GatewayAccount:
    """Where the gateway is, who we are to it, and where it calls back."""

    url: str
    account_sid: str
    auth_token: str = field(repr=False)
    sender: str
    """A number in E.164, or a messaging service (`MG...`)."""
    callback_url: str | None = None
    """Public address of our listener as the gateway sees it; without it the gateway is asked about each message."""
    timeout_seconds: float = 30

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise BadInput(f"SMS gateway {self.url!r}: https, or http on loopback")
        if self.callback_url is not None and {"?", "#"} & set(self.callback_url):
            # the attempt is named there, and all of the address is signed
            raise BadInput(f"delivery.sms_gateway.callback_url {self.callback_url!r}: write it without ? and #")


class GatewaySms:
    """An SmsProvider (`consumers.domain.sending`)."""

    name = NAME

    def __init__(self, account: GatewayAccount) -> None:
        self._account = account
        self._address = f"{account.url.rstrip('/')}/2010-04-01/Accounts/{account.account_sid}/Messages.json"
        timeout = urllib3.Timeout(connect=min(5.0, account.timeout_seconds), read=account.timeout_seconds)
        self._http = urllib3.PoolManager(retries=False, timeout=timeout)
        self._headers = urllib3.make_headers(basic_auth=f"{account.account_sid}:{account.auth_token}")

    def send(self, attempt_id: str, phone_e164: str, text: str, *, exercise: bool) -> SendResult:
        """Return the gateway's answer."""
        sender = "MessagingServiceSid" if self._account.sender.startswith("MG") else "From"
        form = {"To": wire_phone(phone_e164, exercise=exercise), sender: self._account.sender, "Body": text}
        if self._account.callback_url is not None:
            form["StatusCallback"] = callback_address(self._account.callback_url, attempt_id)
        try:
            answer = self._http.request(
                "POST", self._address, fields=form, headers=self._headers, encode_multipart=False
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            return SendResult(attempt_id, SendState.UNAVAILABLE, code=type(error).__name__)
        except HTTPError as error:
            return SendResult(attempt_id, SendState.UNKNOWN, code=type(error).__name__)
        return _answered(attempt_id, answer.status, answer.data)


def callback_address(callback_url: str, attempt_id: str) -> str:
    """Return where the gateway reports one attempt."""
    return f"{callback_url}?{urlencode({ATTEMPT: attempt_id})}"


def signature(auth_token: str, address: str, form: Iterable[tuple[str, str]]) -> str:
    """Return what `X-Twilio-Signature` must be: HMAC-SHA1 over the address and the sorted fields of the form."""
    signed = address + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.digest(auth_token.encode(), signed.encode(), hashlib.sha1)).decode()


def _answered(attempt_id: str, status: int, body: bytes) -> SendResult:
    try:
        answer = json_object(body.decode("utf-8", "replace"), "SMS gateway's answer")
    except BadInput:
        answer = {}
    if status in (200, 201) and isinstance(answer.get("sid"), str):
        return SendResult(attempt_id, SendState.ACCEPTED, answer["sid"])
    code = answer.get("code")
    word = f"GATEWAY_{code}" if isinstance(code, int) else f"HTTP_{status}"
    if status < 300 or status >= 500:
        return SendResult(attempt_id, SendState.UNKNOWN, code=word)
    if status == 429:
        return SendResult(attempt_id, SendState.THROTTLED, code=word)
    state = SendState.REJECTED if code in REJECTIONS else SendState.UNAVAILABLE
    return SendResult(attempt_id, state, code=word, gone=code in NUMBER_GONE)


@dataclass(slots=True)
class _Waiting:
    """A report whose caller waits until the ledger has it."""

    delivery: ReceiptDelivery
    settled: threading.Event = field(default_factory=threading.Event)


class GatewayCallbacks:
    """A ReceiptSource (`consumers.domain.sending`): reports that the gateway calls in, signed.

    A caller gets its 204 only once the report is settled, else 503 after ten seconds: nothing that was answered can be
    lost, and a gateway that repeats will repeat.
    """

    name = NAME

    def __init__(self, account: GatewayAccount, host: str, port: int, clock: Clock) -> None:
        """Listen on `host` and `port` (0 picks a free one). Raises BadInput if that cannot be had."""
        if account.callback_url is None:
            raise BadInput("delivery.sms_gateway.callback_url: say where the gateway reaches this listener")
        self._account = account
        self._callback_url = account.callback_url
        self._clock = clock
        self._arrived: SimpleQueue[_Waiting] = SimpleQueue()
        self._lent: dict[str, list[_Waiting]] = {}
        callbacks = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                length = self.headers.get("content-length", "")
                if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                    self.close_connection = True
                    self._say(413)
                    return
                body = self.rfile.read(int(length))
                self._say(callbacks.take(self.path, body, self.headers.get("x-twilio-signature", "")))

            def _say(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's signature
                """Write nothing: a request holds a telephone number."""

        try:
            self._server = LoggedHttpServer((host, port), Handler)
        except OSError as error:
            raise BadInput(f"SMS reports cannot be received on {host}:{port}: {error.strerror}") from None
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="sms-callbacks", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes, claimed: str) -> int:
        """Return the HTTP status for one call, once its report is settled or will not be."""
        query = urlsplit(path).query
        address = f"{self._callback_url}?{query}" if query else self._callback_url
        try:
            form = parse_qsl(body.decode("utf-8"), keep_blank_values=True, strict_parsing=True)
        except (UnicodeDecodeError, ValueError):
            form = []
        expected = signature(self._account.auth_token, address, form)
        if not form or not hmac.compare_digest(expected.encode(), claimed.encode("utf-8", "replace")):
            REFUSED.inc()
            log.warning("an SMS report is not signed by the gateway", bytes=len(body))
            return 403
        waiting = _Waiting(_delivery(dict(form), parse_qs(query).get(ATTEMPT, [None])[0], body, self._clock))
        self._arrived.put(waiting)
        return 204 if waiting.settled.wait(SETTLE_SECONDS) else 503

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:
        """Return up to `limit` reports whose callers wait, waiting up to `wait_seconds` for the first."""
        deliveries: list[ReceiptDelivery] = []
        while len(deliveries) < limit:
            try:
                waiting = self._arrived.get(timeout=wait_seconds or None, block=bool(wait_seconds and not deliveries))
            except Empty:
                break
            self._lent.setdefault(waiting.delivery.handle, []).append(waiting)
            deliveries.append(waiting.delivery)
        return deliveries

    def settle(self, handles: Sequence[str]) -> None:
        """Answer the callers of what has been stored durably. A crash before this ends their connections unanswered."""
        for handle in handles:
            for waiting in self._lent.pop(handle, ()):
                waiting.settled.set()


class UnreportedMessages(Protocol):
    """Knows which messages wait for their last word. Raises Unreachable."""

    def unreported(self, provider: str) -> Sequence[Unreported]: ...


_ASKED_AFTER = (0.25, 0.5, 0.75, 0.95)
"""Parts of the time that a message has for its last word: the gateway is asked then, last before the next channel begins."""
_ASKED_AT_ONCE = 500


class GatewayStatuses:
    """A ReceiptSource (`consumers.domain.sending`): asks the gateway about messages of which nobody called in what became.

    A call that meets our restart, or a listener that the gateway does not reach, is not repeated by every gateway. Asked in a
    thread of its own, so that no other receipt waits. A crash forgets what was asked, and asks again; an answer is offered until
    it is settled, and the event id is that of the call, so that both together are one receipt.
    """

    name = f"{NAME}_status"

    def __init__(
        self, account: GatewayAccount, messages: UnreportedMessages, clock: Clock, *, every_seconds: float
    ) -> None:
        self._account = account
        self._messages = messages
        self._clock = clock
        self._every_seconds = every_seconds
        wait = min(5.0, account.timeout_seconds)
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=wait, read=wait))
        self._headers = urllib3.make_headers(basic_auth=f"{account.account_sid}:{account.auth_token}")
        self._asked: dict[str, int] = {}
        self._untold: set[str] = set()
        """Of these the gateway did not answer; it may be for one message only, so they are asked about after all others."""
        self._waiting: dict[str, ReceiptDelivery] = {}
        self._trouble = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="sms-statuses", daemon=True).start()

    def close(self) -> None:
        """Ask no more."""
        self._over.set()

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:  # noqa: ARG002  they are there or not
        """Return up to `limit` answers that are not settled. Raises Unreachable while the gateway does not answer."""
        with self._lock:
            found = list(self._waiting.values())[:limit]
        if not found and self._trouble:
            raise Unreachable(f"SMS gateway: {self._trouble}")
        return found

    def settle(self, handles: Sequence[str]) -> None:
        """Let go of what has been stored durably."""
        with self._lock:
            for handle in handles:
                self._waiting.pop(handle, None)

    def _run(self) -> None:
        more = False
        while not self._over.wait(0 if more else self._every_seconds):
            more = False
            try:
                more = self.ask()
            except TocsinError as error:
                log.warning("SMS statuses wait", reason=str(error))
            except Exception as error:
                # a bug here must not end the asking
                log.error("SMS statuses were not asked", error=type(error).__name__)

    def ask(self) -> bool:
        """Ask about those messages whose time has come, and keep what is final; return whether more of them are left. Raises
        Unreachable of the case store.
        """
        now, silent = self._clock.now(), self._messages.unreported(NAME)
        known = {each.attempt_id for each in silent}
        self._asked = {attempt_id: mark for attempt_id, mark in self._asked.items() if attempt_id in known}
        self._untold &= known
        due = [(each, mark) for each in silent if (mark := _mark(each, now)) > self._asked.get(each.attempt_id, 0)]
        due.sort(key=lambda one: one[0].attempt_id in self._untold)
        for each, mark in due[:_ASKED_AT_ONCE]:
            if self._over.is_set():
                return False
            try:
                answer = self._http.request("GET", self._address(each.message_id), headers=self._headers)
            except HTTPError as error:
                self._untold.add(each.attempt_id)
                self._trouble = type(error).__name__
                return False
            if answer.status == 429 or answer.status >= 500:
                self._untold.add(each.attempt_id)
                self._trouble = f"HTTP {answer.status}"
                return False
            self._untold.discard(each.attempt_id)
            self._asked[each.attempt_id] = mark
            if answer.status == 200:
                self._keep(each, answer.data)
            else:
                log.warning("the SMS gateway does not tell of a message", attempt=each.attempt_id, status=answer.status)
        self._trouble = ""
        return len(due) > _ASKED_AT_ONCE

    def _address(self, message_id: str) -> str:
        account = self._account
        return f"{account.url.rstrip('/')}/2010-04-01/Accounts/{account.account_sid}/Messages/{quote(message_id, safe='')}.json"

    def _keep(self, message: Unreported, body: bytes) -> None:
        try:
            answer = json_object(body.decode("utf-8", "replace"), "SMS gateway's answer")
            form = {
                "MessageStatus": text(answer["status"]),
                "MessageSid": message.message_id,
                "ErrorCode": str(answer.get("error_code") or ""),
            }
            raw_sha256 = hashlib.sha256(body).hexdigest()
            receipts = readable("SMS status", lambda: _receipts(form, message.attempt_id, raw_sha256, self._clock))
        except (BadInput, KeyError) as error:
            reason = str(error) if isinstance(error, BadInput) else "it names no status"
            log.warning("an SMS status cannot be read", attempt=message.attempt_id, reason=reason)
            return
        if receipts:
            handle = receipts[0].provider_event_id
            with self._lock:
                self._waiting[handle] = ReceiptDelivery(handle, receipts)


def _mark(message: Unreported, now: datetime) -> int:
    """Return how many of the moments at which the gateway is asked have passed."""
    whole = (message.expires_at - message.handed_over_at).total_seconds()
    passed = (now - message.handed_over_at).total_seconds()
    return sum(passed >= part * whole for part in _ASKED_AFTER)


def _delivery(form: dict[str, str], attempt_id: str | None, body: bytes, clock: Clock) -> ReceiptDelivery:
    raw_sha256 = hashlib.sha256(body).hexdigest()
    try:
        receipts: tuple[Receipt, ...] = readable("SMS report", lambda: _receipts(form, attempt_id, raw_sha256, clock))
    except BadInput as error:
        return ReceiptDelivery(raw_sha256, (), str(error), body)
    return ReceiptDelivery(raw_sha256, receipts, raw=body)


def _receipts(form: dict[str, str], attempt_id: str | None, raw_sha256: str, clock: Clock) -> tuple[Receipt, ...]:
    status, message_id = text(form["MessageStatus"]), text(form["MessageSid"])
    if status in ON_THE_WAY:
        return ()
    kind, word = FINAL[status], None
    if kind is ReceiptKind.BOUNCED_HARD:
        code = form.get("ErrorCode", "")
        # as with SNS: no number is written off on a guess
        unlisted = (ReceiptKind.BOUNCED_SOFT, "unlisted")
        kind, word = FAILURES.get(int(code) if code.isdecimal() else 0, unlisted)
    receipt = Receipt(
        provider=NAME,
        provider_event_id=f"{message_id}/{status}",
        provider_message_id=message_id,
        attempt_id=attempt_id,
        kind=kind,
        sub_type=word,
        occurred_at=clock.now(),  # the report carries no time
        raw_sha256=raw_sha256,
    )
    return (receipt,)
