"""E-mail by SMTP: the second provider, for when the first one is ill.

One message for each recipient over one kept connection; slots are filled here. SMTP itself tells no more than that the next
server took the message. What became of it servers mail to its return path, of their own accord when it fails and also when
it arrives where they know RFC 3461: see `delivery_reports`. Without a report the attempt runs into its time limit, and the
next channel begins. Never repeats.
"""

import re
import smtplib
import ssl
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from email.utils import format_datetime, parseaddr
from typing import Literal

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from consumers.adapters.aws import is_loopback
from consumers.adapters.delivery_reports import ReturnPath
from consumers.domain.notices import fill
from consumers.domain.sending import BulkEmail, EmailEntry, SendResult, SendState, wire_email

_PATIENCE_SECONDS = 2.0
_LOG_IN_FIRST = 530
_ABOUT_NOBODY = (421, 432, 454)
"""Closing (RFC 5321), a queue that takes nothing now (RFC 4954's registry), too fast or too much for our account."""
_FULL = re.compile(rb"4\.(3\.[12]|4\.5|5\.3)\b")
"""RFC 3463: the server's own disk is full, it takes nothing now, it is congested, too many recipients in one conversation."""
_POLICY = re.compile(rb"5\.7\.\d")
"""RFC 3463, 3.8: refused for security or policy, as a server says that does not relay for us."""

_NOBODY_THERE = re.compile(rb"5\.(1\.([1236]|10)|2\.1|7\.1[78])(?!\d)")
"""RFC 3463, 7505 and 7293: no such mailbox, domain or form of address, moved away, takes no mail, disabled, somebody else's by
now. Nothing that may be over the sender, the text, a full mailbox or a policy, nor what a server says without such a code.
"""

Encryption = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where the server is and who we are to it."""

    host: str
    port: int
    encryption: Encryption = "starttls"
    """`none` is for loopback only: addresses and texts never travel in clear."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_seconds: float = 30
    idle_seconds: float = 30
    """A connection that stood still for longer is closed: servers hang up on those."""

    def __post_init__(self) -> None:
        if self.encryption == "none" and not is_loopback(self.host):
            raise BadInput(f"SMTP server {self.host}: without encryption only a loopback address; use starttls or tls")


