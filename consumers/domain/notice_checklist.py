"""What the law asks of one audience's notice, as a checklist that the composed notice must pass.

The rows stand in `templates/law/` (`notice_rules`); here their conditions are answered for an audience (which of its data
elements leaked, what the sender has, whether an offer is made), and the sections of a composed notice are compared with
what is left. Who would get a notice that lacks a section, or says what it must not, is held, with duty, section and
citation. Pure; not for the texts (`templates/notices/`) nor for whether a notice is owed (`obligations`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.elements import CREDENTIALS, with_composites
from consumers.domain.notice_rules import SECTIONS, NoticeRule, Requirement
from consumers.domain.notices import Sender

NEVER_SAID = frozenset({"information_request", "others_particulars", "intruder_particulars"})
"""What prohibitions name and no text has a section for."""
FRAME = frozenset({"clear_and_conspicuous", "font_size", "plain_language", "separate_message"})
"""Sections that are qualities of the whole notice: the renderer measures them, no text claims them."""
STATE_BLOCK = "state_block"
"""Marks the heading of the block that single states prescribe."""
_NOT_WORDS = frozenset({"none_prescribed", "must_not_state"})
UNKNOWN_RESIDENCE_ASKS = (
    "attorney_general_contact", "cause_of_incident", "credit_bureau_contacts", "fcra_rights", "fraud_alert_right",
    "free_credit_reports", "ftc_contact", "identity_theft_resources", "police_report_right", "prescribed_headings",
    "prescribed_title", "remain_vigilant", "remediation_services", "report_identity_theft_advice",
    "security_freeze_right",
)  # fmt: skip
"""What somebody whose residence nobody knows is told beside the notice itself: all that helps wherever they live."""

_SSN = frozenset({"ssn"})
_TAX = frozenset({"itin", "tax_id", "irs_ip_pin"})
_LICENCE = frozenset({"drivers_licence", "state_id"})
_GOVERNMENT = _LICENCE | {"passport", "military_id", "tribal_id", "national_id", "other_government_id"} | _TAX
_BANK = frozenset({"account_number", "iban"})
_CREDENTIAL_PARTS = frozenset(
    {CREDENTIALS, "online_username", "online_password", "email", "security_question_answer", "full_name",
     "first_initial_last_name"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Situation:
    """What conditions of content requirements look at. `elements` are the exposed data elements of the audience."""

    elements: frozenset[str]
    sender: Sender
    offer: bool = False
    """Whether a protective offer is made to these people."""

    @property
    def _exposed(self) -> frozenset[str]:
        return with_composites(self.elements)

    def exposes(self, *groups: frozenset[str]) -> bool:
        """Return whether an element of any of `groups` leaked."""
        return any(self._exposed & group for group in groups)

    @property
    def credentials(self) -> bool:
        """Whether what opens an online account leaked."""
        return CREDENTIALS in self._exposed

    @property
    def credentials_only(self) -> bool:
        """Whether nothing else leaked."""
        return self.credentials and self._exposed <= _CREDENTIAL_PARTS


_OPTIONAL = frozenset({"optional", "recommended"})
"""Said where the text has it; nobody is held for it."""
_CONDITIONS: Mapping[str, Callable[[Situation], bool]] = {
    "ssn_exposed": lambda it: it.exposes(_SSN),
    "ssn_or_taxpayer_id_exposed": lambda it: it.exposes(_SSN, _TAX),
    "ssn_or_driver_licence_or_california_id_exposed": lambda it: it.exposes(_SSN, _LICENCE),
    "notifier_was_source_of_breach_and_ssn_or_government_id_number_exposed": lambda it: it.exposes(_SSN, _GOVERNMENT),
    "ssn_or_bank_account_number_or_driver_licence_or_state_id_exposed": lambda it: it.exposes(_SSN, _BANK, _LICENCE),
    "ssn_or_bank_account_number_or_driver_licence_or_state_id_exposed_and_individual_not_entitled_to_free_report": (
        lambda it: it.exposes(_SSN, _BANK, _LICENCE)
    ),
    "online_account_credentials_exposed": lambda it: it.credentials,
    "online_account_credentials_only": lambda it: it.credentials_only,
    "email_account_credentials_only": lambda it: it.credentials_only,
    "login_credentials_only": lambda it: it.credentials_only,
    "data_other_than_online_credentials_exposed": lambda it: not it.credentials_only,
    "personal_information_other_than_online_credentials": lambda it: not it.credentials_only,
    "if_one_exists": lambda it: bool(it.sender.telephone or it.sender.toll_free),
    "if_maintained": lambda it: bool(it.sender.toll_free),
    "dpo_appointed": lambda it: bool(it.sender.dpo),
    "notifier_owned_by_another_person_or_corporation": lambda it: bool(it.sender.parent),
    "if_services_are_offered": lambda it: it.offer,
    # ways of telling people that a written notice is not
    "telephone_notice": lambda _: False,
    "substitute_notice_for_10_or_more": lambda _: False,
    "on_written_request_of_a_notified_person": lambda _: False,
    "breach_also_of_another_entity_optional": lambda _: False,
}
"""Conditions that are answered here. Any other counts as met: what nobody can rule out is said."""
_WHERE_THE_SENDER_HAS_ONE = {
    ("contact_telephone", "if_known"): "if_one_exists",
    ("dpo_contact", "where_applicable"): "dpo_appointed",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that a law asks for, or forbids (`section` is then what may not stand in the notice)."""

    regime_id: str
    section: str
    text: str
    citation: str
    confidence: str
    binding: bool
    """False: recommended or optional; nobody is held for it."""

    def __str__(self) -> str:
        return f"{self.regime_id} {self.section} ({self.citation}; confidence {self.confidence})"


