"""What a scope means, case by case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.contracts.events import CustomerChanged, Kind, ProvenanceRecorded, Residence, Sensitivity
from bridge.contracts.scope import Scope
from consumers.domain.scope_matching import (
    UntaggedValue,
    jurisdictions,
    matches,
    named_attributes,
    named_models,
    verdict,
)

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def record(**changes: Any) -> ProvenanceRecorded:
    facts: dict[str, Any] = {
        "root": "customer/1",
        "record_id": "r1",
        "customer_id": 1,
        "order_id": None,
        "entity_type": "customer",
        "entity_id": 1,
        "attribute": "fraud_score",
        "model_id": "fraud-scorer",
        "model_version": "7",
        "generated_at": MARCH,
        "kind": Kind.DERIVED,
        "sensitivity": Sensitivity.HIGH,
        "categories": ("financial",),
    }
    return ProvenanceRecorded(**(facts | changes))


def person(*codes: str, **changes: Any) -> CustomerChanged:
    facts: dict[str, Any] = {"root": "customer/1", "customer_id": 1, "website_id": 1, "store_id": 2, "locale": "en_US"}
    residence = tuple(Residence(code=code, source="default_billing") for code in codes)
    return CustomerChanged(**(facts | {"residence": residence} | changes))


def test_an_empty_scope_matches_every_record() -> None:
    assert matches(Scope(), record(), None)


@pytest.mark.parametrize(
    ("deleted_at", "exposed_from", "exposed_to", "expected"),
    [
        (None, MARCH + DAY, MARCH + 2 * DAY, True),
        (None, MARCH - 2 * DAY, MARCH - DAY, False),
        (None, MARCH - DAY, MARCH, True),
        (MARCH + DAY, MARCH + 2 * DAY, MARCH + 3 * DAY, False),
        (MARCH + DAY, MARCH + DAY, MARCH + 3 * DAY, False),
        (MARCH + DAY, MARCH + DAY - timedelta(microseconds=1), None, True),
        (MARCH + DAY, None, MARCH - DAY, False),
        (MARCH - DAY, MARCH, MARCH + DAY, True),
    ],
    ids=[
        "exists throughout",
        "generated after the window",
        "generated at its last moment",
        "deleted before it",
        "deleted at its first moment",
        "deleted just after it began",
        "open start, generated later",
        "a clock that ran backwards still existed at generated_at",
    ],
)
def test_the_exposure_window_asks_whether_the_record_existed(
    deleted_at: datetime | None, exposed_from: datetime | None, exposed_to: datetime | None, expected: bool
) -> None:
    scope = Scope(exposed_from=exposed_from, exposed_to=exposed_to)
    assert matches(scope, record(deleted_at=deleted_at), None) is expected


def test_a_country_covers_its_states_and_case_does_not_matter() -> None:
    assert jurisdictions(person("us-CA", "DE")) == ("US-CA", "US", "DE")
    assert matches(Scope(countries=("us",)), record(), person("US-CA"))
    assert not matches(Scope(countries=("US-NY",)), record(), person("US-CA"))


@pytest.mark.parametrize("scope", [Scope(countries=("DE",)), Scope(none_of=(Scope(countries=("DE",)),))])
def test_an_unknown_residence_neither_confirms_nor_excludes(scope: Scope) -> None:
    assert verdict(scope, record(), person()) is None
    assert verdict(scope, record(), None) is None


def test_version_unknown_is_possible_unless_it_is_asked_for() -> None:
    unknown = record(model_version="unknown")
    assert verdict(Scope(model_versions=("7",)), unknown, None) is None
    assert verdict(Scope(model_versions=("unknown",)), unknown, None) is True
    assert verdict(Scope(model_ids=("other",), model_versions=("7",)), unknown, None) is False


@pytest.mark.parametrize(
    ("version", "ranges", "expected"),
    [
        ("2.1.0", (">=2.1",), True),
        ("v2.1.0-rc.1", (">=2.1",), False),
        ("2.1.0-rc.1", (">=2.1.0-rc.1 <2.1.0",), True),
        ("2.10.0", (">2.9", "<1"), True),
        ("3", (">=2 <3",), False),
        ("3.0.0+build.7", ("=3",), True),
        ("2024.05", (">=2",), None),
        ("champion", (">=2",), None),
        ("unknown", (">=2",), None),
        ("", (">=2",), None),
    ],
)
def test_a_range_compares_semantic_versions_and_decides_nothing_about_others(
    version: str, ranges: tuple[str, ...], expected: bool | None
) -> None:
    assert verdict(Scope(version_ranges=ranges), record(model_version=version), None) is expected


@pytest.mark.parametrize("written", ["", "~2", ">=2..1", "two", ">=01", ">=2 || <1"])
def test_a_range_that_cannot_be_read_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match=r"is no version range; write comparators"):
        Scope(version_ranges=(written,))


def test_a_list_of_addresses_names_people_by_keyed_hash() -> None:
    hashed = "a" * 64
    assert matches(Scope(email_hmacs=(hashed,)), record(), person("DE", email_hmac=hashed))
    assert verdict(Scope(email_hmacs=(hashed,)), record(), person("DE")) is False
    assert verdict(Scope(email_hmacs=(hashed,)), record(), None) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"everyone": True, "model_ids": ("m",)}, "everyone cannot be joined with model_ids"),
        ({"everyone": True, "none_of": (Scope(kinds=("real",)),)}, "everyone cannot be joined with kinds"),
        ({"any_of": (Scope(everyone=True),)}, "only be said of the outermost scope"),
    ],
)
def test_everyone_is_about_people_and_not_about_records(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Scope(**fields)


def test_the_canonical_form_names_everyone_and_sorts_ranges() -> None:
    assert Scope(everyone=True, store_ids=(3,)).canonical() == {"everyone": True, "store_ids": [3]}
    assert Scope(everyone=False).canonical() == {}
    assert Scope(version_ranges=(">=2, <3", "<1")).canonical() == {"version_ranges": ["<1", ">=2 <3"]}


def test_an_explicit_customer_finds_what_was_written_about_their_orders() -> None:
    about_order = record(root="order/9", order_id=9, customer_id=1)
    assert matches(Scope(roots=("customer/1",)), about_order, None)
    assert not matches(Scope(roots=("customer/2",)), about_order, None)


def test_nesting_joins_by_and_or_and_not() -> None:
    scope = Scope(
        any_of=(Scope(attributes=("income_band",)), Scope(model_ids=("fraud-scorer",))),
        all_of=(Scope(kinds=("derived",)),),
        none_of=(Scope(model_versions=("6",)),),
    )
    assert matches(scope, record(), None)
    assert not matches(scope, record(model_version="6"), None)
    assert not matches(scope, record(kind=Kind.REAL), None)
    assert not matches(scope, record(model_id="other"), None)


def test_a_value_without_a_record_may_come_from_a_model_that_writes_its_attribute() -> None:
    value = UntaggedValue("customer/1", 1, "fraud_score", "fraud-scorer")
    assert verdict(Scope(model_ids=("fraud-scorer",), model_versions=("7",)), value, person("DE")) is None
    assert verdict(Scope(model_ids=("other",)), value, person("DE")) is False
    assert verdict(Scope(attributes=("income_band",)), value, person("DE")) is False
    assert verdict(Scope(record_ids=("r1",)), value, person("DE")) is False


def test_names_count_as_named_only_where_they_are_included() -> None:
    scope = Scope(
        model_ids=("a",),
        any_of=(Scope(model_ids=("b",), attributes=("x",)),),
        none_of=(Scope(model_ids=("c",), attributes=("y",)),),
    )
    assert named_models(scope) == {"a", "b"}
    assert named_attributes(scope) == {"x"}
