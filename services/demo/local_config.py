"""Settings, keys and buckets for the local stack, so that every command works on it without configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from infra.local.layout import WITNESS, Layout
from infra.local.ports import PortClaims
from schemas.codec import digest
from services.adapters.kafka.acls import give
from services.adapters.kafka.connection import KafkaCluster, KafkaUser
from services.adapters.s3.faults import mapped_errors
from services.adapters.s3.object_store import connect, ensure_bucket, place_of
from services.adapters.signer import generate_keypair
from services.http.callers import NAME, text_of
from services.operations import credentials
from services.permissions.kafka_policies import grants
from services.permissions.store_policies import bucket_policy

BUCKET, WITNESS_BUCKET = "farside", "farside-witness"
SERVICES = ("agent", "controller", "replicator", "warmer")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the arena belongs there; the folder below is the stack's own


def write(layout: Layout, *, run: str = "gpt", profile: str = "fast") -> Path:
    """Write `farside.toml` and the files that it names beside a running stack's data; returns its path.

    Keys are kept when they are there already: what was signed with them must stay readable.
    """
    folder = layout.folder
    keys = folder / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    for server, users in json.loads(layout.users_file.read_text(encoding="utf-8")).items():
        for user, secret in users.items():
            plain = {"access_key": user, "secret_key": secret}
            if server.startswith("kafka-"):
                plain = {"username": user, "password": secret, "mechanism": "PLAIN"}
            _private(_key_file(keys, server, user), json.dumps(plain))
    for region in layout.regions:
        if not (keys / f"{region}.key.pem").exists():
            generate_keypair(keys, region)
        _let_in(keys, region)
    ends = layout.endpoints()
    buckets = {"s3-witness": (ends.witness_endpoint, WITNESS_BUCKET)}
    buckets |= {f"s3-{region}": (ends.regions[region].s3_endpoint, BUCKET) for region in layout.regions}
    roots = json.loads(layout.credentials_file.read_text(encoding="utf-8"))
    for store, (endpoint, bucket) in buckets.items():
        root = connect(endpoint=endpoint, **roots[store])
        ensure_bucket(root, bucket)
        users = [(user, _role(store, user)) for user in layout.store_users()[store]]
        with mapped_errors(f"policy of {bucket}", place_of(root, bucket)):
            root.put_bucket_policy(Bucket=bucket, Policy=bucket_policy(users, bucket))
    for region in layout.regions:
        admin = KafkaCluster(ends.regions[region].kafka_bootstrap, KafkaUser(**roots[f"kafka-{region}"]))
        give(admin, {user: grants(_kafka_role(user), region) for user in layout.kafka_users()[f"kafka-{region}"]})
    path = folder / "farside.toml"
    path.write_text(_text(layout, keys, run, profile), encoding="utf-8")
    return path


def _let_in(keys: Path, region: str) -> None:
    """Who may ask the region's services: the person here, its agent, and its controller, which looks at the others."""
    person = os.environ.get("USER", "")
    admitted = (
        credentials.caller(
            person if re.fullmatch(NAME, person) else "operator",
            "operator",
            credentials.token_file(keys / "operator.token"),
        ),
        credentials.caller(
            _node(region), "agent", credentials.token_file(keys / f"{region}.agent.token"), node=_node(region)
        ),
        credentials.caller(f"controller-{region}", "viewer", credentials.token_file(keys / f"{region}.viewer.token")),
    )
    credentials.write_secret(keys / f"{region}.callers.json", text_of(admitted))


def _node(region: str) -> str:
    return f"{region}-n0"


def arena_of(folder: Path, region: str) -> Path:
    """Where a local region's arena lies: in shared memory if there is any."""
    name = f"farside-{folder.name}-{digest(str(folder.absolute()).encode())[:12]}-{region}"
    return (SHARED_MEMORY if SHARED_MEMORY.is_dir() else folder) / name


def clean(folder: Path) -> None:
    """Remove the arenas that a stopped stack left in shared memory."""
    pattern = arena_of(folder, "*").name
    for arena in SHARED_MEMORY.glob(pattern) if SHARED_MEMORY.is_dir() else ():
        shutil.rmtree(arena, ignore_errors=True)


