"""The checker of the lease record's history refuses what no register would do, and accepts what one may."""

from __future__ import annotations

import pytest

from tests.simulation.register_checker import READ, REFUSED, UNKNOWN, WROTE, Operation, faults_of_register

LANDED = ["v0", "v1", "v2"]


def op(client: str, kind: str, version: str | None, invoked_s: float, returned_s: float) -> Operation:
    """One request."""
    return Operation(client, kind, version, invoked_s, returned_s)


WRITES = [op("east", WROTE, "v0", 0, 1), op("east", WROTE, "v1", 10, 12), op("west", WROTE, "v2", 20, 22)]


def test_what_one_register_may_do_is_accepted() -> None:
    """Overlapping requests in either order, a read before the first write, a refusal, and an unknown write that won."""
    asked = [
        op("west", READ, None, -2, 0.5),
        op("west", READ, "v0", 11, 12.5),
        op("west", READ, "v1", 11, 12.5),
        op("east", REFUSED, "v1", 21, 23),
        op("east", READ, "v2", 21, 24),
    ]
    assert faults_of_register([*WRITES, *asked], LANDED) == []
    unknown = [*WRITES[:2], op("west", UNKNOWN, "v2", 20, 21), op("east", READ, "v2", 60, 61)]
    assert faults_of_register(unknown, LANDED) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (op("west", READ, "v0", 13, 14), "after east had wrote v1"),
        (op("west", READ, "v2", 2, 3), "before v2 was asked for"),
        (op("west", READ, "v9", 13, 14), "never there"),
        (op("west", READ, None, 13, 14), "after east had wrote v1"),
        (op("east", REFUSED, "v2", 30, 31), "nothing replaced v2"),
        (op("east", REFUSED, "v1", 13, 14), "before v2 was asked for"),
        (op("east", WROTE, "v9", 13, 14), "never there"),
    ],
)
def test_what_no_register_would_do_is_refused(wrong: Operation, says: str) -> None:
    """A stale read, one from the future, a lost update, a refusal without a reason."""
    found = faults_of_register([*WRITES, wrong], LANDED)
    assert any(says in one for one in found), found


def test_two_clients_that_read_back_and_forth_are_refused() -> None:
    """Reads alone can break the order: a newer version was seen, and then an older one."""
    reads = [op("east", READ, "v1", 13, 14), op("west", READ, "v0", 15, 16)]
    assert faults_of_register([WRITES[0], op("east", UNKNOWN, "v1", 10, 12), *reads], LANDED[:2]) != []