class SmtpEmail:
    """An EmailProvider (`consumers.domain.sending`)."""

    name = "smtp"
    max_entries = 5
    """Each is a conversation of its own with the server: of more a hold would come too late, and all together would pass for
    one slow answer.
    """
    calls_at_once = 1

    def __init__(
        self,
        server: SmtpServer,
        clock: Clock,
        return_path: ReturnPath | None = None,
        suppressed: Container[str] = frozenset(),
    ) -> None:
        """Without `return_path` bounces go to the sender of the notice, and nobody reads them. `suppressed`: addresses that
        bounced for good as another provider of ours knows, which are not tried.
        """
        self._suppressed = suppressed
        self.server = server
        self._return_path = return_path
        self._clock = clock
        self._connection: smtplib.SMTP | None = None
        self._used_at = 0.0
        self._relays = False
        """Whether it has taken a recipient ever: until then its policy is against us, and not against somebody's address, and it
        may know nobody at all.
        """

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        """Return one result for each entry, in order. A server that has let one wait in vain is not waited for by the others."""
        began = time.monotonic()
        results: list[SendResult] = []
        for entry in message.entries:
            failed = bool(results) and results[-1].state in (SendState.UNKNOWN, SendState.UNAVAILABLE)
            if failed and time.monotonic() - began >= min(_PATIENCE_SECONDS, self.server.timeout_seconds):
                results.append(SendResult(entry.attempt_id, SendState.UNAVAILABLE, code="NOT_TRIED"))
            else:
                results.append(self._send(message, entry))
        return results

    def close(self) -> None:
        """Say good-bye to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.quit()
            except (OSError, smtplib.SMTPException):
                connection.close()

    def _send(self, message: BulkEmail, entry: EmailEntry) -> SendResult:
        if not message.exercise and entry.to_address in self._suppressed:
            # not remembered as gone: whoever takes it off that list has it tried again
            return SendResult(entry.attempt_id, SendState.REJECTED, code="SUPPRESSED")
        try:
            connection = self._connected()
        except (OSError, smtplib.SMTPException) as error:
            self._connection = None
            # refused log-ins and missing encryption included: nothing was taken, and a person cures it
            return SendResult(entry.attempt_id, SendState.UNAVAILABLE, code=_word(error))
        address, needs_utf8 = _on_the_wire(wire_email(message, entry))
        if needs_utf8 and not connection.has_extn("smtputf8"):
            return SendResult(entry.attempt_id, SendState.REJECTED, code="NO_SMTPUTF8")
        try:
            mail = self._mail(message, entry, utf8=needs_utf8)
        except ValueError:  # a line break where a header would end; nothing of it may reach the server
            return SendResult(entry.attempt_id, SendState.REJECTED, code="INVALID_HEADER")
        sender, reference = parseaddr(message.from_address)[1], entry.attempt_id
        if self._return_path is not None:
            sender = self._return_path.address_for(entry.attempt_id)
            reference = self._return_path.reference(entry.attempt_id)
        options = [f"ENVID={reference}", "RET=HDRS"] if connection.has_extn("dsn") else []
        wanted = ["NOTIFY=SUCCESS,FAILURE,DELAY"] if options else []
        options += ["SMTPUTF8", "BODY=8BITMIME"] if needs_utf8 else []
        began_data = False
        try:
            # as smtplib.sendmail does, but step by step: only what follows the text's last byte may be taken unseen
            code, _ = connection.mail(sender, options)
            if code != 250:
                return self._refused(entry, code, SendState.UNAVAILABLE)
            code, said = connection.rcpt(address, wanted)
            if code not in (250, 251):
                ours = not self._relays and (code == _LOG_IN_FIRST or _POLICY.match(said) is not None)
                state = SendState.UNAVAILABLE if ours else SendState.REJECTED
                return self._refused(entry, code, state, _put_off(code, said), said)
            self._relays = True
            began_data = True
            code, said = connection.data(mail.as_bytes())
        except smtplib.SMTPDataError as error:  # refused before the text: 354 did not come
            transient = _put_off(error.smtp_code, error.smtp_error)
            return self._refused(entry, error.smtp_code, SendState.REJECTED, transient, error.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            connection.close()
            self._connection = None
            state = SendState.UNKNOWN if began_data else SendState.UNAVAILABLE
            return SendResult(entry.attempt_id, state, code=_word(error))
        self._used_at = time.monotonic()
        if code != 250:
            return self._refused(entry, code, SendState.REJECTED, _put_off(code, said), said)
        return SendResult(entry.attempt_id, SendState.ACCEPTED, str(mail["Message-ID"]))

    def _refused(
        self,
        entry: EmailEntry,
        code: int,
        if_permanent: SendState,
        if_transient: SendState = SendState.THROTTLED,
        of_recipient: bytes | str = b"",
    ) -> SendResult:
        """Return what a reply code means: 4yz passes by itself, 5yz does not (RFC 5321, 4.2.1). `of_recipient`: the text of a
        reply that is about this one recipient.
        """
        state = if_transient if 400 <= code < 500 else if_permanent
        gone = state is SendState.REJECTED and self._relays and _NOBODY_THERE.match(_ascii(of_recipient)) is not None
        if self._connection is not None:
            try:
                self._connection.rset()
            except (OSError, smtplib.SMTPException):
                self._connection.close()
                self._connection = None
        return SendResult(entry.attempt_id, state, code=f"SMTP_{code}", gone=gone)

    def _connected(self) -> smtplib.SMTP:
        if self._connection is not None and time.monotonic() - self._used_at > self.server.idle_seconds:
            self.close()
        if self._connection is None:
            server = self.server
            trusted = ssl.create_default_context()
            if server.encryption == "tls":
                connection: smtplib.SMTP = smtplib.SMTP_SSL(
                    server.host, server.port, timeout=server.timeout_seconds, context=trusted
                )
            else:
                connection = smtplib.SMTP(server.host, server.port, timeout=server.timeout_seconds)
            try:
                if server.encryption == "starttls":
                    connection.starttls(context=trusted)
                connection.ehlo_or_helo_if_needed()
                if server.username is not None:
                    connection.login(server.username, server.password or "")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._used_at = time.monotonic()
        return self._connection

    def _mail(self, message: BulkEmail, entry: EmailEntry, *, utf8: bool) -> EmailMessage:
        mail = EmailMessage(policy=WIRE.clone(utf8=utf8))
        mail["From"] = message.from_address
        mail["To"] = _on_the_wire(wire_email(message, entry))[0]
        mail["Subject"] = fill(message.subject, entry.slots)
        if message.reply_to:
            mail["Reply-To"] = message.reply_to
        mail["Date"] = format_datetime(self._clock.now())
        mail["Message-ID"] = f"<{entry.attempt_id}@{parseaddr(message.from_address)[1].rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note comes back
        mail.set_content(fill(message.text, entry.slots))
        mail.add_alternative(fill(message.html, entry.slots), subtype="html")
        return mail


def _put_off(code: int, said: bytes | str) -> SendState:
    """Return what a 4yz says of one message: put off for its own sake, or not taken as the server takes none, or none so fast;
    for that nobody's message may be given up.
    """
    return SendState.THROTTLED if code in _ABOUT_NOBODY or _FULL.match(_ascii(said)) else SendState.DEFERRED


def _ascii(said: bytes | str) -> bytes:
    return said.encode("ascii", "replace") if isinstance(said, str) else said


def _on_the_wire(address: str) -> tuple[str, bool]:
    """Return the address with its domain in ASCII, and whether what stands before the @ needs SMTPUTF8 (RFC 6531)."""
    local, _, domain = address.rpartition("@")
    try:
        domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        return address, True
    return f"{local}@{domain}", not local.isascii()


def _word(error: OSError | smtplib.SMTPException) -> str:
    """Return the error's class and its reply code, never the server's text: it may hold the address."""
    code = getattr(error, "smtp_code", None)
    return f"{type(error).__name__}_{code}" if isinstance(code, int) else type(error).__name__
