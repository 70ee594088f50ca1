"""The lag: exact, a lower bound with its age, or unknown, and never less than it was at that age (I19)."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from pipelines import paths
from pipelines.core import lease as core
from pipelines.core.failover_decision import policy_of
from pipelines.core.heartbeats import RegionHeartbeats, heard
from pipelines.core.lag import FRESH_S, HEARTBEATS, LEASE_RECORD, HeardPlace, Lag, Place, lag_of
from pipelines.core.lease import Author, Belief, Fork, Held
from pipelines.core.lease_profiles import FAST
from pipelines.core.lineage import LineageView, Standing, standing, view_of
from pipelines.flows.authority.controller_parts import Observers, RunRole
from pipelines.flows.authority.heartbeat_reader import PeerState
from pipelines.flows.authority.run_watch import RunWatch
from schemas.codec import Codec
from schemas.records import Heartbeat
from services.adapters.signer import Ed25519Signer
from tests.manual_clock import ManualClock
from tests.manual_world import ManualWorld

ONE = LineageView(1, ((1, 0, -1),))
TWO = LineageView(2, ((1, 0, -1), (2, 1, 30)))
FRESH, OLD = 0.5, 25.0
REGIONS = ("east", "north", "west")


def _beat(epoch: int, step: int, age_s: float = FRESH, seq: int = -1) -> HeardPlace:
    return HeardPlace(Place(epoch, step, seq), age_s, HEARTBEATS)


def _record(epoch: int, step: int, age_s: float = OLD) -> HeardPlace:
    return HeardPlace(Place(epoch, step), age_s, LEASE_RECORD)


@pytest.mark.parametrize(
    ("heard", "here", "view", "text"),
    [
        ([_beat(1, 240)], Place(1, 220), ONE, "20 steps"),
        ([_beat(1, 220)], Place(1, 220), ONE, "0 steps"),
        ([_beat(1, 240, OLD)], Place(1, 20), ONE, ">= 220 steps, 25 s ago"),
        ([_beat(1, 200, OLD), _record(1, 240, 4.0)], Place(1, 20), ONE, ">= 220 steps, 4 s ago"),
        ([_beat(1, 240), _record(1, 240)], Place(1, 220), ONE, "20 steps"),
        ([_beat(1, 220), _record(1, 240)], Place(1, 220), ONE, ">= 20 steps, 25 s ago"),
        ([_record(1, 240)], None, ONE, ">= 240 steps, 25 s ago"),
        ([_beat(1, -1)], None, ONE, "0 steps"),
        ([_record(1, 240, FRESH)], Place(1, 220), ONE, ">= 20 steps, 0 s ago"),
        (
            [_beat(1, 220, OLD)],
            Place(1, 220),
            ONE,
            "unknown: nothing newer was heard than what is here, and that 25 s ago",
        ),
        ([], Place(1, 220), ONE, "unknown: the primary's committed step was not heard"),
        ([_beat(1, 40)], Place(1, 30), TWO, "unknown: the primary's committed step was not heard"),
        ([_beat(2, 30)], Place(1, 30), TWO, "0 steps"),
        (
            [_record(2, 30, 1.0)],
            Place(1, 30),
            TWO,
            "unknown: nothing newer was heard than what is here, and that 1 s ago",
        ),
        ([_beat(2, 60)], Place(1, 30), TWO, "30 steps"),
        (
            [_beat(2, 40)],
            Place(1, 40),
            ONE,
            "unknown: heartbeats name epoch 2, this region knows the lineage up to epoch 1",
        ),
        (
            [_beat(1, 110, seq=23), _record(1, 220, FRESH)],
            Place(1, 220, 22),
            ONE,
            "unknown: the run went back: step 110 came after step 220, the newest here",
        ),
    ],
)
def test_what_was_heard_gives_a_figure_a_bound_or_nothing(
    heard: list[HeardPlace], here: Place | None, view: LineageView, text: str
) -> None:
    """Each row is a way in which a smaller figure would be wrong."""
    assert lag_of(heard, here, view).text == text


@dataclasses.dataclass
class _World:
    """A primary that commits, a witness, and a standby that hears of it as the steps of a story say."""

    clock: ManualClock = dataclasses.field(default_factory=lambda: ManualClock(1000.0))
    holder: str = "east"
    committed: list[Place] = dataclasses.field(default_factory=list)  # on the lineage, oldest first
    history: list[tuple[float, Place]] = dataclasses.field(default_factory=lambda: [(0.0, Place(1, -1))])
    copied: list[Place] = dataclasses.field(default_factory=list)
    sent: list[Heartbeat] = dataclasses.field(default_factory=list)
    writes: int = 0

    def __post_init__(self) -> None:
        self.lease = core.first("gpt", self._author(), FAST)
        self.restart()

    def _author(self) -> Author:
        self.writes += 1
        return Author(self.holder, "i", f"w{self.writes}", "story", "controller", self.clock.wall_ms())

    def restart(self) -> None:
        """West's controller begins anew."""
        self.peers = {name: PeerState(region=name, run="gpt", clock=self.clock) for name in REGIONS}
        self.belief = Belief(region="west", incarnation="w")
        own: Any = SimpleNamespace(alarms=deque(), clock=self.clock, say=lambda *_, **__: None, damages=tuple)
        own.journal = own
        role = RunRole(run="gpt", region="west", first_region="east", candidate=True, policy=policy_of(FAST))
        self.watch = RunWatch(role, own, Observers(peer_states=self.peers, self_evidence=own, verifier=own))

    @property
    def newest(self) -> Place:
        return self.history[-1][1]

    def commit(self, step: int) -> None:
        place = Place(self.lease.epoch, step, max((one.seq for one in self.committed), default=0) + 1)
        self.committed.append(place)
        self.history.append((self.clock.now_s, place))

    def beat(self) -> None:
        """The holder's node sends a heartbeat."""
        own = [one for one in self.committed if one.epoch == self.lease.epoch]
        place = own[-1] if own else Place(0, -1)
        self.sent.append(
            Heartbeat(
                event_id="e",
                run="gpt",
                region=self.holder,
                epoch=self.lease.epoch,
                attempt=1,
                producer="r0",
                seq=1,
                step=0,
                time_ms=self.clock.wall_ms(),
                node="n0",
                phase="train",
                budget_s=5.0,
                last_seqs=(),
                committed_epoch=place.epoch,
                committed_step=place.step,
                committed_seq=place.seq,
            )
        )

    def deliver(self) -> None:
        """Heartbeats that are under way arrive, however old they are."""
        for beat in self.sent:
            late_s = (self.clock.wall_ms() - beat.time_ms) / 1000
            self.peers[beat.region].heard(beat, self.clock.now_s, late_s)
        self.sent.clear()

    def renew(self) -> None:
        step = max((one.step for one in self.committed if one.epoch == self.lease.epoch), default=-1)
        self.lease = core.renewal(self.lease, self._author(), step)

    def poll(self) -> None:
        """West reads the record and turns."""
        held = Held(self.lease, self.lease.write_id)
        self.belief = core.was_read(self.belief, held, self.clock.now_s)
        self.watch.turned(self.belief, self.recovered, {})

    def fork(self, at: int, holder: str) -> None:
        """Another region takes the run over from an older checkpoint."""
        if not self.committed:
            return
        self.committed = self.committed[: 1 + at % len(self.committed)]
        point = self.committed[-1]
        self.holder = holder
        fork = Fork(point.step, "d", point.seq)
        self.lease = core.takeover(self.lease, self._author(), fork, FAST)
        self.history.append((self.clock.now_s, point))

    @property
    def recovered(self) -> Any:  # noqa: ANN401 - only the manifest's place is looked at
        view = LineageView(0, ()) if self.belief.held is None else view_of(self.belief.held.lease.lineage)
        here = [one for one in self.copied if standing(view, one.epoch, one.step) is Standing.CURRENT]
        if not here:
            return None
        newest = max(here, key=lambda one: (one.epoch, one.seq))
        return SimpleNamespace(
            manifest=SimpleNamespace(epoch=newest.epoch, step=newest.step, lineage_seq=newest.seq),
        )

    def judge(self) -> Lag | None:
        """Compare what is shown with what was true at its age."""
        lag = self.watch.lag(self.belief, self.recovered)
        if lag is None or lag.steps is None:
            return lag
        assert lag.age_s is not None
        read_s = self.clock.now_s - self.belief.read_at_s
        known = self.belief.held is not None and self.belief.held.lease.epoch == self.lease.epoch
        if not known and read_s <= policy_of(FAST).witness_age_s:
            return lag  # that another region holds the run is not known here yet, and cannot be
        then_s = self.clock.now_s - lag.age_s
        true = [place for at_s, place in self.history if at_s <= then_s and self._counts(place)][-1]
        here = self.recovered
        here_step = 0 if here is None else max(0, here.manifest.step)
        assert lag.steps >= true.step - here_step, (lag, true)
        assert not lag.is_exact or lag.age_s <= FRESH_S
        if lag.steps == 0:
            assert lag.is_exact, "0 is said only of what was heard just now"
            if lag.source == HEARTBEATS and true.step >= 0:
                place = (0, 0) if here is None else (here.manifest.epoch, here.manifest.lineage_seq)
                assert place >= (true.epoch, true.seq), "a run that went back is not 0 behind"
        return lag

    def _counts(self, place: Place) -> bool:
        """Whether it is on the lineage that west knows: what a takeover left behind its fork is nobody's lag."""
        view = LineageView(0, ()) if self.belief.held is None else view_of(self.belief.held.lease.lineage)
        return place.step < 0 or standing(view, place.epoch, place.step) is not Standing.BRANCH


