"""The second SMS provider against the sandbox's Twilio-compatible gateway: answers, signed reports, and forged ones."""

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

import pytest

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import SetClock, SystemClock
from consumers.adapters.sms_gateway import (
    FAILURES,
    NUMBER_GONE,
    REFUSED,
    REJECTIONS,
    GatewayAccount,
    GatewayCallbacks,
    GatewaySms,
    GatewayStatuses,
    callback_address,
    signature,
)
from consumers.domain.ledger import Unreported
from consumers.domain.sending import ReceiptDelivery, ReceiptKind, SendState
from tests.contract.aws_sandbox import Aws, running
from tests.integration.whole_way import wait_for
from tests.servers.local import free_port

ANN = "+4915100000001"
TOKEN = "not-a-real-token"


class Gateway:
    """Sender, listener and the sandbox behind them."""

    def __init__(self, aws: Aws) -> None:
        port = free_port()
        self.aws = aws
        self.account = GatewayAccount(aws.url, "AC1", TOKEN, "+4915199999999", f"http://127.0.0.1:{port}/sms")
        self.sms = GatewaySms(self.account)
        self.callbacks = GatewayCallbacks(self.account, "127.0.0.1", port, SystemClock())

    def reports(self, count: int) -> list[ReceiptDelivery]:
        got: list[ReceiptDelivery] = []
        until = time.monotonic() + 20
        while len(got) < count and time.monotonic() < until:
            batch = self.callbacks.receive(10, 1)
            self.callbacks.settle([delivery.handle for delivery in batch])
            got.extend(batch)
        return got

    def post(self, form: Sequence[tuple[str, str]], claimed: str, attempt: str = "s-1") -> int:
        address = callback_address(str(self.account.callback_url), attempt)
        request = urllib.request.Request(
            address, data=urlencode(form).encode(), headers={"X-Twilio-Signature": claimed}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with running() as aws:
        started = Gateway(aws)
        yield started
        started.callbacks.close()


def test_the_signature_is_twilios() -> None:
    # the example of https://www.twilio.com/docs/usage/security
    form = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675310"),
        ("Digits", "1234"),
        ("From", "+14158675310"),
        ("To", "+18005551212"),
    ]
    assert signature("12345", "https://example.com/myapp.php?foo=1&bar=2", form) == "L/OH5YylLD5NRKLltdqwSvS0BnU="


def test_every_fate_is_reported_and_names_its_attempt(gateway: Gateway) -> None:
    fates = ("delivered", "bounce", "softbounce", "reject", "delay", "silent")
    numbers = {fate: f"+49151000002{n:02}" for n, fate in enumerate(fates)}
    gateway.aws.script({number: fate for fate, number in numbers.items()})
    results = [
        gateway.sms.send(f"s-{fate}", number, "Look at your account page.", exercise=False)
        for fate, number in numbers.items()
    ]
    assert {result.state for result in results} == {SendState.ACCEPTED}
    found = {
        receipt.attempt_id: (receipt.kind, receipt.sub_type) for each in gateway.reports(5) for receipt in each.receipts
    }
    assert found == {
        "s-delivered": (ReceiptKind.DELIVERED, None),
        "s-bounce": (ReceiptKind.BOUNCED_HARD, "invalid_number"),
        "s-softbounce": (ReceiptKind.BOUNCED_SOFT, "phone_unreachable"),
        "s-reject": (ReceiptKind.REJECTED, "carrier_filter"),
        "s-delay": (ReceiptKind.DELIVERED, None),
    }
    texts = {m["attempt_id"]: m["text"] for m in gateway.aws.mailbox()["messages"] if m["to"] in numbers.values()}
    assert texts == {f"s-{fate}": "Look at your account page." for fate in fates}


@pytest.mark.parametrize(
    ("number", "script", "state", "code"),
    [
        ("no number", None, SendState.REJECTED, "GATEWAY_21211"),
        ("+4915100000303", "refuse", SendState.REJECTED, "GATEWAY_21614"),
        ("+4915100000304", "throttle", SendState.THROTTLED, "GATEWAY_20429"),
        ("+4915100000305", "lost", SendState.UNKNOWN, "ProtocolError"),
        ("+4915100000306", "timeout", SendState.UNKNOWN, "ProtocolError"),
    ],
)
def test_what_each_answer_means(gateway: Gateway, number: str, script: str | None, state: SendState, code: str) -> None:
    if script is not None:
        gateway.aws.script({number: script})
    result = gateway.sms.send("s-1", number, "x", exercise=False)
    assert (result.state, result.code) == (state, code)
    assert result.gone == (state is SendState.REJECTED), "no number, and no mobile"
    if script == "timeout":  # its report settles what the answer left open
        (report,) = gateway.reports(1)
        assert [(each.attempt_id, each.kind) for each in report.receipts] == [("s-1", ReceiptKind.DELIVERED)]


