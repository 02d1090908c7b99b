"""Which pages stand, and what each receiver knows of them. Read and written by stage pager."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.runtime.clock import Clock
from consumers.adapters.case_store.clocks import Clocks
from consumers.adapters.case_store.engine import CaseDatabase, in_parts, upsert
from consumers.adapters.case_store.tables import incident, page, page_delivery, resolution
from consumers.domain.paging import Sent, StandingPage


class PagingTable:
    """Implements what the pager stage asks for."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clocks = Clocks(database, clock)

    def standing(self) -> Sequence[StandingPage]:
        """Return every page that nobody has acknowledged, and those of which a receiver still has to hear that somebody did.

        A page of an incident that has ended counts as acknowledged.
        """
        untold = (
            sa.exists()
            .where(
                (page_delivery.c.page_id == page.c.page_id)
                & page_delivery.c.delivered_at.is_not(None)
                & ~page_delivery.c.settled
            )
            .correlate(page)
        )
        ended = incident.c.closed_at.is_not(None) | (incident.c.state == "dismissed")
        settled = page.c.acknowledged_at.is_not(None) | sa.func.coalesce(ended, sa.false())
        with self._database.read() as connection:
            rows = (
                connection.execute(
                    sa.select(page, settled.label("settled"), incident.c.exercise)
                    .select_from(page.outerjoin(incident, incident.c.incident_id == page.c.incident_id))
                    .where(~settled | untold)
                    .order_by(page.c.raised_at)
                )
                .mappings()
                .all()
            )
            affected = _affected(connection, {row["incident_id"] for row in rows if not row["settled"]})
        deadlines = self._deadlines() if any(not row["settled"] for row in rows) else {}
        return [
            StandingPage(
                page_id=row["page_id"],
                incident_id=row["incident_id"],
                kind=row["kind"],
                severity=row["severity"],
                title=row["title"],
                facts={**row["body"], **affected.get(row["incident_id"], {})},
                next_command=row["body"].get("next"),
                raised_at=row["raised_at"],
                settled=bool(row["settled"]),
                exercise=bool(row["exercise"]),
                deadline_at=deadlines.get(row["incident_id"]),
            )
            for row in rows
        ]

    def sent(self, pages: Sequence[StandingPage]) -> Mapping[str, Mapping[str, Sent]]:
        """Return, by page id and receiver, what receivers know of `pages`."""
        found: dict[str, dict[str, Sent]] = {}
        ids = [each.page_id for each in pages]
        with self._database.read() as connection:
            for some in in_parts(ids):
                chosen = page_delivery.c.page_id.in_(some)
                for row in connection.execute(sa.select(page_delivery).where(chosen)).mappings():
                    found.setdefault(row["page_id"], {})[row["receiver"]] = Sent(
                        row["delivered_at"], row["failures"], row["tried_at"], settled=bool(row["settled"])
                    )
        return found

    def record(self, page_id: str, receiver: str, sent: Sent) -> None:
        """Write what `receiver` knows now. A crash before it tells the receiver once more, under the same key."""
        row = {
            "page_id": page_id,
            "receiver": receiver,
            "delivered_at": sent.delivered_at,
            "tried_at": sent.tried_at,
            "failures": sent.failures,
            "settled": sent.settled,
        }
        with self._database.write() as connection:
            upsert(connection, page_delivery, [row], update=["delivered_at", "tried_at", "failures", "settled"])

    def _deadlines(self) -> dict[str, datetime]:
        earliest: dict[str, datetime] = {}
        for clock in self._clocks.running():
            known = earliest.get(clock.incident_id)
            earliest[clock.incident_id] = clock.deadline_at if known is None else min(known, clock.deadline_at)
        return earliest


def _affected(connection: sa.Connection, incident_ids: set[str | None]) -> dict[str | None, dict[str, Any]]:
    """Return how many people the newest revision of each incident has found, as far as partitions have answered."""
    rows = connection.execute(
        sa.select(
            resolution.c.incident_id,
            sa.func.sum(resolution.c.affected_count).label("affected"),
            sa.func.sum(resolution.c.possible_count).label("possible"),
        )
        .join(
            incident,
            (incident.c.incident_id == resolution.c.incident_id) & (incident.c.revision == resolution.c.revision),
        )
        .where(resolution.c.incident_id.in_([each for each in incident_ids if each is not None]))
        .group_by(resolution.c.incident_id)
    ).mappings()
    return {
        row["incident_id"]: {"affected_count": int(row["affected"]), "possible_count": int(row["possible"])}
        for row in rows
    }
