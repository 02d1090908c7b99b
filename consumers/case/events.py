"""Every kind of case event that this room writes, with the fields of its body. What is not declared is not written.

Bodies hold enums, numbers, instants, hashes, commitments and our own ids: they are destined for the evidence log. Free
text (reasons, titles) and staff names stay in the case store; a reason is represented by a salted SHA-256 whose salt
lies beside it in the table `act`.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.contracts.errors import TocsinError
from bridge.contracts.events import CaseEvent, Channel, Scalar
from consumers.case.permissions import Role
from consumers.domain.approvals import Mode
from consumers.domain.facts import Facts

Body = Mapping[str, Scalar | Sequence[str] | Sequence[int]]


class UndeclaredEvent(TocsinError):
    """A bug of ours: an event of an unknown kind, or a body that its declaration does not allow."""


@dataclass(frozen=True, slots=True)
class BodyField:
    """One field of a body: a shape that a regular expression or a Python type fixes, or a closed list of words."""

    shape: str
    """`sha256`, `id`, `count`, `flag`, `instant`, `codes`, `slug`, `slugs` or `word`."""
    words: tuple[str, ...] = ()
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Return whether `value` has this shape."""
        if value is None:
            return self.optional
        if self.shape == "count":
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if self.shape == "flag":
            return isinstance(value, bool)
        if self.shape == "codes":
            return isinstance(value, list) and all(isinstance(item, str) and _CODE.fullmatch(item) for item in value)
        if self.shape == "slugs":
            return isinstance(value, list) and all(isinstance(item, str) and _SLUG.fullmatch(item) for item in value)
        if self.shape == "word":
            return value in self.words
        return isinstance(value, str) and _SHAPES[self.shape].fullmatch(value) is not None


_CODE = re.compile(r"[A-Za-z0-9*_-]{1,16}")
_SLUG = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+){0,12}")
"""The name of a duty or of something in configuration."""
_SHAPES = {
    "slug": _SLUG,
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "id": re.compile(r"[0-9a-f]{32}"),
    "instant": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"),
}

_SHA256 = BodyField("sha256")
_MAYBE_SHA256 = BodyField("sha256", optional=True)
_ID = BodyField("id")
_MAYBE_ID = BodyField("id", optional=True)
_COUNT = BodyField("count")
_MAYBE_COUNT = BodyField("count", optional=True)
_FLAG = BodyField("flag")
_FINDING = BodyField("word", ("people", "nobody", "none_found", "unknown"))
"""Who is affected, as far as is known: somebody; nobody, by full coverage; none found, coverage incomplete; not resolved."""
_LISTED = BodyField("word", ("all", "late", "supplements", "told_wrongly", "waiting"))
_INSTANT = BodyField("instant")
_MODE = BodyField("word", tuple(Mode))
_STATE = BodyField("word", ("suspected", "verifying", "confirmed", "dismissed", "closed"))
_MAYBE_INSTANT = BodyField("instant", optional=True)
_REGIME = BodyField("slug")
_MAYBE_REGIME = BodyField("slug", optional=True)
_RISK = BodyField("word", ("unlikely", "risk", "high"))
_SEVERITY = BodyField("word", ("low", "medium", "high", "very_high"))
_FACT = BodyField("word", tuple(Facts.model_fields))
_GATE = BodyField("word", ("law_enforcement_hold", "authority_first", "notice_incomplete"))
_PHASE = BodyField("word", ("initial", "additional", "final"))
_PUBLIC = BodyField("word", ("website_posting", "state_media"))
_CHANNEL = BodyField("word", tuple(Channel))
_STANDING = {"told_count": _COUNT, "with_providers_count": _COUNT, "without_end_count": _COUNT}
_RELEASE = {"release_id": _ID, "policy_sha256": _SHA256, "mode": _MODE}

