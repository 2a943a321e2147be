"""The bytes of the ClickHouse HTTP interface: content encodings, native compression blocks, Native blocks. Pure.

Native blocks. A client that sends ``client_protocol_version`` expects Native as of that revision; the embedded engine
writes revision 0 only. Between the two lie bytes *around* each column, none inside: before each block its info (from
revision 1), before each column's data a flag for custom serialisation (from 54454), and full type names. The engine's
``Buffers`` format writes each block's columns with their sizes, so `native_blocks` frames them without parsing data:

    Buffers: uint64 columns, uint64 rows, then per column: uint64 bytes, data          (little-endian, block by block)
    Native:  [info] varint columns, varint rows, then per column: name, type, [flag], data

Compressed blocks (``compress=1``): CityHash128 of what follows (16 bytes), method (1), size of method, sizes and
payload (uint32), size of the data (uint32), payload. Data is cut at 1 MiB, as the server does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import lz4.block
import lz4.frame
import zstandard
from clickhouse_cityhash.cityhash import CityHash128

from store.engine.port import EngineError

REVISION_WITH_CUSTOM_SERIALIZATION = 54454
ENCODINGS = ("zstd", "lz4", "gzip", "deflate")
"""Content encodings that are spoken, best first."""

_CHUNK_BYTES = 1 << 20
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_LZ4_METHOD, _ZSTD_METHOD, _NO_METHOD = 0x82, 0x90, 0x02
_HEADER_BYTES = 9
_CHECKSUM_BYTES = 16


def chunks(data: bytes) -> Iterator[memoryview]:
    """Slices of at most 1 MiB, without a copy."""
    view = memoryview(data)
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


def native_blocks(buffers: bytes, columns: Sequence[tuple[str, str]], revision: int) -> Iterator[bytes | memoryview]:
    """Native blocks of a revision, from the engine's Buffers format.

    An empty result becomes one block without rows, so that a client learns the columns.

    Args:
        buffers: the result in format Buffers.
        columns: name and type of each column.
        revision: the client's protocol version, > 0.
    """
    headers = [_column_header(name, kind, revision) for name, kind in columns]
    view, position = memoryview(buffers), 0
    if not buffers:
        yield _BLOCK_INFO + _varint(len(headers)) + _varint(0) + b"".join(headers)
    while position < len(view):
        count, rows = struct.unpack_from("<QQ", view, position)
        position += 16
        yield _BLOCK_INFO + _varint(count) + _varint(rows)
        for header in headers[:count]:
            (size,) = struct.unpack_from("<Q", view, position)
            position += 8
            yield header
            yield view[position : position + size]
            position += size


def _column_header(name: str, kind: str, revision: int) -> bytes:
    encoded_name, encoded_kind = name.encode(), kind.encode()
    header = _varint(len(encoded_name)) + encoded_name + _varint(len(encoded_kind)) + encoded_kind
    return header + b"\x00" if revision >= REVISION_WITH_CUSTOM_SERIALIZATION else header


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def rechunk(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of about 1 MiB: many small parts are joined, large ones are sliced without a copy."""
    held = bytearray()
    for part in parts:
        if len(part) < _CHUNK_BYTES // 16:
            held += part
        else:
            if held:
                yield bytes(held)
                held.clear()
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK_BYTES):
                yield view[start : start + _CHUNK_BYTES]
        if len(held) >= _CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def compressed_blocks(parts: Iterable[bytes | memoryview], method: str, level: int = 1) -> Iterator[bytes]:
    """ClickHouse's own compressed blocks, one per part.

    Args:
        parts: at most 1 MiB each.
        method: ``LZ4``, ``ZSTD`` or ``NONE``.
        level: of ZSTD.
    """
    compressor = zstandard.ZstdCompressor(level=level)
    for part in parts:
        if method == "ZSTD":
            code, payload = _ZSTD_METHOD, compressor.compress(part)
        elif method == "NONE":
            code, payload = _NO_METHOD, bytes(part)
        else:
            code, payload = _LZ4_METHOD, lz4.block.compress(part, store_size=False)
        body = struct.pack("<BII", code, len(payload) + _HEADER_BYTES, len(part)) + payload
        yield _checksum(body) + body


