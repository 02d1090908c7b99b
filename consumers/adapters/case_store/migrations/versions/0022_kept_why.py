"""Why a message is kept back for a while is kept beside until when, for whoever watches"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "kept_why",
            sa.String(16),
            comment="gate, region, told_elsewhere, deferred: why until then; null: another reason",
        ),
    )