CASE_EVENT_KINDS: dict[str, dict[str, BodyField]] = {
    "incident.opened": {
        "revision": _COUNT, "detected_at": _INSTANT, "scope_sha256": _MAYBE_SHA256, "scope_resolved": _FLAG,
        "unsigned_source": _FLAG, "readable": _FLAG, "alert_sha256": _SHA256,
    },
    "incident.scope_proposed": {"proposal_id": _ID, "alert_sha256": _MAYBE_SHA256},
    "incident.alert_repeated": {"alert_sha256": _SHA256, "firing": _FLAG, "readable": _FLAG},
    "incident.alert_after_end": {"alert_sha256": _SHA256},
    "incident.rescoped": {"revision": _COUNT, "scope_sha256": _SHA256, "reason_sha256": _SHA256, "voided": _COUNT},
    "incident.scope_checked": {"revision": _COUNT, "scope_sha256": _SHA256, "unknown_count": _COUNT},
    "incident.scope_understood": {"revision": _COUNT, "scope_sha256": _SHA256},
    "incident.acknowledged": {"state": _STATE, "reason_sha256": _MAYBE_SHA256},
    "incident.everybody_confirmed": {
        "revision": _COUNT, "scope_sha256": _SHA256, "affected_count": _COUNT, "people_count": _MAYBE_COUNT,
        "reason_sha256": _SHA256,
    },
    "incident.closed": {
        "from": _STATE, "reason_sha256": _SHA256, "contacts_removed": _COUNT, "without_end": _COUNT, "finding": _FINDING,
        "unmet_duties": _COUNT,
    },
    "people.listed": {"people": _LISTED, "listed_count": _COUNT},
    "fact.recorded": {"name": _FACT, "value_sha256": _SHA256, "reason_sha256": _SHA256},
    "fact.instant_recorded": {"name": _FACT, "at": _INSTANT, "reason_sha256": _SHA256},
    "fact.presumed": {"name": _FACT, "at": _INSTANT},
    "incident.match_tested": {
        "revision": _COUNT, "file_sha256": _SHA256, "row_count": _COUNT, "usable_count": _COUNT, "matched_count": _COUNT,
        "matched_by_contact_count": _COUNT, "outside_count": _COUNT, "partition_count": _COUNT, "silent_count": _COUNT,
        "reason_sha256": _SHA256,
    },
    "incident.verified": {"from": _STATE, "state": _STATE, "match_test_count": _COUNT, "reason_sha256": _SHA256},
    "incident.dismissal_proposed": {"dismissal_id": _ID, "match_test_id": _MAYBE_ID, "reason_sha256": _SHA256},
    "incident.dismissed": {
        "dismissal_id": _ID, "match_test_id": _MAYBE_ID, "from": _STATE, "contacts_removed": _COUNT, "reason_sha256": _SHA256,
    },
    "incident.possible_excluded": {
        "exclusion_id": _ID, "revision": _COUNT, "people_count": _COUNT, "coverage_sha256": _SHA256, "reason_sha256": _SHA256,
    },
    "incident.possible_included": {"revision": _COUNT, "people_count": _COUNT, "reason_sha256": _SHA256},
    "incident.crosschecked": {
        "crosscheck_id": _ID, "revision": _COUNT, "agreeing_count": _COUNT, "departed_count": _COUNT,
        "later_count": _COUNT, "lag_count": _COUNT, "index_only_count": _COUNT, "unexplained_count": _COUNT,
        "unexplained_sha256": _SHA256,
    },
    "incident.differences_named": {
        "crosscheck_id": _ID, "unexplained_count": _COUNT, "unexplained_sha256": _SHA256, "reason_sha256": _SHA256,
    },
    "risk.assessed": {
        "severity_hundredths": _COUNT, "level": _SEVERITY, "proposed": _RISK, "risk": _RISK, "changed_count": _COUNT,
        "factors_sha256": _SHA256, "reason_sha256": _SHA256,
    },
    "obligations.computed": {
        "revision": _COUNT, "controller_count": _COUNT, "owed_count": _COUNT, "pending_count": _COUNT,
        "moved_count": _COUNT, "answers_sha256": _SHA256, "rules_sha256": _SHA256, "earliest_at": _MAYBE_INSTANT,
    },
    "duty.met": {
        "regime_id": _REGIME, "met_at": _INSTANT, "reference_sha256": _MAYBE_SHA256, "file_sha256": _MAYBE_SHA256,
        "reason_sha256": _SHA256,
    },
    "duty.met_withdrawn": {"regime_id": _REGIME, "reason_sha256": _SHA256},
    "correction.started": {
        "revision": _COUNT, "not_concerned_count": _COUNT, "told_too_much_count": _COUNT, "held_count": _COUNT,
        "segment_count": _COUNT, "reason_sha256": _SHA256,
    },
    "publication.recorded": {
        "publication_id": _ID, "medium": _PUBLIC, "covers": BodyField("codes"), "starts_at": _INSTANT, "ends_at": _INSTANT,
        "file_sha256": _SHA256, "text_sha256": _SHA256, "url_sha256": _SHA256, "as_written": _FLAG, "bundle_sha256": _SHA256,
        "reason_sha256": _SHA256,
    },
    "publication.withdrawn": {"publication_id": _ID, "medium": _PUBLIC, "reason_sha256": _SHA256},
    "letters.posted": {
        "manifest_sha256": _SHA256, "letter_count": _COUNT, "posted_at": _INSTANT, "reason_sha256": _SHA256,
    },
    "letters.returned": {"manifest_sha256": _SHA256, "letter_count": _COUNT, "reason_sha256": _SHA256},
    "dossier.made": {
        "dossier_id": _ID, "regime_id": _REGIME, "dossier_version": _COUNT, "phase": _PHASE, "missing_count": _COUNT,
        "content_sha256": _SHA256, "pdf_sha256": _SHA256, "reason_sha256": _MAYBE_SHA256,
    },
    "dossier.submitted": {
        "dossier_id": _ID, "regime_id": _REGIME, "dossier_version": _COUNT, "submitted_at": _INSTANT,
        "content_sha256": _SHA256, "pdf_sha256": _SHA256, "reference_sha256": _MAYBE_SHA256, "reason_sha256": _SHA256,
    },
    "law.adopted": {
        "rules_sha256": _SHA256, "rules": BodyField("slugs"), "versions_sha256": _SHA256, "reason_sha256": _SHA256,
    },
    "gate.set": {
        "gate_id": _ID, "gate": _GATE, "covers": BodyField("codes"), "regime_id": _MAYBE_REGIME,
        "segment_count": _MAYBE_COUNT, "person_count": _MAYBE_COUNT, "named_sha256": _MAYBE_SHA256,
        "until_at": _MAYBE_INSTANT, "reason_sha256": _MAYBE_SHA256,
    },
    "gate.lifted": {"gate_id": _ID, "gate": _GATE, "regime_id": _MAYBE_REGIME, "reason_sha256": _MAYBE_SHA256},
    "release.prepared": {
        **_RELEASE, "revision": _COUNT, "recipient_count": _COUNT, "late_cap": _COUNT, "voided": _COUNT,
        "reason_sha256": _MAYBE_SHA256,
    },
    "release.approved": {
        **_RELEASE, "approval_count": _COUNT, "sheet_sha256": _MAYBE_SHA256, "reason_sha256": _MAYBE_SHA256,
    },
    "release.started": {**_RELEASE, "recipient_count": _COUNT, "approval_count": _COUNT},
    "release.glass_broken": {
        **_RELEASE, "deadline_before": _INSTANT, "within_reach_count": _COUNT, "reason_sha256": _SHA256,
    },
    "preflight.recorded": {
        **_RELEASE, "moment": BodyField("word", ("prepared", "released")), "rules_sha256": _SHA256,
        "blocking": BodyField("slugs"), "overridden": BodyField("slugs"), "blocked": _FLAG,
        "stops": BodyField("slugs"), "to_decide": BodyField("slugs"), "noted": BodyField("slugs"), "finding_count": _COUNT,
        "people_count": _COUNT, "held_count": _COUNT, "without_channel_count": _COUNT,
    },
    "preflight.overridden": {
        "release_id": _ID, "policy_sha256": _SHA256, "finding": BodyField("slug"), "reason_sha256": _SHA256,
    },
    "provider.circuit_ordered": {
        "provider": BodyField("slug"), "wanted": BodyField("word", ("open", "closed")), "reason_sha256": _SHA256,
    },
    "release.paused": {**_RELEASE, **_STANDING, "reason_sha256": _SHA256},
    "release.paused_with_others": {**_RELEASE},
    "release.resumed": {**_RELEASE, "canary_waived": _FLAG, "reason_sha256": _SHA256},
    "release.cancelled": {**_RELEASE, **_STANDING, "voided": _COUNT, "reason_sha256": _SHA256},
    "release.withdrawn": {**_RELEASE, "approval_count": _COUNT, "reason_sha256": _SHA256},
    "release.retried": {
        **_RELEASE, "people_count": _COUNT, "left_out_count": _COUNT, "maybe_told_count": _COUNT, "reason_sha256": _SHA256,
    },
    "release.rate_set": {"channel": _CHANNEL, "per_thousand_seconds": _MAYBE_COUNT, "reason_sha256": _SHA256},
    "people.bounced_listed": {"listed_count": _COUNT, "opened": _FLAG, "reason_sha256": _MAYBE_SHA256},
    "person.not_notified": {
        "subject": _SHA256,
        "why": BodyField("word", ("held", "release_cancelled", "not_released", "no_receipt_yet")),
    },
    "people.added": {
        "person": _SHA256, "roles": BodyField("codes"),
    },
    "erasure.requested": {
        "erasure_id": _ID, "held": _FLAG, "incident_count": _COUNT, "reason_sha256": _SHA256,
    },
    "erasure.carried_out": {
        "erasure_id": _ID, "requested_at": _INSTANT, "key_count": _COUNT, "notice_count": _COUNT,
    },
    "person.erased": {"erasure_id": _ID, "marker": _SHA256, "requested_at": _INSTANT},
    "evidence.reconciled": {
        "log_size": _COUNT, "attempt_count": _COUNT, "logged_attempt_count": _COUNT, "end_count": _COUNT,
        "logged_end_count": _COUNT, "difference_count": _COUNT,
    },
    "restore.reconciled": {
        "outcome_count": _COUNT, "unknown_count": _COUNT, "erasure_count": _COUNT, "log_size": _COUNT,
        "unknown_accepted": BodyField("flag", optional=True), "decision_count": _MAYBE_COUNT, "paused_count": _MAYBE_COUNT,
        "reason_sha256": _SHA256,
    },
    "evidence.exported": {
        "log_size": _COUNT, "entry_count": _COUNT, "people_count": _COUNT, "without_count": _COUNT,
        "reason_sha256": _MAYBE_SHA256,
    },
    # once for each reader and hour
    "evidence.log_read": {"log_size": _COUNT},
    "subject.exported": {"notice_count": _COUNT, "record_count": _COUNT, "reason_sha256": _SHA256},
    "person.looked_at": {
        "view": BodyField("word", ("subject_export", "delivery_find", "notice_preview", "evidence_proof")),
        "subject_commitment": _SHA256,
        "reason_sha256": _MAYBE_SHA256,
    },
}  # fmt: skip
"""Kind -> field -> shape. The evidence log's allow-list is built from this."""


