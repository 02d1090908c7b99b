"""Corrections of what people were told wrongly"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("recipient", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "is_correction",
                sa.Boolean(),
                server_default=sa.false(),
                nullable=False,
                comment="puts right what `supplements` was told; planning leaves it alone",
            )
        )
