"""The leaf types of what stages decide by themselves, for the evidence log's allow-list."""

from typing import Any

from consumers.evidence.leaves import At, Count, Flag, Slug, case_leaf

_CLOCK = {"regime_id": Slug, "percent": Count, "deadline_at": At, "conservative": Flag}

LEAF_TYPES: list[type[Any]] = [case_leaf("deadline.warned", _CLOCK), case_leaf("deadline.missed", _CLOCK)]
