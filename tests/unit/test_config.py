"""The configuration: what a file says, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.cli.config import described
from catchment.config import Config, Profile
from catchment.config_build import mapping_of
from catchment.config_kafka import KafkaTls
from catchment.config_load import load, load_text, write
from catchment.config_yaml import Surroundings
from catchment.errors import ConfigFaults
from catchment.limits import Limits
from catchment.units import Address, about, about_duration, bytes_of, duration_text, seconds_of, size_text

SMALLEST = """
data_dir: ./catchment-data
region: jp-east
cluster: {name: tokyo-1, labels: {zone: a, kind: station}}
resolution: 60s             # the window that keys a row
flush: 5s
listen:
  otlp_grpc: 127.0.0.1:4317
  otlp_http: 127.0.0.1:4318
  sql: 127.0.0.1:8123
  ui: 127.0.0.1:8080
  status: 127.0.0.1:13133
"""


def read(text: str, profile: Profile = Profile.UP, **env: str) -> Config:
    """The configuration of a text, with an environment and one file that it may refer to."""

    def read_file(path: str) -> str:
        if path != "secret.txt":
            raise FileNotFoundError(2, "No such file or directory", path)
        return "from-file\n"

    return load_text(text, Surroundings("test.yaml", env, read_file), profile)


def faults(text: str, profile: Profile = Profile.UP, **env: str) -> list[str]:
    """The faults of a text, which must have some."""
    with pytest.raises(ConfigFaults) as caught:
        read(text, profile, **env)
    return caught.value.faults


def test_the_smallest_useful_file_is_read() -> None:
    """The file of the documentation gives the values that it shows."""
    config = read(SMALLEST)
    assert config.region == "jp-east"
    assert config.cluster.name == "tokyo-1"
    assert config.cluster.labels == {"zone": "a", "kind": "station"}
    assert (config.resolution_seconds, config.flush_seconds) == (60, 5.0)
    assert config.listen.otlp_grpc == Address("127.0.0.1", 4317)


def test_no_file_means_defaults() -> None:
    """Without a file every key has its default."""
    assert load(None, env={}) == Config()


@pytest.mark.parametrize(("profile", "seconds"), [(Profile.UP, 5.0), (Profile.COLLECTOR, 60.0)])
def test_the_default_of_flush_depends_on_the_process(profile: Profile, seconds: float) -> None:
    """`up` flushes every 5 s, a collector of a fleet every minute."""
    assert read("region: jp-east", profile).flush_seconds == seconds


@pytest.mark.parametrize("profile", [Profile.COLLECTOR, Profile.AGGREGATOR])
def test_a_process_of_a_fleet_must_be_told_its_region(profile: Profile) -> None:
    """A collector or aggregator without a region would write to a topic that nobody reads."""
    assert any("region: missing" in fault for fault in faults("flush: 1s", profile))


def test_all_faults_come_at_once_with_file_line_key_value_and_cure() -> None:
    """Three mistakes are three faults, none hides another."""
    found = faults("flsh: 5s\nresolution: 7s\nlisten: {sql: nowhere}\n")
    assert found == [
        "test.yaml:1: flsh: unknown key; did you mean flush?",
        "test.yaml:3: listen.sql = 'nowhere': expected host:port such as 127.0.0.1:4317, with a port from 1 to 65535",
        "test.yaml:2: resolution: 7 s does not divide an hour; expected such as 10s, 60s, 5m",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("listen: {otlp_grp: 127.0.0.1:1}", "listen.otlp_grp: unknown key; did you mean otlp_grpc?"),
        ("limits: {stream_max: 5}", "limits.stream_max: unknown key; did you mean streams_max?"),
        ("zzzz: 1", "zzzz: unknown key; known here: data_dir, region"),
        ("region: Tokyo", "'Tokyo' is not a region's name"),
        ("region: global", "'global' is reserved"),
        ("region: " + "a" * 41, "expected 1 to 40 of a-z"),
        ("cluster: {name: a/b}", "cluster.name: 'a/b' is not a cluster's name"),
        ("cluster: tokyo", "cluster = 'tokyo': expected keys with values"),
        ("cluster: {labels: [a]}", "cluster.labels: expected keys with texts"),
        ("cluster: {labels: {a: [1]}}", "cluster.labels.a: expected a text"),
        ("flush: 5", "flush = '5': expected a duration such as"),
        ("flush: 1ms", "flush = '1ms': expected at least 100ms"),
        ("flush: [5s]", "flush: expected one value"),
        ("resolution: 1500ms", "resolution = '1500ms': expected whole seconds"),
        ("resolution: 2h", "expected at most 1h"),
        ("listen: {sql: 127.0.0.1:0}", "port from 1 to 65535"),
        ("listen: {sql: 127.0.0.1:70000}", "port from 1 to 65535"),
        ("listen: {sql: '::1:8123'}", "an IPv6 host goes in brackets"),
        ("listen: {sql: 127.0.0.1:4317}", "is also listen.otlp_grpc"),
        ("listen: {otlp_http: 0.0.0.0:4318}", "is not loopback"),
        ("listen: {sql: 0.0.0.0:8123}", "set readers: or use 127.0.0.1"),
        ("sql: {users: {grafana: hunter2}}", "sql.users.grafana: expected the 64 hexadecimal digits"),
        ("tenants: /nowhere/tenants.yaml", "no such file"),
        ("readers: /nowhere/readers.yaml", "readers = '/nowhere/readers.yaml': no such file"),
        ("sql: {tls: {cert: /nowhere/a, key: /nowhere/b}}", "sql.tls.key = '/nowhere/b': no such file"),
        ("status: {tls: {cert: /nowhere/a, key: /nowhere/b}}", "status.tls.cert = '/nowhere/a': no such file"),
        ("cluster: {labels: {a: " + "x" * 40_000 + "}}", "cluster.labels: 40008 bytes as JSON"),
        ("limits: {streams_max: none}", "limits.streams_max = 'none': expected a whole number"),
        ("limits: {request_bytes_max: 1GiB}", "is above limits.request_bytes_uncompressed_max"),
        ("limits: {outbox_bytes_max: much}", "expected a size such as 512KiB"),
        ("limits: {past_seconds_max: 30x}", "expected a duration such as"),
        ("retention: {metrics_1m: forever}", "retention.metrics_1m = 'forever': expected a duration"),
        ("zone: a_b", "zone: 'a_b' is not the name of a place"),
        ("zone: local", "zone: 'local' is not a place of its own below the region"),
        ("zone: a", "zone: `up` has one aggregator"),
        ("aggregator: {to: b}", "aggregator.to: `up` has one aggregator"),
        ("aggregator: {to: local}", "aggregator.to: that is where its input comes from"),
        ("zone: a\naggregator: {region_store: true}", "aggregator.region_store: a zone has no store"),
        ("store: {scope: cluster}", "store.scope: 'cluster' has no store here"),
        ("store: {scope: region}", "store.scope: the aggregator sends nothing there"),
        ("log: {partitions: 0}", "expected at least 1"),
        ("log: {topic_prefix: A.B}", "is not a prefix"),
        ("telemetry: {traces: collector}", "neither off nor an address"),
        ("telemetry: {log_level: loud}", "is no level"),
        ("region: ${env:NOPE}", "environment variable NOPE is not set"),
        ("region: ${file:nope.txt}", "file nope.txt cannot be read: No such file"),
        ("region: ${vault:x}", "unknown expansion ${vault:x}"),
        ("region: a\nregion: b", "test.yaml:2: region: stands twice"),
        ("region: [", "not YAML"),
        ("- a", "expected keys with values"),
        ("data_dir: ''", "expected a path"),
    ],
)
def test_each_fault_says_what_would_be_right(text: str, part: str) -> None:
    """A mistake is reported with its key and the cure."""
    assert any(part in fault for fault in faults(text)), faults(text)


def test_an_address_beyond_loopback_is_fine_with_tenants(tmp_path: Path) -> None:
    """With a tenants file senders are told apart, so any address may be listened on."""
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tokens: []\n")
    config = read(f"tenants: {tenants}\nlisten: {{otlp_http: '[::]:4318', otlp_grpc: 0.0.0.0:4317}}")
    assert not config.listen.otlp_http.is_loopback


def test_sql_beyond_loopback_is_fine_with_users() -> None:
    """With users the SQL endpoint tells readers apart, so any address may be listened on."""
    digest = "0" * 64
    config = read(f"sql: {{users: {{grafana: '{digest}'}}}}\nlisten: {{sql: 0.0.0.0:8123}}")
    assert config.for_store().sql.users == {"grafana": digest}


def test_status_may_listen_anywhere() -> None:
    """Probes come from outside and see no tenant's data, so the status address needs no tenants."""
    assert str(read("listen: {status: 0.0.0.0:13133}").listen.status) == "0.0.0.0:13133"


