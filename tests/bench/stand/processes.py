"""Starts the product's processes for benchmarks. Tests at toy size lend their own way, which spares each a Python's start."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[3]


def start(
    command: Sequence[str], log: IO[bytes], *, folder: Path = _ROOT, more: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start `command` in `folder`, its output at the end of `log`, with our environment and `more`."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT)} | dict(more or {})
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
