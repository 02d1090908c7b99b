"""What follows from everybody whom a plan is about: audiences, their segments and their dates, each worked out once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from consumers.domain.audience_law import AudienceLaw
from consumers.domain.duties import Exposure, Regimes
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.obligations import Obligation
from consumers.domain.persons import Alike, Person, likeness
from consumers.domain.planning import (
    Before,
    PlannedIncident,
)
from consumers.domain.residents import earliest_deadline, shortest_period
from consumers.domain.rules import Rules
from consumers.domain.segments import Addressee
from consumers.domain.standing import (
    concern_of,
    notice_sha256,
)


def addressee_of(person: Person, incident: PlannedIncident) -> Addressee:
    """Return what a policy of segments asks of a person."""
    return Addressee(
        sensitivity=person.sensitivity,
        kinds=frozenset() if person.why is None else frozenset(person.why.kinds),
        categories=frozenset() if person.why is None else frozenset(person.why.categories),
        residences=person.homes,
        locale=person.locale,
        controller=person.controller,
        website_id=person.website_id,
        # named by the scope itself, without any record: a notice that speaks of their data would tell them wrong
        standing="named" if person.why is None and person.standing == "recorded" else person.standing,
        store_id=person.store_id,
        scenario=incident.scenario or "",
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """What is the same for all people who are alike."""

    segment: dict[str, Any]
    held: str | None
    dates: tuple[datetime | None, timedelta | None]
    owed: list[str]
    notice_sha256: str


class Likenesses:
    """How many people are alike, and one of them."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], list[Any]] = {}

    def add(self, person: Person, number: int) -> None:
        known = self._found.setdefault(likeness(person), [person, 0])
        known[1] += number

    def found(self) -> list[Alike]:
        return [(person, number) for person, number in self._found.values() if number]


class SegmentFor(Protocol):
    def __call__(
        self,
        person: Person,
        addressee: Addressee,
        *,
        asked: AudienceLaw,
        owing: tuple[str, ...],
        supplement: bool,
    ) -> tuple[dict[str, Any], str | None]: ...


@dataclass(slots=True)
class Ground:
    """What follows from all people together, and holds for each of them. Ten thousand people make a few dozen audiences:
    each is worked out once.
    """

    before: Before
    now: datetime
    rules: Rules
    exposures: Sequence[Exposure]
    residents: Mapping[str, int]
    people_count: int
    notices: Mapping[str, Mapping[str, Obligation]]
    regimes: Regimes
    asked: AudienceLaw
    segment_for: SegmentFor
    claims: dict[tuple[Any, ...], list[Any]] = field(default_factory=dict)
    """Lists that many people share, which are written as text once."""
    _dates: dict[tuple[str, tuple[str, ...]], tuple[datetime | None, timedelta | None]] = field(default_factory=dict)
    _audiences: dict[tuple[Any, ...], tuple[dict[str, Any], str | None]] = field(default_factory=dict)
    _shared: dict[tuple[Any, ...], Shared] = field(default_factory=dict)

    def shared_by(self, person: Person, *, more: bool) -> Shared:
        """Return what a person has in common with all who are alike. `more`: it supplements what they were told."""
        key = (*likeness(person), more)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = self._work_out(person, more)
        return found

    def _work_out(self, person: Person, more: bool) -> Shared:
        incident = self.before.incident
        where = (person.controller, person.homes)
        if where not in self._dates:
            duties = self.notices[person.controller].values()
            self._dates[where] = _dates(duties, person.homes, incident.detected_at)
        addressee = addressee_of(person, incident)
        by_elements = self.regimes.of(person)
        owing = self.asked.regimes_of(person.controller, person.homes, by_elements)
        audience = (addressee, person.disclosures, person.elements, owing, more)
        if audience not in self._audiences:
            self._audiences[audience] = self.segment_for(
                person, addressee, asked=self.asked, owing=owing, supplement=more
            )
        segment, held = self._audiences[audience]
        owed = [name for name in by_elements if name in (UNKNOWN_RESIDENCE, *self.notices[person.controller])]
        sha256 = notice_sha256(
            controller=person.controller,
            scenario=incident.scenario,
            scope=incident.scope,
            exercise=incident.exercise,
            concern=concern_of(person.why),
            standing=person.standing,
        )
        return Shared(segment, held, self._dates[where], owed, sha256)


def _dates(
    duties: Collection[Obligation], homes: Sequence[str], detected_at: datetime
) -> tuple[datetime | None, timedelta | None]:
    """Return by when people of these homes must be told, and how long the law gives for it."""
    places = homes or (UNKNOWN_RESIDENCE,)
    dates = [earliest_deadline(duties, home) for home in places]
    periods = [shortest_period(duties, home, detected_at) for home in places]
    return (
        min((at for at in dates if at is not None), default=None),
        min((period for period in periods if period is not None), default=None),
    )
