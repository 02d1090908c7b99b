"""What leaked, as a question to the provenance index: which records, in which exposure window.

Fields of one scope are joined by AND, the values within a field by OR; `all_of`, `any_of` and `none_of` nest. An empty
scope without nesting matches every record. The canonical JSON form (sorted keys, sorted values, nothing empty) is what
people approve; its SHA-256 names the scope in every record. `AskedScope` is the form before the registry was asked.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator


def _in_utc(at: datetime) -> datetime:
    return at.astimezone(UTC)


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A timezone-aware instant, held in UTC; naive ones are refused."""


_NUMBER, _LABEL = r"(0|[1-9][0-9]*)", r"(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_COMPARATOR = re.compile(rf"(>=|<=|>|<|=)?v?{_NUMBER}(\.{_NUMBER}(\.{_NUMBER}(-{_LABEL}(\.{_LABEL})*)?)?)?")


def _range_can_be_read(text: str) -> str:
    parts = text.replace(",", " ").split()
    if not parts or not all(_COMPARATOR.fullmatch(part) for part in parts):
        raise ValueError(f"{text!r} is no version range; write comparators joined by AND, such as '>=2.1 <3'")
    return " ".join(parts)


VersionRange = Annotated[str, AfterValidator(_range_can_be_read)]
"""Comparators on semantic versions (semver.org 2.0.0; missing parts are 0), all of which must hold: `>=2.1 <3`."""
EmailHmac = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""HMAC-SHA256(join key, SHA-256(trimmed, lower-cased e-mail)), in hex: how a list of addresses names people."""


class Scope(BaseModel):
    """Which provenance records an incident is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_ids: tuple[str, ...] = ()
    model_versions: tuple[str, ...] = ()
    version_ranges: tuple[VersionRange, ...] = ()
    """A version that is not semantic can neither be confirmed nor excluded by a range."""
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
    email_hmacs: tuple[EmailHmac, ...] = ()
    website_ids: tuple[int, ...] = ()
    store_ids: tuple[int, ...] = ()
    countries: tuple[str, ...] = ()
    """ISO 3166-1 or -2 codes of any residence; `US` also covers `US-CA`."""
    generated_from: Instant | None = None
    generated_to: Instant | None = None
    """The record was generated in [generated_from, generated_to]."""
    everyone: bool = False
    """Whoever the person's fields name, whether or not a record is about them ("all customers of store 3"). Only on the
    outermost scope, and only beside fields about people: roots, email_hmacs, website_ids, store_ids, countries."""
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

    @model_validator(mode="after")
    def _everyone_means_people(self) -> "Scope":
        if any(part._somewhere("everyone") for part in self.parts):
            raise ValueError("everyone can only be said of the outermost scope")
        asked = sorted(name for name in _ABOUT_RECORDS if self._somewhere(name))
        if self.everyone and asked:
            raise ValueError(f"everyone cannot be joined with {', '.join(asked)}: these ask for records")
        return self

    @property
    def parts(self) -> tuple["Scope", ...]:
        """Return the scopes nested directly in this one."""
        return (*self.all_of, *self.any_of, *self.none_of)

    def _somewhere(self, name: str) -> bool:
        return getattr(self, name) not in (None, (), False) or any(part._somewhere(name) for part in self.parts)

    def canonical(self) -> dict[str, Any]:
        """Return the canonical form: only what restricts, every list sorted and without repeats."""
        result: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or value in ((), False):
                continue
            if name in ("all_of", "any_of", "none_of"):
                result[name] = sorted(
                    (part.canonical() for part in value), key=lambda part: json.dumps(part, sort_keys=True)
                )
            elif isinstance(value, datetime):
                result[name] = value.isoformat().replace("+00:00", "Z")
            elif value is True:
                result[name] = True
            else:
                result[name] = sorted(set(value))
        return result

    def sha256(self) -> str:
        """Return the hash, in hex, of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_ABOUT_PEOPLE = frozenset({"roots", "email_hmacs", "website_ids", "store_ids", "countries", "everyone"})
_ABOUT_RECORDS = frozenset(Scope.model_fields) - _ABOUT_PEOPLE - {"all_of", "any_of", "none_of"}


def _alias_is_readable(text: str) -> str:
    model, at, alias = text.rpartition("@")
    if not alias or (at and not model):
        raise ValueError(f"{text!r} is no alias; write champion or fraud-scorer@champion")
    return text


ModelAlias = Annotated[str, AfterValidator(_alias_is_readable)]
"""`champion` (of every model that the scope names), or `fraud-scorer@champion`."""
EmailSha256 = Annotated[str, AfterValidator(str.lower), Field(pattern=r"^[0-9a-fA-F]{64}$")]
"""SHA-256 of the trimmed, lower-cased e-mail, in hex."""


class AskedScope(Scope):
    """A scope as people and monitors write it, with words that only the model registry, lineage or the join key can turn
    into what records hold. It is rewritten once, when the incident opens or is counted; the rewritten `Scope` is what is
    frozen, hashed and resolved.
    """

    model_aliases: tuple[ModelAlias, ...] = ()
    """What the registry's aliases named at `aliases_at`; joined by AND with the other fields."""
    aliases_at: Instant | None = None
    """Of when the aliases are meant; None: as they were last seen."""
    with_descendants: bool = False
    """Also what was derived from the models, runs or dataset versions that this scope names: by the registry's
    `tocsin.derived_from`, transitively and across models, and through the outputs of runs."""
    email_sha256s: tuple[EmailSha256, ...] = ()
    """One list with `email_hmacs`: addresses as whoever lacks our join key can hash them."""
    all_of: tuple["AskedScope", ...] = ()
    any_of: tuple["AskedScope", ...] = ()
    none_of: tuple["AskedScope", ...] = ()

    @property
    def asks_registry(self) -> bool:
        """Return whether the model registry must be asked for what this scope means, at any depth."""
        return self._somewhere("model_aliases") or self._somewhere("with_descendants")

    @model_validator(mode="after")
    def _words_have_an_object(self) -> "AskedScope":
        if self.with_descendants and not any(getattr(self, name) for name in _DERIVES):
            raise ValueError(f"with_descendants needs one of {', '.join(_DERIVES)} beside it in the same scope")
        if self.aliases_at is not None and not self.model_aliases:
            raise ValueError("aliases_at needs model_aliases beside it in the same scope")
        asked = [name for name in ("model_aliases", "with_descendants") if self._somewhere(name)]
        if self.everyone and asked:
            raise ValueError(f"everyone cannot be joined with {', '.join(asked)}: these ask for records")
        return self


