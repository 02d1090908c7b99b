"""Compares the case store with the evidence log: does the store lack what the log knows (a restored backup), do both and
the providers' receipts agree on an incident?

The log is written from the store's outbox, so that the store is never behind it, unless it was put back in time. The store
keeps how many entries of the log are known to be no news to it: a backup has that number as of then, and what a store that
was restored lacks was logged later.
"""

import hashlib
import itertools
import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from bridge.contracts.errors import MustStop, Refused
from bridge.contracts.events import AttemptState
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.decisions import lacking, pass_over_numbers, stop_started, take_note
from consumers.adapters.case_store.engine import CaseDatabase, in_parts, upsert
from consumers.adapters.case_store.erasures import Erasures
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.case_store.positions import read_positions
from consumers.adapters.case_store.tables import (
    attempt,
    incident,
    kafka_position,
    lost_message,
    page,
    receipt,
    recipient,
    reconciliation,
    release,
)
from consumers.case.acting import Actor, record_act
from consumers.case.events import Body, case_event
from consumers.case.permissions import Role
from consumers.domain.ledger import attempt_id_of
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.faults import LogRefused, Malformed
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder, LogReader
from consumers.evidence.tally import SAY_THAT_IT_ARRIVED, AttemptKey, LoggedAct, LoggedAttempt, PersonKey, Tally, tally

log = structlog.get_logger()

_AT_ONCE = 100_000
"""So many entries the comparison at a start holds at a time."""
_MARK = ("compared", ("evidence-log", 0))
"""Where the store keeps how far the log is no news to it: among the positions of what stages read."""
_MARK_EVERY_SECONDS = 60.0
_WAITS_FOR = timedelta(minutes=10)
"""So long after its end an incident's last leaves may take before they count as missing."""
_AGAIN_AFTER = timedelta(seconds=30)
_CLOCKS_DIFFER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Gap:
    """What the log knows and the case store does not."""

    outcome_count: int = 0
    unknown_count: int = 0
    """Attempts to reach people whom the store does not know: its backup is from before they were planned."""
    erasure_count: int = 0
    decisions: Sequence[LoggedAct] = ()
    """Of people, and incidents that were opened, in the log's order."""
    paused: Sequence[str] = ()
    """Incidents that a replay has stopped, as one of these decisions may have kept people back."""

    def __bool__(self) -> bool:
        return bool(self.outcome_count or self.unknown_count or self.erasure_count or self.decisions)

    def __str__(self) -> str:
        parts = [
            f"{self.outcome_count:,} outcomes of attempts" if self.outcome_count else "",
            f"{self.unknown_count:,} attempts to reach people whom the case store does not know"
            if self.unknown_count
            else "",
            f"{self.erasure_count:,} erased keys that are back" if self.erasure_count else "",
            f"{len(self.decisions):,} decision{'s' * (len(self.decisions) > 1)}" if self.decisions else "",
        ]
        return " and ".join(each for each in parts if each)


@dataclass(slots=True)
class Reconciled:
    """What ledger, log and receipts say of one incident, side by side."""

    incident_id: str
    log_size: int
    rows: list[Mapping[str, object]] = field(default_factory=list)
    """What is counted, by whom: `what`, `ledger`, `log`, `providers`."""
    differences: list[str] = field(default_factory=list)


