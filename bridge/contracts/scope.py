"""What leaked, as a question to the provenance index: which records, in which exposure window.

Fields of one scope are joined by AND, the values within a field by OR; `all_of`, `any_of` and `none_of` nest. An empty
scope without nesting matches every record. The canonical JSON form (sorted keys, sorted values, nothing empty) is what
people approve; its SHA-256 names the scope in every record.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, model_validator


def _in_utc(at: datetime) -> datetime:
    return at.astimezone(UTC)


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A timezone-aware instant, held in UTC; naive ones are refused."""


class Scope(BaseModel):
    """Which provenance records an incident is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_ids: tuple[str, ...] = ()
    model_versions: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    dataset_versions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    entity_types: tuple[str, ...] = ()
    source_systems: tuple[str, ...] = ()
    storage_locations: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    sensitivities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    record_ids: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    website_ids: tuple[int, ...] = ()
    store_ids: tuple[int, ...] = ()
    countries: tuple[str, ...] = ()
    """ISO 3166-1 or -2 codes of any residence; `US` also covers `US-CA`."""
    generated_from: Instant | None = None
    generated_to: Instant | None = None
    """The record was generated in [generated_from, generated_to]."""
    exposed_from: Instant | None = None
    exposed_to: Instant | None = None
    """The record existed at some moment of [exposed_from, exposed_to], even if deleted since."""
    all_of: tuple["Scope", ...] = ()
    any_of: tuple["Scope", ...] = ()
    none_of: tuple["Scope", ...] = ()

    @model_validator(mode="after")
    def _windows_run_forwards(self) -> "Scope":
        for name in ("generated", "exposed"):
            start, end = getattr(self, f"{name}_from"), getattr(self, f"{name}_to")
            if start is not None and end is not None and start > end:
                raise ValueError(f"{name}_from {start.isoformat()} lies after {name}_to {end.isoformat()}")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the canonical form: only what restricts, every list sorted and without repeats."""
        result: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or value == ():
                continue
            if name in ("all_of", "any_of", "none_of"):
                result[name] = sorted(
                    (part.canonical() for part in value), key=lambda part: json.dumps(part, sort_keys=True)
                )
            elif isinstance(value, datetime):
                result[name] = value.isoformat().replace("+00:00", "Z")
            else:
                result[name] = sorted(set(value))
        return result

    def sha256(self) -> str:
        """Return the hash, in hex, of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
