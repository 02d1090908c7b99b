"""Kafka positions of the stages that write SQL, moved in the same transaction as their results; and leases."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog

from bridge.runtime.consume import made_anew
from bridge.runtime.kafka import Positions
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.tables import kafka_position, lease

log = structlog.get_logger()

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


NO_TOPIC_IDS: Mapping[str, str] = {}
"""For whoever reads no topic."""


def read_positions(
    database: CaseDatabase,
    stage: str,
    partitions: Sequence[tuple[str, int]],
    topic_ids: Mapping[str, str] = NO_TOPIC_IDS,
) -> Positions:
    """Return the next offset that `stage` must read, for those of `partitions` that it has read before.

    A position of a topic that had another id than the one in `topic_ids` leads nowhere: it is put back, and the partition is
    read from its beginning. One without an id is taken to be of the topic that is there.
    """
    with database.read() as connection:
        rows = connection.execute(sa.select(kafka_position).where(kafka_position.c.stage == stage)).all()
    wanted = set(partitions)
    rows = [row for row in rows if (row.topic, row.partition) in wanted]
    anew = [row for row in rows if row.topic_id is not None and topic_ids.get(row.topic, row.topic_id) != row.topic_id]
    without = [row for row in rows if row.topic_id is None and row.topic in topic_ids]

    def work(connection: sa.Connection) -> None:
        for row in [*anew, *without]:
            own = (kafka_position.c.stage == stage) & (kafka_position.c.topic == row.topic)
            same = kafka_position.c.topic_id == row.topic_id if row in anew else kafka_position.c.topic_id.is_(None)
            new = {"topic_id": topic_ids[row.topic]} | ({"next_offset": 0} if row in anew else {})
            connection.execute(
                sa.update(kafka_position).where(own & (kafka_position.c.partition == row.partition) & same).values(new)
            )

    if anew or without:
        # A crash after it begins at the beginning, too; one before it finds the same.
        database.writing(work)
    for row in anew:
        made_anew(row.topic, row.partition, row.next_offset)
    gone = {(row.topic, row.partition) for row in anew}
    return {(row.topic, row.partition): row.next_offset for row in rows if (row.topic, row.partition) not in gone}


def write_positions(
    connection: sa.Connection, stage: str, positions: Positions, topic_ids: Mapping[str, str] = NO_TOPIC_IDS
) -> None:
    """Move the positions of `stage` within the caller's transaction; `topic_ids` as they were before any of it was read."""
    upsert(
        connection,
        kafka_position,
        [
            {
                "stage": stage, "topic": topic, "partition": partition, "next_offset": offset,
                "topic_id": topic_ids.get(topic),
            }
            for (topic, partition), offset in positions.items()
        ],
        update=("next_offset", "topic_id"),
    )  # fmt: skip


class Silence:
    """Tells a holder who renews no more by a stop-watch: its lease stays as it is for longer than a lease lasts.

    A lease's end is an instant of the holder's clock. Where that clock was ahead and was set right since, it is hours away.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: tuple[str, datetime] | None = None
        self._since = 0.0

    def lasts(self, holder: str, expires_at: datetime, seconds: float) -> bool:
        """Note what the lease is now; return whether it has been that for longer than `seconds`."""
        if self._seen != (holder, expires_at):
            self._seen, self._since = (holder, expires_at), self._monotonic()
        return self._monotonic() - self._since > seconds


def take_lease(
    database: CaseDatabase, name: str, holder: str, now: datetime, seconds: float, silence: Silence | None = None
) -> int | None:
    """Take or extend the lease `name` for `holder`; return its fencing number, or None while somebody else holds it.

    Whoever asks again and again passes one `silence`.
    """

    def work(connection: sa.Connection) -> int | None:
        wanted = sa.select(lease).where(lease.c.name == name).with_for_update()
        row = connection.execute(wanted).mappings().first()
        if row is None:
            # a row that nobody holds: of several first comers each finds it then, and the lock lets one of them through
            upsert(connection, lease, [{"name": name, "holder": "", "fencing": 0, "expires_at": _LONG_AGO}])
            row = connection.execute(wanted).mappings().one()
        if row["holder"] != holder and row["expires_at"] > now:
            if silence is None or not silence.lasts(row["holder"], row["expires_at"], seconds):
                return None
            log.warning("a lease is taken whose holder is silent, though by its clock it has not ended", lease=name)
        fencing = int(row["fencing"]) + (0 if row["holder"] == holder else 1)
        connection.execute(
            sa.update(lease)
            .where(lease.c.name == name)
            .values(holder=holder, fencing=fencing, expires_at=now + timedelta(seconds=seconds))
        )
        return fencing

    return database.writing(work)


def release_lease(database: CaseDatabase, name: str, holder: str) -> None:
    """Give the lease up, so that a successor need not wait for its end."""
    with database.write() as connection:
        held = (lease.c.name == name) & (lease.c.holder == holder)
        connection.execute(sa.update(lease).where(held).values(expires_at=_LONG_AGO))
