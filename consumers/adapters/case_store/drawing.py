"""Who a plan is about, in parts of a few thousand that stand by themselves, so that no process ever holds everybody.

Roots that may be one person, and people who have a recipient in common, are in one part; who they are is decided by
`consumers.domain.persons`. What must be known of everybody at once, which roots have something in common, goes through a
temporary file of SQLite's that has no name: a crash leaves nothing of it.
"""

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.engine import CaseDatabase, in_parts
from consumers.adapters.case_store.findings import left_out
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.tables import affected, attempt, late_addition, late_member, recipient
from consumers.domain.persons import Affected, loose_marks
from consumers.domain.planning import Before, Known, PlanId, Standing

_READ_AT_ONCE = 2000
_SCRATCH_KIB = 16 * 1024
_event_of = msgspec.json.Decoder(Affected)
_json_of = msgspec.json.Decoder()
_FAILED = (AttemptState.BOUNCED, AttemptState.REJECTED, AttemptState.CANCELLED)
_NAMES = tuple(column.name for column in recipient.columns)
_JSON = tuple(column.name for column in recipient.columns if isinstance(column.type, sa.JSON))
_FLAGS = tuple(column.name for column in recipient.columns if isinstance(column.type, sa.Boolean))
_RECIPIENTS = PackedRows(recipient, _NAMES, by="recipient_id")
_ATTEMPTS = PackedRows(attempt, ("recipient_id", "state", "send_count", "number"), by="recipient_id")


