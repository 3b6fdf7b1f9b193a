#!/usr/bin/env python3
"""trace.step: what the tracer adds to a training step: trace_step.py --convoy PROGRAM [--ranks 8] [--pairs 1000]

Method: every rank trains a small transformer with DistributedDataParallel on the backend `convoy`, on a group that is attached. One step
is recorded (level `spans`), the next one not (level `off`), and the order within a pair changes from pair to pair: what else the machine
does falls on both. Figures, `low` and `high` their 95 % confidence interval:

  slower      median over the pairs of what the recorded step takes longer, summed over the ranks, by the clock
  processor   the same of the ranks' processor time
  beside      processor time of `convoy trace serve --collect` (collector, aggregator, diagnosis and run file, beside the ranks on their
              cores all the time), as a share of the ranks'

What both steps have in common, the way through hooks at level `off`, is in none of them: trace.hook/off times it (0.2 us a collective).
"""
import argparse
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
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

    def step(self, level: str) -> tuple[float, float]:
        """Returns what it took: by the clock, and of processor time."""
        convoy.trace.set_level(level)
        begin, processor = time.perf_counter(), time.process_time()
        self.model(self.data).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - begin, time.process_time() - processor


def body(rank: int, args: argparse.Namespace, out: str) -> None:
    ranks.init("convoy", rank, args.ranks)
    convoy.trace.start(level="spans", groups=False)
    group = dist.new_group()
    convoy.trace.attach(group)
    job = Job(group)
    for _ in range(10):
        job.step("off")
    pairs = []
    for pair in range(args.pairs):
        levels = ("spans", "off") if pair % 2 == 0 else ("off", "spans")
        took = {level: job.step(level) for level in levels}
        pairs.append([*took["spans"], *took["off"]])
    total = torch.tensor(pairs, dtype=torch.float64)
    dist.all_reduce(total)
    if rank == 0:
        pathlib.Path(out).write_text(json.dumps(total.tolist()))
    dist.barrier()


def measure(args: argparse.Namespace, folder: str) -> tuple[list[list[float]], float]:
    """The pairs, and the processor seconds of what runs beside the ranks."""
    out = os.path.join(folder, "pairs")
    beside = subprocess.Popen([args.convoy, "trace", "serve", "--collect", "--host", "127.0.0.1", "--page", "0", "--run-file",
                               os.path.join(folder, "run.cvyt")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ranks.run(args.ranks, body, args, out, limit_s=1800)
    finally:
        beside.send_signal(signal.SIGINT)
        usage = os.wait4(beside.pid, 0)[2]
    return json.loads(pathlib.Path(out).read_text()), usage.ru_utime + usage.ru_stime


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % confidence interval from the order of the values, which needs no distribution."""
    ordered, n = sorted(values), len(values)
    low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--convoy", required=True)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs, beside_s = measure(args, folder)
    row = {"bench": "trace.step", "case": f"ddp{args.ranks}", "unit": "%", "pairs": args.pairs}
    for at, metric in enumerate(("slower", "processor")):
        middle, low, high = interval([(pair[at] / pair[at + 2] - 1) * 100 for pair in pairs])
        print(json.dumps(row | {"metric": metric, "value": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}))
    share = beside_s / sum(pair[1] + pair[3] for pair in pairs) * 100
    print(json.dumps(row | {"metric": "beside", "value": round(share, 3)}))


if __name__ == "__main__":
    main()
