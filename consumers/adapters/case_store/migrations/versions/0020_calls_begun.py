"""Calls of a provider are counted apart from claims: a dispatcher that dies between the two has called nobody"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "called_count",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="provider calls that may have been made: of the first claim, and of later ones once begun; at most 2",
        ),
    )
    # of those from before nobody knows better than that each was called
    op.execute("UPDATE attempt SET called_count = send_count WHERE send_count > 0")
    if op.get_bind().dialect.name != "sqlite":
        # SQLite keeps no comments
        op.alter_column(
            "attempt",
            "send_count",
            existing_type=sa.Integer(),
            existing_nullable=False,
            comment="claims of this attempt; tells one from the next",
        )
