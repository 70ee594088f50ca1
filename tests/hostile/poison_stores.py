"""Stores that deny, conflict, hold too much, or are not the ones that were meant; and `doctor`, when a check raises."""

from __future__ import annotations

import io
import json

from pipelines.core.manifests import objects
from pipelines.paths import CheckpointId
from schemas.codec import digest
from schemas.records import Checkpoint, Manifest
from services.demo.local_config import BUCKET
from services.runtime.clients import store_of
from services.runtime.wiring import signer_of
from tests.hostile import bad_stores
from tests.hostile.cases import Case
from tests.hostile.live import CODEC, EAST, PATIENT_S, SOON_S, STEADY, WEST, Live

REPLICATOR = "replicator-west"
MEBIBYTE = 1 << 20
TOO_LONG_BYTES, ROOM_BYTES = 128 * MEBIBYTE, 64 * MEBIBYTE
REFUSALS = 2  # of each key


def _missing(live: Live, event: Checkpoint) -> list[str]:
    """The objects of a visible checkpoint that are not whole in west's store (I13)."""
    store, signer = store_of(live.settings.region(WEST)), signer_of(live.settings, WEST)
    manifest = CODEC.decode_as(Manifest, signer.verify(store.get(event.manifest_key) or b""))
    bodies = {one.key: store.get(one.key) for one in objects(manifest)}
    wanted = {one.key: one.sha256 for one in objects(manifest)}
    return [key for key, body in bodies.items() if body is None or digest(body) != wanted[key]]


def wrong_bucket(live: Live, run: str) -> str:
    """The link's bucket in west's settings is one that does not exist."""
    wrong = {f"FARSIDE_REGIONS__{WEST.upper()}__LINKS__{EAST.upper()}__BUCKET": "mistyped-bucket"}
    events = [live.put(run, step) for step in (10, 20, 30)]
    live.kill(REPLICATOR)
    live.start("replicator", WEST, wrong, serves=False)
    live.publish(*events)

    def told() -> bool:
        text = json.dumps(live.status("replicator", WEST) or {})
        return "mistyped-bucket" in text or "mistyped-bucket" in live.ended(REPLICATOR)

    try:
        live.wait(told, "status (or its last words) names the bucket", SOON_S)
        letters = _letters(live, run)
        assert not letters, f"{len(letters)} dead letters: {letters[0]}"
    finally:
        live.restarted("replicator", WEST)
    live.sees(run, 30, deadline_s=PATIENT_S)
    return f"named, no dead letter; with the right bucket it is visible; {live.goes_on(run, STEADY)}"


def conflicts(live: Live, run: str) -> str:
    """West's own store answers 409 twice to the conditional puts of each of the run's objects."""
    refusing = bad_stores.Counted(f"/{run}/", REFUSALS)
    upstream = live.settings.region(WEST).s3
    with bad_stores.in_front_of(upstream, wrong=refusing) as address:
        live.restarted("replicator", WEST, {f"FARSIDE_REGIONS__{WEST.upper()}__S3": address})
        try:
            with live.undisturbed(REPLICATOR):
                event = live.put(run, 10)
                live.publish(event)
                live.wait(lambda: live.visible(run) or _letters(live, run), f"an outcome of {run}", PATIENT_S)
                assert not _letters(live, run), f"it became a dead letter: {_letters(live, run)[0]}"
                missing = _missing(live, event)
                assert not missing, f"visible, and {WEST} does not have {missing[0]} ({len(missing)} in all)"
                assert refusing.refused, "no conditional put was refused: the case attacks nothing"
                after = live.goes_on(run, STEADY)
        finally:
            live.restarted("replicator", WEST)
    return f"{refusing.refused} answers of 409, visible and whole; {after}"


def denied_chunk(live: Live, run: str) -> str:
    """East's store denies the link's user one chunk."""
    event = live.put(run, 10)
    chunk = CheckpointId(run, 1, 1, 10).chunk(0, 1)
    said = ""

    def told() -> bool:
        nonlocal said
        lane = (live.status("replicator", WEST) or {}).get(f"{EAST}/checkpoints", {})
        said = str(lane.get("waits", {}).get(run, ""))
        return chunk in said or "denie" in said

    with live.undisturbed(REPLICATOR):
        with live.denied(EAST, chunk, f"reader-{WEST}"):
            live.publish(event)
            try:
                live.wait(told, f"the lane's `waits` says that {chunk} is denied", SOON_S)
            except AssertionError as error:
                raise AssertionError(f"{error}; `waits` says {said!r}") from error
            live.goes_on(STEADY)
        live.sees(run, 10, deadline_s=PATIENT_S)
    return f"waits: {said[:120]}; granted, it is visible"


