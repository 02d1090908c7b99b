"""What every unit test has: hashes of staff's tokens, and case stores, that cost next to nothing. Tests with real processes
pay the full price.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from argon2 import PasswordHasher

from consumers.adapters.case_store import engine
from consumers.case import people


@pytest.fixture(autouse=True, scope="session")
def cheap_token_hashes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "PasswordHasher", partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(autouse=True, scope="session")
def case_stores_that_need_no_disk() -> Iterator[None]:
    """These tests end no machine, so that nothing waits until a disk has what it wrote."""
    as_ever = engine._configure_sqlite

    def configure(connection: Any, record: Any) -> None:
        as_ever(connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_configure_sqlite", configure)
        yield
