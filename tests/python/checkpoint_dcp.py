#!/usr/bin/env python3
"""convoy.checkpoint's writer and reader for torch.distributed.checkpoint: checkpoint_dcp.py CONVOY_COMMAND [TEST …]

Method: what dcp.save and dcp.async_save write through DcpWriter, dcp.load reads through DcpReader in the same and other
layouts, bit for bit; Convoy's own load and tools read it, and DCP reads what Convoy's Checkpointer wrote. Truth is DCP with
its own files, in the same process.
"""
import os
import pathlib
import subprocess
import sys

import ranks
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from checkpoint import agent, place, raises
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from convoy import errors
from convoy.checkpoint import Checkpointer, DcpReader, DcpWriter, load

CONVOY = sys.argv[1]


def fsdp_state(size: int, seed: int) -> dict:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(12, 17), torch.nn.Tanh(), torch.nn.Linear(17, 5))
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 * seed)
    model(torch.randn(4, 12)).square().mean().backward()
    optimizer.step()
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer),
            "extra": {"epoch": seed, "name": f"run {seed}", "list": [1, 2.5], "plain": torch.arange(6.0) * seed}}


def flat(state, path="") -> dict:
    if isinstance(state, dict):
        return {k: v for key, item in state.items() for k, v in flat(item, f"{path}{key}.").items()}
    if isinstance(state, (list, tuple)):
        return {k: v for i, item in enumerate(state) for k, v in flat(item, f"{path}{i}.").items()}
    return {path: state.full_tensor() if isinstance(state, DTensor) else state}


def equal(a, b) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name, item in a.items():
        assert torch.equal(item, b[name]) if isinstance(item, torch.Tensor) else item == b[name], name


def save_and_load(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    state = fsdp_state(size, 1)
    dcp.save(state, storage_writer=DcpWriter(folder + "/convoy"))
    dcp.save(state, checkpoint_id=folder + "/torch")
    writer = DcpWriter(folder + "/convoy", keep_newest=2)
    later = fsdp_state(size, 2)
    future = dcp.async_save(later, storage_writer=writer)
    future.result(timeout=60)
    for step, expected in ((None, later), (1, state)):
        got = fsdp_state(size, 3)
        dcp.load(got, storage_reader=DcpReader(folder + "/convoy", step=step, process_group=dist.group.WORLD if step else None))
        equal(got, expected)
    # The same name twice, by checkpoint_id; the second save is step 2 there.
    for _ in range(2):
        dcp.save(state, checkpoint_id=folder + "/other", storage_writer=DcpWriter("ignored"))
    dist.destroy_process_group()


def load_elsewhere(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    expected, got, ours = fsdp_state(size, 3), fsdp_state(size, 3), fsdp_state(size, 3)
    dcp.load(expected, checkpoint_id=folder + "/torch")
    dcp.load(got, storage_reader=DcpReader(folder + "/convoy", step=1))
    equal(got, expected)
    # Convoy's own load reads the tensors; what DCP has pickled stays bytes.
    loaded = load({"model": ours["model"]}, folder + "/convoy", 1, strict=False)
    assert not loaded.missing
    equal(ours["model"], expected["model"])
    # Rows and columns at once, and a plain tensor of a sharded one.
    mesh = init_device_mesh("cpu", (size,))
    full = flat(expected["model"])["0.weight."]
    other = {"model": {"0.weight": distribute_tensor(torch.zeros_like(full), mesh, [Shard(1)]), "2.bias": torch.zeros(5)}}
    dcp.load(other, storage_reader=DcpReader(folder + "/convoy", step=1))
    assert torch.equal(other["model"]["0.weight"].full_tensor(), full)
    assert torch.equal(other["model"]["2.bias"], flat(expected["model"])["2.bias."])
    dist.destroy_process_group()


def test_fsdp() -> None:
    with place() as folder:
        ranks.run(4, save_and_load, 4, folder)
        for size in (2, 3):
            ranks.run(size, load_elsewhere, size, folder)
        listed = subprocess.run([CONVOY, "ckpt", "verify", folder + "/convoy", "--all"], capture_output=True, text=True)
        assert listed.returncode == 0 and listed.stdout.count("all right") == 2, listed
        assert [p.name for p in sorted(pathlib.Path(folder, "other/commits").iterdir())][1].startswith("s000000000002")


def save_ours(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    state = fsdp_state(size, 1)
    assert Checkpointer(folder).save_async(7, state).result(60) == 7
    got = fsdp_state(size, 2)
    dcp.load(got, storage_reader=DcpReader(folder))
    equal(got, state)
    dist.destroy_process_group()


def test_dcp_reads_checkpointers_steps() -> None:
    with place() as folder, agent():
        ranks.run(2, save_ours, 2, folder)


def test_alone() -> None:
    """One process without a group; the errors that DCP passes on."""
    with place() as folder:
        state = {"a": torch.arange(10).reshape(2, 5), "deep": {"b": torch.tensor(2.5), "text": "x"}, "none": torch.zeros(0, 3)}
        writer = DcpWriter(folder)
        for _ in range(3):
            dcp.save(state, storage_writer=writer, no_dist=True)
        new = {"a": torch.zeros(2, 5, dtype=torch.int64), "deep": {"b": torch.tensor(0.0), "text": ""}, "none": torch.ones(0, 3)}
        dcp.load(new, storage_reader=DcpReader(folder), no_dist=True)
        equal(new, state)
        # Without knowing what is in it, as torch's own converter does.
        from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
        from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
        every: dict = {}
        _load_state_dict(every, storage_reader=DcpReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
        equal(every, state)
        assert "use_collectives" in raises(BaseException, dcp.save, state, storage_writer=DcpWriter(folder), no_dist=True,
                                           use_collectives=False)
        data = next(pathlib.Path(folder, "data").glob("s*3/*/*.chunks"))
        raw = bytearray(data.read_bytes())
        raw[5] ^= 1
        data.write_bytes(raw)
        text = raises(BaseException, dcp.load, new, storage_reader=DcpReader(folder), no_dist=True)
        assert "does not match its checksum" in text, text
        dcp.load(new, storage_reader=DcpReader(folder, step=2), no_dist=True)
        equal(new, state)
        raises(errors.NotFound, DcpReader(folder + "/data").read_metadata)


def main() -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    ranks.run_tests(globals(), sys.argv[2:])


if __name__ == "__main__":
    main()
