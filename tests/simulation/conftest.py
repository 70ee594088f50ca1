"""Fixtures that the simulations share."""

from __future__ import annotations

import pytest

from services.adapters.signer import Ed25519Signer
from tests.simulation.failover_world import signer_in


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    """One for all worlds."""
    return signer_in(tmp_path_factory.mktemp("keys"))
