"""One process for many runs: who is turned when, who hears what, and what a silent witness costs."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry

from pipelines import paths
from pipelines.core.heartbeats import CONTROLLER_NODE
from pipelines.errors import RetryableError
from pipelines.flows.authority.heartbeat_reader import HeartbeatReader, PeerState
from pipelines.flows.authority.self_evidence import SelfEvidence
from schemas.codec import Codec
from services.adapters.memory.kafka import MemoryKafka, MemoryLog, MemorySource
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.memory.object_store import MemoryObjectStore
from services.adapters.system_clock import SystemClock, SystemEntropy
from services.runtime.scheduler import Scheduler
from services.wrappers.witness import Witness
from tests.manual_clock import ManualClock
from tests.waiting import wait_until


class _Away(MemoryLeaseStore):
    """A witness that swallows requests until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.answers = threading.Event()
        self.fails = True

    def read(self, run: str) -> None:
        """Hold the thread, then fail or answer."""
        self.asked.release()
        self.answers.wait(10)
        if self.fails:
            raise RetryableError(f"no answer about {run}")


def test_a_scheduler_turns_the_flow_that_is_due_first_and_a_wake_comes_before_all() -> None:
    """Also a flow that is woken while it is turned is turned once more, and not at the same time."""
    clock = ManualClock(100.0)
    scheduler = Scheduler(clock, 1)
    for name in ("a", "b", "c"):
        scheduler.add(name, lambda: 0.0)
    rests = {"a": 30.0, "b": 10.0, "c": 20.0}
    first = [scheduler.take() for _ in rests]
    for taken in first:
        assert taken is not None
        scheduler.done(taken[0], rests[taken[0]])
    scheduler.wake("a")
    taken = scheduler.take()
    assert taken is not None
    assert taken[0] == "a"
    scheduler.wake("a")
    clock.now_s = 111.0
    other = scheduler.take()
    assert other is not None
    assert other[0] == "b", "what is being turned is given to nobody else, woken or not"
    scheduler.done("a", 1_000.0)
    again = scheduler.take()
    assert again is not None
    assert again[0] == "a", "the wake that came during its turn is not lost"


def test_a_scheduler_of_threads_turns_each_flow_by_one_thread_and_a_slow_one_delays_nobody() -> None:
    """One flow holds its thread; the others go on and are never turned twice at once."""
    scheduler, slow, turns = Scheduler(SystemClock(), 3), threading.Event(), {f"f{number}": 0 for number in range(40)}
    busy: set[str] = set()
    twice: list[str] = []

    def work() -> None:
        while (taken := scheduler.take()) is not None:
            name, flow = taken
            if name in busy:
                twice.append(name)
            busy.add(name)
            rest_s = flow()
            busy.discard(name)
            scheduler.done(name, rest_s)

    def turned(name: str) -> float:
        turns[name] += 1
        return 0.01

    scheduler.add("slow", lambda: float(slow.wait(20)))
    for name in turns:
        scheduler.add(name, lambda name=name: turned(name))  # type: ignore[misc]
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(turns.values()) >= 10, 10, "ten turns of each")
    finally:
        slow.set()
        scheduler.end()
        for thread in threads:
            thread.join(10)
    assert not twice
    assert not any(thread.is_alive() for thread in threads)


def test_while_the_witness_is_silent_one_request_tries_and_the_others_are_told_at_once() -> None:
    """So a witness that swallows requests holds one thread, not all of them; once it answers, all may ask."""
    leases = _Away()
    witness = Witness(leases, CollectorRegistry())
    leases.answers.set()
    with pytest.raises(RetryableError, match="no answer"):
        witness.read("a")
    leases.answers.clear()
    leases.fails = False
    trying = threading.Thread(target=witness.read, args=("b",))
    trying.start()
    assert leases.asked.acquire(timeout=10)
    assert leases.asked.acquire(timeout=10)
    with pytest.raises(RetryableError, match="another request tries it"):
        witness.read("c")
    leases.answers.set()
    trying.join(10)
    assert witness.read("c") is None


def test_one_beat_of_a_controller_and_one_reader_serve_every_run() -> None:
    """A region's controller is heard for all of its runs; one region's beat says nothing of another."""
    clock, kafka = ManualClock(50.0), MemoryKafka("east")
    for name in paths.TOPICS:
        kafka.topic(name)
    runs = [f"r{number}" for number in range(20)]
    heard = [PeerState(region="east", run=run, clock=clock) for run in runs]
    others = [PeerState(region="west", run=run, clock=clock) for run in runs]
    heartbeat_readers = [
        HeartbeatReader(
            region=group[0].region, source=MemorySource(kafka), codec=Codec(), clock=clock, peer_states=group
        )
        for group in (heard, others)
    ]
    for heartbeats in heartbeat_readers:
        heartbeats.turn()
    self_evidence = SelfEvidence(
        region="east",
        log=MemoryLog(kafka),
        store=MemoryObjectStore(),
        codec=Codec(),
        clock=clock,
        entropy=SystemEntropy(),
    )
    clock.now_s = 60.0
    self_evidence.turn()
    assert len(kafka.topic(paths.HEARTBEATS)) == 1, "however many runs there are"
    for heartbeats in heartbeat_readers:
        heartbeats.turn()
    assert {one.pulse.controller_at_s for one in heard} == {60.0}
    assert all(CONTROLLER_NODE not in one.pulse.nodes for one in heard), "no sign of a living node"
    assert not any(one.pulse.controller_at_s > 0 for one in others)
