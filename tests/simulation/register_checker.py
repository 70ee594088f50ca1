"""Whether what the clients of a lease record saw could have come from one register that changes by compare-and-set.

Linearizability (Herlihy and Wing, 1990) is hard to check in general; Wing and Gong's search tries all orders. Here each
write has a version of its own and names the version that it replaced, so the order of the writes is given by the chain,
and only real time is left to be checked: what had been answered before something else was asked comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

READ, WROTE, REFUSED, UNKNOWN = "read", "wrote", "refused", "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of one client, in true time.

    version: what was read; what a write made; what a refused write had named. None: no record.
    """

    client: str
    kind: str
    version: str | None
    invoked_s: float
    returned_s: float


def faults_of_register(operations: Sequence[Operation], landed: Sequence[str]) -> list[str]:
    """Every observation that no order explains, in words.

    Args:
        operations: of all clients; an UNKNOWN write has no answer, so it is not judged.
        landed: the versions in the order in which they replaced each other.
    """
    place: dict[str | None, int] = {version: number for number, version in enumerate(landed)}
    place[None] = -1
    asked_s = {one.version: one.invoked_s for one in operations if one.kind in {WROTE, UNKNOWN}}
    found: list[str] = []
    spans: list[tuple[float, float, int, Operation]] = []  # invoked, returned, earliest position
    for one in operations:
        if one.kind == UNKNOWN:
            continue
        if one.version not in place:
            found.append(f"{one.client} {one.kind} {one.version}, which was never there")
            continue
        at = place[one.version]
        spans.append((one.invoked_s, one.returned_s, {READ: 2 * at + 1, WROTE: 2 * at}.get(one.kind, 2 * at + 2), one))
        later = landed[at + 1] if one.kind == REFUSED and at + 1 < len(landed) else one.version
        if one.kind == REFUSED and later == one.version:
            found.append(f"{one.client} was refused although nothing replaced {one.version}")
        elif later is not None and asked_s.get(later, one.returned_s) > one.returned_s:
            found.append(f"{one.client} {one.kind} {one.version} before {later} was asked for")
    return found + _out_of_order(spans)


def _out_of_order(spans: list[tuple[float, float, int, Operation]]) -> list[str]:
    """An operation answered before another was asked must not come after it in the register's order."""
    found: list[str] = []
    answered = sorted(spans, key=lambda span: span[1])
    newest: tuple[int, Operation] | None = None
    at = 0
    for invoked_s, _, position, one in sorted(spans, key=lambda span: span[0]):
        while at < len(answered) and answered[at][1] < invoked_s:
            if newest is None or answered[at][2] > newest[0]:
                newest = (answered[at][2], answered[at][3])
            at += 1
        if newest is not None and one.kind != REFUSED and position < newest[0]:
            before = newest[1]
            found.append(
                f"{one.client} {one.kind} {one.version} after {before.client} had {before.kind} {before.version}"
            )
    return found
