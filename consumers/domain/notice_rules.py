"""What the law asks of a notice to individuals: what it must say, and by which media it may come.

Data with types, read from `templates/law/` and used where notices are checked and channels chosen. Not for texts
(`templates/notices/`) nor for whether a notice is owed (`obligations`).
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

Section = Literal[
    "advise_password_change",
    "attorney_general_contact",
    "authority_complaint_right",
    "authority_notified",
    "biometric_authenticator_advice",
    "categories_of_data",
    "cause_of_incident",
    "clear_and_conspicuous",
    "consequences",
    "contact_point",
    "contact_telephone",
    "credit_bureau_contacts",
    "credit_monitoring_offer",
    "date_discovered",
    "date_of_incident",
    "date_of_notice",
    "delay_reasons",
    "delayed_by_law_enforcement_statement",
    "dpo_contact",
    "fcra_rights",
    "font_size",
    "fraud_alert_right",
    "free_credit_reports",
    "ftc_contact",
    "identity_theft_resources",
    "intruder_identity",
    "language_of_recipient",
    "measures_taken",
    "must_not_state",
    "nature_of_incident",
    "none_prescribed",
    "notifier_identity",
    "number_affected",
    "other_relevant_information",
    "parent_company_name",
    "phishing_warning",
    "place_of_incident",
    "plain_language",
    "police_report_right",
    "prescribed_headings",
    "prescribed_title",
    "remain_vigilant",
    "remediation_services",
    "report_identity_theft_advice",
    "security_freeze_right",
    "security_measures_in_place",
    "separate_message",
    "stored_data_enquiry",
    "toll_free_number",
    "website_address",
    "what_you_can_do",
]
"""What a notice has to say (`must_not_state`: must not), or how it must look; `none_prescribed`: the law lists nothing."""
Medium = Literal[
    "written_letter", "email", "telephone", "sms", "account_notice", "website_posting", "state_media", "in_app"
]
Allowed = Literal["yes", "no", "conditional", "unknown"]
SECTIONS: frozenset[str] = frozenset(get_args(Section))
MEDIA: tuple[Medium, ...] = get_args(Medium)
SUBSTITUTE_ONLY = "substitute_only"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a notice must say, must not say, or must look like."""

    section: str
    text: str
    when: str | None
    """None: always. `optional`, `recommended`, `if_known` mean what they say; others name what must be so."""
    confidence: str
    note: str | None
    in_force_from: date | None
    in_force_to: date | None


@dataclass(frozen=True, slots=True)
class Substitute:
    """When a substitute notice will do, and of what it consists."""

    also_if: str | None
    cost_over_usd: int | None
    people_over: int | None
    requires: str | None


@dataclass(frozen=True, slots=True)
class MediumRule:
    """Whether a medium serves. `unknown` is never enough by itself: use it beside a medium that the law names."""

    medium: str
    allowed: str
    condition: str | None
    substitute: Substitute | None
    """Set where the medium is part of a substitute notice."""
    confidence: str
    note: str | None


@dataclass(frozen=True, slots=True)
class NoticeRule:
    """What one regime asks of its notice to individuals."""

    regime_id: str
    content: tuple[Requirement, ...]
    content_reference: str
    media: tuple[MediumRule, ...]
    media_reference: str

    def content_on(self, day: date) -> tuple[Requirement, ...]:
        """Return what a notice about an incident of `day` has to contain."""
        return tuple(
            requirement
            for requirement in self.content
            if (requirement.in_force_from is None or requirement.in_force_from <= day)
            and (requirement.in_force_to is None or day <= requirement.in_force_to)
        )
