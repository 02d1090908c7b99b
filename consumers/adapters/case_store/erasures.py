"""Erases what leads from a person to the log: their key, and in closed incidents every row that points to them.

The log itself stays as it is, and so does every proof made of it; its commitments are nobody's any more. What stays in the
case store are counts: attempts and ends of somebody without a name. A request is held while an incident of the person is
open, and carried out by the clock stage once none is.
"""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from bridge.contracts.errors import BadInput
from bridge.contracts.events import AccountNotice, Channel, SubjectErased
from bridge.contracts.topics import ACCOUNT_NOTICES, DEPARTED_CUSTOMERS
from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.tables import (
    ENDED,
    affected,
    attempt,
    erasure,
    gate,
    hard_bounce,
    incident,
    late_member,
    lost_message,
    person_key,
    receipt,
    recipient,
)
from consumers.adapters.case_store.twins import forget_merged_roots
from consumers.case.acting import Actor, record_act
from consumers.case.events import Body, case_event, written
from consumers.case.permissions import Role
from consumers.evidence.commitment import erasure_marker

_NOBODY = "erased/"
"""Begins the name of whoever has none any more."""


class LetterFiles(Protocol):
    """Letters that lie for the printer."""

    def erase(self, incident_id: str, message_id: str) -> None:
        """Remove a letter and the lines of its address; what is gone already is none of its business. Raises Unreachable."""
        ...


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

    def __init__(self, database: CaseDatabase, clock: Clock, letters: LetterFiles | None = None) -> None:
        self._database = database
        self._clock = clock
        self._letters = letters

    def look(self, root: str) -> Asked | None:
        """Return what a request would do now, or None for somebody of whom nothing leads to the log."""
        with self._database.read() as connection:
            roots = roots_of(connection, {root})
            known = connection.execute(
                sa.select(sa.func.count()).select_from(person_key).where(person_key.c.root.in_(sorted(roots)))
            ).scalar_one()
            notices = recipients_of(connection, roots)
            if not known and not notices and not _is_affected(connection, roots):
                return None
            return Asked("", self._clock.now(), None, _open_incidents(connection, roots, notices), len(notices))

    def ask(self, root: str, actor: Actor, role: Role, reason: str, *, known_elsewhere: bool = False) -> Asked:
        """Record the request and carry it out unless an open incident holds it. A repeated request is the same one.

        One transaction, in which letters are removed first: a crash in it leaves the request unknown, to be made again, or (of
        one that was held) open, and the next look at it removes what is left. Raises BadInput for somebody whom nobody knows;
        `known_elsewhere`: the index knows them.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> Asked:
            known = connection.execute(
                sa.select(erasure).where((erasure.c.root == root) & erasure.c.carried_out_at.is_(None))
            ).first()
            roots = roots_of(connection, {root})
            notices = recipients_of(connection, roots)
            if known is None:
                known_here = notices or _has_key(connection, roots) or _is_affected(connection, roots)
                if not known_here and not known_elsewhere:
                    raise BadInput(f"{root[:100]!r}: nothing in the log is about them; nothing to erase")
                erasure_id = secrets.token_hex(16)
                connection.execute(
                    sa.insert(erasure).values(
                        erasure_id=erasure_id, root=root, roots=[root], requested_at=now, requested_by=actor.person_id
                    )
                )
                case = SqlCaseWork(connection, now)
                held = _open_incidents(connection, roots, notices)
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
                roots = roots_of(connection, {row.root})
                notices = recipients_of(connection, roots)
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
                roots = roots_of(connection, {root})
                self._erase(connection, roots, recipients_of(connection, roots), now)
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
        held = _open_incidents(connection, roots, notices)
        if held:
            return Asked(erasure_id, asked_at, None, held, len(notices))
        # Before the rows that name them: a crash from here to the commit leaves request and rows as they were, and whoever
        # looks at the request next removes letters that are gone already and all else.
        self._erase_letters(connection, notices)
        _withdraw(connection, notices, now)
        case = SqlCaseWork(connection, now)
        markers = self._erase(connection, roots, notices, now)
        for marker in markers:
            body = {"erasure_id": erasure_id, "marker": marker, "requested_at": written(asked_at)}
            case.publish_case_event(
                case_event("person.erased", incident_id=None, actor=None, role=None, at=now, body=body)
            )
        done: Body = {
            "erasure_id": erasure_id, "requested_at": written(asked_at), "key_count": len(markers),
            "notice_count": len(notices),
        }  # fmt: skip
        case.publish_case_event(
            case_event("erasure.carried_out", incident_id=None, actor=None, role=None, at=now, body=done)
        )
        connection.execute(
            sa.update(erasure).where(erasure.c.erasure_id == erasure_id).values(carried_out_at=now, roots=sorted(roots))
        )
        return Asked(erasure_id, asked_at, now, (), len(notices))

    def _erase_letters(self, connection: sa.Connection, notices: Sequence[Any]) -> None:
        for row in notices:
            theirs = (attempt.c.recipient_id == row.recipient_id) & (attempt.c.channel == Channel.LETTER)
            letters = set(
                connection.execute(
                    sa.select(attempt.c.provider_message_id).where(theirs & attempt.c.provider_message_id.is_not(None))
                ).scalars()
            )
            # one whose writer died may have been written twice
            letters.update(
                connection.execute(
                    sa.select(receipt.c.provider_message_id)
                    .join(attempt, attempt.c.attempt_id == receipt.c.attempt_id)
                    .where(theirs)
                ).scalars()
            )
            for message_id in sorted(letters) if self._letters is not None else ():
                assert self._letters is not None
                self._letters.erase(row.incident_id, message_id)

    @staticmethod
    def _erase(connection: sa.Connection, roots: set[str], notices: Sequence[Any], now: datetime) -> list[str]:
        """Erase keys, detach rows and tell the index; return the markers by which whoever still has a key can tell that it
        was erased.
        """
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
        _detach_members(connection, roots)
        # The index's workers read it whatever becomes of this process, and again whenever a file is built anew.
        outbox.append(
            connection,
            [
                outbox.Outgoing(
                    DEPARTED_CUSTOMERS, root=root, key=f"erased/{root}", event_id=secrets.token_hex(16),
                    event=SubjectErased(root=root, erased_at=now),
                )
                for root in sorted(roots)
            ],
            now,
        )  # fmt: skip
        return sorted(markers)


def roots_of(connection: sa.Connection, roots: set[str]) -> set[str]:
    """Return everything that was merged into one person with any of `roots`, in any incident."""
    while True:
        found = roots | {root for row in recipients_of(connection, roots) for root in (row.root, *row.roots)}
        if found == roots:
            return roots
        roots = found


def recipients_of(connection: sa.Connection, roots: Collection[str]) -> Sequence[Any]:
    """Return the notices to whom any of `roots` is, of all incidents: id, incident, roots and the incident's state."""
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


