"""Names on the cluster tell which generation is read and which one is being filled."""

from collections.abc import Sequence

import pytest

from bridge.contracts.topics import DEPARTED_CUSTOMERS, STORE_CHANGES
from bridge.runtime.generations import Generations, generations_in

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
