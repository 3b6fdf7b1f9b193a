#!/usr/bin/env python3
"""`convoy.trace` in a PyTorch job: trace_attach.py BACKEND

Method: forked ranks start the tracer in one line, use torch.distributed as any program does, and compare what their own segments hold
with what they called. A small model trains with DDP and a DataLoader whose loop knows nothing of the tracer. BACKEND: gloo, convoy, or,
on the stand-in for CUDA, nccl and nccl-legacy. Does not check costs.
"""
import gc
import sys
import time

import ranks
import torch
import torch.distributed as dist

import convoy

BACKEND = sys.argv[1]
ON_GPU = BACKEND.startswith("nccl")
SIZE = 4


def begin(rank: int, **options) -> torch.device:
    device = torch.device("cuda", rank) if ON_GPU else torch.device("cpu")
    if ON_GPU:
        torch.cuda.set_device(device)
    convoy.trace.start(**options)
    ranks.init(BACKEND, rank, SIZE)
    return device


def operations() -> list[str]:
    """Those of this process in the order of their calls: "group number kind bytes rank, and what came after"."""
    lines, at = [], {}
    for r in convoy.trace.records():
        key = (r["group"], r["name"], r["sequence"], r["extra"])
        if r["kind"] == "issued":
            assert key not in at, f"issued twice: {key}"
            at[key] = len(lines)
            group = r["group"].split("\x1f")[0]
            lines.append(f"{group} {r['sequence']} {r['name']} {r['value']}B" + (f" rank {r['extra'] - 1}" if r["extra"] else ""))
        elif r["kind"] == "completed":
            lines[at[key]] += " completed"
    return lines


def expect(wanted: list[str]) -> None:
    """Completions are told by other threads."""
    deadline = time.monotonic() + 20
    while (got := operations()) != wanted:
        if time.monotonic() > deadline:
            pairs = [(got[i] if i < len(got) else "-", wanted[i] if i < len(wanted) else "-") for i in range(max(len(got), len(wanted)))]
            raise AssertionError("\n".join(f"{'  ' if g == w else '! '}{g:70} {w}" for g, w in pairs))
        time.sleep(0.05)


def collectives(rank: int) -> None:
    device = begin(rank)
    x = torch.ones(6, device=device)
    dist.all_reduce(x)
    dist.all_reduce(x.bfloat16(), op=dist.ReduceOp.MAX, async_op=True).wait()
    dist.broadcast(x, src=2)
    dist.reduce(x, dst=1)
    dist.all_gather([torch.ones(6, device=device) for _ in range(SIZE)], x)
    dist.all_gather_into_tensor(torch.ones(6 * SIZE, device=device), x)
    dist.reduce_scatter_tensor(torch.ones(2, device=device), torch.ones(2 * SIZE, device=device))
    dist.all_to_all_single(torch.ones(SIZE, device=device), torch.ones(SIZE, device=device))
    splits = [1] * SIZE
    dist.all_to_all_single(torch.ones(SIZE, device=device), torch.ones(SIZE, device=device), splits, splits)
    dist.barrier()
    with torch.inference_mode():  # which hides what c10d's hooks don't tell
        dist.all_reduce(torch.ones(1, device=device))
    # A group that is made later; its names and ranks are the job's.
    half = [0, 2] if rank % 2 == 0 else [1, 3]
    group, _ = dist.new_subgroups_by_enumeration([[0, 2], [1, 3]])
    dist.broadcast(x, src=half[1], group=group)
    if ON_GPU:
        torch.cuda.synchronize()
    kinds = ["all_reduce/float32/sum 24B", "all_reduce/bfloat16/max 12B", "broadcast/float32/ 24B rank 2",
             "reduce/float32/sum 24B rank 1", "all_gather/float32/ 24B", "all_gather/float32/ 24B", "reduce_scatter/float32/sum 32B",
             "all_to_all/float32/ 16B", "all_to_all/float32//uneven 16B", "barrier// 0B", "all_reduce/float32/ 4B"]
    name = convoy.trace._name_of(group)
    expect([f"default_pg 0 {i + 1} {kind} completed" for i, kind in enumerate(kinds)] +
           [f"{name} 1 broadcast/float32/ 24B rank {half[1]} completed"])
    texts = {r["group"] for r in convoy.trace.records() if r["kind"] == "issued"}
    assert f"{name}\x1f{half[0]}+2*2" in texts, texts
    dist.barrier()


