"""A trainer without torch: the client's own session, spool, grants and checkpoints, with a hash chain for a model.

The state after step n is a function of n alone, so what a launch resumes from can be compared with what it must be.
Exit codes: 0 never, 75 superseded, 70 what was granted is not what was saved.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from farside import _checkpoint, _spool
from farside._session import Grant, Session, identity
from farside.errors import SupersededError

SHARD_BYTES = 64 * 1024
SUPERSEDED_EXIT, WRONG_EXIT = 75, 70
GENESIS = bytes(32)


def state_after(state: bytes, step: int) -> bytes:
    """One training step."""
    return hashlib.sha256(state + step.to_bytes(8)).digest()


def state_at(step: int) -> bytes:
    """The state that a run which never lost anything has after so many steps."""
    state = GENESIS
    for one in range(1, step + 1):
        state = state_after(state, one)
    return state


def resumed_from(grant: Grant) -> bytes:
    """The state in the granted checkpoint; ValueError if it is not the one of that step."""
    wanted = state_at(grant.step)
    if grant.folder is None:
        if grant.step:
            raise ValueError(f"step {grant.step} is granted without a checkpoint")
        return wanted
    index = _checkpoint.read_index(grant.folder)
    shard = (grant.folder / index["files"]["0"]).read_bytes()
    found = _checkpoint.read_rank_state(grant.folder, index, 0)
    if index["step"] != grant.step or shard != wanted * (SHARD_BYTES // len(wanted)) or found != wanted:
        raise ValueError(
            f"the checkpoint granted for step {grant.step} is not what was saved (it says {index['step']})"
        )
    return wanted


def save(session: Session, step: int, state: bytes) -> None:
    """Writes a checkpoint as the storage writer and `run.rank_state` do, of one rank and one tensor."""
    folder = session.checkpoint_folder(step)
    if folder is None:
        raise ValueError("a checkpoint is written under a grant")
    session.write_once(step)
    shard = _checkpoint.ShardWriter(folder, 0, SHARD_BYTES, SHARD_BYTES // 2)
    offset, digest = shard.write_item(memoryview(state * (SHARD_BYTES // len(state))))
    item: dict[str, Any] = {"fqn": "state", "kind": "tensor", "rank": 0, "offset": offset, "length": SHARD_BYTES}
    item |= {"sha256": digest, "dtype": "uint8", "shape": [SHARD_BYTES], "chunk_offsets": [0]}
    item |= {"chunk_sizes": [SHARD_BYTES]}
    description = shard.finish()
    _spool.write_json_atomically(folder / _spool.descriptor_name(0), {**description, "items": [item]})
    session.rank_state(step, state)
    body = {"health": {"loss": 1 / step}, "ranks": [description], "items": [item], "planner": {"state": ["state"]}}
    session.intent(step, body)


def try_to_save(session: Session, step: int, state: bytes) -> None:
    """As the storage writer, which gives a checkpoint up for want of room; everything else is a mistake."""
    try:
        save(session, step, state)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        session.skipped(step, str(error))


def train(session: Session, grant: Grant, wanted: argparse.Namespace) -> None:
    """Steps until another region has the run."""
    more = {f"value_{number:04d}": 1 / 3 for number in range(wanted.values)}
    state = resumed_from(grant)
    for step in itertools.count(grant.step + 1):
        time.sleep(wanted.step_s)
        state = state_after(state, step)
        session.beat(step, "train", 60.0)
        if session.standing().get("state") == "superseded":
            raise SupersededError(str(session.standing().get("reason")))
        session.metric(step, {"loss": 1 / step, **more})
        if step % wanted.every == 0:
            try_to_save(session, step, state)
            sys.stdout.write(f"step {step}\n")
            sys.stdout.flush()


def main() -> int:
    """Attach, wait for the grant, train; who it is comes from the environment, as for every client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--values", type=int, default=0, help="so many more in each metric, for a spool that fills")
    wanted = parser.parse_args()
    who = identity(None, None, None, 0, 1)
    if who is None:
        sys.exit("FARSIDE_RUN and FARSIDE_NODE_DIR are wanted")
    Path(who.node_dir).mkdir(parents=True, exist_ok=True)
    session = Session(who)
    session.request("exact")
    try:
        train(session, session.wait_for_grant(0.05), wanted)
    except SupersededError:
        return SUPERSEDED_EXIT
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return WRONG_EXIT
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
