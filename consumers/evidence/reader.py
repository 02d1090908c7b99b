"""Reading a log: its files by Protocol, its entries and hashes within a signed size, and proofs made from them.

What a reader returns is as trustworthy as its files; `verifier` checks them.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Protocol

from consumers.evidence.faults import Malformed, NotProved, TileDamaged
from consumers.evidence.merkle import HASH_BYTES, consistency_proof, inclusion_proof, peaks_of, root_over, tree_root
from consumers.evidence.note import decode_base64, encode_base64
from consumers.evidence.tiles import (
    ENTRIES,
    HEIGHT,
    WIDTH,
    TileName,
    bundle_prefix,
    decode_bundle,
    decode_tile,
    width_in,
)

CHECKPOINT = "checkpoint"
EDGE = "edge"
"""Beside the checkpoint, a help for making proofs: its size, then the hashes of the largest complete subtrees, from the
left, one a line in base64. Nothing is proved by it: a proof that it spoils does not lead to the root."""


def encode_edge(size: int, peaks: Iterable[bytes]) -> bytes:
    """Return the edge file of a log of `size`."""
    return "".join(f"{line}\n" for line in (size, *map(encode_base64, peaks))).encode()


def parse_edge(edge: bytes, size: int) -> dict[tuple[int, int], bytes]:
    """Return the nodes that an edge file names for a log of `size`: none if it is of another size, or no such file."""
    lines = edge.split(b"\n")
    places = peaks_of(size)
    if lines[0] != b"%d" % size or len(lines) != len(places) + 2 or lines[-1]:
        return {}
    try:
        hashes = [decode_base64(line.decode(), "a hash of the edge") for line in lines[1:-1]]
    except (Malformed, UnicodeDecodeError):
        return {}
    return dict(zip(places, hashes, strict=True)) if all(len(each) == HASH_BYTES for each in hashes) else {}


class LogFiles(Protocol):
    """A log's folder, read only. Paths are relative, with slashes."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None if there is none."""
        ...

    def size_of(self, path: str) -> int | None:
        """Return a file's size in bytes, or None if there is none."""
        ...

    def names(self, top: str = "tile") -> Iterable[str]:
        """Yield the path of every file below `top`."""
        ...


class LogFolder:
    """A log's folder on disk, or an auditor's copy of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = f"{root}/"

    def read(self, path: str) -> bytes | None:
        try:
            # Verifying reads two files for every 256 entries: half of that time went into making paths of strings.
            with FileIO(self._top + path) as file:
                return file.readall()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size_of(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, top: str = "tile") -> Iterator[str]:
        """Yield in sorted order, holding one folder's names at a time."""
        return self._below(top)

    def _below(self, folder: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(path)
            else:
                yield path


class LogReader:
    """The first `size` entries of a log."""

    def __init__(self, files: LogFiles, size: int) -> None:
        self._files = files
        self.size = size
        self._tile_cached = lru_cache(maxsize=64)(self._tile)
        self._peaks: dict[tuple[int, int], bytes] | None = None

    def bytes_of(self, name: TileName) -> bytes:
        """Return a tile's or bundle's bytes: the partial file, or the prefix of the full one that replaced it.

        Raises TileDamaged if neither is there.
        """
        stored = self._files.read(name.path)
        if stored is not None:
            return stored
        whole = None if name.full else self._files.read(name.completed.path)
        if whole is None:
            raise TileDamaged(f"{name.path} is missing")
        return bundle_prefix(whole, name.width) if name.level == ENTRIES else whole[: name.width * HASH_BYTES]

    def tile(self, level: int, index: int) -> list[bytes]:
        """Return the hashes of a tile as far as this size reaches. Raises TileDamaged."""
        return self._tile_cached(level, index)

    def _tile(self, level: int, index: int) -> list[bytes]:
        name = TileName(level, index, width_in(self.size, level, index))
        try:
            return decode_tile(self.bytes_of(name), name)
        except Malformed as fault:
            raise TileDamaged(str(fault)) from None

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries of a bundle as far as this size reaches. Raises TileDamaged."""
        name = TileName(ENTRIES, index, width_in(self.size, ENTRIES, index))
        try:
            return decode_bundle(self.bytes_of(name), name)
        except Malformed as fault:
            raise TileDamaged(str(fault)) from None

    def entry(self, index: int) -> bytes:
        """Return entry `index`. Raises NotProved if there is none."""
        if not 0 <= index < self.size:
            raise NotProved(f"there is no entry {index}; the log has {self.size}, counted from 0")
        return self.bundle(index // WIDTH)[index % WIDTH]

    @property
    def bundle_count(self) -> int:
        """How many entry bundles there are, the last one perhaps partial."""
        return -(-self.size // WIDTH)

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (index, entry) from entry `start` on, in their order."""
        for index in range(start // WIDTH, self.bundle_count):
            for place, entry in enumerate(self.bundle(index), index * WIDTH):
                if place >= start:
                    yield place, entry

    def backwards(self) -> Iterator[tuple[int, bytes]]:
        """Yield (index, entry), last entry first."""
        for index in reversed(range(self.bundle_count)):
            entries = self.bundle(index)
            for place in reversed(range(len(entries))):
                yield index * WIDTH + place, entries[place]

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree, from one tile."""
        inner = height % HEIGHT
        first = index << inner
        hashes = self.tile(height // HEIGHT, first // WIDTH)
        return root_over(hashes[first % WIDTH : first % WIDTH + (1 << inner)])

    def root(self) -> bytes:
        """Return the root that the tiles give for this size."""
        return tree_root(self.size, self.node)

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """Return the path from entry `index` to the root. Raises NotProved if there is no such entry."""
        return inclusion_proof(index, self.size, self._node_or_peak)

    def consistency_proof(self, old_size: int) -> tuple[bytes, ...]:
        """Return the proof that this tree extends its first `old_size` entries."""
        return consistency_proof(old_size, self.size, self._node_or_peak)

    def _node_or_peak(self, height: int, index: int) -> bytes:
        """Return the hash of a complete subtree; of one at the right edge without reading the tiles there."""
        if self._peaks is None:
            self._peaks = parse_edge(self._files.read(EDGE) or b"", self.size)
        return self._peaks.get((height, index)) or self.node(height, index)
