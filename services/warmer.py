"""The warmer of a region's standby pool. Imports torch, as only the trainer does beside it."""

from __future__ import annotations

from pipelines.core.decide import policy_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows import failover, publish
from pipelines.flows.warm import Warm
from schemas.codec import Codec
from services.adapters.kafka import KafkaLog
from services.adapters.spool import NodeSpool
from services.adapters.standby_torch import TorchStandbyPool
from services.parts import Parts
from services.settings import Settings

RETRY_S = 1.0
TRAINER_LOOKS_S = 0.02  # as `run.start()` does
# A launch that waits is fixed in the controller's turn that wins the epoch, and its agent asks once more.
RELEASE_S = failover.TURN_S + publish.ASK_WAITING_S + publish.TURN_S + TRAINER_LOOKS_S


def run(settings: Settings, region: str) -> int:
    """Serve one run's pool until told to stop; the exit code."""
    parts = Parts(settings, region, "warmer")
    parts.prepare()
    here, name, store, lineages = parts.here, parts.only_run(), parts.store(), parts.lineages()
    spool = NodeSpool(here.node_dir, parts.journal)
    arena = here.arena_dir / name
    arena.mkdir(parents=True, exist_ok=True)
    log = KafkaLog(parts.kafka)

    def standby() -> bool:
        newest = lineages.newest(name)
        return newest is not None and newest.region != region

    policy = policy_of(parts.profile)
    flow = Warm(
        region=region,
        run=name,
        store=store,
        pool=TorchStandbyPool(arena_dir=arena, store=store, spool=spool, run=name, clock=parts.clock),
        log=log,
        lineage=lineages,
        signer=parts.signer,
        codec=Codec(),
        clock=parts.clock,
        entropy=parts.entropy,
        journal=parts.journal,
        standby=standby,
        authority_s=max(policy.silence_s, parts.profile.challenger_wait_s) + parts.profile.poll_s,
        release_s=RELEASE_S,
    )
    said: list[str] = []

    def turn() -> float:
        """What cannot be staged now is told once, and tried again: the one before stays resident."""
        try:
            wait_s = flow.step()
        except (RetryableError, CorruptError) as error:
            if str(error) not in said:
                parts.journal.say("warmer.waits", run=name, why=str(error))
                said[:] = [str(error)]
            return RETRY_S
        said.clear()
        return wait_s

    def status() -> dict[str, object]:
        return flow.status() | {"trouble": "".join(said)}

    return parts.serve({"warm": turn}, status=status, close=[log.close])