def test_environment_default_and_file_are_expanded() -> None:
    """References give the variable, the default or the file's text, and a doubled dollar sign is one."""
    text = "region: ${env:R}\ncluster: {name: '${env:C:-fallback}', labels: {a: '${file:secret.txt}', b: $$5}}"
    config = read(text, R="eu-west")
    assert (config.region, config.cluster.name) == ("eu-west", "fallback")
    assert config.cluster.labels == {"a": "from-file", "b": "$5"}


def test_what_was_expanded_is_not_expanded_again() -> None:
    """A variable's value that looks like a reference stays as it is."""
    assert read("cluster: {labels: {a: '${env:A}'}}", A="${env:B}").cluster.labels == {"a": "${env:B}"}


def test_a_region_called_no_is_a_name() -> None:
    """Texts are not guessed to be booleans or numbers."""
    assert read("region: no").region == "no"


def test_a_bare_number_is_taken_where_the_key_has_its_unit() -> None:
    """`past_seconds_max: 600` and `10m` are the same; so are bytes."""
    by_number = read("limits: {past_seconds_max: 600, outbox_bytes_max: 1_073_741_824}").limits
    by_unit = read("limits: {past_seconds_max: 10m, outbox_bytes_max: 1GiB}").limits
    assert by_number == by_unit == Limits(past_seconds_max=600, outbox_bytes_max=2**30)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    """A file written from a configuration gives the same one, whatever the environment, and only its owner reads it."""
    config = read(
        SMALLEST + "policies: {metrics: [{match: 'a.*', keep: [b], drop: [c]}]}\nretention: {metrics_1m: 30d}\n"
        "limits: {past_seconds_max: 36h}\naggregator: {linger: 250ms}\nlog: {path: '/x/${env:HOME}$$1'}",
        HOME="${env:OTHER}",
    )
    path = tmp_path / "run" / "config.yaml"
    write(config, path)
    assert load(path, env={}) == config
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_views_of_the_processes_carry_the_values() -> None:
    """What a process is told is what the file says."""
    config = read(SMALLEST + "limits: {streams_max: 7}\naggregator: {linger: 250ms}\nretention: {metrics_1m: 30d}")
    collector, store = config.for_collector(), config.for_store()
    assert (collector.region, collector.limits.streams_max, collector.otlp_http.port) == ("jp-east", 7, 4318)
    assert config.for_aggregator().linger_seconds == 0.25
    assert store.retention.metrics_1m == 30 * 86_400
    assert collector.log_dir == store.log_dir == Path("catchment-data/log")


