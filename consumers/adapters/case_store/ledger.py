"""The ledger: every attempt, its state, and what follows from it. The truth of delivery; the topics are only a belt.

How telling begins, what dispatchers claim and report, what receipts say and how an attempt changes have rooms of their own
beside this one; here is what all of them are reached by, what has waited too long, and the counts.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import (
    AttemptState,
    Channel,
)
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Positions
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.beginnings import Beginnings
from consumers.adapters.case_store.canaries import judge_canaries
from consumers.adapters.case_store.changes import (
    AttemptChanges,
    Change,
    DeliveryPolicy,
    channels_of,
    policies_of,
)
from consumers.adapters.case_store.engine import (
    IN_LIST,
    CaseDatabase,
    in_parts,
)
from consumers.adapters.case_store.handovers import Handovers
from consumers.adapters.case_store.holds import remind_of_holds
from consumers.adapters.case_store.keeping_back import KeepingBack
from consumers.adapters.case_store.metering import (
    Meter,
    lane_ages,
    open_gates,
    running_incidents,
)
from consumers.adapters.case_store.people_wait import unbegun_of, without_attempt
from consumers.adapters.case_store.positions import NO_TOPIC_IDS
from consumers.adapters.case_store.receipts import Receipts
from consumers.adapters.case_store.tables import (
    ENDED,
    attempt,
    incident,
    receipt,
    recipient,
    release,
    still_concerned,
)
from consumers.domain.canary import CanaryState
from consumers.domain.delivery import (
    PersonEnd,
    Trigger,
    what_next,
)
from consumers.domain.gates import gate_for
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
    SentText,
    WrittenLetter,
)
from consumers.domain.sending import Receipt, ReceiptKind

_MOST_CLAIMS = 6
"""So often somebody is claimed and lost again without a call before their next channel begins: it may be another that works."""


class Ledger:
    """Reads and changes attempts. Implements what release, dispatch and receipts ask for."""

    def __init__(
        self,
        database: CaseDatabase,
        clock: Clock,
        policy: DeliveryPolicy,
        topic_ids: Mapping[str, str] = NO_TOPIC_IDS,
    ) -> None:
        """`topic_ids`: of what the caller reads, see `bridge.runtime.topic_ids`."""
        self._database = database
        self._clock = clock
        kept_back = KeepingBack(clock, policy)
        self._changes = AttemptChanges(clock, policy)
        self._receipts = Receipts(database, clock, self._changes, topic_ids)
        self._meter = Meter(database, clock, kept_back, self._changes.end_as_told)
        self._beginnings = Beginnings(database, clock, self._changes, self._meter, kept_back)
        self._handovers = Handovers(database, clock, self._changes, self._receipts, kept_back, topic_ids)

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
        return self._beginnings.begin_attempts(limit, lanes)

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
        a message without a final receipt has expired, but a letter that no channel follows waits for the post. Each of them
        takes the person to the next channel where one is due.

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
            found = [
                (trigger, _locked_where(connection, every, (attempt.c.state == state) & condition))
                for state, condition, trigger in stale
            ]
            if expired:
                trigger, silent = found.pop()
                waiting = self._changes.let_wait(connection, silent, now)
                found.append((trigger, [each for each in silent if each not in waiting]))
            changes = [Change(attempt_id, trigger, now) for trigger, those in found for attempt_id in those]
            # what had not left when its incident ended never will
            never = [
                attempt_id
                for state in (AttemptState.PLANNED, AttemptState.COMMANDED)
                for attempt_id in _locked_where(connection, ended, attempt.c.state == state)
            ]
            changes += [Change(attempt_id, Trigger.CANCEL, now) for attempt_id in never]
            moved = self._changes.apply(connection, changes, now)
            self._changes.end_arrived(connection, never, now)
            return moved

        return self._database.writing(work)

    def judge_canaries(self) -> Sequence[tuple[str, str, CanaryState]]:
        """Let canaries that are done open their release or pause it; return incident and release of those that moved."""
        now = self._clock.now()
        return self._database.writing(lambda connection: judge_canaries(connection, now, unbegun_of))

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
                        outbox.case_event(
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

    def letters(self, incident_id: str) -> Sequence[WrittenLetter]:
        """Return every letter that was written, by message id, and why it may not go to the post now, where it may not."""
        with self._database.read() as connection:
            gates = open_gates(connection, incident_id)
            rows = connection.execute(
                sa.select(
                    attempt.c.attempt_id, attempt.c.provider_message_id, attempt.c.state, attempt.c.release_id,
                    release.c.state.label("release_state"), recipient.c.residence, recipient.c.controller,
                    recipient.c.segment_id, recipient.c.root, recipient.c.final_state,
                )
                .join(release, release.c.release_id == attempt.c.release_id)
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .where(
                    (attempt.c.incident_id == incident_id)
                    & (attempt.c.channel == Channel.LETTER)
                    & attempt.c.provider_message_id.is_not(None)
                )
                .order_by(attempt.c.provider_message_id)
            )  # fmt: skip
            found = []
            for row in rows:
                given_up = row.state == AttemptState.EXPIRED and row.final_state != PersonEnd.REACHED
                waits, why = row.state == AttemptState.HANDED_OVER or given_up, None
                if waits:
                    codes = [claim["code"] for claim in row.residence]
                    gate = gate_for(codes, gates, row.controller, segment_id=row.segment_id, root=row.root)
                    if gate is not None:
                        why = "a hold"
                    elif row.release_state not in ("releasing", "finished"):
                        why = f"their release is {row.release_state}"
                found.append(WrittenLetter(row.attempt_id, row.provider_message_id, row.state, waits, why))
            return found + _written_twice(connection, incident_id)

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
        return self._receipts.positions(stage, partitions)

    def intend(self, commands: Sequence[Command], dispatcher: str, stage: str, after: Positions) -> Sequence[Intent]:
        """Claim the attempts that may be sent now, and move the position past their commands; return the claims.

        The claim is conditional on the state `commanded`, so two dispatchers cannot own one attempt; a command that is
        not in the ledger, is stale, or meets a gate mails nobody. A crash right after this leaves `intended` attempts
        that the sweeper turns to `unknown`.
        """
        return self._handovers.intend(commands, dispatcher, stage, after)

    def put_back(self, commands: Sequence[Command]) -> None:
        """Let commanded attempts wait again, unclaimed: no provider of their channel takes messages at this moment.

        Not logged, as commands are not: nothing has happened to anybody. Commands that are not ours are told of, as by `intend`.
        """
        self._handovers.put_back(commands)

    def standing(self, intents: Sequence[Intent]) -> Collection[str]:
        """Return the attempts of `intents` that may be sent at this moment: still this very claim, in the same epoch, of a
        release that runs. A dispatcher that was slow may find that the sweeper gave its claim to another.
        """
        return self._handovers.standing(intents)

    def note_calls(self, intents: Sequence[Intent]) -> None:
        """Write that a provider is being asked for these claims, right before it is: for all but first ones, which count as
        called from the beginning. So nobody's last try is one for which nobody was asked, and most pay nothing for it.

        A crash before this leaves claims of which it is known that nobody was called; after it, nobody knows.
        """
        self._handovers.note_calls(intents)

    def learn_texts(self, texts: Sequence[SentText]) -> None:
        """Write which texts and numbers the calls of dispatchers that died had, as far as nothing is known of them. Their calls
        are lost: a claim becomes `unknown`, and what receipts have moved meanwhile is left as it is, and logged with its text.
        """
        self._handovers.learn_texts(texts)

    def bounced(self, marks: Collection[str]) -> Collection[str]:
        """Return those of the keyed hashes of addresses and numbers that bounced for good, whoever had them."""
        return self._handovers.bounced(marks)

    def report(self, reports: Sequence[SentReport]) -> None:
        """Write what providers said. Account notices leave through the outbox in the same transaction.

        A crash before this leaves `intended`: the receipts, which carry the attempt's tag, settle it.
        """
        self._handovers.report(reports)

    # --- receipts ------------------------------------------------------------------------------------------------

    def settle_receipts(
        self, receipts: Sequence[Receipt], *, stage: str = "", after: Positions | None = None
    ) -> Handed:
        """Store receipts and apply them; the same receipt twice changes nothing. Return what happened to them.

        One of a message that we do not know (yet) is kept aside and matched when its attempt learns its message id.
        """
        return self._receipts.settle_receipts(receipts, stage=stage, after=after)

    def forget_strays(self) -> int:
        """Remove receipts that were kept aside for a month; return how many."""
        return self._receipts.forget_strays()

    @property
    def wait_for_receipts(self) -> timedelta:
        """How long the slowest channel's last receipt may take."""
        return self._changes.wait_for_receipts

    def resume(self, connection: sa.Connection, people: Sequence[str]) -> None:
        """Give people what follows from attempts that were written by somebody else: the next channel, or an end."""
        self._changes.resume(connection, people)

    def take_back(self, connection: sa.Connection, recipient_ids: Sequence[str]) -> None:
        """Give their turn back to whom another incident ended as told by the notices of these recipients, which count no more:
        whom nothing was begun for there as if nobody had told them, and who had been tried there goes on from there.
        """
        self._changes.take_back(connection, recipient_ids)


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


