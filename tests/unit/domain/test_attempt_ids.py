"""Ids of attempts: always the same, each one's own, and near each other for people who are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.ledger import attempt_id_of


@given(st.from_regex(r"INC-[0-9]{4}-[0-9]{4}:(customer|order)/[0-9]{1,12}(#[2-9])?", fullmatch=True), st.integers(1, 9))
def test_an_id_is_32_hexadecimal_digits_and_always_the_same(recipient_id: str, number: int) -> None:
    assert re.fullmatch("[0-9a-f]{32}", attempt_id_of(recipient_id, number))
    assert attempt_id_of(recipient_id, number) == attempt_id_of(recipient_id, number)


def test_nobody_has_anybody_elses() -> None:
    people = [f"{incident}:{kind}/{n}{end}" for incident in ("INC-2026-0001", "INC-2026-0002") for kind in ("customer", "order")
              for n in range(2000) for end in ("", "#2")]  # fmt: skip
    assert len({attempt_id_of(each, number) for each in people for number in (1, 2)}) == 2 * len(people)


def test_neighbours_lie_together_and_no_id_tells_a_number() -> None:
    heads = [attempt_id_of(f"INC-2026-0001:customer/{n}", 1)[:8] for n in range(4096)]
    assert heads == sorted(heads)
    assert len(set(heads)) == 4


@pytest.mark.parametrize("root", ["guest", "customer", "x/y", "customer/"])
def test_a_root_without_a_number_has_one_too(root: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", attempt_id_of(f"INC-2026-0001:{root}", 1))
