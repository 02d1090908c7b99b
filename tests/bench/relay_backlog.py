"""A backlog of any length costs the same a change: CPU seconds and memory from 10,000 to 5,000,000 waiting changes."""

import statistics
import tempfile
import time
from pathlib import Path

from pymysql.cursors import Cursor

from tests.bench.stand import measure, relay, servers
from tests.bench.stand.relay import Installation
from tests.bench.stand.servers import Stand

_LENGTHS = {"full": (10_000, 100_000, 1_000_000, 5_000_000), "middle": (10_000, 100_000, 1_000_000), "toy": (50, 100)}
_RECORDS = {"full": 500_000, "middle": 200_000, "toy": 50}
_A_SAMPLE = 100_000
_MOST_GROWTH, _MOST_MB = 1.2, 150


def main(size: str) -> dict[str, object]:
    """Return rate, CPU and memory of each length, and whether the cost is flat.

    Each is counted over the first changes drained, at most 100,000: there the backlog is as long as it says.
    """
    found: dict[str, object] = {}
    costs: list[float] = []
    with (
        servers.stand(small=size == "toy") as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        stand.store.connect() as connection,
        connection.cursor() as cursor,
    ):
        servers.fill(cursor, _RECORDS[size] // 10, _RECORDS[size])
        installation = relay.install(stand, Path(folder))
        for length in _LENGTHS[size]:
            servers.forget(cursor)
            for after in range(0, length, _RECORDS[size]):
                cursor.execute(
                    f"INSERT INTO tocsin_provenance_cl (version_id, entity_id, record_id, root) SELECT {after} + id, id,"
                    f" record_id, root FROM tocsin_provenance WHERE {after} + id <= {length} ORDER BY id"
                )
            cost, rate, held = _sampled(stand, cursor, installation, length)
            costs.append(cost)
            found[f"{length} waiting"] = f"{rate:.0f}/s, {cost:.2f} CPU-s per 100,000, {held} MB"
            found[f"{length} waiting, memory below {_MOST_MB} MB"] = held < _MOST_MB
    growth = costs[-1] / max(0.001, statistics.median(costs))
    found[f"cost of the longest against the median (at most {_MOST_GROWTH})"] = round(growth, 2)
    return found


def _sampled(stand: Stand, cursor: Cursor, installation: Installation, length: int) -> tuple[float, float, int]:
    """Drain the beginning of a backlog; return CPU seconds per 100,000 changes, changes a second, and memory in MB."""

    backlog = servers.Backlog(cursor, "tocsin_provenance")

    def wait_for(left: int) -> None:
        measure.wait_until(f"{left} changes left", lambda: backlog.left() <= left)

    with installation.running() as process:
        pids = {"relay": process.pid, **stand.pids}
        wait_for(length - 1)
        left = backlog.left()
        began, before = time.monotonic(), measure.cpu_seconds(pids)
        wait_for(max(0, length - _A_SAMPLE))
        count = max(1, left - backlog.left())
        seconds, after = max(0.001, time.monotonic() - began), measure.cpu_seconds(pids)
        held = measure.rss_mb(process.pid)
    return sum(after[name] - before[name] for name in pids) * 1e5 / count, count / seconds, held
