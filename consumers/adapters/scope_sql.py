"""A scope as a DuckDB expression over a record `r` and its person `p`, with NULL as the third truth value.

Says exactly what `consumers.domain.scope_matching.verdict` says; a property test holds the two equal.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from bridge.contracts.scope import Scope
from consumers.domain.scope_matching import UNKNOWN_VERSIONS, version_within

_SCALARS = {
    "model_ids": "r.model_id",
    "run_ids": "r.run_id",
    "dataset_versions": "r.dataset_version",
    "attributes": "r.attribute",
    "entity_types": "r.entity_type",
    "source_systems": "r.source_system",
    "storage_locations": "r.storage_location",
    "kinds": "r.kind",
    "sensitivities": "r.sensitivity",
    "record_ids": "r.record_id",
}
_FEW = 16
"""Values up to which comparing a record with one after the other costs less than to look it up among all."""
_NUMBERS = {"website_ids": "p.website_id", "store_ids": "p.store_id"}


def asks_for_versions(scope: Scope) -> bool:
    """Return whether `compile_scope` needs the versions: DuckDB cannot compare semantic versions itself."""
    return bool(scope.version_ranges) or any(asks_for_versions(part) for part in scope.parts)


_PEOPLE = ("roots", "email_hmacs", "website_ids", "store_ids", "countries")
_NEVER_NULL = frozenset({"model_ids", "attributes", "entity_types", "kinds", "sensitivities", "record_ids"})


def asks_for_people(scope: Scope) -> bool:
    """Return whether the expression of `compile_scope` names the person `p`."""
    return any(getattr(scope, name) for name in _PEOPLE) or any(asks_for_people(part) for part in scope.parts)


def narrowing(scope: Scope) -> tuple[list[str], list[Any]]:
    """Return conditions, to be joined by AND, that leave out records of which `scope` says certainly not, and parameters.

    They say less than `compile_scope`, but in a form that DuckDB answers from its statistics and without lists: most
    records of a large index are left out here.
    """
    conditions: list[str] = []
    parameters: list[Any] = []

    def add(condition: str, *values: Any) -> None:
        conditions.append(condition)
        parameters.extend(values)

    for name, column in _SCALARS.items():
        if wanted := getattr(scope, name):
            missing = "" if name in _NEVER_NULL else f" OR {column} IS NULL"
            add(f"({_in(column, len(wanted))}{missing})", *wanted)
    if scope.model_versions:
        versions = (*scope.model_versions, *UNKNOWN_VERSIONS)
        add(_in("r.model_version", len(versions)), *versions)
    for term, *values in _windows(scope):
        add(term, *values)
    for part in scope.all_of:
        narrower, values = narrowing(part)
        conditions.extend(narrower)
        parameters.extend(values)
    return conditions, parameters


def compile_scope(scope: Scope, versions: Iterable[str] = (), *, narrowed: bool = False) -> tuple[str, list[Any]]:
    """Return a Boolean expression and its positional parameters.

    `versions`: every version that a record has, where the scope `asks_for_versions`. `narrowed`: it is asked only of records
    that pass what `narrowing` says, so that what is decided there is not decided again.
    """
    versions = tuple(versions)
    terms: list[str] = []
    parameters: list[Any] = []

    def add(term: str, *values: Any) -> None:
        terms.append(term)
        parameters.extend(values)

    for name, column in _SCALARS.items():
        if (wanted := getattr(scope, name)) and not (narrowed and name in _NEVER_NULL):
            add(_among(column, "VARCHAR"), list(wanted))
    for name, column in _NUMBERS.items():
        if wanted := getattr(scope, name):
            add(_among(column, "BIGINT"), list(wanted))
    if scope.model_versions:
        add(
            "(CASE WHEN list_contains(?::VARCHAR[], r.model_version) THEN TRUE "
            "WHEN r.model_version IS NULL OR list_contains(?::VARCHAR[], r.model_version) THEN NULL ELSE FALSE END)",
            list(scope.model_versions),
            list(UNKNOWN_VERSIONS),
        )
    if scope.version_ranges:
        said = {version: version_within(scope.version_ranges, version) for version in versions}
        add(
            "(CASE WHEN r.model_version IS NULL OR list_contains(?::VARCHAR[], r.model_version) THEN NULL "
            "ELSE list_contains(?::VARCHAR[], r.model_version) END)",
            [version for version, verdict in said.items() if verdict is None],
            [version for version, verdict in said.items() if verdict],
        )
    if scope.categories:
        add(_overlaps("r.categories"), list(scope.categories))
    if scope.countries:
        add(_overlaps("nullif(p.jurisdictions, []::VARCHAR[])"), [code.upper() for code in scope.countries])
    if scope.roots:
        roots = list(scope.roots)
        add(
            "(list_contains(?::VARCHAR[], r.root)"
            " OR coalesce(list_contains(?::VARCHAR[], 'customer/' || r.customer_id), FALSE)"
            " OR coalesce(list_contains(?::VARCHAR[], 'customer/' || p.customer_id), FALSE))",
            roots,
            roots,
            roots,
        )
    if scope.email_hmacs:
        add(
            "(CASE WHEN p.root IS NULL THEN NULL ELSE coalesce(list_contains(?::VARCHAR[], p.email_hmac), FALSE) END)",
            list(scope.email_hmacs),
        )
    for term, *values in () if narrowed else _windows(scope):
        add(term, *values)
    for part in scope.all_of:
        term, values = compile_scope(part, versions, narrowed=narrowed)
        add(term, *values)
    if scope.any_of:
        compiled = [compile_scope(part, versions) for part in scope.any_of]
        add(_joined(" OR ", [term for term, _ in compiled]), *(value for _, values in compiled for value in values))
    for part in scope.none_of:
        term, values = compile_scope(part, versions)
        add(f"(NOT {term})", *values)
    return _joined(" AND ", terms), parameters


def _windows(scope: Scope) -> Iterator[tuple[Any, ...]]:
    """Yield a term and its parameters for each end of the scope's own windows."""
    if scope.generated_from is not None:
        yield "(r.generated_at >= ?::TIMESTAMP)", stored(scope.generated_from)
    for end in (scope.generated_to, scope.exposed_to):
        if end is not None:
            yield "(r.generated_at <= ?::TIMESTAMP)", stored(end)
    if scope.exposed_from is not None:
        start = stored(scope.exposed_from)
        yield "(r.deleted_at IS NULL OR r.deleted_at > ?::TIMESTAMP OR r.generated_at >= ?::TIMESTAMP)", start, start


def stored(at: datetime) -> datetime:
    """Return an instant as the index stores it: UTC without a zone."""
    return at.astimezone(UTC).replace(tzinfo=None)


def _joined(operator: str, terms: Sequence[str]) -> str:
    return f"({operator.join(terms)})" if terms else "TRUE"


def _in(column: str, count: int) -> str:
    places = f"{column} IN ({', '.join('?' * count)})"
    # A bare list of some values becomes a join behind the scan, which then reads all columns of all records.
    return f"coalesce({places}, FALSE)" if 1 < count <= _FEW else places


def _among(column: str, kind: str) -> str:
    return f"(CASE WHEN {column} IS NULL THEN NULL ELSE list_contains(?::{kind}[], {column}) END)"


def _overlaps(column: str) -> str:
    return f"(CASE WHEN {column} IS NULL THEN NULL ELSE list_has_any({column}, ?::VARCHAR[]) END)"
