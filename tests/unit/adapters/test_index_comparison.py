"""Fingerprints in the index's SQL are those of the contracts, and what a record may not change is noticed."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.contracts import fingerprints
from bridge.contracts.events import (
    Channel,
    CustomerChanged,
    Kind,
    OrderChanged,
    ProvenanceRecorded,
    Residence,
    SealedContact,
    Sensitivity,
)
from bridge.contracts.fingerprints import (
    SUM_MODULUS,
    content_fingerprint,
    person_fingerprint,
    range_of,
    record_fingerprint,
)
from bridge.contracts.queries import KeyPrint, KeysAsked, RangesAsked
from consumers.adapters import index_comparison
from consumers.adapters.index_file import PartitionFile
from consumers.adapters.provenance_index import ProvenanceIndex
from tests.unit.adapters.test_provenance_index import numbered

AT = datetime(2026, 3, 1, 10, tzinfo=UTC)
HASH = "ab" * 32


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartitionFile]:
    index = ProvenanceIndex(tmp_path)
    yield index.open(0, topic="t", cluster="c", partition_count=1, bounds={}, now=AT)
    index.close()


def record(record_id: str = "r-1", **changes: Any) -> ProvenanceRecorded:
    values: dict[str, Any] = {
        "root": "customer/42", "record_id": record_id, "customer_id": 42, "order_id": None, "entity_type": "customer",
        "entity_id": 42, "attribute": "fraud_score", "model_id": "scorer", "model_version": "7", "generated_at": AT,
        "kind": Kind.INFERRED, "sensitivity": Sensitivity.HIGH,
    }  # fmt: skip
    return ProvenanceRecorded(**(values | changes))


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
MAYBE = st.none() | WORDS
LISTS = st.lists(WORDS, max_size=3).map(tuple)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
RECORDS = st.builds(
    record,
    record_id=WORDS.filter(bool), run_id=MAYBE, dataset_version=MAYBE, model_version=WORDS, generated_at=INSTANTS,
    deleted_at=st.none() | INSTANTS, loaded_at=st.none() | INSTANTS,
    supersedes=MAYBE, kind=st.sampled_from(Kind), sensitivity=st.sampled_from(Sensitivity),
    confidence=st.none() | st.integers(0, 10_000).map(lambda number: number / 10_000), categories=LISTS, elements=LISTS,
    source_system=MAYBE, storage_location=MAYBE, input_fields=LISTS, legal_basis=MAYBE, faults=LISTS,
)  # fmt: skip
SEALED = st.none() | st.sampled_from([None, HASH]).map(
    lambda digest: SealedContact(key_id="k", wrapped_key="w", nonce="n", ciphertext="c", digest=digest)
)
RESIDENCES = st.lists(
    st.builds(Residence, code=st.sampled_from(["DE", "US-CA"]), source=st.sampled_from(["store", "last_order"])),
    max_size=2,
).map(tuple)
CUSTOMERS = st.builds(
    lambda number, **values: CustomerChanged(root=f"customer/{number}", customer_id=number, **values),
    st.integers(0, 5000),
    website_id=st.integers(0, 9), store_id=st.integers(0, 9), locale=WORDS, residence=RESIDENCES,
    channels=st.lists(st.sampled_from(Channel), unique=True).map(tuple), contact=SEALED,
    email_hmac=st.sampled_from([None, HASH]),
    attribute_hmacs=st.dictionaries(st.sampled_from(["b", "a_b", "a"]), st.just(HASH)), faults=LISTS,
)  # fmt: skip
ORDERS = st.builds(
    lambda number, buyer: OrderChanged(
        root=f"order/{number}", order_id=number, customer_id=buyer, website_id=1, store_id=1, locale="de_DE"
    ),
    st.integers(0, 5000),
    st.none() | st.integers(1, 9),
)


def held(file: PartitionFile, entity: fingerprints.Entity) -> dict[str, KeyPrint]:
    there = index_comparison.ranges(file, RangesAsked(entity=entity)).ranges
    if not there:
        return {}
    asked = KeysAsked(entity=entity, ranges=tuple(each.range for each in there))
    return {each.key: each for each in index_comparison.keys(file, asked).keys}


@given(st.lists(RECORDS, unique_by=lambda each: each.record_id, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_a_records_fingerprint_is_the_same_in_sql(file: PartitionFile, drawn: Sequence[ProvenanceRecorded]) -> None:
    file.rows("DELETE FROM record")
    file.put_records(numbered(drawn))
    assert held(file, "provenance") == {
        f"provenance/{each.record_id}": KeyPrint(
            key=f"provenance/{each.record_id}",
            fingerprint=record_fingerprint(each),
            content=content_fingerprint(each),
            deleted=each.deleted_at is not None,
            root=each.root,
        )
        for each in drawn
    }
    for each in index_comparison.ranges(file, RangesAsked(entity="provenance")).ranges:
        here = [one for one in drawn if range_of(f"provenance/{one.record_id}") == each.range]
        live = [record_fingerprint(one) for one in here if one.deleted_at is None]
        assert (each.count, each.sum, each.deleted_count) == (len(live), sum(live) % SUM_MODULUS, len(here) - len(live))


@given(st.lists(CUSTOMERS | ORDERS, unique_by=lambda each: each.root, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_a_persons_fingerprint_is_the_same_in_sql(
    file: PartitionFile, drawn: Sequence[CustomerChanged | OrderChanged]
) -> None:
    file.rows("DELETE FROM customer")
    file.put_persons(drawn)
    found = {**held(file, "customer"), **held(file, "order")}
    assert {key: each.fingerprint for key, each in found.items()} == {
        each.root: person_fingerprint(each) for each in drawn
    }
    assert {each.range for each in index_comparison.ranges(file, RangesAsked(entity="order")).ranges} == {
        range_of(each.root) for each in drawn if isinstance(each, OrderChanged)
    }


def test_every_field_is_compared() -> None:
    """A field that is added to an event must be compared, or two that differ in it would pass as equal."""
    assert set(CustomerChanged.model_fields) == set(fingerprints.PERSON_FIELDS)
    assert set(OrderChanged.model_fields) == {*fingerprints.PERSON_FIELDS, "order_id"} - {"attribute_hmacs"}
    assert set(ProvenanceRecorded.model_fields) == {*fingerprints.RECORD_FIELDS, "deleted_at", "loaded_at"}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("first", "then", "altered"),
    [
        (record(), record(), False),
        (record(), record(model_version="8"), True),
        (record(), record(categories=("income",)), True),
        (record(), record(deleted_at=AT + timedelta(days=1)), False),
        (record(), record(run_id="run-1"), False),
        (record(run_id="run-1"), record(run_id="run-2"), True),
        (record(faults=("kind",)), record(kind=Kind.REAL), False),
    ],
)
def test_a_record_that_changed_its_content_is_known(
    file: PartitionFile, first: ProvenanceRecorded, then: ProvenanceRecorded, altered: bool, merged: bool
) -> None:
    file.put_records(numbered([first]))
    if merged:
        file.merge(least=1)
    file.put_records(numbered([then]))
    file.put_records(numbered([then]))
    if merged:
        file.merge(least=1)
    (found,) = held(file, "provenance").values()
    assert found.altered is altered
    assert index_comparison.faults(file).altered_count == altered
    asked = KeysAsked(entity="provenance", altered=True)
    assert [each.key for each in index_comparison.keys(file, asked).keys] == ["provenance/r-1"] * altered
    assert file.records(["r-1"]) == [then]


def test_faults_and_seals_are_counted(file: PartitionFile) -> None:
    sealed = SealedContact(key_id="k1", wrapped_key="w", nonce="n", ciphertext="c")
    file.put_persons(
        [
            CustomerChanged(
                root=f"customer/{number}", customer_id=number, website_id=1, store_id=1, locale="de_DE", contact=sealed,
                faults=("email",),
            )
            for number in range(7)
        ]
    )  # fmt: skip
    file.put_records(numbered([record(faults=("kind", "elements"))]))
    seen = {(each.entity, each.field): each for each in index_comparison.faults(file).faults}
    assert {key: each.count for key, each in seen.items()} == {
        ("customer", "email"): 7, ("provenance", "kind"): 1, ("provenance", "elements"): 1,
    }  # fmt: skip
    assert seen["customer", "email"].examples == tuple(f"customer/{number}" for number in range(5))
    assert index_comparison.seals(file).present == {"k1": 7}
