"""A stack that goes on when the command that started it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from infra.local.errors import StackError
from infra.local.layout import LinkShape
from infra.local.stack import READY_S, owner_of
from infra.local.tools import cache_folder
from services.runtime.child_processes import tail, wait_for

END_S = 20.0


def default_folder() -> Path:
    """`FARSIDE_STACK`, or a folder in the cache."""
    named = os.environ.get("FARSIDE_STACK")
    return Path(named).expanduser().absolute() if named else cache_folder() / "stack"


def up(folder: Path, regions: tuple[str, ...], link: LinkShape) -> bool:
    """Start a supervisor and wait for the stack; False if one runs already.

    Raises:
        StackError: it did not come up; nothing is left then.
    """
    if owner_of(folder) is not None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "supervisor.log"
    shape = [str(link.latency_ms), str(link.bandwidth_mbit_s)]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "infra.local.supervisor", str(folder), *shape, *regions],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: supervisor.poll() is not None or owner_of(folder) is not None, READY_S * 2)
    except BaseException:
        supervisor.terminate()
        supervisor.wait(END_S)
        raise
    if owner_of(folder) is None:
        supervisor.terminate()
        supervisor.wait(END_S)
        raise StackError(f"the stack did not start; the end of {log}:\n{tail(log)}")
    return True


def down(folder: Path) -> bool:
    """Stop the stack of a folder; False if none runs.

    Raises:
        StackError: it did not end in time.
    """
    owner = owner_of(folder)
    if owner is None:
        return False
    owner.send(signal.SIGTERM)
    if not wait_for(lambda: not owner.alive(), END_S):
        raise StackError(f"the supervisor (pid {owner.pid}) did not end within {END_S:.0f} s")
    return True
