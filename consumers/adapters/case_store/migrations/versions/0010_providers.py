"""How providers stand, what people ordered of them, and findings that somebody overrode"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store.tables import Instant

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "provider_circuit",
        sa.Column("dispatcher", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="closed, open, half_open"),
        sa.Column("since", Instant(), nullable=False),
        sa.Column(
            "try_at",
            Instant(),
            nullable=True,
            comment="when an open one is tried again; null: by order, until a person ends it",
        ),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("error_share", sa.Float(), nullable=False),
        sa.Column("mean_seconds", sa.Float(), nullable=False),
        sa.Column("told_at", Instant(), nullable=False, comment="one that fell silent says nothing any more"),
        sa.PrimaryKeyConstraint("dispatcher", "provider", name=op.f("pk_provider_circuit")),
    )
    op.create_table(
        "provider_order",
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column(
            "wanted",
            sa.String(length=16),
            nullable=False,
            comment="open: no message goes there; closed: it learns by itself",
        ),
        sa.Column("ordered_at", Instant(), nullable=False),
        sa.Column("ordered_by", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_provider_order")),
    )
    op.create_table(
        "preflight_override",
        sa.Column("release_id", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False, comment="of the finding; why stands in the table act"),
        sa.Column("overridden_by", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("overridden_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("release_id", "code", name=op.f("pk_preflight_override")),
    )
