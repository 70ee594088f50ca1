"""The ratchets: no long function, no long file, nothing unfinished, nothing of one machine, names that tell apart."""

import ast
import functools
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
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
# The layers of pyproject.toml's import contracts, and the folders beside them; the longest that fits is a module's.
LAYERS = ("services", "pipelines/flows", "pipelines/core", "pipelines", "schemas", "infra", "client", "tests")


@functools.cache
def _tracked() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return tuple(path for path in map(ROOT.joinpath, listed) if path.is_file())


def _python(folder: str = "") -> list[Path]:
    """Every Python file, or those below one folder of the root."""
    return [path for path in _tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / folder)]


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a module's syntax tree."""
    return tuple(ast.walk(ast.parse(_text(path))))


def _place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def _longer_than(lines_max: int, path: Path) -> list[str]:
    functions = [node for node in _nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        f"{_place(path, node)} {node.name}"
        for node in functions
        if (node.end_lineno or 0) - node.lineno + 1 > lines_max
    ]


def test_there_is_something_to_check() -> None:
    """The other tests look at real files, not at an empty list."""
    assert len(_python()) > 20


def test_no_function_is_longer_than_a_screen() -> None:
    """A function that does not fit on a screen is two functions."""
    assert [place for path in _python() for place in _longer_than(FUNCTION_LINES_MAX, path)] == []


def test_no_file_is_too_long() -> None:
    """A file of more than 600 lines has more than one subject."""
    assert [path.name for path in _python() if len(_text(path).splitlines()) > FILE_LINES_MAX] == []


def test_nothing_is_left_unfinished() -> None:
    """Unfinished work is an issue, not a note in the code."""
    assert [path.name for path in _python() if UNFINISHED.search(_text(path))] == []


def test_no_registry_host_or_machine_path_is_named() -> None:
    """The repository works wherever its packages come from."""
    endings = (".py", ".md", ".toml", ".txt", ".sh", ".xml", ".mod", "Makefile", "run")
    assert [path.name for path in _tracked() if path.name.endswith(endings) and HOSTS.search(_text(path))] == []


def test_tests_wait_for_conditions_and_not_for_time() -> None:
    """A fixed wait is too short on a busy machine and too long on an idle one."""
    assert [path.name for path in _python("tests") if FIXED_WAIT.search(_text(path))] == []


def test_every_invariant_has_a_test_that_claims_it() -> None:
    """The design's I1 to I21, by the tests' names; I17 (who signs is who may) has none yet, and is not claimed."""
    text = "".join(map(_text, (ROOT / "tests").rglob("test_*.py")))
    claimed = {int(number) for name in re.findall(r"def (test_\w+)", text) for number in re.findall(r"_I(\d+)", name)}
    wanted = set(range(1, 22)) - {17}
    assert claimed >= wanted, f"unclaimed: {sorted(wanted - claimed)}"


def test_a_docstring_says_what_a_thing_is_and_does_not_ask() -> None:
    """An opening with the word "What" is half a riddle: the thing's name says it shorter."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    riddles = [
        _place(path, node)
        for path in _python()
        for node in _nodes(path)
        if isinstance(node, documented) and (ast.get_docstring(node) or "").startswith("What ")
    ]
    assert not riddles, "\n".join(riddles)


def _assigned(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that a statement gives a new value."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    else:
        return
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


def _foreign_private_fields(node: ast.AST) -> list[str]:
    """The private fields of other objects that a statement assigns: by `=`, or by setattr with the name as a text."""
    fields = [(target.value, target.attr) for target in _assigned(node) if isinstance(target, ast.Attribute)]
    if isinstance(node, ast.Call) and len(node.args) >= 2:
        names = {getattr(node.func, "id", ""), getattr(node.func, "attr", ""), getattr(node.args[0], "id", "")}
        owner, name = node.args[-3:-1] if len(node.args) >= 3 else node.args
        if "setattr" in names and isinstance(name, ast.Constant):
            fields.append((owner, str(name.value)))
    return [
        f"{ast.unparse(owner)}.{name}"
        for owner, name in fields
        if name.startswith("_") and not name.startswith("__") and getattr(owner, "id", "") not in {"self", "cls"}
    ]


@pytest.mark.parametrize(
    ("statement", "fields"),
    [
        ("flow._clock = clock", ["flow._clock"]),
        ("flow.clock, flow._log = clock, log", ["flow._log"]),
        ("self.flow._turns += 1", ["self.flow._turns"]),
        ("setattr(flow, '_clock', clock)", ["flow._clock"]),
        ("monkeypatch.setattr(flow, '_clock', clock)", ["flow._clock"]),
        ("partial(setattr, flow, '_clock', clock)", ["flow._clock"]),
        ("self._clock = clock", []),
        ("flow.clock = clock", []),
        ("setattr(flow, 'clock', clock)", []),
    ],
)
def test_the_look_for_private_fields_sees_each_way_to_assign_one(statement: str, fields: list[str]) -> None:
    """The test below would prove nothing if it overlooked them."""
    assert [field for node in ast.walk(ast.parse(statement)) for field in _foreign_private_fields(node)] == fields


def test_no_test_assigns_a_private_field_of_another_object() -> None:
    """A test that needs another clock, log or lineage passes it to the constructor: that is what ports are for."""
    places = [
        f"{_place(path, node)} {field}"
        for path in _python("tests")
        for node in _nodes(path)
        for field in _foreign_private_fields(node)
    ]
    assert not places, "\n".join(places)


def test_no_two_modules_of_a_layer_differ_only_by_a_plural() -> None:
    """Whoever looks for the one opens the other."""
    modules: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in _python():
        name = path.relative_to(ROOT).as_posix()
        layer = next((layer for layer in LAYERS if name.startswith(f"{layer}/")), "")
        modules[layer][path.stem].append(name)
    pairs = [
        (sorted(paths), sorted(layer[f"{stem}s"]))
        for layer in modules.values()
        for stem, paths in list(layer.items())
        if f"{stem}s" in layer
    ]
    assert pairs == []
