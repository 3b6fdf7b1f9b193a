"""Records what this rank does, for `convoy trace` and the aggregator, in one line:

    import convoy
    convoy.trace.start()

From then on every collective and message of every group is recorded, whatever its backend, and, without a change to the training loop:
steps (from one optimizer step to the next), forward passes of DistributedDataParallel, backward passes, the optimizer, batches of a
DataLoader, torch.save, and pauses for garbage collection. Call it on all ranks, before the first collective. What it can't see, say:

    with convoy.trace.step():            # instead of the steps it would find
        with convoy.trace.span("forward"):
            ...

`CONVOY_TRACE` (off, collectives, spans, details) is the level to begin with; `off` makes all of this do nothing.
"""
import contextlib as _contextlib
import functools as _functools
import gc as _gc
import logging as _logging
import os as _os
import threading as _threading
from collections.abc import Callable, Iterator
from typing import Any

import torch as _torch
import torch.distributed as _dist
from torch.distributed import distributed_c10d as _c10d
from torch.optim import optimizer as _optimizer
from torch.utils.data import dataloader as _dataloader

from convoy import _C

__all__ = ["attach", "counter", "level", "records", "set_level", "span", "start", "step", "stop"]

_log = _logging.getLogger("convoy.trace")
_GARBAGE_FROM = 1  # collections of the youngest generation are too short and too many


class _Tracer:
    """What start() has begun."""

    def __init__(self) -> None:
        self.level = ""  # "": not started
        self.is_open = False
        self.every_group = True
        self.undo: list[Callable[[], Any]] = []
        self.names: dict[str, int] = {}
        self.stepper: Any = None  # the optimizer whose steps are the program's
        self.steps = 0
        self.own_steps = False  # the program says where they begin
        self.step_thread = 0
        self.step_is_open = False

    def name(self, text: str) -> int:
        number = self.names.get(text, 0)
        if number == 0:
            number = self.names[text] = _C.trace_intern(text)
        return number


_tracer = _Tracer()


def start(level: str | None = None, groups: bool = True, spans: bool = True) -> None:
    """Begins to record, once. `level`: instead of CONVOY_TRACE's; `spans`: also find the program's phases by itself.

    `groups`: those that are there are attached to, and every later one as it is made; else attach() says which. Before init_process_group() the rank is RANK's, of
    WORLD_SIZE; without those, recording begins with the first group. Raises ValueError if there is no such level.
    """
    level = level or _os.environ.get("CONVOY_TRACE") or "spans"
    if level not in ("off", "collectives", "spans", "details"):
        raise ValueError(f"the trace level is {level!r}, but must be one of off, collectives, spans, details")
    if _tracer.level or level == "off":
        return
    _tracer.level = level
    if _dist.is_initialized() or ("RANK" in _os.environ and _os.environ.get("CONVOY_STANDBY") != "1"):
        _open()
        if groups:
            attach()
    _tracer.every_group = groups
    _replace(_c10d, "_register_pg_in_world", _attach_new_group)
    _replace(_c10d.ProcessGroup, "_end_coalescing", _tell_end_of_batch)
    if spans:
        _find_spans()


def stop() -> None:
    """Ends recording and takes back what start() has put into torch; what was recorded can still be read."""
    for undo in reversed(_tracer.undo):
        undo()
    _end_step()
    if _tracer.is_open:
        _C.trace_close()
    _tracer.__init__()


def level() -> str:
    """At which this process records now; others may have switched it (`convoy trace level`)."""
    return _C.trace_level()


def set_level(level: str) -> None:
    """Records at another level from now on."""
    _C.trace_set_level(level)


def attach(group: "_dist.ProcessGroup | None" = None, name: str = "") -> None:
    """Records the operations of `group`, or of all groups that are there. Needs start(), which does this by itself.

    For groups of one's own making. All ranks of the group call it at the same place, since each numbers its operations from there.
    `name` must be the same on all of them, and of no other group.
    """
    if not _tracer.is_open:
        if not _tracer.level:
            raise RuntimeError("convoy.trace.attach() needs convoy.trace.start() before")
        return
    for each in [group] if group is not None else list(_c10d._world.pg_map):
        _C.trace_attach(each, name or _name_of(each), _ranks_of(each))


@_contextlib.contextmanager
def span(name: str, value: int = 0) -> Iterator[None]:
    """The time within, on this thread. Names with a meaning: data, forward, backward, optimizer, evaluate, checkpoint."""
    number = _tracer.name(name) if _tracer.is_open else 0
    is_recorded = _C.trace_begin(number, value)
    try:
        yield
    finally:
        if is_recorded:
            _C.trace_end(number)


@_contextlib.contextmanager
def step(number: int | None = None) -> Iterator[None]:
    """One training step; counted from 1 on unless `number` is given. Ends the search for steps by themselves."""
    _end_step()
    _tracer.own_steps = True
    _tracer.steps = _tracer.steps + 1 if number is None else number
    with span("step", _tracer.steps):
        yield


def counter(name: str, value: int) -> None:
    """A number that changes: `tokens`, say, this rank's sum of tokens that it has worked on."""
    if _tracer.is_open:
        _C.trace_counter(_tracer.name(name), value)


def records() -> list[dict]:
    """What this process has recorded and not overwritten yet, oldest first; times are time.monotonic_ns()."""
    keys = ("time_ns", "kind", "name", "group", "sequence", "extra", "value")
    return [dict(zip(keys, row)) for row in _C.trace_records()]


