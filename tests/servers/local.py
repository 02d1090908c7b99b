"""Local server processes: under a supervisor, in a scratch folder, on free ports, ready or an error that says why."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from testcontainers.core.container import DockerContainer

from tests.servers import supervisor

# Below the range from which systems lend ports to outgoing connections: nothing takes one between look and use.
PORTS = range(20_000, 32_000)
LOG_TAIL_LINES = 30


class ServerDidNotStart(Exception):
    """A server ended or stayed silent; the message ends with the last lines of its log."""


def free_port() -> int:
    """Return a TCP port of the loopback address on which nothing listens."""
    for _ in range(100):
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port found between {PORTS.start} and {PORTS.stop}")


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder with a short path (a socket's path has room for 107 bytes), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"tocsin-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Plug(Protocol):
    """What a test may pull: the server is killed at once, and what it wrote stays."""

    def pull(self) -> None:
        """Kill the server and wait until nobody answers."""
        ...

    def put_back(self) -> None:
        """Start the server on what it left behind and wait until it answers."""
        ...


class ProcessPlug:
    """The plug of a server under the supervisor `owner`."""

    def __init__(
        self,
        name: str,
        owner: "subprocess.Popen[bytes]",
        log: Path,
        is_ready: Callable[[], bool],
        timeout_seconds: float,
    ) -> None:
        self._name = name
        self._owner = owner
        self._log = log
        self._is_ready = is_ready
        self._timeout_seconds = timeout_seconds

    def pull(self) -> None:
        self._owner.send_signal(signal.SIGUSR1)
        give_up_at = time.monotonic() + self._timeout_seconds
        while self._is_ready():
            assert time.monotonic() < give_up_at, f"{self._name} still answers"
            time.sleep(0.02)

    def put_back(self) -> None:
        self._owner.send_signal(signal.SIGUSR2)
        wait_until_ready(self._name, self._owner, self._log, self._is_ready, self._timeout_seconds)


class ContainerPlug:
    """The plug of a server in a container."""

    def __init__(self, container: DockerContainer, is_ready: Callable[[], bool]) -> None:
        self._container = container
        self._is_ready = is_ready

    def pull(self) -> None:
        self._container.get_wrapped_container().kill()

    def put_back(self) -> None:
        self._container.get_wrapped_container().start()
        give_up_at = time.monotonic() + 60
        while not self._is_ready():
            assert time.monotonic() < give_up_at, "the container does not answer"
            time.sleep(0.1)


@contextmanager
def running(
    name: str, command: Sequence[str | Path], scratch: Path, is_ready: Callable[[], bool], timeout_seconds: float = 60
) -> Iterator[Plug]:
    """Keep `command` running while the context lasts; yield its plug.

    Raises ServerDidNotStart if it ends, or `is_ready` is not true within the time.
    """
    log = scratch / f"{name}.log"
    owner = subprocess.Popen(
        [sys.executable, supervisor.__file__, "--scratch", scratch, "--log", log, "--", *command],
        stdin=subprocess.PIPE,
    )
    try:
        wait_until_ready(name, owner, log, is_ready, timeout_seconds)
        yield ProcessPlug(name, owner, log, is_ready, timeout_seconds)
    finally:
        assert owner.stdin is not None
        owner.stdin.close()
        owner.wait(timeout=30)


def wait_until_ready(
    name: str, process: "subprocess.Popen[bytes]", log: Path, is_ready: Callable[[], bool], timeout_seconds: float
) -> None:
    """Return when `is_ready`; raise ServerDidNotStart if `process` ends first or the time is over."""
    give_up_at = time.monotonic() + timeout_seconds
    while not is_ready():
        if process.poll() is not None:
            raise ServerDidNotStart(f"{name} ended with exit code {process.returncode}\n{tail_of(log)}")
        if time.monotonic() > give_up_at:
            raise ServerDidNotStart(f"{name} did not answer within {timeout_seconds:.0f} s\n{tail_of(log)}")
        time.sleep(0.05)


def run_to_end(name: str, command: Sequence[str | Path], log: Path, timeout_seconds: float) -> None:
    """Run a preparing command; raise ServerDidNotStart with its output if it fails."""
    with log.open("ab") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            check=False,
        )
    if done.returncode != 0:
        raise ServerDidNotStart(f"{name} failed with exit code {done.returncode}\n{tail_of(log)}")


def tail_of(log: Path) -> str:
    """Return the last lines of a log file, or nothing if there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
