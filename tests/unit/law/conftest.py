"""The shipped rules, loaded once."""

from pathlib import Path

import pytest

from consumers.domain.rules import Rules
from consumers.law.loader import load_rules

SHIPPED = Path(__file__).parents[3] / "templates" / "law"


@pytest.fixture(scope="session")
def rules() -> Rules:
    return load_rules(SHIPPED)
