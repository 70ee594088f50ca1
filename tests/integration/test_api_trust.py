"""Controllers of two regions on every address of the machine, an operator's laptop, and whoever else knocks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from pipelines.ports import GrantReply
from schemas.http_bodies import FailoverAnswer, FailoverBody, GrantBody
from services.cli import app
from services.http.endpoints import Endpoint, UnexpectedAnswerError, ask, controller_of
from services.settings import Settings, load
from tests.certificates import Signed, certificate, pem
from tests.integration.test_events import two_regions
from tests.integration.test_lag_truth import BEAT_S, Primary
from tests.waiting import repeated, wait_until

pytestmark = pytest.mark.servers
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Two regions, and a laptop that has the settings, the authority and a token, and none of the regions' files."""

    settings: Settings
    laptop: Path
    token: str

    def farside(self, *words: str) -> Result:
        """A command on the laptop."""
        environment = {"COLUMNS": "200", "FARSIDE_TOKEN": self.token}
        return CliRunner().invoke(app, [*words, "--config", str(self.laptop)], env=environment)

    def as_agent(self) -> Endpoint:
        """East's controller, asked by the region's agent."""
        at = controller_of(self.settings, "east").at
        token_file = self.settings.region("east").api.agent_token_file
        return dataclasses.replace(at, token_file=token_file, is_command=False)


def _written(folder: Path, authority: Signed) -> str:
    """The settings of a service that listens everywhere."""
    key, found = certificate("east", authority)
    plain = serialization.NoEncryption()
    path = folder / "tls.key.pem"
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    (folder / "tls.cert.pem").write_bytes(pem(found))
    return f'host = "0.0.0.0"\ntls_certificate_file = "{folder / "tls.cert.pem"}"\ntls_key_file = "{path}"\n'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Fleet]:
    """East holds the run, west stands by; ann is let in at both."""
    folder, authority = tmp_path_factory.mktemp("trust"), certificate("an authority")
    (folder / "ca.pem").write_bytes(pem(authority[1]))
    trusts = f'tls_ca_file = "{folder / "ca.pem"}"\n'
    with two_regions(folder, begun=False) as (_, plain, config, actors):
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace(".api]\n", f".api]\n{trusts}{_written(folder, authority)}"), encoding="utf-8")
        settings, ann = load(config, {}), folder / "ann.token"
        for region in ("east", "west"):
            callers = str(plain.region(region).api.callers_file)
            words = ["token", "--name", "ann", "--role", "operator", "--callers", callers, "--to", str(ann)]
            assert CliRunner().invoke(app, words).exit_code == 0
            actors.service("controller", region)
        laptop = folder / "laptop.toml"
        here = text.replace(str(plain.state_dir), str(folder / "laptop")).replace("/keys/", "/not-on-this-machine/")
        laptop.write_text(here.replace(".api]\n", f".api]\n{trusts}"), encoding="utf-8")
        found = _Fleet(settings, laptop, ann.read_text(encoding="utf-8").strip())
        primary = Primary(settings)
        with contextlib.closing(primary), repeated(primary.turn, BEAT_S):
            west = controller_of(settings, "west")
            wait_until(
                lambda: getattr(west.status_of("gpt"), "primary", "") == "east", DEADLINE_S, "east holds the run"
            )
            wait_until(lambda: getattr(west.status_of("gpt"), "attempt", 0) == 1, DEADLINE_S, "its trainer is granted")
            yield found


def test_nobody_but_an_operator_moves_the_run(fleet: _Fleet) -> None:
    """Not an agent, not a viewer, not a stranger; and nobody states a fence in their place."""
    body = FailoverBody(run="gpt", note="", key="k" * 16, epoch=1, fenced=True, fenced_epoch=1)
    west = controller_of(fleet.settings, "west").at
    viewer = fleet.settings.region("west").api.viewer_token_file
    for token_file in (fleet.settings.region("west").api.agent_token_file, viewer, None):
        somebody = dataclasses.replace(west, token_file=token_file, is_command=False)
        with pytest.raises(UnexpectedAnswerError, match=r"/v1/failover is for an operator|no valid credential"):
            ask(somebody, "/v1/failover", FailoverAnswer, body)
    status = controller_of(fleet.settings, "west").status_of("gpt")
    assert status is not None
    assert (status.epoch, status.operator_pending) == (1, False)


def test_an_unknown_launch_and_an_incredible_step_change_nothing(fleet: _Fleet) -> None:
    """They superseded the trainer, and kept every later failover from happening."""
    strange = GrantBody(run="gpt", launch="nobodys", committed_step=10**12, node="east-n0")
    for launch in ("nobodys", "l"):
        reply = ask(fleet.as_agent(), "/v1/grant", GrantReply, dataclasses.replace(strange, launch=launch))
        assert reply is not None
        assert reply.state == ("granted" if launch == "l" else "wait")
    with pytest.raises(UnexpectedAnswerError, match="may not ask for run 'gpt' on node 'east-n1'"):
        ask(fleet.as_agent(), "/v1/grant", GrantReply, dataclasses.replace(strange, node="east-n1", begins=True))
    before = controller_of(fleet.settings, "east").status_of("gpt")
    wait_until(lambda: _valid_again(fleet), DEADLINE_S, "it is renewed")
    after = controller_of(fleet.settings, "east").status_of("gpt")
    assert before is not None
    assert after is not None
    assert (after.attempt, after.committed_step) == (1, -1)


def _valid_again(fleet: _Fleet) -> bool:
    status = controller_of(fleet.settings, "east").status_of("gpt")
    return status is not None and status.valid_s > 2.0


def test_a_failover_from_a_laptop_that_does_not_win_says_why(fleet: _Fleet) -> None:
    """East lives: a fence is not believed, and without one the gates stay closed; they are shown after the wait."""
    words = ("failover", "--run", "gpt", "--to", "west", "--yes", "--reason", "a try")
    fenced = fleet.farside(*words, "--i-have-fenced-the-old-region")
    assert (fenced.exit_code, fenced.stdout) == (1, "refused: nothing was changed\n"), fenced.stderr
    assert "east does not look fenced: its record changed" in fenced.stderr
    assert "--fenced-epoch 1" in fenced.stderr
    expired = fleet.farside(*words)
    assert (expired.exit_code, expired.stdout) == (1, "expired: nothing was changed\n"), expired.stderr
    shown, _, told = expired.stderr.partition("the gates stayed closed")
    assert ": closed" in shown
    assert ": closed" in told
    assert "does not answer" not in expired.stderr


def test_a_pause_from_a_laptop_is_in_the_history_under_the_credentials_name(fleet: _Fleet) -> None:
    """Whatever the laptop's user is called."""
    done = fleet.farside("pause", "--run", "gpt", "--reason", "maintenance", "--yes")
    assert done.exit_code == 0, done.stderr
    listed = fleet.farside("history", "--run", "gpt", "--json")
    (paused,) = [one for one in json.loads(listed.stdout) if one["reason"] == "pause"]
    assert (paused["actor"], paused["note"]) == ("ann", "maintenance")
    assert fleet.farside("resume", "--run", "gpt", "--yes").exit_code == 0
    stranger = CliRunner().invoke(
        app, ["pause", "--run", "gpt", "--yes", "--config", str(fleet.laptop)], env={"FARSIDE_TOKEN": "x" * 40}
    )
    assert stranger.exit_code == 1
    assert "no valid credential" in stranger.stderr
