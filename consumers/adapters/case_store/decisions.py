"""Decisions that the evidence log has and a restored case store lacks: known by the acts that the store keeps of each.

What the log tells whole is done again (a revoked text, a release that was withdrawn). Most it does not tell: no reason, no
value, nobody's name. What would run without such a decision is paused until a person has looked. Taken note of, a decision
has an act here like any other, without person and reason, so that nothing asks for it again.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.bundles import stop_releases
from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.tables import ENDED, act, incident, incident_number, notice_bundle, release
from consumers.case.acting import Actor
from consumers.case.permissions import Role
from consumers.case.records import ActRecord, PageRecord
from consumers.case.restoring import is_decision, keeps_back
from consumers.case.steering import pause_running, standing_of
from consumers.case.workflow import ask_no_more, found
from consumers.domain.canary import CanaryState
from consumers.evidence.tally import LoggedAct

THE_LOG = "the evidence log"
"""Who acted, where the log alone knows of it."""
_TAKEN_BACK = ("release.withdrawn", "release.cancelled")
STOPPED_BY_RESTORE = "restore.paused"
"""The kind of the page about a release that was paused so."""


def lacking(connection: sa.Connection, logged: Collection[LoggedAct]) -> tuple[LoggedAct, ...]:
    """Return, in the log's order, the decisions of which the store has neither act nor result."""
    asked = [each for each in logged if is_decision(each.kind, by_person=each.by_person)]
    if not asked:
        return ()
    moments = [each.occurred_at for each in asked]
    kept = {
        (row.kind, row.incident_id, row.occurred_at)
        for row in connection.execute(
            sa.select(act.c.kind, act.c.incident_id, act.c.occurred_at).where(
                act.c.occurred_at.between(min(moments), max(moments))
            )
        )
    }
    forgotten = {each.about for each in logged if each.kind == "erasure.carried_out"}
    left = [
        each
        for each in asked
        if (each.kind, each.incident_id, each.occurred_at) not in kept
        # the erased key itself is looked for
        and not (each.kind == "erasure.requested" and each.about in forgotten)
    ]
    return tuple(each for each in left if each.kind not in _BY_RESULT or not _BY_RESULT[each.kind](connection, each))


def _is_open_or_was(connection: sa.Connection, logged: LoggedAct) -> bool:
    known = incident.c.incident_id == logged.incident_id
    return connection.execute(sa.select(incident.c.incident_id).where(known)).first() is not None


def _was_held(connection: sa.Connection, logged: LoggedAct) -> bool:
    its = release.c.release_id == logged.about
    state = connection.execute(sa.select(release.c.canary_state).where(its)).scalar()
    return state != CanaryState.TESTING


def _was_revoked(connection: sa.Connection, logged: LoggedAct) -> bool:
    row = _bundle(connection, logged)
    return row is None or row.revoked_at is not None or bool(row.approved_at >= logged.occurred_at)


def _was_approved(connection: sa.Connection, logged: LoggedAct) -> bool:
    row = _bundle(connection, logged)
    return row is not None and bool(row.approved_at >= logged.occurred_at)


def _bundle(connection: sa.Connection, logged: LoggedAct) -> Any:
    return connection.execute(
        sa.select(notice_bundle.c.approved_at, notice_bundle.c.revoked_at).where(
            notice_bundle.c.bundle_sha256 == logged.about
        )
    ).first()


_BY_RESULT: Mapping[str, Callable[[sa.Connection, LoggedAct], bool]] = {
    "incident.opened": _is_open_or_was,
    "release.canary_held": _was_held,
    "notice.revoked": _was_revoked,
    "notice.approved": _was_approved,
}
"""What leaves no act, by how the store shows that it knows of it."""


def take_note(
    connection: sa.Connection, lacked: Sequence[LoggedAct], actor: Actor, role: Role, reason: str, now: datetime
) -> tuple[str, ...]:
    """Write that the store knows of `lacked` now, and let nothing run that one of them may have kept back; return the incidents
    that were paused.

    In the caller's transaction: a crash before its end leaves all of it to be done again.
    """
    case = SqlCaseWork(connection, now, locking=True)
    for each in lacked:
        _write_act(connection, case, each)
        if each.kind == "notice.revoked":
            connection.execute(
                sa.update(notice_bundle)
                .where((notice_bundle.c.bundle_sha256 == each.about) & notice_bundle.c.revoked_at.is_(None))
                .values(revoked_at=each.occurred_at, revoked_by=THE_LOG)
            )
            stop_releases(connection, str(each.about), actor.person_id, now)
        elif each.kind in _TAKEN_BACK:
            _withdraw(connection, case, each, actor, now)
        elif each.kind == "release.canary_held":
            connection.execute(
                sa.update(release)
                .where((release.c.release_id == each.about) & (release.c.canary_state == CanaryState.TESTING.value))
                .values(canary_state=CanaryState.HELD.value)
            )
    stopped = sorted({each.incident_id for each in lacked if each.incident_id is not None and keeps_back(each.kind)})
    return tuple(name for name in stopped if _pause(case, name, lacked, actor, role, reason, now))


