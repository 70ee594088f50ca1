"""``Run``: the interface that a training script uses."""

from __future__ import annotations

import atexit
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat

from farside import _agree, _checkpoint
from farside._session import Grant, Mode, Session, identity
from farside._values import portable_float
from farside.errors import SupersededError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch.distributed.checkpoint.storage import StorageReader, StorageWriter

_log = logging.getLogger("farside")


@dataclass(frozen=True, slots=True)
class Start:
    """Where this launch begins, and under whose authority.

    Attributes:
        epoch: the region's term; 0 without Farside.
        attempt: this launch's number; 0 without Farside.
        step: how many steps are done; 0 means begin.
        reader: for ``dcp.load(state, storage_reader=start.reader)``; None when ``step`` is 0.
        rank_state: what this rank gave to ``run.rank_state`` at that step; None if it gave nothing.
        mode: exact, same_state or elastic.
        exact: whether the run continues bit for bit.
    """

    epoch: int
    attempt: int
    step: int
    reader: StorageReader | None
    rank_state: bytes | None
    mode: str
    exact: bool


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A checkpoint of this launch that there will not be.

    Attributes:
        step: whose.
        reason: why it was skipped here, or abandoned by the agent.
    """

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """How safe the run is, as the agent last reported it.

    Attributes:
        state: waiting, granted, provisional, superseded or degraded.
        epoch: the region's term.
        attempt: this launch's number.
        committed_step: newest checkpoint committed in this region.
        recoverable_step: newest checkpoint that is safe in another region. "In the spool" is less than this.
        reason: why, where there is something to say.
        given_up: the newest checkpoints that this launch saved in vain, oldest first, as far as this node was told:
            those that this rank skipped, and those that the agent of this node abandoned.
    """

    state: str
    epoch: int
    attempt: int
    committed_step: int | None
    recoverable_step: int | None
    reason: str
    given_up: tuple[GivenUp, ...] = ()


OnSuperseded = Literal["exit", "warn"] | Callable[[Status], None]


class Run:
    """A training run, seen from one of its ranks. Made by ``Run.attach()``.

    Farside missing or sick never stops training: the run is then *degraded*, which is logged once, and
    every method does nothing.
    """

    def __init__(self, session: Session | None, on_superseded: OnSuperseded) -> None:
        self._session = session
        self._on_superseded = on_superseded
        self._superseded_seen = False
        self._complained: set[str] = set()

    @classmethod
    def attach(
        cls,
        *,
        run: str | None = None,
        node_dir: str | Path | None = None,
        launch: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        on_superseded: OnSuperseded = "exit",
    ) -> Run:
        """Attach this rank to its node's agent.

        Args:
            run: the run's name; else ``FARSIDE_RUN``.
            node_dir: the folder shared with the agent; else ``FARSIDE_NODE_DIR``.
            launch: one name for all ranks of this launch; else ``FARSIDE_LAUNCH``, else torchrun's.
            rank: else ``RANK``.
            world_size: else ``WORLD_SIZE``.
            on_superseded: what ``beat`` does when another region has taken the run over: raise
                ``SupersededError`` (the process ends with code 75), log a warning, or call this with the status.
        """
        try:
            who = identity(run, node_dir, launch, rank, world_size)
            if who is None:
                _log.warning("farside.degraded reason=FARSIDE_RUN or FARSIDE_NODE_DIR is not set")
                return cls(None, on_superseded)
            session = Session(who)
        except (OSError, ValueError) as error:
            _log.warning("farside.degraded reason=%s", error)
            return cls(None, on_superseded)
        atexit.register(session.close)
        return cls(session, on_superseded)

    def start(self, mode: Mode = "exact", poll_s: float = 0.02) -> Start:
        """The only source of the resume point. In a standby this waits, warm, until the region takes over.

        Do everything that takes time before it: build the model, join the process groups, run two
        throw-away forward and backward passes. (DDP rebuilds its buckets after the first one, which
        changes the order of its sums: a cold resume with three or more ranks would not be
        bit-identical.)

        Args:
            mode: what the run asks for; what it got is in the answer.
            poll_s: how often to look for the answer; a look costs a few microseconds.

        Raises:
            CorruptCheckpointError: what was granted cannot be loaded as it was saved.
        """
        with self._tolerating("start"):
            if self._session is not None:
                self._session.request(mode)
        healthy = self._session is not None and "start" not in self._complained
        if not _agree.all_ranks(healthy) or self._session is None:
            if healthy:
                _log.warning("farside.degraded reason=another rank cannot reach its spool")
            self._session = None
            return Start(0, 0, 0, None, None, mode, exact=False)
        grant = self._session.wait_for_grant(poll_s)
        _log.info("farside.granted epoch=%d attempt=%d step=%d", grant.epoch, grant.attempt, grant.step)
        with self._tolerating("data_version"):
            self._session.publish_data_version()
        return _start_from(grant, self._session.who.rank)

    def beat(self, step: int, phase: str = "train", budget_s: float = 60.0) -> None:
        """Report that this rank is alive; call it at every step boundary.

        Args:
            step: how many steps are done.
            phase: what comes now; a compile, an evaluation or a first save is not a death.
            budget_s: how long this phase may take before silence is a reason to worry.

        Raises:
            SupersededError: another region has the run, and ``on_superseded`` is "exit".
        """
        if self._session is None:
            return
        with self._tolerating("beat"):
            self._session.beat(step, phase, budget_s)
        if not self._superseded_seen and self._session.standing().get("state") == "superseded":
            self._superseded_seen = True
            self._leave(self.status())

    def metric(self, step: int, **values: SupportsFloat) -> None:
        """Publish numbers of this step; tensors of one element will do."""
        if self._session is None:
            return
        portable = {name: portable_float(value) for name, value in values.items()}
        with self._tolerating("metric"):
            self._session.metric(step, portable)

    def data_version(
        self, name: str, digest: str, shards: Sequence[Mapping[str, Any]], sampler: str, seed: int
    ) -> None:
        """Record which data this run reads; every checkpoint from now on names it.

        Args:
            name: for people.
            digest: of the ordered shards, the sampler and the seed.
            shards: ``{"path", "size", "sha256"}`` each, in order.
            sampler: the sampler's name and settings.
            seed: the sampler's seed.
        """
        if self._session is None:
            return
        listed = [dict(shard) for shard in shards]
        self._session.data_version = {
            "name": name,
            "digest": digest,
            "shards": listed,
            "sampler": sampler,
            "seed": seed,
        }
        with self._tolerating("data_version"):
            self._session.publish_data_version()

    def writer(self, step: int, health: Mapping[str, SupportsFloat] | None = None) -> StorageWriter:
        """The StorageWriter for the checkpoint of ``step``.

        Args:
            step: how many steps are done.
            health: numbers by which a checkpoint can be judged later, for instance the loss.
        """
        from farside import writer  # noqa: PLC0415 - imports torch

        if self._session is None or self._session.grant is None:
            return writer.DroppingWriter()
        return writer.SpoolStorageWriter(self._session, step, health or {})

    def rank_state(self, step: int, blob: bytes) -> None:
        """This rank's random and loader state for the checkpoint of ``step``; before or after its save.

        Without every rank's blob that checkpoint is not committed. ``farside.rng.capture`` makes one.
        """
        if self._session is not None:
            self._session.rank_state(step, blob)

    def status(self) -> Status:
        """The agent's last report on this run."""
        if self._session is None:
            return Status("degraded", 0, 0, None, None, "Farside is missing or its folder is unusable")
        standing, grant = self._session.standing(), self._session.grant
        return Status(
            state=str(standing.get("state") or ("granted" if grant else "waiting")),
            epoch=int(standing.get("epoch") or (grant.epoch if grant else 0)),
            attempt=int(standing.get("attempt") or (grant.attempt if grant else 0)),
            committed_step=standing.get("committed_step"),
            recoverable_step=standing.get("recoverable_step"),
            reason=str(standing.get("reason") or ""),
            given_up=tuple(GivenUp(step, reason) for step, reason in self._session.given_up()),
        )

    def handed_over(self, step: int, poll_s: float = 0.1) -> bool:
        """After each save, on every rank: whether the run goes on in another region, by a planned move, from here.

        Costs a read of a small file and one collective, unless a move was asked for. Then it waits until everything
        saved is safe there and the region has given the run away (True: stop here), or until the move is called off
        (False: go on). Start the save before it; an asynchronous one goes on meanwhile.

        Args:
            step: how many steps are done, and saved.
            poll_s: how often to look while waiting.
        """
        if self._session is None:
            return False
        waits = False
        while True:
            standing = self._session.standing()
            gone = standing.get("state") == "superseded"
            moving = bool(standing.get("draining")) or gone
            # All ranks or none: one that went on alone would wait for the others in its next collective for ever.
            if _agree.all_ranks(gone):
                self._superseded_seen = True
                _log.warning("farside.handed_over step=%d reason=%s", step, standing.get("reason"))
                return True
            if not (_agree.any_rank(moving) if waits else _agree.all_ranks(moving)):
                return False
            waits = True
            with self._tolerating("beat"):
                self._session.beat(step, "drained", 60.0)
            time.sleep(poll_s)

    def finish(self, step: int) -> None:
        """End the run: the last beat has the phase ``finished``, and the spool is closed."""
        if self._session is None:
            return
        with self._tolerating("finish"):
            self._session.beat(step, "finished", 0.0)
            self._session.close()

    def _leave(self, status: Status) -> None:
        _log.warning("farside.superseded epoch=%d reason=%s", status.epoch, status.reason)
        if callable(self._on_superseded):
            self._on_superseded(status)
        elif self._on_superseded == "exit":
            raise SupersededError(status.reason)

    @contextlib.contextmanager
    def _tolerating(self, what: str) -> Iterator[None]:
        """Log an error of the spool, once for each kind of call; training goes on."""
        try:
            yield
        except OSError as error:
            if what not in self._complained:
                self._complained.add(what)
                _log.warning("farside.degraded in=%s reason=%s", what, error)


def _start_from(grant: Grant, rank: int) -> Start:
    if grant.folder is None:
        return Start(grant.epoch, grant.attempt, grant.step, None, None, grant.mode, grant.exact)
    from farside import reader  # noqa: PLC0415 - imports torch

    index = _checkpoint.read_index(grant.folder)
    return Start(
        epoch=grant.epoch,
        attempt=grant.attempt,
        step=grant.step,
        reader=reader.IndexReader(grant.folder, index),
        rank_state=_checkpoint.read_rank_state(grant.folder, index, rank),
        mode=grant.mode,
        exact=grant.exact,
    )
