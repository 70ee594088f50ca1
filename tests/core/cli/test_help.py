"""Every command's `--help` ends with an example that can be typed as it stands, and with its exit codes."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.cli import app

Node = Any  # a click command or group: typer brings its own copy of click, which it does not export

ROOT: Node = typer.main.get_command(app)


def _is_group(node: Node) -> bool:
    return hasattr(node, "commands")


def _commands(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """Every command by its full name; of the groups only those that do something without a sub-command."""
    if not _is_group(node):
        yield name, node
        return
    if node.invoke_without_command:
        yield name, node
    for word, child in node.commands.items():
        yield from _commands(child, f"{name} {word}".strip())


COMMANDS = dict(_commands(ROOT))


def _lines(node: Node, label: str) -> list[str]:
    """The paragraphs of a help that begin with a label, each on one line, in their order."""
    paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(node.help or "").split("\n\n")]
    return [text.removeprefix(label).strip() for text in paragraphs if text.startswith(label)]


def _parsed(words: list[str]) -> str:
    """The full name of the command that these words call; click's own errors if it or an option does not exist."""
    node, context, names = ROOT, None, list[str]()
    while True:
        context = node.make_context(node.name, words, parent=context)
        if not _is_group(node):
            return " ".join(names)
        words = [*context._protected_args, *context.args]
        if not words and node.invoke_without_command:
            return " ".join(names)
        name, node, words = node.resolve_command(context, words)
        names.append(name)


def test_the_walk_finds_commands_groups_and_sub_commands() -> None:
    """Those of the three depths, and the one group that is a command itself; a group that only holds others is none."""
    assert {
        "up",
        "failover",
        "controller",
        "events list",
        "events dead redrive",
        "doctor",
        "doctor determinism",
    } <= set(COMMANDS)
    assert not {"", "events", "events dead", "alarms", "schemas"} & set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_one_example_that_parses_as_this_command(name: str) -> None:
    """With options that exist, values of their types, and none that is required left out."""
    (example,) = _lines(COMMANDS[name], "Example:")
    program, *words = shlex.split(example)
    assert (program, _parsed(words)) == ("farside", name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_says_what_each_exit_code_means(name: str) -> None:
    """In one paragraph, behind the example, beginning with the code of success."""
    (codes,) = _lines(COMMANDS[name], "Exit codes:")
    assert codes.startswith("0 ")
    assert codes.endswith(".")
    text = inspect.cleandoc(COMMANDS[name].help)
    assert text.index("Example:") < text.index("Exit codes:")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_prints_the_example_on_one_line_of_its_own_in_80_columns(name: str) -> None:
    """So that it can be copied; and no paragraph of a docstring is broken where its source is."""
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    (example,) = _lines(COMMANDS[name], "Example:")
    assert f"Example: {example}" in [line.strip() for line in shown.output.splitlines()]


@pytest.mark.parametrize(
    "words",
    [
        ["sweeep", "--run", "gpt"],
        ["sweep", "--run", "gpt", "--regoin", "west"],
        ["sweep", "--run", "gpt"],
        ["doctor", "determinism", "--steps", "many"],
    ],
    ids=["no such command", "no such option", "a required option is missing", "a value of another type"],
)
def test_a_wrong_example_is_found(words: list[str]) -> None:
    """The tests above rest on this."""
    with pytest.raises(Exception, match=r"(?i)no such|missing|valid integer"):
        _parsed(words)
