#!/usr/bin/env python3
"""comm.*: Convoy's collectives beside torch.distributed on Gloo, in the same processes, call by call in turn.

  comm.py [--ranks 2,4,8] [--ops all_reduce,…] [--sizes 64,4KiB,…] [--runs 7] [--out FILE]

One JSON line a result on stdout. `value` and `peer_value` are medians over the runs of the slowest rank's time. A run is
a batch of calls for small messages. Cases: `4r/64MiB/shared` has its tensors in shared memory (convoy.shared_memory),
`…/private` has them in ordinary memory, which is where Gloo has them always. `limit` is the time that the bytes which must move need at the
memory bandwidth that the same processes reach together in a copy, measured in the same run.
torch's flight recorder is off: for Gloo it records natively, for other backends it keeps the Python stack of every call, which costs more
than a small collective. `--recorder` leaves it on.

Bytes: all_reduce, reduce_scatter, all_to_all and broadcast: of one rank's whole tensor; all_gather: of one rank's input;
send_recv: of each of the two messages of a round trip between ranks 0 and 1.
"""
import argparse
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}
SIZES = "64,4KiB,64KiB,1MiB,16MiB,64MiB"
OPS = "all_reduce,all_gather,reduce_scatter,all_to_all,broadcast,send_recv,barrier"
SMALL = 64 << 10


def parse_size(text: str) -> int:
    for unit in ("KiB", "MiB", "B"):
        if text.endswith(unit):
            return int(text[: -len(unit)]) * UNITS[unit]
    return int(text)


def size_name(size: int) -> str:
    if size >= 1 << 20:
        return f"{size >> 20}MiB"
    return f"{size >> 10}KiB" if size >= 1 << 10 else f"{size}B"


def traffic(op: str, n: int, size: int) -> int:
    """Bytes that all ranks together must at least read and write in memory, tensors larger than the caches."""
    return {"all_reduce": 2 * n * size, "all_gather": n * size + n * n * size, "reduce_scatter": n * size + size,
            "all_to_all": 2 * n * size, "broadcast": n * size, "send_recv": 4 * size, "barrier": 0}[op]


class Tensors:
    """What one op works on; made anew for each placement."""

    def __init__(self, op: str, n: int, size: int):
        count = max(n, size // 4)
        count -= count % n
        self.x = torch.ones(count)
        out = {"all_gather": count * n, "reduce_scatter": count // n, "all_to_all": count}.get(op, 0)
        self.out = torch.zeros(out)


def call(op: str, t: Tensors, rank: int, group) -> None:
    if op == "all_reduce":
        dist.all_reduce(t.x, group=group)
    elif op == "all_gather":
        dist.all_gather_into_tensor(t.out, t.x, group=group)
    elif op == "reduce_scatter":
        dist.reduce_scatter_tensor(t.out, t.x, group=group)
    elif op == "all_to_all":
        dist.all_to_all_single(t.out, t.x, group=group)
    elif op == "broadcast":
        dist.broadcast(t.x, 0, group=group)
    elif op == "barrier":
        dist.barrier(group=group)
    elif rank == 0:
        dist.send(t.x, 1, group=group)
        dist.recv(t.x, 1, group=group)
    elif rank == 1:
        dist.recv(t.x, 0, group=group)
        dist.send(t.x, 0, group=group)


def timed(op: str, t: Tensors, rank: int, group, sync, calls: int) -> float:
    """Seconds of one call on the slowest rank, mean over `calls`."""
    t.x.fill_(1.0)
    dist.barrier(group=sync)
    begin = time.perf_counter()
    for _ in range(calls):
        call(op, t, rank, group)
    spent = torch.tensor([(time.perf_counter() - begin) / calls], dtype=torch.float64)
    dist.all_reduce(spent, op=dist.ReduceOp.MAX, group=sync)
    return float(spent)


def bandwidth(sync, runs: int) -> list[float]:
    """Bytes/s that all ranks together read and write when each copies memory, one figure a run."""
    size = 64 << 20
    a, b = torch.ones(size // 4), torch.zeros(size // 4)
    rates = []
    for _ in range(runs):
        dist.barrier(group=sync)
        begin = time.perf_counter()
        b.copy_(a)
        spent = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.all_reduce(spent, op=dist.ReduceOp.MAX, group=sync)
        rates.append(2 * size * dist.get_world_size() / float(spent))
    return rates


def calls_of(op: str, size: int, n: int) -> int:
    if op == "barrier" or size <= 4096:
        return 50
    return 10 if size <= SMALL else 1


def worker(rank: int, n: int, args, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if not args.recorder:
        os.environ["TORCH_FR_BUFFER_SIZE"] = "0"
    torch.set_num_threads(1)
    import convoy

    dist.init_process_group("convoy", rank=rank, world_size=n)
    ours, gloo = dist.group.WORLD, dist.new_group(backend="gloo")
    rates = bandwidth(ours, args.runs)
    for op in args.ops:
        for size in [0] if op == "barrier" else args.sizes:
            with convoy.shared_memory.enabled():
                shared = Tensors(op, n, size)
            private = Tensors(op, n, size)
            calls = calls_of(op, size, n)
            times = {"shared": [], "private": [], "gloo": []}
            for run in range(args.runs + 1):  # the first is the warm-up
                for name, tensors, group in (("shared", shared, ours), ("gloo", private, gloo), ("private", private, ours)):
                    spent = timed(op, tensors, rank, group, ours, max(1, calls // 5) if name == "gloo" else calls)
                    if run:
                        times[name].append(spent)
            rates += bandwidth(ours, 1)
            if rank == 0:
                report(op, n, size, times, rates)
    dist.barrier()
    dist.destroy_process_group()


def report(op: str, n: int, size: int, times: dict, rates: list[float]) -> None:
    peer = statistics.median(times["gloo"])
    limit = traffic(op, n, size) / statistics.median(rates)
    for placement in ("shared", "private"):
        value = statistics.median(times[placement])
        case = f"{n}r" if op == "barrier" else f"{n}r/{size_name(size)}/{placement}"
        if op == "barrier" and placement == "private":
            continue
        line = {"bench": f"comm.{op}", "case": case, "metric": "latency_s", "value": value, "unit": "s",
                "peer": "torch.distributed gloo", "peer_value": peer, "ratio": round(peer / value, 2)}
        if size >= 1 << 20:
            line |= {"limit": limit, "limit_name": "memory traffic", "share_of_limit": round(limit / value, 3)}
        print(json.dumps(line), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,4,8")
    parser.add_argument("--ops", default=OPS)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--recorder", action="store_true", help="leave torch's flight recorder on")
    args = parser.parse_args()
    args.ops, args.sizes = args.ops.split(","), [parse_size(s) for s in args.sizes.split(",")]
    for i, n in enumerate(int(r) for r in args.ranks.split(",")):
        mp.spawn(worker, (n, args, 29500 + os.getpid() % 400 + i), nprocs=n)
    return 0


if __name__ == "__main__":
    sys.exit(main())
