"""Signing manifests with Ed25519 (RFC 8032), so that a region trusts only what a region of its own fleet committed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.errors import CorruptError, MisconfiguredError
from schemas.codec import Codec, DecodeError
from schemas.records import Signed


def generate_keypair(folder: Path, key_id: str) -> tuple[Path, Path]:
    """Make a key pair as two PEM files, the private one readable by its owner only; (private, public)."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{key_id}.key.pem", folder / f"{key_id}.pub.pem"
    private.touch(mode=0o600, exist_ok=False)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


class Ed25519Signer:
    """Implements Signer.

    Args:
        key_id: names our key in what we sign: the region's name.
        private_key_path: PEM.
        trusted: key id to public key PEM, of every region including our own.
        codec: encodes the envelope.
    """

    def __init__(
        self, *, key_id: str, private_key_path: Path, trusted: Mapping[str, Path], codec: Codec | None = None
    ) -> None:
        self._key_id = key_id
        self._codec = codec or Codec()
        key = serialization.load_pem_private_key(_read(private_key_path), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise MisconfiguredError(f"{private_key_path} holds no Ed25519 private key")
        self._key = key
        self._trusted = {name: _public(path) for name, path in trusted.items()}

    def sign(self, payload: bytes) -> bytes:
        """An encoded `Signed` record; the same payload and key give the same bytes."""
        return self._codec.encode(Signed(payload=payload, key_id=self._key_id, signature=self._key.sign(payload)))

    def verify(self, envelope: bytes) -> bytes:
        """The payload; CorruptError if it was not signed by a key that we trust."""
        try:
            signed = self._codec.decode_as(Signed, envelope)
        except DecodeError as error:
            raise CorruptError(f"not a signed record: {error.reason}") from error
        key = self._trusted.get(signed.key_id)
        if key is None:
            raise CorruptError(f"signed with {signed.key_id!r}, which is not trusted here")
        try:
            key.verify(signed.signature, signed.payload)
        except InvalidSignature as error:
            raise CorruptError(f"the signature of {signed.key_id!r} does not fit its payload") from error
        return signed.payload


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read the key file {path}: {error.strerror}") from error


def _public(path: Path) -> Ed25519PublicKey:
    key = serialization.load_pem_public_key(_read(path))
    if not isinstance(key, Ed25519PublicKey):
        raise MisconfiguredError(f"{path} holds no Ed25519 public key")
    return key
