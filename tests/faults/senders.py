"""Applications with SDKs of every sort, as the tests that kill have them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.sdk.metrics.export import MetricExporter

from tests.faults.sdk_client import Application, grpc_exporter, http_exporter

# Some wait and try again inside the SDK, others give up soon and export anew.
STYLES: Mapping[str, Callable[[Mapping[str, int], str], MetricExporter]] = {
    "http": lambda ports, token: http_exporter(ports["otlp_http"], gzip=True, timeout_seconds=3, token=token),
    "http-plain": lambda ports, token: http_exporter(ports["otlp_http"], gzip=False, token=token),
    "grpc": lambda ports, token: grpc_exporter(ports["otlp_grpc"], timeout_seconds=3, token=token),
    "http-delta": lambda ports, token: http_exporter(ports["otlp_http"], gzip=True, deltas=True, token=token),
    "grpc-delta": lambda ports, token: grpc_exporter(ports["otlp_grpc"], deltas=True, token=token),
}


@dataclass(frozen=True)
class Sender:
    """An application: its name, one of `STYLES`, the ports that it sends to, and what it says that it is."""

    service: str
    style: str
    ports: Mapping[str, int]
    token: str = ""


@contextlib.contextmanager
def sending(senders: Iterable[Sender], *, seed: int, pace: float = 1.0) -> Iterator[list[Application]]:
    """Applications that run; start them after the folders of their collectors, so that all their counts are new."""
    with contextlib.ExitStack() as closing:
        yield [
            closing.enter_context(
                contextlib.closing(
                    Application(
                        sender.service,
                        STYLES[sender.style](sender.ports, sender.token),
                        insists=sender.style.endswith("delta"),
                        seed=seed + number,
                        pace=pace,
                    )
                )
            )
            for number, sender in enumerate(senders)
        ]
