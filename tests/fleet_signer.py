"""One key for all regions of a world whose signatures are not what is tested; each region signs in its own name."""

from __future__ import annotations

from pathlib import Path

from schemas.codec import Codec, DecodeError
from schemas.records import Manifest, Signed
from services.adapters.signer import Ed25519Signer, generate_keypair

REGIONS = ("east", "west", "north", "south")


class FleetSigner(Ed25519Signer):
    """Signs a manifest as the region that it names, and everything else as east."""

    def sign(self, payload: bytes) -> bytes:
        """An encoded `Signed` record."""
        try:
            record = Codec().decode(payload)
        except DecodeError:
            return super().sign(payload)
        if not isinstance(record, Manifest):
            return super().sign(payload)
        signed = Codec().decode_as(Signed, super().sign(payload))
        return Codec().encode(Signed(payload=payload, key_id=record.region, signature=signed.signature))

    @classmethod
    def in_folder(cls, folder: Path) -> FleetSigner:
        """A signer of all regions, with a new key."""
        private, public = generate_keypair(folder, "sim")
        return cls(key_id="east", private_key_path=private, trusted=dict.fromkeys(REGIONS, public))
