"""The outbox: what is to be published lies in the same transaction as the row that it reports.

`append` is called inside the writer's transaction. One publisher (the lease `outbox`) publishes in one Kafka transaction
and then deletes. A crash between publish and delete publishes the same events again, under the same ids. Rows about one
incident or attempt are in the order of their commits, because whoever writes them holds its lock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bridge.contracts.events import Event
from bridge.contracts.topics import Topic
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import outbox


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event on its way out. `event_id` makes repeats recognisable."""

    topic: Topic
    root: str
    key: str
    event_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class Waiting:
    """An outbox row as its publisher sees it."""

    outbox_id: int
    topic: str
    root: str
    key: str
    ce_type: str
    event_id: str
    value: str
    written_at: datetime


def append(connection: sa.Connection, outgoing: Iterable[Outgoing], at: datetime) -> None:
    """Write `outgoing` to the outbox within the caller's transaction."""
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


class Outbox:
    """The publisher's side. Only the holder of the lease `outbox` may use it."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def next_batch(self, limit: int) -> Sequence[Waiting]:
        """Return the oldest waiting rows."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(outbox).order_by(outbox.c.outbox_id).limit(limit)).mappings()
            return tuple(Waiting(**row) for row in rows)

    def settle(self, batch: Sequence[Waiting]) -> None:
        """Forget rows whose publication was acknowledged. A crash before this publishes them again."""
        with self._database.write() as connection:
            connection.execute(sa.delete(outbox).where(outbox.c.outbox_id.in_([row.outbox_id for row in batch])))

    def depth(self) -> tuple[int, datetime | None]:
        """Return how many rows wait and since when the oldest does."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(sa.func.count(), sa.func.min(outbox.c.written_at))).one()
            return int(row[0]), row[1]
