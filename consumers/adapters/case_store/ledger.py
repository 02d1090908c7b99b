"""The ledger: every attempt, its state, and what follows from it. The truth of delivery; the topics are only a belt.

Every change of an attempt goes through `_apply`: transition by the domain's table, the outcome into the outbox, and the
person's next channel or end, all in the caller's one transaction. So a crash leaves nobody between two channels.
"""

import hashlib
import json
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from msgspec import structs

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import (
    AttemptState,
    CaseEvent,
    Channel,
    DeliveryOutcome,
    Residence,
)
from bridge.contracts.topics import ACCOUNT_NOTICES, CASE_EVENTS, DELIVERY_OUTCOMES
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Positions
from bridge.runtime.telemetry import counter, histogram
from consumers.adapters.case_store import outbox, positions
from consumers.adapters.case_store.canaries import judge_canaries
from consumers.adapters.case_store.claims import (
    CHANGING,
    Claims,
    Happened,
    by_id,
    changeable,
    claimable,
    count_calls,
    finished_of,
    intent_of,
    outcome_of,
    outcomes_of,
    person_keys,
    set_alike,
)
from consumers.adapters.case_store.commitments import who_they_are
from consumers.adapters.case_store.engine import (
    AS_IT_STANDS,
    IN_LIST,
    CaseDatabase,
    in_parts,
    insert_many,
    is_mariadb,
    literals_of,
    update_alike,
    update_joined,
    update_many,
    upsert,
)
from consumers.adapters.case_store.hard_bounces import bounced_channels, keep_hard_bounces
from consumers.adapters.case_store.holds import remind_of_holds
from consumers.adapters.case_store.metering import (
    FreeLanes,
    KeptWhy,
    Meter,
    insert_attempts,
    lane_ages,
    mark_kept,
    open_gates,
    order_of,
    real_release_running,
    running_incidents,
    write_commands,
)
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.publications import publications_of, published, stood_in_for
from consumers.adapters.case_store.tables import (
    affected,
    attempt,
    incident,
    page,
    receipt,
    recipient,
    release,
    segment,
    still_concerned,
)
from consumers.adapters.case_store.twins import (
    ENDED,
    being_told_elsewhere,
    standing_elsewhere,
    take_back_elsewhere,
    told_elsewhere,
    with_twins,
    withdraw_elsewhere,
)
from consumers.domain.approvals import Mode, reach_until
from consumers.domain.canary import CanaryState
from consumers.domain.delivery import (
    ARRIVED,
    FAILED,
    PersonEnd,
    Tried,
    Trigger,
    deferred_until,
    next_state,
    what_next,
)
from consumers.domain.delivery import expires_at as when_next_channel
from consumers.domain.fallback import Fallback, fallback_of
from consumers.domain.gates import Gate, gate_for
from consumers.domain.ledger import (
    Begun,
    ChannelCount,
    Command,
    Counts,
    Handed,
    Intent,
    Lane,
    LaneAge,
    SentReport,
    attempt_id_of,
)
from consumers.domain.persons import homes_of
from consumers.domain.sending import SUPPRESSED, Receipt, ReceiptKind

TO_DELIVERED = histogram(
    "tocsin_delivery_arrival_seconds",
    "from handing a message over to the moment at which it arrived, as its receipt says; exercises left out",
    question="how long do notices take to arrive, by channel?",
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600),
    labels={"channel": [channel.value for channel in Channel]},
)
FALLBACKS = counter(
    "tocsin_delivery_fallbacks_total",
    "attempts begun because an earlier channel did not reach somebody, by the channel that is tried instead; exercises"
    " left out",
    question="how many are told by another channel than the first, and by which?",
    labels={"channel": [channel.value for channel in Channel]},
)
STRANGERS = counter(
    "tocsin_delivery_strange_commands_total",
    "delivery commands that the ledger does not know, or knows of somebody else; they mail nobody",
    question="does somebody else write to our topic?",
)

_TURN = (
    "recipient_id", "root", "channels", "late", "subject_commitment", "deadline_at", "segment_id", "final_state",
    "held_reason", "residence", "controller",
)  # fmt: skip
_TURNS = PackedRows(recipient, _TURN, by="recipient_id", locked=True)
_BEGUN = PackedRows(attempt, ("recipient_id",), by="recipient_id")
_CLAIMED = PackedRows(attempt, ("attempt_id", "state", "send_count", "provider"), by="attempt_id", locked=True)
_TRIED = PackedRows(
    attempt,
    ("attempt_id", "recipient_id", "channel", "state", "number", "release_id", "bundle_sha256"),
    by="recipient_id",
)
_CONCERNED = PackedRows(
    recipient,
    ("recipient_id", "incident_id", "channels", "final_state", "subject_commitment", "segment_id"),
    by="recipient_id",
)
_WORTH_A_PORTION = 1000
"""For so many a transaction of their own costs each of them next to nothing."""
_PORTIONS_IN_LINE = 50
"""Half a million ids: to put a million in order takes seconds, and tens of megabytes to remember."""
_PASSES_NO_REGION = (Channel.ACCOUNT_NOTICE, Channel.LETTER)
"""Channels that leave through no provider's region."""
_MOST_CLAIMS = 6
"""So often somebody is claimed and lost again without a call before their next channel begins: it may be another that works."""
_SURELY_OURS = timedelta(seconds=5)
"""Half of the least time after which the sweeper gives up a claim."""
# asked before each call, as text: to compose it took longer than to ask
_RUNNING = (
    "SELECT `release`.incident_id, `release`.release_id, incident.epoch FROM `release` "
    "JOIN incident ON incident.incident_id = `release`.incident_id "
    "WHERE `release`.state = 'releasing' AND `release`.release_id IN "
)
_ASKED = (Trigger.ACCEPTED, Trigger.LOST)
"""What a dispatcher reports of a text that a provider has, or may have."""
_STRAY = sa.select(receipt.c.provider_event_id).where(receipt.c.attempt_id.is_(None)).limit(1)


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """What the ledger needs of the settings."""

    provider_of: Mapping[Channel, str]
    timeout_of: Mapping[Channel, timedelta]
    """How long a final receipt may take on each channel."""
    needed_after: timedelta = timedelta(hours=1)
    """What the next channel needs before a deadline."""
    region_objection: Callable[[Collection[str], str], str | None] | None = None
    """Why no notice to people of these homes and this controller may pass our provider's region; None: nobody asks."""
    second: Mapping[Channel, str] = field(default_factory=dict)
    """The second provider of a channel that has one."""
    objection_to_second: Callable[[Collection[str], str, str], str | None] | None = None
    """The same of a second provider, by its name."""
    takers: Callable[[Channel], Collection[str]] | None = None
    """Which providers of a channel take messages at this moment; None: nobody knows, and it is the first one."""


@dataclass(slots=True)
class _Change:
    """One trigger for one attempt, with what the attempt learns by it."""

    attempt_id: str
    trigger: Trigger | ReceiptKind
    occurred_at: datetime
    learned: dict[str, Any] = field(default_factory=dict)
    sub_type: str | None = None
    send_count: int | None = None
    """Of a dispatcher's report: which claim it speaks of."""
    uncalled: bool = False
    """The call that was begun has come to nothing, and counts for none."""


class _Overtaken(Exception):
    """Something has happened to an attempt that was taken to stand as it was claimed."""