class Comparison:
    """Compares one case store with the log in one folder."""

    def __init__(self, database: CaseDatabase, log: Path, clock: Clock, ledger: Ledger) -> None:
        self._database = database
        self._files = LogFolder(log)
        self._clock = clock
        self._ledger = ledger
        self._erasures = Erasures(database, clock)
        self._tried: dict[str, datetime] = {}
        self._unreadable: set[str] = set()
        self._kept = 0

    # --- a restored store -------------------------------------------------------------------------------------------

    def gap(self) -> Gap:
        """Return what the store lacks of the whole log."""
        reader = self._reader()
        if reader is None:
            return Gap()
        return self._gap(tally(reader.entries(), reader.size))

    def gap_at_start(self) -> Gap:
        """Return what the store lacks, or the first of it, of what was logged since it was known to lack nothing.

        Where it lacks nothing, the store keeps that. A crash before: the same is read again.
        """
        reader = self._reader()
        if reader is None:
            return Gap()
        mark = self._mark()
        # a log that is shorter than it was is another one, or a backup of its own: all of it is read
        entries = reader.entries(mark if mark <= reader.size else 0)
        while part := list(itertools.islice(entries, _AT_ONCE)):
            gap = self._gap(tally(part, reader.size))
            if gap:
                return gap
        self._keep_mark(reader.size)
        return Gap()

    def follow(self, stop: threading.Event) -> None:
        """Keep how far the log has come until `stop`, so that the next start need not read it all.

        For dispatch once `gap_at_start` found nothing: while it runs the store cannot lack what is logged. If the store goes
        back in time all the same, its mark does, too, and is left alone for the next start to find. Raises MustStop then.
        """
        over = False
        while not over:
            over = stop.wait(_MARK_EVERY_SECONDS)
            reader, mark = self._reader(), self._mark()
            if mark < self._kept:
                raise MustStop(
                    "the case store was put back in time under this process. Nothing is sent until `tocsin restore reconcile "
                    "--reason TEXT` has told it what the evidence log knows"
                )
            if reader is not None:
                self._keep_mark(max(mark, reader.size))

    def _mark(self) -> int:
        stage, place = _MARK
        return read_positions(self._database, stage, [place]).get(place, 0)

    def _keep_mark(self, size: int) -> None:
        stage, (topic, partition) = _MARK
        row = {"stage": stage, "topic": topic, "partition": partition, "next_offset": size}
        ours = (kafka_position.c.stage == stage) & (kafka_position.c.topic == topic)

        def work(connection: sa.Connection) -> None:
            upsert(connection, kafka_position, [row])
            # several dispatchers keep it, and one that is behind must not put it back
            connection.execute(
                sa.update(kafka_position).where(ours & (kafka_position.c.next_offset < size)).values(next_offset=size)
            )

        self._database.writing(work)
        self._kept = size

    def _gap(self, known: Tally) -> Gap:
        with self._database.read() as connection:
            behind, unknown = _behind(connection, known)
            decisions = lacking(connection, known.acts)
        return Gap(len(behind), unknown, self._erasures.marked(known.markers), decisions)

    def replay(self, actor: Actor, role: Role, reason: str, *, accept_unknown: bool = False) -> Gap:
        """Write into the store what the log knows, and erase again what was erased; return what that was.

        Commands that were on their way in the backup are void from then on. What runs, and lacks a decision that may have kept
        somebody back, is paused in the same transaction. A crash after it leaves keys that were erased: it is done again.
        Attempts of people whom the store does not know stay unknown, and dispatch goes on refusing, unless `accept_unknown`:
        whoever of them is planned again may be told twice then.
        """
        reader = self._reader()
        if reader is None:
            raise Refused(f"{self._files.root} holds no log; restore it first, it is what the store is compared with")
        known = tally(reader.entries(), reader.size)
        now = self._clock.now()

        def work(connection: sa.Connection) -> tuple[int, int, Sequence[LoggedAct], Sequence[str]]:
            lacked = lacking(connection, known.acts)
            pass_over_numbers(connection, known.acts)
            stop_started(connection, known.acts, now)
            behind, unknown = _behind(connection, known)
            people = _write_attempts(connection, behind, self._ledger.wait_for_receipts, now)
            connection.execute(
                sa.update(incident)
                .where(incident.c.incident_id.in_(sorted({key[0] for key in behind} or {""})))
                .values(epoch=incident.c.epoch + 1)
            )
            # what they need now is decided from all of their attempts, so only when all are there
            self._ledger.resume(connection, people)
            paused = take_note(connection, lacked, actor, role, reason, now)
            return len(behind), unknown, lacked, paused

        outcomes, unknown, lacked, paused = self._database.writing(work)
        gap = Gap(outcomes, unknown, self._erasures.erase_marked(known.markers), lacked, paused)
        body: Body = {
            "outcome_count": gap.outcome_count, "unknown_count": gap.unknown_count, "erasure_count": gap.erasure_count,
            "log_size": reader.size, "unknown_accepted": accept_unknown and bool(gap.unknown_count),
            "decision_count": len(gap.decisions), "paused_count": len(gap.paused),
        }  # fmt: skip

        def record(connection: sa.Connection) -> None:
            record_act(SqlCaseWork(connection, now), actor, role, "restore.reconciled", body, at=now, reason=reason)

        self._database.writing(record)
        if accept_unknown:
            # a crash before it leaves the decision on record and dispatch refusing; it is said again
            self._keep_mark(reader.size)
        return gap

    # --- one incident -----------------------------------------------------------------------------------------------

    def reconcile(self, incident_id: str) -> Reconciled:
        """Compare what ledger, log and providers' receipts say of an incident. Raises Refused where there is no log."""
        reader = self._reader()
        if reader is None:
            raise Refused(
                f"{self._files.root} holds no checkpoint: no evidence was logged yet, or it is another folder"
            )
        known = tally(reader.entries(), reader.size, incident_id)
        found = Reconciled(incident_id, reader.size)
        with self._database.read() as connection:
            people = _people(connection, incident_id)
            attempts = _attempts(connection, incident_id)
            receipts = _receipts(connection, incident_id)
        _compare_attempts(found, attempts, known)
        _compare_ends(found, people, known)
        _compare_receipts(found, attempts, receipts, known)
        return found

    def keep(self, found: Reconciled) -> None:
        """Record what a comparison found: for the metric, for the log, and as a page where something differs."""
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            upsert(
                connection,
                reconciliation,
                [
                    {
                        "incident_id": found.incident_id, "reconciled_at": now, "log_size": found.log_size,
                        "difference_count": len(found.differences), "differences": found.differences[:100],
                    }
                ],
                update=("reconciled_at", "log_size", "difference_count", "differences"),
            )  # fmt: skip
            case = SqlCaseWork(connection, now)
            row = connection.execute(
                sa.select(incident.c.exercise).where(incident.c.incident_id == found.incident_id)
            ).one()
            counts = {str(each["what"]): each for each in found.rows}
            body = {
                "log_size": found.log_size,
                "attempt_count": counts["attempts"]["ledger"], "logged_attempt_count": counts["attempts"]["log"],
                "end_count": counts["ends"]["ledger"], "logged_end_count": counts["ends"]["log"],
                "difference_count": len(found.differences),
            }  # fmt: skip
            case.publish_case_event(
                case_event(
                    "evidence.reconciled", incident_id=found.incident_id, actor=None, role=None, at=now,
                    body=body, exercise=bool(row.exercise),  # type: ignore[arg-type]  # counts, as checked by shape
                )
            )  # fmt: skip
            if found.differences:
                mark = f"evidence.differs/{found.incident_id}/{found.differences}"
                upsert(
                    connection,
                    page,
                    [
                        {
                            "page_id": hashlib.sha256(mark.encode()).hexdigest(), "incident_id": found.incident_id,
                            "kind": "evidence.differs", "severity": "critical", "roles": ["dpo", "sre"],
                            "title": f"{found.incident_id}: ledger, evidence log and providers do not say the same",
                            "body": {
                                "differences": len(found.differences),
                                "next": f"tocsin evidence reconcile --incident {found.incident_id}",
                            },
                            "raised_at": now,
                        }
                    ],
                )  # fmt: skip

        self._database.writing(work)

    def reconcile_ended(self) -> int:
        """Compare incidents that have ended and were not compared since, and those that differed; return how many differ.

        Leaves follow a change within seconds: a difference counts once they have had ten minutes.
        """
        now = self._clock.now()
        with self._database.read() as connection:
            waiting = connection.execute(
                sa.select(incident.c.incident_id, incident.c.closed_at, reconciliation.c.difference_count)
                .outerjoin(reconciliation, reconciliation.c.incident_id == incident.c.incident_id)
                .where(
                    (incident.c.state == "closed")
                    & (reconciliation.c.incident_id.is_(None) | (reconciliation.c.difference_count > 0))
                )
            ).all()
        for row in waiting:
            if now - self._tried.get(row.incident_id, datetime.min.replace(tzinfo=now.tzinfo)) < _AGAIN_AFTER:
                continue
            self._tried[row.incident_id] = now
            if self._reader() is None:
                continue
            try:
                found = self.reconcile(row.incident_id)
            except (LogRefused, Malformed) as fault:
                # a damaged log must not stop who asks from watching deadlines; that it is damaged is a difference, too
                log.error("the evidence log cannot be compared with the ledger", reason=str(fault))
                self._unreadable.add(row.incident_id)
                continue
            self._unreadable.discard(row.incident_id)
            patient = row.closed_at is not None and now - row.closed_at < _WAITS_FOR
            if found.differences and (patient or row.difference_count is not None):
                continue
            self.keep(found)
        with self._database.read() as connection:
            differing = connection.execute(
                sa.select(sa.func.count()).select_from(reconciliation).where(reconciliation.c.difference_count > 0)
            ).scalar_one()
        return int(differing) + len(self._unreadable)

    def _reader(self) -> LogReader | None:
        signed = self._files.read(CHECKPOINT)
        if signed is None:
            return None
        return LogReader(self._files, Checkpoint.parse_text(Note.parse(signed).text).size)


