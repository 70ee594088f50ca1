"""Faults planted in ports of the world of regions, to show that its checkers can see: each breaks a promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

from pipelines.core.lineage import LineageView
from pipelines.core.retention import Listed
from pipelines.errors import UnknownOutcomeError
from pipelines.ports import CopyJob, CopyResult, GrantReply, Partition
from schemas.records import Lease


class _Around:
    """A port that does as the one in it, but for what is written here."""

    def __init__(self, port: Any, pretended: dict[str, int]) -> None:  # noqa: ANN401 - any port
        self._port = port
        self._pretended = pretended  # sizes by key, for a fault in two ports at once

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method
        return getattr(self._port, name)


class _CopiesNothing(_Around):
    """The replicator publishes before it copied."""

    def __init__(self, port: Any, pretended: dict[str, int]) -> None:  # noqa: ANN401 - any port
        super().__init__(port, pretended)
        self._jobs: list[CopyJob] = []

    def start(self, job: CopyJob) -> None:
        self._jobs.append(job)
        self._pretended[job.key] = job.size

    def cancel(self, job_id: str) -> None:
        self._jobs = [one for one in self._jobs if one.job_id != job_id]

    def finished(self) -> tuple[CopyResult, ...]:
        jobs, self._jobs = self._jobs, []
        return tuple(CopyResult(one) for one in jobs)


class _SeesWhatIsNotThere(_Around):
    """And looking once more shows it all."""

    def entries(self, prefix: str) -> tuple[Listed, ...]:
        found = ((key, size) for key, size in self._pretended.items() if key.startswith(prefix))
        return tuple(Listed(key, size, 0) for key, size in found)


class _NoLedger(_Around):
    """A replicator that begins does not look at what was done before it."""

    def partitions(self, topics: list[str]) -> tuple[Partition, ...]:
        del topics
        return ()


class _EverythingCounts(_Around):
    """The replicator knows the epochs, and not where they were closed."""

    def __call__(self, run: str) -> LineageView | None:
        found: LineageView | None = self._port(run)
        if found is None:
            return None
        return dataclasses.replace(found, forks=tuple((epoch, parent, 10**9) for epoch, parent, _ in found.forks))


class _GrantsForEver(_Around):
    """A grant does not run out while its controller is away."""

    def ask(self, *args: object, **more: object) -> GrantReply:
        reply: GrantReply = self._port.ask(*args, **more)
        return dataclasses.replace(reply, valid_s=1e6) if reply.state == "granted" else reply


class _BelievesUnanswered(_Around):
    """A write without an answer counts as won."""

    def write(self, lease: Lease, expected_etag: str | None) -> str | None:
        try:
            found: str | None = self._port.write(lease, expected_etag)
        except UnknownOutcomeError:
            return f'"{lease.write_id}"'
        return found


class _ForgetsASpoolRecord(_Around):
    """An agent that begins takes for published what was only accepted."""

    def position(self, run: str, producer: str) -> int:
        records = self._port.read(run, producer, 0)
        return records[-1].end if records else 0


class _ShowsWhatWasThere(_Around):
    """A cache in front of the store: who reads a second time sees the bytes of the first."""

    def __init__(self, port: Any, pretended: dict[str, int]) -> None:  # noqa: ANN401 - any port
        super().__init__(port, pretended)
        self._seen: dict[str, bytes] = {}

    def pieces(self, key: str) -> Generator[bytes, None, None] | None:
        if key not in self._seen:
            body: bytes | None = self._port.get(key)
            if body is None:
                return None
            self._seen[key] = body
        return (piece for piece in [self._seen[key]])


_PLANTED: dict[str, dict[str, type[_Around]]] = {
    "published before it was copied": {"transfers": _CopiesNothing, "replicator's store": _SeesWhatIsNotThere},
    "the ledger is not consulted": {"own log": _NoLedger},
    "past a fork counts, too": {"lineage": _EverythingCounts},
    "a grant that does not run out": {"grants": _GrantsForEver},
    "an unanswered write taken for a won one": {"leases": _BelievesUnanswered},
    "accepted taken for published": {"spool": _ForgetsASpoolRecord},
    "bytes of long ago taken for those at rest": {"verifier's pieces": _ShowsWhatWasThere},
}
NAMES = tuple(_PLANTED)


@dataclasses.dataclass(frozen=True)
class Plant:
    """Puts one of the faults where it belongs."""

    name: str
    pretended: dict[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, port_name: str, port: Any) -> Any:  # noqa: ANN401 - any port
        """The port, with the fault if it is the one."""
        around = _PLANTED[self.name].get(port_name)
        return port if around is None else around(port, self.pretended)
