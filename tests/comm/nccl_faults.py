#!/usr/bin/env python3
"""How NCCL groups fail, and what the stand-in says of it: nccl_faults.py [CASE …], under rehearse.py --expect-findings

Method: each case starts 2 to 4 ranks on torch's nccl2 backend, each with a simulated GPU of its own, and causes one fault: a rank
that stays away, is killed, aborts from another thread, forgets a child of the group, or calls something else than the others.
It demands that the fault fired (the collective hangs; nothing is done before it is ended), that the ranks get out of it as NCCL
and torch promise, with right results afterwards, and that the stand-in's report names ranks and operations. Times are
compared only with limits far from what they should be. Does not check the stand-in's own NCCL calls (tests/standin) nor
Convoy's groups on NCCL (nccl_groups_test.cc).
"""
import os
import pathlib
import signal
import sys
import threading
import time
from datetime import timedelta

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
import ranks  # noqa: E402
import rehearse  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.distributed import distributed_c10d as c10d  # noqa: E402

PATIENCE_S = 60


def start(rank: int, size: int, **more) -> None:
    torch.cuda.set_device(rank)
    ranks.init("nccl", rank, size, **{"device_id": torch.device("cuda", rank), **more})


def until(condition, what: str):
    """Waits for a true value, and returns it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}; found so far: {found()}")


def found(kind: str = "") -> list[str]:
    """What this process's report says of the kind."""
    reports = pathlib.Path(os.environ["CONVOY_STANDIN_REPORT"]).glob(f"{os.getpid()}.json")
    return [text for path in reports for k, text in rehearse.findings(path) if kind in ("", k)]


def finding(kind: str, *words: str) -> str:
    """Waits until this process's report has a finding of the kind with all the words."""
    return until(lambda: next((t for t in found(kind) if all(w in t for w in words)), None), f"a {kind} with {words}")


def failure(call, *args, **more) -> str:
    try:
        work = call(*args, **more)
        if work is not None:
            work.wait()
        torch.cuda.synchronize()
    except (RuntimeError, ValueError) as e:
        return str(e).splitlines()[0]
    raise AssertionError(f"{call.__name__} should have failed")


def ones(count: int = 1000, **more) -> torch.Tensor:
    return torch.ones(count, device="cuda", **more)


def hangs(work) -> None:
    """The fault fired: the work is under way, and isn't done."""
    time.sleep(0.5)
    assert not torch.cuda.current_stream().query() or not work.is_completed(), "nothing hangs"
    assert not work.is_completed()


def works(group, size: int) -> None:
    """The group gives right results."""
    for count in (7, 100_000):
        t = torch.full((count,), float(group.rank()), device="cuda")
        group.allreduce([t]).wait()
        assert torch.all(t.cpu() == float(sum(range(size)))), t[:4]


def meet(rank: int, others, what: str) -> None:
    """The ranks wait for each other, without NCCL."""
    store = c10d._get_default_store()
    store.set(f"{what}/{rank}", "1")
    store.wait([f"{what}/{other}" for other in others], timedelta(seconds=PATIENCE_S))


def backend_of(group=None):
    return (group or c10d._get_default_group())._get_backend(torch.device("cuda"))


def abort(rank: int) -> None:
    """abort() from another thread ends a collective that hangs, and the waiting for it."""
    start(rank, 3)
    works(c10d._get_default_group(), 3)
    if rank < 2:
        work = dist.all_reduce(ones(), async_op=True)
        hangs(work)
        begin = time.monotonic()
        threading.Timer(1, backend_of().abort).start()
        torch.cuda.synchronize()  # blocks until then
        assert time.monotonic() - begin > 0.9, "the collective did not hang"
        text = finding("collective never met", "AllReduce of 1000 float32 (sum)", "for rank 2")
        until(work.is_completed, "the aborted work's end")
        again = failure(dist.all_reduce, ones())
        if rank == 0:
            print(f"  {text}\n  {again}")
    meet(rank, range(3), "end")


