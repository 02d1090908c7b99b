"""Requests to be forgotten, and what comparisons with the log found"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store.tables import Instant

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "erasure",
        sa.Column("erasure_id", sa.String(length=32), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False, comment="as asked for"),
        sa.Column("roots", sa.JSON(), nullable=False, comment="everything that was this person, once carried out"),
        sa.Column("requested_at", Instant(), nullable=False),
        sa.Column("requested_by", sa.String(length=100), nullable=False),
        sa.Column("carried_out_at", Instant(), nullable=True, comment="null: held by an open incident"),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasure")),
    )
    op.create_index(op.f("ix_erasure_root"), "erasure", ["root"], unique=False)
    op.create_table(
        "reconciliation",
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("reconciled_at", Instant(), nullable=False),
        sa.Column("log_size", sa.BigInteger(), nullable=False),
        sa.Column("difference_count", sa.Integer(), nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False, comment="between ledger, log and receipts, in words"),
        sa.PrimaryKeyConstraint("incident_id", name=op.f("pk_reconciliation")),
    )
