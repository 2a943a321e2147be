"""What is scraped: jobs as Prometheus configures them, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collectors.scrape.relabel import Rule


@dataclass(frozen=True)
class Tls:
    """``tls_config``: how a server proves who it is, and what we prove to it. Files are read at each connection."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    insecure_skip_verify: bool = False
    min_version: str = ""


@dataclass(frozen=True)
class Http:
    """How a server is asked. Secrets are given as they are or by file, which is read for each request.

    Attributes:
        authorization_type: ``Bearer`` or what else stands before the credentials; "" without authorization.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    authorization_type: str = ""
    credentials: str = field(default="", repr=False)
    credentials_file: Path | None = None
    tls: Tls = Tls()
    follow_redirects: bool = True


@dataclass(frozen=True)
class Group:
    """Targets that share labels: addresses, or whole label sets of a discovery."""

    source: str
    targets: tuple[Mapping[str, str], ...]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class FileDiscovery:
    """``file_sd_configs``: files of target groups, by glob."""

    globs: tuple[str, ...]
    refresh_seconds: float = 300.0


@dataclass(frozen=True)
class Kubernetes:
    """``kubernetes_sd_configs``.

    Attributes:
        role: node, service, pod, endpoints or endpointslice.
        api_server: its address; "" for the cluster we run in.
        namespaces: all if empty; ``own_namespace`` adds our own.
        selectors: role → (label selector, field selector).
    """

    role: str
    api_server: str = ""
    http: Http = Http()
    namespaces: tuple[str, ...] = ()
    own_namespace: bool = False
    selectors: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One entry of ``scrape_configs``; limits are 0 where there is none, times in seconds, sizes in bytes.

    Attributes:
        protocols: in the order in which they are liked; () where nothing is said of them.
        native_histograms: whether they are wanted; None where nothing is said of that.
        classic_histograms: whether those beside native ones are wanted, too.
    """

    name: str
    interval_seconds: float = 60.0
    timeout_seconds: float = 10.0
    scheme: str = "http"
    metrics_path: str = "/metrics"
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocols: tuple[str, ...] = ()
    native_histograms: bool | None = None
    classic_histograms: bool = False
    http: Http = Http()
    honor_labels: bool = False
    honor_timestamps: bool = True
    enable_compression: bool = True
    static: tuple[Group, ...] = ()
    files: tuple[FileDiscovery, ...] = ()
    kubernetes: tuple[Kubernetes, ...] = ()
    relabel: tuple[Rule, ...] = ()
    metric_relabel: tuple[Rule, ...] = ()
    body_size_limit: int = 0
    sample_limit: int = 0
    target_limit: int = 0
    label_limit: int = 0
    label_name_length_limit: int = 0
    label_value_length_limit: int = 0


@dataclass(frozen=True)
class ScrapeFile:
    """A ``prometheus.yml`` as we use it: its jobs, and what in it we do not do, each in a line."""

    jobs: tuple[Job, ...] = ()
    unsupported: tuple[str, ...] = ()
