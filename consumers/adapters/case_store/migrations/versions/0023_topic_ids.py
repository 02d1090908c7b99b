"""A position is of one topic: a topic that was deleted and made anew has another id, and other messages at its offsets"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column(
        "kafka_position",
        sa.Column("topic_id", sa.String(64), comment="of the topic that the offset is of; null: the broker told none"),
    )
