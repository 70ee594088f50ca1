"""The warmer of a region's standby pool. Imports torch, as only the trainer does beside it."""

from __future__ import annotations

import dataclasses

from pipelines.core.failover_decision import policy_of
from pipelines.errors import CorruptError, RetryableError
from pipelines.flows.agent import publisher
from pipelines.flows.authority import controller
from pipelines.flows.standby.warmer import Warmer, WarmerPorts
from schemas.codec import Codec
from schemas.http_bodies import WarmerStatus
from services.adapters.kafka.log import KafkaLog
from services.adapters.spool import NodeSpool
from services.adapters.standby_torch import TorchStandbyPool
from services.runtime.wiring import Wiring
from services.settings import Settings

RETRY_S = 1.0
TRAINER_LOOKS_S = 0.02  # as `run.start()` does
# A launch that waits is fixed in the controller's turn that wins the epoch, and its agent asks once more.
RELEASE_S = controller.TURN_S + publisher.ASK_WAITING_S + publisher.TURN_S + TRAINER_LOOKS_S


def run(settings: Settings, region: str) -> int:
    """Serve one run's pool until told to stop; the exit code."""
    parts = Wiring(settings, region, "warmer")
    parts.prepare_to_serve()
    here, name, store, epoch_store = parts.here, parts.only_run(), parts.store(), parts.epoch_store()
    spool = NodeSpool(here.node_dir, parts.journal)
    arena = here.arena_dir / name
    arena.mkdir(parents=True, exist_ok=True)
    log = KafkaLog(parts.kafka)

    def standby() -> bool:
        newest = epoch_store.newest(name)
        return newest is not None and newest.region != region

    policy = policy_of(parts.profile)
    flow = Warmer(
        region=region,
        run=name,
        ports=WarmerPorts(
            store=store,
            pool=TorchStandbyPool(arena_dir=arena, store=store, spool=spool, run=name, clock=parts.clock),
            log=log,
            signer=parts.verifier,
            codec=Codec(),
            clock=parts.clock,
            entropy=parts.entropy,
            journal=parts.journal,
        ),
        lineage=epoch_store,
        standby=standby,
        authority_s=max(policy.silence_s, parts.profile.challenger_wait_s) + parts.profile.poll_s,
        release_s=RELEASE_S,
    )
    trouble = ""

    def turn() -> float:
        """If staging fails, log the reason once and try again; the checkpoint before stays resident."""
        nonlocal trouble
        try:
            wait_s = flow.turn()
        except (RetryableError, CorruptError) as error:
            if str(error) != trouble:
                parts.journal.say("warmer.waits", run=name, why=str(error))
                trouble = str(error)
            return RETRY_S
        trouble = ""
        return wait_s

    def status() -> WarmerStatus:
        return dataclasses.replace(flow.status(), trouble=trouble)

    return parts.serve({"warm": turn}, status=status, close=[log.close])
