"""Who signs nothing reads no private key; the settings name several keys a region, and which of them are revoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import MisconfiguredError
from services.adapters.signer import generate_keypair
from services.runtime.wiring import Wiring, signer_of, trusted_keys, verifier_of
from services.settings import Settings, load


def _settings(folder: Path, more: str = "", region: str = "east") -> Settings:
    files = ("witness_credentials_file", "credentials_file")
    lines = [
        f'state_dir = "{folder / "state"}"',
        more,
        '[runs.gpt]\nfirst_region = "east"',
        '[witness]\nbucket = "w"',
        f'[regions."{region}"]\nkafka = "localhost:1"\ns3 = "http://localhost:2"\nwitness = "http://localhost:3"',
        f'bucket = "b"\nnode_dir = "{folder}"\narena_dir = "{folder}"',
        *(f'{name} = "{folder / name}"' for name in files),
        f'signing_key_file = "{folder / "east.key.pem"}"\npublic_key_file = "{folder / "east.pub.pem"}"',
        f'[regions."{region}".public_key_files]\n2026-11-28 = "{folder / "east@2026-11-28.pub.pem"}"',
    ]
    path = folder / "farside.toml"
    path.write_text("\n".join(lines))
    return load(path, {})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Two pairs of east."""
    for key_id in ("east", "east@2026-11-28"):
        generate_keypair(tmp_path, key_id)
    return tmp_path


def test_I17_only_an_agent_and_a_sweep_need_the_private_key(keys: Path) -> None:
    """The others begin where it is not even there."""
    settings = _settings(keys)
    envelope = signer_of(settings, "east").sign(b"x")
    (keys / "east.key.pem").unlink()
    for service in ("replicator", "warmer", "controller"):
        verifier = Wiring(settings, "east", service).verifier
        assert verifier.opened(envelope).region == "east"
        assert not hasattr(verifier, "sign")
    with pytest.raises(MisconfiguredError, match=r"east\.key\.pem"):
        signer_of(settings, "east")


def test_every_key_of_a_region_is_believed_until_it_is_revoked(keys: Path) -> None:
    """By its id: the region's name, and the date of a later one."""
    settings = _settings(keys)
    assert set(trusted_keys(settings).paths) == {"east", "east@2026-11-28"}
    revoked = _settings(keys, 'revoked_keys = ["east"]')
    with pytest.raises(MisconfiguredError, match="private key of east, which is revoked"):
        signer_of(revoked, "east")
    with pytest.raises(MisconfiguredError, match="revoked_keys: west is the id of no key"):
        verifier_of(_settings(keys, 'revoked_keys = ["west"]'))


def test_a_region_whose_name_looks_like_a_keys_is_refused(keys: Path) -> None:
    """`east@2026-11-28` as a region could sign as a key of east."""
    with pytest.raises(MisconfiguredError, match="regions"):
        _settings(keys, region="east@2026-11-28")
