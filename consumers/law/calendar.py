"""Deadlines as a calendar file that every calendar program reads (RFC 5545). Not for computing them (`obligations`)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

_LINE_OCTETS = 75


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `at` is an instant, or a day that it fills."""

    uid: str
    at: datetime | date
    summary: str
    description: str
    alarm_hours: tuple[int, ...] = ()
    """How long before it to remind."""


def icalendar(entries: Iterable[Entry], now: datetime) -> str:
    """Return `entries` as one VCALENDAR; `now` is when it was made. Lines end in CRLF and are folded at 75 octets."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Tocsin//law calendar//EN", "CALSCALE:GREGORIAN"]
    for entry in entries:
        lines.extend(_event(entry, now))
    lines.append("END:VCALENDAR")
    return "".join(f"{part}\r\n" for line in lines for part in _folded(line))


def _event(entry: Entry, now: datetime) -> Iterator[str]:
    yield "BEGIN:VEVENT"
    yield f"UID:{entry.uid}"
    yield f"DTSTAMP:{_instant(now)}"
    if isinstance(entry.at, datetime):
        yield f"DTSTART:{_instant(entry.at)}"
    else:
        yield f"DTSTART;VALUE=DATE:{entry.at:%Y%m%d}"
    yield f"SUMMARY:{_text(entry.summary)}"
    yield f"DESCRIPTION:{_text(entry.description)}"
    yield "TRANSP:TRANSPARENT"
    for hours in entry.alarm_hours:
        yield "BEGIN:VALARM"
        yield "ACTION:DISPLAY"
        yield f"DESCRIPTION:{_text(entry.summary)}"
        yield f"TRIGGER:-PT{hours}H"
        yield "END:VALARM"
    yield "END:VEVENT"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _text(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\r\n", "\\n"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return text


def _folded(line: str) -> Iterator[str]:
    """Yield `line` in parts of at most 75 octets, never within a character; each part but the first begins with a space."""
    part, limit = "", _LINE_OCTETS
    for character in line:
        if len((part + character).encode()) > limit:
            yield part
            part = " "
        part += character
    yield part
