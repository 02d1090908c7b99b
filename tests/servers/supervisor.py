"""Runs one server and ends it when whoever started it is gone, however that happened (SIGKILL included).

    python supervisor.py --scratch DIR --log FILE -- COMMAND...

Started with a pipe as standard input, which it only watches: the system closes it when the owner dies. The owner's
process id is watched as well, because a fork of the owner may have inherited the other end of the pipe. Then the server
is killed and DIR removed: what is kept there is a test's, and worth nothing afterwards. Should the supervisor itself be
killed, the kernel kills the server (Linux).

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
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK_EVERY_SECONDS = 0.5


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Does nothing where there is no prctl."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def owner_is_gone(owner: int) -> bool:
    """Wait a moment for the owner's end of standard input to close; return whether it has, or its process has ended."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], LOOK_EVERY_SECONDS)
    return bool(readable) or os.getppid() != owner


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
    with wanted.log.open("ab") as log:
        server = subprocess.Popen(
            wanted.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=wanted.scratch,
            # This process has one thread, so nothing can be held locked across the fork.
            preexec_fn=die_with_parent,
        )
    try:
        while server.poll() is None:
            if owner_is_gone(owner):
                return 0
        return server.returncode
    finally:
        server.kill()
        server.wait()
        if owner_is_gone(owner):
            # While the owner lives it may want to read the log of a server that failed.
            shutil.rmtree(wanted.scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
