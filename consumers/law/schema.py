"""The format of the files under `templates/law/`: which keys there are and what each may hold. Unknown keys are refused.

One file a jurisdiction: `jurisdiction`, `zone`, `last_checked_on`, `duties` by regime_id, and `personal_information` by
regime_id. Inside a duty any value that changed over time is written by the date it holds from, `{2026-01-01: P30D}`,
with `undated` for a text whose beginning is not recorded; `reference` names every date at which the duty changed, and
so makes its versions. Not for reading files (`source`) nor for joining them (`loader`).
"""

from datetime import date
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from bridge.contracts.errors import BadInput, nearest
from consumers.domain import deadlines
from consumers.domain.facts import AiSystem, Country, EntityKind, Facts, Licence, Role
from consumers.domain.jurisdictions import COUNTRIES, UNKNOWN_RESIDENCE, jurisdiction, jurisdictions
from consumers.domain.notice_rules import (
    MEDIA,
    SECTIONS,
    SUBSTITUTE_ONLY,
    Allowed,
    MediumRule,
    Requirement,
    Substitute,
)
from consumers.domain.rules import (
    HARM_TESTS,
    KEYWORDS,
    Confidence,
    Counted,
    Effect,
    Harm,
    PeriodIf,
    Recipient,
    Territory,
    Threshold,
    parse_trigger,
)

CONTROLLER_ROLES: tuple[Role, ...] = ("controller", "provider", "deployer")
"""Who owes a duty unless a rule names other roles; providers and deployers of AI count as controllers."""


def _period(text: str) -> str:
    if text not in KEYWORDS and not deadlines.is_period(text):
        raise ValueError(f"{text!r} is no period{nearest(text, KEYWORDS)}; write PT72H, P30D, P5BD, P1M or a keyword")
    return text


def _fact(name: str) -> str:
    if name not in Facts.model_fields:
        raise ValueError(f"{name!r} is no fact{nearest(name, Facts.model_fields)}")
    return name


def _harm_test(name: str) -> str:
    if name not in HARM_TESTS:
        raise ValueError(f"{name!r} is no harm test{nearest(name, HARM_TESTS)}")
    return name


def _hold(text: str) -> str:
    period, after, tail = text.partition("_after_release")
    if text != "suspends" and not (after and tail in ("", "_if_elapsed") and deadlines.is_period(period)):
        raise ValueError(f"{text!r} is no hold; write suspends, P45D_after_release or P7D_after_release_if_elapsed")
    return text


def _trigger(text: str) -> str:
    parse_trigger(text)
    return text


