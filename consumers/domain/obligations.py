"""From facts to every duty to notify: whether it is owed, by when, why, and what is not known yet.

Pure and explaining. Each duty is answered in a fixed order (scope, version, superseded, conditions, hold, period,
limbs) and in three values: a known false decides; otherwise an unknown leaves the duty pending, names the missing
facts, and gives beside it the conservative date, as though every unknown condition were met and the clock had started
at the earliest recorded instant. Nothing is guessed. Not for how time is counted (`deadlines`), nor for what a
statute calls personal information (`elements`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.domain import deadlines
from consumers.domain.elements import exempt, exposes
from consumers.domain.facts import KEYED_INSTANTS, Facts
from consumers.domain.jurisdictions import (
    EEA,
    EU,
    UNKNOWN_RESIDENCE,
    US_STATES,
    covers,
    jurisdictions,
    members,
    provinces_with_own_law,
)
from consumers.domain.rules import HARM_TESTS, Duty, DutyVersion, Rules, Term, Threshold


class Status(StrEnum):
    """The answer to one duty."""

    DUE = "due"
    PENDING = "pending"
    DUE_BEFORE_INDIVIDUAL_NOTICE = "due_before_individual_notice"
    DUE_NOT_LATER_THAN_INDIVIDUAL_NOTICE = "due_not_later_than_individual_notice"
    DUE_WITH_INDIVIDUAL_NOTICE = "due_with_individual_notice"
    DUE_NO_FIXED_DEADLINE = "due_no_fixed_deadline"
    RECORD_ONLY = "record_only"
    VOLUNTARY = "voluntary"
    SUPERSEDED = "superseded"
    NOT_IN_FORCE = "not_in_force"
    NOT_DUE = "not_due"


OWED = frozenset(status for status in Status if status.startswith("due"))
"""Statuses under which somebody must be told."""
_RANK = {status: rank for rank, status in enumerate(Status)}
_KEYWORDS = {
    "without_undue_delay": Status.DUE_NO_FIXED_DEADLINE,
    "not_later_than_individual_notice": Status.DUE_NOT_LATER_THAN_INDIVIDUAL_NOTICE,
    "before_individual_notice": Status.DUE_BEFORE_INDIVIDUAL_NOTICE,
    "with_individual_notice": Status.DUE_WITH_INDIVIDUAL_NOTICE,
    "record_only": Status.RECORD_ONLY,
    "voluntary": Status.VOLUNTARY,
    "superseded": Status.SUPERSEDED,
}
_DATING = (
    "discovered_at",
    "determined_at",
    "aware_at",
    "controller_aware_at",
    "processor_aware_at",
    "noticed_at",
    "known_personal_data_affected_at",
    "assessed_notifiable_at",
    "paid_at",
)
"""Instants that date an incident for picking a version; the row's own clock joins them, detection only if none is."""
_DATES_NO_VERSION = frozenset(
    {"initial_submitted_at", "intermediate_submitted_at", "notification_submitted_at", "individual_notices_sent_at"}
)

_SHORT_INVESTIGATION_HOURS = 24
"""A longer time between alert and awareness is said beside the answer."""


@dataclass(frozen=True, slots=True)
class Obligation:
    """One duty and its answer. Instants are UTC; `zone` is where the deadline is read on a clock."""

    regime_id: str
    version: int | None
    """None: no version of the duty was in force."""
    recipient: str
    jurisdiction: str
    law: str
    status: Status
    deadline_at: datetime | None
    zone: str
    relief_latest_at: datetime | None
    """Until when the law would still forgive a deadline on a weekend or holiday; never the deadline."""
    conservative_deadline_at: datetime | None
    clock_starts: str | None
    """The fact that starts the clock."""
    started_at: datetime | None
    citation: str
    confidence: str
    ask_counsel: bool
    """The law here is arguable, or how we read it is not sure."""
    because: tuple[str, ...]
    missing_facts: tuple[str, ...]
    information: tuple[str, ...] = ()
    """Other readings and privileges that a reader should know; none of them moves the answer."""

    @property
    def deadline_local(self) -> datetime | None:
        """The deadline on the clock of its zone."""
        return None if self.deadline_at is None else self.deadline_at.astimezone(deadlines.zone_info(self.zone))


@dataclass(frozen=True, slots=True)
class _Answer:
    """A condition in three values, the sentence that says why, and the facts that would settle an unknown."""

    value: bool | None
    because: str
    missing: tuple[str, ...] = ()
    unsure: bool = False
    """The reading behind the answer is not sure."""


