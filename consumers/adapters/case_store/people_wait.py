"""People who wait for an approval that nobody has given: who they are, and the page about them while there are any. SQL only."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.pages import keep_page
from consumers.adapters.case_store.tables import (
    ENDED,
    attempt,
    incident,
    page,
    recipient,
    release,
    still_concerned,
)
from consumers.adapters.case_store.twins import being_told_elsewhere, known_elsewhere, standing_elsewhere, twins_of

_KIND = "release.people_wait"


def unbegun(incident_id: str) -> list[sa.ColumnElement[bool]]:
    """People whom nobody has begun to tell, although nothing but an approval keeps them waiting; and whom only a third incident
    knows as somebody who is being told elsewhere (`waits_elsewhere`).
    """
    return [*without_attempt(incident_id), ~being_told_elsewhere()]


def without_attempt(incident_id: str) -> list[sa.ColumnElement[bool]]:
    return [
        recipient.c.incident_id == incident_id,
        recipient.c.final_state.is_(None),
        recipient.c.held_reason.is_(None),
        recipient.c.segment_id.is_not(None),
        ~sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id),
    ]


def waits_elsewhere(connection: sa.Connection, recipient_ids: Sequence[str]) -> Collection[str]:
    """Return who of these waits for what becomes of another incident's notice, however many incidents lead there."""
    return standing_elsewhere(connection, twins_of(connection, recipient_ids), planned=True)[1]


def unbegun_of(connection: sa.Connection, incident_id: str, segment_id: str, at_most: int) -> int:
    """Return how many of a segment nobody has begun to tell, up to `at_most`, late ones apart."""
    elsewhere: set[str] = set()
    query = sa.select(recipient.c.recipient_id).where(
        *unbegun(incident_id), recipient.c.segment_id == segment_id, recipient.c.late.is_(sa.false())
    )
    while True:
        others = query.where(recipient.c.recipient_id.not_in(elsewhere)) if elsewhere else query
        ids = connection.execute(others.limit(at_most)).scalars().all()
        more = waits_elsewhere(connection, ids)
        if not more:
            return len(ids)
        elsewhere.update(more)


def carrying_nothing(incident_id: str, revision: int) -> sa.Select[tuple[str]]:
    """An incident's releases under which nothing leaves any more; of an older scope those that are finished, too."""
    return sa.select(release.c.release_id).where((release.c.incident_id == incident_id) & _carries_nothing(revision))


