"""The stack's shape as data: which servers there are, on which ports, and how a client reaches each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.errors import StackError
from infra.local.ports import HOST

WITNESS = "witness"
LINKS = "links"
KAFKA_ADMIN = "admin"  # the broker itself, and who makes topics' rules; in no settings
_REGION = re.compile(r"[a-z][a-z0-9]{0,23}")


@dataclass(frozen=True, slots=True)
class LinkShape:
    """The latency and bandwidth of every path between regions, in each direction.

    The bandwidth holds per connection (toxiproxy has no limit that connections share); 0 means unlimited.
    """

    latency_ms: int = 40
    bandwidth_mbit_s: int = 200


@dataclass(frozen=True, slots=True)
class RegionEndpoints:
    """How a process inside a region reaches its own servers, and the witness (through the region's own link)."""

    kafka_bootstrap: str
    s3_endpoint: str
    witness_endpoint: str


@dataclass(frozen=True, slots=True)
class LinkEndpoints:
    """How a process in one region reaches another region's servers, through the link."""

    kafka_bootstrap: str
    s3_endpoint: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Every address of a stack.

    ``links[(from, to)]`` is the path by which region ``from`` reaches region ``to``. The credentials file maps each
    store's name (``s3-east``, ``s3-witness``) to its root ``access_key`` and ``secret_key``, and each broker's
    (``kafka-east``) to its admin's ``username`` and ``password``.
    """

    regions: Mapping[str, RegionEndpoints]
    links: Mapping[tuple[str, str], LinkEndpoints]
    witness_endpoint: str
    credentials_file: Path


@dataclass(frozen=True, slots=True)
class Proxy:
    """One cross-region path."""

    name: str
    client: str
    target: str
    what: str
    listen_port: int
    upstream_port: int


def check_regions(regions: tuple[str, ...]) -> None:
    """Refuses names that could not be a listener's, a file's and a host's name at once.

    Raises:
        StackError: A name is malformed, reserved or given twice.
    """
    for region in regions:
        if not _REGION.fullmatch(region) or region == WITNESS:
            raise StackError(f"region {region!r}: lower-case letters and digits only, and not {WITNESS!r}")
    if len(set(regions)) != len(regions):
        raise StackError(f"regions {regions}: a name is given twice")


def others(regions: tuple[str, ...], region: str) -> tuple[str, ...]:
    """The regions from which this one is reached over a link."""
    return tuple(other for other in regions if other != region)


def port_names(regions: tuple[str, ...]) -> list[str]:
    """The name of every port that a stack needs, in a fixed order (the defaults are counted off in it)."""
    names = [LINKS, f"s3-{WITNESS}"]
    for region in regions:
        names += [f"kafka-{region}", f"kafka-{region}/controller", f"s3-{region}", f"{region}.{WITNESS}.s3"]
        for other in others(regions, region):
            names += [f"kafka-{region}/link-{other}", f"{other}.{region}.kafka", f"{other}.{region}.s3"]
    return names


@dataclass(frozen=True, slots=True)
class Layout:
    """Regions and ports: enough to derive every server's configuration and every client's address."""

    folder: Path
    regions: tuple[str, ...]
    ports: Mapping[str, int]

    def servers(self) -> list[str]:
        """The names of all servers."""
        per_region = [name for region in self.regions for name in (f"kafka-{region}", f"s3-{region}")]
        return [*per_region, f"s3-{WITNESS}", LINKS]

    def proxies(self) -> list[Proxy]:
        """Every cross-region path."""
        proxies = []
        for region in self.regions:
            proxies.append(self._proxy(region, WITNESS, "s3", f"s3-{WITNESS}"))
            for other in others(self.regions, region):
                proxies.append(self._proxy(other, region, "kafka", f"kafka-{region}/link-{other}"))
                proxies.append(self._proxy(other, region, "s3", f"s3-{region}"))
        return proxies

    def endpoints(self) -> Endpoints:
        """How clients reach everything."""
        pairs = [(a, b) for a in self.regions for b in others(self.regions, a)]
        return Endpoints(
            regions={
                region: RegionEndpoints(
                    kafka_bootstrap=f"{HOST}:{self.ports[f'kafka-{region}']}",
                    s3_endpoint=self._url(f"s3-{region}"),
                    witness_endpoint=self._url(f"{region}.{WITNESS}.s3"),
                )
                for region in self.regions
            },
            links={
                (a, b): LinkEndpoints(
                    kafka_bootstrap=f"{HOST}:{self.ports[f'{a}.{b}.kafka']}",
                    s3_endpoint=self._url(f"{a}.{b}.s3"),
                )
                for a, b in pairs
            },
            witness_endpoint=self._url(f"s3-{WITNESS}"),
            credentials_file=self.credentials_file,
        )

    @property
    def credentials_file(self) -> Path:
        """Where the stores' root keys and the brokers' admins are, readable by the owner only."""
        return self.folder / "credentials.json"

    @property
    def users_file(self) -> Path:
        """Where the secrets of all plain users are, by server and user; readable by the owner only."""
        return self.folder / "users.json"

    def store_users(self) -> dict[str, tuple[str, ...]]:
        """The users of each store: the region's own, a reader for each other region, one for drills and a sweeper."""
        users = {
            f"s3-{region}": (
                region,
                *(f"reader-{other}" for other in others(self.regions, region)),
                f"drill-{region}",
                f"sweeper-{region}",
            )
            for region in self.regions
        }
        return {**users, f"s3-{WITNESS}": self.regions}

    def kafka_users(self) -> dict[str, tuple[str, ...]]:
        """The users of each broker: as a store's, and one for operators, who read."""
        return {
            f"kafka-{region}": (
                region,
                *(f"link-{other}" for other in others(self.regions, region)),
                f"drill-{region}",
                "operator",
            )
            for region in self.regions
        }

    @property
    def state_file(self) -> Path:
        """Where other processes find a running stack."""
        return self.folder / "stack.json"

    def log(self, name: str) -> Path:
        """A server's log."""
        return self.folder / "logs" / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        """A server's pid file."""
        return self.folder / "pids" / f"{name}.pid"

    def restarts_file(self, name: str) -> Path:
        """How often a server was started again, and why; there once it was."""
        return self.folder / "pids" / f"{name}.restarts.json"

    def _proxy(self, client: str, target: str, what: str, upstream: str) -> Proxy:
        name = f"{client}.{target}.{what}"
        return Proxy(name, client, target, what, self.ports[name], self.ports[upstream])

    def _url(self, port_name: str) -> str:
        return f"http://{HOST}:{self.ports[port_name]}"
