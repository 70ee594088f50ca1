"""Everything that is wrong is found, and "nothing is wrong" is said only if nothing is (I19)."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core import troubles
from pipelines.core.alarm_texts import OF_RUN, TEXTS, Kind
from pipelines.core.alarms import sentence
from pipelines.core.diagnosis import NodeSign, Symptoms, Trouble, Vantage, diagnose
from pipelines.core.lag import Lag
from pipelines.core.troubles import Damage, Failing, Grant, RegionView, findings
from pipelines.errors import MisconfiguredError
from pipelines.flows.authority.region_watch import RegionWatch
from schemas.http_bodies import AgentStatus, BacklogStatus, CompletionStatus, KafkaPathStatus, StandingStatus
from schemas.records import Alarm, Checkpoint
from services.adapters.signer import Ed25519Signer
from tests.bodies import WARMER_STATUS, lane_status
from tests.core.authority.test_diagnosis import ALL_WELL
from tests.manual_clock import ManualClock
from tests.manual_world import ManualWorld, world_with_step_10

BEHIND = Lag(60, is_exact=True, age_s=0.5, source="heartbeats")
BOUND = dataclasses.replace(BEHIND, is_exact=False, age_s=25.0)
WELL = RegionView(run="gpt", lag=dataclasses.replace(BEHIND, steps=10), cadence_steps=10)
LANE = "east/checkpoints"


def _standing(run: str, records: int | None = 12) -> dict[str, Any]:
    stands = StandingStatus(run=run, records=records, reason="step 30: access denied", since_s=31.0)
    return {"lanes": {LANE: lane_status(standing=(stands,))}}


def _completion(waiting_s: float, bound_s: float | None) -> dict[str, Any]:
    late = CompletionStatus(waiting_s=waiting_s, bound_s=bound_s)
    return {"lanes": {LANE: lane_status(completions={"gpt": late})}}


def _grant(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of the record
    return {"lag": None, "grant": Grant(epoch=2, attempt=1, held_s=75.0, **changes)}


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (_standing("gpt"), Kind.LANE, "east/checkpoints has stood for 31 s before 12 records: step 30: access denied"),
        (_standing("*", None), Kind.LANE, "before an unknown number of records"),
        ({"lanes": {LANE: lane_status(backlog_grows=True, backlog=900)}}, Kind.BACKLOG, "900 records by now"),
        ({"spool_grows": True}, Kind.BACKLOG, "more is written than is published"),
        ({"uploads": 3, "uploads_s": 90.0}, Kind.UPLOADS, "3 checkpoints in the spool, none was committed for 90 s"),
        (_grant(), Kind.NO_PROGRESS, "attempt 1 was granted under epoch 2, and no node has trained for 75 s"),
        ({"grant": Grant(epoch=1, attempt=0, held_s=75.0, waiting=2)}, Kind.NO_PROGRESS, "no launch was granted"),
        (_grant(training=1, stuck={"n0": 12.0}, step=47), Kind.NO_PROGRESS, "step 47 has not moved for 12 s"),
        ({"abandoned": ("step 10: torn", "step 20: torn")}, Kind.ABANDONED, "2 in a row, the last: step 20: torn"),
        ({"damages": (Damage(30, "k", "one byte differs", 5.0),)}, Kind.DAMAGE, "step 30 (one byte differs)"),
        ({"failing": {"store": Failing("access denied", 9.0)}}, Kind.REFUSED, "store, for 9 s: access denied"),
        (_completion(200.0, 30.0), Kind.INCOMPLETE, "none for 200 s, the link's rate allows 30 s"),
        ({"lag": BEHIND, "rpo_steps": 50}, Kind.LAG, "60 steps; the run's objective is 50"),
        ({"lag": BOUND, "rpo_steps": 50}, Kind.LAG, ">= 60 steps, 25 s ago"),
        ({"lag": dataclasses.replace(BEHIND, steps=101)}, Kind.LAG, "101 steps; 10 checkpoints are 100"),
        ({"lag": Lag(None, why="not heard"), "lag_unknown_s": 11.0}, Kind.LAG_UNKNOWN, "not heard"),
        ({"unseen": {"replicator": Failing("it does not answer", 12.0)}}, Kind.UNSEEN, "the replicator, for 12 s"),
    ],
)  # fmt: skip
def test_I19_each_trouble_is_found_and_is_the_diagnosis(change: dict[str, Any], kind: Kind, says: str) -> None:
    """One thing changed in a region where all is well."""
    (found,) = findings(dataclasses.replace(WELL, **change))
    assert found.kind is kind
    assert says in found.text
    diagnosis = diagnose(dataclasses.replace(ALL_WELL, findings=(found,)))
    assert diagnosis.trouble is not Trouble.NONE
    assert found.text in diagnosis.text
    assert found.status().kind == kind.value


def test_every_kind_has_a_rule_and_a_text() -> None:
    """The table above leaves none out."""
    rows = test_I19_each_trouble_is_found_and_is_the_diagnosis.pytestmark[0].args[1]
    assert {row[1] for row in rows} == OF_RUN
    assert set(TEXTS) == set(Kind)


@pytest.mark.parametrize(
    "change",
    [
        {},
        _standing("other"),
        _completion(40.0, 30.0),
        _completion(400.0, None),
        {"uploads": 3, "uploads_s": 10.0},
        {"lag": None, "grant": Grant(epoch=1, attempt=0, held_s=900.0)},
        {"lag": None, "grant": Grant(epoch=2, attempt=1, held_s=5.0)},
        {"lag": None, "grant": Grant(epoch=2, attempt=1, held_s=75.0, training=2, stuck={"n0": 9.0})},
        {"abandoned": ("step 10: torn",)},
        {"failing": {"store": Failing("slow", 1.0)}},
        {"lag": BEHIND},
        {"lag": BEHIND, "cadence_steps": None},
    ],
    ids=str,
)
def test_what_moves_is_no_trouble(change: dict[str, Any]) -> None:
    """Another run's lane, a checkpoint that is being uploaded, a run that nobody has started yet ..."""
    assert findings(dataclasses.replace(WELL, **change)) == ()