def test_kafka_is_read_and_every_role_is_told() -> None:
    """Brokers, security and times of Kafka reach the view of every role; TLS is on where a file is given."""
    config = read(
        SMALLEST
        + "kafka:\n  brokers: ['a:9093', '[::1]:9093']\n  tls: {enabled: true}\n  replication_factor: 2\n"
        + "  sasl: {mechanism: SCRAM-SHA-512, username: u, password: '${file:secret.txt}'}\n  retention: 3d\n"
    )
    kafka = config.kafka
    assert kafka.brokers == ("a:9093", "[::1]:9093") and kafka.tls.is_on and KafkaTls(ca=Path("x")).is_on
    assert (kafka.sasl.password, kafka.retention_seconds, kafka.replication_factor) == ("from-file", 3 * 86_400, 2)
    assert config.for_collector().kafka == config.for_aggregator().kafka == config.for_store().kafka == kafka


def test_a_password_is_not_shown() -> None:
    """A secret is masked in what people are shown, and absent from the repr; an empty one is shown as empty."""
    config = read(
        SMALLEST
        + "kafka: {brokers: ['a:1'], tls: {enabled: on}, sasl: {mechanism: PLAIN, username: u, password: hush}}"
    )
    assert "hush" not in repr(config) + "\n".join(described(config))
    assert mapping_of(config, reveal=False)["kafka"]["sasl"]["password"] == "(secret)"
    assert mapping_of(config)["kafka"]["sasl"]["password"] == "hush"
    assert mapping_of(read(SMALLEST), reveal=False)["kafka"]["sasl"]["password"] == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kafka: {brokers: [here]}", "kafka.brokers[0]: 'here' is no address"),
        ("kafka: {replication_factor: 1}", "kafka: no brokers are given"),
        ("kafka: {brokers: ['a:1'], tls: {cert: /dev/null}}", "kafka.tls: cert and key belong together"),
        ("kafka: {brokers: ['a:1'], tls: {ca: absent.pem}}", "kafka.tls.ca = 'absent.pem': no such file"),
        ("kafka: {brokers: ['a:1'], sasl: {mechanism: GSSAPI, username: u, password: p}}", "'GSSAPI' is not known"),
        ("kafka: {brokers: ['a:1'], sasl: {mechanism: SCRAM-SHA-256}}", "kafka.sasl: mechanism, username and password"),
        ("kafka: {brokers: ['a:1'], sasl: {username: u}}", "kafka.sasl: mechanism, username and password"),
        ("kafka: {brokers: ['a:1'], sasl: {mechanism: PLAIN, username: u, password: p}}", "password in the clear"),
        ("kafka: {brokers: ['a:1']}\nlog: {path: x}", "log.path: kafka.brokers are given"),
        ("tls: {cert: /dev/null}", "tls: cert and key belong together"),
        ("tls: {client_ca: /dev/null}", "tls.client_ca: asks for certificates over TLS, which is off"),
        ("tls: {cert: absent.pem, key: absent.pem}", "tls.cert = 'absent.pem': no such file"),
    ],
)
def test_faults_of_kafka_and_tls(text: str, fault: str) -> None:
    """What is wrong with the keys of Kafka and of TLS is said before anything starts, and said once."""
    found = faults(SMALLEST + text)
    assert len([line for line in found if fault in line]) == 1, found


