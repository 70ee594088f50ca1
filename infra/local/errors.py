"""The errors of the local stack.

StackError
├── ToolsMissing     run the bootstrap (``make`` does it)
├── StackNotRunning  start it first (``farside up``)
└── StackBusy        another process owns this folder
"""


class StackError(Exception):
    """The local stack cannot do what was asked; the text says why and what to do."""


class ToolsMissing(StackError):  # noqa: N818 - names the condition, as the operator's message does
    """A cached tool is not there or not whole."""


class StackNotRunning(StackError):  # noqa: N818 - names the condition
    """No live process owns a stack in that folder."""


class StackBusy(StackError):  # noqa: N818 - names the condition
    """A live process owns a stack in that folder already."""
