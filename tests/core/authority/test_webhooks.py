"""The webhook and the dead-man's ping: sent when it matters, once, and silent when the controller stands still."""

from __future__ import annotations

import dataclasses
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.flows.authority.webhooks import Receivers, WatchedController, Webhooks
from schemas.records import GENESIS, EpochEntry
from services.adapters.http.poster import REASON_CHARS_MAX, SIGNATURE, HttpPoster
from services.adapters.memory.object_store import MemoryObjectStore
from services.settings import RunSettings
from tests.manual_clock import ManualClock

CLOCK = ManualClock(1_000.0)
OBJECTS = 409
WON = EpochEntry(
    epoch=2,
    parent_epoch=1,
    fork_step=30,
    fork_manifest_digest=GENESIS,
    fork_lineage_seq=3,
    region="west",
    reason="region_lost",
    actor="controller",
    time_ms=5,
)


class _World(ManualClock):
    """Implements Clock, Journal and Poster by remembering."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.turned_at_s = self.now_s
        self.won: EpochEntry | None = WON
        self.posted: list[tuple[str, bytes]] = []
        self.away = False
        self.said: list[str] = []

    def say(self, event: str, **fields: object) -> None:
        del fields
        self.said.append(event)

    def judge(self, key: str, body: bytes) -> str:
        """Implements Poster: has no objections."""
        self.post(key, body)
        return ""

    def post(self, key: str, body: bytes) -> None:
        if self.away:
            raise RetryableError("it does not answer")
        self.posted.append((key, body))

    def notify(self, store: MemoryObjectStore, *, pings: bool = False) -> Webhooks:
        """A controller's, freshly started."""
        return Webhooks(
            run="gpt",
            region="west",
            receivers=Receivers(webhook=None if pings else self, ping=self if pings else None, ping_s=30.0),
            watched=WatchedController(won=lambda: self.won, turned_at_s=lambda: self.turned_at_s),
            store=store,
            clock=self,
            journal=self,
        )


def test_I15_an_epoch_is_told_once_also_after_a_restart() -> None:
    """Who won, why, and a key by which a repetition is known."""
    world, store = _World(), MemoryObjectStore()
    first = world.notify(store)
    first.turn()
    first.turn()
    world.notify(store).turn()
    ((key, body),) = world.posted
    assert key == "gpt/2"
    assert json.loads(body) | {"key": key, "reason": "region_lost", "fork_step": 30} == json.loads(body)
    world.won = dataclasses.replace(WON, epoch=3)
    first.turn()
    assert [one for one, _ in world.posted] == ["gpt/2", "gpt/3"]
    world.won = None
    first.turn()
    assert len(world.posted) == 2, "another region's epoch is not ours to publish"


def test_what_was_not_taken_is_sent_again_and_said_once() -> None:
    """The receiver was away."""
    world, store = _World(), MemoryObjectStore()
    world.away = True
    notify = world.notify(store)
    notify.turn()
    notify.turn()
    assert notify.trouble == "it does not answer"
    assert store.list("") == ()
    world.away = False
    notify.turn()
    assert notify.trouble == ""
    assert len(world.posted) == 1
    assert world.said == ["webhook.waits", "webhook.sent"]


def test_the_ping_stops_when_the_lease_loop_stands_still() -> None:
    """A dead controller cannot raise an alarm; the silence does."""
    world, store = _World(), MemoryObjectStore()
    notify = world.notify(store, pings=True)
    for _ in range(40):
        world.turned_at_s = world.now_s
        notify.turn()
        world.now_s += 1.0
    assert len(world.posted) == 2
    for _ in range(80):
        notify.turn()
        world.now_s += 1.0
    assert len(world.posted) == 2


