"""Settings: one TOML file, overridden by variables `FARSIDE_<KEY>__<KEY>`; frozen, read once, without secrets.

Why pydantic-settings does not read them: docs/decisions/0011-settings-without-pydantic-settings.md.
"""

from __future__ import annotations

import ipaddress
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipelines.core.failover_decision import SETTLE_S
from pipelines.core.lease_groups import MEMBERS_MAX
from pipelines.core.lease_profiles import PROFILES, LeaseProfile
from pipelines.core.patience import UNKNOWN_WAIT_S
from pipelines.errors import MisconfiguredError
from services.adapters.kafka.connection import MECHANISMS, KafkaUser

PREFIX = "FARSIDE_"
HOST = "127.0.0.1"  # where the services serve, and are asked, unless the settings say otherwise
_PLAIN_KEYS = frozenset({"profile", "state_dir"})


Service = Literal["agent", "controller", "replicator", "warmer"]


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which nobody else reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSettings(_Part):
    """Where a run begins, who stands by, and what its owners were promised."""

    first_region: str
    standby: tuple[str, ...] = ()
    rpo_steps: int | None = Field(default=None, ge=0)  # an automatic failover that would lose more waits for a person
    rto_s: float | None = Field(default=None, gt=0)  # status warns when the predicted recovery would take longer
    webhook_url: SecretStr | None = None  # is sent each epoch that is won, at least once, with an idempotency key
    webhook_key_file: Path | None = None  # signs whatever is posted for the run; `webhook_url` and `before_url` need it
    before_url: SecretStr | None = None  # asked before a run is moved; 403 or 409 is a veto, silence is none
    before_timeout_s: float = Field(default=3.0, gt=0)  # it may delay an automatic failover by so long
    ping_url: SecretStr | None = None  # a dead-man's switch: called while the controller works
    ping_s: float = Field(default=30.0, gt=0)
    drill_command: tuple[str, ...] = ()  # starts this run's trainer on the standby's node, for a drill
    drill_days: float = Field(default=30.0, gt=0)  # status warns when the last good drill is older
    # Does a trainer stop when its region's authority ends? hard: its guard (`farside-guard`) kills it. soft: never.
    fencing: Literal["soft", "hard"] = "soft"
    keep_generations: int = Field(default=3, ge=1)  # so many of the newest checkpoints stay, whatever is swept
    settle_s: float = Field(default=SETTLE_S, ge=0)  # no second automatic failover within so long
    # Runs of a group, which have the same placement, keep their lease records in one object: one write renews them all.
    # It is chosen when the run is created; a run that is given another one later has no record there, and waits.
    group: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> RunSettings:
        if self.webhook_key_file is None and (self.webhook_url is not None or self.before_url is not None):
            raise ValueError("webhook_key_file is missing: it signs what is posted to webhook_url and before_url")
        return self


class WitnessSettings(_Part):
    """The witness's bucket; each region has its own address for it, and its own user there."""

    bucket: str


class Ports(_Part):
    """The port of each service, where it serves health, metrics and status; 0: any free port."""

    agent: int = Field(default=0, ge=0, le=65_535)
    controller: int = Field(default=0, ge=0, le=65_535)
    replicator: int = Field(default=0, ge=0, le=65_535)
    warmer: int = Field(default=0, ge=0, le=65_535)


class ApiSettings(_Part):
    """Where a region's services listen and whom they let in; and as whom they, and commands, ask."""

    host: str = HOST  # to listen on; beyond loopback only with TLS
    addresses: dict[Service, str] = {}  # by which others ask a service; default: `host`, or loopback if that is any
    callers_file: Path | None = None  # who may ask; no service starts without one
    tls_certificate_file: Path | None = None  # PEM; it and its key are loaded again when they change
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None  # that askers trust; None: the system's
    token_file: Path | None = None  # as whom commands ask; FARSIDE_TOKEN and FARSIDE_TOKEN_FILE go before
    agent_token_file: Path | None = None  # as whom the region's agent asks its controller
    viewer_token_file: Path | None = None  # as whom the controller asks the region's other services

    @model_validator(mode="after")
    def _beyond_loopback_there_is_tls(self) -> ApiSettings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together: name both")
        if not is_loopback(self.host) and self.tls_certificate_file is None:
            raise ValueError(
                f"host {self.host} is beyond loopback: name tls_certificate_file and tls_key_file, and callers_file"
            )
        return self

    def address(self, service: str) -> str:
        """By which others ask a service."""
        default = HOST if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104 - not bound here
        return next((address for name, address in self.addresses.items() if name == service), default)

    def speaks_tls(self, service: str) -> bool:
        """Whether a service is asked by https: always beyond loopback, where a token must not cross in the clear."""
        named = self.tls_certificate_file is not None or self.tls_ca_file is not None
        return named or not is_loopback(self.address(service))


