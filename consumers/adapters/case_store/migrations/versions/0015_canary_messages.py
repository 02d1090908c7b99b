"""Messages to simulators and to ourselves by which delivery is tried"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "canary_message",
        sa.Column("message_id", sa.String(32), nullable=False),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("region", sa.String(32), nullable=False, comment="none: the provider has none"),
        sa.Column("purpose", sa.String(16), nullable=False, comment="canary: by itself; check: somebody asked"),
        sa.Column("expects", sa.String(32), nullable=False, comment="the receipt with which it has arrived"),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("began_at", tables.Instant(), nullable=False),
        sa.Column("settled_at", tables.Instant(), nullable=True, comment="when it arrived or failed"),
        sa.Column("provider_message_id", sa.String(200), nullable=True),
        sa.Column("code", sa.String(100), nullable=True, comment="why it failed"),
        sa.Column("kinds", sa.JSON(), nullable=False, comment="receipts in the order of their coming"),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_canary_message")),
    )
    op.create_index(op.f("ix_canary_message_began_at"), "canary_message", ["began_at"])
    op.create_index("ix_canary_message_route", "canary_message", ["channel", "provider", "region", "began_at"])
    op.create_index("ix_canary_message_provider_message", "canary_message", ["provider", "provider_message_id"])
