"""Erases what leads from a person to the log: their key, and in closed incidents every row that points to them.

The log itself stays as it is, and so does every proof made of it; its commitments are nobody's any more. What stays in the
case store are counts: attempts and ends of somebody without a name. A request is held while an incident of the person is
open, and carried out by the clock stage once none is.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.tables import (
    affected,
    attempt,
    erasure,
    hard_bounce,
    incident,
    person_key,
    receipt,
    recipient,
)
from consumers.case.acting import Actor, record_act
from consumers.case.events import Body, case_event, written
from consumers.case.permissions import Role
from consumers.evidence.commitment import erasure_marker

_ENDED = ("dismissed", "closed")


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a request to erase a person."""

    erasure_id: str
    requested_at: datetime
    carried_out_at: datetime | None
    held_by: Sequence[str]
    """Open incidents that the person is concerned by; empty: nothing holds it."""
    notice_count: int
    """Notices to the person whose rows lose their name."""


class Erasures:
    """Requests to be forgotten, and what carries them out."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def look(self, root: str) -> Asked | None:
        """Return what a request would do now, or None for somebody of whom nothing leads to the log."""
        with self._database.read() as connection:
            roots = _roots_of(connection, {root})
            known = connection.execute(
                sa.select(sa.func.count()).select_from(person_key).where(person_key.c.root.in_(sorted(roots)))
            ).scalar_one()
            notices = _recipients(connection, roots)
            if not known and not notices:
                return None
            return Asked("", self._clock.now(), None, _open_incidents(notices), len(notices))

    def ask(self, root: str, actor: Actor, role: Role, reason: str) -> Asked:
        """Record the request and carry it out unless an open incident holds it. A repeated request is the same one.

        One transaction: a crash leaves all of it or nothing. Raises BadInput for somebody whom nobody knows.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> Asked:
            known = connection.execute(
                sa.select(erasure).where((erasure.c.root == root) & erasure.c.carried_out_at.is_(None))
            ).first()
            roots = _roots_of(connection, {root})
            notices = _recipients(connection, roots)
            if known is None:
                if not notices and not _has_key(connection, roots):
                    raise BadInput(f"{root[:100]!r}: nothing in the log is about them; nothing to erase")
                erasure_id = secrets.token_hex(16)
                connection.execute(
                    sa.insert(erasure).values(
                        erasure_id=erasure_id, root=root, roots=[root], requested_at=now, requested_by=actor.person_id
                    )
                )
                case = SqlCaseWork(connection, now)
                held = _open_incidents(notices)
                body: Body = {"erasure_id": erasure_id, "held": bool(held), "incident_count": len(held)}
                record_act(case, actor, role, "erasure.requested", body, at=now, reason=reason)
                asked_at = now
            else:
                erasure_id, asked_at = known.erasure_id, known.requested_at
            return self._try(connection, erasure_id, asked_at, roots, notices, now)

        return self._database.writing(work)

    def carry_out_due(self) -> int:
        """Carry out every request that nothing holds any more; return how many."""
        with self._database.read() as connection:
            waiting = connection.execute(sa.select(erasure).where(erasure.c.carried_out_at.is_(None))).all()
        if not waiting:
            return 0
        now = self._clock.now()

        def work(connection: sa.Connection) -> int:
            done = 0
            for row in waiting:
                roots = _roots_of(connection, {row.root})
                notices = _recipients(connection, roots)
                asked = self._try(connection, row.erasure_id, row.requested_at, roots, notices, now)
                done += asked.carried_out_at is not None
            return done

        return self._database.writing(work)

    def erase_marked(self, markers: Collection[str]) -> int:
        """Erase the keys that the log says were erased, in a store that was restored from before; return how many.

        Nothing is logged: it is there already.
        """
        if not markers:
            return 0
        now = self._clock.now()

        def work(connection: sa.Connection) -> int:
            found = [
                row.root
                for row in connection.execute(
                    sa.select(person_key.c.root, person_key.c.key).where(person_key.c.key.is_not(None))
                )
                if erasure_marker(bytes(row.key), row.root) in markers
            ]
            for root in found:
                roots = _roots_of(connection, {root})
                self._erase(connection, roots, _recipients(connection, roots), now)
                connection.execute(
                    sa.insert(erasure).values(
                        erasure_id=secrets.token_hex(16), root=root, roots=sorted(roots), requested_at=now,
                        requested_by="restore", carried_out_at=now,
                    )
                )  # fmt: skip
            return len(found)

        return self._database.writing(work)

    def marked(self, markers: Collection[str]) -> int:
        """Return how many keys are here that the log says were erased."""
        if not markers:
            return 0
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(person_key.c.root, person_key.c.key).where(person_key.c.key.is_not(None))
            )
            return sum(erasure_marker(bytes(row.key), row.root) in markers for row in rows)

    def _try(
        self,
        connection: sa.Connection,
        erasure_id: str,
        asked_at: datetime,
        roots: set[str],
        notices: Sequence[Any],
        now: datetime,
    ) -> Asked:
        held = _open_incidents(notices)
        if held:
            return Asked(erasure_id, asked_at, None, held, len(notices))
        case = SqlCaseWork(connection, now)
        for marker in self._erase(connection, roots, notices, now):
            body = {"erasure_id": erasure_id, "marker": marker, "requested_at": written(asked_at)}
            case.publish_case_event(
                case_event("person.erased", incident_id=None, actor=None, role=None, at=now, body=body)
            )
        connection.execute(
            sa.update(erasure).where(erasure.c.erasure_id == erasure_id).values(carried_out_at=now, roots=sorted(roots))
        )
        return Asked(erasure_id, asked_at, now, (), len(notices))

    @staticmethod
    def _erase(connection: sa.Connection, roots: set[str], notices: Sequence[Any], now: datetime) -> list[str]:
        """Erase keys and detach rows; return the markers by which whoever still has a key can tell that it was erased."""
        markers = []
        for row in connection.execute(
            sa.select(person_key.c.root, person_key.c.key).where(
                person_key.c.root.in_(sorted(roots)) & person_key.c.key.is_not(None)
            )
        ).all():
            markers.append(erasure_marker(bytes(row.key), row.root))
        upsert(
            connection,
            person_key,
            [{"root": root, "key": None, "made_at": now, "erased_at": now} for root in sorted(roots)],
            update=("key", "erased_at"),
        )
        connection.execute(sa.delete(hard_bounce).where(hard_bounce.c.root.in_(sorted(roots))))
        for row in notices:
            _detach(connection, row)
        return sorted(markers)