def _written_twice(connection: sa.Connection, incident_id: str) -> list[WrittenLetter]:
    """Return the letters that lie ready although another one of the same attempt does, too: its first writer died, and was heard
    of late. One is to be posted, by which the attempt is known.
    """
    rows = connection.execute(
        sa.select(
            attempt.c.attempt_id, attempt.c.state, attempt.c.provider_message_id.label("known_by"),
            receipt.c.provider_message_id,
        )
        .join(receipt, receipt.c.attempt_id == attempt.c.attempt_id)
        .where(
            (attempt.c.incident_id == incident_id)
            & (attempt.c.channel == Channel.LETTER)
            & attempt.c.provider_message_id.is_not(None)
            & (receipt.c.kind == ReceiptKind.SENT)
        )
        .order_by(receipt.c.provider_message_id)
    )  # fmt: skip
    found = []
    for row in rows:
        if row.provider_message_id != row.known_by:
            batch, _, number = row.known_by.partition("/")
            why = f"written once more: {number} of {batch[:16]}"
            found.append(WrittenLetter(row.attempt_id, row.provider_message_id, row.state, waits=False, kept_back=why))
    return found


def _somebody_is_open(connection: sa.Connection, incident_id: str) -> bool:
    """Say whether somebody of an incident has no end yet: while there is one, nobody needs to be counted."""
    still = (recipient.c.incident_id == incident_id) & recipient.c.final_state.is_(None) & still_concerned()
    return connection.execute(sa.select(recipient.c.recipient_id).where(still).limit(1)).first() is not None


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
        policies = policies_of(connection, released_at.keys())
        alike = (recipient.c.segment_id, recipient.c.channels)
        for row in connection.execute(
            sa.select(
                *alike,
                sa.func.count().label("number"),
                sa.func.min(recipient.c.added_at, type_=recipient.c.added_at.type).label("added_at"),
                sa.func.min(recipient.c.deadline_at, type_=recipient.c.deadline_at.type).label("deadline_at"),
            )
            .where(*without_attempt(each.incident_id), recipient.c.segment_id.in_(sorted(released_at)))
            .group_by(*alike)
        ):
            since = max(at for at in (released_at[row.segment_id], row.added_at) if at is not None)
            due = None if row.deadline_at is None else (row.deadline_at - now).total_seconds()
            for channel in what_next((), policies[row.segment_id], channels_of(row.channels)).channels:
                found[channel] = found.get(channel, LaneAge()).joined(
                    row.number, max((now - since).total_seconds(), 0.0), due
                )
    return found


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
