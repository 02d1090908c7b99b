"""What a log says of attempts, ends and decisions, as the case store can be compared with: attempts by incident, commitment,
round and number.

What came twice counts once, and what counts is when it was recorded, not where it stands: a restored case store publishes
again what waited in its outbox. What it does about people whom it believes untold does not undo that they were told.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from consumers.evidence.leaf_types import DeliveryOutcomeLeaf

AttemptKey = tuple[str, str, int, int]
"""Incident, commitment to the person, round, attempt number."""
PersonKey = tuple[str, str, int]

_CASE = "tocsin.case."
_BY_TOCSIN = (
    "tocsin.case.incident.opened", "tocsin.case.release.started", "tocsin.case.release.canary_held",
    "tocsin.case.erasure.carried_out",
)  # fmt: skip
_FINISHED = "tocsin.case.person.finished"
_ERASED = "tocsin.case.person.erased"


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """An attempt as its newest leaf says, of those that follow from what had left the house."""

    state: str
    channel: str
    provider: str
    bundle_sha256: str | None
    recorded_at: datetime
    called: bool
    """Whether it was ever in a state of which a provider may know."""
    intended_at: datetime | None = None
    """When it was last claimed."""
    let_go_at: datetime | None = None
    """When a claim of it last came to nothing: it waited again, and no provider has it."""
    arrived: bool = False
    """Whether a receipt ever said that it arrived, or that it was read."""
    message_digest: str | None = None
    """Salted hash of the provider's id of the message, as it was said last."""

    @property
    def begun(self) -> bool:
        """Whether a provider was ever called, or may have been: claimed once more than let go."""
        if self.called or self.intended_at is None:
            return self.called
        return self.let_go_at is None or self.let_go_at < self.intended_at


@dataclass(frozen=True, slots=True)
class LoggedAct:
    """What somebody decided, or Tocsin did to an incident or a release. Who, and why, the log does not say."""

    kind: str
    incident_id: str | None
    occurred_at: datetime
    by_person: bool
    role: str | None = None
    about: str | None = None
    """The id of the release or the erasure, or the text's hash."""


@dataclass(slots=True)
class Tally:
    """What was read of a log."""

    size: int
    attempts: dict[AttemptKey, LoggedAttempt] = field(default_factory=dict)
    ends: dict[PersonKey, tuple[datetime, str]] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    """Of keys that were erased (see `commitment.erasure_marker`)."""
    acts: dict[LoggedAct, None] = field(default_factory=dict)
    """In the log's order; what was published twice once."""


SAY_THAT_IT_ARRIVED = frozenset({"delivered", "read", "complained"})
"""Kinds of receipts, and the states that they lead to."""
_NOT_BEGUN = ("planned", "commanded", "cancelled")
_CLAIMED = "intended"
_UNSENT = ("planned", "commanded")
"""Whoever moves an attempt from one of these knows of no call."""


def tally(entries: Iterable[tuple[int, bytes]], size: int, incident_id: str | None = None) -> Tally:
    """Return what `entries` say, in whatever order they come; of one incident only, or of all."""
    found = Tally(size)
    unsent: dict[AttemptKey, LoggedAttempt] = {}
    mark = None if incident_id is None else incident_id.encode()
    for _, entry in entries:
        if mark is not None and mark not in entry:
            continue
        if b'"tocsin.delivery-outcome"' not in entry and b'"tocsin.case.' not in entry:
            continue
        leaf = json.loads(entry)
        incident = leaf.get("incident_id")
        if incident_id is not None and incident != incident_id:
            continue
        if leaf["type"] == DeliveryOutcomeLeaf.TYPE:
            key = (incident, leaf["subject"], leaf.get("round", 1), leaf["attempt_number"])
            quiet = leaf["previous_state"] in _UNSENT and leaf["state"] in _NOT_BEGUN
            into = unsent if quiet else found.attempts
            into[key] = _newer(into.get(key), _logged(leaf))
        elif leaf["type"] == _FINISHED:
            person = (incident, leaf["body"]["subject"], leaf["body"].get("round", 1))
            at = datetime.fromisoformat(leaf["occurred_at"])
            if person not in found.ends or at >= found.ends[person][0]:
                found.ends[person] = (at, leaf["body"]["state"])
        elif leaf["type"] == _ERASED:
            found.markers.add(leaf["body"]["marker"])
        elif leaf.get("actor") is not None or leaf["type"] in _BY_TOCSIN:
            found.acts[_act(leaf)] = None
    for key, each in unsent.items():
        known = found.attempts.get(key)
        if known is None:
            found.attempts[key] = each
        elif known.state in _NOT_BEGUN and each.recorded_at >= known.recorded_at:
            found.attempts[key] = replace(
                each, called=known.called, intended_at=known.intended_at, let_go_at=known.let_go_at,
                arrived=known.arrived, message_digest=known.message_digest,
            )  # fmt: skip
        # else a store that was put back in time took for unsent what had been sent
    return found


def _act(leaf: dict[str, Any]) -> LoggedAct:
    body = leaf["body"]
    return LoggedAct(
        leaf["type"].removeprefix(_CASE), leaf.get("incident_id"), datetime.fromisoformat(leaf["occurred_at"]),
        leaf.get("actor") is not None, leaf.get("role"),
        body.get("release_id") or body.get("bundle_sha256") or body.get("erasure_id"),
    )  # fmt: skip


def _logged(leaf: dict[str, Any]) -> LoggedAttempt:
    at, state = datetime.fromisoformat(leaf["recorded_at"]), leaf["state"]
    claimed, let_go = state == _CLAIMED, leaf["previous_state"] == _CLAIMED and state == "planned"
    return LoggedAttempt(
        state, leaf["channel"], leaf.get("provider", ""), leaf.get("bundle_sha256"), at,
        not claimed and state not in _NOT_BEGUN, at if claimed else None, at if let_go else None,
        leaf.get("receipt_kind") in SAY_THAT_IT_ARRIVED, leaf.get("provider_message_digest"),
    )  # fmt: skip


def _newer(known: LoggedAttempt | None, each: LoggedAttempt) -> LoggedAttempt:
    """Return the one recorded last, with what both say of calls."""
    if known is None:
        return each
    last = each if each.recorded_at >= known.recorded_at else known
    called = known.called or each.called
    intended_at = max(filter(None, (known.intended_at, each.intended_at)), default=None)
    let_go_at = max(filter(None, (known.let_go_at, each.let_go_at)), default=None)
    arrived = known.arrived or each.arrived
    digest = last.message_digest or known.message_digest or each.message_digest
    said = (last.called, last.intended_at, last.let_go_at, last.arrived, last.message_digest)
    if said == (called, intended_at, let_go_at, arrived, digest):
        return last
    return replace(
        last, called=called, intended_at=intended_at, let_go_at=let_go_at, arrived=arrived, message_digest=digest
    )
