"""The second calculator's own ground: it shares nothing with the product, and its calendar is right."""

import ast
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.unit.law import second_calculator
from tests.unit.law.second_calculator import date_of, day_number, easter, plus_months, weekday


def test_it_imports_nothing_of_the_product() -> None:
    tree = ast.parse(Path(second_calculator.__file__).read_text(encoding="utf-8"))
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} <= {
        "csv",
        "re",
        "collections",
        "dataclasses",
        "datetime",
        "pathlib",
        "typing",
        "zoneinfo",
    }


def test_days_are_those_of_the_calendar() -> None:
    first = date(1970, 1, 1)
    for number in range(0, 40_000, 7):
        day = first + timedelta(days=number)
        assert day_number(day.year, day.month, day.day) == number
        assert date_of(number) == (day.year, day.month, day.day)
        assert weekday(number) == day.weekday()


@pytest.mark.parametrize(
    ("from_", "months", "to"),
    [
        ((2026, 8, 31), 1, (2026, 9, 30)),
        ((2027, 1, 31), 1, (2027, 2, 28)),
        ((2028, 1, 31), 1, (2028, 2, 29)),
        ((2026, 12, 31), 2, (2027, 2, 28)),
    ],
)
def test_months_end_where_they_end(from_: tuple[int, int, int], months: int, to: tuple[int, int, int]) -> None:
    assert date_of(plus_months(day_number(*from_), months)) == to


@pytest.mark.parametrize(
    "sunday", [(2024, 3, 31), (2025, 4, 20), (2026, 4, 5), (2027, 3, 28), (2028, 4, 16), (2038, 4, 25)]
)
def test_easter(sunday: tuple[int, int, int]) -> None:
    assert date_of(easter(sunday[0])) == sunday
