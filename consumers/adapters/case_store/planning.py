"""What planning reads and writes: the affected as they arrived, and people, segments and duties as they were planned.

SQL only; every decision was made before. Each method that writes is one transaction. Whom a plan is about is read by
`drawing`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import CustomerAffected, PartitionResolved
from bridge.contracts.scope import Scope
from bridge.contracts.topics import CASE_EVENTS
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Positions
from consumers.adapters.case_store import outbox, positions
from consumers.adapters.case_store.commitments import who_they_are
from consumers.adapters.case_store.drawing import Drawing, is_unsent
from consumers.adapters.case_store.engine import (
    CaseDatabase,
    byte_order,
    in_parts,
    insert_many,
    update_alike,
    upsert,
)
from consumers.adapters.case_store.findings import left_out
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.pages import raise_pages
from consumers.adapters.case_store.tables import (
    ENDED,
    affected,
    attempt,
    exclusion,
    fact,
    incident,
    kafka_position,
    late_addition,
    late_member,
    person_key,
    plan,
    recipient,
    resolution,
    segment,
)
from consumers.adapters.case_store.twins import forget_merged_roots, keep_merged_roots, take_back_elsewhere
from consumers.case.duties import refresh
from consumers.domain.duties import LawInForce
from consumers.domain.planning import (
    Answered,
    Before,
    OpenPlan,
    Page,
    PeopleChange,
    PlanChange,
    PlanId,
    PlannedIncident,
    Written,
)
from consumers.domain.resolution import member_leaf
from consumers.domain.standing import grown, late_order
from consumers.evidence.commitment import commit, incident_key, new_person_key
from consumers.evidence.merkle import leaf_hash, root_over

_STAGE = "planning"
_READ_AT_ONCE = 1000
_PERSON_KEYS = PackedRows(person_key, ("root", "key"), by="root")


TakeBack = Callable[[sa.Connection, Sequence[str]], object]
"""Gives their turn back to whom other incidents ended as told by these recipients' notices."""


