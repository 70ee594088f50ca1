"""`python -m tests.mutants [--only WORD]`: plant each fault alone in a copy of the code; every one must be noticed."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("client", "infra", "pipelines", "schemas", "services", "tests", "pyproject.toml")
FAILED_TESTS = 1  # pytest's own code: anything else is no verdict
PATIENCE_S = 900


def plant(mutant: Mutant, root: Path) -> None:
    """Change the one place; ValueError unless it is there exactly once."""
    path = root / mutant.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} stands {text.count(mutant.old)} times in {mutant.path}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def is_noticed(mutant: Mutant | None, tests: tuple[str, ...]) -> bool:
    """Whether some test fails with the fault; RuntimeError if the tests could not be run."""
    with tempfile.TemporaryDirectory(prefix="farside-mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, root / name, ignore=ignored) if source.is_dir() else shutil.copy(source, root)
        if mutant is not None:
            plant(mutant, root)
        argv = [sys.executable, "-m", "pytest", "-x", "-p", "no:randomly", "-m", "not full and not servers", *tests]
        env = os.environ | {"PYTHONPATH": f"{root}:{root / 'client'}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        if mutant is None and done.returncode:
            print(done.stdout[-3000:])
        if done.returncode not in {0, FAILED_TESTS}:
            raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        return done.returncode == FAILED_TESTS


def main() -> int:
    """Run all; 0 if each was noticed, 1 with the table if one lives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Plant faults; each must be noticed.")
    parser.add_argument("--only", default="", help="those whose name has this word")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    wanted = parser.parse_args()
    chosen = [one for one in MUTANTS if wanted.only in one.name]
    everything = tuple(sorted({test for one in chosen for test in one.tests}))
    if is_noticed(None, everything):
        print("the tests fail without any fault: mend that first")
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda one: is_noticed(one, one.tests), chosen)
        verdicts = list(track(found, "planting", total=len(chosen), console=Console(stderr=True)))
    if wanted.as_json:
        print(json.dumps({one.name: noticed for one, noticed in zip(chosen, verdicts, strict=True)}))
    else:
        table = Table("fault", "in", "noticed")
        for one, noticed in zip(chosen, verdicts, strict=True):
            table.add_row(one.name, one.path, "yes" if noticed else "NO")
        Console().print(table)
        print(f"{sum(verdicts)} of {len(chosen)} faults noticed")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
