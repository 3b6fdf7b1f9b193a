"""CPU tensors in memory that the ranks of a machine share, so that collectives need not copy them.

The memory is one anonymous file of the process, taken page by page when it is touched: it needs no room in /dev/shm, and
nothing is left behind. Tensors may outlive their group. When it is exhausted, tensors fall back to ordinary memory.
"""
import contextlib
from collections.abc import Iterator

import torch

from convoy import _C


def enable() -> None:
    """Puts every CPU tensor that this process allocates from now on into shared memory. Calls nest."""
    _C.enable_shared_tensors()


def disable() -> None:
    """Undoes one enable(). Tensors that exist stay where they are."""
    _C.disable_shared_tensors()


def is_enabled() -> bool:
    """Whether new CPU tensors are shared now."""
    return _C.shared_tensors_enabled()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """enable() for a `with` block. It holds for all threads of the process."""
    enable()
    try:
        yield
    finally:
        disable()


def empty(*size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An uninitialised shared tensor, whether or not sharing is enabled."""
    if len(size) == 1 and not isinstance(size[0], int):
        size = tuple(size[0])
    return _C.empty_shared(list(size), dtype or torch.get_default_dtype())


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether the tensor's values lie in this process's shared memory."""
    return _C.is_shared(tensor)
