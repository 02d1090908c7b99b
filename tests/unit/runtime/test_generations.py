"""Names on the cluster tell which generation is read and which one is being filled."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.topics import DEPARTED_CUSTOMERS, STORE_CHANGES, TOPICS, Topic
from bridge.runtime.generations import Generations, generations_in, logical_name, marker_name, topic_name

CHANGES, DEPARTED = STORE_CHANGES.name, DEPARTED_CUSTOMERS.name


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], Generations()),
        ([CHANGES, DEPARTED], Generations()),
        # half a pair is being made: nobody writes to it yet
        ([CHANGES, DEPARTED, f"{CHANGES}.g2"], Generations()),
        ([CHANGES, DEPARTED, f"{CHANGES}.g2", f"{DEPARTED}.g2"], Generations(1, 2)),
        ([CHANGES, DEPARTED, f"{CHANGES}.g2", f"{DEPARTED}.g2", f"{CHANGES}.g2.active"], Generations(2)),
        ([f"{CHANGES}.g2", f"{DEPARTED}.g2", f"{CHANGES}.g2.active"], Generations(2)),
        # a switch to topics that are not there counts for nothing
        ([CHANGES, DEPARTED, f"{CHANGES}.g3.active"], Generations()),
        (
            [f"{CHANGES}.g2", f"{DEPARTED}.g2", f"{CHANGES}.g2.active", f"{CHANGES}.g3", f"{DEPARTED}.g3"],
            Generations(2, 3),
        ),
        # another Tocsin's
        ([f"x.{CHANGES}.g2", f"x.{DEPARTED}.g2", f"x.{CHANGES}.g2.active"], Generations()),
    ],
)
def test_generations_by_names(names: Sequence[str], found: Generations) -> None:
    assert generations_in(names, "") == found
    assert generations_in([f"shop.{name}" for name in names], "shop.") == found


@given(st.sampled_from(TOPICS), st.integers(1, 30), st.sampled_from(["", "shop."]))
def test_a_name_goes_there_and_back(topic: Topic, generation: int, prefix: str) -> None:
    name = topic_name(prefix, topic.name, generation)
    assert logical_name(prefix, name) == topic.name
    assert marker_name(prefix, generation) != name
