"""Stage planning: from the affected, partition by partition, to people, duties, segments and recipients.

A plan is complete when every partition's people are here, count and Merkle root equal. After that it is drawn up anew
whenever something it rests on changes (a late addition, a fact, an approval). Whoever has been written to stays as they
were told; if more is found of them, a second round of theirs supplements the first. It sends nothing: release does, once
people have approved.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Protocol, TypeVar

import structlog

from bridge.contracts.errors import BadInput, TocsinError, Unreachable
from bridge.contracts.events import CustomerAffected, PartitionResolved
from bridge.contracts.topics import AFFECTED_CUSTOMERS, RESOLUTIONS
from bridge.runtime.clock import Clock
from bridge.runtime.consume import Received, consume
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Positions
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter, gauge, histogram
from bridge.runtime.topic_ids import TopicIds
from consumers.domain.agencies import Agencies
from consumers.domain.audience_law import AudienceLaw
from consumers.domain.coverage import is_complete, merged_coverage
from consumers.domain.duties import Exposure, Law, LawInForce, Regimes, answers_for, digest, exposures
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.notice_checklist import Checklist, Readings
from consumers.domain.notices import Language, Sender
from consumers.domain.obligations import Obligation, notices_to_individuals
from consumers.domain.persons import Affected, Alike, Person, alone, merge, residents
from consumers.domain.plan_audiences import Ground, Likenesses
from consumers.domain.plan_matching import Slot, corrections_for, matched, recipient_row
from consumers.domain.plan_tally import (
    NOBODY_BEHIND_IT,
    Seen,
    held_pages,
    late_page,
    more_affected_page,
    plan_events,
    told_wrongly_pages,
)
from consumers.domain.planning import (
    Answered,
    Before,
    OpenPlan,
    Page,
    PeopleChange,
    PlanChange,
    PlanId,
    PlannedIncident,
    Standing,
    Written,
)
from consumers.domain.segments import Addressee, Rule, SegmentKey, SegmentPolicy
from consumers.domain.senders import missing_sender
from consumers.domain.standing import (
    Correction,
    concern_of,
    told_by,
)
from consumers.evidence.merkle import GrowingRoot

log = structlog.get_logger()

STAGE = "planning"
_LOOK_SHARE, _LONGEST_WAIT = 5.0, 2.0
"""A look that takes long is followed by a wait so many times as long, of so many seconds at most."""
_REST_FACTOR = 5
"""A plan that takes seconds rests so many times as long before it is drawn up again."""
_TRIES = 10
"""So often some people are drawn up anew because meanwhile somebody began to write to one of them."""

PERSISTED = counter(
    "tocsin_affected_persisted_total", "affected people read and stored", question="does planning follow the index?"
)
PLANS = counter(
    "tocsin_plans_total",
    "plans drawn up",
    question="do incidents get their plan?",
    labels={"result": ["completed", "extended", "unchanged", "refused"]},
)
WAITING = gauge(
    "tocsin_plans_waiting_count",
    "open incidents, but exercises, whose partitions have not all answered",
    question="is a partition silent?",
)
HELD = gauge(
    "tocsin_recipients_held_count",
    "people held in open incidents, exercises left out",
    question="does somebody wait for counsel?",
)
PLAN_SECONDS = histogram(
    "tocsin_plan_seconds", "from a complete resolution to a written plan", question="how long does planning take?",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)  # fmt: skip


class PlanningStore(Protocol):
    """The case store as planning needs it."""

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions: ...

    def persist(
        self,
        affected: Sequence[tuple[CustomerAffected, bytes | None]],
        answers: Sequence[PartitionResolved],
        stage: str,
        after: Positions,
    ) -> None:
        """Store what was read, events with their JSON, together with the positions after it; repeats change nothing."""
        ...

    def open_plans(self) -> Sequence[OpenPlan]: ...
    def answers(self, plan_id: PlanId) -> tuple[PlannedIncident, Sequence[Answered]]: ...
    def member_counts(self, plan_id: PlanId) -> Mapping[int, int]:
        """Return how many people each partition's answer has here, late additions apart."""
        ...

    def member_leaves(self, plan_id: PlanId, partition: int) -> Iterable[bytes]:
        """Yield the leaf hashes of a partition's people, sorted by root, late additions apart."""
        ...

    def drawing(self, plan_id: PlanId) -> AbstractContextManager["Drawing"]: ...
    def write(self, before: Before, people: PeopleChange, end: PlanChange | None) -> Written:
        """Write what follows for some people, and with the last of them for the plan, in one transaction; or nothing."""
        ...

    def raise_pages(self, plan_id: PlanId, pages: Sequence[Page]) -> None: ...


