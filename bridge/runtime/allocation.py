"""What the C library's allocator does with memory that was given back. Not here: Python's own collector."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
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
    options = ((_MMAP_THRESHOLD, 32), (_TRIM_THRESHOLD, 128), (_TOP_PAD, 16))
    return all(mallopt(option, mebibytes * _MEBIBYTE) == 1 for option, mebibytes in options)
