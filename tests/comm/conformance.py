#!/usr/bin/env python3
"""Conformance of a c10d backend: conformance.py [--backend convoy|gloo|nccl|nccl-legacy] [--part data|reduce|messages|threads]

Method: 8 ranks are started once; subgroups of 1 … 8 of them run every operation for every dtype, over sizes 0, 1, odd and
large, with tensors in ordinary memory, in shared memory and not contiguous, blocking and asynchronous. Inputs are small
multiples of 1/4, so that every reduction is exact in every dtype, and each rank works out by itself what it must get. For
rounding, `reduce` also sums random numbers and demands the result of adding in rank order, bit by bit. Running the same
file on Gloo proves the expectations where Gloo supports the operation. On `nccl`, which is torch's nccl2, each rank has a GPU
of its own, and tensors lie at odd addresses and belong to other streams instead; without GPUs it runs on the stand-in
(tests/python/rehearse.py). What a backend does not do is in TRAITS, and for nccl it must be refused. Does not check failures
(faults.py, nccl_faults.py) nor speed.
"""
import argparse
import dataclasses
import itertools
import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
import ranks  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.distributed.distributed_c10d import _coalescing_manager  # noqa: E402

WORLD = 8
SIZES = (0, 1, 7, 1000, 70_001)
LARGE = 1 << 20
MOVED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
         torch.float64, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
         torch.uint32, torch.uint64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EIGHTS = (torch.float8_e4m3fn, torch.float8_e5m2)
