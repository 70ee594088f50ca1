"""`farside schemas`: export or register the Avro schemas that other tools need to read the events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import MISCONFIGURED, misconfigured_exits
from services.cli.prompts import Json
from services.cli.registry import Credentials, Url, registry_of

app = typer.Typer(
    help="Export or register the events' Avro schemas, for other tools that read the events.",
    no_args_is_help=True,
    add_completion=False,
)

README = """\
# Reading Farside's events with your own tools

`schemas/<fingerprint>.avsc` is every Avro schema that a record may have been written with. `index.json` lists them: its
`fingerprint`, the record's `name`, the `file`, and whether it is `current` (written by this version) or older.

**Values** are Avro single-object encoding (Avro 1.12): the bytes `c3 01`, the CRC-64-AVRO fingerprint of the writer's
schema (8 bytes, little-endian; the files here are named by those bytes in hexadecimal, as they stand in the value),
then the datum. So a reader takes `value[2:10].hex()`, opens that schema, and decodes `value[10:]`. A fingerprint that
is not here was written by a newer version: its schema is in the region's bucket, as the object
`schemas/<fingerprint>`.

**Keys** are the run's name, in UTF-8. **Headers** are CloudEvents' (`ce_id`, `ce_source` = `/farside/<region>/<run>`,
`ce_type`, `ce_specversion`, `ce_time` in milliseconds) and the event's identity (`farside_run`, `farside_epoch`,
`farside_attempt`, `farside_producer`, `farside_seq`, `farside_lane`, `farside_step`), all text. A standby's copy also
has `farside_from` (`<region>:<partition>:<offset>`), `farside_late` if it came after a failover, and, if it stands out
of order, `farside_redriven` (it was a dead letter before), `farside_filled` (its number had been jumped over) or
`farside_rebuilt` (from its manifest, since the log had lost it).

**Topics**: `farside.checkpoints`, `farside.metrics`, `farside.data-versions`, `farside.heartbeats`,
`farside.control`, `farside.dead-letters`, `farside.ledger`, `farside.alarms`. Read with
`isolation.level=read_committed`: a standby publishes in transactions. An event may be in a primary's topic twice, under
the same `ce_id`; count it once.

In Python:

```python
schema = fastavro.parse_schema(json.loads(pathlib.Path(f"schemas/{value[2:10].hex()}.avsc").read_text()))
event = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
```
"""


@app.callback()
def schemas() -> None:
    """Export or register the events' Avro schemas, for other tools that read the events."""


@app.command()
def export(
    to: Annotated[
        Path, typer.Option("--to", help="Folder to write to; it is made if it does not exist.", file_okay=False)
    ],
    *,
    as_json: Json = False,
) -> None:
    """Write every schema that this version can read to a folder, with an index and a README on the bytes' format.

    Example: farside schemas export --to schemas

    Exit codes: 0 written, 2 the folder cannot be written.
    """
    from schemas.codec import all_schemas, fingerprint, record_types  # noqa: PLC0415 - `farside --help` must be quick

    current = {fingerprint(cls) for cls in record_types().values()}
    index = []
    try:
        (to / "schemas").mkdir(parents=True, exist_ok=True)
        for name, text in sorted(all_schemas().items()):
            file = f"schemas/{name}.avsc"
            (to / file).write_text(text, encoding="utf-8")
            index.append(
                {"fingerprint": name, "name": json.loads(text)["name"], "file": file, "current": name in current}
            )
        (to / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (to / "README.md").write_text(README, encoding="utf-8")
    except OSError as error:
        typer.echo(f"farside: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(MISCONFIGURED) from error
    if as_json:
        typer.echo(json.dumps(index))
    else:
        typer.echo(f"wrote {len(index)} schemas, index.json and README.md to {to}")


@app.command()
def register(
    registry: Annotated[str, Url],
    registry_credentials: Credentials = None,
    *,
    as_json: Json = False,
) -> None:
    """Register every schema that this version can read at a schema registry, each under its record's full name.

    That is Confluent's RecordNameStrategy. A schema that is registered already keeps its id. You need not do this
    before `farside replay --wire confluent`, which registers the schemas that it uses by itself. The registry's user is
    the one in --registry-credentials, else in FARSIDE_REGISTRY_USERNAME and FARSIDE_REGISTRY_PASSWORD, else none.

    Example: farside schemas register --registry http://localhost:8081

    Exit codes: 0 every schema is registered, 1 the registry does not answer, 2 the registry refuses, or misconfigured.
    """
    from schemas.codec import all_schemas  # noqa: PLC0415 - `farside --help` must be quick
    from schemas.confluent import subject_of  # noqa: PLC0415 - as above
    from services.runtime.real_time import retrier_of  # noqa: PLC0415 - as above
    from services.wrappers.retrying import REGISTRY, RetryingSchemaRegistry  # noqa: PLC0415 - as above

    registered = []
    with misconfigured_exits():
        client = RetryingSchemaRegistry(registry_of(registry, registry_credentials), retrier_of(REGISTRY))
        for name, text in all_schemas().items():
            subject = subject_of(text)
            registered.append({"subject": subject, "fingerprint": name, "id": client.register(subject, text)})
    if as_json:
        typer.echo(json.dumps(registered))
    else:
        for schema in registered:
            typer.echo(f"{schema['subject']:<26} {schema['fingerprint']} {schema['id']:>6}")
