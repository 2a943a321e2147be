"""Attributes from raw bytes, for the few streams that were never seen before: decoded, checked, merged, canonical.

`opentelemetry-proto` does the decoding. On equal names a point's attribute wins over the resource's, the loser stays as
``resource.<name>``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from catchment.limits import Limits
from collectors.reasons import Reason

Attributes = dict[str, object]

_REMEMBERED_BYTES_MAX = 128


class Unreadable(Exception):
    """Attributes that cannot be used; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class AttributeReader:
    """Decodes attributes within limits, remembering key-values: the same few occur in nearly every stream."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, tuple[str, object]] = {}

    def point(self, raw: Sequence[bytes]) -> Attributes:
        """The attributes of a point.

        Raises:
            Unreadable: malformed or over a limit.
        """
        if len(raw) > self._limits.attribute_count_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_MANY)
        if sum(map(len, raw)) > self._limits.attributes_bytes_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_LARGE)
        return dict(self._key_value(part) for part in raw)

    def resource(self, raw: bytes) -> Attributes:
        """The attributes of a resource; raises as `point` does."""
        return self._message(Resource, raw)

    def labels(self, labels: Mapping[str, str]) -> Attributes:
        """Attributes that came as labels; raises as `point` does."""
        if len(labels) > self._limits.attribute_count_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_MANY)
        if sum(len(name) + len(value) for name, value in labels.items()) > self._limits.attributes_bytes_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_LARGE)
        return {self._bounded(name): self._bounded(value) for name, value in labels.items()}

    def scope(self, raw: bytes) -> Attributes:
        """Name, version and attributes of a scope; raises as `point` does."""
        self._check_size(raw)
        try:
            scope = InstrumentationScope.FromString(raw)
        except DecodeError as error:
            raise Unreadable(Reason.ATTRIBUTES_MALFORMED) from error
        return {"name": scope.name, "version": scope.version, "attributes": self._checked(scope.attributes)}

    def _message(self, message: type[Resource], raw: bytes) -> Attributes:
        self._check_size(raw)
        try:
            return self._checked(message.FromString(raw).attributes)
        except DecodeError as error:
            raise Unreadable(Reason.ATTRIBUTES_MALFORMED) from error

    def _check_size(self, raw: bytes) -> None:
        if len(raw) > self._limits.attributes_bytes_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_LARGE)

    def _checked(self, pairs: Sequence[KeyValue]) -> Attributes:
        if len(pairs) > self._limits.attribute_count_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_MANY)
        return {self._bounded(pair.key): self._value(pair.value, 0) for pair in pairs}

    def _key_value(self, raw: bytes) -> tuple[str, object]:
        known = self._known.get(raw)
        if known is not None:
            return known
        try:
            pair = KeyValue.FromString(raw)
        except DecodeError as error:
            raise Unreadable(Reason.ATTRIBUTES_MALFORMED) from error
        result = (self._bounded(pair.key), self._value(pair.value, 0))
        # Long values are rarely shared, and would make the memory of what is remembered a sender's choice.
        if len(raw) <= _REMEMBERED_BYTES_MAX:
            if len(self._known) >= self._limits.names_cached_max:
                self._known.clear()
            self._known[raw] = result
        return result

    def _value(self, value: AnyValue, depth: int) -> object:
        if depth > self._limits.attribute_depth_max:
            raise Unreadable(Reason.ATTRIBUTE_TOO_DEEP)
        which = value.WhichOneof("value")
        if which == "string_value":
            return self._bounded(value.string_value)
        if which == "bytes_value":
            return self._bounded(base64.b64encode(value.bytes_value).decode())
        if which == "array_value":
            return [self._value(item, depth + 1) for item in value.array_value.values]
        if which == "kvlist_value":
            return {self._bounded(pair.key): self._value(pair.value, depth + 1) for pair in value.kvlist_value.values}
        if which == "double_value" and not math.isfinite(value.double_value):
            return str(value.double_value)  # JSON has no NaN
        return getattr(value, which) if which else None

    def _bounded(self, text: str) -> str:
        if len(text) > self._limits.attribute_value_bytes_max or (
            not text.isascii() and len(text.encode()) > self._limits.attribute_value_bytes_max
        ):
            raise Unreadable(Reason.ATTRIBUTE_TOO_LONG)
        return text


def merged(point: Attributes, resource: Attributes) -> Attributes:
    """The attributes of a stream: the point's and the resource's, the resource's renamed where both have a name."""
    both = dict(resource)
    for name, value in point.items():
        if name in resource:
            both[f"resource.{name}"] = both[name]
        both[name] = value
    return both


def service_of(attributes: Attributes) -> str:
    """Take the service's name out of a stream's attributes: ``namespace/name``, or the name alone."""
    name = str(attributes.pop("service.name", "") or "unknown_service")
    namespace = attributes.pop("service.namespace", "")
    return f"{namespace}/{name}" if namespace else name
