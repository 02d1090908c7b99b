"""The clocks of open incidents, and the marks already told: told once, however often asked."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import CaseDatabase, in_parts, upsert
from consumers.adapters.case_store.pages import raise_pages
from consumers.adapters.case_store.tables import (
    ENDED,
    all_told,
    clock_mark,
    duty_met,
    incident,
    obligation,
    page,
    recipient,
    still_concerned,
)
from consumers.domain.clocks import LATE_PEOPLE, MISSED_PERCENT, Mark, RunningClock

_ASK_SECONDS = 5.0
"""How often it is asked whether everybody has been told."""
_IN_ONE_PAGE = 20
"""Clocks that a page names; of more it says how many."""


class Clocks:
    """Implements what the clock stage asks for."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[bool, float]] = {}
        """By incident and controller, whether all individuals have been told, and when to ask again."""

    def running(self) -> Sequence[RunningClock]:
        """Return the clock of every duty that is owed, has a date and is not met, in open incidents.

        A notice to individuals is met once everybody it is for was reached, also by a substitute; nobody records that. Of whom
        nothing reached a person decides.
        """
        with self._database.read() as connection:
            rows = connection.execute(_owed()).mappings()
            unmet = self._unmet(connection, rows.all())
            duties = tuple(
                RunningClock(
                    incident_id=row["incident_id"],
                    revision=row["revision"],
                    controller=row["controller"],
                    regime_id=row["regime_id"],
                    recipient=row["recipient"],
                    started_at=_started_at(row),
                    deadline_at=row["watched"],
                    conservative=row["deadline_at"] is None,
                    exercise=bool(row["exercise"]),
                    conservative_at=row["conservative_deadline_at"],
                    recorded_at=row["deadline_at"],
                )
                for row in unmet
            )
            watched = {(each.incident_id, each.controller, each.deadline_at) for each in duties}
            late = self._late(connection)
        return duties + tuple(
            each for each in late if (each.incident_id, each.controller, each.deadline_at) not in watched
        )

    def _unmet(self, connection: sa.Connection, rows: Sequence[Mapping[Any, Any]]) -> Sequence[Mapping[Any, Any]]:
        """Return the duties but those to individuals, in the scope in force, all of whom have been told."""
        people = {
            (row["incident_id"], row["controller"])
            for row in rows
            if row["recipient"] == "individual" and row["revision"] == row["in_force"]
        }
        self._told = {each: self._told[each] for each in people & self._told.keys()}
        for each in people:
            began = time.monotonic()
            if each in self._told and began < self._told[each][1]:
                continue
            told = connection.execute(sa.select(all_told(*each))).scalar_one()
            # of a controller who told a few, another one's million who wait are read past
            self._told[each] = bool(told), began + max(_ASK_SECONDS, 50 * (time.monotonic() - began))
        return [
            row
            for row in rows
            if (row["incident_id"], row["controller"]) not in people
            or row["recipient"] != "individual"
            or not self._told[row["incident_id"], row["controller"]][0]
        ]

    @staticmethod
    def _late(connection: sa.Connection) -> Sequence[RunningClock]:
        """Return the nearest clock of those who came late or are owed a supplement and have no end yet, by controller.

        The duty that tells everybody else may be met, or its date have passed: theirs runs all the same.
        """
        rows = connection.execute(_late()).mappings()
        return tuple(
            RunningClock(
                incident_id=row["incident_id"],
                revision=row["revision"],
                controller=row["controller"],
                regime_id=LATE_PEOPLE,
                recipient="individual",
                started_at=min(row["added_at"], row["deadline_at"]),
                deadline_at=row["deadline_at"],
                conservative=False,
                exercise=bool(row["exercise"]),
                recorded_at=row["deadline_at"],
            )
            for row in rows
        )

    def tell(self, marks: Sequence[Mark]) -> int:
        """Page and log the marks not yet told; return how many were new. Page and event are one transaction."""
        now = self._clock.now()

        def work(connection: sa.Connection) -> int:
            by_id = {_mark_id(mark): mark for mark in marks}
            known = set(
                connection.execute(
                    sa.select(clock_mark.c.mark_id).where(clock_mark.c.mark_id.in_(list(by_id)))
                ).scalars()
            )
            new = {mark_id: mark for mark_id, mark in by_id.items() if mark_id not in known}
            if not new:
                return 0
            rows = [
                {"mark_id": mark_id, "incident_id": mark.clock.incident_id, "told_at": now}
                for mark_id, mark in new.items()
            ]
            connection.execute(sa.insert(clock_mark), rows)
            outbox.append(connection, (_event(mark_id, mark, now) for mark_id, mark in new.items()), now)
            # one page for all that passed the same point at once: forty duties are one reason to get up
            grouped: dict[tuple[str, int], list[Mark]] = defaultdict(list)
            for mark in new.values():
                grouped[mark.clock.incident_id, mark.percent].append(mark)
            upsert(connection, page, [_page(group, now) for group in grouped.values()])
            return len(new)

        return self._database.writing(work)

    def end_pages(self, clocks: Sequence[RunningClock]) -> None:
        """End the pages about deadlines of which no duty runs any more, and let those stand again that had ended so and whose
        duty runs again; `clocks` are those that run.
        """
        kinds = ("deadline.warned", "deadline.missed")
        by_person = page.c.acknowledged_by.is_not(None)
        with self._database.read() as connection:
            pages = connection.execute(
                sa.select(page)
                .join(incident, incident.c.incident_id == page.c.incident_id)
                .where(page.c.kind.in_(kinds) & ~by_person & incident.c.state.not_in(ENDED))
            ).mappings()
            found = [dict(row) for row in pages]
        running = {(each.incident_id, each.controller, each.regime_id, each.deadline_at.isoformat()) for each in clocks}
        watched = {each.incident_id for each in clocks}
        stand = [each for each in found if _stands(each, running, watched)]
        over = [each["page_id"] for each in found if each["acknowledged_at"] is None and each not in stand]
        back = [each for each in stand if each["acknowledged_at"] is not None]
        if not over and not back:
            return
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            for some in in_parts(over):
                unanswered = page.c.page_id.in_(some) & page.c.acknowledged_at.is_(None)
                connection.execute(sa.update(page).where(unanswered).values(acknowledged_at=now))
            raise_pages(connection, [{**each, "raised_at": now} for each in back])

        self._database.writing(work)


