"""The second e-mail provider against a real SMTP server (aiosmtpd): what each reply means, and what is never repeated."""

import asyncio
import socket
import ssl
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import SetClock
from consumers.adapters.aws import client
from consumers.adapters.ses_account import SesAccount
from consumers.adapters.smtp_email import SmtpEmail, SmtpServer
from consumers.adapters.suppressed_addresses import SuppressedAddresses
from consumers.domain.sending import BulkEmail, SendState
from tests.contract.aws_sandbox import bulk, entry, running
from tests.servers.certificates import certificate_in
from tests.servers.local import free_port

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Inbox:
    """What the server does: replies by the local part (`550@...` is refused with 550), and everything it took."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.connections = 0
        self.hang_up_after_text = False
        self.thinks_seconds = 0.0
        self.relays = True
        self.answers: dict[str, str] = {}
        """What it says instead, to every recipient or to every text."""

    async def handle_EHLO(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return [*responses[:-1], "250-DSN", responses[-1]]

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unverified"):
            return "550 5.7.1 sender not allowed: unverified@shop.example.com"
        envelope.mail_from, envelope.mail_options = address, options
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        word = address.partition("@")[0]
        if not self.relays:
            return "554 5.7.1 Relay access denied"
        if "recipient" in self.answers:
            return self.answers["recipient"]
        if word.isdecimal():
            return f"{word} no such user {address}"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        await asyncio.sleep(self.thinks_seconds)
        if "text" in self.answers:
            return self.answers["text"]
        if b"spam" in envelope.content:
            return "554 5.6.0 content refused"
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.envelopes.append(envelope)
        if self.hang_up_after_text:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "250 2.0.0 taken"


class Dsn(SMTP):
    """aiosmtpd does not know the parameters of RFC 3461; they are allowed and kept."""

    def _getparams(self, params: Sequence[str]) -> dict[str, str | bool] | None:
        kept = [each for each in params if not each.startswith(("ENVID=", "RET=", "NOTIFY="))]
        return super()._getparams(kept)


class Server(Controller):
    """One server of its kind."""

    def factory(self) -> SMTP:
        return Dsn(self.handler, **self.SMTP_kwargs)


@contextmanager
def smtp_running(suppressed: Container[str] = frozenset()) -> Iterator[tuple[Inbox, SmtpEmail]]:
    """A server, and our provider that is connected to it."""
    handler = Inbox()
    server = Server(handler, hostname="127.0.0.1", port=free_port())
    server.start()
    reachable = SmtpServer("127.0.0.1", server.port, "none", timeout_seconds=5)
    sender = SmtpEmail(reachable, SetClock(AT), suppressed=suppressed)
    yield handler, sender
    sender.close()
    server.stop()


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, SmtpEmail]]:
    with smtp_running() as started:
        yield started


def states(results: Any) -> list[tuple[SendState, str | None]]:
    return [(result.state, result.code) for result in results]


def test_each_recipient_gets_a_mail_of_their_own_with_slots_filled(inbox: tuple[Inbox, SmtpEmail]) -> None:
    box, sender = inbox
    results = sender.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("a-2", "bo@x.example.com")))
    assert [(r.state, r.provider_message_id) for r in results] == [
        (SendState.ACCEPTED, "<a-1@shop.example.com>"),
        (SendState.ACCEPTED, "<a-2@shop.example.com>"),
    ]
    assert box.connections == 1
    first = box.mails[0]
    assert (first["From"], first["To"], first["Subject"]) == (
        "Shop <privacy@shop.example.com>",
        "ann@x.example.com",
        "About your data, <Ann & Bo>",
    )
    assert (first["Reply-To"], first["Auto-Submitted"]) == ("dpo@shop.example.com", "auto-generated")
    parts = {part.get_content_type(): part.get_content() for part in first.walk() if not part.is_multipart()}
    assert parts["text/plain"].strip() == "Dear <Ann & Bo>,"
    assert parts["text/html"].strip() == "<p>Dear &lt;Ann &amp; Bo&gt;,</p>"
    assert box.envelopes[0].rcpt_tos == ["ann@x.example.com"]


@pytest.mark.parametrize(
    ("address", "state", "code"),
    [
        ("550@x.example.com", SendState.REJECTED, "SMTP_550"),
        ("553@x.example.com", SendState.REJECTED, "SMTP_553"),
        ("451@x.example.com", SendState.DEFERRED, "SMTP_451"),
        ("421@x.example.com", SendState.THROTTLED, "SMTP_421"),
    ],
)
def test_a_refused_recipient_costs_nobody_else_the_mail(
    inbox: tuple[Inbox, SmtpEmail], address: str, state: SendState, code: str
) -> None:
    box, sender = inbox
    results = sender.send_bulk(bulk(entry("a-1", address), entry("a-2", "bo@x.example.com")))
    assert states(results) == [(state, code), (SendState.ACCEPTED, None)]
    assert [mail["To"] for mail in box.mails] == ["bo@x.example.com"]


def test_a_refused_sender_is_ours_to_mend_and_no_fault_of_the_recipient(inbox: tuple[Inbox, SmtpEmail]) -> None:
    _, sender = inbox
    message = bulk(entry("a-1", "ann@x.example.com"))
    unverified = BulkEmail(
        **{n: getattr(message, n) for n in message.__slots__} | {"from_address": "unverified@shop.example.com"}
    )
    assert states(sender.send_bulk(unverified)) == [(SendState.UNAVAILABLE, "SMTP_550")]


def test_a_server_that_does_not_relay_for_us_is_no_fault_of_the_recipients(inbox: tuple[Inbox, SmtpEmail]) -> None:
    box, sender = inbox
    box.relays = False
    assert states(sender.send_bulk(bulk(*(entry(f"a-{n}", f"p{n}@x.example.com") for n in range(2))))) == [
        (SendState.UNAVAILABLE, "SMTP_554"), (SendState.UNAVAILABLE, "SMTP_554"),
    ]  # fmt: skip
    box.relays = True
    assert states(sender.send_bulk(bulk(entry("a-3", "550@x.example.com")))) == [(SendState.REJECTED, "SMTP_550")]
    assert states(sender.send_bulk(bulk(entry("a-4", "ann@x.example.com")))) == [(SendState.ACCEPTED, None)]
    box.relays = False
    assert states(sender.send_bulk(bulk(entry("a-5", "bo@x.example.com")))) == [(SendState.REJECTED, "SMTP_554")]


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ("550 5.1.1 The email account that you tried to reach does not exist", True),
        ("550 5.1.2 Domain not found", True),
        ("550 5.1.3 Bad address", True),
        ("551 5.1.6 Moved", True),
        ("556 5.1.10 Recipient address has null MX", True),
        ("550 5.2.1 Disabled", True),
        ("550 5.7.17 Mailbox owner has changed", True),
        ("550 No such user here", False),
        ("550 5.0.0 Failed", False),
        ("550 5.1.0 Address rejected", False),
        ("553 5.1.8 Sender's domain not found", False),
        ("552 5.2.2 Mailbox full", False),
        ("550 5.4.1 Access denied", False),
        ("554 5.7.1 Blocked", False),
        ("525 5.7.13 Your account is disabled", False),
        ("450 5.1.1 Try later", False),
    ],
)
@pytest.mark.parametrize("asked", ["recipient", "text"])
def test_that_nobody_is_at_an_address_is_believed_of_a_server_that_has_taken_mail_from_us(
    inbox: tuple[Inbox, SmtpEmail], answer: str, asked: str, *, gone: bool
) -> None:
    box, sender = inbox
    box.answers = {asked: answer}
    if asked == "recipient":
        [stranger] = sender.send_bulk(bulk(entry("a-0", "ann@x.example.com")))
        assert not stranger.gone, "a server that may know nobody at all writes nobody off"
    box.answers = {}
    sender.send_bulk(bulk(entry("a-1", "bo@x.example.com")))
    box.answers = {asked: answer}
    [result] = sender.send_bulk(bulk(entry("a-2", "ann@x.example.com")))
    assert (result.state is SendState.ACCEPTED, result.gone) == (False, gone)


def test_what_ses_suppresses_after_a_bounce_is_not_tried_here_either_and_what_it_does_after_a_complaint_is() -> None:
    with running() as aws:
        ses = client(aws.config, "sesv2", may_repeat=True)
        ses.create_configuration_set(ConfigurationSetName="bare")
        for name, reason in (("dead", "BOUNCE"), ("cross", "COMPLAINT")):
            ses.put_suppressed_destination(EmailAddress=f"{name}@xn--mller-kva.example.com", Reason=reason)
        known = SuppressedAddresses(SesAccount(aws.config, "bare", SetClock(AT)).suppressed)
        assert known.read()
        people = {name: entry(name, f"{name}@xn--mller-kva.example.com") for name in ("Dead", "cross", "other")}
        with smtp_running(known) as (box, sender):
            results = dict(zip(people, sender.send_bulk(bulk(*people.values())), strict=True))
            drill = sender.send_bulk(bulk(people["Dead"], exercise=True))
            assert [each.state for each in drill] == [SendState.ACCEPTED]
            assert {name: (each.state, each.code) for name, each in results.items()} == {
                "Dead": (SendState.REJECTED, "SUPPRESSED"),
                "cross": (SendState.ACCEPTED, None),
                "other": (SendState.ACCEPTED, None),
            }
            assert not results["Dead"].gone, "whoever takes it off the list has it tried again"
            assert len(box.mails) == 3
        aws.control("faults", {"sesv2": "500"})
        assert not known.read()
        assert "dead@xn--mller-kva.example.com" in known, "what was read last holds while SES is silent"
        aws.control("faults", {})
        ses.delete_suppressed_destination(EmailAddress="dead@xn--mller-kva.example.com")
        assert known.read()
        assert "dead@xn--mller-kva.example.com" not in known


def test_a_refused_text_is_a_rejection(inbox: tuple[Inbox, SmtpEmail]) -> None:
    _, sender = inbox
    results = sender.send_bulk(bulk(entry("a-1", "ann@x.example.com", name="spam", name_html="spam")))
    assert states(results) == [(SendState.REJECTED, "SMTP_554")]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("452 4.3.1 Insufficient system storage", SendState.THROTTLED),
        ("454 Throttling failure: Daily message quota exceeded.", SendState.THROTTLED),
        ("432 4.3.2 Too many connections", SendState.THROTTLED),
        ("452 4.2.2 Mailbox full", SendState.DEFERRED),
        ("450 4.7.1 Greylisted", SendState.DEFERRED),
    ],
)
@pytest.mark.parametrize("asked", ["recipient", "text"])
def test_a_server_that_takes_nothing_now_gives_up_nobodys_mail(
    inbox: tuple[Inbox, SmtpEmail], answer: str, state: SendState, asked: str
) -> None:
    box, sender = inbox
    box.answers = {asked: answer}
    assert states(sender.send_bulk(bulk(entry("a-1", "ann@x.example.com")))) == [(state, f"SMTP_{answer[:3]}")]
    box.answers = {}
    assert states(sender.send_bulk(bulk(entry("a-1", "ann@x.example.com")))) == [(SendState.ACCEPTED, None)]


def test_a_connection_that_ends_after_the_text_leaves_it_unknown_and_is_not_repeated(
    inbox: tuple[Inbox, SmtpEmail],
) -> None:
    box, sender = inbox
    box.hang_up_after_text = True
    (result,) = sender.send_bulk(bulk(entry("a-1", "ann@x.example.com")))
    assert (result.state, len(box.mails)) == (SendState.UNKNOWN, 1)
    box.hang_up_after_text = False
    assert states(sender.send_bulk(bulk(entry("a-2", "bo@x.example.com")))) == [(SendState.ACCEPTED, None)]
    assert len(box.mails) == 2


def test_hostile_names_add_no_header_and_no_recipient(inbox: tuple[Inbox, SmtpEmail]) -> None:
    box, sender = inbox
    name = "Ann\r\nBcc: all@x.example.com\r\n\r\n.\r\nMAIL FROM:<x@x.example>"
    results = sender.send_bulk(bulk(entry("a-1", "ann@x.example.com", name=name, name_html="Ann")))
    assert [result.state for result in results] == [SendState.REJECTED]
    assert box.mails == []
    results = sender.send_bulk(bulk(entry("a-2", "ann@x.example.com\r\nRCPT TO:<bo@x.example.com>")))
    assert [result.state for result in results] == [SendState.REJECTED]
    assert box.mails == []


def test_addresses_of_other_scripts(inbox: tuple[Inbox, SmtpEmail]) -> None:
    box, sender = inbox
    results = sender.send_bulk(bulk(entry("a-1", "ann@bücher.example"), entry("a-2", "jörg@x.example.com")))
    assert [result.state for result in results] == [SendState.ACCEPTED] * 2
    assert [envelope.rcpt_tos for envelope in box.envelopes] == [["ann@xn--bcher-kva.example"], ["jörg@x.example.com"]]


def test_a_server_that_is_away_took_nothing() -> None:
    sender = SmtpEmail(SmtpServer("127.0.0.1", free_port(), "none", timeout_seconds=1), SetClock(AT))
    assert states(sender.send_bulk(bulk(entry("a-1", "ann@x.example.com")))) == [
        (SendState.UNAVAILABLE, "ConnectionRefusedError")
    ]


def test_a_server_that_says_nothing_took_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        sender = SmtpEmail(SmtpServer("127.0.0.1", port, "none", timeout_seconds=0.2), SetClock(AT))
        assert states(sender.send_bulk(bulk(entry("a-1", "ann@x.example.com")))) == [
            (SendState.UNAVAILABLE, "SMTPServerDisconnected")
        ]


def test_a_server_that_says_nothing_lets_one_wait_and_not_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = SmtpEmail(SmtpServer("127.0.0.1", silent.getsockname()[1], "none", timeout_seconds=0.5), SetClock(AT))
        results = sender.send_bulk(bulk(*(entry(f"a-{n}", f"p{n}@x.example.com") for n in range(5))))
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert states(results) == [
        (SendState.UNAVAILABLE, "SMTPServerDisconnected"), *[(SendState.UNAVAILABLE, "NOT_TRIED")] * 4,
    ]  # fmt: skip


def test_clear_text_is_for_loopback_only() -> None:
    with pytest.raises(BadInput, match="loopback"):
        SmtpServer("smtp.example.com", 25, "none")
    assert "secret" not in repr(SmtpServer("smtp.example.com", 587, username="u", password="secret"))


class TestEncrypted:
    """STARTTLS with a certificate that is not trusted, and log-in."""

    def test_neither_password_nor_mail_goes_to_a_server_that_cannot_prove_who_it_is(self, tmp_path: Any) -> None:
        handler = Inbox()
        tried: list[str] = []

        def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
            tried.append(mechanism)
            return AuthResult(success=isinstance(data, LoginPassword))

        server = Server(
            handler,
            hostname="127.0.0.1",
            port=free_port(),
            tls_context=_self_signed(tmp_path),
            authenticator=authenticate,
            auth_required=True,
        )
        server.start()
        try:
            stranger = SmtpServer("127.0.0.1", server.port, "starttls", "user", "secret", timeout_seconds=5)
            (result,) = SmtpEmail(stranger, SetClock(AT)).send_bulk(bulk(entry("a-1", "ann@x.example.com")))
            assert (result.state, result.code) == (SendState.UNAVAILABLE, "SSLCertVerificationError")
            assert (tried, handler.mails) == ([], [])
        finally:
            server.stop()


def _self_signed(folder: Path) -> ssl.SSLContext:
    certificate = certificate_in(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context
