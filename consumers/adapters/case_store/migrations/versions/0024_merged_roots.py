"""Which roots were merged into a person, to be found by them: who is one person in two incidents is told the same once"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

_PEOPLE_AT_ONCE = 1000


def upgrade() -> None:
    op.create_table(
        "merged_root",
        sa.Column("root", sa.String(64), nullable=False, comment="merged into the recipient besides `recipient.root`"),
        sa.Column("recipient_id", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("root", "recipient_id", name="pk_merged_root"),
    )
    op.create_index("ix_merged_root_recipient_id", "merged_root", ["recipient_id"])
    op.create_index("ix_recipient_told_in", "recipient", ["told_in"])
    recipient = sa.table("recipient", sa.column("recipient_id"), sa.column("root"), sa.column("roots"))
    merged_root = sa.table("merged_root", sa.column("root"), sa.column("recipient_id"))
    connection, last = op.get_bind(), ""
    while True:
        rows = connection.execute(
            sa.select(recipient.c.recipient_id, recipient.c.root, sa.cast(recipient.c.roots, sa.Text).label("roots"))
            .where((recipient.c.recipient_id > last) & sa.cast(recipient.c.roots, sa.Text).like("%,%"))
            .order_by(recipient.c.recipient_id)
            .limit(_PEOPLE_AT_ONCE)
        ).all()
        if not rows:
            return
        merged = [
            {"root": root, "recipient_id": row.recipient_id}
            for row in rows
            for root in sorted(set(json.loads(row.roots)) - {row.root})
        ]
        if merged:
            connection.execute(sa.insert(merged_root), merged)
        last = rows[-1].recipient_id
