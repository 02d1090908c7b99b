"""Who came late and in which addition, supplements of those who were told, confirmed scopes that match everybody"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "everybody_confirmation",
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("scope_sha256", sa.String(length=64), nullable=False),
        sa.Column("affected_count", sa.Integer(), nullable=False),
        sa.Column("people_count", sa.Integer(), nullable=True, comment="all whom the index knows; null: not known"),
        sa.Column("confirmed_at", tables.Instant(), nullable=False),
        sa.Column("confirmed_by", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("incident_id", "scope_sha256", name=op.f("pk_everybody_confirmation")),
    )
    op.create_table(
        "late_addition",
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("added_at", tables.Instant(), nullable=False),
        sa.Column("member_count", sa.Integer(), nullable=False),
        sa.Column(
            "merkle_root", sa.String(length=64), nullable=False, comment="over its members' leaves, sorted by root"
        ),
        sa.PrimaryKeyConstraint("incident_id", "revision", "number", name=op.f("pk_late_addition")),
    )
    op.create_table(
        "late_member",
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column(
            "member_leaf",
            sa.String(length=64),
            nullable=False,
            comment="of the event as it came: what came twice is one",
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("known", sa.Boolean(), nullable=False, comment="true: a member already, of whom more was found"),
        sa.PrimaryKeyConstraint("incident_id", "revision", "root", "member_leaf", name=op.f("pk_late_member")),
    )
    with op.batch_alter_table("late_member", schema=None) as batch_op:
        batch_op.create_index(
            "ix_late_member_incident_revision_number", ["incident_id", "revision", "number"], unique=False
        )
    with op.batch_alter_table("recipient", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("round", sa.Integer(), server_default="1", nullable=False, comment="2 and up: a supplement")
        )
        batch_op.add_column(
            sa.Column(
                "supplements",
                sa.String(length=100),
                nullable=True,
                comment="the first round's recipient id; null: this is it",
            )
        )
        batch_op.add_column(
            sa.Column(
                "added_at",
                tables.Instant(),
                nullable=True,
                comment="when the late record came that added or supplements; null: in time",
            )
        )
        batch_op.add_column(
            sa.Column(
                "notice_sha256",
                sa.String(length=64),
                nullable=True,
                comment="equal in two incidents: they would tell the same",
            )
        )
        batch_op.add_column(
            sa.Column(
                "told_in",
                sa.String(length=100),
                nullable=True,
                comment="the recipient id, of another incident, that told the same",
            )
        )
        batch_op.add_column(
            sa.Column(
                "correction",
                sa.String(length=16),
                nullable=True,
                comment="not_concerned, told_too_much: was told what is not true of them",
            )
        )
        batch_op.create_index("ix_recipient_root_notice", ["root", "notice_sha256"], unique=False)
        batch_op.create_index(batch_op.f("ix_recipient_supplements"), ["supplements"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("recipient", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_recipient_supplements"))
        batch_op.drop_index("ix_recipient_root_notice")
        for name in ("correction", "told_in", "notice_sha256", "added_at", "supplements", "round"):
            batch_op.drop_column(name)
    op.drop_table("late_member")
    op.drop_table("late_addition")
    op.drop_table("everybody_confirmation")
