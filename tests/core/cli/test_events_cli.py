"""The verbs of `farside events` before they reach a log: help, and one clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.codec import Codec, record_types, schema_text
from schemas.records import Watermark
from services.cli import app
from services.cli.region_logs import progress
from tests.manual_clock import ManualClock

VERBS = [["events", verb] for verb in ("list", "tail", "show", "count", "audit")]
VERBS += [["events", "dead", verb] for verb in ("list", "show", "redrive")]
VERBS += [["schemas", "export"]]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_tells_its_exit_codes_and_gives_json(verb: list[str]) -> None:
    """In its help."""
    result = CliRunner().invoke(app, [*verb, "--help"], terminal_width=100)
    assert result.exit_code == 0
    assert "Exit codes: 0" in result.output
    assert "--json" in result.output


def test_each_wrong_value_is_one_line_and_exit_2() -> None:
    """Before anything is read."""
    args = ["--steps", "9..7", "--lane", "nonsense", "--since", "yesterday"]
    result = CliRunner().invoke(app, ["events", "list", *args])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["farside"] * 3
    assert "steps '9..7': the range is empty" in result.stderr


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["events", "list", "--raw", "octal"], "--raw 'octal': use hex or base64"),
        (["events", "count", "--by", "colour"], "--by 'colour': use some of run"),
        (["events", "dead", "redrive"], "say which: PARTITION/OFFSET, a filter, or --all"),
        (["events", "dead", "redrive", "x"], "place 'x': use PARTITION/OFFSET"),
        (["events", "list"], "No such file or directory"),
    ],
)
def test_a_verb_that_cannot_begin_says_why(tmp_path: Path, args: list[str], line: str) -> None:
    """With the option or the file that is wrong, and exit 2."""
    result = CliRunner().invoke(app, [*args, "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_exported_schemas_are_those_of_every_record_by_the_bytes_in_front_of_it(tmp_path: Path) -> None:
    """A reader finds the writer's schema by what stands in the value, also of records from older versions."""
    result = CliRunner().invoke(app, ["schemas", "export", "--to", str(tmp_path / "new" / "out")])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "new" / "out"
    entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    current = {entry["name"]: entry for entry in entries if entry["current"]}
    assert set(current) == set(record_types())
    assert len({entry["fingerprint"] for entry in entries}) == len(entries) > len(current)
    for name, entry in current.items():
        assert (folder / entry["file"]).read_text(encoding="utf-8") == schema_text(record_types()[name])
        assert entry["file"] == f"schemas/{entry['fingerprint']}.avsc"
    mark = Watermark(run="gpt", epoch=1, producer="p", lane="metrics", seq=1)
    assert Codec().encode(mark)[2:10].hex() == current["Watermark"]["fingerprint"]
    assert "c3 01" in (folder / "README.md").read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, ["schemas", "export", "--to", str(folder / "index.json" / "x")])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)


def test_a_long_read_tells_how_far_it_is_and_a_short_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, every other second, and once more at its end."""
    clock = ManualClock(100.0)
    on_progress = progress(clock)
    on_progress(1, 10)
    on_progress(10, 10)
    assert capsys.readouterr() == ("", "")
    on_progress = progress(clock)
    for done in range(0, 101, 10):
        clock.sleep(0.5)
        on_progress(done, 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "read 30 of 100 records (30 %, 15/s)"
    assert lines[-1] == "read 100 of 100 records (100 %, 18/s)"
    assert len(lines) == 3