def obligations_for(
    facts: Facts, rules: Rules, as_of: datetime, *, triggered: Mapping[str, int] | None = None
) -> tuple[Obligation, ...]:
    """Return an answer to every duty of `rules`, in the order of deadlines.

    `as_of` dates the incident only where no instant at all is recorded. `triggered` counts, by regime of individual
    notice, the people whose own exposed elements trigger it (`residents.regimes_for_person`), what it does not name
    being 0; without it everybody who lives there counts. Raises BadInput for facts that name a regime or a data element
    that the rules do not have.
    """
    if as_of.utcoffset() is None:
        raise BadInput(f"as_of {as_of.isoformat()} has no offset; write Z or +02:00 behind it")
    _refuse_unknown_names(facts, rules, triggered or {})
    case = _Case(facts, rules, as_of, triggered)
    answers = [answer for duty in rules.duties for answer in _answers(case, duty)]
    return tuple(sorted(_name_the_binding_limb(rules, _bind_dora_limbs(case, answers)), key=_order))


def notices_to_individuals(obligations: Iterable[Obligation]) -> dict[str, Obligation]:
    """Return, by regime, the notices to individuals that are owed or still pending on a fact or a person.

    What a person of some residence is owed is the meeting of these with `residents.regimes_for_person`.
    """
    return {o.regime_id: o for o in obligations if o.recipient == "individual" and o.status in OWED | {Status.PENDING}}


def _order(obligation: Obligation) -> tuple[float, int, float, str, str]:
    """By deadline; what has none follows by status, pending duties by their conservative date."""
    moments = (obligation.deadline_at, obligation.conservative_deadline_at)
    deadline, conservative = (float("inf") if at is None else at.timestamp() for at in moments)
    return (deadline, _RANK[obligation.status], conservative, obligation.regime_id, obligation.jurisdiction)


def _refuse_unknown_names(facts: Facts, rules: Rules, triggered: Mapping[str, int]) -> None:
    rules.check_elements(facts.data_elements or ())
    known = {*rules.by_id, *(duty.limb_of for duty in rules.duties if duty.limb_of)}
    codes = jurisdictions()
    for name, value in facts:
        for key in value if isinstance(value, dict) and name != "residents" else ():
            if key not in known and key not in codes:
                raise BadInput(f"{name}: no rule is named {key!r}{nearest(key, known)}")
    for key in triggered:
        rules.duty(key)


class _Case:
    """The facts of one incident, asked in the ways that duties ask."""

    def __init__(self, facts: Facts, rules: Rules, as_of: datetime, triggered: Mapping[str, int] | None) -> None:
        self.facts, self.rules, self.as_of, self._triggered = facts, rules, as_of, triggered
        self.instants = facts.instants()
        self._residents: dict[str, int] = {}
        self._days: dict[str, date] = {}
        self.earliest = min(self.instants.values(), default=None)
        homes = [*(facts.establishments or ()), *(facts.targets or ())]
        self.member_state = next((country for country in homes if country in EEA), None)

    def zone(self, duty: Duty) -> str:
        """Return the zone of `duty`; for Union law that of the competent authority's Member State."""
        if duty.zone != "by_member_state":
            return duty.zone
        return self.rules.zones[self.member_state] if self.member_state else "UTC"

    def calendar(self, duty: Duty) -> str:
        """Return the jurisdiction whose holidays count for `duty`."""
        if duty.zone != "by_member_state":
            return duty.jurisdiction
        return self.member_state or duty.jurisdiction

    def keyed(self, fact: str, duty: Duty) -> Any:
        """Return the value of `fact` for `duty`: the one value, or that under the duty's regime or jurisdiction."""
        value = getattr(self.facts, fact)
        if not isinstance(value, dict):
            return value
        clock = duty.clock_of if fact in KEYED_INSTANTS else None
        of_union = self.member_state if duty.jurisdiction in ("EU", "EEA") else None
        keys = (clock, duty.regime_id, duty.follows, duty.limb_of, duty.jurisdiction, of_union)
        return next((value[key] for key in keys if key is not None and key in value), None)

    def instant(self, fact: str, duty: Duty) -> datetime | None:
        """Return when `fact` happened for `duty`.

        A controller that recorded no awareness of its own is aware once its processor told it, or once a test showed
        real people in generated records, or else as the entity (EDPB 9/2022 section II.A).
        """
        at: datetime | None = self.keyed(fact, duty)
        if at is None and fact == "controller_aware_at":
            told = [at for at in (self.facts.processor_notified_controller_at, self.facts.match_test_positive_at) if at]
            return min(told) if told else self.facts.aware_at
        return at

    def day(self, duty: Duty) -> date:
        """Return the local date by which the version of `duty` is picked."""
        if duty.regime_id not in self._days:
            self._days[duty.regime_id] = self._day(duty)
        return self._days[duty.regime_id]

    def _day(self, duty: Duty) -> date:
        dating = [at for name in _DATING if (at := self.instants.get(name)) is not None]
        for clock in {version.clock_starts for version in duty.versions} - _DATES_NO_VERSION - {None}:
            if clock is not None and (at := self.instant(clock, duty)) is not None:
                dating.append(at)
        earliest = min(dating, default=self.facts.detected_at or self.earliest or self.as_of)
        return earliest.astimezone(deadlines.zone_info(self.zone(duty))).date()

    def residents(self, law_of: str) -> int | None:
        """Return how many affected people live where law of `law_of` follows residence."""
        if self.facts.residents is None:
            return None
        if law_of not in self._residents:
            living = self.facts.residents.items()
            self._residents[law_of] = sum(n for code, n in living if code != UNKNOWN_RESIDENCE and covers(law_of, code))
        return self._residents[law_of]

    def triggering(self, regime: str) -> int | None:
        """Return how many people trigger `regime` by their own exposed elements, or None if that was not worked out."""
        duty = self.rules.by_id[regime]
        if self._triggered is None or not duty.notifies_where_people_live:
            return None
        if duty.jurisdiction == "CA" and "frfi" in (self.facts.entity or ()):
            return (
                None  # for a federal work people of all provinces count, whom residence alone leaves to the provinces
            )
        return self._triggered.get(regime, 0)

    def count(self, duty: Duty, threshold: Threshold, state: str | None) -> int | None:
        """Return the number that `threshold` looks at: of one state, of a law's own people, or of everybody."""
        if threshold.counts == "data_subjects":
            return None if self.facts.residents is None else sum(self.facts.residents.values())
        if duty.territory == "residents" and self.keyed("statutory_pi", duty) is None:
            triggering = self.triggering(duty.definition_of)
            if triggering is not None:
                return triggering
        if state is None and self.facts.residents is not None and _counted_per_state(duty, threshold):
            largest = max((n for code, n in self.facts.residents.items() if code in US_STATES), default=0)
            somewhere = self.facts.residents.get("US", 0)
            in_doubt = threshold.met_by(largest) is not threshold.met_by(largest + somewhere)
            return None if in_doubt else largest
        return self.residents(state or duty.jurisdiction)


