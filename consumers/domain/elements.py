"""What a statute calls personal information: combinations of exposed data elements, answered in three values.

True and False are known; None means that a person has to decide or that a fact is missing. Vocabulary and combinations
are data (`templates/law/`); this module only matches them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

CREDENTIALS = "online_username_or_email_with_password"
"""The one composite element: present when a login name and what opens the account leaked together."""

_NAME_PARTS = {
    "initial_and_last": frozenset({"full_name", "first_initial_last_name"}),
    "first_and_last": frozenset({"full_name"}),
}


@dataclass(frozen=True, slots=True)
class Element:
    """One word of the vocabulary. `enisa_dpc` is ENISA's base value of the data processing context, 1 to 4."""

    name: str
    meaning: str
    group: str
    enisa_dpc: int
    typical_magento_field: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Combination:
    """A combination of elements that one regime covers. Dates are inclusive; None is unbounded."""

    combination_id: str
    name: str
    """`initial_and_last`, `first_and_last`, `any_identifier` or `not_needed`."""
    any_of: frozenset[str]
    """One of these must be exposed; empty: any element will do."""
    and_one_of: frozenset[str]
    without_name_if: str | None
    """When the name is not exposed: the statute's condition, which a person decides."""
    condition: str | None
    """What elements cannot tell and a person decides."""
    exempt_when: frozenset[str]
    exempts: str
    """`all`, or `individual_only`: the exemption helps against the individual notice alone."""
    key_clause: str | None
    in_force_from: date | None
    in_force_to: date | None
    citation: str
    confidence: str
    paper_too: str = "unknown"
    note: str | None = None

    def in_force_on(self, day: date) -> bool:
        """Say whether the statute named this combination on `day`."""
        begun = self.in_force_from is None or self.in_force_from <= day
        return begun and (self.in_force_to is None or day <= self.in_force_to)


def with_composites(elements: Collection[str]) -> frozenset[str]:
    """Return `elements` and the composites that they make up."""
    given = frozenset(elements)
    login = given & {"online_username", "email"}
    opens = given & {"online_password", "security_question_answer"}
    return given | {CREDENTIALS} if login and opens else given


def exposes(combination: Combination, elements: Collection[str], on: date) -> bool | None:
    """Say whether `elements` make up `combination` on `on`; None where a person must decide. Encryption apart."""
    if not combination.in_force_on(on):
        return False
    exposed = with_composites(elements)
    if not exposed or (combination.any_of and not combination.any_of & exposed):
        return False
    if combination.and_one_of and not combination.and_one_of & exposed:
        return False
    name_parts = _NAME_PARTS.get(combination.name)
    if name_parts is not None and not name_parts & exposed:
        return None if combination.without_name_if else False
    return None if combination.condition else True


def exempt(
    combination: Combination, *, for_individual: bool, encrypted: bool | None, key_compromised: bool | None
) -> bool | None:
    """Say whether encryption takes the combination out of the duty; None where a fact is missing or a person decides.

    A statute that exempts encrypted data while the key is safe (`key_intact`), or defines encryption so, exempts
    nothing once the key was taken, whatever else is unknown; one that is silent on the key leaves it to a person
    (rule `key-taken`).
    """
    if "encrypted" not in combination.exempt_when or (combination.exempts == "individual_only" and not for_individual):
        return False
    if encrypted is False:
        return False
    decided_by_key = "key_intact" in combination.exempt_when or combination.key_clause != "silent"
    if key_compromised and decided_by_key:
        return False
    return True if encrypted and key_compromised is False else None
