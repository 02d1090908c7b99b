"""The ledger over a real SQLite case store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.adapters.case_store.engine import CaseDatabase
from tests.unit.adapters.ledger_case import Case, LedgerCases


class TestOnSqlite(LedgerCases):
    """Every promise of the ledger on SQLite."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[Case]:
        opened = Case(CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}"))
        yield opened
        opened.database.close()