def _answers(case: _Case, duty: Duty) -> Iterator[Obligation]:
    """Yield the answer to `duty`; for a threshold counted per state under federal law, one for each state above it."""
    threshold = duty.versions[0].threshold
    if threshold is None or not _counted_per_state(duty, threshold):
        yield _answer(case, duty, None)
        return
    bound = any(_entity(case, version).value is not False for version in duty.versions)
    states = [code for code, n in (case.facts.residents or {}).items() if code in US_STATES and threshold.met_by(n)]
    yield from (_answer(case, duty, state) for state in (sorted(states) if bound and states else [None]))


def _counted_per_state(duty: Duty, threshold: Threshold) -> bool:
    return duty.jurisdiction == "US" and threshold.counts == "residents"


def _answer(case: _Case, duty: Duty, state: str | None) -> Obligation:
    scope = [_territory(case, duty), _role(case, duty)]
    entity_ever = [_entity(case, version) for version in duty.versions]
    version = duty.version_on(case.day(duty))
    shown = version or duty.versions[0]
    blank = Obligation(
        regime_id=duty.regime_id,
        version=version.version if version else None,
        recipient=duty.recipient,
        jurisdiction=state or duty.jurisdiction,
        law=shown.law,
        status=Status.NOT_DUE,
        deadline_at=None,
        zone=case.zone(duty),
        relief_latest_at=None,
        conservative_deadline_at=None,
        clock_starts=shown.clock_starts,
        started_at=None,
        citation=shown.citation,
        confidence=shown.confidence,
        ask_counsel=shown.confidence != "high",
        because=(),
        missing_facts=(),
    )
    if all(answer.value is False for answer in entity_ever):
        scope.append(entity_ever[0])
    if denied := next((answer for answer in scope if answer.value is False), None):
        return replace(blank, because=(denied.because,))
    if version is None:
        since = ", ".join(f"from {v.in_force_from}" if v.in_force_from else "before" for v in duty.versions)
        because = f"the incident dates from {case.day(duty)}; the duty is in force {since}"
        return replace(blank, status=Status.NOT_IN_FORCE, because=(because,))
    entity = _entity(case, version)
    if entity.value is False:
        return replace(blank, status=Status.NOT_IN_FORCE, because=(f"as of {case.day(duty)}: {entity.because}",))
    if version.superseded_for and (named := version.superseded_for & set(case.facts.entity or ())):
        because = f"another act applies instead to {_words(named)}"
        return replace(blank, status=Status.SUPERSEDED, because=(because,))

    conditions = [*scope, entity, *_conditions(case, duty, version, state)]
    if denied := next((answer for answer in conditions if answer.value is False), None):
        return replace(blank, because=(denied.because,), information=tuple(_other_count(case, duty, version, denied)))
    remarks = [*_remarks(version)]
    taken_over = duty.jurisdiction == "EU" and case.member_state is not None and case.member_state not in EU
    if taken_over:
        remarks.append(f"applies in {case.member_state} only as far as it was taken over into the EEA Agreement")
    arguable = version.harm is not None and version.harm.confidence != "high"
    unsure = any(answer.unsure for answer in conditions)
    counsel = blank.ask_counsel or arguable or taken_over or unsure
    blank = replace(blank, ask_counsel=counsel, because=tuple(remarks))
    return _timed(case, duty, version, blank, conditions)


