"""A real schema registry on loopback, for tests: Apicurio Registry, which serves Confluent's REST API.

It is no part of the local stack: nothing of Farside needs one unless an operator asks for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.errors import StackError
from infra.local.ports import HOST, PortClaims
from infra.local.servers import http_answers, plain_env
from services.runtime.child_processes import kill_families, spawn, tail, wait_for

READY_S = 120.0
API = "/apis/ccompat/v7"
_HEAP = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


@contextmanager
def registry(folder: Path, java: Path, jar: Path) -> Iterator[str]:
    """Start an empty registry, and end it at the close; it keeps everything in memory.

    Args:
        folder: its log goes there, as `registry.log`.
        java: the program.
        jar: as of `tools.registry_jar`.

    Yields:
        The API's root.

    Raises:
        StackError: it did not come up; its log's end is in the text.
    """
    claims = PortClaims()
    log = folder / "registry.log"
    try:
        port = claims.claim(())
        child = spawn([str(java), *_HEAP, *_settings(port), "-jar", str(jar)], plain_env(), folder, log)
        try:
            root = f"http://{HOST}:{port}{API}"
            wait_for(lambda: child.poll() is not None or http_answers(f"{root}/subjects"), READY_S)
            if child.poll() is not None or not http_answers(f"{root}/subjects"):
                raise StackError(f"the schema registry did not come up; the end of {log}:\n{tail(log)}")
            yield root
        finally:
            kill_families([child])
    finally:
        claims.release()


def _settings(port: int) -> list[str]:
    properties = {
        "quarkus.http.host": HOST,
        "quarkus.http.port": port,
        # A pool of 20 connections to its database in memory, which is its own, takes a second to open.
        "quarkus.datasource.jdbc.initial-size": 1,
        "quarkus.datasource.jdbc.min-size": 1,
        "quarkus.datasource.jdbc.max-size": 8,
    }
    return [f"-D{name}={value}" for name, value in properties.items()]
