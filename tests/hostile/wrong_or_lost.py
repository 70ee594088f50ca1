"""Protection that is lost in silence: a slow link, damage at rest, a damaged rank state, an event above the limit."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipelines import paths
from pipelines.core.newest_wins import lag_s_max
from pipelines.paths import CheckpointId
from schemas.records import DataVersion
from services.demo.local_config import BUCKET
from services.runtime.clients import store_of
from tests.hostile.cases import Case, Stage
from tests.hostile.live import EAST, PATIENT_S, WEST, Live, trainer_of
from tests.hostile.trainers import Body, Hand, hand, lost_region, other_than

KILOBYTES_S, CHUNK_BYTES, CHUNKS, CADENCE_S = 65, 500_000, 2, 3.0
COMPLETED_LEAST, SLACK_S = 3, 15.0  # starts of two copies, and a busy machine
SHARDS, WIDE = 12_000, 30_000
TAKES_OVER_S, REPAIRED_S = 60.0, 150.0
LOUD = re.compile("damage|corrupt|not what|not whole", re.IGNORECASE)


# --- 1.1 ---


def slow_link(live: Live, run: str) -> str:
    """The link carries a third of what the trainer commits."""
    live.stack.narrow(WEST, EAST, "s3", kilobytes_s=KILOBYTES_S)
    committed_s: list[float] = []
    worst_s, seen = 0.0, 0

    def step() -> bool:
        nonlocal worst_s, seen
        now_s = time.monotonic()
        if not committed_s or now_s - committed_s[-1] >= CADENCE_S:
            number = len(committed_s) + 1
            chunks = [number.to_bytes(4) + bytes([at]) * CHUNK_BYTES for at in range(CHUNKS)]
            live.publish(live.put(run, number * 10, chunks=chunks))
            committed_s.append(time.monotonic())
        steps = [one.step for one in live.visible(run)]
        seen = len(set(steps))
        waiting = committed_s[max(steps, default=0) // 10 :]
        worst_s = max([worst_s, *(time.monotonic() - at_s for at_s in waiting[:1])])
        return seen >= COMPLETED_LEAST

    try:
        with live.undisturbed("replicator-west"):
            live.wait(step, f"{COMPLETED_LEAST} checkpoints are visible in {WEST}", PATIENT_S)
    finally:
        live.stack.heal(WEST, EAST)
    bound_s = lag_s_max(CHUNKS * CHUNK_BYTES, CHUNKS * KILOBYTES_S * 1000, CADENCE_S) + SLACK_S
    assert worst_s <= bound_s, f"the oldest that waited was {worst_s:.0f} s old, the bound is {bound_s:.0f} s"
    return f"{seen} of {len(committed_s)} are visible; none waited longer than {worst_s:.0f} s of {bound_s:.0f} s"


# --- 1.2 ---


def _held_checkpoints(live: Live, run: str, region: str) -> list[CheckpointId]:
    keys = store_of(live.settings.region(region)).list(paths.checkpoints_prefix(run))
    return sorted(paths.committed(keys))


def _object_file(live: Live, region: str, own: CheckpointId) -> Path:
    return live.stack.folder / "data" / f"s3-{region}" / BUCKET / own.chunk(0, 0)


def _flip(live: Live, region: str, own: CheckpointId) -> None:
    """One byte of the first chunk, at rest: in the file in which the store keeps it."""
    with _object_file(live, region, own).open("r+b") as stream:
        stream.seek(100)
        (byte,) = stream.read(1)
        stream.seek(100)
        stream.write(bytes([byte ^ 0x40]))


@contextlib.contextmanager
def _trained(live: Live, run: str, count: int) -> Iterator[tuple[str, str, list[CheckpointId]]]:
    """A run whose standby has so many checkpoints, all that there are, and a trainer that waits; holder and standby."""
    with hand(live, run) as trainer:
        holder, standby = trainer.region, other_than(trainer.region)
        live.train(run, standby)
        try:
            for number in range(1, count + 1):
                trainer.commits(10 * number)
            newest = trainer.previous_step
            live.wait(
                lambda: live.run_status(standby, run).get("recoverable_step") == newest,
                f"step {newest} is recoverable in {standby}",
            )
            yield holder, standby, _held_checkpoints(live, run, standby)
        finally:
            live.kill(trainer_of(run, standby))


def newest_is_damaged(live: Live, run: str) -> str:
    """A byte of the standby's newest checkpoint is flipped, then the primary's region is lost."""
    with _trained(live, run, 3) as (holder, standby, kept):
        newest = kept[-1]
        _flip(live, standby, newest)
        with live.undisturbed(f"controller-{standby}", f"agent-{standby}"), lost_region(live, holder):
            live.wait(lambda: live.run_status(standby, run).get("is_holder"), f"{standby} takes over", TAKES_OVER_S)
            entry = live.run_status(standby, run)["lineage"][-1]
            trainer = trainer_of(run, standby)
            live.wait(lambda: _trains(live, trainer, entry["fork_step"]), "its waiting launch is granted and trains")
    which = "the newest, repaired" if entry["fork_step"] == newest.step else "an older one"
    assert entry["fork_step"] in {one.step for one in kept}, f"it forked at step {entry['fork_step']}"
    return f"epoch {entry['epoch']} from step {entry['fork_step']} ({which}; {newest.step} was damaged); it trains"


def _trains(live: Live, trainer: str, fork_step: int) -> bool:
    gone = live.ended(trainer)
    assert not gone, gone
    text = live.log_path(trainer).read_text(encoding="utf-8", errors="replace")
    return any(int(found) > fork_step for found in re.findall(r"^step (\d+)$", text, re.MULTILINE))


def all_are_damaged(live: Live, run: str) -> str:
    """A byte of each of the standby's checkpoints is flipped, then the primary's region is lost."""
    said = ""
    with _trained(live, run, 2) as (holder, standby, kept):
        before = live.run_status(standby, run)["epoch"]

        def loud() -> bool:
            nonlocal said
            view = live.run_status(standby, run)
            assert view.get("epoch", before) == before, f"{standby} won epoch {view['epoch']}: {view['lineage'][-1]}"
            texts = [view.get("reason", ""), view.get("next", ""), *view.get("troubles", {}).values()]
            texts += [gate["text"] for gate in view.get("gates", ()) if not gate["open"]]
            texts += [f"damages: {one}" for one in view.get("damages", ())]
            said = next((str(text) for text in texts if LOUD.search(str(text))), said)
            ran_out = any(gate["name"] == "lease_left_s" and gate["open"] for gate in view.get("gates", ()))
            return bool(said) and ran_out

        with live.undisturbed(f"controller-{standby}"), lost_region(live, holder):
            for own in kept:
                _flip(live, standby, own)
            live.wait(loud, f"{standby} says that its checkpoints are damaged", TAKES_OVER_S)
            shown = live.farside("explain", "--run", run)
            assert LOUD.search(shown.out + shown.err), f"`explain` does not say so: {shown.out.strip()[-200:]}"
    return f"not promoted, epoch {before}; said: {said[:140]}"


def damaged_at_rest(live: Live, run: str) -> str:
    """A byte of the standby's newest checkpoint is flipped while the standby's controller is away, and the peer lives.

    A controller that works reads each checkpoint when it comes, and again in rounds that are longer than a case may be.
    """
    with _trained(live, run, 2) as (holder, standby, kept):
        path = _object_file(live, standby, kept[-1])
        whole = path.read_bytes()
        live.kill(f"controller-{standby}")
        _flip(live, standby, kept[-1])
        begun_s = time.monotonic()
        live.start("controller", standby)
        live.wait(lambda: path.read_bytes() == whole, f"{standby} repairs it from {holder}", REPAIRED_S)
        took_s = time.monotonic() - begun_s
        journals = (live.settings.state_dir / "timeline").glob(f"*-{standby}.jsonl")
        lines = [line for one in journals for line in one.read_text("utf-8").splitlines()]
        told = {json.loads(line)["event"] for line in lines if "damage" in line and run in line}
        assert told, "it is whole again, and no journal tells of the damage"
    return f"repaired after {took_s:.0f} s; told by {', '.join(sorted(told))}"


# --- 1.3 ---


def _spoilt_file(name: str, named: str) -> Callable[[Live, str], str]:
    def spoil(body: Body, folder: Path) -> Body:
        path = folder / name
        state = path.read_bytes()
        path.write_bytes(bytes([state[0] ^ 1]) + state[1:])
        return body

    def look(live: Live, run: str) -> str:
        """A byte of a file is flipped in the spool, after the client wrote it and before the agent reads it."""
        with hand(live, run) as trainer, live.undisturbed(f"agent-{trainer.region}"):
            found = trainer.outcome(trainer.save(10, spoil))
            assert found.state == "abandoned", f"it is {found.state}"
            assert re.search(named, found.reason), f"abandoned, and the reason does not name it: {found.reason}"
            after = trainer.commits(20)
        return f"abandoned: {found.reason[:100]}; {after}"

    return look


# --- 1.4 ---


def large_data_version(live: Live, run: str) -> str:
    """The data version of a corpus of twelve thousand files, then a metric and a checkpoint."""
    files = [{"path": f"corpus/part-{at:05d}.bin", "size": at, "sha256": f"{at:064x}"} for at in range(SHARDS)]
    with hand(live, run) as trainer, live.undisturbed(f"agent-{trainer.region}", "replicator-west"):
        trainer.public.data_version("corpus", "d" * 64, files, "sequential", 7)
        return _goes_on_behind(live, trainer, lambda: _has_data_version(live, run))


def wide_metric(live: Live, run: str) -> str:
    """A metric of thirty thousand names, then another one and a checkpoint."""
    values = {f"layer/{at:05d}/a_rather_long_name_of_a_metric": float(at) for at in range(WIDE)}
    with hand(live, run) as trainer, live.undisturbed(f"agent-{trainer.region}", "replicator-west"):
        trainer.public.metric(5, **values)
        return _goes_on_behind(live, trainer, lambda: _has_values(live, run, 5, WIDE))


def _goes_on_behind(live: Live, trainer: Hand, arrived: Callable[[], bool]) -> str:
    """All that follows a large event is visible, and the event itself is too, or a dead letter says why not."""
    run = trainer.who.run
    trainer.public.metric(10, loss=0.5)
    trainer.commits(10)
    live.wait(lambda: any(one.step == 10 for one in live.metrics(run)), "the metric behind it is visible", PATIENT_S)
    letters: list[dict[str, object]] = []

    def told() -> bool:
        letters[:] = [one for one in live.letters(trainer.region) if run in json.dumps(one)]
        return arrived() or bool(letters)

    live.wait(told, "the event itself is visible, or a dead letter tells of it")
    if arrived():
        return "the event is visible in the standby, and so is all that follows"
    detail = str(letters[0].get("detail", ""))
    named = paths.TOPIC_PREFIX in detail and re.search(r"\d{6}", detail) and re.search(r"bytes|size|limit", detail)
    assert named, f"a dead letter, whose text names not topic, size and setting: {detail[:200]}"
    return f"dead letter: {detail[:140]}; all that follows is visible"


def _has_data_version(live: Live, run: str) -> bool:
    return any(isinstance(one, DataVersion) for one in live.logs[WEST].events(run))


def _has_values(live: Live, run: str, step: int, count: int) -> bool:
    names = {name for one in live.metrics(run) if one.step == step for name in one.values}
    return len(names) >= count


CASES: Sequence[Case] = (
    Case("slow-link", "some checkpoint completes always, and none waits longer than the stated bound", slow_link),
    *(
        Case(
            f"{what}-damaged",
            "abandoned, and its reason names the file or object; the next one is committed",
            _spoilt_file(name, named),
            Stage.RUNS,
            shares="spoilt-files",
        )
        for what, name, named in (
            ("rank-state", "rank-00000.state", r"rank-00000.state"),
            ("shard", "rank-00000.shard", r"rank-00000(.shard|/chunk-000000)"),
        )
    ),
    Case(
        "large-data-version",
        "all behind it arrives; it does too, or a dead letter names topic, size and setting",
        large_data_version,
        Stage.RUNS,
    ),
    Case(
        "wide-metric",
        "all behind it arrives; it does too, or a dead letter names topic, size and setting",
        wide_metric,
        Stage.RUNS,
    ),
    Case("damaged-at-rest", "found, told and repaired from the peer while it lives", damaged_at_rest, Stage.RUNS),
    Case("newest-damaged", "promoted from a good checkpoint, the waiting launch trains", newest_is_damaged, Stage.RUNS),
    Case("all-damaged", "not promoted, and status and explain say that all are damaged", all_are_damaged, Stage.RUNS),
)
