"""The outbox: what is to be published lies in the same transaction as the row that it reports.

`append` is called inside the writer's transaction. One publisher (the lease `outbox`) publishes in one Kafka transaction
and then deletes. A crash between publish and delete publishes the same events again, under the same ids. Rows about one
incident or attempt are in the order of their commits, because whoever writes them holds its lock.

Many events of one kind and transaction lie in one packed row: what a database takes for a row, it takes for hundreds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from bridge.contracts.events import Event
from bridge.contracts.topics import Topic
from consumers.adapters.case_store.engine import CaseDatabase, insert_many
from consumers.adapters.case_store.tables import outbox

_PACKED = "packed/"
"""Before the `ce_type` of a row that holds several events: `key` says how many, `value` has a line for each."""
_PACK_SIZE = 500


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event on its way out. `event_id` makes repeats recognisable."""

    topic: Topic
    root: str
    key: str
    event_id: str
    event: Event


class Written(NamedTuple):
    """An event on its way out, already in its JSON form."""

    root: str
    key: str
    event_id: str
    value: str


class Waiting(NamedTuple):
    """An event in the outbox as its publisher sees it. Those of one packed row share its id."""

    outbox_id: int
    topic: str
    root: str
    key: str
    ce_type: str
    event_id: str
    value: str
    written_at: datetime


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
    """Write many events of one type within the caller's transaction, hundreds to a row, in their order.

    Raises ValueError for a root, key or id with a tab or a line break, which none of ours has.
    """
    # as bytes the driver writes it in hexadecimal digits: to escape every quote of a pack took longer than all else
    as_bytes = connection.dialect.name != "sqlite"
    rows = []
    for start in range(0, len(events), _PACK_SIZE):
        part = events[start : start + _PACK_SIZE]
        lines = ["\t".join(event) for event in part]
        # JSON writes tabs and line breaks as escapes
        if any(line.count("\t") != 3 or "\n" in line for line in lines):
            raise ValueError("an event's root, key or id holds a tab or a line break")
        rows.append(
            {
                "topic": topic.name,
                "root": part[0].root,
                "key": str(len(part)),
                "ce_type": _PACKED + ce_type,
                "event_id": part[0].event_id,
                "value": "\n".join(lines).encode() if as_bytes else "\n".join(lines),
                "written_at": at,
            }
        )
    insert_many(connection, outbox, rows)


def unpacked(row: sa.Row[tuple[int, str, str, str, str, str, str, datetime]]) -> Iterable[Waiting]:
    """Yield the events of a row."""
    ce_type = row.ce_type
    if not ce_type.startswith(_PACKED):
        return (Waiting._make(row),)
    outbox_id, topic, ce_type, at = row.outbox_id, row.topic, ce_type.removeprefix(_PACKED), row.written_at
    lines = (line.split("\t", 3) for line in row.value.split("\n"))
    return (Waiting(outbox_id, topic, root, key, ce_type, event_id, value, at) for root, key, event_id, value in lines)


class Outbox:
    """The publisher's side. Only the holder of the lease `outbox` may use it."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def next_batch(self, limit: int) -> Sequence[Waiting]:
        """Return the oldest waiting events: whole rows, about `limit` events, at least one row."""
        with self._database.read() as connection:
            last, count = None, 0
            for outbox_id, held in connection.execute(
                sa.select(outbox.c.outbox_id, _events_in_row()).order_by(outbox.c.outbox_id).limit(limit)
            ):
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
            row = connection.execute(
                sa.select(sa.func.coalesce(sa.func.sum(_events_in_row()), 0), sa.func.min(outbox.c.written_at))
            ).one()
            return int(row[0]), row[1]


def _events_in_row() -> sa.ColumnElement[int]:
    return sa.case((outbox.c.ce_type.startswith(_PACKED), sa.cast(outbox.c.key, sa.Integer)), else_=1)
