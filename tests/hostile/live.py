"""The live stack on which hostile cases play: two regions on real servers, and who works there. Nothing is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from typer.testing import CliRunner

from infra.local.layout import WITNESS, LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines import paths
from pipelines.core.metric_batches import rows_of
from pipelines.flows.log.envelope import headers_of
from pipelines.flows.log.writer_schemas import store_schemas
from pipelines.paths import CheckpointId
from pipelines.ports import Message, Partition
from schemas.codec import Codec, DecodeError
from schemas.records import Checkpoint, Event, Metric
from services.adapters.kafka.acls import COMMON
from services.adapters.kafka.clients import made
from services.adapters.kafka.log import KafkaLog, KafkaSource, ensure_topics
from services.adapters.s3.object_store import connect
from services.cli import app
from services.demo import local_config
from services.demo.actors import Actors
from services.demo.local_config import BUCKET, WITNESS_BUCKET
from services.http.endpoints import ask, endpoint_of
from services.runtime.child_processes import tail
from services.runtime.clients import cluster_of, store_of
from services.runtime.wiring import signer_of
from services.settings import Settings, load
from tests.brokers import admin_of
from tests.hostile.batches import RawRecord, batch_of, send
from tests.integration import light_trainer
from tests.manifests import put_checkpoint
from tests.waiting import wait_until

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

EAST, WEST = "east", "west"
REGIONS = (EAST, WEST)
STEADY = "steady"  # the run to which nothing is done: it has to go on, whatever happens to the others
PRODUCER = "r00000-0123456789abcdef"
SOON_S, PATIENT_S = 30.0, 90.0
POLL_S, BATCH = 0.1, 500
FIRST_MS = time.time_ns() // 1_000_000 - 600_000  # the past, and young enough for a topic to keep
CODEC = Codec()
Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a `farside` command ended."""

    code: int
    out: str
    err: str
    crash: str  # what it raised, if it did not end by itself

    def lines(self) -> list[dict[str, Any]]:
        """Its JSON lines; AssertionError if it raised."""
        assert not self.crash, f"the command raised {self.crash}"
        return [json.loads(line) for line in self.out.splitlines()]


class RegionLog:
    """One region's lanes, each record read once, as any reader of its Kafka sees them."""

    LANES = ("checkpoints", "metrics", "data-versions", "heartbeats")

    def __init__(self, settings: Settings, region: str) -> None:
        self._source = KafkaSource(cluster_of(settings.region(region)))
        self._followed: set[Partition] = set()
        self._events: list[Event] = []

    def events(self, run: str) -> list[Event]:
        """All events of a run until now; what cannot be decoded is none."""
        if len(self._followed) < len(self.LANES):
            for partition in self._source.partitions([paths.topic(lane) for lane in self.LANES]):
                self._source.seek(partition, self._source.bounds(partition)[0])
                self._followed.add(partition)
        while items := self._source.poll(POLL_S, BATCH):
            for item in items:
                with contextlib.suppress(DecodeError):
                    event = CODEC.decode(item.value)
                    self._events += rows_of(event) if isinstance(event, Event) else ()
        return [one for one in self._events if one.run == run]

    def close(self) -> None:
        """Drop the clients."""
        self._source.close()


