"""Runs the demo as its user does, in a process of its own, and keeps what it said."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOO_SLOW = -1


@dataclass(frozen=True, slots=True)
class DemoRun:
    """A demo that has ended. What its processes wrote is in `folder`."""

    folder: Path
    exit_code: int
    said: str

    @property
    def summary(self) -> dict[str, Any]:
        """What the demo wrote at its end: people, ends, faults, addresses."""
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return summary

    @property
    def story(self) -> str:
        """What to read when a test fails: the end of the story, and of each process's log what is no information."""
        logs = [
            line
            for log in sorted((self.folder / "logs").glob("*.log"))
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if '"level": "info"' not in line
        ]
        return "\n".join([self.said[-6000:], *logs[-40:]])


def run(
    folder: Path,
    *options: str,
    module: str = "consumers.cli",
    given: str | None = None,
    seconds: float = 400,
    temporary: Path | None = None,
) -> DemoRun:
    """Run `tocsin demo --exit --keep FOLDER` with more `options`; or `module` in its place, with `given` to read.

    `temporary` is where its processes put temporary files, for a test that wants to see them.
    """
    command: Sequence[str] = ("demo",) if module == "consumers.cli" else ()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_"))}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    with subprocess.Popen(
        [sys.executable, "-m", module, *command, "--exit", "--keep", str(folder), *options],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            said, _ = demo.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            # asked to end, so that the story and the logs are there to read
            demo.terminate()
            said, _ = demo.communicate(timeout=60)
            return DemoRun(folder, TOO_SLOW, f"{said}\nnot at its end after {seconds:.0f} s")
    return DemoRun(folder, demo.returncode, said)


def last_words(log: Path) -> str:
    """Return the last lines of a log file, for a failing test to show."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
