"""How severe a breach is for people: ENISA's method, proposed from what leaked, each factor with its reason.

ENISA, "Recommendations for a methodology of the assessment of severity of personal data breaches", v1.0, December 2013:
SE = DPC x EI + CB. The method answers neither Art. 33 nor Art. 34 GDPR by itself: it proposes, a person confirms or changes.
Pure. Values are hundredths inside, so that nothing is lost to binary fractions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.elements import Element

LEVELS = ((400, "very_high"), (300, "high"), (200, "medium"), (0, "low"))
"""From this severity (in hundredths) on, this level."""
RISK_OF_LEVEL: Mapping[str, str] = {"low": "unlikely", "medium": "risk", "high": "high", "very_high": "high"}
"""The usual reading: low is unlikely to result in a risk, high and very high are a high risk (`gdpr_risk`)."""
MANY_PEOPLE = 100
_QUARTERS = (25, 50, 75, 100)
_BREACH = (0, 25, 50)

ALLOWED: Mapping[str, tuple[int, ...]] = {
    "dpc_base": (100, 200, 300, 400),
    "dpc_adjustment": (-300, -200, -100, 0, 100, 200, 300),
    "ei": _QUARTERS,
    "cb_confidentiality": _BREACH,
    "cb_integrity": _BREACH,
    "cb_availability": _BREACH,
    "cb_malicious": (0, 50),
}
"""The method's factors and the values that each may take, in hundredths."""

_CONTACTS = frozenset({"email", "phone", "postal_address", "online_username"})
_UNIQUE = frozenset({
    "ssn", "itin", "tax_id", "drivers_licence", "state_id", "passport", "military_id", "tribal_id", "national_id",
    "immigration_id", "other_government_id", "iban", "account_number", "card_number", "health_insurance_id",
    "medical_id_number", "biometric", "dna_genetic",
})  # fmt: skip
_NAMES = frozenset({"full_name", "first_initial_last_name"})
_PSEUDONYMS = frozenset({"customer_number", "loyalty_number", "device_id", "cookie_id", "ip_address", "payment_token"})


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of the method, in hundredths. `proposed` differs from `value` where a person changed it."""

    name: str
    value: int
    proposed: int
    why: str


@dataclass(frozen=True, slots=True)
class Severity:
    """The method's answer."""

    factors: tuple[Factor, ...]
    flags: tuple[str, ...]

    def value_of(self, name: str) -> int:
        """Return a factor's value in hundredths."""
        return next(each.value for each in self.factors if each.name == name)

    @property
    def dpc(self) -> int:
        """The data processing context after adjustment, 100 to 400."""
        return min(400, max(100, self.value_of("dpc_base") + self.value_of("dpc_adjustment")))

    @property
    def hundredths(self) -> int:
        """SE = DPC x EI + CB, in hundredths, rounded half up."""
        breach = sum(each.value for each in self.factors if each.name.startswith("cb_"))
        return (self.dpc * self.value_of("ei") + 50) // 100 + breach

    @property
    def level(self) -> str:
        """`low`, `medium`, `high` or `very_high`."""
        return next(level for least, level in LEVELS if self.hundredths >= least)

    @property
    def risk(self) -> str:
        """What the level usually means for `gdpr_risk`."""
        return RISK_OF_LEVEL[self.level]

    @property
    def changed_count(self) -> int:
        """How many factors a person changed."""
        return sum(each.value != each.proposed for each in self.factors)


