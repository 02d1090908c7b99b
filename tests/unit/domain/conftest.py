"""The shipped rules, loaded once."""

from pathlib import Path

import pytest

from consumers.domain.rules import Rules
from consumers.law.loader import load_rules


@pytest.fixture(scope="session")
def rules() -> Rules:
    return load_rules(Path(__file__).parents[3] / "templates" / "law")
