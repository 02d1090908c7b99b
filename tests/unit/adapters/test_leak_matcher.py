"""Leaked keys against everybody whom the index knows: by join key, over the real index and its server."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from bridge.runtime.sealing import email_hmac
from consumers.adapters.index_client import IndexClient
from consumers.adapters.index_server import IndexServer
from consumers.adapters.leak_matcher import IndexMatcher
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.case.verification import KeyKind, LeakedKey
from tests.unit.adapters.test_provenance_index import customer, opened

JOIN_KEY = b"j" * 32
ADDRESSES = {
    1: "anna@mail.example", 2: "bo@mail.example", 3: "anna@mail.example", 4: "cy@straße.example",
    5: "cy@xn--strae-oqa.example",
}  # fmt: skip


@pytest.fixture
def matcher(tmp_path: Path) -> Iterator[IndexMatcher]:
    index = ProvenanceIndex(tmp_path / "index", takeover_seconds=0.2)
    (tmp_path / "run").mkdir()
    server = IndexServer("127.0.0.1", tmp_path / "run", index)
    try:
        for partition, numbers in enumerate(((1, 4), (2, 3, 5))):
            file = opened(index, partition, partition_count=2)
            with file.transaction():
                file.put_persons([customer(n, email_hmac=email_hmac(JOIN_KEY, ADDRESSES[n])) for n in numbers])
        server.start(2)
        server.announce([0, 1])
        yield IndexMatcher(IndexClient(tmp_path / "run"), JOIN_KEY)
    finally:
        server.stop()
        index.close()


def test_everybody_is_counted_over_all_partitions(matcher: IndexMatcher, tmp_path: Path) -> None:
    reach = IndexClient(tmp_path / "run").reach()
    assert [(each.country, each.channels, each.count) for each in reach.groups] == [("DE", (), 5)]
    assert (reach.partition_count, reach.silent_partitions, reach.unreadable) == (2, (), {})


def test_address_hash_and_id_find_the_people_behind_them(matcher: IndexMatcher) -> None:
    anna = LeakedKey(KeyKind.EMAIL, " Anna@Mail.example ")
    hashed = LeakedKey(KeyKind.HASH, sha256(b"bo@mail.example").hexdigest())
    known, unknown = LeakedKey(KeyKind.CUSTOMER, "3"), LeakedKey(KeyKind.CUSTOMER, "99")
    nobody, order = LeakedKey(KeyKind.EMAIL, "ghost@mail.example"), LeakedKey(KeyKind.ORDER, "3")
    found = matcher.match([anna, hashed, known, unknown, nobody, order])
    assert found.roots == {
        anna: frozenset({"customer/1", "customer/3"}),  # two accounts, on two partitions
        hashed: frozenset({"customer/2"}),
        known: frozenset({"customer/3"}),
    }
    assert (found.partition_count, found.silent_partitions) == (2, ())


def test_an_address_finds_whoever_has_it_however_its_domain_is_written(matcher: IndexMatcher) -> None:
    ascii_form = LeakedKey(KeyKind.EMAIL, "Cy@xn--strae-oqa.example")
    other_form = LeakedKey(KeyKind.EMAIL, "cy@straße.example")
    found = matcher.match([ascii_form, other_form])
    assert found.roots == dict.fromkeys((ascii_form, other_form), frozenset({"customer/4", "customer/5"}))


def test_only_keys_of_one_kind_are_asked_too(matcher: IndexMatcher) -> None:
    assert matcher.match([LeakedKey(KeyKind.CUSTOMER, "1")]).roots.keys() == {LeakedKey(KeyKind.CUSTOMER, "1")}
    assert matcher.match([LeakedKey(KeyKind.EMAIL, "ghost@mail.example")]).roots == {}
