"""The one place where attempts change: transition by the domain's table, the outcome into the outbox, and the person's
next channel or end, all in the caller's one transaction. So a crash leaves nobody between two channels.
"""

import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, CaseEvent, Channel, DeliveryOutcome
from bridge.contracts.topics import CASE_EVENTS, DELIVERY_OUTCOMES
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import counter, histogram
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.claims import (
    CHANGING,
    Happened,
    by_id,
    changeable,
    finished_of,
    moment_after,
    outcome_of,
    set_alike,
)
from consumers.adapters.case_store.commitments import who_they_are
from consumers.adapters.case_store.engine import in_parts, update_alike, update_many
from consumers.adapters.case_store.hard_bounces import bounced_channels, keep_hard_bounces
from consumers.adapters.case_store.metering import insert_attempts
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.pages import raise_pages
from consumers.adapters.case_store.publications import publications_of, stood_in_for
from consumers.adapters.case_store.tables import ENDED, attempt, incident, receipt, recipient, release, segment
from consumers.adapters.case_store.twins import take_back_elsewhere
from consumers.domain.delivery import (
    ARRIVED,
    ARRIVED_FOR_GOOD,
    FAILED,
    PersonEnd,
    Told,
    Tried,
    Trigger,
    deferred_until,
    next_state,
    of_another_call,
    what_next,
)
from consumers.domain.delivery import expires_at as when_next_channel
from consumers.domain.fallback import Fallback, fallback_of
from consumers.domain.ledger import attempt_id_of
from consumers.domain.sending import SUPPRESSED, ReceiptKind

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
BEGUN = PackedRows(attempt, ("recipient_id",), by="recipient_id")
_TRIED = PackedRows(
    attempt,
    ("attempt_id", "recipient_id", "channel", "state", "number", "release_id", "bundle_sha256"),
    by="recipient_id",
)
_CONCERNED = PackedRows(
    recipient,
    ("recipient_id", "incident_id", "channels", "final_state", "final_at", "subject_commitment", "segment_id"),
    by="recipient_id",
)
_SEVERAL_PROVIDERS = (Channel.EMAIL, Channel.SMS)
_ASKED = (Trigger.ACCEPTED, Trigger.LOST)
"""What a dispatcher reports of a text that a provider has, or may have."""


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
class Change:
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
    gone: bool = False
    """The provider said that nobody is at the address or number any more."""
    reported_by: str | None = None
    """Of a receipt: which provider's, which may be that of the call before the last."""
    message_id: str = ""
    """Of a receipt: what its provider calls the message, which may be that of the call before the last; "" is not told."""


