"""Whether a release began before another was cancelled, by the incident's epoch: the clocks of two machines do not say it"""

from collections import defaultdict
from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column(
        "release", sa.Column("started_epoch", sa.Integer, comment="the incident's, as it was approved; null: not known")
    )
    op.add_column(
        "release",
        sa.Column("stopped_epoch", sa.Integer, comment="the incident's, as it was cancelled or void; null: not known"),
    )
    release = sa.table(
        "release",
        sa.column("release_id", sa.String),
        sa.column("incident_id", sa.String),
        sa.column("state", sa.String),
        sa.column("released_at", sa.DateTime),
        sa.column("stopped_at", sa.DateTime),
        sa.column("started_epoch", sa.Integer),
        sa.column("stopped_epoch", sa.Integer),
    )
    connection = op.get_bind()
    events: dict[str, list[tuple[datetime, str, str]]] = defaultdict(list)
    for row in connection.execute(sa.select(release)):
        if row.released_at is not None:
            events[row.incident_id].append((row.released_at, "started_epoch", row.release_id))
        if row.state == "cancelled" and row.stopped_at is not None:
            events[row.incident_id].append((row.stopped_at, "stopped_epoch", row.release_id))
    for of_incident in events.values():
        # below every epoch to come, in the order that their clocks gave
        for place, (_, column, release_id) in enumerate(sorted(of_incident), -len(of_incident)):
            connection.execute(
                sa.update(release).where(release.c.release_id == release_id).values({release.c[column]: place})
            )
