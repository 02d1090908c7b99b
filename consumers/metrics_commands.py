"""`tocsin metrics list`: every metric that some process of Tocsin shows, and the question that it answers.

Rooms declare their metrics where they measure them (`bridge.runtime.telemetry`); here those rooms are found and asked.
"""

import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import click

import bridge
import consumers
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.telemetry import DECLARATIONS, Declaration

_MARK = "from bridge.runtime.telemetry import"


def declared(packages: tuple[ModuleType, ...] = (bridge, consumers)) -> list[Declaration]:
    """Return every declared metric by name; imports the modules that declare some."""
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            spec = find_spec(module.name)
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                continue
            if _MARK in Path(spec.origin).read_text(encoding="utf-8"):
                importlib.import_module(module.name)
    return [DECLARATIONS[name] for name in sorted(DECLARATIONS)]


@click.group()
def metrics() -> None:
    """What Prometheus finds at every stage."""


@metrics.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_metrics(as_json: bool) -> None:
    """Every metric with its labels, and the question that it answers."""
    rows = [
        {
            "metric": each.name,
            "kind": each.kind,
            "labels": list(each.labels) if as_json else ", ".join(each.labels) or None,
            "question": each.question,
            "help": each.help,
            "declared_in": each.module,
        }
        for each in declared()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["metric", "kind", "labels", "question"])


COMMANDS: list[click.Command] = [metrics]
