"""Control over a release: rates and paces of lanes, canaries, holds by segment and person, the order in which attempts go"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "lane_rate",
        sa.Column("incident_id", sa.String(32), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column(
            "per_second", sa.Float(), nullable=False, comment="at most so many of this incident; never above the lane's"
        ),
        sa.Column("set_at", tables.Instant(), nullable=False),
        sa.Column("set_by", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("incident_id", "channel", name=op.f("pk_lane_rate")),
    )
    op.create_table(
        "lane_pace",
        sa.Column("incident_id", sa.String(32), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("per_second", sa.Float(), nullable=False, comment="put on the belt lately"),
        sa.Column("lane_per_second", sa.Float(), nullable=False, comment="what the whole lane may do now"),
        sa.Column("measured_at", tables.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("incident_id", "channel", name=op.f("pk_lane_pace")),
    )
    with op.batch_alter_table("gate", schema=None) as batch_op:
        batch_op.add_column(sa.Column("segments", sa.JSON(), nullable=True, comment="segments that it covers besides"))
        batch_op.add_column(
            sa.Column("people", sa.JSON(), nullable=True, comment="roots of single persons whom it covers besides")
        )
        batch_op.add_column(
            sa.Column(
                "until_at",
                tables.Instant(),
                nullable=True,
                comment="until when it was asked for; it ends when somebody lifts it",
            )
        )
    with op.batch_alter_table("release", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("stopped_at", tables.Instant(), nullable=True, comment="paused or cancelled since then")
        )
        batch_op.add_column(
            sa.Column(
                "canary_state",
                sa.String(16),
                nullable=True,
                comment="testing, passed, held, waived; null: the policy has no canary",
            )
        )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "fallback",
                sa.Boolean(),
                nullable=False,
                server_default=sa.false(),
                comment="not the person's first attempt",
            )
        )
        batch_op.add_column(
            sa.Column(
                "due_at",
                tables.Instant(),
                nullable=False,
                server_default="9999-12-31 00:00:00",
                comment="the person's deadline, for the order of going; the far future where none is owed",
            )
        )
        batch_op.add_column(
            sa.Column(
                "priority",
                sa.Integer(),
                nullable=False,
                server_default="0",
                comment="the segment's: lower goes first",
            )
        )
        batch_op.add_column(
            sa.Column(
                "kept_until",
                tables.Instant(),
                nullable=True,
                comment="somebody may not be told now, says a gate or a region; looked at again then",
            )
        )
    # what is under way keeps its turn
    op.execute("UPDATE attempt SET fallback = (number > 1)")
    op.execute(
        "UPDATE attempt SET due_at = COALESCE((SELECT deadline_at FROM recipient WHERE recipient.recipient_id = "
        "attempt.recipient_id), due_at), priority = COALESCE((SELECT segment.priority FROM recipient JOIN segment ON "
        "segment.segment_id = recipient.segment_id WHERE recipient.recipient_id = attempt.recipient_id), 0) "
        "WHERE state IN ('planned', 'commanded')"
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index(
            "ix_attempt_incident_state_channel_order",
            ["incident_id", "state", "channel", "fallback", "due_at", "priority"],
        )
        batch_op.drop_index("ix_attempt_incident_state")
