"""Memory returned to the kernel after every request has to be fetched again for the next: it is kept instead.

Request bodies and decoded columns are megabytes that come and go many times a second. By default glibc maps and unmaps
each of them; kept on the heap they cost half as much CPU. What is kept is bounded by the largest batch.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 64 << 20


def keep_memory() -> None:
    """Tell glibc to serve large blocks from the heap; other C libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