def too_long_object(live: Live, run: str) -> str:
    """A rank state of 128 MiB where the manifest names a few bytes."""
    event = live.put(run, 10)
    key = CheckpointId(run, 1, 1, 10).rank_state(0)
    live.root(EAST).put_object(Bucket=BUCKET, Key=key, Body=io.BytesIO(bytes(TOO_LONG_BYTES)))
    with live.undisturbed(REPLICATOR):
        before = live.memory_peak(REPLICATOR) and live.memory_peak(REPLICATOR)
        live.publish(event)
        live.wait(lambda: _told_of(live, run), "a dead letter or `waits` tells of it", PATIENT_S)
        after = live.goes_on(STEADY)
        grown = live.memory_peak(REPLICATOR) - before
        assert grown < ROOM_BYTES, f"{grown >> 20} MiB more memory for an object of a few bytes by its manifest"
        assert not [one for one in live.visible(run) if one.step == 10], "it is visible"
        after = live.goes_on(run, STEADY, step=910)
    return f"not visible, {max(0, grown) >> 20} MiB more memory; {after}"


def _told_of(live: Live, run: str) -> bool:
    lane = (live.status("replicator", WEST) or {}).get(f"{EAST}/checkpoints", {})
    return bool(_letters(live, run)) or run in lane.get("waits", {})


def _letters(live: Live, run: str) -> list[str]:
    """The reasons of a run's dead letters."""
    mine = [one for one in live.letters() if dict(one.get("headers", ())).get("farside_run") == run]
    return [f"{one['reason']}: {one['detail']}" for one in mine]


def doctor_keeps_its_findings(live: Live, _run: str) -> str:
    """One check at a time cannot even begin; every other finding has to be there all the same."""
    junk = live.stack.folder / "keys" / "junk.pem"
    junk.write_bytes(b"\x00 no certificate \xff")
    region = f"FARSIDE_REGIONS__{EAST.upper()}"
    faults = {
        "a junk CA file": {f"{region}__KAFKA_TLS_CA_FILE": str(junk)},
        "a Kafka address without a port": {f"{region}__KAFKA": "127.0.0.1:notaport"},
        "a store address that is none": {f"{region}__S3": "not a url"},
        "a credentials file that is missing": {f"{region}__CREDENTIALS_FILE": str(junk.with_name("none.json"))},
        "a witness that is no HTTP server": {f"{region}__WITNESS": f"http://{live.settings.region(EAST).kafka}"},
    }
    usual = {str(one["what"]) for one in _findings(live, {})}
    kept = []
    for fault, environment in faults.items():
        found = _findings(live, environment)
        names = {str(one["what"]) for one in found}
        lost = {name for name in usual - names if not name.startswith((f"witness from {EAST}", EAST))}
        assert not lost, f"with {fault} the findings {', '.join(sorted(lost))} are not there"
        failed = [one for one in found if not one["passed"]]
        assert failed, f"with {fault} every check passes"
        kept.append(f"{fault}: {len(failed)} of {len(found)} fail")
    return "; ".join(kept)


def _findings(live: Live, environment: dict[str, str]) -> list[dict[str, object]]:
    done = live.farside("doctor", "--json", environment=environment)
    what = ", ".join(f"{key}={value}" for key, value in environment.items())
    assert not done.crash, f"with {what} `doctor` raised {done.crash}"
    assert done.out.strip(), f"with {what} `doctor` shows no finding: {done.err.strip()[:200]}"
    found: list[dict[str, object]] = json.loads(done.out)
    return found


CASES = (
    Case(
        "denied-chunk",
        "the lane's `waits` names the denied chunk; granted, it becomes visible",
        denied_chunk,
        short=True,
    ),
    Case("too-long-object", f"refused with less than {ROOM_BYTES >> 20} MiB more memory", too_long_object),
    Case("store-conflicts", "409 is tried again: visible only when every object is whole there", conflicts, short=True),
    Case("wrong-bucket", "the bucket is named and nothing is a dead letter; put right, all is visible", wrong_bucket),
    Case("doctor-check-raises", "each other finding is shown, and no traceback", doctor_keeps_its_findings),
)
