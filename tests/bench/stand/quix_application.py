# mypy: ignore-errors
"""Quix Streams with one state entry for each record key, then a scan of its RocksDB stores for the resolution query.

Runs in its own virtual environment, started by `streams.py`. Records go into the state as the bytes that they came as: parsing
and writing JSON on the way in costs Quix more than half of its speed. Quix gives state only by key inside a stream, so the scan
opens the stores of all partitions read-only after the load has ended.
Arguments: bootstrap topic messages stateDirectory timeoutSeconds model versions from to queryRuns.
"""

import json
import os
import sys
import time
from pathlib import Path

import orjson
from quixstreams import Application
from quixstreams.state.rocksdb import RocksDBOptions
from rocksdict import AccessType, Options, Rdict

bootstrap, topic, messages, folder, timeout, model, versions, window_from, window_to, runs = sys.argv[1:]
versions = set(versions.split(","))
sensitivities = ("low", "medium", "high", "critical")


def as_bytes(value):
    """Our records are bytes already; Quix's own entries (offsets, timestamps) are not."""
    return value if isinstance(value, bytes) else orjson.dumps(value)


def load():
    application = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{time.time_ns()}",
        auto_offset_reset="earliest",
        state_dir=folder,
        use_changelog_topics=False,
        commit_interval=5.0,
        commit_every=0,
        loglevel="WARNING",
        rocksdb_options=RocksDBOptions(dumps=as_bytes, loads=lambda value: value),
        consumer_extra_config={
            "queued.min.messages": 500000,
            "queued.max.messages.kbytes": 262144,
            "fetch.message.max.bytes": 4 << 20,
        },
    )
    first, count = 0.0, 0

    def keep(value, state):
        nonlocal first, count
        state.set("record", value)
        count += 1
        if count == 1:
            first = time.monotonic()

    stream = application.dataframe(application.topic(topic, key_deserializer="bytes", value_deserializer="bytes"))
    stream.update(keep, stateful=True)
    began = time.monotonic()
    application.run(count=int(messages), timeout=float(timeout))
    end = time.monotonic()
    cpu = sum(os.times()[:2])
    return {
        "messages": count,
        "load_s": round(end - began, 3),
        "load_from_first_s": round(end - first, 3),
        "load_cpu_s": round(cpu, 2),
    }


def stores():
    return sorted({path.parent for path in Path(folder).rglob("CURRENT")})


def scan():
    began, cpu = time.perf_counter(), sum(os.times()[:2])
    people, scanned = {}, 0
    for path in stores():
        store = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
        for value in store.values():
            if not value.startswith(b"{"):
                continue  # Quix keeps its own numbers (offsets) in the same store
            scanned += 1
            record = orjson.loads(value)
            deleted = record["deleted_at"]
            if (
                record["model_id"] == model
                and record["model_version"] in versions
                and record["generated_at"] < window_to
                and (deleted is None or deleted > window_from)
            ):
                categories, rank, kinds = people.get(record["customer_id"], (set(), 0, set()))
                rank = max(rank, sensitivities.index(record["sensitivity"]))
                people[record["customer_id"]] = (categories.union(record["categories"]), rank, kinds | {record["kind"]})
        store.close()
    seconds = time.perf_counter() - began
    lists = [[customer, sorted(c), rank, sorted(k)] for customer, (c, rank, k) in people.items()]
    return {"query_s": round(seconds, 3), "query_cpu_s": round(sum(os.times()[:2]) - cpu, 2), "scanned": scanned}, lists


if __name__ == "__main__":
    print(json.dumps(load()), flush=True)
    for _ in range(int(runs)):
        times, people = scan()
        print(json.dumps(times), flush=True)
    Path(folder, "answer.json").write_text(json.dumps(people))
