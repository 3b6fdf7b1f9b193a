"""What a step changes: kept so that a step can be done again, and brought from one rank to another."""
import copy
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils import _pytree

from convoy import errors


class _Tensor(NamedTuple):
    """Stands for a tensor whose values follow."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class State:
    """The objects that training changes, by name; each has state_dict() and load_state_dict().

    A step that failed is undone cheaply: parameters and moments change in the optimizer's step() only, so it is enough to
    know whether that was reached; all else (buffers, random numbers, other objects such as schedulers) is small, and copied
    when a step begins.
    """

    def __init__(self, objects: Mapping[str, Any]):
        for name, each in objects.items():
            if not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
                raise errors.InvalidArgument(f"state {name!r} is a {type(each).__name__}, which has no state_dict() and load_state_dict()")
        self.objects = dict(objects)
        self._modules = [o for o in objects.values() if isinstance(o, torch.nn.Module)]
        self._optimizers = [o for o in objects.values() if isinstance(o, torch.optim.Optimizer)]
        self._small = [o for o in objects.values() if not isinstance(o, torch.nn.Module | torch.optim.Optimizer)]
        for module in self._modules:
            if any(isinstance(p, DTensor) for p in module.parameters()):
                raise errors.InvalidArgument("convoy.steps() brings replicas together; parameters that are DTensors (FSDP2, tensor "
                                             "parallelism) belong to process groups, which end with a rank")
        self._begun = self._updated = 0  # optimizer steps of this step
        self._usual = len(self._optimizers)  # of a whole step
        self._buffers: list[torch.Tensor] = []
        self._small_states: list[Any] = []
        self._random: Any = None

    def watch_updates(self, before: Any) -> None:
        """Notes each optimizer step; `before` is called when one is about to be made, and may raise."""
        def begin(*_: Any) -> None:
            before()
            self._begun += 1

        def end(*_: Any) -> None:
            self._updated += 1

        for optimizer in self._optimizers:
            optimizer.register_step_pre_hook(begin)
            optimizer.register_step_post_hook(end)

    def begin_step(self) -> None:
        self._begun = self._updated = 0
        with torch.no_grad():
            self._buffers = [b.detach().clone() for m in self._modules for b in m.buffers()]
        self._small_states = [copy.deepcopy(o.state_dict()) for o in self._small]
        self._random = random_state()

    def end_step(self) -> None:
        self._usual = self._updated
        self._begun = self._updated = 0
        self._random = None  # nothing is left to be undone

    def undo_step(self) -> str:
        """What a step has left that failed: "clean", nothing; "updated", all of the update; "torn", a part of it."""
        begun, updated, self._begun, self._updated = self._begun, self._updated, 0, 0
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        if begun == 0:
            self._take_back()
            return "clean"
        # Whether schedulers and the like have done their part can't be known.
        return "updated" if begun == updated == self._usual and not self._small else "torn"

    def _take_back(self) -> None:
        if self._random is None:
            return  # between two steps
        with torch.no_grad():
            for buffer, saved in zip((b for m in self._modules for b in m.buffers()), self._buffers, strict=True):
                buffer.copy_(saved)
        for each, saved in zip(self._small, self._small_states, strict=True):
            each.load_state_dict(copy.deepcopy(saved))
        set_random_state(self._random)

    def send(self, to: int) -> None:
        """Blocks until rank `to` of the default group has received everything."""
        leaves, shape = _pytree.tree_flatten({name: o.state_dict() for name, o in self.objects.items()})
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        plain = [_Tensor(x.shape, x.dtype, x.device) if isinstance(x, torch.Tensor) else x for x in leaves]
        dist.send_object_list([(plain, shape, random_state())], dst=to)
        for tensor in tensors:
            dist.send(_bytes_of(tensor.detach().to(_wire(tensor.device)).contiguous()), dst=to)

    def receive(self, source: int) -> None:
        """Takes over what rank `source` sends, in place."""
        told: list[Any] = [None]
        dist.recv_object_list(told, src=source)
        leaves, shape, numbers = told[0]
        leaves = [_receive(leaf, source) if isinstance(leaf, _Tensor) else leaf for leaf in leaves]
        states = _pytree.tree_unflatten(leaves, shape)
        if states.keys() != self.objects.keys():
            raise errors.Mismatch(f"rank {source} has the state {sorted(states)}, this one {sorted(self.objects)}")
        for name, each in self.objects.items():
            each.load_state_dict(states[name])
        set_random_state(numbers)


def random_state() -> tuple:
    """Of the generators that are not the program's own objects."""
    on_gpus = torch.cuda.is_available() and torch.cuda.is_initialized()
    return random.getstate(), torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpus else None


def set_random_state(state: tuple) -> None:
    pythons, on_cpu, on_gpu = state
    random.setstate(pythons)
    torch.set_rng_state(on_cpu)
    if on_gpu is not None:
        torch.cuda.set_rng_state(on_gpu)


def _wire(device: torch.device) -> torch.device:
    """Where a tensor must lie to be sent: NCCL alone sends no CPU tensors."""
    types = {d.type for d in dist.group.WORLD._device_types}
    return device if device.type in types else torch.device("cuda", torch.cuda.current_device())


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _receive(like: _Tensor, source: int) -> torch.Tensor:
    device = torch.device(like.device.type, torch.cuda.current_device()) if like.device.type == "cuda" else like.device
    tensor = torch.empty(like.shape, dtype=like.dtype, device=_wire(device))
    dist.recv(_bytes_of(tensor), src=source)
    return tensor.to(device)
