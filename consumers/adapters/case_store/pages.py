"""Rows of pages: who must look at what. Delivering them to telephones is the pager's business."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa

from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import page
from consumers.case.store import PageRecord


class PageRows:
    """Pages of incidents."""

    _connection: sa.Connection

    def raise_page(self, record: PageRecord) -> None:
        upsert(self._connection, page, [asdict(record)])

    def pages(self, incident_id: str) -> Sequence[PageRecord]:
        rows = self._connection.execute(
            sa.select(page).where(page.c.incident_id == incident_id).order_by(page.c.raised_at)
        ).mappings()
        return [PageRecord(**row) for row in rows]

    def acknowledge_pages(self, incident_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.update(page)
            .where((page.c.incident_id == incident_id) & page.c.acknowledged_at.is_(None))
            .values(acknowledged_at=at, acknowledged_by=by)
        )

    def end_pages(self, incident_id: str, kinds: Sequence[str], *, by: str | None, at: datetime) -> None:
        about = (page.c.incident_id == incident_id) & page.c.kind.in_(kinds)
        self._connection.execute(
            sa.update(page)
            .where(about & page.c.acknowledged_at.is_(None))
            .values(acknowledged_at=at, acknowledged_by=by)
        )

    def acknowledge_page(self, page_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.update(page)
            .where((page.c.page_id == page_id) & page.c.acknowledged_at.is_(None))
            .values(acknowledged_at=at, acknowledged_by=by)
        )