def stay_away(rank: int, blocking: bool) -> None:
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "2"  # clean up only; the default ends the process
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1" if blocking else "0"
    start(rank, 3)
    quick = dist.new_group([0, 1, 2], timeout=timedelta(seconds=2))
    works(quick, 3)
    if rank < 2:
        begin = time.monotonic()
        work = dist.all_reduce(ones(), group=quick, async_op=True)
        if not blocking:
            torch.cuda.synchronize()
            until(work.is_completed, "the watchdog's notice")  # nothing raises by itself
        error = failure(work.wait)
        assert time.monotonic() - begin > 1, "it did not wait for rank 2"
        assert "timed out" in error or "failed" in error, error
        text = finding("collective never met", "AllReduce of 1000 float32 (sum)", "for rank 2 (idle")
        again = failure(dist.all_reduce, ones(), group=quick)
        if rank == 0:
            print(f"  {error}\n  {text}\n  {again}")
    meet(rank, range(3), "failed")
    works(c10d._get_default_group(), 3)  # the process lives, and its other groups too


def time_out_of_wait(rank: int) -> None:
    """TORCH_NCCL_BLOCKING_WAIT=1: wait() raises when the group's timeout is over; the process lives."""
    stay_away(rank, blocking=True)


def time_out_of_watchdog(rank: int) -> None:
    """Without it the watchdog aborts the group at its timeout, and what was queued behind runs on; the process lives."""
    stay_away(rank, blocking=False)


def kill(rank: int) -> None:
    """Rank 1 is killed inside of a collective; the others abort, and go on without it in the same processes."""
    start(rank, 4, enable_reconfigure=True)
    reconfigured(4, rank, uuid=1)
    doomed = None
    if rank != 2:
        doomed = dist.all_reduce(ones(), async_op=True)
        hangs(doomed)
    dies(rank, 1, range(4))
    if rank == 2:  # comes when rank 1 has died inside
        doomed = dist.all_reduce(ones(), async_op=True)
    time.sleep(1)
    assert not doomed.is_completed(), "a dead rank is not noticed by others of its machine"
    backend_of().abort()
    torch.cuda.synchronize()
    text = finding("collective never met", "AllReduce of 1000 float32 (sum)", "for rank 1 (its process")
    if rank == 0:
        print(f"  {text}")
    mine = {0: 0, 2: 1, 3: 2}[rank]
    reconfigured(3, mine, uuid=2)
    meet(rank, (0, 2, 3), "end")


def dies(rank: int, victim: int, all_ranks) -> None:
    """Returns on the others when the victim is dead."""
    c10d._get_default_store().set(f"process/{rank}", str(os.getpid()))
    meet(rank, all_ranks, "before the death")
    if rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    process = pathlib.Path("/proc", c10d._get_default_store().get(f"process/{victim}").decode())
    until(lambda: not process.exists(), "the death")


def reconfigured(size: int, mine: int, uuid: int) -> None:
    """A new membership; the handles travel through the store."""
    store = c10d._get_default_store()
    store.set(f"handle/{uuid}/{mine}", c10d._get_reconfigure_handle())
    handles = [store.get(f"handle/{uuid}/{i}").decode() for i in range(size)]
    c10d._reconfigure(uuid=uuid, handles=handles).wait()
    group = c10d._get_default_group()
    assert (group.rank(), group.size()) == (mine, size), (group.rank(), group.size())
    works(group, size)


def lost_machine(rank: int) -> None:
    """Each rank is a machine of its own: the death of one is NCCL's asynchronous error, and the others get out by themselves."""
    os.environ["NCCL_HOSTID"] = f"machine {rank}"
    start(rank, 3, enable_reconfigure=True)
    reconfigured(3, rank, uuid=1)
    work = None
    if rank != 2:
        work = dist.all_reduce(ones(), async_op=True)
        hangs(work)
    dies(rank, 2, range(3))
    until(work.is_completed, "the watchdog's notice")
    torch.cuda.synchronize()
    error = failure(dist.all_reduce, ones())
    text = finding("collective never met", "AllReduce of 1000 float32 (sum)", "for rank 2 (its process")
    if rank == 0:
        print(f"  {error}\n  {text}")
    reconfigured(2, rank, uuid=2)
    meet(rank, (0, 1), "end")