def _behind(connection: sa.Connection, known: Tally) -> tuple[dict[AttemptKey, tuple[str, LoggedAttempt]], int]:
    """Return the attempts whose newest leaf the store does not know, with the recipient's id; and how many are nobody's."""
    names = sorted({key[0] for key in known.attempts})
    people: dict[PersonKey, str] = {}
    stored: dict[tuple[str, int], Any] = {}
    for name in names:
        for row in connection.execute(
            sa.select(recipient.c.recipient_id, recipient.c.subject_commitment, recipient.c.round).where(
                recipient.c.incident_id == name
            )
        ):
            people[name, row.subject_commitment, row.round] = row.recipient_id
        for each in connection.execute(
            sa.select(
                attempt.c.recipient_id, attempt.c.number, attempt.c.state, attempt.c.state_at, attempt.c.intended_at
            ).where(attempt.c.incident_id == name)
        ):
            stored[each.recipient_id, each.number] = each
    behind: dict[AttemptKey, tuple[str, LoggedAttempt]] = {}
    unknown = 0
    for key, logged in known.attempts.items():
        recipient_id = people.get(key[:3])
        if recipient_id is None:
            # whoever was left out again before anything was sent has no row any more, and needs none
            unknown += logged.begun
            continue
        at = stored.get((recipient_id, key[3]))
        if at is None:
            if logged.begun:
                behind[key] = recipient_id, logged
        elif _is_older(at.state, at.state_at, logged) or _lacks_call(at.intended_at, logged):
            behind[key] = recipient_id, logged
    return behind, unknown


