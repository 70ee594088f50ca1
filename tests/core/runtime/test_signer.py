"""Signatures (Ed25519), and the keys behind them: several a region, revoked ones, and those that must not be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from pipelines.errors import CorruptError, MisconfiguredError
from schemas.codec import Codec
from schemas.records import Signed
from services.adapters.signer import (
    Ed25519Signer,
    Ed25519Verifier,
    TrustedKeys,
    generate_keypair,
    key_id_of,
    region_of,
)

DATED = "east@2026-11-28"


def _pair(folder: Path) -> tuple[Ed25519Signer, Ed25519Signer]:
    east, east_public = generate_keypair(folder, "east")
    west, west_public = generate_keypair(folder, "west")
    return (
        Ed25519Signer(key_id="east", private_key_path=east, trusted={"east": east_public}),
        Ed25519Signer(key_id="west", private_key_path=west, trusted={"east": east_public, "west": west_public}),
    )


def test_what_a_trusted_region_signed_is_opened_and_says_whose_it_is(tmp_path: Path) -> None:
    """And the same bytes are signed the same way."""
    east, west = _pair(tmp_path)
    assert west.verify(east.sign(b"manifest")) == b"manifest"
    assert (west.opened(east.sign(b"x")).region, west.opened(west.sign(b"x")).region) == ("east", "west")
    assert east.sign(b"manifest") == east.sign(b"manifest")


def test_a_stranger_and_a_changed_payload_are_refused(tmp_path: Path) -> None:
    """East does not know west; and nobody's signature fits other bytes, or another region's name."""
    east, west = _pair(tmp_path)
    with pytest.raises(CorruptError, match="not trusted"):
        east.verify(west.sign(b"manifest"))
    codec = Codec()
    signed = codec.decode_as(Signed, east.sign(b"manifest"))
    with pytest.raises(CorruptError, match="does not fit"):
        west.verify(codec.encode(dataclasses.replace(signed, payload=b"manifesto")))
    with pytest.raises(CorruptError, match="'west' does not fit"):
        west.verify(codec.encode(dataclasses.replace(signed, key_id="west")))
    with pytest.raises(CorruptError, match="not a signed record"):
        west.verify(b"garbage")


def test_I17_a_rotation_leaves_every_old_checkpoint_readable_and_is_signed_with_the_new_key(tmp_path: Path) -> None:
    """Both keys are east's; the private key alone says which one signs."""
    old, old_public = generate_keypair(tmp_path, "east")
    new, new_public = generate_keypair(tmp_path, DATED)
    trusted = {"east": old_public, DATED: new_public}
    before = Ed25519Signer(key_id="east", private_key_path=old, trusted={"east": old_public}).sign(b"old")
    signer = Ed25519Signer(key_id="east", private_key_path=new, trusted=trusted)
    after = signer.sign(b"new")
    assert Codec().decode_as(Signed, after).key_id == DATED
    reader = Ed25519Verifier(trusted)
    assert [reader.opened(one) for one in (before, after)] == [signer.opened(before), signer.opened(after)]
    assert {reader.opened(one).region for one in (before, after)} == {"east"}
    assert (key_id_of("east"), key_id_of("east", "2026-11-28"), region_of(DATED)) == ("east", DATED, "east")


def test_I17_what_a_revoked_key_signed_is_believed_no_more_and_nobody_signs_with_it(tmp_path: Path) -> None:
    """Whenever it was signed: its thief can write any time. The other key of the region goes on."""
    old, old_public = generate_keypair(tmp_path, "east")
    new, new_public = generate_keypair(tmp_path, DATED)
    trusted = {"east": old_public, DATED: new_public}
    made = [Ed25519Signer(key_id="east", private_key_path=one, trusted=trusted).sign(b"x") for one in (old, new)]
    reader = Ed25519Verifier(TrustedKeys(trusted, ("east",)))
    with pytest.raises(CorruptError, match="'east', which is revoked"):
        reader.opened(made[0])
    assert reader.opened(made[1]).payload == b"x"
    with pytest.raises(MisconfiguredError, match="private key of east, which is revoked: sign with another"):
        Ed25519Signer(key_id="east", private_key_path=old, trusted=TrustedKeys(trusted, ("east",)))
    with pytest.raises(MisconfiguredError, match="revoked_keys: esat is the id of no key; there are east, east@2026"):
        Ed25519Verifier(TrustedKeys(trusted, ("esat",)))


def test_a_private_key_that_fits_none_of_its_regions_public_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    """Nobody would believe what it signs: found before the first checkpoint, not after it."""
    east, _ = generate_keypair(tmp_path, "east")
    _, west_public = generate_keypair(tmp_path, "west")
    with pytest.raises(MisconfiguredError, match="makes no pair with a public key of east \\(it has none\\)"):
        Ed25519Signer(key_id="east", private_key_path=east, trusted={"west": west_public})
    with pytest.raises(MisconfiguredError, match="makes no pair with a public key of east \\(east\\)"):
        Ed25519Signer(key_id="east", private_key_path=east, trusted={"east": west_public})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_private_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """One line says what and how to put it right."""
    private, public = generate_keypair(tmp_path, "east")
    private.chmod(mode)
    said = f"{private.name} can be read by others \\(mode {mode:04o}\\): chmod 600"
    with pytest.raises(MisconfiguredError, match=said):
        Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})
    private.chmod(0o400)
    Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": public})


def test_a_missing_key_file_says_which_and_what_to_do(tmp_path: Path) -> None:
    """A person has to put it there."""
    private, public = generate_keypair(tmp_path, "east")
    assert private.stat().st_mode & 0o077 == 0, "nobody else may read it"
    with pytest.raises(MisconfiguredError, match="absent"):
        Ed25519Signer(key_id="east", private_key_path=tmp_path / "absent", trusted={"east": public})


@pytest.mark.parametrize("body", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_bad_pem_is_one_clear_line(tmp_path: Path, body: bytes) -> None:
    """For the private key and for a public one; another kind of key says so, too."""
    private, public = generate_keypair(tmp_path, "east")
    bad = tmp_path / "bad.pem"
    bad.touch(mode=0o600)
    bad.write_bytes(body)
    with pytest.raises(MisconfiguredError, match="bad\\.pem holds no PEM of an unencrypted Ed25519 private key"):
        Ed25519Signer(key_id="east", private_key_path=bad, trusted={"east": public})
    with pytest.raises(MisconfiguredError, match="bad\\.pem holds no PEM of an Ed25519 public key"):
        Ed25519Signer(key_id="east", private_key_path=private, trusted={"east": bad})
    other = generate_private_key(65537, 2048)
    bad.write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(MisconfiguredError, match="another kind of private key than Ed25519"):
        Ed25519Signer(key_id="east", private_key_path=bad, trusted={"east": public})
