"""Freed memory is used again: a process that takes the same megabytes over and over asks the kernel for them once. What hangs
in cycles is freed, too, only later.
"""

import gc
import platform
import resource
from collections.abc import Iterator

import _duckdb
import pytest

from bridge.runtime.allocation import collect_all_again, collect_seldom, keep_freed_memory, keep_what_jemalloc_frees

_PART_BYTES = 8 * 1024 * 1024
_PARTS = 6
_BATCHES = 20


def test_megabytes_taken_again_and_again_come_from_the_kernel_once() -> None:
    if not keep_freed_memory():
        assert platform.libc_ver()[0] != "glibc"
        pytest.skip("the C library here is not glibc and has no mallopt")

    def take_and_free() -> None:
        # as a batch's answer, its text and its lines: more at once than the allocator keeps by default
        assert sum(map(len, [b"x" * _PART_BYTES for _ in range(_PARTS)])) == _PARTS * _PART_BYTES

    take_and_free()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(_BATCHES):
        take_and_free()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert pages < _PART_BYTES // resource.getpagesize(), "the kernel was asked for the same pages again"


def test_a_library_without_a_jemalloc_of_its_own_is_told_from_one_with_it() -> None:
    assert keep_what_jemalloc_frees(str(_duckdb.__file__), "duckdb_je_", 30)
    assert not keep_what_jemalloc_frees(str(_duckdb.__file__), "no_such_", 30)
    assert not keep_what_jemalloc_frees("no-such-library.so", "duckdb_je_", 30)


@pytest.fixture
def _own_collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


class _Cycle:
    alive = 0

    def __init__(self) -> None:
        self.itself = self
        _Cycle.alive += 1

    def __del__(self) -> None:
        _Cycle.alive -= 1


@pytest.mark.usefixtures("_own_collector")
def test_a_batch_costs_no_search_for_cycles_and_cycles_do_not_pile_up() -> None:
    collect_seldom()
    before = gc.get_stats()[0]["collections"]
    batch = [[number] for number in range(20_000)]
    assert gc.get_stats()[0]["collections"] == before
    del batch
    most = 0
    for _ in range(300_000):
        _Cycle()
        most = max(most, _Cycle.alive)
    assert 0 < most <= 200_000
    collect_all_again()
    assert gc.get_freeze_count() == 0
