"""Tiles and entry bundles of c2sp.org/tlog-tiles: their names, their bytes, and which ones a tree of a size has.

Pure: what is stored where is `consumers.adapters.tile_store`'s business. A tile holds 256 neighbouring hashes; at level
0 leaf hashes, above the roots of full tiles below. A partial tile is never hashed into the level above.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from consumers.evidence.faults import Malformed
from consumers.evidence.merkle import HASH_BYTES, root_of_peaks, root_over

WIDTH = 256
HEIGHT = 8
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 0xFFFF
ENTRIES = -1
"""The level that stands for entry bundles."""

_length_at = struct.Struct(">H").unpack_from
_NAME = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class TileName:
    """One tile or entry bundle. `level` ENTRIES is a bundle; `width` is 1 to 256 hashes or entries, 256 being full."""

    level: int
    index: int
    width: int = WIDTH

    @property
    def full(self) -> bool:
        return self.width == WIDTH

    @property
    def path(self) -> str:
        """Return the path below the log's folder: `tile/0/x001/x234/067.p/8`."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.full else f".p/{self.width}"
        return f"tile/{level}/{index_path(self.index)}{partial}"

    @property
    def completed(self) -> "TileName":
        """Return the full tile that this one is or becomes."""
        return TileName(self.level, self.index)


def index_path(index: int) -> str:
    """Return a tile's index in groups of three digits, all but the last marked with x: 1234067 is `x001/x234/067`."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    return "/".join(reversed(groups))


def parse_path(path: str) -> TileName:
    """Return the tile that `path` names. Raises Malformed unless it is the one true spelling."""
    match = _NAME.fullmatch(path)
    if match is None:
        raise Malformed(f"{path[:200]!r} is no path of a tile or entry bundle")
    level, groups, width = match.groups()
    name = TileName(
        ENTRIES if level == "entries" else int(level),
        int(groups.replace("x", "").replace("/", "")),
        int(width) if width else WIDTH,
    )
    if name.level > MAX_LEVEL or (width and name.full) or name.width > WIDTH or name.path != path:
        raise Malformed(f"{path[:200]!r} is no path of a tile or entry bundle")
    return name


def right_edge(size: int) -> list[TileName]:
    """Return the partial tiles of a tree of `size`, one a level at most, lowest level first, without entry bundles."""
    edge = []
    for level in range(MAX_LEVEL + 1):
        hashes = size >> (HEIGHT * level)
        if not hashes:
            break
        if hashes % WIDTH:
            edge.append(TileName(level, hashes // WIDTH, hashes % WIDTH))
    return edge


def tiles_of(size: int) -> Iterator[TileName]:
    """Yield every tile and entry bundle of a tree of `size`: full ones and those partial at the right edge."""
    for index in range(size // WIDTH):
        yield TileName(ENTRIES, index)
    if size % WIDTH:
        yield TileName(ENTRIES, size // WIDTH, size % WIDTH)
    for level in range(MAX_LEVEL + 1):
        hashes = size >> (HEIGHT * level)
        if not hashes:
            return
        for index in range(hashes // WIDTH):
            yield TileName(level, index)
        if hashes % WIDTH:
            yield TileName(level, hashes // WIDTH, hashes % WIDTH)


def width_in(size: int, level: int, index: int) -> int:
    """Return how many hashes (or entries) the tile has in a tree of `size`: 0 to 256."""
    hashes = size if level == ENTRIES else size >> (HEIGHT * level)
    return max(0, min(WIDTH, hashes - index * WIDTH))


def encode_tile(hashes: Sequence[bytes]) -> bytes:
    """Return a tile's bytes: its hashes, one after the other."""
    return b"".join(hashes)


def decode_tile(tile: bytes, name: TileName) -> list[bytes]:
    """Return the hashes in a tile. Raises Malformed if its length is not that of `name`."""
    if len(tile) != name.width * HASH_BYTES:
        raise Malformed(
            f"{name.path} has {len(tile)} bytes instead of {name.width * HASH_BYTES}: "
            f"{'truncated' if len(tile) < name.width * HASH_BYTES else 'something was added'}"
        )
    return [tile[i : i + HASH_BYTES] for i in range(0, len(tile), HASH_BYTES)]


def encode_entry(entry: bytes) -> bytes:
    """Return an entry as it stands in a bundle: its length as a big-endian uint16, then its bytes."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise Malformed(f"an entry of {len(entry)} bytes; an entry bundle holds up to {MAX_ENTRY_BYTES}")
    return len(entry).to_bytes(2, "big") + entry


def decode_bundle(bundle: bytes, name: TileName) -> list[bytes]:
    """Return the entries in a bundle. Raises Malformed unless it holds exactly as many as `name` says."""
    entries: list[bytes] = []
    at = 0
    try:
        for _ in range(name.width):
            start = at + 2
            at = start + _length_at(bundle, at)[0]
            entries.append(bundle[start:at])
    except struct.error:
        at = len(bundle) + 1
    if at > len(bundle):
        raise Malformed(f"{name.path} is truncated: its {name.width} entries do not fit into {len(bundle)} bytes")
    if at != len(bundle):
        raise Malformed(f"{name.path} has {len(bundle) - at} bytes after its last entry")
    return entries


def bundle_prefix(bundle: bytes, width: int) -> bytes:
    """Return the bytes of the first `width` entries of a longer bundle; all of it if it is shorter."""
    at = 0
    for _ in range(width):
        if at + 2 > len(bundle):
            return bundle
        at += 2 + int.from_bytes(bundle[at : at + 2], "big")
    return bundle[:at]


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: at each level the hashes of the tile that is not full yet.

    Memory is 255 hashes a level, whatever the tree's size.
    """

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=list)

    def add(self, leaves: Sequence[bytes]) -> list[tuple[TileName, list[bytes]]]:
        """Add leaf hashes; return the tiles that they complete: in order, and lowest level first where several end."""
        completed: list[tuple[TileName, list[bytes]]] = []
        at = 0
        while at < len(leaves):
            taken = leaves[at : at + WIDTH - self.size % WIDTH]
            at += len(taken)
            self.size += len(taken)
            level, carried = 0, taken
            while True:
                if level == len(self.levels):
                    self.levels.append([])
                hashes = self.levels[level]
                hashes.extend(carried)
                if len(hashes) < WIDTH:
                    break
                completed.append((TileName(level, (self.size >> (HEIGHT * (level + 1))) - 1), hashes))
                self.levels[level] = []
                carried = [root_over(hashes)]
                level += 1
        return completed

    def partials(self) -> list[tuple[TileName, list[bytes]]]:
        """Return the partial tiles of the tree as it is now."""
        return [(name, self.levels[name.level]) for name in right_edge(self.size)]

    def peaks(self) -> list[bytes]:
        """Return the roots of the largest complete subtrees, from the left: one for each bit of the size."""
        found: list[bytes] = []
        for hashes in reversed(self.levels):
            at = 0
            for inner in reversed(range(HEIGHT)):
                if len(hashes) & (1 << inner):
                    found.append(root_over(hashes[at : at + (1 << inner)]))
                    at += 1 << inner
        return found

    def root(self) -> bytes:
        """Return the tree's root."""
        return root_of_peaks(self.peaks())

    def copy(self) -> "Frontier":
        return Frontier(self.size, [list(hashes) for hashes in self.levels])