@pytest.mark.parametrize(
    ("answer", "state"), [("500", SendState.UNKNOWN), ("429", SendState.THROTTLED), ("reset", SendState.UNKNOWN)]
)
def test_an_ill_gateway(gateway: Gateway, answer: str, state: SendState) -> None:
    gateway.aws.control("faults", {"sms-gateway": {"answer": answer, "calls": 1}})
    assert gateway.sms.send("s-1", ANN, "x", exercise=False).state is state


def test_a_gateway_that_is_away_or_knows_us_not_took_nothing(gateway: Gateway) -> None:
    away = GatewayAccount(f"http://127.0.0.1:{free_port()}", "AC1", TOKEN, "+4915199999999")
    assert GatewaySms(away).send("s-1", ANN, "x", exercise=False).state is SendState.UNAVAILABLE
    nobody = GatewayAccount(gateway.aws.url, "AC1", TOKEN, "")
    assert GatewaySms(nobody).send("s-1", ANN, "x", exercise=False).state is SendState.UNAVAILABLE


def test_forged_reports_are_refused_and_counted(gateway: Gateway) -> None:
    form = [("MessageSid", "SM1"), ("MessageStatus", "delivered")]
    before = REFUSED._value.get()
    address = callback_address(str(gateway.account.callback_url), "s-1")
    good = signature(TOKEN, address, form)
    assert gateway.post(form, "") == 403
    assert gateway.post(form, signature("another", address, form)) == 403
    assert gateway.post([*form, ("ErrorCode", "0")], good) == 403
    assert gateway.post(form, good, attempt="s-2") == 403
    assert gateway.callbacks.receive(10, 0) == []
    assert REFUSED._value.get() == before + 4


def test_a_report_is_answered_only_once_it_is_settled_and_an_unreadable_one_is_kept(gateway: Gateway) -> None:
    form = [("MessageSid", "SM1"), ("MessageStatus", "vanished")]
    claimed = signature(TOKEN, callback_address(str(gateway.account.callback_url), "s-1"), form)
    statuses: list[int] = []
    caller = threading.Thread(target=lambda: statuses.append(gateway.post(form, claimed)))
    caller.start()
    (delivery,) = gateway.callbacks.receive(10, 10)
    assert (delivery.error, statuses) == ("SMS report: unknown or missing 'vanished'", [])
    gateway.callbacks.settle([delivery.handle])
    caller.join(20)
    assert statuses == [204]


def test_what_a_messaging_service_finds_out_later_says_what_a_refused_call_does(gateway: Gateway) -> None:
    """It takes every message: what the gateway thinks of the number or the text comes with the report."""
    known = {code for code in FAILURES if code in REJECTIONS}
    assert known >= NUMBER_GONE
    for code in sorted(known):
        form = [("MessageSid", f"SM{code}"), ("MessageStatus", "failed"), ("ErrorCode", str(code))]
        claimed = signature(TOKEN, callback_address(str(gateway.account.callback_url), "s-1"), form)
        caller = threading.Thread(target=partial(gateway.post, form, claimed))
        caller.start()
        (delivery,) = gateway.callbacks.receive(10, 10)
        gateway.callbacks.settle([delivery.handle])
        caller.join(20)
        (receipt,) = delivery.receipts
        assert receipt.kind is (ReceiptKind.BOUNCED_HARD if code in NUMBER_GONE else ReceiptKind.REJECTED)


def test_a_failure_for_a_reason_that_nobody_knows_writes_off_no_number(gateway: Gateway) -> None:
    form = [("MessageSid", "SM9"), ("MessageStatus", "undelivered"), ("ErrorCode", "39999")]
    claimed = signature(TOKEN, callback_address(str(gateway.account.callback_url), "s-1"), form)
    caller = threading.Thread(target=lambda: gateway.post(form, claimed))
    caller.start()
    (delivery,) = gateway.callbacks.receive(10, 10)
    gateway.callbacks.settle([delivery.handle])
    caller.join(20)
    assert [(each.kind, each.sub_type) for each in delivery.receipts] == [(ReceiptKind.BOUNCED_SOFT, "unlisted")]


class Messages:
    """What the ledger knows of messages without a last word."""

    def __init__(self) -> None:
        self.silent: list[Unreported] = []

    def unreported(self, provider: str) -> list[Unreported]:
        assert provider == "sms_gateway"
        return self.silent


