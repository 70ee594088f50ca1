"""A standby that has nothing is rebuilt from its peer's log, or from a recording; killed in between, it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.runtime.clients import store_of
from tests.integration.test_events import CHUNK, DEADLINE_S, OWN, _Plane, opened
from tests.waiting import wait_until

pytestmark = pytest.mark.servers


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[_Plane]:
    """East has events, and a checkpoint with all its bytes; west has nothing, and nobody runs there."""
    with opened(tmp_path) as found:
        store_of(found.settings.region("east")).create(OWN.chunk(0, 0), CHUNK)
        yield found


def test_I15_a_rebuild_that_is_killed_goes_on_and_the_regions_replicator_goes_on_from_there(
    plane: _Plane, tmp_path: Path
) -> None:
    """From a recording of the primary's log: events, artifacts and ledger; nothing twice, nothing lost."""
    recording = str(tmp_path / "east.avro")
    plane.farside("replay", "--at", "east", "--to", recording, "--execute")
    into = ("replay", "--at", "east", "--into", "west", "--from-file", recording)
    assert "the handlers: 6 new (normal replication will deliver them)" in plane.farside(*into).stdout
    command = [sys.executable, "-m", "services.cli", *into, "--execute", "--rate", "0.5", "--config", str(plane.config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ)
    listed = ("events", "list", "--at", "west", "--lane", "metrics")
    try:
        wait_until(lambda: bool(plane.lines(*listed)), DEADLINE_S, "the first metric in west")
    finally:
        process.kill()
        process.communicate()
    assert len(plane.lines(*listed)) < 4
    result = plane.farside(*into, "--execute")
    assert "continuing where it was stopped" in result.stderr
    assert "replayed into west" in result.stdout
    assert [line["record"]["seq"] for line in plane.lines(*listed)] == [1, 2, 4, 5]
    assert store_of(plane.settings.region("west")).get(OWN.chunk(0, 0)) == CHUNK
    assert "has followed east already" in plane.farside(*into, "--execute", "--again", code=2).stderr
    plane.actors.service("replicator", "west")
    port = plane.settings.region("west").ports.replicator
    wait_until(lambda: plane.answers(port), DEADLINE_S, "west's replicator")
    (report,) = plane.lines("events", "audit", "--run", "gpt")
    assert report["unaccounted"] == []
    assert len(plane.lines(*listed)) == 4


def test_I2_a_rebuild_ends_when_the_regions_replicator_is_started_and_leaves_the_rest_to_it(plane: _Plane) -> None:
    """Both write under one transactional id: whoever came first is fenced, and says so in one line."""
    into = ("replay", "--at", "east", "--into", "west")
    command = [sys.executable, "-m", "services.cli", *into, "--execute", "--rate", "0.5", "--config", str(plane.config)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "400"}
    )
    listed = ("events", "list", "--at", "west", "--lane", "metrics")
    try:
        wait_until(lambda: bool(plane.lines(*listed)), DEADLINE_S, "the first metric in west")
        plane.actors.service("replicator", "west")
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "the replicator of west was started meanwhile and goes on with the rest by itself" in errors
    wait_until(lambda: len(plane.lines(*listed)) == 4, DEADLINE_S, "the rest, from the replicator")
