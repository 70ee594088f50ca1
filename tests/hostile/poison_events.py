"""Poison in a peer's log: what comes in over Kafka ends no process and stops no lane."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import fastavro

from pipelines import paths
from schemas.codec import MARKER, schema_text
from schemas.records import Event, Metric
from services.runtime.clients import store_of
from tests.brokers import admin_of
from tests.hostile.batches import RawRecord, avro_long, bomb, send
from tests.hostile.cases import Case
from tests.hostile.live import CODEC, EAST, FIRST_MS, PATIENT_S, SOON_S, STEADY, WEST, Live

REPLICATOR = "replicator-west"
MEBIBYTE = 1 << 20
LIMIT_BYTES = MEBIBYTE + 12  # a broker's max.message.bytes, unless the topic says otherwise
BOMB_BYTES = 512 * MEBIBYTE
BOMB_ROOM_BYTES = 320 * MEBIBYTE  # what the service needs anyhow, and what it may spend on a batch
QUICK_S, BOUND_S = 20.0, 15.0
ARRAY_CPU_S = 2.0  # decoding the smaller bomb took six


def _raw(live: Live, event: Event, value: bytes | None = None, *more: tuple[str, bytes | None]) -> RawRecord:
    body = CODEC.encode(event) if value is None else value
    return RawRecord(event.run.encode(), body, [*live.identity(event), *more], event.time_ms)


def _garbage(run: str) -> RawRecord:
    return RawRecord(run.encode(), b"garbage", [("farside_run", run.encode()), ("odd", None)], FIRST_MS)


def _letter_of(live: Live, run: str, deadline_s: float = SOON_S) -> dict[str, Any]:
    """The run's dead letter in west, as an operator reads it."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [one for one in live.letters() if dict(one.get("headers", ())).get("farside_run") == run]
        return bool(found)

    live.wait(there, f"a dead letter of run {run} in {WEST}, read by `events dead list`", deadline_s)
    return found[0]


def null_header_of_garbage(live: Live, run: str) -> str:
    """A header whose value is null, before bytes that are no event."""
    with live.undisturbed(REPLICATOR):
        live.throw("checkpoints", _garbage(run))
        after = live.goes_on(run, STEADY)
        letter = _letter_of(live, run)
    return f"dead letter ({letter['reason']}); {after}"


def null_header_of_a_valid_event(live: Live, run: str) -> str:
    """A header whose value is null, beside a checkpoint that is as it should be."""
    event = live.put(run, 10)
    with live.undisturbed(REPLICATOR):
        live.throw("checkpoints", _raw(live, event, None, ("trace", None)))
        after = live.goes_on(run, STEADY)
        live.sees(run, 10)
    return f"the event is visible; {after}"


def _compressed(codec: str) -> Any:  # noqa: ANN401 - a case's function
    def look(live: Live, run: str) -> str:
        """The broker packs the topic's batches so, as an operator may tell it to."""
        live.configure_topic("checkpoints", compression_type=codec)
        try:
            with live.undisturbed(REPLICATOR):
                after = live.goes_on(run, STEADY)
        finally:
            live.configure_topic("checkpoints", compression_type="producer")
        with live.undisturbed(REPLICATOR):
            return f"{after}; {live.goes_on(run, step=910)}"

    return look


def garbage_below_the_limit(live: Live, run: str) -> str:
    """No event, and so long that a dead letter with all of it is above the limit."""
    event = live.metric(run, 1)
    room = LIMIT_BYTES - sum(len(name) + len(value or b"") + 4 for name, value in live.identity(event)) - 200
    with live.undisturbed(REPLICATOR):
        live.throw("metrics", _raw(live, event, bytes([0x5A]) * room))
        live.publish(live.metric(run, 2), live.metric(STEADY, 2))
        live.wait(lambda: any(one.step == 2 for one in live.metrics(run)), "the metric behind it is visible", QUICK_S)
        live.wait(lambda: live.metrics(STEADY), "another run's metric is visible")
        letter = _letter_of(live, run)
        after = live.goes_on(run)
    return f"dead letter ({letter['reason']}); the metrics behind it are visible; {after}"


