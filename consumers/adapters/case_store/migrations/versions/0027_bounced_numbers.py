"""Which telephone number an SMS went to, and which bounced for good, by its hash alone: the same under another root"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.add_column(
        "attempt",
        sa.Column(
            "phone_hmac", sa.String(64), comment="keyed hash of the number that an SMS was sent to; null: not known"
        ),
    )
    op.add_column(
        "hard_bounce",
        sa.Column("phone_hmac", sa.String(64), comment="keyed hash of the telephone number alone; null: not known"),
    )
    op.create_index("ix_hard_bounce_phone_hmac", "hard_bounce", ["phone_hmac"])