def propose(
    elements: Collection[str],
    vocabulary: Mapping[str, Element],
    kinds: Collection[str],
    people_count: int | None,
    *,
    external_attack: bool | None,
    data_recoverable: bool | None,
    encrypted: bool | None,
    key_compromised: bool | None,
) -> Severity:
    """Return the method's proposal. `people_count` None: not known yet. Names outside the vocabulary do not count."""
    known = {name: vocabulary[name] for name in sorted(set(elements)) if name in vocabulary}
    base, base_why = _base(known, kinds)
    ei, ei_why = _identification(set(known))
    malicious = {True: (50, "an attack from outside is recorded"), False: (0, "no attack from outside, as recorded")}
    availability = {
        True: (0, "the data are recoverable, as recorded"),
        False: (50, "the data are not recoverable, as recorded"),
    }
    found = {
        "dpc_base": (base, base_why),
        "dpc_adjustment": (0, "up for volume, profiling, vulnerable people, the controller; down for data without insight, "
                              "public or outdated ones: a person's judgement"),
        "ei": (ei, ei_why),
        "cb_confidentiality": (50, "leaked to an unknown number of recipients; 0.25 if they are known"),
        "cb_integrity": (0, "nothing says that data were altered"),
        "cb_availability": availability.get(data_recoverable, (0, "nothing says that data were lost"))
        if data_recoverable is not None
        else (0, "nothing says that data were lost"),
        "cb_malicious": malicious[external_attack]
        if external_attack is not None
        else (0, "whether there was malice is not recorded (external_attack); 0.5 if so"),
    }  # fmt: skip
    factors = tuple(Factor(name, value, value, why) for name, (value, why) in found.items())
    return Severity(factors, tuple(_flags(people_count, encrypted, key_compromised)))


def _base(known: Mapping[str, Element], kinds: Collection[str]) -> tuple[int, str]:
    highest = max(known.values(), key=lambda each: each.enisa_dpc, default=None)
    base, why = (100, "no data element is known: simple") if highest is None else (
        highest.enisa_dpc * 100, f"{highest.name} ({highest.meaning.partition('(')[0].strip()})"
    )  # fmt: skip
    made = {"derived", "inferred"} & set(kinds)
    if made and base < 300:
        return 300, f"{' and '.join(sorted(made))} values are judged by what they reveal if believed: usually financial"
    return base, why


def _identification(known: set[str]) -> tuple[int, str]:
    contacts, unique, names = known & _CONTACTS, known & _UNIQUE, known & _NAMES
    if (names and (contacts or unique or "date_of_birth" in known)) or len(unique) > 1:
        beside = sorted(contacts | unique | (known & {"date_of_birth"}))[0]
        return 100, f"{beside} together with {'a name' if names else 'another number'} finds the person"
    if unique or contacts:
        return 75, f"{sorted(unique | contacts)[0]} leads to the person"
    if names:
        return 50, "a name alone, which others may share"
    if known & _PSEUDONYMS:
        return 25, f"{sorted(known & _PSEUDONYMS)[0]} identifies within the shop's own records only"
    return 25, "nothing that leaked names or finds anybody by itself"


def _flags(people_count: int | None, encrypted: bool | None, key_compromised: bool | None) -> list[str]:
    flags = []
    if people_count is None:
        flags.append("how many people are concerned is not known yet")
    elif people_count > MANY_PEOPLE:
        flags.append(f"more than {MANY_PEOPLE} people ({people_count:,})")
    if encrypted and key_compromised is False:
        flags.append("unintelligible: encrypted and the key is safe; the score may be lowered")
    return flags


def changed(severity: Severity, changes: Mapping[str, str]) -> Severity:
    """Return `severity` with factors set to what a person says (`0.75`). Raises BadInput for what the method does not know."""
    values = {}
    for name, text in changes.items():
        if name not in ALLOWED:
            raise BadInput(f"--set {name}: no such factor{nearest(name, ALLOWED)}; known: {', '.join(ALLOWED)}")
        try:
            value: Any = Decimal(text) * 100
        except InvalidOperation:
            value = None
        if value not in ALLOWED[name]:
            allowed = ", ".join(show(each) for each in ALLOWED[name])
            raise BadInput(f"--set {name}={text}: the method knows {allowed} there")
        values[name] = int(value)
    factors = tuple(replace(each, value=values.get(each.name, each.value)) for each in severity.factors)
    return replace(severity, factors=factors)


def show(hundredths: int) -> str:
    """Return a number of hundredths as people read it: 75 is "0.75", 300 is "3"."""
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")
