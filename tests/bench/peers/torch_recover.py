"""A worker that survives deaths in the way of PyTorch's tools; recover.py starts, kills and times it.

usage: torch_recover.py torchrun|torchft FOLDER TIMEOUT
  torchrun  under `python -m torch.distributed.run`: DDP on Gloo; rank 0 saves every 20 steps, and all load that when they start again.
            TIMEOUT (s) of Gloo's collectives.
  torchft   a replica group of one rank, RANK among WORLD_SIZE of them: torchft's manager and optimizer, one flat all-reduce; state comes
            from a live replica. TIMEOUT (s) of the manager.
The model is the training benchmark's small one, at 8 sequences of 64 tokens a rank, one thread. Each rank appends
"round step seconds pid" to FOLDER/rank_N.log for each step that it has finished, by the machine's monotonic clock.
"""
import ctypes
import datetime
import os
import pathlib
import signal
import sys
import time

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from torch_parallel import SIZES, data, loss_fn, make  # noqa: E402

SAVE_EVERY = 20
BATCH = 8
CONFIG = SIZES["small"] | {"seq": 64}
PR_SET_PDEATHSIG = 1


class Log:
    def __init__(self, folder: pathlib.Path, rank: int, around: int):
        self.file = (folder / f"rank_{rank}.log").open("a", buffering=1)
        self.around = around

    def step(self, step: int) -> None:
        self.file.write(f"{self.around} {step} {time.monotonic():.6f} {os.getpid()}\n")


def batch_of(step: int, rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data(CONFIG, step, BATCH * size)
    return x[rank * BATCH:(rank + 1) * BATCH], y[rank * BATCH:(rank + 1) * BATCH]


def torchrun(folder: pathlib.Path, timeout: datetime.timedelta) -> None:
    dist.init_process_group("gloo", timeout=timeout)
    rank, size = dist.get_rank(), dist.get_world_size()
    model = torch.nn.parallel.DistributedDataParallel(make(CONFIG), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    saved, step = folder / "saved.pt", 0
    if saved.exists():
        state = torch.load(saved)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = Log(folder, rank, int(os.environ["TORCHELASTIC_RESTART_COUNT"]))
    while True:
        x, y = batch_of(step, rank, size)
        optimizer.zero_grad(set_to_none=True)
        loss_fn(model(x), y).backward()
        optimizer.step()
        step += 1
        log.step(step)
        if rank == 0 and step % SAVE_EVERY == 0:
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, folder / "saving.pt")
            os.replace(folder / "saving.pt", saved)


def torchft(folder: pathlib.Path, timeout: datetime.timedelta) -> None:
    import torchft as ft
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    log = Log(folder, rank, int(os.environ["PEER_ROUND"]))
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    module = make(CONFIG)
    inner = torch.optim.AdamW(module.parameters(), lr=3e-4, fused=True)

    def load(state: dict) -> None:
        module.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])
    manager = ft.Manager(
        pg=ft.ProcessGroupGloo(timeout=timeout), load_state_dict=load, min_replica_size=1, timeout=timeout, replica_id=f"replica_{rank}",
        state_dict=lambda: {"model": module.state_dict(), "optimizer": inner.state_dict()}, rank=0, world_size=1, hostname="localhost",
        store_addr="localhost", store_port=store.port)
    optimizer, parameters = ft.Optimizer(manager, inner), list(module.parameters())
    while True:
        before = manager.current_step()
        x, y = batch_of(before, rank, size)
        optimizer.zero_grad()
        loss_fn(module(x), y).backward()
        # Not its DDP: with this torch its hook fails an assertion on every survivor when Gloo reports the death.
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])
        manager.allreduce(flat).wait()
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad.copy_(grad.view_as(p))
        optimizer.step()
        if manager.current_step() > before:
            log.step(manager.current_step())


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # so that a benchmark that is cut off leaves nobody behind
    torch.set_num_threads(1)
    mode = {"torchrun": torchrun, "torchft": torchft}[sys.argv[1]]
    mode(pathlib.Path(sys.argv[2]), datetime.timedelta(seconds=float(sys.argv[3])))
