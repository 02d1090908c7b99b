"""The law as the engine reads it: duties in dated versions, combinations of elements, zones. Built by `consumers.law`.

Every value here was written by a person in `templates/law/` with a citation; this module gives it types and refuses
what cannot be meant. Not for answering: that is `obligations`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.elements import Combination, Element, with_composites
from consumers.domain.facts import Facts
from consumers.domain.notice_rules import NoticeRule

Recipient = Literal[
    "supervisory_authority",
    "sector_regulator",
    "attorney_general",
    "ai_market_surveillance",
    "consumer_reporting_agencies",
    "individual",
    "data_owner",
    "media",
    "internal",
]
Confidence = Literal["high", "medium", "low"]
Territory = Literal["residents", "establishment_or_targeting", "establishment", "entity"]
Operator = Literal["over", "at_least", "fewer_than"]
Counted = Literal["residents", "individuals", "data_subjects"]
Keyword = Literal[
    "without_undue_delay",
    "not_later_than_individual_notice",
    "before_individual_notice",
    "with_individual_notice",
    "record_only",
    "voluntary",
    "when_ordered",
    "superseded",
]
KEYWORDS: frozenset[str] = frozenset(get_args(Keyword))
HARM_TESTS: Mapping[str, str] = {
    "risk_of_harm": "any harm, loss or injury is reasonably likely",
    "substantial_harm": "substantial harm is reasonably likely",
    "misuse_likely": "misuse of the data is reasonably likely",
    "misuse_possible": "misuse of the data is reasonably possible",
    "identity_theft_or_fraud": "identity theft or fraud is reasonably likely",
    "financial_harm": "identity theft or other financial harm is reasonably likely",
    "significant_harm": "significant harm is likely",
    "serious_harm": "serious harm is likely",
    "real_risk_of_significant_harm": "there is a real risk of significant harm",
    "relevant_risk": "there is relevant risk or damage",
    "risk": "a risk to rights and freedoms is not unlikely",
    "high_risk": "a high risk to rights and freedoms is likely",
    "protection_needed": "the notice is needed for people's protection",
}


@dataclass(frozen=True, slots=True)
class Harm:
    """A harm test: which fact decides it, and how sure the reading is. No fact: it stands in the triggers."""

    test: str
    fact: str | None
    confidence: Confidence

    def __str__(self) -> str:
        decided = f", decided by {self.fact}" if self.fact else ""
        return f"{HARM_TESTS[self.test]}{decided} (confidence {self.confidence})"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number of people above, from or below which a duty exists."""

    counts: Counted
    operator: Operator
    value: int

    def met_by(self, count: int) -> bool:
        """Say whether `count` meets the threshold."""
        if self.operator == "over":
            return count > self.value
        return count >= self.value if self.operator == "at_least" else count < self.value

    def __str__(self) -> str:
        return f"{self.operator.replace('_', ' ')} {self.value:,} {self.counts.replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class Term:
    """One condition of a trigger. `kind`: `equals`, `differs`, `recorded`, `count`, `elements`, `exposes`, `person`."""

    kind: str
    fact: str = ""
    value: str = ""

    def __str__(self) -> str:
        return {
            "equals": f"{self.fact}={self.value}",
            "differs": f"{self.fact}!={self.value}",
            "recorded": self.fact,
            "elements": f"elements({self.value})",
            "exposes": f"exposes({self.value})",
            "person": "CONDITION",
        }.get(self.kind, self.kind)


@dataclass(frozen=True, slots=True)
class PeriodIf:
    """A period that replaces the usual one where `fact` holds `value`."""

    fact: str
    value: str
    period: str

    def __str__(self) -> str:
        return f"{self.period} if {self.fact}={self.value}"


@dataclass(frozen=True, slots=True)
class Effect:
    """What compliance with federal rules does to a state duty: `none`, `exempt`, `deemed_compliant_if_notifies`,
    `unknown` (not looked up)."""

    effect: str
    confidence: Confidence

    def __str__(self) -> str:
        return f"{self.effect.replace('_', ' ')} (confidence {self.confidence})"