class Drawing:
    """What one drawing up of a plan rests on. `connection` reads one snapshot for as long as it lasts."""

    def __init__(self, database: CaseDatabase, connection: sa.Connection, plan_id: PlanId, before: Before) -> None:
        self.before = before
        self._database = database
        self._connection = connection
        self._plan_id = plan_id
        self._scratch = sqlite3.connect("", isolation_level=None)
        self._leader_of = array("i")
        """By position, in the order in which everybody is read, that of the first root that they have something in common
        with, directly or through others.
        """
        self._in_group = bytearray()
        """By position, whether there is any."""
        self._any_known = self._any(recipient, recipient.c.incident_id == plan_id.incident_id)
        self._any_late = self._any(late_member, _of(late_member, plan_id))

    def close(self) -> None:
        self._scratch.close()

    def everybody(self) -> Iterator[Sequence[Affected]]:
        """Yield everybody who is affected and not left out, a few thousand at once, and look who has something in common.
        To be asked once, before all else.
        """
        scratch = self._scratch
        for text in (
            f"PRAGMA cache_size = -{_SCRATCH_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA temp_store = FILE",
            "BEGIN",
            "CREATE TABLE member (position INTEGER PRIMARY KEY, root TEXT NOT NULL)",
            "CREATE TABLE mark (mark INTEGER NOT NULL, position INTEGER NOT NULL)",
            "CREATE TABLE known (number INTEGER NOT NULL, name TEXT NOT NULL, root TEXT NOT NULL)",
            "CREATE TABLE grouped (leader INTEGER NOT NULL, position INTEGER NOT NULL)",
        ):
            scratch.execute(text)
        count = 0
        for page in affected_pages(self._connection, self._plan_id):
            scratch.executemany("INSERT INTO member VALUES (?, ?)", enumerate((each.root for each in page), count))
            scratch.executemany(
                "INSERT INTO mark VALUES (?, ?)",
                ((mark, place) for place, each in enumerate(page, count) for mark in loose_marks(each)),
            )
            count += len(page)
            yield page
        self._find_groups(count)

    def together(self) -> Iterator[Sequence[Affected]]:
        """Yield all who have something in common with others, some thousands at once, none with anybody in another part."""
        # whoever has followers is read with them: the first positions of groups, in order
        cursor = self._scratch.execute(
            "SELECT g.leader, m.root FROM (SELECT leader, position FROM grouped UNION SELECT leader, leader FROM grouped) g "
            "JOIN member m ON m.position = g.position ORDER BY g.leader"
        )
        some: list[str] = []
        last = None
        for leader, root in cursor:
            if leader != last and len(some) >= _READ_AT_ONCE:
                yield self._of_roots(some)
                some = []
            some.append(root)
            last = leader
        if some:
            yield self._of_roots(some)

    def groups(self) -> Iterator[tuple[Sequence[Affected], Sequence[Affected]]]:
        """Yield everybody again: those who have nothing in common with anybody, and those who have with each other. Nobody
        in one part has anything in common with anybody in another.
        """
        start, leader_of, in_group = 0, self._leader_of, self._in_group
        for page in affected_pages(self._connection, self._plan_id):
            end = start + len(page)
            single = [each for place, each in enumerate(page, start) if not in_group[place]]
            several = [each for place, each in enumerate(page, start) if in_group[place] and leader_of[place] == place]
            if several:
                others = self._scratch.execute(
                    "SELECT m.root FROM grouped g JOIN member m ON m.position = g.position "
                    "WHERE g.leader >= ? AND g.leader < ?",
                    (start, end),
                )
                several += self._of_roots([root for (root,) in others])
            start = end
            if single or several:
                yield single, several

    def _of_roots(self, roots: Sequence[str]) -> list[Affected]:
        found: list[Affected] = []
        for some in in_parts(roots):
            theirs = sa.select(affected.c.root, affected.c.event).where(
                _of(affected, self._plan_id) & affected.c.root.in_(some)
            )
            found += _people(self._connection, theirs)[0]
        return found

    def standing(self, roots: Sequence[str]) -> Standing:
        """Return what is in the ledger now of people who have these roots, and when records of theirs came late."""
        added_at: dict[str, datetime] = {}
        names: set[str] = set()
        for some in in_parts(roots if self._any_known else ()):
            places = ", ".join("?" * len(some))
            names |= {
                name
                for (name,) in self._scratch.execute(f"SELECT name FROM known WHERE root IN ({places})", tuple(some))  # noqa: S608
            }
        with self._database.read() as connection:
            for some in in_parts(roots if self._any_late else ()):
                added_at |= _added_at(connection, self._plan_id, some)
            return Standing(_known(connection, sorted(names)), added_at)

    def standing_of(self, recipient_ids: Sequence[str]) -> Standing:
        """Return what is in the ledger now of these recipients."""
        with self._database.read() as connection:
            return Standing(_known(connection, recipient_ids), {})

    def left_over(self) -> Iterator[Standing]:
        """Yield what is in the ledger of people of whom no root is affected."""
        if not self._any_known:
            return
        cursor = self._scratch.execute(
            "SELECT DISTINCT name FROM known WHERE number NOT IN "
            "(SELECT k.number FROM known k JOIN member m ON m.root = k.root) ORDER BY name"
        )
        while names := [name for (name,) in cursor.fetchmany(_READ_AT_ONCE)]:
            yield self.standing_of(names)

    def _any(self, table: sa.Table, where: sa.ColumnElement[bool]) -> bool:
        return (
            self._connection.execute(sa.select(sa.literal(1)).select_from(table).where(where).limit(1)).first()
            is not None
        )

    def _find_groups(self, count: int) -> None:
        scratch = self._scratch
        if self._any_known:
            self._find_known()
        scratch.execute("CREATE INDEX mark_position ON mark (mark, position)")
        self._in_group = bytearray(count)
        self._leader_of = array("i", range(count))
        leader_of, last = self._leader_of, (None, 0)
        several = scratch.execute(
            "SELECT mark, position FROM mark WHERE mark IN (SELECT mark FROM mark GROUP BY mark HAVING count(*) > 1) "
            "ORDER BY mark, position"
        )
        for mark, place in several:
            if mark == last[0]:
                self._in_group[last[1]] = self._in_group[place] = True
                one, other = _leader(leader_of, last[1]), _leader(leader_of, place)
                leader_of[max(one, other)] = min(one, other)
            else:
                last = (mark, place)
        scratch.executemany("INSERT INTO grouped VALUES (?, ?)", _followers(leader_of))
        scratch.execute("CREATE INDEX grouped_leader ON grouped (leader)")

    def _find_known(self) -> None:
        scratch, number, last = self._scratch, 0, ""
        while True:
            query = (
                sa.select(recipient.c.recipient_id, recipient.c.root, recipient.c.roots)
                .where(
                    (recipient.c.incident_id == self._plan_id.incident_id)
                    & ~recipient.c.is_correction
                    & (recipient.c.recipient_id > last)
                )
                .order_by(recipient.c.recipient_id)
                .limit(_READ_AT_ONCE)
            )
            rows = self._connection.execute(query).all()
            if not rows:
                break
            written = []
            for number, row in enumerate(rows, number + 1):  # noqa: B020  goes on where the last page ended
                written += [(number, row.recipient_id, root) for root in {*row.roots, row.root}]
            scratch.executemany("INSERT INTO known VALUES (?, ?, ?)", written)
            last = rows[-1].recipient_id
        for text in (
            "CREATE INDEX known_root ON known (root)",
            "CREATE INDEX known_number ON known (number)",
            "CREATE INDEX member_root ON member (root)",
            # whoever has a recipient in common is looked at together, whether they are one person still or not
            "INSERT INTO mark SELECT k.number, m.position FROM known k JOIN member m ON m.root = k.root "
            "WHERE k.number IN (SELECT number FROM known GROUP BY number HAVING count(*) > 1)",
        ):
            scratch.execute(text)


