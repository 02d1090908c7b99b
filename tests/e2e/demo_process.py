"""Runs the demo as its user does, in a process of its own, and keeps what it said."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.runtime.supervisor import die_with_parent

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
    with subprocess.Popen(
        [sys.executable, "-m", module, *command, "--exit", "--keep", str(folder), *options],
        cwd=ROOT,
        env=_environment(temporary),
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


class StandingDemo:
    """A demo that has told everybody, whose processes are all still up."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", said: Path) -> None:
        self.folder = folder
        self._process = process
        self._said = said

    def end(self) -> DemoRun:
        """Ask it to end, as Ctrl-C does, and wait until it has; asked again it says the same."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return DemoRun(self.folder, self._process.returncode, self._said.read_text(encoding="utf-8"))


@contextmanager
def standing(folder: Path, *options: str, temporary: Path, seconds: float = 400) -> Iterator[StandingDemo]:
    """Run `tocsin demo --keep FOLDER` with more `options`; lend it once it is at its end and waits to be looked at.

    Fails with its story if it ends before that, or is not there in time.
    """
    said = folder.with_name(f"{folder.name}.said")
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "consumers.cli", "demo", "--keep", str(folder), *options],
            cwd=ROOT,
            env=_environment(temporary),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(),
        )
    demo = StandingDemo(folder, process, said)
    try:
        give_up_at = time.monotonic() + seconds
        while "Everything stays up" not in said.read_text(encoding="utf-8"):
            assert process.poll() is None, demo.end().story
            assert time.monotonic() < give_up_at, demo.end().story
            time.sleep(0.2)
        yield demo
    finally:
        demo.end()


def _environment(temporary: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_"))}
    return kept | {"PYTHONPATH": str(ROOT)} | ({} if temporary is None else {"TMPDIR": str(temporary)})


def last_words(log: Path) -> str:
    """Return the last lines of a log file, for a failing test to show."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
