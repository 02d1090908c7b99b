"""The consume loop: assignment, decoding, dead letters, hand-over, and committing as the last step.

A handler keeps its own position where its results are (SQL, the index file, the evidence log) and is asked for it on
assignment; Kafka's committed offset only shows lag. So a crash between result and commit repeats nothing.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Protocol

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException
from confluent_kafka import Message as _KafkaMessage
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope, open_in_parts
from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.events import Event, Pack
from bridge.contracts.topics import TOPICS, Topic
from bridge.runtime.dead_letters import DeadLetters, TooManyDeadLetters
from bridge.runtime.generations import (
    LOOK_SECONDS,
    GenerationSwitched,
    generations_in,
    has_generations,
    pinned,
    read_name,
    unpin,
)
from bridge.runtime.kafka import RIGHTS_HINT, Positions, is_forbidden, new_consumer
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter, gauge
from bridge.runtime.topic_ids import TopicIds

log = structlog.get_logger()

LAG = gauge(
    "tocsin_consumer_lag_count",
    "messages of a topic that this process has yet to read, of the partitions assigned to it; marks of transactions count",
    question="which stage is behind, and on what?",
    labels={"topic": [topic.name for topic in TOPICS]},
)

GAPS = counter(
    "tocsin_topic_gaps_total",
    "times that a topic no longer held the message to be read next: its retention was over, or it was made anew",
    question="did anything go from a topic before it was read?",
    labels={"topic": [topic.name for topic in TOPICS]},
)

_PIECE = 500
"""Messages taken from the client at a time: few enough that their memory is used again while it is at hand."""
_BRACE = frozenset(b"{")
_GATHER_SECONDS = 0.5
"""How long a batch is gathered at most, while whole pieces of it wait."""
_LAG_SECONDS = 2.0
_PROGRESS_SECONDS = 0.5
"""Between two commits, which only show how far a group has come."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message as a handler sees it. `topic` is the logical name; `tombstone` means the key is gone."""

    topic: str
    partition: int
    offset: int
    key: str
    event: Event
    tombstone: bool
    headers: Mapping[str, bytes] = field(repr=False)
    value: bytes | None = field(repr=False)
    timestamp_ms: int = 0


@dataclass(slots=True)
class Lines:
    """Values of messages as they came, each a JSON object on a line of its own, and the offset of each line."""

    offsets: list[int] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list, repr=False)
    """Some lines each, without a break at the end."""

    def split(self, count: int) -> tuple["Lines", "Lines"]:
        """Return the first `count` lines, and the others."""
        first, others = Lines(self.offsets[:count]), Lines(self.offsets[count:])
        for chunk in self.chunks:
            lines = chunk.count(b"\n") + 1
            if lines <= count:
                first.chunks.append(chunk)
            elif count == 0:
                others.chunks.append(chunk)
            else:
                *mine, theirs = chunk.split(b"\n", count)
                first.chunks.append(b"\n".join(mine))
                others.chunks.append(theirs)
            count -= min(lines, count)
        return first, others


