#!/usr/bin/env python3
"""The package `convoy` apart from its groups: versions, errors, meshes, shared tensors.

Method: plain calls in one process; for another version of torch, a process with a copy of the package torch (by links)
whose version.py tells that version. Groups have tests/comm/*.py and parity.py.
"""
import gc
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import convoy
import torch
from convoy import errors, shared_memory


def raises(kind, call, *args) -> str:
    try:
        call(*args)
    except kind as e:
        return str(e)
    raise AssertionError(f"{call} should have raised {kind.__name__}")


def test_versions() -> None:
    assert convoy.__version__.count(".") == 2
    convoy._check_torch("2.15.1+cu130", "2.15.0")
    text = raises(ImportError, convoy._check_torch, "2.14.0", "2.15.0")
    assert "2.14.0" in text and "2.15.0" in text and "pip install" in text
    assert torch.distributed.Backend("convoy") == "convoy"
    assert "convoy" in torch.distributed.Backend.backend_list


def test_another_torch_is_refused() -> None:
    real = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        shim = pathlib.Path(folder, "torch")
        shim.mkdir()
        for entry in real.iterdir():
            if entry.name not in ("version.py", "__pycache__"):
                (shim / entry.name).symlink_to(entry)
        (shim / "version.py").write_text((real / "version.py").read_text().replace("2.15.", "2.14."))
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run([sys.executable, "-c", "import convoy"], env=dict(os.environ, PYTHONPATH=path),
                              capture_output=True, text=True, timeout=100)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: this build of convoy is for torch 2.15."), done.stderr
    assert "torch 2.14.0" in last and "Install torch==2.15." in last, last


def test_errors() -> None:
    e = RuntimeError("deadline exceeded: rank 3 has not joined")
    assert errors.kind(e) == "deadline exceeded" and isinstance(errors.typed(e), TimeoutError)
    assert errors.kind(ValueError("shape: bad")) == "" and type(errors.typed(ValueError("x"))) is errors.ConvoyError


def test_mesh() -> None:
    mesh = convoy.Mesh("tp=2,dp=2,pp=2", 8)
    assert mesh.size() == 8 and mesh.size("tp") == 2 and mesh.size("cp") == 1
    assert mesh.dims[0] == ("tp", 2) and mesh.group_of(5, ["tp"]) == [4, 5] and mesh.coordinate(5, "tp") == 1
    assert len(mesh.groups(["tp", "dp"])) == 2 and mesh == convoy.Mesh(str(mesh), 8)
    assert "8" in raises(ValueError, convoy.Mesh, "tp=3", 8)
    assert "not in a mesh" in raises(ValueError, mesh.group_of, 8, ["tp"])


def test_shared_tensors() -> None:
    x = shared_memory.empty(3, 1000, dtype=torch.float64)
    assert x.shape == (3, 1000) and x.is_contiguous() and shared_memory.is_shared(x)
    y = x.fill_(2).clone()
    assert not shared_memory.is_shared(y) and torch.equal(x, y)
    with shared_memory.enabled(), shared_memory.enabled():
        tensors = [torch.randn(n) for n in (0, 1, 1000, 1 << 20)]
        assert shared_memory.is_shared(tensors[3]) and shared_memory.is_shared(tensors[3] * 2)
        tensors[2].resize_(5000)
    assert not shared_memory.is_enabled()
    total = float(sum(t.sum() for t in tensors[:2]))
    del tensors, x
    gc.collect()
    assert total == total  # tensors of the shared heap were read after it was switched off, and freed


def main() -> None:
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"{name}: ok", flush=True)


if __name__ == "__main__":
    main()
