"""How this process takes and returns memory: the C library's allocator, and Python's collector of cycles."""

import ctypes
import gc

_MXFAST, _TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = 1, -1, -2, -3
"""Of glibc's malloc.h."""
_MEBIBYTE = 1024 * 1024


def keep_freed_memory() -> bool:
    """Let this process use again what it has freed, instead of giving it back; return whether the C library knows how.

    For one that takes and frees megabytes with every batch: by default each comes anew from the kernel, page by page. What
    the process holds at most grows by what it keeps, some megabytes. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        # musl and others have no such function, and need none of this
        return False
    options = ((_MMAP_THRESHOLD, 32), (_TRIM_THRESHOLD, 128), (_TOP_PAD, 16), (_MXFAST, 0))
    return all(mallopt(option, mebibytes * _MEBIBYTE) == 1 for option, mebibytes in options)


def keep_what_jemalloc_frees(library: str, prefix: str, seconds: int) -> bool:
    """Let the shared `library`, which brings a jemalloc of its own, give back freed memory only once it has not been used again
    for `seconds`; `prefix` stands before the names of its functions. Return whether it has them.

    For the same reason: between two batches it gave back what the next one took again. Source: jemalloc(3), `mallctl`.
    """
    try:
        mallctl = getattr(ctypes.CDLL(library), f"{prefix}mallctl")
    except (OSError, AttributeError):
        return False
    mallctl.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    decay = ctypes.c_ssize_t(seconds * 1000)
    # Arenas that come later take what `arenas` says; the first one is there already.
    names = [f"{which}.{pages}_decay_ms" for which in ("arenas", "arena.0") for pages in ("dirty", "muzzy")]
    return all(mallctl(name.encode(), None, None, ctypes.byref(decay), ctypes.sizeof(decay)) == 0 for name in names)


def collect_seldom() -> None:
    """Let Python's collector pass over what exists now, and look at what comes later only once that is very much.

    For a process that has started and takes its work in batches. What start-up made lives as long as the process, and what a
    batch makes is freed by its reference counts: to look for cycles among both again and again took a tenth of the time of
    every stage. What does hang in cycles waits, some ten megabytes of it at most.
    """
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


def collect_all_again() -> None:
    """Let Python's collector see everything again: before the process ends, or libraries report what it passes over as leaked
    among the log's lines.
    """
    gc.unfreeze()
