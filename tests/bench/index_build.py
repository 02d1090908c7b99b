"""The index built from its topic, and an incident's question asked of it: against Kafka Streams, Quix Streams and a JOIN.

2 million and 10 million records of about 690 bytes, a tenth of which come again deleted, six partitions. BENCH_ONLY=2m or 10m
takes one of them. Each from the start of its processes until everything is on disk: ours is two `tocsin run index`, from their
start to their end. In turn, medians of three (one turn at 10 million: BENCH_TURNS says
otherwise). Before the first turn the topic is read once by none of them: a broker that has just started compiles what serves
its readers while it serves the first one, and whoever came first paid for all. Every system must find the same people, with
the same categories, kinds and sensitivities.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pymysql.cursors import Cursor

from bridge.contracts.topics import STORE_CHANGES
from bridge.runtime.allocation import keep_freed_memory
from consumers.adapters.provenance_index import ProvenanceIndex, keep_what_duckdb_frees
from tests.bench.stand import servers, streams, workers
from tests.bench.stand.provenance import (
    FROM,
    MODEL,
    PARTITIONS,
    PUBLISHED_AT,
    SCOPE,
    TO,
    VERSIONS,
    Person,
    Provenance,
    digest,
    sensitivity,
)
from tests.bench.stand.servers import Stand
from tests.bench.stand.streams import Taken
from tests.bench.stand.workers import Installation

_SIZES = {"full": {"2m": 2_000_000, "10m": 10_000_000}, "middle": {"middle": 200_000}, "toy": {"toy": 2000}}
_BUILD = {"2m": 1.1, "10m": 1.0}
_QUIX, _DISK, _SCAN, _MOST_MB, _MOST_GROWTH = 3.5, 0.4, 20.0, 1500, 1.2
_WORKERS = 2
_WARM = 2_000_000
"""Messages that the broker gives to a reader of its own before the first side comes: by then its code is compiled."""
_JOIN = """
CREATE TEMPORARY TABLE resolved AS
SELECT c.entity_id, c.email, c.firstname, c.lastname, a.street, a.postcode, a.city,
    GROUP_CONCAT(DISTINCT p.categories) AS categories, MAX(p.sensitivity) AS sensitivity, GROUP_CONCAT(DISTINCT p.kind) AS kinds
