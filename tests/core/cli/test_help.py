"""The help of the commands about authority, alarms and dead letters: an example that parses, and the exit codes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.cli import app

VERBS = [[verb] for verb in ("status", "failover", "switchover", "failback", "pause", "resume", "acknowledge")]
VERBS += [[verb] for verb in ("adopt", "discard", "history", "explain", "lineage")]
VERBS += [["alarms", verb] for verb in ("list", "acknowledge")]
VERBS += [["events", "dead", verb] for verb in ("list", "show", "redrive")]


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words that it is given."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_one_example_that_parses_and_tells_its_exit_codes(verb: list[str]) -> None:
    """The example names the verb itself, with options that exist."""
    text = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "Exit codes: 0 " in text
    examples = re.findall(r"Example: farside (.*)", _command(verb)[0].help or "")
    assert len(examples) == 1
    words = shlex.split(examples[0])
    assert words[: len(verb)] == verb
    command, arguments = _command(words)
    command.make_context("farside", arguments)
