#!/usr/bin/env python3
"""trace.step: what the tracer adds to a training step: trace_step.py [--ranks 8] [--blocks 40] [--steps 6]

Method: every rank trains two copies of a small transformer with DistributedDataParallel on the backend `convoy`, one on a group that
is traced, one on a group that is not. Blocks of steps of the two take turns, the level switched to `spans` and `off`; the order within
a pair changes from pair to pair. `value` is the median over the pairs of what the traced block's median step takes longer, in percent,
`low` and `high` its 95 % confidence interval. What both have in common, the way past the hooks that are off, is not in it.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
import ranks  # noqa: E402

import convoy  # noqa: E402


class Job:
    """One model on one group, in the loop of any program."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.model = torch.nn.parallel.DistributedDataParallel(
            torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), process_group=group, bucket_cap_mb=0.25)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.data = torch.randn(4, 64, 128)

    def step(self) -> float:
        begin = time.perf_counter()
        self.model(self.data).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - begin

    def block(self, level: str, steps: int) -> float:
        dist.barrier()
        convoy.trace.set_level(level)
        self.step()
        return statistics.median(self.step() for _ in range(steps))


def body(rank: int, args: argparse.Namespace, out: str) -> None:
    ranks.init("convoy", rank, args.ranks)
    convoy.trace.start(level="spans", groups=False)
    plain, traced = dist.new_group(), dist.new_group()
    convoy.trace.attach(traced)
    with_hooks, without = Job(traced), Job(plain)
    for job in (with_hooks, without):
        job.block("off", 3)
    differences = []
    for pair in range(args.blocks):
        def on() -> float:
            return with_hooks.block("spans", args.steps)

        def off() -> float:
            return without.block("off", args.steps)

        if pair % 2 == 0:
            a, b = on(), off()
        else:
            b, a = off(), on()
        differences.append((a / b - 1) * 100)
    if rank == 0:
        pathlib.Path(out).write_text(json.dumps(differences))
    dist.barrier()


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % confidence interval from the order of the values, which needs no distribution."""
    ordered, n = sorted(values), len(values)
    low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "differences")
        ranks.run(args.ranks, body, args, out, limit_s=900)
        middle, low, high = interval(json.loads(pathlib.Path(out).read_text()))
    print(json.dumps({"bench": "trace.step", "case": f"ddp{args.ranks}", "metric": "slower", "value": round(middle, 3), "low": round(low, 3),
                      "high": round(high, 3), "unit": "%", "pairs": args.blocks}))


if __name__ == "__main__":
    main()
