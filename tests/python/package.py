#!/usr/bin/env python3
"""The package `convoy` apart from its groups: versions, errors, meshes, shared tensors.

Method: plain calls in one process; another version of torch is pretended by calling the check itself. Groups have
tests/comm/*.py and parity.py.
"""
import gc

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
