"""Files of a training node that no client would write: refused or skipped with a reason, before anything is signed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from farside import _spool
from schemas.records import Heartbeat
from tests.hostile.cases import Case, Stage
from tests.hostile.live import STEADY, Live
from tests.hostile.trainers import Body, hand

BILLION = 10**9
DEEP = "[" * 200_000
HUGE = b"1" + b"0" * 30


def _beat(**fields: bytes) -> bytes:
    """A whole beat, with these values in the place of its own."""
    whole = {"step": b"1", "phase": b'"train"', "budget_s": b"60.0", "time_ms": b"1", "last_seq": b"{}"}
    whole |= {"epoch": b"1", "attempt": b"1"} | fields
    return b"{" + b", ".join(b'"' + name.encode() + b'": ' + value for name, value in whole.items()) + b"}"


BEATS: tuple[bytes, ...] = (
    b"",
    b"\x00\xff",
    b"null",
    b"[]",
    b'"text"',
    b"17",
    b"{}",
    b'{"step": "ten"}',
    _beat(odd=b"2"),
    _beat(step=b"1e400", phase=b"7", budget_s=b'"x"', time_ms=b"null", last_seq=b"3"),
    _beat(step=HUGE, last_seq=b'{"metrics": ' + HUGE + b"}"),
    _beat(phase=b'"\\ud800"', budget_s=b"NaN", last_seq=b'{"\\ud800": 1}'),
    _beat(budget_s=b"-1", epoch=b"-1", attempt=HUGE),
    DEEP.encode(),
)
REQUESTS: tuple[bytes, ...] = (
    b"",
    b"\x00\xff",
    b"null",
    b"[]",
    b'{"launch": 7, "producer": ["x"]}',
    b'{"launch": "x", "producer": "../../../etc", "world_size": "many"}',
    b'{"launch": "x", "world_size": "many", "fingerprint": 7}',
    b'{"launch": "x", "world_size": 1e400, "fingerprint": []}',
    b'{"launch": "x", "world_size": ' + HUGE + b', "mode": {"a": 1}, "fingerprint": {"a": {"b": 1}}}',
    b'{"launch": "x", "mode": "\\ud800", "fingerprint": {"\\ud800": "x"}}',
    DEEP.encode(),
)
NAMES = ("Upper Case", "-first", "a" * 200, "two\nlines", "ünïcode", "..x", "%2e%2e", "x\\y", "*")


# --- intents ---


def _item(body: Body, **fields: object) -> Body:
    (item,) = body["items"]
    return {**body, "items": [{**item, **fields}]}


def _rank(body: Body, **fields: object) -> Body:
    (rank,) = body["ranks"]
    return {**body, "ranks": [{**rank, **fields}]}


INTENTS: dict[str, Callable[[Body], Body]] = {
    "dtype": lambda body: _item(body, dtype="float65"),
    "world-size": lambda body: {**body, "world_size": BILLION},
    "negative-world": lambda body: {**body, "world_size": -1},
    "planner-json": lambda body: {**body, "planner": "{not json"},
    "planner-kind": lambda body: {**body, "planner": [1, 2]},
    "shape": lambda body: _item(body, shape=[3, BILLION]),
    "negative-shape": lambda body: _item(body, shape=[-1, -1]),
    "item-beyond": lambda body: _item(body, offset=10 * BILLION),
    "item-rank": lambda body: _item(body, rank=7),
    "rank-size": lambda body: _rank(body, size=BILLION * BILLION),
    "rank-twice": lambda body: {**body, "ranks": [*body["ranks"], *body["ranks"]]},
    "no-ranks": lambda body: {**body, "ranks": []},
}


def _intent(change: Callable[[Body], Body]) -> Callable[[Live, str], str]:
    def look(live: Live, run: str) -> str:
        """One checkpoint with such an intent, then one as it should be."""
        with hand(live, run) as trainer, live.undisturbed(f"agent-{trainer.region}"):
            found = trainer.outcome(trainer.save(10, lambda body, _folder: change(body)))
            assert found.state == "abandoned", f"it is {found.state}"
            assert found.reason, "abandoned without a reason"
            said = trainer.commits(20)
        return f"abandoned: {found.reason[:100]}; {said}"

    return look


# --- beats, requests, names ---


def _turns(live: Live, region: str) -> None:
    """The agent goes on: it tells of the steady run's nodes twice more."""

    def beats() -> int:
        return sum(isinstance(one, Heartbeat) for one in live.logs[region].events(STEADY))

    before = beats()
    live.wait(lambda: beats() >= before + 2, "the agent's heartbeats of another run go on")


@contextlib.contextmanager
def _removed(*folders: Path) -> Iterator[None]:
    """The block; afterwards these are gone."""
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def beats(live: Live, run: str) -> str:
    """Each content in the beat of a rank that lives."""
    with hand(live, run) as trainer, live.undisturbed(f"agent-{trainer.region}"):
        trainer.background.flush(10.0)
        (log,) = trainer.run_folder.glob("producers/*/beat.json")
        for content in BEATS:
            log.write_bytes(content)
            _turns(live, trainer.region)
        said = trainer.commits(10)
    return f"{len(BEATS)} contents, the same agent; {said}"


def requests(live: Live, run: str) -> str:
    """Each content in the request of a launch; the run's own launch comes after all of them."""
    region = live.held_by(run)
    launches = _spool.launches_folder(live.settings.region(region).node_dir, run)
    folders = [launches / f"odd-{at:02d}" for at in range(len(REQUESTS))]
    with live.undisturbed(f"agent-{region}"), _removed(*folders):
        for folder, content in zip(folders, REQUESTS, strict=True):
            folder.mkdir(parents=True)
            _spool.request_path(folder).write_bytes(content)
            _turns(live, region)
        with hand(live, run) as trainer:
            said = trainer.commits(10)
    return f"{len(REQUESTS)} contents, the same agent; {said}"


def names(live: Live, run: str) -> str:
    """Folders of runs, launches and producers whose names could be no key."""
    region = live.held_by(run)
    node_dir = live.settings.region(region).node_dir
    places = [node_dir / "runs", _spool.launches_folder(node_dir, run), _spool.producers_folder(node_dir, run)]
    folders = [place / name for place in places for name in NAMES]
    with live.undisturbed(f"agent-{region}"), _removed(*folders):
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "log").write_bytes(b"FS\x01")
            (folder / "request.json").write_bytes(b"{}")
            (folder / "beat.json").write_bytes(b"{}")
        _turns(live, region)
        with hand(live, run) as trainer:
            said = trainer.commits(10)
    return f"{len(folders)} folders, the same agent; {said}"


CASES = (
    *(
        Case(
            f"intent-{name}",
            "abandoned with its reason and not signed; the next one commits",
            _intent(change),
            Stage.RUNS,
            shares="intents",
        )
        for name, change in INTENTS.items()
    ),
    Case("beats", "skipped; the same agent, and the run's checkpoints commit", beats, Stage.RUNS, shares="node-files"),
    Case(
        "requests",
        "refused; the same agent, and the run's own launch is granted",
        requests,
        Stage.RUNS,
        shares="node-files",
    ),
    Case(
        "folder-names",
        "skipped; the same agent, and the run's own launch is granted",
        names,
        Stage.RUNS,
        shares="node-files",
    ),
)
