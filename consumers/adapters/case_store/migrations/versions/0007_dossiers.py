"""What authorities are told, in versions"""

import sqlalchemy as sa
from alembic import op

from consumers.adapters.case_store import tables

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "dossier",
        sa.Column("dossier_id", sa.String(length=32), nullable=False),
        sa.Column("incident_id", sa.String(length=32), nullable=False),
        sa.Column("controller", sa.String(length=64), nullable=False),
        sa.Column("regime_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="1 and up, for each duty"),
        sa.Column("phase", sa.String(length=16), nullable=False, comment="initial, additional, final"),
        sa.Column("statements", sa.JSON(), nullable=False, comment="what people wrote into it, by field"),
        sa.Column("missing_count", sa.Integer(), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False, comment="JSON in the artefact store"),
        sa.Column("pdf_sha256", sa.String(length=64), nullable=False, comment="PDF in the artefact store"),
        sa.Column("made_at", tables.Instant(), nullable=False),
        sa.Column("made_by", sa.String(length=100), nullable=False),
        sa.Column("submitted_at", tables.Instant(), nullable=True),
        sa.Column("submitted_by", sa.String(length=100), nullable=True),
        sa.Column("reference", sa.String(length=200), nullable=True, comment="the authority's number"),
        sa.PrimaryKeyConstraint("dossier_id", name=op.f("pk_dossier")),
        sa.UniqueConstraint(
            "incident_id", "controller", "regime_id", "version",
            name=op.f("uq_dossier_incident_id_controller_regime_id_version"),
        ),
    )  # fmt: skip
