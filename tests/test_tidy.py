"""The ratchets: no long function, no long file, nothing unfinished, nothing of one machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600
# Split up, so that this file does not find itself.
UNFINISHED = re.compile("TO" + r"DO|FIX" + r"ME|XX" + "X|NotImplemented" + "Error")
HOSTS = re.compile(r"pypi\.[o]rg|pythonhosted\.[o]rg|repo1?\.maven\b|(proxy|sum)\.golang\.[o]rg|npmjs\.[o]rg|/[w]ork/")
# Polling a condition every few hundredths of a second is waiting for it; anything longer is waiting for time.
FIXED_WAIT = re.compile(r"time\.sleep\(\s*(0?\.[1-9]|[1-9])")


def _tracked(*endings: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in listed if not endings or name.endswith(endings)]
    return [path for path in paths if path.is_file()]


def _python() -> list[Path]:
    return _tracked(".py")


def test_there_is_something_to_check() -> None:
    """The other tests look at real files, not at an empty list."""
    assert len(_python()) > 20


@pytest.mark.parametrize("path", _python(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    """A function that does not fit on a screen is two functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX]
    assert long == []


def test_no_file_is_too_long() -> None:
    """A file of more than 600 lines has more than one subject."""
    long = [path.name for path in _python() if len(path.read_text(encoding="utf-8").splitlines()) > FILE_LINES_MAX]
    assert long == []


def test_nothing_is_left_unfinished() -> None:
    """What is not done is an issue, not a note in the code."""
    found = [path.name for path in _python() if UNFINISHED.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_no_registry_host_or_machine_path_is_named() -> None:
    """The repository works wherever its packages come from."""
    text = _tracked(".py", ".md", ".toml", ".txt", ".sh", ".xml", ".mod", "Makefile", "run")
    found = [path.name for path in text if HOSTS.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_tests_wait_for_conditions_and_not_for_time() -> None:
    """A fixed wait is too short on a busy machine and too long on an idle one."""
    tests = [path for path in _python() if "tests" in path.relative_to(ROOT).parts]
    found = [path.name for path in tests if FIXED_WAIT.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_every_invariant_has_a_test_that_claims_it() -> None:
    """The design's I1 to I16, by the tests' names."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    claimed = {int(number) for name in re.findall(r"def (test_\w+)", text) for number in re.findall(r"_I(\d+)", name)}
    assert claimed >= set(range(1, 17)), f"unclaimed: {sorted(set(range(1, 17)) - claimed)}"
