#!/usr/bin/env python3
"""PyTorch's files to and from checkpoint folders: checkpoint_formats.py CONVOY_COMMAND [TEST …]

Method: torch and DCP write files; `convoy ckpt import` reads them, convoy.checkpoint.load gives the same bits; `convoy ckpt
export` writes files that torch.load(weights_only=True) and dcp.load read as the same again. Hostile files are made by
pickling what pickles can do; they must be refused by name, and nothing of them may run. What a fuzzer finds is for
tests/ckpt/fuzz_torch.cc.
"""
import collections
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import ranks
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from checkpoint import place
from checkpoint_dcp import equal, fsdp_state
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from convoy.checkpoint import DcpReader, DcpWriter, load

CONVOY = sys.argv[1]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
          torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2]


def convoy(*words: str, code: int = 0) -> str:
    done = subprocess.run([CONVOY, "ckpt", *map(str, words)], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def training_state() -> dict:
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    base = torch.randn(8, 5)
    return {
        "model": model.state_dict(),  # an OrderedDict with _metadata, as its users save it
        "optimizer": optimizer.state_dict(),  # numbers as keys
        "dtypes": {str(dtype): torch.randn(3, 4).to(torch.float32).mul(50).to(dtype) for dtype in DTYPES},
        "views": {"t": base.t(), "part": base[2:5, 1:3], "column": base[:, 0], "tied": base, "scalar": torch.tensor(3.5),
                  "none": torch.zeros(0, 3), "parameter": torch.nn.Parameter(base[0])},
        "values": {"i": -7, "big": 1 << 90, "negative": -(1 << 70), "f": 1e-8, "inf": float("inf"), "b": True, "n": None, "s": "ü",
                   "bytes": b"\x00\xff", "t": (1, (2.5,)), "l": [1, [None]], "size": torch.Size([2, 3]), "d": {1: "a", "b": {}}},
        "list": [torch.ones(2), {"x": torch.zeros(1), "y": 1}],
    }


def same(a, b, path="") -> None:
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        assert torch.equal(a.detach().contiguous().reshape(-1).view(torch.uint8), b.detach().contiguous().reshape(-1).view(torch.uint8)), path
    elif isinstance(a, collections.abc.Mapping):
        assert list(map(str, sorted(a, key=str))) == list(map(str, sorted(b, key=str))), (path, a.keys(), b.keys())
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)) and not isinstance(a, torch.Size):
        assert len(a) == len(b), path
        for i, item in enumerate(a):
            same(item, b[i], f"{path}.{i}")
    else:
        assert repr(a if not isinstance(a, torch.Size) else tuple(a)) == repr(b), (path, a, b)


def blank(state):
    """The same structure with other content."""
    if isinstance(state, torch.Tensor):
        return torch.zeros_like(state.detach()).contiguous()
    if isinstance(state, collections.abc.Mapping):
        return {key: blank(item) for key, item in state.items()} if state else {}
    if isinstance(state, (list, tuple)) and any(isinstance(i, (torch.Tensor, dict)) for i in state):
        return [blank(item) for item in state]
    return 0


def test_torch_files() -> None:
    with place() as folder:
        state = training_state()
        torch.save(state, folder + "/in.pt")
        said = convoy("import", folder + "/in.pt", "--format", "torch", "-o", folder + "/ck", "--step", "5")
        assert "step 5" in said, said
        convoy("verify", folder + "/ck")
        got = blank(state)
        loaded = load(got, folder + "/ck")
        assert loaded.step == 5 and not loaded.missing
        same(state, got)
        convoy("export", folder + "/ck", "--format", "torch", "-o", folder + "/out.pt")
        same(state, torch.load(folder + "/out.pt", weights_only=True))
        with zipfile.ZipFile(folder + "/out.pt") as file:
            assert file.testzip() is None
        same(state["dtypes"], torch.load(folder + "/out.pt", weights_only=True, mmap=True)["dtypes"])
        assert "there already" in convoy("export", folder + "/ck", "--format", "torch", "-o", folder + "/out.pt", code=64)
        # Some of it only; with DCP as the last stop.
        convoy("export", folder + "/ck", "--format", "dcp", "-o", folder + "/dcp", "--tensor", "model.*", "--tensor", "values.?")
        part = {"model": blank(dict(state["model"])), "values": {k: 0 for k in "ifbnstl"}}
        part["values"]["l"] = state["values"]["l"]
        del part["values"]["l"], part["values"]["t"]
        dcp.load(part, checkpoint_id=folder + "/dcp", no_dist=True)
        same(dict(state["model"]), part["model"])
        assert all(repr(part["values"][k]) == repr(state["values"][k]) for k in "ifbns")


def save_dcp(rank: int, size: int, folder: str) -> None:
    ranks.init("gloo", rank, size)
    state = fsdp_state(size, 1)
    dcp.save(state, checkpoint_id=folder + "/torch_save")
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder + "/safetensors", serialization_format=SerializationFormat.SAFETENSORS))
    dcp.save(state, storage_writer=DcpWriter(folder + "/ours"))
    dist.destroy_process_group()