class KafkaSettings(_Part):
    """The address of a region's Kafka, and the user and certificate authority to connect with."""

    kafka: str
    kafka_credentials_file: Path | None = None  # None: a cluster that knows no users
    kafka_tls_ca_file: Path | None = None  # None: no TLS


class LinkSettings(KafkaSettings):
    """How a region reads another region's Kafka and store; the credentials need no more than reading."""

    s3: str
    bucket: str
    credentials_file: Path


class RegionSettings(KafkaSettings):
    """One region: its Kafka, store, keys and folders, by the addresses that are valid inside it."""

    drill_kafka_credentials_file: Path | None = None  # None: a drill is the region's own user
    operator_kafka_credentials_file: Path | None = None  # for commands that only look; None: as above
    s3: str
    witness: str
    witness_credentials_file: Path
    bucket: str
    credentials_file: Path
    drill_credentials_file: Path | None = None  # None: a drill has the region's own rights
    sweeper_credentials_file: Path | None = None  # None: a sweep has the region's own rights
    sweep_grace_s: float = Field(default=172_800.0, gt=0)  # longer than the longest upload or copy may stand still
    signing_key_file: Path  # read by agents and sweeps only, which sign
    public_key_file: Path
    # Keys that came later, by the date of each: what any of them signed is believed, until it is in `revoked_keys`.
    public_key_files: dict[Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}[a-z]?$")], Path] = {}
    node: str = "n0"
    node_dir: Path
    arena_dir: Path
    replication: int = Field(default=3, ge=1)
    ports: Ports = Ports()
    api: ApiSettings = ApiSettings()
    links: dict[str, LinkSettings] = {}


class PublishSettings(_Part):
    """How an agent batches records, catches up after an outage, and gives up a client that hangs."""

    batch_rows: int = Field(default=500, ge=1)  # metrics in one record, at most; 1: every metric is a record of its own
    batch_bytes: int = Field(default=512 * 1024, ge=1)  # of the spool's records that go into one
    batch_age_s: float = Field(default=5.0, ge=0)  # for so long a metric waits for others, at most
    catch_up_bytes_s: float = Field(default=16 * 1024 * 1024.0, gt=0)  # read from the spool, after an outage
    keep_logs_s: float = Field(default=3600.0, ge=0)  # of a trainer that is gone, as evidence of what it accepted
    unanswered_s: float = Field(default=15.0, gt=0)  # a call to Kafka that takes longer is given up, its client with it


class ReplicateSettings(_Part):
    """How a replicator follows its peers."""

    # An event whose epoch or schema does not become known in its region is set aside after so long, with an alarm.
    unknown_wait_s: float = Field(default=UNKNOWN_WAIT_S, gt=0)


class ProfileSettings(_Part):
    """A lease profile that the operator defines; it must be the same in every region."""

    lease_s: float
    renew_s: float
    poll_s: float
    rho: float = 0.01
    margin_s: float


