"""Does what a fault plan says, and undoes it at the end. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pipelines import paths
from pipelines.core.lineage import Standing, standing, view_of
from pipelines.flows.authority.planned_moves import ADOPT, SWITCHOVER, MoveRequest
from pipelines.flows.authority.takeover_requests import TakeoverRequest
from pipelines.flows.log.envelope import wrap
from pipelines.paths import CheckpointId
from schemas.codec import Codec, digest
from schemas.records import Checkpoint, Lease
from tests.manifests import manifest_of, shard_of, state_of
from tests.replaying import places
from tests.simulation.fault_plan import Fault
from tests.simulation.kernel import Process, Trap

if TYPE_CHECKING:
    from tests.simulation.regions_world import Region, World

ANN = "ann"
OLDER_S = 15.0  # for so long an older process acts beside its successor once it has woken


def strike(world: World, fault: Fault) -> None:
    """Let it happen."""
    world.say(f"-- {fault}")
    _KINDS[fault.kind](world, fault)


def heal(world: World) -> None:
    """From now on all is well: what was broken works, who stood still goes on, who was away comes back."""
    world.say("-- healed")
    world.trouble.clear()
    for region in world.regions.values():
        if not region.lost:
            region.down = False
            for process in region.living():
                process.traps.clear()
                process.frozen_until_s = world.kernel.now_s
            region.begin()
        else:
            _take_down(world, region)


def _for_a_while(world: World, names: Sequence[str], seconds: float) -> None:
    """Out of order, and in order again; healing may come first."""
    for name in names:
        world.trouble.begin(name)
        world.kernel.at(min(seconds, world.length_s - world.kernel.now_s), partial(world.trouble.end, name))


def _region_of(world: World, fault: Fault) -> tuple[Region, str]:
    """The region of a process, and the process's name there."""
    service, _, rest = fault.where.partition("@")
    region, _, run = rest.partition("/")
    return world.regions[region], f"{service}/{run}" if run else service


def _trapped(world: World, fault: Fault, act: Callable[[Process], None]) -> None:
    region, name = _region_of(world, fault)
    process = region.processes.get(name)
    if process is None or not process.alive:
        return
    when, _, call = fault.detail.partition(" ")
    process.traps.append(Trap(call, after=when == "after", act=partial(act, process)))


def _pause(world: World, fault: Fault) -> None:
    _trapped(world, fault, partial(_freeze, world, fault.for_s))


def _freeze(world: World, seconds: float, process: Process) -> None:
    world.say(f"{process.name} stands still")
    process.freeze(max(0.0, min(seconds, world.length_s - world.kernel.now_s)))


def _crash(world: World, fault: Fault) -> None:
    region, name = _region_of(world, fault)

    def die(process: Process) -> None:
        if region.processes.get(name) is process:
            world.kernel.at(0.0, partial(region.crash, name, fault.for_s))

    _trapped(world, fault, die)


def _twin(world: World, fault: Fault) -> None:
    region, name = _region_of(world, fault)

    def double(process: Process) -> None:
        _freeze(world, fault.for_s, process)
        if region.processes.get(name) is process:
            world.kernel.at(1.0, partial(region.start, name))
            # Whoever started another one ends this one once it can be reached again: a kubelet that is back, say.
            world.kernel.at(process.frozen_until_s - world.kernel.now_s + OLDER_S, process.kill)

    _trapped(world, fault, double)


def _cut(world: World, fault: Fault) -> None:
    one, _, other = fault.where.partition(">")
    ways = [f"{one}>{other}"] + ([f"{other}>{one}"] if fault.detail == "both ways" else [])
    _for_a_while(world, ways, fault.for_s)


def _server(world: World, fault: Fault) -> None:
    names = {"is down": fault.where, "answers get lost": f"lost:{fault.where}", "is late": f"late:{fault.where}"}
    _for_a_while(world, [names[fault.detail]], fault.for_s)