def case_event(
    kind: str,
    *,
    incident_id: str | None,
    actor: str | None,
    role: Role | None,
    at: datetime,
    body: Body,
    exercise: bool = False,
) -> CaseEvent:
    """Return a case event with an id of its own. Raises UndeclaredEvent if its declaration does not allow it."""
    check_body(kind, body)
    return CaseEvent(
        case_event_id=uuid.uuid4().hex,
        kind=kind,
        incident_id=incident_id,
        actor=actor,
        role=None if role is None else role.value,
        occurred_at=at,
        body=dict(body),  # type: ignore[arg-type]  # lists are checked by shape above
        exercise=exercise,
    )


def check_body(kind: str, body: Mapping[str, Any]) -> None:
    """Raise UndeclaredEvent unless `body` has exactly the declared fields, each in its shape. Never shows a value."""
    declared = CASE_EVENT_KINDS.get(kind)
    if declared is None:
        raise UndeclaredEvent(f"case event {kind!r} is not declared in CASE_EVENT_KINDS")
    for name in body.keys() | declared.keys():
        if name not in declared:
            raise UndeclaredEvent(f"case event {kind}: field {name!r} is not declared")
        if name not in body and not declared[name].optional:
            raise UndeclaredEvent(f"case event {kind}: field {name!r} is missing")
        if not declared[name].allows(body.get(name)):
            raise UndeclaredEvent(f"case event {kind}: field {name!r} has not the shape {declared[name].shape}")


def written(at: datetime) -> str:
    """Return an instant as bodies hold it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def new_salt() -> str:
    """Return 16 random bytes in hex, kept in the case store beside what they hide."""
    return secrets.token_hex(16)


def salted_sha256(salt: str, text: str) -> str:
    """Return SHA-256(salt || UTF-8 text) in hex; `salt` is hex."""
    return hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
