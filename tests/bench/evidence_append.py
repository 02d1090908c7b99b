"""How fast the evidence log takes entries: batches of 1,000, each durable and signed before the next, on one core.

The reference is what no log can do without: SHA-256 of the same entries, written to one file and synced once a batch.
Both take turns in one process that keeps to one core; medians over batches. What a batch costs in processor time stands
beside, because a wait for the disk says more of the disk. Memory is looked at after a tenth of all batches and at the
end, with a log ten times as long.
"""

import hashlib
import os
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from consumers.adapters.tile_store import TileFolder
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import Source
from consumers.evidence.log import LogWriter
from consumers.evidence.note import SigningKey

BATCH = 1000
BATCHES = {"full": 1000, "middle": 200, "toy": 3}
KEY = SigningKey("bench.example/evidence", bytes(range(32)))


def outcome(number: int) -> bytes:
    """Return a leaf as delivery makes it, of about 600 bytes."""
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return DeliveryOutcomeLeaf.model_validate(
        {
            "source": Source(
                cluster="lkc-7f3x2", topic="tocsin.delivery-outcomes", topic_id="J1xZ0bZ3QdKk2l9m8n7o6w",
                partition=number % 12, offset=number,
            ),
            "incident_id": "INC-2026-0001", "subject": digest, "attempt_number": 1, "channel": "email",
            "provider": "ses", "state": "handed_over", "previous_state": "intended", "body_digest": digest,
            "bundle_sha256": digest, "occurred_at": "2026-11-23T21:30:00Z", "recorded_at": "2026-11-23T21:30:00Z",
        }
    ).encode()  # fmt: skip


def resident_kib() -> int:
    """Return the memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main(size: str) -> dict[str, object]:
    """Return leaves per second of both, their ratio, and the memory at a tenth of the log and at its end."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with tempfile.TemporaryDirectory(prefix="evidence-append-") as folder:
            return _measured(Path(folder), BATCHES[size])
    finally:
        os.sched_setaffinity(0, cores)


def _measured(folder: Path, batches: int) -> dict[str, object]:
    leaves = [outcome(number) for number in range(BATCH)]
    appends, computing, bare = [], [], []
    early = 0
    log = LogWriter.open(TileFolder(folder / "log"), KEY)
    with closing(log), (folder / "bare").open("wb", buffering=0) as file:
        for number in range(batches):
            began, computed = perf_counter(), process_time()
            log.append(leaves)
            appended = perf_counter()
            computing.append(process_time() - computed)
            appends.append(appended - began)
            began = perf_counter()
            for leaf in leaves:
                hashlib.sha256(leaf).digest()
            file.write(b"".join(leaves))
            os.fsync(file.fileno())
            bare.append(perf_counter() - began)
            if number == batches // 10:
                early = resident_kib()
        assert log.size == batches * BATCH
        return {
            "leaf_bytes": len(leaves[0]),
            "leaves": log.size,
            "append_leaves_per_s": round(BATCH / median(appends)),
            "append_leaves_per_s_over_all": round(log.size / sum(appends)),
            "append_leaves_per_cpu_s": round(BATCH / median(computing)),
            "bare_hash_write_sync_leaves_per_s": round(BATCH / median(bare)),
            "append_by_bare": round(median(appends) / median(bare), 2),
            "resident_kib_at_a_tenth": early,
            "resident_kib_at_the_end": resident_kib(),
        }
