"""Handles the consume loop of the index stage: what came is written, what is due is answered, and upkeep is done between."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from bridge.contracts.envelope import tombstone
from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import ProvenanceRecorded
from bridge.contracts.topics import AFFECTED_CUSTOMERS, DEPARTED_CUSTOMERS, INCIDENTS, RESOLUTIONS, STORE_CHANGES
from bridge.runtime.clock import Clock
from bridge.runtime.consume import Lines, Received, Unopened, consume, opened
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.generations import GenerationSwitched
from bridge.runtime.kafka import Positions
from bridge.runtime.settings import Settings
from bridge.runtime.telemetry import Health, counter, gauge, histogram
from bridge.runtime.topic_ids import TopicIds
from consumers.stages.index.answers import Answers
from consumers.stages.index.changes import Changes, fold
from consumers.stages.index.messages import PROVENANCE_PREFIX, SOURCE, SOURCES
from consumers.stages.index.ports import ArtefactStore, Heads, Incidents, Index, Outgoing, PartitionFile, ReadApi
from consumers.stages.index.reach import Reach
from consumers.stages.index.writing import Writing

log = structlog.get_logger()

GROUP = "index"
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


class _ReadAgain(Exception):
    """Batches that were not durable yet are undone: leave the group and join it again, which reads from the last that is."""


class _RebuildAsked(Exception):
    """Somebody asked for a rebuild: leave the group and join it again, which opens the files anew."""


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
        self._index = index
        self._incidents = incidents
        self._heads = heads
        self._outgoing = outgoing
        self._api = api
        self._dead_letters = dead_letters
        self._health = health
        self._clock = clock
        self._cluster = cluster
        self._upkeep_seconds = upkeep_seconds
        self._writing = Writing(settings, outgoing, clock)
        self._reach = Reach(heads)
        self._answers = Answers(
            artefacts=artefacts,
            outgoing=outgoing,
            reach=self._reach,
            clock=clock,
            retention_days=settings.index.retention_days,
            rules_sha256=rules_sha256,
        )
        self._files: dict[int, PartitionFile] = {}
        self._upkeep_due = self._kept_up_at = 0.0
        self._visible_seconds: dict[int, float] = {}
        self._last_beats: dict[int, datetime] = {}
        self._partition_count = 0
        self._busy_until = 0.0
        self._careful_until = 0.0
        self._merge_due = 0.0
        self._unopened = Unopened(STORE_CHANGES, PROVENANCE_PREFIX)

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
                        SOURCES,
                        self,
                        stop=stop,
                        dead_letters=self._dead_letters,
                        health=self._health,
                        batch_size=_BATCH,
                        unopened=self._unopened,
                        topic_ids=self._topic_ids,
                        # With a gap a file lacks people for good: it is built anew.
                        whole=True,
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
            self._answers.close()
            self._index.close()

    def prepare(self, stop: threading.Event) -> None:
        """Learn all open incidents before anything is served. Raises Refused if the two sources are not co-partitioned."""
        counts = {topic.name: self._outgoing.partition_count(topic) for topic in SOURCES}
        if len(set(counts.values())) != 1:
            raise Refused(
                f"{counts}: these topics need the same number of partitions, or departed customers end up with a worker "
                "that does not hold their records; create a new generation with equal counts"
            )
        for topic in (AFFECTED_CUSTOMERS, RESOLUTIONS):
            self._outgoing.partition_count(topic)
        self._partition_count = counts[STORE_CHANGES.name]
        self._answers.begin(self._partition_count)
        self._health.missing("incidents", "reading all incidents")
        for incident in self._incidents.read_to_end(self._outgoing.partition_count(INCIDENTS), stop):
            self._answers.take(incident, self._files)
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
                bounds={topic.name: self._heads.bounds(topic, partition) for topic in SOURCES},
                now=self._clock.now(),
                topic_ids={topic.name: ids[topic.name] for topic in SOURCES if topic.name in ids},
            )
            self._files[partition] = file
            self._reach.assigned(partition)
            self._last_beats[partition] = file.last_beat() or self._clock.now()
            positions |= {(topic, partition): offset for topic, offset in file.positions().items()}
            self._answers.assigned(partition, file)
        self._owned_changed()
        return positions

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        for partition in {number for topic, number in partitions if topic == STORE_CHANGES.name}:
            if (file := self._files.pop(partition, None)) is not None:
                file.settle()
            self._reach.revoked(partition)
            self._answers.revoked(partition)
            self._visible_seconds.pop(partition, None)
            self._last_beats.pop(partition, None)
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
            self._writing.note_watch(partition, file, changes)
            self._writing.apply(file, changes)
            if since is not None and file.has_open_marks():
                self._writing.review_marks(file, file.roots_since(since))
            self._answers.add_late(partition, file, changes.touched(), since)
            self._writing.merge(file)
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
            self._answers.take(incident, self._files)
        due, behind = self._answers.due(self._files)
        for partition in set(behind):
            self._reach.stands(partition, self._files[partition].positions())
        self._answers.resolve(due)
        if due:
            # What holds an answer holds what was published before the incident: whoever waits to hear whether its names are
            # right need not wait for the next round.
            self._upkeep_due = min(self._upkeep_due, self._kept_up_at + _UPKEEP_AGAIN_SECONDS)
        PENDING.set(len(behind))
        if not self._is_busy() and time.monotonic() >= self._merge_due:
            self._merge_due = time.monotonic() + _MERGE_SECONDS
            for file in self._files.values():
                with file.transaction():
                    self._writing.merge(file, least=1)
                    # A crash before the commit merges, and sends, these again.
                    self._outgoing.flush()
        if time.monotonic() >= self._upkeep_due:
            self._kept_up_at = time.monotonic()
            self._upkeep_due = self._kept_up_at + self._upkeep_seconds
            self._keep_up()

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

    # Upkeep

    def _keep_up(self) -> None:
        now = self._clock.now()
        # Asked of all before anything else: what comes while others are looked at is not read meanwhile, and whoever is looked at
        # last would never be found at the head.
        busy = self._is_busy()
        ends = {} if busy else {partition: self._reach.ends_of(partition) for partition in self._files}
        for partition, file in list(self._files.items()):
            if self._index.rebuild_asked(partition):
                raise _RebuildAsked
            expired = file.expired(now)
            for root in expired:
                self._outgoing.send(DEPARTED_CUSTOMERS, tombstone(key=root, root=root, source=SOURCE, at=now))
            # A crash before the flush leaves rows that are still expired: their tombstones are sent again.
            self._outgoing.flush()
            # To ask takes a second where markers of transactions lie behind: not while a backlog waits.
            complete_at = None if busy else self._reach.complete_at(partition, file.positions(), now, ends[partition])
            with file.transaction():
                file.drop_departed(expired)
                self._writing.forget(file, now)
                if complete_at is not None:
                    file.note_head(complete_at)
                    self._writing.keep_first_watch(partition, file)
            if complete_at is not None and self._index.is_rebuilding(partition):
                self._files[partition] = self._index.switch(partition)

    def _owned_changed(self) -> None:
        PARTITIONS.set(len(self._files))
        self._api.announce(sorted(self._files))
