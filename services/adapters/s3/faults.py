"""The errors of S3 servers and of the SDK, in our tree: every exit of this folder's adapters goes through here.

| what was seen | becomes |
|---|---|
| S3's own code for what a person must change: no such bucket, denied, another region's, unknown | Misconfigured |
| a key that no store takes | Corrupt: whoever named it named no object |
| 409, 429, 5xx, throttling, timeouts, broken connections, what cannot be understood, a proxy's answers | Retryable |

A status without one of S3's codes is a proxy's or another program's, so it is no word of the store: it is tried again.
Only 401 and 403 are taken at their word, since a HEAD is refused without a body.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    InvalidProxiesConfigError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.exceptions import SSLError as SdkSslError
from botocore.session import get_session
from urllib3.util.ssl_match_hostname import CertificateError

from pipelines.errors import CorruptError, FarsideError, MisconfiguredError, RetryableError
from services.adapters.tls_faults import authorities, causes, certificate_fault, other_name

BUNDLE = "AWS_CA_BUNDLE"  # the setting of the SDK's own for the certificate authorities
MISSING = "NoSuchKey"  # nothing else says that there is no such object
REFUSED_CONDITION = frozenset({"412", "PreconditionFailed"})
# S3's word for "another write of this key was under way, and nothing of yours was stored": no word on what is there.
CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted", "Conflict"})
_DENIED = frozenset({"401", "403"})
_BAD_KEYS = frozenset({"KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName", "XMinioInvalidResourceName"})
_ELSEWHERE = frozenset(
    {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
# Refusals of the 4xx family that another try may get past: what was sent was damaged or late on its way.
_PASSING = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
        *CONFLICT,
    }
)
_PASSING_STATUS = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, for an error's text: its name, the server's address, and the setting that names it."""

    bucket: str
    endpoint: str
    setting: str = "bucket"

    def __str__(self) -> str:
        return f"bucket {self.bucket!r} at {self.endpoint}"


def code_of(error: ClientError) -> str:
    """The server's error code, or else its HTTP status as text."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code or str(status_of(error))


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer; 0 if it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def mapped_errors(what: str, place: Place) -> Iterator[None]:
    """Turn whatever the SDK raises into an error of ours; conditions and missing keys are the caller's to handle first.

    Args:
        what: was asked for, to begin the text with.
        place: where.
    """
    try:
        yield
    except FarsideError:
        raise
    except Exception as error:
        raise mapped(what, place, error) from error


def mapped(what: str, place: Place, error: Exception) -> FarsideError:
    """The error of our tree for one of the SDK's, or for one of the libraries below it."""
    if isinstance(error, ClientError):
        return _answered(what, place, error)
    if isinstance(error, ParamValidationError):
        if "bucket" in str(error).lower():
            return MisconfiguredError(f"{what}: {place}: {_one_line(error)}: check {place.setting} in the settings")
        return CorruptError(f"{what}: no store takes this key: {_one_line(error)}")
    if isinstance(error, UnicodeError):
        return CorruptError(f"{what}: no store takes this key: {error}")
    if isinstance(error, InvalidProxiesConfigError | NoCredentialsError):
        return MisconfiguredError(f"{what}: {place}: {_one_line(error)}")
    return _unreached(what, place, error)


def _answered(what: str, place: Place, error: ClientError) -> FarsideError:
    code = code_of(error)
    if code in _BAD_KEYS:
        return CorruptError(f"{what}: {place} takes no such key ({code})")
    if code == "RequestTimeTooSkewed":  # a clock that jumps is put right again, and no process may end meanwhile (I16)
        return RetryableError(f"{what}: {place}: this machine's clock differs from the store's: synchronise both (NTP)")
    advice = _advice(place, code, status_of(error), str(error.response.get("Error", {}).get("Message", "")))
    if advice:
        return MisconfiguredError(f"{what}: {advice}")
    return RetryableError(f"{what}: the store answers {code}" + (f", no word of S3's ({place})" * code.isdigit()))


def _advice(place: Place, code: str, status: int, said: str) -> str:
    """The sentence for a person who must change something; "" if another try may succeed."""
    if code == "NoSuchBucket":
        return f"there is no {place}: check {place.setting} and the address in the settings, or make the bucket"
    named = not code.isdigit()  # the store's own word, not a status without one
    if code in _DENIED or (named and status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}):
        return (
            f"the store denies it ({code}), {place}: check the credentials file, and the user's policy "
            "(docs/credentials.md)"
        )
    if code in _ELSEWHERE:
        return f"{place} is served elsewhere ({code}): give the address of its own region"
    refused = named and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if (refused and code not in _PASSING and status not in _PASSING_STATUS) or status == HTTPStatus.NOT_IMPLEMENTED:
        return f"{place} refuses it ({code}: {said}): is it an S3 server with this request?"
    return ""


def _unreached(what: str, place: Place, error: Exception) -> FarsideError:
    chain = tuple(causes(error))
    if isinstance(error, SdkSslError) or any(isinstance(one, ssl.SSLError) for one in chain):
        wrong = _bundle_fault() or _certificate_fault(error, place)
        if wrong:
            return MisconfiguredError(f"{what}: {place}: {wrong}")
        return RetryableError(f"{what}: {place}: no TLS is spoken there: is it the plain port? ({_one_line(error)})")
    if any(isinstance(one, socket.gaierror) for one in chain):
        return RetryableError(f"{what}: {place}: the host's name does not resolve: check the address, and the resolver")
    if isinstance(error, ConnectionClosedError) and place.endpoint.startswith("http://"):
        return RetryableError(
            f"{what}: {place}: it closes the connection without an answer: if it speaks TLS only, give https:// in the "
            "settings"
        )
    if isinstance(error, BotoCoreError | OSError):
        return RetryableError(f"{what}: {_one_line(error)}")
    return RetryableError(f"{what}: {place}: the answer cannot be understood ({type(error).__name__}: {error})")


def _certificate_fault(error: Exception, place: Place) -> str:
    """Why the server's certificate is refused; "" if it is not. The SDK compares the name by itself."""
    host = urlsplit(place.endpoint).hostname or ""
    named = next((one for one in causes(error) if isinstance(one, CertificateError)), None)
    if named is not None:
        return other_name(host, str(named))
    return certificate_fault(error, host, f"the system's certificate store (or the file that {BUNDLE} names)")


def _bundle_fault() -> str:
    """Why the file with the certificate authorities cannot be used; "" if it can, or if none is named."""
    bundle = get_session().get_config_variable("ca_bundle")
    if not bundle:
        return ""
    try:
        authorities(Path(bundle))
    except ssl.SSLError as error:
        return f"{BUNDLE} {bundle} holds no certificate ({error.reason or error}): it must hold some, in PEM"
    except OSError as error:
        return f"{BUNDLE} {bundle}: {error.strerror}: name the file with the certificate authorities in PEM"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