def load_dcp(rank: int, size: int, folder: str) -> None:
    """Two ranks, tensor parallel: rows, columns and whole."""
    ranks.init("gloo", rank, size)
    expected = fsdp_state(size, 2)
    dcp.load(expected, checkpoint_id=folder + "/torch_save")
    mesh = init_device_mesh("cpu", (size,))
    full = {name: tensor.full_tensor() for name, tensor in expected["model"].items()}
    placements = {"0.weight": Shard(0), "0.bias": Shard(0), "2.weight": Shard(1), "2.bias": Replicate()}
    for source in ("torch_save", "safetensors"):
        model = {name: distribute_tensor(torch.zeros_like(t), mesh, [placements[name]]) for name, t in full.items()}
        load({"model": model}, f"{folder}/imported-{source}", strict=False)
        for name, tensor in model.items():
            assert torch.equal(tensor.full_tensor(), full[name]), (source, name)
        whole = fsdp_state(size, 3)
        loaded = load(whole, f"{folder}/imported-{source}", strict=False)
        equal(whole["optimizer"]["state"], expected["optimizer"]["state"])
        assert whole["extra"]["epoch"] == 1 and whole["extra"]["name"] == "run 1", (whole["extra"], loaded)
    for exported in ("dcp", "dcp-of-ours"):
        whole = fsdp_state(size, 3)
        dcp.load(whole, checkpoint_id=f"{folder}/{exported}")
        equal(whole, expected)
    whole = fsdp_state(size, 3)
    dcp.load(whole, storage_reader=DcpReader(folder + "/imported-torch_save"))
    equal(whole, expected)
    dist.destroy_process_group()