STEPS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.1, 12.0)),
    st.tuples(st.just("commit"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["beat", "deliver", "lose", "renew", "poll", "restart", "hear"]), st.just(0)),
    st.tuples(st.just("copy"), st.integers(0, 20)),
    st.tuples(st.just("fork"), st.integers(0, 20)),
    st.tuples(st.just("rewind"), st.integers(1, 20)),
)


def _take(world: _World, what: str, how: float) -> None:
    newest = max(0, world.newest.step)
    if what == "wait":
        world.clock.now_s += how
    elif what == "commit":
        world.commit(newest + 10 * int(how))
    elif what == "hear":
        world.beat()
        world.deliver()
        world.renew()
        world.poll()
    elif what == "lose":
        world.sent.clear()
    elif what == "copy" and world.committed:
        world.copied.append(world.committed[int(how) % len(world.committed)])
    elif what == "fork":
        world.fork(int(how), "north" if world.holder == "east" else "east")
    elif what == "rewind":
        floor = world.lease.lineage[-1].fork_step
        step = max(floor + 1, newest - 10 * int(how), 1)
        if step < newest:
            world.commit(step)
    elif what in {"beat", "deliver", "renew", "poll", "restart"}:
        getattr(world, what)()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
@example([("wait", 2.0), ("poll", 0), ("rewind", 1), ("fork", 1), ("poll", 0)])  # a takeover from what was rewound
def test_I19_shown_lag_is_never_less_than_it_was_at_its_age(story: list[tuple[str, float]]) -> None:
    """Over cuts, lost and late heartbeats, restarts, rewinds and takeovers, in virtual time."""
    world, said = _World(), set()
    for what, how in [("commit", 1), ("hear", 0), *story]:
        world.clock.now_s += 0.01  # no two things happen at one instant
        _take(world, what, how)
        lag = world.judge()
        said.add("none" if lag is None else "unknown" if lag.steps is None else "exact" if lag.is_exact else "bound")
    for one in said:
        event(one)


