"""TLS to a real broker: each mistake of a certificate, a name or a port is a line of its own, with what to do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from infra.local.ports import PortClaims
from infra.local.stack import Stack
from pipelines.errors import FarsideError, MisconfiguredError, RetryableError
from pipelines.ports import Message
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.librdkafka_log import LibrdkafkaLog
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from tests.brokers import admin_of
from tests.certificates import Signed, certificate, pem

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def authority() -> Signed:
    """The certificate authority that signed the broker's certificate."""
    return certificate("our authority")


@pytest.fixture(scope="module")
def tls(stack: Stack, authority: Signed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """East's broker with a TLS listener beside its others, as its administrator reaches it there."""
    folder, port = tmp_path_factory.mktemp("tls"), PortClaims().claim([])
    ca_file, keystore = folder / "ca.pem", folder / "broker.pem"
    ca_file.write_bytes(pem(authority[1]))
    key, signed = certificate("broker", authority)
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    keystore.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private) + pem(signed))
    properties = stack.folder / "config" / "kafka-east.properties"
    before = properties.read_text(encoding="utf-8")
    lines = dict(line.split("=", 1) for line in before.splitlines())
    lines["listeners"] += f",TLS://127.0.0.1:{port}"
    lines["advertised.listeners"] += f",TLS://127.0.0.1:{port}"
    lines["listener.security.protocol.map"] += ",TLS:SASL_SSL"
    for mechanism in ("plain", "scram-sha-512"):
        name = f"{mechanism}.sasl.jaas.config"
        lines[f"listener.name.tls.{name}"] = lines[f"listener.name.local.{name}"]
    lines["listener.name.tls.ssl.keystore.type"] = "PEM"
    lines["listener.name.tls.ssl.keystore.location"] = str(keystore)
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()), encoding="utf-8")
    try:
        stack.restart("kafka-east")
        yield replace(admin_of(stack, "east"), bootstrap=f"127.0.0.1:{port}", tls_ca_file=ca_file)
    finally:
        properties.write_text(before, encoding="utf-8")
        stack.restart("kafka-east")


def _said(cluster: KafkaCluster) -> FarsideError:
    """The error at a service's start; its reader gets one of the same kind, and librdkafka's writer the same words."""
    with pytest.raises(FarsideError) as caught:
        ensure_topics(cluster, replication=1)
    with contextlib.closing(KafkaSource(cluster)) as source, pytest.raises(type(caught.value)):
        source.partitions(["farside.metrics"])
    with contextlib.closing(LibrdkafkaLog(cluster)) as log, pytest.raises(type(caught.value)) as also:
        log.publish([Message("farside.metrics", b"k", b"v")])
    assert str(also.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_with_the_right_authority_it_works(tls: KafkaCluster) -> None:
    """Topics are made over TLS, and a transactional writer logs in."""
    ensure_topics(tls, replication=1)
    for writer in (KafkaLog, LibrdkafkaLog):
        with contextlib.closing(writer(tls, "farside-replicator-east-tls")) as log:
            log.transaction([])


Mistake = Callable[[KafkaCluster, Stack, Path], KafkaCluster]


def _other_authority(tls: KafkaCluster, _: Stack, folder: Path) -> KafkaCluster:
    other = folder / "other.pem"
    other.write_bytes(pem(certificate("somebody else")[1]))
    return replace(tls, tls_ca_file=other)


def _junk(tls: KafkaCluster, _: Stack, folder: Path) -> KafkaCluster:
    junk = folder / "junk.pem"
    junk.write_bytes(b"-----BEGIN CERTIFICATE-----\nnot base64!\n")
    return replace(tls, tls_ca_file=junk)


MISTAKES: dict[str, tuple[Mistake, type[FarsideError], str]] = {
    "another authority": (
        _other_authority,
        MisconfiguredError,
        r"signed by nobody who is trusted .*: kafka_tls_ca_file \(.*other\.pem\) must hold",
    ),
    "another name": (
        lambda tls, _, __: replace(tls, bootstrap=tls.bootstrap.replace("127.0.0.1", "localhost")),
        MisconfiguredError,
        "its certificate is for another name than localhost .*: connect by a name",
    ),
    "no such file": (
        lambda tls, _, folder: replace(tls, tls_ca_file=folder / "none.pem"),
        MisconfiguredError,
        r"kafka_tls_ca_file .*none\.pem: No such file or directory: name the file",
    ),
    "a junk file": (_junk, MisconfiguredError, r"kafka_tls_ca_file .*junk\.pem holds no certificate"),
    "the plain port": (
        lambda tls, stack, _: replace(tls, bootstrap=admin_of(stack, "east").bootstrap),
        MisconfiguredError,
        "speaks no TLS: give the port of the broker's TLS listener, or leave kafka_tls_ca_file out",
    ),
    "no TLS at the TLS port": (
        lambda tls, _, __: replace(tls, tls_ca_file=None),
        MisconfiguredError,
        "speaks TLS only: name its certificate authority in kafka_tls_ca_file",
    ),
    "no such name": (
        lambda tls, _, __: replace(tls, bootstrap="no-such-host.invalid:9092"),
        RetryableError,
        r"the name no-such-host\.invalid does not resolve: check kafka in the settings",
    ),
    "a port where nobody is": (
        lambda tls, _, __: replace(tls, bootstrap=f"127.0.0.1:{PortClaims().claim([])}"),
        RetryableError,
        "refuses connections: is the broker up, and is this its port",
    ),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_each_mistake_is_a_line_of_its_own_with_what_to_do(
    tls: KafkaCluster, stack: Stack, tmp_path: Path, mistake: str
) -> None:
    """One that only a person can put right ends a service's start; what may be over in a moment is waited for."""
    make, kind, said = MISTAKES[mistake]
    error = _said(make(tls, stack, tmp_path))
    assert isinstance(error, kind), repr(error)
    with pytest.raises(kind, match=said):
        raise error


def test_a_certificate_that_has_run_out_says_so(authority: Signed, tmp_path: Path) -> None:
    """A listener of the test's own, with one of a month ago."""
    key, signed = certificate("broker", authority, days=-30)
    keystore, ca_file = tmp_path / "old.pem", tmp_path / "ca.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    keystore.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private) + pem(signed))
    ca_file.write_bytes(pem(authority[1]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keystore)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(MisconfiguredError, match=r"not valid now \(certificate has expired\): renew it"):
            ensure_topics(KafkaCluster(address, None, ca_file), replication=1)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
