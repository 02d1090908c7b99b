"""How people who are drawn up anew are matched with what the ledger has of them: who keeps their row, who is supplemented, who is
owed a correction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bridge.contracts.events import SealedContact, Why
from consumers.domain.persons import Person, Reason
from consumers.domain.plan_audiences import Ground, Shared
from consumers.domain.planning import (
    Known,
    PlannedIncident,
    Standing,
)
from consumers.domain.standing import (
    Concern,
    concern_of,
    correction_for,
    deadline_after,
    told_by,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """What a person has in the ledger already, and under which name they are planned next."""

    recipient_id: str
    round: int = 1
    supplements: str | None = None
    fixed: tuple[Known, ...] = ()
    """Rounds that somebody has begun to write, the first one first."""
    open: Known | None = None
    """The round that nobody has begun to write."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """The open supplement, where it turns out that there is nothing to supplement."""
        return () if self.open is None or self.open.row["supplements"] is None else (self.open.recipient_id,)

    @property
    def names(self) -> tuple[str, ...]:
        """All rows that this person has."""
        return tuple(each.recipient_id for each in (*self.fixed, *(() if self.open is None else (self.open,))))


@dataclass(frozen=True, slots=True)
class Matching:
    slots: Mapping[str, Slot]
    """By primary root."""
    removed: Sequence[str]
    """Rows of people whom nobody has written to and who are not concerned any more, or are somebody else's now."""
    regrouped: Mapping[str, tuple[str, ...]]
    """Roots that join somebody who was written to, by recipient id."""


def matched(people: Sequence[Person], incident: PlannedIncident, standing: Standing) -> Matching:
    """Return what each person has already. Whoever was written to keeps their rows; any other row follows the person,
    or goes.
    """
    incident_id = incident.plan_id.incident_id
    if not standing.recipients:
        return Matching({person.root: Slot(f"{incident_id}:{person.root}") for person in people}, (), {})
    by_root: dict[str, list[Known]] = defaultdict(list)
    for known in standing.recipients:
        for root in {*known.roots, known.row["root"]}:
            by_root[root].append(known)
    slots: dict[str, Slot] = {}
    regrouped: dict[str, tuple[str, ...]] = {}
    kept: set[str] = set()
    for person in people:
        candidates = {known.recipient_id: known for root in person.roots for known in by_root.get(root, ())}
        own = f"{incident_id}:{person.root}"
        fixed = sorted(
            (known for known in candidates.values() if known.fixed),
            key=lambda known: (known.row["round"], known.recipient_id),
        )
        if fixed:
            chosen = fixed[0]
            first = chosen.row["supplements"] or chosen.recipient_id
            waiting = next(
                (each for each in candidates.values() if not each.fixed and each.row["supplements"] == first), None
            )
            number = 1 + max(known.row["round"] for known in fixed) if waiting is None else waiting.row["round"]
            slots[person.root] = Slot(f"{first}#{number}", number, first, tuple(fixed), waiting)
            kept.update(known.recipient_id for known in fixed)
            kept.update(() if waiting is None else (waiting.recipient_id,))
            if missing := set(person.roots) - {root for each in fixed for root in each.roots}:
                regrouped[chosen.recipient_id] = tuple(sorted({*chosen.roots, *missing}))
        else:
            firsts = {name: known for name, known in candidates.items() if known.row["round"] == 1}
            slots[person.root] = Slot(own, open=firsts.get(own) or (firsts[min(firsts)] if firsts else None))
            kept.add(own)
    removed = [
        known.recipient_id for known in standing.recipients if known.recipient_id not in kept and not known.fixed
    ]
    return Matching(slots, sorted(removed), regrouped)


def corrections_for(
    incident: PlannedIncident, people: Sequence[Person], standing: Standing, matching: Matching
) -> dict[str, str | None]:
    """Return what people who were told under an earlier scope are owed a correction for, where that has changed."""
    revision = incident.plan_id.revision
    concerned: dict[str, tuple[Concern, Concern]] = {}
    for person in people:
        fixed = matching.slots[person.root].fixed
        told = told_by(known.row["why"] for known in fixed if known.told)
        for known in fixed[:1]:
            concerned[known.recipient_id] = (told, concern_of(person.why))
    others = {known.recipient_id for slot in matching.slots.values() for known in slot.fixed[1:]}
    changed = {}
    for known in standing.recipients:
        if not known.told or known.row["supplements"] is not None or known.recipient_id in others:
            continue
        told, now = concerned.get(known.recipient_id, (concern_of(known.row["why"]), None))
        correction = correction_for(told, now) if known.row["revision"] < revision else None
        if known.row["correction"] != correction:
            changed[known.recipient_id] = None if correction is None else correction.value
    return changed


def recipient_row(
    person: Person, slot: Slot, ground: Ground, came_late: Mapping[str, datetime], shared: Shared
) -> dict[str, Any]:
    """Return a recipient's row. `came_late`: when records of theirs came late, by root."""
    incident, known, claims = ground.before.incident, slot.open, ground.claims
    same_revision = known is not None and known.row["revision"] == incident.plan_id.revision
    late = bool(known.row["late"]) if known is not None and same_revision else ground.before.complete
    added_at = None
    if came_late:
        added_at = max((came_late[root] for root in person.roots if root in came_late), default=None)
    if slot.supplements is not None and added_at is None:
        # no record came: a corrected scope is about more than the one under which they were told
        added_at = known.row["added_at"] if known is not None else ground.now
    if not late and slot.supplements is None:
        added_at = None
    residence = tuple((claim.code, claim.source) for claim in person.residence)
    if residence not in claims:
        claims[residence] = [{"code": code, "source": source} for code, source in residence]
    if person.channels not in claims:
        claims[person.channels] = [channel.value for channel in person.channels]
    return {
        "recipient_id": slot.recipient_id,
        "round": slot.round,
        "supplements": slot.supplements,
        "added_at": added_at,
        "told_in": None,
        "correction": None,
        "incident_id": incident.plan_id.incident_id,
        "revision": incident.plan_id.revision,
        "root": person.root,
        "roots": list(person.roots),
        "customer_id": person.customer_id,
        "controller": person.controller,
        "website_id": person.website_id,
        "store_id": person.store_id,
        "locale": person.locale[:16],
        "residence": claims[residence],
        "standing": person.standing,
        "late": late,
        "highest_sensitivity": person.sensitivity.value,
        "segment_id": shared.segment["segment_id"],
        "channels": claims[person.channels],
        "contact": _as_json(person.contact),
        "why": {} if person.why is None else _as_json(person.why),
        "held_reason": shared.held,
        "final_state": None,
        "final_at": None,
        "deadline_at": deadline_after(*shared.dates, added_at),
        "jurisdictions": shared.owed,
        "notice_sha256": shared.notice_sha256,
    }


def _as_json(value: SealedContact | dict[str, str | None] | Why | Reason | None) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    return value.as_json() if isinstance(value, Reason) else value.model_dump(mode="json")
