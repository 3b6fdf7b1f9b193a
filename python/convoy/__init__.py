"""Convoy for PyTorch: `import convoy` registers the c10d backend `convoy` for CPU tensors.

    import torch.distributed as dist
    import convoy

    dist.init_process_group("convoy")            # or "cpu:convoy,cuda:nccl"
    with convoy.shared_memory.enabled():         # optional: tensors that collectives need not copy
        x = torch.ones(1 << 20)
    dist.all_reduce(x)

DDP, FSDP2, DTensor and torch.distributed.pipelining run on it unchanged. Ranks of one machine exchange data through
shared memory, ranks of several over TCP.
"""
import datetime as _datetime

import torch as _torch
import torch.distributed as _dist

from convoy import _build

__version__ = _build.VERSION


def _check_torch(running: str, built: str) -> None:
    """Raises ImportError unless both are of the same minor version: c10d's C++ interface changes between those."""
    if running.split("+")[0].split(".")[:2] != built.split(".")[:2]:
        raise ImportError(
            f"this build of convoy is for torch {built}, but torch {running} is running. Install torch=={built}, or build "
            f"convoy again in this environment (pip install . --no-build-isolation in its source folder).")


_check_torch(_torch.__version__, _build.TORCH_VERSION)
if not _dist.is_available():
    raise ImportError("convoy needs torch.distributed, which this build of torch was made without")

from convoy import _C  # noqa: E402  (only after the check of torch's version)
from convoy import checkpoint, errors, recovery, shared_memory, trace  # noqa: E402
from convoy.mesh import Mesh  # noqa: E402
from convoy.recovery import steps  # noqa: E402

Backend = _C.Backend
Options = _C.Options


def _create(group: _dist.distributed_c10d._DistributedBackendOptions, options: "Options | None") -> Backend:
    """What init_process_group and new_group call to make one group."""
    if options is not None and not isinstance(options, Options):
        raise TypeError(f"pg_options must be convoy.Options, got {type(options).__name__}")
    options = options.copy() if options is not None else Options()
    timeout = group.timeout
    options._timeout = timeout if isinstance(timeout, _datetime.timedelta) else _datetime.timedelta(seconds=timeout)
    options.group_name = group.group_id
    options.global_ranks_in_group = group.global_ranks_in_group
    options.enable_reconfigure = group.enable_reconfigure
    return Backend(group.store, group.group_rank, group.group_size, options)


_dist.Backend.register_backend("convoy", _create, extended_api=True, devices=["cpu"])

__all__ = ["Backend", "Mesh", "Options", "checkpoint", "errors", "recovery", "shared_memory", "steps", "trace",
           "__version__"]
