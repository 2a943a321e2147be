"""A real Kafka broker (KRaft, one node) for tests, from the jars that ``make kafka`` has fetched.

Three listeners on loopback: plain; SASL_SSL with SCRAM-SHA-512 (``USER``, ``PASSWORD``); SSL that demands a client's
certificate.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

from tests.kafka.certificates import make_certificates
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / ".kafka" / "libs"
USER, PASSWORD = "collector", "correct horse"

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},MUTUAL://127.0.0.1:{mutual},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAIN://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},MUTUAL://127.0.0.1:{mutual}
listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
log.dirs={folder}/data
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.retention.minutes=5256000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
"""


class Broker:
    """One broker in a folder. ``start`` it, ``kill`` and ``start`` it again, ``stop`` it in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.certificates = make_certificates(folder / "certificates")
        ports = {name: free_port() for name in ("plain", "sasl", "mutual", "controller")}
        self.plain, self.sasl, self.mutual = (f"127.0.0.1:{ports[name]}" for name in ("plain", "sasl", "mutual"))
        self._properties = folder / "server.properties"
        certificates = self.certificates
        self._properties.write_text(
            _PROPERTIES.format(folder=folder, keystore=certificates.server_store, ca=certificates.ca, **ports)
        )
        # Kafka's own begin with no dash: it would be read as an option.
        cluster_id = "c" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        self._java(
            *("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._properties)),
            *("--add-scram", scram),
        )

    @property
    def pid(self) -> int:
        """Of the broker that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it on the same folder and ports; with ``wait`` until it answers."""
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_java_command("-Xmx512m"), "kafka.Kafka", str(self._properties)], stdout=log, stderr=log
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers requests on all listeners."""
        assert self._process is not None
        deadline = time.monotonic() + 120
        while not all(_answers(address) for address in (self.plain, self.sasl, self.mutual)):
            log = self._folder / "broker.log"
            assert self._process.poll() is None, log.read_text()[-4_000:]
            assert time.monotonic() < deadline, log.read_text()[-4_000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it; its data are of no use any more."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)
            self._process.wait(30)
        self._process = None

    def _java(self, *arguments: str) -> None:
        done = subprocess.run([*_java_command("-Xmx128m"), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def require_jars() -> None:
    """Fail, and say what to do: a test without its broker proves nothing."""
    assert any(LIBS.glob("kafka_2.13-*.jar")), f"no Kafka in {LIBS}: run `make kafka`"


def _java_command(heap: str) -> list[str]:
    # The first compiler only: a broker that lives for a minute is started faster than it is optimised.
    return ["java", heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*"]


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
