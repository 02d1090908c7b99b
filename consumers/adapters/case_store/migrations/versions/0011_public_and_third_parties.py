"""Notices that stand in public, addresses that bounced for good, and what third parties are told"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "publication",
        sa.Column("publication_id", sa.String(length=32), nullable=False),
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("controller", sa.String(length=64), nullable=False),
        sa.Column("medium", sa.String(length=32), nullable=False, comment="website_posting, state_media"),
        sa.Column("covers", sa.JSON(), nullable=False, comment="jurisdictions whose people it is for, or ['*']"),
        sa.Column("needs", sa.JSON(), nullable=False, comment="regime -> media that make up its substitute notice"),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column(
            "file_sha256",
            sa.String(length=64),
            nullable=False,
            comment="the saved page or clipping that somebody looked at",
        ),
        sa.Column("text_sha256", sa.String(length=64), nullable=False, comment="the approved text"),
        sa.Column("as_written", sa.Boolean(), nullable=False, comment="the file is the approved text, byte for byte"),
        sa.Column("bundle_sha256", sa.String(length=64), nullable=False),
        sa.Column("locale", sa.String(length=16), nullable=False),
        sa.Column("starts_at", tables.Instant(), nullable=False),
        sa.Column("ends_at", tables.Instant(), nullable=False),
        sa.Column("recorded_by", sa.String(length=100), nullable=False),
        sa.Column("recorded_role", sa.String(length=32), nullable=False),
        sa.Column("recorded_at", tables.Instant(), nullable=False),
        sa.Column("withdrawn_at", tables.Instant(), nullable=True, comment="it did not stand, or not long enough"),
        sa.Column("withdrawn_by", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("publication_id", name=op.f("pk_publication")),
    )
    op.create_index(op.f("ix_publication_incident_id"), "publication", ["incident_id"], unique=False)
    op.create_table(
        "hard_bounce",
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column(
            "contact_digest",
            sa.String(length=64),
            nullable=False,
            comment="keyed hash of the contact; empty: not known",
        ),
        sa.Column("bounced_at", tables.Instant(), nullable=False),
        sa.Column("attempt_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("root", "channel", "contact_digest", name=op.f("pk_hard_bounce")),
    )
    op.create_table(
        "third_party_notice",
        sa.Column("notice_id", sa.String(length=32), nullable=False),
        sa.Column("release_id", sa.String(length=64), nullable=False),
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("party", sa.String(length=64), nullable=False),
        sa.Column("topic_arn", sa.Text(), nullable=False),
        sa.Column("document", tables.LongText, nullable=False, comment="what is published: ids and counts"),
        sa.Column("document_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="planned, intended, published"),
        sa.Column("state_at", tables.Instant(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column(
            "code", sa.String(length=64), nullable=True, comment="the provider's word for why the last try failed"
        ),
        sa.Column("message_id", sa.String(length=200), nullable=True),
        sa.Column("message_salt", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_third_party_notice")),
        sa.UniqueConstraint("release_id", "party", name=op.f("uq_third_party_notice_release_id_party")),
    )
    op.create_index(op.f("ix_third_party_notice_incident_id"), "third_party_notice", ["incident_id"], unique=False)
