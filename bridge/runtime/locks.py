"""Locks that end with the process: a file that one process at a time holds."""

import fcntl
import os
from pathlib import Path


def lock_file(path: Path) -> int | None:
    """Take the lock on the file at `path`, made if need be; return its descriptor, which gives it back when it is closed. None:
    another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
