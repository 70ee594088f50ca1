"""The contract of SchemaRegistry, over the memory fake and a real one; and the whole set of our schemas there."""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from infra.local.registry import registry
from infra.local.tools import Tools, registry_jar
from pipelines.errors import MisconfiguredError, RetryableError
from pipelines.ports import SchemaRegistry
from schemas.codec import all_schemas
from schemas.confluent import subject_of
from services.adapters.http.schema_registry import KIND, HttpSchemaRegistry
from services.adapters.memory.schema_registry import MemorySchemaRegistry
from services.cli import app

NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry's address."""
    with registry(tmp_path_factory.mktemp("registry"), Tools.cached().java, registry_jar()) as url:
        yield url


@pytest.fixture(params=[pytest.param("memory"), pytest.param("apicurio", marks=pytest.mark.servers)])
def any_registry(request: pytest.FixtureRequest) -> SchemaRegistry:
    """In memory, and a real one."""
    if request.param == "memory":
        return MemorySchemaRegistry()
    return HttpSchemaRegistry(request.getfixturevalue("real"))


def _schema(*fields: str) -> tuple[str, str]:
    """A subject that nobody has yet, and a schema of its name."""
    name = f"Record{next(NAMES)}"
    plain = [{"name": name, "type": "int", "default": 0} for name in fields]
    return f"test.{name}", json.dumps({"type": "record", "name": name, "namespace": "test", "fields": plain})


def _ask(url: str, body: object = None) -> object:
    """The real registry's own answer, past our client."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": KIND}, method="PUT" if data else "GET")  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return json.load(answer)


def test_a_schema_keeps_its_id_and_another_one_has_another(any_registry: SchemaRegistry) -> None:
    """Registering twice is harmless; a newer version of a record does not take the older one's id."""
    subject, schema = _schema("a")
    newer = json.dumps(json.loads(schema) | {"doc": "x", "fields": json.loads(_schema("a", "b")[1])["fields"]})
    first = any_registry.register(subject, schema)
    second = any_registry.register(subject, newer)
    assert first != second
    assert [any_registry.register(subject, text) for text in (newer, schema)] == [second, first]
    assert any_registry.register(*_schema("a")) not in {first, second}


def test_what_is_no_schema_is_refused(any_registry: SchemaRegistry) -> None:
    """A person's business: it would be refused again."""
    with pytest.raises(MisconfiguredError):
        any_registry.register("test.Nonsense", '{"type": "record"}')


@pytest.mark.servers
def test_every_schema_of_ours_passes_the_strictest_rule_and_is_read_back_as_it_is(real: str) -> None:
    """`farside schemas register` under FULL_TRANSITIVE, twice: same ids, and each id gives the very schema back."""
    _ask(f"{real}/config", {"compatibility": "FULL_TRANSITIVE"})
    try:
        runs = [CliRunner().invoke(app, ["schemas", "register", "--registry", real, "--json"]) for _ in range(2)]
        assert [run.exit_code for run in runs] == [0, 0], runs[0].output
        registered = json.loads(runs[0].stdout)
        assert registered == json.loads(runs[1].stdout)
        assert {entry["fingerprint"] for entry in registered} == set(all_schemas())
        for entry in registered:
            kept = _ask(f"{real}/schemas/ids/{entry['id']}")
            assert isinstance(kept, dict)
            text = all_schemas()[entry["fingerprint"]]
            assert (json.loads(kept["schema"]), entry["subject"]) == (json.loads(text), subject_of(text))
        subject, schema = _schema("a")
        HttpSchemaRegistry(real).register(subject, schema)
        with pytest.raises(MisconfiguredError, match=f"{subject} holds other schemas"):
            HttpSchemaRegistry(real).register(subject, schema.replace('"int", "default": 0', '"string"'))
    finally:
        _ask(f"{real}/config", {"compatibility": "NONE"})


@pytest.mark.servers
def test_an_address_beside_the_api_is_told_and_so_is_one_where_nobody_listens(real: str) -> None:
    """Each with what to do."""
    with pytest.raises(MisconfiguredError, match="name its root"):
        HttpSchemaRegistry(real.partition("/apis")[0]).register(*_schema("a"))
    with pytest.raises(RetryableError, match="does not answer"):
        HttpSchemaRegistry("http://127.0.0.1:1").register(*_schema("a"))