class Unopened:
    """Collects what came of one topic under keys that begin alike, for a reader that leaves parsing to its database.

    Whoever passes it to `consume` takes what it holds whenever a batch is handed over, and must read again, and have `opened`
    open, what its database does not take: the key alone says what these are. No message is kept, only its line: memory that
    is used again at once costs half as much as fresh memory for each. Tombstones, and what is no object on one line, are never
    collected.
    """

    def __init__(self, topic: Topic, prefix: str) -> None:
        self._topic = topic.name
        self._prefix = prefix.encode()
        self._lines: dict[int, Lines] = {}

    def collect(self, messages: Sequence[_KafkaMessage], names: Mapping[str, str]) -> list[_KafkaMessage]:
        """Take over the lines of those of `messages` that are such; return the other messages."""
        physical = {name for name, logical in names.items() if logical == self._topic}
        if self._kept(messages, physical):
            return []
        rest: list[_KafkaMessage] = []
        lines: list[_KafkaMessage] = []
        for message in messages:
            (lines if self._lines_of([message], physical) is not None else rest).append(message)
        self._kept(lines, physical)
        return rest

    def _kept(self, messages: Sequence[_KafkaMessage], physical: Collection[str]) -> bool:
        """Take over the lines of `messages`, if all of them are such; return whether they are."""
        partitions: list[Any] = [message.partition() for message in messages]
        taken: list[tuple[int, Sequence[int], bytes]] = []
        for partition in sorted(set(partitions)):
            mine = list(compress(messages, [each == partition for each in partitions]))
            lines = self._lines_of(mine, physical)
            if lines is None:
                return False
            taken.append((partition, _offsets(mine), lines))
        for partition, offsets, chunk in taken:
            held = self._lines.setdefault(partition, Lines())
            held.offsets.extend(offsets)
            held.chunks.append(chunk)
        return True

    def _lines_of(self, messages: Sequence[_KafkaMessage], physical: Collection[str]) -> bytes | None:
        """Return the values of `messages`, which are not none, as lines; None unless all of them are what is collected."""
        keys: list[Any] = [message.key() for message in messages]
        values: list[Any] = [message.value() for message in messages]
        # Asked of all at once, and without a copy of any: one after the other, or by `value[:1]`, it costs several times as much.
        prefix = self._prefix
        are_such = (
            all(keys)
            and all(values)
            and False not in [key.startswith(prefix) for key in keys]
            and {value[0] for value in values} <= _BRACE
            and b"\n" not in b"".join(values)
            and {message.topic() for message in messages} <= set(physical)
            and {message.error() for message in messages} <= {None}
        )
        return b"\n".join(values) if are_such else None

    def positions(self) -> dict[tuple[str, int], int]:
        """Return the next offset after what is held of each partition."""
        return {(self._topic, partition): lines.offsets[-1] + 1 for partition, lines in self._lines.items()}

    def take(self) -> dict[int, Lines]:
        """Return what came since the last call, by partition and in its order."""
        taken, self._lines = self._lines, {}
        return taken

    def drop(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Forget what is held of `partitions`."""
        for topic, partition in partitions:
            if topic == self._topic:
                self._lines.pop(partition, None)


def _offsets(messages: Sequence[_KafkaMessage]) -> Sequence[int]:
    """Return the offsets of messages of one partition, in the order in which the client gives them: the broker's."""
    first: Any = messages[0].offset()
    last: Any = messages[-1].offset()
    if last - first == len(messages) - 1:
        return range(first, last + 1)
    offsets: list[Any] = [message.offset() for message in messages]
    return offsets


class PassedOver(Unopened):
    """Tells messages of one topic that their reader needs nothing of, by the beginning of their keys; keeps none."""

    def __init__(self, topic: Topic, prefix: str) -> None:
        super().__init__(topic, prefix)
        self._passed: dict[tuple[str, int], int] = {}

    def collect(self, messages: Sequence[_KafkaMessage], names: Mapping[str, str]) -> list[_KafkaMessage]:
        """Return those of `messages` that are none of these."""
        rest: list[_KafkaMessage] = []
        passed: list[_KafkaMessage] = []
        for message in messages:
            key = message.key()
            is_one = key is not None and key.startswith(self._prefix) and message.value() is not None
            is_one = is_one and message.error() is None and names[str(message.topic())] == self._topic
            (passed if is_one else rest).append(message)
        self._passed |= _after(passed, names)
        return rest

    def positions(self) -> dict[tuple[str, int], int]:
        """Return the next offset after what was passed over of each partition since the last call."""
        passed, self._passed = self._passed, {}
        return passed

    def drop(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Forget what was passed over of `partitions`."""
        for each in partitions:
            self._passed.pop(each, None)


class Handler(Protocol):
    """What a stage does with its messages. All calls come from one thread."""

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Take over `partitions`; return the next offset of each (absent: from the beginning)."""
        ...

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Give up `partitions`; whatever is in flight for them must be settled or dropped on return."""
        ...

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        """Make the results of `batch` durable together with `positions`, the next offsets after it."""
        ...

    def tick(self) -> None:
        """Do what is due between batches; called at least every 0.7 s, and every 0.2 s while little comes."""
        ...


def consume(
    kafka: Kafka,
    group: str,
    topics: Sequence[Topic],
    handler: Handler,
    *,
    stop: threading.Event,
    dead_letters: DeadLetters,
    health: Health,
    batch_size: int = 1000,
    poll_seconds: float = 0.2,
    records_at_once: int | None = None,
    weight_of: Callable[[Received], float] | None = None,
    unopened: Unopened | None = None,
    topic_ids: TopicIds | None = None,
    whole: bool = False,
) -> None:
    """Read `topics` as a member of `group` until `stop` is set, then leave the group cleanly.

    `batch_size` counts events. Where packs come, `records_at_once` bounds how many records are taken before they are counted,
    so that a batch is not hundreds of times as large; gathering takes up to `poll_seconds` then. `weight_of` says which part of
    a batch a message makes up where some take its handler longer than others: at 1 a batch is full, however few they are.
    What `unopened` collects is not in the batches, but counted in their positions. `topic_ids` is asked before the handler is
    asked for its positions, which it compares; once a topic has another id, all partitions are taken from the handler and given
    to it anew. So they are after a gap where the handler needs all of the topics (`whole`); any other is told from where
    reading goes on.

    An undecodable message becomes a dead letter before its batch is handled, so that no crash can skip it. Raises what
    the handler raises (the supervisor restarts the process, which reads the batch again), TooManyDeadLetters (as soon as the
    bound lets one more through, having left the group meanwhile), and GenerationSwitched once another generation of one of the
    topics is to be read. The first batch, and each while dead letters are frequent, has no more messages than the bound lets
    through: however many cannot be processed, that many a minute are passed.
    """
    names = {read_name(kafka, topic.name): topic.name for topic in topics}
    consumer = new_consumer(kafka, group, auto_offset_reset=on_gap(kafka))
    gathered = _Gathered(unopened, weight_of)
    progress = _Progress(consumer, names, {} if topic_ids is None else topic_ids)
    lag_due = 0.0
    look_due = time.monotonic() + LOOK_SECONDS if any(map(has_generations, topics)) and not kafka.embedded else math.inf
    stopped_seconds = 0.0
    handled = False
    next_offsets: dict[tuple[str, int], int] = {}

    def logical(partitions: Sequence[_TopicPartition]) -> list[tuple[str, int]]:
        return [(names[p.topic], p.partition) for p in partitions]

    def on_assign(_consumer: object, partitions: list[_TopicPartition]) -> None:
        if topic_ids is not None:
            topic_ids.ask()
        positions = handler.assigned(logical(partitions))
        progress.begun(positions)
        for partition in partitions:
            key = (names[partition.topic], partition.partition)
            partition.offset = next_offsets[key] = positions.get(key, OFFSET_BEGINNING)
        consumer.assign(partitions)
        health.ready("assignment")
        log.info("assigned", group=group, partitions=len(partitions))

    def on_revoke(_consumer: object, partitions: list[_TopicPartition]) -> None:
        # What was read of them and not handed over yet is read again, from the position that is stored.
        gathered.drop(logical(partitions))
        progress.show()
        handler.revoked(logical(partitions))

    def begin_anew() -> None:
        # Between two assignments there is nothing to give back: the next one asks.
        if held := consumer.assignment():
            on_revoke(consumer, held)
            on_assign(consumer, held)

    health.missing("assignment", "waiting for partitions")
    consumer.subscribe(list(names), on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
    try:
        while not stop.is_set():
            began = time.monotonic()
            careful = not handled or dead_letters.are_frequent
            most = min(batch_size, dead_letters.most_at_once) if careful else batch_size
            piece = min(most, records_at_once or _PIECE)
            messages = consumer.consume(piece, timeout=poll_seconds)
            while True:
                gathered.add(messages, names, dead_letters)
                # Only for what waits already is a message held up, and not for long.
                if (
                    len(messages) < piece
                    or gathered.count + piece > most
                    or gathered.weight >= 1
                    or time.monotonic() - began >= _GATHER_SECONDS
                ):
                    break
                wait = poll_seconds / 10
                if records_at_once is not None:
                    wait = max(wait, began + poll_seconds - time.monotonic())
                messages = consumer.consume(piece, timeout=wait)
            batch, positions = gathered.take()
            if positions:
                handler.handle(batch, positions)
                progress.reached(positions)
                handled = True
                next_offsets.update(positions)
            gaps = gathered.take_gaps()
            if topic_ids is not None and (topic_ids.ask() if gaps else topic_ids.have_changed()):
                begin_anew()
            elif gaps:
                begun = {
                    (names[gone.topic], gone.partition): after_gap(consumer, gone, names[gone.topic]) for gone in gaps
                }
                next_offsets.update(begun)
                if whole:
                    begin_anew()
                    continue
                # A crash before it tells of the same gap again, as each start would while nothing comes.
                handler.handle([], begun)
                progress.reached(begun)
                # A partition that met a gap is read no more until it is assigned again, and all are assigned together.
                consumer.assign(
                    [
                        _TopicPartition(at.topic, at.partition, next_offsets[names[at.topic], at.partition])
                        for at in consumer.assignment()
                    ]
                )
            # Or the memory would hold this batch while it takes the next.
            del messages, batch
            handler.tick()
            progress.show_if_due()
            if time.monotonic() >= lag_due:
                lag_due = time.monotonic() + _LAG_SECONDS
                _show_lag(consumer, names)
            if time.monotonic() >= look_due:
                look_due = time.monotonic() + LOOK_SECONDS
                _follow_generation(kafka, consumer)
    except TooManyDeadLetters as error:
        # A new process counts anew: this one ends only when the bound lets one more through, or restarts would undo it.
        stopped_seconds = dead_letters.seconds_until_room()
        health.missing("dead letters", str(error))
        log.error("stopped: too many dead letters", reason=str(error), seconds=round(stopped_seconds))
        raise
    finally:
        progress.show()
        consumer.close()
        # What is behind while it waits stays shown.
        stop.wait(stopped_seconds)
        for name in names.values():
            LAG.labels(name).set(0)


def on_gap(kafka: Kafka) -> str:
    """Return what a client does where a partition no longer holds what is to be read next: it tells, for `after_gap`.

    By itself it would begin anew silently. The embedded cluster forgets by design.
    """
    return "earliest" if kafka.embedded else "error"


def after_gap(consumer: Any, gone: _TopicPartition, topic: str) -> int:
    """Return where a partition begins that no longer holds what was to be read next, and say so."""
    try:
        first, end = consumer.get_watermark_offsets(_TopicPartition(gone.topic, gone.partition), timeout=15)
    except KafkaException as error:
        # A new process meets the same gap at the same place.
        raise Unreachable(f"Kafka does not say what {topic} holds: {error.args[0].str()}") from error
    GAPS.labels(topic).inc()
    log.error(
        "messages are gone from a topic before they were read; reading on from the first that is there",
        topic=topic, partition=gone.partition, wanted=gone.offset, first=first, end=end,
    )  # fmt: skip
    return int(first)


def made_anew(topic: str, partition: int, wanted: int) -> None:
    """Say that a topic was deleted and made anew, whose position `wanted` was of the former one."""
    GAPS.labels(topic).inc()
    log.error(
        "a topic was deleted and made anew; reading it from the beginning",
        topic=topic, partition=partition, wanted=wanted,
    )  # fmt: skip


def _show_lag(consumer: Any, names: Mapping[str, str]) -> None:
    """Say how far behind this member is, by what the client knows already: nobody is asked."""
    lag = dict.fromkeys(names.values(), 0)
    for at in consumer.position(consumer.assignment()):
        _, end = consumer.get_watermark_offsets(at, cached=True)
        # Both are below 0 until something was fetched.
        if at.offset >= 0 and end > at.offset:
            lag[names[at.topic]] += end - at.offset
    for name, count in lag.items():
        LAG.labels(name).set(count)


def _follow_generation(kafka: Kafka, consumer: Any) -> None:
    try:
        active = generations_in(consumer.list_topics(timeout=10).topics, kafka.topic_prefix).active
    except KafkaException:
        return
    read = pinned(kafka)
    if active != read:
        unpin(kafka)
        raise GenerationSwitched(f"generation {active} of the store's changes is read now, instead of {read}")


class _Gathered:
    """What was read and is not handed over yet."""

    def __init__(self, unopened: Unopened | None, weight_of: Callable[[Received], float] | None = None) -> None:
        self._unopened = unopened
        self._weight_of = weight_of
        if unopened is not None:
            # An earlier loop may have ended before it handed over what it held.
            unopened.take()
        self._batch: list[Received] = []
        self._positions: dict[tuple[str, int], int] = {}
        self._gaps: list[_TopicPartition] = []
        self.count = 0
        self.weight = 0.0

    def add(self, messages: Sequence[_KafkaMessage], names: Mapping[str, str], dead_letters: DeadLetters) -> None:
        self.count += len(messages)
        rest = messages if self._unopened is None else self._unopened.collect(messages, names)
        if rest:
            received = opened(rest, names, dead_letters, gaps=self._gaps)
            self._batch += received
            self.count += sum(len(each.event.events) - 1 for each in received if isinstance(each.event, Pack))
            self._positions |= _after(rest, names)
            if self._weight_of is not None:
                self.weight += sum(map(self._weight_of, received))

    def take(self) -> tuple[list[Received], dict[tuple[str, int], int]]:
        batch, positions = self._batch, self._positions
        for key, position in self._unopened.positions().items() if self._unopened is not None else ():
            positions[key] = max(position, positions.get(key, 0))
        self._batch, self._positions, self.count, self.weight = [], {}, 0, 0.0
        return batch, positions

    def take_gaps(self) -> list[_TopicPartition]:
        """Return the places that their partitions no longer hold, once what was read before is handed over."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def drop(self, partitions: Sequence[tuple[str, int]]) -> None:
        gone = set(partitions)
        # Whoever gets them meets the same.
        self._gaps = []
        self._batch = [each for each in self._batch if (each.topic, each.partition) not in gone]
        self._positions = {key: position for key, position in self._positions.items() if key not in gone}
        if self._unopened is not None:
            self._unopened.drop(partitions)


def opened(
    messages: Sequence[_KafkaMessage],
    names: Mapping[str, str],
    dead_letters: DeadLetters,
    *,
    gaps: list[_TopicPartition] | None = None,
) -> list[Received]:
    """Return the events in `messages`; `names` gives their declared topics by the names on the cluster. What cannot be
    understood becomes a dead letter, acknowledged on return; of a pack, just those of its events. `gaps` takes the places that
    partitions no longer hold.

    Raises TooManyDeadLetters, and Unreachable for what the broker reports in a message's place.
    """
    batch: list[Received] = []
    dead = 0

    def event_in(message: _KafkaMessage, headers: Mapping[str, bytes]) -> Event:
        nonlocal dead
        try:
            return open_envelope(message.key(), message.value(), headers)
        except BadInput:
            parts = open_in_parts(message.value(), headers)
            if parts is None:
                raise
            for spoilt in parts[1]:
                dead_letters.put_spoilt(names[str(message.topic())], message, spoilt)
                dead += 1
            return parts[0]

    for message in messages:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._AUTO_OFFSET_RESET and gaps is not None:
                gaps.append(
                    _TopicPartition(str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))
                )
            else:
                _raise_unless_passing(error)
            continue
        topic = names[str(message.topic())]
        headers = headers_of(message)
        try:
            event = event_in(message, headers)
            received = Received(
                topic=topic,
                partition=int(message.partition() or 0),
                offset=int(message.offset() or 0),
                key=(message.key() or b"").decode(),
                event=event,
                tombstone=message.value() is None,
                headers=headers,
                value=message.value(),
                timestamp_ms=message.timestamp()[1],
            )
        except (BadInput, UnicodeDecodeError) as fault:
            reason = str(fault) if isinstance(fault, BadInput) else "the key is not UTF-8"
            dead_letters.put(topic, message, reason)
            dead += 1
            continue
        batch.append(received)
    if dead:
        dead_letters.flush()
    return batch


def headers_of(message: _KafkaMessage) -> dict[str, bytes]:
    """Return a message's headers, the last of each name."""
    pairs: Any = message.headers() or ()
    return {name: value.encode() if isinstance(value, str) else value or b"" for name, value in pairs}


def _raise_unless_passing(error: KafkaError) -> None:
    if error.code() in (KafkaError._PARTITION_EOF,) or error.retriable():
        return
    if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
        log.warning("kafka is not reachable; waiting", reason=error.name())
        return
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise Unreachable(f"{error.str()}; run `tocsin topics apply` first")
    raise Unreachable(f"Kafka: {error.str()}" + (f"; {RIGHTS_HINT}" if is_forbidden(error) else ""))


def _after(messages: Sequence[_KafkaMessage], names: Mapping[str, str]) -> dict[tuple[str, int], int]:
    positions: dict[tuple[str, int], int] = {}
    for message in messages:
        if message.error() is None:
            key = (names[str(message.topic())], int(message.partition() or 0))
            positions[key] = int(message.offset() or 0) + 1
    return positions


class _Progress:
    """Commits what was handled, a few times a second at most: what a batch costs the broker, it need not cost twice."""

    def __init__(self, consumer: object, names: Mapping[str, str], topic_ids: Mapping[str, str]) -> None:
        self._consumer = consumer
        self._topic_ids = topic_ids
        self._physical = {logical: name for name, logical in names.items()}
        self._unshown: dict[tuple[str, int], int] = {}
        self._due = 0.0

    def begun(self, positions: Positions) -> None:
        """Show where reading begins, so that Kafka knows of which topic that is before anything comes."""
        if self._topic_ids:
            self._unshown.update(positions)

    def reached(self, positions: Positions) -> None:
        self._unshown.update(positions)
        self.show_if_due()

    def show_if_due(self) -> None:
        if self._unshown and time.monotonic() >= self._due:
            self.show()

    def show(self) -> None:
        if not self._unshown:
            return
        offsets = [
            _TopicPartition(self._physical[topic], partition, offset, metadata=self._topic_ids.get(topic, ""))
            for (topic, partition), offset in self._unshown.items()
        ]
        self._unshown, self._due = {}, time.monotonic() + _PROGRESS_SECONDS
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)  # type: ignore[attr-defined]  # confluent has no stubs
        except KafkaException as error:
            log.warning("could not show progress", reason=error.args[0].name())
