"""Random streams of all kinds, as senders write them: restarts, resets, gaps, several writers, bad values between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from tests import otlp

STEPS_SECONDS = (0.000000001, 0.5, 1.0, 7.0, 29.5, 30.0, 60.0, 61.25, 200.0, 300.0, 301.0)
BOUNDS: tuple[list[float], ...] = ([1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [1.0, 2.0, 5.0, 10.0], [0.1, 0.3], [])


@dataclass(frozen=True)
class Written:
    """One point as its sender wrote it: when, for whom, and the metric that holds only it."""

    time: float
    tenant: str
    cluster: str
    service: str
    metric: pb.Metric

    @property
    def body(self) -> bytes:
        """A request with only this point."""
        return otlp.body(self.metric, resource={"service.name": self.service})


def streams(rng: Random, *, writers_max: int = 6, points_max: int = 12) -> list[Written]:
    """The points of some writers, by time; those of one writer at different times."""
    written: list[Written] = []
    for number in range(rng.randint(1, writers_max)):
        written += _writer(rng, number, points_max)
    return sorted(written, key=lambda each: each.time)


def _writer(rng: Random, number: int, points_max: int) -> list[Written]:
    tenant, cluster = rng.choice((("acme", "a"), ("acme", "b"), ("umbrella", "a")))
    service, pod = rng.choice(("shop", "cart")), f"pod-{number}"
    make = rng.choice(_MAKERS)
    attributes = rng.choice(({"k8s.pod.name": pod}, {"k8s.pod.name": pod, "route": "/"}))
    time = rng.choice((5.0, 59.5, 60.0)) + number / 16
    start: float | None = rng.choice((time - 3, time - 3, time, -4000.0, None))
    # Writers with equal attributes are told apart by start, if their kind has one; the others are of one pod each.
    if make in _CUMULATIVE and start is not None and rng.random() < 0.3:
        attributes, start = {"route": "/"}, start + number / 1024
    state: dict[str, Any] = {}
    result = []
    for _ in range(rng.randint(1, points_max)):
        happens = rng.random()
        if happens < 0.1:
            state = {}  # the process restarts and says so, or not
            start = time if rng.random() < 0.7 and start is not None else start
        elif happens < 0.2:
            time += rng.choice((400.0, 900.0))
        before, time = time, time + rng.choice(STEPS_SECONDS)
        metric = make(rng, state, attributes, start, before, time)
        result.append(Written(time, tenant, cluster, service, metric))
    return result


def _number(rng: Random) -> int | float:
    return rng.choice((0, 1, 7, 2**40, 2**62, 0.5, 1e-3, 12345.678, rng.randint(0, 1000), rng.random() * 1e6))


def _exemplars(rng: Random, time: float) -> list[pb.Exemplar]:
    count = rng.choice((0, 0, 1, 3))
    values = (rng.choice((1, 2.5, math.nan, 7.0)) for _ in range(count))
    return [otlp.exemplar(value, time, rng.randbytes(16), rng.randbytes(8)) for value in values]


def _counter(rng: Random, state: dict[str, Any], attributes: Any, start: float | None, _: float, time: float) -> Any:
    value = state.get("value", 0)
    grown = value + _number(rng) if value < 2**61 else value + rng.randint(0, 3)
    if isinstance(grown, float) and grown > 2**50:
        grown = int(grown)
    state["value"] = grown
    shown = math.nan if rng.random() < 0.05 else grown
    point = otlp.number(time, shown, start=start, attributes=attributes, exemplars=_exemplars(rng, time))
    return otlp.counter("hits", point, temporality=0 if rng.random() < 0.03 else otlp.CUMULATIVE)


def _delta(rng: Random, _: dict[str, Any], attributes: Any, __: float | None, before: float, time: float) -> Any:
    monotonic = rng.random() < 0.5
    value = _number(rng) * (1 if monotonic else -1)
    point = otlp.number(time, value, start=before, attributes=attributes, exemplars=_exemplars(rng, time))
    return otlp.counter("sent", point, temporality=otlp.DELTA, monotonic=monotonic)


def _gauge(rng: Random, _: dict[str, Any], attributes: Any, __: float | None, ___: float, time: float) -> Any:
    if rng.random() < 0.1:
        return otlp.gauge("level", otlp.number(time, None, attributes=attributes, flags=otlp.NO_RECORDED_VALUE))
    value = _number(rng) * rng.choice((1, -1))
    point = otlp.number(time, value, attributes=attributes, exemplars=_exemplars(rng, time))
    return otlp.gauge("level", point)


def _up_down(rng: Random, _: dict[str, Any], attributes: Any, start: float | None, __: float, time: float) -> Any:
    point = otlp.number(time, _number(rng) * rng.choice((1, -1)), start=start, attributes=attributes)
    return otlp.counter("queue", point, monotonic=False)


def _explicit(rng: Random, state: dict[str, Any], attributes: Any, start: float | None, _: float, time: float) -> Any:
    if "bounds" not in state or rng.random() < 0.05:
        state.update(bounds=rng.choice(BOUNDS), counts=None)
    counts = state["counts"] or [0] * (len(state["bounds"]) + 1)
    state["counts"] = [count + rng.choice((0, 0, 1, 5, 2**40)) for count in counts]
    return otlp.histogram("lat", _of_buckets(rng, state, attributes, start, time))


def _of_buckets(rng: Random, state: dict[str, Any], attributes: Any, start: float | None, time: float) -> Any:
    state["sum"] = state.get("sum", 0.0) + rng.random() * 100
    return otlp.explicit(
        time,
        state["counts"],
        state["bounds"],
        total=None if rng.random() < 0.02 else state["sum"],
        low=rng.choice((None, -1.0, 0.5)),
        high=rng.choice((None, 7.0, 9.0, math.inf)),
        start=start,
        attributes=attributes,
        exemplars=_exemplars(rng, time),
    )


def _explicit_delta(
    rng: Random, _: dict[str, Any], attributes: Any, __: float | None, before: float, time: float
) -> Any:
    bounds = rng.choice(BOUNDS)
    state = {"bounds": bounds, "counts": [rng.choice((0, 1, 2**40)) for _ in range(len(bounds) + 1)]}
    return otlp.histogram("lat.delta", _of_buckets(rng, state, attributes, before, time), temporality=otlp.DELTA)


def _exponential_of(rng: Random, state: dict[str, Any], attributes: Any, start: float | None, time: float) -> Any:
    """A point of what an SDK holds: buckets at a scale that it coarsens, a zero bucket that it widens."""
    scale, buckets = state.setdefault("scale", rng.choice((0, 3, 5, 7))), state.setdefault("buckets", {})
    if "at" in state and rng.random() < 0.25:
        scale = state["scale"] = max(scale - rng.choice((1, 2)), -2)
        coarser: dict[tuple[int, int], int] = {}
        shift = state["at"] - scale
        for (sign, index), count in buckets.items():
            coarser[sign, index >> shift] = coarser.get((sign, index >> shift), 0) + count
        state["buckets"] = buckets = coarser
    state["at"] = scale
    for _ in range(rng.randint(0, 4)):
        bucket = (rng.choice((1, 1, -1)), rng.randint(-12, 12))
        buckets[bucket] = buckets.get(bucket, 0) + rng.choice((1, 3, 2**30))
    state["zeros"] = state.get("zeros", 0) + rng.choice((0, 0, 2))
    if scale >= 0 and rng.random() < 0.15:
        # The zero bucket widens to a power of two and takes what lies inside.
        octave = rng.choice((-3, -1, 0))
        state["threshold"] = max(state.get("threshold", 0.0), 2.0**octave)
        for key in [key for key in buckets if key[1] < octave << scale]:
            state["zeros"] += buckets.pop(key)
    sides = []
    for sign in (1, -1):
        indexes = [index for of, index in buckets if of == sign] or [0]
        first = min(indexes) - rng.choice((0, 0, 2))
        sides.append((first, [buckets.get((sign, i), 0) for i in range(first, max(indexes) + 1)]))
    state["sum"] = state.get("sum", 0.0) + rng.random()
    return otlp.exponential(
        time,
        scale,
        *sides[0],
        negative_offset=sides[1][0],
        negative=sides[1][1],
        zeros=state["zeros"],
        zero_threshold=state.get("threshold", 0.0),
        total=state["sum"],
        low=rng.choice((None, -1.0)),
        high=rng.choice((None, 7.0, 9.0)),
        start=start,
        attributes=attributes,
    )


def _exponential(
    rng: Random, state: dict[str, Any], attributes: Any, start: float | None, _: float, time: float
) -> Any:
    return otlp.exponential_histogram("exp", _exponential_of(rng, state, attributes, start, time))


def _exponential_delta(
    rng: Random, _: dict[str, Any], attributes: Any, __: float | None, before: float, time: float
) -> Any:
    point = _exponential_of(rng, {"threshold": rng.choice((0.0, 0.001))}, attributes, before, time)
    return otlp.exponential_histogram("exp.delta", point, temporality=otlp.DELTA)


def _summary(rng: Random, state: dict[str, Any], attributes: Any, start: float | None, _: float, time: float) -> Any:
    state["count"] = state.get("count", 0) + rng.choice((0, 1, 100))
    state["sum"] = state.get("sum", 0.0) + rng.choice((0.0, 1.5, 1000.0))
    values = {0.5: 1.0} if rng.random() < 0.5 else {}
    flags = otlp.NO_RECORDED_VALUE if rng.random() < 0.05 else 0
    point = otlp.quantiles(
        time, state["count"], state["sum"], values=values, start=start, attributes=attributes, flags=flags
    )
    return otlp.summary("rpc", point)


_CUMULATIVE: tuple[Callable[..., Any], ...] = (_counter, _explicit, _exponential, _summary)
_MAKERS: tuple[Callable[..., Any], ...] = (
    *_CUMULATIVE,
    _delta,
    _gauge,
    _up_down,
    _explicit_delta,
    _exponential_delta,
)
