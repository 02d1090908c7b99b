"""Who came late found without looking at everybody: asked once a second for as long as an incident is open"""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_index(op.f("ix_recipient_added_at"), "recipient", ["added_at"])
