"""Who leaves out possibly affected people, and what the store itself answered"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "exclusion",
        sa.Column("exclusion_id", sa.String(length=32), nullable=False),
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("people_count", sa.Integer(), nullable=False, comment="accounts and orders that it left out"),
        sa.Column(
            "coverage_sha256",
            sa.String(length=64),
            nullable=False,
            comment="of the coverage that the decision rests on",
        ),
        sa.Column("decided_at", tables.Instant(), nullable=False),
        sa.Column("decided_by", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("withdrawn_at", tables.Instant(), nullable=True),
        sa.Column("withdrawn_by", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("exclusion_id", name=op.f("pk_exclusion")),
    )
    with op.batch_alter_table("exclusion", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_exclusion_incident_id"), ["incident_id"], unique=False)

    op.create_table(
        "crosscheck",
        sa.Column("crosscheck_id", sa.String(length=32), nullable=False),
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("checked_at", tables.Instant(), nullable=False),
        sa.Column("checked_by", sa.String(length=100), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False, comment="people in both answers, and differences by cause"),
        sa.Column("unexplained_count", sa.Integer(), nullable=False),
        sa.Column(
            "unexplained_sha256",
            sa.String(length=64),
            nullable=False,
            comment="of the roots whose difference nothing explains",
        ),
        sa.Column(
            "named_at",
            tables.Instant(),
            nullable=True,
            comment="when a person took responsibility for what is unexplained",
        ),
        sa.Column("named_by", sa.String(length=100), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("crosscheck_id", name=op.f("pk_crosscheck")),
    )
    with op.batch_alter_table("crosscheck", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_crosscheck_incident_id"), ["incident_id"], unique=False)

    with op.batch_alter_table("affected", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "exclusion_id",
                sa.String(length=32),
                nullable=True,
                comment="who left out this possibly affected person; void once there is a record",
            )
        )


def downgrade() -> None:
    with op.batch_alter_table("affected", schema=None) as batch_op:
        batch_op.drop_column("exclusion_id")

    with op.batch_alter_table("crosscheck", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_crosscheck_incident_id"))

    op.drop_table("crosscheck")
    with op.batch_alter_table("exclusion", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_exclusion_incident_id"))

    op.drop_table("exclusion")
