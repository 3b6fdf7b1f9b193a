#!/usr/bin/env python3
"""train_ddp.py as a job that goes on when ranks die:

    convoy run -n 4 --spares 1 -- python examples/recover_ddp.py
    kill -9 <a rank's pid>                           # training goes on, and the losses are the same
    torchrun --nproc-per-node 4 --max-restarts 3 examples/recover_ddp.py --checkpoint folder

What makes it so: convoy.steps() with the training state, make(), and `with step`. --checkpoint is for what replicas can't give
back, and for torchrun, which starts all ranks anew.
"""
import argparse

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import convoy
from train_ddp import NextByte, batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--backend", default="convoy")
    parser.add_argument("--checkpoint", default="")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = NextByte()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def to_save() -> dict:
        in_model, in_optimizer = get_state_dict(model, optimizer)
        return {"model": in_model, "optimizer": in_optimizer}

    def restore() -> int:
        """Called when no rank has a state: how many steps what was saved had done."""
        state = to_save()
        try:
            loaded = convoy.checkpoint.load(state, args.checkpoint)
        except convoy.errors.NotFound:
            return 0
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        return loaded.step

    def make() -> tuple:
        """What depends on process groups, which are others after a recovery."""
        ddp = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        return ddp, convoy.checkpoint.Checkpointer(args.checkpoint, take_over=True) if args.checkpoint else None

    state = {"model": model, "optimizer": optimizer}
    for step in convoy.steps(args.steps, state, make=make, restore=restore if args.checkpoint else None, backend=args.backend):
        with step as (ddp, checkpointer):
            rank, size = dist.get_rank(), dist.get_world_size()
            if checkpointer is not None and step.number % 10 == 0 and step.number > 0:
                checkpointer.save_async(step.number, to_save())  # of the steps before this one
            x, y = batch(step.number, rank, size)
            optimizer.zero_grad()
            loss = F.cross_entropy(ddp(x), y)
            loss.backward()
            mean = loss.detach().clone()
            dist.all_reduce(mean)  # before the update: a step that fails has changed nothing
            optimizer.step()
            if rank == 0 and (step.number % 10 == 9 or step.number == 0):
                print(f"step {step.number + 1:4d}  loss {float(mean) / size:.4f}  {size} ranks on {dist.get_backend()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
