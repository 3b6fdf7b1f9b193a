#!/usr/bin/env python3
"""convoy.checkpoint: checkpoint.py CONVOY_COMMAND [TEST …]

Method: ranks are forked and saved by a real agent (`convoy agent`); what is loaded is compared bit for bit with what was
saved, by ranks of other numbers, meshes and placements. Truth for boxes is torch's own distribute_tensor(). The training
test kills its ranks with SIGKILL. The service itself (tiers, crashes, disks) has tests/ckpt.
"""
import contextlib
import itertools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import convoy
from convoy import errors
from convoy.checkpoint import Checkpointer, PerRank, load, save_async

CONVOY = sys.argv[1]
_numbers = itertools.count()


@contextlib.contextmanager
def agent():
    """An agent for the ranks that are forked inside; yields its process."""
    name = f"convoy-test-{os.getpid()}-{next(_numbers)}"
    process = subprocess.Popen([CONVOY, "agent", "--name", name])
    os.environ["CONVOY_AGENT"] = name
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        os.environ.pop("CONVOY_AGENT", None)


@contextlib.contextmanager
def place():
    """A folder for a test's checkpoints."""
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        yield folder


def raises(kind, call, *args, **more) -> str:
    try:
        call(*args, **more)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} should have raised {kind.__name__}")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def files_bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*.chunks"))


# ---- placements

FULL = {"even": (8, 12), "uneven": (7, 5), "small": (3, 2), "row": (1, 9), "vector": (11,), "cube": (5, 6, 4), "empty": (0, 4)}
MESHES = {1: [(1,)], 2: [(2,)], 3: [(3,)], 4: [(4,), (2, 2)], 8: [(2, 4), (2, 2, 2)]}


def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sorted(FULL).index(name))
    return torch.randn(shape, generator=generator)


