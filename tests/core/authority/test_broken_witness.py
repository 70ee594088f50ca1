"""Broken, unreadable or refused lease records, and witnesses that cannot be one: an alarm, and the other runs go on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pipelines.core.lease import Held
from pipelines.core.lease_checks import checked, fault_of
from pipelines.errors import CorruptError, FencedError, MisconfiguredError, RetryableError
from pipelines.ports import LeaseStore
from schemas.codec import Codec, DecodeError
from schemas.records import Lease, LeaseGroup, LeaseMember
from services.adapters.memory.lease_store import MemoryLeaseStore
from services.adapters.system_clock import SystemEntropy
from services.runtime.one_run import AGAIN_S_MAX, OneRun
from services.wrappers.grouped_leases import GroupedLeases
from services.wrappers.witness import Witness
from tests.contract.test_lease_store import FIRST
from tests.manual_clock import ManualClock
from tests.manual_world import ManualWorld, signer_in, world_with_step_10

CODEC = Codec()


class _Journal:
    """Implements Journal: keeps what was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def say(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - as the port
        self.said.append((event, fields))


class _Broken(MemoryLeaseStore):
    """Answers each question about run `a` with the same error."""

    error: Exception = DecodeError("truncated", b"\xc3")

    def read(self, run: str) -> Held | None:
        if run == "a":
            raise self.error
        return super().read(run)

    def read_group(self, group: str) -> tuple[LeaseGroup, str] | None:
        if group == "broken":
            raise self.error
        return super().read_group(group)


@pytest.fixture
def world(tmp_path: Any) -> ManualWorld:  # noqa: ANN401 - pytest's path
    """Step 10 is committed in east and verified in west."""
    return world_with_step_10(signer_in(tmp_path))


@pytest.mark.parametrize(
    "error",
    [DecodeError("it ends too early", b"\xc3\x01"), CorruptError("makes no sense"), MisconfiguredError("denied")],
)
def test_I18_a_record_that_cannot_be_read_is_an_alarm_of_its_run_and_ends_no_turn(
    world: ManualWorld, error: Exception
) -> None:
    """The controller turns on, says why in status, and takes nothing; once the record is well, it goes on."""
    control, witness = world.west.control, world.west.witness
    whole = witness.read

    def refuses(run: str) -> Held | None:
        assert run
        raise error

    witness.read = refuses  # type: ignore[method-assign]  # a fault that lasts for some turns
    for _ in range(5):
        world.clock.now_s += 1.0
        control.turn()
    assert str(error) in control.status().troubles["witness"]
    assert control.status().is_holder is False
    witness.read = whole  # type: ignore[method-assign]  # it is over
    world.clock.now_s += 2.0
    control.turn()
    assert "witness" not in control.status().troubles


@pytest.mark.parametrize("error", [DecodeError("junk", b""), CorruptError("x"), MisconfiguredError("denied")])
def test_I18_a_witness_that_answers_badly_for_one_run_is_not_away_for_the_others(error: Exception) -> None:
    """Else every other request would be held back while one run's record is broken."""
    leases = _Broken()
    leases.error = error
    witness = Witness(leases, CollectorRegistry())
    for _ in range(3):
        with pytest.raises(type(error)):
            witness.read("a")
        with witness._asking("read"):
            assert witness.read("b") is None


def _grouped(leases: MemoryLeaseStore, group_of: dict[str, str]) -> LeaseStore:
    return GroupedLeases(
        leases,
        leases,
        group_of=group_of,
        codec=CODEC,
        clock=ManualClock(1.0),
        entropy=SystemEntropy(),
        gathers_s=0.0,
    )


def test_I18_a_broken_group_stops_its_members_and_a_broken_member_its_run() -> None:
    """The unreadable one is kept as it is when another member is written."""
    leases = _Broken()
    grouped = _grouped(leases, {"gpt": "g", "bad": "g", "far": "broken"})
    etag = grouped.write(FIRST, None)
    assert etag is not None
    group, _ = leases.groups["g"]
    junk = LeaseMember(run="bad", write_id="w", lease=b"\xc3\x01junk")
    leases.groups["g"] = (dataclasses.replace(group, members=(junk, *group.members)), '"moved"')
    with pytest.raises(DecodeError):
        grouped.read("bad")
    with pytest.raises(DecodeError):
        grouped.read("far")
    held = grouped.read("gpt")
    assert held is not None
    assert held.lease == FIRST
    later = dataclasses.replace(FIRST, renew_seq=1, predecessor=FIRST.write_id, write_id="w1")
    assert grouped.write(later, held.etag) is not None
    assert leases.groups["g"][0].members[0] == junk


WRONG: dict[str, dict[str, Any]] = {
    "another run's": {"run": "other"},
    "no chain": {"lineage": ()},
    "an epoch that its chain does not have": {"epoch": 3},
    "an epoch below one": {"epoch": 0, "lineage": (dataclasses.replace(FIRST.lineage[0], epoch=0, parent_epoch=-1),)},
    "a chain that turns back": {"lineage": (dataclasses.replace(FIRST.lineage[0], epoch=2), *FIRST.lineage)},
    "its own parent": {"lineage": (dataclasses.replace(FIRST.lineage[0], parent_epoch=1),)},
    "no length": {"lease_s": 0.0},
    "an endless length": {"lease_s": float("inf")},
    "no number": {"lease_s": float("nan")},
    "a mode of a later version": {"mode": "frozen"},
    "a negative counter": {"renew_seq": -1},
    "no writer": {"write_id": ""},
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_record_that_decodes_and_makes_no_sense_is_refused_with_what_is_wrong(what: str) -> None:
    """Before anything is concluded from its figures."""
    assert fault_of(FIRST, "gpt") == ""
    with pytest.raises(CorruptError, match="the lease record of gpt cannot be believed: "):
        checked(dataclasses.replace(FIRST, **WRONG[what]), "gpt")


def test_nothing_is_asked_of_a_witness_before_it_is_proven_to_be_one() -> None:
    """Unreachable: tried again at the next request. Unfit: refused for good measure at each; proven once."""
    leases, tries = MemoryLeaseStore(), list[str]()
    answers: list[Exception | None] = [RetryableError("no answer"), MisconfiguredError("ignores If-Match"), None]

    def prove() -> None:
        tries.append("tried")
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    witness = Witness(leases, CollectorRegistry(), prove)
    with pytest.raises(RetryableError):
        witness.write(FIRST, None)
    with pytest.raises(MisconfiguredError, match="ignores If-Match"):
        witness.write(FIRST, None)
    assert leases.history == []
    assert witness.write(FIRST, None) is not None
    assert witness.read("gpt") is not None
    assert len(tries) == 3


def test_what_one_runs_flow_raises_is_its_own_trouble_and_is_tried_again_later_and_later() -> None:
    """A fault of ours too, with its trace; only a newer process ends this one."""
    journal, fails = _Journal(), list[Exception | None]()
    fails += [MisconfiguredError("denied"), MisconfiguredError("denied"), KeyError("a bug"), None, FencedError("newer")]

    def flow() -> float:
        error = fails.pop(0)
        if error is not None:
            raise error
        return 7.0

    one = OneRun("gpt", "lease", flow, journal)
    assert [one.turn(), one.turn()] == [1.0, 2.0]
    assert one.trouble == "denied"
    assert one.turn() == 4.0
    assert one.trouble == "KeyError: 'a bug'"
    assert (one.turn(), one.trouble) == (7.0, "")
    assert [event for event, _ in journal.said] == ["control.alarm", "control.alarm", "control.goes_on"]
    assert "Traceback" in journal.said[1][1]["error"]
    with pytest.raises(FencedError):
        one.turn()
    fails += [CorruptError("x")] * 9
    assert [one.turn() for _ in range(9)][-1] == AGAIN_S_MAX


def test_a_codec_refuses_every_cut_of_a_lease_record() -> None:
    """No prefix of a record is a record."""
    whole = CODEC.encode(FIRST)
    for end in range(len(whole)):
        with pytest.raises(DecodeError):
            CODEC.decode_as(Lease, whole[:end])
