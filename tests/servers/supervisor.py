"""Runs one server and ends it when whoever started it is gone, however that happened (SIGKILL included).

    python supervisor.py --scratch DIR --log FILE -- COMMAND...

Started with a pipe as standard input, which it only watches: the system closes it when the owner dies. The owner's
process id is watched as well, because a fork of the owner may have inherited the other end of the pipe. Then the server
is killed and DIR removed: what is kept there is a test's, and worth nothing afterwards. Should the supervisor itself be
killed, the kernel kills the server (Linux).

SIGUSR1 pulls the plug: the server is killed and stays down. SIGUSR2 starts it again, on what it left behind.

Standard library only: it must start in a few milliseconds.
"""

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK_EVERY_SECONDS = 0.2


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Does nothing where there is no prctl."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def owner_is_gone(owner: int) -> bool:
    """Wait a moment for the owner's end of standard input to close; return whether it has, or its process has ended."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], LOOK_EVERY_SECONDS)
    return bool(readable) or os.getppid() != owner


def started(wanted: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Start the server, its output at the end of the log."""
    with wanted.log.open("ab") as log:
        return subprocess.Popen(
            wanted.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=wanted.scratch,
            # This process has one thread, so nothing can be held locked across the fork.
            preexec_fn=die_with_parent,
        )


def end(server: "subprocess.Popen[bytes] | None") -> None:
    """Kill the server, if there is one, and wait for its end."""
    if server is not None:
        server.kill()
        server.wait()


def main() -> int:
    """Run the command until it ends (its exit code) or the owner does (0)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    wanted = parser.parse_args()
    # Ctrl-C goes to the whole terminal group; the owner decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = os.getppid()
    is_down = threading.Event()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: is_down.set())
    signal.signal(signal.SIGUSR2, lambda _number, _frame: is_down.clear())
    server: subprocess.Popen[bytes] | None = started(wanted)
    try:
        while not owner_is_gone(owner):
            if is_down.is_set():
                end(server)
                server = None
            elif server is None:
                server = started(wanted)
            elif server.poll() is not None:
                return server.returncode
        return 0
    finally:
        end(server)
        if owner_is_gone(owner):
            # While the owner lives it may want to read the log of a server that failed.
            shutil.rmtree(wanted.scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
