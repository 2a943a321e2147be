"""Traces of our own work, by the OpenTelemetry SDK; off unless the configuration names a receiver.

While off, a span costs one call that returns a shared empty context, and the SDK is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from catchment.version import PROGRAM

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_OFF: AbstractContextManager[None] = nullcontext()


class Tracing:
    """Makes spans, or does nothing.

    Args:
        role: ``service.instance`` of the spans: collector, aggregator, store.
        exporter: where spans go; None is off. Spans are exported in batches by a thread of the SDK.
    """

    def __init__(self, role: str, exporter: SpanExporter | None = None) -> None:
        self._provider = None
        if exporter is not None:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            resource = Resource.create(
                {"service.namespace": "catchment", "service.name": role, "service.version": PROGRAM}
            )
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("catchment", PROGRAM)

    @classmethod
    def to(cls, role: str, traces: str) -> Tracing:
        """Tracing as ``telemetry.traces`` says: "off", or the address of an OTLP/HTTP receiver."""
        if traces == "off":
            return cls(role)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return cls(role, OTLPSpanExporter(endpoint=traces.rstrip("/") + "/v1/traces", timeout=5))

    @property
    def is_on(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider is not None

    def span(self, name: str, **attributes: str | int | float | bool) -> AbstractContextManager[None]:
        """A span around a block; an exception inside marks it as an error and goes on."""
        return self._span(name, attributes) if self._provider is not None else _OFF

    def close(self) -> None:
        """Send what is left, at most for the exporter's timeout."""
        if self._provider is not None:
            self._provider.shutdown()

    @contextmanager
    def _span(self, name: str, attributes: dict[str, str | int | float | bool]) -> Iterator[None]:
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield
