"""Finds benchmarks and runs them: `python -m tests.bench.run [NAME...]`.

A benchmark is a module `tests/bench/<name>.py` with `main(size: str) -> dict[str, object]`: what it measured, with the
unit in each key. `size` is "full", "middle" (the same with less of everything, where full takes long) or "toy", which is
quick and proves only that the benchmark still works. `BENCH_SIZE` says which one; full is what goals are judged by. It
raises `PeerMissing` if a program that it compares with is not there.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SIZES = ("full", "middle", "toy")
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
    """Run the wanted benchmarks, or all, at the size wanted; return the exit code (2: unknown name, size, missing peer)."""
    known = names()
    size = os.environ.get("BENCH_SIZE", SIZES[0])
    if size not in SIZES:
        print(f"BENCH_SIZE={size}: there are {', '.join(SIZES)}", file=sys.stderr)
        return 2
    for name in wanted:
        if name not in known:
            print(f"no benchmark {name!r}; there are: {', '.join(known) or 'none yet'}", file=sys.stderr)
            return 2
    for name in wanted or known:
        try:
            result = run(name, size)
        except PeerMissing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            return 2
        for what, value in result.items():
            print(f"{name}: {what} = {value}", flush=True)
        # Figures of a busy machine are none: its load stands beside them.
        print(f"{name}: size {size}, load {', '.join(f'{load:.1f}' for load in os.getloadavg())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
