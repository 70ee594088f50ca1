"""The boundary of one run in a process that serves many: what one run's flow raises ends nothing but its own turn."""

from __future__ import annotations

import traceback

from pipelines.errors import FarsideError, FencedError
from pipelines.ports import Journal
from schemas.codec import DecodeError
from services.runtime.scheduler import Flow

AGAIN_S, AGAIN_S_MAX = 1.0, 30.0


class OneRun:
    """A run's flow whose errors become its trouble; it is turned again, later each time up to a bound.

    Args:
        run: whose.
        part: the flow's name, for the journal.
        flow: turns it.
        journal: gets an alarm for each new trouble; with the trace if nobody foresaw it.
    """

    def __init__(self, run: str, part: str, flow: Flow, journal: Journal) -> None:
        self._run, self._part, self._flow, self._journal = run, part, flow, journal
        self._again_s = AGAIN_S
        self.trouble = ""

    def turn(self) -> float:
        """Turn the flow; seconds until it is due again.

        Raises:
            FencedError: a newer process has taken this one's place, for all runs.
        """
        try:
            rests_s = self._flow()
        except FencedError:
            raise
        except (FarsideError, DecodeError) as error:
            return self._stands(str(error), str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours in one run must not take the others' authority
            return self._stands(f"{type(error).__name__}: {error}", traceback.format_exc())
        if self.trouble:
            self._journal.say("control.goes_on", run=self._run, part=self._part)
        self.trouble, self._again_s = "", AGAIN_S
        return rests_s

    def _stands(self, trouble: str, why: str) -> float:
        if trouble != self.trouble:
            self._journal.say("control.alarm", run=self._run, part=self._part, error=why)
        self.trouble = trouble
        rests_s, self._again_s = self._again_s, min(2 * self._again_s, AGAIN_S_MAX)
        return rests_s
