"""The way from a store to the index as its users run it: `tocsin run` of single stages, each a process, and commands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consumers.commands import initialise
from consumers.demo.typist import Typed
from tests.processes import module, typist
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase

ROOT = Path(__file__).parents[2]


def wait_for(what: str, condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.05)


class Installation:
    """A folder as `tocsin init` writes it, on the tests' servers."""

    def __init__(
        self, folder: Path, kafka: KafkaServer, topic_prefix: str, store: StoreDatabase, **store_settings: Any
    ):
        self.folder = folder
        changes = {
            "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": topic_prefix},
            "store": {"url": store.url, **store_settings},
            "metrics": {"port_base": 0},
            "relay": {"departed_retention_days": 30, "beat_seconds": 1},
            "delivery": {"endpoint_url": "http://127.0.0.1:1"},
        }
        initialise(folder, admin_id="admin", admin_name="Admin", changes=changes)
        self._running: dict[str, Typed] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def tocsin(self, *arguments: str, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return typist().type(arguments, environment=self.environment, folder=self.folder, seconds=timeout_seconds)

    def popen(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command whose output is read as it comes."""
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "consumers.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def facts(self, *arguments: str) -> tuple[int, Any]:
        """Run a command with --json; return exit code and what it printed."""
        done = self.tocsin(*arguments, "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def start(self, *stages: str) -> None:
        for stage in stages:
            with (self.folder / f"{stage}.log").open("ab") as log:
                command = module("consumers.cli", "run", stage)
                self._running[stage] = typist().start(command, self.environment, log, folder=self.folder)

    def stop(self, *stages: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End `stages`; without a name all of them."""
        for stage in stages or tuple(self._running):
            process = self._running.pop(stage)
            process.send_signal(how)
            process.wait(60)

    def send_signal(self, stage: str, signal_number: signal.Signals) -> None:
        """Freeze a stage or let it go on."""
        self._running[stage].send_signal(signal_number)

    def log(self, stage: str) -> str:
        return (self.folder / f"{stage}.log").read_text(encoding="utf-8")
