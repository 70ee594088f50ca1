"""TLS to a real S3 server: each mistake of a certificate, a name or a port is a line of its own, with what to do."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from infra.local.ports import PortClaims
from infra.local.tools import Tools
from pipelines.errors import FarsideError, MisconfiguredError, RetryableError
from schemas.codec import Codec
from services.adapters.s3.lease_store import S3LeaseStore
from services.adapters.s3.object_store import S3ObjectStore, connect, ensure_bucket
from services.runtime.child_processes import kill_families, spawn
from tests.certificates import certificate, pem
from tests.waiting import wait_until

pytestmark = pytest.mark.servers
HOST, BUCKET = "127.0.0.1", "tls"
ACCESS, SECRET = "farside", "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class TlsStore:
    """A store that speaks TLS, and one beside it that does not."""

    port: int
    plain_port: int
    ca_file: Path


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsStore]:
    """Two servers, both with a bucket."""
    folder, authority = tmp_path_factory.mktemp("tls"), certificate("our authority")
    key, signed = certificate("store", authority)
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for name, body in {
        "ca.pem": pem(authority[1]),
        "store.pem": pem(signed),
        "store.key": key.private_bytes(serialization.Encoding.PEM, *private),
    }.items():
        (folder / name).write_bytes(body)
    claims = PortClaims()
    ports = [claims.claim([]) for _ in range(2)]
    certified = ["--cert", str(folder / "store.pem"), "--key", str(folder / "store.key")]
    env = {"ROOT_ACCESS_KEY_ID": ACCESS, "ROOT_SECRET_ACCESS_KEY": SECRET}
    children = []
    try:
        for port, options in zip(ports, (certified, []), strict=True):
            data = folder / f"data-{port}"
            (data / BUCKET).mkdir(parents=True)
            argv = [str(Tools.cached().versitygw), "--port", f"{HOST}:{port}", "--quiet", *options, "posix", str(data)]
            children.append(spawn(argv, env, folder, folder / f"{port}.log"))
            wait_until(functools.partial(_answers, port), 20.0, "the store answers")
        yield TlsStore(ports[0], ports[1], folder / "ca.pem")
    finally:
        kill_families(children)


def _connected(endpoint: str) -> S3ObjectStore:
    """The bucket there, as a service finds it at its start."""
    client = connect(endpoint=endpoint, timeout_s=5.0, access_key=ACCESS, secret_key=SECRET)
    ensure_bucket(client, BUCKET)
    return S3ObjectStore(client, BUCKET)


def test_with_the_right_authority_it_works(tls: TlsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is put and read over TLS."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls.ca_file))
    store = _connected(f"https://{HOST}:{tls.port}")
    assert (store.create("key", b"body"), store.get("key")) == (True, b"body")


def _other_authority(tls: TlsStore, folder: Path) -> tuple[str, Path]:
    other = folder / "other.pem"
    other.write_bytes(pem(certificate("somebody else")[1]))
    return f"https://{HOST}:{tls.port}", other


def _junk(tls: TlsStore, folder: Path) -> tuple[str, Path]:
    junk = folder / "junk.pem"
    junk.write_bytes(b"-----BEGIN CERTIFICATE-----\nnot base64!\n")
    return f"https://{HOST}:{tls.port}", junk


Mistake = Callable[[TlsStore, Path], tuple[str, Path]]
MISTAKES: dict[str, tuple[Mistake, type[FarsideError], str]] = {
    "another authority": (
        _other_authority,
        MisconfiguredError,
        r"signed by nobody who is trusted .* \(or the file that AWS_CA_BUNDLE names\) must hold",
    ),
    "another name": (
        lambda tls, _: (f"https://localhost:{tls.port}", tls.ca_file),
        MisconfiguredError,
        "its certificate is for another name than localhost .*: connect by a name",
    ),
    "no such file": (
        lambda tls, folder: (f"https://{HOST}:{tls.port}", folder / "none.pem"),
        MisconfiguredError,
        r"AWS_CA_BUNDLE .*none\.pem: No such file or directory: name the file",
    ),
    "a junk file": (_junk, MisconfiguredError, r"AWS_CA_BUNDLE .*junk\.pem holds no certificate"),
    "the plain port": (
        lambda tls, _: (f"https://{HOST}:{tls.plain_port}", tls.ca_file),
        RetryableError,
        "no TLS is spoken there: is it the plain port",
    ),
    "no TLS at the TLS port": (
        lambda tls, _: (f"http://{HOST}:{tls.port}", tls.ca_file),
        RetryableError,
        "if it speaks TLS only, give https:// in the settings",
    ),
    "no such name": (
        lambda tls, _: ("https://no-such-host.invalid:443", tls.ca_file),
        RetryableError,
        "the host's name does not resolve: check the address",
    ),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_each_mistake_is_a_line_of_its_own_with_what_to_do(
    tls: TlsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    """One that only a person can put right ends a service's start; what may be over in a moment is waited for."""
    make, kind, said = MISTAKES[mistake]
    endpoint, ca_file = make(tls, tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    with pytest.raises(FarsideError) as caught:
        _connected(endpoint)
    assert isinstance(caught.value, kind), repr(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=said):
        raise caught.value


def test_a_lease_behind_a_certificate_of_another_name_is_refused_in_the_same_words(
    tls: TlsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness's adapter goes the same way."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls.ca_file))
    client = connect(endpoint=f"https://localhost:{tls.port}", timeout_s=5.0, access_key=ACCESS, secret_key=SECRET)
    with pytest.raises(MisconfiguredError, match="another name than localhost"):
        S3LeaseStore(client, BUCKET, Codec()).read("gpt")
