"""The two that `bench-events` compares, as processes on the same brokers: Farside's replicator, and MirrorMaker 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.servers import write_private
from infra.local.stack import Stack
from infra.local.tools import Tools
from pipelines import paths
from services.demo.actors import Failed, read_lines
from services.http.endpoints import replicator_of
from services.runtime.child_processes import compiling_environment, spawn, tail, wait_for
from services.settings import Settings
from tests.benchmarks.event_load import EAST, WEST, Broker
from tests.brokers import admin_of

TICKS = os.sysconf("SC_CLK_TCK")
END_S, LOOK_S = 30.0, 0.5  # a look at our own status costs it a few milliseconds
# The options of Kafka's own start script, with a heap that is not larger than needed: its script gives 2 GB.
HEAP = ("-Xms256m", "-Xmx512m")
JVM = ("-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")
_LINE = re.compile(r"^\S+ (INFO|WARN|ERROR|FATAL) (.*)$")
_RESET = re.compile(r"out of range|[Rr]esetting|[Rr]eset offset|truncat")
_LOG4J = """status = error
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = OUT
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time and memory that a process has used so far."""

    at_s: float
    cpu_s: float
    rss_mb: float
    peak_mb: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """As the kernel counts it, all threads together."""
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        sizes = {name: int(kib) / 1024 for name, kib in re.findall(r"(VmRSS|VmHWM):\s+(\d+)", status)}
        cpu_s = (int(stat[11]) + int(stat[12])) / TICKS
        return cls(time.monotonic(), cpu_s, sizes["VmRSS"], sizes["VmHWM"])


@dataclass(frozen=True, slots=True)
class Notices:
    """The lines that a replicator logged since a mark.

    Attributes:
        about: the messages, warnings or louder, about the topic or its records.
        warnings: all other messages that are as loud.
        quiet: the quieter messages about offsets that it gave up.
    """

    about: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()


class Peer(ABC):
    """One of the two."""

    name: str

    def __init__(self, stack: Stack) -> None:
        self.east, self.west = Broker(admin_of(stack, EAST)), Broker(admin_of(stack, WEST))
        self._stack = stack
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._child is not None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._child is None:
            self._child = spawn(self._argv(), self._environment(), Path.cwd(), self._log)

    def stop(self) -> None:
        """SIGTERM, and wait until it has noted what it has to note."""
        child, self._child = self._child, None
        if child is None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def usage(self) -> Usage:
        """Of its process now; Failed if it has ended."""
        if self._child is None or self._child.poll() is not None:
            raise Failed(f"{self.name} has ended:\n{tail(self._log)}")
        return Usage.of(self._child.pid)

    def wait(self, what: str, count: int, deadline_s: float) -> list[tuple[int, Usage]]:
        """Until so many records of the metrics' topic are visible; how many were at each look, and what it had used."""
        found: list[tuple[int, Usage]] = []

        def there() -> bool:
            found.append((self.done(), self.usage()))
            time.sleep(LOOK_S)
            return found[-1][0] >= count

        if not wait_for(there, deadline_s):
            raise Failed(f"{self.name}: {what}: {found[-1][0]} of {count} records within {deadline_s:.0f} s")
        return found

    @abstractmethod
    def source(self, topic: str) -> str:
        """The topic in the first region that stands for one of Farside's."""

    @abstractmethod
    def target(self, topic: str) -> str:
        """The topic's name in the second region."""

    @abstractmethod
    def done(self) -> int:
        """How many records of the metrics' topic are visible in the second region."""

    @abstractmethod
    def mark(self) -> int:
        """A place in its log."""

    @abstractmethod
    def notices(self, mark: int, topic: str) -> Notices:
        """The lines that it logged since then."""

    @property
    @abstractmethod
    def _log(self) -> Path: ...

    @abstractmethod
    def _argv(self) -> Sequence[str]: ...

    def _environment(self) -> Mapping[str, str]:
        return compiling_environment({})


class Farside(Peer):
    """The replicator of the second region, as `farside replicator` starts it, with all its flows."""

    name = "Farside"

    def __init__(self, stack: Stack, settings: Settings, config: Path) -> None:
        super().__init__(stack)
        self._config = config
        self._replicator = replicator_of(settings, WEST)
        self._timeline = settings.state_dir / "timeline" / f"replicator-{WEST}.jsonl"

    def source(self, topic: str) -> str:
        """Itself."""
        return topic

    def target(self, topic: str) -> str:
        """The same name."""
        return topic

    def done(self) -> int:
        """As its status counts; `farside events count` checks it afterwards."""
        lane = (self._replicator.status() or {}).get(f"{EAST}/metrics")
        return 0 if lane is None else lane.counts.get("published", 0)

    def mark(self) -> int:
        """How many lines its timeline has."""
        return len(read_lines(self._timeline))

    def notices(self, mark: int, topic: str) -> Notices:
        """The gaps and holes in its timeline."""
        lane = topic.removeprefix(paths.TOPIC_PREFIX)
        entries = [entry for entry in read_lines(self._timeline)[mark:] if entry.get("lane") == lane]
        hidden = {"time_ms", "service", "at", "peer", "lane", "run"}
        about = [
            json.dumps({k: v for k, v in entry.items() if k not in hidden}) for entry in entries if _is_loss(entry)
        ]
        others = {str(entry["event"]) for entry in entries if not _is_loss(entry)}
        return Notices(tuple(about), quiet=tuple(sorted(others)))

    @property
    def _log(self) -> Path:
        return self._stack.layout.log("replicator")

    def _argv(self) -> Sequence[str]:
        return [sys.executable, "-m", "services.cli", "replicator", "--region", WEST, "--config", str(self._config)]


