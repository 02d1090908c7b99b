"""Canaries in the ledger: how many of each segment may still leave, what became of those that left, and what follows.

Everything is read from attempts, so that whoever takes over after a crash knows as much. What receipts mean is decided in
`consumers.domain.canary`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import attempt, incident, page, recipient, release
from consumers.domain.canary import CanaryPolicy, CanarySeen, CanaryState, canary_of, judge
from consumers.domain.delivery import ARRIVED, FAILED

_JUDGED = (Channel.EMAIL.value, Channel.SMS.value)
_LEFT = [state.value for state in AttemptState if state not in (AttemptState.PLANNED, AttemptState.CANCELLED)]
"""What was cancelled reached no provider: another takes its place."""


def allowance(
    connection: sa.Connection, incident_id: str, release_id: str, policy: Mapping[str, Any], *, judged: bool
) -> Mapping[str, int]:
    """Return how many more canaries of each approved segment may leave, by the channels that are judged or by all others.

    The others leave the judged ones their room: account notices go faster than e-mails, and say nothing of them.
    """
    canary = canary_of(policy)
    assert canary is not None
    counted = _first(incident_id, release_id) & attempt.c.state.in_(_LEFT)
    if judged:
        counted &= attempt.c.channel.in_(_JUDGED)
    left = {
        row[0]: row[1]
        for row in connection.execute(
            sa.select(recipient.c.segment_id, sa.func.count())
            .select_from(attempt.join(recipient, recipient.c.recipient_id == attempt.c.recipient_id))
            .where(counted)
            .group_by(recipient.c.segment_id)
        )
    }
    rooms = {each: canary.per_segment - left.get(each, 0) for each in sorted(policy.get("segments", {}))}
    return {segment_id: room for segment_id, room in rooms.items() if room > 0}


def is_judged(channel: Channel) -> bool:
    """Say whether receipts of this channel decide about a canary."""
    return channel.value in _JUDGED


def _first(incident_id: str, release_id: str) -> sa.ColumnElement[bool]:
    return (
        (attempt.c.incident_id == incident_id)
        & (attempt.c.release_id == release_id)
        & (attempt.c.fallback == sa.false())
    )


Unbegun = Callable[[sa.Connection, str, str, int], int]
"""How many of an incident's segment, up to a bound, nobody has begun to tell although nothing keeps them waiting."""


def judge_canaries(
    connection: sa.Connection, now: datetime, unbegun: Unbegun
) -> Sequence[tuple[str, str, CanaryState]]:
    """Let each canary that is done open its release, or pause it and page; return incident and release of those that moved.

    State, epoch, page and case event are one transaction with what was read: a crash before it judges again.
    """
    decided: list[tuple[str, str, CanaryState]] = []
    rows = connection.execute(
        sa.select(
            release.c.release_id, release.c.incident_id, release.c.policy, release.c.mode, incident.c.exercise,
            incident.c.epoch,
        )
        .join(incident, incident.c.incident_id == release.c.incident_id)
        .where((release.c.state == "releasing") & (release.c.canary_state == CanaryState.TESTING.value))
        .with_for_update(of=(release, incident))
    ).mappings().all()  # fmt: skip
    for row in rows:
        policy = canary_of(row["policy"])
        if policy is None:
            continue
        seen = _seen(connection, row, now, unbegun)
        state = judge(policy, seen, now)
        if state is CanaryState.TESTING:
            continue
        changes: dict[str, Any] = {"canary_state": state.value}
        if state is CanaryState.HELD:
            # all of the incident, as with every pause: another one of its releases may have the same people
            _tell_others(connection, row, now)
            connection.execute(
                sa.update(release)
                .where((release.c.incident_id == row["incident_id"]) & (release.c.state == "releasing"))
                .values(state="paused", stopped_at=now)
            )
            connection.execute(
                sa.update(incident).where(incident.c.incident_id == row["incident_id"]).values(epoch=row["epoch"] + 1)
            )
            _page(connection, row, policy, seen, now)
        connection.execute(sa.update(release).where(release.c.release_id == row["release_id"]).values(**changes))
        _tell(connection, row, state, seen, now)
        decided.append((row["incident_id"], row["release_id"], state))
    return decided


