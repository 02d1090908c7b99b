"""A new generation of the store's changes, with more partitions: filled by backfill, verified, switched; resumable.

Every step looks at what is there and does only what is missing, so that a run which was stopped or killed anywhere is simply
started again. Until the switch nobody reads the new topics; after it the old ones are still whole.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.envelope import open_envelope
from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import (
    CustomerChanged,
    EntityRemoved,
    Event,
    IncidentRevised,
    OrderChanged,
    ProvenanceRecorded,
    StoreBeat,
)
from bridge.contracts.fingerprints import (
    SUM_MODULUS,
    Entity,
    content_fingerprint,
    person_fingerprint,
    range_of,
    record_fingerprint,
)
from bridge.contracts.partitioner import partition_of
from bridge.contracts.queries import (
    Faults,
    IndexAnswers,
    IndexStatus,
    KeyPrint,
    Keys,
    KeysAsked,
    PartitionStatus,
    RangePrint,
    Ranges,
    RangesAsked,
    Seals,
)
from bridge.contracts.topics import DEPARTED_CUSTOMERS, INCIDENTS, STORE_CHANGES
from bridge.magento.backfill import Backfill
from bridge.magento.look import StoreLook
from bridge.runtime.consume import headers_of
from bridge.runtime.generations import LOOK_SECONDS, topic_name
from bridge.runtime.kafka import Publisher, new_consumer
from bridge.runtime.redrive import bounds
from bridge.runtime.settings import Kafka
from bridge.runtime.topics_admin import TopicsAdmin
from bridge.verification import Report, Verification, enqueue_kept_orders

_FILLED = ("customers", "provenance", "orders")
_PATIENCE_SECONDS = 120.0
"""How long nothing may move on what is waited for."""
_LOOK_SECONDS = 0.5
_MOST_WAITING = 200_000
"""Changes that wait while the store is enqueued: beyond them it goes no faster than the relay publishes."""
_CHUNK, _CHUNKS_AT_ONCE = 2000, 10
_SILENCE_SECONDS = 30.0
_TAIL = 2000
"""So many offsets from a topic's end a message is found among the marks of transactions, if there is one."""


class TopicReader:
    """Reads all that is committed on a topic (`last`: of the last so many offsets only), and later what has been added."""

    def __init__(self, kafka: Kafka, name: str, *, last: int | None = None) -> None:
        self._name = name
        self._consumer: Consumer = new_consumer(kafka, "generation-switch", enable_partition_eof=True)
        try:
            topics = self._consumer.list_topics(name, timeout=15).topics
        except KafkaException as error:
            raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error
        self.partition_count = len(topics[name].partitions) if name in topics else 0
        if not self.partition_count:
            raise Unreachable(f"topic {name} does not exist; run `tocsin topics apply` first")
        self._reached = dict.fromkeys(range(self.partition_count), 0)
        if last is not None:
            self._reached = {number: max(0, end - last) for number, end in self._ends().items()}
        self._consumer.assign([_TopicPartition(name, number, start) for number, start in self._reached.items()])

    def to_end(self) -> Iterator[list[Any]]:
        """Yield messages in chunks until everything is read that is there at this moment. Raises Unreachable."""
        ends = self._ends()
        heard_at = time.monotonic()
        while any(self._reached[number] < ends[number] for number in ends):
            found = []
            for message in self._consumer.consume(2000, timeout=0.5):
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if error.retriable():
                        continue
                    raise Unreachable(f"{self._name}: {error.str()}")
                heard_at = time.monotonic()
                # At its end a partition tells its offset, past the marks of transactions.
                after = int(message.offset() or 0) + (0 if error is not None else 1)
                self._reached[int(message.partition() or 0)] = max(self._reached[int(message.partition() or 0)], after)
                if error is None:
                    found.append(message)
            if found:
                yield found
            if time.monotonic() - heard_at > _SILENCE_SECONDS:
                raise Unreachable(f"{self._name}: nothing came for {_SILENCE_SECONDS:.0f} s before its end")

    def _ends(self) -> Mapping[int, int]:
        try:
            return {number: bounds(self._consumer, _TopicPartition(self._name, number))[1] for number in self._reached}
        except KafkaException as away:
            raise Unreachable(f"{self._name}: {away.args[0].str()}; check kafka.bootstrap_servers") from away

    def close(self) -> None:
        self._consumer.close()


def _opened(message: Any) -> Event | None:
    try:
        return open_envelope(message.key(), message.value(), headers_of(message))
    except BadInput:
        return None


