"""What a drawn-up plan says of its people in pages and in the evidence log: numbers, and nobody."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bridge.contracts.events import CaseEvent
from consumers.domain.duties import digest, written
from consumers.domain.plan_audiences import Ground
from consumers.domain.planning import (
    Page,
    PeopleChange,
    PlanChange,
    PlanId,
    PlannedIncident,
)
from consumers.domain.standing import (
    Correction,
)

NOBODY_BEHIND_IT = "purely synthetic and matching nobody: recorded, not notified"


@dataclass(slots=True)
class Some:
    """How many people of some sort there are, and the earliest date of those of them who wait."""

    count: int = 0
    deadline_at: datetime | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        at = row["deadline_at"]
        self.count += 1
        if row["final_state"] is None and at is not None and (self.deadline_at is None or at < self.deadline_at):
            self.deadline_at = at

    def joined(self, other: "Some") -> "Some":
        dates = [at for at in (self.deadline_at, other.deadline_at) if at is not None]
        return Some(self.count + other.count, min(dates, default=None))


@dataclass(slots=True)
class Seen:
    """What pages and events say of the people drawn up so far: numbers, and nobody."""

    rows: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    """People by segment; `None` for those who were written to and have none."""
    segments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    late: Some = field(default_factory=Some)
    late_homes: set[str] = field(default_factory=set)
    supplement_count: int = 0
    supplements: Some = field(default_factory=Some)
    """Those that have no end."""
    held: Some = field(default_factory=Some)
    held_for_counsel: Some = field(default_factory=Some)
    held_reasons: Counter[str] = field(default_factory=Counter)
    changed_count: int = 0
    removed_count: int = 0
    regrouped_count: int = 0
    corrections: Counter[str | None] = field(default_factory=Counter)

    def row(self, row: Mapping[str, Any]) -> None:
        """Count a recipient's row."""
        self.rows += 1
        self.sizes[str(row["segment_id"])] += 1
        is_open = row["final_state"] is None
        if row["supplements"] is not None:
            self.supplement_count += 1
            if is_open:
                self.supplements.add(row)
        elif row["late"]:
            self.late.add(row)
            self.late_homes.update(claim["code"] for claim in row["residence"])
        if row["held_reason"] is not None and is_open:
            self.held.add(row)
            if row["held_reason"] != NOBODY_BEHIND_IT:
                self.held_for_counsel.add(row)
                self.held_reasons[str(row["held_reason"])] += 1

    def change(self, change: PeopleChange) -> None:
        """Count what a change moves."""
        self.segments.update({each["segment_id"]: each for each in change.segments})
        self.changed_count += len(change.changed)
        self.removed_count += len(change.removed)
        self.regrouped_count += len(change.regrouped)
        self.corrections.update(change.corrections.values())

    def joined(self, other: "Seen") -> "Seen":
        """Return what both say together."""
        return Seen(
            rows=self.rows + other.rows,
            sizes=self.sizes + other.sizes,
            segments=self.segments | other.segments,
            late=self.late.joined(other.late),
            late_homes=self.late_homes | other.late_homes,
            supplement_count=self.supplement_count + other.supplement_count,
            supplements=self.supplements.joined(other.supplements),
            held=self.held.joined(other.held),
            held_for_counsel=self.held_for_counsel.joined(other.held_for_counsel),
            held_reasons=self.held_reasons + other.held_reasons,
            changed_count=self.changed_count + other.changed_count,
            removed_count=self.removed_count + other.removed_count,
            regrouped_count=self.regrouped_count + other.regrouped_count,
            corrections=self.corrections + other.corrections,
        )


