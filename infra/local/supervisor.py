"""The process that owns a detached stack: starts the servers, starts again what ends, waits for a signal, ends them.

Used as ``python -m infra.local.supervisor FOLDER LATENCY_MS BANDWIDTH_MBIT_S REGION...``. The servers die with it,
however it ends, so a stack never outlives its supervisor.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from infra.local.errors import StackError
from infra.local.layout import LinkShape
from infra.local.stack import Stack
from infra.local.tools import Tools
from services.runtime.restarts import RestartPolicy

USAGE_EXIT = 2
LOOK_S = 0.2
_ARGUMENTS_LEAST = 4


def main(arguments: list[str]) -> int:
    """Own a stack until SIGTERM or SIGINT; 0 after a clean stop, 1 if it did not start."""
    if len(arguments) < _ARGUMENTS_LEAST:
        print("usage: supervisor FOLDER LATENCY_MS BANDWIDTH_MBIT_S REGION...", file=sys.stderr)  # noqa: T201 - its log
        return USAGE_EXIT
    folder, latency_ms, bandwidth_mbit_s, *regions = arguments
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    stack = Stack(Path(folder), Tools.cached(), tuple(regions), LinkShape(int(latency_ms), int(bandwidth_mbit_s)))
    try:
        stack.start()
    except StackError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its log
        return 1
    supervisor = stack.supervised(lambda line: print(line, flush=True), RestartPolicy())  # noqa: T201 - its log
    while not ended.wait(LOOK_S):
        if supervisor.look():
            stack.note_restarts(supervisor)
    stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