def _timed(case: _Case, duty: Duty, version: DutyVersion, blank: Obligation, conditions: list[_Answer]) -> Obligation:
    """Answer a duty of which no condition is known to fail: hold, then period."""
    periods, period_unknown = _periods(case, version)
    conditions = [*conditions, *period_unknown]
    unknown = [answer for answer in conditions if answer.value is None]
    because = [answer.because for answer in conditions if answer.value is True and answer.because]
    missing = [fact for answer in unknown for fact in answer.missing]
    zone, calendar, anchor = case.zone(duty), case.calendar(duty), version.counting or "instant"
    fixed = deadlines.is_period(periods[0])
    started_at = case.instant(version.clock_starts, duty) if version.clock_starts else None

    def ends(start: datetime) -> datetime:
        """Return the earliest end of the periods in question."""
        return min(deadlines.deadline(start, deadlines.parse_period(p), anchor, zone, calendar) for p in periods)

    sent_at = case.instant(version.earlier_of, duty) if version.earlier_of else None
    conservative = ends(case.earliest) if fixed and case.earliest is not None else None
    if sent_at is not None and conservative is not None:
        conservative = min(conservative, sent_at)
    if fixed and started_at is None and version.clock_starts:
        missing.append(version.clock_starts)
    pending = replace(
        blank,
        status=Status.PENDING,
        started_at=started_at,
        conservative_deadline_at=conservative,
        missing_facts=tuple(dict.fromkeys(missing)),
    )
    if unknown:
        return replace(pending, because=(*(answer.because for answer in unknown), *because, *blank.because))
    held = _hold(case, duty, version)
    if held is not None and held[1] is None:
        reason = f"law enforcement holds the notice since {_show(held[0])} and has not released it"
        return replace(pending, because=(reason, *because, *blank.because))
    if not fixed:
        if periods[0] == "when_ordered":
            reason = "the notice is owed when the authority orders it"
            return replace(pending, because=(reason, *because, *blank.because))
        return replace(blank, status=_KEYWORDS[periods[0]], started_at=started_at, because=(*because, *blank.because))
    if started_at is None:
        reason = f"the clock starts at {version.clock_starts}, which is not recorded"
        return replace(pending, because=(reason, *because, *blank.because))
    deadline_at: datetime | None = ends(started_at)
    because.insert(0, f"{periods[0]} from {version.clock_starts} {_show(started_at)}")
    if sent_at is not None and deadline_at is not None and sent_at < deadline_at:
        deadline_at = sent_at
        because.insert(0, f"{version.earlier_of} {_show(sent_at)} comes sooner")
    if held is not None and held[1] is not None and held[1] > started_at and deadline_at is not None:
        deadline_at, reason = _after_release(version, deadline_at, held[1], zone, calendar)
        because.insert(0, reason)
    if deadline_at is None:
        status, relief = Status.DUE_NO_FIXED_DEADLINE, None
    else:
        status = Status.DUE
        relieved = version.relief and not version.relief_not_for & set(case.facts.entity or ())
        relief = deadlines.relief(deadline_at, version.relief, zone, calendar) if relieved and version.relief else None
    return replace(
        blank,
        status=status,
        deadline_at=deadline_at,
        information=tuple(_other_readings(case, duty, version, started_at, deadline_at)),
        relief_latest_at=relief,
        conservative_deadline_at=conservative,
        started_at=started_at,
        because=(*because, *blank.because),
    )


def _periods(case: _Case, version: DutyVersion) -> tuple[tuple[str, ...], list[_Answer]]:
    """Return the period that applies, or all in question while the fact that chooses is unknown."""
    choice = version.period_if
    if choice is None:
        return (version.period,), []
    value = getattr(case.facts, choice.fact)
    if value is None:
        sentence = f"whether {choice.fact}={choice.value} decides between {choice.period} and {version.period}"
        return (version.period, choice.period), [_Answer(None, sentence, (choice.fact,))]
    return ((choice.period if _holds(value, choice.value) else version.period),), []