def plan_events(ground: Ground, change: PlanChange, seen: Seen) -> list[CaseEvent]:
    """Return what the evidence log learns: numbers and hashes, and only when something has moved."""
    before, now = ground.before, ground.now
    incident = before.incident
    # ids of people could be guessed from their hash: segments and their sizes say which list it was
    sizes = dict(seen.sizes)
    events: list[tuple[str, dict[str, Any]]] = []
    counts: dict[str, Any] = {
        "revision": change.plan_id.revision,
        "recipient_count": change.recipient_count,
        "held_count": change.held_count,
        "segment_count": len(sizes),
        "segments_sha256": digest(sizes),
        "residents_sha256": digest(change.residents),
        "late_count": seen.late.count,
        "supplement_count": seen.supplement_count,
    }
    if not before.complete:
        answers = sorted((answer.partition, answer.merkle_root) for answer in before.answers)
        events.append(
            (
                "plan.completed",
                {
                    **counts,
                    "affected_count": sum(answer.affected_count for answer in before.answers),
                    "partition_count": len(before.answers),
                    "members_sha256": digest(answers),
                    "rules_sha256": change.rules_sha256,
                },
            )
        )
    elif seen.changed_count or seen.removed_count or seen.regrouped_count:
        moved = {"changed_count": seen.changed_count, "removed_count": seen.removed_count}
        events.append(("plan.extended", {**counts, **moved}))
    if seen.corrections:
        body = {f"{each.value}_count": seen.corrections[each.value] for each in Correction}
        events.append(("people.told_wrongly", {"revision": change.plan_id.revision, **body}))
    return [
        CaseEvent(
            case_event_id=digest([kind, change.plan_id.incident_id, body, now])[:32],
            kind=kind,
            incident_id=change.plan_id.incident_id,
            actor=None,
            occurred_at=now,
            body=body,
            exercise=incident.exercise,
        )
        for kind, body in events
    ]


def late_page(plan_id: PlanId, late: Some, homes: Collection[str]) -> Page:
    """Return the page that says how many people came late. `homes`: where they live."""
    # told at one person, at two, at four and so on: a trickle must not ring all night
    return Page(
        "people.late", str(late.count.bit_length()), ("responder", "dpo"),
        f"{plan_id.incident_id}: {late.count} people came late, by records that arrived after the answer",
        {
            "people": late.count,
            "jurisdictions": sorted(homes)[:40],
            "earliest_deadline_at": _instant(late.deadline_at),
            "next": f"tocsin incident people {plan_id.incident_id} --late",
        },
        severity="warning",
    )  # fmt: skip


def more_affected_page(plan_id: PlanId, found: Some) -> Page:
    """Return the page that says how many were told of less than leaked."""
    return Page(
        "people.more_affected", str(found.count.bit_length()), ("dpo", "counsel"),
        f"{plan_id.incident_id}: {found.count} people were told before it was known that more of their data leaked",
        {
            "people": found.count,
            "earliest_deadline_at": _instant(found.deadline_at),
            "next": f"tocsin incident prepare {plan_id.incident_id}",
        },
    )  # fmt: skip


def told_wrongly_pages(incident: PlannedIncident, count: int) -> list[Page]:
    """Return the page that says how many are owed a correction, if any."""
    if not count:
        return []
    name = incident.plan_id.incident_id
    return [
        Page(
            "people.told_wrongly", str(incident.plan_id.revision), ("dpo", "counsel"),
            f"{name}: {count} people were told what is not true of them by the corrected scope",
            {"people": count, "next": f"tocsin incident people {name} --told-wrongly"},
        )
    ]  # fmt: skip


def held_pages(plan_id: PlanId, seen: Seen) -> list[Page]:
    """Return the page that says why people are held for counsel, if any are."""
    held = seen.held_for_counsel
    if not held.count:
        return []
    most = sorted(seen.held_reasons.items(), key=lambda each: (-each[1], each[0]))
    return [
        Page(
            "people.held", digest(sorted(seen.held_reasons)), ("counsel", "dpo"),
            f"{plan_id.incident_id}: {held.count} of {seen.rows} people are held: "
            "no approved text covers them, theirs is not what the law asks, or no region is theirs",
            {
                "people": held.count,
                "of": seen.rows,
                "reasons": [f"{reason}: {count}" for reason, count in most[:10]],
                "earliest_deadline_at": _instant(held.deadline_at),
                "next": "tocsin notices check",
            },
        )
    ]  # fmt: skip


def _instant(at: datetime | None) -> str | None:
    return None if at is None else written(at)