_DERIVES = ("model_ids", "model_versions", "version_ranges", "model_aliases", "run_ids", "dataset_versions")


class Rewriting(BaseModel):
    """By which knowledge a scope was rewritten. Holds names of models, runs and datasets, never of people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: dict[str, Any]
    """The scope before it was rewritten, canonical, addresses as keyed hashes."""
    registry: str | None = None
    """Which adapter's registry; None: none is set up, or it was not needed."""
    registry_revision: int | None = None
    """Counts the changes that were seen of the registry."""
    registry_changed_at: Instant | None = None
    registry_seen_at: Instant | None = None
    """When it was last seen in this state; None: never."""
    registry_fault: str | None = None
    """Why it could not be seen since; the last known state was used."""
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Versions by `model@alias`. Several where it changed between two looks: each of them is meant."""
    descendants: tuple[str, ...] = ()
    """`model@version` of what was found to be derived."""
    cycles: tuple[tuple[str, ...], ...] = ()
    """Versions that are derived from themselves, as the registry says; each is counted once."""
    unlisted: tuple[str, ...] = ()
    """Versions (or models) that the registry does not list: what is derived from them is not known."""
    run_count: int = 0
    """Runs that lineage added."""
    datasets: tuple[str, ...] = ()
    """Dataset versions that lineage added or that led to runs."""
    unknown: tuple[str, ...] = ()
    """What could not be known, in words."""
