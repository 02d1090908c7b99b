"""The leaf types of what stages decide by themselves, for the evidence log's allow-list."""

from typing import Any

from consumers.evidence.leaves import At, Count, Flag, Opaque, Slug, Word, case_leaf

_CLOCK = {"regime_id": Slug, "percent": Count, "deadline_at": At, "conservative": Flag}

_CANARY = {"release_id": Opaque, "mode": Word, "arrived": Count, "failed": Count, "silent": Count}

LEAF_TYPES: list[type[Any]] = [
    case_leaf("deadline.warned", _CLOCK),
    case_leaf("deadline.missed", _CLOCK),
    case_leaf("release.canary_passed", _CANARY),
    case_leaf("release.canary_held", _CANARY),
]
