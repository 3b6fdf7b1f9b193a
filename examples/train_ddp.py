#!/usr/bin/env python3
"""A plain PyTorch script made parallel with `import convoy`: a small character model under DistributedDataParallel.

    torchrun --nproc-per-node 4 examples/train_ddp.py
    convoy run -n 4 -- python examples/train_ddp.py
    python examples/train_ddp.py                     # one process: the same losses, up to rounding

What makes it parallel: the two marked imports and init_process_group("convoy"). CPU tensors then travel through memory that
the ranks share; --backend gloo runs the same script on PyTorch's own backend.
"""
import argparse
import os
import time

import torch
import torch.distributed as dist  # (1)
import torch.nn.functional as F
from torch import nn

import convoy  # (2) registers the backend "convoy"

TEXT = ("A convoy sails together, and goes on when a ship is lost. " * 200).encode()
CONTEXT, WIDTH, GLOBAL_BATCH = 16, 64, 64


class NextByte(nn.Module):
    """Predicts a byte from the CONTEXT before it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.body = nn.Sequential(nn.Linear(CONTEXT * WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(x).flatten(1))


def batch(step: int, rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's share of a global batch that does not depend on the number of ranks."""
    data = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8).long()
    starts = torch.randint(0, len(data) - CONTEXT, (GLOBAL_BATCH,), generator=torch.Generator().manual_seed(step))
    starts = starts[rank * GLOBAL_BATCH // size:(rank + 1) * GLOBAL_BATCH // size]
    return torch.stack([data[s:s + CONTEXT] for s in starts]), torch.stack([data[s + CONTEXT] for s in starts])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--backend", default="convoy")
    args = parser.parse_args()
    if "RANK" not in os.environ:  # started without a launcher
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    dist.init_process_group(args.backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    convoy.shared_memory.enable()  # optional: gradients that all_reduce need not copy

    model = nn.parallel.DistributedDataParallel(NextByte(), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    begin = time.perf_counter()
    for step in range(args.steps):
        x, y = batch(step, rank, size)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 10 == 9 or step == 0:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if rank == 0:
                print(f"step {step + 1:4d}  loss {float(mean) / size:.4f}  {size} ranks on {dist.get_backend()}", flush=True)
    if rank == 0:
        print(f"{args.steps * GLOBAL_BATCH / (time.perf_counter() - begin):.0f} samples/s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
