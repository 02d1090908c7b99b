"""What the bridge's work costs a shop's save: saves while a backlog drains, against saves beside the same load on the CPUs alone.

Saves are replayed at SQL level, at a steady pace. The load to compare with is processes that use as many cores as relay,
Kafka and MariaDB used for the drain, and touch no database. Then relay, backfill and a verification that finds an index
which has lost everything, and repairs it, work at once beside shop connections that save without pause: waits for row locks
and deadlocks are the server's own counts. No two shop connections save the same customer, so none is the shop's.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pymysql.cursors import Cursor

from bridge.contracts.queries import (
    Faults,
    IndexStatus,
    Keys,
    KeysAsked,
    PartitionStatus,
    Ranges,
    RangesAsked,
    Seals,
)
from bridge.magento.backfill import ENTITIES, Backfill
from bridge.magento.look import StoreLook
from bridge.runtime.clock import SystemClock
from bridge.runtime.settings import Store
from bridge.verification import Verification
from tests.bench.capture import save
from tests.bench.stand import measure, relay, servers
from tests.bench.stand.relay import Installation
from tests.bench.stand.servers import Stand

_ATTRIBUTE = 202
_RATE = 100
_SHOPS = 2
_MOST_RATIO = 1.05
_MOST_KEYS = 40_000
_COMPLETE: Any = {"partition_count": 1, "silent_partitions": ()}
_LOCKS = ("Innodb_row_lock_waits", "Innodb_deadlocks")


@dataclass(frozen=True, slots=True)
class _Size:
    backlog: int
    records: int
    customers: int
    saves_alone: int
    rounds: int
    patience_seconds: float = 1.0


_SIZES = {
    "full": _Size(backlog=1_000_000, records=300_000, customers=30_000, saves_alone=800, rounds=3),
    "middle": _Size(backlog=400_000, records=200_000, customers=20_000, saves_alone=500, rounds=3),
    "toy": _Size(backlog=300, records=60, customers=20, saves_alone=30, rounds=1, patience_seconds=0.05),
}


@dataclass(frozen=True, slots=True)
class _Saved:
    """Seconds that each save took, and the cores that were used meanwhile."""

    times: Sequence[float]
    cores: Mapping[str, float]

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.times) * 1000

    @property
    def p99_ms(self) -> float:
        return measure.at(sorted(self.times), 0.99) * 1000


def main(size: str) -> dict[str, object]:
    """Return medians of the saves in milliseconds, their ratio, and waits and deadlocks, and whether the goals hold."""
    wanted = _SIZES[size]
    with (
        servers.stand(small=size == "toy") as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        stand.store.connect() as connection,
        connection.cursor() as cursor,
    ):
        servers.fill(cursor, wanted.customers, wanted.records)
        installation = relay.install(stand, Path(folder))
        return _Bench(stand, cursor, installation, wanted).run()


class _Bench:
    def __init__(self, stand: Stand, cursor: Cursor, installation: Installation, size: _Size) -> None:
        self._stand = stand
        self._cursor = cursor
        self._installation = installation
        self._size = size
        self._number = 0

    def run(self) -> dict[str, object]:
        alone = self._saved(self._stand.pids, self._size.saves_alone)
        drains: list[_Saved] = []
        burns: list[_Saved] = []
        found: dict[str, object] = {}
        for number in range(self._size.rounds):
            last = number == self._size.rounds - 1
            if number % 2:
                burns.append(self._beside_load(drains[-1], alone))
            drain, locks = self._while_it_drains(with_locks=last)
            drains.append(drain)
            found |= locks
            if not number % 2:
                burns.append(self._beside_load(drains[-1], alone))
        return self._report(alone, drains, burns) | found

    def _report(self, alone: _Saved, drains: Sequence[_Saved], burns: Sequence[_Saved]) -> dict[str, object]:
        result: dict[str, object] = {}
        for name, each in (("alone", [alone]), ("while it drains", drains), ("beside the same load", burns)):
            result[f"saves {name}"] = sum(len(one.times) for one in each)
            result[f"saves {name}, p50 in ms"] = round(statistics.median(one.p50_ms for one in each), 3)
            result[f"saves {name}, p99 in ms"] = round(statistics.median(one.p99_ms for one in each), 3)
            cores = {pid: statistics.median(one.cores[pid] for one in each) for pid in each[0].cores}
            result[f"cores {name}"] = ", ".join(f"{pid} {value:.2f}" for pid, value in cores.items())
        ratio = statistics.median(one.p50_ms for one in drains) / statistics.median(one.p50_ms for one in burns)
        holds = "holds" if ratio <= _MOST_RATIO else "MISSED"
        result[f"p50 while it drains against the same load (at most {_MOST_RATIO})"] = f"{ratio:.3f} {holds}"
        return result

    # Saving

    def _saved(self, pids: Mapping[str, int], count: int | None, more: Callable[[], bool] = lambda: True) -> _Saved:
        """Save `count` times at a steady pace, or as long as `more`, which is asked now and then, says so."""
        times: list[float] = []
        with self._stand.store.connect(autocommit=False) as connection:
            began, before = time.monotonic(), measure.cpu_seconds(pids)
            while len(times) < count if count is not None else len(times) % 25 or more() or not times:
                wait = began + len(times) / _RATE - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                self._number += 1
                times.append(save(connection, 1 + self._number % self._size.customers, self._number, _ATTRIBUTE))
            seconds, after = time.monotonic() - began, measure.cpu_seconds(pids)
        return _Saved(times, {name: (after[name] - before[name]) / seconds for name in pids})

    def _while_it_drains(self, *, with_locks: bool) -> tuple[_Saved, dict[str, object]]:
        self._fill_backlog()
        backlog = servers.Backlog(self._cursor, "tocsin_provenance")
        with self._installation.running() as process:
            measure.wait_until("the drain to begin", lambda: backlog.left() < backlog.total)
            saved = self._saved({"relay": process.pid, **self._stand.pids}, None, lambda: backlog.left() > 0)
            return saved, self._locks() if with_locks else {}

    def _fill_backlog(self) -> None:
        """Nine of ten are provenance rows, one is a customer: those are what a save itself changes."""
        servers.forget(self._cursor)
        for table, columns, key, rows, share in (
            ("tocsin_provenance", ", record_id, root", "id", self._size.records, 0.9),
            ("tocsin_customer", "", "entity_id", self._size.customers, 0.1),
        ):
            of = "customer_entity" if table == "tocsin_customer" else table
            wanted = round(self._size.backlog * share)
            for after in range(0, wanted, rows):
                self._cursor.execute(
                    f"INSERT INTO {table}_cl (version_id, entity_id{columns}) SELECT {after} + {key}, {key}{columns}"
                    f" FROM {of} WHERE {after} + {key} <= {wanted} ORDER BY {key}"
                )

    def _beside_load(self, drain: _Saved, alone: _Saved) -> _Saved:
        """Save as often as in the drain, beside processes that use as many cores as the drain did."""
        # MariaDB serves the saves too, in both; Kafka has nothing to do without the relay.
        of_saves = {"mariadb": alone.cores["mariadb"]}
        shares = {name: max(0.0, cores - of_saves.get(name, 0.0)) for name, cores in drain.cores.items()}
        with _burning(shares) as pids:
            saved = self._saved(pids | self._stand.pids, len(drain.times))
        load = {"load": sum(saved.cores[name] for name in pids), "load wanted": sum(shares.values())}
        return _Saved(saved.times, load | {name: saved.cores[name] for name in self._stand.pids})

    # Locks

    def _locks(self) -> dict[str, object]:
        """Have the relay drain, the backfill and the verification run at once; return what the shop waited for."""
        alone = self._beside_shops(lambda: time.sleep(min(2.0, self._size.saves_alone / 100)))
        together = self._beside_shops(self._backfill_and_verify)
        result: dict[str, object] = {}
        for name, (waits, times) in (("alone", alone), ("beside relay, backfill and verify", together)):
            result[f"saves without pause {name}"] = len(times)
            result[f"saves without pause {name}, p50 in ms"] = round(statistics.median(times) * 1000, 3)
            result[f"saves without pause {name}, p99 in ms"] = round(measure.at(sorted(times), 0.99) * 1000, 3)
            result[f"saves without pause {name}, longest in ms"] = round(max(times) * 1000, 3)
            for what in _LOCKS:
                result[f"{what} {name}"] = waits[what]
        caused = {what: together[0][what] for what in _LOCKS}
        result["row-lock waits and deadlocks caused (0)"] = f"{sum(caused.values())} " + (
            "MISSED" if any(caused.values()) else "holds"
        )
        return result

    def _beside_shops(self, work: Callable[[], None]) -> tuple[dict[str, int], list[float]]:
        """Run `work` while shop connections save; return by how much the server's counts grew, and the saves' seconds."""
        stop = threading.Event()

        def shop(number: int) -> list[float]:
            times: list[float] = []
            with self._stand.store.connect(autocommit=False) as connection:
                while not stop.is_set() or not times:
                    customer_id = 1 + (len(times) * _SHOPS + number) % self._size.customers
                    times.append(save(connection, customer_id, len(times), _ATTRIBUTE))
            return times

        before = self._lock_counts()
        with ThreadPoolExecutor(_SHOPS) as threads:
            shops = [threads.submit(shop, number) for number in range(_SHOPS)]
            try:
                work()
            finally:
                stop.set()
            saved = [each for one in shops for each in one.result()]
        after = self._lock_counts()
        return {name: after[name] - before[name] for name in _LOCKS}, saved

    def _backfill_and_verify(self) -> None:
        settings = Store(url=SecretStr(self._stand.store.url), registered_attributes=("fraud_score", "income_band"))
        backfill = Backfill(settings, self._installation.folder / "backfill.json")
        look = StoreLook(settings, SystemClock())

        def fill() -> None:
            for name in ENTITIES:
                for count in backfill.run(name, 5000):
                    time.sleep(count / 50_000)

        with ThreadPoolExecutor(1) as elsewhere:
            filled = elsewhere.submit(fill)
            try:
                look.open()
                verification = Verification(
                    look,
                    _LostIndex(),
                    os.urandom(32),
                    per_second=50_000,
                    patience_seconds=self._size.patience_seconds,
                    most_keys=_MOST_KEYS,
                )
                report = verification.run(repair=True)
                filled.result()
            finally:
                look.close()
        backfill.close()
        assert report.customers == self._size.customers
        assert not report.agree

    def _lock_counts(self) -> dict[str, int]:
        self._cursor.execute(f"SHOW GLOBAL STATUS WHERE Variable_name IN {_LOCKS}")
        found = {name: int(value) for name, value in self._cursor.fetchall()}
        assert found.keys() == set(_LOCKS), "this server does not count lock waits and deadlocks"
        return found


class _LostIndex:
    """Answers as an index that is complete and holds nothing: a verification then reads all, by range and by key."""

    def ranges(self, asked: RangesAsked) -> Ranges:
        return Ranges(**_COMPLETE, ranges={})

    def keys(self, asked: KeysAsked) -> Keys:
        return Keys(**_COMPLETE, keys={})

    def faults(self) -> Faults:
        return Faults(**_COMPLETE, faults=(), altered_count=0)

    def seals(self) -> Seals:
        return Seals(**_COMPLETE, present={}, departed={})

    def status(self) -> IndexStatus:
        now = datetime.now(UTC)
        numbers: Any = dict.fromkeys(
            ("position_offset", "customer_count", "order_count", "departed_count", "record_count", "file_bytes"), 0
        )
        # as if a heartbeat written right after the question had arrived already
        beaten = PartitionStatus(partition=0, head_at=now, beat_written_at=now + timedelta(seconds=1), **numbers)
        return IndexStatus(**_COMPLETE, partitions=(beaten,))


@contextmanager
def _burning(shares: Mapping[str, float]) -> Iterator[dict[str, int]]:
    """Keep processes that use these shares of a core each, and more than one process for more than one core."""
    started = []
    for share in shares.values():
        count = math.ceil(share)
        command = [sys.executable, "-I", "-c", _BURN, str(share / max(1, count))]
        started += [subprocess.Popen(command) for _ in range(count)]
    pids = {f"load {number}": process.pid for number, process in enumerate(started)}
    try:
        measure.wait_until("the load to begin", lambda: all(cpu > 0.02 for cpu in measure.cpu_seconds(pids).values()))
        yield pids
    finally:
        for process in started:
            process.kill()
            process.wait()


_BURN = """
import sys, time
began, used, share = time.monotonic(), time.process_time(), float(sys.argv[1])
while True:
    if time.process_time() - used < share * (time.monotonic() - began):
        sum(range(5000))
    else:
        time.sleep(0.002)
"""
