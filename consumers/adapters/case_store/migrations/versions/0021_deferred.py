"""Since when a recipient's own server puts a message off is kept, so that their next channel begins in time"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store.tables import Instant

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "deferred_at", Instant, comment="since then its recipient's own server puts it off; null: it does not"
        ),
    )
