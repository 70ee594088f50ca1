"""Why a TLS connection did not come about, in a sentence that says what to do. Light: the standard library only."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

# OpenSSL's numbers of a certificate's faults (X509_V_ERR_...).
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAMES = frozenset({62, 64})  # another host's, another address's


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that it came from: what a client library wraps is some way down."""
    seen: list[BaseException] = []
    left: list[object] = [error]
    while left:
        one = left.pop(0)
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            left += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def certificate_fault(error: BaseException, host: str, trusted: str) -> str:
    """Why a server's certificate is refused, and what to do; "" if that is not what the error came from.

    Args:
        error: as it was raised.
        host: the name or address that was connected to; "" if it is not known.
        trusted: whose signature is trusted, in words: a setting with its file.
    """
    fault = next((one for one in causes(error) if isinstance(one, ssl.SSLCertVerificationError)), None)
    if fault is None:
        return ""
    # One that a library raises by itself has no figures.
    number, said = getattr(fault, "verify_code", 0), getattr(fault, "verify_message", str(fault))
    if number in _OTHER_NAMES:
        return other_name(host, said)
    if number in {_NOT_YET, _EXPIRED}:
        return (
            f"its certificate is not valid now ({said}): renew it, and compare this machine's clock with the server's"
        )
    return (
        f"its certificate is signed by nobody who is trusted ({said}): {trusted} must hold the "
        "certificate authority that signed it"
    )


def other_name(host: str, said: str) -> str:
    """The sentence for a certificate that does not have the name which was connected to."""
    return (
        f"its certificate is for another name than {host or 'the one connected to'} ({said}): "
        "connect by a name that stands in the certificate, or have one made with this name"
    )


def authorities(ca_file: Path) -> ssl.SSLContext:
    """A context that trusts the certificate authorities of a file, and checks names.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ssl.SSLError: it holds no certificate.
    """
    return ssl.create_default_context(cafile=ca_file)
