"""How telling begins: everybody of a running release gets their first attempt, or their end, in the order of their turns."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.changes import BEGUN, AttemptChanges, channels_of, policies_of, run_again
from consumers.adapters.case_store.engine import CaseDatabase, insert_many
from consumers.adapters.case_store.hard_bounces import bounced_channels
from consumers.adapters.case_store.keeping_back import KeepingBack
from consumers.adapters.case_store.metering import FreeLanes, Meter, order_of, write_commands
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.people_wait import carrying_nothing, page_people_who_wait, unbegun
from consumers.adapters.case_store.publications import publications_of, published, stood_in_for
from consumers.adapters.case_store.tables import (
    ENDED,
    affected,
    attempt,
    incident,
    recipient,
    release,
    segment,
)
from consumers.adapters.case_store.twins import standing_elsewhere, twins_of, withdraw_elsewhere
from consumers.domain.approvals import Mode, reach_until
from consumers.domain.canary import CanaryState
from consumers.domain.delivery import PersonEnd, what_next
from consumers.domain.ledger import Begun, Lane

_TURN = (
    "recipient_id", "root", "channels", "late", "subject_commitment", "deadline_at", "segment_id", "final_state",
    "held_reason", "residence", "controller",
)  # fmt: skip
_TURNS = PackedRows(recipient, _TURN, by="recipient_id", locked=True)
_WORTH_A_PORTION = 1000
"""For so many a transaction of their own costs each of them next to nothing."""
_QUICK_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 60.0
_PORTIONS_IN_LINE = 50
"""Half a million ids: to put a million in order takes seconds, and tens of megabytes to remember."""


class Beginnings:
    """Gives people of running releases their first attempts. Remembers who is next in line."""

    def __init__(
        self, database: CaseDatabase, clock: Clock, changes: AttemptChanges, meter: Meter, kept_back: KeepingBack
    ) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes
        self._meter = meter
        self._kept_back = kept_back
        self._publications_seen: Mapping[str, Any] = {}
        self._lines: dict[str, list[str]] = {}
        self._looked_again = 0.0

    def begin_attempts(self, limit: int, lanes: Sequence[Lane] = ()) -> Begun:
        """Give up to `limit` recipients of running releases their first attempt, or their end.

        Where nobody else could have their turn before, attempts on `lanes` are written with their commands, as the meter would
        do a moment later: in one transaction, so that a crash leaves neither or both.
        """
        now = self._clock.now()

        seen, first = self._publications_seen, True

        def work(connection: sa.Connection) -> tuple[Begun, FreeLanes | None]:
            nonlocal seen, first
            begun, most = 0, limit
            commanded = Counter[Channel]()
            rows = connection.execute(_beginning_releases()).mappings().all()
            # of a transaction that was rolled back nobody has had their turn
            self._lines = {row["release_id"]: self._lines.get(row["release_id"], []) for row in rows if first}
            first = False
            free = self._meter.free_lanes(connection, lanes, now) if rows else None
            if free is not None and free.most >= _WORTH_A_PORTION:
                # what is left goes at once, too, in a moment
                most = min(limit, free.most)
            for row in rows:
                if row["mode"] != Mode.BREAK_GLASS:
                    self._adopt(connection, row)
                if row["state"] == "finished":
                    self._go_on(connection, row, now)
            # shared alike, and what one leaves goes to the others: nobody waits until all of a huge incident have begun
            more = list(rows)
            while more and begun < most:
                asked, more = more, []
                for number, row in enumerate(asked):
                    share = max((most - begun) // (len(asked) - number), 1)
                    tested = _tested_before(row, rows)
                    count = self._begin_release(connection, row, share, now, free, commanded, tested)
                    begun += count
                    if count >= share:
                        more.append(row)
            if more:
                return Begun(begun, commanded, more=True), free
            running: dict[tuple[str, int], list[str]] = defaultdict(list)
            for row in rows:
                if row["mode"] != Mode.BREAK_GLASS:
                    running[row["incident_id"], row["revision"]].append(row["release_id"])
            self._look_at_waiting(connection, running, now)
            seen = self._follow_publications(connection, now)
            return Begun(begun, commanded, more=False), free

        begun, free = self._database.writing(work)
        # only what is committed has been looked at: after a crash the next process looks again
        self._publications_seen = seen
        self._meter.note_begun(free, begun.commanded)
        return begun

    def _look_at_waiting(
        self, connection: sa.Connection, running: Mapping[tuple[str, int], Sequence[str]], now: datetime
    ) -> None:
        """Page for people who wait; where there are so many that to look takes long, the less often."""
        if time.monotonic() < self._looked_again:
            return
        began = self._clock.now()
        page_people_who_wait(connection, running, now)
        took = (self._clock.now() - began).total_seconds()
        if took > _QUICK_SECONDS:
            # a clock that was put forward meanwhile keeps nobody from looking for long
            self._looked_again = time.monotonic() + min(50 * took, _LONGEST_PAUSE_SECONDS)

    @staticmethod
    def _adopt(connection: sa.Connection, row: Mapping[Any, Any]) -> None:
        """Take over what waits under a release that carries nothing any more, for people who are still affected and whose
        text is approved here; with that text.

        Something left before the scope was corrected or the release cancelled; the next channel must not wait for ever. A
        release that was finished when the scope was corrected is not voided: a bounce may come long after its end.
        What a person has cancelled since this release began is left alone: only what is approved afterwards may carry it. Where
        nobody knows which came first, somebody is told that people wait.
        """
        began = row["started_epoch"]
        cancelled_before = sa.false() if began is None else release.c.stopped_epoch <= began
        void = (
            connection.execute(
                carrying_nothing(row["incident_id"], row["revision"]).where(
                    (release.c.state != "cancelled") | cancelled_before
                )
            )
            .scalars()
            .all()
        )
        if not void:
            return
        waiting = connection.execute(
            sa.select(attempt.c.attempt_id)
            .where(
                (attempt.c.incident_id == row["incident_id"])
                & (attempt.c.state == AttemptState.PLANNED)
                & attempt.c.release_id.in_(void)
            )
            .limit(1)
        ).first()
        if waiting is None:
            return
        for segment_id, approved in sorted(row["policy"].get("segments", {}).items()):
            people = sa.select(recipient.c.recipient_id).where(
                (recipient.c.incident_id == row["incident_id"])
                & (recipient.c.segment_id == segment_id)
                & sa.exists().where(
                    (affected.c.incident_id == row["incident_id"])
                    & (affected.c.revision == row["revision"])
                    & (affected.c.root == recipient.c.root)
                )
            )
            connection.execute(
                sa.update(attempt)
                .where(
                    (attempt.c.incident_id == row["incident_id"])
                    & (attempt.c.state == AttemptState.PLANNED)
                    & attempt.c.release_id.in_(void)
                    & attempt.c.recipient_id.in_(people)
                )
                .values(release_id=row["release_id"], bundle_sha256=approved["bundle_sha256"])
            )

    @staticmethod
    def _go_on(connection: sa.Connection, row: Mapping[Any, Any], now: datetime) -> None:
        """Let a finished release run again if somebody's next channel waits under it: taken over, or begun by a bounce that was
        written while the last people were counted.
        """
        waits = (
            sa.select(attempt.c.attempt_id)
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .where(
                (attempt.c.incident_id == row["incident_id"])
                & (attempt.c.state == AttemptState.PLANNED)
                & (attempt.c.release_id == row["release_id"])
                & recipient.c.final_state.is_(None)
            )
            .limit(1)
        )
        if connection.execute(waits).first() is not None:
            run_again(connection, [row["release_id"]], now)

    def _begin_release(
        self,
        connection: sa.Connection,
        row: Mapping[Any, Any],
        limit: int,
        now: datetime,
        free: FreeLanes | None,
        commanded: Counter[Channel],
        tested: Collection[str],
    ) -> int:
        late_used = connection.execute(
            sa.select(sa.func.count())
            .select_from(recipient)
            .where(
                (recipient.c.incident_id == row["incident_id"])
                & recipient.c.late
                & sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id)
            )
        ).scalar_one()
        approved: Mapping[str, Any] = row["policy"].get("segments", {})
        cap = row["late_cap"]
        conditions = [
            *unbegun(row["incident_id"]),
            # who must wait for another approval takes no place among those whose turn it is
            recipient.c.segment_id.in_(sorted(approved)),
        ]
        if late_used >= cap:
            conditions.append(~recipient.c.late)
        if tested:
            conditions.append(recipient.c.late | recipient.c.segment_id.not_in(sorted(tested)))
        until = reach_until(Mode(row["mode"]), row["released_at"])
        if until is not None:
            conditions.append(recipient.c.deadline_at <= until)
        rows = self._whose_turn_it_is(connection, row["release_id"], conditions, until, limit)
        attempts: list[dict[str, Any]] = []
        ended: list[tuple[str, PersonEnd, str]] = []
        elsewhere: list[tuple[str, str, str]] = []
        policies = policies_of(connection, {person["segment_id"] for person in rows})
        dead = bounced_channels(connection, [person["recipient_id"] for person in rows])
        bundles = {person["segment_id"]: person["bundle_sha256"] for person in rows}
        as_approved = {
            segment_id
            for segment_id, policy in policies.items()
            if approved.get(segment_id) == {"bundle_sha256": bundles[segment_id], **policy.as_json()}
        }
        following_of = cache(lambda segment_id, channels: what_next((), policies[segment_id], channels))
        for person in rows:
            policy = policies[person["segment_id"]]
            if person["segment_id"] not in as_approved:
                # nobody approved this text and these channels for these people: they wait for an approval of their own
                continue
            if person["told_in"] is not None:
                # Another incident's notice told them these very facts: they are not told twice.
                elsewhere.append((person["recipient_id"], person["told_in"], person["subject_commitment"]))
                continue
            if person["late"]:
                if late_used >= cap:
                    continue
                late_used += 1
            channels = tuple(channels_of(person["channels"], dead.get(person["recipient_id"], ())))
            following = following_of(person["segment_id"], channels)
            order = order_of(person["deadline_at"], person["priority"])
            attempts.extend(
                self._changes.new_attempt(
                    person["recipient_id"], row["incident_id"], row["release_id"], number, channel, policy,
                    person["bundle_sha256"], row["epoch"], now,
                )
                | order
                for number, channel in enumerate(following.channels, 1)
            )  # fmt: skip
            if following.end is not None:
                ended.append((person["recipient_id"], following.end, person["subject_commitment"]))
        if free is not None and row["incident_id"] == free.incident_id and row["state"] == "releasing":
            self._command_at_once(
                connection, row, {each["recipient_id"]: each for each in rows}, attempts, free, commanded
            )
        insert_many(connection, attempt, attempts)
        begun = {each["recipient_id"] for each in attempts}
        withdraw_elsewhere(connection, {person["recipient_id"]: person["twins"] for person in rows}, begun)
        self._changes.end_people(connection, row["incident_id"], ended, now, exercise=bool(row["exercise"]))
        self._changes.end_told_elsewhere(connection, row["incident_id"], elsewhere, now, exercise=bool(row["exercise"]))
        if row["state"] == "finished" and (attempts or ended or elsewhere):
            # a late addition within the cap was approved with all others, however late
            run_again(connection, [row["release_id"]], now)
        return len(attempts) + len(ended) + len(elsewhere)

    def _command_at_once(
        self,
        connection: sa.Connection,
        row: Mapping[Any, Any],
        people: Mapping[str, Mapping[str, Any]],
        attempts: Sequence[dict[str, Any]],
        free: FreeLanes,
        commanded: Counter[Channel],
    ) -> None:
        """Make those of new attempts `commanded` for which free lanes have room and nothing speaks against their going now."""
        commands = []
        for each in attempts:
            channel, person = Channel(each["channel"]), people[each["recipient_id"]]
            place = free.places.get(channel)
            if place is None or commanded[channel] >= place.room:
                continue
            concerned = {**person, "incident_id": row["incident_id"], "channel": channel}
            if self._kept_back(connection, concerned, ()):
                continue
            commanded[channel] += 1
            each |= {"state": AttemptState.COMMANDED.value, "commanded_at": each["state_at"]}
            commands.append(
                {
                    **each, "current_epoch": row["epoch"], "lane": person["lane"], "deadline_at": person["deadline_at"],
                    "exercise": row["exercise"],
                }
            )  # fmt: skip
        if commands:
            write_commands(connection, commands, commands[0]["state_at"])

    def _whose_turn_it_is(
        self,
        connection: sa.Connection,
        release_id: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        until: datetime | None,
        limit: int,
    ) -> Sequence[Mapping[str, Any]]:
        """Return up to `limit` people for whom `conditions` hold, locked, in the order of their turns.

        The order is worked out for many portions at once: for each, a release of a million would be sorted a hundred times.
        `conditions` (and `until`, one of them) are asked again of everybody once they are locked, in Python: as SQL, with all
        they look into, it took longer than all else. Who came late goes after those already in line.
        """
        line = self._lines.get(release_id, [])
        if len(line) < limit:
            line = list(
                connection.execute(
                    sa.select(recipient.c.recipient_id)
                    .join(segment, segment.c.segment_id == recipient.c.segment_id)
                    .where(*conditions)
                    .order_by(recipient.c.late, recipient.c.deadline_at, segment.c.priority, recipient.c.recipient_id)
                    .limit(max(limit, 0) * _PORTIONS_IN_LINE)
                ).scalars()
            )
        ids, self._lines[release_id] = line[:limit], line[limit:]
        # planning must not regroup somebody while their first attempt is being written
        locked = {person["recipient_id"]: person for person in _TURNS.named(connection, ids)}
        begun = {recipient_id for (recipient_id,) in BEGUN.of(connection, list(locked))}
        twins = twins_of(connection, list(locked))
        told_in, being_told = standing_elsewhere(connection, twins, planned=True)
        segments = {
            row.segment_id: {"bundle_sha256": row.bundle_sha256, "priority": row.priority, "lane": row.lane}
            for row in connection.execute(
                sa.select(segment.c.segment_id, segment.c.bundle_sha256, segment.c.priority, segment.c.lane).where(
                    segment.c.segment_id.in_(sorted({each["segment_id"] or "" for each in locked.values()}))
                )
            )
        }
        return [
            {
                **person, **segments[person["segment_id"]],
                "channels": json.loads(person["channels"]), "told_in": told_in.get(recipient_id),
                "twins": twins.get(recipient_id, ()),
            }
            for recipient_id in ids
            if (person := locked.get(recipient_id)) is not None
            and person["final_state"] is None
            and person["held_reason"] is None
            and person["segment_id"] in segments
            and (until is None or (person["deadline_at"] is not None and person["deadline_at"] <= until))
            and recipient_id not in begun
            and (recipient_id in told_in or recipient_id not in being_told)
        ]  # fmt: skip

    def _follow_publications(self, connection: sa.Connection, now: datetime) -> Mapping[str, Any]:
        """Let what has come to stand in public stand in for those whom nothing else reached, and no longer for anybody
        once it is withdrawn. Looked at when a publication begins, ends or is withdrawn; later ends look for themselves.
        Returns what has been looked at.
        """
        marks = published(connection, now)
        for incident_id, mark in marks.items():
            if self._publications_seen.get(incident_id) == mark:
                continue
            standing = publications_of(connection, incident_id, now)
            stood = publications_of(connection, incident_id, now, stood=True)
            people = connection.execute(
                sa.select(
                    recipient.c.recipient_id,
                    recipient.c.subject_commitment,
                    recipient.c.final_state,
                    incident.c.exercise,
                )
                .join(incident, incident.c.incident_id == recipient.c.incident_id)
                .where(
                    (recipient.c.incident_id == incident_id)
                    & recipient.c.final_state.in_([PersonEnd.UNREACHABLE_REPORTED, PersonEnd.SUBSTITUTED])
                )
            ).all()
            for state, public in ((PersonEnd.UNREACHABLE_REPORTED, standing), (PersonEnd.SUBSTITUTED, stood)):
                those = [row for row in people if row.final_state == state]
                told = stood_in_for(connection, [row.recipient_id for row in those], public)
                moved = [
                    row for row in those if (row.recipient_id in told) == (state is PersonEnd.UNREACHABLE_REPORTED)
                ]
                if moved:
                    ended = [
                        (row.recipient_id, PersonEnd.UNREACHABLE_REPORTED, row.subject_commitment) for row in moved
                    ]
                    self._changes.end_people(connection, incident_id, ended, now, exercise=bool(moved[0].exercise))
        return marks


def _tested_before(row: Mapping[Any, Any], rows: Sequence[Mapping[Any, Any]]) -> Collection[str]:
    """Return the segments that a release of the same incident from before this one tries on a few first, with the very same text
    and channels: whom that one begins waits for its canary, and is not begun past it.
    """
    approved: Mapping[str, Any] = row["policy"].get("segments", {})
    # two machines' clocks do not say which was approved first
    before = [each for each in rows if (each["start_number"] or 0) < (row["start_number"] or 0)]
    return {
        segment_id
        for each in before
        if each["incident_id"] == row["incident_id"] and each["canary_state"] == CanaryState.TESTING
        for segment_id, own in each["policy"].get("segments", {}).items()
        if approved.get(segment_id) == own
    }


@cache
def _beginning_releases() -> sa.Select[Any]:
    """Releases that may begin attempts, locked: one that is voided meanwhile must not leave attempts behind."""
    return (
        sa.select(
            release.c.release_id,
            release.c.incident_id,
            release.c.revision,
            release.c.state,
            release.c.mode,
            release.c.policy,
            release.c.late_cap,
            release.c.released_at,
            release.c.canary_state,
            release.c.started_epoch,
            release.c.start_number,
            incident.c.epoch,
            incident.c.exercise,
        )
        .join(incident, incident.c.incident_id == release.c.incident_id)
        .where(
            (
                (release.c.state == "releasing")
                | ((release.c.state == "finished") & (release.c.mode != Mode.BREAK_GLASS.value))
            )
            & (release.c.revision == incident.c.revision)
            & incident.c.state.not_in(ENDED)
        )
        .order_by(release.c.released_at)
        # with the incident: planning, which locks it, must not redraw people whose attempts are being written
        .with_for_update(of=(release, incident))
    )
