"""`farside token`: who may ask the services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import FAILED, MISCONFIGURED, misconfigured_exits


def token(
    name: Annotated[str, typer.Option(help="Who it is for: the actor of whatever is done with it, in the history.")],
    callers: Annotated[Path, typer.Option(help="The file in which the services look who may ask: api.callers_file.")],
    role: Annotated[
        str,
        typer.Option(
            help="viewer (status, metrics), operator (moves as well) or agent (grants for its own node and runs)."
        ),
    ] = "viewer",
    to: Annotated[
        Path | None, typer.Option(help="The file that gets the token. Keep it where only its owner can read it.")
    ] = None,
    node: Annotated[str, typer.Option(help="Of an agent: its node, as the setting `node` names it.")] = "",
    run: Annotated[list[str] | None, typer.Option(help="Of an agent: its runs. Default: every run.")] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Lock this name out instead.")] = False,
) -> None:
    """Make a credential for a person or a service: a token's file for whoever asks, an entry for whoever is asked.

    A token that is in the file already is kept. The callers' file has the token's digest only, so the same file may go
    to every node of a region. Services see a change of it at once, without a restart.

    Example: farside token --name ann --role operator --callers who.json --to ann

    Exit codes: 0 done, 1 there is nobody of that name to remove, 2 a name, role or file cannot be used.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - `farside --help` must be quick

    from pipelines.errors import MisconfiguredError  # noqa: PLC0415 - as above
    from services.adapters.tokens import digest_of  # noqa: PLC0415 - as above
    from services.http.callers import Caller  # noqa: PLC0415 - as above
    from services.operations import credentials  # noqa: PLC0415 - as above

    with misconfigured_exits():
        if remove:
            if not credentials.expel(callers, name):
                typer.echo(f"farside: there is no {name} in {callers}", err=True)
                raise typer.Exit(FAILED)
            typer.echo(f"{name} is locked out")
            return
        if to is None:
            raise MisconfiguredError("--to is missing: the file that gets the token")
        try:
            digest = digest_of(credentials.token_file(to))
            plain = {"name": name, "role": role, "node": node, "runs": tuple(run or ()), "token_sha256": digest}
            newcomer = Caller.model_validate(plain)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            typer.echo(f"farside: --{'.'.join(map(str, first['loc'])) or 'node'}: {first['msg']}", err=True)
            raise typer.Exit(MISCONFIGURED) from None
        except OSError as error:
            raise MisconfiguredError(f"{error.filename}: {error.strerror}") from None
        credentials.admit(callers, newcomer)
    typer.echo(f"{name} may ask as {role}; the token is in {to}")