AGES = st.one_of(st.floats(0, 30), st.just(math.inf))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("witness_age_s", "renewed_age_s", "controller_age_s", "log_age_s", "store_age_s"), AGES),
    "commit_age_s": AGES,
    "score": st.integers(0, 2),
    "nodes": st.dictionaries(st.sampled_from(["n0", "n1"]), st.builds(NodeSign, AGES, AGES, silent=st.booleans())),
    "vantages": st.lists(st.builds(Vantage, st.just("west"), AGES, AGES, AGES), max_size=3).map(tuple),
    "findings": st.sampled_from([(), findings(dataclasses.replace(WELL, uploads=3, uploads_s=90.0))]),
}
CHANGES = st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)
SYMPTOMS = CHANGES.map(lambda changes: dataclasses.replace(ALL_WELL, commit_limit_s=20.0, **changes))


def _is_healthy(seen: Symptoms) -> bool:
    return (
        seen.witness_age_s <= seen.witness_limit_s
        and seen.renewed_age_s <= seen.renewed_limit_s
        and seen.controller_age_s <= seen.reach_s
        and max(seen.log_age_s, seen.store_age_s) <= seen.evidence_s
        and seen.commit_age_s <= seen.commit_limit_s
        and seen.score == 0
        and seen.nodes != {}
        and not any(node.silent for node in seen.nodes.values())
        and all(max(one.kafka_age_s, one.store_age_s) < seen.reach_s for one in seen.vantages)
        and not seen.findings
    )


@settings(max_examples=500, deadline=None)
@given(SYMPTOMS)
def test_I19_nothing_is_wrong_is_said_only_if_every_input_is_healthy(seen: Symptoms) -> None:
    """Whatever is seen; and it is said then."""
    assert (diagnose(seen).trouble is Trouble.NONE) == _is_healthy(seen)


