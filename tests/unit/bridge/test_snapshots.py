"""States from rows: what can be understood is carried, what cannot is named and stops nobody."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import Channel, Kind, ProvenanceRecorded, Sensitivity
from bridge.magento.catalog import Catalog, ai_written
from bridge.magento.regions import country_code, residence_code
from bridge.magento.snapshots import FAULTS, customer_state, end_of_event, order_state, provenance_state
from bridge.magento.statements import SHARED_FIELDS, SHARED_OR_NULL
from tests.store_rows import provenance_row

CATALOG = Catalog(
    website_of_store={1: 1, 2: 2},
    configuration={
        ("general/locale/code", "default", 0): "en_GB",
        ("general/locale/code", "websites", 2): "fr_FR",
        ("general/locale/code", "stores", 1): "de_DE",
        ("general/country/default", "default", 0): "DE",
    },
    regions={12: ("US", "CA"), 81: ("DE", "BAY"), 99: ("US", "AE")},
)
BILLING = {
    "billing_country": "US",
    "billing_region_id": 12,
    "billing_postcode": "90001",
    "billing_city": "Placeholder Beach",
    "billing_street": "Sample Street 1\n\n Floor 2",
    "billing_telephone": "(213) 555-0101",
    "billing_first_name": "Placeholder",
    "billing_last_name": "Person",
}
ROW = {
    "store_id": 1,
    "website_id": 1,
    "email": "A.Person@Shop.example.com",
    "first_name": "P",
    "last_name": "N",
} | BILLING


def customer(**changes: Any) -> Any:
    return customer_state(42, json.dumps(ROW | changes), CATALOG, None)


def test_a_whole_row_becomes_a_whole_state() -> None:
    state = customer(shipping_country="de", shipping_region_id=81, order_country="FR")
    assert state.faults == ()
    assert state.contact.email == "A.Person@shop.example.com"
    assert state.contact.phone == "+12135550101"
    assert state.contact.postal_address == (
        "Placeholder Person", "Sample Street 1", "Floor 2", "Placeholder Beach, CA 90001", "US",
    )  # fmt: skip
    assert [(claim.code, claim.source) for claim in state.residence] == [
        ("US-CA", "default_billing"),
        ("DE-BY", "default_shipping"),
        ("FR", "last_order"),
    ]
    assert state.channels == (Channel.EMAIL, Channel.SMS, Channel.ACCOUNT_NOTICE, Channel.LETTER)
    assert (state.locale, state.website_id) == ("de_DE", 1)


def test_a_state_shows_no_contact() -> None:
    shown = repr(customer(attributes={"fraud_score": "0.731"}))
    for personal in ("Person", "5550101", "Sample Street", "shop.example", "0.731"):
        assert personal not in shown


@pytest.mark.parametrize(
    ("changes", "fault", "channel"),
    [
        ({"email": "no address"}, "email", Channel.EMAIL),
        ({"email": "ü@shop.example.com"}, "email", Channel.EMAIL),
        ({"email": "a@shop.invalid"}, "email", Channel.EMAIL),
        ({"billing_telephone": "12"}, "telephone", Channel.SMS),
        ({"billing_country": "XX"}, "country_id", Channel.LETTER),
    ],
)
def test_what_cannot_be_understood_is_named_and_its_channel_missing(
    changes: dict[str, Any], fault: str, channel: Channel
) -> None:
    state = customer(**changes)
    assert fault in state.faults
    assert channel not in state.channels


@pytest.mark.parametrize("nothing", [None, "", "  ", "n/a", "-"])
def test_no_telephone_is_no_fault(nothing: str | None) -> None:
    state = customer(billing_telephone=nothing)
    assert state.contact.phone is None
    assert state.faults == ()


def test_the_second_address_serves_where_the_first_does_not() -> None:
    shipping = {key.replace("billing", "shipping"): value for key, value in BILLING.items()}
    state = customer(**shipping, billing_street="", billing_telephone="12")
    assert state.contact.phone == "+12135550101"
    assert state.contact.postal_address[1] == "Sample Street 1"
    assert state.faults == ()


def test_the_stores_country_counts_only_where_nothing_better_is_known() -> None:
    assert [claim.source for claim in customer().residence] == ["default_billing"]
    nowhere = customer(billing_country=None, billing_telephone="+12135550101")
    assert [(claim.code, claim.source) for claim in nowhere.residence] == [("DE", "store")]
    assert nowhere.faults == ()


def test_locale_comes_from_the_nearest_scope() -> None:
    assert customer(store_id=1).locale == "de_DE"
    assert customer(store_id=2, website_id=2).locale == "fr_FR"
    assert customer(store_id=0, website_id=None).locale == "en_GB"
    assert customer_state(1, "{}", Catalog(), None).locale == "en_US"


@pytest.mark.parametrize(
    ("country", "region", "code"),
    [
        ("US", ("US", "CA"), "US-CA"),
        ("US", ("US", "AE"), "US"),
        ("US", ("DE", "BAY"), "US"),
        ("DE", ("DE", "SAS"), "DE-SN"),
        ("DE", ("DE", "ZZZ"), "DE"),
        ("AT", ("AT", "WI"), "AT-9"),
        ("HR", ("HR", "HR-01"), "HR-01"),
        ("ES", ("ES", "A Coruña"), "ES"),
        ("FR", (None, None), "FR"),
    ],
)
def test_regions_are_iso_codes_or_left_out(country: str, region: tuple[str | None, str | None], code: str) -> None:
    assert residence_code(country, *region) == code


def test_countries_are_iso_codes() -> None:
    assert country_code(" de ") == "DE"
    assert [country_code(none) for none in (None, "", "UK", "XK", "DEU", "??")] == [None] * 6


def test_a_guest_order_has_no_account_page_and_its_own_contact() -> None:
    state = order_state(7, json.dumps(ROW | {"customer_id": None}), CATALOG, None)
    assert state.channels == (Channel.EMAIL, Channel.SMS, Channel.LETTER)
    assert [(claim.code, claim.source) for claim in state.residence] == [("US-CA", "order_billing")]
    assert order_state(7, json.dumps(ROW | {"customer_id": 42}), CATALOG, None).channels[2] is Channel.ACCOUNT_NOTICE


def record(**changes: Any) -> ProvenanceRecorded | None:
    return provenance_state(
        json.dumps(provenance_row("r-1", "customer/42", created_at="2026-03-02 00:00:00") | changes)
    )


def test_a_record_is_carried_whole() -> None:
    state = record(
        generated_at="2026-03-01 10:00:00.123456", confidence="0.7310", input_fields='["a.b"]', deleted_at=None
    )
    assert state is not None
    assert state.generated_at == datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)
    assert (state.confidence, state.input_fields, state.categories) == (0.731, ("a.b",), ("fraud_assessment",))
    assert (state.customer_id, state.order_id, state.faults) == (42, None, ())


@pytest.mark.parametrize(
    ("changes", "fault", "field", "expected"),
    [
        ({"generated_at": "0000-00-00 00:00:00"}, "generated_at", "generated_at", datetime(2026, 3, 2, tzinfo=UTC)),
        ({"generated_at": "x", "created_at": "x"}, "generated_at", "generated_at", datetime(1970, 1, 1, tzinfo=UTC)),
        ({"deleted_at": "never"}, "deleted_at", "deleted_at", None),
        ({"kind": "odd"}, "kind", "kind", Kind.INFERRED),
        ({"sensitivity": ""}, "sensitivity", "sensitivity", Sensitivity.CRITICAL),
        ({"confidence": "much"}, "confidence", "confidence", None),
        ({"categories": "{not json"}, "categories", "categories", ()),
        ({"elements": '{"a": 1}'}, "elements", "elements", ()),
        ({"input_fields": "[1]"}, "input_fields", "input_fields", ()),
        ({"root": "nobody", "order_id": 7}, "root", "root", "order/7"),
        ({"root": "", "customer_id": 42}, "root", "root", "customer/42"),
    ],
)
def test_an_unreadable_fact_of_a_record_errs_towards_telling(
    changes: dict[str, Any], fault: str, field: str, expected: object
) -> None:
    state = record(**changes)
    assert state is not None
    assert state.faults == (fault,)
    assert getattr(state, field) == expected


def test_a_record_about_nobody_is_none() -> None:
    assert record(root=None, customer_id=None) is None
    assert provenance_state("not json") is None


ANY_VALUE = st.none() | st.text(max_size=20) | st.integers(0, 2**31)
TEXTS = st.none() | st.text(max_size=20)


@given(
    st.fixed_dictionaries(
        {"store_id": st.none() | st.integers(0, 3), "website_id": st.none() | st.integers(0, 3)},
        optional=dict.fromkeys(
            ("email", "first_name", "billing_country", "billing_street", "billing_telephone"), TEXTS
        ),
    )
)
def test_no_row_of_a_person_is_too_odd(row: dict[str, Any]) -> None:
    state = customer_state(1, json.dumps(row), CATALOG, None)
    assert set(state.faults) <= set(FAULTS)


@given(st.dictionaries(st.sampled_from(["generated_at", "deleted_at", "kind", "categories", "confidence"]), TEXTS))
def test_no_row_of_a_record_is_too_odd(changes: dict[str, Any]) -> None:
    state = record(**changes)
    assert state is not None
    assert set(state.faults) <= set(FAULTS)


@pytest.mark.parametrize("document", ["", "{", "[]", "null", "7"])
def test_a_document_that_is_none_leaves_the_id(document: str) -> None:
    state = customer_state(42, document, CATALOG, None)
    assert (state.customer_id, state.faults) == (42, ("row",))
    assert state.channels == (Channel.ACCOUNT_NOTICE,)


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (
            '[{"entity_type": "customer", "attribute": "churn"}, {"entity_type": "order", "attribute": "risk"}]',
            ("churn",),
        ),
        ('{"a": {"entity_type": "customer", "attribute": " churn "}, "b": {"entity_type": "customer"}}', ("churn",)),
        ("[1, null, []]", ()),
        ("no json", ()),
        ("3", ()),
        (None, ()),
    ],
)
def test_the_stores_configuration_says_which_attributes_ai_writes(
    configured: str | None, expected: tuple[str, ...]
) -> None:
    assert ai_written(configured, "customer") == expected


@pytest.mark.parametrize(
    ("created_at", "loaded_at"),
    [
        ("2026-03-02 10:00:00", None),
        ("2026-03-02 10:00:01", datetime(2026, 3, 2, 10, 0, 1, tzinfo=UTC)),
        ("0000-00-00 00:00:00", None),
    ],
)
def test_what_is_recorded_a_day_after_it_was_generated_is_loaded_history(
    created_at: str, loaded_at: datetime | None
) -> None:
    row = provenance_row("r-1", "customer/42", generated_at="2026-03-01 10:00:00", created_at=created_at)
    state = provenance_state(json.dumps(row))
    assert state is not None
    assert state.loaded_at == loaded_at


_WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=3).map(json.dumps)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1f"), max_size=12)
_SHARED = st.fixed_dictionaries(
    dict.fromkeys(("entity_type", "attribute", "model_id", "model_version"), _TEXT)
    | {"kind": st.sampled_from([*Kind, "other"]), "sensitivity": st.sampled_from([*Sensitivity, ""])}
    | dict.fromkeys(("categories", "elements"), _WORDS | st.just("no JSON"))
    | {"source_system": st.none() | _TEXT, "input_fields": st.none() | _WORDS, "legal_basis": st.none() | _TEXT}
)


@given(_SHARED)
def test_what_many_events_end_with_is_written_as_the_model_writes_it(row: dict[str, str | None]) -> None:
    """Or not at all, where the model finds fault or puts something in the place of what is missing."""
    fields = [
        ("" if value is None else f"={value}") if name in SHARED_OR_NULL else str(value)
        for name, value in ((name, row[name]) for name in SHARED_FIELDS)
    ]
    end = end_of_event("\x1f".join([*fields, "."]).encode())
    record = provenance_state(json.dumps(provenance_row("r-1", "customer/1") | row))
    assert record is not None
    if record.faults or not all(row[name] for name in ("entity_type", "attribute", "model_id", "model_version")):
        assert end is None
    else:
        assert end is not None
        assert b"{" + end == record.model_dump_json(include={*SHARED_FIELDS, "faults"}).encode()
