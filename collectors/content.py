"""Content codings: from a body as received to the protobuf bytes of a request, within a bound.

Rules:

1. The answer is bytes, or `Invalid`; nothing else is raised, whatever the sender wrote.
2. Decompression stops where the bound is reached; what a sender claims about the size is a hint for speed only.
3. Trailing bytes, truncated streams and wrong checksums are `Invalid`. Concatenated members (gzip) and frames (zstd)
   are one body, as their specifications have it (RFC 1952 §2.2, RFC 8878 §3.1).
4. ``deflate`` is the zlib format (RFC 9110 §8.4.1.2); raw deflate, which some senders mean by it, is taken as well.
5. ``snappy`` is the block format, as Prometheus sends it, not the framed one
   (https://github.com/google/snappy/blob/main/format_description.txt).
6. JSON follows OTLP's mapping (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): ids in hex, enums as
   integers, 64-bit integers as strings or numbers, unknown fields ignored.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import zstandard
from google.protobuf import json_format
from isal import isal_zlib
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from catchment.errors import Invalid
from collectors.decode.forms import FORMS
from collectors.records import Received

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
CONTENT_TYPES = (PROTOBUF, JSON)
ENCODINGS = ("", "gzip", "zstd", "deflate")
SNAPPY = "snappy"
REMOTE_WRITE_ENCODINGS = (SNAPPY, "gzip", "zstd")

_ISAL_ERROR: type[Exception] = cast(Any, isal_zlib.error)  # its stub annotates an instance
_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15
_PIECE_BYTES = 1 << 18
# One four-byte zstd block makes 128 KiB: this much input at a time bounds what one call can make to 32 MiB.
_ZSTD_INPUT_BYTES = 1 << 10
_SNAPPY_CODEC = pa.Codec("snappy")
_SNAPPY_HEAD_BYTES_MAX = 5
_SNAPPY_RATIO_MAX = 22
_DATA_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram", "exponential_histogram")


class TooLarge(Invalid):
    """More plain bytes than are taken: 413, and nothing a retry would change."""


def to_protobuf(received: Received, uncompressed_bytes_max: int) -> bytes:
    """The bytes that a request's decoder reads: decompressed, and translated to protobuf if it is JSON.

    Raises:
        Invalid: it cannot be read.
        TooLarge: it is more than ``uncompressed_bytes_max`` bytes.
    """
    return translated(received, decompress(received.body, received.content_encoding, uncompressed_bytes_max))


def translated(received: Received, plain: bytes) -> bytes:
    """The bytes that a request's decoder reads, of its body as decompressed.

    Raises:
        Invalid: it cannot be read.
    """
    if received.content_type == PROTOBUF or received.content_type in FORMS:
        return plain
    if received.content_type == JSON:
        return json_to_protobuf(plain, received.signal)
    raise Invalid(f"content type {received.content_type!r} is not supported: use one of {', '.join(CONTENT_TYPES)}")


def decompress(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """The plain bytes of a body.

    Args:
        encoding: one of `ENCODINGS` or `REMOTE_WRITE_ENCODINGS`.
        bytes_max: the most plain bytes that are made.

    Raises:
        Invalid: unknown encoding or broken data.
        TooLarge: more than ``bytes_max`` bytes.
    """
    try:
        if encoding == "":
            plain = body
        elif encoding == "gzip":
            plain = _gunzip(body, bytes_max)
        elif encoding == "deflate":
            plain = _inflate(body, bytes_max)
        elif encoding == "zstd":
            plain = _unzstd(body, bytes_max)
        elif encoding == SNAPPY:
            plain = _unsnap(body, bytes_max)
        else:
            raise Invalid(f"content encoding {encoding!r} is not supported: use gzip, zstd, deflate or none")
    except (_ISAL_ERROR, zlib.error, zstandard.ZstdError, OSError) as error:
        raise Invalid(f"body is not {encoding}: {error}") from error
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    return plain


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"body is too large: more than {bytes_max} bytes after decompression")


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    # The trailer of a single member states its size: a buffer of that size halves the work.
    hint = min(int.from_bytes(body[-4:], "little"), bytes_max)
    members = []
    size = 0
    rest = body
    while True:
        plain, rest = _inflate_member(rest, _GZIP_WBITS, bytes_max, min(hint, bytes_max - size), size)
        members.append(plain)
        size += len(plain)
        if not rest.strip(b"\0"):  # padding is allowed to follow
            return members[0] if len(members) == 1 else b"".join(members)


def _inflate(body: bytes, bytes_max: int) -> bytes:
    zlib_header = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    plain, rest = _inflate_member(body, _ZLIB_WBITS if zlib_header else _RAW_WBITS, bytes_max, _PIECE_BYTES)
    if rest:
        raise Invalid(f"{len(rest)} bytes stand behind the end of the deflate stream")
    return plain


def _inflate_member(body: bytes, wbits: int, bytes_max: int, hint: int, size: int = 0) -> tuple[bytes, bytes]:
    """One deflate stream and what stands behind it; ``size`` is that of the members before it."""
    stream = isal_zlib.decompressobj(wbits)
    pieces = [stream.decompress(body, hint + 1)]
    size += len(pieces[0])
    while size > bytes_max or not stream.eof:
        if size > bytes_max:
            raise _too_large(bytes_max)
        piece = stream.decompress(stream.unconsumed_tail, _PIECE_BYTES)
        if not piece and not stream.eof:
            raise Invalid("body is truncated: the compressed stream does not end")
        pieces.append(piece)
        size += len(piece)
    return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), stream.unused_data


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    frame = zstandard.get_frame_parameters(body)
    if frame.content_size == zstandard.CONTENTSIZE_ERROR:
        raise Invalid("body is not zstd: no frame header")
    if frame.content_size != zstandard.CONTENTSIZE_UNKNOWN:
        if frame.content_size > bytes_max:
            raise _too_large(bytes_max)
        try:
            return zstandard.ZstdDecompressor().decompress(body, max_output_size=1, allow_extra_data=False)
        except zstandard.ZstdError:
            pass  # several frames, or a broken one: the way below tells
    window_bytes_max = max(8 << 20, 1 << (bytes_max - 1).bit_length())
    pieces: list[bytes] = []
    size = 0
    for piece in _zstd_frames(body, window_bytes_max):
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max)
    return b"".join(pieces)


def _unsnap(body: bytes, bytes_max: int) -> bytes:
    """Snappy's block format, whose head is the plain size as a varint; the decoder holds the block against it."""
    size = shift = 0
    for byte in body[:_SNAPPY_HEAD_BYTES_MAX]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    else:
        raise Invalid("body is not snappy: no size stands at its head")
    if size > bytes_max:
        raise _too_large(bytes_max)
    # A byte of a block makes at most 64 / 3: what claims more is broken, and gets no memory.
    if size > _SNAPPY_RATIO_MAX * len(body):
        raise Invalid("body is not snappy: it is too short for the size at its head")
    plain: bytes = _SNAPPY_CODEC.decompress(body, decompressed_size=size, asbytes=True)
    return plain


