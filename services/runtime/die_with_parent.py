"""Runs a program that dies with the process that started it.

Used as ``python -I -S die_with_parent.py PARENT_PID PROGRAM ARGUMENT...`` (0: whoever started it). Linux keeps the
parent-death signal across ``execv``, so the program itself needs to know nothing of it. A small program of its own
rather than ``preexec_fn``, which runs Python between fork and exec and may deadlock when the parent has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks the kernel for SIGKILL at the parent's death, then becomes the program."""
    parent_pid, program = int(sys.argv[1]) or os.getppid(), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call above: then no signal will ever come.
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone")
    os.execvp(program[0], program)  # noqa: S606 - the argument list comes from our own supervisor


if __name__ == "__main__":
    main()
