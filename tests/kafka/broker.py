"""The broker of the tests: `demo.local_kafka` with all that the adapter can speak.

Three listeners on loopback: plain; SASL_SSL with SCRAM-SHA-512 (``USER``, ``PASSWORD``); SSL that demands a client's
certificate.
"""

from __future__ import annotations

from pathlib import Path

from demo.local_kafka import Listener, LocalKafka
from tests.kafka.certificates import make_certificates

USER, PASSWORD = "collector", "correct horse"


class Broker(LocalKafka):
    """One broker in a folder, which deletes what retention allows within two seconds, ends transactions in time, and
    allows sessions of one."""

    def __init__(self, folder: Path) -> None:
        self.certificates = make_certificates(folder / "certificates")
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        super().__init__(
            folder,
            listeners=(Listener("SASL", "SASL_SSL"), Listener("MUTUAL", "SSL")),
            properties={
                "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.sasl.scram-sha-512.sasl.jaas.config": login,
                "listener.name.mutual.ssl.client.auth": "required",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self.certificates.server_store),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.certificates.ca),
                "group.min.session.timeout.ms": "1000",
                "log.retention.check.interval.ms": "1000",
                "log.segment.delete.delay.ms": "1000",
                "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            },
            format_arguments=("--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"),
        )
        self.sasl, self.mutual = self.addresses["SASL"], self.addresses["MUTUAL"]
