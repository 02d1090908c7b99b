"""What the index itself says on topics: as whose, and under which keys."""

from datetime import datetime

from bridge.contracts.envelope import Message, seal_envelope
from bridge.contracts.events import (
    CustomerAffected,
    CustomerDeparted,
    PartitionResolved,
    ProvenanceRecorded,
    UntaggedWrite,
    WatchStarted,
)
from bridge.contracts.topics import DEPARTED_CUSTOMERS, STORE_CHANGES

SOURCE = "/index"
SOURCES = (STORE_CHANGES, DEPARTED_CUSTOMERS)
"""The topics that the index is built from."""
PROVENANCE_PREFIX = "provenance/"
ERASED_PREFIX = "erased/"
UNTAGGED_PREFIX = "untagged/"
WATCH_PREFIX = "watch/"


def mark_key(mark: UntaggedWrite) -> str:
    """Return the key under which an untagged write is kept."""
    return f"{UNTAGGED_PREFIX}{mark.root}/{mark.attribute}/{round(mark.seen_at.timestamp() * 1000)}"


def message_of(
    event: CustomerAffected | CustomerDeparted | ProvenanceRecorded | PartitionResolved | UntaggedWrite | WatchStarted,
    *,
    key: str,
    root: str,
    at: datetime,
    event_id: str | None = None,
) -> Message:
    """Return the message that says `event`, as the index's own."""
    return seal_envelope(event, key=key, root=root, source=SOURCE, at=at, event_id=event_id)
