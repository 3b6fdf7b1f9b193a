"""State dicts filled in place from a committed step."""
import functools
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from convoy import _C, errors
from convoy.checkpoint._group import Group, place
from convoy.checkpoint._layout import BYTES, pieces
from convoy.checkpoint._plan import layouts_of
from convoy.checkpoint._state import PATHS, Flat, bytes_of, decode, flatten

log = logging.getLogger("convoy.checkpoint")
_THREADS = 4
_STAGING_BYTES = 64 << 20
_NAMED = 16  # names in a message


@dataclass
class Loaded:
    """What a load has done."""
    step: int
    source: str  # "step 120 in /mnt/checkpoints"
    missing: list[str] = field(default_factory=list)  # wanted by this rank, not in the step (strict=False)
    unexpected: list[str] = field(default_factory=list)  # in the step, wanted by no rank (strict=False)
    notes: dict[str, str] = field(default_factory=dict)
    bytes_read: int = 0  # by this rank
    passed_over: list[str] = field(default_factory=list)  # newer steps that are damaged, and why


@dataclass
class _Source:
    """A step that may be loaded. All ranks open it together."""
    name: str
    open: Callable[[], Any]
    open_twin: Callable[[], Any] | None = None  # the same step in the store, for what is damaged here


def load_into(state: Any, places: list[str], step: int | None, strict: bool, group: Group,
              open_memory: Callable[[], Any] | None = None) -> Loaded:
    """`places`: a folder or a store, or a folder and the store that takes what it has. `open_memory`: what agents have."""
    flat = flatten(state, group.rank)
    passed_over: list[str] = []
    for source in _candidates(places, step, group, open_memory):
        try:
            loaded = _load_or_mend(source, flat, strict, group)
        except errors.DataLoss as error:
            if step is not None:
                raise
            log.warning("%s is passed over: %s", source.name, error)
            passed_over.append(f"{source.name}: {error}")
            continue
        loaded.passed_over = passed_over
        for finish in flat.after:
            finish()
        return loaded
    raise errors.DataLoss(f"no step in {' or '.join(places)} can be loaded: " + "; ".join(passed_over))


def _load_or_mend(source: _Source, flat: Flat, strict: bool, group: Group) -> Loaded:
    try:
        return _load_step(source.open(), flat, strict, group)
    except errors.DataLoss:
        if source.open_twin is None:
            raise
        try:
            twin = source.open_twin()
        except errors.ConvoyError:
            twin = None  # on all ranks
        if twin is None:
            raise
    return _load_step(source.open(), flat, strict, group, twin)


def _candidates(places: list[str], step: int | None, group: Group, open_memory: Callable[[], Any] | None) -> list[_Source]:
    """What to try, best first, the same on all ranks. Collective."""
    memory = _in_memory(open_memory, group)
    mine: dict[str, Any] = {}
    if group.rank == 0:
        try:
            mine["steps"] = [found[:3] for found in _steps_in_all(places) if step in (None, found[1])]
        except errors.ConvoyError as error:
            mine["error"] = [errors.kind_of(error), str(error)]
    first = group.gather(mine)[0]
    if "error" in first:
        raise errors.of_kind(*first["error"])
    steps = first["steps"]
    out: list[_Source] = []
    if memory is not None and (memory.step == step if step is not None else not steps or memory.step >= steps[0][1]):
        out.append(_Source(memory.name, lambda: memory))
    for index, number, claim in steps:
        twin = next((functools.partial(_open, places[1], n, c, group) for i, n, c in steps if n == number and i > index), None)
        out.append(_Source(f"step {number} in {places[index]}", functools.partial(_open, places[index], number, claim, group), twin))
    if not out:
        raise errors.NotFound(f"{' or '.join(places)} has no committed step" + (f" {step}" if step is not None else ""))
    return out


def _steps_in_all(places: list[str]) -> list[list[int]]:
    """[place, step, claim, generation] of what is committed or damaged, newest first."""
    def found(index: int) -> list[list[int]]:
        return [[index, number, claim, generation] for number, claim, generation, problem in _C.steps_in(places[index])
                if not problem or problem.startswith("data loss")]
    near = found(0)
    if len(places) == 1:
        return near
    try:
        far = found(1)
    except errors.ConvoyError as error:
        # To begin anew because a store does not answer would be worse than to fail.
        if not near:
            raise
        log.warning("the steps in %s are not looked at: %s", places[1], error)
        return near
    out = []
    while near or far:  # claims of two places can't be compared, generations and steps can
        is_far = not near or (far and (far[0][3], far[0][1]) > (near[0][3], near[0][1]))
        out.append((far if is_far else near).pop(0))
    return out


def _in_memory(open_memory: Callable[[], Any] | None, group: Group):
    """The step that the agents have whole in memory, if that is the same one for all ranks."""
    reader = None
    if open_memory is not None:
        try:
            reader = open_memory()
        except errors.ConvoyError as error:
            log.info("nothing is loaded from memory: %s", error)
    found = group.gather(reader.step if reader is not None else -1)
    return reader if len(set(found)) == 1 else None


def _open(folder: str, step: int, claim: int, group: Group):
    mine, reader = None, None
    try:
        reader = _C.open_step(folder, step, claim)
    except errors.ConvoyError as error:
        mine = [errors.kind_of(error), str(error)]
    raise_together(mine, group)
    return reader


def raise_together(mine: list[str] | None, group: Group) -> None:
    """If any rank has a failure (kind, text), all ranks raise it."""
    for rank, failure in enumerate(group.gather(mine)):
        if failure is not None:
            raise errors.of_kind(failure[0], (f"rank {rank}: " if group.size > 1 else "") + failure[1])


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