class Mirror(Peer):
    """MirrorMaker 2 in its dedicated mode, one task, from the first region to the second.

    It reads committed records only. Heartbeats and the copying of ACLs, which have nothing to do with the records, are
    off; offset syncs and the checkpoints of consumer groups, of which there are none, are as by default.
    """

    name = "MirrorMaker 2"

    def __init__(self, stack: Stack, tools: Tools, refresh_s: int | None) -> None:
        """`refresh_s`: how often it looks for new topics; None: its default, 600."""
        super().__init__(stack)
        self._tools, self._refresh_s = tools, refresh_s
        self._folder = stack.folder / "config"

    def source(self, topic: str) -> str:
        """Of the same shape, under a name of its own."""
        return topic.replace(paths.TOPIC_PREFIX, "bench.")

    def target(self, topic: str) -> str:
        """As its default policy names it."""
        return f"{EAST}.{self.source(topic)}"

    def done(self) -> int:
        """It has no transactions, so offsets count records."""
        return self.west.end(self.target(paths.METRICS))

    def mark(self) -> int:
        """How long its log is."""
        return self._log.stat().st_size if self._log.exists() else 0

    def notices(self, mark: int, topic: str) -> Notices:
        """Its log's lines: as loud as a warning, or about a reset of offsets."""
        with self._log.open("rb") as stream:
            stream.seek(mark)
            text = stream.read().decode(errors="replace")
        lines = [found for line in text.splitlines() if (found := _LINE.match(line))]
        loud = [found[0].partition(" ")[2][:300] for found in lines if found[1] != "INFO"]
        about = [line for line in loud if self.source(topic) in line]
        quiet = [
            found[2][:300]
            for found in lines
            if found[1] == "INFO" and self.source(topic) in found[2] and _RESET.search(found[2])
        ]
        return Notices(tuple(about), tuple(dict.fromkeys(line for line in loud if line not in about)), tuple(quiet))

    def settings(self) -> dict[str, str]:
        """Its properties, without those that log it in."""
        found = {
            "clusters": f"{EAST}, {WEST}",
            f"{EAST}->{WEST}.enabled": "true",
            f"{WEST}->{EAST}.enabled": "false",
            f"{EAST}->{WEST}.topics": r"bench\..*",
            f"{EAST}->{WEST}.consumer.isolation.level": "read_committed",
            f"{EAST}->{WEST}.emit.heartbeats.enabled": "false",
            f"{WEST}->{EAST}.emit.heartbeats.enabled": "false",
            "sync.topic.acls.enabled": "false",
            "tasks.max": "1",
            "plugin.discovery": "service_load",  # its log advises it; it starts in half the time
        }
        topics = ("offset-syncs.topic.", "checkpoints.topic.", "heartbeats.topic.")
        factors = ("", *topics, "config.storage.", "offset.storage.", "status.storage.")
        found |= {f"{name}replication.factor": "1" for name in factors}
        if self._refresh_s is not None:
            found["refresh.topics.interval.seconds"] = str(self._refresh_s)
        return found

    def _login(self) -> dict[str, str]:
        """The first region is read through the link, as the replicator reads it."""
        found: dict[str, str] = {}
        for name, cluster in ((EAST, admin_of(self._stack, EAST, WEST)), (WEST, self.west.cluster)):
            if cluster.user is None:
                raise Failed(f"{name} has no administrator")
            who = f'username="{cluster.user.username}" password="{cluster.user.password}"'
            found |= {
                f"{name}.bootstrap.servers": cluster.bootstrap,
                f"{name}.security.protocol": "SASL_PLAINTEXT",
                f"{name}.sasl.mechanism": "PLAIN",
                f"{name}.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule required {who};",
            }
        return found

    @property
    def _log(self) -> Path:
        return self._stack.layout.log(f"mirror-{self._refresh_s or 'default'}")

    def _argv(self) -> Sequence[str]:
        properties, log4j = self._folder / "mirror.properties", self._folder / "mirror-log4j2.properties"
        properties_by_name = self.settings() | self._login()
        write_private(
            properties, "".join(f"{name} = {_escaped(value)}\n" for name, value in properties_by_name.items())
        )
        log4j.write_text(_LOG4J, encoding="utf-8")
        java = [str(self._tools.java), *HEAP, *JVM, f"-Dlog4j2.configurationFile={log4j}"]
        return [
            *java,
            "-cp",
            f"{self._tools.kafka_jars}/*",
            "org.apache.kafka.connect.mirror.MirrorMaker",
            *[str(properties)],
        ]

    def _environment(self) -> Mapping[str, str]:
        return {
            key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME"}
        }

    def check(self) -> None:
        """Failed unless its log shows that it reads committed records only."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        if "isolation.level = read_committed" not in text:
            raise Failed(f"MirrorMaker 2 does not read committed records only; see {self._log}")


def _is_loss(line: Mapping[str, object]) -> bool:
    return line["event"] == "replicate.alarm"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
