"""Ids in a statement: as a list, or as ranges that hold those ids and no other."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.magento.statements import filled, near, written_provenance


def asked_for(statement: str) -> set[int]:
    listed = re.search(r"r\.id IN \(([0-9,]+)\)", statement)
    ranges = re.findall(r"r\.id BETWEEN (\d+) AND (\d+)", statement)
    among = {number for first, last in ranges for number in range(int(first), int(last) + 1)}
    return among | (set(map(int, listed[1].split(","))) if listed is not None else set())


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_a_statement_asks_for_its_ids_and_no_other(ids: list[int]) -> None:
    assert asked_for(filled("SELECT r.id FROM {p}t r WHERE r.id IN ({ids}) AND 1", "m2_", ids)) == set(ids)


@pytest.mark.parametrize(
    ("ids", "condition"),
    [
        (range(1, 5001), "(r.id BETWEEN 1 AND 5000)"),
        ([*range(1, 50), *range(60, 90)], "(r.id BETWEEN 1 AND 49 OR r.id BETWEEN 60 AND 89)"),
        ([3, 1, 2], "r.id IN (3,1,2)"),
    ],
)
def test_ids_that_follow_each_other_are_a_range(ids: list[int], condition: str) -> None:
    statement = filled(written_provenance(), "m2_", ids)
    assert statement.endswith(f"FROM m2_tocsin_provenance r WHERE {condition}")


@given(st.sets(st.integers(1, 60), max_size=60), st.sets(st.integers(1000, 100_000), max_size=30))
def test_ids_near_each_other_are_read_with_what_lies_between(ids: set[int], strays: set[int]) -> None:
    wanted = ids | strays or {1}
    asked = asked_for(near("r.id", wanted))
    assert wanted <= asked
    # A row that lies between is read for a fifth of what looking up another one costs.
    assert len(asked) <= 4 * len(wanted)


@pytest.mark.parametrize(
    ("ids", "condition"),
    [
        ([5], "r.id BETWEEN 5 AND 5"),
        (range(1, 5001, 2), "r.id BETWEEN 1 AND 4999"),
        ([*range(11, 51, 2), 900], "(r.id BETWEEN 11 AND 49 OR r.id IN (900))"),
        ([1, 900, 3], "(r.id IN (1,3,900))"),
    ],
)
def test_ranges_where_they_are_worth_it(ids: list[int], condition: str) -> None:
    assert near("r.id", ids) == condition