def _zstd_frames(body: bytes, window_bytes_max: int) -> Iterator[bytes]:
    """The plain pieces of all frames, each made of little input."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=window_bytes_max)
    view = memoryview(body)
    position = 0
    while position < len(body):
        frame = decompressor.decompressobj()
        while not frame.eof:
            if position >= len(body):
                raise Invalid("body is truncated: the compressed stream does not end")
            chunk = view[position : position + _ZSTD_INPUT_BYTES]
            position += len(chunk)
            yield frame.decompress(chunk)
        position -= len(frame.unused_data)


def json_to_protobuf(plain: bytes, signal: str) -> bytes:
    """The protobuf bytes of an OTLP/JSON request.

    Raises:
        Invalid: it is no JSON, or no request of this signal.
    """
    if signal != "metrics":
        raise Invalid(f"JSON requests of {signal} are not supported")
    try:
        request = json.loads(plain)
        if not isinstance(request, dict):
            raise Invalid("body is not a JSON object")
        _ids_to_base64(request)
        message = json_format.ParseDict(request, ExportMetricsServiceRequest(), ignore_unknown_fields=True)
        serialized: bytes = message.SerializeToString()
        return serialized
    # json_format lets errors of other kinds through for odd shapes (a list for an object, lone surrogates).
    except (json_format.ParseError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise Invalid(f"body is not OTLP/JSON: {error}") from error


def _ids_to_base64(request: dict[str, Any]) -> None:
    """Turn the hex ids of exemplars into the base64 that protobuf's own JSON mapping reads."""
    for resource in _objects(request, "resourceMetrics", "resource_metrics"):
        for scope in _objects(resource, "scopeMetrics", "scope_metrics"):
            for metric in _objects(scope, "metrics"):
                for kind in _DATA_KINDS:
                    for data in _objects(metric, kind):
                        for point in _objects(data, "dataPoints", "data_points"):
                            for exemplar in _objects(point, "exemplars"):
                                _id_to_base64(exemplar, ("traceId", "trace_id"), 16)
                                _id_to_base64(exemplar, ("spanId", "span_id"), 8)


def _objects(parent: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """The JSON objects below any of the names; other values are left to the parser to refuse."""
    found: list[dict[str, Any]] = []
    for name in names:
        value = parent.get(name)
        values = value if isinstance(value, list) else [value]
        found += [each for each in values if isinstance(each, dict)]
    return found


def _id_to_base64(exemplar: dict[str, Any], names: tuple[str, ...], size_bytes: int) -> None:
    for name in names:
        value = exemplar.get(name)
        if not isinstance(value, str) or not value:
            continue
        raw = bytes.fromhex(value)
        if len(raw) != size_bytes:
            raise Invalid(f"{name} has {len(raw)} bytes; {size_bytes} are right")
        exemplar[name] = base64.b64encode(raw).decode()
