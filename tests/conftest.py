"""Fixtures that start real servers; a missing tool fails, it does not skip."""

from collections.abc import Iterator

import hypothesis
import pytest

from infra.local.stack import Stack
from infra.local.tools import Tools

# A machine that is busy with something else is no failure of what is tested.
hypothesis.settings.register_profile("farside", deadline=None)
hypothesis.settings.load_profile("farside")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two regions, the witness and the links, on loopback; stopped at the session's end."""
    with Stack(tmp_path_factory.mktemp("stack"), Tools.cached()) as started:
        started.start()
        yield started
