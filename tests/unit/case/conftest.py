"""Fixtures of this room's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.case.cases import Case


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.database.close()