# --- Groups.


def _open() -> None:
    if _dist.is_initialized():
        rank, size = _dist.get_rank(), _dist.get_world_size()
    else:
        rank, size = int(_os.environ["RANK"]), int(_os.environ.get("WORLD_SIZE", "1"))
    generation = _os.environ.get("CONVOY_GENERATION") or _os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"
    _C.trace_open(rank, size, int(generation), _tracer.level)
    _tracer.is_open = True


def _name_of(group: "_dist.ProcessGroup") -> str:
    """Torch's name, which differs from group to group, after the description, which says more: "mesh_tp 3"."""
    name = str(_c10d._world.pg_names.get(group, "") or group.group_name)
    desc = group.group_desc
    return name if not desc or desc in ("undefined", name) else f"{desc} {name}"


def _ranks_of(group: "_dist.ProcessGroup") -> list[int]:
    """Of the job, in the group's order; empty: not told to Python."""
    ranks = _c10d._world.pg_group_ranks.get(group)
    return sorted(ranks, key=ranks.get) if ranks and len(ranks) == group.size() else []


def _attach_new_group(register: Callable, pg: "_dist.ProcessGroup", *args: Any, **kwargs: Any) -> Any:
    result = register(pg, *args, **kwargs)
    try:
        if not _tracer.is_open:
            _open_for(pg)
        if _tracer.every_group:
            attach(pg)
    except Exception as error:  # noqa: BLE001  whatever it is, the program's group is made
        _log.warning("group %s is not traced: %s", _name_of(pg), error)
    return result


def _open_for(first: "_dist.ProcessGroup") -> None:
    """The first group of all is the world, which is being made."""
    generation = _os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"
    _C.trace_open(first.rank(), first.size(), int(generation), _tracer.level)
    _tracer.is_open = True


def _tell_end_of_batch(end: Callable, group: "_dist.ProcessGroup", *args: Any) -> Any:
    work = end(group, *args)
    _C.trace_batch_ended(group, work)
    return work


# --- Spans that are found.


def _replace(owner: Any, name: str, wrapper: Callable) -> None:
    """owner.name(…) calls wrapper(what it was, …) until stop()."""
    original = getattr(owner, name)
    replacement = _functools.wraps(original)(lambda *args, **kwargs: wrapper(original, *args, **kwargs))
    setattr(owner, name, replacement)
    _tracer.undo.append(lambda: setattr(owner, name, original))


def _spanned(name: str) -> Callable:
    """A wrapper that records the call as a span of a step."""

    def call(original: Callable, *args: Any, **kwargs: Any) -> Any:
        _begin_step()
        number = _tracer.name(name)
        is_recorded = _C.trace_begin(number, 0)
        try:
            return original(*args, **kwargs)
        finally:
            if is_recorded:
                _C.trace_end(number)

    return call


def _find_spans() -> None:
    _replace(_dataloader._BaseDataLoaderIter, "__next__", _spanned("data"))
    _replace(_torch.nn.parallel.DistributedDataParallel, "forward", _spanned("forward"))
    _replace(_torch.autograd, "backward", _spanned("backward"))
    _replace(_torch, "save", _spanned("checkpoint"))
    for handle in (_optimizer.register_optimizer_step_pre_hook(_before_optimizer),
                   _optimizer.register_optimizer_step_post_hook(_after_optimizer)):
        _tracer.undo.append(handle.remove)
    _gc.callbacks.append(_on_garbage)
    _tracer.undo.append(lambda: _gc.callbacks.remove(_on_garbage))


def _begin_step() -> None:
    """The first thing that is found begins the first step; spans of a step are of one thread."""
    if _tracer.step_is_open or _tracer.own_steps or not _tracer.is_open:
        return
    if _threading.current_thread() is not _threading.main_thread():
        return
    _tracer.step_thread = _threading.get_ident()
    _tracer.step_is_open = _C.trace_begin(_tracer.name("step"), _tracer.steps + 1)


def _end_step() -> None:
    if _tracer.step_is_open and _threading.get_ident() == _tracer.step_thread:
        _tracer.step_is_open = False
        _tracer.steps += 1
        _C.trace_end(_tracer.name("step"))


def _before_optimizer(optimizer: Any, args: Any, kwargs: Any) -> None:
    if not _tracer.is_open:
        return
    _begin_step()
    if _tracer.stepper is None:
        _tracer.stepper = optimizer
    optimizer._convoy_is_recorded = _C.trace_begin(_tracer.name("optimizer"), 0)


def _after_optimizer(optimizer: Any, args: Any, kwargs: Any) -> None:
    if getattr(optimizer, "_convoy_is_recorded", False):
        optimizer._convoy_is_recorded = False
        _C.trace_end(_tracer.name("optimizer"))
    if _tracer.stepper is optimizer:
        _end_step()
        _begin_step()


_garbage = _threading.local()


def _on_garbage(phase: str, info: dict) -> None:
    if info["generation"] < _GARBAGE_FROM or not _tracer.is_open:
        return
    if phase == "start":
        _garbage.is_recorded = _C.trace_begin(_tracer.name("garbage collection"), info["generation"])
    elif getattr(_garbage, "is_recorded", False):
        _garbage.is_recorded = False
        _C.trace_end(_tracer.name("garbage collection"))
