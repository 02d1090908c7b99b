"""Messages whose provider's id a restored case store lacks: known again by the hash that the evidence log has of it"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.create_table(
        "lost_message",
        sa.Column("attempt_id", sa.String(64), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column(
            "message_sha256",
            sa.String(64),
            nullable=False,
            comment="of the attempt's salt and the provider's id, as logged",
        ),
        sa.Column("lost_at", tables.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_lost_message")),
    )