def _after_release(
    version: DutyVersion, original: datetime, released_at: datetime, zone: str, calendar: str
) -> tuple[datetime | None, str]:
    """Return the deadline after a hold was released, with the reason; None: without undue delay."""
    if version.hold == "suspends":
        if original > released_at:
            return original, f"the hold was released {_show(released_at)}, before the period ended"
        return None, f"the period ended under a hold; released {_show(released_at)}: without unreasonable delay"
    period, _, rule = (version.hold or "").partition("_after_release")
    if rule == "_if_elapsed" and original > released_at:
        return original, f"the hold was released {_show(released_at)}, before the period ended"
    after = deadlines.deadline(released_at, deadlines.parse_period(period), "end_of_day", zone, calendar)
    return after, f"{period} after the release of the hold {_show(released_at)}"


def _hold(case: _Case, duty: Duty, version: DutyVersion) -> tuple[datetime, datetime | None] | None:
    """Return when a hold on this duty began and was released, or None where none counts."""
    if version.hold is None:
        return None
    began, released_at = case.keyed("le_hold_from", duty), case.keyed("le_hold_released_at", duty)
    if began is None:
        return None
    if released_at is not None and released_at < began:
        raise BadInput(
            f"le_hold_released_at {_show(released_at)} for {duty.regime_id} lies before le_hold_from {_show(began)}"
        )
    return began, released_at


# Conditions


def _conditions(case: _Case, duty: Duty, version: DutyVersion, state: str | None) -> Iterator[_Answer]:
    if duty.definition_of in case.rules.combinations:
        yield _sensitivity(case)
        yield _personal_information(case, duty, duty.definition_of, case.day(duty))
    if version.harm is not None and version.harm.fact is not None:
        yield _harm(case, duty, version)
    if version.trigger:
        yield _any(tuple(_all(_term(case, duty, version, t, state) for t in terms) for terms in version.trigger))
    counted_in_trigger = any(term.kind == "count" for terms in version.trigger for term in terms)
    if version.threshold is not None and not counted_in_trigger:
        yield _threshold(case, duty, version.threshold, state)
    if version.glba.effect == "exempt":
        value = case.facts.glba_exempt
        reason = {
            True: "the law exempts financial institutions under GLBA Title V",
            False: "",
            None: "the law exempts financial institutions under GLBA Title V; whether this is one is not known",
        }[value]
        yield _Answer(None if value is None else not value, reason, ("glba_exempt",))
    if version.hipaa.effect == "exempt":
        yield _hipaa_exemption(case, duty)


def _territory(case: _Case, duty: Duty) -> _Answer:
    facts, law_of = case.facts, duty.jurisdiction
    if duty.territory == "entity":
        return _Answer(True, "")
    here = members(law_of)
    if duty.territory == "residents":
        return _residents(case, law_of)
    established = None if facts.establishments is None else bool(here & set(facts.establishments))
    if established:
        return _Answer(True, f"established in {_words(here & set(facts.establishments or ()))}")
    if duty.territory == "establishment":
        sentence = f"no establishment in {law_of}" if established is False else "establishments are not known"
        return _Answer(established, sentence, ("establishments",))
    targeted = None if facts.targets is None else bool(here & set(facts.targets))
    number = case.residents(law_of)
    if targeted is False or number == 0:
        offered = f"nobody in {law_of} is targeted" if targeted is False else f"no affected person lives in {law_of}"
        if established is False:
            return _Answer(False, f"no establishment in {law_of}, and {offered}")
        return _Answer(None, f"{offered}; establishments are not known", ("establishments",))
    if targeted and number:
        return _Answer(True, f"people in {law_of} are targeted and {number:,} affected live there")
    gaps = {"establishments": established, "targets": targeted, "residents": number}
    missing = tuple(name for name, value in gaps.items() if value is None)
    return _Answer(None, f"{' and '.join(missing)} decide whether the law of {law_of} applies", missing)


def _residents(case: _Case, law_of: str) -> _Answer:
    number = case.residents(law_of)
    if number is None:
        return _Answer(None, f"whether affected people live in {law_of} is not known", ("residents",))
    if number:
        return _Answer(True, f"{number:,} affected live in {law_of}")
    if law_of == "CA" and (case.facts.entity is None or "frfi" in case.facts.entity):
        left_to_provinces = sum(
            n for code, n in (case.facts.residents or {}).items() if code in provinces_with_own_law()
        )
        if left_to_provinces and case.facts.entity is None:
            reason = "residents of Quebec, Alberta and British Columbia count for federal works"
            return _Answer(None, reason, ("entity",))
        if left_to_provinces:
            return _Answer(True, f"{left_to_provinces:,} affected live in Canada, and the entity is a federal work")
    return _Answer(False, f"no affected person lives where the law of {law_of} applies")