VIEWS = st.builds(
    RegionView,
    run=st.just("gpt"),
    lag=st.one_of(st.none(), st.builds(Lag, st.one_of(st.none(), st.integers(0, 200)), st.booleans(), AGES)),
    lag_unknown_s=AGES,
    rpo_steps=st.one_of(st.none(), st.integers(0, 50)),
    cadence_steps=st.one_of(st.none(), st.integers(1, 20)),
    lanes=st.one_of(
        st.just({}),
        st.builds(
            lambda grows, waiting_s, stands: {
                LANE: lane_status(
                    backlog_grows=grows,
                    completions={"gpt": CompletionStatus(waiting_s=waiting_s, bound_s=30.0)},
                    standing=(StandingStatus(run="gpt", records=1, reason="why", since_s=20.0),) if stands else (),
                )
            },
            st.booleans(),
            st.floats(0, 90),
            st.booleans(),
        ),
    ),
    unseen=st.dictionaries(st.just("replicator"), st.builds(Failing, st.just("why"), st.floats(0, 30))),
    failing=st.dictionaries(st.just("store"), st.builds(Failing, st.just("why"), st.floats(0, 30))),
    uploads=st.integers(0, 2),
    uploads_s=st.floats(0, 90),
    spool_grows=st.booleans(),
    abandoned=st.lists(st.just("step 10: torn"), max_size=3).map(tuple),
    damages=st.lists(st.just(Damage(1, "k", "why", 1.0)), max_size=1).map(tuple),
)


@settings(max_examples=500, deadline=None)
@given(VIEWS)
def test_I19_no_finding_means_that_everything_moves(view: RegionView) -> None:
    """Judged by other words than the rules'."""
    if findings(view):
        return
    lane = view.lanes.get(LANE)
    assert not view.damages
    assert len(view.abandoned) < 2
    assert not view.spool_grows
    assert not (view.uploads and view.uploads_s >= troubles.UPLOADS_S)
    assert all(one.since_s < troubles.UNSEEN_S for one in view.unseen.values())
    assert all(one.since_s < troubles.WAITS_S for one in view.failing.values())
    if lane is not None:
        assert not lane.backlog_grows
        assert lane.standing == ()
    if view.lag is None:
        return
    assert lane is None or lane.completions["gpt"].waiting_s <= 30.0 + troubles.COMPLETES_SLACK_S
    if view.lag.steps is None:
        assert view.lag_unknown_s < troubles.UNKNOWN_S
    elif view.rpo_steps is not None:
        assert view.lag.steps <= view.rpo_steps
    elif view.cadence_steps is not None:
        assert view.lag.steps <= 10 * view.cadence_steps


# --- from the flows to status, alarms and the journal ---


def _agent(**changes: Any) -> AgentStatus:  # noqa: ANN401 - fields of the record
    backlog = BacklogStatus(records=0, bytes=0, records_per_s=0.0, bytes_per_s=0.0, remaining_s=None)
    well = AgentStatus(
        producer="agent",
        backlog=backlog,
        backlog_checkpoints=0,
        committed_step={"gpt": 10},
        troubles={},
        launches={"gpt": {}},
        hard_left_s={},
        hard_troubles={},
        kafka=KafkaPathStatus(path=0, paths=1, rebuilt=0, hanging=0),
    )
    return dataclasses.replace(well, **changes)


def test_what_agent_and_warmer_say_is_timed_from_when_it_was_first_said() -> None:
    """An upload that waits, a store that refuses; each ends with the next good answer. Another run's upload moves."""
    clock, warmer = ManualClock(100.0), dataclasses.replace(WARMER_STATUS, trouble="step 40 is damaged")
    answer = _agent(waiting_checkpoints={"gpt": 2, "bert": 1}, troubles={"gpt/drain": "access denied"})
    watch = RegionWatch(clock, agent=lambda: answer, warmer=lambda: warmer)
    for step in range(40):
        answer = dataclasses.replace(answer, committed_step={"gpt": 10, "bert": step})
        watch.turn()
        clock.now_s += 2.0
    assert watch.seen.failing_of("gpt", clock.now_s) == {
        "the agent's drain": Failing("access denied", 80.0),
        "the warmer": Failing("step 40 is damaged", 80.0),
    }
    assert (watch.seen.uploads, watch.seen.uploads_s("gpt", clock.now_s)) == ({"gpt": 2, "bert": 1}, 80.0)
    assert watch.seen.uploads_s("bert", clock.now_s) == 2.0
    answer = _agent(committed_step={"gpt": 20}, waiting_checkpoints={"gpt": 1})
    warmer = WARMER_STATUS
    watch.turn()
    assert watch.seen.failing == {}
    assert watch.seen.uploads_s("gpt", clock.now_s) == 0.0