class Settings(_Part):
    """The whole settings file."""

    profiles: dict[str, ProfileSettings] = {}
    profile: str = "default"
    state_dir: Path
    runs: dict[str, RunSettings]
    witness: WitnessSettings
    regions: dict[Annotated[str, Field(pattern=r"^[^@/:]+$")], RegionSettings]
    # Ids of signing keys by which nothing is believed any more: a region's name, or east@2026-11-28.
    revoked_keys: tuple[str, ...] = ()
    publish: PublishSettings = PublishSettings()
    replicate: ReplicateSettings = ReplicateSettings()

    @field_validator("profiles")
    @classmethod
    def _profiles_are_safe(cls, profiles: dict[str, ProfileSettings]) -> dict[str, ProfileSettings]:
        """An unsafe combination is refused with the inequality that fails."""
        for name, profile in profiles.items():
            if name in PROFILES:
                raise ValueError(f"{name} is a profile that ships: choose another name")
            try:
                LeaseProfile(name=name, **profile.model_dump()).check()
            except MisconfiguredError as error:
                raise ValueError(str(error)) from error
        return profiles

    @field_validator("profile")
    @classmethod
    def _profile_is_known(cls, profile: str, info: ValidationInfo) -> str:
        known = sorted({*PROFILES, *info.data.get("profiles", {})})
        if profile not in known:
            raise ValueError(f"{profile!r} is none of {', '.join(known)}")
        return profile

    @property
    def lease_profile(self) -> LeaseProfile:
        """The lease's times, by the profile that `profile` names."""
        own = self.profiles.get(self.profile)
        return PROFILES[self.profile] if own is None else LeaseProfile(name=self.profile, **own.model_dump())

    @model_validator(mode="after")
    def _groups_are_alike(self) -> Settings:
        """Members of a lease group have one placement, and fit into one object."""
        for group in {run.group for run in self.runs.values()} - {None}:
            members = {name: run for name, run in self.runs.items() if run.group == group}
            placements = {(run.first_region, frozenset(run.standby)) for run in members.values()}
            if len(placements) > 1:
                raise ValueError(f"group {group}: {', '.join(members)} must have the same first_region and standby")
            if len(members) > MEMBERS_MAX:
                raise ValueError(f"group {group} has {len(members)} runs, {MEMBERS_MAX} fit: make several groups")
        return self

    def groups(self) -> dict[str, str]:
        """The lease group of each run that has one."""
        return {name: run.group for name, run in self.runs.items() if run.group is not None}

    def region(self, name: str) -> RegionSettings:
        """The settings of one region; MisconfiguredError if there is none of that name."""
        if name not in self.regions:
            raise MisconfiguredError(f"region {name!r} is not in the settings; there are {', '.join(self.regions)}")
        return self.regions[name]

    def link(self, region: str, peer: str) -> LinkSettings:
        """How a region reaches another; MisconfiguredError if the settings have no such link."""
        links = self.region(region).links
        if peer not in links:
            raise MisconfiguredError(f"regions.{region}.links.{peer} is missing: {peer} cannot be reached")
        return links[peer]

    def service_ports(self) -> frozenset[int]:
        """Every port that a service of any region serves on."""
        return frozenset(port for region in self.regions.values() for port in region.ports.model_dump().values())

    def run(self, name: str) -> RunSettings:
        """The settings of one run; MisconfiguredError if there is none of that name."""
        if name not in self.runs:
            raise MisconfiguredError(f"run {name!r} is not in the settings; there are {', '.join(self.runs)}")
        return self.runs[name]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: the TOML file.
        environment: `FARSIDE_WITNESS__BUCKET` in it replaces `witness.bucket`, and so on.

    Raises:
        MisconfiguredError: the file cannot be read, or a key is wrong: one line for each key, with the file or variable
            that its value came from.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MisconfiguredError(
            f"settings file {path}: {error.strerror}: name one with --config or FARSIDE_CONFIG"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"settings file {path} is not TOML: {error}") from error
    origins = _override(plain, environment)
    try:
        return Settings.model_validate(plain)
    except ValidationError as error:
        raise MisconfiguredError("\n".join(_wrong_keys(error, origins, path))) from error


class Credentials(NamedTuple):
    """A user of an S3 store."""

    access_key: str
    secret_key: str


def secrets_of(path: Path, what: str, *names: str) -> dict[str, str]:
    """Read a JSON object of texts from a file.

    Args:
        path: the file.
        what: what kind of file it is, for an error's text.
        names: the keys that must be there.

    Raises:
        MisconfiguredError: it cannot be read, or lacks a name; the text shows nothing of the file's contents.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(plain[name]) for name in {**dict.fromkeys(names), **plain}}
    except OSError as error:
        raise MisconfiguredError(f"{what} {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise MisconfiguredError(f"{what} {path} is no JSON object with {' and '.join(names)}") from None


def credentials(path: Path) -> Credentials:
    """`access_key` and `secret_key` from a JSON file; errors as of `secrets_of`."""
    plain = secrets_of(path, "credentials file", "access_key", "secret_key")
    return Credentials(plain["access_key"], plain["secret_key"])


def kafka_user(path: Path) -> KafkaUser:
    """`username`, `password` and `mechanism` (else SCRAM-SHA-512) from a JSON file; errors as of `secrets_of`."""
    plain = secrets_of(path, "Kafka credentials file", "username", "password")
    user = KafkaUser(plain["username"], plain["password"], plain.get("mechanism", MECHANISMS[0]))
    if user.mechanism not in MECHANISMS:
        raise MisconfiguredError(f"Kafka credentials file {path}: mechanism is one of {', '.join(MECHANISMS)}")
    return user


def _override(plain: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Put the variables' values into the file's table; returns which variable each key came from."""
    origins = {}
    for name in sorted(environment):
        keys = name.removeprefix(PREFIX).lower().split("__")
        if not name.startswith(PREFIX) or (len(keys) == 1 and keys[0] not in _PLAIN_KEYS):
            continue  # FARSIDE_NODE_DIR and its like belong to other parts
        place = plain
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise MisconfiguredError(f"{'.'.join(keys)}: {key} is no table (from {name})")
            place = inner
        place[keys[-1]] = environment[name]
        origins[".".join(keys)] = name
    return origins


def _wrong_keys(error: ValidationError, origins: Mapping[str, str], path: Path) -> list[str]:
    """One line for each wrong key: the key, why, and the variable or the file that it came from."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        # A table is refused as a whole: then the variables that put something into it stand below the key.
        variables = [name for place, name in origins.items() if f"{place}.".startswith(f"{key}.")]
        lines.append(f"{key}: {fault['msg']} (from {', '.join(variables) or path})")
    return lines
