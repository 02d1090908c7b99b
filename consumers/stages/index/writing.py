"""Writes what a batch amounts to into a partition's file, and to the topic of the departed what compaction would forget.

Nothing is flushed here but where a method says so: whoever commits the file flushes before.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bridge.contracts.envelope import tombstone
from bridge.contracts.events import (
    CustomerChanged,
    CustomerDeparted,
    OrderChanged,
    ProvenanceRecorded,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.topics import DEPARTED_CUSTOMERS
from bridge.runtime.clock import Clock
from bridge.runtime.settings import Settings
from consumers.domain.coverage import resumed
from consumers.domain.untagged import Held, Seen, on_record, on_value
from consumers.stages.index.changes import Changes
from consumers.stages.index.messages import (
    ERASED_PREFIX,
    PROVENANCE_PREFIX,
    SOURCE,
    UNTAGGED_PREFIX,
    WATCH_PREFIX,
    mark_key,
    message_of,
)
from consumers.stages.index.ports import Outgoing, PartitionFile


class Writing:
    """Applies changes to files, and keeps on the topic of the departed what a rebuild must find."""

    def __init__(self, settings: Settings, outgoing: Outgoing, clock: Clock) -> None:
        self._settings = settings
        self._outgoing = outgoing
        self._clock = clock

    def apply(self, file: PartitionFile, changes: Changes) -> None:
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
                self._send(each, key=each.root, root=each.root)
            file.drop_persons(sorted(changes.leaving))
        if changes.kept:
            file.keep_records(list(changes.kept.values()))
        if changes.deleted:
            # Compaction will remove the record and in time its tombstone: this copy is what a rebuild finds.
            for record in file.records(file.mark_deleted(changes.deleted)):
                self._send(record, key=PROVENANCE_PREFIX + record.record_id, root=record.root)

    def note_watch(self, partition: int, file: PartitionFile, changes: Changes) -> None:
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

    def _mark_untagged(self, file: PartitionFile, changes: Changes) -> None:
        """Hold the values of registered attributes against what was there and against the records; unflushed."""
        if not changes.marks and not changes.persons:
            return
        for key, mark in changes.marks.items():
            if mark is None:
                root, attribute, seen_at = key.removeprefix(UNTAGGED_PREFIX).rsplit("/", 2)
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

    def review_marks(self, file: PartitionFile, roots: Sequence[str]) -> None:
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

    def merge(self, file: PartitionFile, *, least: int | None = None) -> None:
        """Merge what came, and have the topic keep what altered records said before; unflushed."""
        file.merge(least=least, at=self._clock.now())
        for record in file.take_kept_contents():
            self._send(record, key=PROVENANCE_PREFIX + record.record_id, root=record.root)

    def keep_first_watch(self, partition: int, file: PartitionFile) -> None:
        """Have the topic know since when attributes are watched, where all that it knows was read and this was not there."""
        unkept = file.unkept_watch()
        for each in unkept:
            self._keep_watch(partition, each)
        # A crash before the commit that follows sends these again.
        self._outgoing.flush()
        file.put_watch(unkept, kept=True)

    def forget(self, file: PartitionFile, now: datetime) -> None:
        """Forget what the retention no longer covers, and those who were erased, here and among the kept copies."""
        before = now - timedelta(days=self._settings.index.retention_days)
        records, marks = file.forget(before)
        gone = [(PROVENANCE_PREFIX + record_id, root) for record_id, root in records]
        # The store's own records outlive a customer, and a backfill publishes them again: looked for each time.
        gone += file.forget_erased()
        if forgotten := file.erased_before(before):
            file.drop_erased(forgotten)
            gone += [(ERASED_PREFIX + root, root) for root in forgotten]
        for key, root in [*gone, *((mark_key(mark), mark.root) for mark in marks)]:
            self._outgoing.send(DEPARTED_CUSTOMERS, tombstone(key=key, root=root, source=SOURCE, at=now))
        # A crash before the commit that follows sends these tombstones again.
        self._outgoing.flush()

    def _keep_watch(self, partition: int, started: WatchStarted) -> None:
        key = WATCH_PREFIX + started.attribute
        if started.after is not None:
            key += f"/{round(started.after.timestamp() * 1000)}"
        message = message_of(started, key=key, root=key, at=self._clock.now())
        self._outgoing.send_raw(
            DEPARTED_CUSTOMERS, partition, message.key.encode(), message.value, list(message.headers)
        )

    def _keep_marks(self, file: PartitionFile, marks: Sequence[UntaggedWrite]) -> None:
        file.put_marks(marks)
        for mark in marks:
            # Compaction will forget the earlier value: this copy is what a rebuild finds.
            self._send(mark, key=mark_key(mark), root=mark.root)

    def _send(self, event: CustomerDeparted | ProvenanceRecorded | UntaggedWrite, *, key: str, root: str) -> None:
        self._outgoing.send(DEPARTED_CUSTOMERS, message_of(event, key=key, root=root, at=self._clock.now()))


def _departing(person: CustomerChanged | OrderChanged, left_at: datetime, expires_at: datetime) -> CustomerDeparted:
    facts = {name: getattr(person, name) for name in CustomerDeparted.model_fields if hasattr(person, name)}
    return CustomerDeparted(**facts, departed_at=left_at, expires_at=expires_at)