def _is_older(state: str, state_at: datetime, logged: LoggedAttempt) -> bool:
    """Say whether the store has an attempt as it was before the log's newest word of it. A command is written without a leaf, by
    a clock that may be behind the one that let the attempt wait.
    """
    return not _are_alike(state, logged.state) and state_at < logged.recorded_at


def _are_alike(stored: str, logged: str) -> bool:
    return stored == logged or (stored in _UNLOGGED and logged in _UNLOGGED)


def _lacks_call(intended_at: datetime | None, logged: LoggedAttempt) -> bool:
    """Say whether the log has a call that the store knows nothing of, whatever it did with the attempt since it was put back.

    The call's beginning stands in both: it is written with the leaf's event. Clocks of two dispatchers may differ.
    """
    if not logged.begun or logged.intended_at is None:
        # a claim that was let go: nobody was called
        return False
    return intended_at is None or intended_at < logged.intended_at - _CLOCKS_DIFFER


def _write_attempts(
    connection: sa.Connection,
    behind: Mapping[AttemptKey, tuple[str, LoggedAttempt]],
    wait_for_receipts: timedelta,
    now: datetime,
) -> list[str]:
    """Bring attempts to where the log saw them; return the people whose they are."""
    releases: dict[str, str | None] = {}
    epochs: dict[str, int] = {}
    for name in {key[0] for key in behind}:
        releases[name] = connection.execute(
            sa.select(release.c.release_id)
            .where((release.c.incident_id == name) & release.c.released_at.is_not(None))
            .order_by(release.c.released_at.desc())
        ).scalar()
        epochs[name] = int(
            connection.execute(sa.select(incident.c.epoch).where(incident.c.incident_id == name)).scalar_one()
        )
    people: set[str] = set()
    lost: dict[tuple[str, int], LoggedAttempt] = {}
    for (name, _, _, number), (recipient_id, logged) in sorted(behind.items(), key=lambda item: item[0]):
        handed = logged.state == AttemptState.HANDED_OVER
        values: dict[str, Any] = {
            "state": logged.state, "state_at": logged.recorded_at, "channel": logged.channel,
            "provider": logged.provider,
            # nobody knows how long ago the provider took it: its last word gets the whole time anew
            "expires_at": now + wait_for_receipts if handed else None,
        }  # fmt: skip
        if handed:
            values["handed_over_at"] = logged.recorded_at
        if logged.begun:
            values["intended_at"] = logged.intended_at or logged.recorded_at
        done = connection.execute(
            sa.update(attempt)
            .where((attempt.c.recipient_id == recipient_id) & (attempt.c.number == number))
            .values(
                **values,
                send_count=_at_least(attempt.c.send_count, int(logged.begun)),
                # the log knows of claims, and nobody of calls
                called_count=_at_least(attempt.c.called_count, int(logged.begun)),
            )
        ).rowcount
        if not done:
            own = connection.execute(
                sa.select(attempt.c.release_id).where(attempt.c.recipient_id == recipient_id)
            ).scalar()
            release_id = own or releases[name]
            if release_id is None:
                raise Refused(
                    f"{name}: the log knows attempts, and this case store has no release of it; its backup is from before "
                    "the release. Restore a newer one"
                )
            connection.execute(
                sa.insert(attempt).values(
                    attempt_id=attempt_id_of(recipient_id, number),
                    recipient_id=recipient_id, number=number, incident_id=name, release_id=release_id,
                    epoch=epochs[name], send_count=int(logged.begun), called_count=int(logged.begun),
                    message_salt=secrets.token_hex(16),
                    bundle_sha256=logged.bundle_sha256, **values,
                )
            )  # fmt: skip
        elif handed and logged.message_digest is not None:
            lost[recipient_id, number] = logged
        people.add(recipient_id)
    _remember_lost(connection, lost, now)
    return sorted(people)


