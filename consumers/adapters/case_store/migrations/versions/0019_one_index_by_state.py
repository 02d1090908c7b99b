"""Attempts lie in one index by their states, which is by incident: each change of a state moved them in a second one, too"""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.drop_index("ix_attempt_state_state_at", "attempt")
