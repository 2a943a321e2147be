"""What targets answer in Prometheus' protobuf → flat columns of samples, and native histograms; no loop over samples.

Rules:

1. A body is messages of ``MetricFamily``, each preceded by its length. ``ptars`` parses all of all bodies at once.
2. Of a histogram that is native and classic the native one is taken, where the target's job wants native ones. If it
   wants the classic one besides, that one is counters, as its series are: both under one name would count twice.
3. Series are told apart by a hash of their family and labels; their text is made only where one was never seen before.

Sources: https://github.com/prometheus/client_model, https://prometheus.io/docs/specs/native_histograms/ and Prometheus'
model/textparse/protobufparse.go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError

from catchment.errors import Invalid
from catchment.identity import mix
from collectors.decode import client_model_pb2 as trimmed
from collectors.decode.client_messages import FAMILY, SHALLOW, FamilyType
from collectors.decode.client_natives import is_native, native_exemplars, native_messages
from collectors.decode.client_samples import ClientSamples, Part, has_field, samples_of
from collectors.decode.points import Exemplars
from collectors.decode.raw import hashes_of, joined_fields
from collectors.decode.views import children, values_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_MESSAGE: Any = trimmed
_TYPES = {
    FamilyType.COUNTER: b"counter",
    FamilyType.GAUGE: b"gauge",
    FamilyType.SUMMARY: b"summary",
    FamilyType.HISTOGRAM: b"histogram",
    FamilyType.GAUGE_HISTOGRAM: b"gaugehistogram",
}
_SUFFIXES = {Part.COUNT: b"_count", Part.SUM: b"_sum", Part.BUCKET: b"_bucket"}
_NUMBERED = {Part.BUCKET: b"le", Part.QUANTILE: b"quantile"}
# A program has thousands. Each costs a turn of a loop, also where it is empty.
_FAMILIES_MAX = 1 << 17
# More than any limit allows: such a series is refused without a look at them.
_LABELS_MAX = 1024
# Elements of native histograms that take as much memory as a sample.
_ELEMENTS_PER_SAMPLE = 4


@dataclass(frozen=True)
class Families:
    """The families of some bodies, and their metrics.

    Columns of families: name, type, unit. Of metrics: family, labels, and whether its samples stand ``beside`` a native
    histogram.
    """

    name: pa.Array
    type: Int32s
    unit: pa.Array
    family: Int32s
    labels: pa.ListArray
    beside: Bools

    def of(self, metrics: Int64s) -> Families:
        """The same with some metrics only, in a new order."""
        labels = self.labels.take(pa.array(metrics))
        return replace(self, family=self.family[metrics], labels=labels, beside=self.beside[metrics])

    def text(self, metric: int, part: int, number: float) -> tuple[bytes, bytes, bytes]:
        """A series as exposition text writes it, and the lines that declare its type and unit; empty, which is no
        series, where its labels are none or too many.

        Args:
            metric: row of its metric.
            part: `Part`.
            number: bound or quantile.
        """
        family = int(self.family[metric])
        name, unit = self.name[family].as_py(), self.unit[family].as_py()
        raw_labels = self.labels[metric]
        if len(raw_labels) > _LABELS_MAX:
            return b"", b"", b""
        try:
            labels = [_MESSAGE.LabelPair.FromString(raw) for raw in raw_labels.as_py()]
        except DecodeError:
            return b"", b"", b""
        pairs = [(label.name, label.value) for label in labels]
        if part in _NUMBERED:
            pairs.append((_NUMBERED[Part(part)], number_text(number).encode()))
        written = [_quoted(name + _SUFFIXES.get(Part(part), b"")), *(_quoted(k) + b"=" + _quoted(v) for k, v in pairs)]
        kind = _TYPES.get(FamilyType(int(self.type[family])), b"unknown")
        # Without a type buckets, count and sum are counters by their names. The native histogram is a value.
        is_counter = part != Part.VALUE and bool(self.beside[metric]) and kind == b"histogram"
        declared = b"" if is_counter else b"# TYPE %s %s" % (_quoted(name), kind)
        return b"{" + b",".join(written) + b"}", declared, b"# UNIT %s %s" % (_quoted(name), unit) if unit else b""


@dataclass(frozen=True)
class Bodies:
    """The samples of some bodies, those of one histogram or summary side by side, and the native histograms.

    Columns of samples, besides those of ``samples``:
        body: which of the bodies
        key: of its series, in this process
        time_ms: 0 where it has none of its own

    Columns of ``natives``, which are messages of remote write without times: native_body, native_key, native_time_ms,
    native_metric.
    """

    families: Families
    samples: ClientSamples
    body: Int64s
    key: UInt64s
    time_ms: Int64s
    natives: pa.StructArray
    native_body: Int64s
    native_key: UInt64s
    native_time_ms: Int64s
    native_metric: Int64s
    native_exemplars: Exemplars | None

    def text(self, sample: int) -> tuple[bytes, bytes, bytes]:
        """See `Families.text`."""
        samples = self.samples
        return self.families.text(int(samples.metric[sample]), int(samples.part[sample]), float(samples.number[sample]))

    def native_text(self, native: int) -> tuple[bytes, bytes, bytes]:
        """See `Families.text`."""
        return self.families.text(int(self.native_metric[native]), Part.VALUE, 0.0)


@cache
def no_bodies() -> Bodies:
    """What there is where no target answers in protobuf."""
    return read_bodies([], np.zeros(0, np.bool_), np.zeros(0, np.bool_))


def read_bodies(bodies: Sequence[bytes], takes_native: Bools, takes_classic: Bools) -> Bodies:
    """The samples of some protobuf bodies.

    Args:
        takes_native: by body, whether native histograms are taken, rather than the classic ones beside them.
        takes_classic: whether the classic ones are taken, too.

    Raises:
        Invalid: one of them is none.
    """
    messages, body_of = [], []
    for i, body in enumerate(bodies):
        own = list(_delimited(body))
        messages += own
        body_of += [i] * len(own)
    batch = _parsed(FAMILY, messages)
    family, metrics = children(batch.column("metric"))
    name, unit, types = batch.column("name"), batch.column("unit"), values_of(batch.column("type"), np.int32)
    joined, cuts = joined_fields(metrics.field("label"))
    names, units, labels = hashes_of([name, unit, joined])
    identity = mix(mix(mix(names, units), types.astype(np.uint64))[family], labels + cuts)
    owner, of_type = np.array(body_of, np.int64)[family], types[family]
    histogram = metrics.field("histogram")
    native = has_field(metrics, of_type, "histogram", FamilyType.HISTOGRAM, FamilyType.GAUGE_HISTOGRAM)
    native &= is_native(histogram) & takes_native[owner]
    has_buckets = np.diff(histogram.field("bucket").offsets.to_numpy()) > 0
    beside = native & takes_classic[owner] & has_buckets
    samples = samples_of(metrics, of_type, native & ~beside)
    metric, natives = samples.metric, np.flatnonzero(native)
    salt = mix(samples.part.astype(np.uint64), samples.number.view(np.uint64)) + beside[metric]
    times = values_of(metrics.field("timestamp_ms"), np.int64)
    return Bodies(
        families=Families(name, types, unit, family, metrics.field("label"), beside),
        samples=samples,
        body=owner[metric],
        key=mix(identity[metric], salt),
        time_ms=times[metric],
        natives=native_messages(histogram, natives, of_type),
        native_body=owner[natives],
        native_key=identity[natives],
        native_time_ms=times[natives],
        native_metric=natives,
        native_exemplars=native_exemplars(histogram, natives),
    )


def most_samples(body: bytes) -> int:
    """How many samples a body holds at most, cheaply; what a native histogram is made of counts too, and exemplars do.

    Raises:
        Invalid: it is none.
    """
    metrics = _parsed(SHALLOW, list(_delimited(body))).column("metric").values
    histogram, summary = metrics.field("histogram"), metrics.field("summary")
    many: int = len(histogram) - histogram.null_count + len(summary) - summary.null_count
    listed = histogram.field("bucket"), histogram.field("exemplars"), summary.field("quantile")
    parts: int = sum(len(each.values) for each in listed)
    elements: int = sum(
        len(histogram.field(f"{sign}_{name}").values)
        for sign in ("positive", "negative")
        for name in ("span", "delta", "count")
    )
    return len(metrics) + 3 * many + parts + elements // _ELEMENTS_PER_SAMPLE


def _parsed(handler: Any, messages: list[bytes]) -> pa.RecordBatch:
    try:
        return handler.list_to_record_batch(messages)
    except ValueError as error:
        raise Invalid(f"no MetricFamily: {error}") from error


def _delimited(body: bytes) -> Iterator[bytes]:
    """The messages of a body, each preceded by its length as a varint."""
    at = 0
    for _ in range(_FAMILIES_MAX):
        size = shift = 0
        while at < len(body):
            byte = body[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 28:
                break
        if not shift:
            return
        if byte >= 0x80 or at + size > len(body):
            raise Invalid("the protobuf is cut off, or none that is delimited")
        yield body[at : at + size]
        at += size
    raise Invalid(f"more than {_FAMILIES_MAX} metric families")


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'


def number_text(number: float) -> str:
    """A bound or quantile as Prometheus 3 writes it in a label: the shortest that reads the same, never an integer."""
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    exact = Decimal(repr(number)).normalize()
    exponent = exact.adjusted() if exact else 0
    if -4 <= exponent < 6:
        text = f"{exact:f}"
        return text if "." in text else f"{text}.0"
    sign, digits, _ = exact.as_tuple()
    first, *rest = map(str, digits)
    return f"{'-' if sign else ''}{first}{'.' if rest else ''}{''.join(rest)}e{exponent:+03d}"
