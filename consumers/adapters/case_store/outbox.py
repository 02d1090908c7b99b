"""The outbox: what is to be published lies in the same transaction as the row that it reports.

`append` is called inside the writer's transaction. One publisher (the lease `outbox`) publishes in one Kafka transaction
and then deletes. A crash between publish and delete publishes the same events again, under the same ids. Rows about one
incident or attempt are in the order of their commits, because whoever writes them holds its lock.

Many events of one kind and transaction lie in one row: what a database takes for a row, it takes for hundreds. Of a kind
that travels in packs it is the pack, ready to be published; of any other, one event a line.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from bridge.contracts.events import PACKS, CaseEvent, Event
from bridge.contracts.packs import Single, by_partition, packed
from bridge.contracts.topics import CASE_EVENTS, Topic
from consumers.adapters.case_store.engine import CaseDatabase, Plain, insert_many
from consumers.adapters.case_store.tables import outbox

_LINES = "packed/"
"""Before the `ce_type` of a row that holds several events: `key` says how many, `value` has a line for each."""
_PACK = "pack/"
"""Before the `ce_type` of a row that holds a pack: `key` says how many events it has; its own key is its root."""
_MOST_LINES = 500

Written = Single
"""An event on its way out, already in its JSON form."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event on its way out. `event_id` makes repeats recognisable."""

    topic: Topic
    root: str
    key: str
    event_id: str
    event: Event


class Waiting(NamedTuple):
    """A message in the outbox as its publisher sees it. Those of one row share its id."""

    outbox_id: int
    topic: str
    root: str
    key: str
    ce_type: str
    event_id: str
    value: str
    written_at: datetime
    event_count: int = 1
    """Above 1: `value` is a pack."""


def case_event(
    kind: str, incident_id: str, event_id: str, now: datetime, body: dict[str, Any], *, exercise: bool
) -> Outgoing:
    """Return what Tocsin itself has done in an incident, as it goes out."""
    event = CaseEvent(
        case_event_id=event_id,
        kind=kind,
        incident_id=incident_id,
        actor=None,
        occurred_at=now,
        body=body,
        exercise=exercise,
    )
    return Outgoing(CASE_EVENTS, incident_id, incident_id, event_id, event)


def append(connection: sa.Connection, outgoing: Iterable[Outgoing], at: datetime) -> None:
    """Write `outgoing` to the outbox within the caller's transaction, a row for each."""
    rows = [
        {
            "topic": item.topic.name,
            "root": item.root,
            "key": item.key,
            "ce_type": item.event.ce_type,
            "event_id": item.event_id,
            "value": item.event.model_dump_json(),
            "written_at": at,
        }
        for item in outgoing
    ]
    if rows:
        connection.execute(sa.insert(outbox), rows)


def append_many(connection: sa.Connection, topic: Topic, ce_type: str, events: Sequence[Written], at: datetime) -> None:
    """Write many events of one type within the caller's transaction, hundreds to a row; those of one root in their order.

    Raises ValueError for a root, key or id with a tab or a line break, which none of ours has.
    """
    pack = PACKS.get(ce_type)
    found = _lines(ce_type, events) if pack is None else _packs(ce_type, pack.ce_type, events, topic.partitions)
    # As bytes the driver writes it in hexadecimal digits: to escape every quote of a pack took longer than all else. Most packs
    # need neither, and half as much is sent. JSON has no control characters but as escapes.
    on_server = connection.dialect.name != "sqlite"
    rows = [
        {
            "topic": topic.name,
            "root": root,
            "key": key,
            "ce_type": kind,
            "event_id": event_id,
            "value": _bound(value) if on_server else value,
            "written_at": at,
        }
        for kind, (root, key, event_id, value) in found
    ]
    insert_many(connection, outbox, rows)


def _bound(value: str) -> Plain | bytes:
    return value.encode() if "'" in value or "\\" in value else Plain(value)


def _packs(
    ce_type: str, pack_type: str, events: Sequence[Written], partition_count: int
) -> Iterator[tuple[str, Written]]:
    for group in by_partition(events, partition_count):
        if len(group) == 1:
            yield ce_type, group[0]
        else:
            root, _, event_id, value, count = packed(group)
            yield _PACK + pack_type, Written(root, str(count), event_id, value)


def _lines(ce_type: str, events: Sequence[Written]) -> Iterator[tuple[str, Written]]:
    for start in range(0, len(events), _MOST_LINES):
        part = events[start : start + _MOST_LINES]
        lines = ["\t".join(event) for event in part]
        # JSON writes tabs and line breaks as escapes
        if any(line.count("\t") != 3 or "\n" in line for line in lines):
            raise ValueError("an event's root, key or id holds a tab or a line break")
        yield _LINES + ce_type, Written(part[0].root, str(len(part)), part[0].event_id, "\n".join(lines))


def unpacked(row: sa.Row[tuple[int, str, str, str, str, str, str, datetime]]) -> Iterable[Waiting]:
    """Return the messages of a row."""
    ce_type = row.ce_type
    if ce_type.startswith(_PACK):
        kind, count = ce_type.removeprefix(_PACK), int(row.key)
        return (
            Waiting(row.outbox_id, row.topic, row.root, row.root, kind, row.event_id, row.value, row.written_at, count),
        )
    if not ce_type.startswith(_LINES):
        return (Waiting._make((*row, 1)),)
    # one event a line is also how commands and outcomes lie in an outbox that was filled before they travelled in packs
    outbox_id, topic, ce_type, at = row.outbox_id, row.topic, ce_type.removeprefix(_LINES), row.written_at
    lines = (line.split("\t", 3) for line in row.value.split("\n"))
    return (Waiting(outbox_id, topic, root, key, ce_type, event_id, value, at) for root, key, event_id, value in lines)


_EVENTS_IN_ROW = sa.case(
    (
        outbox.c.ce_type.startswith(_LINES) | outbox.c.ce_type.startswith(_PACK),
        sa.cast(outbox.c.key, sa.Integer),
    ),
    else_=1,
)
# twenty times a second
_OLDEST = (
    sa.select(outbox.c.outbox_id, _EVENTS_IN_ROW)
    .order_by(outbox.c.outbox_id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_DEPTH = sa.select(sa.func.coalesce(sa.func.sum(_EVENTS_IN_ROW), 0), sa.func.min(outbox.c.written_at))


class Outbox:
    """The publisher's side. Only the holder of the lease `outbox` may use it."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def next_batch(self, limit: int) -> Sequence[Waiting]:
        """Return the oldest waiting events: whole rows, about `limit` events, at least one row."""
        with self._database.read() as connection:
            last, count = None, 0
            for outbox_id, held in connection.execute(_OLDEST, {"most": limit}):
                if last is not None and count + held > limit:
                    break
                last, count = outbox_id, count + held
            if last is None:
                return ()
            rows = connection.execute(sa.select(outbox).where(outbox.c.outbox_id <= last).order_by(outbox.c.outbox_id))
            return tuple(event for row in rows for event in unpacked(row))

    def settle(self, batch: Sequence[Waiting]) -> None:
        """Forget events whose publication was acknowledged. A crash before this publishes them again."""
        ids = sorted({event.outbox_id for event in batch})
        with self._database.write() as connection:
            connection.execute(sa.delete(outbox).where(outbox.c.outbox_id.in_(ids)))

    def depth(self) -> tuple[int, datetime | None]:
        """Return how many events wait and since when the oldest does."""
        with self._database.read() as connection:
            row = connection.execute(_DEPTH).one()
            return int(row[0]), row[1]
