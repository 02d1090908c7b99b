"""Rows of public communication: what stands, and whose notice it stands in for. SQL only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import Residence
from consumers.adapters.case_store.engine import in_parts
from consumers.adapters.case_store.tables import publication, recipient
from consumers.case.records import PublicationRecord
from consumers.domain.persons import homes_of
from consumers.domain.publication import Publication, stand_in


class PublicationRows:
    """What recording a publication reads and writes."""

    _connection: sa.Connection

    def publications(self, incident_id: str) -> Sequence[PublicationRecord]:
        rows = self._connection.execute(
            sa.select(publication)
            .where(publication.c.incident_id == incident_id)
            .order_by(publication.c.starts_at, publication.c.publication_id)
        ).mappings()
        return [PublicationRecord(**row) for row in rows]

    def add_publication(self, record: PublicationRecord) -> None:
        self._connection.execute(sa.insert(publication).values(**asdict(record)))

    def withdraw_publication(self, publication_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.update(publication)
            .where(publication.c.publication_id == publication_id)
            .values(withdrawn_at=at, withdrawn_by=by)
        )


def publications_of(
    connection: sa.Connection, incident_id: str, now: datetime, *, stood: bool = False
) -> list[Publication]:
    """Return what stands at `now`; with `stood` also what stood its whole time."""
    rows = connection.execute(
        sa.select(publication).where(
            (publication.c.incident_id == incident_id)
            & (publication.c.starts_at <= now)
            & publication.c.withdrawn_at.is_(None)
            & (sa.true() if stood else publication.c.ends_at > now)
        )
    ).mappings()
    return [
        Publication(
            row["publication_id"], row["medium"], row["controller"], tuple(row["covers"]),
            {regime: frozenset(media) for regime, media in row["needs"].items()},
        )
        for row in rows
    ]  # fmt: skip


def stood_in_for(
    connection: sa.Connection, recipient_ids: Sequence[str], standing: Sequence[Publication]
) -> Mapping[str, tuple[str, ...]]:
    """Return of `recipient_ids` those whose notice `standing` stands in for, each with the publications that do."""
    found: dict[str, tuple[str, ...]] = {}
    for some in in_parts(recipient_ids if standing else ()):
        rows = connection.execute(
            sa.select(
                recipient.c.recipient_id, recipient.c.jurisdictions, recipient.c.residence, recipient.c.controller
            ).where(recipient.c.recipient_id.in_(some))
        )
        for row in rows:
            homes = homes_of([Residence.model_validate(claim) for claim in row.residence])
            if used := stand_in(row.jurisdictions, homes, row.controller, standing):
                found[row.recipient_id] = used
    return found


def published(connection: sa.Connection, now: datetime) -> Mapping[str, Any]:
    """Return by incident what of its publications has begun, and which of them do not stand any more."""
    marks: dict[str, list[Any]] = {}
    for row in connection.execute(
        sa.select(
            publication.c.incident_id, publication.c.publication_id, publication.c.withdrawn_at, publication.c.ends_at
        )
        .where(publication.c.starts_at <= now)
        .order_by(publication.c.publication_id)
    ):
        marks.setdefault(row.incident_id, []).append((row.publication_id, row.withdrawn_at, row.ends_at <= now))
    return marks
