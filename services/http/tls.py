"""A service's own certificate, loaded again when its files change: connections that are open keep the old one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import MisconfiguredError
from services.adapters.private_files import read_secret, stamp_of


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with those that lead to its authority, and its key, which only its owner may read."""

    certificate: Path
    key: Path


class ServerTls:
    """The context of a service's TLS connections.

    Args:
        files: of its certificate and key.

    Raises:
        MisconfiguredError: they cannot be used; the text names the files.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._look()
        self.context = _context_of(files)

    def renew(self) -> bool:
        """Load the files again if they have changed; whether they had.

        Raises:
            MisconfiguredError: they cannot be used as they are now; what was loaded before stays in use.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        _context_of(self._files)  # a pair that does not fit would leave the context in use without a key
        self.context.load_cert_chain(self._files.certificate, self._files.key)
        self._stamp = stamp
        return True

    def _look(self) -> tuple[tuple[int, int], ...]:
        return tuple(stamp_of(path, "TLS file") for path in (self._files.certificate, self._files.key))


def _context_of(files: TlsFiles) -> ssl.SSLContext:
    read_secret(files.key, "TLS key file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or str(error)
        raise MisconfiguredError(f"TLS files {files.certificate} and {files.key} are no pair: {why}") from None
    return context