def _stands(told: Mapping[str, Any], running: Collection[tuple[str, str, str, str]], watched: Collection[str]) -> bool:
    """Say whether a duty of a page still runs to the date that it names. A page of very many names only the first of them: it
    stands as long as anything of its incident runs.
    """
    name, duties = told["incident_id"], told["body"].get("duties", ())
    named = {(name, each["controller"], each["regime_id"], each["deadline_at"]) for each in duties}
    return bool(named.intersection(running)) or (told["body"].get("duty_count", 0) > len(duties) and name in watched)


@cache
def _owed() -> sa.Select[Any]:
    """Every duty that is owed, has a date and is not met, in open incidents; composed once, as it is asked every second."""
    planned = obligation.alias()
    deadline = sa.func.coalesce(
        obligation.c.deadline_at, obligation.c.conservative_deadline_at, type_=incident.c.detected_at.type
    )
    # a corrected scope is planned anew, which takes as long as its slowest partition: until then the duties known
    # before go on being watched
    newest = sa.select(sa.func.max(planned.c.revision)).where(planned.c.incident_id == incident.c.incident_id)
    return (
        sa.select(
            obligation,
            incident.c.detected_at,
            incident.c.exercise,
            incident.c.revision.label("in_force"),
            deadline.label("watched"),
        )
        .select_from(obligation)
        .join(
            incident,
            (incident.c.incident_id == obligation.c.incident_id)
            & (obligation.c.revision == newest.correlate(incident).scalar_subquery()),
        )
        .where(
            incident.c.closed_at.is_(None)
            & (incident.c.state != "dismissed")
            & ~sa.exists().where(
                (duty_met.c.incident_id == obligation.c.incident_id)
                & (duty_met.c.controller == obligation.c.controller)
                & (duty_met.c.regime_id == obligation.c.regime_id)
                & duty_met.c.withdrawn_at.is_(None)
            )
            & obligation.c.status.in_(("due", "pending"))
            & deadline.is_not(None)
        )
    )