def gzip_bomb(live: Live, run: str) -> str:
    """A batch of half a megabyte that unpacks to half a gigabyte."""
    with live.undisturbed(REPLICATOR):
        live.memory_peak(REPLICATOR)
        event = live.metric(run, 1)
        packed = bomb(run.encode(), live.identity(event), BOMB_BYTES, event.time_ms)
        assert len(packed) < LIMIT_BYTES, f"the batch has {len(packed)} bytes"
        send(admin_of(live.stack, EAST), paths.METRICS, packed)
        live.publish(live.metric(run, 2))
        live.wait(lambda: any(one.step == 2 for one in live.metrics(run)), "the metric behind it is visible", PATIENT_S)
        after = live.goes_on(run, STEADY)
        peak = live.memory_peak(REPLICATOR)
        assert peak < BOMB_ROOM_BYTES, f"it took {peak >> 20} MiB to read a batch of {len(packed) >> 10} KiB"
        said = _bomb_is_told(live, run)
    return f"{said}; peak {peak >> 20} MiB; {after}"


def _bomb_is_told(live: Live, run: str) -> str:
    """A batch that was not unpacked has no run: a dead letter without headers or an alarm tells of it."""
    told = [one for one in live.letters() if one.get("topic") == paths.METRICS]
    alarms = live.farside("alarms", "list", "--json").out
    assert told or "metrics" in alarms, f"neither a dead letter nor an alarm tells that a record of {run} is left out"
    return f"{len(told)} dead letters of the lane" if told else "an alarm tells of it"