def _role(case: _Case, duty: Duty) -> _Answer:
    if not duty.roles:
        return _Answer(True, "")
    role = case.facts.role
    if role is None:
        return _Answer(None, f"the duty is that of a {_words(duty.roles)}; the role is not known", ("role",))
    if role in duty.roles:
        return _Answer(True, "")
    return _Answer(False, f"the duty is that of a {_words(duty.roles)}, not of a {role}")


def _entity(case: _Case, version: DutyVersion) -> _Answer:
    facts = case.facts
    within = version.entities | version.superseded_for if version.entities else frozenset()
    answers = []
    for fact, given, named in (
        ("entity", facts.entity, within),
        ("licensee", facts.licensee, version.licensees),
        ("ai_system", None if facts.ai_system is None else (facts.ai_system,), version.ai_systems),
    ):
        if named and given is None:
            answers.append(_Answer(None, f"the duty binds {_words(named)}; {fact} is not known", (fact,)))
        elif named:
            hit = named & set(given or ())
            sentence = f"{fact} is {_words(hit)}" if hit else f"the duty binds {_words(named)}"
            answers.append(_Answer(bool(hit), sentence, (fact,)))
    if version.not_entities and facts.entity is None:
        answers.append(
            _Answer(None, f"the duty spares {_words(version.not_entities)}; entity is not known", ("entity",))
        )
    elif version.not_entities & set(facts.entity or ()):
        answers.append(_Answer(False, f"another duty binds {_words(version.not_entities)}"))
    return _all(answers)


def _sensitivity(case: _Case) -> _Answer:
    value = case.facts.sensitivity
    if value is None:
        return _Answer(None, "whether the data are real, derived or synthetic is not known", ("sensitivity",))
    if value == "synthetic_only":
        return _Answer(False, "the data are synthetic and identify nobody")
    return _Answer(True, "")


def _personal_information(case: _Case, duty: Duty, regime: str, day: date, *, listed_only: bool = False) -> _Answer:
    """Say whether the exposed data meet the definition of `regime`; `listed_only` leaves out any personal data."""
    facts = case.facts
    override = case.keyed("statutory_pi", duty)
    if override is not None:
        sentence = f"counsel says that the data {'meet' if override else 'do not meet'} the definition of {regime}"
        return _Answer(override, sentence)
    if case.triggering(regime) == 0:
        return _Answer(False, f"nobody's exposed data meet the definition of {regime}")
    answers = []
    for combination in case.rules.combinations[regime]:
        if (listed_only and not combination.any_of) or not combination.in_force_on(day):
            continue
        name = f"{regime} {combination.combination_id}"
        exposed = None if facts.data_elements is None else exposes(combination, facts.data_elements, day)
        if exposed is False:
            continue
        spared = exempt(
            combination,
            for_individual=duty.recipient == "individual",
            encrypted=facts.encrypted,
            key_compromised=facts.key_compromised,
        )
        if spared is True:
            answers.append(_Answer(False, f"{regime}: the data are encrypted and the key is safe"))
            continue
        doubts, missing = [], []
        if facts.data_elements is None:
            doubts.append(f"which data were exposed decides whether {regime} covers them")
            missing.append("data_elements")
        elif exposed is None:
            doubts.append(f"{name}: a person decides: {combination.condition or combination.without_name_if}")
        if spared is None:
            unknown = {"encrypted": facts.encrypted, "key_compromised": facts.key_compromised}
            missing.extend(fact for fact, value in unknown.items() if value is None)
            if None in unknown.values():
                doubts.append(f"{regime}: encryption would exempt")
            else:
                doubts.append(f"{name}: a person decides: the statute is silent on a key that was taken")
        unsure = combination.confidence != "high"
        if doubts:
            answers.append(_Answer(None, "; ".join(doubts), tuple(missing), unsure))
        else:
            reading = f" (confidence {combination.confidence})" if unsure else ""
            answers.append(_Answer(True, f"{name} covers the data{reading}", unsure=unsure))
    if not answers:
        return _Answer(False, f"the exposed data are not what {regime} covers")
    return _any(tuple(sorted(answers, key=lambda answer: answer.unsure)))


def _harm(case: _Case, duty: Duty, version: DutyVersion) -> _Answer:
    assert version.harm is not None
    assert version.harm.fact is not None
    test, fact = version.harm.test, version.harm.fact
    value = case.keyed(fact, duty)
    wording = HARM_TESTS[test]
    if value is None:
        return _Answer(None, f"the duty exists if {wording}; {fact} is not known", (fact,))
    met = value == "high" or (value == "risk" and test == "risk") if fact == "gdpr_risk" else bool(value)
    return _Answer(met, f"{wording} ({fact}={_show(value)})" if met else f"not so that {wording}")


