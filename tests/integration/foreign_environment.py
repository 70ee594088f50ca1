"""How tests have topics read by somebody else's tools, in an environment that has nothing of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.local import tools
from services.adapters.kafka.connection import KafkaCluster

READER = Path(__file__).parent / "foreign_reader.py"
REQUIREMENTS = Path(__file__).parents[2] / "infra" / "local" / "requirements" / "reader.txt"


def clean_environment(folder: Path) -> Path:
    """A Python that has fastavro and confluent-kafka, and nothing of ours; the program."""
    cache = tools.cache_folder()
    uv = cache / f"uv-{tools.UV_VERSION}" / "bin" / "uv"
    environment = os.environ | {"UV_CACHE_DIR": str(cache / "uv-cache"), "VIRTUAL_ENV": str(folder)}
    for args in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(REQUIREMENTS)],
    ):
        subprocess.run([str(uv), *args], env=environment, check=True)
    return folder / "bin" / "python"


def read(python: Path, schemas: str, looks: KafkaCluster, topics: list[str], folder: Path) -> list[dict[str, Any]]:
    """The records of some topics, decoded by the foreign reader; `schemas`: an exported folder or a registry's URL."""
    assert looks.user is not None
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": looks.user.mechanism}
    login |= {"sasl.username": looks.user.username, "sasl.password": looks.user.password}
    settings = folder / "reader.json"
    settings.write_text(json.dumps({"bootstrap.servers": looks.bootstrap, **login}), encoding="utf-8")
    argv = [str(python), "-I", str(READER), schemas, str(settings), *topics]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [{**event, "record": finite(event["record"])} for event in map(json.loads, done.stdout.splitlines())]


def finite(value: Any) -> Any:  # noqa: ANN401 - a tree of plain values
    """Python's JSON knows Infinity; ours writes a string."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return str(value) if value == float("inf") else value