def messages(rank: int) -> None:
    device = begin(rank)
    to, back = (rank + 1) % SIZE, (rank - 1) % SIZE
    out, into = torch.ones(5, device=device), torch.ones(5, device=device)
    ops = [dist.P2POp(dist.isend, out, to), dist.P2POp(dist.irecv, into, back)]
    for _ in range(2):
        for work in dist.batch_isend_irecv(ops):
            work.wait()
    if rank % 2 == 0:
        dist.send(out, to)
        dist.recv(into, back)
    else:
        dist.recv(into, back)
        dist.send(out, to)
    if ON_GPU:
        torch.cuda.synchronize()
    send, recv = f"send/float32/ 20B rank {to} completed", f"recv/float32/ 20B rank {back} completed"
    third = [f"default_pg 0 3 {send}", f"default_pg 0 3 {recv}"]
    expect([f"default_pg 0 {i} {kind}" for i in (1, 2) for kind in (send, recv)] + (third if rank % 2 == 0 else third[::-1]))
    dist.barrier()


def from_any(rank: int) -> None:
    begin(rank)
    x = torch.ones(3)
    if rank == 0:
        seen = sorted(dist.recv(x) for _ in range(SIZE - 1))
        assert seen == [1, 2, 3], seen
        deadline = time.monotonic() + 20
        wanted = [f"default_pg 0 1 recv/float32/ 12B rank {r} completed" for r in seen]
        while sorted(operations()) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(operations()) == wanted, operations()
    else:
        dist.send(x, 0)
    dist.barrier()


def training(rank: int) -> None:
    device = begin(rank)
    # The loop of any program.
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.ones(6, 4), batch_size=2)
    for batch in loader:
        model(batch.to(device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    gc.collect()
    convoy.trace.stop()
    assert not hasattr(torch.save, "__wrapped__") and not hasattr(torch.autograd.backward, "__wrapped__")

    spans, open_spans, steps = {}, [], []
    for r in convoy.trace.records():
        if r["kind"] == "begin":
            open_spans.append(r)
        elif r["kind"] == "end":
            begun = open_spans.pop()
            assert begun["name"] == r["name"], "spans don't nest"
            path = "/".join([s["name"] for s in open_spans] + [r["name"]])
            spans[path] = spans.get(path, 0) + 1
            if r["name"] == "step":
                steps.append(begun["value"])
    assert not open_spans, open_spans
    assert steps == [1, 2, 3, 4], steps
    # The last step has the loader's end, and what came after the loop.
    for name, count in {"step/data": 4, "step/forward": 3, "step/backward": 3, "step/optimizer": 3, "step/garbage collection": 1}.items():
        assert spans.get(name, 0) >= count if "garbage" in name else spans.get(name) == count, (name, spans)
    reduced = [r for r in convoy.trace.records() if r["kind"] == "issued" and r["name"].startswith("all_reduce/float32/sum")]
    assert len(reduced) >= 3, "DDP's gradients"
    dist.barrier()


def own_spans(rank: int) -> None:
    begin(rank, spans=False)
    with convoy.trace.step(), convoy.trace.span("forward", 7):
        dist.barrier()
    convoy.trace.set_level("collectives")
    with convoy.trace.span("not there"):
        dist.barrier()
    assert convoy.trace.level() == "collectives"
    seen = [(r["kind"], r["name"], r["value"]) for r in convoy.trace.records() if r["kind"] in ("begin", "end")]
    assert seen == [("begin", "step", 1), ("begin", "forward", 7), ("end", "forward", 0), ("end", "step", 0)], seen
    assert sum(r["kind"] == "issued" for r in convoy.trace.records()) == 2
    dist.barrier()


def host_counters(rank: int) -> None:
    begin(rank)
    deadline = time.monotonic() + 20
    wanted = {"run queue ns", "processor ns", "page faults", "tracer cost ns", "tracer share ppm", "tracer level"}
    while not wanted <= {r["name"] for r in convoy.trace.records() if r["kind"] == "counter"}:
        assert time.monotonic() < deadline, {r["name"] for r in convoy.trace.records()}
        time.sleep(0.1)
    busy = [r["value"] for r in convoy.trace.records() if r["name"] == "processor ns"]
    assert 0 < busy[0] < 100e9 and busy == sorted(busy), busy


def main() -> None:
    parts = [collectives, messages, training]
    if not ON_GPU:
        parts += [from_any, own_spans, host_counters]
    for part in parts:
        ranks.run(SIZE, part)
        print(f"{BACKEND}: {part.__name__}: passed", flush=True)


if __name__ == "__main__":
    main()