def affected_pages(connection: sa.Connection, plan_id: PlanId) -> Iterator[list[Affected]]:
    """Yield everybody who is affected and not left out; a page as the server orders their roots, within it sorted by root."""
    last = ""
    while True:
        people, last = _people(
            connection,
            sa.select(affected.c.root, affected.c.event)
            .where(_of(affected, plan_id) & ~left_out() & (affected.c.root > last))
            .order_by(affected.c.root)
            .limit(_READ_AT_ONCE),
        )
        if not people:
            return
        yield people


def _people(connection: sa.Connection, query: "sa.Select[Any]") -> tuple[list[Affected], str]:
    """Return the people whose root and event `query` selects, sorted by root, and the last root as the server orders them.

    The server joins hundreds of events to one text: a driver written in Python takes longer for a row than we for its event.
    """
    page = query.subquery("page")
    if connection.dialect.name == "sqlite":
        joined = sa.func.group_concat(page.c.event, "\n")
    else:
        joined = sa.func.group_concat(page.c.event.op("SEPARATOR")("\n"))
    count, end, text = connection.execute(sa.select(sa.func.count(), sa.func.max(page.c.root), joined)).one()
    if not count:
        return [], ""
    try:
        people = _event_of.decode_lines(text)
    except msgspec.DecodeError:
        people = []
    if len(people) != count:
        # cut by the server: thousands of records of each
        people = [_event_of.decode(event) for event in connection.execute(sa.select(page.c.event)).scalars()]
    return sorted(people, key=_root_of), end


_root_of = attrgetter("root")


def _leader(leader_of: "array[int]", place: int) -> int:
    while leader_of[place] != place:
        leader_of[place] = leader_of[leader_of[place]]
        place = leader_of[place]
    return place


def _followers(leader_of: "array[int]") -> Iterator[tuple[int, int]]:
    for place, leader in enumerate(leader_of):
        if leader != place:
            yield _leader(leader_of, place), place


def _added_at(connection: sa.Connection, plan_id: PlanId, roots: Sequence[str]) -> dict[str, datetime]:
    rows = connection.execute(
        sa.select(late_member.c.root, sa.func.max(late_addition.c.added_at, type_=late_addition.c.added_at.type))
        .join(
            late_addition,
            (late_addition.c.incident_id == late_member.c.incident_id)
            & (late_addition.c.revision == late_member.c.revision)
            & (late_addition.c.number == late_member.c.number),
        )
        .where(_of(late_member, plan_id) & late_member.c.root.in_(roots))
        .group_by(late_member.c.root)
    )
    return {row[0]: row[1] for row in rows}


def _known(connection: sa.Connection, names: Sequence[str]) -> list[Known]:
    begun: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for name, *said in _ATTEMPTS.of(connection, names):
        begun[name].append(tuple(said))
    texts: dict[str, Any] = {}
    return [_known_of(_typed(row, texts), begun.get(row["recipient_id"], ())) for row in _rows(connection, names)]


def _rows(connection: sa.Connection, names: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(_RECIPIENTS.named(connection, names), key=lambda row: str(row["recipient_id"]))


def _typed(row: dict[str, Any], texts: dict[str, Any]) -> dict[str, Any]:
    """Return a packed row with values as any other read returns them. `texts` keeps what many people share, parsed once."""
    for name in _JSON:
        text = row[name]
        if text is not None:
            if text not in texts:
                texts[text] = _json_of.decode(text)
            row[name] = texts[text]
    for name in _FLAGS:
        row[name] = bool(row[name])
    return row


def _known_of(row: Mapping[str, Any], attempts: Sequence[tuple[str, int, int]]) -> Known:
    told = any(send_count > 0 and state not in _FAILED for state, send_count, _ in attempts)
    return Known(
        recipient_id=row["recipient_id"],
        roots=tuple(row["roots"]),
        fixed=bool(attempts) or row["final_state"] is not None,
        row=row,
        unsent=bool(attempts) and row["final_state"] is None and all(is_unsent(*each) for each in attempts),
        told=told or row["told_in"] is not None,
    )


def is_unsent(state: str, send_count: int, number: int) -> bool:
    """Return whether an attempt is a first one of which nothing has left the house or lies on the belt."""
    return state == AttemptState.PLANNED and number == 1 and send_count == 0


def _of(table: sa.Table, plan_id: PlanId) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = (table.c.incident_id == plan_id.incident_id) & (
        table.c.revision == plan_id.revision
    )
    return condition