def _remember_lost(connection: sa.Connection, lost: Mapping[tuple[str, int], LoggedAttempt], now: datetime) -> None:
    """Keep the log's hash of the messages whose id at the provider the store does not have: by it a status that names nothing
    but this id is known. Of an attempt that began after the backup the salt is lost, too.
    """
    rows = [
        {
            "attempt_id": row.attempt_id, "provider": each.provider, "message_sha256": each.message_digest, "lost_at": now,
        }
        for some in in_parts(sorted({recipient_id for recipient_id, _ in lost}))
        for row in connection.execute(
            sa.select(attempt.c.attempt_id, attempt.c.recipient_id, attempt.c.number).where(
                attempt.c.recipient_id.in_(some)
                & attempt.c.provider_message_id.is_(None)
                & attempt.c.message_salt.is_not(None)
            )
        )
        if (each := lost.get((row.recipient_id, row.number))) is not None
    ]  # fmt: skip
    upsert(connection, lost_message, rows, update=("provider", "message_sha256", "lost_at"))


def _at_least(column: sa.Column[int], count: int) -> sa.ColumnElement[int]:
    return sa.case((column > count, column), else_=count)


_Attempts = Mapping[tuple[str, int, int], Any]
"""Rows of attempts by commitment, round and number."""


def _attempts(connection: sa.Connection, incident_id: str) -> _Attempts:
    rows = connection.execute(
        sa.select(
            attempt.c.attempt_id, attempt.c.number, attempt.c.state, attempt.c.provider, attempt.c.send_count,
            attempt.c.intended_at,
            recipient.c.subject_commitment, recipient.c.round,
        )
        .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
        .where(attempt.c.incident_id == incident_id)
    )  # fmt: skip
    return {(row.subject_commitment, row.round, row.number): row for row in rows}


def _people(connection: sa.Connection, incident_id: str) -> Mapping[tuple[str, int], str]:
    rows = connection.execute(
        sa.select(recipient.c.subject_commitment, recipient.c.round, recipient.c.final_state).where(
            (recipient.c.incident_id == incident_id) & recipient.c.final_state.is_not(None)
        )
    )
    return {(row.subject_commitment, row.round): row.final_state for row in rows}


