"""One person in several incidents: notices that would tell the very same are told once, whichever incident's turn comes first.

Somebody is the same person in two incidents if one root is theirs in both, be it the one that they are known by or another
that was merged into them, or if a third incident knows them as one. The very same is told by the same controller of the same
facts under the same law: another one asks for other words. What is asked of the tables of people and attempts; what
follows from it does the ledger. The same at every moment: when somebody's turn begins, when their next channel or a repeat
goes onto the belt, and when it is claimed.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.engine import AS_IT_STANDS, in_parts, insert_many, literals_of
from consumers.adapters.case_store.tables import ENDED, attempt, gate, incident, merged_root, recipient, release
from consumers.domain.delivery import PersonEnd

_ON_ITS_WAY = (AttemptState.COMMANDED, AttemptState.INTENDED, AttemptState.HANDED_OVER, AttemptState.UNKNOWN)
# as text, without SQLAlchemy's compiling of each id: it is asked of everybody
_SAME = (
    "twin.notice_sha256 = recipient.notice_sha256 AND twin.jurisdictions = recipient.jurisdictions"
    " AND twin.incident_id <> recipient.incident_id"
)
_SEVERAL = "CAST(recipient.roots AS CHAR) LIKE '%,%'"
_CANDIDATES = (
    "SELECT recipient.recipient_id FROM recipient WHERE recipient.recipient_id IN ({ids}) AND ("  # noqa: S608  our own text
    f"{_SEVERAL} OR EXISTS (SELECT 1 FROM merged_root WHERE merged_root.root = recipient.root)"
    f" OR EXISTS (SELECT 1 FROM recipient AS twin WHERE twin.root = recipient.root AND {_SAME}))"
)
"""Who may be in another incident, too: with one list of ids, and in two looks at indexes for each of them. Most are in none."""
_PAIR = "SELECT recipient.recipient_id, recipient.incident_id, twin.recipient_id FROM"
_PAIRS = (
    f"{_PAIR} recipient {{join}} recipient AS twin ON twin.root = recipient.root AND {_SAME}"
    " WHERE recipient.recipient_id IN ({ids})",
    f"{_PAIR} recipient {{join}} merged_root AS theirs ON theirs.root = recipient.root"
    f" {{join}} recipient AS twin ON twin.recipient_id = theirs.recipient_id AND {_SAME}"
    " WHERE recipient.recipient_id IN ({ids})",
    f"{_PAIR} merged_root AS ours {{join}} recipient ON recipient.recipient_id = ours.recipient_id"
    f" {{join}} recipient AS twin ON twin.root = ours.root AND {_SAME} WHERE ours.recipient_id IN ({{ids}})",
    f"{_PAIR} merged_root AS ours {{join}} merged_root AS theirs ON theirs.root = ours.root"
    " {join} recipient ON recipient.recipient_id = ours.recipient_id"
    f" {{join}} recipient AS twin ON twin.recipient_id = theirs.recipient_id AND {_SAME} WHERE ours.recipient_id IN ({{ids}})",
)
"""Who is in another incident: by the root that both are known by, by one that is merged into them there, here, or in both."""


# composed once: it takes longer than to ask
_TWIN = recipient.alias("twin")


@cache
def _ways() -> Sequence[tuple[sa.FromClause, sa.FromClause, sa.ColumnElement[bool]]]:
    """Return the same ways for a query of recipients: another incident's notice to the same person, of the very same facts, what
    it is joined to, and the condition that it is one.
    """
    twin, ours, theirs = _TWIN, merged_root.alias("ours"), merged_root.alias("theirs")
    same = (
        (twin.c.notice_sha256 == recipient.c.notice_sha256)
        & (twin.c.jurisdictions == recipient.c.jurisdictions)
        & (twin.c.incident_id != recipient.c.incident_id)
    )
    merged_there = twin.c.recipient_id == theirs.c.recipient_id
    # looked for where there is one only
    merged_here = sa.text(_SEVERAL) & (ours.c.recipient_id == recipient.c.recipient_id)
    return (
        (twin, twin, same & (twin.c.root == recipient.c.root)),
        (theirs.join(twin, merged_there), twin, same & (theirs.c.root == recipient.c.root)),
        (ours.join(twin, twin.c.root == ours.c.root), twin, same & merged_here),
        (ours.join(theirs, theirs.c.root == ours.c.root).join(twin, merged_there), twin, same & merged_here),
    )


def keep_merged_roots(connection: sa.Connection, roots: Mapping[str, tuple[str, Collection[str]]]) -> None:
    """Keep which other roots were merged into these recipients: by id the root that each is known by, and all of theirs."""
    forget_merged_roots(connection, list(roots))
    insert_many(
        connection,
        merged_root,
        [
            {"recipient_id": recipient_id, "root": root}
            for recipient_id, (known_by, every) in roots.items()
            for root in sorted(set(every) - {known_by})
        ],
    )


def forget_merged_roots(connection: sa.Connection, recipient_ids: Sequence[str]) -> None:
    """Forget what was merged into recipients who are no more, or of whom it is written anew."""
    for some in in_parts(recipient_ids):
        ids = ", ".join(literals_of(connection, some))
        text = f"DELETE FROM merged_root WHERE recipient_id IN ({ids})"  # noqa: S608  literals
        connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def known_by(connection: sa.Connection, incident_id: str, roots: Collection[str]) -> frozenset[str]:
    """Return the roots, and by which other ones the people are known in the incident into whom they were merged."""
    found = set(roots)
    for some in in_parts(sorted(roots)):
        found.update(
            connection.execute(
                sa.select(recipient.c.root)
                .join(merged_root, merged_root.c.recipient_id == recipient.c.recipient_id)
                .where(merged_root.c.root.in_(some) & (recipient.c.incident_id == incident_id))
            ).scalars()
        )
    return frozenset(found)


def twins_of(connection: sa.Connection, recipient_ids: Sequence[str]) -> Mapping[str, Collection[str]]:
    """Return as whom other incidents know these recipients, too; nothing of those whom none does."""
    beside: dict[str, set[str]] = defaultdict(set)
    incident_of: dict[str, str] = {}
    asked: set[str] = set()
    asking: Sequence[str] = recipient_ids
    while asking:
        asked.update(asking)
        for recipient_id, incident_id, other in _pairs(connection, asking):
            beside[recipient_id].add(other)
            incident_of[recipient_id] = incident_id
        asking = sorted({each for those in beside.values() for each in those} - asked)
    together: dict[str, set[str]] = {}
    for first in beside:
        if first in together:
            continue
        found, ahead = {first}, [first]
        while ahead:
            more = beside.get(ahead.pop(), set()) - found
            found |= more
            ahead += more
        together.update(dict.fromkeys(found, found))
    # two whom one incident takes for two people are told as two
    return {
        each: {other for other in together[each] if incident_of.get(other, incident_of[each]) != incident_of[each]}
        for each in recipient_ids
        if each in beside
    }


def _pairs(connection: sa.Connection, recipient_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    # in the order written, whatever the statistics say
    join = "JOIN" if connection.dialect.name == "sqlite" else "STRAIGHT_JOIN"
    for some in in_parts(recipient_ids):
        text = _CANDIDATES.format(ids=", ".join(literals_of(connection, some)))
        candidates = connection.exec_driver_sql(text, execution_options=AS_IT_STANDS).scalars().all()
        if candidates:
            ids = ", ".join(literals_of(connection, candidates))
            text = " UNION ALL ".join(each.format(join=join, ids=ids) for each in _PAIRS)
            yield from connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def withdraw_elsewhere(connection: sa.Connection, twins: Mapping[str, Collection[str]], begun: Collection[str]) -> None:
    """Take back what another incident has planned for those of the recipients who are `begun` here and has not sent, as it is
    held there, or its release stopped: it has its turn again there, and by then they have been told, or could not be.
    """
    there = sorted({other for each in begun for other in twins.get(each, ())})
    for some in in_parts(there):
        still = sa.select(recipient.c.recipient_id).where(
            recipient.c.recipient_id.in_(some) & recipient.c.final_state.is_(None)
        )
        waiting: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for row in connection.execute(
            # locked: the meter there must not put on the belt what is being withdrawn
            sa.select(attempt.c.recipient_id, attempt.c.state, attempt.c.send_count)
            .where(attempt.c.recipient_id.in_(connection.execute(still).scalars().all()))
            .with_for_update()
        ):
            waiting[row.recipient_id].append((row.state, row.send_count))
        unsent = [name for name, of_name in waiting.items() if set(of_name) == {(AttemptState.PLANNED, 0)}]
        connection.execute(sa.delete(attempt).where(attempt.c.recipient_id.in_(unsent)))


def take_back_elsewhere(connection: sa.Connection, recipient_ids: Sequence[str]) -> Sequence[str]:
    """Take back the end of whoever another incident ended because these had been reached, which they are not any more: they
    have their turn there as if nobody had told them. Returns them. An incident that has ended tells nobody.
    """
    back: list[str] = []
    for some in in_parts(sorted(recipient_ids)):
        ended = (
            connection.execute(
                sa.select(recipient.c.recipient_id)
                .join(incident, incident.c.incident_id == recipient.c.incident_id)
                .where(recipient.c.told_in.in_(some) & incident.c.state.not_in(ENDED))
            )
            .scalars()
            .all()
        )
        if ended:
            connection.execute(
                sa.update(recipient)
                .where(recipient.c.recipient_id.in_(ended))
                .values(final_state=None, final_at=None, told_in=None)
            )
            back += ended
    return back


@cache
def being_told_elsewhere() -> sa.ColumnElement[bool]:
    """Say that another incident is at it: whether it arrives there decides whether anything leaves here.

    What is only planned there counts while nothing holds it back: nobody waits here for somebody else's gate, or for a
    release that will never run.
    """
    found = []
    for joined, twin, same in _ways():
        tried, running, going = _going()
        found.append(
            sa.select(sa.literal(1))
            # in this order whatever the statistics say: they call `attempt` empty while its first thousands are being written
            .prefix_with("STRAIGHT_JOIN", dialect="mysql")
            .prefix_with("STRAIGHT_JOIN", dialect="mariadb")
            .select_from(
                joined.join(tried, tried.c.recipient_id == twin.c.recipient_id).join(
                    running, running.c.release_id == tried.c.release_id
                )
            )
            .where(same & going)
            .correlate(recipient)
            .exists()
        )
    return sa.or_(*found)


@cache
def known_elsewhere() -> sa.ColumnElement[bool]:
    """Say that another incident has them to tell the very same, whatever becomes of it."""
    found = [
        sa.select(sa.literal(1))
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .prefix_with("STRAIGHT_JOIN", dialect="mariadb")
        .select_from(joined)
        .where(same)
        .correlate(recipient)
        .exists()
        for joined, _, same in _ways()
    ]
    return sa.or_(*found)


@cache
def _going() -> tuple[sa.FromClause, sa.FromClause, sa.ColumnElement[bool]]:
    """Return a twin's attempts and their releases, and the condition that one is on its way or may leave at any moment."""
    twin = _TWIN
    tried, running, held = attempt.alias("twin_attempt"), release.alias("twin_release"), gate.alias("twin_gate")
    planned = (
        (tried.c.state == AttemptState.PLANNED)
        & (running.c.state == "releasing")
        & ~sa.exists().where((held.c.incident_id == twin.c.incident_id) & held.c.lifted_at.is_(None))
    )
    return tried, running, twin.c.final_state.is_(None) & (tried.c.state.in_(_ON_ITS_WAY) | planned)