def _carries_nothing(revision: int | sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    over = (release.c.state == "finished") & (release.c.revision < revision)
    return release.c.state.in_(("void", "cancelled")) | over


def page_people_who_wait(
    connection: sa.Connection, running: Mapping[tuple[str, int], Sequence[str]], now: datetime
) -> None:
    """Let the page about people who wait stand for each incident that has some, and for no other. `running`: the releases that
    may begin people, by incident and revision; everybody whose turn it is has begun.

    Whoever waits beside running ones is covered by none of these. Where none runs or waits for approval, somebody has
    stopped it and knows whom it left; but not whom a bounce has made wait since. A pause changes nothing of it.
    """
    standing: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for (incident_id, revision), release_ids in running.items():
        if waiting := _unbegun_count(connection, incident_id) + _left_count(connection, incident_id, revision):
            why = (
                "people wait whom no approval covers: their text or channels are not approved, or they came late and the "
                "cap is reached"
            )
            standing[incident_id] = _row(incident_id, release_ids, why, waiting, now)
    for incident_id, revision in _left_since(connection, [incident_id for incident_id, _ in running]):
        waiting = _unbegun_count(connection, incident_id) + _left_count(connection, incident_id, revision)
        over = [str(each) for each in connection.execute(carrying_nothing(incident_id, revision)).scalars()]
        why = "people wait whom no release may tell: a notice of theirs came back after it was stopped"
        standing[incident_id] = _row(incident_id, over, why, waiting, now)
    paused = sa.select(release.c.incident_id).where(release.c.state == "paused")
    asleep = set(connection.execute(paused).scalars()) - {incident_id for incident_id, _ in running}
    keep_page(connection, _KIND, dict(standing.values()), now, but=asleep)


def _row(
    incident_id: str, release_ids: Sequence[str], why: str, waiting: int, now: datetime
) -> tuple[str, Mapping[str, Any]]:
    page_id = hashlib.sha256("/".join([_KIND, incident_id, *sorted(release_ids)]).encode()).hexdigest()
    return page_id, {
        "page_id": page_id,
        "incident_id": incident_id,
        "kind": _KIND,
        "severity": "critical",
        "roles": ["dpo", "counsel", "approver"],
        "title": f"{incident_id}: {why}",
        "body": {
            "people": waiting,
            "next": f"tocsin incident prepare {incident_id} (--late-cap N for more late additions)",
        },
        "raised_at": now,
    }


def _unbegun_count(connection: sa.Connection, incident_id: str) -> int:
    waiting = int(
        connection.execute(sa.select(sa.func.count()).select_from(recipient).where(*unbegun(incident_id))).scalar_one()
    )
    if waiting:
        known = sa.select(recipient.c.recipient_id).where(*unbegun(incident_id), known_elsewhere())
        waiting -= len(waits_elsewhere(connection, connection.execute(known).scalars().all()))
    return waiting


def _left() -> sa.ColumnElement[bool]:
    """Whose next channel is planned, and who is still owed it."""
    return (
        (attempt.c.state == AttemptState.PLANNED)
        & recipient.c.final_state.is_(None)
        & recipient.c.held_reason.is_(None)
        & still_concerned()
    )


def _left_count(connection: sa.Connection, incident_id: str, revision: int) -> int:
    """Return how many have a next channel that no release could take over."""
    over = connection.execute(carrying_nothing(incident_id, revision)).scalars().all()
    if not over:
        return 0
    left = (attempt.c.incident_id == incident_id) & attempt.c.release_id.in_(over) & _left()
    return int(
        connection.execute(
            sa.select(sa.func.count(sa.distinct(attempt.c.recipient_id)))
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .where(left)
        ).scalar_one()
    )


def _left_since(connection: sa.Connection, running: Collection[str]) -> Sequence[tuple[str, int]]:
    """Return incidents (and revisions) with no release that runs or is to, of which somebody has come to wait since."""
    other = release.alias("other")
    to_come = sa.exists().where(
        (other.c.incident_id == incident.c.incident_id) & other.c.state.in_(("prepared", "releasing", "paused"))
    )
    told = sa.exists().where(
        (page.c.incident_id == incident.c.incident_id)
        & (page.c.kind == "release.cancelled")
        & page.c.acknowledged_at.is_(None)
    )
    stopped = connection.execute(
        sa.select(
            incident.c.incident_id, incident.c.revision, release.c.release_id, release.c.state, release.c.stopped_epoch
        )
        .join(release, release.c.incident_id == incident.c.incident_id)
        .where(_carries_nothing(incident.c.revision) & incident.c.state.not_in(ENDED) & ~to_come & ~told)
        .order_by(incident.c.incident_id)
    ).all()
    found: dict[tuple[str, int], None] = {}
    for row in stopped:
        key = row.incident_id, row.revision
        if row.incident_id in running or key in found:
            continue
        left = (attempt.c.incident_id == row.incident_id) & (attempt.c.release_id == row.release_id) & _left()
        if row.state == "void" or (row.state == "cancelled" and _said(connection, row.incident_id)):
            # who stopped it knew of all who waited then; where the order is not known, somebody hears of it
            left &= attempt.c.epoch >= (row.stopped_epoch or 0)
        query = sa.select(attempt.c.attempt_id).join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
        if connection.execute(query.where(left).limit(1)).first() is not None:
            found[key] = None
    return list(found)


def _said(connection: sa.Connection, incident_id: str) -> bool:
    """Say whether it was said that a cancelled release left people: of one whose people had all been told nothing was."""
    about = (page.c.incident_id == incident_id) & (page.c.kind == "release.cancelled")
    return connection.execute(sa.select(page.c.page_id).where(about).limit(1)).first() is not None
