"""The Merkle tree of RFC 6962 over SHA-256: hashes, inclusion and consistency proofs. Pure; knows no file and no tile.

A node is named by (height, index): it covers the leaves [index * 2**height, (index + 1) * 2**height). Only nodes of
complete subtrees have names; what lies at the right edge of a tree is computed from them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from consumers.evidence.faults import NotProved

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
"""More leaves than any log will have; a larger number in a file is an attack or damage."""

_sha256 = hashlib.sha256
_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962, section 2.1)."""

NodeAt = Callable[[int, int], bytes]
"""Returns the hash of the complete subtree (height, index)."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256(0x00 || entry)."""
    return _sha256(_LEAF_PREFIX + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Return the hashes of many leaves."""
    return [_sha256(_LEAF_PREFIX + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return _sha256(_NODE_PREFIX + left + right).digest()


def root_over(nodes: Sequence[bytes]) -> bytes:
    """Return the root over neighbouring `nodes` of one height, of which the last may be an incomplete subtree.

    RFC 6962 splits at the largest power of two below n; pairing from the left and carrying an odd node up is the same.
    """
    if not nodes:
        return EMPTY_ROOT
    # One string of hashes, cut in pairs: half the time of pairing a list, and this is where verifying spends it.
    level = b"".join(nodes)
    while len(level) > HASH_BYTES:
        whole = len(level) - len(level) % (2 * HASH_BYTES)
        paired = [_sha256(_NODE_PREFIX + level[at : at + 64]).digest() for at in range(0, whole, 2 * HASH_BYTES)]
        level = b"".join((*paired, level[whole:]))
    return level


class GrowingRoot:
    """The root over leaves that come one after another; holds one hash for each power of two, however many leaves."""

    def __init__(self) -> None:
        self._peaks: list[bytes] = []
        self._size = 0

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of further leaves."""
        for leaf in leaves:
            node, size = leaf, self._size
            while size & 1:
                node, size = node_hash(self._peaks.pop(), node), size >> 1
            self._peaks.append(node)
            self._size += 1

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        return root_of_peaks(self._peaks)


def range_hash(start: int, end: int, node_at: NodeAt) -> bytes:
    """Return the Merkle Tree Hash of the leaves [start, end), where `start` is a multiple of the width rounded up."""
    width = end - start
    if width & (width - 1) == 0:
        height = width.bit_length() - 1
        return node_at(height, start >> height)
    split = start + _split(width)
    return node_hash(range_hash(start, split, node_at), range_hash(split, end, node_at))


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Return a tree's root from the roots of its largest complete subtrees, the leftmost and largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def peaks_of(size: int) -> list[tuple[int, int]]:
    """Return the (height, index) of the largest complete subtrees of a tree of `size`, from the left."""
    heights = [height for height in reversed(range(size.bit_length())) if size >> height & 1]
    return [(height, (size >> height) - 1) for height in heights]


def tree_root(size: int, node_at: NodeAt) -> bytes:
    """Return the root of the tree of `size` leaves."""
    return range_hash(0, size, node_at) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node_at: NodeAt) -> tuple[bytes, ...]:
    """Return the path from leaf `index` to the root of the tree of `size`, the leaf's sibling first (section 2.1.1).

    Raises NotProved if the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise NotProved(f"there is no leaf {index} in a tree of size {size}; its leaves are 0 to {size - 1}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            path.append(range_hash(split, end, node_at))
            end = split
        else:
            path.append(range_hash(start, split, node_at))
            start = split
    return tuple(reversed(path))


def consistency_proof(old_size: int, new_size: int, node_at: NodeAt) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new_size` extends the one of `old_size` (section 2.1.2).

    Empty for equal sizes and for an empty old tree. Raises NotProved if the new tree is the smaller one.
    """
    if not 0 <= old_size <= new_size:
        raise NotProved(f"a tree of size {new_size} cannot extend one of size {old_size}")
    if old_size in (0, new_size):
        return ()
    proof: list[bytes] = []
    start, end, known = 0, new_size, True
    while end != old_size:
        split = start + _split(end - start)
        if old_size <= split:
            proof.append(range_hash(split, end, node_at))
            end = split
        else:
            proof.append(range_hash(start, split, node_at))
            start, known = split, False
    if not known:
        proof.append(range_hash(start, end, node_at))
    return tuple(reversed(proof))


def check_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` is at `index` in the tree (size, root). RFC 9162, section 2.1.3.2.

    Raises NotProved that says what does not fit.
    """
    if not 0 <= index < size:
        raise NotProved(f"leaf {index} cannot be in a tree of size {size}")
    _refuse_other_than_hashes(leaf, root, *path)
    position, last = index, size - 1
    found = leaf
    for sibling in path:
        if last == 0:
            raise NotProved(f"the inclusion proof is longer than a tree of size {size} is high")
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise NotProved(f"the inclusion proof is too short for leaf {index} in a tree of size {size}")
    if found != root:
        raise NotProved(f"the inclusion proof of leaf {index} does not lead to the root of the tree of size {size}")


def check_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (new_size, new_root) extends (old_size, old_root). RFC 9162, section 2.1.4.2.

    Raises NotProved that says what does not fit.
    """
    if not 0 <= old_size <= new_size:
        raise NotProved(f"a tree of size {new_size} cannot extend one of size {old_size}")
    _refuse_other_than_hashes(old_root, new_root, *proof)
    if new_size == 0 and new_root != EMPTY_ROOT:
        raise NotProved("the tree without leaves has another root than SHA-256 of nothing")
    if old_size == new_size:
        if proof or old_root != new_root:
            raise NotProved(f"two different trees of size {old_size}")
        return
    if old_size == 0:
        if proof or old_root != EMPTY_ROOT:
            raise NotProved("the empty tree has one root and needs no proof")
        return
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise NotProved("the consistency proof is empty")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_found = new_found = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise NotProved("the consistency proof is too long")
        if position & 1 or position == last:
            old_found = node_hash(sibling, old_found)
            new_found = node_hash(sibling, new_found)
            while not position & 1 and position != 0:
                position >>= 1
                last >>= 1
        else:
            new_found = node_hash(new_found, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise NotProved("the consistency proof is too short")
    if old_found != old_root or new_found != new_root:
        raise NotProved(f"the tree of size {new_size} does not extend the one of size {old_size}")


def _refuse_other_than_hashes(*hashes: bytes) -> None:
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise NotProved(f"a hash of {len(each)} bytes; SHA-256 has {HASH_BYTES}")


def _split(width: int) -> int:
    """Return the largest power of two smaller than `width` (>= 2)."""
    return 1 << ((width - 1).bit_length() - 1)