@pytest.mark.parametrize(("late_s", "true_at_s"), [(30.0, 70.0), (0.0, 100.0), (-5.0, 100.0)])
def test_I19_what_a_late_heartbeat_says_is_as_old_as_its_sending(late_s: float, true_at_s: float) -> None:
    """It is a sign of life when it arrives; a wall clock that is ahead makes nothing newer than now."""
    beat = Heartbeat(
        event_id="e",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer="r0",
        seq=1,
        step=40,
        time_ms=0,
        node="n0",
        phase="train",
        budget_s=5.0,
        last_seqs=(),
        committed_epoch=1,
        committed_step=40,
        committed_seq=4,
    )
    pulse = heard(RegionHeartbeats(), beat, 100.0, late_s)
    assert pulse.nodes["n0"].committed_at_s == true_at_s
    assert pulse.nodes_at_s == 100.0


def test_I19_with_the_link_cut_the_lag_is_a_bound_that_grows_with_the_lease_record() -> None:
    """Seen before: with the link cut for 25 s, 0 was shown where 220 was true."""
    world = _World()
    world.commit(20)
    world.copied.append(world.committed[-1])
    for what in ("beat", "deliver", "renew", "poll"):
        _take(world, what, 0)
    assert world.judge() == Lag(0, is_exact=True, age_s=0.0, source=HEARTBEATS)
    world.beat()
    old, sent_at_s, clock = world.sent.pop(), world.clock.now_s, world.clock
    for step in range(30, 250, 10):
        world.clock.now_s += 1.0
        world.commit(step)
    lag = world.judge()
    assert lag is not None
    assert lag.steps is None, "22 s of silence: it was 0 then, and that says nothing"
    world.peers["east"].heard(old, clock.now_s, clock.now_s - sent_at_s)
    lag = world.judge()
    assert lag is not None
    assert lag.steps is None, "a heartbeat that arrives after 22 s is no news"
    world.renew()
    world.clock.now_s += 25.0
    world.poll()
    lag = world.judge()
    assert lag is not None
    assert (lag.steps, lag.is_exact, lag.source) == (220, False, LEASE_RECORD)
    assert lag.age_s is not None
    assert 25.0 <= lag.age_s < math.inf
    world.deliver()
    world.beat()
    world.deliver()
    lag = world.judge()
    assert lag is not None
    assert lag.text == "220 steps"


def test_the_primarys_heartbeats_name_its_newest_committed_checkpoint(signer: Ed25519Signer) -> None:
    """Before the first commit they say that there is none; then its epoch, step and lineage number."""
    world = ManualWorld(signer)
    world.until(lambda: "launch-1" in world.spool.told, "the launch is granted")
    world.turn()

    def said() -> list[tuple[int, int, int]]:
        records = [Codec().decode_as(Heartbeat, one.value) for one in world.east.kafka.topic(paths.HEARTBEATS) if one]
        return [(one.committed_epoch, one.committed_step, one.committed_seq) for one in records]

    world.until(lambda: said()[-1:] == [(1, -1, -1)], "a heartbeat says that nothing is committed")
    world.save(10)
    world.until(lambda: said()[-1:] == [(1, 10, 1)], "a heartbeat names the checkpoint")