class PlanningTables:
    """Implements what the planning stage asks of the case store."""

    def __init__(
        self,
        database: CaseDatabase,
        clock: Clock,
        law: LawInForce,
        take_back: TakeBack = take_back_elsewhere,
        topic_ids: Mapping[str, str] = positions.NO_TOPIC_IDS,
    ) -> None:
        """`topic_ids`: of what planning reads, see `bridge.runtime.topic_ids`."""
        self._topic_ids = topic_ids
        self._take_back = take_back
        self._database = database
        self._clock = clock
        self._law = law
        self._counted: dict[PlanId, tuple[tuple[Any, ...], tuple[int, int, int]]] = {}
        """How many people a plan has, and what had been read and left out when they were counted."""

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        return positions.read_positions(self._database, stage, partitions, self._topic_ids)

    # --- what arrives ---------------------------------------------------------------------------------------------

    def persist(
        self,
        affected_events: Sequence[tuple[CustomerAffected, bytes | None]],
        answers: Sequence[PartitionResolved],
        stage: str,
        after: Positions,
    ) -> None:
        """Store what was read together with the positions after it; the first of two with one key stays.

        A late event on somebody who is there already adds to the event, but not to the leaf, which the partition's
        record covers. Everything late is numbered and gets a Merkle root of its own, whose case event is part of this
        transaction: a crash leaves all of it unread, or nothing of it to do.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            plans = sorted(
                {(event.incident_id, event.revision) for event, _ in affected_events}
                | {(event.incident_id, event.revision) for event in answers}
            )
            names = sorted({name for name, _ in plans})
            ended = {
                row.incident_id
                for row in connection.execute(
                    # locked: a contact must not be written while the incident is being closed and rid of contacts
                    sa.select(incident.c.incident_id, incident.c.state)
                    .where(incident.c.incident_id.in_(names))
                    .with_for_update(read=True)
                )
                if row.state in ENDED
            }
            rows = [
                _affected_row(event, text, keep_contact=event.incident_id not in ended)
                for event, text in affected_events
            ]
            upsert(
                connection,
                plan,
                [{"incident_id": name, "revision": revision, "state": "gathering"} for name, revision in plans],
            )
            late: dict[PlanId, list[CustomerAffected]] = defaultdict(list)
            for event, _ in affected_events:
                if event.late:
                    late[PlanId(event.incident_id, event.revision)].append(event)
            known = {plan_id: _known_members(connection, plan_id, events) for plan_id, events in late.items()}
            insert_many(connection, affected, rows, leave_known=True)
            for plan_id, events in late.items():
                _grow(connection, plan_id, events, known[plan_id], keep_contact=plan_id.incident_id not in ended)
                self._note_late(connection, plan_id, events, known[plan_id].keys(), now)
                if plan_id.incident_id in ended:
                    self._write_pages(connection, plan_id, [_late_after_end(plan_id, len(events))], now)
            self._keep_answers(connection, answers, now)
            if after:
                positions.write_positions(connection, stage, after, self._topic_ids)

        self._database.writing(work)

    @staticmethod
    def _note_late(
        connection: sa.Connection,
        plan_id: PlanId,
        events: Sequence[CustomerAffected],
        known: Collection[str],
        now: datetime,
    ) -> None:
        """Number what came late and was not noted before, and let the evidence log have its root."""
        # the plan's row is the lock: two planners must not take the same number
        connection.execute(sa.select(plan.c.state).where(_of(plan, plan_id)).with_for_update())
        leaves = {(event.root, _leaf_of(event)): event.partition for event in events}
        noted: set[tuple[str, str]] = set()
        for roots in in_parts(sorted({root for root, _ in leaves})):
            rows = connection.execute(
                sa.select(late_member.c.root, late_member.c.member_leaf).where(
                    _of(late_member, plan_id) & late_member.c.root.in_(roots)
                )
            )
            noted.update((row.root, row.member_leaf) for row in rows)
        new = {key: partition for key, partition in leaves.items() if key not in noted}
        if not new:
            return
        before = connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.max(late_addition.c.number), 0),
                sa.func.coalesce(sa.func.sum(late_addition.c.member_count), 0),
            ).where(_of(late_addition, plan_id))
        ).one()
        number, root = int(before[0]) + 1, root_over(late_order(new)).hex()
        members_before = set(known) | {name for name, _ in noted}
        connection.execute(
            sa.insert(late_addition).values(
                incident_id=plan_id.incident_id, revision=plan_id.revision, number=number, added_at=now,
                member_count=len(new), merkle_root=root,
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(late_member),
            [
                {
                    "incident_id": plan_id.incident_id, "revision": plan_id.revision, "root": name, "member_leaf": leaf,
                    "number": number, "partition": partition, "known": name in members_before,
                }
                for (name, leaf), partition in sorted(new.items())
            ],
        )  # fmt: skip
        exercise = connection.execute(
            sa.select(incident.c.exercise).where(incident.c.incident_id == plan_id.incident_id)
        ).scalar()
        event_id = hashlib.sha256(f"{plan_id.incident_id}/{plan_id.revision}/late/{number}".encode()).hexdigest()[:32]
        body = {
            "revision": plan_id.revision,
            "number": number,
            "member_count": len(new),
            "new_count": len({name for name, _ in new} - members_before),
            "members_root": root,
            "total_count": int(before[1]) + len(new),
        }
        event = outbox.case_event(
            "people.added_late", plan_id.incident_id, event_id, now, body, exercise=bool(exercise)
        )
        outbox.append(connection, [event], now)

    def _keep_answers(self, connection: sa.Connection, answers: Sequence[PartitionResolved], now: datetime) -> None:
        for event in answers:
            key = (
                (resolution.c.incident_id == event.incident_id)
                & (resolution.c.revision == event.revision)
                & (resolution.c.partition == event.partition)
            )
            known = connection.execute(
                sa.select(resolution.c.merkle_root, resolution.c.affected_count).where(key)
            ).first()
            if known is not None and (known.merkle_root, known.affected_count) != (
                event.merkle_root,
                event.affected_count,
            ):
                title = (
                    f"{event.incident_id}: partition {event.partition} gave two different answers; the first one counts"
                )
                self._write_pages(
                    connection,
                    PlanId(event.incident_id, event.revision),
                    [Page("plan.two_answers", str(event.partition), ("responder", "sre"), title, {})],
                    now,
                )
        upsert(
            connection,
            resolution,
            [
                {
                    "incident_id": event.incident_id,
                    "revision": event.revision,
                    "partition": event.partition,
                    "partition_count": event.partition_count,
                    "affected_count": event.affected_count,
                    "possible_count": event.possible_count,
                    "merkle_root": event.merkle_root,
                    "event": event.model_dump_json(),
                    "received_at": now,
                }
                for event in answers
            ],
        )

    # --- what is there --------------------------------------------------------------------------------------------

    def open_plans(self) -> Sequence[OpenPlan]:
        with self._database.read() as connection:
            # Asked first: what comes meanwhile is counted anew at the next look.
            read = tuple(
                connection.execute(
                    sa.select(kafka_position.c.topic, kafka_position.c.partition, kafka_position.c.next_offset)
                    .where(kafka_position.c.stage == _STAGE)
                    .order_by(kafka_position.c.topic, kafka_position.c.partition)
                ).all()
            )
            rows = connection.execute(
                sa.select(
                    incident.c.incident_id, incident.c.revision, incident.c.exercise, plan.c.state, plan.c.partly_drawn
                )
                .outerjoin(
                    plan, (plan.c.incident_id == incident.c.incident_id) & (plan.c.revision == incident.c.revision)
                )
                .where(
                    incident.c.state.not_in(ENDED)
                    & incident.c.closed_at.is_(None)
                    & incident.c.scope_sha256.is_not(None)
                )
                .order_by(incident.c.incident_id)
            ).all()
            found = tuple(
                replace(
                    self._open_plan(connection, PlanId(row.incident_id, row.revision), row.state == "complete", read),
                    exercise=bool(row.exercise),
                    partly_drawn=bool(row.partly_drawn),
                )
                for row in rows
            )
            self._counted = {each.plan_id: self._counted[each.plan_id] for each in found}
            return found

    def _people(self, connection: sa.Connection, plan_id: PlanId, read: tuple[Any, ...]) -> tuple[int, int, int]:
        """Return how many people are here, by record, and left out; counted only where that can have changed: it walks
        over all of them, and is asked twice a second for as long as the incident is open.
        """
        left = connection.execute(
            sa.select(
                sa.func.count(), sa.func.max(exclusion.c.decided_at), sa.func.max(exclusion.c.withdrawn_at)
            ).where(exclusion.c.incident_id == plan_id.incident_id)
        ).one()
        as_of = (*read, tuple(left))
        known = self._counted.get(plan_id)
        if known is not None and known[0] == as_of:
            return known[1]
        people = connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.coalesce(sa.func.sum(sa.case((affected.c.standing == "recorded", 1), else_=0)), 0),
                sa.func.coalesce(sa.func.sum(sa.case((left_out(), 1), else_=0)), 0),
            ).where(_of(affected, plan_id))
        ).one()
        counted = (int(people[0]), int(people[1]), int(people[2]))
        self._counted[plan_id] = as_of, counted
        return counted

    def _open_plan(self, connection: sa.Connection, plan_id: PlanId, complete: bool, read: tuple[Any, ...]) -> OpenPlan:
        people = self._people(connection, plan_id, read)
        answers = connection.execute(
            sa.select(sa.func.count()).select_from(resolution).where(_of(resolution, plan_id))
        ).scalar_one()
        last_fact = connection.execute(
            sa.select(sa.func.max(fact.c.fact_id)).where(fact.c.incident_id == plan_id.incident_id)
        ).scalar()
        late = connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(late_addition.c.member_count), 0)).where(_of(late_addition, plan_id))
        ).scalar_one()
        return OpenPlan(
            plan_id,
            complete,
            people[0],
            people[1],
            int(answers),
            int(last_fact or 0),
            int(late),
            people[2],
        )

    def answers(self, plan_id: PlanId) -> tuple[PlannedIncident, Sequence[Answered]]:
        with self._database.read() as connection:
            return self._incident(connection, plan_id), self._answers(connection, plan_id)

    @staticmethod
    def _incident(connection: sa.Connection, plan_id: PlanId) -> PlannedIncident:
        row = (
            connection.execute(sa.select(incident).where(incident.c.incident_id == plan_id.incident_id))
            .mappings()
            .one()
        )
        facts = connection.execute(
            sa.select(fact.c.name, fact.c.value)
            .where(fact.c.incident_id == plan_id.incident_id)
            .order_by(fact.c.fact_id)
        )
        return PlannedIncident(
            plan_id=plan_id,
            scenario=row["scenario"],
            exercise=bool(row["exercise"]),
            detected_at=row["detected_at"],
            scope=None if row["scope"] is None else Scope.model_validate(row["scope"]),
            scope_sha256=row["scope_sha256"],
            facts={each.name: each.value for each in facts},
        )

    @staticmethod
    def _answers(connection: sa.Connection, plan_id: PlanId) -> list[Answered]:
        rows = connection.execute(
            sa.select(resolution.c.event).where(_of(resolution, plan_id)).order_by(resolution.c.partition)
        ).scalars()
        events = [PartitionResolved.model_validate_json(text) for text in rows]
        return [
            Answered(
                event.partition,
                event.partition_count,
                event.affected_count,
                event.merkle_root,
                event.scope_sha256,
                event.coverage,
            )
            for event in events
        ]

    def member_counts(self, plan_id: PlanId) -> Mapping[int, int]:
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(affected.c.partition, sa.func.count())
                .where(_of(affected, plan_id) & ~affected.c.late)
                .group_by(affected.c.partition)
            )
            return {row[0]: int(row[1]) for row in rows}

    def member_leaves(self, plan_id: PlanId, partition: int) -> Iterator[bytes]:
        with self._database.read() as connection:
            query = (
                sa.select(affected.c.member_leaf)
                .where(_of(affected, plan_id) & (affected.c.partition == partition) & ~affected.c.late)
                .order_by(byte_order(connection, affected.c.root))
                .execution_options(yield_per=_READ_AT_ONCE)
            )
            with connection.execute(query) as rows:
                yield from map(bytes.fromhex, rows.scalars())

    @contextmanager
    def drawing(self, plan_id: PlanId) -> Iterator[Drawing]:
        """Read what a plan rests on: everybody as of one moment, and what stands in the ledger as it is when it is asked."""
        with self._database.snapshot() as connection:
            state = connection.execute(sa.select(plan.c.state).where(_of(plan, plan_id))).scalar()
            before = Before(
                incident=self._incident(connection, plan_id),
                complete=state == "complete",
                answers=self._answers(connection, plan_id),
            )
            with closing(Drawing(self._database, connection, plan_id, before)) as drawing:
                yield drawing

    # --- what was planned -----------------------------------------------------------------------------------------

    def write(self, before: Before, people: PeopleChange, end: PlanChange | None) -> Written:
        """Write what follows for some people, and with the last of them (`end`) for the plan, in one transaction.

        A crash inside leaves it unwritten; a crash after it, with people still to come, leaves the plan marked as partly
        drawn: it is not complete yet, or nothing of it is prepared or approved until it is drawn up again, which finds
        these people as they are and goes on. After `end` people, segments, duties, pages and case events are all there.
        """
        now, plan_id = self._clock.now(), before.incident.plan_id

        def work(connection: sa.Connection) -> Written:
            stands = self._stands(connection, before, people)
            if stands is not Written.DONE:
                return stands
            self._write_people(connection, plan_id, people, now)
            if end is None:
                upsert(connection, segment, [{**each, "count": 0} for each in people.segments])
                connection.execute(sa.update(plan).where(_of(plan, plan_id)).values(partly_drawn=True))
            else:
                self._write_end(connection, end, now)
            return Written.DONE

        return self._database.writing(work)

    def _write_people(self, connection: sa.Connection, plan_id: PlanId, people: PeopleChange, now: datetime) -> None:
        keys = self._person_keys(connection, [row["root"] for row in people.changed], now)
        rows = [
            {
                **row,
                "subject_commitment": commit(incident_key(keys[row["root"]], plan_id.incident_id), row["root"]),
            }
            for row in people.changed
        ]
        for ids in in_parts(people.withdrawn):
            connection.execute(sa.delete(attempt).where(attempt.c.recipient_id.in_(ids)))
        for ids in in_parts(people.removed):
            connection.execute(sa.delete(recipient).where(recipient.c.recipient_id.in_(ids)))
        forget_merged_roots(connection, people.removed)
        columns = [column.name for column in recipient.columns if column.name not in ("recipient_id", "is_correction")]
        insert_many(connection, recipient, rows, update=columns)
        for recipient_id, roots in people.regrouped.items():
            connection.execute(
                sa.update(recipient).where(recipient.c.recipient_id == recipient_id).values(roots=list(roots))
            )
        keep_merged_roots(connection, {row["recipient_id"]: (row["root"], row["roots"]) for row in people.changed})
        keep_merged_roots(connection, _regrouped(connection, people.regrouped))
        self._log_regrouped(connection, plan_id, sorted(people.regrouped), now)
        owed: dict[str | None, list[str]] = defaultdict(list)
        for recipient_id, correction in people.corrections.items():
            owed[correction].append(recipient_id)
        for correction, names in owed.items():
            update_alike(connection, recipient, names, {"correction": correction})
            if correction is not None:
                # what they are to hear was not true counts for no other incident's notice either
                self._take_back(connection, names)
        for ids in in_parts(sorted(people.corrections)):
            # what was to put them right is about what is no longer so; one that somebody has begun to send stays
            connection.execute(
                sa.delete(recipient).where(
                    recipient.c.supplements.in_(ids)
                    & recipient.c.is_correction
                    & ~sa.exists().where(attempt.c.recipient_id == recipient.c.recipient_id)
                )
            )

    def _write_end(self, connection: sa.Connection, end: PlanChange, now: datetime) -> None:
        plan_id = end.plan_id
        upsert(connection, segment, end.segments, update=("count", "lane", "priority"))
        used = sa.select(recipient.c.segment_id).where(
            (recipient.c.incident_id == plan_id.incident_id) & recipient.c.segment_id.is_not(None)
        )
        connection.execute(
            sa.delete(segment).where((segment.c.incident_id == plan_id.incident_id) & segment.c.segment_id.not_in(used))
        )
        self._write_plan(connection, end, now)
        case = SqlCaseWork(connection, now, locking=True)
        if list(end.exposures) != list(case.exposures_of(plan_id.incident_id, plan_id.revision)):
            case.write_exposures(plan_id.incident_id, plan_id.revision, end.exposures)
        outbox.append(
            connection,
            (
                outbox.Outgoing(CASE_EVENTS, plan_id.incident_id, plan_id.incident_id, event.case_event_id, event)
                for event in end.events
            ),
            now,
        )
        case.end_pages(plan_id.incident_id, ("plan.mismatch", "plan.silent", "plan.unusable"), by=None, at=now)
        self._write_pages(connection, plan_id, end.pages, now)
        incident_now = case.incident(plan_id.incident_id)
        assert incident_now is not None
        refresh(case, incident_now, self._law(), now)

    @staticmethod
    def _log_regrouped(connection: sa.Connection, plan_id: PlanId, names: Sequence[str], now: datetime) -> None:
        """Let the log know which members somebody stands for now: their final leaf may have been written without these."""
        who = who_they_are(connection, plan_id.incident_id, names)
        events = []
        for ids in in_parts(names):
            for row in connection.execute(
                sa.select(recipient.c.recipient_id, recipient.c.subject_commitment, incident.c.exercise)
                .join(incident, incident.c.incident_id == recipient.c.incident_id)
                .where(recipient.c.recipient_id.in_(ids))
            ):
                body = {"subject": row.subject_commitment, **who[row.recipient_id]}
                identity = f"{row.recipient_id}/{body.get('roots_digest')}/{body['root_count']}"
                event_id = hashlib.sha256(identity.encode()).hexdigest()[:32]
                events.append(
                    outbox.case_event(
                        "person.regrouped", plan_id.incident_id, event_id, now, body, exercise=bool(row.exercise)
                    )
                )
        outbox.append(connection, events, now)

    @staticmethod
    def _stands(connection: sa.Connection, before: Before, people: PeopleChange) -> Written:
        """Return whether the incident is still open at this revision, the plan in its state, and nobody begun since."""
        plan_id = before.incident.plan_id
        upsert(
            connection,
            plan,
            [{"incident_id": plan_id.incident_id, "revision": plan_id.revision, "state": "gathering"}],
        )
        state = connection.execute(sa.select(plan.c.state).where(_of(plan, plan_id)).with_for_update()).scalar_one()
        current = connection.execute(
            sa.select(incident.c.revision, incident.c.state)
            .where(incident.c.incident_id == plan_id.incident_id)
            .with_for_update()
        ).one()
        if (state == "complete") is not before.complete:
            return Written.MOVED
        if current.revision != plan_id.revision or current.state in ENDED:
            return Written.MOVED
        anybody = sa.select(attempt.c.recipient_id).where(attempt.c.incident_id == plan_id.incident_id).limit(1)
        if connection.execute(anybody).first() is None:
            return Written.DONE
        touched = {*people.removed, *(row["recipient_id"] for row in people.changed)} - set(people.withdrawn)
        for ids in in_parts(sorted(touched)):
            begun = connection.execute(
                sa.select(sa.func.count()).select_from(attempt).where(attempt.c.recipient_id.in_(ids))
            ).scalar_one()
            if begun:
                return Written.BEGUN
        for ids in in_parts(people.withdrawn):
            # locked: the meter must not put on the belt what is being withdrawn
            rows = connection.execute(
                sa.select(attempt.c.state, attempt.c.send_count, attempt.c.number)
                .where(attempt.c.recipient_id.in_(ids))
                .with_for_update()
            ).all()
            if not all(is_unsent(*row) for row in rows):
                return Written.BEGUN
        return Written.DONE

    @staticmethod
    def _person_keys(connection: sa.Connection, roots: Sequence[str], now: datetime) -> dict[str, bytes]:
        """Return the key of each root, made where there is none. An erased key is never restored: a new one is made."""

        def held(wanted: Sequence[str]) -> dict[str, bytes]:
            return {root: key for root, key in _PERSON_KEYS.of(connection, wanted) if key is not None}

        keys = held(roots)
        missing = sorted(set(roots) - keys.keys())
        for chunk in in_parts(missing):
            connection.execute(sa.delete(person_key).where(person_key.c.root.in_(chunk) & person_key.c.key.is_(None)))
            made = [{"root": root, "key": new_person_key(), "made_at": now} for root in chunk]
            insert_many(connection, person_key, made, leave_known=True)
        return keys | held(missing)

    @staticmethod
    def _write_plan(connection: sa.Connection, change: PlanChange, now: datetime) -> None:
        values: dict[str, Any] = {
            "state": "complete",
            "rules_sha256": change.rules_sha256,
            "residents": dict(change.residents),
            "recipient_count": change.recipient_count,
            "held_count": change.held_count,
            "partly_drawn": False,
        }
        if not change.complete_before:
            values["completed_at"] = now
        connection.execute(sa.update(plan).where(_of(plan, change.plan_id)).values(**values))
        connection.execute(
            sa.update(plan)
            .where((plan.c.incident_id == change.plan_id.incident_id) & (plan.c.revision < change.plan_id.revision))
            .values(state="superseded")
        )

    def raise_pages(self, plan_id: PlanId, pages: Sequence[Page]) -> None:
        now = self._clock.now()
        self._database.writing(lambda connection: self._write_pages(connection, plan_id, pages, now))

    @staticmethod
    def _write_pages(connection: sa.Connection, plan_id: PlanId, pages: Sequence[Page], now: datetime) -> None:
        raise_pages(
            connection,
            [
                {
                    "page_id": hashlib.sha256(
                        f"{each.kind}/{plan_id.incident_id}/{plan_id.revision}/{each.about}".encode()
                    ).hexdigest(),
                    "incident_id": plan_id.incident_id,
                    "kind": each.kind,
                    "severity": each.severity,
                    "roles": list(each.roles),
                    "title": each.title[:300],
                    "body": dict(each.body),
                    "raised_at": now,
                }
                for each in pages
            ],
        )


def _regrouped(
    connection: sa.Connection, regrouped: Mapping[str, Sequence[str]]
) -> Mapping[str, tuple[str, Sequence[str]]]:
    """Return by which root each of these is known, and all of theirs."""
    found: dict[str, tuple[str, Sequence[str]]] = {}
    for ids in in_parts(sorted(regrouped)):
        for recipient_id, root in connection.execute(
            sa.select(recipient.c.recipient_id, recipient.c.root).where(recipient.c.recipient_id.in_(ids))
        ):
            found[recipient_id] = root, regrouped[recipient_id]
    return found


def _of(table: sa.Table, plan_id: PlanId) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = (table.c.incident_id == plan_id.incident_id) & (
        table.c.revision == plan_id.revision
    )
    return condition


def _known_members(
    connection: sa.Connection, plan_id: PlanId, events: Sequence[CustomerAffected]
) -> dict[str, CustomerAffected]:
    found: dict[str, CustomerAffected] = {}
    for roots in in_parts(sorted({event.root for event in events})):
        rows = connection.execute(
            sa.select(affected.c.root, affected.c.event).where(_of(affected, plan_id) & affected.c.root.in_(roots))
        )
        found |= {row.root: CustomerAffected.model_validate_json(row.event) for row in rows}
    return found


def _grow(
    connection: sa.Connection,
    plan_id: PlanId,
    events: Sequence[CustomerAffected],
    known: Mapping[str, CustomerAffected],
    *,
    keep_contact: bool,
) -> None:
    """Add what came late to those who were there already."""
    newest: dict[str, CustomerAffected] = {}
    for event in events:
        before = newest.get(event.root) or known.get(event.root)
        newest[event.root] = event if before is None else grown(before, event)
    for root, event in newest.items():
        if event == known.get(root):
            continue
        kept = event if keep_contact else event.model_copy(update={"contact": None})
        connection.execute(
            sa.update(affected)
            .where(_of(affected, plan_id) & (affected.c.root == root))
            .values(event=kept.model_dump_json(), standing=event.standing, departed=event.departed)
        )


def _late_after_end(plan_id: PlanId, count: int) -> Page:
    return Page(
        "people.late_after_end", str(count.bit_length()), ("dpo", "responder"),
        f"{plan_id.incident_id}: records of people concerned arrived while it was being ended; nobody tells them",
        {"people": count, "next": f"tocsin incident show {plan_id.incident_id}"},
    )  # fmt: skip


def _leaf_of(event: CustomerAffected) -> str:
    record_ids = () if event.why is None else event.why.record_ids
    return leaf_hash(member_leaf(event.root, record_ids, event.standing)).hex()


def _affected_row(event: CustomerAffected, text: bytes | None, *, keep_contact: bool) -> dict[str, Any]:
    if keep_contact:
        written = event.model_dump_json() if text is None else text.decode()
    else:
        written = event.model_copy(update={"contact": None}).model_dump_json()
    return {
        "incident_id": event.incident_id,
        "revision": event.revision,
        "root": event.root,
        "partition": event.partition,
        "standing": event.standing,
        "departed": event.departed,
        "late": event.late,
        "member_leaf": _leaf_of(event),
        "event": written,
    }
