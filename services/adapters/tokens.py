"""Tokens by which people and services prove who they are: made here, kept in files that only their owner may read."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from pipelines.errors import MisconfiguredError
from services.adapters.private_files import read_secret

_TOKEN = re.compile(r"[\x21-\x7e]{20,512}")  # what an HTTP header can carry, and nobody guesses


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """The digest by which a service knows a token: whoever reads the callers' file learns no token."""
    return hashlib.sha256(token.encode()).hexdigest()


def token_in(path: Path) -> str:
    """The token that a file holds; errors as of `read_secret`, and MisconfiguredError if it holds none."""
    return checked(read_secret(path, "token file").decode("ascii", errors="replace").strip(), f"token file {path}")


def checked(token: str, where: str) -> str:
    """A token as it can be sent; MisconfiguredError says where it came from and shows nothing of it."""
    if not _TOKEN.fullmatch(token):
        raise MisconfiguredError(f"{where} holds no token: 20 to 512 printable ASCII characters without a space")
    return token
