"""Plans of which only some people are drawn up anew"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column(
        "plan",
        sa.Column(
            "partly_drawn",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="some of its people are as drawn up last, others as before: nothing is prepared or approved",
        ),
    )
