"""Fixtures that start real servers; a missing tool fails, it does not skip."""

from collections.abc import Iterator

import pytest

from infra.local.stack import Stack
from infra.local.tools import Tools


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two regions, the witness and the links, on loopback; stopped at the session's end."""
    with Stack(tmp_path_factory.mktemp("stack"), Tools.cached()) as started:
        started.start()
        yield started
