"""Repairs objects that went bad in this region's store, from a region whose copy is whole.

Acts on the verifier's open notes. A note only says where to look: what the object must be is read from its signed
manifest, here or, if it is the manifest itself, at the peer. Only bytes that are wrong are ever replaced, and only by
those that the manifest names, so whoever else repairs the same object writes the same bytes (I6, I15).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.manifests import Named
from pipelines.errors import CorruptError, FarsideError
from pipelines.flows.authority.epoch_store import EpochStore
from pipelines.flows.standby.damage_notes import DamageNote, close_note, open_notes
from pipelines.flows.standby.recoverable import RecoverableFinder
from pipelines.ports import Journal, ObjectStore, PieceStore, Verifier
from schemas.codec import Codec, digest

TURN_S = 5.0
REPAIRED, SOUND, GONE = "repaired", "was sound again", "its checkpoint is gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPorts:
    """The world outside, as the repair of a region reaches it.

    Attributes:
        store: this region's bucket.
        peers: the other regions' buckets, through the links.
        peer_pieces: the same, for reading large objects.
        signer: verifies manifests.
        codec: of manifests.
        journal: hears of each repair, and of what stands in its way.
    """

    store: ObjectStore
    peers: Mapping[str, ObjectStore]
    peer_pieces: Mapping[str, PieceStore]
    signer: Verifier
    codec: Codec
    journal: Journal


class DamageRepair:
    """Works off the notes of one region's damaged objects.

    Args:
        region: this region.
        ports: the world outside.
    """

    def __init__(self, region: str, ports: RepairPorts) -> None:
        self._region, self._ports = region, ports
        self._store, self._journal = ports.store, ports.journal
        self._finder = RecoverableFinder(ports.store, ports.signer, ports.codec)
        self._peers = {name: RecoverableFinder(store, ports.signer, ports.codec) for name, store in ports.peers.items()}
        self._lineage = EpochStore(ports.store)
        self._waits: dict[str, str] = {}

    def turn(self) -> float:
        """Try each open note once; seconds until the next turn. Raises nothing that a store may answer."""
        try:
            notes = open_notes(self._store)
        except FarsideError as error:
            self._say_once("", str(error))
            return TURN_S
        self._waits = {place: why for place, why in self._waits.items() if place in {note.place for note in notes}}
        for note in notes:
            try:
                how = self._repair(note)
            except FarsideError as error:
                self._say_once(note.place, str(error))
                continue
            self._waits.pop(note.place, None)
            if how:
                self._journal.say("checkpoint.repaired", region=self._region, key=note.damage.key, how=how)
        return TURN_S

    def waits(self) -> dict[str, str]:
        """Why an open note could not be worked off yet, by key of the note."""
        return dict(self._waits)

    def troubles(self) -> dict[str, str]:
        """By run: how many of its damaged objects could not be repaired yet, and why not the first of them."""
        whys: dict[str, list[str]] = {}
        for place, why in self.waits().items():
            whys.setdefault(paths.run_of_damage(place), []).append(why)
        return {
            run: found[0] if len(found) == 1 else f"{len(found)} damaged objects wait; the first: {found[0]}"
            for run, found in whys.items()
        }

    def _say_once(self, place: str, why: str) -> None:
        if self._waits.get(place) != why:
            self._journal.say("repair.waits", region=self._region, note=place, why=why)
        self._waits[place] = why

    def _repair(self, note: DamageNote) -> str:
        """How the note's trouble ended.

        Raises:
            CorruptError: no other region has whole bytes, or the note names no checkpoint's object.
            RetryableError: a store does not answer.
            MisconfiguredError: it denies it.
        """
        own = paths.parse_checkpoint(note.damage.key)
        how = self._mend_manifest(own) if note.damage.key == own.manifest else self._mend_object(own, note.damage.key)
        close_note(self._store, note, how)
        return how

    def _mend_manifest(self, own: paths.CheckpointId) -> str:
        if self._store.get(own.manifest) is None:
            return GONE
        if self._finder.verified(own) is not None:
            return SOUND
        if own.manifest not in self._finder.distrusted:
            return GONE  # there is a record that says that there will be no manifest
        whys = []
        view = self._lineage(own.run)
        for peer, finder in self._peers.items():
            try:
                whole = finder.verified(own)
                if whole is not None and (view is None or not finder.counts(whole, view)):
                    whys.append(f"{peer}: {finder.foreign.get(own.manifest, 'the lineage is not known here')}")
                    continue
                envelope = None if whole is None else self._ports.peers[peer].get(own.manifest)
                if whole is not None and envelope is not None and finder.stands(whole):
                    self._store.put(own.manifest, envelope)
                    return REPAIRED
                whys.append(f"{peer} has no readable manifest of it")
            except FarsideError as error:
                whys.append(f"{peer}: {error}")
        raise CorruptError(f"{own.manifest} cannot be repaired: {'; '.join(whys) or 'there is no other region'}")

    def _mend_object(self, own: paths.CheckpointId, key: str) -> str:
        checkpoint = self._finder.verified(own)
        if checkpoint is None or not self._finder.stands(checkpoint):
            if own.manifest in self._finder.distrusted:
                raise CorruptError(f"{key} waits for {own.manifest}, which cannot be read")
            return GONE
        named = next((one for one in manifests.objects(checkpoint.manifest) if one.key == key), None)
        if named is None:
            return GONE
        body = self._store.get(key)
        if body is not None and not manifests.mismatch(named, len(body), digest(body)):
            return SOUND
        self._store.put(key, self._whole(named))
        return REPAIRED

    def _whole(self, named: Named) -> bytes:
        """The object's bytes as its manifest names them, from the first region that has them."""
        whys = []
        for peer, store in self._ports.peer_pieces.items():
            try:
                body = _read(store, named)
            except FarsideError as error:
                whys.append(f"{peer}: {error}")
                continue
            why = "does not have it" if body is None else manifests.mismatch(named, len(body), digest(body))
            if body is not None and not why:
                return body
            whys.append(f"{peer} {why}" if body is None else f"{peer}'s copy {why}")
        raise CorruptError(f"{named.key} cannot be repaired: {'; '.join(whys) or 'there is no other region'}")


def _read(store: PieceStore, named: Named) -> bytes | None:
    """An object's bytes, no further than its manifest says and one piece; None if it is not there."""
    pieces = store.pieces(named.key)
    if pieces is None:
        return None
    body = bytearray()
    with contextlib.closing(pieces):
        for piece in pieces:
            body += piece
            if len(body) > named.size:
                break
    return bytes(body)
