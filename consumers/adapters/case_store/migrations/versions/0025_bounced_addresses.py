"""Which address bounced for good, by its hash alone: the same under another root, and beside another telephone number"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column(
        "hard_bounce",
        sa.Column("email_hmac", sa.String(64), comment="keyed hash of the e-mail address alone; null: not known"),
    )
    op.create_index("ix_hard_bounce_email_hmac", "hard_bounce", ["email_hmac"])
