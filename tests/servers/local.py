"""Local server processes: under a supervisor, in a scratch folder, on free ports, ready or an error that says why."""

import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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


@contextmanager
def running(
    name: str, command: Sequence[str | Path], scratch: Path, is_ready: Callable[[], bool], timeout_seconds: float = 60
) -> Iterator[None]:
    """Keep `command` running while the context lasts.

    Raises ServerDidNotStart if it ends, or `is_ready` is not true within the time.
    """
    log = scratch / f"{name}.log"
    owner = subprocess.Popen(
        [sys.executable, supervisor.__file__, "--scratch", scratch, "--log", log, "--", *command],
        stdin=subprocess.PIPE,
    )
    try:
        wait_until_ready(name, owner, log, is_ready, timeout_seconds)
        yield
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
