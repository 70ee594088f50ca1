"""The fixtures that the tests of flows share."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.adapters.signer import Ed25519Signer, generate_keypair


@pytest.fixture
def signer(tmp_path: Path) -> Ed25519Signer:
    """East's own."""
    private, public = generate_keypair(tmp_path, "east")
    return Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
