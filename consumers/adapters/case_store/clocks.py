"""The clocks of open incidents, and the marks already told: one page and one case event a mark, however often asked."""

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import CaseEvent
from bridge.contracts.topics import CASE_EVENTS
from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import incident, obligation, page
from consumers.domain.clocks import MISSED_PERCENT, Mark, RunningClock


class Clocks:
    """Implements what the clock stage asks for."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def running(self) -> Sequence[RunningClock]:
        """Return the clock of every duty that is owed, has a date and is not met, in open incidents."""
        planned = obligation.alias()
        deadline = sa.func.coalesce(
            obligation.c.deadline_at, obligation.c.conservative_deadline_at, type_=incident.c.detected_at.type
        )
        # a corrected scope is planned anew, which takes as long as its slowest partition: until then the duties known
        # before go on being watched
        newest = sa.select(sa.func.max(planned.c.revision)).where(planned.c.incident_id == incident.c.incident_id)
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(obligation, incident.c.detected_at, incident.c.exercise, deadline.label("watched"))
                .select_from(obligation)
                .join(
                    incident,
                    (incident.c.incident_id == obligation.c.incident_id)
                    & (obligation.c.revision == newest.correlate(incident).scalar_subquery()),
                )
                .where(
                    incident.c.closed_at.is_(None)
                    & (incident.c.state != "dismissed")
                    & obligation.c.met_at.is_(None)
                    & obligation.c.status.in_(("due", "pending"))
                    & deadline.is_not(None)
                )
            ).mappings()
            return tuple(
                RunningClock(
                    incident_id=row["incident_id"],
                    revision=row["revision"],
                    controller=row["controller"],
                    regime_id=row["regime_id"],
                    recipient=row["recipient"],
                    started_at=row["detected_at"],
                    deadline_at=row["watched"],
                    conservative=row["deadline_at"] is None,
                    exercise=bool(row["exercise"]),
                )
                for row in rows
            )

    def tell(self, marks: Sequence[Mark]) -> int:
        """Page and log the marks not yet told; return how many were new. Page and event are one transaction."""
        now = self._clock.now()

        def work(connection: sa.Connection) -> int:
            by_id = {_page_id(mark): mark for mark in marks}
            known = set(connection.execute(sa.select(page.c.page_id).where(page.c.page_id.in_(list(by_id)))).scalars())
            new = {page_id: mark for page_id, mark in by_id.items() if page_id not in known}
            if new:
                connection.execute(sa.insert(page), [_page(page_id, mark, now) for page_id, mark in new.items()])
                outbox.append(connection, (_event(page_id, mark, now) for page_id, mark in new.items()), now)
            return len(new)

        return self._database.writing(work)


def _page_id(mark: Mark) -> str:
    clock = mark.clock
    told = (
        clock.incident_id,
        clock.revision,
        clock.controller,
        clock.regime_id,
        clock.deadline_at.isoformat(),
        mark.percent,
    )
    return hashlib.sha256("/".join(map(str, told)).encode()).hexdigest()


def _page(page_id: str, mark: Mark, now: Any) -> dict[str, Any]:
    clock = mark.clock
    missed = mark.percent == MISSED_PERCENT
    counted = "conservative" if clock.conservative else "recorded"
    title = (
        f"{clock.incident_id}: {clock.regime_id} deadline missed"
        if missed
        else f"{clock.incident_id}: {mark.percent} % of the time for {clock.regime_id} has passed"
    )
    return {
        "page_id": page_id,
        "incident_id": clock.incident_id,
        "kind": "deadline.missed" if missed else "deadline.warned",
        "severity": "critical" if mark.percent >= 90 else "warning",
        "roles": ["dpo", "responder"],
        "title": title,
        "body": {
            "recipient": clock.recipient,
            "deadline_at": clock.deadline_at.isoformat(),
            "counted": counted,
            "next": f"tocsin incident show {clock.incident_id}",
        },
        "raised_at": now,
    }


def _event(page_id: str, mark: Mark, now: Any) -> outbox.Outgoing:
    clock = mark.clock
    return outbox.Outgoing(
        CASE_EVENTS,
        root=clock.incident_id,
        key=clock.incident_id,
        event_id=page_id,
        event=CaseEvent(
            case_event_id=page_id,
            kind="deadline.missed" if mark.percent == MISSED_PERCENT else "deadline.warned",
            incident_id=clock.incident_id,
            actor=None,
            occurred_at=now,
            body={
                "regime_id": clock.regime_id,
                "percent": mark.percent,
                "deadline_at": clock.deadline_at.isoformat().replace("+00:00", "Z"),
                "conservative": clock.conservative,
            },
            exercise=clock.exercise,
        ),
    )
