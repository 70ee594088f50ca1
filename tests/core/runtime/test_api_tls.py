"""Beyond loopback a service speaks TLS and nothing else, under a certificate that is renewed while it runs."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from pipelines.errors import MisconfiguredError, RetryableError
from schemas.http_bodies import ControllerStatus
from services.adapters.http.grants import HttpGrants
from services.adapters.system_clock import SystemClock
from services.http import limits
from services.http.endpoints import Endpoint, UnexpectedAnswerError, ask
from services.http.server import HttpServer, Turns
from services.http.tls import ServerTls, TlsFiles
from services.runtime.listening import listen_of
from services.settings import ApiSettings, Settings
from tests.callers import callers_file, headers_as, is_closed, listening, token_file
from tests.certificates import Signed, certificate, pem
from tests.waiting import wait_until


def _files(folder: Path, signed: Signed) -> TlsFiles:
    """A key and certificate as a service reads them, in the place of those before."""
    key, found = signed
    plain = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    for name, body in (("key", text), ("cert", pem(found))):
        part = folder / f"{name}.part"
        part.touch(mode=0o600)
        part.write_bytes(body)
        part.replace(folder / f"{name}.pem")
    return TlsFiles(folder / "cert.pem", folder / "key.pem")


@dataclasses.dataclass
class _Served:
    folder: Path
    authority: Signed
    tls: ServerTls
    at: Endpoint

    def serial(self) -> int:
        """Of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        with (
            socket.create_connection(("127.0.0.1", self.at.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return int(cast("Any", connection.getpeercert())["serialNumber"], 16)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    """A service on every address of the machine, with an authority of our own."""
    authority = certificate("an authority")
    (tmp_path / "ca.pem").write_bytes(pem(authority[1]))
    tls = ServerTls(_files(tmp_path, certificate("east", authority)))
    listen = dataclasses.replace(listening(tmp_path), host="0.0.0.0", tls=tls)  # noqa: S104 - meant
    server = HttpServer(listen=listen, turns=Turns(SystemClock()), registry=CollectorRegistry(), status=dict)
    server.start()
    at = Endpoint(
        "controller",
        "east",
        server.port,
        tls=True,
        tls_ca_file=tmp_path / "ca.pem",
        token_file=token_file(tmp_path, "viewer"),
        is_command=False,
    )
    yield _Served(tmp_path, authority, tls, at)
    server.close()


def test_a_client_with_the_authority_and_a_credential_is_answered(served: _Served) -> None:
    """And nobody else: not in the clear, not without the authority, not without the credential."""
    assert ask(served.at, "/status", dict) == {}
    with pytest.raises(UnexpectedAnswerError, match="no valid credential"):
        ask(dataclasses.replace(served.at, token_file=None), "/status", dict)
    with pytest.raises(UnexpectedAnswerError, match="its certificate is not trusted"):
        ask(dataclasses.replace(served.at, tls_ca_file=None), "/status", dict)
    assert ask(dataclasses.replace(served.at, tls=False, tls_ca_file=None), "/status", ControllerStatus) is None
    with pytest.raises(RetryableError, match="answered 403: vic is a viewer: /v1/grant is for an agent"):
        HttpGrants(served.at.url, lambda: headers_as("viewer"), tls_ca_file=served.at.tls_ca_file).ask(
            "gpt", "l", "n0", -1
        )


def test_a_renewed_certificate_is_used_without_a_restart(served: _Served) -> None:
    """By the next connection. Files that do not fit leave the one in use, and say so."""
    before, fresh = served.serial(), certificate("east", served.authority)
    assert not served.tls.renew()
    _files(served.folder, fresh)
    assert served.tls.renew()
    assert served.serial() == fresh[1].serial_number != before
    (served.folder / "cert.pem").write_bytes(pem(certificate("other", served.authority)[1]))
    with pytest.raises(MisconfiguredError, match="are no pair"):
        served.tls.renew()
    assert served.serial() == fresh[1].serial_number
    (served.folder / "key.pem").chmod(0o644)
    with pytest.raises(MisconfiguredError, match="can be read by others"):
        served.tls.renew()


def test_a_handshake_that_does_not_end_is_given_up(served: _Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are accepted at a time, whatever they do afterwards."""
    monkeypatch.setattr(limits, "ACCEPTED_MAX", 5)
    half = [socket.create_connection(("127.0.0.1", served.at.port), timeout=20) for _ in range(20)]
    try:
        wait_until(lambda: sum(is_closed(one) for one in half) >= 15, 20, "only so many are kept")
        wait_until(lambda: all(is_closed(one) for one in half), 20, "their time is over")
        wait_until(lambda: ask(served.at, "/status", dict) == {}, 20, "and others are answered")
    finally:
        for one in half:
            one.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::", "", "node7.example"])  # noqa: S104 - refused
def test_beyond_loopback_without_tls_is_refused(host: str) -> None:
    """Before anything listens there."""
    with pytest.raises(ValidationError, match="is beyond loopback: name tls_certificate_file and tls_key_file"):
        ApiSettings(host=host)
    ApiSettings(host=host, tls_certificate_file=Path("c"), tls_key_file=Path("k"))
    with pytest.raises(ValidationError, match="name both"):
        ApiSettings(tls_key_file=Path("k"))


def test_a_token_never_crosses_a_network_in_the_clear() -> None:
    """Whoever asks beyond loopback does so by https, whatever else is set."""
    api = ApiSettings(addresses={"controller": "controller.east.example"})
    assert (api.speaks_tls("controller"), api.speaks_tls("agent")) == (True, False)
    assert api.address("agent") == "127.0.0.1"


def _settings(folder: Path, **api: object) -> Settings:
    paths = dict.fromkeys(("witness_credentials_file", "credentials_file", "signing_key_file", "public_key_file"), "f")
    region = {"kafka": "k", "s3": "http://s", "witness": "http://w", "bucket": "b", "node_dir": "n", "arena_dir": "a"}
    east: dict[str, object] = {**region, **paths, "api": api}
    runs = {"gpt": {"first_region": "east"}}
    plain = {"state_dir": folder, "runs": runs, "witness": {"bucket": "w"}, "regions": {"east": east}}
    return Settings.model_validate(plain)


def test_a_service_does_not_start_until_it_is_settled_who_may_ask_it(tmp_path: Path) -> None:
    """One line that names the setting, the file and the remedy."""
    with pytest.raises(MisconfiguredError, match=r"^regions\.east\.api\.callers_file is missing: .*`farside token`"):
        listen_of(_settings(tmp_path), "east", "controller")
    path = callers_file(tmp_path)
    path.chmod(0o644)
    with pytest.raises(MisconfiguredError, match="can be read by others"):
        listen_of(_settings(tmp_path, callers_file=path), "east", "controller")
    path.chmod(0o600)
    listen = listen_of(_settings(tmp_path, callers_file=path), "east", "controller")
    assert (listen.host, listen.tls) == ("127.0.0.1", None)