def standing_elsewhere(
    connection: sa.Connection, twins: Mapping[str, Collection[str]], *, planned: bool = False
) -> tuple[Mapping[str, str], Collection[str]]:
    """Return how other incidents' notices of the very same facts stand for people who are others there, too: who was reached by
    one (and as which recipient), and for whom one is on its way, so that whether it arrives decides what leaves here. `planned`:
    or may leave at any moment.
    """
    every = sorted({other for those in twins.values() for other in those})
    reached: set[str] = set()
    going: set[str] = set()
    twin = _TWIN
    tried, running, leaving = _going()
    for some in in_parts(every):
        reached.update(
            connection.execute(
                sa.select(recipient.c.recipient_id).where(
                    recipient.c.recipient_id.in_(some)
                    & (recipient.c.final_state == PersonEnd.REACHED)
                    & recipient.c.told_in.is_(None)
                    # who is to be told that it was not true of them has been told nothing
                    & recipient.c.correction.is_(None)
                )
            ).scalars()
        )
        going.update(
            connection.execute(
                sa.select(twin.c.recipient_id)
                .join(tried, tried.c.recipient_id == twin.c.recipient_id)
                .join(running, running.c.release_id == tried.c.release_id)
                .where(
                    twin.c.recipient_id.in_(some)
                    & (leaving if planned else twin.c.final_state.is_(None) & tried.c.state.in_(_ON_ITS_WAY))
                )
                .distinct()
            ).scalars()
        )
    told = {each: min(reached.intersection(those)) for each, those in twins.items() if reached.intersection(those)}
    return told, {each for each, those in twins.items() if going.intersection(those)}
