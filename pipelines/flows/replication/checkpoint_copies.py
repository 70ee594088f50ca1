"""Copies what a checkpoint event names and verifies it; its manifest is created last, so that it is the proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipelines import paths
from pipelines.core import manifests
from pipelines.core.authorship import EVENT, disagreement, made_by
from pipelines.core.link_rate import LinkRate
from pipelines.core.manifests import Named, checkpoint_of
from pipelines.core.newest_wins import Candidate, giving_way_to
from pipelines.core.patience import Rest
from pipelines.core.retention import SWEPT
from pipelines.errors import CorruptError, ForeignEpochError, RetryableError
from pipelines.flows.replication.list_copies import ListCopies
from pipelines.flows.standby.damage_notes import open_notes
from pipelines.ports import Clock, CopyJob, CopyResult, Journal, ObjectStore, Opened, Transfers, Verifier
from schemas.codec import Codec, DecodeError, digest
from schemas.http_bodies import CopyStatus
from schemas.records import Abandoned, Checkpoint, DataVersion, Manifest

RETRY_S = 1.0


@dataclass(slots=True)
class _Copy:
    """One checkpoint on its way."""

    event: Checkpoint
    envelope: bytes
    wanted: tuple[Named, ...]
    missing: dict[str, Named]
    began_s: float
    moved_bytes: int = 0
    is_complete: bool = False
    crossed_bytes: int = 0
    retry_at_s: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, Rest] = field(default_factory=dict)  # by key, of those that a store refuses
    trouble: Rest | None = None
    trouble_key: str = ""
    broken: str = ""
    swept: bool = False


class CheckpointCopies:
    """The checkpoints of one peer that are being copied into this region's store.

    Args:
        peer: the region from which they come.
        store: this region's.
        peer_store: the peer's: manifests are read from it.
        transfers: copies the objects.
        signer: verifies manifests.
        codec: decodes manifests.
        clock: this process's.
        journal: where each completed copy is reported.
    """

    def __init__(
        self,
        *,
        peer: str,
        store: ObjectStore,
        peer_store: ObjectStore,
        transfers: Transfers,
        signer: Verifier,
        codec: Codec,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._peer = peer
        self._store, self._peer_store = store, peer_store
        self._transfers = transfers
        self._signer, self._codec = signer, codec
        self._clock, self._journal = clock, journal
        self._copies: dict[Checkpoint, _Copy] = {}  # by the whole event: two that name one manifest are checked each
        self.moved_bytes = 0
        self._rate = LinkRate()
        self._under_way: Mapping[str, int] = {}  # job -> bytes that have crossed so far
        self.lists = ListCopies(peer, transfers, clock)
        self._gave_way: set[str] = set()  # runs whose copy was given up after it began, until one is complete

    def collect(self) -> None:
        """Note the transfers that ended since the last turn, and start those again that got no answer."""
        owners = {_job_id(copy.event, key): copy for copy in self._copies.values() for key in copy.missing}
        now_s = self._clock.boottime_s()
        for result in self._transfers.finished():
            copy = owners.get(result.job.job_id)
            if copy is None:
                self.lists.ended(result)
                continue
            if result.corrupt:
                copy.broken = result.error
            elif result.error:
                self._note_failure(copy, result, now_s)
            else:
                copy.moved_bytes += copy.missing.pop(result.job.key).size
                copy.crossed_bytes += result.moved_bytes
                self.moved_bytes += result.moved_bytes
                copy.refusals.pop(result.job.key, None)
                if copy.trouble_key == result.job.key:
                    copy.trouble, copy.trouble_key = None, ""
        for copy in self._copies.values():
            for key in [key for key, at_s in copy.retry_at_s.items() if at_s <= now_s]:
                del copy.retry_at_s[key]
                self._start(copy.event, copy.missing[key])
        self.lists.turn()
        self._under_way = self._transfers.under_way()
        crossed_bytes = self.moved_bytes + sum(self._under_way.values())
        self._rate.observe(now_s, crossed_bytes, is_busy=bool(self._under_way))

    def trouble(self, event: Checkpoint) -> Rest | None:
        """Why an object of the event could not be copied when it was tried last, and since when; None if all could."""
        copy = self._copies.get(event)
        return None if copy is None else copy.trouble

    def _note_failure(self, copy: _Copy, result: CopyResult, now_s: float) -> None:
        """Try again a little later, later each time where a store refuses; the first of several is told about."""
        key, wall_ms = result.job.key, self._clock.wall_ms()
        copy.retry_at_s[key] = now_s + RETRY_S
        if result.refused:
            copy.refusals[key] = Rest.after(copy.refusals.get(key), result.error, now_s=now_s, wall_ms=wall_ms)
            copy.retry_at_s[key] = copy.refusals[key].until_s
        if copy.trouble is not None and key != copy.trouble_key:
            return
        if copy.trouble is None or copy.trouble.reason != result.error:
            event = copy.event
            self._journal.say(
                "replicate.copy_fails", run=event.run, epoch=event.epoch, step=event.step, key=key, why=result.error
            )
        copy.trouble = Rest.after(copy.trouble, result.error, now_s=now_s, wall_ms=wall_ms)
        copy.trouble_key = key

    def done(self, event: Checkpoint) -> bool:
        """Whether everything that the event names is verified here, its manifest included; the first call begins it.

        Raises:
            CorruptError: it cannot be trusted; the event becomes a dead letter.
            RetryableError: the peer does not answer.
        """
        copy = self._copies.get(event)
        if copy is None:
            copy = self._begin(event)
        if copy.broken:
            raise CorruptError(copy.broken)
        if copy.missing or not self._still_whole(copy):
            return False
        copy.swept = not self._create_manifest(event, copy.envelope)
        if copy.swept:
            return False
        copy.is_complete = True
        self._gave_way.discard(event.run)
        took_s = self._clock.boottime_s() - copy.began_s
        self._journal.say(
            "replicate.copied",
            run=event.run,
            epoch=event.epoch,
            step=event.step,
            size_bytes=event.size_bytes,
            link_bytes=copy.crossed_bytes,
            took_s=round(took_s, 3),
        )
        return True

    def swept(self, event: Checkpoint) -> bool:
        """Whether the copy came too late: the checkpoint was given up and swept here, and stays so."""
        copy = self._copies.get(event)
        return copy is not None and copy.swept

    def whole(self, event: Checkpoint | DataVersion) -> bool:
        """Whether everything that a visible event names is in this region's store; see `whole`."""
        return whole(event, self._store, self._codec, self._signer.opened)

    def giving_way_to(self, event: Checkpoint, newer: Iterable[Checkpoint]) -> Checkpoint | None:
        """The newer checkpoint that this one's copy gives way to; None to go on (`core.newest_wins`)."""
        candidates = {(each.epoch, each.lineage_seq): each for each in newer}
        best = giving_way_to(
            self._candidate(event),
            map(self._candidate, candidates.values()),
            rate_bytes_s=self._rate.bytes_s,
            has_given_way=event.run in self._gave_way,
        )
        return None if best is None else candidates[best.epoch, best.lineage_seq]

    def _candidate(self, event: Checkpoint) -> Candidate:
        """How much of a checkpoint has still to cross."""
        copy = self._copies.get(event)
        missing_bytes = event.size_bytes
        if copy is not None:
            partial_bytes = sum(self._under_way.get(_job_id(event, key), 0) for key in copy.missing)
            missing_bytes = sum(named.size for named in copy.missing.values()) - partial_bytes
        return Candidate(event.run, event.epoch, event.lineage_seq, missing_bytes, has_begun=copy is not None)

    def drop(self, event: Checkpoint) -> None:
        """Forget a copy that was published or is given up; objects that have arrived stay in the store."""
        copy = self._copies.pop(event, None)
        if copy is None:
            return
        if not copy.is_complete:
            self._gave_way.add(event.run)
        for key in copy.missing:
            self._transfers.cancel(_job_id(event, key))

    def forget(self) -> None:
        """Give up all copies: the replicator begins again from the ledger."""
        for event in list(self._copies):
            self.drop(event)
        self.lists.forget()

    @property
    def rate_bytes_s(self) -> float | None:
        """The link's rate while something crosses it; None before anything crossed."""
        return self._rate.bytes_s

    def crossed_bytes(self, run: str) -> int:
        """Bytes of the run's copies that have crossed so far, those of objects under way included."""
        copies = [copy for copy in self._copies.values() if copy.event.run == run]
        jobs = [_job_id(copy.event, key) for copy in copies for key in copy.missing]
        return sum(copy.crossed_bytes for copy in copies) + sum(self._under_way.get(job, 0) for job in jobs)

    def progress(self) -> tuple[CopyStatus, ...]:
        """Each copy with the bytes that have moved and its size."""
        return tuple(
            CopyStatus(
                run=copy.event.run,
                step=copy.event.step,
                moved_bytes=copy.moved_bytes,
                size_bytes=copy.event.size_bytes,
                error="" if copy.trouble is None else copy.trouble.reason,
                error_since_ms=0 if copy.trouble is None else copy.trouble.since_ms,
            )
            for copy in list(self._copies.values())
        )

    def trusted(self, event: Checkpoint) -> bool:
        """Whether the event's manifest is signed and is the one it names; else no copy gives way to it."""
        try:
            self._open(event)
        except CorruptError:
            return False
        return True

    def _begin(self, event: Checkpoint) -> _Copy:
        envelope, wanted = self._open(event)
        copy = _Copy(event, envelope, wanted, {named.key: named for named in wanted}, self._clock.boottime_s())
        self._copies[event] = copy
        for named in wanted:
            self._start(event, named)
        return copy

    def _open(self, event: Checkpoint) -> tuple[bytes, tuple[Named, ...]]:
        """The signed manifest and what it names; CorruptError if it is not the event's, or of another author."""
        own = manifests.check_event(event)
        envelope = self._peer_store.get(event.manifest_key)
        if envelope is None:
            raise CorruptError(f"{event.manifest_key} is not in the store of {self._peer}")
        opened = self._signer.opened(envelope)
        if digest(opened.payload) != event.manifest_digest:
            raise CorruptError(f"{event.manifest_key} has SHA-256 {digest(opened.payload)}, its event names another")
        try:
            record = self._codec.decode(opened.payload)
        except DecodeError as error:
            raise CorruptError(f"{event.manifest_key}: {error.reason}") from error
        wanted: tuple[Named, ...] = ()
        if isinstance(record, Manifest):
            manifests.check(record, own)
            wanted = manifests.objects(record)
        elif not isinstance(record, Abandoned):
            raise CorruptError(f"{event.manifest_key} holds a {type(record).__name__}")
        why = disagreement(_claims(event, opened, record))
        if why:
            raise ForeignEpochError(f"{event.manifest_key}: {why}")
        return envelope, wanted

    def _start(self, event: Checkpoint, named: Named) -> None:
        self._transfers.start(CopyJob(_job_id(event, named.key), self._peer, named.key, named.size, named.sha256))

    def _still_whole(self, copy: _Copy) -> bool:
        """Whether every object is still in the store (6.10); a sweep may have taken some: these are copied again."""
        if not copy.wanted:
            return True
        prefix = copy.event.manifest_key.removesuffix("manifest")
        sizes = {named.key: named.size for named in self._store.entries(prefix)}
        copy.missing = {named.key: named for named in copy.wanted if sizes.get(named.key) != named.size}
        for named in copy.missing.values():
            self._start(copy.event, named)
        return not copy.missing

    def _create_manifest(self, event: Checkpoint, envelope: bytes) -> bool:
        """Create the manifest, as the last object; False if a sweep has taken its key for good."""
        if self._store.create(event.manifest_key, envelope):
            return True
        present = self._store.get(event.manifest_key)
        if present is None:
            raise RetryableError(f"{event.manifest_key} was refused, and is not there")
        if present == envelope:
            return True
        if self._is_swept(present):
            return False
        raise CorruptError(f"{event.manifest_key} is there already, with other bytes (I6)")

    def _is_swept(self, envelope: bytes) -> bool:
        try:
            record = self._codec.decode(self._signer.opened(envelope).payload)
        except (CorruptError, DecodeError):
            return False
        return isinstance(record, Abandoned) and record.reason.startswith(SWEPT)


