"""An exercise's messages, through every provider that there is: whoever they were handed over for, nobody real stands on
the wire. What a provider would send is caught at its last step; nothing leaves this process.
"""

import importlib
import inspect
import pkgutil
import smtplib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import consumers.adapters
from bridge.contracts.errors import Refused
from bridge.runtime.clock import SystemClock
from consumers.adapters.aws import AwsConfig
from consumers.adapters.letter_batches import LetterFolder
from consumers.adapters.ses import SesEmail
from consumers.adapters.sms_gateway import GatewayAccount, GatewaySms
from consumers.adapters.smtp_email import SmtpEmail, SmtpServer
from consumers.adapters.sns_sms import SnsSms
from consumers.adapters.sns_topic import SnsTopic
from consumers.domain.sending import SPECIMEN_ADDRESS, BulkEmail, EmailEntry, Letter, SendState
from consumers.domain.simulators import SES_SIMULATOR_DOMAIN, SIMULATED_PHONE

INCIDENT = "INC-2026-0001"
_LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=12)
ADDRESSES = st.builds(lambda name, host: f"{name}@{host}.example.com", _LETTERS, _LETTERS)
PHONES = st.integers(10**9, 10**10 - 1).map(lambda digits: f"+49{digits}")
DESTINATIONS = {"phone_e164", "topic_arn", "letters"}
"""Arguments that lead to somebody; `send_bulk` has its addresses inside the message."""


class Wire:
    """What would have left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.sent: list[bytes] = []
        self._folder = folder
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
        config = AwsConfig("eu-central-1")  # AWS itself, as under `live`
        self.ses, self.sns, self.topic = SesEmail(config, "tocsin"), SnsSms(config), SnsTopic(config)
        for client, service in ((self.ses._ses, "sesv2"), (self.sns._sns, "sns"), (self.topic._sns, "sns")):
            client.meta.events.register(f"before-send.{service}", self._aws)
        monkeypatch.setattr(smtplib, "SMTP", self._server)
        self.smtp = SmtpEmail(SmtpServer("127.0.0.1", 25, encryption="none"), SystemClock())
        account = GatewayAccount("https://sms.example.com", "AC1", "secret", "+4915100000000")
        self.gateway = GatewaySms(account)
        self.gateway._http = SimpleNamespace(request=self._posted)  # type: ignore[assignment]
        self.letters = LetterFolder(folder)

    def take(self) -> bytes:
        """Return all bytes that would have left since the last time, in files too."""
        files = [path.read_bytes() for path in sorted(self._folder.rglob("*")) if path.is_file()]
        taken, self.sent = b"\n".join([*self.sent, *files]), []
        return taken

    def _aws(self, request: Any, **_: Any) -> AWSResponse:
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        self.sent.append(body)
        entries = body.count(b'"Destination"')
        answer = b'{"BulkEmailEntryResults":[%s]}' % b",".join([b'{"Status":"SUCCESS","MessageId":"m"}'] * entries)
        if b"Action=Publish" in body:
            answer = b"<PublishResponse><PublishResult><MessageId>m</MessageId></PublishResult></PublishResponse>"
        raw = SimpleNamespace(stream=lambda *_: iter((answer,)), read=lambda *_: answer)
        return AWSResponse(request.url, 200, {}, raw)

    def _server(self, *_: Any, **__: Any) -> Any:
        def said(*words: Any) -> tuple[int, bytes]:
            self.sent.append(b" ".join(w if isinstance(w, bytes) else str(w).encode() for w in words))
            return 250, b"ok"

        return SimpleNamespace(
            mail=said, rcpt=said, data=said, has_extn=lambda _: True, ehlo_or_helo_if_needed=lambda: None
        )

    def _posted(self, _method: str, _url: str, *, fields: Any, **_: Any) -> Any:
        self.sent.append(repr(fields).encode())
        return SimpleNamespace(status=201, data=b'{"sid":"m"}')


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield Wire(patch, tmp_path_factory.mktemp("letters"))


def bulk(address: str, *, exercise: bool) -> BulkEmail:
    entries = [EmailEntry("a1", address, {"name": "x", "name_html": "x"})]
    return BulkEmail(
        "s@shop.example.com", None, "Subject", "<p>{{name_html}}</p>", "{{name}}", INCIDENT, entries, exercise
    )


SENDERS: dict[type, Callable[[Wire, str, str, bool], Any]] = {
    SesEmail: lambda wire, address, _, flag: wire.ses.send_bulk(bulk(address, exercise=flag))[0],
    SmtpEmail: lambda wire, address, _, flag: wire.smtp.send_bulk(bulk(address, exercise=flag))[0],
    SnsSms: lambda wire, _, phone, flag: wire.sns.send("a1", phone, "Look at your account page.", exercise=flag),
    GatewaySms: lambda wire, _, phone, flag: wire.gateway.send("a1", phone, "Look.", exercise=flag),
}
"""Those that take a person's address or number."""
OTHERS = {SnsTopic, LetterFolder}


def test_no_provider_is_left_out_of_these_tests() -> None:
    found = set()
    for module in pkgutil.walk_packages(consumers.adapters.__path__, "consumers.adapters."):
        if ".migrations" in module.name:
            continue
        for _, made in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            for name, method in vars(made).items():
                if name == "__init__" or not inspect.isfunction(method):
                    continue
                takes = inspect.signature(method).parameters.keys()
                if made.__module__ == module.name and (name == "send_bulk" or takes & DESTINATIONS):
                    assert name == "send_bulk" or "exercise" in takes, f"{made}.{name} decides without it"
                    found.add(made)
    assert found == SENDERS.keys() | OTHERS


@pytest.mark.parametrize("provider", SENDERS, ids=lambda provider: provider.__name__)
def test_an_exercise_reaches_a_simulator_whoever_it_was_handed_over_for(wire: Wire, provider: type) -> None:
    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ADDRESSES, PHONES)
    def drive(address: str, phone: str) -> None:
        assert SENDERS[provider](wire, address, phone, True).state is SendState.ACCEPTED
        taken = wire.take()
        for real in (address, address.partition("@")[2], phone, phone[1:]):
            assert real.encode() not in taken
        assert SES_SIMULATOR_DOMAIN.encode() in taken or SIMULATED_PHONE[1:].encode() in taken
        SENDERS[provider](wire, address, phone, False)
        taken = wire.take()
        assert address.encode() in taken or phone[1:].encode() in taken, "the wire shows who is really told"

    drive()


def test_an_exercise_is_published_on_no_topic_outside_the_sandbox(wire: Wire) -> None:
    arn = "arn:aws:sns:eu-central-1:123456789012:bank"
    assert wire.topic.publish("n" * 32, arn, "{}", exercise=True).state is SendState.REJECTED
    assert wire.sent == []
    assert wire.topic.publish("n" * 32, arn, "{}", exercise=False).state is SendState.ACCEPTED
    assert b"bank" in wire.take()


def test_an_exercise_puts_no_address_on_paper(wire: Wire) -> None:
    letters = [Letter("a1", 1, b"%PDF", SPECIMEN_ADDRESS), Letter("a2", 1, b"%PDF", ("Zibbet Quorn", "1 Road", "GB"))]
    with pytest.raises(Refused, match="is an exercise"):
        wire.letters.write(INCIDENT, letters, exercise=True)
    assert wire.take() == b""
    wire.letters.write(INCIDENT, letters[:1], exercise=True)
    assert b'"exercise": true' in wire.take()
