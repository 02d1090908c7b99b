"""Freed memory is used again: a process that takes the same megabytes over and over asks the kernel for them once."""

import platform
import resource

import pytest

from bridge.runtime.allocation import keep_freed_memory

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
