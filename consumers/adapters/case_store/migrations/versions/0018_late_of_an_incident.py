"""How many came late is counted by an index: asked with each portion of a release, where all of a million were looked at"""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_index("ix_recipient_incident_late", "recipient", ["incident_id", "late"])