class Ledger:
    """Reads and changes attempts. Implements what release, dispatch and receipts ask for."""

    def __init__(self, database: CaseDatabase, clock: Clock, policy: DeliveryPolicy) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._publications_seen: Mapping[str, Any] = {}
        self._lines: dict[str, list[str]] = {}
        self._meter = Meter(database, clock, self._kept_back, self._end_as_told)
        self._claims = Claims()
        self._objections: dict[tuple[str, str, str], tuple[str | None, str | None]] = {}
        self._objections_due = 0.0

    # --- release: planning attempts and metering commands -------------------------------------------------------

    def releasing(self) -> Collection[str]:
        """Return the releases that run."""
        with self._database.read() as connection:
            return (
                connection.execute(sa.select(release.c.release_id).where(release.c.state == "releasing"))
                .scalars()
                .all()
            )

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
                begun += self._begin_release(connection, row, most - begun, now, free, commanded)
                if begun >= most:
                    return Begun(begun, commanded, more=True), free
            self._page_waiting(connection, [row for row in rows if row["mode"] != Mode.BREAK_GLASS], now)
            seen = self._follow_publications(connection, now)
            return Begun(begun, commanded, more=False), free

        begun, free = self._database.writing(work)
        # only what is committed has been looked at: after a crash the next process looks again
        self._publications_seen = seen
        self._meter.note_begun(free, begun.commanded)
        return begun

    @staticmethod
    def _adopt(connection: sa.Connection, row: Mapping[Any, Any]) -> None:
        """Take over what waits under a release that carries nothing any more, for people who are still affected and whose
        text is approved here; with that text.

        Something left before the scope was corrected or the release cancelled; the next channel must not wait for ever. A
        release that was finished when the scope was corrected is not voided: a bounce may come long after its end.
        """
        void = connection.execute(_carrying_nothing(row["incident_id"], row["revision"])).scalars().all()
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
            _run_again(connection, [row["release_id"]], now)

    @staticmethod
    def _page_waiting(connection: sa.Connection, rows: Sequence[Mapping[Any, Any]], now: datetime) -> None:
        """Page the approvers, once for each set of releases, when people wait whom none of these may tell."""
        by_incident: dict[tuple[str, int], list[str]] = defaultdict(list)
        for row in rows:
            by_incident[row["incident_id"], row["revision"]].append(row["release_id"])
        for (incident_id, revision), release_ids in by_incident.items():
            waiting = connection.execute(
                sa.select(sa.func.count()).select_from(recipient).where(*_unbegun(incident_id))
            ).scalar_one()
            over = connection.execute(_carrying_nothing(incident_id, revision)).scalars().all()
            if over:
                # whose next channel none of these could take over
                waiting += connection.execute(
                    sa.select(sa.func.count(sa.distinct(attempt.c.recipient_id)))
                    .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                    .where(
                        (attempt.c.incident_id == incident_id)
                        & (attempt.c.state == AttemptState.PLANNED)
                        & attempt.c.release_id.in_(over)
                        & recipient.c.final_state.is_(None)
                        & recipient.c.held_reason.is_(None)
                        & still_concerned()
                    )
                ).scalar_one()
            if not waiting:
                continue
            mark = "/".join(["release.people_wait", incident_id, *sorted(release_ids)])
            upsert(
                connection,
                page,
                [
                    {
                        "page_id": hashlib.sha256(mark.encode()).hexdigest(),
                        "incident_id": incident_id,
                        "kind": "release.people_wait",
                        "severity": "critical",
                        "roles": ["dpo", "counsel", "approver"],
                        "title": f"{incident_id}: people wait whom no approval covers: their text or channels are not "
                        "approved, or they came late and the cap is reached",
                        "body": {
                            "people": waiting,
                            "next": f"tocsin incident prepare {incident_id} (--late-cap N for more late additions)",
                        },
                        "raised_at": now,
                    }
                ],
            )

    def _begin_release(
        self,
        connection: sa.Connection,
        row: Mapping[Any, Any],
        limit: int,
        now: datetime,
        free: FreeLanes | None,
        commanded: Counter[Channel],
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
            *_unbegun(row["incident_id"]),
            # who must wait for another approval takes no place among those whose turn it is
            recipient.c.segment_id.in_(sorted(approved)),
        ]
        if late_used >= cap:
            conditions.append(~recipient.c.late)
        until = reach_until(Mode(row["mode"]), row["released_at"])
        if until is not None:
            conditions.append(recipient.c.deadline_at <= until)
        rows = self._whose_turn_it_is(connection, row["release_id"], conditions, until, limit)
        attempts: list[dict[str, Any]] = []
        ended: list[tuple[str, PersonEnd, str]] = []
        elsewhere: list[tuple[str, str, str]] = []
        policies = _policies(connection, {person["segment_id"] for person in rows})
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
            channels = tuple(_channels(person["channels"], dead.get(person["recipient_id"], ())))
            following = following_of(person["segment_id"], channels)
            order = order_of(person["deadline_at"], person["priority"])
            attempts.extend(
                self._new_attempt(
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
        withdraw_elsewhere(connection, [person["recipient_id"] for person in rows if person["twin"]], begun)
        self._end_people(connection, row["incident_id"], ended, now, exercise=bool(row["exercise"]))
        self._end_told_elsewhere(connection, row["incident_id"], elsewhere, now, exercise=bool(row["exercise"]))
        if row["state"] == "finished" and (attempts or ended or elsewhere):
            # a late addition within the cap was approved with all others, however late
            _run_again(connection, [row["release_id"]], now)
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
        begun = {recipient_id for (recipient_id,) in _BEGUN.of(connection, list(locked))}
        twins = with_twins(connection, list(locked))
        told_in: dict[str, str | None] = {}
        for some in in_parts(sorted(twins)):
            # rare, and worth asking with all that is asked
            told_in |= {
                row.recipient_id: row.told_in
                for row in connection.execute(
                    sa.select(recipient.c.recipient_id, told_elsewhere().label("told_in"))
                    .join(segment, segment.c.segment_id == recipient.c.segment_id)
                    .where(recipient.c.recipient_id.in_(some), *conditions)
                )
            }
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
                "twin": recipient_id in twins,
            }
            for recipient_id in ids
            if (person := locked.get(recipient_id)) is not None
            and person["final_state"] is None
            and person["held_reason"] is None
            and person["segment_id"] in segments
            and (until is None or (person["deadline_at"] is not None and person["deadline_at"] <= until))
            and recipient_id not in begun
            and (recipient_id not in twins or recipient_id in told_in)
        ]  # fmt: skip

    def _end_told_elsewhere(
        self,
        connection: sa.Connection,
        incident_id: str,
        elsewhere: Sequence[tuple[str, str, str]],
        now: datetime,
        *,
        exercise: bool,
    ) -> None:
        """End people whom another incident's notice told the same, and say in the log which incident's it was."""
        for recipient_id, told_in, _ in elsewhere:
            connection.execute(
                sa.update(recipient).where(recipient.c.recipient_id == recipient_id).values(told_in=told_in)
            )
        ended = [(recipient_id, PersonEnd.REACHED, subject) for recipient_id, _, subject in elsewhere]
        self._end_people(connection, incident_id, ended, now, exercise=exercise)
        events = []
        for recipient_id, told_in, subject in elsewhere:
            _, year, number = told_in.partition(":")[0].split("-")
            event_id = hashlib.sha256(f"{recipient_id}/told in/{told_in}".encode()).hexdigest()[:32]
            body = {"subject": subject, "year": int(year), "number": int(number)}
            events.append(
                _case_event("people.told_in_other_incident", incident_id, event_id, now, body, exercise=exercise)
            )
        outbox.append(connection, events, now)

    def _end_as_told(self, connection: sa.Connection, told_in: Mapping[str, str], now: datetime) -> None:
        """Withdraw what has not left of people whom another incident's notice has told the same, and end them as told there."""
        waiting = (AttemptState.PLANNED, AttemptState.COMMANDED)
        superfluous: list[_Change] = []
        by_incident: dict[tuple[str, bool], list[tuple[str, str, str]]] = defaultdict(list)
        for some in in_parts(sorted(told_in)):
            superfluous += [
                _Change(attempt_id, Trigger.CANCEL, now)
                for attempt_id in connection.execute(
                    sa.select(attempt.c.attempt_id).where(
                        attempt.c.recipient_id.in_(some) & attempt.c.state.in_(waiting)
                    )
                ).scalars()
            ]
            for row in connection.execute(
                sa.select(
                    recipient.c.recipient_id,
                    recipient.c.subject_commitment,
                    recipient.c.incident_id,
                    incident.c.exercise,
                )
                .join(incident, incident.c.incident_id == recipient.c.incident_id)
                .where(recipient.c.recipient_id.in_(some) & recipient.c.final_state.is_(None))
                # locked: a receipt of their own may end them in this moment
                .with_for_update(of=recipient)
            ):
                those = by_incident[row.incident_id, bool(row.exercise)]
                those.append((row.recipient_id, told_in[row.recipient_id], row.subject_commitment))
        self._apply(connection, superfluous, now)
        for (incident_id, exercise), elsewhere in by_incident.items():
            self._end_told_elsewhere(connection, incident_id, elsewhere, now, exercise=exercise)

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
                    self._end_people(connection, incident_id, ended, now, exercise=bool(moved[0].exercise))
        return marks

    def _new_attempt(
        self,
        recipient_id: str,
        incident_id: str,
        release_id: str,
        number: int,
        channel: Channel,
        policy: Fallback,
        bundle_sha256: str | None,
        epoch: int,
        now: datetime,
    ) -> dict[str, Any]:
        return {
            "attempt_id": attempt_id_of(recipient_id, number),
            "recipient_id": recipient_id,
            "number": number,
            "incident_id": incident_id,
            "release_id": release_id,
            "channel": channel.value,
            "provider": self._policy.provider_of[channel],
            "state": AttemptState.PLANNED.value,
            "state_at": now,
            "commanded_at": None,
            "epoch": epoch,
            "send_count": 0,
            "called_count": 0,
            "timeout_seconds": _seconds(policy.timeouts.get(channel)),
            "message_salt": secrets.token_hex(16),
            "bundle_sha256": bundle_sha256,
        }

    def meter(self, lane: Lane) -> int:
        """Put commands for the most urgent planned attempts of `lane` on the belt; return how many."""
        return self._meter.meter(lane)

    def waiting_channels(self) -> Collection[Channel]:
        """Return the channels for which something waits to be put on the belt."""
        return self._meter.waiting_channels()

    def lane_ages(self, *, beginning: bool = False) -> Mapping[Channel, LaneAge]:
        """Return how each channel stands over all releases that run. `beginning`: with those whose turn to begin has not come,
        where some are left of the last look; to count them takes a look at everybody.
        """
        now = self._clock.now()
        with self._database.read() as connection:
            ages = lane_ages(connection, now)
            return _with_unbegun(connection, ages, now) if beginning else ages

    def note_pace(self, lanes: Mapping[Channel, float]) -> None:
        """Write how fast each running incident goes; `lanes`: how fast each lane may go now, in messages a second."""
        self._meter.note_pace(lanes)

    def _kept_back(self, connection: sa.Connection, row: Mapping[Any, Any], gates: Sequence[Gate]) -> KeptWhy | None:
        """Say why somebody may not be told now: a gate covers them, or no rule lets their notice pass the region of a provider
        that takes messages.

        Planning holds those whom the first provider's region does not cover; this is for rules that have changed since, and for
        the second one, while the first is ill or its quota used up. Both are said by name.
        """
        residence = row["residence"]
        claims = _claims_in(residence) if isinstance(residence, str) else residence
        if gates and gate_for(_codes(claims), gates, row["controller"], segment_id=row["segment_id"], root=row["root"]):
            return KeptWhy.GATE
        objection, to_second = self._objections_to(row)
        if objection is None and to_second is not None and self._policy.takers is not None:
            channel = Channel(row["channel"])
            takers = self._policy.takers(channel)
            # where nobody takes anything the lane stands still for all
            objection = to_second if takers and set(takers) <= {self._policy.second[channel]} else None
        if objection is None:
            return None
        self._page_region(connection, row["incident_id"], objection)
        return KeptWhy.REGION

    def _objections_to(self, row: Mapping[Any, Any]) -> tuple[str | None, str | None]:
        """Return why somebody's notice may not pass the regions of a channel's first and second provider."""
        channel = Channel(row["channel"])
        if channel in _PASSES_NO_REGION or self._policy.region_objection is None:
            return None, None
        residence = row["residence"]
        # asked once a second for all who live alike
        if time.monotonic() > self._objections_due:
            self._objections, self._objections_due = {}, time.monotonic() + 1
        alike = (channel.value, row["controller"], residence if isinstance(residence, str) else json.dumps(residence))
        if alike not in self._objections:
            claims = _claims_in(residence) if isinstance(residence, str) else residence
            homes = homes_of([Residence.model_validate(claim) for claim in claims])
            second, to_second = self._policy.second.get(channel), None
            if second is not None and self._policy.objection_to_second is not None:
                to_second = self._policy.objection_to_second(homes, row["controller"], second)
            self._objections[alike] = self._policy.region_objection(homes, row["controller"]), to_second
        return self._objections[alike]

    def _page_region(self, connection: sa.Connection, incident_id: str, objection: str) -> None:
        title = f"{incident_id}: a notice is kept back: {objection}"
        upsert(
            connection,
            page,
            [
                {
                    "page_id": hashlib.sha256(title.encode()).hexdigest(),
                    "incident_id": incident_id,
                    "kind": "delivery.region_refused",
                    "severity": "critical",
                    "roles": ["dpo", "sre"],
                    "title": title[:300],
                    "body": {"reason": objection, "next": f"tocsin incident show {incident_id}"},
                    "raised_at": self._clock.now(),
                }
            ],
        )

    def sweep(
        self,
        *,
        command_patience: timedelta | None,
        intent_patience: timedelta,
        unknown_patience: timedelta,
        expired: bool = True,
    ) -> int:
        """Settle what has waited too long; return how many attempts moved.

        A command nobody took goes back to planned (losing the whole topic loses no notice); an intent whose dispatcher
        fell silent is unknown; an unknown one is repeated once, then given up, and where no call was begun that was none;
        a message without a final receipt has expired. Each of them takes the person to the next channel where one is due.

        There may be very many commands, and messages without a receipt: `command_patience` None and `expired` False leave
        them for another time.
        """
        now = self._clock.now()
        long_ago = attempt.c.state_at < now - unknown_patience
        over = (attempt.c.called_count >= 2) | (attempt.c.send_count >= _MOST_CLAIMS)
        stale = [
            (AttemptState.INTENDED, attempt.c.state_at < now - intent_patience, Trigger.LOST),
            (AttemptState.UNKNOWN, long_ago & ~over, Trigger.REPEAT),
            (AttemptState.UNKNOWN, long_ago & over, Trigger.EXPIRE),
        ]
        if command_patience is not None:
            stale.append((AttemptState.COMMANDED, attempt.c.state_at < now - command_patience, Trigger.RECALL))
        if expired:
            stale.append((AttemptState.HANDED_OVER, attempt.c.expires_at < now, Trigger.EXPIRE))

        def work(connection: sa.Connection) -> int:
            incidents = connection.execute(sa.select(incident.c.incident_id, incident.c.state)).all()
            every, ended = [row[0] for row in incidents], [row[0] for row in incidents if row[1] in ENDED]
            changes = [
                _Change(attempt_id, trigger, now)
                for state, condition, trigger in stale
                for attempt_id in _locked_where(connection, every, (attempt.c.state == state) & condition)
            ]
            changes += [
                # what had not left when its incident ended never will
                _Change(attempt_id, Trigger.CANCEL, now)
                for state in (AttemptState.PLANNED, AttemptState.COMMANDED)
                for attempt_id in _locked_where(connection, ended, attempt.c.state == state)
            ]
            return self._apply(connection, changes, now)

        return self._database.writing(work)

    def judge_canaries(self) -> Sequence[tuple[str, str, CanaryState]]:
        """Let canaries that are done open their release or pause it; return incident and release of those that moved."""
        now = self._clock.now()
        return self._database.writing(lambda connection: judge_canaries(connection, now, _unbegun))

    def remind_of_holds(self) -> None:
        """Page, once, whoever must decide about a hold whose asked-for time has come. It goes on until it is lifted."""
        now = self._clock.now()
        self._database.writing(lambda connection: remind_of_holds(connection, now))

    def finish_releases(self) -> Sequence[tuple[str, str]]:
        """Mark releases whose every person has an end; return incident and release of each."""
        now = self._clock.now()

        def work(connection: sa.Connection) -> Sequence[tuple[str, str]]:
            finished: list[tuple[str, str]] = []
            for row in connection.execute(_running_releases()).mappings().all():
                if row["mode"] == "break_glass":
                    continue
                if _somebody_is_open(connection, row["incident_id"]):
                    continue
                counts = self._counts(connection, row["incident_id"])
                if counts.people == 0 or counts.open or counts.held or counts.supplements_open:
                    continue
                finishes = connection.execute(
                    sa.update(release)
                    .where((release.c.release_id == row["release_id"]) & (release.c.state == "releasing"))
                    .values(state="finished", finished_at=now)
                )
                if not finishes.rowcount:
                    # somebody has stopped it while its people were counted
                    continue
                outbox.append(
                    connection,
                    [
                        _case_event(
                            "release.finished",
                            row["incident_id"],
                            hashlib.sha256(f"{row['release_id']}/finished/{now.isoformat()}".encode()).hexdigest()[:32],
                            now,
                            {
                                "release_id": row["release_id"],
                                "mode": row["mode"],
                                "people": counts.people,
                                "reached": counts.reached,
                                "substituted": counts.substituted,
                                "unreachable": counts.unreachable,
                                "held": counts.held,
                            },
                            exercise=bool(row["exercise"]),
                        )
                    ],
                    now,
                )
                finished.append((row["incident_id"], row["release_id"]))
            return finished

        return self._database.writing(work)

    def counts(self, incident_id: str) -> Counts:
        """Return how far an incident's people are. Raises BadInput if there is no such incident."""
        with self._database.read() as connection:
            known = connection.execute(sa.select(incident.c.incident_id)).scalars().all()
            if incident_id not in known:
                raise BadInput(
                    f"there is no incident {incident_id!r}{nearest(incident_id, known)}; see `tocsin incident list`"
                )
            return self._counts(connection, incident_id)

    def by_channel(self, incident_id: str) -> Sequence[ChannelCount]:
        """Return how many attempts stand where."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(attempt.c.channel, attempt.c.provider, attempt.c.state, sa.func.count())
                .where(attempt.c.incident_id == incident_id)
                .group_by(attempt.c.channel, attempt.c.provider, attempt.c.state)
                .order_by(attempt.c.channel, attempt.c.provider, attempt.c.state)
            )
            return tuple(ChannelCount(*row) for row in rows)

    def letters(self, incident_id: str) -> Sequence[tuple[str, str, str]]:
        """Return attempt id, message id and state of every letter that was written, by message id."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(attempt.c.attempt_id, attempt.c.provider_message_id, attempt.c.state)
                .where(
                    (attempt.c.incident_id == incident_id)
                    & (attempt.c.channel == Channel.LETTER)
                    & attempt.c.provider_message_id.is_not(None)
                )
                .order_by(attempt.c.provider_message_id)
            )
            return [(row.attempt_id, row.provider_message_id, row.state) for row in rows]

    def attempts(self) -> Mapping[tuple[str, str], int]:
        """Return how many attempts of all incidents but exercises there are, by channel and state."""
        found: Counter[tuple[str, str]] = Counter()
        with self._database.read() as connection:
            real = connection.execute(sa.select(incident.c.incident_id).where(incident.c.exercise.is_(sa.false())))
            for some in in_parts(real.scalars().all()):
                for channel, state, count in connection.execute(
                    # what one index holds: no row is looked at
                    sa.select(attempt.c.channel, attempt.c.state, sa.func.count())
                    .where(attempt.c.incident_id.in_(some))
                    .group_by(attempt.c.channel, attempt.c.state)
                ):
                    found[channel, state] += count
        return found

    @staticmethod
    def _counts(connection: sa.Connection, incident_id: str) -> Counts:
        ends: dict[str | None, int] = defaultdict(int)
        held = supplements = supplements_open = 0
        counted = recipient.c.final_state.is_not(None) | still_concerned()
        for row in connection.execute(
            sa.select(
                recipient.c.final_state,
                recipient.c.held_reason.is_not(None).label("held"),
                sa.func.count(),
                recipient.c.supplements.is_not(None).label("supplement"),
            )
            .where((recipient.c.incident_id == incident_id) & counted)
            .group_by(
                recipient.c.final_state, recipient.c.held_reason.is_not(None), recipient.c.supplements.is_not(None)
            )
        ):
            if row[3]:
                supplements += row[2]
                supplements_open += row[2] if row[0] is None else 0
                continue
            ends[row[0]] += row[2]
            if row[0] is None and row[1]:
                held += row[2]
        return Counts(
            people=sum(ends.values()),
            reached=ends[PersonEnd.REACHED],
            substituted=ends[PersonEnd.SUBSTITUTED],
            unreachable=ends[PersonEnd.UNREACHABLE_REPORTED],
            held=held,
            open=ends[None] - held,
            supplements=supplements,
            supplements_open=supplements_open,
        )

    # --- dispatch: intent before send, outcome after -----------------------------------------------------------

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Return where `stage` left off, having done what its crash may have left undone: the look after a commit, by which
        receipts that were kept aside meet their messages (see `report`).
        """
        met = (
            sa.select(receipt.c.provider_message_id, attempt.c.attempt_id)
            .join(
                attempt,
                (attempt.c.provider == receipt.c.provider)
                & (attempt.c.provider_message_id == receipt.c.provider_message_id),
            )
            .where(receipt.c.attempt_id.is_(None))
        )
        with self._database.read() as connection:
            left = {str(message): str(attempt_id) for message, attempt_id in connection.execute(met)}
        if left:
            now = self._clock.now()
            self._database.writing(lambda connection: self._match(connection, left, now))
        return positions.read_positions(self._database, stage, partitions)

    def intend(self, commands: Sequence[Command], dispatcher: str, stage: str, after: Positions) -> Sequence[Intent]:
        """Claim the attempts that may be sent now, and move the position past their commands; return the claims.

        The claim is conditional on the state `commanded`, so two dispatchers cannot own one attempt; a command that is
        not in the ledger, is stale, or meets a gate mails nobody. A crash right after this leaves `intended` attempts
        that the sweeper turns to `unknown`.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> Sequence[Intent]:
            by_id = claimable(connection, [command.attempt_id for command in commands])
            gates: dict[str, list[Gate]] = {}
            claims: list[dict[str, Any]] = []
            recalled: list[_Change] = []
            kept: dict[KeptWhy, list[str]] = defaultdict(list)
            strangers = self._strangers(connection, [each for each in commands if each.attempt_id not in by_id])
            yields = any(row["exercise"] for row in by_id.values()) and real_release_running(connection) is not None
            for command in commands:
                # a command may lie on the belt twice: published again after a crash, or recalled and issued anew
                row = by_id.pop(command.attempt_id, None)
                if row is None:
                    continue
                if row["recipient_id"] != command.recipient_id or bool(row["exercise"]) != command.exercise:
                    # an attempt of ours with somebody else's name on it, or one that takes an exercise for a leak or a
                    # leak for an exercise: nobody here writes such a command
                    strangers.append(command.attempt_id)
                    continue
                if row["release_id"] != command.release_id:
                    continue
                if row["state"] != AttemptState.COMMANDED:
                    continue
                if row["incident_id"] not in gates:
                    gates[row["incident_id"]] = open_gates(connection, row["incident_id"])
                stale = row["release_state"] != "releasing" or row["current_epoch"] != command.epoch
                stale = stale or (yields and row["exercise"])
                why = None if stale else self._kept_back(connection, row, gates[row["incident_id"]])
                if stale or why is not None:
                    recalled.append(_Change(row["attempt_id"], Trigger.RECALL, now))
                    if why is not None:
                        # the meter may see it otherwise, by another dispatcher's circuits, and command them again at once
                        kept[why].append(row["attempt_id"])
                else:
                    refused = self._objections_to(row)[1] is not None
                    row["refused"] = (self._policy.second[Channel(row["channel"])],) if refused else ()
                    claims.append(row)
            if strangers:
                self._report_strangers(connection, strangers, now)
            self._apply(connection, recalled, now)
            mark_kept(connection, kept, now)
            again = [row["recipient_id"] for row in claims if row["number"] > 1 or row["send_count"] > 0]
            told_in, _, _ = standing_elsewhere(connection, again)
            if told_in:
                # since the command was written; nobody's first notice: their turn does not begin while another is at it
                self._end_as_told(connection, told_in, now)
                claims = [row for row in claims if row["recipient_id"] not in told_in]
            self._claim(connection, claims, dispatcher, now)
            positions.write_positions(connection, stage, after)
            return tuple(intent_of(row) for row in claims)

        return self._database.writing(work)

    def _claim(self, connection: sa.Connection, rows: Sequence[dict[str, Any]], dispatcher: str, now: datetime) -> None:
        """Move locked, commanded attempts to `intended`: alike for all, so one statement does for hundreds."""
        by_count: dict[int, list[str]] = defaultdict(list)
        # only a repeat has a text by now, and needs its person's key for it
        keys = person_keys(connection, [row["root"] for row in rows if row["body_sha256"] is not None])
        for row in rows:
            row["send_count"] += 1
            row["state"], row["claimed_at"], row["person_key"] = AttemptState.INTENDED.value, now, keys.get(row["root"])
            by_count[row["send_count"]].append(row["attempt_id"])
        intended = {
            "state": AttemptState.INTENDED.value,
            "state_at": now,
            "intended_at": now,
            "dispatcher": dispatcher,
        }
        for count, ids in by_count.items():
            called = {"called_count": 1} if count == 1 else {}
            set_alike(connection, ids, AttemptState.COMMANDED, {**intended, **called, "send_count": count})
        happened = Happened(AttemptState.COMMANDED, AttemptState.INTENDED, Trigger.INTEND, now)
        outcomes = outcomes_of(rows, happened, now)
        outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        self._claims.keep(rows)

    @staticmethod
    def _strangers(connection: sa.Connection, unknown: Sequence[Command]) -> list[str]:
        """Return the attempts of `unknown` that we never made: those of a void release were withdrawn when it ended."""
        if not unknown:
            return []
        void = set(
            connection.execute(
                sa.select(release.c.release_id).where(
                    release.c.release_id.in_(sorted({each.release_id for each in unknown}))
                    & (release.c.state == "void")
                )
            ).scalars()
        )
        return [each.attempt_id for each in unknown if each.release_id not in void]

    @staticmethod
    def _report_strangers(connection: sa.Connection, attempt_ids: Sequence[str], now: datetime) -> None:
        STRANGERS.inc(len(attempt_ids))
        upsert(
            connection,
            page,
            [
                {
                    "page_id": hashlib.sha256(f"stranger/{attempt_ids[0]}".encode()).hexdigest(),
                    "incident_id": None,
                    "kind": "delivery.command_not_in_ledger",
                    "severity": "critical",
                    "roles": ["sre", "responder"],
                    "title": "A delivery command that Tocsin did not issue; nobody was mailed",
                    "body": {"next": "tocsin topics show --json"},
                    "raised_at": now,
                }
            ],
        )

    def put_back(self, commands: Sequence[Command]) -> None:
        """Let commanded attempts wait again, unclaimed: no provider of their channel takes messages at this moment.

        Not logged, as commands are not: nothing has happened to anybody. Commands that are not ours are told of, as by `intend`.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            recipients: dict[str, str] = {}
            for some in in_parts([each.attempt_id for each in commands]):
                connection.execute(
                    sa.update(attempt)
                    .where(attempt.c.attempt_id.in_(some) & (attempt.c.state == AttemptState.COMMANDED))
                    .values(state=AttemptState.PLANNED.value, state_at=now)
                )
                recipients.update(
                    (row.attempt_id, row.recipient_id)
                    for row in connection.execute(
                        sa.select(attempt.c.attempt_id, attempt.c.recipient_id).where(attempt.c.attempt_id.in_(some))
                    )
                )
            strangers = self._strangers(connection, [each for each in commands if each.attempt_id not in recipients])
            strangers += [
                each.attempt_id
                for each in commands
                if recipients.get(each.attempt_id, each.recipient_id) != each.recipient_id
            ]
            if strangers:
                self._report_strangers(connection, strangers, now)

        self._database.writing(work)

    def standing(self, intents: Sequence[Intent]) -> Collection[str]:
        """Return the attempts of `intents` that may be sent at this moment: still this very claim, in the same epoch, of a
        release that runs. A dispatcher that was slow may find that the sweeper gave its claim to another.
        """
        if not intents:
            return ()
        now = self._clock.now()
        claims = {item.attempt_id: item.send_count for item in intents}
        releases = {item.attempt_id: (item.incident_id, item.release_id, item.epoch) for item in intents}
        # A first call's claim is left by its own report, or by the sweeper after ten seconds and more.
        young = {
            item.attempt_id
            for item in intents
            if item.send_count == 1
            and (claim := self._claims.get(item.attempt_id)) is not None
            and claim["send_count"] == 1
            and timedelta(0) <= now - claim["claimed_at"] < _SURELY_OURS
        }
        ids = sorted(claims.keys() - young)
        with self._database.read() as connection:
            named = ", ".join(literals_of(connection, sorted({item.release_id for item in intents})))
            running = set(
                map(tuple, connection.exec_driver_sql(f"{_RUNNING}({named})", execution_options=AS_IT_STANDS))
            )
            ours = {
                row.attempt_id
                for some in in_parts(ids)
                for row in connection.execute(
                    sa.select(attempt.c.attempt_id, attempt.c.send_count).where(
                        attempt.c.attempt_id.in_(some) & (attempt.c.state == AttemptState.INTENDED)
                    )
                )
                if claims[row.attempt_id] == row.send_count
            }
            exercises = {item.attempt_id for item in intents if item.exercise}
            yielding = exercises if exercises and real_release_running(connection) is not None else set()
        return {attempt_id for attempt_id in (ours | young) - yielding if releases[attempt_id] in running}

    def note_calls(self, intents: Sequence[Intent]) -> None:
        """Write that a provider is being asked for these claims, right before it is: for all but first ones, which count as
        called from the beginning. So nobody's last try is one for which nobody was asked, and most pay nothing for it.

        A crash before this leaves claims of which it is known that nobody was called; after it, nobody knows.
        """
        by_count: dict[int, list[str]] = defaultdict(list)
        for item in intents:
            if item.send_count > 1:
                by_count[item.send_count].append(item.attempt_id)

        def work(connection: sa.Connection) -> None:
            for send_count, ids in by_count.items():
                count_calls(connection, sorted(ids), send_count)

        if by_count:
            self._database.writing(work)

    def report(self, reports: Sequence[SentReport]) -> None:
        """Write what providers said. Account notices leave through the outbox in the same transaction.

        A crash before this leaves `intended`: the receipts, which carry the attempt's tag, settle it.
        """
        now = self._clock.now()
        named = [item for item in reports if item.provider_message_id]

        def work(connection: sa.Connection, *, looking: bool) -> None:
            changes: list[_Change] = []
            notices: list[outbox.Outgoing] = []
            simple = self._hand_over(connection, reports, now, looking=looking)
            told = self._with_deferrals(connection, reports, now)
            for item in told:
                if item.attempt_id in simple:
                    continue
                learned: dict[str, Any] = {"body_sha256": item.body_sha256}
                if item.provider_message_id is not None:
                    learned["provider_message_id"] = item.provider_message_id
                if item.provider is not None:
                    learned["provider"] = item.provider
                if item.trigger in (Trigger.THROTTLED, Trigger.RECALL):
                    # nothing left the house: this call does not count against the one repeat
                    learned["send_count"] = item.send_count - 1
                uncalled = (item.called or item.send_count == 1) and "send_count" in learned
                changes.append(
                    _Change(item.attempt_id, item.trigger, now, learned, item.code, item.send_count, uncalled)
                )
                if item.notice is not None:
                    notices.append(
                        outbox.Outgoing(
                            ACCOUNT_NOTICES,
                            root=f"customer/{item.notice.customer_id}",
                            key=f"notice/{item.notice.notice_id}",
                            event_id=item.notice.notice_id,
                            event=item.notice,
                        )
                    )
            outbox.append(connection, notices, now)
            self._apply(connection, changes, now)
            for item in told:
                if item.not_before is not None:
                    connection.execute(
                        sa.update(attempt)
                        .where((attempt.c.attempt_id == item.attempt_id) & (attempt.c.state == AttemptState.PLANNED))
                        .values(kept_until=item.not_before, kept_why=KeptWhy.DEFERRED if item.deferred else None)
                    )
            self._match_strays(connection, named, now)

        try:
            self._database.writing(lambda connection: work(connection, looking=False))
        except _Overtaken:
            self._database.writing(lambda connection: work(connection, looking=True))
        self._claims.forget(item.attempt_id for item in reports)
        # Whoever stored a receipt meanwhile could not see these messages yet, nor we the receipt: each looks again after its
        # commit. A crash before that leaves such a receipt aside until a dispatcher or receipts begins (`positions`).
        self._database.writing(lambda connection: self._match_strays(connection, named, now))

    def _with_deferrals(
        self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime
    ) -> Sequence[SentReport]:
        """Return the reports, those of messages that a recipient's own server puts off with when they are tried again; once the
        channel has had its time since the first such answer they are refused, and the next channel begins.
        """
        deferred = [item.attempt_id for item in reports if item.deferred]
        if not deferred:
            return reports
        known: dict[str, dict[str, Any]] = {}
        for some in in_parts(deferred):
            ours = attempt.c.attempt_id.in_(some)
            connection.execute(sa.update(attempt).where(ours & attempt.c.deferred_at.is_(None)).values(deferred_at=now))
            for row in connection.execute(
                sa.select(
                    attempt.c.attempt_id,
                    attempt.c.channel,
                    attempt.c.timeout_seconds,
                    attempt.c.deferred_at,
                    recipient.c.deadline_at,
                )
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .where(ours)
            ).mappings():
                known[row["attempt_id"]] = dict(row)
        found = []
        for item in reports:
            put_off = known.get(item.attempt_id) if item.deferred else None
            if put_off is not None:
                first = put_off["deferred_at"]
                again = deferred_until(first, now, self._expires_at(put_off, first))
                item = (
                    structs.replace(item, trigger=Trigger.REFUSED)
                    if again is None
                    else structs.replace(item, not_before=again)
                )
            found.append(item)
        return found

    def _hand_over(
        self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime, *, looking: bool
    ) -> Collection[str]:
        """Settle what a provider took at once and of which nothing else has happened meanwhile; return these attempts.

        What the claim told is still true of those that are still the same call's. `looking` for these first, with a lock,
        costs as much again as to change them: without, it raises _Overtaken where something has happened to one.
        """
        claims = {
            item.attempt_id: (item, row)
            for item in reports
            if item.trigger is Trigger.ACCEPTED and item.notice is None and (row := self._claims.get(item.attempt_id))
        }
        at_once = is_mariadb(connection) and not looking
        stand: Iterable[Sequence[Any]] = (
            [
                (attempt_id, AttemptState.INTENDED, claim["send_count"], claim["provider"])
                for attempt_id, (_, claim) in sorted(claims.items())
            ]
            if at_once
            else _CLAIMED.of(connection, sorted(claims))
        )
        rows: list[dict[str, Any]] = []
        # of very many people few deadlines differ
        expiry: dict[tuple[object, ...], datetime] = {}
        for attempt_id, state, count, provider in stand:
            item, claim = claims[attempt_id]
            if state != AttemptState.INTENDED or count != item.send_count or claim["send_count"] != count:
                continue
            alike = (claim["timeout_seconds"], claim["channel"], claim["deadline_at"])
            if alike not in expiry:
                expiry[alike] = self._expires_at(claim, now)
            rows.append(
                {
                    **claim,
                    "body_sha256": item.body_sha256,
                    "provider_message_id": item.provider_message_id,
                    "provider": item.provider or provider,
                    "expires_at": expiry[alike],
                }
            )
        handed_over = {
            "state": AttemptState.HANDED_OVER.value, "state_at": now, "handed_over_at": now,
        }  # fmt: skip
        each = ("body_sha256", "provider_message_id", "provider", "expires_at")
        if at_once:
            still = f"`attempt`.`state` = '{AttemptState.INTENDED.value}'"
            same = ("send_count",)
            if len(rows) != update_joined(
                connection, attempt, rows, each=each, alike=handed_over, where=still, same=same
            ):
                raise _Overtaken
        else:
            update_many(connection, attempt, rows, each=each, alike=handed_over)
        keys = person_keys(connection, [row["root"] for row in rows])
        by_code: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            row["person_key"] = keys.get(row["root"])
            by_code[claims[row["attempt_id"]][0].code].append(row)
        for code, some in by_code.items():
            happened = Happened(AttemptState.INTENDED, AttemptState.HANDED_OVER, Trigger.ACCEPTED, now, sub_type=code)
            outcomes = outcomes_of(some, happened, now)
            outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        return {row["attempt_id"] for row in rows}

    def _match_strays(self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime) -> None:
        if connection.execute(_STRAY).first() is None:
            # nearly always: to look for each message took longer than to write what became of it
            return
        self._match(connection, {str(item.provider_message_id): item.attempt_id for item in reports}, now)

    def _match(self, connection: sa.Connection, by_message: Mapping[str, str], now: datetime) -> None:
        """Apply the receipts that were kept aside of messages whose attempts are known now."""
        for some in in_parts(sorted(by_message)):
            strays = (
                connection.execute(
                    sa.select(receipt).where(receipt.c.provider_message_id.in_(some) & receipt.c.attempt_id.is_(None))
                )
                .mappings()
                .all()
            )
            changes: list[_Change] = []
            for stray in sorted(strays, key=lambda row: row["occurred_at"]):
                attempt_id = by_message[stray["provider_message_id"]]
                connection.execute(
                    sa.update(receipt)
                    .where(
                        (receipt.c.provider == stray["provider"])
                        & (receipt.c.provider_event_id == stray["provider_event_id"])
                    )
                    .values(attempt_id=attempt_id, applied=True)
                )
                changes.append(
                    _Change(attempt_id, ReceiptKind(stray["kind"]), stray["occurred_at"], sub_type=stray["sub_type"])
                )
            self._apply(connection, changes, now)

    # --- receipts ------------------------------------------------------------------------------------------------

    def settle_receipts(
        self, receipts: Sequence[Receipt], *, stage: str = "", after: Positions | None = None
    ) -> Handed:
        """Store receipts and apply them; the same receipt twice changes nothing. Return what happened to them.

        One of a message that we do not know (yet) is kept aside and matched when its attempt learns its message id.
        """
        now = self._clock.now()
        aside: list[Receipt] = []

        def work(connection: sa.Connection) -> Handed:
            fresh = self._unseen(connection, receipts)
            owners = self._owners(connection, fresh)
            aside[:] = [item for item in fresh if item.provider_event_id not in owners]
            changes: list[_Change] = []
            rows: list[dict[str, Any]] = []
            for item in fresh:
                owner = owners.get(item.provider_event_id)
                rows.append(
                    {
                        "provider": item.provider,
                        "provider_event_id": item.provider_event_id,
                        "provider_message_id": item.provider_message_id,
                        "attempt_id": owner,
                        "kind": item.kind.value,
                        "sub_type": item.sub_type,
                        "occurred_at": item.occurred_at,
                        "received_at": now,
                        "raw_sha256": item.raw_sha256,
                        "applied": owner is not None,
                    }
                )
                if owner is not None:
                    learned: dict[str, Any] = {}
                    if item.provider_message_id:
                        learned["provider_message_id"] = item.provider_message_id
                    changes.append(_Change(owner, item.kind, item.occurred_at, learned, item.sub_type))
            insert_many(connection, receipt, rows, leave_known=True)
            self._apply(connection, sorted(changes, key=lambda change: change.occurred_at), now)
            if after:
                positions.write_positions(connection, stage, after)
            return Handed(
                applied=len(changes), kept_aside=len(fresh) - len(changes), repeated=len(receipts) - len(fresh),
                exercises=_of_exercises(connection, owners),
            )  # fmt: skip

        handed = self._database.writing(work)
        if aside:
            # see `report`: what was on its way to the ledger then may be there now
            self._database.writing(lambda connection: self._match_aside(connection, aside, now))
        return handed

    def _match_aside(self, connection: sa.Connection, receipts: Sequence[Receipt], now: datetime) -> None:
        owners = self._owners(connection, receipts)
        self._match(
            connection,
            {
                item.provider_message_id: owners[item.provider_event_id]
                for item in receipts
                if item.provider_event_id in owners
            },
            now,
        )

    @staticmethod
    def _unseen(connection: sa.Connection, receipts: Sequence[Receipt]) -> list[Receipt]:
        unique = {(item.provider, item.provider_event_id): item for item in receipts}
        by_provider: dict[str, list[str]] = defaultdict(list)
        for provider, event_id in unique:
            by_provider[provider].append(event_id)
        # by provider, as the key begins with it: without, every receipt ever received would be looked at
        seen = {
            (provider, event_id)
            for provider, ids in by_provider.items()
            for some in in_parts(ids)
            for event_id in connection.execute(
                sa.select(receipt.c.provider_event_id).where(
                    (receipt.c.provider == provider) & receipt.c.provider_event_id.in_(some)
                )
            ).scalars()
        }
        return [item for identity, item in unique.items() if identity not in seen]

    @staticmethod
    def _owners(connection: sa.Connection, receipts: Sequence[Receipt]) -> Mapping[str, str]:
        tags = sorted({item.attempt_id for item in receipts if item.attempt_id})
        messages: dict[str, set[str]] = defaultdict(set)
        for item in receipts:
            if not item.attempt_id:
                messages[item.provider].add(item.provider_message_id)
        known: set[str] = set()
        by_message: dict[tuple[str, str], str] = {}
        for some in in_parts(tags):
            known.update(
                connection.execute(sa.select(attempt.c.attempt_id).where(attempt.c.attempt_id.in_(some))).scalars()
            )
        for provider, of_provider in messages.items():
            ids = sorted(of_provider)
            for some in in_parts(ids):
                for row in connection.execute(
                    sa.select(attempt.c.provider_message_id, attempt.c.attempt_id).where(
                        (attempt.c.provider == provider) & attempt.c.provider_message_id.in_(some)
                    )
                ):
                    by_message[(provider, row.provider_message_id)] = row.attempt_id
        owners: dict[str, str] = {}
        for item in receipts:
            if item.attempt_id in known:
                owners[item.provider_event_id] = str(item.attempt_id)
            elif (item.provider, item.provider_message_id) in by_message:
                owners[item.provider_event_id] = by_message[(item.provider, item.provider_message_id)]
        return owners

    # --- the one place where attempts change ---------------------------------------------------------------------

    def _apply(self, connection: sa.Connection, changes: Sequence[_Change], now: datetime) -> int:
        if not changes:
            return 0
        ids = sorted({change.attempt_id for change in changes})
        rows = changeable(connection, ids)
        stood = {attempt_id: row.copy() for attempt_id, row in rows.items()}
        outcomes: list[outbox.Written] = []
        moved: set[str] = set()
        touched: set[str] = set()
        bounced: dict[str, Mapping[str, Any]] = {}
        for change in changes:
            row = rows.get(change.attempt_id)
            if row is None:
                continue
            if change.send_count not in (None, row["send_count"]) and change.trigger is not Trigger.ACCEPTED:
                # an earlier call's failure says nothing of the one that another dispatcher has begun since
                continue
            before = AttemptState(row["state"])
            after = next_state(before, change.trigger)
            first_text = row["body_sha256"] is None and change.learned.get("body_sha256") is not None
            row.update(change.learned)
            row["called_count"] -= change.uncalled and row["called_count"] > 0
            touched.add(change.attempt_id)
            if change.trigger is ReceiptKind.DELAYED and after is AttemptState.HANDED_OVER:
                # the provider is still trying: the wait for its last word starts anew
                row["expires_at"] = self._expires_at(row, now)
            if after is before:
                if first_text and change.trigger in _ASKED:
                    # the receipt was here first and could not say which text it is about: the proof has both
                    outcomes.append(outcome_of(row, _happened(before, after, change), now))
                continue
            row["state"] = after.value
            row["state_at"] = now
            if after is AttemptState.HANDED_OVER:
                row["handed_over_at"] = now
                row["expires_at"] = self._expires_at(row, now)
            if after is AttemptState.DELIVERED and row["handed_over_at"] is not None and not row["exercise"]:
                took = (change.occurred_at - row["handed_over_at"]).total_seconds()
                TO_DELIVERED.labels(row["channel"]).observe(max(0.0, took))
            if change.trigger is ReceiptKind.BOUNCED_HARD and change.sub_type != SUPPRESSED and not row["exercise"]:
                bounced[change.attempt_id] = row
            moved.add(change.attempt_id)
            outcomes.append(outcome_of(row, _happened(before, after, change), now))
            if after is AttemptState.PLANNED and row["final_state"] is not None:
                # another channel has reached them meanwhile: what would leave again need not
                gone = next_state(after, Trigger.CANCEL)
                row["state"] = gone.value
                outcomes.append(outcome_of(row, Happened(after, gone, Trigger.CANCEL, now), now))
        self._store(connection, [(stood[attempt_id], rows[attempt_id]) for attempt_id in sorted(touched)])
        keep_hard_bounces(connection, list(bounced.values()), now)
        outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        self._advance(connection, [rows[attempt_id] for attempt_id in sorted(moved)], now)
        return len(moved)

    @property
    def wait_for_receipts(self) -> timedelta:
        """How long the slowest channel's last receipt may take."""
        return max(self._policy.timeout_of.values())

    def resume(self, connection: sa.Connection, people: Sequence[str]) -> None:
        """Give people what follows from attempts that were written by somebody else: the next channel, or an end."""
        now = self._clock.now()
        settled = sorted(
            set(
                connection.execute(
                    sa.select(attempt.c.recipient_id).where(
                        attempt.c.recipient_id.in_(people)
                        & attempt.c.state.in_([state.value for state in ARRIVED | FAILED])
                    )
                ).scalars()
            )
        )
        for some in in_parts(settled):
            self._advance_people(connection, some, now)

    def _expires_at(self, row: Mapping[str, Any], now: datetime) -> datetime:
        own = row["timeout_seconds"]
        timeout = self._policy.timeout_of[Channel(row["channel"])] if own is None else timedelta(seconds=own)
        return when_next_channel(now, timeout, row["deadline_at"], min(timeout, self._policy.needed_after))

    @staticmethod
    def _store(connection: sa.Connection, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Write what changed of locked attempts, given as they stood and as they stand; one statement for all of which only
        the state did, as most receipts have it.
        """
        alike: dict[tuple[str, str, datetime], list[str]] = defaultdict(list)
        others: list[Mapping[str, Any]] = []
        for before, row in rows:
            changed = {name for name in CHANGING if row[name] != before[name]}
            if changed and changed <= {"state", "state_at"}:
                alike[before["state"], row["state"], row["state_at"]].append(row["attempt_id"])
            elif changed:
                others.append(row)
        for (state, after, at), ids in alike.items():
            set_alike(connection, ids, AttemptState(state), {"state": after, "state_at": at})
        update_many(connection, attempt, others, each=CHANGING)

    def _advance(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Give everybody whose attempt arrived or failed what follows: the next channel, or an end."""
        people = {row["recipient_id"]: row for row in rows if AttemptState(row["state"]) in ARRIVED | FAILED}
        for some in in_parts(sorted(people)):
            self._advance_people(connection, some, now, people)

    def _advance_people(
        self,
        connection: sa.Connection,
        people: Sequence[str],
        now: datetime,
        read: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Give people what follows. `read`: all of them as `changeable` has just read and locked them."""
        tried: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in sorted(_TRIED.named(connection, people), key=itemgetter("number")):
            tried[row["recipient_id"]].append(row)
        concerned = _CONCERNED.named(connection, people) if read is None else (read[each] for each in people)
        known = [person for person in concerned if person["segment_id"] is not None]
        columns = [incident.c.epoch, incident.c.exercise, incident.c.state]
        incidents = by_id(connection, incident.c.incident_id, columns, {person["incident_id"] for person in known})
        policies = _policies(connection, {person["segment_id"] for person in known})
        dead = bounced_channels(connection, people)
        approved = self._approved_segments(connection, {rows[-1]["release_id"] for rows in tried.values()})

        @cache
        def policy_of(release_id: str, segment_id: str) -> Fallback:
            # what was approved for these people binds the next channel too, whatever the segment says by now
            bound = approved[release_id].get(segment_id)
            return policies[segment_id] if bound is None else fallback_of(bound)

        reopened: set[str] = set()
        undone: list[str] = []
        not_reached: list[str] = []
        new_attempts: list[dict[str, Any]] = []
        fallbacks = Counter[Channel]()
        ends: dict[tuple[str, bool], list[tuple[str, PersonEnd, str]]] = defaultdict(list)
        superfluous: list[_Change] = []
        for person in known:
            attempts = tried[person["recipient_id"]]
            last = attempts[-1]
            epoch, exercise, incident_state = incidents[person["incident_id"]]
            policy = policy_of(last["release_id"], person["segment_id"])
            following = what_next(
                [Tried(Channel(row["channel"]), AttemptState(row["state"])) for row in attempts],
                policy,
                # the contacts of a closed incident are gone: what fails after the end stays failed, and says so
                ()
                if incident_state in ENDED
                else _channels(_texts_in(person["channels"]), dead.get(person["recipient_id"], ())),
            )
            if following.channels:
                fallbacks.update(() if exercise else following.channels)
                new_attempts.extend(
                    self._new_attempt(
                        person["recipient_id"], person["incident_id"], last["release_id"], number, channel, policy,
                        last["bundle_sha256"], epoch, now,
                    )
                    for number, channel in enumerate(following.channels, last["number"] + 1)
                )  # fmt: skip
                reopened.add(last["release_id"])
                if person["final_state"] is not None:
                    undone.append(person["recipient_id"])
            elif following.end is not None and person["final_state"] not in _same_end(following.end):
                if person["final_state"] == PersonEnd.REACHED:
                    not_reached.append(person["recipient_id"])
                key = (person["incident_id"], bool(exercise))
                ends[key].append((person["recipient_id"], following.end, person["subject_commitment"]))
                # a late delivery ends it: what has not left the house yet need not leave any more
                superfluous.extend(
                    _Change(row["attempt_id"], Trigger.CANCEL, now)
                    for row in attempts
                    if AttemptState(row["state"]) in (AttemptState.PLANNED, AttemptState.COMMANDED)
                )
        if new_attempts:
            insert_attempts(connection, new_attempts)
            for channel, count in fallbacks.items():
                FALLBACKS.labels(channel.value).inc(count)
            # a bounce after the end (asynchronous ones take days) takes end and finish back
            connection.execute(
                sa.update(recipient)
                .where(recipient.c.recipient_id.in_(undone))
                .values(final_state=None, final_at=None, told_in=None)
            )
            _run_again(connection, sorted(reopened), now)
        for (incident_id, exercise), ended in ends.items():
            self._end_people(connection, incident_id, ended, now, exercise=exercise, read=read)
        self.take_back(connection, [*undone, *not_reached])
        self._apply(connection, superfluous, now)

    def take_back(self, connection: sa.Connection, recipient_ids: Sequence[str]) -> None:
        """Give their turn back to whom another incident ended as told by the notices of these recipients, which count no more:
        whom nothing was begun for there as if nobody had told them, and who had been tried there goes on from there.
        """
        back = take_back_elsewhere(connection, recipient_ids)
        begun = {recipient_id for (recipient_id,) in _BEGUN.of(connection, back)}
        for some in in_parts(sorted(begun)):
            self._advance_people(connection, some, self._clock.now())

    @staticmethod
    def _approved_segments(connection: sa.Connection, release_ids: set[str]) -> Mapping[str, Mapping[str, Any]]:
        rows = connection.execute(
            sa.select(release.c.release_id, release.c.policy).where(release.c.release_id.in_(sorted(release_ids)))
        )
        return {row.release_id: row.policy.get("segments", {}) for row in rows}

    @staticmethod
    def _end_people(
        connection: sa.Connection,
        incident_id: str,
        ended: Sequence[tuple[str, PersonEnd, str]],
        now: datetime,
        *,
        exercise: bool,
        read: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if not ended:
            return
        told = _told_in_public(connection, incident_id, ended, now)
        final = [
            (recipient_id, PersonEnd.SUBSTITUTED if recipient_id in told else end, commitment)
            for recipient_id, end, commitment in ended
        ]
        by_end: dict[PersonEnd, list[str]] = defaultdict(list)
        for recipient_id, end, _ in final:
            by_end[end].append(recipient_id)
        for end, ids in by_end.items():
            update_alike(connection, recipient, ids, {"final_state": end.value, "final_at": now})
        who = who_they_are(connection, incident_id, [recipient_id for recipient_id, _, _ in final], read)
        written = [
            finished_of(
                incident_id,
                recipient_id,
                {"subject": commitment, "state": end.value, **who.get(recipient_id, {})}
                | ({"publications": list(told[recipient_id])} if recipient_id in told else {}),
                now,
                exercise=exercise,
            )
            for recipient_id, end, commitment in final
        ]
        outbox.append_many(connection, CASE_EVENTS, CaseEvent.ce_type, written, now)


def _carrying_nothing(incident_id: str, revision: int) -> sa.Select[tuple[str]]:
    """An incident's releases under which nothing leaves any more; of an older scope those that are finished, too."""
    over = (release.c.state == "finished") & (release.c.revision < revision)
    return sa.select(release.c.release_id).where(
        (release.c.incident_id == incident_id) & (release.c.state.in_(("void", "cancelled")) | over)
    )


def _same_end(end: PersonEnd) -> tuple[PersonEnd, ...]:
    """Return the ends that say as much: whom a publication stands in for, no channel reached either."""
    return (end, PersonEnd.SUBSTITUTED) if end is PersonEnd.UNREACHABLE_REPORTED else (end,)


def _told_in_public(
    connection: sa.Connection, incident_id: str, ended: Sequence[tuple[str, PersonEnd, str]], now: datetime
) -> Mapping[str, tuple[str, ...]]:
    """Return whom of those without a channel a publication stands in for, and which."""
    left = [recipient_id for recipient_id, end, _ in ended if end is PersonEnd.UNREACHABLE_REPORTED]
    return stood_in_for(connection, left, publications_of(connection, incident_id, now)) if left else {}


def _of_exercises(connection: sa.Connection, owners: Mapping[str, str]) -> frozenset[str]:
    """Return those of the receipts that are about an exercise's attempts, by their ids."""
    if not owners or connection.execute(sa.select(incident.c.incident_id).where(incident.c.exercise)).first() is None:
        return frozenset()
    ids = sorted(set(owners.values()))
    theirs = {
        attempt_id
        for some in in_parts(ids)
        for attempt_id in connection.execute(
            sa.select(attempt.c.attempt_id)
            .join(incident, incident.c.incident_id == attempt.c.incident_id)
            .where(attempt.c.attempt_id.in_(some) & incident.c.exercise)
        ).scalars()
    }
    return frozenset(event_id for event_id, attempt_id in owners.items() if attempt_id in theirs)


def _locked_where(
    connection: sa.Connection, incidents: Sequence[str], condition: sa.ColumnElement[bool]
) -> Sequence[str]:
    """Return some of these incidents' attempts of which `condition` is true, locked.

    Looked for without a lock, and asked again with one: what a dispatcher claims in this moment is not taken from under its
    hands, and nobody waits for a look at everybody.
    """
    for some in in_parts(incidents):
        found = (
            connection.execute(
                sa.select(attempt.c.attempt_id).where(attempt.c.incident_id.in_(some) & condition).limit(IN_LIST)
            )
            .scalars()
            .all()
        )
        if found:
            return (
                connection.execute(
                    sa.select(attempt.c.attempt_id).where(attempt.c.attempt_id.in_(found) & condition).with_for_update()
                )
                .scalars()
                .all()
            )
    return ()


def _somebody_is_open(connection: sa.Connection, incident_id: str) -> bool:
    """Say whether somebody of an incident has no end yet: while there is one, nobody needs to be counted."""
    still = (recipient.c.incident_id == incident_id) & recipient.c.final_state.is_(None) & still_concerned()
    return connection.execute(sa.select(recipient.c.recipient_id).where(still).limit(1)).first() is not None


def _unbegun(incident_id: str) -> list[sa.ColumnElement[bool]]:
    """People whom nobody has begun to tell, although nothing but an approval keeps them waiting."""
    return [*_without_attempt(incident_id), ~being_told_elsewhere()]


def _without_attempt(incident_id: str) -> list[sa.ColumnElement[bool]]:
    return [
        recipient.c.incident_id == incident_id,
        recipient.c.final_state.is_(None),
        recipient.c.held_reason.is_(None),
        recipient.c.segment_id.is_not(None),
        ~sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id),
    ]


def _with_unbegun(
    connection: sa.Connection, ages: Mapping[Channel, LaneAge], now: datetime
) -> Mapping[Channel, LaneAge]:
    """Return `ages` with the first messages of those who have none yet, of releases that run."""
    found = dict(ages)
    for each in running_incidents(connection):
        if each.exercise:
            continue
        released_at = {
            segment_id: row.released_at
            for row in connection.execute(
                sa.select(release.c.policy, release.c.released_at).where(release.c.release_id.in_(each.release_ids))
            )
            for segment_id in row.policy.get("segments", {})
        }
        policies = _policies(connection, released_at.keys())
        alike = (recipient.c.segment_id, recipient.c.channels)
        for row in connection.execute(
            sa.select(
                *alike,
                sa.func.count().label("number"),
                sa.func.min(recipient.c.added_at, type_=recipient.c.added_at.type).label("added_at"),
                sa.func.min(recipient.c.deadline_at, type_=recipient.c.deadline_at.type).label("deadline_at"),
            )
            .where(*_without_attempt(each.incident_id), recipient.c.segment_id.in_(sorted(released_at)))
            .group_by(*alike)
        ):
            since = max(at for at in (released_at[row.segment_id], row.added_at) if at is not None)
            due = None if row.deadline_at is None else (row.deadline_at - now).total_seconds()
            for channel in what_next((), policies[row.segment_id], _channels(row.channels)).channels:
                found[channel] = found.get(channel, LaneAge()).joined(
                    row.number, max((now - since).total_seconds(), 0.0), due
                )
    return found


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


def _run_again(connection: sa.Connection, release_ids: Sequence[str], now: datetime) -> None:
    """Let those of the releases that are finished, under the scope in force, run again; as paused where another one of their
    incident is: a pause holds for all of it.
    """
    other = release.alias("other")
    paused = sa.exists().where((other.c.incident_id == release.c.incident_id) & (other.c.state == "paused"))
    finished = connection.execute(
        sa.select(release.c.release_id, paused.label("paused"))
        .join(incident, incident.c.incident_id == release.c.incident_id)
        .where(
            release.c.release_id.in_(release_ids)
            & (release.c.state == "finished")
            & (release.c.revision == incident.c.revision)
        )
        # locked: one that is being finished in this moment is waited for
        .with_for_update(of=release)
    ).all()
    for each in finished:
        state = {"state": "paused", "stopped_at": now} if each.paused else {"state": "releasing"}
        connection.execute(
            sa.update(release).where(release.c.release_id == each.release_id).values(**state, finished_at=None)
        )


def _running_releases() -> sa.Select[Any]:
    return (
        sa.select(
            release.c.release_id,
            release.c.incident_id,
            release.c.mode,
            incident.c.exercise,
        )
        .join(incident, incident.c.incident_id == release.c.incident_id)
        .where(release.c.state == "releasing")
        .order_by(release.c.released_at)
    )


@lru_cache(maxsize=1024)
def _claims_in(residence: str) -> Sequence[Mapping[str, str]]:
    """Return the claims of a residence that was read as text; very many people share few of them."""
    return tuple(json.loads(residence))


@lru_cache(maxsize=1024)
def _texts_in(names: str) -> Sequence[str]:
    """Return a list of texts that was read as JSON."""
    return tuple(json.loads(names))


def _codes(residence: Sequence[Mapping[str, str]]) -> list[str]:
    return [claim["code"] for claim in residence]


def _channels(names: Sequence[str], dead: Collection[Channel] = ()) -> list[Channel]:
    return [channel for channel in map(Channel, names) if channel not in dead]


def _policies(connection: sa.Connection, segment_ids: Collection[str]) -> Mapping[str, Fallback]:
    """Return the channel policy of each segment, as planning wrote it."""
    rows = connection.execute(
        sa.select(segment.c.segment_id, segment.c.channels, segment.c.key).where(
            segment.c.segment_id.in_(sorted(segment_ids))
        )
    )
    return {row.segment_id: fallback_of({**row.key, "channels": row.channels}) for row in rows}


def _seconds(wait: timedelta | None) -> int | None:
    return None if wait is None else int(wait.total_seconds())


def _happened(before: AttemptState, after: AttemptState, change: _Change) -> Happened:
    return Happened(
        before,
        after,
        change.trigger,
        change.occurred_at,
        change.sub_type,
        change.trigger.value if isinstance(change.trigger, ReceiptKind) else None,
    )


def _case_event(
    kind: str, incident_id: str, event_id: str, now: datetime, body: dict[str, Any], *, exercise: bool
) -> outbox.Outgoing:
    return outbox.Outgoing(
        CASE_EVENTS,
        root=incident_id,
        key=incident_id,
        event_id=event_id,
        event=CaseEvent(
            case_event_id=event_id,
            kind=kind,
            incident_id=incident_id,
            actor=None,
            occurred_at=now,
            body=body,
            exercise=exercise,
        ),
    )