class AttemptChanges:
    """Applies triggers to attempts, and gives people what follows."""

    def __init__(self, clock: Clock, policy: DeliveryPolicy) -> None:
        self._clock = clock
        self._policy = policy

    def apply(self, connection: sa.Connection, changes: Sequence[Change], now: datetime) -> int:
        """Apply changes to attempts, and return how many moved. The clock is read again once their rows are locked: until then
        another may have changed them since `now`.
        """
        if not changes:
            return 0
        ids = sorted({change.attempt_id for change in changes})
        rows = changeable(connection, ids)
        now = max(now, self._clock.now())
        stood = {attempt_id: row.copy() for attempt_id, row in rows.items()}
        outcomes: list[outbox.Written] = []
        moved: set[str] = set()
        touched: set[str] = set()
        bounced: dict[str, Mapping[str, Any]] = {}
        told = _told_of_several(connection, changes, rows)
        for change in changes:
            row = rows.get(change.attempt_id)
            if row is None:
                continue
            if change.send_count not in (None, row["send_count"]) and change.trigger is not Trigger.ACCEPTED:
                # an earlier call's failure says nothing of the one that another dispatcher has begun since
                continue
            before = AttemptState(row["state"])
            after = next_state(before, change.trigger, of_another_call=_is_anothers(row, change, told))
            at = moment_after(row["state_at"], now)
            first_text = row["body_sha256"] is None and change.learned.get("body_sha256") is not None
            row.update(change.learned)
            if change.message_id and (row["provider_message_id"] is None or after is not before):
                # of what changes nothing the attempt goes on to be known by the message that it waits for
                row["provider_message_id"] = change.message_id
            row["called_count"] -= change.uncalled and row["called_count"] > 0
            touched.add(change.attempt_id)
            if change.trigger is ReceiptKind.DELAYED and after is AttemptState.HANDED_OVER:
                # the provider is still trying: the wait for its last word starts anew
                row["expires_at"] = self.expires_at(row, now)
            hard = change.gone or (change.trigger is ReceiptKind.BOUNCED_HARD and change.sub_type != SUPPRESSED)
            if hard and not row["exercise"] and before not in ARRIVED_FOR_GOOD:
                # also of an attempt that has failed already: the repeat's report, or the first call's
                bounced[change.attempt_id] = row
            if after is before:
                if first_text and change.trigger in _ASKED:
                    # the receipt was here first and could not say which text it is about: the proof has both
                    outcomes.append(outcome_of(row, _happened(before, after, change), at))
                continue
            row["state"] = after.value
            row["state_at"] = at
            if change.reported_by not in (None, row["provider"]) and row["channel"] in _SEVERAL_PROVIDERS:
                # a name that the other provider gave its message is none of this one's
                row["provider"] = change.reported_by
                row["provider_message_id"] = change.message_id or None
            if after is AttemptState.HANDED_OVER:
                row["handed_over_at"] = now
                row["expires_at"] = self.expires_at(row, now)
            if after is AttemptState.DELIVERED and row["handed_over_at"] is not None and not row["exercise"]:
                took = (change.occurred_at - row["handed_over_at"]).total_seconds()
                TO_DELIVERED.labels(row["channel"]).observe(max(0.0, took))
            moved.add(change.attempt_id)
            outcomes.append(outcome_of(row, _happened(before, after, change), at))
            if after is AttemptState.PLANNED and row["final_state"] is not None:
                # another channel has reached them meanwhile: what would leave again need not
                gone = next_state(after, Trigger.CANCEL)
                row["state"], row["state_at"] = gone.value, moment_after(at, now)
                outcomes.append(outcome_of(row, Happened(after, gone, Trigger.CANCEL, now), row["state_at"]))
        self._store(connection, [(stood[attempt_id], rows[attempt_id]) for attempt_id in sorted(touched)])
        keep_hard_bounces(connection, list(bounced.values()), now)
        outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        self._advance(connection, [rows[attempt_id] for attempt_id in sorted(moved)], now)
        return len(moved)

    @property
    def wait_for_receipts(self) -> timedelta:
        """How long the slowest channel's last receipt may take."""
        return max(self._policy.timeout_of.values())

    def end_arrived(self, connection: sa.Connection, attempt_ids: Sequence[str], now: datetime) -> None:
        """End whom something has reached already of those of whom these attempts, which began beside it, were cancelled."""
        arrived = attempt.alias("arrived")
        for some in in_parts(attempt_ids):
            people = connection.execute(
                sa.select(attempt.c.recipient_id)
                .distinct()
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .join(arrived, arrived.c.recipient_id == attempt.c.recipient_id)
                .where(
                    attempt.c.attempt_id.in_(some)
                    & recipient.c.final_state.is_(None)
                    & arrived.c.state.in_([state.value for state in ARRIVED])
                )
            )
            self._advance_people(connection, people.scalars().all(), now)

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

    def expires_at(self, row: Mapping[str, Any], now: datetime) -> datetime:
        timeout = self._timeout_of(row)
        return when_next_channel(now, timeout, row["deadline_at"], min(timeout, self._policy.needed_after))

    def let_wait(self, connection: sa.Connection, attempt_ids: Sequence[str], now: datetime) -> Collection[str]:
        """Return those of locked messages that are near their deadline but are waited for as long as their channel may take: a
        deadline hurries somebody on to their next channel, and makes nothing arrive, be read or posted sooner where none is
        left. Who counts as told by nothing then is told once more by another incident that knows them.
        """
        if not attempt_ids:
            return ()
        found_rows = connection.execute(
            sa.select(
                attempt.c.attempt_id, attempt.c.recipient_id, attempt.c.channel, attempt.c.timeout_seconds,
                attempt.c.handed_over_at, attempt.c.release_id, recipient.c.segment_id, recipient.c.channels,
            )
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .join(incident, incident.c.incident_id == attempt.c.incident_id)
            .where(
                attempt.c.attempt_id.in_(attempt_ids)
                & incident.c.state.not_in(ENDED)
                & recipient.c.segment_id.is_not(None)
            )
        ).mappings()  # fmt: skip
        rows = [dict(row) for row in found_rows]
        still_tried = _last_delays(connection, [row["attempt_id"] for row in rows])
        until = {
            each: max(row["handed_over_at"], still_tried.get(each, row["handed_over_at"])) + self._timeout_of(row)
            for row in rows
            if (each := row["attempt_id"])
        }
        silent = [row for row in rows if until[row["attempt_id"]] > now]
        if not silent:
            return ()
        people = sorted({row["recipient_id"] for row in silent})
        tried: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for other in _TRIED.named(connection, people):
            tried[other["recipient_id"]].append(other)
        policies = policies_of(connection, {row["segment_id"] for row in silent})
        policy_of = self._policy_of(connection, {row["release_id"] for row in silent}, policies)
        dead = bounced_channels(connection, people)
        found = []
        for row in silent:
            following = what_next(
                [
                    Tried(
                        Channel(each["channel"]),
                        AttemptState.EXPIRED
                        if each["attempt_id"] == row["attempt_id"]
                        else AttemptState(each["state"]),
                    )
                    for each in tried[row["recipient_id"]]
                ],
                policy_of(row["release_id"], row["segment_id"]),
                channels_of(row["channels"], dead.get(row["recipient_id"], ())),
            )
            # whom something has reached counts so by their deadline; their letter is waited for, as it may still be posted
            told = following.end is PersonEnd.REACHED and row["channel"] != Channel.LETTER
            if not following.channels and not told:
                found.append({"attempt_id": row["attempt_id"], "expires_at": until[row["attempt_id"]]})
        update_many(connection, attempt, found, each=("expires_at",))
        return {each["attempt_id"] for each in found}

    def put_off_until(self, row: Mapping[str, Any], now: datetime) -> datetime | None:
        """Return when a message is tried again that is put off since `deferred_at`; None once its channel has had its time."""
        first = row["deferred_at"]
        return deferred_until(first, now, self.expires_at(row, first), self._timeout_of(row))

    def _timeout_of(self, row: Mapping[str, Any]) -> timedelta:
        own = row["timeout_seconds"]
        return self._policy.timeout_of[Channel(row["channel"])] if own is None else timedelta(seconds=own)

    def new_attempt(
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
        policies = policies_of(connection, {person["segment_id"] for person in known})
        dead = bounced_channels(connection, people)
        policy_of = self._policy_of(connection, {rows[-1]["release_id"] for rows in tried.values()}, policies)
        reopened: set[str] = set()
        undone: list[str] = []
        not_reached: list[str] = []
        came_back: set[str] = set()
        new_attempts: list[dict[str, Any]] = []
        fallbacks = Counter[Channel]()
        ends: dict[tuple[str, bool, datetime], list[tuple[str, PersonEnd, str]]] = defaultdict(list)
        superfluous: list[Change] = []
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
                else channels_of(_texts_in(person["channels"]), dead.get(person["recipient_id"], ())),
            )
            if following.channels:
                fallbacks.update(() if exercise else following.channels)
                new_attempts.extend(
                    self.new_attempt(
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
                    if incident_state in ENDED and not exercise:
                        came_back.add(person["incident_id"])
                # not before what led to it, nor before an earlier end
                at = max(now, person.get("state_at", now), moment_after(person["final_at"], now))
                key = (person["incident_id"], bool(exercise), at)
                ends[key].append((person["recipient_id"], following.end, person["subject_commitment"]))
                # a late delivery ends it: what has not left the house yet need not leave any more
                superfluous.extend(
                    Change(row["attempt_id"], Trigger.CANCEL, now)
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
            run_again(connection, sorted(reopened), now)
        for (incident_id, exercise, at), ended in ends.items():
            self.end_people(connection, incident_id, ended, at, exercise=exercise, read=read)
        raise_pages(connection, [_came_back(incident_id, now) for incident_id in sorted(came_back)])
        self.take_back(connection, [*undone, *not_reached])
        self.apply(connection, superfluous, now)

    def take_back(self, connection: sa.Connection, recipient_ids: Sequence[str]) -> None:
        """Give their turn back to whom another incident ended as told by the notices of these recipients, which count no more:
        whom nothing was begun for there as if nobody had told them, and who had been tried there goes on from there.
        """
        back = take_back_elsewhere(connection, recipient_ids)
        begun = {recipient_id for (recipient_id,) in BEGUN.of(connection, back)}
        for some in in_parts(sorted(begun)):
            self._advance_people(connection, some, self._clock.now())

    def _policy_of(
        self, connection: sa.Connection, release_ids: set[str], policies: Mapping[str, Fallback]
    ) -> Callable[[str, str], Fallback]:
        """Return what tells the channel policy of people of a segment: what was approved for them binds the next channel too,
        whatever the segment (`policies`) says by now.
        """
        approved = self._approved_segments(connection, release_ids)

        @cache
        def policy_of(release_id: str, segment_id: str) -> Fallback:
            bound = approved[release_id].get(segment_id)
            return policies[segment_id] if bound is None else fallback_of(bound)

        return policy_of

    @staticmethod
    def _approved_segments(connection: sa.Connection, release_ids: set[str]) -> Mapping[str, Mapping[str, Any]]:
        rows = connection.execute(
            sa.select(release.c.release_id, release.c.policy).where(release.c.release_id.in_(sorted(release_ids)))
        )
        return {row.release_id: row.policy.get("segments", {}) for row in rows}

    @staticmethod
    def end_people(
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

    def end_told_elsewhere(
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
        self.end_people(connection, incident_id, ended, now, exercise=exercise)
        events = []
        for recipient_id, told_in, subject in elsewhere:
            _, year, number = told_in.partition(":")[0].split("-")
            event_id = hashlib.sha256(f"{recipient_id}/told in/{told_in}".encode()).hexdigest()[:32]
            body = {"subject": subject, "year": int(year), "number": int(number)}
            events.append(
                outbox.case_event("people.told_in_other_incident", incident_id, event_id, now, body, exercise=exercise)
            )
        outbox.append(connection, events, now)

    def end_as_told(self, connection: sa.Connection, told_in: Mapping[str, str], now: datetime) -> None:
        """Withdraw what has not left of people whom another incident's notice has told the same, and end them as told there."""
        waiting = (AttemptState.PLANNED, AttemptState.COMMANDED)
        superfluous: list[Change] = []
        by_incident: dict[tuple[str, bool], list[tuple[str, str, str]]] = defaultdict(list)
        for some in in_parts(sorted(told_in)):
            superfluous += [
                Change(attempt_id, Trigger.CANCEL, now)
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
        self.apply(connection, superfluous, now)
        for (incident_id, exercise), elsewhere in by_incident.items():
            self.end_told_elsewhere(connection, incident_id, elsewhere, now, exercise=exercise)


def _same_end(end: PersonEnd) -> tuple[PersonEnd, ...]:
    """Return the ends that say as much: whom a publication stands in for, no channel reached either."""
    return (end, PersonEnd.SUBSTITUTED) if end is PersonEnd.UNREACHABLE_REPORTED else (end,)


def _told_in_public(
    connection: sa.Connection, incident_id: str, ended: Sequence[tuple[str, PersonEnd, str]], now: datetime
) -> Mapping[str, tuple[str, ...]]:
    """Return whom of those without a channel a publication stands in for, and which."""
    left = [recipient_id for recipient_id, end, _ in ended if end is PersonEnd.UNREACHABLE_REPORTED]
    return stood_in_for(connection, left, publications_of(connection, incident_id, now)) if left else {}


def _came_back(incident_id: str, now: datetime) -> Mapping[str, Any]:
    """Return the page about people of a closed incident who count as told no more: one a day. It names no incident as its own:
    what is about one that has ended is taken for settled.
    """
    day = now.date().isoformat()
    return {
        "page_id": hashlib.sha256(f"came back/{incident_id}/{day}".encode()).hexdigest(),
        "incident_id": None,
        "kind": "delivery.came_back_after_end",
        "severity": "warning",
        "roles": ["dpo", "responder"],
        "title": f"{incident_id}: it is closed, and a notice that had arrived came back: who counted as told was not",
        "body": {"incident": incident_id, "next": f"tocsin delivery bounced {incident_id}"},
        "raised_at": now,
    }


def run_again(connection: sa.Connection, release_ids: Sequence[str], now: datetime) -> None:
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


@lru_cache(maxsize=1024)
def _texts_in(names: str) -> Sequence[str]:
    """Return a list of texts that was read as JSON."""
    return tuple(json.loads(names))


def channels_of(names: Sequence[str], dead: Collection[Channel] = ()) -> list[Channel]:
    return [channel for channel in map(Channel, names) if channel not in dead]


def policies_of(connection: sa.Connection, segment_ids: Collection[str]) -> Mapping[str, Fallback]:
    """Return the channel policy of each segment, as planning wrote it."""
    rows = connection.execute(
        sa.select(segment.c.segment_id, segment.c.channels, segment.c.key).where(
            segment.c.segment_id.in_(sorted(segment_ids))
        )
    )
    return {row.segment_id: fallback_of({**row.key, "channels": row.channels}) for row in rows}


def _seconds(wait: timedelta | None) -> int | None:
    return None if wait is None else int(wait.total_seconds())


def _last_delays(connection: sa.Connection, attempt_ids: Sequence[str]) -> Mapping[str, datetime]:
    """Return when it was last heard of each of these messages that its provider is still trying, where it was."""
    heard_at = sa.func.max(receipt.c.received_at, type_=receipt.c.received_at.type)
    found: dict[str, datetime] = {}
    for some in in_parts(attempt_ids):
        about = receipt.c.attempt_id.in_(some) & (receipt.c.kind == ReceiptKind.DELAYED)
        query = sa.select(receipt.c.attempt_id, heard_at).where(about).group_by(receipt.c.attempt_id)
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def _told_of_several(
    connection: sa.Connection, changes: Sequence[Change], rows: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Sequence[Told]]:
    """Return what was reported of each message of those attempts with receipts that were called more than once."""
    ids = {each.attempt_id for each in changes if each.reported_by is not None}
    several = sorted(each for each in ids if each in rows and rows[each]["called_count"] > 1)
    found: dict[str, list[Told]] = {each: [] for each in several}
    columns = (
        receipt.c.attempt_id,
        receipt.c.provider,
        receipt.c.provider_message_id,
        receipt.c.kind,
        receipt.c.sub_type,
    )
    for some in in_parts(several):
        for attempt_id, provider, message_id, kind, sub_type in connection.execute(
            sa.select(*columns).where(receipt.c.attempt_id.in_(some))
        ):
            for_good = kind == ReceiptKind.BOUNCED_HARD and sub_type != SUPPRESSED
            found[attempt_id].append(Told((provider, message_id), ReceiptKind(kind), for_good))
    return found


def _is_anothers(row: Mapping[str, Any], change: Change, told: Mapping[str, Sequence[Told]]) -> bool:
    """Say whether a receipt is about another call's message than the one that counts; see `of_another_call`."""
    reports = told.get(change.attempt_id)
    if reports is None or change.reported_by is None or not isinstance(change.trigger, ReceiptKind):
        return False
    own = None
    if row["provider"] != change.reported_by:
        own = (row["provider"], row["provider_message_id"] or "")
    elif change.message_id and row["provider_message_id"] is not None:
        own = (row["provider"], row["provider_message_id"])
    return of_another_call(change.trigger, (change.reported_by, change.message_id), own, reports)


def _happened(before: AttemptState, after: AttemptState, change: Change) -> Happened:
    return Happened(
        before,
        after,
        change.trigger,
        change.occurred_at,
        change.sub_type,
        change.trigger.value if isinstance(change.trigger, ReceiptKind) else None,
    )
