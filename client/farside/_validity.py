"""Until when the launch under a guard may compute: the agent's files, read for ``farside.guard``.

``grant.json`` says under which policy a launch runs, ``validity.json`` is renewed by the agent for as long as the
region's authority is. Both count in seconds of CLOCK_BOOTTIME from before the agent asked, so a file that is not
renewed any more, for whatever reason, says by itself when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from farside import _spool

if TYPE_CHECKING:
    from pathlib import Path

HARD: Final = "hard"
SUPERSEDED: Final = "superseded"
FINISH_S: Final = 30.0
"""How long a trainer that holds for a planned move may take to leave by itself."""

GRACE_OF_MARGIN: Final = 0.8
"""The largest part of the lease's margin that may lie between SIGTERM and SIGKILL; the rest is for the kill itself."""


@dataclass(frozen=True, slots=True)
class Word:
    """The agent's newest report on the launch under this guard.

    Attributes:
        launch: its name.
        epoch: of its grant.
        attempt: of its grant.
        hard: whether it is to be killed when its authority ends.
        superseded_at_s: when it was first seen that another launch or region has the run; None if it was not.
        valid_until_s: on CLOCK_BOOTTIME.
        margin_s: the lease's safety margin: nobody else can act for so long after the validity's end.
        held: the trainer is known to compute nothing: it holds for a planned move, or has finished.
        reason: the agent's, for people.
    """

    launch: str
    epoch: int
    attempt: int
    hard: bool
    superseded_at_s: float | None = None
    valid_until_s: float = 0.0
    margin_s: float = 0.0
    held: bool = False
    reason: str = ""


def ending(word: Word | None, now_s: float) -> str | None:
    """Why the launch has to be killed now; None while it may go on.

    Before a grant there is nothing to lose, so a standby waits for as long as it takes. A trainer that holds
    computes nothing and goes on only by a later word, so the end of its validity does not kill it.
    """
    if word is None or not word.hard:
        return None
    if word.superseded_at_s is not None:
        late = not word.held or now_s - word.superseded_at_s >= FINISH_S
        return f"superseded: {word.reason}" if late else None
    if word.held or now_s < word.valid_until_s:
        return None
    return f"its authority ended {now_s - word.valid_until_s:.3f} s ago and was not renewed"


def next_look_s(word: Word | None, now_s: float, most_s: float) -> float:
    """Seconds until the guard has to look again: until the end of the validity, if that comes first."""
    if word is None or not word.hard or word.held:
        return most_s
    return min(most_s, max(0.0, word.valid_until_s - now_s))


def grace_s(asked_s: float | None, margin_s: float) -> float:
    """Seconds between SIGTERM and SIGKILL: half the margin by default, and never more than fits into the margin."""
    return min(margin_s / 2 if asked_s is None else asked_s, margin_s * GRACE_OF_MARGIN)


class Watch:
    """Finds the newest launch that names this guard, and reads what the agent says of it.

    Args:
        launches: the run's ``launches`` folder.
        guard: the name that the guard gave itself; the client puts it into ``request.json``.
    """

    def __init__(self, launches: Path, guard: str) -> None:
        self._launches, self._guard = launches, guard
        self._versions: dict[Path, tuple[int, int]] = {}
        self._bodies: dict[Path, dict[str, Any]] = {}
        self._until_s: dict[Path, float] = {}
        self._superseded_at_s: dict[str, float] = {}

    def look(self, now_s: float) -> Word | None:
        """The newest launch's validity as of ``now_s``, a time taken before the call; None before a grant."""
        folder = self._newest(now_s)
        if folder is None:
            return None
        grant = self._read(_spool.grant_path(folder), now_s)
        if not grant or grant.get("launch") != folder.name:
            return None
        own = (int(grant["epoch"]), int(grant["attempt"]))
        if grant.get("fencing") != HARD:
            return Word(folder.name, *own, hard=False)
        news, path = self._read(_spool.validity_path(folder), now_s), _spool.validity_path(folder)
        if not news or (news.get("epoch"), news.get("attempt")) != own:
            news, path = grant, _spool.grant_path(folder)
        if news.get("state") == SUPERSEDED:
            self._superseded_at_s.setdefault(folder.name, now_s)
        return Word(
            folder.name,
            *own,
            hard=True,
            superseded_at_s=self._superseded_at_s.get(folder.name),
            valid_until_s=self._until_s.get(path, now_s),
            margin_s=float(grant.get("margin_s", 0.0)),
            held=bool(news.get("held", False)),
            reason=str(news.get("reason", "")),
        )

    def _newest(self, now_s: float) -> Path | None:
        """A launcher that restarts its ranks makes a new launch: the one that asked last is the one that runs."""
        try:
            folders = [one for one in self._launches.iterdir() if not one.name.startswith(".")]
        except OSError:
            return None
        ours = []
        for folder in folders:
            path = _spool.request_path(folder)
            request = self._read(path, now_s)
            if request and request.get("guard") == self._guard:
                ours.append((self._versions[path][0], folder.name, folder))
        return max(ours)[2] if ours else None

    def _read(self, path: Path, now_s: float) -> dict[str, Any] | None:
        """The file, read again only when it was replaced; the last good one if it cannot be read now."""
        try:
            stat = path.stat()
        except OSError:
            return self._bodies.get(path)
        version = (stat.st_mtime_ns, stat.st_ino)
        if version != self._versions.get(path):
            found = _spool.read_json(path)
            if found is not None:
                self._versions[path], self._bodies[path] = version, found
                # It was asked before it was seen, so it cannot last longer than this, unless its clock was another
                # boot's.
                most_s = now_s + float(found.get("valid_s") or 0.0)
                self._until_s[path] = min(most_s, float(found.get("valid_until_s") or 0.0))
        return self._bodies.get(path)
