"""`python -m tests.fuzz --count N`: mutated inputs to every target; prints what broke, and the seed that repeats it."""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.fuzz.targets import TARGETS, Target

INPUT_S = 5  # no input may take longer
INPUT_BYTES = 256 << 20  # nor use so much more memory than was ever used before
SPACE_BYTES = 3 << 30  # more address space there is not: MemoryError, before the machine is out of memory
SAY_S = 10.0
# Of the inputs; a segment's is a file, a schema is compared with every release, a node's files are an agent's turns.
SHARES = {
    "codec": 0.3,
    "headers": 0.3,
    "segments": 0.08,
    "batches": 0.08,
    "schemas": 0.02,
    "leases": 0.08,
    "bodies": 0.06,
    "intents": 0.075,
    "node-files": 0.005,
}


class HangError(Exception):
    """An input took too long."""


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError(f"longer than {INPUT_S} s")


@contextlib.contextmanager
def bounded_space() -> Iterator[None]:
    """The block, in which this process gets `SPACE_BYTES` more of address space and no more."""
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    wanted = used + SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory() -> Path | None:
    """Where files that live for a millisecond are kept from the disk; None: nowhere."""
    shared = Path("/dev/shm")  # noqa: S108 - a fresh folder is made in it
    return shared if shared.is_dir() else None


def run_target(target: Target, name: str, seeds: range, folder: Path) -> list[str]:
    """Throw one input for each seed; a text for every one that broke a promise."""
    broken = []
    before = signal.signal(signal.SIGALRM, _hang)
    said_s = time.monotonic()
    try:
        with bounded_space():
            for seed in seeds:
                found = _thrown(target, random.Random(f"{name}-{seed}"), folder)
                broken += [f"{name} --seed {seed} --count 1\n{found}"] if found else []
                if sys.stderr.isatty() and time.monotonic() - said_s > SAY_S:
                    said_s = time.monotonic()
                    print(f"{name}: {seed - seeds.start} of {len(seeds)}", file=sys.stderr)
    finally:
        signal.signal(signal.SIGALRM, before)
    return broken


def _thrown(target: Target, generator: random.Random, folder: Path) -> str:
    """The promise that one input broke; "" if it broke none."""
    peak_bytes = _peak_bytes()
    signal.setitimer(signal.ITIMER_REAL, INPUT_S, 1.0)  # again and again: a flow may take it for one part's trouble
    try:
        target(generator, folder)
    except Exception:  # noqa: BLE001 - every one is a finding
        return traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown_bytes = _peak_bytes() - peak_bytes
    return "" if grown_bytes < INPUT_BYTES else f"it took {grown_bytes >> 20} MiB more than was ever used before\n"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs, over all targets")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one")
    chosen = parser.parse_args()
    broken: list[str] = []
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for name, target in TARGETS.items():
            if chosen.target not in {None, name}:
                continue
            count = chosen.count if chosen.target else max(1, round(chosen.count * SHARES[name]))
            begun_s = time.monotonic()
            found = run_target(target, name, range(chosen.seed, chosen.seed + count), Path(folder))
            broken += found
            took_s = time.monotonic() - begun_s
            print(f"{name}: {count} inputs in {took_s:.1f} s, {len(found)} broke a promise")
    for text in broken[:10]:
        print(f"\npython -m tests.fuzz --target {text}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
