"""Signing manifests with Ed25519 (RFC 8032), so that a region trusts only what a region of its own fleet committed.

A region has one key at first, whose id is the region's name, and a dated one after each rotation: `east@2026-11-28`.
All of them are trusted side by side, so what an older one signed stays readable, until one is revoked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.errors import CorruptError, MisconfiguredError
from pipelines.ports import Opened
from schemas.codec import Codec, DecodeError
from schemas.records import Signed
from services.adapters.private_files import read_secret

DATED = "@"  # between a region's name and the date of one of its keys


def key_id_of(region: str, date: str = "") -> str:
    """The id of a region's key; "": of its first."""
    return f"{region}{DATED}{date}" if date else region


def region_of(key_id: str) -> str:
    """The region that a key belongs to."""
    return key_id.partition(DATED)[0]


def generate_keypair(folder: Path, key_id: str) -> tuple[Path, Path]:
    """Make a key pair as two PEM files, the private one readable by its owner only; (private, public)."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{key_id}.key.pem", folder / f"{key_id}.pub.pem"
    private.touch(mode=0o600, exist_ok=False)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(_pem(key.public_key()))
    return private, public


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys of all regions.

    Attributes:
        paths: PEM files by key id; the id says whose key it is.
        revoked: ids of keys by which nothing is believed any more, whenever it was signed.
    """

    paths: Mapping[str, Path]
    revoked: Collection[str] = ()


class Ed25519Verifier:
    """Implements Verifier: for who has to sign nothing, and therefore needs no private key.

    Args:
        trusted: public keys by key id, as `TrustedKeys.paths`, or with a list of revoked ones.
        codec: reads the envelope.

    Raises:
        MisconfiguredError: a file cannot be read or holds no such key, or an id is revoked that no key has.
    """

    def __init__(self, trusted: TrustedKeys | Mapping[str, Path], codec: Codec | None = None) -> None:
        keys = trusted if isinstance(trusted, TrustedKeys) else TrustedKeys(trusted)
        unknown = sorted(set(keys.revoked) - set(keys.paths))
        if unknown:
            raise MisconfiguredError(
                f"revoked_keys: {', '.join(unknown)} is the id of no key; there are {', '.join(sorted(keys.paths))}"
            )
        self._codec = codec or Codec()
        self._revoked = frozenset(keys.revoked)
        self._trusted = {key_id: _public(path) for key_id, path in keys.paths.items()}

    def opened(self, envelope: bytes) -> Opened:
        """The payload, and the region that signed it; CorruptError if it was not signed by a key that we trust."""
        try:
            signed = self._codec.decode_as(Signed, envelope)
        except DecodeError as error:
            raise CorruptError(f"not a signed record: {error.reason}") from error
        key = self._trusted.get(signed.key_id)
        if key is None:
            raise CorruptError(f"signed with {signed.key_id!r}, which is not trusted here")
        if signed.key_id in self._revoked:
            raise CorruptError(f"signed with {signed.key_id!r}, which is revoked")
        try:
            key.verify(signed.signature, signed.payload)
        except InvalidSignature as error:
            raise CorruptError(f"the signature of {signed.key_id!r} does not fit its payload") from error
        return Opened(signed.payload, region_of(signed.key_id))

    def verify(self, envelope: bytes) -> bytes:
        """The payload alone, for who only shows or compares it."""
        return self.opened(envelope).payload


class Ed25519Signer(Ed25519Verifier):
    """Implements Signer.

    Args:
        key_id: whose key it is: what is signed names that one of the region's keys which fits the private one.
        private_key_path: PEM; readable by nobody else.
        trusted: as of Ed25519Verifier, our own region's keys among them.
        codec: encodes the envelope.

    Raises:
        MisconfiguredError: also if the private key can be read by others, is revoked, or fits none of our public keys.
    """

    def __init__(
        self,
        *,
        key_id: str,
        private_key_path: Path,
        trusted: TrustedKeys | Mapping[str, Path],
        codec: Codec | None = None,
    ) -> None:
        super().__init__(trusted, codec)
        self._key = _private(private_key_path)
        self._key_id = self._fitting(region_of(key_id), private_key_path)

    def sign(self, payload: bytes) -> bytes:
        """An encoded `Signed` record; the same payload and key give the same bytes."""
        return self._codec.encode(Signed(payload=payload, key_id=self._key_id, signature=self._key.sign(payload)))

    def _fitting(self, region: str, path: Path) -> str:
        """The id of our region's public key that makes a pair with the private one."""
        own = _pem(self._key.public_key())
        of_region = {key_id: _pem(key) for key_id, key in self._trusted.items() if region_of(key_id) == region}
        fitting = [key_id for key_id, public in of_region.items() if public == own]
        usable = [key_id for key_id in fitting if key_id not in self._revoked]
        if usable:
            return usable[-1]
        if fitting:
            raise MisconfiguredError(f"{path} is the private key of {fitting[0]}, which is revoked: sign with another")
        raise MisconfiguredError(
            f"{path} makes no pair with a public key of {region} ({', '.join(sorted(of_region)) or 'it has none'}): "
            "nobody would believe what it signs"
        )


def _private(path: Path) -> Ed25519PrivateKey:
    body = read_secret(path, "private key")
    try:
        key = serialization.load_pem_private_key(body, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MisconfiguredError(f"{path} holds no PEM of an unencrypted Ed25519 private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise MisconfiguredError(f"{path} holds another kind of private key than Ed25519")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read the key file {path}: {error.strerror}") from error


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MisconfiguredError(f"{path} holds no PEM of an Ed25519 public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise MisconfiguredError(f"{path} holds another kind of public key than Ed25519")
    return key


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
