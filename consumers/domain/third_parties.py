"""What partners and processors are told of an incident: ids, times and a count, never a person or a contact.

One document a release and party, published on that party's SNS topic. It says that a release is under way and which
models it is about, so that they can stop what feeds on them. Not for processors' own duties of notice, nor for people.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.contracts.scope import Scope

FORMAT = "tocsin-third-party-notice-v1"


@dataclass(frozen=True, slots=True)
class ThirdParty:
    """Somebody who is told, as the settings name them."""

    name: str
    topic_arn: str
    role: str
    """partner, processor."""
    models: frozenset[str]
    """Whose incidents concern them; empty: all of them."""


@dataclass(frozen=True, slots=True)
class ReleasedIncident:
    """What the document is made of."""

    incident_id: str
    revision: int
    release_id: str
    released_at: datetime
    detected_at: datetime
    scope: Mapping[str, Any] | None
    people_count: int
    exercise: bool


def models_of(scope: Scope) -> frozenset[str]:
    """Return every model that a scope names, at whatever depth; what it leaves out does not count."""
    nested = (models_of(part) for part in (*scope.all_of, *scope.any_of))
    return frozenset(scope.model_ids).union(*nested)


def concerned(parties: Collection[ThirdParty], scope: Mapping[str, Any] | None) -> list[ThirdParty]:
    """Return whom an incident concerns: those of all incidents, and those one of whose models it names."""
    models = frozenset() if scope is None else models_of(Scope.model_validate(scope))
    return [each for each in parties if not each.models or each.models & models]


def notice_id(release_id: str, party: str) -> str:
    """Return the id that stays the same however often the document has to be published."""
    return hashlib.sha256(f"{release_id}/{party}".encode()).hexdigest()[:32]


def document(party: ThirdParty, incident: ReleasedIncident) -> str:
    """Return the JSON that `party` gets; `SCHEMA` describes it. Of models it names those that are the party's own."""
    scope = Scope() if incident.scope is None else Scope.model_validate(incident.scope)
    named = models_of(scope)
    content = {
        "format": FORMAT,
        "notice_id": notice_id(incident.release_id, party.name),
        "party": party.name,
        "role": party.role,
        "incident_id": incident.incident_id,
        "revision": incident.revision,
        "release_id": incident.release_id,
        "exercise": incident.exercise,
        "detected_at": _written(incident.detected_at),
        "released_at": _written(incident.released_at),
        "exposed_from": _written(scope.exposed_from),
        "exposed_to": _written(scope.exposed_to),
        "models": sorted(named & party.models if party.models else named),
        "model_versions": sorted(scope.model_versions),
        "people_count": incident.people_count,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


_AT = {"type": "string", "format": "date-time", "description": "UTC"}
_MAYBE_AT = {"type": ["string", "null"], "format": "date-time", "description": "UTC; null: not known"}
_WORDS = {"type": "array", "items": {"type": "string"}}
_PROPERTIES: dict[str, Any] = {
    "format": {"const": FORMAT},
    "notice_id": {"type": "string", "pattern": "^[0-9a-f]{32}$",
                  "description": "the same whenever this notice is published again: at least once, so keep it and compare"},
    "party": {"type": "string", "description": "your name in our settings"},
    "role": {"enum": ["partner", "processor"]},
    "incident_id": {"type": "string", "pattern": "^INC-[0-9]{4}-[0-9]{4,}$", "description": "name it when you write to us"},
    "revision": {"type": "integer", "minimum": 1, "description": "of the incident's scope; a later one replaces this"},
    "release_id": {"type": "string"},
    "exercise": {"type": "boolean", "description": "true: nothing has happened"},
    "detected_at": _AT,
    "released_at": {**_AT, "description": "when two people let the notices to customers go out, in UTC"},
    "exposed_from": _MAYBE_AT,
    "exposed_to": _MAYBE_AT,
    "models": {**_WORDS, "description": "AI models whose records leaked; those that concern you"},
    "model_versions": {**_WORDS, "description": "versions that the incident is confined to; empty: not confined"},
    "people_count": {"type": "integer", "minimum": 0, "description": "how many customers are told"},
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": FORMAT,
    "title": "What partners and processors are told of an incident, once for each release",
    "type": "object",
    "additionalProperties": False,
    "required": list(_PROPERTIES),
    "properties": _PROPERTIES,
}