HOUR = timedelta(hours=1)


def test_what_nobody_called_in_is_asked_for_before_the_next_channel_begins(gateway: Gateway) -> None:
    uncalled = GatewayAccount(gateway.aws.url, "AC1", TOKEN, "+4915199999999")
    fates = {"delivered": "+4915100000401", "softbounce": "+4915100000402", "silent": "+4915100000403"}
    gateway.aws.script({number: fate for fate, number in fates.items()})
    clock, messages, sender = SetClock(datetime.now(UTC)), Messages(), GatewaySms(uncalled)
    for fate, number in fates.items():
        sent = sender.send(f"q-{fate}", number, "x", exercise=False)
        assert sent.provider_message_id is not None
        messages.silent.append(Unreported(f"q-{fate}", sent.provider_message_id, clock.at, clock.at + HOUR))
    messages.silent.append(Unreported("q-unknown", "SM404", clock.at, clock.at + HOUR))
    decided = [one.message_id for one in messages.silent[:2]]
    wait_for("the sandbox decides", lambda: all(_status_of(gateway, each) != "sent" for each in decided), 20)
    statuses = GatewayStatuses(uncalled, messages, clock, every_seconds=3600)
    statuses.ask()
    assert statuses.receive(10, 0) == [], "nobody is asked at once: a call comes in by itself"
    clock.at += HOUR / 4
    gateway.aws.control("faults", {"sms-gateway": {"answer": "500", "calls": 1}})
    statuses.ask()
    with pytest.raises(Unreachable, match="HTTP 500"):
        statuses.receive(10, 0)

    clock.at += HOUR / 4
    statuses.ask()
    found = statuses.receive(10, 0)
    assert {(each.attempt_id, each.kind, each.sub_type) for one in found for each in one.receipts} == {
        ("q-delivered", ReceiptKind.DELIVERED, None),
        ("q-softbounce", ReceiptKind.BOUNCED_SOFT, "phone_unreachable"),
        ("q-silent", ReceiptKind.SENT, None),
    }
    assert statuses.receive(10, 0) == found, "offered until it is settled"
    # the id is that of a call: both together are one receipt
    (delivered,) = [each for one in found for each in one.receipts if each.kind is ReceiptKind.DELIVERED]
    assert delivered.provider_event_id == f"{messages.silent[0].message_id}/delivered"
    statuses.settle([each.handle for each in found])
    assert statuses.receive(10, 0) == []
    statuses.ask()
    assert statuses.receive(10, 0) == [], "once at each of four times"
    statuses.close()


def test_one_message_of_which_the_gateway_cannot_say_anything_holds_up_no_other_and_many_are_asked_at_once() -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            broken = "/SMbroken." in self.path
            body = b"{}" if broken else json.dumps({"status": "delivered"}).encode()
            self.send_response(500 if broken else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        account = GatewayAccount(f"http://127.0.0.1:{server.server_port}", "AC1", TOKEN, "+4915199999999")
        clock, messages = SetClock(datetime.now(UTC)), Messages()
        messages.silent = [
            Unreported(f"q-{each}", f"SM{each}", clock.at, clock.at + HOUR) for each in ("broken", *range(700))
        ]
        statuses = GatewayStatuses(account, messages, clock, every_seconds=0.05)
        clock.at += HOUR / 4

        def told() -> int:
            try:
                return len(statuses.receive(1000, 0))
            except Unreachable:
                return 0

        wait_for("all others are told of", lambda: told() == 700, 30)
        statuses.close()
        server.shutdown()


def _status_of(gateway: Gateway, message_id: str) -> object:
    request = urllib.request.Request(f"{gateway.aws.url}/2010-04-01/Accounts/AC1/Messages/{message_id}.json")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"AC1:{TOKEN}".encode()).decode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["status"]


def test_only_https_or_loopback_and_no_secret_in_words() -> None:
    with pytest.raises(BadInput, match="https"):
        GatewayAccount("http://api.example.com", "AC1", TOKEN, "+4915199999999")
    assert TOKEN not in repr(GatewayAccount("https://api.example.com", "AC1", TOKEN, "+4915199999999"))
    for more in ("?token=1", "#rc=5"):
        with pytest.raises(BadInput, match="without"):
            GatewayAccount("https://api.example.com", "AC1", TOKEN, "x", f"https://shop.example.com/sms{more}")
    with pytest.raises(BadInput, match="callback_url"):
        GatewayCallbacks(GatewayAccount("https://api.example.com", "AC1", TOKEN, "x"), "127.0.0.1", 0, SystemClock())
