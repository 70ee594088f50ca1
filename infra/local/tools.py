"""Where the cached tools are: one folder, each piece in a sub-folder whose name says its version."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infra.local.errors import ToolsMissing

KAFKA_VERSION = "4.3.1"
UV_VERSION = "0.13.9"
REGISTRY_VERSION = "2.6.13.Final"  # 3.3.3 needs Java 21
REGISTRY_ARTIFACT = f"io.apicurio:apicurio-registry-app:{REGISTRY_VERSION}:tar.gz:all"
REGISTRY_SHA256 = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
_HERE = Path(__file__).resolve().parent


def cache_folder() -> Path:
    """The one folder for everything downloaded or built: ``FARSIDE_CACHE``, or the user's cache directory."""
    if named := os.environ.get("FARSIDE_CACHE"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "farside"


def digest_of(*paths: Path) -> str:
    """A short digest over some files' contents; names a cache folder by what it was made from."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def kafka_folder(cache: Path) -> Path:
    """Where the brokers' jars are: the name carries the version and the POM's digest."""
    return cache / f"kafka-{KAFKA_VERSION}-{digest_of(_HERE / 'kafka' / 'pom.xml')}"


def gotools_folder(cache: Path) -> Path:
    """Where versitygw and toxiproxy are: the name carries the digest of what pins them."""
    module = _HERE / "gotools"
    return cache / f"gotools-{digest_of(module / 'go.mod', module / 'go.sum')}"


def registry_folder(cache: Path) -> Path:
    """Where the schema registry is that tests register at: the name carries the version and the archive's digest."""
    return cache / f"registry-{REGISTRY_VERSION}-{REGISTRY_SHA256[:12]}"


def registry_jar(cache: Path | None = None) -> Path:
    """The archive from which the schema registry is started. The stack does not need it: only its tests ask for it.

    Raises:
        ToolsMissing: The bootstrap for tests has not put it into the cache.
    """
    jar = registry_folder(cache or cache_folder()) / f"apicurio-registry-app-{REGISTRY_VERSION}-runner.jar"
    if not jar.exists():
        raise ToolsMissing(f"not found: {jar}; run `make test-tools`")
    return jar


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that the local stack is made of."""

    java: Path
    kafka_jars: Path
    versitygw: Path
    toxiproxy: Path

    @classmethod
    def cached(cls, cache: Path | None = None) -> Self:
        """The tools that the bootstrap put into the cache.

        Raises:
            ToolsMissing: One of them is not there; the text lists all that are missing.
        """
        cache = cache or cache_folder()
        gotools = gotools_folder(cache)
        java_home = os.environ.get("JAVA_HOME")
        java = shutil.which("java", path=f"{java_home}/bin") if java_home else None
        java = java or shutil.which("java")
        tools = cls(
            java=Path(java or "java"),
            kafka_jars=kafka_folder(cache),
            versitygw=gotools / "versitygw",
            toxiproxy=gotools / "toxiproxy-server",
        )
        missing = [str(path) for path in (tools.kafka_jars, tools.versitygw, tools.toxiproxy) if not path.exists()]
        if java is None:
            missing.insert(0, "java on the PATH")
        if missing:
            raise ToolsMissing(f"not found: {', '.join(missing)}; run `make bootstrap`")
        return tools