def _seen(connection: sa.Connection, row: Mapping[Any, Any], now: datetime, unbegun: Unbegun) -> CanarySeen:
    first = _first(row["incident_id"], row["release_id"])
    to_send = sum(_to_send(connection, row, first, now, unbegun, judged=judged) for judged in (True, False))
    counts: dict[str, int] = {"arrived": 0, "failed": 0, "silent": 0}
    last: datetime | None = None
    for state, count, at in connection.execute(
        sa.select(
            attempt.c.state,
            sa.func.count(),
            sa.func.max(attempt.c.handed_over_at, type_=attempt.c.handed_over_at.type),
        )
        .where(first & attempt.c.state.in_(_LEFT) & attempt.c.channel.in_(_JUDGED))
        .group_by(attempt.c.state)
    ):
        known = AttemptState(state)
        # one that expired without a word says as little as one that is still waited for
        failed = known in FAILED and known is not AttemptState.EXPIRED
        counts["arrived" if known in ARRIVED else "failed" if failed else "silent"] += count
        last = at if last is None or (at is not None and at > last) else last
    if last is None and counts["silent"]:
        # commanded or intended, and nothing handed over yet: the wait has not begun
        last = now + timedelta(seconds=1)
    left = connection.execute(sa.select(attempt.c.attempt_id).where(first & attempt.c.state.in_(_LEFT)).limit(1)).all()
    return CanarySeen(len(left), to_send, last_handed_over_at=last, **counts)


def _to_send(
    connection: sa.Connection,
    row: Mapping[Any, Any],
    first: sa.ColumnElement[bool],
    now: datetime,
    unbegun: Unbegun,
    *,
    judged: bool,
) -> int:
    """Return how many canaries have not left yet, by the channels that are judged or by all others."""
    channels = attempt.c.channel.in_(_JUDGED) if judged else attempt.c.channel.not_in(_JUDGED)
    rooms = allowance(connection, row["incident_id"], row["release_id"], row["policy"], judged=judged)
    count = 0
    for segment_id, room in rooms.items():
        of_segment = recipient.c.segment_id == segment_id
        planned = (
            sa.select(attempt.c.attempt_id)
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .where(
                first
                & channels
                & of_segment
                & (attempt.c.state == AttemptState.PLANNED)
                & (attempt.c.kept_until.is_(None) | (attempt.c.kept_until <= now))
            )
            .limit(room)
        )
        waiting = unbegun(connection, row["incident_id"], segment_id, room)
        count += min(room, len(connection.execute(planned).all()) + waiting)
    return count


def _page(
    connection: sa.Connection, row: Mapping[Any, Any], policy: CanaryPolicy, seen: CanarySeen, now: datetime
) -> None:
    name = row["incident_id"]
    known = seen.arrived + seen.failed
    why = (
        f"{seen.failed} of the {known} first notices did not arrive, more than {policy.bound_percent} %"
        if seen.silent <= known
        else f"{seen.silent} of the {known + seen.silent} first notices have no receipt after {policy.wait_seconds} s"
    )
    upsert(
        connection,
        page,
        [
            {
                "page_id": hashlib.sha256(f"canary/{row['release_id']}/{now.isoformat()}".encode()).hexdigest(),
                "incident_id": name,
                "kind": "release.canary_held",
                "severity": "critical",
                "roles": ["sre", "dpo", "approver"],
                "title": f"{name}: the release is paused: {why}"[:300],
                "body": {
                    "arrived": seen.arrived,
                    "failed": seen.failed,
                    "silent": seen.silent,
                    "exercise": bool(row["exercise"]),
                    "next": f"tocsin delivery status {name}; then tocsin incident resume {name} --reason TEXT, or "
                    f"tocsin incident cancel {name} --reason TEXT",
                },
                "raised_at": now,
            }
        ],
    )


def _tell(
    connection: sa.Connection, row: Mapping[Any, Any], state: CanaryState, seen: CanarySeen, now: datetime
) -> None:
    kind = "release.canary_held" if state is CanaryState.HELD else "release.canary_passed"
    event_id = hashlib.sha256(f"{row['release_id']}/{kind}/{now.isoformat()}".encode()).hexdigest()[:32]
    name = row["incident_id"]
    body = {
        "release_id": row["release_id"],
        "mode": row["mode"],
        "arrived": seen.arrived,
        "failed": seen.failed,
        "silent": seen.silent,
    }
    exercise = bool(row["exercise"])
    outbox.append(connection, [outbox.case_event(kind, name, event_id, now, body, exercise=exercise)], now)


def _tell_others(connection: sa.Connection, row: Mapping[Any, Any], now: datetime) -> None:
    """Put on record that the incident's other running releases are paused by this canary."""
    name = row["incident_id"]
    for other in connection.execute(
        sa.select(release.c.release_id, release.c.policy_sha256, release.c.mode).where(
            (release.c.incident_id == name)
            & (release.c.state == "releasing")
            & (release.c.release_id != row["release_id"])
        )
    ).all():
        kind = "release.paused_with_others"
        event_id = hashlib.sha256(f"{other.release_id}/{kind}/{now.isoformat()}".encode()).hexdigest()[:32]
        body = {"release_id": other.release_id, "policy_sha256": other.policy_sha256, "mode": other.mode}
        exercise = bool(row["exercise"])
        outbox.append(connection, [outbox.case_event(kind, name, event_id, now, body, exercise=exercise)], now)
