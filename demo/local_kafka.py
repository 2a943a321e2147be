"""A real Kafka broker (KRaft, one node) on this machine, from the jars that ``make kafka`` has fetched.

For ``catchment demo --kafka local`` and for tests. Rules:

1. It listens on loopback only: one plain listener, and those that are given besides.
2. It has what docs/operate.md demands of brokers; replication is 1, since there is one. A restart after SIGKILL waits
   for the session of the life before, which is short therefore.
3. ``python -m demo.local_kafka``, which ``make kafka`` runs, keeps the classes of a broker as a JVM prepares them. Then
   brokers start with half the work; a JVM that the file does not fit ignores it.
4. It never outlives who started it: a watcher in its process group holds the other end of a pipe and kills the broker
   when that closes, which the system does even after SIGKILL. Ctrl-C in the terminal does not reach the group.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catchment.cli.exits import EnvironmentFault
from demo.ports import HOST, answers, free_ports

LIBS: Final = Path(__file__).resolve().parents[1] / ".kafka" / "libs"
_CLASSES: Final = LIBS.parent / "classes.jsa"
_WITH_CLASSES: Final = f"-XX:SharedArchiveFile={_CLASSES}"
_READY_SECONDS_MAX: Final = 120.0
_PLAIN: Final = "PLAIN"
_CONTROLLER: Final = "CONTROLLER"

PROPERTIES: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": _CONTROLLER,
    "inter.broker.listener.name": _PLAIN,
    "auto.create.topics.enable": "false",
    "offsets.retention.minutes": "5256000",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}

# `$$` is the shell that becomes the broker. The watcher is in its group, so that the number is not given to another
# process while it lives.
_WATCHED: Final = 'exec 3<&0 </dev/null; (cat <&3 >/dev/null; kill -9 $$) & exec "$@" 3<&-'


@dataclass(frozen=True)
class Listener:
    """A listener besides the plain one: its name and Kafka's security protocol."""

    name: str
    protocol: str


class LocalKafka:
    """One broker in a folder. ``start`` it, ``kill`` and ``start`` it again, ``stop`` it in the end.

    Args:
        folder: of configuration, data and ``broker.log``; is made.
        listeners: besides the plain one.
        properties: besides `PROPERTIES`, or instead of them.
        without: names of `PROPERTIES` that are left at Kafka's defaults.
        format_arguments: for Kafka's own ``format``, such as the first users.
        java_arguments: of the broker's JVM.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listeners: Sequence[Listener] = (),
        properties: Mapping[str, str] | None = None,
        without: Collection[str] = (),
        format_arguments: Sequence[str] = (),
        java_arguments: Sequence[str] = (_WITH_CLASSES,),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log_file = folder / "broker.log"
        self._format_arguments = tuple(format_arguments)
        self._java = ("-Xmx512m", *java_arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_formatted = self._is_stopped = False
        every = (Listener(_PLAIN, "PLAINTEXT"), *listeners)
        controller, *ports = free_ports(1 + len(every))
        self.addresses = {listener.name: f"{HOST}:{port}" for listener, port in zip(every, ports, strict=True)}
        self._properties = folder / "server.properties"
        own = {key: value for key, value in PROPERTIES.items() if key not in without}
        self._write(every, f"{HOST}:{controller}", {**own, **(properties or {})})

    @property
    def plain(self) -> str:
        """The address without TLS."""
        return self.addresses[_PLAIN]

    @property
    def pid(self) -> int:
        """Of the broker that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it on the same folder and ports; with ``wait`` until it answers.

        Raises:
            EnvironmentFault: there is no Kafka or no java, or the broker does not come up.
        """
        if not self._is_formatted:
            require_jars()
            self._format()
        # A thread may be in here when another one stops it all.
        with self._lock:
            if self._is_stopped:
                raise EnvironmentFault("the broker was stopped while it started")
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    ["sh", "-c", _WATCHED, "kafka", *_java(*self._java), "kafka.Kafka", str(self._properties)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
        if wait:
            try:
                self.wait()
            except EnvironmentFault:
                self.kill()
                raise

    def wait(self) -> None:
        """Wait until it answers on all listeners; raises as `start` does."""
        deadline = time.monotonic() + _READY_SECONDS_MAX
        while not all(answers(address) for address in self.addresses.values()):
            process = self._process
            code = process.poll() if process is not None else None
            if process is None or code is not None or time.monotonic() > deadline:
                how = f"it ended with {code}" if code is not None else "it does not answer"
                raise EnvironmentFault(f"the broker does not come up, {how}: {self._last_words()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a power cut would; returns when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        os.killpg(process.pid, signal.SIGKILL)  # the watcher, which may be all that is left, keeps the number ours
        process.wait(30)
        assert process.stdin is not None
        process.stdin.close()

    def end(self) -> None:
        """Let it end by itself."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        self.kill()

    def stop(self) -> None:
        """End it; its data are of no use any more, and it is not started again."""
        with self._lock:
            self._is_stopped = True
        self.kill()

    def _write(self, listeners: Sequence[Listener], controller: str, more: Mapping[str, str]) -> None:
        shown = ",".join(f"{name}://{address}" for name, address in self.addresses.items())
        protocols = ",".join(f"{listener.name}:{listener.protocol}" for listener in listeners)
        properties = {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{shown},{_CONTROLLER}://{controller}",
            "advertised.listeners": shown,
            "listener.security.protocol.map": f"{protocols},{_CONTROLLER}:PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            **more,
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))

    def _format(self) -> None:
        format_it = ("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._properties))
        try:
            done = subprocess.run(
                [*_java("-Xmx128m", _WITH_CLASSES), *format_it, *self._format_arguments],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise EnvironmentFault("there is no java on this machine, which Kafka needs") from error
        if done.returncode != 0:
            raise EnvironmentFault(f"the broker's folder cannot be formatted: {(done.stdout + done.stderr)[-2_000:]}")
        self._is_formatted = True

    def _last_words(self) -> str:
        text = self._log_file.read_text("utf-8", "replace") if self._log_file.exists() else ""
        return text[-2_000:] or "it said nothing"


def require_jars() -> None:
    """Raise `EnvironmentFault`, which says what to do, where there is no Kafka."""
    if not any(LIBS.glob("kafka_2.13-*.jar")):
        raise EnvironmentFault(f"no Kafka in {LIBS}: run `make kafka`, or name brokers of yours")


def _cluster_id() -> str:
    # As Kafka makes its own: what begins with a dash would be read as an option.
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _java(*arguments: str) -> list[str]:
    # The first compiler only: a broker that lives for minutes is started faster than it is optimised.
    return ["java", *arguments, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*"]


def _keep_classes() -> None:
    _CLASSES.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        broker = LocalKafka(Path(folder), java_arguments=(f"-XX:ArchiveClassesAtExit={_CLASSES}",))
        broker.start()
        broker.end()


if __name__ == "__main__":
    _keep_classes()