class Live:
    """A running stack.

    Args:
        stack: its servers.
        config: the settings' file.
        actors: starts the services.
        services: who works there, and is started again before a case if it has ended.
    """

    def __init__(self, stack: Stack, config: Path, actors: Actors, services: Sequence[tuple[str, str]]) -> None:
        self.stack, self.config, self.actors, self.services = stack, config, actors, services
        self.settings = load(config, {})
        self.logs = {region: RegionLog(self.settings, region) for region in REGIONS}
        self._watched: dict[str, int] = {}
        self._seqs: dict[tuple[str, str], int] = {}
        self._started: set[str] = set()
        self._launches = 0
        self.trained: set[tuple[str, str]] = set()  # the run and region of each trainer that is kept

    # --- processes ---

    def start(
        self,
        service: str,
        region: str,
        more: Mapping[str, str] | None = None,
        config: Path | None = None,
        *,
        serves: bool = True,
    ) -> None:
        """Start a service and wait until it serves; with more in its environment, or other settings.

        serves: False if it is not sure that it will.
        """
        name, settings = f"{service}-{region}", str(config or self.config)
        argv = [sys.executable, "-m", "services.cli", service, "--region", region, "--config", settings]
        self.actors.program(name, argv, dict(more or {}))
        self._started.add(name)
        if serves:
            self.wait(partial(self.serves, service, region), f"{name} serves", PATIENT_S)

    def train(self, run: str, region: str, *, every_steps: int = 10, step_s: float = 0.2) -> str:
        """Start a light trainer, which waits until its region is granted the run; its name."""
        self._launches += 1
        name = trainer_of(run, region)
        here = {"FARSIDE_RUN": run, "FARSIDE_NODE_DIR": str(self.settings.region(region).node_dir)}
        here["FARSIDE_LAUNCH"] = f"{region}-{self._launches:06d}"
        argv = [sys.executable, str(Path(light_trainer.__file__).absolute())]
        self.actors.program(name, [*argv, "--every", str(every_steps), "--step-s", str(step_s)], here)
        self._started.add(name)
        return name

    def kill(self, *names: str) -> None:
        """SIGKILL services, until `start`."""
        here = [name for name in names if name in self._started]
        self.actors.kill(*here)
        self._started.difference_update(here)

    def restarted(self, service: str, region: str, more: Mapping[str, str] | None = None) -> None:
        """Kill a service and start it again, with more in its environment."""
        self.kill(f"{service}-{region}")
        self.start(service, region, more)

    def keep(self, *regions: str) -> None:
        """Start again whoever should work, here or in these regions, and does not: a case may have ended it."""
        regions = regions or REGIONS
        for run, region in ((run, region) for run, region in self.trained if region in regions):
            name = trainer_of(run, region)
            if self._is_away(name):
                self.train(run, region)
        here = [(service, region) for service, region in self.services if region in regions]
        away = [(service, region) for service, region in here if self._is_away(f"{service}-{region}")]
        for service, region in away:
            self.start(service, region, serves=False)
        for service, region in away:
            self.wait(partial(self.serves, service, region), f"{service}-{region} serves", PATIENT_S)

    def _is_away(self, name: str) -> bool:
        return name not in self._started or self.actors.ended(name) is not None

    def serves(self, service: str, region: str) -> bool:
        """Whether a service answers; AssertionError with its last words if it has ended."""
        gone = self.ended(f"{service}-{region}")
        assert not gone, gone
        return self.status(service, region) is not None

    def ended(self, name: str) -> str:
        """How a service that is gone said so last; "" while it works."""
        code = self.actors.ended(name)
        if code is None:
            return ""
        return f"{name} ended with {code}: {_last_words(self.log_path(name))}"

    def log_path(self, name: str) -> Path:
        """Where a service's output is."""
        return self.stack.folder / "logs" / f"{name}.log"

    @contextlib.contextmanager
    def undisturbed(self, *names: str) -> Iterator[None]:
        """The block, in which these have to go on as the same processes; AssertionError with their last words."""
        self._watched = {name: self.actors.pids(name)[0] for name in names}
        try:
            yield
            self._check()
        finally:
            self._watched = {}

    def _check(self) -> None:
        for name, pid in self._watched.items():
            gone = self.ended(name)
            assert not gone, gone
            assert self.actors.pids(name)[0] == pid, f"{name} is another process than before"

    def wait(self, condition: Callable[[], object], what: str, deadline_s: float = SOON_S) -> None:
        """Until it holds; AssertionError at the deadline, or as soon as a service has ended that may not."""

        def looked() -> bool:
            self._check()
            return bool(condition())

        wait_until(looked, deadline_s, what)

    # --- what is seen from outside ---

    def farside(self, *args: str, environment: Mapping[str, str] | None = None) -> Answer:
        """A command of an operator."""
        wide = {"COLUMNS": "200", **(environment or {})}
        done = CliRunner().invoke(app, [*args, "--config", str(self.config)], env=wide)
        crash = "" if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
        return Answer(done.exit_code, done.stdout, done.stderr, crash)

    def status(self, service: str, region: str) -> dict[str, Any] | None:
        """A service's own status; None while it does not answer."""
        return ask(endpoint_of(self.settings, service, region), "/status", dict[str, Any])

    def run_status(self, region: str, run: str) -> dict[str, Any]:
        """A run as a region's controller sees it; empty if it does not answer."""
        return dict((self.status("controller", region) or {}).get(run, {}))

    def held_by(self, run: str) -> str:
        """The region that holds a run; waits until one does, and the other sees that."""
        holders: list[str] = []

        def clear() -> bool:
            views = {region: self.run_status(region, run) for region in REGIONS}
            holders[:] = [region for region, view in views.items() if view.get("is_holder") and view["valid_s"] > 0]
            return len(holders) == 1 and all(view.get("primary") == holders[0] for view in views.values())

        self.wait(clear, f"one region holds run {run}", PATIENT_S)
        return holders[0]

    def letters(self, region: str = WEST) -> list[dict[str, Any]]:
        """A region's dead letters, as an operator reads them."""
        return self.farside("events", "dead", "list", "--at", region, "--json").lines()

    def visible(self, run: str, region: str = WEST) -> list[Checkpoint]:
        """The committed checkpoints of a run that a region's log shows."""
        found = self.logs[region].events(run)
        return [one for one in found if isinstance(one, Checkpoint) and one.state == "committed"]

    def metrics(self, run: str, region: str = WEST) -> list[Metric]:
        """The metrics of a run that a region's log shows."""
        return [one for one in self.logs[region].events(run) if isinstance(one, Metric)]

    def memory_peak(self, name: str) -> int:
        """The most memory that a service had since the last call, in bytes."""
        process = Path(f"/proc/{self.actors.pids(name)[0]}")
        lines = (process / "status").read_text(encoding="utf-8").splitlines()
        (peak,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        (process / "clear_refs").write_text("5", encoding="utf-8")
        return peak

    def cpu_s(self, name: str) -> float:
        """The processor time that a service has used."""
        text = Path(f"/proc/{self.actors.pids(name)[0]}/stat").read_text(encoding="utf-8")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def root(self, place: str) -> S3Client:
        """The owner of a store, or of the witness."""
        roots = json.loads(self.stack.endpoints().credentials_file.read_text(encoding="utf-8"))
        return connect(endpoint=f"http://127.0.0.1:{self.stack.layout.ports[f's3-{place}']}", **roots[f"s3-{place}"])

    @contextlib.contextmanager
    def denied(self, place: str, key: str, *users: str) -> Iterator[None]:
        """The block, in which a store denies these users to read one object."""
        bucket = WITNESS_BUCKET if place == WITNESS else BUCKET
        root = self.root(place)
        before = root.get_bucket_policy(Bucket=bucket)["Policy"]
        refusal = {"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/{key}"]}
        policy = json.loads(before)
        policy["Statement"] += [{"Principal": {"AWS": [user]}, **refusal} for user in users]
        root.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        try:
            yield
        finally:
            root.put_bucket_policy(Bucket=bucket, Policy=before)

    # --- what is written into east, as its agent would ---

    def common(self, run: str, lane: str, step: int, epoch: int = 1) -> dict[str, Any]:
        """The next identity of a run's lane."""
        seq = self._seqs[run, lane] = self._seqs.get((run, lane), 0) + 1
        names = {"event_id": f"{run}/{epoch}/{PRODUCER}/{lane}/{seq}", "run": run, "region": EAST}
        return {**names, "epoch": epoch, "attempt": 1, "producer": PRODUCER, "seq": seq, "step": step} | {
            "time_ms": FIRST_MS + seq
        }

    def put(self, run: str, step: int, *, epoch: int = 1, chunks: Sequence[bytes] = (b"a", b"b")) -> Checkpoint:
        """A whole checkpoint in east's store; its event is still to be published."""
        common = self.common(run, "checkpoints", step, epoch)
        store, signer = store_of(self.settings.region(EAST)), signer_of(self.settings, EAST)
        whole = [f"{run} {step} ".encode() + chunk for chunk in chunks]
        seq = int(common["seq"])
        event = put_checkpoint(store, signer, CheckpointId(run, epoch, 1, step), seq=seq, chunks=whole)
        return dataclasses.replace(event, **common)

    def metric(self, run: str, step: int) -> Metric:
        """A metric, still to be published."""
        return Metric(**self.common(run, "metrics", step), values={"loss": 1.0 / step})

    def publish(self, *events: Event) -> None:
        """In east's log."""
        log = KafkaLog(cluster_of(self.settings.region(EAST)))
        topics = [Message(paths.topic(one.lane), one.run.encode(), CODEC.encode(one), _headers(one)) for one in events]
        try:
            log.publish(topics)
        finally:
            log.close()

    def throw(self, lane: str, *records: RawRecord) -> None:
        """Records as they are, into a lane of east."""
        send(admin_of(self.stack, EAST), paths.topic(lane), batch_of(records))

    def identity(self, event: Event) -> list[Header]:
        """The headers that an event has."""
        return list(_headers(event))

    def configure_topic(self, lane: str, **configs: str) -> None:
        """Set a topic's configuration in east; `_` stands for `.`."""
        named = {name.replace("_", "."): value for name, value in configs.items()}
        resource = ConfigResource(ConfigResourceType.TOPIC, paths.topic(lane), configs=named)
        with contextlib.closing(made(KafkaAdminClient, **admin_of(self.stack, EAST).options(), **COMMON)) as admin:
            admin.alter_configs([resource])

    def goes_on(self, *runs: str, step: int = 900, deadline_s: float = SOON_S) -> str:
        """A checkpoint of each run becomes visible in west; how many did."""
        events = [self.put(run, step) for run in runs]
        self.publish(*events)
        for run in runs:
            self.sees(run, step, deadline_s=deadline_s)
        return f"checkpoints of {', '.join(runs)} are visible afterwards"

    def sees(self, run: str, step: int, region: str = WEST, deadline_s: float = SOON_S) -> None:
        """Wait until a run's checkpoint of a step is visible in a region."""
        what = f"the checkpoint of run {run}, step {step}, is visible in {region}"
        self.wait(lambda: any(one.step == step for one in self.visible(run, region)), what, deadline_s)

    def close(self) -> None:
        """Drop the readers."""
        for log in self.logs.values():
            log.close()


