"""Messages that can never be processed: kept with their bytes and the reason, at a bounded rate.

Past the bound the consumer waits instead: a bad deploy must not turn a whole topic into dead letters before somebody has looked.
"""

import base64
import hashlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from bridge.contracts.envelope import Spoilt, seal_envelope
from bridge.contracts.errors import Refused
from bridge.contracts.events import DeadLettered
from bridge.contracts.topics import DEAD_LETTERS
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Publisher
from bridge.runtime.telemetry import counter

log = structlog.get_logger()

_MOST_KEPT = 5 * 1024 * 1024
"""Bytes of a message: they are a third more in base64, and what a topic takes at most (`MOST_BYTES`) is also for what is said of
them.
"""
_LONGEST_REASON = 4096
_LAST_MS = 253_402_300_799_000
"""The year 9999: whoever writes a message says what time it is of."""

QUEUE = "queue:"
"""Before the name of a provider's queue, where a letter came from no topic."""

DEAD_LETTERED = counter(
    "tocsin_dead_letters_total",
    "messages that could not be processed and were kept aside",
    question="does somebody send what we cannot read?",
)


class TooManyDeadLetters(Refused):
    """More messages than the bound could not be processed within a minute."""


class DeadLetters:
    """Publishes dead letters for one consumer. `publisher` is asked for only when the first one occurs.

    The bound counts messages, however many events of one are spoilt: a pack must fit into it.
    """

    def __init__(
        self,
        publisher: Callable[[], Publisher],
        consumer: str,
        clock: Clock,
        *,
        limit_per_minute: int = 100,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_publisher = publisher
        self._publisher: Publisher | None = None
        self._consumer = consumer
        self._clock = clock
        self._limit = limit_per_minute
        self._monotonic = monotonic
        self._recent: deque[float] = deque()
        self._last: tuple[str, int, int] | None = None

    def put(self, topic: str, message: Any, reason: str) -> None:
        """Keep a confluent-kafka `message` of logical `topic`; `reason` holds no personal value."""
        self.put_raw(
            topic,
            message.partition(),
            message.offset(),
            message.key(),
            message.value(),
            message.headers() or [],
            reason,
            timestamp_ms=message.timestamp()[1],
        )

    def put_spoilt(self, topic: str, message: Any, spoilt: Spoilt) -> None:
        """Keep one event of a pack as the message that it would be by itself: put back, it travels alone."""
        headers = [(name, content) for name, content in message.headers() or [] if name != "ce_type"]
        headers.append(("ce_type", spoilt.ce_type.encode()))
        self.put_raw(
            topic, message.partition(), message.offset(), message.key(), spoilt.value, headers, spoilt.reason,
            place=spoilt.place, timestamp_ms=message.timestamp()[1],
        )  # fmt: skip

    def put_raw(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Any,
        reason: str,
        *,
        place: int | None = None,
        timestamp_ms: int = 0,
    ) -> None:
        """Keep a message given by its parts; `place` is that of an event in a pack, `timestamp_ms` the time that Kafka says.

        Of one that is too large for a letter its beginning is kept: it must not hold up what is behind it.

        Raises TooManyDeadLetters past the bound, before anything is published.
        """
        if (topic, partition, offset) != self._last:
            if not self._left():
                raise TooManyDeadLetters(
                    f"{self._consumer}: more than {self._limit} messages of {topic} a minute cannot be processed; stopped at "
                    f"partition {partition} offset {offset} with nothing skipped. Last reason: {reason}"
                )
            self._recent.append(self._monotonic())
            self._last = (topic, partition, offset)
        whence = f"{self._consumer}/{topic}/{partition}/{offset}" + ("" if place is None else f"/{place}")
        if not topic.startswith(QUEUE):
            # At the same place of another generation, or of a topic made anew, lies another message. (What came of a queue is
            # sealed anew each time, and has no place there but by its bytes.)
            whence += f"/{_content_of(key, value, headers)}"
        dead_letter_id = str(uuid.uuid5(uuid.NAMESPACE_URL, whence))
        kept_key, kept_headers, kept_value, left_out = _cut(key, list(headers), value)
        event = DeadLettered(
            dead_letter_id=dead_letter_id,
            topic=topic,
            partition=partition,
            offset=offset,
            key=None if kept_key is None else base64.b64encode(kept_key).decode(),
            headers={name: base64.b64encode(content or b"").decode() for name, content in kept_headers},
            value=None if kept_value is None else base64.b64encode(kept_value).decode(),
            consumer=self._consumer,
            error=reason[:_LONGEST_REASON],
            failed_at=self._clock.now(),
            sent_at=datetime.fromtimestamp(timestamp_ms / 1000, UTC) if 0 < timestamp_ms < _LAST_MS else None,
            left_out_bytes=left_out,
        )
        if self._publisher is None:
            self._publisher = self._open_publisher()
        self._publisher.send(
            DEAD_LETTERS,
            seal_envelope(
                event, key=dead_letter_id, root=dead_letter_id, source=f"/{self._consumer}", at=event.failed_at,
                event_id=dead_letter_id,
            ),
        )  # fmt: skip
        DEAD_LETTERED.inc()
        log.error(
            "dead letter", dead_letter=dead_letter_id, topic=topic, partition=partition, offset=offset, reason=reason
        )

    def seconds_until_room(self) -> float:
        """Return how long it takes until the bound lets one more through."""
        return 0.0 if self._left() else 60 - (self._monotonic() - self._recent[0])

    @property
    def most_at_once(self) -> int:
        """How many messages may be processed together, so that they fit into the bound even if each of them is a dead letter."""
        return max(1, self._left())

    def _left(self) -> int:
        now = self._monotonic()
        while self._recent and now - self._recent[0] > 60:
            self._recent.popleft()
        return self._limit - len(self._recent)

    @property
    def are_frequent(self) -> bool:
        """Whether the last minute had so many that the bound may be near."""
        return self._limit - self._left() >= self._limit / 10

    def flush(self) -> None:
        """Wait until every dead letter is stored; only then may the position move past it."""
        if self._publisher is not None:
            self._publisher.flush()


_Header = tuple[str, bytes | None]


def _cut(
    key: bytes | None, headers: Sequence[_Header], value: bytes | None
) -> tuple[bytes | None, Sequence[_Header], bytes | None, int]:
    """Return what a letter keeps of a message, and how many bytes it leaves out."""
    room = _MOST_KEPT
    left_out = 0

    def beginning(part: bytes | None) -> bytes | None:
        nonlocal room, left_out
        kept = part if part is None else part[:room]
        room -= len(kept or b"")
        left_out += len(part or b"") - len(kept or b"")
        return kept

    key = beginning(key)
    kept: list[_Header] = []
    for name, content in headers:
        # as JSON has it at worst
        size = 6 * len(name) + len(content or b"") + 16
        if size <= room:
            kept.append((name, content))
            room -= size
        else:
            left_out += len(name) + len(content or b"")
    return key, kept, beginning(value), left_out


def _content_of(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Return a digest of a message: where its parts end counts, too."""
    digest = hashlib.sha256()
    for part in (key, value, *itertools.chain.from_iterable((name.encode(), content) for name, content in headers)):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return digest.hexdigest()