class TopicContents(IndexAnswers):
    """A topic of the store's changes answering as the index would that is built from it: only fingerprints, in a file."""

    def __init__(self, kafka: Kafka, name: str, file: Path) -> None:
        file.unlink(missing_ok=True)
        self._reader = TopicReader(kafka, name)
        self._table = sqlite3.connect(file)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(
            "CREATE TABLE held (key TEXT PRIMARY KEY, entity TEXT, range INTEGER, fingerprint INTEGER, content INTEGER,"
            " deleted INTEGER, root TEXT) WITHOUT ROWID"
        )
        self._table.execute("CREATE INDEX by_range ON held (entity, range)")
        self._beats: dict[int, datetime] = {}

    def close(self) -> None:
        self._reader.close()
        self._table.close()

    def _catch_up(self) -> None:
        for messages in self._reader.to_end():
            for message in messages:
                self._take(message, _opened(message))

    def _take(self, message: Any, event: Event | None) -> None:
        match event:
            case CustomerChanged() | OrderChanged():
                entity = "customer" if isinstance(event, CustomerChanged) else "order"
                self._put(event.root, entity, person_fingerprint(event), 0, deleted=False, root=event.root)
            case ProvenanceRecorded():
                key, deleted = f"provenance/{event.record_id}", event.deleted_at is not None
                self._put(
                    key,
                    "provenance",
                    record_fingerprint(event),
                    content_fingerprint(event),
                    deleted=deleted,
                    root=event.root,
                )
            case EntityRemoved():
                self._table.execute("DELETE FROM held WHERE key = ?", [event.key])
            case StoreBeat():
                self._beats[int(message.partition() or 0)] = event.beat_at
            case _:
                pass

    def _put(self, key: str, entity: str, fingerprint: int, content: int, *, deleted: bool, root: str) -> None:
        row = (key, entity, range_of(key), fingerprint, content, int(deleted), root)
        self._table.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def ranges(self, asked: RangesAsked) -> Ranges:
        self._catch_up()
        found: dict[int, list[int]] = {}
        query = "SELECT range, fingerprint, deleted FROM held WHERE entity = ?"
        for number, fingerprint, deleted in self._table.execute(query, [asked.entity]):
            each = found.setdefault(number, [0, 0, 0])
            if deleted:
                each[2] += 1
            else:
                each[0] += 1
                each[1] = (each[1] + fingerprint) % SUM_MODULUS
        ranges = {
            number: RangePrint(range=number, count=count, sum=total, deleted_count=deleted)
            for number, (count, total, deleted) in found.items()
        }
        return Ranges(partition_count=self._reader.partition_count, silent_partitions=(), ranges=ranges)

    def keys(self, asked: KeysAsked) -> Keys:
        self._catch_up()
        if asked.altered:
            rows: list[Any] = []
        elif asked.keys:
            rows = [row for key in asked.keys for row in self._rows("key = ?", key, asked.entity)]
        else:
            rows = [row for number in asked.ranges for row in self._rows("range = ?", number, asked.entity)]
        keys = {
            row[0]: KeyPrint(key=row[0], fingerprint=row[1], content=row[2], deleted=bool(row[3]), root=row[4])
            for row in rows
        }
        return Keys(partition_count=self._reader.partition_count, silent_partitions=(), keys=keys)

    def _rows(self, where: str, value: str | int, entity: Entity) -> list[Any]:
        query = f"SELECT key, fingerprint, content, deleted, root FROM held WHERE {where} AND entity = ?"  # noqa: S608  ours
        return self._table.execute(query, [value, entity]).fetchall()

    def status(self) -> IndexStatus:
        self._catch_up()
        now = datetime.now(UTC)
        count = self._reader.partition_count
        return IndexStatus(
            partition_count=count,
            silent_partitions=(),
            partitions=tuple(
                PartitionStatus(
                    partition=number, position_offset=0, customer_count=0, order_count=0, departed_count=0, record_count=0,
                    head_at=now, file_bytes=0, beat_written_at=self._beats.get(number), beat_visible_at=now,
                )
                for number in range(count)
            ),
        )  # fmt: skip

    def faults(self) -> Faults:
        """Return nothing: these are told by the index."""
        return Faults(partition_count=self._reader.partition_count, silent_partitions=(), faults=(), altered_count=0)

    def seals(self) -> Seals:
        """Return nothing: these are told by the index."""
        return Seals(partition_count=self._reader.partition_count, silent_partitions=(), present={}, departed={})


Say = Callable[[str], None]
Left = Callable[[], float]
"""How much is left of what is waited for; infinite while that is not known."""


