"""The leaf types for what the evidence stage reads: outcomes, reads, resolutions, and the kinds of case events.

A field that is not here is not logged in clear (see `leaves`). What a digest is of, and whether it is keyed, is decided
where it is made; a text that names a person must be hashed under that person's key to stay unlinkable after an erasure.
"""

from typing import Any

from bridge.contracts.events import AttemptState, Channel, IncidentId
from consumers.domain.delivery import PersonEnd
from consumers.evidence.leaves import (
    At,
    Count,
    Digest,
    EventLeaf,
    Flag,
    Id,
    Kinds,
    Leaf,
    Opaque,
    Slug,
    Version,
    Word,
    case_leaf,
)
from consumers.evidence.rotation import KeyRotation


class DeliveryOutcomeLeaf(EventLeaf):
    """One change of one attempt. The attempt is (incident, subject, round, attempt number)."""

    TYPE = "tocsin.delivery-outcome"
    incident_id: IncidentId
    subject: Digest
    """Commitment to the person."""
    attempt_number: Count
    round: Count | None = None
    """Which notice to this person: 1 is the first, 2 and up supplement or correct it."""
    channel: Channel
    provider: Slug | None = None
    state: AttemptState
    previous_state: AttemptState
    sub_type: Word | None = None
    receipt_kind: Word | None = None
    body_digest: Digest | None = None
    """Of the final text as this person got it."""
    bundle_sha256: Digest | None = None
    """Of the approved bundle."""
    provider_message_digest: Digest | None = None
    """Salted, of the provider's message id."""
    occurred_at: At
    recorded_at: At
    exercise: Flag = False


class NoticeReadLeaf(EventLeaf):
    """Somebody confirmed on the account page that a notice was read. Whose, the outcome that follows from it says."""

    TYPE = "tocsin.notice-read"
    read_at: At


class PartitionResolvedLeaf(EventLeaf):
    """One partition's whole answer to one revision of an incident."""

    TYPE = "tocsin.partition-resolved"
    incident_id: IncidentId
    revision: Count
    partition: Count
    partition_count: Count
    scope_sha256: Digest
    position_offset: Count
    affected_count: Count
    possible_count: Count
    members_root: Digest
    artefact_sha256: Digest
    coverage_sha256: Digest
    """Of the canonical JSON of the coverage by model and attribute."""
    untagged_count: Count
    code_version: Version | None = None
    resolved_at: At
    exercise: Flag | None = None
    """Only of an exercise."""


CASE_KINDS: Kinds = {
    "person.finished": {
        "subject": Digest, "state": PersonEnd, "publications": tuple[Id, ...], "round": Count, "root_count": Count,
        "roots_digest": Digest,
    },
    "person.regrouped": {"subject": Digest, "round": Count, "root_count": Count, "roots_digest": Digest},
    "release.finished": {
        "release_id": Opaque, "mode": Word, "people": Count, "reached": Count, "substituted": Count,
        "unreachable": Count, "held": Count,
    },
}  # fmt: skip
"""Kinds that no room of their own registers."""

_EVENT_LEAVES: list[type[Leaf]] = [DeliveryOutcomeLeaf, NoticeReadLeaf, PartitionResolvedLeaf, KeyRotation]
LEAF_TYPES: list[type[Any]] = _EVENT_LEAVES + [case_leaf(kind, fields) for kind, fields in CASE_KINDS.items()]
