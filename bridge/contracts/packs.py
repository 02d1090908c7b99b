"""How events travel many to a record: grouped by partition, so that each person's stay in order, and numbered by content.

What a pack holds says `bridge.contracts.events.Pack`. Made from events that are in their JSON form already.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bridge.contracts.partitioner import partition_of

MAX_EVENTS = 500
MAX_CHARACTERS = 180_000
"""Of a pack's value: even were each four bytes of UTF-8, below the megabyte that a broker takes by default."""

_BEGIN, _END = '{"events":[', "]}"


class Single(NamedTuple):
    """An event in its JSON form. `root` decides the partition."""

    root: str
    key: str
    event_id: str
    value: str


class Packed(NamedTuple):
    """Events of one partition in one value. Root and key are those of the first."""

    root: str
    key: str
    event_id: str
    value: str
    event_count: int


def by_partition(events: Iterable[Single], partition_count: int) -> Iterator[Sequence[Single]]:
    """Yield what may travel together: events of one partition, in their order, bounded in number and size."""
    groups: dict[int, list[Single]] = {}
    for event in events:
        groups.setdefault(partition_of(event.root, partition_count), []).append(event)
    for group in groups.values():
        start, size = 0, 0
        for at, event in enumerate(group):
            if at > start and (at - start == MAX_EVENTS or size + len(event.value) > MAX_CHARACTERS):
                yield group[start:at]
                start, size = at, 0
            size += len(event.value) + 1
        yield group[start:]


def packed(events: Sequence[Single]) -> Packed:
    """Return `events`, all of one partition, as a pack; its id follows from theirs."""
    first = events[0]
    event_id = hashlib.sha256("\n".join([event.event_id for event in events]).encode()).hexdigest()[:32]
    value = _BEGIN + ",".join([event.value for event in events]) + _END
    return Packed(first.root, first.key, event_id, value, len(events))


def regrouped(pack: Packed, partition_count: int) -> Iterator[Packed]:
    """Yield a pack's events in packs for a topic that has another number of partitions than the declared one."""
    groups: dict[int, list[dict[str, object]]] = {}
    for event in json.loads(pack.value)["events"]:
        groups.setdefault(partition_of(event["recipient_id"], partition_count), []).append(event)
    for partition, events in groups.items():
        root = str(events[0]["recipient_id"])
        value = json.dumps({"events": events}, ensure_ascii=False, separators=(",", ":"))
        yield Packed(root, root, f"{pack.event_id}-{partition}", value, len(events))
