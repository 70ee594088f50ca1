"""Lease groups: the records of many runs in one object at the witness, so that one request serves them all.

`pipelines.core.lease_groups` decides what a member's write or read means. Here requests are gathered: those that come
while another is under way, or within a moment, go together in the next one. A read is answered by a request that
*began* after it was asked for, so no answer is older than its question; a write is refused only by what was read after
it was asked for, and a write of the object that was not answered leaves every member's write in it unknown. An object
that cannot be read stops the members of its group, and a member that cannot be read stops its run: nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.lease import Held
from pipelines.core.lease_checks import checked
from pipelines.core.lease_groups import Change, applied, etag_of, member_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import Clock, Entropy, GroupStore, LeaseStore
from schemas.codec import Codec
from schemas.records import Lease, LeaseGroup, LeaseMember

GATHERS_S_MAX = 0.1  # runs in step ask within so long, a busy machine's too
TRIES = 8  # another region that writes its own members at the same time moves the object, not ours


class GroupedLeases:
    """Implements LeaseStore; may be shared by threads.

    Args:
        leases: keeps the records of runs without a group, and everybody's history.
        groups: keeps the groups' objects.
        group_of: the group of each run that has one.
        gathers_s: how long a request waits for company.
    """

    def __init__(
        self,
        leases: LeaseStore,
        groups: GroupStore,
        *,
        group_of: Mapping[str, str],
        codec: Codec,
        clock: Clock,
        entropy: Entropy,
        gathers_s: float,
    ) -> None:
        self._leases, self._codec = leases, codec
        of_group = {name: _Group(name, groups, clock, entropy, gathers_s) for name in set(group_of.values())}
        self._group_of = {run: of_group[name] for run, name in group_of.items()}

    def read(self, run: str) -> Held | None:
        """Implements LeaseStore."""
        group = self._group_of.get(run)
        if group is None:
            return self._leases.read(run)
        member = member_of(group.read(), run)
        if member is None:
            return None
        lease = checked(self._codec.decode_as(Lease, member.lease), run)
        if lease.write_id != member.write_id:
            raise CorruptError(f"the lease record of {run} in its group is not the version that the group names")
        return Held(lease, etag_of(member))

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        """Implements LeaseStore."""
        group = self._group_of.get(lease.run)
        if group is None:
            return self._leases.write(lease, expected_etag)
        member = LeaseMember(run=lease.run, write_id=lease.write_id, lease=self._codec.encode(lease))
        return etag_of(member) if group.write(Change(member, expected_etag)) else None

    def claim(self, run: str, epoch: int, body: bytes) -> bool:
        """Implements LeaseStore."""
        return self._leases.claim(run, epoch, body)

    def claimed(self, run: str) -> int:
        """Implements LeaseStore."""
        return self._leases.claimed(run)

    def note(self, lease: Lease) -> None:
        """Implements LeaseStore."""
        self._leases.note(lease)

    def noted(self, run: str) -> tuple[Lease, ...]:
        """Implements LeaseStore."""
        return self._leases.noted(run)


@dataclass(slots=True)
class _Write:
    """A member's write that waits for its answer: whether it won, or why that is not known."""

    change: Change
    answer: bool | Exception | None = None

    def result(self) -> bool:
        """The answer, returned or raised."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


class _Group:
    """One group's object. Whoever finds no request under way makes one, for all who wait.

    Args:
        name: the group's.
        groups: keeps its object.
        clock: waits for company.
        entropy: gives each write of the object its id.
        gathers_s: how long a request waits for company.
    """

    def __init__(self, name: str, groups: GroupStore, clock: Clock, entropy: Entropy, gathers_s: float) -> None:
        self._name, self._groups, self._clock, self._entropy = name, groups, clock, entropy
        self._gathers_s = gathers_s
        self._turn = threading.Condition()
        self._reading = self._writing = False
        self._begun = self._ended = 0  # reads
        self._stored: tuple[LeaseGroup, str] | None = None
        self._trouble: Exception | None = None
        self._queue: list[_Write] = []
        self._known: tuple[LeaseGroup, str] | None = None  # what our last write made; another region may have moved it

    def read(self) -> LeaseGroup | None:
        """The object as it is at some moment after this call; None if there is none."""
        with self._turn:
            wanted = self._begun + 1  # the first that begins from now on
            while self._ended < wanted and self._reading:
                self._turn.wait()
            if self._ended < wanted:
                self._reading = True
            else:
                return self._answer()
        try:
            self._clock.sleep(self._gathers_s)
            with self._turn:
                self._begun += 1
            stored, trouble = self._groups.read_group(self._name), None
        except Exception as error:  # noqa: BLE001 - raised in each thread that waits for it
            stored, trouble = None, error
        with self._turn:
            self._stored, self._trouble = stored, trouble
            self._reading, self._ended = False, self._begun
            self._turn.notify_all()
            return self._answer()

    def _answer(self) -> LeaseGroup | None:
        if self._trouble is not None:
            raise self._trouble
        return None if self._stored is None else self._stored[0]

    def write(self, change: Change) -> bool:
        """One member's conditional write; whether it won."""
        mine = _Write(change)
        with self._turn:
            self._queue.append(mine)
            while mine.answer is None and self._writing:
                self._turn.wait()
            if mine.answer is not None:
                return mine.result()
            self._writing = True
        self._clock.sleep(self._gathers_s)
        with self._turn:
            batch, self._queue = self._queue, []
        try:
            self._send(batch)
        except Exception as error:  # noqa: BLE001 - raised in each thread that waits for it
            for write in batch:
                write.answer = error if write.answer is None else write.answer
        with self._turn:
            self._writing = False
            self._turn.notify_all()
        return mine.result()

    def _send(self, batch: Sequence[_Write]) -> None:
        """Answer a batch with one conditional write; again, from a fresh read, while somebody else moves the object."""
        known, self._known = self._known, None  # until we know it again
        fresh = False
        for _ in range(TRIES):
            if known is None:
                known, fresh = self._groups.read_group(self._name), True
            before, etag = (None, None) if known is None else known
            changes = [write.change for write in batch if write.answer is None]
            after, allowed = applied(before, changes, self._name, self._entropy.new_id())
            if len(allowed) < len(changes) and not fresh:
                known = None
                continue  # what we remember may be old: only a read may refuse
            for write in batch:
                if write.answer is None and write.change not in allowed:
                    write.answer = False
            if not allowed:
                self._known = known
                return
            moved_to = self._groups.write_group(after, etag)
            if moved_to is not None:
                self._known = (after, moved_to)
                for write in batch:
                    write.answer = True if write.answer is None else write.answer
                return
            known, fresh = None, False
        raise RetryableError(f"lease group {self._name}: others wrote it {TRIES} times in between; nothing was written")
