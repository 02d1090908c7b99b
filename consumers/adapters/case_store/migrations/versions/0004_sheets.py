"""Which sheet an approver saw"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("approval", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "sheet_sha256",
                sa.String(length=64),
                nullable=True,
                comment="the sheet that the approver saw, in the artefact store",
            )
        )
