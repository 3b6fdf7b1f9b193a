"""Which rank gives what to a save. Worked out by all ranks together once, and again only if asked for."""
import logging
import zlib
from dataclasses import dataclass, field

import torch

from convoy import _C, errors
from convoy.checkpoint._group import Group
from convoy.checkpoint._layout import BYTES, Box, Layout, cut, layout_of, local_of
from convoy.checkpoint._state import PATHS, Flat, bytes_of, encode

_COMPARED_BYTES = 65536  # tensors up to this size are compared between the ranks that have them
log = logging.getLogger("convoy.checkpoint")


@dataclass
class Piece:
    """Memory to save: global box (begin, extent) of the tensor `name`."""
    name: str
    begin: tuple[int, ...]
    extent: tuple[int, ...]
    view: torch.Tensor


@dataclass
class Plan:
    layouts: dict[str, Layout]
    shares: dict[str, list[tuple[Box, tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # of values
    own: set[str] = field(default_factory=set)  # values and empty tensors that this rank gives
    paths: torch.Tensor | None = None  # PATHS of all ranks, if this rank gives them

    def pieces(self, flat: Flat) -> list[Piece]:
        """Raises ValueError naming what is no longer as it was when the plan was made."""
        layouts, locals_ = layouts_of(flat)
        if flat.problems:
            raise errors.InvalidArgument("; ".join(flat.problems))
        changed = [f"{name!r} {_change(self.layouts.get(name), layouts.get(name))}"
                   for name in sorted(self.layouts.keys() | layouts.keys()) if self.layouts.get(name) != layouts.get(name)]
        changed += [f"{name!r} was not there before" for name in sorted(flat.values.keys() - self.names)]
        changed += [f"{name!r} is missing" for name in sorted(self.names - flat.values.keys())]
        if changed:
            raise errors.InvalidArgument("the state is not what it was at the first save: " + "; ".join(changed[:8])
                                         + (f"; and {len(changed) - 8} more" if len(changed) > 8 else "")
                                         + ". If that is meant, call prepare() on all ranks.")
        out = []
        for name, shares in self.shares.items():
            out += [Piece(name, begin, extent, cut(locals_[name], box, begin, extent)) for box, begin, extent in shares]
        return out

    def encode(self, pieces: list[tuple[str, tuple]], texts: dict[str, torch.Tensor]) -> list[tuple]:
        """The state as the C++ side takes it; `pieces` with memory that may be read."""
        boxes: dict[str, list[tuple]] = {}
        for name, piece in pieces:
            boxes.setdefault(name, []).append(piece)
        out = [(name, self.layouts[name].dtype, self.layouts[name].shape, boxes.get(name, []))
               for name in self.layouts if name in boxes or name in self.own]
        given = {name: text for name, text in texts.items() if name in self.own}
        if self.paths is not None:
            given[PATHS] = self.paths
        for name, text in given.items():
            out.append((name, BYTES, (len(text),), [((0,), (len(text),), text.data_ptr(), (1,))]))
        return out


def _change(before: Layout | None, now: Layout | None) -> str:
    if before is None:
        return "was not there before"
    if now is None:
        return "is missing"
    if before.shape != now.shape:
        return f"had shape {list(before.shape)}, now {list(now.shape)}"
    return "has another dtype" if before.dtype != now.dtype else "is sharded in another way"


@torch.no_grad()
def layouts_of(flat: Flat) -> tuple[dict[str, Layout], dict[str, torch.Tensor]]:
    """Each tensor's layout, and this rank's memory of it."""
    layouts, locals_ = {}, {}
    for name, tensor in flat.tensors.items():
        try:
            locals_[name] = local_of(tensor)
            layouts[name] = layout_of(tensor, locals_[name])
        except (TypeError, ValueError) as error:
            flat.problems.append(f"{name!r} {error}")
    return layouts, locals_


def _content(local: torch.Tensor, layout: Layout) -> int | None:
    """A checksum of a small tensor that this rank has whole."""
    local = local.detach()
    if layout.boxes != (Box((0,) * local.dim(), layout.shape, (0,) * local.dim()),) or local.nbytes > _COMPARED_BYTES:
        return None
    return zlib.crc32(bytes_of(local.cpu()))


def make_plan(flat: Flat, group: Group) -> Plan:
    """Collective. Raises the same error on all ranks if one of them has a state that can't be saved."""
    layouts, locals_ = layouts_of(flat)
    texts = flat.texts()
    mine = {
        "problems": flat.problems,
        "paths": flat.paths,
        "tensors": [[name, layout.dtype, layout.shape, [[box.begin, box.extent] for box in layout.boxes],
                     _content(locals_[name], layout)] for name, layout in layouts.items()],
        "values": {name: zlib.crc32(text) for name, text in texts.items()},
    }
    ranks = group.gather(mine)
    problems = [f"rank {rank}: {text}" for rank, said in enumerate(ranks) for text in said["problems"]]
    if problems:
        raise errors.InvalidArgument("; ".join(problems))

    contents: dict[str, int] = {}
    first: dict[str, int] = {}  # the lowest rank that has the name
    different = set()
    for rank, said in enumerate(ranks):
        for name, content in [(t[0], t[4]) for t in said["tensors"]] + list(said["values"].items()):
            first.setdefault(name, rank)
            if content is not None and contents.setdefault(name, content) != content:
                different.add(name)
    if different and group.rank == 0:
        log.warning("ranks have different content of %s: that of the lowest rank is saved. convoy.checkpoint.PerRank(…) keeps one "
                    "for each rank.", ", ".join(sorted(different)[:8]) + (" and others" if len(different) > 8 else ""))

    plan = Plan(layouts, names=set(texts))
    holdings = [[(t[0], t[1], t[2], [(b, e) for b, e in t[3]]) for t in said["tensors"]
                 if t[0] not in different or first[t[0]] == rank] for rank, said in enumerate(ranks)]
    for tensor, box, begin, extent in _C.shares_of(holdings, group.rank):
        name = holdings[group.rank][tensor][0]
        plan.shares.setdefault(name, []).append((layouts[name].boxes[box], tuple(begin), tuple(extent)))
    if group.rank == 0:
        paths = encode({name: path for said in ranks for name, path in said["paths"].items()})
        plan.paths = torch.frombuffer(bytearray(paths), dtype=torch.uint8)
    plan.own = {name for name in plan.names | layouts.keys() if first[name] == group.rank}
    return plan
