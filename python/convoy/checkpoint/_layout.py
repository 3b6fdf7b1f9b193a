"""Where a rank's elements of a global tensor lie: boxes of plain tensors and DTensors."""
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

# The numbers of convoy/ckpt/records.h.
DTYPES = {
    torch.float32: 1, torch.float64: 2, torch.float16: 3, torch.bfloat16: 4, torch.int8: 5, torch.int16: 6, torch.int32: 7,
    torch.int64: 8, torch.uint8: 9, torch.uint16: 10, torch.uint32: 11, torch.uint64: 12, torch.bool: 13,
    torch.complex64: 14, torch.complex128: 15, torch.float8_e4m3fn: 16, torch.float8_e5m2: 17,
}
BYTES = 18


class Box(NamedTuple):
    """A box of the global tensor, and where it begins in this rank's own."""
    begin: tuple[int, ...]
    extent: tuple[int, ...]
    local: tuple[int, ...]


class Layout(NamedTuple):
    """What a rank has of a tensor; equal for two tensors that can take each other's place in a save."""
    dtype: int
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]


Run = tuple[int, int]  # begin, length


def _chunk(runs: list[Run], count: int, index: int) -> list[Run]:
    """Chunk `index` of `count` as torch.chunk() cuts the concatenation of `runs`; later ones may be empty."""
    size = sum(length for _, length in runs)
    chunk = -(-size // count)
    begin, end = min(chunk * index, size), min(chunk * (index + 1), size)
    out, at = [], 0
    for start, length in runs:
        first, last = max(begin, at), min(end, at + length)
        if last > first:
            out.append((start + first - at, last - first))
        at += length
    return out


def _merge(runs: list[Run]) -> list[Run]:
    out: list[Run] = []
    for begin, length in runs:
        if out and out[-1][0] + out[-1][1] == begin:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((begin, length))
    return out


@functools.lru_cache(maxsize=65536)
def shard_boxes(shape: tuple[int, ...], mesh_shape: tuple[int, ...], coordinate: tuple[int, ...], placements: tuple) -> tuple[Box, ...]:
    """The boxes of the shard at `coordinate`. Placements apply from the left, each cutting what the earlier ones left."""
    runs: list[list[Run]] = [[(0, size)] if size else [] for size in shape]
    for size, index, placement in zip(mesh_shape, coordinate, placements, strict=True):
        if isinstance(placement, _StridedShard):
            pieces = (_chunk(runs[placement.dim], placement.split_factor, i) for i in range(placement.split_factor))
            runs[placement.dim] = [run for piece in pieces for run in _chunk(piece, size, index)]
        elif isinstance(placement, Shard):
            runs[placement.dim] = _chunk(runs[placement.dim], size, index)
        elif not isinstance(placement, Replicate):
            raise TypeError(f"is a DTensor with placement {placement}, which is not its value: reduce it first "
                            "(redistribute to Replicate or Shard)")
    by_dim = []
    for dim in runs:
        dim, at, local = _merge(dim), 0, []
        for begin, length in dim:
            local.append((begin, length, at))
            at += length
        by_dim.append(local)
    return tuple(Box(tuple(r[0] for r in runs), tuple(r[1] for r in runs), tuple(r[2] for r in runs))
                 for runs in itertools.product(*by_dim))


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's own memory of the tensor. Under torch.no_grad(), else autograd comes in between."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def layout_of(tensor: torch.Tensor, local: torch.Tensor) -> Layout:
    """Raises TypeError or ValueError, whose text goes on behind the tensor's name."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise TypeError(f"has dtype {tensor.dtype}, which checkpoints don't hold")
    shape = tuple(tensor.shape)
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        coordinate = mesh.get_coordinate()
        boxes = () if coordinate is None else shard_boxes(shape, tuple(mesh.shape), tuple(coordinate), tuple(tensor.placements))
        if coordinate is not None:
            _check_local(boxes, local, tensor)
    elif type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        boxes = (Box((0,) * len(shape), shape, (0,) * len(shape)),) if tensor.numel() else ()
    else:
        raise TypeError(f"is a {type(tensor).__module__}.{type(tensor).__qualname__}; checkpoints hold plain tensors and DTensors")
    if local.layout != torch.strided or local.is_quantized:
        raise TypeError(f"has layout {local.layout}; checkpoints hold dense tensors")
    if local.device.type not in ("cpu", "cuda"):
        raise TypeError(f"is on device {local.device}; checkpoints hold tensors of CPUs and GPUs")
    if local.is_conj() or local.is_neg():
        raise TypeError("is a lazy conjugate or negative: call .resolve_conj() or .resolve_neg()")
    return Layout(dtype, shape, boxes)


def _check_local(boxes: tuple[Box, ...], local: torch.Tensor, tensor: DTensor) -> None:
    elements = sum(torch.Size(box.extent).numel() for box in boxes)
    fits = all(b + e <= n for box in boxes for b, e, n in zip(box.local, box.extent, local.shape, strict=True))
    if elements != local.numel() or not fits:
        raise ValueError(f"has a local shard of shape {tuple(local.shape)}, but its placements {tensor.placements} of shape "
                         f"{tuple(tensor.shape)} on a mesh {tuple(tensor.device_mesh.shape)} make another one")


def cut(local: torch.Tensor, box: Box, begin: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
    """A view of global box (begin, extent), which lies in `box`, in this rank's memory."""
    view = local.detach()
    for dim, (at, size, start, offset) in enumerate(zip(begin, extent, box.begin, box.local, strict=True)):
        view = view.narrow(dim, offset + at - start, size)
    return view


def piece(view: torch.Tensor, begin: Sequence[int], extent: Sequence[int]) -> tuple:
    """As the C++ side takes it."""
    return tuple(begin), tuple(extent), view.data_ptr(), view.stride()


def pieces(local: torch.Tensor, boxes: Iterable[Box]) -> list[tuple]:
    return [piece(cut(local, box, box.begin, box.extent), box.begin, box.extent) for box in boxes]