COMPLEX = (torch.complex64, torch.complex128)
GLOO_DTYPES = (torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
NCCL_DTYPES = GLOO_DTYPES + (torch.bool, *EIGHTS)
Op = dist.ReduceOp


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a backend takes, and why it lacks what others have."""
    moved: tuple
    reduced: tuple
    placements: tuple  # "private", "shared" (memory), "strided", "odd" (address), "stream" (another than the default)
    lacks: dict
    device: str = "cpu"


TRAITS = {
    "convoy": Traits(MOVED, INTEGERS + FLOATS + (torch.complex64,), ("private", "shared", "strided"), {}),
    "gloo": Traits(GLOO_DTYPES, GLOO_DTYPES, ("private",), {
        "uneven": "not for all_gather and reduce_scatter",
        "strided": "moves the wrong bytes", "avg": "has none", "premul": "has none, nor bool, nor uneven shares",
        "reduce leaves": "uses the others' tensors"}),
    "nccl": Traits(NCCL_DTYPES + COMPLEX, NCCL_DTYPES + (torch.complex64,), ("private", "odd", "stream"), {
        "complex gather": "torch takes complex tensors as pairs of numbers, but forgot these",
        "complex reduce_scatter": "the same",
        "strided": "torch wants contiguous tensors",
        "bitwise": "NCCL has no bitwise operators", "tags": "torch ignores them: messages of a pair arrive in order",
        "any source": "NCCL's receives name their source", "unordered messages": "each is a kernel on one stream, so that two "
        "ranks that both send first wait for each other", "rank order": "NCCL promises no order, only equal bits on all ranks"},
        "cuda"),
}
TRAITS["nccl-legacy"] = TRAITS["nccl"]
CLASSES = {"nccl": "ProcessGroupNCCL2", "nccl-legacy": "ProcessGroupNCCL"}  # not what "nccl" was before torch 2.15


def values(rank: int, count: int, dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
    """What `rank` gives: known to everybody."""
    x = (torch.arange(count) * 7 + rank * 13 + salt * 5) % 11 - 5
    if dtype == torch.bool:
        return x > 0
    if dtype.is_complex:
        return torch.complex(x / 4, (x + 1) / 4).to(dtype)
    if dtype.is_floating_point:
        return (x / 4).to(dtype)
    return (x.abs() if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else x).to(dtype)


def raw(t: torch.Tensor) -> torch.Tensor:
    flat = torch.empty(t.numel(), dtype=t.dtype).copy_(t.flatten())
    return torch.view_as_real(flat) if t.is_complex() else flat.view(torch.uint8)


class Rank:
    """One rank's view of one subgroup, and how its tensors are placed."""

    def __init__(self, backend: str, group, rank: int, size: int):
        self.backend, self.group, self.rank, self.size = backend, group, rank, size
        self.traits = TRAITS[backend]
        self.placement, self.asynchronous, self.checked = "private", False, 0

    def can(self, what: str) -> bool:
        return what not in self.traits.lacks

    def place(self, t: torch.Tensor) -> torch.Tensor:
        if self.placement == "strided":
            wide = torch.zeros((*t.shape, 2), dtype=t.dtype)
            wide[..., 0] = t
            return wide[..., 0]
        if self.placement == "shared":
            import convoy
            return convoy.shared_memory.empty(*t.shape, dtype=t.dtype).copy_(t)
        if self.placement == "odd":
            longer = torch.empty(t.numel() + 1, dtype=t.dtype, device=self.traits.device)
            return longer[1:].view(t.shape).copy_(t)
        return t.to(self.traits.device, copy=True)

    def mine(self, count: int, dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
        return self.place(values(self.rank, count, dtype, salt))

    def blank(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return self.place(torch.zeros(count, dtype=dtype))

    def do(self, call, *args, **more) -> None:
        work = call(*args, group=self.group, async_op=self.asynchronous, **more)
        if self.asynchronous:
            work.wait()

    def equal(self, got: torch.Tensor, want: torch.Tensor, what: str) -> None:
        self.checked += 1
        got = got.cpu()
        if got.shape != want.shape or not torch.equal(raw(got), raw(want)):
            raise AssertionError(f"{what} {want.dtype} x {want.numel()}, {self.placement}, async {self.asynchronous}, rank "
                                 f"{self.rank} of {self.size}: got {got.flatten()[:8]}, want {want.flatten()[:8]}")


def everybody(r: Rank, count: int, dtype: torch.dtype, salt: int = 0) -> list[torch.Tensor]:
    return [values(p, count, dtype, salt) for p in range(r.size)]


def check_moves(r: Rank, dtype: torch.dtype, count: int) -> None:
    all_of = everybody(r, count, dtype)
    for root in {0, r.size - 1}:
        t = r.mine(count, dtype)
        r.do(dist.broadcast, t, group_src=root)
        r.equal(t, all_of[root], "broadcast")
        if not dtype.is_complex or r.can("complex gather"):
            outs = [r.blank(count, dtype) for _ in range(r.size)] if r.rank == root else None
            r.do(dist.gather, r.mine(count, dtype), outs, group_dst=root)
            for got, want in zip(outs or [], all_of):
                r.equal(got, want, "gather")
        ins = [r.place(values(p, count, dtype, 3)) for p in range(r.size)] if r.rank == root else None
        out = r.blank(count, dtype)
        r.do(dist.scatter, out, ins, group_src=root)
        r.equal(out, values(r.rank, count, dtype, 3), "scatter")
    outs = [r.blank(count, dtype) for _ in range(r.size)]
    r.do(dist.all_gather, outs, r.mine(count, dtype))
    for got, want in zip(outs, all_of):
        r.equal(got, want, "all_gather")
    out = r.blank(count * r.size, dtype)
    r.do(dist.all_gather_into_tensor, out, r.mine(count, dtype))
    r.equal(out, torch.cat(all_of), "all_gather_into_tensor")
    out = r.blank(count * r.size, dtype)
    r.do(dist.all_to_all_single, out, r.place(torch.cat([values(r.rank, count, dtype, p) for p in range(r.size)])))
    r.equal(out, torch.cat([values(p, count, dtype, r.rank) for p in range(r.size)]), "all_to_all_single")


def check_uneven_moves(r: Rank, dtype: torch.dtype, count: int) -> None:
    """Counts that differ from rank to rank, 0 among them."""
    outs = [r.blank(p * count, dtype) for p in range(r.size)]
    r.do(dist.all_gather, outs, r.mine(r.rank * count, dtype))
    for p, got in enumerate(outs):
        r.equal(got, values(p, p * count, dtype), "uneven all_gather")
    sizes = [[(a + 2 * b) % 4 * count for b in range(r.size)] for a in range(r.size)]  # from a to b
    send, recv = sizes[r.rank], [sizes[p][r.rank] for p in range(r.size)]
    want = [values(p, sizes[p][r.rank], dtype, r.rank) for p in range(r.size)]
    out = r.blank(sum(recv), dtype)
    r.do(dist.all_to_all_single, out, r.place(torch.cat([values(r.rank, n, dtype, p) for p, n in enumerate(send)])), recv, send)
    r.equal(out, torch.cat(want), "uneven all_to_all_single")
    outs = [r.blank(n, dtype) for n in recv]
    r.do(dist.all_to_all, outs, [r.place(values(r.rank, n, dtype, p)) for p, n in enumerate(send)])
    for got, part in zip(outs, want):
        r.equal(got, part, "all_to_all")
    rows = r.blank(3 * sum(recv), dtype).reshape(-1, 3)
    give = r.place(torch.cat([values(r.rank, 3 * n, dtype, p) for p, n in enumerate(send)]))
    r.do(dist.all_to_all_single, rows, give.reshape(-1, 3), recv, send)
    r.equal(rows, torch.cat([values(p, 3 * sizes[p][r.rank], dtype, r.rank) for p in range(r.size)]).reshape(-1, 3),
            "all_to_all_single of rows")


def reduced(parts: list[torch.Tensor], op) -> torch.Tensor:
    """The exact result, in the parts' dtype."""
    dtype = parts[0].dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else torch.int64
    stack = torch.stack([p.to(wide) for p in parts])
    if op == Op.SUM:
        out = stack.sum(0)
    elif op == Op.AVG:
        out = stack.sum(0) / len(parts)
    elif op == Op.PRODUCT:
        out = stack.prod(0)
    elif op == Op.MIN:
        out = stack.amin(0)
    elif op == Op.MAX:
        out = stack.amax(0)
    else:
        fold = {Op.BAND: torch.bitwise_and, Op.BOR: torch.bitwise_or, Op.BXOR: torch.bitwise_xor}
        out = stack[0]
        for part in stack[1:]:
            out = next(f for o, f in fold.items() if o == op)(out, part)
    return out.to(dtype)


DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}


def ops_for(r: Rank, dtype: torch.dtype) -> list:
    """Those whose result is exact."""
    if dtype.is_complex:
        return [Op.SUM]
    if dtype in EIGHTS:
        return [Op.MIN, Op.MAX]
    ops = [Op.SUM, Op.MIN, Op.MAX]
    if dtype in FLOATS:
        ops += [Op.AVG] if r.can("avg") and r.size in (1, 2, 4, 8) else []
        return ops + ([Op.PRODUCT] if 5 ** r.size < 1 << DIGITS[dtype] else [])
    return ops + [Op.PRODUCT] + ([Op.BAND, Op.BOR, Op.BXOR] if r.can("bitwise") and dtype != torch.bool else [])


def check_reductions(r: Rank, dtype: torch.dtype, count: int) -> None:
    parts = everybody(r, count, dtype)
    for op in ops_for(r, dtype):
        want = reduced(parts, op)
        name = str(op).rsplit(".", 1)[-1]
        t = r.mine(count, dtype)
        r.do(dist.all_reduce, t, op=op)
        r.equal(t, want, f"all_reduce {name}")
        if op not in (Op.SUM, Op.MAX):
            continue
        for root in {0, r.size - 1}:
            t = r.mine(count, dtype)
            r.do(dist.reduce, t, group_dst=root, op=op)
            if r.rank == root:
                r.equal(t, want, f"reduce {name}")
            elif r.can("reduce leaves"):
                r.equal(t, values(r.rank, count, dtype), "reduce must leave the others' tensors alone")
        if dtype.is_complex and not r.can("complex reduce_scatter"):
            continue
        whole = torch.cat([values(r.rank, count, dtype, p) for p in range(r.size)])
        mine = reduced([values(p, count, dtype, r.rank) for p in range(r.size)], op)
        out = r.blank(count, dtype)
        r.do(dist.reduce_scatter_tensor, out, r.place(whole), op=op)
        r.equal(out, mine, f"reduce_scatter_tensor {name}")
        out = r.blank(count, dtype)
        r.do(dist.reduce_scatter, out, [r.place(values(r.rank, count, dtype, p)) for p in range(r.size)], op=op)
        r.equal(out, mine, f"reduce_scatter {name}")


def check_special_reductions(r: Rank) -> None:
    """What few backends have: bool, PREMUL_SUM, uneven shares."""
    parts = everybody(r, 100, torch.bool)
    for op, want in ((Op.MAX, torch.stack(parts).any(0)), (Op.MIN, torch.stack(parts).all(0))):
        t = r.mine(100, torch.bool)
        r.do(dist.all_reduce, t, op=op)
        r.equal(t, want, "all_reduce of bool")
    for factor in (0.5, torch.tensor(0.5, device=r.traits.device)):
        t = r.mine(1001, torch.float32)
        r.do(dist.all_reduce, t, op=dist._make_nccl_premul_sum(factor))
        r.equal(t, reduced(everybody(r, 1001, torch.float32), Op.SUM) / 2, "all_reduce PREMUL_SUM")
    out = r.blank(r.rank * 5, torch.float32)
    r.do(dist.reduce_scatter, out, [r.place(values(r.rank, p * 5, torch.float32, p)) for p in range(r.size)])
    want = reduced([values(p, r.rank * 5, torch.float32, r.rank) for p in range(r.size)], Op.SUM)
    r.equal(out, want, "uneven reduce_scatter")


def check_rounding(r: Rank) -> None:
    """Random numbers: the bits of adding in rank order, or else equal bits on all ranks, not far from it."""
    for dtype, count in itertools.product(FLOATS, (5, 4099) if r.size != 3 else (70_001,)):
        noise = [torch.randn(count, generator=torch.Generator().manual_seed(p), dtype=torch.float64).to(dtype)
                 for p in range(r.size)]
        sum_in_order = noise[0].to(torch.float64 if dtype == torch.float64 else torch.float32)
        for part in noise[1:]:
            sum_in_order = sum_in_order + part.to(sum_in_order.dtype)
        t = r.place(noise[r.rank])
        r.do(dist.all_reduce, t)
        if r.can("rank order"):
            r.equal(t, sum_in_order.to(dtype), "all_reduce adds in rank order")
            continue
        slack = 4 * r.size * torch.finfo(dtype).eps
        assert torch.allclose(t.cpu().to(sum_in_order.dtype), sum_in_order, rtol=slack, atol=slack), (dtype, count)
        outs = [r.blank(count, dtype) for _ in range(r.size)]
        r.do(dist.all_gather, outs, t)
        for other in outs:
            r.equal(other, t.cpu(), "all_reduce gives all ranks the same bits")


def check_coalesced(r: Rank) -> None:
    sizes, dtype = (3, 0, 1000, 17), torch.float32
    tensors = [r.mine(n, dtype, i) for i, n in enumerate(sizes)]
    with _coalescing_manager(r.group, async_ops=r.asynchronous) as cm:
        for t in tensors:
            dist.all_reduce(t, group=r.group)
    if r.asynchronous:
        cm.wait()
    for i, (t, n) in enumerate(zip(tensors, sizes)):
        r.equal(t, reduced(everybody(r, n, dtype, i), Op.SUM), "coalesced all_reduce")
    outs = [r.blank(n * r.size, dtype) for n in sizes]
    ins = [r.mine(n, dtype, i) for i, n in enumerate(sizes)]
    with _coalescing_manager(r.group, device=torch.device("cpu") if r.backend == "convoy" else None):
        for out, t in zip(outs, ins):
            dist.all_gather_into_tensor(out, t, group=r.group)
    for i, (out, n) in enumerate(zip(outs, sizes)):
        r.equal(out, torch.cat(everybody(r, n, dtype, i)), "coalesced all_gather")
    wholes = [r.place(torch.cat([values(r.rank, n, dtype, i + p) for p in range(r.size)])) for i, n in enumerate(sizes)]
    outs = [r.blank(n, dtype) for n in sizes]
    with _coalescing_manager(r.group):
        for out, whole in zip(outs, wholes):
            dist.reduce_scatter_tensor(out, whole, group=r.group)
    for i, (out, n) in enumerate(zip(outs, sizes)):
        r.equal(out, reduced([values(p, n, dtype, i + r.rank) for p in range(r.size)], Op.SUM), "coalesced reduce_scatter")


def check_objects(r: Rank) -> None:
    got = [None] * r.size
    dist.all_gather_object(got, {"rank": r.rank, "text": "x" * r.rank}, group=r.group)
    assert got == [{"rank": p, "text": "x" * p} for p in range(r.size)]
    box = [r.rank, "from 0"] if r.rank == 0 else [None, None]
    dist.broadcast_object_list(box, group_src=0, group=r.group)
    assert box == [0, "from 0"]
    r.do(dist.barrier)


def check_futures(r: Rank) -> None:
    t = r.mine(1000, torch.float32)
    future = dist.all_reduce(t, group=r.group, async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    r.equal(future.wait(), 2 * reduced(everybody(r, 1000, torch.float32), Op.SUM), "future of all_reduce")


def post(r: Rank, sends, receives) -> list:
    """Starts both. Where a message waits for those before it, rank 0 receives first, so that the ring moves."""
    first, second = (receives, sends) if r.can("unordered messages") or r.rank == 0 else (sends, receives)
    return [start() for start in [*first, *second]]


def check_messages(r: Rank, dtype: torch.dtype, count: int) -> None:
    if r.size == 1:
        return
    to, back = (r.rank + 1) % r.size, (r.rank - 1) % r.size
    out, mine = r.blank(count, dtype), r.mine(count, dtype)
    works = post(r, [lambda: dist.isend(mine, group_dst=to, group=r.group)],
                 [lambda: dist.irecv(out, group_src=back, group=r.group)])
    for work in works:
        work.wait()
    r.equal(out, values(back, count, dtype), "isend and irecv")
    a, b = r.blank(count, dtype), r.blank(count, dtype)
    batch = [dist.P2POp(dist.irecv, a, group_peer=back, group=r.group),
             dist.P2POp(dist.isend, r.mine(count, dtype), group_peer=to, group=r.group),
             dist.P2POp(dist.isend, r.mine(count, dtype, 9), group_peer=back, group=r.group),
             dist.P2POp(dist.irecv, b, group_peer=to, group=r.group)]
    if r.size > 2:  # with two ranks both messages go between the same pair, where only order tells them apart
        for work in dist.batch_isend_irecv(batch):
            work.wait()
        r.equal(a, values(back, count, dtype), "batch_isend_irecv")
        r.equal(b, values(to, count, dtype, 9), "batch_isend_irecv")


def check_ordering(r: Rank) -> None:
    """Several tags at once, many messages of one tag, from any source, blocking in turn."""
    if r.size == 1:
        return
    to, back = (r.rank + 1) % r.size, (r.rank - 1) % r.size
    tags = (0, 1) if r.can("tags") else (0,)
    outs = [[r.blank(50, torch.int32) for _ in range(6)] for _ in tags]
    mine = [[r.mine(50, torch.int32, 10 * tag + i) for i in range(6)] for tag in tags]
    receives = [lambda tag=tag, i=i: dist.irecv(outs[tag][i], group_src=back, group=r.group, tag=tag)
                for tag in reversed(tags) for i in range(6)]
    sends = [lambda tag=tag, i=i: dist.isend(mine[tag][i], group_dst=to, group=r.group, tag=tag)
             for i in range(6) for tag in tags]
    for work in post(r, sends, receives):
        work.wait()
    for tag, i in itertools.product(tags, range(6)):
        r.equal(outs[tag][i], values(back, 50, torch.int32, 10 * tag + i), "messages of one tag arrive in order")
    if r.rank == 0:
        seen = set()
        for source in range(1, r.size):
            out = r.blank(9, torch.float32)
            if r.can("any source"):
                source = dist.get_group_rank(r.group, dist.recv(out, group=r.group, tag=5))
            else:
                dist.recv(out, group_src=source, group=r.group)
            r.equal(out, values(source, 9, torch.float32), "recv from any source")
            seen.add(source)
        assert seen == set(range(1, r.size)), seen
    else:
        dist.send(r.mine(9, torch.float32), group_dst=0, group=r.group, tag=5)


def refused(call, *args, **more) -> None:
    try:
        call(*args, **more)
    except (RuntimeError, ValueError, TypeError):
        return
    raise AssertionError(f"{call.__name__} of {args[0] if args else more} was thought to be refused: TRAITS is out of date")


def check_refusals(r: Rank) -> None:
    """What the table says that NCCL lacks is refused here, and the group goes on."""
    r.placement = "private"
    for dtype in set(MOVED) - set(r.traits.moved):
        refused(dist.broadcast, r.mine(5, dtype), group_src=0, group=r.group)
    for dtype in COMPLEX if r.size > 1 else ():  # one rank copies
        refused(dist.gather, r.mine(5, dtype), [r.blank(5, dtype) for _ in range(r.size)] if r.rank == 0 else None, group_dst=0,
                group=r.group)
        refused(dist.reduce_scatter_tensor, r.blank(1, dtype), r.mine(r.size, dtype), group=r.group)
    for op in (Op.BAND, Op.BOR, Op.BXOR):
        refused(dist.all_reduce, r.mine(5, torch.int32), op=op, group=r.group)
    refused(dist.all_reduce, r.mine(10, torch.float32)[::2], group=r.group)
    refused(dist.all_reduce, torch.ones(5), group=r.group)
    if r.size > 1:
        refused(dist.recv, r.blank(5, torch.float32), group=r.group)
    r.do(dist.barrier)


def sweep(r: Rank, dtypes: tuple) -> list:
    """Dtypes and counts: all with 8 and 3 ranks. Else every third dtype, on GPUs all of them with two counts each."""
    if r.size in (8, 3):
        return list(itertools.product(dtypes, SIZES))
    if r.traits.device == "cpu":
        return list(itertools.product(dtypes[r.size % 3::3], SIZES))
    return [(dtype, SIZES[(i + k) % len(SIZES)]) for i, dtype in enumerate(dtypes) for k in (r.size, r.size + 2)]


def part_data(r: Rank) -> None:
    for i, (dtype, count) in enumerate(sweep(r, r.traits.moved)):
        vary(r, i)
        check_moves(r, dtype, count)
    for i, dtype in enumerate((torch.float32, torch.uint8, torch.int64)):
        vary(r, i)
        if r.can("uneven"):
            check_uneven_moves(r, dtype, 11)
    for placement in r.traits.placements[:2]:
        r.placement, r.asynchronous = placement, False
        check_moves(r, torch.float32, LARGE // r.size)
    if r.traits.device == "cuda":
        check_refusals(r)


def part_reduce(r: Rank) -> None:
    for i, (dtype, count) in enumerate(sweep(r, r.traits.reduced)):
        vary(r, i)
        check_reductions(r, dtype, count)
    for i in range(3):
        vary(r, i)
        check_coalesced(r)
        check_futures(r)
        if r.can("premul"):
            check_special_reductions(r)
            check_rounding(r)
    for placement in r.traits.placements[:2]:
        r.placement, r.asynchronous = placement, False
        check_reductions(r, torch.float32, LARGE // r.size)


def part_messages(r: Rank) -> None:
    for i, (dtype, count) in enumerate(sweep(r, r.traits.moved)):
        vary(r, i)
        check_messages(r, dtype, count)
    r.placement = "private"
    check_messages(r, torch.float32, LARGE)
    check_ordering(r)
    check_objects(r)


def vary(r: Rank, i: int) -> None:
    r.placement = r.traits.placements[i % len(r.traits.placements)]
    r.asynchronous = i % 2 == 1
    if r.traits.device == "cuda":
        own = r.placement == "stream"
        torch.cuda.set_stream(torch.cuda.Stream() if own else torch.cuda.default_stream())


def thread_body(group, device: str, rank: int, size: int, index: int, errors: list) -> None:
    try:
        if device == "cuda":  # groups that share a stream must be used in one order on all ranks
            torch.cuda.set_device(rank)
            torch.cuda.set_stream(torch.cuda.Stream())
        for i in range(60):
            t = torch.full((1000 + index,), float(rank + i), device=device)
            if i % 3 == 0:
                dist.all_reduce(t, group=group)
            else:
                works = [dist.all_reduce(t, group=group, async_op=True), dist.barrier(group=group, async_op=True)]
                for work in works[:: 1 if i % 3 == 1 else -1]:
                    work.wait()
            want = sum(range(size)) + size * i
            assert torch.equal(t, torch.full_like(t, want)), (index, i, t[:3], want)
    except BaseException as e:  # noqa: BLE001  handed to the main thread
        errors.append(e)


def start(backend: str, rank: int, size: int) -> None:
    more = {}
    if TRAITS[backend].device == "cuda":
        torch.cuda.set_device(rank)
        more["device_id"] = torch.device("cuda", rank)
    ranks.init(backend, rank, size, **more)
    if backend in CLASSES:
        default = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda"))
        assert type(default).__name__ == CLASSES[backend], type(default)


def threads_main(rank: int, args) -> None:
    """Six groups over the same four ranks, each used by its own thread at the same time."""
    start(args.backend, rank, 4)
    groups = [dist.new_group(range(4)) for _ in range(6)]
    errors: list = []
    device = TRAITS[args.backend].device
    threads = [threading.Thread(target=thread_body, args=(g, device, rank, 4, i, errors)) for i, g in enumerate(groups)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    dist.barrier()
    dist.destroy_process_group()


def main_on(rank: int, args) -> None:
    start(args.backend, rank, WORLD)
    part = {"data": part_data, "reduce": part_reduce, "messages": part_messages}[args.part]
    for size in args.sizes:
        group = dist.new_group(range(size))
        if rank >= size:
            continue
        r = Rank(args.backend, group, rank, size)
        part(r)
        dist.barrier(group=group)
        if rank == 0:
            print(f"{args.part} on {args.backend}, {size} ranks: {r.checked} tensors of rank 0 are right", flush=True)
        dist.destroy_process_group(group)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="convoy", choices=tuple(TRAITS))
    parser.add_argument("--part", default="data", choices=("data", "reduce", "messages", "threads"))
    parser.add_argument("--sizes", type=lambda s: [int(n) for n in s.split(",")], help="default: 8,5,4,3,2,1; on GPUs 8 to 1")
    args = parser.parse_args()
    args.sizes = args.sizes or ([8, 7, 6, 5, 4, 3, 2, 1] if TRAITS[args.backend].device == "cuda" else [8, 5, 4, 3, 2, 1])
    if args.backend == "convoy":
        import convoy  # noqa: F401  registers the backend
    if args.part == "threads":
        ranks.run(4, threads_main, args)
    else:
        ranks.run(WORLD, main_on, args)
    print(f"ok: {args.part} on {args.backend}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main()