class Drawing(Protocol):
    """What one drawing up of a plan rests on. Nobody holds all people at once."""

    @property
    def before(self) -> Before: ...
    def everybody(self) -> Iterator[Sequence[Affected]]:
        """Yield everybody who is affected, and look who has something in common. To be asked once, before all else."""
        ...

    def together(self) -> Iterator[Sequence[Affected]]:
        """Yield those who have something in common with others, in parts that have nothing in common."""
        ...

    def groups(self) -> Iterator[tuple[Sequence[Affected], Sequence[Affected]]]:
        """Yield everybody again, in parts that have nothing in common: who has nothing in common with anybody, and who has."""
        ...

    def standing(self, roots: Sequence[str]) -> Standing:
        """Return what is in the ledger now of people who have these roots."""
        ...

    def left_over(self) -> Iterator[Standing]:
        """Yield what is in the ledger of people of whom no root is affected."""
        ...

    def standing_of(self, recipient_ids: Sequence[str]) -> Standing:
        """Return what is in the ledger now of these recipients."""
        ...


class Bundle(Protocol):
    """An approved bundle."""

    @property
    def sha256(self) -> str: ...
    @property
    def readings(self) -> Readings: ...
    @property
    def agencies(self) -> Agencies: ...
    def language_for(self, locale: str) -> Language: ...


class Catalog(Protocol):
    """The approved texts."""

    def refresh(self) -> tuple[str, ...]: ...
    def policy(self) -> SegmentPolicy: ...
    def covering(self, name: str, residences: Collection[str]) -> Bundle | None: ...


class Composed(Protocol):
    """A composed notice."""

    @property
    def covers(self) -> frozenset[str]: ...


class Composer(Protocol):
    """Composes a segment's notice, or raises why it cannot be."""

    def __call__(self, bundle: Any, key: SegmentKey, /) -> Composed: ...