def _zone(name: str) -> str:
    if name != "by_member_state":
        try:
            deadlines.zone_info(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{name!r} is no IANA zone; write it like Europe/Berlin, or by_member_state") from None
    return name


def _jurisdiction(code: str) -> str:
    known = jurisdictions() | {"EU", "EEA"}
    if code not in known:
        raise ValueError(f"{code!r} is no jurisdiction{nearest(code, known)}; a zone stands in free-zones.yaml first")
    return code


Text = Annotated[str, Field(min_length=1)]
FactName = Annotated[str, AfterValidator(_fact)]
PeriodText = Annotated[str, AfterValidator(_period)]
ZoneName = Annotated[str, AfterValidator(_zone)]


class Entry(BaseModel):
    """Base of all that people write here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ThresholdEntry(Entry):
    """Whom a threshold counts, and exactly one of `over` (>), `at_least` (>=), `fewer_than` (<)."""

    counts: Counted
    over: int | None = None
    at_least: int | None = None
    fewer_than: int | None = None

    @model_validator(mode="after")
    def _one_operator(self) -> Self:
        if sum(value is not None for value in (self.over, self.at_least, self.fewer_than)) != 1:
            raise ValueError("a threshold has exactly one of over, at_least, fewer_than")
        return self

    def threshold(self) -> Threshold:
        """Return the threshold as the engine reads it."""
        if self.over is not None:
            return Threshold(self.counts, "over", self.over)
        if self.at_least is not None:
            return Threshold(self.counts, "at_least", self.at_least)
        assert self.fewer_than is not None
        return Threshold(self.counts, "fewer_than", self.fewer_than)


class HarmEntry(Entry):
    """The harm test and the fact that decides it; without a fact it stands in the trigger."""

    test: Annotated[str, AfterValidator(_harm_test)]
    fact: Literal["harm_likely", "significant_harm", "gdpr_risk", "relevant_risk"] | None = None
    confidence: Confidence = "high"

    def harm(self) -> Harm:
        """Return the test as the engine reads it."""
        return Harm(self.test, self.fact, self.confidence)


class EffectEntry(Entry):
    """What GLBA or HIPAA do to a state duty."""

    effect: Literal["none", "exempt", "deemed_compliant_if_notifies", "unknown"]
    confidence: Confidence = "high"

    def of(self) -> Effect:
        """Return the effect as the engine reads it."""
        return Effect(self.effect, self.confidence)


class ReliefEntry(Entry):
    """Until when a deadline on a weekend or holiday is forgiven, and whom that spares not."""

    until: Literal["noon_next_working_day", "next_working_day"]
    not_for: tuple[EntityKind, ...] = ()


class PeriodIfEntry(Entry):
    """Another period where a fact holds a value."""

    fact: FactName
    value: Text | bool
    period: PeriodText

    def choice(self) -> PeriodIf:
        """Return the choice as the engine reads it."""
        return PeriodIf(self.fact, str(self.value).lower() if isinstance(self.value, bool) else self.value, self.period)


class DutyEntry(Entry):
    """One version of a duty, its dated values already picked."""

    law: Text
    recipient: Recipient
    territory: Territory
    reference: Text
    confidence: Confidence
    period: PeriodText
    roles: tuple[Role, ...] | Literal["any"] = CONTROLLER_ROLES
    clock_starts: FactName | None = None
    clock_of: Text | None = None
    counting: Literal["elapsed_hours", "end_of_day", "end_of_day_inclusive", "close_1730"] | None = None
    period_if: PeriodIfEntry | None = None
    or_if_sooner: FactName | None = None
    relief: ReliefEntry | None = None
    hold: Annotated[str, AfterValidator(_hold)] | None = None
    follows: Text | None = None
    limb_of: Text | None = None
    harm: HarmEntry | None = None
    threshold: ThresholdEntry | None = None
    trigger: Annotated[str, AfterValidator(_trigger)] | None = None
    entities: tuple[EntityKind, ...] = ()
    licensees: tuple[Licence, ...] = ()
    ai_systems: tuple[AiSystem, ...] = ()
    not_entities: tuple[EntityKind, ...] = ()
    superseded_for: tuple[EntityKind, ...] = ()
    glba: EffectEntry = EffectEntry(effect="none")
    hipaa: EffectEntry = EffectEntry(effect="none")
    applies_when: Text | None = None
    permitted_delay: Text | None = None
    content: Text | None = None
    scope: Text | None = None
    note: Text | None = None
    zone: ZoneName | None = None
    last_checked_on: date | None = None
    until: date | None = None
    """Last day in force of this version; only where no later version says so."""

    @model_validator(mode="after")
    def _clock_fits_period(self) -> Self:
        if not deadlines.is_period(self.period):
            return self
        if self.clock_starts is None:
            raise ValueError(f"period {self.period} needs clock_starts")
        if (self.counting == "elapsed_hours") != self.period.startswith("PT"):
            raise ValueError(f"counting {self.counting or 'missing'} does not fit period {self.period}")
        return self


UNCHANGING = ("recipient", "territory", "roles", "follows", "limb_of", "clock_of", "zone", "last_checked_on")
"""What makes a duty the same duty: not written by date."""


class CombinationEntry(Entry):
    """A combination of elements. What all of a regime share is written once, beside `combinations`."""

    name: Literal["initial_and_last", "first_and_last", "any_identifier", "not_needed"]
    any_of: tuple[Text, ...] | Literal["any_element"]
    and_one_of: tuple[Text, ...] = ()
    without_name_if: Text | None = None
    condition: Text | None = None
    exempt_when: tuple[
        Literal["encrypted", "redacted", "key_intact", "publicly_available", "truncated", "last_four_only"], ...
    ] = ()
    exempts: Literal["all", "individual_only"] = "all"
    key_clause: Literal["statute", "definition", "silent"] | None = None
    paper_too: Literal["yes", "no", "unknown"] = "unknown"
    since: date | None = None
    until: date | None = None
    reference: Text
    confidence: Confidence = "high"
    note: Text | None = None


class JurisdictionFile(Entry):
    """The outermost keys of a jurisdiction's file; duties and definitions are read one by one."""

    jurisdiction: Annotated[str, AfterValidator(_jurisdiction)]
    zone: ZoneName
    last_checked_on: date
    duties: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    personal_information: dict[str, dict[str, Any]] = {}
    notices: dict[str, dict[str, Any]] = {}


class RequirementEntry(Entry):
    """One thing that a notice must say: `- section: text`, with `when`, `since` and so on beside it."""

    section: Text
    text: Text
    when: Text | None = None
    confidence: Confidence = "high"
    note: Text | None = None
    since: date | None = None
    until: date | None = None

    @model_validator(mode="before")
    @classmethod
    def _section_is_the_key(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("write `- section: what the notice says`")
        sections = [key for key in value if key in SECTIONS]
        unknown = [str(key) for key in value if key not in SECTIONS and key not in cls.model_fields]
        if unknown or len(sections) != 1:
            wrong = ", ".join(unknown) or "none" if len(sections) != 1 or unknown else ""
            raise ValueError(f"exactly one section, and not {wrong}{nearest(wrong, SECTIONS)}")
        rest = {key: item for key, item in value.items() if key != sections[0]}
        return {**rest, "section": sections[0], "text": value[sections[0]]}

    def requirement(self) -> Requirement:
        """Return the requirement as the engine reads it."""
        return Requirement(self.section, self.text, self.when, self.confidence, self.note, self.since, self.until)


class SubstituteEntry(Entry):
    """When a substitute notice will do: any of `if`, `cost_over_usd`, `people_over`; and what it consists of."""

    also_if: Annotated[Text | None, Field(alias="if")] = None
    cost_over_usd: Annotated[int | None, Field(gt=0)] = None
    people_over: Annotated[int | None, Field(gt=0)] = None
    requires: Text | None = None

    def substitute(self) -> Substitute:
        """Return the substitute as the engine reads it."""
        return Substitute(self.also_if, self.cost_over_usd, self.people_over, self.requires)


class MediumEntry(Entry):
    """Whether one medium serves, written out where a word is not enough."""

    allowed: Allowed
    condition: Text | None = None
    substitute: bool = False
    confidence: Confidence | None = None
    note: str | None = None
    """Empty: the note that all media share does not hold for this one."""


class MediaEntry(Entry):
    """Each medium: `yes`, `no`, `unknown`, `substitute`, `if ...`, or written out."""

    reference: Text
    confidence: Confidence = "high"
    note: Text | None = None
    written_letter: Text | MediumEntry
    email: Text | MediumEntry
    telephone: Text | MediumEntry
    sms: Text | MediumEntry
    account_notice: Text | MediumEntry
    website_posting: Text | MediumEntry
    state_media: Text | MediumEntry
    in_app: Text | MediumEntry
    substitute: SubstituteEntry | None = None

    @model_validator(mode="after")
    def _words_are_known(self) -> Self:
        for medium in MEDIA:
            written = getattr(self, medium)
            if isinstance(written, str) and written not in _MEDIUM_WORDS and not written.startswith("if "):
                raise ValueError(f"{medium}: {written!r} is not known; write {', '.join(_MEDIUM_WORDS)} or if ...")
            substitutes = written == "substitute" or (isinstance(written, MediumEntry) and written.substitute)
            if substitutes and self.substitute is None:
                raise ValueError(f"{medium} serves a substitute notice: write under `substitute` when it will do")
        return self

    def rules(self) -> tuple[MediumRule, ...]:
        """Return each medium as the engine reads it."""
        return tuple(self._rule(medium) for medium in MEDIA)

    def _rule(self, medium: str) -> MediumRule:
        written = getattr(self, medium)
        entry = written if isinstance(written, MediumEntry) else _medium(written)
        confidence, note = _UNNAMED.get(entry.allowed, (self.confidence, self.note))
        return MediumRule(
            medium=medium,
            allowed=entry.allowed,
            condition=entry.condition,
            substitute=self.substitute.substitute() if entry.substitute and self.substitute else None,
            confidence=entry.confidence or confidence,
            note=note if entry.note is None else entry.note or None,
        )


class NoticeEntry(Entry):
    """What a notice to individuals must contain, and by which media it may come."""

    reference: Text
    content: Annotated[tuple[RequirementEntry, ...], Field(min_length=1)]
    media: MediaEntry


_MEDIUM_WORDS: tuple[str, ...] = ("yes", "no", "unknown", "substitute")
_UNNAMED: dict[str, tuple[Confidence, str]] = {
    "unknown": ("low", "Not named by the statute: use only in addition to a listed method"),
    "no": ("high", "Not among the listed methods"),
}
"""What holds of a medium that the law does not allow by name, unless the rule says otherwise."""


def _medium(written: str) -> MediumEntry:
    if written == "substitute":
        return MediumEntry(allowed="conditional", condition=SUBSTITUTE_ONLY, substitute=True)
    if written.startswith("if "):
        return MediumEntry(allowed="conditional", condition=written.removeprefix("if "))
    return MediumEntry.model_validate({"allowed": written})


class ElementEntry(Entry):
    """A word of the vocabulary; `enisa` is ENISA's base value of the data processing context."""

    meaning: Text
    group: Text
    enisa: Annotated[int, Field(ge=1, le=4)]
    magento: str = ""
    note: str = ""


class ElementsFile(Entry):
    """`data-elements.yaml`."""

    elements: dict[str, ElementEntry]


class MemberStatesFile(Entry):
    """`member-states.yaml`: the zone of each Member State's capital."""

    zones: dict[str, ZoneName]


class FreeZonesFile(Entry):
    """`free-zones.yaml`: the country of each zone that legislates for itself."""

    free_zones: dict[str, Text]

    @model_validator(mode="after")
    def _codes_are_apart_from_iso(self) -> Self:
        for code, country in self.free_zones.items():
            own = code.removeprefix(f"{country}-")
            if country not in COUNTRIES or own == code or not (own.isalnum() and own.isupper() and len(own) > 3):
                raise ValueError(f"{code}: {country} is no zone's code; write it like AE-DIFC: AE")
        return self


class ControllerEntry(Entry):
    """A legal entity that stands behind websites."""

    name: Text
    websites: tuple[int, ...] = ()
    default: bool = False
    """Answers for every website that no other controller names."""
    establishments: tuple[Country, ...]
    targets: tuple[Country, ...] = ()
    entity: Annotated[tuple[EntityKind, ...], Field(min_length=1)]
    licensee: tuple[Licence, ...] = ("none",)
    glba_exempt: bool | None = None
    """A financial institution under GLBA Title V; left out: not known, and duties that ask stay pending."""
    role: Role = "controller"
    dpo: str = ""

    def facts(self) -> dict[str, Any]:
        """Return what the controller's entry says of an incident's facts, for `parse_facts` to take in."""
        known = self.model_dump(include={"role", "entity", "licensee", "establishments", "targets", "glba_exempt"})
        return {key: value for key, value in known.items() if value is not None}


class ControllersFile(Entry):
    """`controllers.yaml`."""

    controllers: dict[str, ControllerEntry]


def _region_residence(code: str) -> str:
    if code in ("*", "EU", "EEA", UNKNOWN_RESIDENCE):
        return code
    try:
        return jurisdiction(code)
    except BadInput as error:
        raise ValueError(str(error)) from None


class RegionEntry(Entry):
    """Where notices to some people may pass and their data may lie."""

    residences: Annotated[tuple[Annotated[str, AfterValidator(_region_residence)], ...], Field(min_length=1)]
    controllers: Annotated[tuple[Text, ...], Field(min_length=1)]
    providers: Annotated[tuple[Text, ...], Field(min_length=1)]
    storage: Annotated[tuple[Text, ...], Field(min_length=1)]
    reference: Text | None = None
    note: Text | None = None


class RegionsFile(Entry):
    """`regions.yaml`."""

    regions: Annotated[tuple[RegionEntry, ...], Field(min_length=1)]
