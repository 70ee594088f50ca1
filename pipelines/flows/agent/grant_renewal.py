"""Under the policy *hard*: writes for the guards of a node's launches until when each launch may compute.

A flow of its own, on a thread of its own: it needs the controller and the node's disk and nothing else, so that a slow
store or Kafka, which hold up uploads and heartbeats, never cost a job that has its authority. An authority
that it cannot renew ends by itself: the validity is counted from before it asked (6.4), and without an answer nothing
is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pipelines.core.heartbeats import DRAINED
from pipelines.errors import CorruptError, RetryableError
from pipelines.ports import Clock, GrantReply, Grants, Journal, Spool
from schemas.http_bodies import GrantRenewalStatus

HARD = "hard"
ASK_S = 0.5
FINISHED = "finished"


def authority_of(reply: GrantReply, asked_s: float) -> dict[str, object]:
    """The fields of grant.json about the policy and the validity.

    Args:
        reply: the controller's.
        asked_s: the time before it was asked.
    """
    if reply.fencing != HARD:
        return {"fencing": reply.fencing}
    until_s = asked_s + reply.valid_s
    return {"fencing": HARD, "valid_s": reply.valid_s, "valid_until_s": until_s, "margin_s": reply.margin_s}


class GrantRenewal:
    """One node's launches under *hard*.

    Args:
        node: the node's name.
        spool: its directory.
        grants: how the controller is asked.
        clock: the node's.
        journal: where a lost authority is reported.
    """

    def __init__(self, *, node: str, spool: Spool, grants: Grants, clock: Clock, journal: Journal) -> None:
        self._node, self._spool, self._grants, self._clock, self._journal = node, spool, grants, clock, journal
        self._validities: dict[tuple[str, str], dict[str, object]] = {}
        self._held: dict[tuple[str, str], bool] = {}
        self._troubles: dict[str, str] = {}

    def turn(self) -> float:
        """Renew what can be renewed; seconds until the next turn."""
        self._guarded("spool", self._every_run)
        return ASK_S

    def _every_run(self) -> None:
        for run in self._spool.runs():
            self._guarded(run, partial(self._one_run, run))

    def _one_run(self, run: str) -> None:
        for launch in self._watched(run):
            self._renew(run, launch)

    def _guarded(self, what: str, part: Callable[[], None]) -> None:
        """A node's disk that cannot be read or written costs the launches that it is about, and no others."""
        try:
            part()
        except (RetryableError, CorruptError) as error:
            self._troubles[what] = str(error)
        else:
            self._troubles.pop(what, None)

    def status(self) -> GrantRenewalStatus:
        """For how long each watched launch may still compute."""
        now_s = self._clock.boottime_s()
        left = {
            f"{run}/{name}": float(str(written["valid_until_s"])) - now_s
            for (run, name), written in self._validities.items()
        }
        return GrantRenewalStatus(hard_left_s=left, hard_troubles=dict(self._troubles))

    def _watched(self, run: str) -> list[dict[str, Any]]:
        """The newest launch, and those whose ranks live."""
        hard = [one for one in self._spool.grants(run) if one.get("fencing") == HARD]
        if not hard:
            return []
        newest = max((one["epoch"], one["attempt"]) for one in hard)
        wanted = {newest} | {(beat.epoch, beat.attempt) for beat in self._spool.beats(run)}
        return [one for one in hard if (one["epoch"], one["attempt"]) in wanted]

    def _renew(self, run: str, launch: dict[str, Any]) -> None:
        name, own = str(launch["launch"]), (launch["epoch"], launch["attempt"])
        asked_s = self._clock.boottime_s()
        try:
            reply = self._grants.ask(run, name, self._node, -1)
        except RetryableError as error:
            self._troubles[f"{run}/{name}"] = str(error)
            return
        self._troubles.pop(f"{run}/{name}", None)
        before = self._validities.get((run, name))
        if reply.state == "granted" and (reply.epoch, reply.attempt) == own:
            valid_s, until_s = reply.valid_s, asked_s + reply.valid_s
        elif reply.state == "superseded":
            valid_s, until_s = 0.0, asked_s
        else:
            return  # a controller that has not read the record yet says nothing about us
        validity: dict[str, object] = {"launch": name, "epoch": own[0], "attempt": own[1], "state": reply.state}
        validity |= {"valid_s": valid_s, "valid_until_s": until_s, "reason": reply.reason}
        validity["held"] = self._is_held(run, name, own, reply)
        if before is not None and reply.state == "superseded" and validity["held"] == before["held"]:
            if before["state"] == "superseded":
                return  # written and reported once is enough
            self._journal.say(
                "grant_renewal.superseded", run=run, launch=name, held=validity["held"], reason=reply.reason
            )
        self._spool.validity(run, name, validity)
        self._validities[run, name] = validity

    def _is_held(self, run: str, name: str, own: tuple[int, int], reply: GrantReply) -> bool:
        """Whether its ranks compute nothing and begin nothing: they have finished, or hold during a planned move.

        Ranks that have left leave no beat, which changes nothing: what they said last stands.
        """
        phases = {beat.phase for beat in self._spool.beats(run) if (beat.epoch, beat.attempt) == own}
        before = self._held.get((run, name), False)
        if phases:
            moving = reply.draining or (before and reply.state == "superseded")
            before = phases <= ({DRAINED, FINISHED} if moving else {FINISHED})
        self._held[run, name] = before
        return before