FROM bench_provenance p JOIN bench_customer c ON c.entity_id = p.customer_id
LEFT JOIN bench_address a ON a.entity_id = c.default_billing
WHERE p.model_id = %s AND p.model_version IN %s AND p.generated_at < %s AND (p.deleted_at IS NULL OR p.deleted_at > %s)
GROUP BY c.entity_id
"""


def main(size: str) -> dict[str, object]:
    """Return what each system took, and whether the goals hold. Raises PeerMissing."""
    found: dict[str, object] = {}
    only = os.environ.get("BENCH_ONLY")
    for name, records in _SIZES[size].items():
        if only in (None, name):
            found |= {f"{name} {what}": value for what, value in _measured(name, Provenance(records), size).items()}
    return found


def _measured(name: str, provenance: Provenance, size: str) -> dict[str, object]:
    turns = 1 if size == "toy" else int(os.environ.get("BENCH_TURNS", "1" if name == "10m" else "3"))
    runs: dict[str, list[Taken]] = {"index": [], "streams": [], "quix": [], "join": []}
    with (
        servers.stand(small=size == "toy") as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        stand.store.connect() as connection,
        connection.cursor() as cursor,
    ):
        installation = workers.install(stand.bootstrap_servers, Path(folder))
        provenance.publish(stand.bootstrap_servers, installation.changes)
        provenance.load(stand.store)
        servers.warm(stand, installation.changes, _WARM)
        for _ in range(turns):
            runs["index"].append(_built(installation, provenance))
            if size != "toy":
                runs["streams"].append(_streams(stand, installation, provenance))
                runs["quix"].append(streams.quix_streams(stand.bootstrap_servers, installation.changes, provenance))
            runs["index"][-1] |= resolved(installation, workers=_WORKERS)
            runs["join"].append(joined(cursor))
    answers = {kind: {run["answer"] for run in each} for kind, each in runs.items() if each}
    if len(set.union(*answers.values())) != 1:
        raise RuntimeError(f"the systems do not find the same people: {answers}")
    return _report(name, provenance, runs)


def _built(installation: Installation, provenance: Provenance) -> Taken:
    installation.forget()
    began = time.monotonic()
    with installation.running(_WORKERS) as processes:
        seen = installation.wait_for_head(processes)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "rss_mb": seen.rss_mb, "disk_mb": installation.disk_mb(), "growth": seen.growth()}


def _streams(stand: Stand, installation: Installation, provenance: Provenance) -> Taken:
    build = streams.kafka_streams(stand.bootstrap_servers, installation.changes, provenance, queries=0)
    scan = streams.kafka_streams(stand.bootstrap_servers, installation.changes, provenance, queries=3)
    return build | {"queries": scan["queries"], "answer": scan["answer"]}


def resolved(installation: Installation, *, workers: int, times: int = 3) -> Taken:
    """Ask every partition's file as its owner would; return the seconds of each time and the answer.

    So many `workers`, each a process of its own, share the partitions, and each asks one file after the other; as two threads
    scan Kafka Streams' stores. The first time warms. An owner merges what came within seconds of the last record; so this is done
    before.
    """
    context = multiprocessing.get_context("spawn")
    asked: list[Connection[Any, Any]] = []
    processes = []
    queries: list[float] = []
    people: list[Person] = []
    try:
        for first in range(workers):
            here, there = context.Pipe()
            share = (installation.index, installation.changes, installation.cluster, range(first, PARTITIONS, workers))
            processes.append(context.Process(target=_own, args=(there, *share), daemon=True))
            processes[-1].start()
            there.close()
            asked.append(here)
        for worker in asked:
            worker.recv()
        for _ in range(1 + times):
            began = time.perf_counter()
            for worker in asked:
                worker.send(True)
            for worker in asked:
                worker.recv()
            queries.append(time.perf_counter() - began)
        for worker in asked:
            worker.send(False)
            people += worker.recv()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
    return {"queries": queries[1:], "answer": digest(people)}


def _own(asked: "Connection[Any, Any]", directory: Path, topic: str, cluster: str, partitions: Sequence[int]) -> None:
    """Open the files of `partitions`, then find those concerned each time that somebody asks; at the end say who they are."""
    keep_freed_memory()  # as `tocsin run index` does
    keep_what_duckdb_frees()
    index = ProvenanceIndex(directory)
    files = [
        index.open(
            partition, topic=topic, cluster=cluster, partition_count=PARTITIONS,
            bounds={STORE_CHANGES.name: (0, 2**62)}, now=PUBLISHED_AT,
        )
        for partition in partitions
    ]  # fmt: skip
    for file in files:
        with file.transaction():
            file.merge(least=1)
    asked.send(None)
    while asked.recv():
        for file in files:
            file.find(SCOPE)
        asked.send(None)
    asked.send(
        [
            (
                each.customer_id or 0,
                each.why.categories,
                each.why.highest_sensitivity.value,
                [kind.value for kind in each.why.kinds],
            )
            for file in files
            for each in file.answer(SCOPE)
            if each.why is not None
        ]
    )
    index.close()


def joined(cursor: Cursor, times: int = 3) -> Taken:
    """Ask MariaDB by one JOIN; return the seconds of each time, after one that warms, and the answer."""
    queries = []
    cursor.execute("SET SESSION group_concat_max_len = 1000000")
    cursor.execute("SET SESSION in_predicate_conversion_threshold = 0")
    for _ in range(1 + times):
        cursor.execute("DROP TEMPORARY TABLE IF EXISTS resolved")
        began = time.perf_counter()
        cursor.execute(_JOIN, (MODEL, VERSIONS, f"{TO:%Y-%m-%d %H:%M:%S}", f"{FROM:%Y-%m-%d %H:%M:%S}"))
        queries.append(time.perf_counter() - began)
    cursor.execute("SELECT entity_id, categories, sensitivity, kinds FROM resolved")
    people = [
        (int(customer), set(categories.split(",")), sensitivity(int(rank)), kinds.split(","))
        for customer, categories, rank, kinds in cursor.fetchall()
    ]
    return {"queries": queries[1:], "answer": digest(people)}


def _report(name: str, provenance: Provenance, runs: Mapping[str, Sequence[Taken]]) -> dict[str, object]:
    def middle(kind: str, what: str) -> float:
        return statistics.median(float(run[what]) for run in runs[kind])

    def query(kind: str) -> float:
        return float(statistics.median(seconds for run in runs[kind] for seconds in run["queries"]))

    ours, join = runs["index"], query("join") / query("index")
    found: dict[str, object] = {"people found by all": ours[-1]["answer"][0]}
    for kind in (each for each in ("index", "streams", "quix") if runs[each]):
        rate = provenance.messages / middle(kind, "seconds")
        found[f"{kind} build"] = (
            f"{middle(kind, 'seconds'):.1f} s, {rate:.0f}/s, {middle(kind, 'rss_mb'):.0f} MB,"
            f" disk {middle(kind, 'disk_mb'):.0f} MB"
        )
    found |= {f"{kind} query, s": round(query(kind), 4) for kind in runs if runs[kind]}
    if runs["streams"]:
        ratio = middle("streams", "seconds") / middle("index", "seconds")
        goal = _BUILD.get(name, 0)
        found[f"build against Kafka Streams (at least {goal})"] = _verdict(ratio, ratio >= goal)
        ratio = middle("quix", "seconds") / middle("index", "seconds")
        found[f"build against Quix Streams (at least {_QUIX})"] = _verdict(ratio, ratio >= _QUIX)
        ratio = middle("index", "disk_mb") / middle("streams", "disk_mb")
        found[f"disk against Kafka Streams (at most {_DISK})"] = _verdict(ratio, ratio <= _DISK)
        ratio = query("streams") / query("index")
        found[f"question against Kafka Streams' scan (at least {_SCAN})"] = _verdict(ratio, ratio >= _SCAN)
    memory, growth = middle("index", "rss_mb"), middle("index", "growth")
    found[f"memory of all workers, MB (below {_MOST_MB})"] = _verdict(memory, memory < _MOST_MB)
    found[f"cost of the last records against the first (at most {_MOST_GROWTH})"] = _verdict(
        growth, growth <= _MOST_GROWTH
    )
    found["question against the JOIN (at least 1)"] = _verdict(join, join >= 1)
    return found


def _verdict(value: float, holds: bool) -> str:
    return f"{value:.2f} {'holds' if holds else 'MISSED'}"
