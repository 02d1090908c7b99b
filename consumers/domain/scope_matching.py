"""Does a provenance record fall under a scope: the definition that every other form (the index's SQL) is tested against.

Answers are three-valued. A fact that nobody recorded (no run id, model version `unknown`, a residence nobody knows) can
neither confirm nor exclude, so the answer is None, and who is held only by such answers is *possible*, not affected by
record. Not for finding records: that is the index's work.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Protocol

import semver

from bridge.contracts.events import Residence
from bridge.contracts.scope import Scope

Verdict = bool | None
"""True: matches; False: does not; None: what would decide it was never recorded (Kleene's third value)."""

UNKNOWN_VERSIONS = ("unknown", "")
"""What writers put where they do not know their model's version; Magento's SQL mode turns NULL into the empty string."""


class RecordFacts(Protocol):
    """What a scope asks of a record. `ProvenanceRecorded` has it; None is "not recorded"."""

    @property
    def root(self) -> str: ...
    @property
    def customer_id(self) -> int | None: ...
    @property
    def record_id(self) -> str: ...
    @property
    def entity_type(self) -> str: ...
    @property
    def attribute(self) -> str: ...
    @property
    def model_id(self) -> str | None: ...
    @property
    def model_version(self) -> str | None: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def dataset_version(self) -> str | None: ...
    @property
    def source_system(self) -> str | None: ...
    @property
    def storage_location(self) -> str | None: ...
    @property
    def kind(self) -> str | None: ...
    @property
    def sensitivity(self) -> str | None: ...
    @property
    def categories(self) -> tuple[str, ...] | None: ...
    @property
    def generated_at(self) -> datetime | None: ...
    @property
    def deleted_at(self) -> datetime | None: ...


class PersonFacts(Protocol):
    """What a scope asks of the data subject. Every person event has it."""

    @property
    def customer_id(self) -> int | None: ...
    @property
    def website_id(self) -> int: ...
    @property
    def store_id(self) -> int: ...
    @property
    def residence(self) -> tuple[Residence, ...]: ...
    @property
    def email_hmac(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class UntaggedValue:
    """A registered attribute's value that no record explains, as the record that somebody failed to write.

    `model_id` is one of the models known to write the attribute, or None where none is known.
    """

    root: str
    customer_id: int | None
    attribute: str
    model_id: str | None
    record_id: str = ""
    entity_type: str = "customer"
    model_version: str | None = None
    run_id: str | None = None
    dataset_version: str | None = None
    source_system: str | None = None
    storage_location: str | None = None
    kind: str | None = None
    sensitivity: str | None = None
    categories: tuple[str, ...] | None = None
    generated_at: datetime | None = None
    deleted_at: datetime | None = None


def matches(scope: Scope, record: RecordFacts, person: PersonFacts | None) -> bool:
    """Return whether `record` certainly falls under `scope`, as of the scope's exposure window."""
    return verdict(scope, record, person) is True


def verdict(scope: Scope, record: RecordFacts, person: PersonFacts | None) -> Verdict:
    """Return whether `record` about `person` (None: the store holds no such person any more) falls under `scope`.

    Fields are joined by AND, values within one by OR. The exposure window matches a record that existed at any moment
    of it, both ends included; a record exists in [generated_at, deleted_at), and at generated_at in any case.
    """
    return _all(
        [
            _among(scope.model_ids, record.model_id),
            _version_among(scope.model_versions, record.model_version),
            _version_within(scope.version_ranges, record.model_version),
            _among(scope.run_ids, record.run_id),
            _among(scope.dataset_versions, record.dataset_version),
            _among(scope.attributes, record.attribute),
            _among(scope.entity_types, record.entity_type),
            _among(scope.source_systems, record.source_system),
            _among(scope.storage_locations, record.storage_location),
            _among(scope.kinds, record.kind),
            _among(scope.sensitivities, record.sensitivity),
            _overlaps(scope.categories, record.categories),
            _among(scope.record_ids, record.record_id),
            _overlaps(scope.roots, subject_roots(record, person)),
            _addressed(scope.email_hmacs, person),
            _among(scope.website_ids, None if person is None else person.website_id),
            _among(scope.store_ids, None if person is None else person.store_id),
            _overlaps(tuple(code.upper() for code in scope.countries), jurisdictions(person) or None),
            _not_before(record.generated_at, scope.generated_from),
            _not_after(record.generated_at, scope.generated_to),
            _not_after(record.generated_at, scope.exposed_to),
            _existed_since(record, scope.exposed_from),
            *(verdict(part, record, person) for part in scope.all_of),
            _any([verdict(part, record, person) for part in scope.any_of]) if scope.any_of else True,
            *(_not(verdict(part, record, person)) for part in scope.none_of),
        ]
    )


def subject_roots(record: RecordFacts, person: PersonFacts | None) -> tuple[str, ...]:
    """Return the roots by which an explicit list may name the subject: the record's own and the customer's."""
    customers = {record.customer_id, None if person is None else person.customer_id} - {None}
    return (record.root, *sorted(f"customer/{customer}" for customer in customers))


def jurisdictions(person: PersonFacts | None) -> tuple[str, ...]:
    """Return every code that the person's residences fall under: `US-CA` falls under `US-CA` and `US`."""
    if person is None:
        return ()
    codes: dict[str, None] = {}
    for residence in person.residence:
        code = residence.code.upper()
        codes[code] = None
        codes[code.partition("-")[0]] = None
    return tuple(codes)


def named_models(scope: Scope) -> frozenset[str]:
    """Return the model ids that a scope names as included, at any depth; what `none_of` names is not."""
    return frozenset(scope.model_ids).union(*(named_models(part) for part in (*scope.all_of, *scope.any_of)))


def named_attributes(scope: Scope) -> frozenset[str]:
    """Return the attributes that a scope names as included, at any depth; what `none_of` names is not."""
    return frozenset(scope.attributes).union(*(named_attributes(part) for part in (*scope.all_of, *scope.any_of)))


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    result: Verdict = True
    for each in verdicts:
        if each is False:
            return False
        if each is None:
            result = None
    return result


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    return _not(_all([_not(each) for each in verdicts]))


def _not(value: Verdict) -> Verdict:
    return None if value is None else not value


def _among(wanted: tuple[str, ...] | tuple[int, ...], value: str | int | None) -> Verdict:
    if not wanted:
        return True
    return None if value is None else value in wanted


def _version_among(wanted: tuple[str, ...], version: str | None) -> Verdict:
    if not wanted or version in wanted:
        return True
    return None if version is None or version in UNKNOWN_VERSIONS else False


def _version_within(ranges: tuple[str, ...], version: str | None) -> Verdict:
    if not ranges:
        return True
    return None if version is None else version_within(ranges, version)


@lru_cache(maxsize=4096)
def version_within(ranges: tuple[str, ...], version: str) -> Verdict:
    """Return whether `version` lies in one of `ranges` by the precedence of semver.org 2.0.0; None if it is not semantic.

    Parts that are missing are 0 and a leading `v` is skipped, in ranges as in versions; build metadata does not count.
    """
    parsed = _semantic(version)
    if parsed is None:
        return None
    return any(all(_holds(parsed, each) for each in written.split()) for written in ranges)


def _semantic(version: str) -> semver.Version | None:
    try:
        return semver.Version.parse(version.removeprefix("v"), optional_minor_and_patch=True)
    except ValueError:
        return None


def _holds(version: semver.Version, comparator: str) -> bool:
    operator = comparator[: len(comparator) - len(comparator.lstrip("<>="))]
    bound = _semantic(comparator[len(operator) :])
    if bound is None:
        raise ValueError(f"{comparator!r} is no comparator of versions")
    compared = version.compare(bound)
    return {">=": compared >= 0, ">": compared > 0, "<=": compared <= 0, "<": compared < 0}.get(operator, compared == 0)


def _addressed(wanted: tuple[str, ...], person: PersonFacts | None) -> Verdict:
    if not wanted:
        return True
    # Somebody known who has no address is not on a list of addresses; of somebody unknown nothing can be said.
    return None if person is None else person.email_hmac in wanted


def _overlaps(wanted: tuple[str, ...], values: tuple[str, ...] | None) -> Verdict:
    if not wanted:
        return True
    return None if values is None else not set(wanted).isdisjoint(values)


def _not_before(at: datetime | None, start: datetime | None) -> Verdict:
    if start is None:
        return True
    return None if at is None else at >= start


def _not_after(at: datetime | None, end: datetime | None) -> Verdict:
    if end is None:
        return True
    return None if at is None else at <= end


def _existed_since(record: RecordFacts, start: datetime | None) -> Verdict:
    if start is None or record.deleted_at is None or record.deleted_at > start:
        return True
    return _not_before(record.generated_at, start)