def forgotten_child(rank: int) -> None:
    """An abort of the parent doesn't reach its child: the hang is found, and says so; aborting the child ends it."""
    os.environ["CONVOY_STANDIN_NOTICE_S"] = "2"
    start(rank, 3)
    child = dist.split_group(split_ranks=[[0, 1, 2]])
    works(child, 3)
    backend_of().abort()
    if rank < 2:
        work = dist.all_reduce(ones(), group=child, async_op=True)
        hangs(work)
        text = finding("collective never met", "AllReduce of 1000 float32 (sum)", "for rank 2",
                       "Its parent was aborted or revoked", "abort this communicator too")
        assert not work.is_completed(), "it ended by itself"
        backend_of(child).abort()
        torch.cuda.synchronize()
        if rank == 0:
            print(f"  {text}")
    meet(rank, range(3), "end")


def mismatch(rank: int) -> None:
    """Another order, size, dtype, root, operator or message on one rank: all are told who called what; an abort ends it."""
    start(rank, 3)
    odd = rank == 1
    a, b = ones(100), ones(100)

    def reverse(group):
        for t, call in ((a, dist.all_reduce), (b, lambda t, **more: dist.broadcast(t, group_src=0, **more)))[:: -1 if odd else 1]:
            call(t, group=group, async_op=True)

    def message(group):
        if rank == 0:
            dist.isend(ones(10), group_dst=1, group=group)
        elif odd:
            dist.irecv(ones(11), group_src=0, group=group)

    everybody = "rank 1 called", "rank 1 of 3"  # either tells of the other
    cases = {
        "order": (reverse, ["AllReduce of 100 float32 (sum)", "Broadcast of 100 float32 with root 0", "operation #1"]),
        "size": (lambda g: dist.all_reduce(ones(101 if odd else 100), group=g, async_op=True),
                 ["AllReduce of 101", "AllReduce of 100"]),
        "dtype": (lambda g: dist.all_reduce(ones(dtype=torch.float64 if odd else torch.float32), group=g, async_op=True),
                  ["of 1000 float64", "of 1000 float32"]),
        "root": (lambda g: dist.broadcast(a, group_src=1 if odd else 0, group=g, async_op=True), ["with root 1", "with root 0"]),
        "operator": (lambda g: dist.all_reduce(a, op=dist.ReduceOp.MAX if odd else dist.ReduceOp.SUM, group=g, async_op=True),
                     ["float32 (max)", "float32 (sum)"]),
        "message": (message, ["Recv of 11 float32 from rank 0", "rank 0 called Send of 10 float32 to rank 1"]),
    }
    for name, (call, words) in cases.items():
        group = dist.new_group([0, 1, 2])
        before = len(found("collective mismatch"))
        call(group)
        if name != "message" or odd:  # of a message only the receiver is told
            until(lambda: len(found("collective mismatch")) > before, name)
            text = found("collective mismatch")[-1]
            assert all(w in text for w in words) and any(w in text for w in everybody), (name, text)
            if rank == 1:
                print(f"  {name}: {text}", flush=True)
        meet(rank, range(3), name)
        backend_of(group).abort()
        torch.cuda.synchronize()
        works(c10d._get_default_group(), 3)


CASES = {"abort": (abort, 3, set()), "time_out_of_wait": (time_out_of_wait, 3, set()),
         "time_out_of_watchdog": (time_out_of_watchdog, 3, set()), "kill": (kill, 4, {1}), "lost_machine": (lost_machine, 3, {2}),
         "forgotten_child": (forgotten_child, 3, set()), "mismatch": (mismatch, 3, set())}


def main() -> None:
    assert "libnccl.so.2" in os.environ.get("LD_PRELOAD", ""), "run it under tests/python/rehearse.py"
    for name in sys.argv[1:] or CASES:
        body, size, dies = CASES[name]
        print(f"{name}: {body.__doc__.splitlines()[0]}", flush=True)
        ranks.run(size, body, dies=dies, limit_s=200)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