@dataclass(frozen=True)
class Readings:
    """`notices/shared/requirements.yaml`: what prohibitions forbid, and what a sender must have for a section."""

    forbids: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """(regime, words of the row) -> sections."""
    sender: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(regime, section) -> fields of the sender."""


@dataclass(frozen=True, slots=True)
class Checklist:
    """All that the laws of one audience ask of its notice."""

    asks: tuple[Ask, ...]
    forbids: tuple[Ask, ...]
    unread: tuple[Ask, ...]
    """Prohibitions of which nobody has said what they forbid."""
    lacking_sender: tuple[tuple[Ask, str], ...]
    """What is asked of the sender's identity and not known."""

    @property
    def asked_sections(self) -> tuple[str, ...]:
        """The sections asked for, sorted; those that are qualities of the whole notice apart."""
        return tuple(sorted({ask.section for ask in self.asks} - FRAME))

    @property
    def forbidden_sections(self) -> tuple[str, ...]:
        """The sections that may not be there, sorted."""
        return tuple(sorted({ask.section for ask in self.forbids}))

    def objections(self, covers: Collection[str]) -> list[str]:
        """Return why a notice that covers `covers` may not go to this audience, with duty, section and citation; empty: it
        may.
        """
        found = [f"the law forbids what nobody has read into sections yet: {ask}" for ask in self.unread]
        forbidden = {ask.section: ask for ask in self.forbids}
        for ask in self.asks:
            if not ask.binding:
                continue
            if ask.section in forbidden:
                found.append(f"asked by {ask}, and forbidden by {forbidden[ask.section]}")
            elif ask.section not in covers:
                found.append(f"the notice lacks what the law asks: {ask}")
        found.extend(f"the sender's {name} is not known: {ask}" for ask, name in self.lacking_sender)
        found.extend(f"the notice says what it must not: {ask}" for ask in self.forbids if ask.section in covers)
        return list(dict.fromkeys(found))