def _withdraw(connection: sa.Connection, notices: Sequence[Any], now: datetime) -> None:
    """Take notices off the account page: the topic keeps the newest state of each for ever, and this one has no text."""
    ids = [row.recipient_id for row in notices]
    posted = connection.execute(
        sa.select(attempt.c.attempt_id, attempt.c.incident_id, recipient.c.customer_id, recipient.c.locale)
        .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
        .where(
            attempt.c.recipient_id.in_(ids)
            & (attempt.c.channel == Channel.ACCOUNT_NOTICE)
            & attempt.c.handed_over_at.is_not(None)
            & recipient.c.customer_id.is_not(None)
        )
    ).all()
    outbox.append(
        connection,
        [
            outbox.Outgoing(
                ACCOUNT_NOTICES, root=f"customer/{row.customer_id}", key=f"notice/{row.attempt_id}",
                event_id=secrets.token_hex(16),
                event=AccountNotice(
                    notice_id=row.attempt_id, incident_id=row.incident_id, customer_id=row.customer_id, locale=row.locale,
                    title="", body="", withdrawn=True, posted_at=now,
                ),
            )
            for row in posted
        ],
        now,
    )  # fmt: skip


def _is_affected(connection: sa.Connection, roots: Collection[str]) -> bool:
    query = sa.select(affected.c.root).where(affected.c.root.in_(sorted(roots))).limit(1)
    return connection.execute(query).first() is not None


