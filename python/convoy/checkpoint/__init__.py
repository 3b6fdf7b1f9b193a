"""Checkpoints: saves that cost the training a copy in memory, loads into any mesh.

    future = convoy.checkpoint.save_async({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3},
                                          "checkpoints", step=1000)
    convoy.checkpoint.load(state, "checkpoints")     # in place, the newest step

docs/checkpoints.md ("From PyTorch") has the whole of it. DcpWriter and DcpReader are for torch.distributed.checkpoint.
"""
import os as _os
from typing import Any as _Any

from convoy.checkpoint._checkpointer import Checkpointer, SaveFuture
from convoy.checkpoint._group import place as _place
from convoy.checkpoint._load import Loaded, load
from convoy.checkpoint._state import PerRank

_checkpointers: dict[_Any, Checkpointer] = {}


def save_async(state_dict: _Any, path: str | _os.PathLike, step: int | None = None, **options: _Any) -> SaveFuture:
    """Saves `state_dict` as `step` of the folder `path` (default: one after the newest) and returns when it is copied.

    Uses a Checkpointer that is made by the first call for the folder, with `options`, and kept; collective then. See
    Checkpointer.save_async() for what the future tells.
    """
    key = (_place(path), options.get("process_group"))
    made = key not in _checkpointers
    if made:
        _checkpointers[key] = Checkpointer(path, **options)
    elif options.keys() - {"process_group"}:
        raise ValueError(f"the checkpointer of {key[0]} has been made; its options can't change: {', '.join(sorted(options))}")
    checkpointer = _checkpointers[key]
    if step is None:
        step = checkpointer._next_step()
    return checkpointer.save_async(step, state_dict)


def __getattr__(name: str) -> _Any:
    # Loads torch.distributed.checkpoint, which not everybody needs.
    if name in ("DcpReader", "DcpWriter"):
        from convoy.checkpoint import _dcp
        return getattr(_dcp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Checkpointer", "DcpReader", "DcpWriter", "Loaded", "PerRank", "SaveFuture", "load", "save_async"]
