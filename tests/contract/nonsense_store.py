"""A real HTTP server that answers whatever it is told to, as a proxy, a portal or a broken store would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

ANSWERED = b"HTTP/1.1 %d Whatever\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


def answer(status: int, body: bytes = b"") -> bytes:
    """A whole answer; without a body it is what a HEAD gets."""
    return ANSWERED % (status, len(body), body)


def s3_error(status: int, code: str) -> bytes:
    """An answer in S3's own words."""
    return answer(status, f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode())


@dataclass
class NonsenseStore:
    """Answers every request with the same bytes and closes; `requests` holds their first lines."""

    says: bytes = b""
    says_to_head: bytes | None = None
    requests: list[str] = field(default_factory=list)
    port: int = 0

    def serve(self, listener: socket.socket) -> None:
        """Until the listener is closed."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        stream = connection.makefile("rwb")
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return
        self.requests.append(line)
        body_bytes, waits = 0, False
        while (header := stream.readline().strip().lower()) != b"":
            body_bytes = int(header.split(b":")[1]) if header.startswith(b"content-length:") else body_bytes
            waits = waits or b"100-continue" in header
        if waits:
            stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            stream.flush()
        stream.read(body_bytes)  # else the end of the connection would be a reset, which takes the answer away
        is_head = line.startswith("HEAD") and self.says_to_head is not None
        stream.write(self.says_to_head or b"" if is_head else self.says)
        stream.flush()


@contextlib.contextmanager
def nonsense_store() -> Iterator[NonsenseStore]:
    """One that runs, on loopback."""
    store = NonsenseStore()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store.port = int(listener.getsockname()[1])
        thread = threading.Thread(target=store.serve, args=(listener,), daemon=True)
        thread.start()
        yield store
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
