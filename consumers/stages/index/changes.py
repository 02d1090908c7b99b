"""A batch folded to its outcome: what holds of each key after its last message."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bridge.contracts.events import (
    CustomerChanged,
    CustomerDeparted,
    EntityRemoved,
    OrderChanged,
    ProvenanceRecorded,
    StoreBeat,
    SubjectErased,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.topics import DEPARTED_CUSTOMERS
from bridge.runtime.consume import Received
from consumers.stages.index.messages import ERASED_PREFIX, PROVENANCE_PREFIX, UNTAGGED_PREFIX, mark_key


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
        elif isinstance(event, EntityRemoved) and event.key.startswith(PROVENANCE_PREFIX):
            record_id = event.key.removeprefix(PROVENANCE_PREFIX)
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
    elif isinstance(event, EntityRemoved) and event.key.startswith(ERASED_PREFIX):
        changes.erased[event.key.removeprefix(ERASED_PREFIX)] = None
    elif isinstance(event, ProvenanceRecorded):
        changes.kept[event.record_id] = event
    elif isinstance(event, UntaggedWrite):
        changes.marks[mark_key(event)] = event
    elif isinstance(event, WatchStarted):
        changes.watched.append(event)
    elif isinstance(event, EntityRemoved) and event.key.startswith(UNTAGGED_PREFIX):
        changes.marks[event.key] = None
    elif isinstance(event, EntityRemoved):
        if not event.key.startswith(PROVENANCE_PREFIX):
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