def _write_act(connection: sa.Connection, case: SqlCaseWork, logged: LoggedAct) -> None:
    mark = f"{logged.kind}/{logged.incident_id}/{logged.occurred_at.isoformat()}"
    act_id = hashlib.sha256(mark.encode()).hexdigest()[:32]
    known = connection.execute(sa.select(act.c.case_event_id).where(act.c.case_event_id == act_id)).first()
    # what one transaction did to several releases stands in the log once for each, and is one act
    if known is None:
        role = logged.role or "none"
        case.add_act(ActRecord(act_id, logged.incident_id, logged.kind, THE_LOG, role, None, None, logged.occurred_at))


def _withdraw(connection: sa.Connection, case: SqlCaseWork, logged: LoggedAct, actor: Actor, now: datetime) -> None:
    """Take back what the backup has as waiting for approval: one more word would let it run."""
    done = connection.execute(
        sa.update(release)
        .where((release.c.release_id == logged.about) & (release.c.state == "prepared"))
        .values(state="withdrawn", stopped_at=logged.occurred_at)
    ).rowcount
    if done:
        ask_no_more(case, str(logged.incident_id), str(logged.about), by=actor.person_id, at=now)


def _pause(
    case: SqlCaseWork, name: str, lacked: Sequence[LoggedAct], actor: Actor, role: Role, reason: str, now: datetime
) -> bool:
    it = case.incident(name)
    if it is None or it.state in ENDED:
        return False
    running = [each for each in case.releases(name) if each.state == "releasing"]
    if not running:
        return False
    pause_running(case, it, running, standing_of(case, it), actor, role, now, reason=reason)
    count = sum(each.incident_id == name and keeps_back(each.kind) for each in lacked)
    title = f"{name}: paused, as the restored case store lacks {count:,} decisions that the evidence log has"
    case.raise_page(
        PageRecord(
            page_id=hashlib.sha256(f"{STOPPED_BY_RESTORE}/{name}/{now.isoformat()}".encode()).hexdigest(),
            incident_id=name, kind=STOPPED_BY_RESTORE, severity="critical", roles=("dpo", "counsel", "sre"), title=title,
            body={
                "decisions": count,
                "kinds": sorted({each.kind for each in lacked if each.incident_id == name and keeps_back(each.kind)}),
                "exercise": it.exercise,
                "next": f"do again what `tocsin restore reconcile` named; then tocsin incident resume {name} --reason TEXT, or "
                f"tocsin incident cancel {name} --reason TEXT",
            },
            raised_at=now,
        )
    )  # fmt: skip
    return True


def stop_started(connection: sa.Connection, logged: Collection[LoggedAct], now: datetime) -> None:
    """Cancel what the backup has as waiting for approval and the log as started: its attempts come back from the log, and
    whoever is not told needs a release that stands here with its approvals.
    """
    case = SqlCaseWork(connection, now, locking=True)
    for each in logged:
        if each.kind != "release.started" or each.incident_id is None:
            continue
        row = case.release(str(each.about))
        if row is None or row.state != "prepared":
            continue
        it = found(case, each.incident_id)
        case.update_incident(it.incident_id, {"epoch": it.epoch + 1})
        case.update_release(
            row.release_id,
            {
                "state": "cancelled", "released_at": each.occurred_at, "stopped_at": now, "started_epoch": it.epoch,
                "stopped_epoch": it.epoch + 1,
            },
        )  # fmt: skip
        ask_no_more(case, it.incident_id, row.release_id, by=THE_LOG, at=now)


def pass_over_numbers(connection: sa.Connection, logged: Iterable[LoggedAct]) -> None:
    """Let no incident take the number of one that the log knows: entries, attempts and receipts would be taken for one's."""
    last: dict[int, int] = {}
    for each in logged:
        if each.incident_id is not None:
            of_year, number = map(int, each.incident_id.split("-")[1:])
            last[of_year] = max(last.get(of_year, 0), number)
    for year, number in sorted(last.items()):
        upsert(connection, incident_number, [{"year": year, "last": number}])
        connection.execute(
            sa.update(incident_number)
            .where((incident_number.c.year == year) & (incident_number.c.last < number))
            .values(last=number)
        )
