"""What one scrape leaves in the inbox: an answer, and all by which it is read. Replay needs nothing else.

Layout: three lines that end with a newline, then three parts.

    line 1   ``catchment-scrape 1``
    line 2   JSON: ``time_ns`` and the sizes of the parts in bytes
    line 3   JSON: how it is read (`Reading`); the same bytes for all scrapes of a target
    report   what the scraper says itself: ``up`` and the like, as exposition text
    body     what the target answered, as it came
    ended    the series that the answer before had and this one has not, as exposition text with ``stale`` for a value
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from catchment.errors import Invalid
from catchment.identity import canonical_attributes
from collectors.scrape.relabel import Rule

CONTENT_TYPE = "application/vnd.catchment.scrape"
_MAGIC = b"catchment-scrape 1\n"


class Format(Enum):
    """What a body is."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"  # timestamps are seconds, not milliseconds
    PROTOBUF = "protobuf"


@dataclass(frozen=True)
class Reading:
    """How the text of a target is read.

    Attributes:
        labels: the target's own.
        honor_labels: on equal names the sample's label wins; else it becomes ``exported_<name>``.
        honor_timestamps: timestamps of samples count; else all have the time of the scrape.
        format: of the body.
        native_histograms: native histograms are taken where there are any, rather than the classic ones beside them.
        classic_histograms: the classic ones are taken besides.
        rules: ``metric_relabel_configs``.
        label_limit, label_name_length_limit, label_value_length_limit: 0 for none.
    """

    labels: Mapping[str, str]
    honor_labels: bool = False
    honor_timestamps: bool = True
    format: Format = Format.TEXT
    native_histograms: bool = True
    classic_histograms: bool = False
    rules: tuple[Rule, ...] = ()
    label_limit: int = 0
    label_name_length_limit: int = 0
    label_value_length_limit: int = 0

    def line(self) -> bytes:
        """Line 3, without its end."""
        fields = {**asdict(self), "format": self.format.value, "rules": [rule.as_json() for rule in self.rules]}
        return canonical_attributes(fields).encode()

    @staticmethod
    def of_line(line: bytes) -> Reading:
        """What `line` gave.

        Raises:
            Invalid: it is none.
        """
        try:
            fields = json.loads(line)
            rules = tuple(Rule.of_json(rule) for rule in fields["rules"])
            # Before there was protobuf.
            is_openmetrics = fields.pop("is_openmetrics", False)
            format = Format(fields.get("format", "openmetrics" if is_openmetrics else "text"))
            return Reading(**{**fields, "format": format, "rules": rules})
        except (ValueError, TypeError, KeyError) as error:
            raise Invalid(f"not a record of a scrape: {error}") from error


@dataclass(frozen=True)
class Record:
    """One scrape. ``reading`` is a line of `Reading`."""

    time_ns: int
    reading: bytes
    report: bytes
    body: bytes
    ended: bytes

    def payload(self) -> bytes:
        """The bytes that go to the inbox."""
        parts = (self.report, self.body, self.ended)
        sizes = {"time_ns": self.time_ns, "report": len(parts[0]), "body": len(parts[1]), "ended": len(parts[2])}
        return b"".join([_MAGIC, json.dumps(sizes).encode(), b"\n", self.reading, b"\n", *parts])

    @staticmethod
    def of(payload: bytes) -> Record:
        """A record from its bytes.

        Raises:
            Invalid: it is none.
        """
        if not payload.startswith(_MAGIC):
            raise Invalid("not a record of a scrape")
        try:
            sizes_line, reading, rest = payload[len(_MAGIC) :].split(b"\n", 2)
            sizes = json.loads(sizes_line)
            time_ns, report, body, ended = (int(sizes[name]) for name in ("time_ns", "report", "body", "ended"))
        except (ValueError, TypeError, KeyError) as error:
            raise Invalid(f"not a record of a scrape: {error}") from error
        if len(rest) != report + body + ended:
            raise Invalid("a record of a scrape is cut off")
        return Record(time_ns, reading, rest[:report], rest[report : report + body], rest[report + body :])
