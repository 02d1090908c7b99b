"""Processes of the product that tests start, forked from one Python a worker that has imported everything already.

See `consumers/demo/typist.py`. What a test is about `tocsin run` or a Python that starts, it starts itself.
"""

import atexit
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

from consumers.demo.typist import Typed, Typist


@cache
def typist() -> Typist:
    """Return the typist that all tests of this worker share."""
    made = Typist()
    atexit.register(made.close)
    return made


def module(name: str, *words: object) -> list[str]:
    """Return the command that runs a module of ours."""
    return [sys.executable, "-m", name, *map(str, words)]


def piped(command: list[str], environment: Mapping[str, str], *, folder: Path) -> tuple[Typed, IO[str]]:
    """Start a command whose output is read as it comes; whoever reads closes it."""
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as output:
        process = typist().start(command, environment, output, folder=folder)
    return process, os.fdopen(ours, encoding="utf-8")
