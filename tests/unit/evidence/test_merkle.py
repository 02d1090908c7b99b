"""RFC 6962 against its definition, the vectors of Certificate Transparency, and random trees."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.evidence.faults import NotProved
from consumers.evidence.merkle import (
    EMPTY_ROOT,
    GrowingRoot,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_over,
    tree_root,
)

# The eight leaves of Certificate Transparency's reference tests (also in transparency-dev/merkle and sigstore).
LEAVES = [bytes.fromhex(leaf) for leaf in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


def nodes_of(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    hashes = [leaf_hash(leaf) for leaf in leaves]

    def node_at(height: int, index: int) -> bytes:
        assert (index + 1) << height <= len(leaves), "asked for a node that is not complete"
        return root_over(hashes[index << height : (index + 1) << height])

    return node_at


def numbered(size: int) -> list[bytes]:
    return [b"%d" % index for index in range(size)]


def test_roots_are_those_of_certificate_transparency() -> None:
    for size, root in enumerate(ROOTS):
        assert tree_root(size, nodes_of(LEAVES[:size])).hex() == root


def test_inclusion_proofs_are_those_of_certificate_transparency() -> None:
    def path(index: int, size: int) -> list[str]:
        return [node.hex() for node in inclusion_proof(index, size, nodes_of(LEAVES[:size]))]

    assert path(0, 1) == []
    assert path(0, 8) == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert path(5, 8) == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert path(2, 3) == ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]


def test_consistency_proofs_are_those_of_certificate_transparency() -> None:
    def proof(old: int, new: int) -> list[str]:
        return [node.hex() for node in consistency_proof(old, new, nodes_of(LEAVES[:new]))]

    assert proof(1, 1) == []
    assert proof(6, 8) == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert proof(2, 5) == [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]


@given(st.lists(st.binary(max_size=9), max_size=70))
def test_the_root_is_the_definitions(leaves: list[bytes]) -> None:
    assert root_over([leaf_hash(leaf) for leaf in leaves]) == definition(leaves)
    assert tree_root(len(leaves), nodes_of(leaves)) == definition(leaves)


def test_a_root_that_grows_is_the_root_over_all_so_far() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(70)]
    growing = GrowingRoot()
    assert growing.root() == EMPTY_ROOT
    for size, leaf in enumerate(leaves, 1):
        growing.extend([leaf])
        assert growing.root() == root_over(leaves[:size])


@given(st.data())
def test_every_inclusion_proof_proves_its_leaf_and_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 130))
    index = data.draw(st.integers(0, size - 1))
    node_at = nodes_of(numbered(size))
    root, leaf, path = tree_root(size, node_at), leaf_hash(b"%d" % index), inclusion_proof(index, size, node_at)
    check_inclusion(index, size, leaf, path, root)
    wrong = data.draw(st.integers(0, size + 3).filter(lambda other: other != index))
    with pytest.raises(NotProved):
        check_inclusion(wrong, size, leaf, path, root)
    with pytest.raises(NotProved):
        check_inclusion(index, size, leaf_hash(b"other"), path, root)
    with pytest.raises(NotProved):
        check_inclusion(index, size, leaf, (*path, EMPTY_ROOT), root)
    if path:
        with pytest.raises(NotProved):
            check_inclusion(index, size, leaf, path[:-1], root)
        place = data.draw(st.integers(0, len(path) - 1))
        with pytest.raises(NotProved):
            check_inclusion(index, size, leaf, (*path[:place], EMPTY_ROOT, *path[place + 1 :]), root)


@given(st.data())
def test_every_consistency_proof_proves_its_pair_and_nothing_else(data: st.DataObject) -> None:
    new = data.draw(st.integers(0, 130))
    old = data.draw(st.integers(0, new))
    node_at = nodes_of(numbered(new))
    old_root, new_root = tree_root(old, node_at), tree_root(new, node_at)
    proof = consistency_proof(old, new, node_at)
    check_consistency(old, new, old_root, new_root, proof)
    with pytest.raises(NotProved):
        check_consistency(old, new, leaf_hash(b"other"), new_root, proof)
    if old > 0:
        with pytest.raises(NotProved):
            check_consistency(old, new, old_root, leaf_hash(b"other"), proof)
        with pytest.raises(NotProved):
            check_consistency(old, new, old_root, new_root, (*proof, EMPTY_ROOT))
    if proof:
        with pytest.raises(NotProved):
            check_consistency(old, new, old_root, new_root, proof[:-1])


def test_what_a_tree_does_not_have_is_refused() -> None:
    node_at = nodes_of(numbered(3))
    for index in (-1, 3, 10**30):
        with pytest.raises(NotProved, match="no leaf"):
            inclusion_proof(index, 3, node_at)
    with pytest.raises(NotProved, match="cannot extend"):
        consistency_proof(4, 3, node_at)
