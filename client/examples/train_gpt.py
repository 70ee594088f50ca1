"""An ordinary training script: a small byte-level GPT on the Python standard library's sources, DDP over gloo.

    torchrun --standalone --nproc-per-node 2 train_gpt.py --steps 100 --out out

The lines that begin with ``run.`` or use ``start`` are all that Farside adds. Without ``FARSIDE_RUN`` in the
environment they do nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import random
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import farside

VOCABULARY = 256
WARM_UP_STEPS = 10


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each with dropout and a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """One layer."""
        batch, time_, width = hidden.shape
        parts = self.query_key_value(self.norm_attention(hidden)).chunk(3, dim=-1)
        query, key, value = (part.view(batch, time_, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, time_, width))
        hidden = hidden + functional.dropout(mixed, self.dropout, self.training)
        return hidden + functional.dropout(self.feed(self.norm_feed(hidden)), self.dropout, self.training)


class Gpt(nn.Module):
    """Bytes in, the loss of the next byte out."""

    def __init__(self, width: int, layers: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over the batch."""
        hidden = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.head(self.norm(hidden))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Corpus:
    """The text, and the version that names it."""

    text: Tensor
    shards: list[dict[str, Any]]
    digest: str


def load_corpus(bytes_max: int, seed: int) -> Corpus:
    """The standard library's modules in order of their names, up to ``bytes_max``."""
    shards, pieces, size = [], [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        piece = path.read_bytes()[: bytes_max - size]
        size += len(piece)
        pieces.append(piece)
        shards.append({"path": path.name, "size": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
        if size >= bytes_max:
            break
    named = json.dumps({"shards": shards, "sampler": "uniform-windows", "seed": seed})
    text = torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8)
    return Corpus(text, shards, hashlib.sha256(named.encode()).hexdigest())


@dataclass(frozen=True)
class Sampler:
    """Which windows a rank reads at a step, as a function of (seed, step, rank, world size): no state to lose."""

    corpus: Corpus
    seed: int
    rank: int
    world_size: int
    batch: int
    context: int

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of this rank at ``step``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        highest = len(self.corpus.text) - self.context - 1
        starts = torch.randint(highest, (self.world_size, self.batch), generator=generator)[self.rank]
        windows = torch.stack([self.corpus.text[at : at + self.context + 1] for at in starts.tolist()]).long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def schedule(steps: int) -> Any:  # noqa: ANN401 - the function that LambdaLR takes
    """Linear warm-up, then a cosine down to a tenth."""

    def factor(step: int) -> float:
        if step < WARM_UP_STEPS:
            return (step + 1) / WARM_UP_STEPS
        progress = min(1.0, (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    return factor


def warm_up(model: DistributedDataParallel, optimizer: torch.optim.Optimizer, sampler: Sampler) -> None:
    """Everything that happens once, before the state is loaded; leaves model and optimizer as if untouched.

    DDP fixes its buckets, and with them the order of its sums, after the first backward pass, so a resumed run is
    bit-identical only if that lies behind it. The optimizer makes its state, so that it can be loaded in place.
    """
    for _ in range(2):
        model(*sampler.at(0)).backward()
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # with a rate of zero AdamW changes no parameter
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    optimizer.zero_grad()


def digest(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, in order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def seed_rank(seed: int, rank: int) -> None:
    """Every rank drops out other units."""
    torch.manual_seed(seed * 1009 + rank)
    random.seed(seed * 1009 + rank)


def note_loss(out: Path | None, step: int, loss: float) -> None:
    """One line a step."""
    if out is not None:
        with (out / "losses.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, "loss": loss, "time_ms": time.time_ns() // 1_000_000}) + "\n")


def note_end(out: Path | None, step: int, steps: int, model: nn.Module) -> None:
    """The final parameters' digest, unless the run goes on elsewhere; whole from its first moment, for who waits."""
    if out is not None and step == steps:
        part = out / "final.json.part"
        part.write_text(json.dumps({"step": steps, "digest": digest(model)}) + "\n")
        part.replace(out / "final.json")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4, help="windows for each rank and step")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--corpus-bytes", type=int, default=4_000_000)
    parser.add_argument("--min-step-s", type=float, default=0.0, help="slow down to this pace")
    parser.add_argument("--on-superseded", choices=("exit", "warn"), default="exit")
    parser.add_argument("--out", type=Path, help="where rank 0 writes losses.jsonl and final.json")
    return parser.parse_args()


def resume(run: farside.Run, state: dict[str, Any], checkpoint_group: Any) -> int:  # noqa: ANN401 - torch's own
    """Wait for the grant and load what it names; the step that is done."""
    start = run.start(mode="exact")
    if start.reader:
        dcp.load(state, storage_reader=start.reader, process_group=checkpoint_group)
    if start.rank_state:
        farside.rng.restore(start.rank_state)
    run.beat(start.step)  # loaded: from here on it computes
    logging.getLogger("train").info("resumed step=%d", start.step)
    return start.step


def train(args: argparse.Namespace, rank: int, world_size: int) -> None:
    """Build, warm up, resume, train."""
    out: Path | None = args.out if rank == 0 else None
    corpus = load_corpus(args.corpus_bytes, args.seed)
    sampler = Sampler(corpus, args.seed, rank, world_size, args.batch, args.context)
    torch.manual_seed(args.seed)
    model = Gpt(args.width, args.layers, args.heads, args.context, args.dropout)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    warm_up(parallel, optimizer, sampler)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(args.steps))
    seed_rank(args.seed, rank)
    checkpoint_group: Any = dist.new_group(backend="gloo")  # its collectives run beside DDP's, in a thread
    saving: Any = None  # the save under way: at most one

    run = farside.Run.attach(on_superseded=args.on_superseded)
    run.data_version("python-stdlib", corpus.digest, corpus.shards, "uniform-windows", args.seed)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first = step = resume(run, state, checkpoint_group)
    for step in range(first + 1, args.steps + 1):
        begun = time.perf_counter()
        loss = parallel(*sampler.at(step))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        mean_loss = loss.detach().clone()
        dist.all_reduce(mean_loss)
        mean_loss /= world_size
        time.sleep(max(0.0, args.min_step_s - (time.perf_counter() - begun)))

        note_loss(out, step, mean_loss.item())
        if rank == 0:
            rate = world_size * args.batch * args.context / (time.perf_counter() - begun)
            run.metric(step, loss=mean_loss, grad_norm=norm, tokens_per_s=rate)
        if step % args.checkpoint_every == 0 or step == args.steps:
            if saving:
                saving.result()
            run.rank_state(step, farside.rng.capture(sampler={"seed": args.seed, "position": step}))
            saving = dcp.async_save(
                state,
                storage_writer=run.writer(step, health={"loss": mean_loss, "grad_norm": norm}),
                process_group=checkpoint_group,
            )
            if step < args.steps and run.handed_over(step):
                break  # another region goes on from here
        run.beat(step)

    if saving:
        saving.result()
    run.finish(step)
    note_end(out, step, args.steps, model)


def main() -> None:
    """Join the process group and train."""
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    torch.set_num_threads(1)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    dist.init_process_group("gloo")
    try:
        train(args, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