def placements_of(mesh_dims: int, dims: int):
    choices = [Replicate()] + [Shard(d) for d in range(dims)]
    every = list(itertools.product(choices, repeat=mesh_dims))
    return every if len(every) < 20 else every[::len(every) // 8]


def sharded(mesh_shapes) -> dict[str, DTensor]:
    """Every placement of every tensor over every mesh; FSDP with TP as torch makes it, with _StridedShard."""
    out = {}
    for shape in mesh_shapes:
        mesh = init_device_mesh("cpu", shape)
        for name, size in FULL.items():
            for placements in placements_of(len(shape), len(size)):
                out[f"{name}/{shape}/{placements}"] = distribute_tensor(value(name, size), mesh, placements, src_data_rank=None)
        if len(shape) == 2:
            strided = [_StridedShard(0, split_factor=shape[1]), Shard(0)]
            # Sizes that don't divide are for torch to place; where it can't, there is no such tensor.
            for name, size in {"even": (16, 3), "vector": (24,)}.items():
                full = torch.arange(torch.Size(size).numel(), dtype=torch.float32).reshape(size)
                out[f"strided {name}/{shape}"] = distribute_tensor(full, mesh, strided, src_data_rank=None)
    return out


def check_boxes(rank: int, size: int) -> None:
    """The boxes of a shard hold what torch has put into it."""
    from convoy.checkpoint._layout import cut, layout_of, local_of
    ranks.init("gloo", rank, size)
    seen = 0
    for key, tensor in sharded(MESHES[size]).items():
        name = key.split("/")[0]
        full = value(name, FULL[name]) if name in FULL else torch.arange(tensor.numel(), dtype=torch.float32).reshape(tensor.shape)
        local = local_of(tensor)
        for box in layout_of(tensor, local).boxes:
            part = full
            for dim, (begin, extent) in enumerate(zip(box.begin, box.extent)):
                part = part.narrow(dim, begin, extent)
            assert torch.equal(cut(local, box, box.begin, box.extent), part), (key, box)
            seen += part.numel()
    total = torch.tensor([seen])
    dist.all_reduce(total)
    assert total.item() > 0
    dist.destroy_process_group()


def test_boxes() -> None:
    for size in (3, 4, 8):
        ranks.run(size, check_boxes, size)


def save_sweep(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    state = sharded(MESHES[size])
    # The same tensors as every other mesh saves, under one name each: whichever placement comes first.
    by_name = {}
    for index, name in enumerate(FULL):
        of_name = [tensor for key, tensor in state.items() if key.startswith(name + "/")]
        by_name[name] = of_name[(index * 3 + size) % len(of_name)]
    Checkpointer(folder, keep_newest=9).save_async(size, {"all": state, "one": by_name}).result(60)
    dist.destroy_process_group()


def load_sweep(rank: int, size: int, folder: str, saved: list[int]) -> None:
    ranks.init("gloo", rank, size)
    for step in saved:
        expected = sharded(MESHES[size])
        keys = {name: [key for key in expected if key.startswith(name + "/")] for name in FULL}
        for turn in range(step % 3, 12, 3):  # a third of the placements, other ones for each step
            chosen = {name: expected[keys[name][turn % len(keys[name])]] for name in FULL}
            state = {"one": {name: torch.zeros_like(tensor) for name, tensor in chosen.items()}}
            loaded = load(state, folder, step, strict=False)
            assert loaded.step == step and not loaded.missing, loaded
            for name, tensor in state["one"].items():
                assert torch.equal(bits(tensor.to_local()), bits(chosen[name].to_local())), (step, name, tensor.placements)
    dist.destroy_process_group()


def test_sweep() -> None:
    with place() as folder:
        for size in (2, 4, 3):
            with agent():
                ranks.run(size, save_sweep, size, folder)
        for size in (1, 4, 8):
            ranks.run(size, load_sweep, size, folder, [2, 3, 4])


# ---- replicas

def save_replicated(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    torch.manual_seed(5)
    state = {f"layer{i}": torch.randn(4096, 1000) for i in range(3)} | {"bias": torch.randn(77), "step": torch.tensor(7)}
    state["own"] = PerRank(torch.full((4,), float(rank)))
    checkpointer = Checkpointer(folder)
    future = checkpointer.save_async(1, state)
    assert future.result(60) == 1
    given = torch.tensor([future.bytes])
    everyone = [torch.zeros_like(given) for _ in range(size)]
    dist.all_gather(everyone, given)
    whole = 3 * 4 * 4096 * 1000 + 4 * 77 + 8 + size * 16
    assert 0 < sum(int(b) for b in everyone) - whole < 1000, everyone  # and how the names nest
    assert max(everyone) - min(everyone) < 1 << 20, everyone  # shares are not cut smaller than that
    before = {name: tensor.clone() for name, tensor in state.items() if name != "own"}
    for tensor in before:
        state[tensor].zero_()
    state["own"].value.zero_()
    load(state, folder)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert torch.equal(state["own"].value, torch.full((4,), float(rank)))
    dist.destroy_process_group()


def test_replicas_are_written_once() -> None:
    with place() as folder, agent():
        ranks.run(4, save_replicated, 4, folder)
        state = 3 * 4 * 4096 * 1000
        assert state <= files_bytes(folder) <= state * 1.01, files_bytes(folder)


# ---- values, and what is refused

VALUES = {
    "int": -5, "big": 1 << 200, "float": 0.1, "nan": float("nan"), "inf": float("-inf"), "yes": True, "none": None, "text": "ü\udc80\n",
    "bytes": b"\x00\xffjson:", "marked": b"json:1", "list": [1, [2.5, None]], "tuple": (1, (2,), []), "dict": {"a": {"b": 1}},
    "odd": {"$float": "x", "y": 2}, "keys": {1: "a", (2, 3): "b"}, "nothing": {}, "empty": [],
}


def same(a, b) -> bool:
    return repr(a) == repr(b) and type(a) is type(b)


def test_values() -> None:
    from convoy.checkpoint._state import decode, encode
    for name, item in VALUES.items():
        assert same(decode(encode(item)), item), name
    assert decode(b"\x80\x04not ours") == b"\x80\x04not ours"
    assert "numpy.float64" in raises(TypeError, encode, __import__("numpy").float64(1))
    assert "NoneType" not in raises(TypeError, encode, [torch.float32])
    with place() as folder, agent():
        odd = {k: v for k, v in VALUES.items() if k not in ("keys",)}
        state = {"values": odd | {"nested": [{"t": torch.arange(3), "lr": 0.5}]}, 3: torch.ones(2, 2).t()}
        future = save_async(state, folder)
        assert future.result(60) == 1, future
        new = {"values": {k: None for k in odd} | {"dict": {"a": {"b": 0}}, "odd": {"$float": "", "y": 0}, "nothing": {},
                                                   "nested": [{"t": torch.zeros(3, dtype=torch.int64), "lr": 0}]},
               3: torch.zeros(2, 2)}
        loaded = load(new, folder)
        assert loaded.step == 1 and not loaded.unexpected
        assert all(same(new["values"][k], v) for k, v in odd.items()), new
        assert new["values"]["nested"][0]["lr"] == 0.5 and new["values"]["nested"][0]["t"].tolist() == [0, 1, 2]
        assert save_async(state, folder).result(60) == 2
        listed = subprocess.run([CONVOY, "ckpt", "inspect", folder], capture_output=True, text=True, check=True).stdout
        assert "values.nested.0.lr" in listed


def test_bad_state() -> None:
    logging.getLogger("convoy.checkpoint").setLevel(logging.CRITICAL)  # what is caused here is not news
    with place() as folder, agent():
        with Checkpointer(folder) as checkpointer:
            def said(step, state) -> str:
                return str(checkpointer.save_async(step, state).exception(60))
            assert "'model.fn' is a builtins.function" in said(1, {"model": {"fn": lambda: 0, "w": torch.ones(2)}})
            assert "'a.b' is there twice" in said(1, {"a.b": 1, "a": {"b": 2}})
            assert "layout torch.sparse_coo" in said(1, {"s": torch.eye(3).to_sparse()})
            assert "device meta" in said(1, {"m": torch.empty(3, device="meta")})
            assert "complex32" in said(1, {"c": torch.empty(3, dtype=torch.complex32)})
            good = {"w": torch.arange(12.0).reshape(3, 4), "n": 1}
            assert checkpointer.save_async(2, good).result(60) == 2
            text = said(3, {"w": torch.zeros(3, 5), "m": 2})
            for part in ("'w' had shape [3, 4], now [3, 5]", "'n' is missing", "'m' was not there before", "prepare()"):
                assert part in text, text
            assert checkpointer.save_async(4, good | {"n": 12345}).result(60) == 4  # nothing was fatal
            assert "kDuplicate" not in said(4, good)
            checkpointer.prepare({"w": torch.zeros(3, 5)})
            assert checkpointer.save_async(5, {"w": torch.zeros(3, 5)}).result(60) == 5
            assert checkpointer.latest() == 5
            text = raises(errors.InvalidArgument, checkpointer.load, {"w": torch.zeros(3, 4), "x": torch.zeros(1), "v": 3}, step=4)
            for part in ("missing in the checkpoint: 'v', 'x'", "not wanted by the state dict: 'n'"):
                assert part in text, text
            text = raises(errors.InvalidArgument, load, {"w": torch.zeros(4, 3), "n": torch.zeros(1)}, folder, 4)
            for part in ("'w' has shape [3, 4] in the checkpoint, but [4, 3] here", "'n' is a value in the checkpoint, but a tensor here"):
                assert part in text, text
            some = {"w": torch.zeros(3, 4, dtype=torch.float64), "x": torch.full((1,), 9.0)}
            loaded = load(some, folder, 4, strict=False)
            assert loaded.missing == ["x"] and loaded.unexpected == ["n"] and some["x"] == 9
            assert torch.equal(some["w"], torch.arange(12.0, dtype=torch.float64).reshape(3, 4))
            assert "no committed step 77" in raises(errors.NotFound, load, good, folder, 77)
            assert "overtake" in raises(ValueError, Checkpointer, folder, overtake="never")
        raises(errors.NotFound, load, good, folder + "/nowhere")
    logging.getLogger("convoy.checkpoint").setLevel(logging.NOTSET)


def different_ranks(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    logging.getLogger("convoy.checkpoint").setLevel(logging.CRITICAL)
    checkpointer = Checkpointer(folder)
    # What one rank can't save no rank saves, and all say the same.
    text = str(checkpointer.save_async(1, {"w": torch.ones(2), "x": object() if rank == 1 else 1}).exception(60))
    assert "rank 1: 'x' is a builtins.object" in text, text
    # Different content: the lowest rank's; and keys that only some have.
    state = {"w": torch.full((3,), float(rank)), "v": rank, f"stage{rank}": torch.full((2,), rank)}
    assert checkpointer.save_async(2, state).result(60) == 2
    load(state, folder)
    assert state["w"].tolist() == [0, 0, 0] and state["v"] == 0 and state[f"stage{rank}"].tolist() == [rank, rank]
    dist.destroy_process_group()


def test_ranks_that_differ() -> None:
    with place() as folder, agent():
        ranks.run(2, different_ranks, 2, folder)


def test_agent_dies() -> None:
    """A save whose agent has gone fails in its future; with an agent back, saves go on."""
    logging.getLogger("convoy.checkpoint").setLevel(logging.CRITICAL)
    with place() as folder, agent() as process, Checkpointer(folder, timeout_s=10) as checkpointer:
        state = {"w": torch.arange(1000.0)}
        assert checkpointer.save_async(1, state).result(60) == 1
        process.kill()
        process.wait()
        assert isinstance(checkpointer.save_async(2, state).exception(60), errors.Unavailable)
        process = subprocess.Popen([CONVOY, "agent", "--name", os.environ["CONVOY_AGENT"]])
        deadline = time.monotonic() + 60
        while checkpointer.save_async(3, state).exception(60) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert checkpointer.latest() == 3
        process.terminate()
        process.wait(60)
    logging.getLogger("convoy.checkpoint").setLevel(logging.NOTSET)


def save_and_die(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    checkpointer = Checkpointer(folder, disk_every=100)
    for step in (1, 2, 3):  # only the first one goes to the disk
        assert checkpointer.save_async(step, {"w": torch.full((5,), float(step)), "r": PerRank(rank)}).result(60) == step
    os.kill(os.getpid(), signal.SIGKILL)


def load_from_memory(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    state = {"w": torch.zeros(5), "r": PerRank(-1)}
    loaded = Checkpointer(folder).load(state)
    assert loaded.step == 3 and "memory" in loaded.source and state["w"].tolist() == [3] * 5, loaded
    assert state["r"].value == (rank if rank < 2 else -1)  # ranks that did not save keep theirs
    state["w"].zero_()
    assert load(state, folder).step == 1 and state["w"].tolist() == [1] * 5
    dist.destroy_process_group()


def test_memory_outlives_the_ranks() -> None:
    with place() as folder, agent():
        ranks.run(2, save_and_die, 2, folder, dies={0, 1})
        ranks.run(3, load_from_memory, 3, folder)


# ---- two machines: each has an agent and a name of its own

MACHINE_RANKS = 2


def on_machine(rank: int, agents: list[str]) -> None:
    machine = rank // MACHINE_RANKS
    os.environ |= {"CONVOY_HOST_ID": f"machine-{machine}", "CONVOY_AGENT": agents[machine]}


def rows(rank: int, step: int) -> dict:
    """Of a tensor that lies on all ranks, a replica, and a value of each."""
    mesh = init_device_mesh("cpu", (2 * MACHINE_RANKS,))
    full = torch.arange(4000.0).reshape(40, 100) + 10000 * step
    return {"rows": distribute_tensor(full, mesh, [Shard(0)], src_data_rank=None), "same": torch.full((50000,), float(step)),
            "own": PerRank(rank), "step": step}


def save_on_machines(rank: int, agents: list[str], folder: str) -> None:
    on_machine(rank, agents)
    ranks.init("gloo", rank, 2 * MACHINE_RANKS)
    checkpointer = Checkpointer(folder, disk_every=100, replicas=(1, 1), domain=f"rack {rank // MACHINE_RANKS}")
    for step in (1, 2, 3):  # only the first one goes to the folder
        assert checkpointer.save_async(step, rows(rank, step), tier="replicated").result(60) == step
    checkpointer.wait(1, "local")
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def load_on_machines(rank: int, agents: list[str], folder: str, step: int, source: str) -> None:
    on_machine(rank, agents)
    ranks.init("gloo", rank, 2 * MACHINE_RANKS)
    state, expected = rows(rank, 0), rows(rank, step)
    state["own"] = PerRank(-1)
    with Checkpointer(folder, replicas=(1, 1)) as checkpointer:
        loaded = checkpointer.load(state)
        assert loaded.step == step and source in loaded.source, loaded
        assert torch.equal(state["rows"].to_local(), expected["rows"].to_local()) and torch.equal(state["same"], expected["same"])
        assert state["own"].value == rank and state["step"] == step
        # And goes on, to the folder.
        assert checkpointer.save_async(step + 1, state).result(60) == step + 1
    assert load(state, folder).step == step + 1
    dist.barrier()  # the agents of the others are asked until then
    dist.destroy_process_group()


def too_few_machines(rank: int, agents: list[str], folder: str) -> None:
    on_machine(rank, agents)
    ranks.init("gloo", rank, 2 * MACHINE_RANKS)
    said = raises(errors.InvalidArgument, Checkpointer, folder, replicas=(2, 1))
    assert "2 + 1 pieces" in said and "there are 2" in said, said
    dist.destroy_process_group()


def test_two_machines() -> None:
    """Saves of both make one step; when one machine is lost its part comes from the memory of the other."""
    os.environ["CONVOY_ADDRESS"] = "127.0.0.1"
    size = 2 * MACHINE_RANKS
    with place() as folder, agent():
        first = os.environ["CONVOY_AGENT"]
        with agent() as lost:
            agents = [first, os.environ["CONVOY_AGENT"]]
            ranks.run(size, too_few_machines, agents, folder)
            ranks.run(size, save_on_machines, agents, folder, dies=set(range(size)))
            lost.kill()
            lost.wait()
        with agent():
            ranks.run(size, load_on_machines, [first, os.environ["CONVOY_AGENT"]], folder, 3, "memory")
    del os.environ["CONVOY_ADDRESS"]


# ---- an object store: CONVOY_TEST_S3 is its address (tests/ckpt/s3_server.py)


def test_object_store() -> None:
    if "CONVOY_TEST_S3" not in os.environ:
        print("no object store: start this with tests/ckpt/s3_server.py")
        return
    uri = f"s3://convoy/python?scheme=http&endpoint_override={os.environ['CONVOY_TEST_S3']}"

    def state(step: int) -> dict:
        return {"w": torch.full((200000,), float(step)), "step": step}

    def loads(step: int, source: str, call, *args) -> None:
        got = state(0)
        loaded = call(got, *args)
        assert loaded.step == step == got["step"] and source in loaded.source, loaded
        assert torch.equal(got["w"], state(step)["w"])

    with place() as folder, agent():
        with Checkpointer(folder, keep_newest=1, compress=3, incremental=False, remote=uri, remote_keep_newest=2) as checkpointer:
            for step in (1, 2, 3):
                assert checkpointer.save_async(step, state(step), tier="remote").result(60) == step
            assert files_bytes(folder) < 200000, "zstd"
            assert len(list(pathlib.Path(folder, "commits").iterdir())) == 1
            raises(errors.NotFound, load, state(0), uri, 1)
            loads(2, "s3://", load, uri, 2)
        # Damaged here, and mended from there; then lost here.
        for file in pathlib.Path(folder).rglob("*.chunks"):
            file.write_bytes(bytes(reversed(file.read_bytes())))
        with Checkpointer(folder, remote=uri, disk_every=10, remote_every=10) as checkpointer:
            checkpointer._open_memory = None
            loads(3, folder, checkpointer.load)
            subprocess.run(["rm", "-r", folder + "/commits"], check=True)
            loads(3, "s3://", checkpointer.load)
            assert checkpointer.save_async(4, state(4)).result(60) == 4  # staged: one in ten goes on, beginning with this one
            assert checkpointer.save_async(5, state(5)).result(60) == 5
            assert isinstance(checkpointer.save_async(6, state(6), tier="remote").exception(60), errors.FailedPrecondition)
            assert checkpointer.save_async(7, state(7), everywhere=True, tier="remote").result(60) == 7
            assert checkpointer.latest() == 7
        # Without a folder.
        with Checkpointer(uri) as checkpointer:
            assert checkpointer.save_async(8, state(8)).result(60) == 8
            loads(8, "s3://", load, uri)
            assert "is a store" in raises(errors.InvalidArgument, Checkpointer, uri, remote=uri)
            assert "must be a URI" in raises(errors.InvalidArgument, Checkpointer, folder, remote="/far")


def test_damage() -> None:
    """A newest step that is damaged is passed over, and said; asked for by number it is an error."""
    logging.getLogger("convoy.checkpoint").setLevel(logging.CRITICAL)
    with place() as folder, agent():
        with Checkpointer(folder) as checkpointer:
            for step in (1, 2):
                assert checkpointer.save_async(step, {"w": torch.full((5000,), float(step))}).result(60) == step
        data = next(pathlib.Path(folder, "data").glob("s*2/*/*.chunks"))
        raw = bytearray(data.read_bytes())
        raw[100] ^= 1
        data.write_bytes(raw)
        state = {"w": torch.zeros(5000)}
        assert "does not match its checksum" in raises(errors.DataLoss, load, state, folder, 2)
        loaded = load(state, folder)
        assert loaded.step == 1 and len(loaded.passed_over) == 1 and state["w"].tolist() == [1] * 5000, loaded
    logging.getLogger("convoy.checkpoint").setLevel(logging.NOTSET)


# ---- FSDP2 and Adam, killed and resumed

WIDTH = 24


def make_training(size: int, folder: str):
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, 2 * WIDTH + 1), torch.nn.Tanh(), torch.nn.Linear(2 * WIDTH + 1, WIDTH)).double()
    mesh = init_device_mesh("cpu", (size,))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def state(step: int) -> dict:
        return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer), "step": step}
    return model, optimizer, state, Checkpointer(folder, keep_newest=10)


def train_step(model, optimizer, step: int, rank: int, size: int) -> float:
    generator = torch.Generator().manual_seed(100 + step)
    batch = torch.randn(16, WIDTH, generator=generator, dtype=torch.float64).chunk(size)[rank]
    loss = ((model(batch) - batch.roll(1, 1)) ** 2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / size


def train(rank: int, size: int, folder: str, last: int, log_file: str, die_at: int) -> None:
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict
    ranks.init("gloo", rank, size)
    model, optimizer, state, checkpointer = make_training(size, folder)
    step = 0
    if pathlib.Path(folder, "commits").exists():
        wanted = state(0)
        checkpointer.load(wanted)
        set_model_state_dict(model, wanted["model"])
        set_optimizer_state_dict(model, optimizer, wanted["optimizer"])
        step = wanted["step"]
    while step < last:
        step += 1
        loss = train_step(model, optimizer, step, rank, size)
        if rank == 0:
            with open(log_file, "a") as out:
                out.write(f"{step} {loss!r}\n")
        future = checkpointer.save_async(step, state(step))
        if step == die_at:
            if rank == 0:
                future.result(60)
            dist.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 3 == 0:
            future.result(60)
    checkpointer.close()
    dist.destroy_process_group()


def losses(log_file: str) -> dict[int, float]:
    return {int(line.split()[0]): float(line.split()[1]) for line in pathlib.Path(log_file).read_text().splitlines()}


def test_fsdp_is_killed_and_resumed() -> None:
    with place() as folder:
        whole = folder + "/whole.txt"
        with agent():
            ranks.run(4, train, 4, folder + "/whole", 9, whole, 0)
        with agent():
            ranks.run(4, train, 4, folder + "/cut", 9, folder + "/cut.txt", 5, dies={0, 1, 2, 3})
        for size in (4, 2, 8):
            copy, log_file = f"{folder}/cut{size}", f"{folder}/cut{size}.txt"
            subprocess.run(["cp", "-r", folder + "/cut", copy], check=True)
            with agent():
                ranks.run(size, train, size, copy, 9, log_file, 0)
            expected, got = losses(whole), losses(log_file)
            assert sorted(got) == [6, 7, 8, 9], got
            for step, loss in got.items():
                # With other numbers of ranks torch sums in another order; float64 keeps that below this bound.
                assert loss == expected[step] if size == 4 else abs(loss - expected[step]) < 1e-12, (size, step, loss, expected[step])


def main() -> None:
    ranks.run_tests(globals(), sys.argv[2:])


if __name__ == "__main__":
    main()
