"""Asks a Prometheus, and lets promtool check what is written for one."""

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.choice import find_program
from tests.servers.local import run_to_end

PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """Where it answers."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the HTTP API; `match` stands for `match[]`."""
        query = urllib.parse.urlencode([(name.replace("match", "match[]"), text) for name, text in parameters.items()])
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, promql: str) -> list[tuple[Labels, float]]:
        """Return labels and value of each series of an instant vector."""
        return [(each["metric"], float(each["value"][1])) for each in self.ask("query", query=promql)["result"]]


def check_config(path: Path, scratch: Path) -> None:
    """Let promtool check a configuration. Raises ServerDidNotStart with what it says."""
    run_to_end("promtool", (_program("promtool"), "check", "config", path), scratch / "promtool.log", 30)


def check_rules(tests: Path, scratch: Path) -> None:
    """Let promtool run the tests of alert rules. Raises ServerDidNotStart with what it says."""
    run_to_end("promtool", (_program("promtool"), "test", "rules", tests), scratch / "promtool.log", 60)


def _program(name: str) -> str:
    return find_program(name) or name
