"""The mailbox: what was sent, as its readers see it (`/_mailbox`) and as an oracle counts it (`/_mailbox.json`).

The page shows strangers' HTML: it is escaped into a sandboxed frame, and a policy forbids it to load or run anything.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from consumers.sandbox.events import Fate, Message
from consumers.sandbox.state import State

PAGE_SIZE = 20

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

OUTCOMES = {
    ("email", Fate.DELIVERED): "Delivered",
    ("email", Fate.BOUNCED): "Bounced: its reader never saw it",
    ("email", Fate.SOFT_BOUNCED): "Bounced, mailbox full: its reader never saw it",
    ("email", Fate.BOUNCED_LATE): "Bounced after a server had taken it: its reader never saw it",
    ("email", Fate.COMPLAINED): "Delivered, and complained about",
    ("email", Fate.DELAYED): "Delivered late",
    ("email", Fate.REJECTED): "Rejected by SES: never sent",
    ("email", Fate.SPAM_FOLDER): "Delivered into the spam folder",
    ("email", Fate.SILENT): "Nobody knows: no report came",
    ("email", Fate.SUPPRESSED): "On the suppression list: never sent",
    ("email", Fate.SUPPRESSED_BY_SES): "On SES's own suppression list: never sent",
    ("email", Fate.AUTO_RESPONSE): "Delivered, and answered automatically",
    ("email", Fate.SUPPRESSED_COMPLAINT): "On the suppression list after a complaint: never sent",
    ("email", Fate.RENDERING_FAILED): "A slot had no value: never sent",
    ("sms", Fate.DELIVERED): "Accepted by the carrier",
    ("sms", Fate.DELAYED): "Accepted by the carrier, reported late",
    ("sms", Fate.BOUNCED_LATE): "Accepted by the carrier",
    ("sms", Fate.AUTO_RESPONSE): "Accepted by the carrier",
    ("sms", Fate.SUPPRESSED_BY_SES): "The carrier could not reach the phone",
    ("sms", Fate.COMPLAINED): "Accepted by the carrier, answered with STOP",
    ("sms", Fate.SPAM_FOLDER): "Accepted by the carrier",
    ("sms", Fate.BOUNCED): "The carrier could not reach the phone",
    ("sms", Fate.SOFT_BOUNCED): "The phone was out of reach",
    ("sms", Fate.REJECTED): "Blocked by the carrier",
    ("sms", Fate.SILENT): "Nobody knows: no report came",
    ("sms", Fate.OPTED_OUT): "The number had opted out: never sent",
    ("sms", Fate.NO_QUOTA): "The spend limit was used up: never sent",
}

REACHED = frozenset({Fate.DELIVERED, Fate.COMPLAINED, Fate.DELAYED, Fate.AUTO_RESPONSE})
"""Fates in which its reader has it before their eyes."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def listing(state: State, number: int, message: Message, *, with_bodies: bool = True) -> dict[str, Any]:
    """Return one message as `/_mailbox.json` shows it. `number` counts from 1 in order of acceptance."""
    text = state.text_of(message)
    return {
        "number": number,
        "message_id": message.id,
        "channel": message.channel,
        "to": message.to,
        "from": message.sender,
        "reply_to": list(message.reply_to),
        "subject": text.subject,
        **({"html": text.html, "text": text.text} if with_bodies else {}),
        "tags": {name: value for name, value in message.tags.items() if name != "token"},
        "attempt_id": message.tags.get("attempt") or _attempt_called_back(message),
        "configuration_set": message.configuration_set,
        "received_at": message.received_at.isoformat(),
        "behaviour": message.behaviour,
        "fate": message.fate,
        "final_event": message.final_event,
        "final_event_at": message.due_at.isoformat(),
    }


def _attempt_called_back(message: Message) -> str | None:
    """Return the attempt that a gateway's report would name."""
    query = parse_qs(urlsplit(message.tags.get("callback", "")).query)
    return query.get("attempt", [None])[0]


def json_chunks(state: State, after: int, *, with_bodies: bool) -> Iterator[bytes]:
    """Yield the listing of all messages past number `after`, then the counts by recipient, as one JSON object."""
    with state.changed:
        messages = state.messages[after:]
        recipients = {
            key: {
                "accepted": state.accepted[key],
                "throttled": state.throttled[key],
                "unanswered": state.unanswered[key],
            }
            for key in sorted(state.accepted.keys() | state.throttled.keys() | state.unanswered.keys())
        }
    yield b'{"messages":['
    for number, message in enumerate(messages, after + 1):
        separator = b"," if number > after + 1 else b""
        yield separator + json.dumps(listing(state, number, message, with_bodies=with_bodies)).encode()
    yield b'],"recipients":' + json.dumps(recipients).encode() + b"}"


def page(state: State, number: int, to: str) -> bytes:
    """Return page `number` (from 1, newest first) of the messages whose recipient contains `to`, as HTML."""
    with state.changed:
        everything: Sequence[Message] = list(state.messages)
    chosen = [message for message in reversed(everything) if to.lower() in message.to.lower()]
    start = (number - 1) * PAGE_SIZE
    rows = []
    for message in chosen[start : start + PAGE_SIZE]:
        text = state.text_of(message)
        rows.append(
            {
                "channel": message.channel,
                "to": message.to,
                "sender": message.sender,
                "subject": text.subject,
                "html": text.html,
                "text": text.text,
                "received_at": message.received_at.isoformat(timespec="seconds"),
                "outcome": OUTCOMES[message.channel, message.fate],
                "reached": message.fate in REACHED,
            }
        )
    emails = sum(1 for message in everything if message.channel == "email")
    return (
        _TEMPLATES.get_template("mailbox.html.j2")
        .render(
            total=len(everything),
            emails=emails,
            sms=len(everything) - emails,
            to=to,
            shown=len(chosen),
            first=start + 1,
            last=start + len(rows),
            page=rows,
            newer=_link(number - 1, to) if number > 1 else "",
            older=_link(number + 1, to) if start + PAGE_SIZE < len(chosen) else "",
        )
        .encode()
    )


def _link(number: int, to: str) -> str:
    return "/_mailbox?" + urlencode({"page": number, **({"to": to} if to else {})})