class Lease(Protocol):
    """Who draws up plans; everybody persists."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class Planning:
    """The handler behind the stage."""

    def __init__(
        self,
        store: PlanningStore,
        law: LawInForce,
        catalog: Catalog,
        compose: Composer,
        sender_of: Callable[[int, int], Sender | None],
        lease: Lease,
        clock: Clock,
        *,
        senders_mark: Callable[[], str] = str,
        regions: tuple[str, str | None] = ("eu-central-1", None),
        look_seconds: float = 0.5,
        silent_seconds: float = 60.0,
        rest_factor: float = _REST_FACTOR,
    ) -> None:
        self._store = store
        self._in_force = law
        self._catalog = catalog
        self._compose = compose
        self._sender_of = sender_of
        self._senders_mark = senders_mark
        self._provider_region, self._storage_region = regions
        self._lease = lease
        self._clock = clock
        self._look_seconds = look_seconds
        self._silent_seconds = silent_seconds
        self._rest_factor = rest_factor
        self._looked_at: datetime | None = None
        self._look_after = 0.0
        self._rests_on: dict[PlanId, tuple[OpenPlan, tuple[str, ...]]] = {}
        self._first_seen: dict[PlanId, datetime] = {}
        self._rest_until: dict[PlanId, datetime] = {}
        self._held: dict[PlanId, int] = {}
        self._whole: dict[PlanId, dict[int, tuple[int, str]]] = {}
        """Partitions whose people gave their record's Merkle root, with both counts equal."""
        self._composable: dict[str, frozenset[str] | str] = {}
        """By segment: the sections that its notice covers, or why there is none."""

    @property
    def _law(self) -> Law:
        return self._in_force()

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        return self._store.positions(STAGE, partitions)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Nothing is in flight between batches."""

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        """Store the affected and the records. A crash before it reads them again; after it they are here."""
        affected = [
            (received.event, received.value) for received in batch if isinstance(received.event, CustomerAffected)
        ]
        answers = [received.event for received in batch if isinstance(received.event, PartitionResolved)]
        self._store.persist(affected, answers, STAGE, positions)
        PERSISTED.inc(len(affected))

    def tick(self) -> None:
        now = self._clock.now()
        wait = max(self._look_seconds, self._look_after)
        if self._looked_at is not None and (now - self._looked_at).total_seconds() < wait:
            return
        self._looked_at = now
        if self._lease.take():
            began = time.monotonic()
            self.look()
            # While many people arrive, counting them must not keep them from arriving.
            self._look_after = min(_LONGEST_WAIT, _LOOK_SHARE * (time.monotonic() - began))

    def look(self) -> int:
        """Draw up every plan that can be, or that rests on something that has changed; return how many were written."""
        approved = (*self._catalog.refresh(), self._senders_mark())
        written = waiting = 0
        open_plans = self._store.open_plans()
        for each in open_plans:
            if not each.complete and not self._all_here(each):
                waiting += not each.exercise
                continue
            # A crash before the plan is written leaves it as it was: nothing is remembered but in this process, and a
            # new one looks at every open plan once.
            rests_on = (
                replace(each, complete=True, partly_drawn=False),
                (*approved, self._law.rules.rules_version, digest(repr(self._law.regions))),
            )
            known = None if each.partly_drawn else self._rests_on.get(each.plan_id)
            if known != rests_on and self._rested(each):
                moved = self._draw_up(each.plan_id)
                if moved is not None:
                    self._rests_on[each.plan_id] = rests_on
                    written += moved
        WAITING.set(waiting)
        current = {each.plan_id for each in open_plans}
        self._rests_on = {plan_id: known for plan_id, known in self._rests_on.items() if plan_id in current}
        self._held = {plan_id: count for plan_id, count in self._held.items() if plan_id in current}
        HELD.set(sum(self._held.values()))
        self._first_seen = {plan_id: at for plan_id, at in self._first_seen.items() if plan_id in current}
        self._whole = {plan_id: known for plan_id, known in self._whole.items() if plan_id in current}
        return written

    def _rested(self, plan: OpenPlan) -> bool:
        """Return whether a plan may be drawn up again: with many people not at every single late addition."""
        until = self._rest_until.get(plan.plan_id)
        return not plan.complete or plan.partly_drawn or until is None or self._clock.now() >= until

    # Is everybody here?

    def _all_here(self, plan: OpenPlan) -> bool:
        plan_id = plan.plan_id
        incident, answers = self._store.answers(plan_id)
        since = self._first_seen.setdefault(plan_id, self._clock.now())
        partition_count = max((answer.partition_count for answer in answers), default=0)
        faults = _contradictions(incident, answers)
        missing = 0
        counts = self._store.member_counts(plan_id) if answers else {}
        for answer in answers:
            count = counts.get(answer.partition, 0)
            if count > answer.affected_count:
                faults.append(
                    f"partition {answer.partition}: {count} people here, its record says {answer.affected_count}"
                )
            elif count < answer.affected_count:
                missing += answer.affected_count - count
            elif not self._gives_root(plan_id, answer):
                faults.append(f"partition {answer.partition}: its people do not give its record's Merkle root")
        if faults:
            self._store.raise_pages(plan_id, [_mismatch(plan_id, faults)])
            log.error("resolution does not match", incident=plan_id.incident_id, faults=faults)
            return False
        if partition_count and len(answers) == partition_count and not missing:
            return True
        if (self._clock.now() - since).total_seconds() >= self._silent_seconds:
            self._store.raise_pages(plan_id, [_silence(plan_id, len(answers), partition_count, missing)])
        return False

    def _gives_root(self, plan_id: PlanId, answer: Answered) -> bool:
        """Return whether a partition's people give its record's Merkle root; once they do, nobody is added to them."""
        known = self._whole.setdefault(plan_id, {})
        whole = (answer.affected_count, answer.merkle_root)
        if known.get(answer.partition) != whole:
            tree = GrowingRoot()
            tree.extend(self._store.member_leaves(plan_id, answer.partition))
            if tree.root().hex() != answer.merkle_root:
                return False
            known[answer.partition] = whole
        return True

    # Drawing up

    def _draw_up(self, plan_id: PlanId) -> bool | None:
        """Draw up and write a plan; return whether anything moved, or None if it must be tried again.

        People are written some thousands at once, and the plan with the last of them. A crash between two of these leaves
        the others to the next process, which draws up all of it; until then nothing of it is prepared or approved.
        """
        started = time.monotonic()
        with PLAN_SECONDS.time(), self._store.drawing(plan_id) as drawing:
            before = drawing.before
            try:
                change = self._drawn(drawing)
            except BadInput as error:
                # A fact or a rule that cannot be used must not lose anybody: the plan waits, and somebody is told.
                self._store.raise_pages(plan_id, [_unusable(plan_id, error)])
                PLANS.labels("refused").inc()
                log.error("plan refused", incident=plan_id.incident_id, reason=str(error))
                return False
        if change is None:
            PLANS.labels("refused").inc()
            return None
        seconds = time.monotonic() - started
        if seconds > 1:
            self._rest_until[plan_id] = self._clock.now() + timedelta(seconds=self._rest_factor * seconds)
        self._held[plan_id] = 0 if before.incident.exercise else change.held_count
        moved = bool(change.events)
        PLANS.labels("extended" if moved and before.complete else "completed" if moved else "unchanged").inc()
        if moved:
            log.info(
                "planned", incident=plan_id.incident_id, revision=plan_id.revision, people=change.recipient_count,
                held=change.held_count, segments=len(change.segments),
            )  # fmt: skip
        return moved

    def _drawn(self, drawing: Drawing) -> PlanChange | None:
        """Draw up a plan and write it; return how it ended, or None if the ground has moved. Raises BadInput for a fact or
        rule that cannot be used, with nothing written.
        """
        before, controllers = drawing.before, self._law.controllers
        controller_of = cache(lambda website: controllers.of_website(website)[0])
        alike = Likenesses()
        for members in drawing.everybody():
            for member in members:
                alike.add(alone(member, controller_of(member.website_id)), 1)
        for members in drawing.together():
            for member in members:
                alike.add(alone(member, controller_of(member.website_id)), -1)
            for person in merge(members, controller_of):
                alike.add(person, 1)
        ground = self._ground(before, alike.found())
        # all that can be refused is asked for before anything is written
        for person, _ in alike.found():
            ground.shared_by(person, more=False)
        seen, last = Seen(), _ahead(self._parts(drawing, controller_of))
        for (people, standing_of), is_last in last:
            for _ in range(_TRIES):
                part, of_part = self._part(ground, people, standing_of())
                so_far = seen.joined(of_part)
                end = self._end(ground, so_far) if is_last else None
                written = self._store.write(before, part, end)
                if written is not Written.BEGUN:
                    break
            if written is not Written.DONE:
                return None
            seen = so_far
        return end

    @staticmethod
    def _parts(
        drawing: Drawing, controller_of: Callable[[int], str]
    ) -> Iterator[tuple[Sequence[Person], Callable[[], Standing]]]:
        """Yield all people, and then what is left over of people who are not concerned any more, in parts that stand by
        themselves, each with what gives their standing anew. There is at least one.
        """
        found = False
        for single, several in drawing.groups():
            people = [alone(each, controller_of(each.website_id)) for each in single] + merge(several, controller_of)
            found = True
            yield people, partial(drawing.standing, [root for person in people for root in person.roots])
        for standing in drawing.left_over():
            found = True
            names = [known.recipient_id for known in standing.recipients]
            yield (), partial(drawing.standing_of, names)
        if not found:
            yield (), Standing

    def _ground(self, before: Before, alike: Sequence[Alike]) -> "Ground":
        """Return what follows from all people together. Raises BadInput for a fact or rule that cannot be used."""
        incident = before.incident
        found = self._exposures(before, alike)
        counts: Counter[str] = Counter()
        for person, number in alike:
            counts[person.controller] += number
        notices = self._notices(incident, found, counts.keys())
        on = incident.detected_at.date()
        return Ground(
            before=before,
            now=self._clock.now(),
            rules=self._law.rules,
            exposures=found,
            residents=residents(alike, UNKNOWN_RESIDENCE),
            people_count=counts.total(),
            notices=notices,
            regimes=Regimes(self._law.rules, on),
            asked=AudienceLaw(self._law.rules, on, notices, counts, incident.facts),
            segment_for=partial(self._segment, incident, policy=self._catalog.policy()),
        )

    @staticmethod
    def _part(ground: "Ground", people: Sequence[Person], standing: Standing) -> tuple[PeopleChange, "Seen"]:
        """Return what follows for `people`, who have nothing in common with anybody else."""
        before, seen = ground.before, Seen()
        incident = before.incident
        matching = matched(people, incident, standing)
        changed: list[dict[str, Any]] = []
        segments: dict[str, dict[str, Any]] = {}
        old_rows = {known.recipient_id: known.row for known in standing.recipients}
        withdrawn: list[str] = []
        removed = list(matching.removed)
        for person in people:
            slot = matching.slots[person.root]
            more = bool(slot.fixed) and concern_of(person.why).beyond(told_by(known.row["why"] for known in slot.fixed))
            if more and all(known.unsent for known in slot.fixed):
                # Nothing has left yet: they get the fuller notice, and no second one.
                own = f"{incident.plan_id.incident_id}:{person.root}"
                withdrawn.extend(known.recipient_id for known in slot.fixed)
                removed.extend(name for name in slot.names if name != own)
                slot, more = Slot(own, open=slot.fixed[0]), False
            for known in slot.fixed:
                seen.row(known.row)
            if slot.fixed and not more:
                removed.extend(slot.dropped)
                continue
            found_alike = ground.shared_by(person, more=more)
            segment = found_alike.segment
            segments[segment["segment_id"]] = segment
            row = recipient_row(person, slot, ground, standing.added_at, found_alike)
            seen.row(row)
            old = old_rows.get(row["recipient_id"])
            if old is None or any(old[name] != value for name, value in row.items()):
                changed.append(row)
        change = PeopleChange(
            changed=changed,
            regrouped=matching.regrouped,
            removed=sorted(set(removed)),
            withdrawn=sorted(withdrawn),
            corrections=corrections_for(incident, people, standing, matching),
            segments=list(segments.values()),
        )
        seen.change(change)
        return change, seen

    def _end(self, ground: "Ground", seen: "Seen") -> PlanChange:
        """Return how the plan ends, once all people are drawn up."""
        incident = ground.before.incident
        pages: list[Page] = []
        if seen.late.count and ground.before.complete:
            pages.append(late_page(incident.plan_id, seen.late, seen.late_homes))
        if seen.supplements.count:
            pages.append(more_affected_page(incident.plan_id, seen.supplements))
        pages.extend(told_wrongly_pages(incident, sum(seen.corrections[each] for each in Correction)))
        pages.extend(held_pages(incident.plan_id, seen))
        change = PlanChange(
            plan_id=incident.plan_id,
            complete_before=ground.before.complete,
            rules_sha256=ground.rules.rules_version,
            residents=ground.residents,
            recipient_count=ground.people_count,
            held_count=seen.held.count,
            segments=[{**each, "count": seen.sizes[name]} for name, each in seen.segments.items()],
            exposures=ground.exposures,
            events=(),
            pages=pages,
        )
        return replace(change, events=plan_events(ground, change, seen))

    def _exposures(self, before: Before, alike: Sequence[Alike]) -> list[Exposure]:
        """Return what leaked of whom, for each controller concerned.

        Nobody found is an answer only under full coverage: else the counts stay unknown, and clocks run.
        """
        incident = before.incident
        coverage = merged_coverage(answer.coverage for answer in before.answers)
        exposed_from = None if incident.scope is None else incident.scope.exposed_from
        if not alike and not is_complete(coverage, exposed_from):
            return []
        by_key = self._law.controllers.by_key
        nobody = () if alike else tuple(by_key)
        return exposures(alike, self._law.rules, incident.detected_at.date(), nobody)

    def _notices(
        self, incident: PlannedIncident, found: Sequence[Exposure], controllers: Collection[str]
    ) -> dict[str, Mapping[str, Obligation]]:
        """Return, by controller, the notices to individuals that are owed or pending."""
        answers = answers_for(
            incident.facts,
            incident.detected_at,
            self._law,
            {each.controller: each for each in found},
            controllers,
            source=f"facts of {incident.plan_id.incident_id}",
        )
        return {key: notices_to_individuals(obligations) for key, obligations in answers.items()}

    def _segment(
        self,
        incident: PlannedIncident,
        person: Person,
        addressee: Addressee,
        policy: SegmentPolicy,
        asked: AudienceLaw,
        owing: tuple[str, ...],
        *,
        supplement: bool,
    ) -> tuple[dict[str, Any], str | None]:
        """Return the segment that a person falls in, and why they are held, if they are."""
        rule = policy.rule_for(addressee)
        bundle = self._catalog.covering(rule.bundle, person.homes)
        sender = self._sender_of(person.website_id, person.store_id)
        key = SegmentKey(
            incident_id=incident.plan_id.incident_id,
            revision=incident.plan_id.revision,
            controller=person.controller,
            locale=person.locale if bundle is None else bundle.language_for(person.locale).locale,
            disclosures=person.disclosures,
            policy=rule.name,
            group=policy.group_of(person.homes),
            standing=addressee.standing,
            bundle=rule.bundle,
            bundle_sha256=None if bundle is None else bundle.sha256,
            channels=tuple(channel.value for channel in rule.channels),
            sms_details=rule.sms_details,
            scenario=incident.scenario or "",
            detected_on=incident.detected_at.astimezone(UTC).date().isoformat(),
            exposed_from=_day(incident.scope.exposed_from if incident.scope else None),
            exposed_to=_day(incident.scope.exposed_to if incident.scope else None),
            sender=() if sender is None else sender.as_pairs(),
            supplement=supplement,
            offer=policy.offer_of(rule),
            together=rule.fallback.together,
            timeouts=rule.fallback.timeout_pairs,
        )
        held: str | None
        if bundle is None:
            homes = ", ".join(person.homes) or UNKNOWN_RESIDENCE
            held = f"no approved notice {rule.bundle} covers {homes}"[:200]
        elif sender is None:
            held = missing_sender(person.website_id, person.store_id)
        else:
            key, checklist = asked.applied(key, owing, person.homes, person.elements, bundle.readings, bundle.agencies)
            held = self._why_not(bundle, key, checklist)
        segment_id = key.segment_id
        if incident.facts.get("sensitivity") == "synthetic_only":
            held = NOBODY_BEHIND_IT
        elif held is None:
            held = self._law.regions.objection(
                person.homes, person.controller, self._provider_region, self._storage_region
            )
        return _segment_row(segment_id, key, rule), None if held is None else held[:200]

    def _why_not(self, bundle: Bundle, key: SegmentKey, checklist: Checklist) -> str | None:
        """Return why nobody may get the notice of `key`: it cannot be composed, or is not what the law asks."""
        segment_id = key.segment_id
        if segment_id not in self._composable:
            try:
                self._composable[segment_id] = frozenset(self._compose(bundle, key).covers)
            except TocsinError as error:
                self._composable[segment_id] = str(error).splitlines()[0]
        composed = self._composable[segment_id]
        if isinstance(composed, str):
            return composed
        objections = checklist.objections(composed)
        more = f"; and {len(objections) - 1} more" if len(objections) > 1 else ""
        return f"{objections[0][: 200 - len(more)]}{more}" if objections else None


_Item = TypeVar("_Item")


def _ahead(items: Iterable[_Item]) -> Iterator[tuple[_Item, bool]]:
    """Yield each item, and whether it is the last one."""
    waiting = iter(items)
    try:
        item = next(waiting)
    except StopIteration:
        return
    for following in waiting:
        yield item, False
        item = following
    yield item, True


def _segment_row(segment_id: str, key: SegmentKey, rule: Rule) -> dict[str, Any]:
    return {
        "segment_id": segment_id,
        "incident_id": key.incident_id,
        "revision": key.revision,
        "name": f"{key.policy}/{key.controller}/{key.locale}/{key.group}/{key.standing}"[:100],
        "key": key.as_json(),
        "bundle_sha256": key.bundle_sha256,
        "channels": list(key.channels),
        "lane": rule.lane,
        "priority": rule.priority,
        "sms_details": rule.sms_details,
    }


def _day(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).date().isoformat()


# Pages


def _contradictions(incident: PlannedIncident, answers: Sequence[Answered]) -> list[str]:
    found = []
    counts = {answer.partition_count for answer in answers}
    if len(counts) > 1:
        found.append(f"the records disagree on how many partitions there are: {', '.join(map(str, sorted(counts)))}")
    for answer in answers:
        if answer.partition >= answer.partition_count:
            found.append(f"partition {answer.partition} of {answer.partition_count} does not exist")
        if answer.scope_sha256 != incident.scope_sha256:
            found.append(f"partition {answer.partition} answered to another scope")
    return found


def _mismatch(plan_id: PlanId, faults: Sequence[str]) -> Page:
    return Page(
        "plan.mismatch", digest(list(faults)), ("responder", "sre"),
        f"{plan_id.incident_id}: the affected people do not match the resolution; nothing can be released",
        {"faults": list(faults)[:20], "next": f"tocsin incident show {plan_id.incident_id}"},
    )  # fmt: skip


def _silence(plan_id: PlanId, answered: int, partition_count: int, missing: int) -> Page:
    return Page(
        "plan.silent", f"{answered}/{partition_count}", ("sre", "responder"),
        f"{plan_id.incident_id}: {answered} of {partition_count or 'all'} partitions answered; the list is not complete",
        {"answered": answered, "partition_count": partition_count, "people_missing": missing, "next": "tocsin index status"},
    )  # fmt: skip


def _unusable(plan_id: PlanId, error: BadInput) -> Page:
    return Page(
        "plan.unusable", digest(str(error)), ("dpo", "responder"),
        f"{plan_id.incident_id}: the plan cannot be drawn up",
        {"reason": str(error)[:1000], "next": f"tocsin incident facts {plan_id.incident_id}"},
    )  # fmt: skip


class PlanningStage:
    """Reads the affected and the resolutions as a member of the group `planning`."""

    def __init__(
        self,
        kafka: Kafka,
        handler: Planning,
        lease: Lease,
        dead_letters: DeadLetters,
        health: Health,
        topic_ids: TopicIds,
    ) -> None:
        self._kafka = kafka
        self._handler = handler
        self._lease = lease
        self._dead_letters = dead_letters
        self._health = health
        self._topic_ids = topic_ids

    def run(self, stop: threading.Event) -> None:
        """Plan until `stop`; a batch in hand is finished first."""
        self._health.ready()
        try:
            consume(
                self._kafka,
                STAGE,
                [AFFECTED_CUSTOMERS, RESOLUTIONS],
                self._handler,
                stop=stop,
                dead_letters=self._dead_letters,
                health=self._health,
                topic_ids=self._topic_ids,
            )
        finally:
            try:
                self._lease.release()
            except Unreachable as error:
                log.warning("the lease runs out by itself", reason=str(error))
