"""Receipts of the SMTP provider: delivery status notifications (RFC 3464) that servers mail back, and complaints (RFC 5965).

Each message leaves with a return path of its own, `bounce+<attempt>.<mac>@...`, and the same reference as its envelope id
(RFC 3461). Only whoever was handed that message knows it, so that a report that carries it is believed and any other mail is
left where it lies: anybody may write to that address. What carries it and cannot be read goes to the dead letters.

Mail arrives in a maildir, as an own mail server delivers it, or getmail, mbsync or fetchmail from an IMAP mailbox.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, message_from_string, policy
from email.message import Message
from email.utils import getaddresses, parsedate_to_datetime
from pathlib import Path

import structlog

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import counter
from consumers.domain.contacts import mailbox_provider
from consumers.domain.sending import Receipt, ReceiptDelivery, ReceiptKind

log = structlog.get_logger()

PROVIDER = "smtp"
MAX_BYTES = 1024 * 1024
"""A report is some kilobytes long, even with the whole message in it; more is not read."""
MAX_RECIPIENTS = 16
LENT_FOR = timedelta(seconds=60)
"""A report that was read and not settled by then is offered again."""
_MAC_BYTES = 15
_REFERENCE = re.compile(r"(?P<attempt>[0-9a-f]{32})\.(?P<mac>[a-z2-7]{24})")

ASIDE = counter(
    "tocsin_delivery_report_mails_aside_total",
    "mails to the return path that carry no reference of ours, left in the maildir",
    question="does somebody write to the address for reports, or is its key another one than dispatch's?",
)

ACTIONS: Mapping[str, ReceiptKind] = {
    "delivered": ReceiptKind.DELIVERED,
    "delayed": ReceiptKind.DELAYED,
    # handed on to a server, or to a list, that will not report: it is on its way, and no more is known
    "relayed": ReceiptKind.SENT,
    "expanded": ReceiptKind.SENT,
}
"""Action of RFC 3464, 2.3.3 -> what it says. `failed` is hard or soft by its status (RFC 3463)."""
_OF_THE_ADDRESS = re.compile(
    r"5\.(?!1\.[78]$|2\.[23]$|3\.|4\.[567]$|5\.[1-9]|6\.|7\.(?!1[78]$))\d{1,3}\.\d{1,3}"
).fullmatch
"""Failed for good, and not over who sends, what is sent, a full mailbox, or a mail server's policy or state: those write nobody's
address off. 5.5.0 is a large provider's word for a mailbox that does not exist; 5.7.17 and 18 say that it has another owner
(RFC 7293), while 5.7.13 is about the account of whoever sends (RFC 5248).
"""


@dataclass(frozen=True, slots=True)
class ReturnPath:
    """Our address for reports, and the key that makes its tags."""

    address: str
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        local, at, domain = self.address.rpartition("@")
        # 64 characters before the @ (RFC 5321), of which the tag takes 58: plus, 32 + 1 + 24
        if not (at and domain and re.fullmatch(r"[A-Za-z0-9._-]{1,6}", local)):
            raise BadInput(
                f"delivery.smtp.return_path {self.address!r}: name@domain, the name with at most 6 characters"
            )

    def reference(self, attempt_id: str) -> str:
        """Return the unguessable name of an attempt: its id and a keyed hash of it."""
        mac = hmac.digest(self.key, b"tocsin return path v1\0" + attempt_id.encode(), "sha256")[:_MAC_BYTES]
        return f"{attempt_id}.{base64.b32encode(mac).decode().lower()}"

    def address_for(self, attempt_id: str) -> str:
        """Return the return path of one message."""
        local, _, domain = self.address.rpartition("@")
        return f"{local}+{self.reference(attempt_id)}@{domain}"

    def attempt_in(self, text: str) -> str | None:
        """Return the attempt whose reference stands in `text`, or None. Servers may change capitals."""
        for found in _REFERENCE.finditer(text.lower()):
            if hmac.compare_digest(found[0], self.reference(found["attempt"])):
                return found["attempt"]
        return None


class MaildirReports:
    """A ReceiptSource (`consumers.domain.sending`)."""

    name = "smtp"

    def __init__(self, folder: Path, return_path: ReturnPath, clock: Clock) -> None:
        self._folder = folder
        self._return_path = return_path
        self._clock = clock
        self._lent: dict[str, datetime] = {}
        """Until when each report is not lent out again: one that is not settled comes again, and holds up no newer one."""

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:  # noqa: ARG002  mail is there or not
        """Return up to `limit` new reports, oldest first. Raises Unreachable while there is no such maildir, or if what is in it
        cannot be read; what can be is returned before.
        """
        now = self._clock.now()
        # not longer than that, also when the clock was set back
        self._lent = {name: at for name, at in self._lent.items() if timedelta(0) < at - now <= LENT_FOR}
        deliveries: list[ReceiptDelivery] = []
        unreadable: OSError | None = None
        try:
            names = sorted(path.name for path in (self._folder / "new").iterdir() if path.name not in self._lent)
        except OSError as error:
            raise _unreachable(error) from None
        for name in names:
            if len(deliveries) >= limit:
                break
            try:
                delivery = self._read(name)
            except OSError as error:
                # one that is gone was read by another process of the stage
                if (self._folder / "new" / name).exists():
                    unreadable = error
                continue
            if delivery is not None:
                self._lent[name] = now + LENT_FOR
                deliveries.append(delivery)
        if unreadable is not None and not deliveries:
            raise _unreachable(unreadable)
        return deliveries

    def settle(self, handles: Sequence[str]) -> None:
        """Remove what has been stored durably. A crash before this finds it in `new` again."""
        for name in handles:
            (self._folder / "new" / name).unlink(missing_ok=True)
            self._lent.pop(name, None)

    def _read(self, name: str) -> ReceiptDelivery | None:
        path = self._folder / "new" / name
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        mail = message_from_bytes(raw[:MAX_BYTES], policy=policy.compat32)
        attempt_id = self._return_path.attempt_in(" ".join(_where_a_reference_stands(mail)))
        if attempt_id is None or len(raw) > MAX_BYTES or mail.get_content_type() != "multipart/report":
            # somebody's own mail, or an absence note: for people to look at, as read mail in the same box
            ASIDE.inc()
            path.rename(self._folder / "cur" / f"{name}:2,S")
            return None
        try:
            receipts = receipts_in(mail, attempt_id, hashlib.sha256(raw).hexdigest(), self._clock.now())
        except BadInput as error:
            return ReceiptDelivery(name, (), str(error), raw)
        return ReceiptDelivery(name, receipts, raw=raw)


def _unreachable(error: OSError) -> Unreachable:
    return Unreachable(f"maildir for SMTP reports (delivery.smtp.reports_maildir): {error.strerror}")


def receipts_in(mail: Message, attempt_id: str, raw_sha256: str, now: datetime) -> tuple[Receipt, ...]:
    """Return the receipts in a report about one attempt. Raises BadInput that says what is missing, never a value."""
    machine_readable = _machine_readable(mail)
    kind = None if machine_readable is None else machine_readable.get_content_type()
    if machine_readable is None or kind not in _READERS:
        raise BadInput("SMTP report without a machine-readable part (RFC 3464, RFC 5965)")
    found: dict[str, Receipt] = {}
    for what, word, occurred in _READERS[kind](_blocks(machine_readable), _date(mail.get("Date"), now)):
        # a server may date it as it likes
        at = max(min(occurred, now), now - _LONGEST_AGO)
        # the same report may be mailed twice, and under another Message-ID
        event_id = f"{attempt_id}/{what.value}/{word}" + (f"/{at.isoformat()}" if what in _MAY_RECUR else "")
        found[event_id] = Receipt(
            # which message it is about the reference says; its Message-ID was learned when the server took it
            provider=PROVIDER, provider_event_id=event_id, provider_message_id="", attempt_id=attempt_id,
            kind=what, sub_type=word, occurred_at=at, raw_sha256=raw_sha256, mailbox=_mailbox(machine_readable),
        )  # fmt: skip
    return tuple(found.values())


def _mailbox(machine_readable: Message) -> str:
    """Return who keeps the mailbox that a report is about, by the recipient that it names."""
    for block in _blocks(machine_readable):
        _, _, address = str(block.get("Final-Recipient") or block.get("Original-Recipient") or "").partition(";")
        if "@" in address:
            return mailbox_provider(address.strip())
    return "none"


_LONGEST_AGO = timedelta(days=90)
_MAY_RECUR = frozenset({ReceiptKind.DELAYED})

_What = tuple[ReceiptKind, str, datetime]


def _delivery_status(blocks: Sequence[Message], reported_at: datetime) -> Iterator[_What]:
    recipients = [block for block in blocks if block.get("Action") is not None]
    if not 0 < len(recipients) <= MAX_RECIPIENTS:
        raise BadInput("SMTP report names no recipient's Action, or too many")
    for block in recipients:
        action = _word(block, "Action").lower()
        status = re.match(r"[245]\.\d{1,3}\.\d{1,3}(?!\d)", _word(block, "Status"))
        if status is None:
            raise BadInput("SMTP report: Status is none of RFC 3463's")
        at = _date(block.get("Last-Attempt-Date"), reported_at)
        if action == "failed":
            kind = ReceiptKind.BOUNCED_HARD if _OF_THE_ADDRESS(status[0]) else ReceiptKind.BOUNCED_SOFT
            yield kind, _as_word(status[0]), at
        elif action in ACTIONS:
            yield ACTIONS[action], action if ACTIONS[action] is ReceiptKind.SENT else _as_word(status[0]), at
        else:
            raise BadInput("SMTP report: Action is none of RFC 3464's")


def _as_word(status: str) -> str:
    """Return a status as the evidence log may have it in clear: `status_5_1_1`."""
    return f"status_{status.replace('.', '_')}"


def _feedback(blocks: Sequence[Message], reported_at: datetime) -> Iterator[_What]:
    kinds = [word.lower() for block in blocks if (word := _word(block, "Feedback-Type"))]
    if not kinds or not re.fullmatch(r"[a-z-]{1,32}", kinds[0]):
        raise BadInput("SMTP report: no Feedback-Type")
    if kinds[0] in ("abuse", "fraud", "virus", "other"):
        yield ReceiptKind.COMPLAINED, kinds[0], reported_at


_READERS = {
    "message/delivery-status": _delivery_status,
    "message/global-delivery-status": _delivery_status,  # RFC 6533, about addresses of other scripts
    "message/feedback-report": _feedback,
}


def _machine_readable(mail: Message) -> Message | None:
    """Return the second part of a report (RFC 3462)."""
    parts = mail.get_payload()
    if isinstance(parts, list) and len(parts) > 1 and isinstance(parts[1], Message):
        return parts[1]
    return None


def _blocks(part: Message) -> Sequence[Message]:
    """Return the groups of fields in a machine-readable part; Python parses some content types itself, others not."""
    payload = part.get_payload()
    if isinstance(payload, list):
        blocks = [each for each in payload if isinstance(each, Message)]
        if part.get_content_type() == "message/delivery-status":
            return blocks
        text = "\n".join(f"{name}: {value}" for block in blocks for name, value in block.items())
        rest = [block.get_payload() for block in blocks]
        text += "\n\n" + "\n\n".join(each for each in rest if isinstance(each, str))
    else:
        decoded = part.get_payload(decode=True)
        text = decoded.decode("utf-8", "replace") if isinstance(decoded, bytes) else ""
    return [message_from_string(block) for block in re.split(r"(?:\r?\n){2,}", text.strip())[: MAX_RECIPIENTS + 1]]


def _where_a_reference_stands(mail: Message) -> Iterable[str]:
    """Yield what says which message a report is about: to whom it was sent, and what it says of itself."""
    for name in ("To", "Delivered-To", "X-Original-To", "Envelope-To"):
        yield from (address for _, address in getaddresses([str(value) for value in mail.get_all(name, ())]))
    if (part := _machine_readable(mail)) is not None:
        for block in _blocks(part):
            yield from (_word(block, name) for name in ("Original-Envelope-Id", "Original-Mail-From"))


def _word(block: Message, name: str) -> str:
    return str(block.get(name) or "").partition(";")[0].strip()


def _date(words: object, otherwise: datetime) -> datetime:
    try:
        at = parsedate_to_datetime(str(words))
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError, IndexError):
        return otherwise
