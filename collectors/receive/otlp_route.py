"""OTLP at ``/v1/metrics``: protobuf or JSON, and the specification's answers.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from catchment.errors import Invalid
from collectors.content import CONTENT_TYPES, ENCODINGS, JSON, PROTOBUF
from collectors.receive.http_answers import Refusal, Reply, encoding_of, media_type, unsupported_encoding
from collectors.receive.serving import status_of
from collectors.records import Outcome

_ACCEPTED = Outcome()
_ACCEPTED_BODY = {PROTOBUF: b"", JSON: b"{}"}


class OtlpRoute:
    """The `Route` of OTLP. An error's body is a google.rpc.Status in the request's content type."""

    signal = "metrics"
    protocol = "http"

    def content(self, headers: Mapping[bytes, bytes]) -> tuple[str, str]:
        """See `Route.content`."""
        content_type, encoding = media_type(headers), encoding_of(headers)
        if content_type not in CONTENT_TYPES:
            error = Invalid(f"content type must be {' or '.join(CONTENT_TYPES)}")
            raise Refusal(415, error, reason="unsupported_content")
        if encoding not in ENCODINGS:
            raise unsupported_encoding(ENCODINGS[1:])
        return content_type, encoding

    def accepted(self, content_type: str, outcome: Outcome) -> Reply:
        """See `Route.accepted`."""
        if outcome == _ACCEPTED:
            return Reply(200, content_type, _ACCEPTED_BODY[content_type])
        response = ExportMetricsServiceResponse()
        response.partial_success.rejected_data_points = outcome.points_rejected
        response.partial_success.error_message = outcome.message
        return Reply(200, content_type, _encode(response, content_type))

    def refused(self, headers: Mapping[bytes, bytes], refusal: Refusal) -> Reply:
        """See `Route.refused`."""
        content_type = media_type(headers)
        answered = content_type if content_type in CONTENT_TYPES else PROTOBUF
        return Reply(refusal.http_status, answered, _encode(status_of(refusal.error), answered), refusal.headers)


def _encode(message: Message, content_type: str) -> bytes:
    if content_type == JSON:
        return str(json_format.MessageToJson(message, indent=None)).encode()
    return bytes(message.SerializeToString())