def _receipts(connection: sa.Connection, incident_id: str) -> Mapping[str, set[str]]:
    """Return the kinds of receipts by attempt."""
    found: dict[str, set[str]] = {}
    for row in connection.execute(
        sa.select(receipt.c.attempt_id, receipt.c.kind)
        .join(attempt, attempt.c.attempt_id == receipt.c.attempt_id)
        .where(attempt.c.incident_id == incident_id)
    ):
        found.setdefault(row.attempt_id, set()).add(row.kind)
    return found


def _compare_attempts(found: Reconciled, attempts: _Attempts, known: Tally) -> None:
    begun = {key: row for key, row in attempts.items() if row.send_count > 0}
    logged = {key[1:]: each for key, each in known.attempts.items() if each.begun}
    found.rows.append({"what": "attempts", "ledger": len(begun), "log": len(logged), "providers": None})
    _say(found, "attempts are in the ledger and not in the log", begun.keys() - logged.keys())
    # one that was claimed, given up as lost, and was not called after all counts for none any more
    claimed = {key for key, row in attempts.items() if row.intended_at is not None}
    _say(found, "attempts are in the log and not in the ledger", logged.keys() - begun.keys() - claimed)
    both = begun.keys() & logged.keys()
    _say(found, "attempts have another state in the log than in the ledger",
         [key for key in both if not _are_alike(begun[key].state, logged[key].state)])  # fmt: skip
    for state in sorted({row.state for row in begun.values()} | {each.state for each in logged.values()}):
        found.rows.append(
            {
                "what": f"  {state}", "ledger": sum(row.state == state for row in begun.values()),
                "log": sum(each.state == state for each in logged.values()), "providers": None,
            }
        )  # fmt: skip


_UNLOGGED = frozenset({"planned", "commanded"})
"""Between these an attempt moves without a leaf: nothing has left the house."""


def _compare_ends(found: Reconciled, people: Mapping[tuple[str, int], str], known: Tally) -> None:
    ends = {key[1:]: state for key, (_, state) in known.ends.items()}
    found.rows.append({"what": "ends", "ledger": len(people), "log": len(ends), "providers": None})
    _say(found, "people have an end in the ledger and none in the log", people.keys() - ends.keys())
    _say(found, "people have another end in the log than in the ledger",
         [key for key in people.keys() & ends.keys() if people[key] != ends[key]])  # fmt: skip


def _compare_receipts(found: Reconciled, attempts: _Attempts, receipts: Mapping[str, set[str]], known: Tally) -> None:
    """Compare per provider how many messages the ledger holds for delivered with how many its receipts say were.

    What a receipt said after the backup that the store was restored from, the log alone has.
    """
    logged = {
        row.attempt_id
        for key, row in attempts.items()
        if (each := known.attempts.get((found.incident_id, *key))) is not None and each.arrived
    }
    for provider in sorted({row.provider for row in attempts.values()}):
        own = [row for row in attempts.values() if row.provider == provider and row.send_count > 0]
        confirmed = [
            row for row in own if row.attempt_id in logged or receipts.get(row.attempt_id, set()) & SAY_THAT_IT_ARRIVED
        ]
        if not any(row.attempt_id in receipts for row in own):
            # a channel whose provider reports nothing, or an incident whose people were all erased
            continue
        arrived = [row for row in own if row.state in SAY_THAT_IT_ARRIVED]
        found.rows.append(
            {"what": f"{provider}: delivered", "ledger": len(arrived), "log": None, "providers": len(confirmed)}
        )
        _say(found, f"attempts are delivered in the ledger, and {provider} never said so",
             [row for row in arrived if row.attempt_id in receipts and row not in confirmed])  # fmt: skip
        _say(found, f"attempts were delivered by {provider}, and the ledger does not have it",
             [row for row in confirmed if row.state not in SAY_THAT_IT_ARRIVED | {"bounced"}])  # fmt: skip


def _say(found: Reconciled, what: str, which: Collection[object]) -> None:
    if which:
        found.differences.append(f"{len(which):,} {what}")
