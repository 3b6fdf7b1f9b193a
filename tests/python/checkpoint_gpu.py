#!/usr/bin/env python3
"""convoy.checkpoint with tensors on GPUs, on the stand-in for CUDA: checkpoint_gpu.py CONVOY_COMMAND

Method: a tensor is saved and written over at once, behind fence() or an attached optimizer; what is loaded must be what it was at
the save, and the stand-in, which delays what CUDA leaves open, must find nothing. The same without the fence must be
found. Proves order and synchronisation, neither speed nor numerics. On a GPU (without the stand-in) the tensors are so large that
a missing fence spoils what is saved.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch

from convoy.checkpoint import Checkpointer

CONVOY = sys.argv[1]
STANDIN = os.environ.get("CONVOY_STANDIN_REPORT")
ELEMENTS = 100_000 if STANDIN else 64 << 20


def findings() -> list[str]:
    if not STANDIN:
        return []
    reports = pathlib.Path(STANDIN).glob(f"*{os.getpid()}*.json")
    return [finding["text"] for report in reports for finding in json.loads(report.read_text())["findings"]]


def save_and_overwrite(checkpointer: Checkpointer, step: int, fenced: bool) -> bool:
    """Whether what is loaded is what was saved."""
    mixed = {"gpu": torch.arange(ELEMENTS, device="cuda", dtype=torch.float32) + step, "columns": torch.ones(30, 50, device="cuda").t() * step,
             "cpu": torch.full((10,), float(step)), "half": torch.full((7,), step, device="cuda", dtype=torch.bfloat16)}
    expected = {name: tensor.cpu().clone() for name, tensor in mixed.items()}
    future = checkpointer.save_async(step, mixed)
    mixed["cpu"].zero_()  # copied already
    if fenced:
        checkpointer.fence()
    mixed["gpu"].zero_()
    assert future.result(60) == step
    torch.cuda.synchronize()
    loaded = {name: torch.zeros_like(tensor) for name, tensor in mixed.items()}
    checkpointer.load(loaded, step)
    assert all(tensor.device == mixed[name].device for name, tensor in loaded.items())
    return all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in loaded.items())


def train(checkpointer: Checkpointer) -> None:
    weight = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    checkpointer.attach(optimizer)
    checkpointer.prepare({"w": weight})
    for step in range(10, 14):
        expected = weight.detach().cpu().clone()
        weight.grad = torch.full_like(weight, 2.0)
        future = checkpointer.save_async(step, {"w": weight})
        optimizer.step()
        assert future.result(60) == step
        loaded = {"w": torch.zeros(1000)}
        checkpointer.load(loaded, step)
        assert torch.equal(loaded["w"], expected), step


def main() -> None:
    name = f"convoy-test-{os.getpid()}"
    process = subprocess.Popen([CONVOY, "agent", "--name", name], env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"})
    os.environ["CONVOY_AGENT"] = name
    try:
        with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
            with Checkpointer(folder, keep_newest=9) as checkpointer:
                assert all(save_and_overwrite(checkpointer, step, fenced=True) for step in (1, 2, 3))
            with Checkpointer(folder, keep_newest=9) as checkpointer:
                train(checkpointer)
            assert not findings(), findings()
            print("fenced: ok", flush=True)
            with Checkpointer(folder, keep_newest=90) as checkpointer:
                spoilt = [not save_and_overwrite(checkpointer, step, fenced=False) for step in range(20, 30)]
            assert any(spoilt) or findings(), "nothing notices that the fence is missing"
            print(f"not fenced: {sum(spoilt)} of {len(spoilt)} saves are spoilt, {len(findings())} findings", flush=True)
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main()