def _all_ways(world: World, region: str) -> list[str]:
    others = [name for name in (*world.names, "witness") if name != region]
    return [f"{region}>{name}" for name in others] + [f"{name}>{region}" for name in others]


def _freeze_region(world: World, fault: Fault) -> None:
    """All of it stands still, and goes on as if nothing had been: its servers too, for everybody."""
    region = world.regions[fault.where]
    for process in region.living():
        _freeze(world, fault.for_s, process)
    _for_a_while(world, _all_ways(world, region.name), fault.for_s)


def _isolate(world: World, fault: Fault) -> None:
    _for_a_while(world, _all_ways(world, fault.where), fault.for_s)


def _take_down(world: World, region: Region) -> None:
    region.down = True
    region.close()
    for name in (f"store@{region.name}", f"kafka@{region.name}"):
        world.trouble.begin(name)


def _reboot(world: World, fault: Fault) -> None:
    region = world.regions[fault.where]
    if region.down:
        return
    _take_down(world, region)

    def back() -> None:
        if not region.lost and region.down:
            region.down = False
            for name in (f"store@{region.name}", f"kafka@{region.name}"):
                world.trouble.end(name)
            region.begin()

    world.kernel.at(min(fault.for_s, world.length_s - world.kernel.now_s), back)


def _lose(world: World, fault: Fault) -> None:
    """For good; one region of a world at most."""
    if not any(region.lost for region in world.regions.values()):
        world.regions[fault.where].lost = True
        _take_down(world, world.regions[fault.where])
        world.judge.authority.gone(fault.where)


def _operator(world: World, fault: Fault) -> None:
    """A person looks at the record and asks the region that has to do it."""
    request, run = fault.detail.split()
    held = world.witness.leases.read(run)
    holder = None if held is None else world.regions[held.lease.holder]
    where = world.names.index(fault.where)
    target = world.regions[fault.where]
    if target is holder:
        target = world.regions[world.names[(where + 1) % len(world.names)]]
    if request == "failover":
        if _answers(target):
            lost = holder is not None and holder.lost and held is not None
            fenced_epoch = held.lease.epoch if lost and held is not None else 0
            target.controls[run].ask_takeover(
                TakeoverRequest(actor=ANN, note="by hand", fenced=lost, fenced_epoch=fenced_epoch)
            )
        return
    if holder is None or held is None or not _answers(holder):
        return
    asked = MoveRequest(request, ANN)
    if request == SWITCHOVER:
        asked = MoveRequest(SWITCHOVER, ANN, "maintenance", target.name)
    elif request == ADOPT:
        asked = _adoption(world, run, held.lease, holder)
    why = holder.controls[run].ask(asked)
    world.say(f"operator asks {holder.name} for {asked.kind} of {run}: {why or 'heeded'}")


def _adoption(world: World, run: str, lease: Lease, holder: Region) -> MoveRequest:
    """Of the newest branch that the holder has; if only others have one, the run is moved there first."""
    view = view_of(lease.lineage)
    for region in (holder, *world.regions.values()):
        ids = paths.committed(region.objects.list(paths.checkpoints_prefix(run)))
        branches = [one for one in ids if standing(view, one.epoch, one.step) is Standing.BRANCH]
        if branches and region is holder:
            return MoveRequest(ADOPT, ANN, "it was further", f"{branches[-1].epoch}:{branches[-1].step}")
        if branches:
            return MoveRequest(SWITCHOVER, ANN, "it has a branch", region.name)
    return MoveRequest(ADOPT, ANN, "there is none", "1:1")


def _answers(region: Region) -> bool:
    process = region.processes["controller"]
    return process.alive and process.frozen_until_s <= process.kernel.now_s


def _replay(world: World, fault: Fault) -> None:
    """The whole history of every lane, into the handlers of a region."""
    for peer, lane, flow in world.regions[fault.where].replicators:
        for one in places(world.regions[peer].kafka, lane, f"at {world.kernel.now_s}"):
            flow.replay(one)


