"""Makes the credentials of people and services: a token for whoever asks, its digest for whoever is asked."""

from __future__ import annotations

import os
from pathlib import Path

from services.adapters.tokens import digest_of, new_token, token_in
from services.http.callers import Caller, Role, callers_in, text_of


def token_file(path: Path) -> str:
    """The token in a file; a new one, in a new file that only its owner may read, if there is none."""
    if not path.exists():
        write_secret(path, f"{new_token()}\n")
    return token_in(path)


def caller(name: str, role: Role, token: str, node: str = "", runs: tuple[str, ...] = ()) -> Caller:
    """Whoever has a token; pydantic's ValidationError if the name or the role's node is not allowed."""
    return Caller(name=name, role=role, token_sha256=digest_of(token), node=node, runs=runs)


def admit(path: Path, newcomer: Caller) -> None:
    """Let a caller in, in the place of whoever had that name; the services that use the file see it at once."""
    before = callers_in(path) if path.exists() else ()
    write_secret(path, text_of((*(one for one in before if one.name != newcomer.name), newcomer)))


def expel(path: Path, name: str) -> bool:
    """Lock a caller out; whether there was one of that name."""
    before = callers_in(path)
    after = tuple(one for one in before if one.name != name)
    write_secret(path, text_of(after))
    return len(after) < len(before)


def write_secret(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read; a reader sees the one or the other."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)
