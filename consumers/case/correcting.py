"""Puts right what people were told wrongly: a notice of its own to each, linked to the first one in the ledger.

A named person starts it, with a reason; two approve it like anything else that goes out (`releasing`): the corrections are
recipients of the incident with segments of their own, so that the next release policy and the sheet hold them. Whom the
corrected scope is not about is told so; who was told too much is told what is right. Not for who is owed one: planning.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from bridge.contracts.errors import Refused
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.permissions import Act
from consumers.case.records import PlannedCorrection, WronglyTold
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import still_open
from consumers.domain.segments import SegmentKey

BUNDLE = "correction"
"""The notice that says it."""


class CorrectionTexts(Protocol):
    """Finds the approved correction for somebody."""

    def __call__(self, person: WronglyTold, incident_id: str, revision: int, /) -> tuple[SegmentKey, str | None]: ...


@dataclass(frozen=True, slots=True)
class Started:
    """What a start did, or would do. Counts are of people."""

    not_concerned: int
    told_too_much: int
    held: Mapping[str, int]
    segment_count: int


def start_correction(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    texts: CorrectionTexts,
    *,
    dry_run: bool = False,
    reason: str | None,
) -> Started:
    """Give everybody who was told wrongly, and whom nobody has begun to put right, a correction that waits for approval.

    Raises Refused if there is nobody.
    """
    role = actor.acting_for(Act.PREPARE)
    why = needed(reason)

    def work(case: CaseWork) -> Started:
        incident = still_open(case, incident_id)
        people = case.to_correct(incident_id)
        if not people:
            raise Refused(
                f"{incident_id}: nobody is owed a correction; see `tocsin incident people {incident_id} --told-wrongly`"
            )
        planned: list[PlannedCorrection] = []
        known: dict[tuple[Any, ...], tuple[SegmentKey, str | None]] = {}
        for person in people:
            alike = (person.first_key.get("segment_id") or repr(sorted(person.first_key.items(), key=str)), person.homes,
                     person.disclosures, person.correction)  # fmt: skip
            if alike not in known:
                known[alike] = texts(person, incident_id, incident.revision)
            planned.append(PlannedCorrection(person, *known[alike]))
        done = _started(planned)
        if dry_run:
            return done
        case.add_corrections(incident_id, incident.revision, planned, now)
        body: Body = {
            "revision": incident.revision,
            "not_concerned_count": done.not_concerned,
            "told_too_much_count": done.told_too_much,
            "held_count": sum(done.held.values()),
            "segment_count": done.segment_count,
        }
        record_act(case, actor, role, "correction.started", body, at=now, incident=incident, reason=why)
        return done

    return store.look(work) if dry_run else store.change(work)


def _started(planned: Sequence[PlannedCorrection]) -> Started:
    kinds = Counter(each.person.correction for each in planned)
    held = Counter(each.held_reason for each in planned if each.held_reason is not None)
    return Started(
        kinds["not_concerned"], kinds["told_too_much"], dict(held), len({each.key.segment_id for each in planned})
    )