def _term(case: _Case, duty: Duty, version: DutyVersion, term: Term, state: str | None) -> _Answer:
    if term.kind == "person":
        return _Answer(None, f"a person decides: {version.applies_when or 'see the citation'}")
    if term.kind == "count":
        assert version.threshold is not None
        return _threshold(case, duty, version.threshold, state)
    if term.kind == "elements":
        return _personal_information(case, duty, term.value, case.day(duty), listed_only=True)
    if term.kind == "exposes":
        if case.facts.data_elements is None:
            return _Answer(None, "which data were exposed is not known", ("data_elements",))
        hit = set(term.value.split()) & set(case.facts.data_elements)
        return _Answer(bool(hit), f"exposed: {_words(hit)}" if hit else "none of the listed elements were exposed")
    if term.kind == "recorded":
        if case.instant(term.fact, duty) is None:
            return _Answer(None, f"{term.fact} is not recorded", (term.fact,))
        return _Answer(True, f"{term.fact} is recorded")
    value = case.keyed(term.fact, duty)
    if value is None:
        return _Answer(None, f"the duty exists if {term}; {term.fact} is not known", (term.fact,))
    met = _holds(value, term.value) is (term.kind == "equals")
    return _Answer(met, f"{term.fact}={_show(value)}" if met else f"{term.fact} is {_show(value)}, asked is {term}")


def _threshold(case: _Case, duty: Duty, threshold: Threshold, state: str | None) -> _Answer:
    number = case.count(duty, threshold, state)
    if number is None:
        return _Answer(None, f"the duty needs {threshold}; residents are not known", ("residents",))
    if threshold.met_by(number):
        return _Answer(True, f"{number:,} is {threshold}")
    return _Answer(False, f"{number:,} is not {threshold}")


def _hipaa_exemption(case: _Case, duty: Duty) -> _Answer:
    """HIPAA entities are outside such a state law for protected health information alone."""
    entities = case.facts.entity
    if entities is not None and not {"hipaa_covered_entity", "hipaa_business_associate"} & set(entities):
        return _Answer(True, "")
    elements = case.facts.data_elements
    phi = case.rules.combinations.get("us-hipaa-ind", ())
    health = None if elements is None else any(exposes(c, elements, case.day(duty)) for c in phi)
    if health is False:
        return _Answer(True, "")
    missing = (("entity",) if entities is None else ()) + (("data_elements",) if elements is None else ())
    if missing:
        return _Answer(None, f"the law exempts HIPAA entities; {' and '.join(missing)} not known", missing)
    return _Answer(False, "the law exempts HIPAA entities for protected health information")


def _remarks(version: DutyVersion) -> Iterator[str]:
    """Yield what a reader must know beside the answer; none of it moves the answer."""
    for name, effect in (("GLBA", version.glba), ("HIPAA", version.hipaa)):
        if effect.effect == "deemed_compliant_if_notifies":
            yield f"notifying under {name} rules would count as compliance here"
        elif effect.effect == "unknown":
            yield f"the effect of {name} on this duty was not looked up: treated as none"
    if version.scope_note:
        yield f"scope: {version.scope_note}"


def _other_readings(
    case: _Case, duty: Duty, version: DutyVersion, started_at: datetime, deadline_at: datetime | None
) -> Iterator[str]:
    """Yield later readings of a deadline, and doubts about its start."""
    if deadline_at is not None and duty.jurisdiction in ("EU", "EEA") and version.counting == "instant":
        hour = deadline_at.replace(minute=0, second=0, microsecond=0)
        if hour != deadline_at:
            yield f"counted in whole hours it would end {_show(hour + timedelta(hours=1))} (Reg. 1182/71 Art. 3(1))"
    if deadline_at is not None and version.counting == "end_of_day_inclusive":
        yield "the day of knowledge counts as day 1; the probable later reading ends one day later"
    detected_at = case.facts.detected_at
    if version.clock_starts == "controller_aware_at" and detected_at is not None:
        hours = (started_at - detected_at).total_seconds() / 3600
        if hours > _SHORT_INVESTIGATION_HOURS:
            yield (
                f"awareness lies {hours:.0f} h after the detection: who could have known by reasonable measures "
                "may count as aware before (EDPB Guidelines 9/2022 section II.A.2); ask counsel"
            )


def _other_count(case: _Case, duty: Duty, version: DutyVersion, denied: _Answer) -> Iterator[str]:
    """Yield that all persons notified at one time, and not only the state's own, would meet the threshold."""
    threshold = version.threshold
    if threshold is None or threshold.counts != "individuals" or duty.jurisdiction not in US_STATES:
        return
    everybody = case.residents("US")
    own = case.count(duty, threshold, None)
    for_the_count = denied.because == _threshold(case, duty, threshold, None).because
    if everybody is not None and own and for_the_count and threshold.met_by(everybody):
        yield f"read as all persons notified at one time, {everybody:,}, the threshold is met; ask counsel"


