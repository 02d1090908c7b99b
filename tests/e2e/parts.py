"""Starts an embedded part of the demo by itself, for tests that need it without the demo's story."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.runtime.supervisor import die_with_parent
from tests.e2e.demo_process import ROOT, last_words


@contextmanager
def start_part(name: str, command: Sequence[str], folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON line that the part prints when it answers; end it afterwards."""
    log = folder / f"{name}.log"
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output,
            preexec_fn=die_with_parent(),
        ) as part,
    ):  # fmt: skip
        assert part.stdout is not None
        line = part.stdout.readline()
        assert line, last_words(log)
        try:
            yield json.loads(line)
        finally:
            part.terminate()
