"""Ports that no other stack of this user has, and nobody else listens on."""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from infra.local.errors import StackError

HOST = "127.0.0.1"
# Below the ephemeral range (32768 and up on Linux), or an outgoing connection could take a port between our look and
# the server's bind.
_SCAN = range(20_100, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could bind this port on loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java and Go servers do: a port in TIME_WAIT after the last stack is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class PortClaims:
    """Ports reserved for one stack for as long as its owner lives.

    A broker binds seconds after its port was chosen, so a look alone is a race between two stacks that start together.
    Each port is therefore also a lock file, held until ``release`` or the owner's death.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"farside-ports-{os.getuid()}"
        self._held: dict[int, IO[bytes]] = {}

    def claim(self, wanted: Iterable[int]) -> int:
        """Claims the first of the wanted ports that is free, else any free one.

        Raises:
            StackError: No port is free at all.
        """
        # Stacks that start together begin their scans at different places.
        start = os.getpid() * 37 % len(_SCAN)
        candidates: list[int] = [*wanted, *_SCAN[start:], *_SCAN[:start]]
        for port in candidates:
            if port not in self._held and self._lock(port):
                return port
        raise StackError(f"no free port between {_SCAN.start} and {_SCAN.stop} on {HOST}")

    def release(self) -> None:
        """Gives every port back."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _lock(self, port: int) -> bool:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = (self._folder / str(port)).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        if not is_free(port):
            file.close()
            return False
        self._held[port] = file
        return True