@dataclass(frozen=True, slots=True)
class DutyVersion:
    """A duty as it stood from `in_force_from` to `in_force_to` (inclusive; None is unbounded). 1 is the newest."""

    version: int
    in_force_from: date | None
    in_force_to: date | None
    citation: str
    confidence: Confidence
    period: str
    clock_starts: str | None
    counting: str | None
    period_if: PeriodIf | None
    earlier_of: str | None
    relief: str | None
    relief_not_for: frozenset[str]
    hold: str | None
    harm: Harm | None
    threshold: Threshold | None
    trigger: tuple[tuple[Term, ...], ...]
    """Alternatives of conditions that must all be met; empty: nothing further is asked."""
    entities: frozenset[str]
    licensees: frozenset[str]
    ai_systems: frozenset[str]
    not_entities: frozenset[str]
    superseded_for: frozenset[str]
    glba: Effect
    hipaa: Effect
    law: str
    applies_when: str | None
    permitted_delay: str | None
    content: str | None
    """What the recipient is to be told; what individuals are told stands in `Rules.notices`."""
    note: str | None
    scope_note: str | None


@dataclass(frozen=True, slots=True)
class Duty:
    """A duty to notify, in all its versions, newest first."""

    regime_id: str
    jurisdiction: str
    recipient: Recipient
    territory: Territory
    roles: frozenset[str]
    """Empty: any role."""
    zone: str
    follows: str | None
    limb_of: str | None
    clock_of: str | None
    """Under which regime a keyed clock is looked up."""
    last_checked_on: date
    versions: tuple[DutyVersion, ...]

    def version_on(self, day: date) -> DutyVersion | None:
        """Return the version in force on `day`, or None."""
        for version in self.versions:
            if (version.in_force_from is None or version.in_force_from <= day) and (
                version.in_force_to is None or day <= version.in_force_to
            ):
                return version
        return None

    @property
    def definition_of(self) -> str:
        """The regime whose combinations, harm test and hold this duty shares: its own, or the one it follows."""
        return self.follows or self.regime_id

    @property
    def notifies_where_people_live(self) -> bool:
        """Say whether this is a notice to individuals that residence and exposed elements decide, person by person."""
        return self.recipient == "individual" and self.territory in ("residents", "establishment_or_targeting")


@dataclass(frozen=True, eq=False)
class Rules:
    """All duties and what they refer to. Compared and hashed by identity: load once, use everywhere."""

    duties: tuple[Duty, ...]
    combinations: Mapping[str, tuple[Combination, ...]]
    elements: Mapping[str, Element]
    notices: Mapping[str, NoticeRule]
    """What notices to individuals must contain and how they may come, by regime."""
    zones: Mapping[str, str]
    """IANA zone by Member State of the EEA."""
    rules_version: str
    """sha256 of the canonical rules, in hex."""
    text: str = field(repr=False)
    """The canonical rules themselves, as they are kept for whoever asks later by which rules a duty was computed."""
    by_id: Mapping[str, Duty] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {duty.regime_id: duty for duty in self.duties})

    def duty(self, regime_id: str) -> Duty:
        """Return the duty `regime_id`. Raises BadInput with the nearest known one."""
        if regime_id not in self.by_id:
            raise BadInput(f"no rule is named {regime_id!r}{nearest(regime_id, self.by_id)}")
        return self.by_id[regime_id]

    def check_elements(self, names: Collection[str]) -> None:
        """Raise BadInput for a data element that is not in the vocabulary."""
        for name in sorted(with_composites(names)):
            if name not in self.elements:
                raise BadInput(f"data element {name!r} is not in the vocabulary{nearest(name, self.elements)}")


_TERM = re.compile(
    r"^(?:(?P<fact>[a-z_]+)(?P<operator>!?=)(?P<value>[a-z_]+)|(?P<call>elements|exposes)\((?P<argument>[a-z0-9_ -]+)\)"
    r"|(?P<word>[A-Za-z_]+))$"
)


def parse_trigger(text: str) -> tuple[tuple[Term, ...], ...]:
    """Return `text` as alternatives (` | `) of terms (` & `).

    A term is `fact=value`, `fact!=value`, an instant (it must be recorded), `count` (the threshold),
    `elements(regime_id)` (a combination of that regime other than any personal data), `exposes(element element ...)`,
    or `CONDITION` (a person decides). Raises ValueError for anything else.
    """
    return tuple(tuple(_term(term.strip()) for term in side.split("&")) for side in text.split("|")) if text else ()


def _term(text: str) -> Term:
    match = _TERM.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no condition; write fact=value, an instant, count, elements(...) or CONDITION")
    if match["call"]:
        return Term(match["call"], value=match["argument"])
    if match["word"] == "CONDITION":
        return Term("person")
    if match["word"] == "count":
        return Term("count")
    fact = match["fact"] or match["word"]
    if fact not in Facts.model_fields:
        raise ValueError(f"{fact!r} is no fact{nearest(fact, Facts.model_fields)}")
    if match["word"]:
        return Term("recorded", fact=fact)
    return Term("equals" if match["operator"] == "=" else "differs", fact=fact, value=match["value"])
