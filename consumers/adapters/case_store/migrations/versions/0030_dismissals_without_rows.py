"""A false alert of which there are no leaked rows may be dismissed: such a dismissal names no match test"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0027"


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
