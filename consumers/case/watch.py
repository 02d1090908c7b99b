"""What the clock stage does for every open incident: keeps its duties in step, and watches its verification.

Planning and the commands keep duties in step themselves; this catches what they cannot: a crash between a fact and its
consequences, rules that changed, an incident that nobody has counted yet. Several may watch at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time

from bridge.contracts.errors import BadInput
from consumers.case.adoption import review_rows
from consumers.case.duties import refresh, stands
from consumers.case.intake_rules import ENDED
from consumers.case.records import IncidentRecord, PageRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.verification import NOT_BEGUN_AFTER, UNDECIDED, AwarenessPolicy, escalate, verification_clock
from consumers.domain.duties import Law, LawInForce, digest


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen, for metrics."""

    moved_count: int
    unverified_seconds: float
    """Age, since the detection, of the oldest incident whose verification is undecided; 0 if there is none."""
    unusable_count: int
    """Incidents whose recorded facts the law cannot read: their duties stand as before."""
    reviews_overdue: int
    """Rules that are past their re-check."""
    review_due_seconds: float = math.inf
    """Until the next rule is to be checked again; below 0 it is overdue."""
    duties: Sequence[str] = ()
    """Regime ids of the rules in force."""


class IncidentWatch:
    """Watches open incidents."""

    def __init__(self, store: CaseStore, law: LawInForce, policy: AwarenessPolicy) -> None:
        self._store = store
        self._law = law
        self._policy = policy
        self._escalated: dict[str, tuple[object, ...]] = {}
        """How far each incident's verification was escalated; only spares transactions, the pages themselves are unique."""

    def look(self, now: datetime) -> Watched:
        """Bring every open incident's duties in step and escalate what is late. Raises Unreachable."""
        law = self._law()
        open_ = self._store.look(lambda case: [each for each in case.incidents() if each.state not in ENDED])
        moved = unusable = 0
        for incident in open_:
            try:
                if self._store.look(lambda case, this=incident: self._needs(case, this, law, now)):  # type: ignore[misc]
                    moved += self._store.change(lambda case, this=incident: self._keep(case, this, law, now))  # type: ignore[misc]
            except BadInput as error:
                # a fact or a rule that cannot be used must not stop the other incidents: somebody is told
                unusable += 1
                self._page_unusable(incident, error, now)
        names = {each.incident_id for each in open_}
        self._escalated = {name: reached for name, reached in self._escalated.items() if name in names}
        undecided = [each.detected_at for each in open_ if each.state in UNDECIDED and not each.exercise]
        age = max(((now - at).total_seconds() for at in undecided), default=0.0)
        reviews = review_rows(law.rules, self._store.look(lambda case: case.adoptions()), now.date())
        overdue = sum(row.is_overdue(now.date()) for row in reviews)
        # the whole day counts
        due = (datetime.combine(row.due_on, time.max, UTC) for row in reviews)
        next_due = min(((at - now).total_seconds() for at in due), default=math.inf)
        return Watched(moved, age, unusable, overdue, next_due, tuple(law.rules.by_id))

    def _needs(self, case: CaseWork, incident: IncidentRecord, law: Law, now: datetime) -> bool:
        clock = verification_clock(incident, case.facts(incident.incident_id), self._policy)
        reached = (clock.state, clock.missing, incident.acknowledged_at, self._mark(incident, now))
        fresh = clock.running and reached[-1] is not None and self._escalated.get(incident.incident_id) != reached
        self._escalated[incident.incident_id] = reached
        return fresh or not stands(case, incident, law)

    def _mark(self, incident: IncidentRecord, now: datetime) -> str | None:
        """Return a name for how far the verification's clock has run; None before its first mark."""
        passed = now - incident.detected_at
        if passed >= self._policy.bound:
            return f"bound {int(passed / self._policy.bound)}"
        if passed >= self._policy.warn_after:
            return "warned"
        return "late" if passed >= NOT_BEGUN_AFTER else None

    def _keep(self, case: CaseWork, incident: IncidentRecord, law: Law, now: datetime) -> int:
        current = case.incident(incident.incident_id)
        if current is None or current.state in ENDED:
            return 0
        moved: Sequence[object] = refresh(case, current, law, now)
        again = case.incident(incident.incident_id) or current
        return len(moved) + len(escalate(case, again, self._policy, law, now))

    def _page_unusable(self, incident: IncidentRecord, error: BadInput, now: datetime) -> None:
        page = PageRecord(
            page_id=digest(["duties.unusable", incident.incident_id, str(error)]),
            incident_id=incident.incident_id,
            kind="duties.unusable",
            severity="critical",
            roles=("dpo", "responder"),
            title=f"{incident.incident_id}: a recorded fact cannot be used; the duties stand as before",
            body={"reason": str(error)[:1000], "next": f"tocsin incident facts {incident.incident_id}"},
            raised_at=now,
        )
        self._store.change(lambda case: case.raise_page(page))