def _roots_of(connection: sa.Connection, roots: set[str]) -> set[str]:
    """Return everything that was merged into one person with any of `roots`, in any incident."""
    while True:
        found = roots | {root for row in _recipients(connection, roots) for root in (row.root, *row.roots)}
        if found == roots:
            return roots
        roots = found


def _recipients(connection: sa.Connection, roots: Collection[str]) -> Sequence[Any]:
    wanted = set(roots)
    concerned = sa.select(affected.c.incident_id).where(affected.c.root.in_(sorted(wanted))).distinct()
    rows = connection.execute(
        sa.select(
            recipient.c.recipient_id, recipient.c.incident_id, recipient.c.root, recipient.c.roots, incident.c.state
        )
        .join(incident, incident.c.incident_id == recipient.c.incident_id)
        .where(recipient.c.root.in_(sorted(wanted)) | recipient.c.incident_id.in_(concerned))
        .order_by(recipient.c.recipient_id)
    )
    return [row for row in rows if row.root in wanted or not wanted.isdisjoint(row.roots)]


def _has_key(connection: sa.Connection, roots: Collection[str]) -> bool:
    query = sa.select(person_key.c.root).where(person_key.c.root.in_(sorted(roots)) & person_key.c.key.is_not(None))
    return connection.execute(query).first() is not None


def _open_incidents(notices: Sequence[Any]) -> Sequence[str]:
    return sorted({row.incident_id for row in notices if row.state not in _ENDED})


def _detach(connection: sa.Connection, row: Any) -> None:
    """Give a notice and its attempts names that lead to nobody, and remove what leads elsewhere: to providers, to texts."""
    name = f"erased/{secrets.token_hex(8)}"
    new_id = f"{row.incident_id}:{name}"
    attempts = connection.execute(
        sa.select(attempt.c.attempt_id).where(attempt.c.recipient_id == row.recipient_id)
    ).scalars().all()  # fmt: skip
    if attempts:
        connection.execute(sa.delete(receipt).where(receipt.c.attempt_id.in_(attempts)))
    for attempt_id in attempts:
        # computed from the person's id until now: whoever knows a customer's number could have found them again
        connection.execute(
            sa.update(attempt)
            .where(attempt.c.attempt_id == attempt_id)
            .values(
                attempt_id=secrets.token_hex(16), recipient_id=new_id, provider_message_id=None, message_salt=None,
                body_sha256=None,
            )
        )  # fmt: skip
    placeholders = [name, *(f"erased/{secrets.token_hex(8)}" for _ in row.roots[1:])]
    values: Mapping[str, Any] = {
        "recipient_id": new_id, "root": name, "roots": placeholders, "customer_id": None, "residence": [], "contact": None,
        "why": {}, "notice_sha256": None,
    }  # fmt: skip
    connection.execute(sa.update(recipient).where(recipient.c.recipient_id == row.recipient_id).values(**values))
    for column in (recipient.c.supplements, recipient.c.told_in):
        connection.execute(sa.update(recipient).where(column == row.recipient_id).values({column.name: new_id}))
