"""Finds benchmarks and runs them: `python -m tests.bench.run [NAME...]`.

A benchmark is a module `tests/bench/<name>.py` with `main(size: str) -> dict[str, object]`: what it measured, with the
unit in each key. `size` is "full" or "toy"; toy is quick and proves only that the benchmark still works. It raises
`PeerMissing` if a program that it compares with is not there.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NOT_BENCHES = {"__init__", "run"}


class PeerMissing(Exception):
    """A program to compare with is not installed; the message names it and how to get it."""


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(
        file.stem for file in HERE.glob("*.py") if file.stem not in NOT_BENCHES and not file.stem.startswith("test_")
    )


def run(name: str, size: str) -> dict[str, object]:
    """Run one benchmark. Raises PeerMissing."""
    found: dict[str, object] = importlib.import_module(f"tests.bench.{name}").main(size)
    return found


def main(wanted: Sequence[str]) -> int:
    """Run the wanted benchmarks, or all, at full size; return the exit code (2: unknown name or missing peer)."""
    known = names()
    for name in wanted:
        if name not in known:
            print(f"no benchmark {name!r}; there are: {', '.join(known) or 'none yet'}", file=sys.stderr)
            return 2
    for name in wanted or known:
        try:
            result = run(name, "full")
        except PeerMissing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            return 2
        for what, value in result.items():
            print(f"{name}: {what} = {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
