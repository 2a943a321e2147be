"""A prometheus.yml is read as Prometheus reads it: what is meant, what is not done, what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.errors import ConfigFaults
from collectors.scrape.job import FileDiscovery, Group, Http, Job, Kubernetes, Tls
from collectors.scrape.prometheus_yml import config_globs, read_groups, read_prometheus_yml
from collectors.scrape.record import Format
from collectors.scrape.relabel import Rule
from collectors.scrape.targets import Target, reading_of, targets_of
from collectors.scrape.yml_reader import duration_seconds

TARGET = Target("a", "http://a:80/metrics", 60.0, 10.0, ())
FOLDER = Path("/etc/prometheus")

REAL = """
global:
  scrape_interval: 15s
  evaluation_interval: 15s
  external_labels: {cluster: tokyo}
rule_files: [rules/*.yml]
alerting:
  alertmanagers: [{static_configs: [{targets: [alertmanager:9093]}]}]
remote_write:
  - url: https://example.org/write
scrape_configs:
  - job_name: prometheus
    static_configs:
      - targets: ['localhost:9090']
  - job_name: node
    scrape_interval: 1m
    scheme: https
    tls_config: {ca_file: ca.crt, cert_file: /c.pem, key_file: /k.pem, server_name: node, min_version: TLS13}
    basic_auth: {username: u, password_file: secrets/p}
    file_sd_configs: [{files: ['targets/*.json'], refresh_interval: 1m}]
    sample_limit: 1000
    body_size_limit: 10MB
  - job_name: kubernetes-pods
    honor_labels: true
    kubernetes_sd_configs:
      - role: pod
        namespaces: {names: [a, b]}
        selectors: [{role: pod, label: app=x, field: spec.nodeName=n}]
    relabel_configs:
      - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
        action: keep
        regex: true
      - source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port]
        action: replace
        regex: ([^:]+)(?::\\d+)?;(\\d+)
        replacement: $1:$2
        target_label: __address__
      - action: labelmap
        regex: __meta_kubernetes_pod_label_(.+)
    metric_relabel_configs:
      - {source_labels: [__name__], regex: 'go_.*', action: drop}
  - job_name: consul
    consul_sd_configs: [{server: 'localhost:8500'}]
  - job_name: cloud
    oauth2: {client_id: x}
    static_configs: [{targets: [a:1]}]
"""


def test_a_file_as_operators_have_it() -> None:
    """Jobs, discoveries, secrets by file, TLS, limits and relabelling come out as values; the rest is named."""
    found = read_prometheus_yml(REAL, FOLDER)
    prometheus, node, pods, consul = found.jobs
    assert prometheus == Job(
        "prometheus", 15.0, 10.0, static=(Group("static/0", ({"__address__": "localhost:9090"},), {}),)
    )
    assert (node.interval_seconds, node.timeout_seconds, node.scheme) == (60.0, 10.0, "https")
    assert node.http == Http(
        username="u",
        password_file=FOLDER / "secrets/p",
        tls=Tls(FOLDER / "ca.crt", Path("/c.pem"), Path("/k.pem"), "node", False, "TLS13"),
    )
    assert node.files == (FileDiscovery((str(FOLDER / "targets/*.json"),), 60.0),)
    assert (node.sample_limit, node.body_size_limit) == (1000, 10 * 1024**2)
    assert pods.kubernetes == (
        Kubernetes("pod", namespaces=("a", "b"), selectors={"pod": ("app=x", "spec.nodeName=n")}),
    )
    assert pods.honor_labels
    assert pods.relabel[0] == Rule("keep", ("__meta_kubernetes_pod_annotation_prometheus_io_scrape",), regex="true")
    assert pods.relabel[1].regex == r"([^:]+)(?::\d+)?;(\d+)"
    assert pods.metric_relabel == (Rule("drop", ("__name__",), regex="go_.*"),)
    assert consul.name == "consul"
    assert [line.partition(":")[0] for line in found.unsupported] == [
        "file.rule_files is not used",
        "file.alerting is not used",
        "file.remote_write is not used",
        "global.evaluation_interval is not used",
        "global.external_labels is not used",
        "job consul.consul_sd_configs is not used",
        "job cloud is left out",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scrape_configs: [{job_name: a, scrape_intervall: 1s}]", "did you mean scrape_interval?"),
        ("scrape_config: []", "did you mean scrape_configs?"),
        ("scrape_configs: [{static_configs: []}]", "scrape_configs[0]: expected a job_name"),
        ("scrape_configs: [{job_name: a}, {job_name: a}]", "job_name 'a' stands twice"),
        ("scrape_configs: [{job_name: a, scrape_interval: 1}]", "'1' is no duration"),
        ("scrape_configs: [{job_name: a, scrape_interval: 5s, scrape_timeout: 6s}]", "longer than scrape_interval"),
        ("global: {scrape_interval: 0s}", "expected more than nothing"),
        ("scrape_configs: [{job_name: a, scheme: ftp}]", "'ftp' is neither http nor https"),
        ("scrape_configs: [{job_name: a, honor_labels: 1}]", "'1' is neither true nor false"),
        ("scrape_configs: [{job_name: a, sample_limit: -1}]", "'-1' is no count"),
        ("scrape_configs: [{job_name: a, body_size_limit: 3 cows}]", "'3 cows' is no size"),
        ("scrape_configs: [{job_name: a, static_configs: [{targets: ['http://a:1']}]}]", "'http://a:1' is no address"),
        ("scrape_configs: [{job_name: a, static_configs: [{targets: [a], labels: {'': c}}]}]", "no label name"),
        ("scrape_configs: [{job_name: a, relabel_configs: [{action: cut}]}]", "'cut' is none of replace"),
        ("scrape_configs: [{job_name: a, relabel_configs: [{regex: '('}]}]", "no regular expression of RE2"),
        ("scrape_configs: [{job_name: a, relabel_configs: [{regex: a}]}]", "target_label: expected one with replace"),
        ("scrape_configs: [{job_name: a, relabel_configs: [{action: hashmod, target_label: b}]}]", "modulus"),
        (
            "scrape_configs: [{job_name: a, relabel_configs: [{action: labeldrop, source_labels: [b], regex: c}]}]",
            "expected nothing but regex with labeldrop",
        ),
        (
            "scrape_configs: [{job_name: a, relabel_configs: [{action: keepequal, target_label: b, regex: c}]}]",
            "expected nothing but source_labels and target_label with keepequal",
        ),
        ("scrape_configs: [{job_name: a, kubernetes_sd_configs: [{role: cow}]}]", "'cow' is none of node"),
        (
            "scrape_configs: [{job_name: a, kubernetes_sd_configs: [{role: pod, selectors: [{role: node}]}]}]",
            "job a.kubernetes_sd_configs[0].selectors[0].role: 'node' is none of pod",
        ),
        (
            "scrape_configs: [{job_name: a, kubernetes_sd_configs: [{role: pod, selectors: [role: pod, role: pod]}]}]",
            "selectors[1].role: 'pod' stands twice",
        ),
        (
            "scrape_configs: [{job_name: a, relabel_configs: [{action: labelmap, regex: b, replacement: ''}]}]",
            "replacement: expected one with labelmap",
        ),
        ("scrape_configs: [{job_name: a, file_sd_configs: [{files: [a.txt]}]}]", "does not end in .json"),
        ("scrape_configs: [{job_name: a, basic_auth: {username: u}, bearer_token: t}]", "at most one of"),
        (
            "scrape_configs: [{job_name: a, bearer_token: t, bearer_token_file: t.txt}]",
            "of bearer_token and bearer_token_f",
        ),
        (
            "scrape_configs: [{job_name: a, basic_auth: {password: p, password_file: p.txt}}]",
            "password and password_file",
        ),
        (
            "scrape_configs: [{job_name: a, authorization: {credentials: c, credentials_file: c.txt}}]",
            "and credentials_f",
        ),
        ("scrape_configs: [{job_name: a, kubernets_sd_configs: [{role: pod}]}]", "did you mean kubernetes_sd_configs?"),
        ("scrape_configs: [{job_name: a, scheme: http, scheme: https}]", "'scheme' stands twice"),
        ("scrape_configs: [{job_name: a, tls_config: {cert_file: c}}]", "cert_file and key_file belong together"),
        ("scrape_configs: [{job_name: a, tls_config: {min_version: SSL3}}]", "'SSL3' is none of TLS10"),
        ("scrape_configs: [{job_name: a, scrape_protocols: [Smoke]}]", "'Smoke' is none of PrometheusProto"),
        ("scrape_configs: [{job_name: a, scrape_native_histograms: 1}]", "'1' is neither true nor false"),
        ("scrape_configs: [{job_name: a, params: [1]}]", "expected names with lists of values"),
        ("scrape_configs: {}", "scrape_configs: expected a list"),
        ("[]", "file: expected keys with values"),
        ("a: [", "not YAML"),
    ],
)
def test_faults(text: str, says: str) -> None:
    """What Prometheus would refuse is a fault that says what would be right."""
    with pytest.raises(ConfigFaults) as found:
        read_prometheus_yml(text, FOLDER)
    assert says in str(found.value)


def test_all_faults_at_once() -> None:
    """Every fault is told, each with its place."""
    text = "scrape_configs: [{job_name: a, scheme: x, sample_limit: y}, {job_name: b, scheme: z}]"
    with pytest.raises(ConfigFaults) as found:
        read_prometheus_yml(text, FOLDER)
    places = sorted(fault.partition(":")[0] for fault in found.value.faults)
    assert places == ["job a.sample_limit", "job a.scheme", "job b.scheme"]


def test_more_files() -> None:
    """The jobs of scrape_config_files stand beside the file's own."""
    text = "scrape_config_files: [more/*.yml]\nscrape_configs: [{job_name: a}]"
    assert config_globs(text) == ["more/*.yml"]
    found = read_prometheus_yml(text, FOLDER, {"more/b.yml": "scrape_configs: [{job_name: b}]"})
    assert [job.name for job in found.jobs] == ["a", "b"]
    with pytest.raises(ConfigFaults, match=r"more/b.yml"):
        read_prometheus_yml(text, FOLDER, {"more/b.yml": "global: {}"})


def test_urls_to_probe() -> None:
    """Targets that relabelling turns into parameters may be URLs, as with the blackbox exporter; of files, too."""
    text = """
    scrape_configs:
      - job_name: blackbox
        static_configs: [{targets: ['http://prometheus.io', 'https://example.com:8080/a']}]
        relabel_configs:
          - {source_labels: [__address__], target_label: __param_target}
          - {target_label: __address__, replacement: '127.0.0.1:9115'}
    """
    (job,) = read_prometheus_yml(text, FOLDER).jobs
    targets, faults = targets_of(job, job.static)
    assert [target.url for target in targets] == [
        "http://127.0.0.1:9115/metrics?target=http%3A%2F%2Fprometheus.io",
        "http://127.0.0.1:9115/metrics?target=https%3A%2F%2Fexample.com%3A8080%2Fa",
    ]
    assert faults == []
    (group,) = read_groups([{"targets": ["http://prometheus.io"]}], "a.yml")
    assert group.targets == ({"__address__": "http://prometheus.io"},)


def test_keys_of_every_version() -> None:
    """A file of Prometheus 2 or 3 is taken: its fallback is named as not used, classic histograms go by either name."""
    text = """
    scrape_configs:
      - {job_name: new, fallback_scrape_protocol: PrometheusText0.0.4, always_scrape_classic_histograms: true}
      - {job_name: old, scrape_classic_histograms: true}
    """
    found = read_prometheus_yml(text, FOLDER)
    assert [(job.name, job.classic_histograms) for job in found.jobs] == [("new", True), ("old", True)]
    assert [line.partition(" is ")[0] for line in found.unsupported] == [
        "job new.fallback_scrape_protocol",
    ]


def test_scalars_stay_as_written() -> None:
    """Labels, parameters and expressions that look like numbers or truths are the text that the file has."""
    text = """
    scrape_configs:
      - job_name: 007
        honor_labels: yes
        params: {debug: [true, 1.0]}
        static_configs:
          - {targets: ['a:1'], labels: {version: 1.10, zone: 010, production: true, day: 2026-01-02, none: }}
        relabel_configs: [{source_labels: [production], regex: True, action: keep}, {regex: 0x1, action: labeldrop}]
    """
    (job,) = read_prometheus_yml(text, FOLDER).jobs
    assert job.name == "007"
    assert job.honor_labels
    assert job.params == {"debug": ("true", "1.0")}
    assert job.static[0].labels == {
        "version": "1.10",
        "zone": "010",
        "production": "true",
        "day": "2026-01-02",
        "none": "",
    }
    assert [rule.regex for rule in job.relabel] == ["True", "0x1"]


def test_an_empty_file() -> None:
    """A file without jobs has none."""
    assert read_prometheus_yml("", FOLDER).jobs == ()
    assert read_prometheus_yml("scrape_configs:\n", FOLDER).jobs == ()


def test_durations() -> None:
    """Durations have Prometheus' units."""
    assert [duration_seconds(text) for text in ("15s", "1m30s", "500ms", "1d", "0")] == [15, 90, 0.5, 86400, 0]


def test_targets() -> None:
    """Groups become distinct targets with an instance; what has no address is left out and said."""
    job = Job("api", metrics_path="m", params={"x": ("1",)}, honor_labels=True, label_limit=3)
    groups = [
        Group("s", ({"__address__": "a:1"}, {"__address__": "a:1"}, {}), {"zone": "z", "__hidden": "h"}),
        Group("t", ({"__address__": "b:2", "__scheme__": "https", "job": "own", "instance": "i"},), {}),
    ]
    targets, faults = targets_of(job, groups)
    assert targets == [
        Target("api", "http://a:1/m?x=1", 60.0, 10.0, (("instance", "a:1"), ("job", "api"), ("zone", "z"))),
        Target("api", "https://b:2/m?x=1", 60.0, 10.0, (("instance", "i"), ("job", "own"))),
    ]
    assert faults == ["job api: a target of s is left out: it has no __address__"]
    reading = reading_of(job, targets[0], Format.OPENMETRICS)
    assert (reading.honor_labels, reading.format, reading.label_limit) == (True, Format.OPENMETRICS, 3)
    assert reading.of_line(reading.line()) == reading


def test_which_histograms_are_wanted() -> None:
    """Native ones are if the file says so, of all jobs or of one; so are classic ones beside them, also as Prometheus 2
    called it.
    """
    text = """
global: {scrape_native_histograms: true, always_scrape_classic_histograms: true}
scrape_configs:
- {job_name: a}
- {job_name: b, scrape_native_histograms: false, always_scrape_classic_histograms: false}
"""
    found = read_prometheus_yml(text, FOLDER)
    assert [(job.native_histograms, job.classic_histograms) for job in found.jobs] == [(True, True), (False, False)]
    assert found.unsupported == ()
    (plain, old) = read_prometheus_yml(
        "scrape_configs: [{job_name: a}, {job_name: b, scrape_classic_histograms: true}]", FOLDER
    ).jobs
    assert (plain.native_histograms, plain.classic_histograms) == (None, False)
    assert (old.native_histograms, old.classic_histograms) == (None, True)
    assert reading_of(plain, TARGET).native_histograms
    assert not reading_of(found.jobs[1], TARGET).native_histograms
