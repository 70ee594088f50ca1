"""Signatures: what was not signed by a trusted key is refused."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from pipelines.errors import CorruptError, MisconfiguredError
from schemas.codec import Codec
from schemas.records import Signed
from services.adapters.signer import Ed25519Signer, generate_keypair


def _signers(folder: Path) -> tuple[Ed25519Signer, Ed25519Signer]:
    """East, which trusts itself only, and west, which trusts both."""
    east, east_public = generate_keypair(folder, "east")
    west, west_public = generate_keypair(folder, "west")
    return (
        Ed25519Signer(key_id="east", private_key_path=east, trusted={"east": east_public}),
        Ed25519Signer(key_id="west", private_key_path=west, trusted={"east": east_public, "west": west_public}),
    )


def test_what_a_trusted_region_signed_is_opened_elsewhere(tmp_path: Path) -> None:
    """And signing is deterministic: two agents that build the same manifest put the same bytes."""
    east, west = _signers(tmp_path)
    assert west.verify(east.sign(b"manifest")) == b"manifest"
    assert east.sign(b"manifest") == east.sign(b"manifest")


def test_an_untrusted_key_and_a_changed_payload_are_refused(tmp_path: Path) -> None:
    """Each refusal says why."""
    east, west = _signers(tmp_path)
    with pytest.raises(CorruptError, match="not trusted"):
        east.verify(west.sign(b"manifest"))
    codec = Codec()
    signed = codec.decode_as(Signed, east.sign(b"manifest"))
    with pytest.raises(CorruptError, match="does not fit"):
        west.verify(codec.encode(dataclasses.replace(signed, payload=b"manifesto")))
    with pytest.raises(CorruptError, match="not a signed record"):
        west.verify(b"garbage")


def test_the_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """And a key file that is missing is one clear line."""
    private, public = generate_keypair(tmp_path, "east")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(MisconfiguredError, match="absent"):
        Ed25519Signer(key_id="east", private_key_path=tmp_path / "absent", trusted={"east": public})
