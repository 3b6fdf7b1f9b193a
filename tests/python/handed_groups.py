#!/usr/bin/env python3
"""Convoy's C++ layers on groups that torch.distributed made in Python, on Gloo and on Convoy: handed_groups.py MODULE

Method: 4 ranks load the extension MODULE (handed_groups.cc, written as a user would write one) and hand it the groups of a
DeviceMesh. It trains the awkward little Llama of tests/parallel/truth for three optimizer steps (13 positions, 67 words, 6 heads
over 2, 5 layers: nothing divides) and compares loss, gradient norm, every gradient and every parameter with the one-process
run: float64, to 1e-10. So column and row parallel layers, embedding and loss, sequence parallel, all pipeline schedules,
gradient buckets and ZeRO run on each backend; all ranks must know the same loss and norm bit for bit. Before that, the calls of
comm::Group for which backends differ: uneven and empty shards, several messages in flight; and groups that don't fit the mesh.

Does not check speed, dropout, float32 and 8 ranks (truth has them on Convoy's groups), nor other backends.
"""
import importlib.util
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import convoy  # noqa: E402  registers the backend; the module itself needs only libconvoy
import ranks  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

SIZE = 4
# (tp, pp, dp) and what is not the default.
CELLS = [
    ((2, 2, 1), {"sequence_parallel": True}),
    ((2, 2, 1), {"schedule": "interleaved", "chunks": 2, "tied": False}),
    ((2, 1, 2), {"sequence_parallel": True, "zero": True}),
    ((2, 1, 2), {"recompute": 1}),
    ((4, 1, 1), {"sequence_parallel": True, "recompute": 2}),
    ((1, 2, 2), {"schedule": "gpipe", "zero": True}),
    ((1, 4, 1), {}),
]


def load(path: str):
    spec = importlib.util.spec_from_file_location("handed_groups", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def groups_of(mesh: convoy.Mesh) -> dict:
    """This rank's groups along the mesh's dimensions, and of all ranks, made by torch.distributed."""
    device_mesh = mesh.device_mesh()
    groups = {(name,): device_mesh.get_group(name) for name, size in mesh.dims if size > 1}
    return groups | {tuple(name for name, _ in mesh.dims): dist.group.WORLD}


def check_rows(module, rank: int, dtype: torch.dtype) -> None:
    """all_gather and reduce_scatter, with shards of one size, of several, and empty."""
    group = dist.group.WORLD
    for sizes in ([2] * SIZE, [3, 1, 4, 0], [0, 0, 5, 0], [1, 0, 0, 2], [0] * SIZE):
        full = torch.arange(sum(sizes) * 6).remainder(20).view(-1, 3, 2).to(dtype)  # sums are exact in bfloat16
        got = module.all_gather(group, full.split(sizes)[rank], sizes)
        assert torch.equal(got, full), f"all_gather {sizes} {dtype}: {got}"
        given = full * (rank + 1)
        want = (full * sum(range(1, SIZE + 1))).split(sizes)[rank]
        for got in module.reduce_scatter(group, given, sizes):
            assert torch.equal(got, want), f"reduce_scatter {sizes} {dtype}: {got}"
        assert torch.equal(given, full * (rank + 1)), "reduce_scatter leaves its input alone"


def check_messages(module, rank: int) -> None:
    shapes = [(1,), (0, 3), (300, 700), (5, 2), (64, 1024)]
    previous = (rank - 1) % SIZE
    got = module.shift(dist.group.WORLD, [torch.full(shape, 10.0 * rank + i) for i, shape in enumerate(shapes)])
    for i, (tensor, shape) in enumerate(zip(got, shapes)):
        assert torch.equal(tensor, torch.full(shape, 10.0 * previous + i)), f"message {i}"


def cell_of(module, sizes: tuple, options: dict):
    cell = module.Cell(*sizes)
    for name, value in options.items():
        setattr(cell, name, value)
    return cell


def check_misfits(module, rank: int) -> None:
    cell, world = cell_of(module, (2, 2, 1), {}), dist.group.WORLD
    for given, words in (({}, "was not handed over"), ({("tp",): world}, "in the mesh tp=2,")):
        try:
            module.train(cell, rank, given)
        except (RuntimeError, ValueError) as e:
            assert words in str(e) and "tp[" in str(e), str(e)
        else:
            raise AssertionError(f"training with {given} should have been refused")


def check_training(module, rank: int, backend: str) -> None:
    for sizes, options in CELLS:
        cell = cell_of(module, sizes, options)
        ratio, where, numbers = module.train(cell, rank, groups_of(convoy.Mesh(cell.mesh(), SIZE)))
        name = f"{backend:6} {cell.name()}"
        assert ratio <= 1, f"{name}: {where} is off by {ratio:.3g} of its bound"
        told: list = [None] * SIZE
        dist.all_gather_object(told, (ratio, numbers))
        assert all(theirs == numbers for _, theirs in told), f"{name}: the ranks know different losses or norms: {told}"
        if rank == 0:
            print(f"{name:60} ok, {max(other for other, _ in told):.2g} of its bound", flush=True)


def body(rank: int, path: str) -> None:
    module = load(path)
    for backend in ("gloo", "convoy"):
        ranks.init(backend, rank, SIZE, name=backend)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64):
            check_rows(module, rank, dtype)
        check_messages(module, rank)
        check_misfits(module, rank)
        check_training(module, rank, backend)
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    ranks.run(SIZE, body, sys.argv[1], limit_s=280)
    print("ok")
