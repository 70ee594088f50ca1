"""The troubles of a controller: by part of its turn, why it waits, or why only a person can help it."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.errors import CorruptError, MisconfiguredError, RetryableError
from pipelines.ports import Journal
from schemas.codec import DecodeError


class Troubles(dict[str, str]):
    """The texts by part; a part without one went well when it was tried last.

    Args:
        run: whose.
        journal: hears of each new trouble.
    """

    def __init__(self, run: str, journal: Journal) -> None:
        super().__init__()
        self._run, self._journal = run, journal

    def attempt(self, name: str, part: Callable[[], object]) -> None:
        """Run one part of a turn: a dependency that is away stops that part only, and status shows it.

        So does one that refuses, and a record that cannot be read: an alarm, since only a person can put that right.

        Args:
            name: the part's.
            part: what to do.
        """
        try:
            part()
        except (RetryableError, CorruptError, MisconfiguredError, DecodeError) as error:
            before, waits = self.get(name), isinstance(error, RetryableError)
            if before is None or (not waits and before != str(error)):
                event = "control.waits" if waits else "control.alarm"
                self._journal.say(event, run=self._run, part=name, error=str(error))
            self[name] = str(error)
        else:
            self.pop(name, None)