def _array_bomb(count: int) -> Any:  # noqa: ANN401 - a case's function
    def look(live: Live, run: str) -> str:
        """A metric of a schema with an array of nothing, so many times."""
        schema = json.loads(schema_text(Metric))
        schema["fields"].insert(0, {"name": f"many_{count}", "type": {"type": "array", "items": "null"}})
        text = json.dumps(schema)
        name = str(fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO"))
        store_of(live.settings.region(EAST)).create(paths.schema(name), text.encode())
        event = live.metric(run, 1)
        body = MARKER + bytes.fromhex(name) + avro_long(count) + avro_long(0)
        with live.undisturbed(REPLICATOR):
            before_s = live.cpu_s(REPLICATOR)
            live.throw("metrics", _raw(live, event, body))
            live.publish(live.metric(run, 2))
            live.wait(
                lambda: any(one.step == 2 for one in live.metrics(run)), "the metric behind it is visible", QUICK_S
            )
            used_s = live.cpu_s(REPLICATOR) - before_s
            letter = _letter_of(live, run)
            assert used_s < ARRAY_CPU_S, f"{len(body)} bytes took {used_s:.1f} s of processor time"
            after = live.goes_on(run, STEADY)
        return f"{len(body)} bytes are a dead letter ({letter['reason']}); {after}"

    return look


def unknown_future_epoch(live: Live, run: str) -> str:
    """A checkpoint, well formed and signed, of an epoch that nobody has won; the wait for it is set to some seconds."""
    live.restarted("replicator", WEST, {"FARSIDE_REPLICATE__UNKNOWN_WAIT_S": str(BOUND_S)})
    try:
        with live.undisturbed(REPLICATOR):
            live.publish(live.put(run, 10, epoch=99))
            live.wait(lambda: _waits_of(live, run), f"the lane's `waits` says why run {run} waits")
            said = _waits_of(live, run)
            live.goes_on(STEADY)
            event = live.put(run, 20)
            live.publish(event)
            live.sees(run, 20, deadline_s=PATIENT_S)
            alarms = live.farside("alarms", "list", "--json").out
            letters = [one for one in live.letters() if dict(one.get("headers", ())).get("farside_run") == run]
            assert run in alarms, "no alarm tells that it was set aside"
            assert not [one for one in live.visible(run) if one.epoch == 99], "it is visible"
    finally:
        live.restarted("replicator", WEST)
    return f"waits: {said[:80]}; then set aside with an alarm, {len(letters)} dead letters; the run goes on"


def _waits_of(live: Live, run: str) -> str:
    lane = (live.status("replicator", WEST) or {}).get(f"{EAST}/checkpoints", {})
    return str(lane.get("waits", {}).get(run, ""))


def operators_read_it_all(live: Live, run: str) -> str:
    """The commands read the same poison."""
    event = live.metric(run, 1)
    live.throw(
        "metrics",
        _garbage(run),
        RawRecord(b"", b"", [("", None)], FIRST_MS),
        RawRecord(
            b"\xff\xfe", b"\xc3\x01" + b"\xff" * 40, [("farside_seq", b"\xff"), ("farside_epoch", b"1" * 400)], FIRST_MS
        ),
        _raw(live, event, None, ("trace", None)),
    )
    listed = live.farside("events", "list", "--at", EAST, "--lane", "metrics", "--limit", "0", "--json")
    lines = listed.lines()
    assert listed.code == 0, f"`events list` ends with {listed.code}: {listed.err.strip()}"
    assert any(one["problem"] for one in lines), "`events list` shows none of the garbage"
    table = live.farside("events", "list", "--at", EAST, "--lane", "metrics")
    assert not table.crash, f"the table of `events list` raised {table.crash}"
    assert table.code == 0, f"the table of `events list` ends with {table.code}"
    planned = live.farside("replay", "--lane", "metrics", "--at", EAST, "--json")
    planned.lines()
    assert planned.code == 0, f"`replay` ends with {planned.code}: {planned.err.strip()}"
    done = live.farside("replay", "--run", run, "--lane", "metrics", "--execute", "--json")
    done.lines()
    return f"{len(lines)} records are listed; replay plans, and its execution ends with {done.code}"


def link_lost_under_load(live: Live, run: str) -> str:
    """The link to the peer's Kafka and store is cut and healed four times while events come."""
    steps = 0
    with live.undisturbed(REPLICATOR):
        for _ in range(4):
            for _ in range(3):
                steps += 1
                live.publish(live.put(run, steps), live.metric(run, steps))
            live.stack.cut(WEST, EAST)
            try:
                steps += 1
                live.publish(live.put(run, steps), live.metric(run, steps))
                live.wait(lambda: _notices(live), "the status says that the link is lost", QUICK_S)
            finally:
                live.stack.heal(WEST, EAST)
            live.sees(run, steps, deadline_s=PATIENT_S)
        live.wait(lambda: len({one.step for one in live.metrics(run)}) == steps, "every metric is visible")
        after = live.goes_on(run, STEADY)
    return f"four cuts, every metric and each newest checkpoint visible, the same process; {after}"


def _notices(live: Live) -> bool:
    lanes = live.status("replicator", WEST) or {}
    return any(lane.get("trouble") or lane.get("reachability_trouble") for lane in lanes.values())


def one_peer_refuses(live: Live, run: str) -> str:
    """A third region, whose Kafka does not let the link's user in."""
    config = _with_refusing_peer(live)
    live.kill(REPLICATOR)
    try:
        live.start("replicator", WEST, config=config)
        with live.undisturbed(REPLICATOR):
            live.wait(lambda: _trouble_of(live, "north/checkpoints"), "the refusing peer's lane says so")
            after = live.goes_on(run, STEADY)
            said = _trouble_of(live, "north/checkpoints")
    finally:
        live.restarted("replicator", WEST)
    return f"north: {said[:100]}; {after}"


def _trouble_of(live: Live, lane: str) -> str:
    return str(((live.status("replicator", WEST) or {}).get(lane) or {}).get("trouble", ""))


def _with_refusing_peer(live: Live) -> Path:
    """Settings with a region `north`: east's Kafka under another address, and a user who is unknown there."""
    plain = tomllib.loads(live.config.read_text(encoding="utf-8"))
    stranger = live.stack.folder / "keys" / "stranger.json"
    stranger.write_text(json.dumps({"username": "nobody", "password": "wrong", "mechanism": "PLAIN"}), "utf-8")
    north = {key: value for key, value in plain["regions"][EAST].items() if key not in {"links", "ports"}}
    north |= {"kafka": north["kafka"].replace("127.0.0.1", "localhost"), "node": "north-n0"}
    link = dict(plain["regions"][WEST]["links"][EAST])
    link |= {"kafka": north["kafka"], "kafka_credentials_file": str(stranger)}
    text = live.config.read_text(encoding="utf-8")
    for name, table in (("regions.north", north), (f"regions.{WEST}.links.north", link)):
        text += f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    path = live.stack.folder / "refusing.toml"
    path.write_text(text, encoding="utf-8")
    return path


def foreign_epoch(live: Live, run: str) -> str:
    """West holds epoch 2 of the run; east signs "epoch 2, step 999999999" with its own key."""
    store = store_of(live.settings.region(WEST))
    view = {"run": run, "epoch": 2, "region": WEST, "forks": [[1, 0, -1], [2, 1, 1_000]]}
    store.create(paths.epoch_seen(run, 2), json.dumps(view).encode())
    with live.undisturbed(REPLICATOR):
        live.publish(live.put(run, 999_999_999, epoch=2))
        letter = _letter_of(live, run)
        assert letter["reason"] == "foreign_epoch", letter["reason"]
        assert not store.list(f"runs/{run}/e000002/"), "something of it was copied"
        after = live.goes_on(run, STEADY)
        assert all(one.epoch == 1 for one in live.visible(run)), "it is visible"
    return f"dead letter ({letter['reason']}), nothing copied; {after}"


def replay_until(live: Live, run: str) -> str:
    """Seven metrics, whose times are not in the order of the log; five of them are not later than the bound."""
    after_ms = (1_000, 2_000, 9_000, 3_000, 4_000, 9_500, 5_000)
    records: list[RawRecord] = []
    for ms in after_ms:
        raw = _raw(live, live.metric(run, len(records) + 1))
        records.append(RawRecord(raw.key, raw.value, raw.headers, FIRST_MS + ms))
    live.throw("metrics", *records)
    wanted = [ms for ms in after_ms if ms <= 5_000]
    # The bound itself is left open by "until": half a second past the last one is wanted in any reading.
    asked = live.farside("replay", "--run", run, "--lane", "metrics", "--until", _iso(FIRST_MS + 5_500), "--json")
    (plan,) = asked.lines()
    planned = sum(int(row["records"]) for row in plan["rows"])
    if planned == len(wanted):
        return f"{planned} of {len(after_ms)} are planned, the two later ones are not"
    left_out = "left out" in asked.out + asked.err
    assert left_out, f"{planned} of {len(wanted)} are planned, and nothing says that any is left out"
    return f"{planned} are planned, and what is left out is said"


def _iso(time_ms: int) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415 - only here

    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


_LANE = "the same process; a dead letter that `events dead list` reads; checkpoints of this and another run go on"
CASES = (
    Case("null-header-garbage", _LANE, null_header_of_garbage, short=True),
    Case("null-header-valid", "visible with all others, the same process", null_header_of_a_valid_event, short=True),
    *(
        Case(f"codec-{codec}", "its records are read, the same process", _compressed(codec))
        for codec in ("zstd", "lz4", "snappy")
    ),
    Case("garbage-below-limit", _LANE, garbage_below_the_limit, short=True),
    Case("array-bomb-2e7", f"within {QUICK_S:.0f} s: {_LANE}", _array_bomb(20_000_000), short=True),
    Case("array-bomb-2e40", f"within {QUICK_S:.0f} s: {_LANE}", _array_bomb(1 << 40), short=True),
    Case(
        "foreign-epoch",
        "a dead letter foreign_epoch, not a byte copied, not visible; the run's own epoch goes on",
        foreign_epoch,
        short=True,
    ),
    Case("replay-until", "each record up to then is planned, or it is said that some are left out", replay_until),
    Case("operators-read-poison", "`events list` and `replay` show it and end by themselves", operators_read_it_all),
    Case(
        "future-epoch",
        "it says why it waits; after the set time it is set aside with an alarm, and the run goes on",
        unknown_future_epoch,
    ),
    Case("link-lost-under-load", "said while it is lost; afterwards all visible, same process", link_lost_under_load),
    Case(
        "gzip-bomb",
        f"told by a dead letter or alarm, below {BOMB_ROOM_BYTES >> 20} MiB, and what follows is visible",
        gzip_bomb,
    ),
    Case("one-peer-refuses", "that peer's lane says so; the others go on", one_peer_refuses),
)
