"""What is known of an incident, as the law asks for it. A fact left out is unknown, not false.

Pure data with its checks: every key has a type and a vocabulary, instants carry offsets, unknown keys are refused with
the nearest known name. What follows from the facts is decided in `obligations`.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from bridge.contracts.errors import BadInput, nearest
from consumers.domain import jurisdictions

Role = Literal["controller", "processor", "provider", "deployer"]
EntityKind = Literal[
    "online_retailer",
    "body_corporate",
    "credit_institution",
    "payment_institution",
    "e_money_institution",
    "account_information_service_provider",
    "investment_firm",
    "crypto_asset_service_provider",
    "insurance_undertaking",
    "central_counterparty",
    "trading_venue",
    "other_dora_financial_entity",
    "nis2_essential",
    "nis2_important",
    "trust_service_provider",
    "manufacturer_digital_product",
    "payment_service_provider_gb",
    "critical_infrastructure_ch",
    "critical_infrastructure_cn",
    "critical_infrastructure_us",
    "nonbank_financial_institution_ftc",
    "national_bank",
    "state_bank",
    "bank_holding_company",
    "bank_service_provider",
    "insured_credit_union",
    "glba_financial_institution",
    "sec_registrant",
    "sec_covered_institution_larger",
    "sec_covered_institution_smaller",
    "service_provider_sec_covered",
    "hipaa_covered_entity",
    "hipaa_business_associate",
    "information_broker_or_data_collector",
    "frfi",
    "apra_regulated",
    "mas_regulated",
    "other",
]
Licence = Literal["none", "nydfs_covered_entity"]
GdprRisk = Literal["unlikely", "risk", "high"]
LeakSensitivity = Literal["real", "derived_or_memorised", "synthetic_only"]
SeriousIncident = Literal["none", "general", "death", "widespread"]
AiSystem = Literal["none", "not_high_risk", "high_risk_annex_iii", "high_risk_annex_i", "gpai", "gpai_systemic_risk"]


def _utc(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no ISO 8601 instant; write it like 2026-06-08T03:12:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError("an instant is written as ISO 8601 with its offset, like 2026-06-08T03:12:00Z")
    if value.utcoffset() is None:
        raise ValueError(f"{value.isoformat()} has no offset; write Z or +02:00 behind it")
    return value.astimezone(UTC)


def _known_key(key: str) -> str:
    if key.islower() and key.replace("-", "").isalnum():
        return key  # a regime_id; `obligations_for` knows which exist
    try:
        return jurisdictions.jurisdiction(key)
    except BadInput as error:
        raise ValueError(str(error)) from None


def _territory(code: str) -> str:
    known = jurisdictions.COUNTRIES | jurisdictions.free_zones()
    if code in known:
        return code
    raise ValueError(f"{code!r} is no country{nearest(code, known)}; use ISO 3166-1 codes such as DE, US, AE-DIFC")


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Key = Annotated[str, AfterValidator(_known_key)]
Instant = Annotated[
    datetime,
    BeforeValidator(_utc),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"(Z|[+-]\d\d:\d\d)$",
            "examples": ["2026-06-08T03:12:00Z"],
        }
    ),
]
KeyedInstant = Instant | dict[Key, Instant]
KeyedBool = StrictBool | dict[Key, StrictBool]
Count = Annotated[int, Field(ge=0, strict=True)]
Country = Annotated[str, AfterValidator(_territory)]
Countries = Annotated[tuple[Country, ...], BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...])]


class Facts(BaseModel):
    """The facts of one incident for one controller. Instants are kept in UTC; None means unknown or not recorded."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, title="Facts of an incident for one controller"
    )

    detected_at: Instant | None = None
    """First technical alert or report. Starts no clock by itself; used for the conservative date and for version
    picking only when nothing else is recorded."""
    aware_at: Instant | None = None
    """The entity (as controller, or as regulated entity) became aware of the incident: the general awareness clock
    outside the GDPR."""
    controller_aware_at: Instant | None = None
    """Controller has reasonable certainty that personal data were compromised (EDPB 9/2022). Clock of GDPR and UK
    GDPR."""
    processor_aware_at: Instant | None = None
    """A processor or service provider became aware. Never starts a controller's clock."""
    processor_notified_controller_at: Instant | None = None
    """The processor told the controller: the controller is then aware."""
    discovered_at: Instant | None = None
    """Breach discovered, detected as a breach, or notified to the entity (US states, HIPAA, FTC, PIPL, POPIA). Also
    for 'learns' (Wisconsin)."""
    determined_at: Instant | None = None
    """Determination that a breach or notification incident occurred (with likely harm where the statute says so). Also
    for 'reasonable belief' (NCUA)."""
    determined_material_at: Instant | None = None
    """Determination that the incident is material (SEC Form 8-K)."""
    confirmed_at: Instant | None = None
    """Breach confirmed and the information needed for the notice can be ascertained (Rhode Island; Mexico)."""
    classified_major_at: Instant | None = None
    """Incident classified as major (DORA, PSD2). Recorded means: it is major."""
    initial_submitted_at: KeyedInstant | None = None
    """Initial notification submitted (DORA)."""
    intermediate_submitted_at: KeyedInstant | None = None
    """Intermediate report submitted, the latest update (DORA)."""
    notification_submitted_at: KeyedInstant | None = None
    """Notification whose submission starts another clock: NIS2 72 h notification, CRA 72 h notification, Malaysian
    Commissioner."""
    assessed_notifiable_at: Instant | None = None
    """Assessment concluded that the breach is notifiable (Singapore; reasonable grounds to believe, Australia)."""
    known_personal_data_affected_at: Instant | None = None
    """Knowledge that the incident affected personal data (Brazil)."""
    noticed_at: Instant | None = None
    """Incident noticed or brought to notice (CERT-In)."""
    paid_at: Instant | None = None
    """Extortion payment made."""
    aware_and_scope_identified_at: Instant | None = None
    """Aware of the breach AND its scope identified (Maine)."""
    match_test_positive_at: Instant | None = None
    """Test showed that generated records reproduce real persons. Serves as controller_aware_at if that is absent."""
    corrective_measure_available_at: Instant | None = None
    """Corrective or mitigating measure available (CRA final report on a vulnerability)."""
    individual_notices_sent_at: KeyedInstant | None = None
    """Notices to individuals sent (distribution). Clock of CA AG, IA AG, LA AG, OK AG."""
    le_hold_from: KeyedInstant | None = None
    """Law-enforcement hold began."""
    le_hold_released_at: KeyedInstant | None = None
    """Law enforcement released the hold. Absent while le_hold_from is present: still held."""

    role: Role | None = None
    """Role of the entity for these data or this system. provider and deployer are AI Act roles and count as controller
    for personal data."""
    entity: (
        Annotated[
            tuple[EntityKind, ...],
            BeforeValidator(_as_list, json_schema_input_type=EntityKind | tuple[EntityKind, ...]),
        ]
        | None
    ) = None
    """What the entity is. All that apply: a list; what is not named is denied. Under GLBA Title V: also glba_exempt."""
    licensee: (
        Annotated[tuple[Licence, ...], BeforeValidator(_as_list, json_schema_input_type=Licence | tuple[Licence, ...])]
        | None
    ) = None
    """State licences that carry a duty of their own."""
    establishments: Countries | None = None
    """Countries (or financial free zones) of establishments. What is not named is denied. The first EEA country is the
    Member State of the competent authority."""
    targets: Countries | None = None
    """Countries whose people are offered goods or services or are monitored. What is not named is denied."""
    residents: dict[str, Count] | None = None
    """Affected people by residence; what is not named is 0, {} is nobody. US-CA is California, CA is Canada without
    province, US is a state that nobody knows; `unknown` counts those whose residence nobody knows."""
    data_elements: tuple[str, ...] | None = None
    """Exposed elements (parts; composites such as online_username_or_email_with_password are derived: e-mail or user
    name with password or answer)."""
    statutory_pi: KeyedBool | None = None
    """The exposed data meet the statute's definition. If given it replaces the derivation from data_elements."""
    sensitivity: LeakSensitivity | None = None
    """synthetic_only: no identifiable person, every personal-data duty falls; derived_or_memorised counts as real for
    the persons recognised."""
    encrypted: StrictBool | None = None
    """The exposed data were encrypted to the state of the art."""
    key_compromised: StrictBool | None = None
    """The key, process or credential was taken too. Asked only if the data were encrypted."""
    data_recoverable: StrictBool | None = None
    """A copy exists (availability). Input to gdpr_risk, decides nothing alone."""
    gdpr_risk: GdprRisk | None = None
    """Outcome of the risk assessment: GDPR, UK GDPR, FADP, Thailand, Nigeria, ADGM, DIFC individuals, Chile."""
    harm_likely: KeyedBool | None = None
    """Harm of the kind that the rule's harm test names is reasonably likely (US states; SA, KE, VN, CN
    individuals). An object answers differently by regime."""
    significant_harm: KeyedBool | None = None
    """Significant or serious harm is likely (SG, MY, AU, NZ, PH, MX; real risk of significant harm CA; serious injury
    QC)."""
    relevant_risk: StrictBool | None = None
    """Relevant risk or damage (Brazil)."""
    serious_incident: SeriousIncident | None = None
    """AI Act Art 3(49): general, death, or widespread infringement / critical infrastructure."""
    ai_system: AiSystem | None = None
    """Class of the AI system concerned; none: no AI system."""
    external_attack: StrictBool | None = None
    """Unauthorised access from outside, cyberattack, improper purpose."""
    significant: KeyedBool | None = None
    """Meets the sector rule's own test: significant (NIS2), severe or actively exploited (CRA), notification incident
    (banks), reportable (NCUA), material (APRA, MAS, OSFI), major (UK PSPs), relatively major (CAC)."""
    small_agent: StrictBool | None = None
    """Small-scale processing agent (Brazil: terms doubled)."""
    glba_exempt: StrictBool | None = None
    """The entity is a financial institution under GLBA Title V (decides glba_effect)."""
    controller_zone: str | None = None
    """Zone in which times are shown. Never moves a deadline."""

    @field_validator("residents")
    @classmethod
    def _fold_residences(cls, residents: dict[str, int] | None) -> dict[str, int] | None:
        if residents is None:
            return None
        folded: dict[str, int] = {}
        for code, count in residents.items():
            try:
                home = code if code == jurisdictions.UNKNOWN_RESIDENCE else jurisdictions.jurisdiction(code)
            except BadInput as error:
                raise ValueError(str(error)) from None
            folded[home] = folded.get(home, 0) + count
        return folded

    @field_validator("controller_zone")
    @classmethod
    def _zone_exists(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(f"{zone!r} is no IANA zone; write it like Europe/Berlin") from None
        return zone

    @model_validator(mode="after")
    def _release_follows_hold(self) -> Self:
        released, begun = self.le_hold_released_at, self.le_hold_from
        if released is None:
            return self
        if begun is None:
            raise ValueError("le_hold_released_at is given without le_hold_from")
        releases = released if isinstance(released, dict) else {"": released}
        for key, at in releases.items():
            # A hold named by jurisdiction may be released by regime; `obligations` compares those, duty by duty.
            begins = [begun] if isinstance(begun, datetime) else [begun[key]] if key in begun else []
            if key == "" and isinstance(begun, dict):
                begins = [*begun.values()]
            for begin in begins:
                if at < begin:
                    where = f"le_hold_released_at[{key}]" if key else "le_hold_released_at"
                    raise ValueError(f"{where} {at.isoformat()} lies before le_hold_from {begin.isoformat()}")
        return self

    def instants(self) -> dict[str, datetime]:
        """Return every recorded instant by fact, without holds; of a keyed one the earliest."""
        found = {}
        for name in INSTANTS:
            value = getattr(self, name)
            if isinstance(value, dict):
                value = min(value.values(), default=None)
            if value is not None:
                found[name] = value
        return found


KEYED_INSTANTS = frozenset(
    {
        "initial_submitted_at",
        "intermediate_submitted_at",
        "notification_submitted_at",
        "individual_notices_sent_at",
        "le_hold_from",
        "le_hold_released_at",
    }
)
"""Instants that may differ by jurisdiction or regime."""
KEYED_ANSWERS = frozenset({"statutory_pi", "harm_likely", "significant_harm", "significant"})
"""Answers that may differ by regime."""
INSTANTS = tuple(name for name in Facts.model_fields if name.endswith("_at") and name != "le_hold_released_at")
ENTITIES: frozenset[str] = frozenset(get_args(EntityKind))


def parse_facts(value: Mapping[str, Any], *, source: str = "facts") -> Facts:
    """Return `value` as Facts. Raises BadInput naming `source`, the key, and what to write instead."""
    try:
        return Facts.model_validate(value)
    except ValidationError as error:
        complaints = []
        for problem in error.errors():
            if _of_another_arm(problem, value):
                continue
            key = ".".join(str(part) for part in problem["loc"] if part not in _UNION_ARMS) or "the facts"
            if problem["type"] == "extra_forbidden":
                complaints.append(f"unknown key {key!r}{nearest(key, Facts.model_fields)}")
            elif problem["type"] == "literal_error":
                word = str(problem["input"])
                allowed = _vocabulary(problem)
                complaints.append(f"{key}: {word!r} is not known{nearest(word, allowed)}; one of {', '.join(allowed)}")
            else:
                complaints.append(
                    f"{key}: {_WORDING.get(problem['type']) or problem['msg'].removeprefix('Value error, ')}"
                )
        raise BadInput(f"{source}: " + "; ".join(dict.fromkeys(complaints))) from None


def values_of(fact: str) -> tuple[str, ...]:
    """Return the words that `fact` may hold, booleans as `true` and `false`; none for facts without a vocabulary."""
    return tuple(dict.fromkeys(_words_in(Facts.model_fields[fact].annotation)))


def _words_in(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is not dict:
        for inner in get_args(annotation):
            yield from _words_in(inner)


_WORDING = {
    "bool_type": "write true or false",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "greater_than_equal": "a count is 0 or more",
    "tuple_type": "write a list",
    "dict_type": "write an object of code: number",
    "string_type": "write text",
}


def _of_another_arm(problem: Any, value: Mapping[str, Any]) -> bool:
    """Say whether the complaint is about the form, one value or one by key, in which the fact was not written."""
    fact = str(problem["loc"][0]) if problem["loc"] else ""
    if fact not in KEYED_INSTANTS | KEYED_ANSWERS or not isinstance(value, Mapping):
        return False
    about_object = problem["type"] == "dict_type" or any(str(part).startswith("dict[") for part in problem["loc"][1:])
    return about_object is not isinstance(value.get(fact), dict)


_UNION_ARMS = {"bool", "[key]"} | {
    "function-before[_utc(), datetime]",
    "dict[function-after[_known_key(), str],function-before[_utc(), datetime]]",
    "dict[function-after[_known_key(), str],bool]",
}


def _vocabulary(problem: Any) -> list[str]:
    expected = str(problem.get("ctx", {}).get("expected", ""))
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",") if word.strip()]
