"""Names and bytes of tiles as tlog-tiles has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.evidence.faults import Malformed
from consumers.evidence.merkle import leaf_hash, root_over
from consumers.evidence.tiles import (
    ENTRIES,
    Frontier,
    TileName,
    bundle_prefix,
    decode_bundle,
    decode_tile,
    encode_entry,
    index_path,
    parse_path,
    tiles_of,
    width_in,
)


def test_paths_are_those_of_the_specification() -> None:
    assert index_path(1234067) == "x001/x234/067"
    assert index_path(5) == "005"
    assert index_path(999) == "999"
    assert index_path(1000) == "x001/000"
    assert TileName(0, 1234067, 8).path == "tile/0/x001/x234/067.p/8"
    assert TileName(ENTRIES, 273, 112).path == "tile/entries/273.p/112"
    assert TileName(63, 0).path == "tile/63/000"


@given(st.integers(ENTRIES, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_paths_round_trip(level: int, index: int, width: int) -> None:
    name = TileName(level, index, width)
    assert parse_path(name.path) == name


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/257", "tile/0/000.p/01", "tile/00/000", "tile/64/000",
        "tile/0/5", "tile/0/0005", "tile/0/x000/005", "tile/0/x001/x234", "tile/0/001/234", "tile/-1/000", "tile/0/000/",
        "tile/0/000.p", "/tile/0/000", "tile/entries/000.p/0", "tile/0/000.tmp", "tile/0/٠٠٠", "tile/0/000\n", "",
    ],
)  # fmt: skip
def test_other_spellings_are_no_tiles(path: str) -> None:
    with pytest.raises(Malformed):
        parse_path(path)


def test_the_specifications_example_of_seventy_thousand_entries() -> None:
    names = list(tiles_of(70_000))
    assert sum(name.level == 0 and name.full for name in names) == 273
    assert [name for name in names if not name.full] == [
        TileName(ENTRIES, 273, 112), TileName(0, 273, 112), TileName(1, 1, 17), TileName(2, 0, 1),
    ]  # fmt: skip
    assert TileName(1, 0) in names


def test_a_tree_of_256_has_a_level_1_tile_of_width_1() -> None:
    assert list(tiles_of(256)) == [TileName(ENTRIES, 0), TileName(0, 0), TileName(1, 0, 1)]


@given(st.integers(0, 200_000))
def test_no_tile_is_empty_or_reaches_beyond_the_size(size: int) -> None:
    names = list(tiles_of(size))
    assert len(set(names)) == len(names)
    for name in names:
        assert 1 <= name.width == width_in(size, name.level, name.index)
    assert sum(name.width for name in names if name.level == 0) == size


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    name = TileName(ENTRIES, 0, len(entries))
    bundle = b"".join(encode_entry(entry) for entry in entries)
    assert decode_bundle(bundle, name) == entries
    for damaged in (bundle[:-1], bundle + b"\x00", bundle + b"\x00\x00"):
        with pytest.raises(Malformed):
            decode_bundle(damaged, name)
    half = len(entries) // 2
    assert bundle_prefix(bundle, half) == b"".join(encode_entry(entry) for entry in entries[:half])


def test_lengths_are_big_endian_and_bounded() -> None:
    assert encode_entry(b"a" * 258)[:2] == b"\x01\x02"
    assert len(encode_entry(b"a" * 65535)) == 65537
    with pytest.raises(Malformed):
        encode_entry(b"a" * 65536)


def test_a_tile_of_another_length_is_refused() -> None:
    with pytest.raises(Malformed, match="truncated"):
        decode_tile(b"\x00" * 63, TileName(0, 0, 2))
    with pytest.raises(Malformed, match="added"):
        decode_tile(b"\x00" * 65, TileName(0, 0, 2))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537])
def test_the_frontier_gives_the_trees_root_and_completes_each_full_tile_once(size: int) -> None:
    frontier = Frontier()
    completed: list[TileName] = []
    hashes = [leaf_hash(b"%d" % index) for index in range(size)]
    at = 0
    while at < size:  # in steps that fall on, before and after the boundaries
        step = 1 + at * 7 % 300
        completed.extend(name for name, _ in frontier.add(hashes[at : at + step]))
        at += step
    assert frontier.root() == root_over(hashes)
    assert frontier.size == size
    assert sorted(completed) == sorted(name for name in tiles_of(size) if name.full and name.level != ENTRIES)
    assert [name for name, _ in frontier.partials()] == [
        name for name in tiles_of(size) if not name.full and name.level != ENTRIES
    ]
