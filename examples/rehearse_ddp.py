#!/usr/bin/env python3
"""A plain PyTorch script for GPUs, to be rehearsed without any: DistributedDataParallel on NCCL.

    convoy run -n 4 --rehearse -- python examples/rehearse_ddp.py
    convoy run -n 4 --rehearse --seed 1 -- python examples/rehearse_ddp.py --mistake wait
    torchrun --nproc-per-node 4 examples/rehearse_ddp.py          # on real GPUs

Nothing in it knows of Convoy. --mistake puts in what a rehearsal finds: a missing wait between streams (wait), a read of
device memory by the program (host), ranks that call collectives in different order (order), with different sizes (size), or not at all (skip).
"""
import argparse
import ctypes
import datetime
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

WIDTH, CLASSES, GLOBAL_BATCH = 32, 8, 64


def batch(step: int, rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's share of a global batch, in pinned memory, which copies to the GPU may read while the program goes on."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(GLOBAL_BATCH, WIDTH, generator=generator)
    y = x[:, :CLASSES].argmax(1)
    mine = slice(rank * GLOBAL_BATCH // size, (rank + 1) * GLOBAL_BATCH // size)
    return x[mine].pin_memory(), y[mine].pin_memory()


def make_mistake(which: str, rank: int) -> None:
    a, b = torch.ones(1000, device="cuda"), torch.zeros(1000, device="cuda")
    if which == "wait":
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # side.wait_stream(torch.cuda.current_stream()) is missing
            b.copy_(a)
        side.synchronize()
    elif which == "host" and rank == 1:
        print(ctypes.c_float.from_address(a.data_ptr()).value)
    elif which == "order":
        if rank == 0:
            dist.all_reduce(a)
            dist.broadcast(b, src=0)
        else:
            dist.broadcast(b, src=0)
            dist.all_reduce(a)
    elif which == "size":
        dist.all_reduce(a[:500] if rank == 1 else a)
    elif which == "skip" and rank != 1:
        dist.all_reduce(a)
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--mistake", choices=["wait", "host", "order", "size", "skip"])
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a collective may take")
    args = parser.parse_args()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", timeout=datetime.timedelta(seconds=args.timeout))
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)

    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, CLASSES)).cuda()
    model = nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(args.steps):
        x, y = (t.to("cuda", non_blocking=True) for t in batch(step, rank, size))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        if rank == 0:
            print(f"step {step + 1:3d}  loss {float(mean):.6f}  {size} ranks on {dist.get_backend()}", flush=True)
    if args.mistake:
        make_mistake(args.mistake, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