def _narrow(world: World, fault: Fault) -> None:
    _for_a_while(world, [f"narrow:{fault.where}"], fault.for_s)


def _rot(world: World, fault: Fault) -> None:
    """The next rank state that is saved there changes behind its digest."""
    for trainer in world.regions[fault.where].trainers.values():
        trainer.rots = True


def _flip(world: World, fault: Fault) -> None:
    """One bit of the region's newest checkpoint that every other living region has too: none will copy it from here."""
    region = world.regions[fault.where]
    if region.lost:
        return
    others = [other.objects.objects for other in world.regions.values() if not other.lost]
    everywhere = [
        own
        for run in world.runs
        for own in paths.committed(region.objects.list(paths.checkpoints_prefix(run)))
        if all(own.manifest in objects for objects in others)
    ]
    newest = max(everywhere, key=lambda own: (own.epoch, own.step, own.attempt, own.run), default=None)
    if newest is None:
        return
    name = {"chunk": "chunk-", "state": "/state", "manifest": "/manifest"}[fault.detail]
    key = next((key for key in region.objects.list(f"{newest.prefix}/") if name in key), None)
    if key is not None and not world.judge.damage.is_bad(region.name, key):  # or it would be sound again
        world.say(f"{key} goes bad in {region.name}")
        world.judge.damage.flipped(region.name, key, region.objects.objects[key])
        region.objects.flip(key)


def _forge(world: World, fault: Fault) -> None:
    """The region signs, with its own key, a checkpoint of another's epoch far ahead, and says that it is committed.

    It takes the next number of the holder's own producer, which it knows from following it.
    """
    region = world.regions[fault.where]
    if region.lost or region.down:
        return
    for run in world.runs:
        held = world.witness.leases.read(run)
        if held is None or held.lease.holder == region.name:
            continue
        newest = _newest_event(world.regions[held.lease.holder], run, held.lease.epoch)
        if newest is not None:
            event = _forged(world, region, newest, fault)
            world.judge.events.forged(event)
            region.kafka.append(wrap(event, "checkpoint", world.codec))


def _newest_event(region: Region, run: str, epoch: int) -> Checkpoint | None:
    values = [item.value for item in region.kafka.topic(paths.CHECKPOINTS) if item is not None]
    events = [one for one in map(Codec().decode, values) if isinstance(one, Checkpoint)]
    own = [one for one in events if (one.run, one.region, one.epoch) == (run, region.name, epoch)]
    return own[-1] if own else None


def _forged(world: World, region: Region, newest: Checkpoint, fault: Fault) -> Checkpoint:
    own = CheckpointId(newest.run, newest.epoch, newest.attempt, 10**6 + fault.number)
    chunk, state = b"forged", b"rng"
    manifest = manifest_of(own, lineage_seq=10**6, shards=(shard_of(0, chunk),), rank_states=(state_of(0, state),))
    named = region.name if fault.detail == "in its own name" else newest.region
    payload = world.codec.encode(replace(manifest, region=named))
    for key, body in (
        (own.chunk(0, 0), chunk),
        (own.rank_state(0), state),
        (own.manifest, region.signer.sign(payload)),
    ):
        region.objects.slip_in(key, body)
    return replace(
        newest,
        region=region.name,
        seq=newest.seq + 1,
        step=own.step,
        state="committed",
        manifest_key=own.manifest,
        manifest_digest=digest(payload),
        lineage_seq=10**6,
        size_bytes=len(chunk) + len(state),
    )


_KINDS: dict[str, Callable[[World, Fault], None]] = {
    "pause": _pause,
    "crash": _crash,
    "twin": _twin,
    "cut": _cut,
    "server": _server,
    "witness": _server,
    "freeze": _freeze_region,
    "isolate": _isolate,
    "reboot": _reboot,
    "lose": _lose,
    "operator": _operator,
    "replay": _replay,
    "flip": _flip,
    "narrow": _narrow,
    "rot": _rot,
    "forge": _forge,
}