def _claims(event: Checkpoint, opened: Opened, record: Manifest | Abandoned) -> dict[str, str]:
    """Who is named as the author of a checkpoint; that the event's region holds the epoch, whoever asks has seen."""
    return {EVENT: event.region, **made_by(record, opened.region)}


def _job_id(event: Checkpoint, key: str) -> str:
    return f"{event.producer}/{event.seq}/{key}"


def whole(event: Checkpoint | DataVersion, store: ObjectStore, codec: Codec, opened: Callable[[bytes], Opened]) -> bool:
    """Whether everything that a visible event names is in a store; objects that a sweep deleted are not missed.

    An object of the right size of which an open note says that its bytes went bad does not count.

    Args:
        event: a checkpoint's, or a data version's, which may name its list.
        store: the region's.
        codec: reads the manifest.
        opened: takes the payload out of a signed envelope, and says who signed it.

    Raises:
        RetryableError: the store does not answer.
    """
    if isinstance(event, DataVersion):
        return not event.list_key or store.size(event.list_key) == event.list_bytes
    if event.state != "committed":
        return True
    envelope = store.get(event.manifest_key)
    if envelope is None:
        return False
    try:
        signed = opened(envelope)
        record = codec.decode(signed.payload)
    except (CorruptError, DecodeError):
        return False
    sizes = {one.key: one.size for one in store.entries(event.manifest_key.removesuffix("manifest"))}
    if not isinstance(record, Manifest):
        return True
    is_whole = not disagreement(_claims(event, signed, record)) and not manifests.missing(record, sizes)
    return is_whole and not open_notes(store, paths.damages_of(checkpoint_of(record)))