def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """A missing file, a folder and binary data are faults, not stack traces."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, binary):
        with pytest.raises(ConfigFaults, match=str(path)):
            load(path)


@given(st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_durations_read_back(seconds: float) -> None:
    """Every duration to the millisecond survives its text."""
    assert seconds_of(duration_text(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.integers(0, 2**63))
def test_sizes_read_back(size_bytes: int) -> None:
    """Every size survives its text, exactly."""
    assert bytes_of(size_text(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1023 * 2**20, "1023 MiB"), (2**32, "4 GiB")],
)
def test_sizes_are_told_to_three_digits(size_bytes: int, expected: str) -> None:
    """For people, who are told how much waits."""
    assert about(size_bytes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.9, "59 s"), (3600, "1 h"), (3661, "1 h 1 m"), (86_400 + 1, "1 d"), (7_384, "2 h 3 m")],
)
def test_durations_are_told_in_two_units(seconds: float, expected: str) -> None:
    """For people, who are told since when."""
    assert about_duration(seconds) == expected


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_faults(text: str) -> None:
    """Whatever the file holds, reading it gives a configuration or faults."""
    try:
        assert isinstance(read(text), Config)
    except ConfigFaults as error:
        assert error.faults


def test_one_file_says_where_a_zone_stands() -> None:
    """Its collectors send to the zone, its aggregator to the region; the region's sends to globe and store."""
    zone = read("region: jp-east\nzone: jp-east-a", Profile.AGGREGATOR)
    assert (zone.for_collector().place, zone.for_collector().region) == ("jp-east-a", "jp-east")
    found = zone.for_aggregator()
    assert (found.place, found.to, found.region, found.region_store) == ("jp-east-a", "jp-east", "jp-east", False)
    region = read("region: jp-east\naggregator: {region_store: true}", Profile.AGGREGATOR).for_aggregator()
    assert (region.place, region.to, region.region_store) == ("jp-east", "global", True)
    between = read("region: jp-east\nzone: site-1\naggregator: {to: jp-east-a}", Profile.AGGREGATOR)
    assert between.for_aggregator().to == "jp-east-a"
    store = read("region: jp-east\nstore: {scope: region}", Profile.STORE)
    assert (store.for_store().region, read("").for_store().region) == ("jp-east", None)