def _role(store: str, user: str) -> str:
    kind = user.partition("-")[0]
    plain = "witness" if store == f"s3-{WITNESS}" else "region"
    return {"reader": "link", "drill": "drill", "sweeper": "sweeper"}.get(kind, plain)


def _kafka_role(user: str) -> str:
    kind = user.partition("-")[0]
    return kind if kind in {"link", "drill", "operator"} else "region"


def _key_file(keys: Path, store: str, user: str) -> Path:
    return keys / f"{store}.{user}.json"


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _text(layout: Layout, keys: Path, run: str, profile: str) -> str:
    first, *others = layout.regions
    lines = [
        "# Written by `farside up` for the local stack.",
        f"profile = {_q(profile)}  # a lease of a few seconds; `default` is slower, and safe for real networks",
        f"state_dir = {_q(layout.folder / 'state')}",
        "",
        f"[runs.{run}]",
        f"first_region = {_q(first)}",
        f"standby = {json.dumps(others)}",
        "",
        "[witness]",
        f"bucket = {_q(WITNESS_BUCKET)}",
    ]
    claims = PortClaims()
    ends = layout.endpoints()
    for region in layout.regions:
        own = ends.regions[region]
        lines += [
            "",
            f"[regions.{region}]",
            f"kafka = {_q(own.kafka_bootstrap)}  # SASL without TLS: for development only",
            f"kafka_credentials_file = {_q(_key_file(keys, f'kafka-{region}', region))}",
            f"drill_kafka_credentials_file = {_q(_key_file(keys, f'kafka-{region}', f'drill-{region}'))}",
            f"operator_kafka_credentials_file = {_q(_key_file(keys, f'kafka-{region}', 'operator'))}",
            f"s3 = {_q(own.s3_endpoint)}",
            f"witness = {_q(own.witness_endpoint)}",
            f"bucket = {_q(BUCKET)}",
            f"credentials_file = {_q(_key_file(keys, f's3-{region}', region))}",
            f"drill_credentials_file = {_q(_key_file(keys, f's3-{region}', f'drill-{region}'))}",
            f"sweeper_credentials_file = {_q(_key_file(keys, f's3-{region}', f'sweeper-{region}'))}",
            f"witness_credentials_file = {_q(_key_file(keys, f's3-{WITNESS}', region))}",
            f"signing_key_file = {_q(keys / f'{region}.key.pem')}",
            f"public_key_file = {_q(keys / f'{region}.pub.pem')}",
            f"node = {_q(_node(region))}",
            f"node_dir = {_q(layout.folder / 'nodes' / region)}",
            f"arena_dir = {_q(arena_of(layout.folder, region))}",
            "replication = 1  # one broker: for development only",
            "",
            f"[regions.{region}.ports]",
            *(f"{service} = {claims.claim([])}" for service in SERVICES),
            *_api(keys, region),
        ]
        for other in layout.regions:
            if other != region:
                link = ends.links[region, other]
                lines += [
                    "",
                    f"[regions.{region}.links.{other}]",
                    f"kafka = {_q(link.kafka_bootstrap)}",
                    f"kafka_credentials_file = {_q(_key_file(keys, f'kafka-{other}', f'link-{region}'))}",
                    f"s3 = {_q(link.s3_endpoint)}",
                    f"bucket = {_q(BUCKET)}",
                    f"credentials_file = {_q(_key_file(keys, f's3-{other}', f'reader-{region}'))}",
                ]
    claims.release()
    return "\n".join(lines) + "\n"


def _api(keys: Path, region: str) -> list[str]:
    """The table that says who may ask the region's services, and as whom they and the commands here ask."""
    return [
        "",
        f"[regions.{region}.api]",
        f"callers_file = {_q(keys / f'{region}.callers.json')}",
        f"token_file = {_q(keys / 'operator.token')}",
        f"agent_token_file = {_q(keys / f'{region}.agent.token')}",
        f"viewer_token_file = {_q(keys / f'{region}.viewer.token')}",
    ]


def _q(value: str | Path) -> str:
    return json.dumps(str(value))
