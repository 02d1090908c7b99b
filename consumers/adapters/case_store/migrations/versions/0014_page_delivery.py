"""What each receiver knows of each page"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "page_delivery",
        sa.Column("page_id", sa.String(64), nullable=False),
        sa.Column("receiver", sa.String(32), nullable=False),
        sa.Column("delivered_at", tables.Instant(), nullable=True, comment="when the receiver last took it"),
        sa.Column("tried_at", tables.Instant(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False, comment="in a row"),
        sa.Column(
            "settled", sa.Boolean(), nullable=False, comment="the receiver knows that somebody has acknowledged it"
        ),
        sa.PrimaryKeyConstraint("page_id", "receiver", name=op.f("pk_page_delivery")),
    )
