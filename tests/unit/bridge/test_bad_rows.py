"""Rows that no shop should hold: each becomes a state, its faults named, and its message can be written and read."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.envelope import open_envelope
from bridge.magento.catalog import Catalog
from bridge.magento.snapshots import (
    FAULTS,
    CustomerState,
    OrderState,
    State,
    customer_state,
    notice_read_state,
    order_state,
    provenance_state,
)
from bridge.relay import StateMessages
from bridge.relay_status import RelayNumbers, Status
from bridge.runtime.clock import SystemClock
from bridge.runtime.sealing import Sealer, generate_sealing_keys

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MESSAGES = StateMessages(Sealer(generate_sealing_keys().public, SystemClock()), bytes(32))
RECORD = {
    "record_id": "r-1", "root": "customer/42", "customer_id": 42, "order_id": None, "entity_type": "customer",
    "entity_id": 42, "attribute": "fraud_score", "model_id": "scorer", "model_version": "7",
    "generated_at": "2026-03-01 10:00:00", "deleted_at": None, "kind": "inferred", "confidence": "0.5000",
    "sensitivity": "high", "categories": '["fraud_assessment"]', "elements": "[]", "input_fields": None,
    "created_at": "2026-03-01 10:00:05",
}  # fmt: skip


def published(state: State) -> Any:
    """Return the state's event as a consumer reads it."""
    ((_, message),) = list(MESSAGES.of([state], NOW))
    event = open_envelope(message.key.encode(), message.value, dict(message.headers))
    assert message.value == event.model_dump_json().encode()
    return event


# What a column of text can hold, as the database writes it into its document
texts = (
    st.none()
    | st.text(max_size=40)
    | st.sampled_from(
        [
            "\x00",
            "\ufffd",
            "\ud83d",
            "a@b",
            "+49 30 1",
            "9" * 70_000,
            "\n" * 500,
            "DE",
            "0000-00-00 00:00:00",
            '["\\ud800"]',
        ]
    )
)
ids = st.none() | st.integers(0, 2**32 - 1)


def written(row: dict[str, Any]) -> str:
    # A lone surrogate cannot come out of a database, only an escape of one can.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode()


_ADDRESS = ("country", "region", "postcode", "city", "street", "telephone", "first_name", "last_name")
people = st.fixed_dictionaries(
    {
        "website_id": ids, "store_id": ids, "customer_id": ids, "email": texts, "first_name": texts, "last_name": texts,
        **{f"{who}_{name}": texts for who in ("billing", "shipping") for name in _ADDRESS},
        "billing_region_id": ids, "shipping_region_id": ids, "order_country": texts, "order_region_id": ids,
        "attributes": st.dictionaries(st.sampled_from(["fraud_score", "income_band"]), texts),
    }
)  # fmt: skip
records = st.fixed_dictionaries(
    {name: ids if name in ("customer_id", "order_id", "entity_id") else texts for name in RECORD}
    | {"root": texts | st.just("customer/42")}
)


@given(people)
def test_any_person_is_published(row: dict[str, Any]) -> None:
    for state in (customer_state(42, written(row), Catalog(), None), order_state(7, written(row), Catalog(), "DE")):
        assert set(state.faults) <= set(FAULTS)
        assert published(state).faults == state.faults


@given(records)
def test_any_record_that_says_about_whom_is_published(row: dict[str, Any]) -> None:
    state = provenance_state(written(row))
    if state is None:
        assert not row["record_id"] or not (row["customer_id"] or row["order_id"])
        return
    assert set(state.faults) <= set(FAULTS)
    assert published(state) == state


@given(st.none() | st.text(max_size=200) | st.just("[" * 100_000))
def test_any_document_is_survived(document: str | None) -> None:
    assert provenance_state(document) is None or document is not None
    customer: CustomerState = customer_state(42, document, Catalog(), None)
    order: OrderState = order_state(7, document, Catalog(), None)
    for state in (customer, order):
        assert "row" in published(state).faults


@pytest.mark.parametrize(
    ("field", "value", "fault", "shown"),
    [
        ("generated_at", "0000-00-00 00:00:00", "generated_at", datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC)),
        ("generated_at", "9999-12-31 23:59:59", "generated_at", datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC)),
        ("generated_at", "0001-01-01 00:00:00", "generated_at", datetime(1, 1, 1, tzinfo=UTC)),
        ("generated_at", None, "generated_at", datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC)),
        ("deleted_at", "1970-01-01 00:00:00", "deleted_at", None),
        ("deleted_at", "2026-02-30 00:00:00", "deleted_at", None),
        ("categories", "{no json", "categories", ()),
        ("categories", '{"a": 1}', "categories", ()),
        ("categories", '["a", 1, "b"]', "categories", ("a", "b")),
        ("categories", '["a", "\\ud800"]', "categories", ("a",)),
        ("elements", json.dumps(["x"] * 5000), "elements", ()),
        ("elements", json.dumps(["x" * 5000, "y"]), "elements", ("y",)),
        ("input_fields", "[" * 100_000, "input_fields", ()),
        ("confidence", "not a number", "confidence", None),
        ("kind", "odd", "kind", "inferred"),
        ("sensitivity", "", "sensitivity", "critical"),
        ("attribute", "fraud\ufffd", "encoding", "fraud\ufffd"),
        ("root", "customer/" + "9" * 20, "root", None),
    ],
)  # fmt: skip
def test_a_bad_field_spoils_itself_only(field: str, value: Any, fault: str, shown: Any) -> None:
    state = provenance_state(json.dumps(RECORD | {field: value}, ensure_ascii=False))
    assert state is not None
    assert state.faults == (fault,)
    event = published(state)
    if field != "root":
        assert getattr(event, field) == shown
    assert event.root == "customer/42"
    for other in {"attribute", "kind", "sensitivity", "model_id", "categories", "record_id"} - {field}:
        plain = provenance_state(json.dumps(RECORD))
        assert getattr(event, other) == getattr(plain, other)


def test_a_good_row_has_no_fault() -> None:
    state = provenance_state(json.dumps(RECORD))
    assert state is not None
    assert state.faults == ()


def test_a_street_without_end_is_no_address() -> None:
    row = {"email": "p@shop.example.com", "billing_street": "x" * 70_000, "billing_city": "y", "billing_country": "DE"}
    state = customer_state(42, json.dumps(row), Catalog(), None)
    assert state.faults == ("address",)
    assert state.contact.postal_address == ()
    assert state.contact.email == "p@shop.example.com"


def test_rows_of_nobody_are_shown() -> None:
    numbers = RelayNumbers(True, 0.0, 0.0, None, 0, 0, unreadable_rows=2)
    (trouble,) = [each for each in Status(relay=numbers).troubles(NOW) if "provenance" in each]
    assert trouble.startswith("2 provenance rows")
    assert not any("provenance" in each for each in Status(relay=replace(numbers, unreadable_rows=0)).troubles(NOW))


def test_an_unreadable_time_of_reading_is_now() -> None:
    assert notice_read_state("a-1", 42, "0000-00-00 00:00:00", NOW).read_at == NOW
