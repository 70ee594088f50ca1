"""The tree of errors: each one tells its caller what to do.

FarsideError
├── RetryableError       try again later; nothing was decided
│   └── UnknownOutcomeError   it may or may not have happened: read before believing (I4)
├── FencedError          another writer superseded this one: stop, do not retry
├── CorruptError         the bytes are not what they should be: dead letter, go on with the next
└── MisconfiguredError   a person must change something; the text says what, where and how
"""

from __future__ import annotations


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


class MisconfiguredError(FarsideError):
    """Something that only a person can put right."""