class _Wanted:
    """A rank's state dict against what a step has."""

    def __init__(self, flat: Flat, stored: dict[str, tuple[int, tuple[int, ...]]]):
        self.flat = flat
        self.stored = stored
        self.layouts, self.locals = layouts_of(flat)
        self.problems = list(flat.problems)
        own = {f"{name}@{flat.rank}" for name in flat.per_rank}
        names = flat.tensors.keys() | flat.values.keys()
        self.missing = sorted(names - stored.keys() - own)
        self.new_ranks = sorted((names & own) - stored.keys())
        for name in sorted(names & stored.keys()):
            dtype, shape = stored[name]
            if name in flat.values and dtype != BYTES:
                self.problems.append(f"{name!r} is a tensor in the checkpoint, but a value here")
            elif name in flat.values:
                continue
            elif name not in self.layouts:
                continue  # a problem already
            elif dtype == BYTES and self.layouts[name].dtype != 9:
                self.problems.append(f"{name!r} is a value in the checkpoint, but a tensor here")
            elif shape != self.layouts[name].shape:
                self.problems.append(f"{name!r} has shape {list(shape)} in the checkpoint, but {list(self.layouts[name].shape)} here")

    def unexpected(self, wanted: set[str], per_rank: set[str]) -> list[str]:
        """What the step has and no rank wants; of PerRank() values those of ranks that are no more don't count."""
        def is_other_ranks(name: str) -> bool:
            match = re.fullmatch(r"(.*)@\d+", name, re.S)
            return match is not None and match[1] in per_rank
        return sorted(name for name in self.stored
                      if name not in wanted and not is_other_ranks(name) and name != PATHS)

    def encode(self) -> tuple[list[tuple], dict[str, torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
        """Destinations as the C++ side takes them, memory for the values, and copies to make afterwards."""
        out, texts, copies = [], {}, []
        for name, layout in self.layouts.items():
            if name not in self.stored or not layout.boxes:
                continue
            local = self.locals[name].detach()
            host = local
            if local.device.type != "cpu":
                host = torch.empty(local.shape, dtype=local.dtype)
                copies.append((local, host))
            dtype = self.stored[name][0] if self.stored[name][0] == BYTES else layout.dtype
            out.append((name, dtype, layout.shape, pieces(host, layout.boxes)))
        for name in self.flat.values:
            if name not in self.stored:
                continue
            size = self.stored[name][1][0]
            texts[name] = torch.empty(size, dtype=torch.uint8)
            if size:
                out.append((name, BYTES, (size,), [((0,), (size,), texts[name].data_ptr(), (1,))]))
        return out, texts, copies


def _load_step(reader: Any, flat: Flat, strict: bool, group: Group, twin: Any = None) -> Loaded:
    stored = {name: (dtype, tuple(shape)) for name, dtype, shape in reader.tensors()}
    wanted = _Wanted(flat, stored)
    ranks = group.gather({"names": sorted(flat.tensors.keys() | flat.values.keys()), "per_rank": sorted(flat.per_rank),
                          "missing": wanted.missing, "problems": wanted.problems})
    unexpected = wanted.unexpected({n for said in ranks for n in said["names"]}, {n for said in ranks for n in said["per_rank"]})
    problems = [f"rank {rank}: {text}" if group.size > 1 else text for rank, said in enumerate(ranks) for text in said["problems"]]
    missing = sorted({name for said in ranks for name in said["missing"]})
    if strict and missing:
        problems.append(f"missing in the checkpoint: {_names(missing)}")
    if strict and unexpected:
        problems.append(f"not wanted by the state dict: {_names(unexpected)} (strict=False leaves them out)")
    if problems:
        raise errors.InvalidArgument(f"{reader.name} does not fit: " + "; ".join(problems))
    if wanted.new_ranks:
        log.warning("%s has nothing of this rank's own for %s, which stay as they are", reader.name, _names(wanted.new_ranks))

    destinations, texts, copies = wanted.encode()
    report = reader.load(destinations, group.process_group, _THREADS, _STAGING_BYTES, twin)
    for local, host in copies:
        local.copy_(host)
    raise_together(_put(flat, texts), group)
    return Loaded(reader.step, reader.name, wanted.missing, unexpected, dict(reader.notes), report["bytes_read"])


def _put(flat: Flat, texts: dict[str, torch.Tensor]) -> list[str] | None:
    for name, text in texts.items():
        try:
            value = decode(bytes_of(text))
        except (ValueError, TypeError, RecursionError) as error:
            return ["data loss", f"{name!r} is no value that this program has written: {error}"]
        if name in flat.put:
            flat.put[name](value)
        elif value != flat.values[name]:
            return ["invalid argument", f"{name!r} lies in a tuple, which can't be changed; use a list"]
    return None


def load(state_dict: Any, path: str | os.PathLike, step: int | None = None, *, strict: bool = True,
         process_group: "torch.distributed.ProcessGroup | None" = None) -> Loaded:
    """Fills `state_dict` in place from a committed step of `path`, a folder or the URI of a store; by default from the newest one.

    By names and boxes alone: any mesh, placements and number of ranks can load what any other has saved. Float dtypes are
    converted where they differ. Tensors are written in place; other values take the place of those in the dict. Objects
    in it that have state_dict() and load_state_dict() (modules, optimizers) are loaded through these.

    All ranks of `process_group` (default: all) call it together and read each byte once among them. Every byte is checked; a
    newest step that is damaged is passed over, with a warning, for the one before.

    strict: raises InvalidArgument, with all names, if the step lacks something or holds more than all ranks want. Otherwise
    these are in the result, and what is missing stays as it was. Raises NotFound if there is no step, DataLoss if none can be
    loaded, InvalidArgument for shapes that differ; the same on all ranks.
    """
    return load_into(state_dict, [place(path)], step, strict, Group(process_group))
