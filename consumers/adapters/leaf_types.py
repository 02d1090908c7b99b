"""The leaf types of what planning draws up and counsel approves, for the evidence log's allow-list."""

from typing import Any

from consumers.evidence.leaves import At, Code, Count, Digest, Id, Opaque, Slug, case_leaf

_PLAN = {
    "revision": Count, "recipient_count": Count, "held_count": Count, "segment_count": Count, "residents_sha256": Digest,
    "segments_sha256": Digest, "late_count": Count, "supplement_count": Count,
}  # fmt: skip

LEAF_TYPES: list[type[Any]] = [
    case_leaf(
        "plan.completed",
        _PLAN
        | {"affected_count": Count, "partition_count": Count, "members_sha256": Digest, "rules_sha256": Digest},
    ),
    case_leaf("plan.extended", _PLAN | {"changed_count": Count, "removed_count": Count}),
    # whoever checks that nobody was left out counts these members with those under the partitions' own roots
    case_leaf(
        "people.added_late",
        {"revision": Count, "number": Count, "member_count": Count, "new_count": Count, "members_root": Digest,
         "total_count": Count},
    ),
    case_leaf("people.told_wrongly", {"revision": Count, "not_concerned_count": Count, "told_too_much_count": Count}),
    case_leaf("people.told_in_other_incident", {"subject": Digest, "year": Count, "number": Count}),
    case_leaf(
        "party.notified",
        {"notice_id": Id, "release_id": Opaque, "party": Slug, "document_sha256": Digest, "try_count": Count,
         "provider_message_sha256": Digest},
    ),
    case_leaf("notice.approved", {"bundle_sha256": Digest, "jurisdictions": tuple[Code, ...], "valid_until": At}),
    case_leaf("notice.revoked", {"bundle_sha256": Digest}),
]  # fmt: skip