@cache
def _late() -> sa.Select[Any]:
    """The nearest date of those who came late or are owed a supplement and have no end yet, by controller; composed once."""
    return (
        sa.select(
            recipient.c.incident_id,
            recipient.c.controller,
            sa.func.min(recipient.c.deadline_at, type_=recipient.c.deadline_at.type).label("deadline_at"),
            sa.func.min(recipient.c.added_at, type_=recipient.c.added_at.type).label("added_at"),
            incident.c.revision,
            incident.c.exercise,
        )
        .join(incident, incident.c.incident_id == recipient.c.incident_id)
        .where(
            recipient.c.added_at.is_not(None)
            & recipient.c.deadline_at.is_not(None)
            & recipient.c.final_state.is_(None)
            & incident.c.closed_at.is_(None)
            & (incident.c.state != "dismissed")
            & still_concerned()
        )
        .group_by(
            recipient.c.incident_id,
            recipient.c.controller,
            incident.c.revision,
            incident.c.exercise,
        )
    )


def _started_at(row: Mapping[Any, Any]) -> datetime:
    """A recorded clock began when its fact happened, the conservative one with the detection."""
    began = row["detail"].get("started_at") if row["deadline_at"] is not None else None
    at: datetime = datetime.fromisoformat(began) if began else row["detected_at"]
    return at


def _mark_id(mark: Mark) -> str:
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


def _page(marks: Sequence[Mark], now: datetime) -> dict[str, Any]:
    """Return the page about duties of one incident that passed the same point."""
    clocks = sorted((mark.clock for mark in marks), key=lambda clock: (clock.deadline_at, clock.regime_id))
    first, percent = clocks[0], marks[0].percent
    missed = percent == MISSED_PERCENT
    about = first.regime_id if len(clocks) == 1 else f"{len(clocks)} duties ({first.regime_id} first)"
    title = (
        f"{first.incident_id}: deadline missed: {about}"
        if missed
        else f"{first.incident_id}: {percent} % of the time has passed for {about}"
    )
    told = "/".join(sorted(_mark_id(mark) for mark in marks))
    return {
        "page_id": hashlib.sha256(told.encode()).hexdigest(),
        "incident_id": first.incident_id,
        "kind": "deadline.missed" if missed else "deadline.warned",
        "severity": "critical" if percent >= 90 else "warning",
        "roles": ["dpo", "responder"],
        "title": title[:300],
        "body": {
            "duties": [
                {
                    "regime_id": clock.regime_id,
                    "controller": clock.controller,
                    "recipient": clock.recipient,
                    "deadline_at": clock.deadline_at.isoformat(),
                    "counted": "conservative" if clock.conservative else "recorded",
                }
                for clock in clocks[:_IN_ONE_PAGE]
            ],
            "duty_count": len(clocks),
            "exercise": first.exercise,
            "next": f"tocsin incident obligations {first.incident_id}",
        },
        "raised_at": now,
    }


def _event(mark_id: str, mark: Mark, now: datetime) -> outbox.Outgoing:
    clock = mark.clock
    kind = "deadline.missed" if mark.percent == MISSED_PERCENT else "deadline.warned"
    body = {
        "regime_id": clock.regime_id,
        "percent": mark.percent,
        "deadline_at": clock.deadline_at.isoformat().replace("+00:00", "Z"),
        "conservative": clock.conservative,
    }
    return outbox.case_event(kind, clock.incident_id, mark_id, now, body, exercise=clock.exercise)
