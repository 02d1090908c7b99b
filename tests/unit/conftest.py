"""What every unit test has: hashes of staff's tokens that cost next to nothing. Tests with real processes pay the full price."""

from collections.abc import Iterator
from functools import partial

import pytest
from argon2 import PasswordHasher

from consumers.case import people


@pytest.fixture(autouse=True, scope="session")
def cheap_token_hashes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "PasswordHasher", partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1))
        yield
