"""A Twilio-compatible SMS gateway as far as Tocsin uses it: taking messages, calling back what became of them, and saying it.

https://www.twilio.com/docs/messaging/api/message-resource and https://www.twilio.com/docs/usage/security. Any account is
known by any token; the token that came with a message signs the reports about it. A report is called again until it is
answered with a 2xx, a few times.
"""

import base64
import hashlib
import hmac
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

from consumers.sandbox.events import FATES, GATEWAY_STATUS, Fate, Message, due_after
from consumers.sandbox.fates import Behaviour, recipient_key
from consumers.sandbox.faults import FaultyAnswer
from consumers.sandbox.http import is_loopback
from consumers.sandbox.state import CallBack, State
from consumers.sandbox.texts import Text
from consumers.sandbox.wire import Request, Response, Unanswered

SERVICE = "sms-gateway"
PATH = re.compile(r"/2010-04-01/Accounts/(?P<account>[A-Za-z0-9]+)/Messages(?:/(?P<message>[A-Za-z0-9]+))?\.json")
MAX_CALLS = 5
CALL_AGAIN = timedelta(seconds=1)

_E164 = re.compile(r"\+[1-9]\d{6,14}")


class SmsGateway:
    """Answers `Messages.json` and `Messages/ID.json`; a thread of its own calls back."""

    def __init__(self, state: State, receipt_delay_seconds: float) -> None:
        self._state = state
        self._delay = timedelta(seconds=receipt_delay_seconds)
        self._closing = False
        self._thread = threading.Thread(target=self._call_back, name="sms-gateway", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop calling back; what is due then is called after the next start."""
        with self._state.changed:
            self._closing = True
            self._state.changed.notify_all()
        self._thread.join()

    def answer(self, request: Request, account: str, message_id: str | None) -> Response:
        """Take one message, or say why not; or say what became of one."""
        token = _token(request.headers.get("authorization", ""), account)
        if message_id is not None and request.method == "GET" and token is not None:
            with self._state.changed:
                return self._status(message_id)
        if request.method != "POST" or token is None:
            return _refusal(401 if request.method == "POST" else 405, 20003, "Authenticate")
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        with self._state.changed:
            return self._take(form, account, token)

    def _take(self, form: Mapping[str, str], account: str, token: str) -> Response:
        to, words = form.get("To", ""), form.get("Body", "")
        sender = form.get("From") or form.get("MessagingServiceSid") or ""
        fault = self._met_fault()
        if fault is FaultyAnswer.SERVER_ERROR:
            return _refusal(500, 20500, "Internal Server Error")
        if fault is FaultyAnswer.TOO_MANY:
            return _refusal(429, 20429, "Too Many Requests")
        script = self._state.script(to)
        if not _E164.fullmatch(to):
            return _refusal(400, 21211, "Invalid 'To' Phone Number")
        if not sender or not words:
            return _refusal(400, 21603 if not sender else 21602, "A sender and a Body are required")
        if script.behaviour is Behaviour.REFUSE or to in self._state.opted_out:
            return _refusal(400, 21610 if to in self._state.opted_out else 21614, "'To' number cannot receive SMS")
        if script.behaviour is Behaviour.THROTTLE and self._state.throttled[to] < script.times:
            self._state.commit({"record": "throttled", "to": recipient_key(to)})
            return _refusal(429, 20429, "Too Many Requests")
        if fault is FaultyAnswer.RESET:
            raise Unanswered
        if self._state.goes_unanswered(to, Behaviour.LOST):
            self._state.commit({"record": "unanswered", "to": recipient_key(to)})
            raise Unanswered
        now, fate, text = self._state.clock.now(), FATES.get(script.behaviour, Fate.DELIVERED), Text("", "", words)
        message = Message(
            id=f"SM{uuid4().hex}",
            channel="sms",
            to=to,
            sender=sender,
            reply_to=(),
            text_sha256=text.sha256,
            slots={},
            tags={"gateway": account, "token": token, "callback": form.get("StatusCallback", "")},
            configuration_set=None,
            region="",
            received_at=now,
            due_at=now + due_after(fate, self._delay),
            behaviour=script.behaviour,
            fate=fate,
        )
        records = self._state.message_records(text, [message])
        if self._state.goes_unanswered(to, Behaviour.TIMEOUT):
            self._state.commit(*records, {"record": "unanswered", "to": recipient_key(to)})
            raise Unanswered
        self._state.commit(*records)
        if fault is FaultyAnswer.RESET_AFTER:
            raise Unanswered
        taken = {"sid": message.id, "status": "queued", "to": to, "account_sid": account, "error_code": None}
        return Response(201, "application/json", json.dumps(taken).encode())

    def _status(self, message_id: str) -> Response:
        fault = self._met_fault()
        if fault is not None:
            return _refusal(500, 20500, "Internal Server Error")
        message = next((each for each in self._state.messages if each.id == message_id), None)
        if message is None or message.channel != "sms":
            return _refusal(404, 20404, "The requested resource was not found")
        over = message.due_at <= self._state.clock.now()
        status, error = GATEWAY_STATUS.get(message.fate, ("sent", None)) if over else ("sent", None)
        said = {"sid": message.id, "status": status, "to": message.to, "error_code": error}
        return Response(200, "application/json", json.dumps(said).encode())

    def _met_fault(self) -> FaultyAnswer | None:
        fault = self._state.faults.get(SERVICE)
        if fault is None or fault.over:
            return None
        self._state.commit({"record": "fault_met", "service": SERVICE})
        return None if fault.after else fault.answer

    def _call_back(self) -> None:
        """Call what is due, oldest first, until the sandbox closes."""
        while True:
            with self._state.changed:
                while not self._closing:
                    now = self._state.clock.now()
                    due = min(self._state.call_backs.values(), key=lambda each: each.at, default=None)
                    if due is not None and due.at <= now:
                        break
                    self._state.changed.wait(None if due is None else (due.at - now).total_seconds())
                if self._closing or due is None:
                    return
            heard = _called(due)
            with self._state.changed:
                if heard or due.calls + 1 >= MAX_CALLS:
                    self._state.commit({"record": "called_back", "message": due.message.id})
                else:  # kept in memory only: a restart calls at once
                    self._state.call_backs[due.message.id] = due.later(self._state.clock.now() + CALL_AGAIN)


def _called(due: CallBack) -> bool:
    """Report what became of a message; return whether somebody listened."""
    address = due.message.tags["callback"]
    if not is_loopback(urlsplit(address).hostname or ""):
        return True  # the sandbox calls nobody outside this machine
    status, error = GATEWAY_STATUS[due.message.fate]
    form = {
        "MessageSid": due.message.id,
        "MessageStatus": status,
        "To": due.message.to,
        "From": due.message.sender,
        "AccountSid": due.message.tags["gateway"],
        **({"ErrorCode": str(error)} if error else {}),
    }
    signed = address + "".join(name + value for name, value in sorted(form.items()))
    digest = hmac.digest(due.message.tags["token"].encode(), signed.encode(), hashlib.sha1)
    request = urllib.request.Request(  # noqa: S310  loopback, checked above
        address,
        data=urlencode(form).encode(),
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": base64.b64encode(digest).decode(),
        },
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=15) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def _token(authorization: str, account: str) -> str | None:
    kind, _, value = authorization.partition(" ")
    try:
        user, colon, token = base64.b64decode(value).decode().partition(":")
    except ValueError:
        return None
    return token if kind.lower() == "basic" and colon and user == account else None


def _refusal(status: int, code: int, words: str) -> Response:
    body: dict[str, Any] = {"code": code, "message": words, "status": status}
    return Response(status, "application/json", json.dumps(body).encode())
