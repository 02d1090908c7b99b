"""Packed reads on SQLite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.adapters.case_store.engine import CaseDatabase, migrate
from tests.unit.adapters.packed_case import PackedCases


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CaseDatabase]:
    opened = CaseDatabase(f"sqlite:///{tmp_path}/case.db")
    migrate(opened)
    yield opened
    opened.close()


class TestOnSqlite(PackedCases):
    """Every promise of packed reads on SQLite."""
