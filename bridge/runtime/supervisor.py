"""Keeps several processes running on one machine: starts them, restarts what dies, forwards signals, ends cleanly.

Knows no stage: a child is a name and a command. A child that ends with exit code 2 (wrong use or settings) when it has hardly
begun would only fail again, so everything ends with it; one that had done its work by these settings has met something that
passes, as credentials that could not be had for a moment. Children never outlive the supervisor, even when it is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import structlog

log = structlog.get_logger()

_PR_SET_PDEATHSIG = 1
_AT_WORK_SECONDS = 30
"""Who runs for longer does its work."""


class Running(Protocol):
    """A process that was started; subprocess.Popen is one."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal; nothing if it has ended."""
        ...


Start = Callable[[Sequence[str], Mapping[str, str] | None, IO[bytes] | None], Running]
"""Starts a command with an environment (None: ours), its output in a file (None: ours)."""


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    process: Running | None = None
    started: float = 0.0
    failures: int = 0
    worked: bool = False
    """It has done its work once, by settings that it cannot refuse as such."""
    not_before: float = 0.0
    output: IO[bytes] | None = field(default=None, repr=False)


def die_with_parent() -> Callable[[], None]:
    """Return a function for a child between fork and exec: the kernel kills it when its parent dies (Linux)."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def _arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return _arm


class Supervisor:
    """Runs children until told to stop. `logs` is a folder with one file a child; None lets them share stderr.

    `start` is how they are started, if not as programs: whoever starts them sees to it that they do not outlive us.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        logs: Path | None = None,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 30.0,
        start: Start | None = None,
    ) -> None:
        self._children = [_Child(name, command) for name, command in commands.items()]
        self._logs = logs
        self._environment = None if environment is None else dict(environment)
        self._grace_seconds = grace_seconds
        self._arm = die_with_parent()
        self._start_process = start or self._execute
        self.restarts: dict[str, int] = {child.name: 0 for child in self._children}

    def run(self, stop: threading.Event) -> int:
        """Keep the children running until `stop` is set or one refuses its settings; return the exit code.

        0 if every child ended cleanly when asked, 2 if one refused its settings, 1 if one had to be killed.
        """
        try:
            while not stop.is_set():
                refused = self.tend()
                if refused is not None:
                    log.error("a process refuses its settings; stopping all", process=refused)
                    self.stop()
                    return 2
                stop.wait(0.1)
        finally:
            clean = self.stop()
        return 0 if clean else 1

    def tend(self) -> str | None:
        """Start what is not running; return the name of a child that ended with exit code 2 before it had worked, else None."""
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.not_before:
                    self._start(child)
                continue
            code = child.process.poll()
            if code is None:
                if now - child.started > _AT_WORK_SECONDS:
                    child.failures, child.worked = 0, True
                continue
            self._close(child)
            if code == 2 and not child.worked:
                return child.name
            child.failures += 1
            delay = min(10.0, 0.2 * 2 ** min(child.failures - 1, 6))
            child.not_before = now + delay
            self.restarts[child.name] += 1
            log.warning("a process ended; it is started again", process=child.name, exit_code=code, in_seconds=delay)
        return None

    def _start(self, child: _Child) -> None:
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            child.output = (self._logs / f"{child.name}.log").open("ab")
        child.process = self._start_process(child.command, self._environment, child.output)
        child.started = time.monotonic()

    def _execute(
        self, command: Sequence[str], environment: Mapping[str, str] | None, output: IO[bytes] | None
    ) -> Running:
        return subprocess.Popen(  # noqa: S603  our own interpreter with our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stderr=output,
            stdout=output,
            env=environment,
            preexec_fn=self._arm,
            start_new_session=True,
        )

    def _close(self, child: _Child) -> None:
        child.process = None
        if child.output is not None:
            child.output.close()
            child.output = None

    def pid(self, name: str) -> int | None:
        """Return the process id of child `name`, or None while it is not running."""
        for child in self._children:
            if child.name == name and child.process is not None and child.process.poll() is None:
                return child.process.pid
        return None

    def stop(self) -> bool:
        """Ask every child to end, wait, kill what does not; return whether all ended by themselves."""
        running = [child for child in self._children if child.process is not None]
        for child in running:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        clean = True
        until = time.monotonic() + self._grace_seconds
        for child in running:
            if child.process is None:
                continue
            try:
                code = child.process.wait(max(0.1, until - time.monotonic()))
                if code not in (0, 2):
                    log.warning("a process did not end cleanly", process=child.name, exit_code=code)
                    clean = False
            except subprocess.TimeoutExpired:
                log.error("a process did not end in time and is killed", process=child.name)
                child.process.send_signal(signal.SIGKILL)
                child.process.wait()
                clean = False
            self._close(child)
        return clean


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets. Call it from the main thread."""
    stop = threading.Event()

    def _stop(_number: int, _frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    return stop
