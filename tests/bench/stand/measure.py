"""CPU seconds and memory of processes, from /proc, so Linux only; waiting; medians."""

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return user and system seconds used so far by each process."""
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        found[name] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def children_cpu_seconds(pid: int) -> float:
    """Return user and system seconds used by all children of a process that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def rss_mb(pid: int) -> int:
    """Return the most memory that a process has held, in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(found[1]) * 1024 / 1e6) if found else 0


def listening_on(port: int) -> int:
    """Return the process that listens on a local TCP port."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(str(link.readlink()) in inodes for link in (entry / "fd").iterdir()):
                    return int(entry.name)
    raise LookupError(f"nothing that can be seen listens on port {port}")


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 600, every: float = 0.02) -> None:
    """Wait for `condition`. Raises TimeoutError that says what was waited for."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def at(sorted_values: list[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]
