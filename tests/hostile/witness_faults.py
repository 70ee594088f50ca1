"""A witness that lies: lease records that cannot be read, and a store that ignores conditional writes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial

from infra.local.layout import WITNESS
from pipelines import paths
from schemas.codec import MARKER, Codec
from schemas.records import Lease
from services.demo.local_config import WITNESS_BUCKET
from services.settings import credentials
from tests.hostile import bad_stores
from tests.hostile.cases import Case, Stage
from tests.hostile.live import EAST, PATIENT_S, REGIONS, SOON_S, STEADY, Live
from tests.hostile.trainers import lost_region, other_than

CONTROLLERS = ("controller-east", "controller-west")
REFUSES_S = 40.0
REFUSAL = re.compile(r"If-(None-)?Match|conditional write", re.IGNORECASE)
RENEWALS = 4
Damage = Callable[[bytes], bytes]


def _truncated(body: bytes) -> bytes:
    return body[:-9]


def _newer(body: bytes) -> bytes:
    """Of a schema that this version has never heard of."""
    return MARKER + b"\x11" * 8 + body[10:] + b"\x00more"


def _junk(_body: bytes) -> bytes:
    return b"\x00\xffnot a record at all"


DAMAGES: dict[str, Damage] = {"truncated": _truncated, "newer": _newer, "junk": _junk}


def _record(live: Live, run: str) -> bytes:
    got = live.root(WITNESS).get_object(Bucket=WITNESS_BUCKET, Key=paths.lease(run))
    return got["Body"].read()


def _renewals(live: Live, run: str) -> int:
    return Codec().decode_as(Lease, _record(live, run)).renew_seq


def _held(live: Live, run: str) -> None:
    live.wait(lambda: any(live.run_status(one, run).get("is_holder") for one in REGIONS), f"run {run} is held")


@contextlib.contextmanager
def _damaged(live: Live, run: str, kind: str) -> Iterator[None]:
    """The block, in which the run's record is such; what was there before is put back."""
    if kind == "denied":
        with live.denied(WITNESS, paths.lease(run), *REGIONS):
            yield
        return
    before, root = _record(live, run), live.root(WITNESS)
    root.put_object(Bucket=WITNESS_BUCKET, Key=paths.lease(run), Body=DAMAGES[kind](before))
    try:
        yield
    finally:
        root.put_object(Bucket=WITNESS_BUCKET, Key=paths.lease(run), Body=before)


def _alarm(live: Live, region: str, run: str) -> str:
    """A region's complaint about the run's record."""
    status = live.run_status(region, run)
    return "; ".join(f"{name}: {text}" for name, text in status.get("troubles", {}).items())


def _unreadable(kind: str) -> Callable[[Live, str], str]:
    def look(live: Live, run: str) -> str:
        """Both controllers say so of this run, and renew the other one's lease."""
        _held(live, run)
        _held(live, STEADY)
        live.wait(lambda: not any(_alarm(live, region, run) for region in REGIONS), "no earlier alarm is left")
        with live.undisturbed(*CONTROLLERS), _damaged(live, run, kind):
            for region in REGIONS:
                live.wait(partial(_alarm, live, region, run), f"{region} alarms for run {run}", SOON_S)
            said = _alarm(live, EAST, run)
            before = _renewals(live, STEADY)
            live.wait(lambda: _renewals(live, STEADY) >= before + RENEWALS, "the other run's lease is renewed")
            shown = live.farside("status", "--json")
            assert not shown.crash, f"`status` raised {shown.crash}"
            assert said, f"{EAST} no longer says anything"
        return f"{said[:140]}; the other run is renewed by the same processes"

    return look


def promotion_beside_unreadable(live: Live, run: str) -> str:
    """One run's record is junk while the holder's region is lost: the other run has to move."""
    _held(live, run)
    holder = live.held_by(STEADY)
    other = other_than(holder)
    live.wait(lambda: (live.run_status(other, STEADY).get("recoverable_step") or 0) > 0, f"a checkpoint in {other}")
    with live.undisturbed(f"controller-{other}"), _damaged(live, run, "junk"), lost_region(live, holder):
        live.wait(lambda: live.run_status(other, STEADY).get("is_holder"), f"{other} takes {STEADY} over", PATIENT_S)
        said = _alarm(live, other, run)
        assert said, f"{other} says nothing of run {run}"
        epoch = live.run_status(other, STEADY)["epoch"]
    return f"{other} won epoch {epoch} of {STEADY}; of {run} it says {said[:80]}"


def witness_without_conditions(live: Live, _run: str) -> str:
    """A controller whose witness drops If-Match and If-None-Match has to refuse it before it rests on it."""
    here = live.settings.region(EAST)
    user = credentials(here.witness_credentials_file)
    upstream = f"http://127.0.0.1:{live.stack.layout.ports[f's3-{WITNESS}']}"
    name = f"controller-{EAST}"
    live.kill(name)
    with bad_stores.in_front_of(upstream, changed=bad_stores.without_conditions(user, upstream)) as address:
        more = {f"FARSIDE_REGIONS__{EAST.upper()}__WITNESS": address}
        try:
            live.start("controller", EAST, more, serves=False)
            live.wait(lambda: _refuses(live, name), "the controller says that it ignores conditional writes", REFUSES_S)
            said = _refuses(live, name)
        finally:
            live.kill(name)
    return said[:200]


def _refuses(live: Live, name: str) -> str:
    """Its last words, or a trouble or reason in its status, if they are about conditional writes."""
    runs = (live.status("controller", EAST) or {}).values()
    held = [str(one["run"]) for one in runs if one.get("is_holder")]
    assert not held, f"it holds {', '.join(held)} by a witness that ignores conditional writes"
    texts = [live.ended(name), *(text for one in runs for text in (one["reason"], *one["troubles"].values()))]
    return next((text for text in texts if REFUSAL.search(text)), "")


_ALARM = "an alarm for that run in both regions; the other run is renewed by the same processes"
CASES = (
    *(
        Case(f"lease-{kind}", _ALARM, _unreadable(kind), Stage.RUNS, shares="lease-record")
        for kind in (*DAMAGES, "denied")
    ),
    Case(
        "lease-junk-and-loss",
        "the other run is promoted all the same",
        promotion_beside_unreadable,
        Stage.RUNS,
        shares="lease-record",
    ),
    Case(
        "witness-unconditional",
        "refused before first use, with the reason; it holds nothing",
        witness_without_conditions,
    ),
)
