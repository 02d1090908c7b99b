"""The rules and controllers as they are shipped, read once for all tests of a run."""

from functools import cache
from pathlib import Path

from consumers.domain.duties import Law
from consumers.law.loader import load_controllers, load_regions, load_rules

FOLDER = Path(__file__).parents[2] / "templates" / "law"


@cache
def shipped_law() -> Law:
    controllers = load_controllers(FOLDER)
    return Law(load_rules(FOLDER), controllers, load_regions(FOLDER, controllers))
