"""A false alert of which there are no leaked rows may be dismissed: such a dismissal names no match test. And in which order an
incident's releases began, which the clocks of two machines do not say
"""

from collections import Counter

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    with op.batch_alter_table("dismissal") as batch_op:
        batch_op.alter_column(
            "match_test_id",
            existing_type=sa.String(32),
            nullable=True,
            comment="null: there are no leaked rows to compare",
        )
        batch_op.add_column(
            sa.Column("revision", sa.Integer, comment="of the scope that it was proposed for; null: not known")
        )
    op.add_column(
        "release",
        sa.Column(
            "start_number", sa.Integer, comment="the how manieth of its incident's releases to begin; null: has not"
        ),
    )
    release = sa.table(
        "release",
        sa.column("release_id", sa.String),
        sa.column("incident_id", sa.String),
        sa.column("released_at", sa.DateTime),
        sa.column("start_number", sa.Integer),
    )
    connection = op.get_bind()
    started: Counter[str] = Counter()
    query = sa.select(release).where(release.c.released_at.is_not(None)).order_by(release.c.released_at)
    for row in connection.execute(query).all():
        started[row.incident_id] += 1
        connection.execute(
            sa.update(release)
            .where(release.c.release_id == row.release_id)
            .values(start_number=started[row.incident_id])
        )
