"""A scope as a person hands it over, and what is said of its counts."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Coverage
from bridge.contracts.queries import Preview
from bridge.contracts.scope import AskedScope
from consumers.case.alerts import Known, without_addresses
from consumers.case.scoping import narrowed, parse_scope, preview_in_words, refuse_unknown

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def keyed(address: str) -> str:
    return ("a" if "@" in address else "b") * 64


def test_a_scope_may_be_json_or_yaml_and_single_values_stand_for_lists() -> None:
    assert parse_scope('{"model_ids": ["m"]}', "x") == parse_scope("model_ids: m", "x") == AskedScope(model_ids=("m",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- m", "holds no scope"),
        ("model_id: m", "model_id"),
        ("{", "cannot be read as JSON or YAML"),
        ("version_ranges: '~2'", "no version range"),
        ("exposed_from: 2026-03-01T00:00:00", "exposed_from"),
    ],
)
def test_what_is_no_scope_is_refused_with_the_files_name(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        parse_scope(text, "leak.yaml")
    assert str(caught.value).startswith("leak.yaml")


def test_lists_narrow_a_scope() -> None:
    scope = narrowed(
        AskedScope(model_ids=("m",)),
        customers=["42\n", "# from the log\n", "\n", "order/7  # a guest\n"],
        records=["r1\n"],
        addresses=["a@example.org\n", "0" * 64],
        keyed=keyed,
    )
    assert scope == AskedScope(
        all_of=(AskedScope(model_ids=("m",)),),
        roots=("customer/42", "order/7"),
        record_ids=("r1",),
        email_hmacs=("a" * 64, "b" * 64),
    )
    assert narrowed(AskedScope(model_ids=("m",)), keyed=keyed) == AskedScope(model_ids=("m",))


def test_an_address_on_a_list_or_in_an_alert_stands_for_each_form_in_which_the_shop_may_have_it() -> None:
    forms = {"Cy@xn--strae-oqa.example", "cy@xn--strae-oqa.example", "cy@straße.example"}
    asked: list[str] = []

    def remembered(address: str) -> str:
        asked.append(address)
        return hashlib.sha256(address.encode()).hexdigest()

    narrowed(AskedScope(), addresses=["Cy@xn--strae-oqa.example\n", "anna@mail.example\n"], keyed=remembered)
    assert set(asked) <= forms | {"anna@mail.example"}
    assert {"cy@straße.example", "cy@xn--strae-oqa.example"} <= {each.lower() for each in asked}
    stored = hashlib.sha256("cy@straße.example".encode()).hexdigest()
    for written in ("Cy@xn--strae-oqa.example", "cy@straße.example", stored):
        scope, faults = without_addresses({"emails": [written]}, lambda sha256: sha256)
        assert stored in scope["email_hmacs"]
        assert faults == []


def test_everyone_on_a_list_stays_everyone() -> None:
    scope = narrowed(AskedScope(everyone=True, store_ids=(3,)), customers=["42"], keyed=keyed)
    assert scope == AskedScope(everyone=True, roots=("customer/42",), all_of=(AskedScope(store_ids=(3,)),))
    assert narrowed(AskedScope(everyone=True), customers=["42"], keyed=keyed).canonical() == {
        "everyone": True,
        "roots": ["customer/42"],
    }


def test_a_line_that_is_no_customer_is_named_by_number_not_by_content() -> None:
    with pytest.raises(BadInput, match="line 2 of the customers") as caught:
        narrowed(AskedScope(), customers=["42", "jo@example.org"], keyed=keyed)
    assert "example" not in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest_unless_a_partition_is_silent() -> None:
    known = Known({"fraud-scorer": frozenset({"7"})}, frozenset({"fraud_score"}))
    refuse_unknown(AskedScope(model_ids=("fraud-scorer",), model_versions=("7",)), known, MARCH)
    with pytest.raises(Refused, match=r"no model_ids 'fraud-score' \(near: fraud-scorer\)"):
        refuse_unknown(AskedScope(any_of=(AskedScope(model_ids=("fraud-score",)),)), known, MARCH)
    silent = Known(known.versions_by_model, known.attributes, complete=False)
    refuse_unknown(AskedScope(model_ids=("fraud-score",)), silent, MARCH)
    behind = replace(known, read_to_end_at=MARCH - timedelta(minutes=3))
    refuse_unknown(AskedScope(model_ids=("fraud-score",)), behind, MARCH)


@pytest.mark.parametrize(
    ("affected", "possible", "untagged", "silent", "since", "words"),
    [
        (0, 0, 0, (), MARCH, "nobody, says every partition (4 of 4 partitions), by full coverage"),
        (0, 0, 0, (3,), MARCH, "0 by record, from 3 of 4 partitions; the others did not answer, so there may be more"),
        (0, 0, 0, (), None, "0 by record, from 4 of 4 partitions; coverage is incomplete, so there may be more"),
        (5, 2, 9, (), MARCH,
         "3 by record; 2 possible (9 untagged writes), from 4 of 4 partitions; coverage is incomplete, so there may be more"),
        (5, 0, 0, (), MARCH, "5 by record, from 4 of 4 partitions"),
    ],
)  # fmt: skip
def test_nobody_is_said_by_full_coverage_only(
    affected: int, possible: int, untagged: int, silent: tuple[int, ...], since: datetime | None, words: str
) -> None:
    preview = Preview(
        partition_count=4,
        silent_partitions=silent,
        affected_count=affected,
        possible_count=possible,
        departed_count=0,
        record_count=0,
        by_jurisdiction={},
        by_kind={},
        by_sensitivity={},
        by_channel={},
        coverage=(Coverage(model_id="m", attribute="a", recorded_since=since, untagged_count=untagged),),
    )
    assert preview_in_words(preview, AskedScope(model_ids=("m",), exposed_from=MARCH)) == words
