"""The ledger over a real SQLite case store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.adapters.ledger_case import Case, LedgerCases, sqlite_case


class TestOnSqlite(LedgerCases):
    """Every promise of the ledger on SQLite."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[Case]:
        opened = sqlite_case(tmp_path)
        yield opened
        opened.database.close()
