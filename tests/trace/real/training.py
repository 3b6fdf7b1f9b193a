"""One rank of a small real training whose computation mostly sleeps, so that eight ranks fit on two cores.

Layouts: `dp8` (DistributedDataParallel), `tp2pp2dp2` (groups that the script makes, messages between two pipeline stages), and `hosts2`
(dp8 on two pretended hosts, joined by TCP). The tracer is attached as in any program: convoy.trace.start(), and, where the script is its
own pipeline, spans. A Fault (faults.py) is asked at each place where one can be.
"""
import os
import random
import time

import torch
import torch.distributed as dist
from torch import nn

import convoy

SIZE = 8
MESHES = {"dp8": "dp=8", "hosts2": "dp=8", "tp2pp2dp2": "tp=2,pp=2,dp=2"}
FORWARD_S, BACKWARD_S, READ_S = 0.02, 0.04, 0.002


def spin(seconds: float) -> None:
    """Uses so much of a core's time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Work:
    """What stands for a rank's computation: sleeps, and a little of a core."""

    def __init__(self, rank: int, fault, jitter: float, seed: int) -> None:
        self.rank, self.fault, self.jitter = rank, fault, jitter
        self.random = random.Random(f"{seed} {rank}")
        self.step, self.share = 0, 1.0

    def __call__(self, seconds: float) -> None:
        factor = self.fault.compute_factor(self.rank, self.step) * max(0.5, self.random.gauss(1, self.jitter))
        spin(self.fault.spin_s)
        time.sleep(seconds * factor * self.share)


class Sleeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, work):
        ctx.work = work
        work(FORWARD_S / 2)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.work(BACKWARD_S / 2)
        return gradient, None


class Block(nn.Module):
    def __init__(self, width: int, work: Work) -> None:
        super().__init__()
        self.linear, self.work = nn.Linear(width, width), work

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(Sleeping.apply(x, self.work)))


class Samples(torch.utils.data.Dataset):
    def __init__(self, rank: int, width: int, work: Work, fault) -> None:
        self.rank, self.width, self.work, self.fault = rank, width, work, fault

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(READ_S)
        self.fault.read(self.rank, self.work.step)
        return torch.full((self.width,), 1e-6 * index)


class Training:
    """Steps until it is told to stop, or something fails."""

    def __init__(self, rank: int, fault, steps, options) -> None:
        self.rank, self.fault, self.steps, self.options = rank, fault, steps, options
        self.work = Work(rank, fault, options.jitter, options.seed)
        self.micro_batches = 2 if options.layout == "tp2pp2dp2" else 1
        self.work.share = 1 / self.micro_batches

    def init(self) -> None:
        if self.options.layout == "hosts2":
            os.environ["CONVOY_HOST_ID"] = f"host{self.rank * 2 // SIZE}"
        torch.set_num_threads(1)
        torch.manual_seed(self.options.seed)
        convoy.trace.start()
        dist.init_process_group("convoy")

    def loader(self, width: int):
        return iter(torch.utils.data.DataLoader(Samples(self.rank, width, self.work, self.fault), batch_size=1))

    def begin_step(self, step: int) -> None:
        self.work.step = step
        self.steps[self.rank] = step
        self.fault.begin_step(self.rank, step)
        if step <= self.options.warm_up:
            time.sleep(0.3 / step)

    def data_parallel(self) -> None:
        width = 512 if self.options.layout == "hosts2" else 64
        model = nn.parallel.DistributedDataParallel(nn.Sequential(Block(width, self.work), Block(width, self.work)), bucket_cap_mb=1)
        optimizer = torch.optim.AdamW(model.parameters())
        loader = self.loader(width)
        loss_sum, flags = torch.zeros(1), torch.zeros(4)
        for step in range(1, self.options.steps + 1):
            self.begin_step(step)
            loss = model(next(loader).requires_grad_()).square().mean()
            loss.backward()
            if not self.fault.skips(self.rank, step):
                shape = self.fault.wrong_size(self.rank, step)
                dist.all_reduce(flags if shape is None else torch.zeros(shape))
            loss_sum.copy_(loss.detach())
            dist.all_reduce(loss_sum)
            self.save(step, model)
            optimizer.step()
            optimizer.zero_grad()

    def save(self, step: int, model) -> None:
        if step % self.options.save_every == 0 and self.rank == self.fault.saver:
            with convoy.trace.span("checkpoint"):
                torch.save(model.state_dict(), os.path.join(self.options.folder, f"model_{self.rank}.pt"))
                self.fault.save(self.rank, step)

    def pipeline(self) -> None:
        mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("pp", "dp", "tp"))
        tp, dp = mesh["tp"].get_group(), mesh["dp"].get_group()
        stage = self.rank // 4
        other = (self.rank + 4) % SIZE
        blocks = nn.Sequential(Block(64, self.work), Block(64, self.work))
        optimizer = torch.optim.AdamW(blocks.parameters())
        loader = self.loader(64)
        for step in range(1, self.options.steps + 1):
            with convoy.trace.step():
                self.begin_step(step)
                self.all_micro_batches(stage, other, blocks, tp, loader)
                self.reduce(step, blocks, tp, dp)
                self.save(step, blocks)
                optimizer.step()
                optimizer.zero_grad()

    def all_micro_batches(self, stage: int, other: int, blocks, tp, loader) -> None:
        """Both forwards, then both backwards; halves of the layers' outputs are added over tp."""
        kept = []
        for micro in range(1, self.micro_batches + 1):
            x = next(loader) if stage == 0 else torch.empty(1, 64)
            if stage == 1:
                dist.recv(x, other)
            with convoy.trace.span("forward", micro):
                x.requires_grad_()
                y = blocks(x)
                total = y.detach().clone()
                dist.all_reduce(total, group=tp)
            if stage == 0:
                dist.send(total, other)
            kept.append((x, y))
        for micro, (x, y) in enumerate(kept, 1):
            gradient = torch.empty(1, 64)
            if stage == 0:
                dist.recv(gradient, other)
            else:
                gradient = y.detach() / 64
            y.backward(gradient)
            if stage == 1:
                dist.all_reduce(x.grad, group=tp)
                dist.send(x.grad, other)

    def reduce(self, step: int, blocks, tp, dp) -> None:
        """Gradients over dp, the norm over tp, and what all ranks add up."""
        gradients = torch.cat([p.grad.flatten() for p in blocks.parameters()])
        dist.all_reduce(gradients, group=dp)
        shape = self.fault.wrong_size(self.rank, step)
        calls = [(gradients.square().sum().reshape(1), tp), (torch.zeros(4 if shape is None else shape), None)]
        if self.fault.swaps(self.rank, step):
            calls.reverse()
        if self.fault.skips(self.rank, step):
            calls.pop()
        for tensor, group in calls:
            dist.all_reduce(tensor, group=group)
        dist.all_reduce(torch.zeros(1))

    def run(self) -> None:
        self.init()
        if self.options.layout == "tp2pp2dp2":
            self.pipeline()
        else:
            self.data_parallel()
        dist.barrier()
        dist.destroy_process_group()  # says goodbye: to those that are still in the barrier a rank that just ends has died
