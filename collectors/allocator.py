"""How a collector's process uses memory: less of it, and the same blocks again instead of fresh ones.

Request bodies and decoded columns are megabytes that come and go many times a second. By default glibc maps and unmaps
each of them, and Arrow keeps a pool of its own beside it; one heap that keeps what it has costs half as much CPU and
less memory. What is kept is bounded by the largest batch.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from importlib.abc import MetaPathFinder

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 64 << 20
# The edge's thread and the event loop: a heap for every further thread would keep memory that no other can use.
_ARENAS = 2


def keep_memory() -> None:
    """Serve large blocks from one heap; on C libraries other than glibc only Arrow's part is done."""
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)


def fewer_collections() -> None:
    """Let Python look for garbage cycles less often: the edge makes few, and a look walks all streams ever seen."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def without_pandas() -> None:
    """Keep pyarrow from importing pandas, which it does at its first array where pandas is installed.

    The engine's library brings pandas along; nothing here uses it, and it costs 40 MB and half a second. pyarrow looks
    once, remembers the answer, and finds the module missing meanwhile.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)