def test_a_service_that_does_not_answer_is_timed_and_its_last_answer_is_kept() -> None:
    """Another program on its port is no answer either, and the reason says so."""
    clock, lanes = ManualClock(100.0), {LANE: lane_status(backlog=3)}
    failure: Exception | None = None

    def ask() -> dict[str, Any] | None:
        if failure is not None:
            raise failure
        return lanes

    watch = RegionWatch(clock, replicator=ask)
    watch.turn()
    failure = MisconfiguredError("the replicator answers something else")
    for _ in range(3):
        clock.now_s += 4.0
        watch.turn()
    assert watch.seen.unseen_at(clock.now_s) == {"replicator": Failing("the replicator answers something else", 8.0)}
    assert watch.seen.lanes == lanes


def _outcome(step: int, state: str) -> Checkpoint:
    own: Any = SimpleNamespace(run="gpt", epoch=1, step=step, state=state, reason="why", region="east", time_ms=step)
    found: Checkpoint = own
    return found


def test_checkpoints_that_were_given_up_reach_status_and_two_in_a_row_are_an_alarm(signer: Ed25519Signer) -> None:
    """Step, why and when; the alarm ends when one is committed again; both are journalled and published."""
    world = world_with_step_10(signer)
    said: list[str] = []
    world.east.say = lambda event, **_: said.append(event)  # type: ignore[method-assign]
    control, own = world.east.control, world.east.peer_states["east"]
    for step, state in ((20, "committed"), (30, "abandoned"), (40, "abandoned")):
        own.heard_outcome(_outcome(step, state))
    world.turn()
    status = control.status()
    assert [(one.step, one.state, one.reason, one.time_ms) for one in status.skipped] == [
        (30, "abandoned", "why", 30),
        (40, "abandoned", "why", 40),
    ]
    assert [one.kind for one in status.findings] == ["checkpoints_abandoned"]
    assert status.diagnosis is not None
    assert status.diagnosis.trouble == "checkpoints"
    (alarm,) = status.alarms
    assert alarm.text == (
        "gpt in east: checkpoints are abandoned one after the other: 2 in a row, the last: step 40: why"
    )
    assert control.watch.acknowledge(alarm.id, "ann")
    assert control.status().alarms == ()
    assert control.status().findings, "acknowledged is not over"
    own.heard_outcome(_outcome(50, "committed"))
    world.turn()
    assert control.status().findings == ()
    assert [name for name in said if "alarm" in name] == [
        "control.alarm",
        "control.alarm_acknowledged",
        "control.alarm_healed",
    ]
    published: deque[Alarm] = world.east.self_evidence.alarms
    assert [(one.kind, one.state, one.actor) for one in published] == [
        ("checkpoints_abandoned", "open", ""),
        ("checkpoints_abandoned", "acknowledged", "ann"),
        ("checkpoints_abandoned", "healed", "ann"),
    ]
    assert all(sentence(one) for one in published)
    assert not control.watch.acknowledge("00000000", "ann")


def test_a_winner_that_cannot_start_says_so(signer: Ed25519Signer) -> None:
    """Seen before: no grant ever, the lease is renewed, and "nothing is wrong"."""
    world = world_with_step_10(signer)
    world.east.witness.away, world.link = True, False
    world.until(lambda: world.west.control.status().is_holder, "west takes over")
    _turn_west(world, 70.0)
    status = world.west.control.status()
    assert [one.kind for one in status.findings] == ["granted_without_progress"]
    assert "no launch was granted under epoch 2" in status.findings[0].text


def _turn_west(world: ManualWorld, seconds: float) -> None:
    for _ in range(int(seconds)):
        world.clock.now_s += 1.0
        world.west.hears("west", 0, "waiting")
        world.west.turn()
