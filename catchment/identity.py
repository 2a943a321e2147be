"""Identity: stable 64-bit ids of streams, series and points, derived from content alone.

Rules, pinned by golden values in ``tests/unit/test_identity.py``:

1. The hash is XXH3-64, seed 0, of canonical bytes (https://github.com/Cyan4973/xxHash), never an in-memory hash.
2. Canonical attributes are a JSON object with keys sorted by code point, no spaces, UTF-8 not escaped. Values keep
   their type: a string is quoted, an integer, double or boolean is not; a double has Python's shortest form.
3. Canonical bytes of a tuple are its parts in UTF-8, each preceded by its length as u32 little-endian: no separator can
   be forged.
4. An id depends on the tenant: two tenants' equal series have different ids.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xxhash

UInt64s = npt.NDArray[np.uint64]

_LENGTH = struct.Struct("<I")
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
# The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection on 64 bits.
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def canonical_attributes(attributes: Mapping[str, object]) -> str:
    """The canonical string of attributes (rule 2). Values are str, bool, int, float, list, dict or None."""
    return _encode(attributes)


def hash_parts(*parts: str) -> int:
    """XXH3-64 of the canonical bytes of a tuple of strings (rules 1 and 3), as an unsigned 64-bit int."""
    digest = xxhash.xxh3_64()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(_LENGTH.pack(len(data)))
        digest.update(data)
    return digest.intdigest()


def value_hash(value: object) -> int:
    """The hash of an attribute's value (as `canonical_attributes` takes them): XXH3-64 of its canonical JSON."""
    return xxhash.xxh3_64_intdigest(_encode(value).encode("utf-8", "surrogatepass"))


def series_id(tenant: str, service: str, metric: str, kind: str, unit: str, attributes: str) -> int:
    """The id of a series: what is left of a stream after policy; the same in every cluster and region.

    ``attributes`` is the canonical string of the kept ones.
    """
    return hash_parts("series", tenant, service, metric, kind, unit, attributes)


def mix(left: UInt64s, right: UInt64s) -> UInt64s:
    """Combine two arrays of 64-bit hashes into one, elementwise, order-dependent; wraps mod 2^64."""
    # In place: the passes over memory are what it costs.
    z: UInt64s = left * _GOLDEN
    z += right
    z += _GOLDEN
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= _MIX_1
    z ^= np.right_shift(z, np.uint64(27), out=shifted)
    z *= _MIX_2
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z


def point_hashes(stream_ids: UInt64s, start_ns: npt.NDArray[np.int64], time_ns: npt.NDArray[np.int64]) -> UInt64s:
    """The hash of each data point by (stream, start, time): what makes a repeat a repeat, and a digest's first part."""
    return mix(mix(stream_ids, start_ns.view(np.uint64)), time_ns.view(np.uint64))
