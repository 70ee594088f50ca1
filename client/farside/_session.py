"""One rank, attached to its node's spool: everything that a healthy ``Run`` does, without torch."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from farside import _checkpoint, _spool, _thinning, fingerprint
from farside._background import Background

_log = logging.getLogger("farside")
_BEAT_WAITING_S = 1.0
_GIVEN_UP_MAX = 16  # checkpoints that are remembered for status()
_LOG_WAITING_S = 60.0
METRIC_BYTES_MAX = 256 * 1024  # of one step's values in one record: as an event it is far below what Kafka takes
_VALUE_BYTES, _CHARACTER_BYTES = 26, 6  # a float as JSON with what stands around it; a character that JSON escapes
_NAME_KEPT = 120  # of a launch's name that was used before: a number must fit behind it

Mode = Literal["exact", "same_state", "elastic"]


@dataclass(frozen=True, slots=True)
class Identity:
    """This rank's identity. Every value has its environment variable; arguments come first."""

    run: str
    node_dir: Path
    launch: str
    rank: int
    local_rank: int
    world_size: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The agent's answer to a launch."""

    epoch: int
    attempt: int
    step: int
    mode: str
    exact: bool
    folder: Path | None


def identity(
    run: str | None, node_dir: str | Path | None, launch: str | None, rank: int | None, world_size: int | None
) -> Identity | None:
    """This rank's identity from the arguments and the environment; None where no run is named."""
    run = run or os.environ.get("FARSIDE_RUN")
    folder = node_dir or os.environ.get("FARSIDE_NODE_DIR")
    if not run or not folder:
        return None
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    return Identity(
        run=_spool.safe_name(run, "FARSIDE_RUN"),
        node_dir=Path(folder),
        launch=_spool.safe_name(launch or _launch_name(), "FARSIDE_LAUNCH"),
        rank=rank,
        local_rank=int(os.environ.get("LOCAL_RANK", str(rank))),
        world_size=int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size,
    )


