"""What reading the evidence log costs: verifying all of it offline, and one proof out of a very long one.

Verifying is every hash of the tree, computed from the entries and compared with each tile and the signed root; the
reference is a bare SHA-256 of the same entries in Python, in turns with it. With the check that each entry is a leaf
exactly as its type says, as `tocsin evidence verify DIR` does it, it is shown apart. Proofs are counted in files read,
at places spread over the whole log.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter

from consumers.adapters.tile_store import Disk, TileFolder
from consumers.evidence.checkpoint import open_checkpoint
from consumers.evidence.leaves import discover
from consumers.evidence.log import LogWriter
from consumers.evidence.merkle import check_inclusion, leaf_hash
from consumers.evidence.reader import CHECKPOINT, LogFiles, LogFolder, LogReader
from consumers.evidence.tiles import ENTRIES, parse_path
from consumers.evidence.verifier import verify_log
from tests.bench.evidence_append import KEY, outcome, resident_kib

SIZES = {"full": (1_000_000, 10_000_000), "middle": (100_000, 1_000_000), "toy": (1000, 70_000)}
"""Entries verified; entries of the log that proofs are taken from, of 20 bytes each."""

BATCH = 256_000
TURNS = 3
PROOFS = 50


class _Unsynced(Disk):
    """For a log that only this measurement reads."""

    def sync(self, paths: Iterable[Path]) -> None:
        pass


class _Counted:
    """A log's folder that counts which files are read."""

    def __init__(self, files: LogFiles) -> None:
        self._files = files
        self.read_paths: list[str] = []

    def read(self, path: str) -> bytes | None:
        found = self._files.read(path)
        if found is not None:
            self.read_paths.append(path)
        return found

    def size_of(self, path: str) -> int | None:
        return self._files.size_of(path)

    def names(self, top: str = "tile") -> Iterable[str]:
        return self._files.names(top)


def main(size: str) -> dict[str, object]:
    """Return the ratio of verifying to bare hashing, and the files that one proof reads at most."""
    verified, long = SIZES[size]
    with tempfile.TemporaryDirectory(prefix="evidence-verify-") as folder:
        return {
            **_verifying(Path(folder) / "log", verified, TURNS if size == "full" else 1),
            **_reading_leaves(Path(folder) / "log", verified),
            **_proving(Path(folder) / "long", long),
        }


def _write_leaves(folder: Path, count: int) -> None:
    with closing(LogWriter.open(TileFolder(folder, disk=_Unsynced()), KEY)) as log:
        for start in range(0, count, 10_000):
            log.append([outcome(number) for number in range(start, min(start + 10_000, count))])


def _verifying(folder: Path, count: int, turns: int) -> dict[str, object]:
    _write_leaves(folder, count)
    files = LogFolder(folder)
    reader = LogReader(files, count)
    verifying, hashing = [], []
    before = resident_kib()
    for _ in range(turns):
        began = perf_counter()
        report = verify_log(files, [KEY.verifier])
        verifying.append(perf_counter() - began)
        assert report.proved, report.problems
        hashed = 0.0
        for index in range(reader.bundle_count):
            entries = reader.bundle(index)
            began = perf_counter()
            for entry in entries:
                hashlib.sha256(entry).digest()
            hashed += perf_counter() - began
        hashing.append(hashed)
    grown = resident_kib() - before
    return {
        "verified_entries": count,
        "verify_s": round(median(verifying), 2),
        "bare_sha256_s": round(median(hashing), 2),
        "verify_by_bare": round(median(verifying) / median(hashing), 2),
        "memory_grown_kib": grown,
    }


def _reading_leaves(folder: Path, count: int) -> dict[str, object]:
    types = discover()
    began = perf_counter()
    report = verify_log(LogFolder(folder), [KEY.verifier], types)
    took = perf_counter() - began
    assert report.proved, report.problems
    assert report.leaf_counts == {"tocsin.delivery-outcome": count}
    return {"verify_with_leaf_types_s": round(took, 2), "verify_with_leaf_types_entries_per_s": round(count / took)}


def _proving(folder: Path, count: int) -> dict[str, object]:
    with closing(LogWriter.open(TileFolder(folder, disk=_Unsynced()), KEY)) as log:
        for start in range(0, count, BATCH):
            log.append([b"entry %014d" % number for number in range(start, min(start + BATCH, count))])
    head = open_checkpoint((folder / CHECKPOINT).read_bytes(), [KEY.verifier])
    most: Counter[str] = Counter()
    took = []
    for place in range(PROOFS):
        index = place * (count - 1) // (PROOFS - 1)
        files = _Counted(LogFolder(folder))
        began = perf_counter()
        reader = LogReader(files, head.size)
        entry, path = reader.entry(index), reader.inclusion_proof(index)
        took.append(perf_counter() - began)
        check_inclusion(index, head.size, leaf_hash(entry), path, head.root)
        levels = Counter(
            "bundles" if name.level == ENTRIES else f"tiles_of_level_{name.level}"
            for name in (parse_path(path) for path in files.read_paths if path.startswith("tile/"))
        )
        most |= levels | Counter(files=len(files.read_paths))
    began = perf_counter()
    LogWriter.open(TileFolder(folder, disk=_Unsynced()), KEY).close()
    return {
        "log_entries": count,
        **{f"proof_reads_at_most_{what}": number for what, number in sorted(most.items())},
        "proof_ms": round(1000 * median(took), 2),
        "open_for_writing_s": round(perf_counter() - began, 2),
    }