def _checksum(body: bytes) -> bytes:
    value = CityHash128(body)
    # The library puts the first word into the upper half; on the wire it comes first.
    return struct.pack("<QQ", value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)


def decompress_blocks(data: bytes, bytes_max: int) -> bytes:
    """The data of a body that was sent with ``decompress=1``.

    Raises:
        EngineError: 40 checksum, 271 cannot decompress, 170 larger than ``bytes_max``.
    """
    out = bytearray()
    position = 0
    while position < len(data):
        start = position + _CHECKSUM_BYTES
        if len(data) < start + _HEADER_BYTES:
            raise _cannot_decompress("truncated block")
        code, size, raw_size = struct.unpack_from("<BII", data, start)
        body = data[start : start + size]
        if size < _HEADER_BYTES or len(body) < size:
            raise _cannot_decompress("truncated block")
        if _checksum(body) != data[position:start]:
            raise EngineError(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data.")
        if len(out) + raw_size > bytes_max:
            raise too_large(bytes_max)
        out += _decompress_payload(code, body[_HEADER_BYTES:], raw_size)
        position = start + size
    return bytes(out)


def _decompress_payload(code: int, payload: bytes, raw_size: int) -> bytes:
    try:
        if code == _LZ4_METHOD:
            return bytes(lz4.block.decompress(payload, uncompressed_size=raw_size))
        if code == _ZSTD_METHOD:
            return bounded_zstd(payload, raw_size)
        if code == _NO_METHOD and len(payload) == raw_size:
            return payload
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise _cannot_decompress(str(error)) from None
    raise _cannot_decompress(f"unknown method {code:#x}")


def encode(parts: Iterable[bytes | memoryview], encoding: str) -> Iterator[bytes]:
    """Compress a body for a Content-Encoding of `ENCODINGS`."""
    if encoding == "lz4":
        with lz4.frame.LZ4FrameCompressor() as frame:
            yield frame.begin()
            for part in parts:
                yield frame.compress(part)
            yield frame.flush()
        return
    stream = zstandard.ZstdCompressor(level=1).compressobj() if encoding == "zstd" else None
    wbits = zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS
    compressor = stream or zlib.compressobj(level=1, wbits=wbits)
    for part in parts:
        piece = compressor.compress(part)
        if piece:
            yield piece
    yield compressor.flush()


def decode(data: bytes, encoding: str, bytes_max: int) -> bytes:
    """A request body without its Content-Encoding; never makes more than ``bytes_max``.

    Raises:
        EngineError: 48 (an encoding that is not spoken), 354 (cannot inflate), 170 (too large).
    """
    try:
        if encoding in ("", "identity"):
            out = data
        elif encoding == "zstd":
            out = bounded_zstd(data, bytes_max + 1)
        elif encoding == "lz4":
            out = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=bytes_max + 1)
        elif encoding in ("gzip", "deflate"):
            out = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, bytes_max + 1)
        else:
            raise EngineError(48, "NOT_IMPLEMENTED", f"Unknown compression method of the request: {encoding}.")
    except (zlib.error, zstandard.ZstdError, RuntimeError) as error:
        raise EngineError(354, "ZLIB_INFLATE_FAILED", f"Cannot decompress the request body: {error}.") from None
    if len(out) > bytes_max:
        raise too_large(bytes_max)
    return out


def bounded_zstd(data: bytes, bytes_max: int) -> bytes:
    """At most ``bytes_max`` bytes of a zstd frame, whatever its header promises."""
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
        return reader.read(bytes_max)


def choose_encoding(accept: str) -> str:
    """The best encoding of an Accept-Encoding header; "" for none."""
    offered = set()
    for item in accept.lower().split(","):
        name, _, weight = item.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            offered.add(name.strip())
    return next((encoding for encoding in ENCODINGS if encoding in offered), "")


def too_large(bytes_max: int) -> EngineError:
    """The refusal of a request beyond the limit."""
    return EngineError(170, "QUERY_IS_TOO_LARGE", f"The request is larger than {bytes_max} bytes.")


def _cannot_decompress(detail: str) -> EngineError:
    return EngineError(271, "CANNOT_DECOMPRESS", f"Cannot decompress: {detail}.")
