"""One Prometheus server that scrapes this machine's loopback, in a folder of its own. Always a local process: a container
would not see what listens on loopback.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers.choice import find_program
from tests.servers.local import free_port, run_to_end, running, scratch_folder

PROGRAMS = ("prometheus", "promtool")

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


@contextmanager
def prometheus_server(config: Mapping[str, Any]) -> Iterator[PrometheusServer]:
    """Yield a server with `config` that answers. Raises ServerDidNotStart."""
    with scratch_folder("prometheus") as scratch:
        port = free_port()
        file = scratch / "prometheus.yaml"
        file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        url = f"http://127.0.0.1:{port}"
        command = (
            _program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={scratch / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}", "--web.console.templates=", "--web.console.libraries=",
        )  # fmt: skip
        with running("prometheus", command, scratch, lambda: _answers(url)):
            yield PrometheusServer(url)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _program(name: str) -> str:
    return find_program(name) or name
