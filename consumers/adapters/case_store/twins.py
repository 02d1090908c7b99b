"""One person in several incidents: notices that would tell the very same are told once, whichever incident's turn comes first.

What is asked of the tables of people and attempts; what follows from it does the ledger. The same at every moment: when
somebody's turn begins, when their next channel or a repeat goes onto the belt, and when it is claimed.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.engine import AS_IT_STANDS, in_parts, literals_of
from consumers.adapters.case_store.tables import ENDED, attempt, gate, incident, recipient, release
from consumers.domain.delivery import PersonEnd

_ON_ITS_WAY = (AttemptState.COMMANDED, AttemptState.INTENDED, AttemptState.HANDED_OVER, AttemptState.UNKNOWN)


def _twin() -> tuple[sa.FromClause, sa.ColumnElement[bool]]:
    """Return another incident's notice to the same person, of the very same facts, and the condition that it is one."""
    twin = recipient.alias("twin")
    same = (
        (twin.c.notice_sha256 == recipient.c.notice_sha256)
        & (twin.c.root == recipient.c.root)
        & (twin.c.incident_id != recipient.c.incident_id)
    )
    return twin, same


def withdraw_elsewhere(connection: sa.Connection, recipient_ids: Sequence[str], begun: Collection[str]) -> None:
    """Take back what another incident has planned for those of the recipients who are `begun` here and has not sent, as it is
    held there, or its release stopped: it has its turn again there, and by then they have been told, or could not be.
    """
    twin, same = _twin()
    for some in in_parts([each for each in recipient_ids if each in begun]):
        planned = (
            sa.select(twin.c.recipient_id)
            .select_from(recipient.join(twin, same).join(attempt, attempt.c.recipient_id == twin.c.recipient_id))
            .where(recipient.c.recipient_id.in_(some) & twin.c.final_state.is_(None))
            .distinct()
        )
        waiting: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for row in connection.execute(
            # locked: the meter there must not put on the belt what is being withdrawn
            sa.select(attempt.c.recipient_id, attempt.c.state, attempt.c.send_count)
            .where(attempt.c.recipient_id.in_(connection.execute(planned).scalars().all()))
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
    here = recipient.alias("here")
    for some in in_parts(sorted(recipient_ids)):
        ended = (
            connection.execute(
                sa.select(recipient.c.recipient_id)
                .join(
                    here,
                    (here.c.root == recipient.c.root)
                    & (here.c.notice_sha256 == recipient.c.notice_sha256)
                    & (here.c.recipient_id == recipient.c.told_in),
                )
                .join(incident, incident.c.incident_id == recipient.c.incident_id)
                .where(here.c.recipient_id.in_(some) & incident.c.state.not_in(ENDED))
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


def with_twins(connection: sa.Connection, recipient_ids: Sequence[str]) -> Collection[str]:
    """Return those of the recipients of whom another incident knows, too."""
    found: set[str] = set()
    for some in in_parts(recipient_ids):
        # as text, without SQLAlchemy's compiling of each id
        listed = ", ".join(literals_of(connection, some))
        text = f"{_WITH_TWIN} AND recipient.recipient_id IN ({listed})"
        found.update(connection.exec_driver_sql(text, execution_options=AS_IT_STANDS).scalars())
    return found


_WITH_TWIN = (
    "SELECT recipient.recipient_id FROM recipient WHERE EXISTS (SELECT 1 FROM recipient AS twin "
    "WHERE twin.notice_sha256 = recipient.notice_sha256 AND twin.root = recipient.root "
    "AND twin.incident_id <> recipient.incident_id)"
)


def told_elsewhere() -> sa.ScalarSelect[str]:
    """Return the recipient id under which another incident has told a person the same and reached them, or NULL."""
    twin, same = _twin()
    return (
        sa.select(sa.func.min(twin.c.recipient_id))
        .where(
            same
            & (twin.c.final_state == PersonEnd.REACHED)
            & twin.c.told_in.is_(None)
            # who is to be told that it was not true of them has been told nothing
            & twin.c.correction.is_(None)
        )
        .correlate(recipient)
        .scalar_subquery()
    )


def being_told_elsewhere() -> sa.ColumnElement[bool]:
    """Say that another incident is at it: whether it arrives there decides whether anything leaves here.

    What is only planned there counts while nothing holds it back: nobody waits here for somebody else's gate, or for a
    release that will never run.
    """
    twin, same = _twin()
    tried, running, held = attempt.alias("twin_attempt"), release.alias("twin_release"), gate.alias("twin_gate")
    going = tried.c.state.in_(_ON_ITS_WAY) | (
        (tried.c.state == AttemptState.PLANNED)
        & (running.c.state == "releasing")
        & ~sa.exists().where((held.c.incident_id == twin.c.incident_id) & held.c.lifted_at.is_(None))
    )
    return (
        sa.select(sa.literal(1))
        # in this order whatever the statistics say: they call `attempt` empty while its first thousands are being written
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .prefix_with("STRAIGHT_JOIN", dialect="mariadb")
        .select_from(
            twin.join(tried, tried.c.recipient_id == twin.c.recipient_id).join(
                running, running.c.release_id == tried.c.release_id
            )
        )
        .where(same & twin.c.final_state.is_(None) & going)
        .correlate(recipient)
        .exists()
    )


def standing_elsewhere(
    connection: sa.Connection, recipient_ids: Sequence[str]
) -> tuple[Mapping[str, str], Mapping[str, Collection[str]], Collection[str]]:
    """Return how other incidents' notices of the very same facts stand for these people: who was reached by one (and as which
    recipient), who else each of them is, and for whom one is on its way, so that whether it arrives decides what leaves here.
    """
    told: dict[str, str] = {}
    others: dict[str, set[str]] = defaultdict(set)
    twin, same = _twin()
    for some in in_parts(sorted(with_twins(connection, recipient_ids))):
        for row in connection.execute(
            sa.select(
                recipient.c.recipient_id,
                twin.c.recipient_id.label("other"),
                twin.c.final_state,
                (twin.c.told_in.is_(None) & twin.c.correction.is_(None)).label("by_itself"),
            )
            .select_from(recipient.join(twin, same))
            .where(recipient.c.recipient_id.in_(some))
            .order_by(twin.c.recipient_id)
        ):
            if row.final_state == PersonEnd.REACHED and row.by_itself:
                told.setdefault(row.recipient_id, row.other)
            elif row.final_state is None:
                others[row.recipient_id].add(row.other)
    going = {
        recipient_id
        for some in in_parts(sorted(set().union(*others.values())))
        for recipient_id in connection.execute(
            sa.select(attempt.c.recipient_id).where(attempt.c.recipient_id.in_(some) & attempt.c.state.in_(_ON_ITS_WAY))
        ).scalars()
    }
    return told, others, {each for each, those in others.items() if those & going}
