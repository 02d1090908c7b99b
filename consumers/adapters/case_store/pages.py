"""Rows of pages: who must look at what. Delivering them to telephones is the pager's business."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import page, page_delivery
from consumers.case.records import PageRecord


def raise_pages(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise pages; one that had ended by itself stands again. One that a person has acknowledged stays so."""
    upsert(connection, page, rows)
    by_id = {row["page_id"]: row for row in rows}
    back = (
        connection.execute(
            sa.select(page.c.page_id).where(
                page.c.page_id.in_(list(by_id)) & page.c.acknowledged_at.is_not(None) & page.c.acknowledged_by.is_(None)
            )
        )
        .scalars()
        .all()
    )
    for page_id in back:
        row = by_id[page_id]
        connection.execute(
            sa.update(page)
            .where(page.c.page_id == page_id)
            .values(acknowledged_at=None, raised_at=row["raised_at"], title=row["title"], body=row["body"])
        )
        # whoever was told that it had ended is told anew
        connection.execute(sa.delete(page_delivery).where(page_delivery.c.page_id == page_id))


def keep_page(
    connection: sa.Connection,
    kind: str,
    rows: Mapping[str, Mapping[str, Any]],
    now: datetime,
    *,
    but: Collection[str] = (),
) -> None:
    """Let of the pages of one kind `rows`, by id, stand, and no other: what has no cause any more ends by itself. `but`:
    incidents whose pages are left as they are.
    """
    unanswered = (page.c.kind == kind) & page.c.acknowledged_at.is_(None)
    found = connection.execute(sa.select(page.c.page_id, page.c.incident_id).where(unanswered)).all()
    stand = {row.page_id for row in found}
    if over := sorted(row.page_id for row in found if row.page_id not in rows and row.incident_id not in but):
        connection.execute(sa.update(page).where(unanswered & page.c.page_id.in_(over)).values(acknowledged_at=now))
    raise_pages(connection, [row for page_id, row in sorted(rows.items()) if page_id not in stand])


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