def trainer_of(run: str, region: str) -> str:
    """The name of a light trainer's process."""
    return f"trainer-{run}-{region}"


def _headers(event: Event) -> tuple[tuple[str, bytes], ...]:
    return headers_of(event, event.lane)


def _last_words(log: Path) -> str:
    """The last lines of a log, with the reason in a journal's line if there is one."""
    lines = tail(log, 3).splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "why" in found:
                return str(found["why"]).strip().splitlines()[-1]
    return lines[-1]


def _with_runs(config: Path, runs: Sequence[str]) -> None:
    """Put the runs into the settings."""
    text = config.read_text(encoding="utf-8").replace(f"[runs.{STEADY}]\n", f"[runs.{STEADY}]\nsettle_s = 0\n")
    for run in runs:
        text += f'\n[runs.{run}]\nfirst_region = "{EAST}"\nstandby = ["{WEST}"]\nsettle_s = 0\n'
    config.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def opened(folder: Path, runs: Sequence[str], services: Sequence[tuple[str, str]], *, by_hand: bool) -> Iterator[Live]:
    """Two regions with these runs, and these services at work.

    Args:
        folder: of the stack.
        runs: beside the steady one.
        services: and the region of each.
        by_hand: whether the runs' first epoch is written here, since no controller works.
    """
    with Stack(folder, Tools.cached(), REGIONS, LinkShape()) as stack:
        stack.start()
        config = local_config.write(stack.layout, run=STEADY)
        _with_runs(config, runs)
        settings = load(config, {})
        if by_hand:
            _prepare(settings, (STEADY, *runs))
        for region in REGIONS:
            settings.region(region).node_dir.mkdir(parents=True, exist_ok=True)
        actors = Actors(stack.folder, config, settings.service_ports())
        live = Live(stack, config, actors, services)
        try:
            yield live
        finally:
            live.close()
            actors.stop()
            local_config.clean(stack.folder)


def _prepare(settings: Settings, runs: Sequence[str]) -> None:
    """Topics, schemas and each run's first epoch, as a controller and an agent leave them."""
    for region in REGIONS:
        ensure_topics(cluster_of(settings.region(region)), replication=1)
        store = store_of(settings.region(region))
        store_schemas(store)
        for run in runs:
            seen = {"run": run, "epoch": 1, "region": EAST, "forks": [[1, 0, -1]]}
            store.create(paths.epoch_seen(run, 1), json.dumps(seen).encode())
