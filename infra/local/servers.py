"""How each server is configured, started and asked whether it is ready."""

import base64
import http.client
import json
import os
import secrets
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.layout import KAFKA_ADMIN, LINKS, WITNESS, Layout, others
from infra.local.ports import HOST
from infra.local.tools import Tools

_HEALTH = "/farside-health"
_PROBE_S = 1.0
_HEAP = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_LOG4J = Path(__file__).with_name("kafka") / "log4j2.properties"
_API_VERSIONS = 18
_REPLY_LEAST = 10  # length, correlation id, error code


@dataclass(frozen=True, slots=True)
class Server:
    """One server: the command that starts it, and the check that it answers."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    ports: tuple[int, ...]
    ready: Callable[[], bool]
    format_argv: list[str] | None = None


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def _drawn(path: Path) -> dict[str, dict[str, str]]:
    """The secrets that were drawn before; empty at first."""
    users: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return users


def ensure_credentials(layout: Layout) -> dict[str, dict[str, str]]:
    """Each store's root keys and each broker's admin: drawn once per folder, since users made under them live in it."""
    known = _drawn(layout.credentials_file)
    for name in layout.servers():
        if name.startswith("s3-"):
            known.setdefault(name, {"access_key": f"root-{name}", "secret_key": secrets.token_hex(20)})
        elif name.startswith("kafka-"):
            known.setdefault(name, {"username": KAFKA_ADMIN, "password": secrets.token_hex(20), "mechanism": "PLAIN"})
    write_private(layout.credentials_file, json.dumps(known, indent=1) + "\n")
    return known


def ensure_users(layout: Layout) -> dict[str, dict[str, str]]:
    """Each server's plain users with their secrets, drawn once per folder; policies and ACLs say what they may do."""
    known = _drawn(layout.users_file)
    for server, names in (layout.store_users() | layout.kafka_users()).items():
        known[server] = {name: secrets.token_hex(20) for name in names} | known.get(server, {})
    write_private(layout.users_file, json.dumps(known, indent=1) + "\n")
    return known


def build(layout: Layout, tools: Tools) -> dict[str, Server]:
    """Every server of the stack, its configuration files written."""
    keys = ensure_credentials(layout)
    users = ensure_users(layout)
    brokers = ((region, f"kafka-{region}") for region in layout.regions)
    built = [_kafka(layout, tools, region, keys[name], users[name]) for region, name in brokers]
    stores = ((place, f"s3-{place}") for place in (*layout.regions, WITNESS))
    built += [_store(layout, tools, place, keys[name], users[name]) for place, name in stores]
    built.append(_links(layout, tools))
    return {server.name: server for server in built}


def plain_env() -> dict[str, str]:
    """The environment without what would quietly configure a server (VGW_..., JAVA_TOOL_OPTIONS and the like)."""
    return {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME"}}


def _kafka(layout: Layout, tools: Tools, region: str, admin: Mapping[str, str], users: Mapping[str, str]) -> Server:
    name = f"kafka-{region}"
    data = layout.folder / "data" / name
    data.mkdir(parents=True, exist_ok=True)
    properties = layout.folder / "config" / f"{name}.properties"
    listeners = ("LOCAL", *(_link_listener(other) for other in others(layout.regions, region)), "CONTROLLER")
    settings = _kafka_settings(layout, region, data) | _kafka_access(listeners, admin, users)
    write_private(properties, "".join(f"{key}={value}\n" for key, value in settings.items()))
    java = [str(tools.java), *_HEAP, f"-Dlog4j2.configurationFile={_LOG4J}", "-cp", f"{tools.kafka_jars}/*"]
    cluster = base64.urlsafe_b64encode(f"farside-{region:<8.8}".encode()).decode().rstrip("=")
    formatted = (data / "meta.properties").exists()
    form = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    port = layout.ports[name]
    return Server(
        name=name,
        argv=[*java, "kafka.Kafka", str(properties)],
        env=plain_env(),
        ports=(port, layout.ports[f"{name}/controller"]),
        ready=lambda: kafka_answers(port),
        format_argv=None if formatted else form,
    )


def _link_listener(client: str) -> str:
    return f"LINK_{client.upper()}"


def _kafka_access(listeners: Iterable[str], admin: Mapping[str, str], users: Mapping[str, str]) -> dict[str, str]:
    """The users that may log in, the same on every listener. Their rights are ACLs, which the broker keeps in its data.

    SASL without TLS sends secrets over loopback in the clear: for development only. The secrets are in this
    file, so a folder of an earlier version gets its users too; SCRAM, which production should use, keeps them with
    the data, and needs one more round trip over the link.
    """
    known = {**users, admin["username"]: admin["password"]}
    options = [f'username="{admin["username"]}"', f'password="{admin["password"]}"']
    options += [f'user_{name}="{secret}"' for name, secret in known.items()]
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {' '.join(options)};"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{admin['username']}",
    }
    for listener in listeners:
        settings[f"listener.name.{listener.lower()}.plain.sasl.jaas.config"] = plain
        settings[f"listener.name.{listener.lower()}.scram-sha-512.sasl.jaas.config"] = scram
    return settings


