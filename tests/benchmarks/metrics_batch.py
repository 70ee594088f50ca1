"""`make bench-metrics`: what the metrics of a large run cost, as batches and as one record each.

It makes the records that the agents of a run would publish in one minute, with the agent's own code, and counts them,
the bytes of value, key and headers, and processor time. Kafka adds a few bytes a record, which are counted as its
format has them (message format v2, one record a batch of the log at worst: 61 bytes of batch header, about 8 of
record). With `--broker` the same records are also sent to a broker, whose log on disk is then measured.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from pipelines.core.metric_batches import BatchPolicy, batch_of, metrics_of, runs_of_rows
from pipelines.flows.log.envelope import METRIC, METRIC_BATCH, wrap
from pipelines.ports import Message
from schemas.codec import Codec
from schemas.records import Metric, MetricBatch
from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.log import KafkaLog, ensure_topics
from tests.brokers import admin_of

LOG_BYTES = 69  # of Kafka's format, for a record that is alone in its batch
SECONDS = 60


def metric_of(generator: random.Random, rank: int, step: int, names: tuple[str, ...]) -> Metric:
    """The values that one rank records of one step."""
    producer = f"r{rank:05d}-{rank:016x}"
    return Metric(
        event_id=f"gpt/1/{producer}/metrics/{step}",
        run="gpt",
        region="east",
        epoch=1,
        attempt=1,
        producer=producer,
        seq=step,
        step=step,
        time_ms=1_790_000_000_000 + step * 1_000,
        values={name: generator.gauss(1.0, 0.1) for name in names},
    )


def messages_of(metrics: list[Metric], age_s: float, codec: Codec) -> list[Message]:
    """A rank's minute as its agent publishes it: gathered for so long (0: each metric for itself)."""
    rows = max(1, round(age_s))
    policy = BatchPolicy(rows_max=rows, bytes_max=512 * 1024, age_s=age_s)
    made = []
    for part in runs_of_rows(metrics, [60 + 30 * len(one.values) for one in metrics], policy):
        event, kind = (part[0], METRIC) if len(part) == 1 else (batch_of(part), METRIC_BATCH)
        made.append(wrap(event, kind, codec))
    return made


def size_of(message: Message) -> int:
    """The bytes of one record."""
    heads = sum(len(name) + len(value) + 2 for name, value in message.headers)
    return len(message.key) + len(message.value) + heads + LOG_BYTES


def measure(ranks: int, names: int, age_s: float, sample: int) -> dict[str, Any]:
    """Costs of the whole run by those of some ranks, for one way of gathering."""
    generator, codec = random.Random(5), Codec()
    listed = tuple(f"train/layer_{at:02d}/grad_norm" for at in range(names))
    minutes = [[metric_of(generator, rank, step, listed) for step in range(1, SECONDS + 1)] for rank in range(sample)]
    begun_s = time.process_time()
    made = [message for minute in minutes for message in messages_of(minute, age_s, codec)]
    encode_s = time.process_time() - begun_s
    begun_s = time.process_time()
    events = [codec.decode(one.value) for one in made]
    rows = sum(len(metrics_of(one)) for one in events if isinstance(one, Metric | MetricBatch))
    decode_s = time.process_time() - begun_s
    if rows != sample * SECONDS:
        raise RuntimeError(f"{rows} of {sample * SECONDS} metrics came back")
    scale = ranks / sample / SECONDS
    return {
        "age_s": age_s,
        "records_per_s": len(made) * scale,
        "bytes_per_s": sum(map(size_of, made)) * scale,
        "bytes_largest": max(map(size_of, made)),
        "agents_cpu": encode_s * scale,  # seconds a second, over all the run's nodes
        "reader_cpu": decode_s * scale,
    }


def on_broker(cluster: KafkaCluster, log_folder: Path, ranks: int, names: int, age_s: float) -> dict[str, Any]:
    """Send one minute of the whole run to a broker; what its log grew by, and how long that took."""
    generator, codec = random.Random(5), Codec()
    listed = tuple(f"train/layer_{at:02d}/grad_norm" for at in range(names))
    log = KafkaLog(cluster)
    before = sum(one.stat().st_size for one in log_folder.glob("farside.metrics-*/*.log"))
    records, spent_s = 0, 0.0
    for rank in range(ranks):
        minute = [metric_of(generator, rank, step, listed) for step in range(1, SECONDS + 1)]
        made = messages_of(minute, age_s, codec)
        begun_s = time.monotonic()
        log.publish(made)
        spent_s += time.monotonic() - begun_s
        records += len(made)
    log.close()
    grown = sum(one.stat().st_size for one in log_folder.glob("farside.metrics-*/*.log")) - before
    return {
        "age_s": age_s,
        "records_per_s": records / SECONDS,
        "log_bytes_per_s": grown / SECONDS,
        "sent_records_per_s": records / spent_s,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    print("  ".join(f"{name:>18}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:>18,.2f}" for name in names))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1_000)
    parser.add_argument("--names", type=int, default=50)
    parser.add_argument("--sample", type=int, default=40, help="ranks that are measured; the others are like them")
    parser.add_argument("--broker", action="store_true", help="also on a broker of the local stack")
    parser.add_argument("--write", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    ages = (0.0, 5.0, 30.0)
    figures: dict[str, Any] = {"ranks": chosen.ranks, "names": chosen.names, "hertz": 1}
    figures["made"] = [measure(chosen.ranks, chosen.names, age_s, chosen.sample) for age_s in ages]
    print(f"{chosen.ranks} ranks x {chosen.names} metrics x 1 Hz")
    _show(figures["made"])
    if chosen.broker:
        import tempfile  # noqa: PLC0415

        from infra.local.stack import Stack  # noqa: PLC0415 - only where servers are wanted
        from infra.local.tools import Tools  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), Tools.cached()) as stack:
            stack.start()
            cluster = admin_of(stack, "east")
            ensure_topics(cluster, replication=1)
            logs = stack.folder / "data" / "kafka-east"
            sent = [on_broker(cluster, logs, chosen.ranks, chosen.names, age_s) for age_s in ages]
        figures["sent"] = sent
        _show(sent)
    if chosen.write:
        chosen.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
