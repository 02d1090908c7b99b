"""The envelope: CloudEvents 1.0 in Kafka binary mode. Attributes are `ce_*` headers, the value is the event's JSON.

A tombstone has no value; its headers still say what it removes (`ce_type` `tocsin.entity.removed.v1`, `ce_root`).
Source: CloudEvents Kafka Protocol Binding 1.0.2, section 3.2.
"""

import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import EVENTS, EntityRemoved, Event, Pack

CONTENT_TYPE = "application/json"


class Message(NamedTuple):
    """An event ready for a topic. `value` None is a tombstone."""

    key: str
    root: str
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


Record = tuple[bytes, bytes, str | bytes | None, dict[str, str | bytes | None]]
"""The same for many at once: key and root in UTF-8, value (as text or in UTF-8, as it was written), and headers (as a mapping,
which the client takes fastest).
"""


def seal_envelope(
    event: Event, *, key: str, root: str, source: str, at: datetime, event_id: str | None = None
) -> Message:
    """Wrap `event`. `root` decides the partition; `event_id` is for events whose repeats must collapse."""
    return seal_bytes(
        event.model_dump_json().encode(),
        ce_type=event.ce_type,
        key=key,
        root=root,
        source=source,
        at=at,
        event_id=event_id,
    )


def seal_bytes(
    value: bytes,
    *,
    ce_type: str,
    key: str,
    root: str,
    source: str,
    at: datetime,
    event_id: str | None = None,
) -> Message:
    """Wrap an event already in its JSON form."""
    return Envelopes(source, at).message(ce_type, key, root, value, event_id)


def tombstone(*, key: str, root: str, source: str, at: datetime) -> Message:
    """Return the message that removes `key` from a compacted topic."""
    return Envelopes(source, at).tombstone(key, root)


def event_id_of(namespace: bytes, name: str) -> bytes:
    """Return the UUID of version 5 that `uuid.uuid5` gives `name`, in a third of the time; `namespace` as its 16 bytes."""
    digest = hashlib.sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}".encode()


class Envelopes:
    """Wraps many events of one source and moment: what their headers share is made once, and their ids are numbered."""

    def __init__(self, source: str, at: datetime) -> None:
        self._batch = uuid.uuid4().hex.encode()
        self._numbers = itertools.count()
        self._first = ("ce_specversion", b"1.0")
        self._source = ("ce_source", source.encode())
        self._time = ("ce_time", _written(at))
        self._content = ("content-type", CONTENT_TYPE.encode())
        self._types: dict[str, tuple[str, bytes]] = {}

    def message(self, ce_type: str, key: str, root: str, value: bytes | None, event_id: str | None = None) -> Message:
        """Return `value`, an event already in its JSON form, or the tombstone of `key`, as a message."""
        kind = self._types.get(ce_type)
        if kind is None:
            kind = self._types[ce_type] = ("ce_type", ce_type.encode())
        number = b"%b-%d" % (self._batch, next(self._numbers)) if event_id is None else event_id.encode()
        headers = (
            self._first, ("ce_id", number), self._source, kind, self._time, ("ce_subject", key.encode()),
            ("ce_root", root.encode()), self._content,
        )  # fmt: skip
        return Message(key, root, value, headers)

    def records(
        self, ce_type: str, written: Iterable[tuple[bytes, bytes, str | bytes]], ids: Iterable[bytes] | None = None
    ) -> Iterator[Record]:
        """Yield many events of one type, each given as key, root and JSON; what they share is made once.

        `ids` are theirs in the same order, for events whose repeats must collapse. The headers are one mapping, which holds a
        record's own until the next one is asked for.
        """
        headers: dict[str, str | bytes | None] = {
            "ce_specversion": b"1.0", "ce_id": b"", "ce_source": self._source[1], "ce_type": ce_type.encode(),
            "ce_time": self._time[1], "ce_subject": b"", "ce_root": b"", "content-type": self._content[1],
        }  # fmt: skip
        numbered = map((self._batch + b"-%d").__mod__, self._numbers) if ids is None else ids
        for (key, root, value), event_id in zip(written, numbered, strict=False):
            headers["ce_id"] = event_id
            headers["ce_subject"] = key
            headers["ce_root"] = root
            yield key, root, value, headers

    def of(self, event: Event, key: str, root: str, event_id: str | None = None) -> Message:
        """Return `event` as a message; `event_id` is for events whose repeats must collapse."""
        return self.message(event.ce_type, key, root, event.model_dump_json().encode(), event_id)

    def tombstone(self, key: str, root: str) -> Message:
        """Return the message that removes `key` from a compacted topic."""
        return self.message(EntityRemoved.ce_type, key, root, None)


def _written(at: datetime) -> bytes:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z").encode()


def open_envelope(key: bytes | None, value: bytes | None, headers: Mapping[str, bytes]) -> Event:
    """Return the event in a message.

    Raises BadInput that names the header or field at fault and never its value, which may be personal.
    """
    try:
        ce_type = headers["ce_type"].decode()
    except KeyError:
        raise BadInput(
            "the message has no ce_type header: not written by Tocsin, or by a client without CloudEvents"
        ) from None
    except UnicodeDecodeError:
        raise BadInput("the ce_type header is not UTF-8") from None
    if ce_type not in EVENTS:
        raise BadInput(f"unknown ce_type {ce_type[:100]!r}{nearest(ce_type, EVENTS)}")
    try:
        if ce_type == EntityRemoved.ce_type:
            return EntityRemoved(root=headers.get("ce_root", b"").decode(), key=(key or b"").decode())
        if value is None:
            raise BadInput(f"a {ce_type} message without a value; a tombstone carries ce_type {EntityRemoved.ce_type}")
        return EVENTS[ce_type].model_validate_json(value)
    except ValidationError as error:
        raise BadInput(f"{ce_type}: {fields_at_fault(error)}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{ce_type}: key or root is not UTF-8") from None


class Spoilt(NamedTuple):
    """An event of a pack that cannot be understood: `value` is its JSON, `ce_type` what it would be by itself."""

    place: int
    ce_type: str
    value: bytes
    reason: str


def open_in_parts(value: bytes | None, headers: Mapping[str, bytes]) -> tuple[Pack, Sequence[Spoilt]] | None:
    """Return what `open_envelope` refused as far as it can be understood: a pack of its good events, and the others.

    None for what is no pack of at least one good event: it has to be set aside whole.
    """
    pack = EVENTS.get(headers.get("ce_type", b"").decode(errors="replace"))
    if pack is None or not issubclass(pack, Pack) or value is None:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != {"events"} or not isinstance(found["events"], list):
        return None
    good: list[Event] = []
    spoilt: list[Spoilt] = []
    for place, content in enumerate(found["events"]):
        text = json.dumps(content, separators=(",", ":")).encode()
        try:
            good.append(pack.of.model_validate_json(text))
        except ValidationError as error:
            reason = f"{pack.ce_type}: event {place} of {len(found['events'])}: {fields_at_fault(error)}"
            spoilt.append(Spoilt(place, pack.of.ce_type, text, reason))
    return (pack.model_construct(events=tuple(good)), spoilt) if good else None


def fields_at_fault(error: ValidationError) -> str:
    """Return the places and kinds of a validation error without the values."""
    parts = [
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['type']}"
        for item in error.errors(include_input=False)[:10]
    ]
    return "; ".join(parts)