def _launch_name() -> str:
    """One name for all ranks that one launcher started together on this node, and for no others.

    torchrun's restarts are launches of their own, also under a name that was given: two generations of
    ranks must never share an attempt. Without a rendezvous id ("none") the launcher process is what
    they have in common.
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    given = os.environ.get("FARSIDE_LAUNCH")
    if given:
        return given if restart == "0" else f"{given}-{restart}"
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if rendezvous != "none":
        return f"{rendezvous}-{restart}"
    parent = os.getppid()
    try:
        # The 22nd field is the start time; the command's name (in parentheses) may hold blanks.
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "0"
    return f"local-{parent}-{started}-{restart}"


class Session:
    """The spool, the background thread and the authority under which this rank acts.

    Args:
        who: this rank.
        clock: seconds, by which the room of the spool is measured again from time to time.

    Raises:
        OSError: the node directory cannot be used.
    """

    def __init__(self, who: Identity, clock: Callable[[], float] = time.monotonic) -> None:
        self.who = who
        incarnation = _spool.incarnation_name(who.rank)
        self._producer = _spool.producer_folder(who.node_dir, who.run, incarnation)
        self.spool = _spool.SpoolWriter(self._producer, who.run)
        self.background = Background()
        bytes_max = int(os.environ.get("FARSIDE_SPOOL_BYTES_MAX") or _thinning.BYTES_MAX)
        self._metrics = _thinning.MetricGate(
            append=lambda kind, step, body: self.append(_spool.LANE_METRICS, kind, step, body),
            look=lambda: _thinning.measure(_spool.producers_folder(who.node_dir, who.run), bytes_max),
            soon=self.background.submit,
            clock=clock,
        )
        self.launch_folder = _spool.launch_folder(who.node_dir, who.run, who.launch)
        self.launch_folder.mkdir(parents=True, exist_ok=True)
        self.grant: Grant | None = None
        self.mode: str = "exact"
        self.data_version: dict[str, Any] | None = None
        self._data_version_due = False
        self.previous_step: int | None = None
        self._intended: set[int] = set()
        self._written: set[int] = set()
        self._states_due: dict[int, bytes] = {}  # for which there was no room; the background thread adds
        self._standing: dict[str, Any] = {}
        self._standing_seen: tuple[int, int] | None = None
        self._given_up: dict[int, str] = {}

    @property
    def run_folder(self) -> Path:
        """Everything of this run on this node."""
        return _spool.run_folder(self.who.node_dir, self.who.run)

    # --- the conversation with the agent ---

    def request(self, mode: Mode) -> None:
        """Ask for a start; one rank of the node does."""
        self.mode = mode
        if self.who.local_rank != 0:
            return
        self.launch_folder = self._unused()
        _spool.write_json_atomically(
            _spool.request_path(self.launch_folder),
            {
                "launch": self.launch_folder.name,
                "given": self.who.launch,
                "producer": self._producer.name,
                "run": self.who.run,
                "world_size": self.who.world_size,
                "mode": mode,
                "fingerprint": fingerprint.environment(self.who.world_size),
                "guard": os.environ.get("FARSIDE_GUARD", ""),
                "time_ms": _now_ms(),
            },
        )

    def _unused(self) -> Path:
        """The launch's folder, or a fresh one beside it if a launch before this one was granted under the same name.

        A scheduler that requeues a job may give the old name again. The old answer is another attempt's: that is over,
        and under the policy *hard* its guard would rightly kill whoever acts on it.
        """
        given, asked = self.launch_folder, _spool.read_json(_spool.request_path(self.launch_folder))
        # A grant that nobody asked for was laid there for us; an asker that lives is of this very launch.
        if asked is None or not _spool.grant_path(given).exists() or self._asker_lives(asked):
            return given
        for number in itertools.count(2):
            fresh = given.with_name(f"{given.name[:_NAME_KEPT]}.{number}")
            try:
                fresh.mkdir()
            except FileExistsError:
                continue
            _log.warning("farside.launch_name_used launch=%s: asking as %s", given.name, fresh.name)
            return fresh
        return given

    def _asker_lives(self, asked: dict[str, Any]) -> bool:
        producer = str(asked.get("producer", ""))
        folder = _spool.producers_folder(self.who.node_dir, self.who.run) / producer
        return bool(producer) and _spool.is_writer_alive(_spool.log_path(folder))

    def _joined(self) -> bool:
        """Whether it is known where this node's first rank asks, which may have had to take a fresh name."""
        if self.who.local_rank == 0:
            return True
        own = self.launch_folder
        asked = {
            one: _spool.read_json(_spool.request_path(one))
            for one in (own, *own.parent.glob(f"{own.name[:_NAME_KEPT]}.*"))
        }
        for folder, request in asked.items():
            if request is not None and request.get("given") == self.who.launch and self._asker_lives(request):
                self.launch_folder = folder
                return True
        return asked[own] is None and _spool.grant_path(own).exists()

    def wait_for_grant(self, poll_s: float) -> Grant:
        """Wait, hours if need be, until the agent says where to begin. A poll costs one ``stat``."""
        path = ""
        begun = beaten = logged = time.monotonic()
        self.beat(0, "waiting", 60.0)
        while True:
            if not path and self._joined():
                path = str(_spool.grant_path(self.launch_folder))
            grant = self._read_grant(path) if path else None
            if grant is not None:
                self.grant, self.mode = grant, grant.mode
                return grant
            time.sleep(poll_s)
            now = time.monotonic()
            if now - beaten >= _BEAT_WAITING_S:
                beaten = now
                self.beat(0, "waiting", 60.0)
            if now - logged >= _LOG_WAITING_S:
                logged = now
                _log.info(
                    "farside.waiting run=%s for_s=%.0f launch=%s", self.who.run, now - begun, self.launch_folder.name
                )

    def _read_grant(self, path: str) -> Grant | None:
        try:
            os.stat(path)  # noqa: PTH116 - 50 times a second for hours: Path would build an object each time
        except OSError:
            return None
        found = _spool.read_json(Path(path))
        if found is None or found.get("launch") != self.launch_folder.name:
            _log.warning("farside.grant_unreadable path=%s: waiting for another", path)
            return None
        folder = found.get("folder")
        return Grant(
            epoch=int(found["epoch"]),
            attempt=int(found["attempt"]),
            step=int(found["step"]),
            mode=str(found.get("mode", self.mode)),
            exact=bool(found.get("exact", False)),
            folder=Path(folder) if folder else None,
        )

    def standing(self) -> dict[str, Any]:
        """The agent's newest report on this launch; the file is read again only when it was replaced."""
        try:
            stat = _spool.standing_path(self.launch_folder).stat()
        except OSError:
            return self._standing
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._standing_seen:
            found = _spool.read_json(_spool.standing_path(self.launch_folder))
            if found is not None:
                self._standing, self._standing_seen = found, seen
                for step, reason in _given_up_in(found):
                    self._note_given_up(step, reason)
        return self._standing

    def given_up(self) -> tuple[tuple[int, str], ...]:
        """The newest checkpoints of this launch that there will not be, with the reasons, by step.

        An agent that was started again knows only of those after that: what was read once is kept here.
        """
        self.standing()
        return tuple(sorted(self._given_up.items()))

    def _note_given_up(self, step: int, reason: str) -> None:
        if step not in self._given_up:
            _log.warning("farside.checkpoint_given_up run=%s step=%d reason=%s", self.who.run, step, reason)
        self._given_up[step] = reason
        for oldest in sorted(self._given_up)[:-_GIVEN_UP_MAX]:
            del self._given_up[oldest]

    # --- the records of this rank ---

    def append(self, lane: str, kind: str, step: int, body: dict[str, Any]) -> None:
        """Append a record under the grant; before there is a grant, log a warning and do nothing."""
        if self.grant is None:
            _log.warning("farside.too_early kind=%s: call run.start() first", kind)
            return
        epoch, attempt = self.grant.epoch, self.grant.attempt
        self.spool.append(lane, kind, epoch=epoch, attempt=attempt, step=step, body=body)

    def metric(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers of a step, or leave them out by the spool's rule when its room runs short."""
        if self.grant is None:
            _log.warning("farside.too_early kind=metric: call run.start() first")
            return
        for part in parts_of(values):
            self._metrics.offer(step, {"values": part})

    def beat(self, step: int, phase: str, budget_s: float) -> None:
        """Replace this rank's beat; the background thread writes it, and never fsyncs it."""
        beat = {
            "step": step,
            "phase": phase,
            "budget_s": budget_s,
            "time_ms": _now_ms(),
            "last_seq": self.spool.last_seq,
            "epoch": self.grant.epoch if self.grant else 0,
            "attempt": self.grant.attempt if self.grant else 0,
        }
        if self._data_version_due:
            with contextlib.suppress(_spool.SpoolError):  # there is still no room for it: at the next beat again
                self.publish_data_version()
        for due in list(self._states_due):
            self.background.submit(partial(self._put_state_due, due))
        path = _spool.beat_path(self._producer)
        self.background.replace_newest(lambda: _spool.write_json_atomically(path, beat, durable=False))

    def publish_data_version(self) -> None:
        """Record the data version once it and the grant are both known; rank 0 does."""
        if self.data_version is not None and self.grant is not None and self.who.rank == 0:
            self._data_version_due = True
            try:
                self.append(_spool.LANE_DATA_VERSIONS, "data_version", self.grant.step, self.data_version)
            except _spool.SpoolError as error:
                self._data_version_due = error.errno != errno.EMSGSIZE  # that one will not fit later either
                raise
            self._data_version_due = False

    def checkpoint_folder(self, step: int) -> Path | None:
        """Where this attempt's checkpoint of ``step`` lies; None before the grant."""
        if self.grant is None:
            return None
        who, grant = self.who, self.grant
        return _spool.checkpoint_folder(who.node_dir, who.run, grant.epoch, grant.attempt, step)

    def rank_state(self, step: int, blob: bytes) -> None:
        """Put this rank's state into the checkpoint of ``step``, in the background; without room for it, once more.

        The save may find room that the state did not, and the agent would wait for it, and with it for every later
        checkpoint, as long as this attempt lives.
        """
        folder = self.checkpoint_folder(step)
        if folder is not None:
            self.background.submit(lambda: self._put_state(step, folder, blob))

    def _put_state(self, step: int, folder: Path, blob: bytes) -> None:
        self._states_due[step] = blob
        _checkpoint.write_rank_state(folder, self.who.rank, blob)
        self._states_due.pop(step, None)

    def _put_state_due(self, step: int) -> None:
        """Write a waiting rank state, with each beat until it succeeds; drop it if its checkpoint was given up."""
        blob, folder = self._states_due.get(step), self.checkpoint_folder(step)
        if blob is None or folder is None:
            return
        if folder.exists():
            self._put_state(step, folder, blob)
        elif step < (self.previous_step or 0):
            self._states_due.pop(step, None)

    def intent(self, step: int, body: dict[str, Any]) -> None:
        """A complete checkpoint lies in the spool; called on the coordinator."""
        body = {
            "mode": self.mode,
            "world_size": self.who.world_size,
            "fingerprint": fingerprint.environment(self.who.world_size),
            "previous_step": self.previous_step,
            "data_version": (self.data_version or {}).get("digest", ""),
            **body,
        }
        self.append(_spool.LANE_CHECKPOINTS, "intent", step, body)
        self.previous_step = step
        self._intended.add(step)

    def write_once(self, step: int) -> None:
        """Note that this rank writes the checkpoint of ``step``; an attempt does that once.

        Raises:
            AlreadySavedError: it did before. (The files may be gone: the agent clears away what is uploaded.)
        """
        if step in self._written:
            raise _checkpoint.AlreadySavedError(errno.EEXIST, f"this attempt has saved step {step} before")
        self._written.add(step)

    def skipped(self, step: int, reason: str) -> None:
        """Give a checkpoint up: delete its files (not those of an earlier, good save), and record the reason."""
        folder = self.checkpoint_folder(step)
        self._states_due.pop(step, None)
        if folder is not None and step not in self._intended:
            shutil.rmtree(folder, ignore_errors=True)
        _log.warning("farside.checkpoint_skipped run=%s step=%d reason=%s", self.who.run, step, reason)
        self._given_up[step] = reason
        self._note_given_up(step, reason)
        try:
            self.append(_spool.LANE_CHECKPOINTS, "skipped", step, {"reason": reason})
        except _spool.SpoolError as error:  # the disk is so full that not even this fits: it was logged
            _log.warning("farside.skip_unrecorded run=%s step=%d: %s", self.who.run, step, error)

    def close(self) -> None:
        """Sync everything to disk and close the log."""
        self.background.flush(timeout_s=10.0)
        with contextlib.suppress(_spool.SpoolError):  # the log is closed, or there is no room to tell of the lack of it
            self._metrics.finish()
        self.spool.close()


def _given_up_in(standing: dict[str, Any]) -> list[tuple[int, str]]:
    """The checkpoints that an agent names as given up; an older one names none."""
    named = standing.get("given_up")
    entries = [one for one in named if isinstance(one, dict)] if isinstance(named, list) else []
    return [(one["step"], str(one.get("reason", ""))) for one in entries if isinstance(one.get("step"), int)]


def parts_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The values of one step in records that are each small enough to be an event; nearly always it is one."""
    parts: list[dict[str, Any]] = [{}]
    size = 0
    for name, value in values.items():
        takes = len(name) * (1 if name.isascii() else _CHARACTER_BYTES) + _VALUE_BYTES
        if size + takes > METRIC_BYTES_MAX and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += takes
    return parts


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
