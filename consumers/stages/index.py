"""The index stage: keeps the provenance index of its partitions, and answers incidents from it.

Reads `store-changes` and `departed-customers` as one group, co-partitioned, and all of `incidents` by assignment. Every
answer is frozen outside the worker before anybody hears of it. Not for what an answer leads to: planning does that.
"""

import hashlib
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from itertools import islice
from typing import Any, NamedTuple, Protocol

import structlog

from bridge.contracts.envelope import Envelopes, Message, Record, event_id_of, seal_envelope, tombstone
from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import (
    Coverage,
    CustomerAffected,
    CustomerChanged,
    CustomerDeparted,
    EntityRemoved,
    IncidentRevised,
    OrderChanged,
    PartitionResolved,
    ProvenanceRecorded,
    StoreBeat,
    SubjectErased,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.scope import Scope
from bridge.contracts.topics import (
    AFFECTED_CUSTOMERS,
    DEPARTED_CUSTOMERS,
    INCIDENTS,
    RESOLUTIONS,
    STORE_CHANGES,
    Topic,
)
from bridge.runtime.clock import Clock
from bridge.runtime.consume import Lines, Received, Unopened, consume, opened
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.generations import GenerationSwitched
from bridge.runtime.kafka import Positions
from bridge.runtime.settings import Settings
from bridge.runtime.telemetry import Health, counter, gauge, histogram
from bridge.runtime.topic_ids import TopicIds
from consumers.domain.coverage import resumed
from consumers.domain.resolution import Found, Member, Person, affected, member_leaf
from consumers.domain.standing import Published, concern_of
from consumers.domain.untagged import Held, Seen, on_record, on_value
from consumers.evidence.merkle import leaf_hashes, root_over

log = structlog.get_logger()

GROUP = "index"
SOURCE = "/index"
_BATCH = 120_000
"""Messages at a time: a write to each file costs much the same for one record as for thousands."""
_BUSY = 10_000
"""Messages in a batch from which on more are believed to wait."""
_BUSY_SECONDS = 1.5
"""For so long: the broker may be slower than we are for a moment, and to settle a little each time costs more than all else."""
_CAREFUL_SECONDS = 60.0
"""For so long after a record that the database cannot read, each batch becomes durable by itself."""
_MERGE_SECONDS = 5.0
"""How often what came is merged while little comes."""
_UPKEEP_AGAIN_SECONDS = 3.0
"""Of many incidents at once not each brings the next round of upkeep nearer."""
_FINDERS = 2
"""Answers that are found at a time, while the one before them is published: it is for DuckDB to do most of the work."""
_LEAVES_AT_ONCE = 4096
"""A power of two: so many leaves make a whole subtree."""
_AFFECTED_NAMESPACE = uuid.UUID("6f1d2f0a-4f7e-5b43-9a35-8c8f6f4f2a11")
_PROVENANCE_PREFIX = "provenance/"
_ERASED_PREFIX = "erased/"
_UNTAGGED_PREFIX = "untagged/"
_WATCH_PREFIX = "watch/"
_SOURCES = (STORE_CHANGES, DEPARTED_CUSTOMERS)

APPLIED = counter(
    "tocsin_index_changes_total",
    "changes of the store that the index holds",
    question="does the index follow the store?",
)
PARTITIONS = gauge(
    "tocsin_index_partitions_count", "partitions that this worker owns", question="does every partition have an owner?"
)
PENDING = gauge(
    "tocsin_index_pending_resolutions_count",
    "owned partitions that have not yet answered an open incident",
    question="does a resolution hang, and where?",
)
RESOLUTION = histogram(
    "tocsin_index_resolution_seconds",
    "from the start of a partition's evaluation to its published record, exercises left out",
    question="how fast are the affected known?",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


VISIBLE = gauge(
    "tocsin_index_visible_seconds",
    "from the relay's last heartbeat written in the store to it being visible here; the slowest of this worker's partitions",
    question="how long does a change in the store take until it counts?",
)
DELAY = histogram(
    "tocsin_index_delay_seconds",
    "from a heartbeat written in the store to it being visible in a partition of the index",
    question="how fast do changes in the store count, and how often slowly?",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
HEARTBEAT_AGE = gauge(
    "tocsin_index_heartbeat_age_seconds",
    "since the newest heartbeat that this worker's index holds was written in the store, of the partition that is furthest"
    " behind; it grows while nothing comes, 0 without partitions",
    question="does the index know what happened in the store just now?",
)


class PartitionFile(Protocol):
    """One partition's part of the index, held by this process alone."""

    def positions(self) -> dict[str, int]: ...
    def transaction(self) -> AbstractContextManager[None]: ...
    def batch(self) -> AbstractContextManager[None]: ...
    def is_open(self) -> bool: ...
    def is_due(self) -> bool: ...
    def room(self) -> int: ...
    def settle(self) -> None: ...
    def persons(self, roots: Iterable[str]) -> dict[str, Person]: ...
    def records(self, record_ids: Iterable[str]) -> list[ProvenanceRecorded]: ...
    def put_persons(
        self, persons: Sequence[CustomerChanged | OrderChanged], seen_at: Mapping[str, datetime] | None = None
    ) -> None: ...
    def drop_persons(self, roots: Sequence[str]) -> None: ...
    def put_departed(self, departed: Sequence[CustomerDeparted]) -> None: ...
    def drop_departed(self, roots: Sequence[str]) -> None: ...
    def expired(self, now: datetime) -> list[str]: ...
    def append(self, offsets: Sequence[int], lines: Sequence[bytes]) -> list[int]: ...
    def roots_since(self, offset: int) -> list[str]: ...
    def put_records(self, records: Sequence[tuple[int, ProvenanceRecorded]]) -> None: ...
    def keep_records(self, records: Sequence[ProvenanceRecorded]) -> None: ...
    def mark_deleted(self, deleted: Mapping[str, tuple[int, datetime]]) -> list[str]: ...
    def merge(self, *, least: int | None = None, at: datetime | None = None) -> bool: ...
    def take_kept_contents(self) -> list[ProvenanceRecorded]: ...
    def last_seen(self, roots: Iterable[str]) -> dict[str, datetime]: ...
    def held(self, roots: Iterable[str]) -> dict[tuple[str, str], Held]: ...
    def newest_records(self, roots: Iterable[str]) -> dict[tuple[str, str], datetime]: ...
    def has_open_marks(self) -> bool: ...
    def open_marks(self, roots: Iterable[str]) -> dict[tuple[str, str], UntaggedWrite]: ...
    def put_held(self, held: Mapping[tuple[str, str], Held | None]) -> None: ...
    def put_marks(self, marks: Sequence[UntaggedWrite]) -> None: ...
    def drop_marks(self, keys: Sequence[tuple[str, str, datetime]]) -> None: ...
    def last_beat(self) -> datetime | None: ...
    def watched_attributes(self) -> set[str]: ...
    def put_watch(self, started: Sequence[WatchStarted], *, kept: bool) -> None: ...
    def unkept_watch(self) -> list[WatchStarted]: ...
    def forget(self, before: datetime) -> tuple[list[tuple[str, str]], list[UntaggedWrite]]: ...
    def put_erased(self, erased: Mapping[str, datetime]) -> None: ...
    def drop_erased(self, roots: Sequence[str]) -> None: ...
    def erased_before(self, before: datetime) -> list[str]: ...
    def forget_erased(self) -> list[tuple[str, str]]: ...
    def set_positions(self, positions: Mapping[str, int]) -> None: ...
    def note_head(self, at: datetime) -> None: ...
    def note_beat(self, written_at: datetime, visible_at: datetime) -> None: ...
    def answer(self, scope: Scope, roots: Iterable[str] | None = None) -> list[Found]: ...
    def coverage(self, scope: Scope) -> tuple[Coverage, ...]: ...
    def is_resolved(self, incident_id: str, revision: int) -> bool: ...
    def people_count(self) -> int: ...
    def members(self, incident_id: str, revision: int, roots: Iterable[str]) -> dict[str, Published]: ...
    def add_members(self, incident_id: str, revision: int, published: Mapping[str, Published]) -> None: ...
    def find(self, scope: Scope) -> Iterable[Member]: ...
    def freeze(self, header: Mapping[str, Any]) -> bytes: ...
    def thaw(self, content: bytes) -> tuple[dict[str, Any], Iterable[Member]]: ...
    def events(self) -> Iterable[Sequence[tuple[str, str]]]: ...
    def mark_resolved(self, incident_id: str, revision: int) -> None: ...


class Index(Protocol):
    """The files of this worker."""

    def open(
        self,
        partition: int,
        *,
        topic: str,
        cluster: str,
        partition_count: int,
        bounds: Mapping[str, tuple[int, int]],
        now: datetime,
        topic_ids: Mapping[str, str] | None = None,
    ) -> PartitionFile: ...
    def close(self, partition: int | None = None) -> None: ...
    def rebuild_asked(self, partition: int) -> bool: ...
    def is_rebuilding(self, partition: int) -> bool: ...
    def switch(self, partition: int) -> PartitionFile: ...


class ArtefactStore(Protocol):
    """Durable storage outside this worker."""

    def put_once(self, key: str, content: bytes) -> str:
        """Store `content` under `key` unless it is taken; return the SHA-256 of what the key names."""
        ...

    def find(self, key: str) -> str | None: ...
    def get(self, sha256: str) -> bytes: ...


class Incidents(Protocol):
    """The topic of incidents, read from its start by this worker alone."""

    def read_to_end(self, partition_count: int, stop: threading.Event) -> list[IncidentRevised]: ...
    def poll(self) -> list[IncidentRevised]: ...
    def begin_anew(self) -> None: ...


class Heads(Protocol):
    """How far the topics reach."""

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """Return the first and the next offset (low and high watermark)."""
        ...

    def nothing_between(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        """Return whether no readable message lies in [position, upto): transaction markers take offsets too."""
        ...

    def messages(self, topic: Topic, partition: int, offsets: Collection[int]) -> list[Any]:
        """Return the messages at `offsets` as the client gives them; what compaction removed meanwhile is left out."""
        ...


class Outgoing(Protocol):
    """Where events are published."""

    def partition_count(self, topic: Topic) -> int: ...
    def send(self, topic: Topic, message: Message) -> None: ...
    def send_records(self, topic: Topic, records: Iterable[Record], *, partition: int | None = None) -> None:
        """Send many; `partition` says where all their roots lie, if that is known."""
        ...

    def send_raw(
        self, topic: Topic, partition: int, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Send to a partition of one's own choice: what is about the partition, not about a root."""
        ...

    def flush(self, timeout_seconds: float = 30.0) -> None: ...


class ReadApi(Protocol):
    """The owner's read API."""

    def start(self, partition_count: int) -> None: ...
    def announce(self, partitions: Sequence[int]) -> None: ...
    def stop(self) -> None: ...


class _ReadAgain(Exception):
    """Batches that were not durable yet are undone: leave the group and join it again, which reads from the last that is."""


class _RebuildAsked(Exception):
    """Somebody asked for a rebuild: leave the group and join it again, which opens the files anew."""


class _Due(NamedTuple):
    """A revision that a partition may answer now."""

    partition: int
    file: PartitionFile
    incident: IncidentRevised
    scope: Scope


class _Answer(NamedTuple):
    """What a partition answers: frozen, and kept by its file to be published."""

    resolved: PartitionResolved
    just_found: bool
    started: float


@dataclass(slots=True)
class Changes:
    """A batch folded to its outcome: for each key what holds after its last message."""

    persons: dict[str, CustomerChanged | OrderChanged] = field(default_factory=dict)
    seen_at: dict[str, datetime] = field(default_factory=dict)
    """When the states in `persons` were published, by root."""
    marks: dict[str, UntaggedWrite | None] = field(default_factory=dict)
    """Untagged writes, by key; None: taken back."""
    leaving: dict[str, tuple[datetime, CustomerChanged | OrderChanged | None]] = field(default_factory=dict)
    """Removed roots: when, and the state earlier in the same batch."""
    records: list[tuple[int, ProvenanceRecorded]] = field(default_factory=list)
    """In their order, each with its offset."""
    deleted: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """Tombstones of records: offset and instant of the last, by record id."""
    departed: dict[str, CustomerDeparted] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    erased: dict[str, datetime | None] = field(default_factory=dict)
    """Who was erased, and when; None: it need not be remembered any more."""
    kept: dict[str, ProvenanceRecorded] = field(default_factory=dict)
    beats: list[datetime] = field(default_factory=list)
    """When the heartbeats were written in the store, in their order."""
    watched: list[WatchStarted] = field(default_factory=list)
    misplaced: list[Received] = field(default_factory=list)
    """Events that this topic never carries."""

    def touched(self) -> set[str]:
        """Return the roots that may newly fall under a scope, beside those of records."""
        return {*self.persons, *(each.root for each in self.kept.values()), *self.leaving}


def fold(batch: Iterable[Received]) -> Changes:
    """Return what a batch of one partition amounts to."""
    changes = Changes()
    for message in batch:
        event = message.event
        if message.topic == DEPARTED_CUSTOMERS.name:
            _fold_departed(changes, message)
        elif isinstance(event, CustomerChanged | OrderChanged):
            changes.persons[event.root] = event
            changes.seen_at[event.root] = _occurred_at(message)
            changes.leaving.pop(event.root, None)
        elif isinstance(event, ProvenanceRecorded):
            changes.records.append((message.offset, event))
        elif isinstance(event, EntityRemoved) and event.key.startswith(_PROVENANCE_PREFIX):
            record_id = event.key.removeprefix(_PROVENANCE_PREFIX)
            changes.deleted[record_id] = (message.offset, _occurred_at(message))
        elif isinstance(event, EntityRemoved):
            changes.leaving[event.root] = (_occurred_at(message), changes.persons.pop(event.root, None))
        elif isinstance(event, StoreBeat):
            changes.beats.append(event.beat_at)
        else:
            changes.misplaced.append(message)
    return changes


def _fold_departed(changes: Changes, message: Received) -> None:
    event = message.event
    if isinstance(event, CustomerDeparted):
        changes.departed[event.root] = event
        changes.expired.discard(event.root)
    elif isinstance(event, SubjectErased):
        changes.erased[event.root] = event.erased_at
    elif isinstance(event, EntityRemoved) and event.key.startswith(_ERASED_PREFIX):
        changes.erased[event.key.removeprefix(_ERASED_PREFIX)] = None
    elif isinstance(event, ProvenanceRecorded):
        changes.kept[event.record_id] = event
    elif isinstance(event, UntaggedWrite):
        changes.marks[mark_key(event)] = event
    elif isinstance(event, WatchStarted):
        changes.watched.append(event)
    elif isinstance(event, EntityRemoved) and event.key.startswith(_UNTAGGED_PREFIX):
        changes.marks[event.key] = None
    elif isinstance(event, EntityRemoved):
        if not event.key.startswith(_PROVENANCE_PREFIX):
            changes.departed.pop(event.root, None)
            changes.expired.add(event.root)
    else:
        changes.misplaced.append(message)


def _occurred_at(message: Received) -> datetime:
    text = message.headers.get("ce_time", b"").decode(errors="replace")
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(message.timestamp_ms / 1000, UTC)


def mark_key(mark: UntaggedWrite) -> str:
    """Return the key under which an untagged write is kept."""
    return f"{_UNTAGGED_PREFIX}{mark.root}/{mark.attribute}/{round(mark.seen_at.timestamp() * 1000)}"


class IndexStage:
    """Handler of the consume loop: applies batches, resolves incidents, and holds open incidents against every change."""

    def __init__(
        self,
        settings: Settings,
        *,
        index: Index,
        artefacts: ArtefactStore,
        incidents: Incidents,
        heads: Heads,
        outgoing: Outgoing,
        api: ReadApi,
        dead_letters: DeadLetters,
        clock: Clock,
        cluster: str,
        health: Health,
        upkeep_seconds: float = 30.0,
        read_as: Callable[[str], str] | None = None,
        rules_sha256: Callable[[], str | None] = lambda: None,
        topic_ids: TopicIds | None = None,
    ) -> None:
        """`topic_ids`: of all three topics that a worker reads."""
        self._topic_ids = topic_ids
        self._incidents_id: str | None = None
        self._settings = settings
        self._read_as = read_as or (lambda name: settings.kafka.topic_prefix + name)
        self._rules_sha256 = rules_sha256
        self._index = index
        self._artefacts = artefacts
        self._incidents = incidents
        self._heads = heads
        self._outgoing = outgoing
        self._api = api
        self._dead_letters = dead_letters
        self._health = health
        self._clock = clock
        self._cluster = cluster
        self._upkeep_seconds = upkeep_seconds
        self._files: dict[int, PartitionFile] = {}
        self._newest: dict[str, IncidentRevised] = {}
        self._targets: dict[tuple[str, int, int], dict[str, int]] = {}
        self._stood_at: dict[int, dict[str, int]] = {}
        self._empty: dict[tuple[str, int], tuple[int, int]] = {}
        self._ends: dict[int, tuple[datetime, dict[str, int]]] = {}
        """How far the topics reached when that was last asked, by partition: what is read up to there was all at that time."""
        self._upkeep_due = self._kept_up_at = 0.0
        self._visible_seconds: dict[int, float] = {}
        self._last_beats: dict[int, datetime] = {}
        self._partition_count = 0
        self._busy_until = 0.0
        self._careful_until = 0.0
        self._merge_due = 0.0
        self._unopened = Unopened(STORE_CHANGES, _PROVENANCE_PREFIX)
        self._finders = ThreadPoolExecutor(_FINDERS, thread_name_prefix="find")

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises what makes going on unsafe; a restart reads the last batch again."""
        # Asked at each scrape: it goes on growing while this stage is stuck.
        HEARTBEAT_AGE.set_function(self._heartbeat_age)
        try:
            self.prepare(stop)
            while not stop.is_set():
                try:
                    consume(
                        self._settings.kafka,
                        GROUP,
                        _SOURCES,
                        self,
                        stop=stop,
                        dead_letters=self._dead_letters,
                        health=self._health,
                        batch_size=_BATCH,
                        unopened=self._unopened,
                        topic_ids=self._topic_ids,
                    )
                except _ReadAgain as reason:
                    log.warning("reading again from what is durable", reason=str(reason))
                    self._files.clear()
                    self._index.close()
                except _RebuildAsked:
                    log.info("left the group to rebuild as asked")
                    self._files.clear()
                    self._index.close()
                except GenerationSwitched as switched:
                    # The files are of other partitions: they are built anew from the new generation, which is whole.
                    log.warning("the index is built from another generation", reason=str(switched))
                    self._files.clear()
                    self._index.close()
                    self._api.stop()
                    self.prepare(stop)
        finally:
            self._api.stop()
            self._finders.shutdown()
            self._index.close()

    def prepare(self, stop: threading.Event) -> None:
        """Learn all open incidents before anything is served. Raises Refused if the two sources are not co-partitioned."""
        counts = {topic.name: self._outgoing.partition_count(topic) for topic in _SOURCES}
        if len(set(counts.values())) != 1:
            raise Refused(
                f"{counts}: these topics need the same number of partitions, or departed customers end up with a worker "
                "that does not hold their records; create a new generation with equal counts"
            )
        for topic in (AFFECTED_CUSTOMERS, RESOLUTIONS):
            self._outgoing.partition_count(topic)
        self._partition_count = counts[STORE_CHANGES.name]
        self._health.missing("incidents", "reading all incidents")
        for incident in self._incidents.read_to_end(self._outgoing.partition_count(INCIDENTS), stop):
            self._take(incident)
        self._health.ready("incidents")
        self._api.start(self._partition_count)
        self._health.ready()

    # The consume loop's calls

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        ids: Mapping[str, str] = {} if self._topic_ids is None else self._topic_ids
        incidents_id = ids.get(INCIDENTS.name)
        if incidents_id != self._incidents_id and self._incidents_id is not None:
            self._incidents.begin_anew()
        self._incidents_id = incidents_id
        if {number for _, number in partitions} - set(range(self._partition_count)):
            raise Refused(
                f"{STORE_CHANGES.name} has more than the {self._partition_count} partitions that it had when this worker began, "
                "and answers are counted by that number; starting anew"
            )
        positions: dict[tuple[str, int], int] = {}
        for partition in sorted({number for topic, number in partitions if topic == STORE_CHANGES.name}):
            file = self._index.open(
                partition,
                topic=self._read_as(STORE_CHANGES.name),
                cluster=self._cluster,
                partition_count=self._partition_count,
                bounds={topic.name: self._heads.bounds(topic, partition) for topic in _SOURCES},
                now=self._clock.now(),
                topic_ids={topic.name: ids[topic.name] for topic in _SOURCES if topic.name in ids},
            )
            self._files[partition] = file
            for each in _SOURCES:
                # it may be another topic: where that one held nothing, this one may hold people
                self._empty.pop((each.name, partition), None)
            self._ends.pop(partition, None)
            self._last_beats[partition] = file.last_beat() or self._clock.now()
            positions |= {(topic, partition): offset for topic, offset in file.positions().items()}
            for incident in self._open_incidents():
                self._aim(incident, partition)
        self._owned_changed()
        return positions

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        for partition in {number for topic, number in partitions if topic == STORE_CHANGES.name}:
            if (file := self._files.pop(partition, None)) is not None:
                file.settle()
            self._stood_at.pop(partition, None)
            self._ends.pop(partition, None)
            self._visible_seconds.pop(partition, None)
            self._last_beats.pop(partition, None)
            self._targets = {key: target for key, target in self._targets.items() if key[2] != partition}
            self._index.close(partition)
        self._owned_changed()

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        unopened = self._unopened.take()
        for partition in sorted({number for _, number in positions}):
            file = self._files.get(partition)
            if file is None:
                raise Refused(
                    f"a message of partition {partition} arrived, which this worker does not own; starting anew"
                )
            messages = [message for message in batch if message.partition == partition]
            upto = {topic: offset for (topic, number), offset in positions.items() if number == partition}
            lines = unopened.get(partition, Lines())
            # Nothing but records: their number alone says where what is made durable ends.
            while not messages and len(lines.offsets) > (room := file.room()):
                first, lines = lines.split(room)
                self._take_in(partition, file, [], first, upto | {STORE_CHANGES.name: lines.offsets[0]})
                file.settle()
            self._take_in(partition, file, messages, lines, upto)
        count = len(batch) + sum(len(lines.offsets) for lines in unopened.values())
        if count > _BUSY:
            self._busy_until = time.monotonic() + _BUSY_SECONDS
        APPLIED.inc(count)
        self._settle()

    def _take_in(
        self, partition: int, file: PartitionFile, messages: Sequence[Received], lines: Lines, upto: Mapping[str, int]
    ) -> None:
        """Write what came of one partition, with the next offsets after it (`upto`, by topic)."""
        changes = fold(messages)
        for message in changes.misplaced:
            self._set_aside(message)
        refused = self._append(partition, file, lines)
        with file.batch():
            self._open_refused(partition, file, refused, changes)
            since = min(lines.offsets[:1] + [offset for offset, _ in changes.records[:1]], default=None)
            self._note_watch(partition, file, changes)
            self._apply(file, changes)
            if since is not None and file.has_open_marks():
                self._review_marks(file, file.roots_since(since))
            self._add_late(partition, file, changes.touched(), since)
            self._merge(file)
            # A crash from here to the commit, which may wait for further batches, publishes the same again: departed
            # people and kept records under their keys, late additions under their ids. After it nothing is owed.
            self._outgoing.flush()
            file.set_positions(upto)
            if changes.beats:
                file.note_beat(changes.beats[-1], self._clock.now())
        if changes.beats:
            self._show_delay(partition, changes.beats[-1])

    def _is_busy(self) -> bool:
        return time.monotonic() < self._busy_until

    def _settle(self) -> None:
        """Make what was written durable: at once, or, while much waits, once it is enough to be written at small cost."""
        for file in self._files.values():
            if not self._is_busy() or file.is_due():
                file.settle()

    def _append(self, partition: int, file: PartitionFile, lines: Lines) -> list[int]:
        """Store records as they came; return the offsets of what DuckDB does not take."""
        if time.monotonic() < self._careful_until:
            file.settle()
        alone = not file.is_open()
        try:
            with file.batch():
                return file.append(lines.offsets, lines.chunks)
        except BadInput:
            if alone:
                return lines.offsets
            # Batches before this one are undone with it: they are read again, now each by itself.
            self._careful_until = time.monotonic() + _CAREFUL_SECONDS
            raise _ReadAgain(f"a record of partition {partition} cannot be read by the database") from None

    def _open_refused(self, partition: int, file: PartitionFile, refused: Sequence[int], changes: Changes) -> None:
        """Read again what DuckDB does not take, and open it one by one: taken all the same, or set aside."""
        if refused:
            messages = self._heads.messages(STORE_CHANGES, partition, refused)
            names = {self._read_as(STORE_CHANGES.name): STORE_CHANGES.name}
            for received in opened(messages, names, self._dead_letters):
                if isinstance(received.event, ProvenanceRecorded):
                    changes.records.append((received.offset, received.event))
                else:
                    self._set_aside(received)
            changes.records.sort(key=lambda each: each[0])
        file.put_records(changes.records)

    def tick(self) -> None:
        self._settle()
        for incident in self._incidents.poll():
            self._take(incident)
        due: list[_Due] = []
        behind: list[int] = []
        for incident in self._open_incidents():
            for partition, file in self._files.items():
                target = self._targets.get((incident.incident_id, incident.revision, partition))
                if target is None or incident.scope is None:
                    continue
                if self._reached(partition, file, target):
                    due.append(_Due(partition, file, incident, incident.scope))
                else:
                    behind.append(partition)
        for partition in set(behind):
            self._stood_at[partition] = self._files[partition].positions()
        self._resolve(due)
        if due:
            # What holds an answer holds what was published before the incident: whoever waits to hear whether its names are
            # right need not wait for the next round.
            self._upkeep_due = min(self._upkeep_due, self._kept_up_at + _UPKEEP_AGAIN_SECONDS)
        PENDING.set(len(behind))
        if not self._is_busy() and time.monotonic() >= self._merge_due:
            self._merge_due = time.monotonic() + _MERGE_SECONDS
            for file in self._files.values():
                with file.transaction():
                    self._merge(file, least=1)
                    # A crash before the commit merges, and sends, these again.
                    self._outgoing.flush()
        if time.monotonic() >= self._upkeep_due:
            self._kept_up_at = time.monotonic()
            self._upkeep_due = self._kept_up_at + self._upkeep_seconds
            self._keep_up()

    def _merge(self, file: PartitionFile, *, least: int | None = None) -> None:
        """Merge what came, and have the topic keep what altered records said before; unflushed."""
        file.merge(least=least, at=self._clock.now())
        for record in file.take_kept_contents():
            self._send(DEPARTED_CUSTOMERS, record, key=_PROVENANCE_PREFIX + record.record_id, root=record.root)

    def _show_delay(self, partition: int, written_at: datetime) -> None:
        self._last_beats[partition] = written_at
        delay = self._visible_seconds[partition] = max(0.0, (self._clock.now() - written_at).total_seconds())
        DELAY.observe(delay)
        VISIBLE.set(max(self._visible_seconds.values()))

    def _heartbeat_age(self) -> float:
        oldest = min(tuple(self._last_beats.values()), default=None)
        return 0.0 if oldest is None else max(0.0, (self._clock.now() - oldest).total_seconds())

    def _set_aside(self, message: Received) -> None:
        self._dead_letters.put_raw(
            message.topic,
            message.partition,
            message.offset,
            message.key.encode(),
            message.value,
            list(message.headers.items()),
            f"{message.event.ce_type} does not belong on this topic; find out who writes there",
        )
        self._dead_letters.flush()

    # Applying changes

    def _apply(self, file: PartitionFile, changes: Changes) -> None:
        """Write a batch's outcome; departed people and deleted records go to their topic, unflushed."""
        now = self._clock.now()
        retention = timedelta(days=self._settings.relay.departed_retention_days)
        self._mark_untagged(file, changes)
        if changes.persons:
            file.put_persons(list(changes.persons.values()), changes.seen_at)
        if changes.departed:
            file.put_departed(list(changes.departed.values()))
        if changes.expired:
            file.drop_departed(sorted(changes.expired))
        if changes.erased:
            file.put_erased({root: at for root, at in changes.erased.items() if at is not None})
            file.drop_erased([root for root, at in changes.erased.items() if at is None])
        if changes.leaving:
            held = file.persons(changes.leaving)
            owed = []
            for root, (left_at, earlier) in changes.leaving.items():
                person = earlier or held.get(root)
                if retention and isinstance(person, CustomerChanged | OrderChanged) and left_at + retention > now:
                    owed.append(_departing(person, left_at, left_at + retention))
            file.put_departed(owed)
            for each in owed:
                self._send(DEPARTED_CUSTOMERS, each, key=each.root, root=each.root)
            file.drop_persons(sorted(changes.leaving))
        if changes.kept:
            file.keep_records(list(changes.kept.values()))
        if changes.deleted:
            # Compaction will remove the record and in time its tombstone: this copy is what a rebuild finds.
            for record in file.records(file.mark_deleted(changes.deleted)):
                self._send(DEPARTED_CUSTOMERS, record, key=_PROVENANCE_PREFIX + record.record_id, root=record.root)

    def _note_watch(self, partition: int, file: PartitionFile, changes: Changes) -> None:
        """Note since when the store is watched; silences of the heartbeat go to the departed topic, unflushed."""
        file.put_watch(changes.watched, kept=True)
        silences = resumed(changes.beats, file.last_beat()) if changes.beats else []
        for each in silences:
            self._keep_watch(partition, each)
        file.put_watch(silences, kept=True)
        first: dict[str, datetime] = {}
        for root, person in changes.persons.items():
            if isinstance(person, CustomerChanged):
                at = changes.seen_at[root]
                first |= {name: min(at, first.get(name, at)) for name in person.attribute_hmacs}
        # A rebuild sees the values again, and its topic may still have to say since when: it is asked at the head only.
        new = first.keys() - file.watched_attributes() if first else set()
        file.put_watch([WatchStarted(attribute=name, at=first[name]) for name in sorted(new)], kept=False)

    def _keep_watch(self, partition: int, started: WatchStarted) -> None:
        key = _WATCH_PREFIX + started.attribute
        if started.after is not None:
            key += f"/{round(started.after.timestamp() * 1000)}"
        message = seal_envelope(started, key=key, root=key, source=SOURCE, at=self._clock.now())
        self._outgoing.send_raw(
            DEPARTED_CUSTOMERS, partition, message.key.encode(), message.value, list(message.headers)
        )

    def _mark_untagged(self, file: PartitionFile, changes: Changes) -> None:
        """Hold the values of registered attributes against what was there and against the records; unflushed."""
        if not changes.marks and not changes.persons:
            return
        for key, mark in changes.marks.items():
            if mark is None:
                root, attribute, seen_at = key.removeprefix(_UNTAGGED_PREFIX).rsplit("/", 2)
                file.drop_marks([(root, attribute, datetime.fromtimestamp(int(seen_at) / 1000, UTC))])
        file.put_marks([mark for mark in changes.marks.values() if mark is not None])
        states = {
            root: person.attribute_hmacs if isinstance(person, CustomerChanged) else {}
            for root, person in changes.persons.items()
        }
        held = file.held(states)
        moved = {
            (root, attribute): now.get(attribute)
            for root, now in states.items()
            for attribute in {*now, *(name for known, name in held if known == root)}
            if (root, attribute) not in held or held[root, attribute].hmac != now.get(attribute)
        }
        if not moved:
            return
        marked = file.open_marks({root for root, _ in moved})
        newest = file.newest_records({root for root, _ in moved})
        last_seen = file.last_seen({root for root, _ in moved})
        holds: dict[tuple[str, str], Held | None] = {}
        changed: list[UntaggedWrite] = []
        for (root, attribute), hmac in moved.items():
            at = changes.seen_at[root]
            seen = Seen(hmac, at, last_seen.get(root, at), newest.get((root, attribute)))
            customer_id = changes.persons[root].customer_id
            holds[root, attribute], marks = on_value(
                root, customer_id, attribute, held.get((root, attribute)), seen, marked.get((root, attribute))
            )
            changed.extend(marks)
        file.put_held(holds)
        self._keep_marks(file, changed)

    def _review_marks(self, file: PartitionFile, roots: Sequence[str]) -> None:
        """Take back or end the open marks of `roots` that a record explains after all; unflushed."""
        marks = file.open_marks(roots)
        newest = file.newest_records({root for root, _ in marks}) if marks else {}
        changed: list[UntaggedWrite] = []
        for key, mark in marks.items():
            if key not in newest:
                continue
            after = on_record(mark, newest[key])
            if after is None:
                file.drop_marks([(mark.root, mark.attribute, mark.seen_at)])
                name = mark_key(mark)
                gone = tombstone(key=name, root=mark.root, source=SOURCE, at=self._clock.now())
                self._outgoing.send(DEPARTED_CUSTOMERS, gone)
            elif after != mark:
                changed.append(after)
        self._keep_marks(file, changed)

    def _keep_marks(self, file: PartitionFile, marks: Sequence[UntaggedWrite]) -> None:
        file.put_marks(marks)
        for mark in marks:
            # Compaction will forget the earlier value: this copy is what a rebuild finds.
            self._send(DEPARTED_CUSTOMERS, mark, key=mark_key(mark), root=mark.root)

    def _add_late(self, partition: int, file: PartitionFile, touched: set[str], since: int | None) -> None:
        """Publish, unflushed, those who newly fall under an incident that this partition has answered, and those of whom
        more does: of `touched`, and of those whom a record from offset `since` on is about.
        """
        answered = [
            incident for incident in self._open_incidents() if file.is_resolved(incident.incident_id, incident.revision)
        ]
        if answered and since is not None:
            touched = touched.union(file.roots_since(since))
        for incident in answered if touched else ():
            assert incident.scope is not None
            self._publish_late(partition, file, incident, file.answer(incident.scope, sorted(touched)))

    def _publish_late(
        self, partition: int, file: PartitionFile, incident: IncidentRevised, found: Sequence[Found]
    ) -> None:
        known = file.members(incident.incident_id, incident.revision, [each.root for each in found])
        said: dict[str, Published] = {}
        for each in found:
            concern, before = concern_of(each.why), known.get(each.root)
            # Who was only possible and may have been excluded as such is published again once there is a record, and
            # whoever is there already once more of their data is found. The same facts again are said once.
            now = Published(each.standing, concern) if before is None else before.after(each.standing, concern)
            if now is None:
                continue
            said[each.root] = now
            late = affected(
                each, incident_id=incident.incident_id, revision=incident.revision, partition=partition, late=True
            )
            self._send_affected(late, more=before is not None)
        if said:
            more = len(known.keys() & said.keys())
            log.info(
                "late additions", incident=incident.incident_id, revision=incident.revision,
                people=len(said) - more, more_affected=more,
            )  # fmt: skip
            file.add_members(incident.incident_id, incident.revision, said)

    # Answering incidents

    def _take(self, incident: IncidentRevised) -> None:
        known = self._newest.get(incident.incident_id)
        if known is not None and known.revision > incident.revision:
            return
        self._newest[incident.incident_id] = incident
        self._targets = {key: target for key, target in self._targets.items() if key[0] != incident.incident_id}
        if incident.status == "open":
            for partition in self._files:
                self._aim(incident, partition)

    def _open_incidents(self) -> list[IncidentRevised]:
        return [each for each in self._newest.values() if each.status == "open" and each.scope is not None]

    def _aim(self, incident: IncidentRevised, partition: int) -> None:
        """Fix how far the partition must have read before it may answer: to what was published when it took the incident."""
        if incident.scope is None or self._files[partition].is_resolved(incident.incident_id, incident.revision):
            return
        self._targets[incident.incident_id, incident.revision, partition] = self._ends_of(partition)

    def _ends_of(self, partition: int) -> dict[str, int]:
        """Return how far the topics reach now."""
        return {topic.name: self._heads.bounds(topic, partition)[1] for topic in _SOURCES}

    def _reached(self, partition: int, file: PartitionFile, target: Mapping[str, int]) -> bool:
        positions = file.positions()
        for topic in _SOURCES:
            position, wanted = positions.get(topic.name, 0), target[topic.name]
            if position >= wanted or self._known_empty(topic, partition, position, wanted):
                continue
            # Asking the broker takes a second: only for a reader that stands still, so before markers of transactions.
            stood_at = self._stood_at.get(partition)
            if stood_at is None or stood_at.get(topic.name, 0) != position:
                return False
            if not self._at_head(topic, partition, position, wanted):
                return False
        return True

    def _known_empty(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        start, end = self._empty.get((topic.name, partition), (0, 0))
        return position == start and upto <= end

    def _at_head(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        """Return whether everything readable before `upto` is read, and remember it: a topic uses no offset again."""
        if position >= upto or self._known_empty(topic, partition, position, upto):
            return True
        if self._heads.nothing_between(topic, partition, position, upto):
            self._empty[topic.name, partition] = (position, upto)
            return True
        return False

    def _resolve(self, due: Sequence[_Due]) -> None:
        """Answer what is due, and publish each answer, in this order, while the next ones are being found."""
        waiting, ahead = deque(due), deque[tuple[_Due, Future[_Answer]]]()
        try:
            while waiting or ahead:
                # A file is used by one thread at a time.
                in_use = {each.partition for each, _ in ahead}
                while waiting and len(ahead) <= _FINDERS and waiting[0].partition not in in_use:
                    each = waiting.popleft()
                    ahead.append((each, self._finders.submit(self._answer, each)))
                    in_use.add(each.partition)
                each, answer = ahead[0]
                self._publish(each, answer.result())
                ahead.popleft()
        finally:
            # Whoever closes the files because of an error must not do so under the other threads.
            wait([answer for _, answer in ahead])

    def _answer(self, due: _Due) -> _Answer:
        """Freeze the partition's answer, unless that was done before, and have its file keep it; in whatever thread."""
        started = time.monotonic()
        key, file, incident = self._artefact_key(due), due.file, due.incident
        sha256 = self._artefacts.find(key)
        just_found = False
        if sha256 is None:
            header = self._header(due, started)
            frozen = file.freeze(header)
            # A crash before the next line leaves nothing: the answer is found anew, at the position of that time.
            sha256 = self._artefacts.put_once(key, frozen)
            just_found = sha256 == hashlib.sha256(frozen).hexdigest()
        if not just_found:
            # A crash after that, a lost file or another owner finds the frozen answer and publishes the same people again
            # under the same ids, so that planning never sees two answers of one partition.
            header, members = file.thaw(self._artefacts.get(sha256))
            if _summed_up(members)[2] != header["merkle_root"]:
                raise Refused(f"artefact {key} does not hold what its header says; restore it from the store's backup")
        resolved = PartitionResolved(**header, artefact=key, artefact_sha256=sha256, exercise=incident.exercise)
        return _Answer(resolved, just_found, started)

    def _publish(self, due: _Due, answer: _Answer) -> None:
        """Publish what is frozen, and only then call it answered."""
        partition, file, incident, scope = due
        resolved = answer.resolved
        # Everybody found here lives on this partition of the topic, too, if it has as many.
        same = self._outgoing.partition_count(AFFECTED_CUSTOMERS) == self._partition_count
        envelopes, prefix = Envelopes(SOURCE, self._clock.now()), f"{incident.incident_id}/"
        for some in file.events():
            written = (((prefix + root).encode(), root.encode(), event) for root, event in some)
            ids = [event_id_of(_AFFECTED_NAMESPACE.bytes, f"{prefix}{root}/{incident.revision}") for root, _ in some]
            self._outgoing.send_records(
                AFFECTED_CUSTOMERS,
                envelopes.records(CustomerAffected.ce_type, written, ids),
                partition=partition if same else None,
            )
        # A crash before the flush leaves some people published and no record: planning waits, and all are sent again.
        self._outgoing.flush()
        self._send(
            RESOLUTIONS,
            resolved,
            key=f"{incident.incident_id}/{incident.revision}/{partition}",
            root=incident.incident_id,
        )
        self._outgoing.flush()
        with file.transaction():
            file.mark_resolved(incident.incident_id, incident.revision)
            if not answer.just_found:
                # What changed since that answer (a restart, a rebuilt file, another owner) was never held against it.
                self._publish_late(partition, file, incident, file.answer(scope))
                self._outgoing.flush()
        # A crash before this commit publishes people and record once more, with the same content.
        del self._targets[incident.incident_id, incident.revision, partition]
        if not incident.exercise:
            RESOLUTION.observe(time.monotonic() - answer.started)
        log.info(
            "resolved",
            incident=incident.incident_id,
            revision=incident.revision,
            partition=partition,
            affected=resolved.affected_count,
            possible=resolved.possible_count,
        )

    def _header(self, due: _Due, started: float) -> dict[str, Any]:
        """Find the partition's answer; return what its record says of it, and leave it to be frozen."""
        partition, file, incident, scope = due
        affected_count, possible_count, root = _summed_up(file.find(scope))
        return {
            "incident_id": incident.incident_id,
            "revision": incident.revision,
            "partition": partition,
            "partition_count": self._partition_count,
            "scope_sha256": scope.sha256(),
            "position_topic": STORE_CHANGES.name,
            "position_offset": file.positions().get(STORE_CHANGES.name, 0),
            "departed_offset": file.positions().get(DEPARTED_CUSTOMERS.name, 0),
            "affected_count": affected_count,
            "possible_count": possible_count,
            "people_count": file.people_count(),
            "merkle_root": root,
            "coverage": [each.model_dump(mode="json") for each in file.coverage(scope)],
            "code_version": _code_version(),
            "rules_sha256": self._rules_sha256(),
            "retention": f"records, until {self._settings.index.retention_days} d after their deletion",
            "duration_seconds": round(time.monotonic() - started, 6),
            "resolved_at": self._clock.now().isoformat(),
            "rewriting": None if incident.rewriting is None else incident.rewriting.model_dump(mode="json"),
        }

    def _artefact_key(self, due: _Due) -> str:
        partition, _, incident, asked = due
        # The scope's hash keeps an answer apart from one to another scope under the same number (a case store restored).
        scope = asked.sha256()[:16]
        return f"resolutions/{incident.incident_id}/{incident.revision}/p{partition}-of-{self._partition_count}-{scope}.parquet"

    # Upkeep

    def _keep_up(self) -> None:
        now = self._clock.now()
        # Asked of all before anything else: what comes while others are looked at is not read meanwhile, and whoever is looked at
        # last would never be found at the head.
        busy = self._is_busy()
        ends = {} if busy else {partition: self._ends_of(partition) for partition in self._files}
        for partition, file in list(self._files.items()):
            if self._index.rebuild_asked(partition):
                raise _RebuildAsked
            expired = file.expired(now)
            for root in expired:
                self._outgoing.send(DEPARTED_CUSTOMERS, tombstone(key=root, root=root, source=SOURCE, at=now))
            # A crash before the flush leaves rows that are still expired: their tombstones are sent again.
            self._outgoing.flush()
            # To ask takes a second where markers of transactions lie behind: not while a backlog waits.
            complete_at = None if busy else self._complete_at(partition, file, now, ends[partition])
            with file.transaction():
                file.drop_departed(expired)
                self._forget(file, now)
                if complete_at is not None:
                    file.note_head(complete_at)
                    self._keep_first_watch(partition, file)
            if complete_at is not None and self._index.is_rebuilding(partition):
                self._files[partition] = self._index.switch(partition)

    def _complete_at(self, partition: int, file: PartitionFile, now: datetime, ends: dict[str, int]) -> datetime | None:
        """Return the last time of which it is known that the file holds all that was published before; None: of none.

        `ends` is how far the topics reach now. Where something is written all the time nobody ever stands there, but at what
        was the end when it was asked before.
        """
        positions = file.positions()

        def holds(upto: Mapping[str, int]) -> bool:
            return all(
                self._at_head(topic, partition, positions.get(topic.name, 0), upto[topic.name]) for topic in _SOURCES
            )

        former = self._ends.get(partition)
        if former is not None and not holds(former[1]):
            return None
        self._ends[partition] = (now, ends)
        if holds(ends):
            return now
        return None if former is None else former[0]

    def _keep_first_watch(self, partition: int, file: PartitionFile) -> None:
        """Have the topic know since when attributes are watched, where all that it knows was read and this was not there."""
        unkept = file.unkept_watch()
        for each in unkept:
            self._keep_watch(partition, each)
        # A crash before the commit that follows sends these again.
        self._outgoing.flush()
        file.put_watch(unkept, kept=True)

    def _forget(self, file: PartitionFile, now: datetime) -> None:
        """Forget what the retention no longer covers, and those who were erased, here and among the kept copies."""
        before = now - timedelta(days=self._settings.index.retention_days)
        records, marks = file.forget(before)
        gone = [(_PROVENANCE_PREFIX + record_id, root) for record_id, root in records]
        # The store's own records outlive a customer, and a backfill publishes them again: looked for each time.
        gone += file.forget_erased()
        if forgotten := file.erased_before(before):
            file.drop_erased(forgotten)
            gone += [(_ERASED_PREFIX + root, root) for root in forgotten]
        for key, root in [*gone, *((mark_key(mark), mark.root) for mark in marks)]:
            self._outgoing.send(DEPARTED_CUSTOMERS, tombstone(key=key, root=root, source=SOURCE, at=now))
        # A crash before the commit that follows sends these tombstones again.
        self._outgoing.flush()

    def _owned_changed(self) -> None:
        PARTITIONS.set(len(self._files))
        self._api.announce(sorted(self._files))

    def _send_affected(self, event: CustomerAffected, *, more: bool) -> None:
        name = f"{event.incident_id}/{event.root}/{event.revision}/late/{event.standing}"
        if more and event.why is not None:
            name += "/" + "/".join(event.why.record_ids)
        self._send(
            AFFECTED_CUSTOMERS,
            event,
            key=f"{event.incident_id}/{event.root}",
            root=event.root,
            event_id=str(uuid.uuid5(_AFFECTED_NAMESPACE, name)),
        )

    def _send(
        self,
        topic: Topic,
        event: CustomerAffected | CustomerDeparted | ProvenanceRecorded | PartitionResolved | UntaggedWrite,
        *,
        key: str,
        root: str,
        event_id: str | None = None,
    ) -> None:
        self._outgoing.send(
            topic,
            seal_envelope(event, key=key, root=root, source=SOURCE, at=self._clock.now(), event_id=event_id),
        )


def _summed_up(members: Iterable[Member]) -> tuple[int, int, str]:
    """Return how many members there are, how many of them only possible, and their Merkle root, in hex."""
    counts: Counter[str] = Counter()
    subtrees: list[bytes] = []
    ahead = iter(members)
    while some := list(islice(ahead, _LEAVES_AT_ONCE)):
        counts.update(standing for _, _, standing in some)
        subtrees.append(root_over(leaf_hashes(member_leaf(*member) for member in some)))
    return counts.total(), counts["possible"], root_over(subtrees).hex()


def _departing(person: CustomerChanged | OrderChanged, left_at: datetime, expires_at: datetime) -> CustomerDeparted:
    facts = {name: getattr(person, name) for name in CustomerDeparted.model_fields if hasattr(person, name)}
    return CustomerDeparted(**facts, departed_at=left_at, expires_at=expires_at)


def _code_version() -> str:
    try:
        return metadata.version("tocsin")
    except metadata.PackageNotFoundError:
        return "not installed"
