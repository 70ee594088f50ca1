"""The loopback stack: a broker and an object store per region, the witness, and the links between them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from infra.local import servers
from infra.local.errors import StackBusy, StackError, StackNotRunning
from infra.local.layout import LINKS, Endpoints, Layout, LinkShape, check_regions, port_names
from infra.local.links import LinkBytes, Links
from infra.local.ports import PortClaims
from infra.local.tools import Tools
from services.runtime.child_processes import ProcessId, own_id, spawn, start_ticks, state_letter, tail, wait_for
from services.runtime.restarts import RestartPolicy
from services.runtime.supervision import Supervised, Supervisor

FIRST_PORT = 20_100
READY_S = 60.0
END_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server, as an operator wants to see it."""

    name: str
    pid: int | None
    port: int
    state: str  # running, frozen, gone
    uptime_s: float
    restarts: int = 0  # how often its supervisor has started it again
    reason: str = ""  # how it ended last; "" if it never did


class Stack:
    """Owns the servers of one folder; they die with the process that started them.

    Args:
        folder: data, logs, pid files and `stack.json` go there.
        tools: the programs.
        regions: names, lower case.
        link: what every cross-region path does to traffic.
    """

    def __init__(
        self,
        folder: Path,
        tools: Tools,
        regions: tuple[str, ...] = ("east", "west"),
        link: LinkShape | None = None,
    ) -> None:
        check_regions(regions)
        self.folder = folder
        self._tools = tools
        self._regions = regions
        self._shape = link or LinkShape()
        self._claims = PortClaims()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._servers: dict[str, servers.Server] = {}
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Regions and ports of the started stack."""
        if self._layout is None:
            raise StackNotRunning("the stack has not been started")
        return self._layout

    @property
    def links(self) -> Links:
        """The links' control."""
        return Links(self.layout.ports[LINKS], self.layout.proxies(), self._shape)

    def start(self, say: Say = lambda _: None) -> None:
        """Start everything and wait until it answers; on failure nothing is left.

        Raises:
            StackBusy: a live process owns a stack in this folder.
            StackError: a server did not come up; its log's end is in the text.
        """
        if owner_of(self.folder) is not None:
            raise StackBusy(f"a stack runs in {self.folder} already: `farside down` first")
        for name in ("logs", "pids", "data", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        names = port_names(self._regions)
        ports = {name: self._claims.claim([FIRST_PORT + at]) for at, name in enumerate(names)}
        self._layout = Layout(self.folder, self._regions, ports)
        try:
            self._servers = servers.build(self._layout, self._tools)
            with ThreadPoolExecutor(max_workers=len(self._servers)) as pool:
                list(pool.map(lambda name: self._start(name, say), self._servers))
            self.links.create()
            self._write_state()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything: SIGTERM first, SIGKILL for servers that do not end. Frozen ones are continued first."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        self._claims.release()
        if self._layout is not None:
            self._layout.state_file.unlink(missing_ok=True)

    def kill(self, *names: str) -> None:
        """SIGKILL some servers at once."""
        for name in names:
            self._child(name).kill()
        for name in names:
            self._child(name).wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: alive and silent."""
        self._child(name).send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._child(name).send_signal(signal.SIGCONT)

    def supervised(self, say: Say, policy: RestartPolicy) -> Supervisor:
        """Starts the servers again when they end, if its `look` is called again and again. `stop` ends them as before.

        Args:
            say: is told of each end and each new start.
            policy: how long a server stays down.
        """
        processes = [
            Supervised(name, partial(self._again, name), child, started_s=time.monotonic(), due_s=None)
            for name, child in self._children.items()
        ]
        return Supervisor(processes, policy, say, time.monotonic)

    def note_restarts(self, supervisor: Supervisor) -> None:
        """Write down how often each server was started again, and why, for `states`."""
        for process in supervisor.processes:
            noted = {"restarts": process.restarts.count, "reason": process.restarts.reason}
            servers.write_private(self.layout.restarts_file(process.name), json.dumps(noted) + "\n")

    def restart(self, name: str) -> None:
        """Start a killed server again, on its ports and data."""
        if self._child(name).poll() is None:
            self.kill(name)
        self._start(name, lambda _: None)
        if name == LINKS:
            self.links.create()

    def cut(self, client: str, target: str, what: str | None = None) -> None:
        """Cut the paths by which one region reaches another (or the witness): kafka, s3 or both."""
        self.links.switch(self.links.select(client, target, what), enabled=False)

    def half_cut(self, client: str, target: str, what: str | None = None, *, answers: bool) -> None:
        """One-way cut: requests arrive and answers do not, or the other way about; connections stay open."""
        self.links.half_cut(self.links.select(client, target, what), answers=answers)

    def slow_down(self, client: str, target: str, what: str | None = None, *, latency_ms: int, jitter_ms: int) -> None:
        """Answers from there come late."""
        self.links.slow_down(self.links.select(client, target, what), latency_ms, jitter_ms)

    def narrow(self, client: str, target: str, what: str | None = None, *, kilobytes_s: int) -> None:
        """Limit the rate of each connection by which ``client`` reads from ``target``."""
        self.links.narrow(self.links.select(client, target, what), kilobytes_s)

    def heal(self, client: str, target: str, what: str | None = None) -> None:
        """Undo `cut`, `half_cut` and `slow_down`."""
        paths = self.links.select(client, target, what)
        self.links.restore(paths)
        self.links.switch(paths, enabled=True)

    def link_bytes(self) -> dict[str, LinkBytes]:
        """Bytes that crossed each path."""
        return self.links.bytes_by_path()

    def endpoints(self) -> Endpoints:
        """How clients reach everything."""
        return self.layout.endpoints()

    def states(self) -> list[ServerState]:
        """Every server as it is now."""
        return states(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _child(self, name: str) -> subprocess.Popen[bytes]:
        if name not in self._children:
            raise StackError(f"no server {name!r}; there are {', '.join(sorted(self._children))}")
        return self._children[name]

    def _start(self, name: str, say: Say) -> None:
        server, log = self._servers[name], self.layout.log(name)
        if server.format_argv is not None and not (self.folder / "data" / name / "meta.properties").exists():
            done = subprocess.run(server.format_argv, env=dict(server.env), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StackError(f"{name} could not format its storage:\n{done.stdout}{done.stderr}")
        self.layout.restarts_file(name).unlink(missing_ok=True)
        child = self._spawned(name)
        wait_for(lambda: child.poll() is not None or server.ready(), READY_S)
        if child.poll() is not None or not server.ready():
            raise StackError(f"{name} did not come up; the end of {log}:\n{tail(log)}")
        say(f"{name} answers")

    def _spawned(self, name: str) -> subprocess.Popen[bytes]:
        server = self._servers[name]
        child = spawn(server.argv, server.env, self.folder, self.layout.log(name))
        self._children[name] = child
        ticks = start_ticks(child.pid)
        self.layout.pid_file(name).write_text(json.dumps({"pid": child.pid, "ticks": ticks}), encoding="utf-8")
        return child

    def _again(self, name: str) -> subprocess.Popen[bytes]:
        """Start a server that ended; nobody waits for it but the links, whose paths have to be made again."""
        child = self._spawned(name)
        if name == LINKS:
            wait_for(lambda: child.poll() is not None or self._servers[name].ready(), END_S)
            self.links.create()
        return child

    def _write_state(self) -> None:
        owner = own_id()
        state = {
            "owner": asdict(owner),
            "regions": list(self._regions),
            "ports": dict(self.layout.ports),
            "link": asdict(self._shape),
        }
        servers.write_private(self.layout.state_file, json.dumps(state, indent=1) + "\n")


def owner_of(folder: Path) -> ProcessId | None:
    """The live process that owns a stack in this folder; None if there is none."""
    try:
        state = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    owner = ProcessId(**state["owner"])
    return owner if owner.alive() else None


def running_layout(folder: Path) -> Layout:
    """Regions and ports of the stack that runs in a folder.

    Raises:
        StackNotRunning: none does.
    """
    if owner_of(folder) is None:
        raise StackNotRunning(f"no stack runs in {folder}: start one with `farside up`")
    state = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    return Layout(folder, tuple(state["regions"]), state["ports"])


def states(folder: Path) -> list[ServerState]:
    """Every server of the stack in a folder, as it is now."""
    layout = running_layout(folder)
    return [_state(layout, name) for name in layout.servers()]


def remove(folder: Path) -> None:
    """Delete a stopped stack's data and logs."""
    if owner_of(folder) is not None:
        raise StackBusy(f"a stack runs in {folder}: `farside down` first")
    shutil.rmtree(folder, ignore_errors=True)


def _state(layout: Layout, name: str) -> ServerState:
    port = layout.ports[name]
    noted: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        noted = json.loads(layout.restarts_file(name).read_text(encoding="utf-8"))
    try:
        process = ProcessId(**json.loads(layout.pid_file(name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ServerState(name, None, port, "gone", 0.0, **noted)
    if not process.alive():
        return ServerState(name, None, port, "gone", 0.0, **noted)
    word = "frozen" if state_letter(process.pid) == "T" else "running"
    return ServerState(name, process.pid, port, word, process.uptime_s(), **noted)
