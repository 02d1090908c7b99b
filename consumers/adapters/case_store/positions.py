"""Kafka positions of the stages that write SQL, moved in the same transaction as their results; and leases."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog

from bridge.runtime.kafka import Positions
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.tables import kafka_position, lease

log = structlog.get_logger()

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def read_positions(database: CaseDatabase, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
    """Return the next offset that `stage` must read, for those of `partitions` that it has read before."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(kafka_position.c.topic, kafka_position.c.partition, kafka_position.c.next_offset).where(
                kafka_position.c.stage == stage
            )
        )
        wanted = set(partitions)
        return {(row.topic, row.partition): row.next_offset for row in rows if (row.topic, row.partition) in wanted}


def write_positions(connection: sa.Connection, stage: str, positions: Positions) -> None:
    """Move the positions of `stage` within the caller's transaction."""
    upsert(
        connection,
        kafka_position,
        [
            {"stage": stage, "topic": topic, "partition": partition, "next_offset": offset}
            for (topic, partition), offset in positions.items()
        ],
        update=("next_offset",),
    )


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