class GenerationSwitch:
    """The whole way to a generation with `partitions`. Steps are told to `say` as they are done."""

    def __init__(
        self,
        kafka: Kafka,
        look: StoreLook,
        backfill: Backfill,
        verification: Callable[[IndexAnswers], Verification],
        index: IndexAnswers,
        scratch: Path,
        say: Say,
        *,
        per_second: int = 50_000,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._kafka = kafka
        self._admin = TopicsAdmin(kafka)
        self._look = look
        self._backfill = backfill
        self._verification = verification
        self._index = index
        self._scratch = scratch
        self._say = say
        self._per_second = per_second
        self._patience_seconds = patience_seconds

    def plan(self, partitions: int | None) -> tuple[int, int]:
        """Return the generation to make and its partition count. Raises BadInput or Refused, before anything is changed."""
        found = self._admin.generations()
        generation = found.filling or found.active + 1
        if partitions is None:
            if found.filling is None:
                raise BadInput("say how many partitions the new generation is to have: --partitions N")
            partitions = self._admin.partitions_of(generation)
        now = self._admin.partitions_of(found.active)
        if partitions <= now:
            raise Refused(f"generation {found.active} has {now} partitions already; a new one is made to have more")
        self._refuse_while_incidents_are_open()
        return generation, partitions

    def _refuse_while_incidents_are_open(self) -> None:
        found = self._open_incidents()
        if found:
            raise Refused(
                f"{', '.join(found)} {'is' if len(found) == 1 else 'are'} open: answers of the old partitions would meet those "
                "of the new ones. Nothing was switched; close them first and run this again"
            )

    def _open_incidents(self) -> list[str]:
        reader = TopicReader(self._kafka, self._kafka.topic_prefix + INCIDENTS.name)
        newest: dict[str, IncidentRevised] = {}
        try:
            for messages in reader.to_end():
                for event in map(_opened, messages):
                    if isinstance(event, IncidentRevised):
                        newest[event.incident_id] = event
        finally:
            reader.close()
        return sorted(each.incident_id for each in newest.values() if each.status == "open")

    def run(self, generation: int, partitions: int) -> Report:
        """Make, fill, verify and switch. Raises Refused if the new generation does not hold what the store holds."""
        self._admin.create_generation(generation, partitions)
        self._say(f"1 made: generation {generation} with {partitions} partitions")
        contents = TopicContents(
            self._kafka,
            topic_name(self._kafka.topic_prefix, STORE_CHANGES.name, generation),
            self._scratch / f"generation-{generation}.db",
        )
        try:
            self._await(
                self._without_beat_since(contents),
                "the relay's heartbeat in the new generation; is `tocsin run relay` at work?",
            )
            # Writers that are quiet now look again before they write.
            time.sleep(LOOK_SECONDS)
            self._say("2 followed: the relay writes to both generations")
            copied = self._copy_departed(generation)
            self._say(f"3 copied: {copied:,} messages on departed customers and deleted records")
            self.fill()
            report = self._verification(contents).run()
            if not report.agree:
                found = "; ".join(f"{each.count:,} {each.entity}: {each.cause.value}" for each in report.differences)
                raise Refused(
                    f"the new generation does not hold what the store holds ({found}); nothing was switched. Run this again: it "
                    "goes on"
                )
            self._say(
                f"5 verified: {report.customers:,} customers, {report.records:,} records, {report.orders:,} orders"
            )
        finally:
            contents.close()
            (self._scratch / f"generation-{generation}.db").unlink(missing_ok=True)
        # Who was deleted before the backfill came to them is not in the new generation: the index, which knew them, has told
        # the old one once it has read all that the relay wrote until now. Who is deleted later is in both.
        self._await(
            self._unread(self._admin.generations().active),
            "the index to read the old generation to its end; is `tocsin run index` at work?",
        )
        # Until the switch the relay publishes them to both generations, after it to the new one.
        kept = enqueue_kept_orders(self._look, self._index)
        self._copy_departed(generation)
        # Filling takes its time: an incident that was opened meanwhile is being answered from the old partitions.
        self._refuse_while_incidents_are_open()
        self._admin.activate(generation)
        self._say(
            f"6 switched: generation {generation} is read from now on"
            + (f"; {kept:,} orders follow whose records were deleted" if kept else "")
        )
        self._await(
            self._unread(generation),
            "the index to be built from the new generation; see `tocsin index status`",
            advice=f"Generation {generation} is read already; once the index answers from it, run this with --finish",
        )
        self._say(f"7 followed: {partitions} of {partitions} partitions of the index answer")
        return report

    def fill(self) -> None:
        """Enqueue all of the store, no faster than the relay publishes it, and wait for the rest. Raises Refused."""
        for name in _FILLED:
            count = 0
            for number, chunk in enumerate(self._backfill.run(name, _CHUNK), 1):
                count += chunk
                time.sleep(chunk / self._per_second)
                if number % _CHUNKS_AT_ONCE == 0:
                    self._await_relay(_MOST_WAITING)
            self._say(f"4 enqueued: {count:,} {name}")
        self._await_relay(1000)

    def _await_relay(self, fewer_than: int) -> None:
        self._await(
            lambda: max(0, sum(self._look.waiting().values()) + 1 - fewer_than),
            "the relay to publish what was enqueued; see `tocsin relay status`",
        )

    def _without_beat_since(self, contents: TopicContents) -> Left:
        began = datetime.now(UTC)
        return lambda: sum(
            each.beat_written_at is None or each.beat_written_at <= began for each in contents.status().partitions
        )

    def _unread(self, generation: int) -> Left:
        """Return what says how much the index has to read until it answers from `generation` with all that it held at this
        moment.

        A partition answers as soon as it has an owner; before it has read its topics it knows nobody.
        """
        written = {
            topic.name: self._written(topic_name(self._kafka.topic_prefix, topic.name, generation))
            for topic in (STORE_CHANGES, DEPARTED_CUSTOMERS)
        }
        partitions = self._admin.partitions_of(generation)

        def unread() -> float:
            try:
                status = self._index.status()
            except Unreachable:
                return math.inf
            if status.partition_count != partitions or not status.complete:
                return math.inf
            return sum(
                max(0, written[STORE_CHANGES.name][each.partition] - each.position_offset)
                + max(0, written[DEPARTED_CUSTOMERS.name][each.partition] - each.departed_offset)
                for each in status.partitions
            )

        return unread

    def _written(self, name: str) -> Mapping[int, int]:
        """Return the offset behind the last message of each partition: behind it are at most marks of transactions."""
        reader = TopicReader(self._kafka, name, last=_TAIL)
        written = dict.fromkeys(range(reader.partition_count), 0)
        try:
            for messages in reader.to_end():
                for message in messages:
                    written[int(message.partition() or 0)] = int(message.offset() or 0) + 1
        finally:
            reader.close()
        return written

    def _copy_departed(self, generation: int) -> int:
        """Copy what the store does not know any more, in order, until nothing is left that came meanwhile.

        Writers write to both topics: what arrives while this copies is copied again, after what is older, so that the last
        message of each key is the newest in both.
        """
        prefix = self._kafka.topic_prefix
        active = self._admin.generations().active
        reader = TopicReader(self._kafka, topic_name(prefix, DEPARTED_CUSTOMERS.name, active))
        publisher = Publisher(self._kafka)
        target = topic_name(prefix, DEPARTED_CUSTOMERS.name, generation)
        partitions, copied = self._admin.partitions_of(generation), 0
        try:
            while True:
                before = copied
                for messages in reader.to_end():
                    for message in messages:
                        headers: Mapping[str, bytes] = headers_of(message)
                        # What cannot be read, and is a dead letter, goes along.
                        root = headers.get("ce_root", message.key() or b"").decode(errors="replace")
                        publisher.send_to(
                            target,
                            partition_of(root, partitions),
                            message.key() or b"",
                            message.value(),
                            list(headers.items()),
                        )
                        copied += 1
                    publisher.flush()
                if copied == before:
                    return copied
        finally:
            reader.close()
            publisher.close()

    def _await(self, left: Left, what: str, advice: str = "Run this again: it goes on") -> None:
        """Return once nothing is left; however long that takes, as long as it becomes less."""
        least, give_up_at = math.inf, time.monotonic() + self._patience_seconds
        while (now := left()) > 0:
            if now < least:
                least, give_up_at = now, time.monotonic() + self._patience_seconds
            elif time.monotonic() > give_up_at:
                raise Refused(f"nothing moved for {self._patience_seconds:.0f} s, waiting for {what}. {advice}")
            time.sleep(_LOOK_SECONDS)

    def finish(self) -> Sequence[str]:
        """Delete the topics of older generations, once the index is built from the one that is read; return their names."""
        active = self._admin.generations().active
        if active == 1:
            raise Refused("generation 1 is read: there is no older one")
        if self._unread(active)() > 0:
            raise Refused("the index does not answer from the new generation yet; see `tocsin index status`")
        return [name for older in range(1, active) for name in self._admin.drop_generation(older)]
