"""What a log says of attempts and ends, as the case store can be compared with: by incident, commitment, round and number.

What came twice counts once, and what counts is when it was recorded, not where it stands: a restored case store publishes
again what waited in its outbox.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from consumers.evidence.leaf_types import DeliveryOutcomeLeaf

AttemptKey = tuple[str, str, int, int]
"""Incident, commitment to the person, round, attempt number."""
PersonKey = tuple[str, str, int]

_FINISHED = "tocsin.case.person.finished"
_ERASED = "tocsin.case.person.erased"


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """An attempt as its newest leaf says."""

    state: str
    channel: str
    provider: str
    bundle_sha256: str | None
    recorded_at: datetime
    begun: bool
    """Whether a provider call was ever begun."""


@dataclass(slots=True)
class Tally:
    """What was read of a log."""

    size: int
    attempts: dict[AttemptKey, LoggedAttempt] = field(default_factory=dict)
    ends: dict[PersonKey, tuple[datetime, str]] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    """Of keys that were erased (see `commitment.erasure_marker`)."""


_NOT_BEGUN = ("planned", "commanded", "cancelled")


def tally(entries: Iterable[tuple[int, bytes]], size: int, incident_id: str | None = None) -> Tally:
    """Return what `entries` say, in whatever order they come; of one incident only, or of all."""
    found = Tally(size)
    mark = None if incident_id is None else incident_id.encode()
    for _, entry in entries:
        if mark is not None and mark not in entry:
            continue
        if b'"tocsin.delivery-outcome"' not in entry and b'"tocsin.case.person.' not in entry:
            continue
        leaf = json.loads(entry)
        incident = leaf.get("incident_id")
        if incident_id is not None and incident != incident_id:
            continue
        if leaf["type"] == DeliveryOutcomeLeaf.TYPE:
            key = (incident, leaf["subject"], leaf.get("round", 1), leaf["attempt_number"])
            at = datetime.fromisoformat(leaf["recorded_at"])
            known = found.attempts.get(key)
            begun = leaf["state"] not in _NOT_BEGUN or (known is not None and known.begun)
            if known is None or at >= known.recorded_at:
                found.attempts[key] = LoggedAttempt(
                    leaf["state"], leaf["channel"], leaf.get("provider", ""), leaf.get("bundle_sha256"), at, begun
                )
            elif begun and not known.begun:
                found.attempts[key] = LoggedAttempt(
                    known.state, known.channel, known.provider, known.bundle_sha256, known.recorded_at, begun
                )
        elif leaf["type"] == _FINISHED:
            person = (incident, leaf["body"]["subject"], leaf["body"].get("round", 1))
            at = datetime.fromisoformat(leaf["occurred_at"])
            if person not in found.ends or at >= found.ends[person][0]:
                found.ends[person] = (at, leaf["body"]["state"])
        elif leaf["type"] == _ERASED:
            found.markers.add(leaf["body"]["marker"])
    return found