def checklist(
    notices: Mapping[str, NoticeRule],
    owed: Iterable[str],
    lived_under: Iterable[str],
    on: date,
    situation: Situation,
    readings: Readings,
) -> Checklist:
    """Return what the regimes `owed` ask, and what they and those of the residence (`lived_under`) forbid.

    A prohibition holds for all who may live there, whether or not their data triggers a notice: saying less is safe.
    """
    owed = tuple(dict.fromkeys(owed))
    asks: list[Ask] = []
    forbids: list[Ask] = []
    unread: list[Ask] = []
    lacking: list[tuple[Ask, str]] = []
    for regime_id in dict.fromkeys((*owed, *lived_under)):
        rule = notices.get(regime_id)
        if rule is None:
            continue
        for requirement in rule.content_on(on):
            if not _applies(requirement, situation):
                continue
            ask = _ask(rule, requirement)
            if requirement.section == "must_not_state":
                sections = readings.forbids.get((regime_id, requirement.text))
                if sections is None:
                    unread.append(ask)
                else:
                    forbids.extend(_ask(rule, requirement, section) for section in sorted(sections))
            elif regime_id in owed and requirement.section not in _NOT_WORDS:
                asks.append(ask)
                lacking.extend(
                    (ask, name)
                    for name in readings.sender.get((regime_id, requirement.section), ())
                    if not getattr(situation.sender, name)
                )
    return Checklist(tuple(asks), tuple(forbids), tuple(unread), tuple(lacking))


def _applies(requirement: Requirement, situation: Situation) -> bool:
    when = requirement.when
    if when is None:
        return True
    when = _WHERE_THE_SENDER_HAS_ONE.get((requirement.section, when), when)
    condition = _CONDITIONS.get(when)
    return condition is None or condition(situation)


def _ask(rule: NoticeRule, requirement: Requirement, section: str | None = None) -> Ask:
    when = requirement.when or ""
    return Ask(
        rule.regime_id,
        section or requirement.section,
        requirement.text,
        rule.content_reference,
        requirement.confidence,
        binding=when not in _OPTIONAL and not when.startswith("optional"),
    )


def parse_readings(content: Any) -> Readings:
    """Return the parsed YAML of `requirements.yaml`. Raises BadInput listing every problem as `path.of.keys: problem`."""
    problems: list[str] = []
    top = content if isinstance(content, dict) else {}
    known = ("must_not_state", "sender")
    problems.extend(f"{name}: unknown key{nearest(str(name), known)}" for name in top if name not in known)
    sections = sorted((SECTIONS | NEVER_SAID) - _NOT_WORDS - FRAME)
    forbids: dict[tuple[str, str], frozenset[str]] = {}
    for regime_id, rows in (top.get("must_not_state") or {}).items():
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            where = f"must_not_state.{regime_id}.{index}"
            if not isinstance(row, dict) or set(row) != {"says", "forbids"} or not isinstance(row["forbids"], list):
                problems.append(
                    f"{where}: write `says` (the words of the law's row) and `forbids` (a list of sections)"
                )
                continue
            problems.extend(
                f"{where}: {name!r} is no section{nearest(str(name), sections)}"
                for name in row["forbids"]
                if name not in sections
            )
            forbids[str(regime_id), str(row["says"])] = frozenset(row["forbids"])
    sender: dict[tuple[str, str], tuple[str, ...]] = {}
    names = [item.name for item in fields(Sender)]
    for regime_id, by_section in (top.get("sender") or {}).items():
        for section, wanted in (by_section if isinstance(by_section, dict) else {}).items():
            where = f"sender.{regime_id}.{section}"
            if section not in SECTIONS:
                problems.append(f"{where}: {section!r} is no section{nearest(str(section), sections)}")
            bad = [name for name in wanted if name not in names] if isinstance(wanted, list) else ["?"]
            problems.extend(f"{where}: the sender has no {name!r}{nearest(str(name), names)}" for name in bad)
            sender[str(regime_id), str(section)] = tuple(wanted) if isinstance(wanted, list) else ()
    if problems:
        raise BadInput("\n".join(problems))
    return Readings(forbids, sender)


def sections_that_texts_name() -> Collection[str]:
    """Return the names that a text may give to `covers(...)`."""
    return sorted((SECTIONS - _NOT_WORDS - FRAME) | {STATE_BLOCK})
