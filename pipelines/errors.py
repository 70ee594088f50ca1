"""The tree of errors: each one tells its caller what to do.

FarsideError
├── RetryableError       try again later; nothing was decided
│   └── UnknownOutcomeError   it may or may not have happened: read before believing (I4)
├── FencedError          another writer superseded this one: stop, do not retry
├── CorruptError         the bytes are not what they should be: dead letter, go on with the next
│   ├── ForeignEpochError     they are well made, by a region that does not hold their epoch: they never count (I17)
│   └── RefusedError          the log refuses these records for good: never send them again as they are
└── MisconfiguredError   a person must change something; the text says what, where and how
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class FarsideError(Exception):
    """The root of everything that Farside raises."""


class RetryableError(FarsideError):
    """A dependency did not answer; try again later."""


class UnknownOutcomeError(RetryableError):
    """A write may or may not have happened; only a read can tell."""


class FencedError(FarsideError):
    """A newer writer has taken over; this one must stop."""


class CorruptError(FarsideError):
    """Bytes that are missing, truncated, of another digest or signature."""


class ForeignEpochError(CorruptError):
    """Something of an epoch whose author is not the region that holds it."""


class RefusedError(CorruptError):
    """The log refuses some records for good, whatever is tried; the others of the same call may be there or not.

    Args:
        refused: the place of each in the call's messages, and why: topic, size, and what could be changed.
        too_large: those of them whose size is the reason; the topic refuses every other one of that size, too.
    """

    def __init__(self, refused: Mapping[int, str], too_large: Collection[int] = ()) -> None:
        super().__init__("; ".join(refused.values()))
        self.refused = dict(refused)
        self.too_large = frozenset(too_large)


class MisconfiguredError(FarsideError):
    """Something that only a person can put right."""