class _Receiver(http.server.BaseHTTPRequestHandler):
    codes: tuple[int, ...] = (204,)
    keys: list[str] = []  # noqa: RUF012 - one receiver a test
    signed: list[tuple[str | None, bytes]] = []  # noqa: RUF012 - as above

    def do_POST(self) -> None:
        """Take it, or do not."""
        self.keys.append(self.headers["Idempotency-Key"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.signed.append((self.headers[SIGNATURE], body))
        self.send_response(self.codes[0])
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        if self.codes[0] == OBJECTS:
            self.wfile.write(b"x" * (1 << 20))

    def log_message(self, *_args: object) -> None:
        """Nothing to say."""


@pytest.fixture
def receiver() -> Iterator[http.server.ThreadingHTTPServer]:
    """A real server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_over_http_a_refusal_and_silence_are_retryable_and_no_error_shows_the_secret(
    receiver: http.server.ThreadingHTTPServer,
) -> None:
    """The address may carry a token."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook/t0ken"
    HttpPoster(url, CLOCK).post("gpt/2", b"{}")
    assert _Receiver.keys == ["gpt/2"]
    _Receiver.codes = (500,)
    with pytest.raises(RetryableError, match="answered 500") as refused:
        HttpPoster(url, CLOCK).post("gpt/2", b"{}")
    with pytest.raises(RetryableError, match="does not answer") as silent:
        HttpPoster("http://user:t0ken@127.0.0.1:1/t0ken", CLOCK).post("gpt/2", b"{}")
    assert "t0ken" not in f"{refused.value}{silent.value}"
    with pytest.raises(MisconfiguredError, match="begins with http"):
        HttpPoster("ftp://t0ken", CLOCK)


def test_a_message_is_signed_with_its_time_under_the_key_of_both_sides(
    receiver: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    """As a receiver checks it; without a key nothing is signed, and a key that others can read is refused."""
    key = tmp_path / "webhook.key"
    key.touch(mode=0o600)
    key.write_text("a key of both sides\n", encoding="utf-8")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    _Receiver.codes = (204,)
    HttpPoster(url, CLOCK, key).post("gpt/2", b'{"run": "gpt"}')
    header, body = _Receiver.signed[-1]
    parts = dict(part.split("=", 1) for part in (header or "").split(","))
    assert parts["t"] == str(CLOCK.wall_ms() // 1000)
    expected = hmac.new(b"a key of both sides", f"{parts['t']}.".encode() + body, "sha256").hexdigest()
    assert parts["v1"] == expected
    HttpPoster(url, CLOCK).post("gpt/2", b"{}")
    assert _Receiver.signed[-1][0] is None
    poster = HttpPoster(url, CLOCK, key)
    key.chmod(0o644)
    with pytest.raises(RetryableError, match=r"is not told: .* can be read by others"):
        poster.post("gpt/3", b"{}")
    with pytest.raises(MisconfiguredError, match="can be read by others"):
        HttpPoster(url, CLOCK, key)


def test_no_redirection_is_followed_and_a_long_answer_is_cut(receiver: http.server.ThreadingHTTPServer) -> None:
    """A signed message goes to nobody else, and an answer costs little."""
    poster = HttpPoster(f"http://127.0.0.1:{receiver.server_port}/hook", CLOCK)
    _Receiver.codes = (307,)
    before = len(_Receiver.keys)
    with pytest.raises(RetryableError, match="answered 307"):
        poster.post("gpt/2", b"{}")
    assert len(_Receiver.keys) == before + 1
    _Receiver.codes = (OBJECTS,)
    assert poster.judge("gpt/2", b"{}") == "x" * REASON_CHARS_MAX


def test_webhooks_without_a_key_are_refused_in_the_settings() -> None:
    """A receiver that cannot tell our message from another's is no use to a pager."""
    for url in ("webhook_url", "before_url"):
        with pytest.raises(ValidationError, match="webhook_key_file is missing"):
            RunSettings.model_validate({"first_region": "east", url: "http://h"})
    RunSettings.model_validate({"first_region": "east", "ping_url": "http://h"})
