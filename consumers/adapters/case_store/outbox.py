"""The outbox: what is to be published lies in the same transaction as the row that it reports.

`append` is called inside the writer's transaction. One publisher (the lease `outbox`) gives numbers, publishes in one
Kafka transaction and then deletes. A crash between publish and delete publishes the same numbers again; readers drop
what they have seen (`ce_sequence`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bridge.contracts.events import Event
from bridge.contracts.topics import Topic
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import outbox, outbox_number


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
    number: int
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
        """Return the oldest waiting rows, numbered; a row once numbered keeps its number for ever."""
        numbered = self._numbered(limit)
        if numbered:
            # left by a crash or an unreachable broker: first of all, and unmixed with younger rows
            return numbered
        with self._database.write() as connection:
            ids = list(
                connection.execute(sa.select(outbox.c.outbox_id).order_by(outbox.c.outbox_id).limit(limit)).scalars()
            )
            if not ids:
                return ()
            last = connection.execute(
                sa.select(outbox_number.c.last).where(outbox_number.c.name == "outbox").with_for_update()
            ).scalar()
            if last is None:
                connection.execute(sa.insert(outbox_number).values(name="outbox", last=0))
                last = 0
            connection.execute(
                sa.update(outbox)
                .where(outbox.c.outbox_id == sa.bindparam("row_id"))
                .values(number=sa.bindparam("row_number")),
                [{"row_id": row_id, "row_number": last + n} for n, row_id in enumerate(ids, start=1)],
            )
            connection.execute(
                sa.update(outbox_number).where(outbox_number.c.name == "outbox").values(last=last + len(ids))
            )
        return self._numbered(limit)

    def _numbered(self, limit: int) -> Sequence[Waiting]:
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(outbox).where(outbox.c.number.is_not(None)).order_by(outbox.c.number).limit(limit)
            ).mappings()
            return tuple(
                Waiting(
                    outbox_id=row["outbox_id"],
                    number=row["number"],
                    topic=row["topic"],
                    root=row["root"],
                    key=row["key"],
                    ce_type=row["ce_type"],
                    event_id=row["event_id"],
                    value=row["value"],
                    written_at=row["written_at"],
                )
                for row in rows
            )

    def settle(self, batch: Sequence[Waiting]) -> None:
        """Forget rows whose publication was acknowledged. A crash before this publishes them again, same numbers."""
        with self._database.write() as connection:
            connection.execute(sa.delete(outbox).where(outbox.c.outbox_id.in_([row.outbox_id for row in batch])))

    def depth(self) -> tuple[int, datetime | None]:
        """Return how many rows wait and since when the oldest does."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(sa.func.count(), sa.func.min(outbox.c.written_at))).one()
            return int(row[0]), row[1]