def _kafka_settings(layout: Layout, region: str, data: Path) -> dict[str, str]:
    name = f"kafka-{region}"
    listeners = {"LOCAL": layout.ports[name]}
    advertised = dict(listeners)
    for other in others(layout.regions, region):
        # A client that bootstraps through the link is told to stay on it: its listener is advertised at the proxy.
        listeners[_link_listener(other)] = layout.ports[f"{name}/link-{other}"]
        advertised[_link_listener(other)] = layout.ports[f"{other}.{region}.kafka"]
    controller = layout.ports[f"{name}/controller"]

    def listed(ports: Mapping[str, int]) -> str:
        return ",".join(f"{listener}://{HOST}:{port}" for listener, port in ports.items())

    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listed({**listeners, "CONTROLLER": controller}),
        "advertised.listeners": listed(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:SASL_PLAINTEXT" for name in [*listeners, "CONTROLLER"]),
        "inter.broker.listener.name": "LOCAL",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        # One broker: every internal topic has one replica, and few partitions so that it is there at once.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # Sized for a 384 MB heap; the default deduplication buffer alone is 128 MB.
        "log.cleaner.dedupe.buffer.size": "8388608",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "controlled.shutdown.enable": "false",
    }


def _store(layout: Layout, tools: Tools, place: str, keys: Mapping[str, str], plain: Mapping[str, str]) -> Server:
    name = f"s3-{place}"
    data, users = layout.folder / "data" / name, layout.folder / "data" / f"{name}-users"
    for folder in (data, users):
        folder.mkdir(parents=True, exist_ok=True)
    # The server reads its users from this file; its admin tool would want their secrets as arguments.
    accounts = {user: {"access": user, "secret": secret, "role": "user"} for user, secret in plain.items()}
    write_private(users / "users.json", json.dumps({"accessAccounts": accounts}))
    port = layout.ports[name]
    # Without --keep-alive every request opens a connection, which over the link costs a round trip each.
    options = ["--port", f"{HOST}:{port}", "--iam-dir", str(users), "--health", _HEALTH, "--keep-alive", "--quiet"]
    return Server(
        name=name,
        argv=[str(tools.versitygw), *options, "posix", str(data)],
        env={**plain_env(), "ROOT_ACCESS_KEY_ID": keys["access_key"], "ROOT_SECRET_ACCESS_KEY": keys["secret_key"]},
        ports=(port,),
        ready=lambda: http_answers(f"http://{HOST}:{port}{_HEALTH}"),
    )


def _links(layout: Layout, tools: Tools) -> Server:
    port = layout.ports[LINKS]
    return Server(
        name=LINKS,
        argv=[str(tools.toxiproxy), "-host", HOST, "-port", str(port), "-proxy-metrics"],
        env={**plain_env(), "LOG_LEVEL": "warn"},
        ports=(port, *(proxy.listen_port for proxy in layout.proxies())),
        ready=lambda: http_answers(f"http://{HOST}:{port}/version"),
    )


def http_answers(url: str) -> bool:
    """Whether a server answers there with 200."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_S) as reply:  # noqa: S310 - a loopback http address of ours
            return bool(reply.status == http.HTTPStatus.OK)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def kafka_answers(port: int) -> bool:
    """Whether a broker answers an ApiVersions request (version 0, the one request that needs no negotiation)."""
    body = struct.pack(">hhih", _API_VERSIONS, 0, 1, -1)
    try:
        with socket.create_connection((HOST, port), timeout=_PROBE_S) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            reply = b""
            while len(reply) < _REPLY_LEAST and (piece := connection.recv(64)):
                reply += piece
    except OSError:
        return False
    return len(reply) >= _REPLY_LEAST and struct.unpack(">h", reply[8:10])[0] == 0