def test_dcp_folders() -> None:
    with place() as folder:
        ranks.run(4, save_dcp, 4, folder)
        for source in ("torch_save", "safetensors"):
            convoy("import", f"{folder}/{source}", "--format", "dcp", "-o", f"{folder}/imported-{source}")
        convoy("diff", f"{folder}/imported-torch_save", f"{folder}/imported-safetensors")
        convoy("export", folder + "/imported-torch_save", "--format", "dcp", "-o", folder + "/dcp")
        convoy("export", folder + "/ours", "--format", "dcp", "-o", folder + "/dcp-of-ours")
        convoy("export", folder + "/imported-torch_save", "--format", "torch", "-o", folder + "/whole.pt")
        convoy("export", folder + "/ours", "--format", "torch", "-o", folder + "/ours.pt")
        ranks.run(2, load_dcp, 2, folder)
        one, two = torch.load(folder + "/whole.pt", weights_only=True), torch.load(folder + "/ours.pt", weights_only=True)
        same(one, two)
        assert one["extra"]["list"] == [1, 2.5] and one["model"]["0.weight"].shape == (17, 12)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def torch_zip(path: str, data: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in records.items():
            file.writestr("archive/" + name.replace("__", "/"), content)


def test_hostile_pickles() -> None:
    with place() as folder:
        marker = folder + "/ran"
        path = folder + "/evil.pt"
        for evil, name in ((Evil(os.system, f"touch {marker}"), "posix.system"), (Evil(eval, f"open({marker!r}, 'w')"), "builtins.eval"),
                           (Evil(getattr, os, "system"), "builtins.getattr"), (Evil(exec, "x"), "builtins.exec")):
            try:
                data = pickle.dumps({"w": evil}, protocol=2)
            except TypeError:  # modules have no pickle; the name is what counts
                data = b"\x80\x02cbuiltins\ngetattr\n(K\x01K\x02tR."
            data = data.replace(b"c__builtin__\n", b"cbuiltins\n")
            torch_zip(path, data)
            said = convoy("import", path, "--format", "torch", "-o", folder + "/ck", code=64)
            assert name in said and "executed" in said, said
            os.makedirs(folder + "/dcp", exist_ok=True)
            pathlib.Path(folder, "dcp/.metadata").write_bytes(data)
            said = convoy("import", folder + "/dcp", "--format", "dcp", "-o", folder + "/ck", code=64)
            assert name in said, said
        assert not os.path.exists(marker) and not os.path.exists(folder + "/ck")
        # Names in one piece of several, objects of classes, opcodes that nobody needs.
        for data in (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02ctorch\nsave\n.", b"\x80\x02ctorch.nn\nModule\n.",
                     b"\x80\x02itorch\nload\n.", b"\x80\x02P1\n.", b"\x80\x02ctorch\nfloat32\n\x82\x01."):
            torch_zip(path, data)
            convoy("import", path, "--format", "torch", "-o", folder + "/ck", code=64)


def test_hostile_structures() -> None:
    with place() as folder:
        path = folder + "/evil.pt"

        def refused(data: bytes, code: int, text: str = "", **records: bytes) -> None:
            torch_zip(path, data, **records)
            said = convoy("import", path, "--format", "torch", "-o", folder + "/ck", code=code)
            assert text in said, said
        laughs: list = [1]
        for _ in range(40):
            laughs = [laughs] * 10
        refused(pickle.dumps({"a": laughs}, 2), 64, "nested too deeply, or too many")
        loop: list = []
        loop.append(loop)
        refused(pickle.dumps({"a": loop}, 2), 64, "nested too deeply")
        refused(b"\x80\x02K\x01.", 64, "no state dict")
        refused(b"\x80\x02}(K\x01K\x02u", 65)
        refused(b"\x80\x02X\xff\xff\xff\xffa.", 65)
        refused(b"\x80\x02.", 65)
        refused(b"\x80\x02h\x05.", 65)
        refused(b"\x80\x02}(X\x01\x00\x00\x00a}X\x03\x00\x00\x00a.bK\x01uX\x03\x00\x00\x00a.bK\x02", 65)
        tensor = (b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
                  b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ%stQK\x00J%s\x85J%s\x85\x89NtRs.")

        def numbers(storage: int, size: int, stride: int) -> bytes:
            return tensor % tuple(n.to_bytes(4, "little", signed=True) for n in (storage, size, stride))
        refused(numbers(4, 5, 1), 65, "larger than its storage", data__0=b"0" * 16)
        refused(numbers(4, 2, 4), 65, "larger than its storage", data__0=b"0" * 16)
        refused(numbers(4, -1, 1), 65, "can't be", data__0=b"0" * 16)
        refused(numbers(4, 2, 1), 65, "no record", data__1=b"0" * 16)
        refused(numbers(4, 4, 1), 65, "too few", data__0=b"0" * 15)
        refused(numbers(4, 2147483647, 0), 64, "above 1 GiB", data__0=b"0" * 16)
        refused(numbers(4, 2, 1), 64, "byte order", data__0=b"0" * 16, byteorder=b"big")
        torch_zip(path, numbers(4, 4, 1), data__0=b"0" * 16)
        convoy("import", path, "--format", "torch", "-o", folder + "/good")
        whole = pathlib.Path(path).read_bytes()
        for cut in range(1, len(whole), 7):
            pathlib.Path(path).write_bytes(whole[:cut])
            convoy("import", path, "--format", "torch", "-o", folder + "/ck", code=65)
        pathlib.Path(path).write_bytes(b"not a zip")
        convoy("import", path, "--format", "torch", "-o", folder + "/ck", code=65)
        convoy("import", folder + "/none", "--format", "torch", "-o", folder + "/ck", code=66)
        assert not os.path.exists(folder + "/ck")


def test_hostile_metadata() -> None:
    with place() as folder:
        state = {"w": torch.arange(12.0).reshape(3, 4), "v": 3}
        dcp.save(state, checkpoint_id=folder + "/good", no_dist=True)
        metadata = pickle.loads(pathlib.Path(folder, "good/.metadata").read_bytes())

        def refused(text: str, change, code: int = 65) -> None:
            copy = pickle.loads(pickle.dumps(metadata))
            change(copy)
            pathlib.Path(folder, "good/.metadata").write_bytes(pickle.dumps(copy))
            said = convoy("import", folder + "/good", "--format", "dcp", "-o", folder + "/ck", code=code)
            assert text in said, said
        places = {index.fqn: index for index in metadata.storage_data}

        def place_of(copy, name):
            return next(info for index, info in copy.storage_data.items() if index.fqn == name)
        refused("not in the folder", lambda m: setattr(place_of(m, "w"), "relative_path", "../../etc/passwd"))
        refused("not in the folder", lambda m: setattr(place_of(m, "v"), "relative_path", "/etc/passwd"))
        refused("is cut", lambda m: setattr(place_of(m, "w"), "offset", 1 << 40))
        refused("does not end in it", lambda m: setattr(place_of(m, "w"), "length", 1 << 40))
        refused("no file, offset and length", lambda m: setattr(place_of(m, "w"), "offset", -1))
        refused("No such file", lambda m: setattr(place_of(m, "w"), "relative_path", "none.distcp"), 66)
        refused("is not in storage_data", lambda m: m.storage_data.pop(places["w"]))
        refused("chunks of w are missing", lambda m: m.state_dict_metadata["w"].chunks.clear())
        refused("chunk outside of it", lambda m: setattr(m.state_dict_metadata["w"].chunks[0], "sizes", torch.Size([3, 5])))
        refused("another dtype or shape", lambda m: setattr(m.state_dict_metadata["w"].properties, "dtype", torch.int32))
        refused("extension of DCP", lambda m: setattr(place_of(m, "w"), "transform_descriptors", ["stream.zstd"]), 64)
        assert not pathlib.Path(folder, "ck/commits").exists()
        pathlib.Path(folder, "good/.metadata").write_bytes(pickle.dumps(metadata))
        convoy("import", folder + "/good", "--format", "dcp", "-o", folder + "/ck", "--force")
        # A value that DCP pickled and that is no plain value.
        dcp.save({"o": collections.deque([1])}, checkpoint_id=folder + "/odd", no_dist=True)
        assert "collections.deque" in convoy("import", folder + "/odd", "--format", "dcp", "-o", folder + "/ck2", code=64)


def main() -> None:
    ranks.run_tests(globals(), sys.argv[2:])


if __name__ == "__main__":
    main()
