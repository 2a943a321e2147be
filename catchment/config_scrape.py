"""The part of the configuration that says what the collector scrapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catchment.setting import setting


@dataclass(frozen=True)
class Scrape:
    """Scraping Prometheus targets."""

    file: Path | None = setting(
        None,
        "a prometheus.yml, whose scrape_configs are scraped; read again when it changes, and what of it is not "
        "supported is named at start",
    )
    tenant: str = setting("default", "whose everything is that is scraped; the cluster is the collector's own")