# Three values


def _all(answers: Iterable[_Answer]) -> _Answer:
    """Return False if one is, else unknown if one is, else True."""
    found = tuple(answers)
    if denied := next((answer for answer in found if answer.value is False), None):
        return denied
    unknown = [answer for answer in found if answer.value is None]
    chosen = unknown or found
    sentence = "; ".join(answer.because for answer in chosen if answer.because)
    missing = tuple(fact for answer in unknown for fact in answer.missing)
    return _Answer(None if unknown else True, sentence, missing, any(answer.unsure for answer in found))


def _any(answers: tuple[_Answer, ...]) -> _Answer:
    """Return True if one is, else unknown if one is, else False."""
    if met := next((answer for answer in answers if answer.value is True), None):
        return met
    unknown = [answer for answer in answers if answer.value is None]
    chosen = unknown or answers
    sentence = "; ".join(dict.fromkeys(answer.because for answer in chosen if answer.because))
    missing = tuple(dict.fromkeys(fact for answer in unknown for fact in answer.missing))
    return _Answer(None if unknown else False, sentence, missing, any(answer.unsure for answer in unknown))


def _holds(value: Any, wanted: str) -> bool:
    """Compare a fact with what a rule writes: booleans as true and false, lists by what they name."""
    if isinstance(value, bool):
        return value is (wanted == "true")
    return wanted in value if isinstance(value, tuple) else bool(value == wanted)


def _show(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))


# Limbs of one duty

_DORA_INITIAL = "eu-dora-19-initial"


def _bind_dora_limbs(case: _Case, answers: list[Obligation]) -> list[Obligation]:
    """Leave due only the limb of DORA's initial notification that binds (RTS (EU) 2025/301 Art. 5(1)(a), 5(2)).

    Classified at or before awareness + 24 h: the earlier of classification + 4 h (a) and awareness + 24 h (b), on a
    tie (a); classified later: (late). Without awareness none can be told from the others.
    """
    limbs = {f"{_DORA_INITIAL}-{limb}": limb for limb in ("a", "b", "late")}
    classified_at, aware_at = case.facts.classified_major_at, case.facts.aware_at
    bound = []
    for answer in answers:
        limb = limbs.get(answer.regime_id)
        if limb is None or answer.status not in (Status.DUE, Status.PENDING) or classified_at is None:
            bound.append(answer)
        elif aware_at is None:
            missing = tuple(dict.fromkeys((*answer.missing_facts, "aware_at")))
            reason = "which limb binds depends on aware_at, which is not recorded"
            bound.append(
                replace(
                    answer,
                    status=Status.PENDING,
                    deadline_at=None,
                    relief_latest_at=None,
                    missing_facts=missing,
                    because=(reason, *answer.because),
                )
            )
        else:
            cap = aware_at + timedelta(hours=24)
            binding = "late" if classified_at > cap else "a" if classified_at + timedelta(hours=4) <= cap else "b"
            bound.append(answer if limb == binding else _not_binding(answer, binding))
    return bound


def _name_the_binding_limb(rules: Rules, answers: list[Obligation]) -> list[Obligation]:
    """Say of each limb that is not due, because a sibling is, which one took its place: also one that still waits for a fact
    or for a hold's end, if no other may.
    """
    owed: dict[str, str] = {}
    waiting: dict[str, list[str]] = {}
    for answer in answers:
        limb_of = rules.by_id[answer.regime_id].limb_of
        if limb_of is not None and answer.status in OWED:
            owed[limb_of] = answer.regime_id
        elif limb_of is not None and answer.status is Status.PENDING:
            waiting.setdefault(limb_of, []).append(answer.regime_id)
    binding = {limb_of: siblings[0] for limb_of, siblings in waiting.items() if len(siblings) == 1} | owed
    named = []
    for answer in answers:
        sibling = binding.get(rules.by_id[answer.regime_id].limb_of or "")
        if sibling is not None and answer.status is Status.NOT_DUE:
            named.append(replace(answer, because=(*answer.because, f"{sibling} takes its place")))
        else:
            named.append(answer)
    return named


def _not_binding(answer: Obligation, binding: str) -> Obligation:
    return replace(
        answer,
        status=Status.NOT_DUE,
        deadline_at=None,
        relief_latest_at=None,
        conservative_deadline_at=None,
        missing_facts=(),
        because=(f"limb ({binding}) of {_DORA_INITIAL} binds",),
    )