def _open_incidents(connection: sa.Connection, roots: Collection[str], notices: Sequence[Any]) -> Sequence[str]:
    """Return the open incidents that concern a person, also those in which nobody has planned their notice yet."""
    found = connection.execute(
        sa.select(affected.c.incident_id)
        .join(incident, incident.c.incident_id == affected.c.incident_id)
        .where(affected.c.root.in_(sorted(roots)) & incident.c.state.not_in(ENDED))
        .distinct()
    ).scalars()
    return sorted({*found, *(row.incident_id for row in notices if row.state not in ENDED)})


def _detach_members(connection: sa.Connection, roots: Collection[str]) -> None:
    """Give members of ended incidents' answers names that lead to nobody; their leaves stay, so that nobody can be missing."""
    wanted = sorted(roots)
    for table in (affected, late_member):
        for row in connection.execute(
            sa.select(table.c.incident_id, table.c.revision, table.c.root).where(table.c.root.in_(wanted)).distinct()
        ).all():
            values: dict[str, Any] = {"root": f"{_NOBODY}{secrets.token_hex(8)}"}
            if table is affected:
                values["event"] = "{}"
            connection.execute(
                sa.update(table)
                .where(
                    (table.c.incident_id == row.incident_id)
                    & (table.c.revision == row.revision)
                    & (table.c.root == row.root)
                )
                .values(values)
            )
    for held in connection.execute(sa.select(gate.c.gate_id, gate.c.people).where(gate.c.people.is_not(None))).all():
        people = held.people if isinstance(held.people, list) else json.loads(held.people or "[]")
        if people and not set(people).isdisjoint(wanted):
            kept = [each if each not in wanted else f"{_NOBODY}{secrets.token_hex(8)}" for each in people]
            connection.execute(sa.update(gate).where(gate.c.gate_id == held.gate_id).values(people=kept))


def _detach(connection: sa.Connection, row: Any) -> None:
    """Give a notice and its attempts names that lead to nobody, and remove what leads elsewhere: to providers, to texts."""
    name = f"{_NOBODY}{secrets.token_hex(8)}"
    new_id = f"{row.incident_id}:{name}"
    attempts = connection.execute(
        sa.select(attempt.c.attempt_id).where(attempt.c.recipient_id == row.recipient_id)
    ).scalars().all()  # fmt: skip
    if attempts:
        connection.execute(sa.delete(receipt).where(receipt.c.attempt_id.in_(attempts)))
        connection.execute(sa.delete(lost_message).where(lost_message.c.attempt_id.in_(attempts)))
    for attempt_id in attempts:
        # computed from the person's id until now: whoever knows a customer's number could have found them again
        connection.execute(
            sa.update(attempt)
            .where(attempt.c.attempt_id == attempt_id)
            .values(
                attempt_id=secrets.token_hex(16), recipient_id=new_id, provider_message_id=None, message_salt=None,
                body_sha256=None, phone_hmac=None,
            )
        )  # fmt: skip
    placeholders = [name, *(f"{_NOBODY}{secrets.token_hex(8)}" for _ in row.roots[1:])]
    values: Mapping[str, Any] = {
        "recipient_id": new_id, "root": name, "roots": placeholders, "customer_id": None, "residence": [], "contact": None,
        "why": {}, "notice_sha256": None,
    }  # fmt: skip
    connection.execute(sa.update(recipient).where(recipient.c.recipient_id == row.recipient_id).values(**values))
    forget_merged_roots(connection, [row.recipient_id])
    for column in (recipient.c.supplements, recipient.c.told_in):
        connection.execute(sa.update(recipient).where(column == row.recipient_id).values({column.name: new_id}))
