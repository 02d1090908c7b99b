"""How long an attempt's final receipt may take, by its segment's policy"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "timeout_seconds",
                sa.Integer(),
                nullable=True,
                comment="for a final receipt, by the segment's policy; null: settings",
            )
        )
