#!/usr/bin/env python3
"""How the backend `convoy` fails: faults.py [CASE …]

Method: each case starts 3 or 4 ranks, causes one fault (ranks that disagree, a rank that stays away or is killed, an abort
from another thread, a wrong argument) and demands that every rank, or every survivor, gets an error of the right kind that
names the group or the ranks; and where the promise says so, that the survivors go on in a new membership in the same
processes. How long a failure takes to be noticed is printed, and compared only with limits far below the operation's own
timeout (60 s), because these tests also run on busy machines. Does not check machines that fail (TCP's own tests do).
"""
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
import convoy  # noqa: E402
import ranks  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

NOTICED_S = 20  # far from the operations' 60 s


def failure(call, *args, **more) -> str:
    """The text of the error that the call must raise, which must come soon."""
    begin = time.monotonic()
    try:
        work = call(*args, **more)
        if work is not None:
            work.wait()
    except (dist.DistBackendError, ValueError, NotImplementedError) as e:
        spent = time.monotonic() - begin
        assert spent < NOTICED_S, f"noticed only after {spent:.1f} s: {e}"
        return str(e)
    raise AssertionError(f"{call.__name__} should have failed")


def disagree(rank: int) -> None:
    """Another operation, size, dtype, root or reduction on one rank: everybody gets `mismatch` naming ranks."""
    ranks.init("convoy", rank, 3)
    f, odd = torch.ones(100), rank == 1
    cases = {
        "op": lambda g: failure(dist.barrier, group=g) if odd else failure(dist.all_reduce, f, group=g),
        "size": lambda g: failure(dist.all_reduce, torch.ones(101 if odd else 100), group=g),
        "large size": lambda g: failure(dist.all_reduce, torch.ones(1_000_001 if odd else 1_000_000), group=g),
        "dtype": lambda g: failure(dist.all_reduce, f.to(torch.float64) if odd else f, group=g),
        "root": lambda g: failure(dist.broadcast, f, group_src=1 if odd else 0, group=g),
        "reduction": lambda g: failure(dist.all_reduce, f, op=dist.ReduceOp.MAX if odd else dist.ReduceOp.SUM, group=g),
        "async": lambda g: failure(dist.all_reduce, torch.ones(7 if odd else 8), group=g, async_op=True),
    }
    for name, case in cases.items():
        group = dist.new_group([0, 1, 2])
        text = case(group)
        assert text.startswith("mismatch: ") and "1" in text and convoy.errors.kind(ValueError(text)) == "mismatch", (name, text)
        again = failure(dist.all_reduce, f, group=group)
        assert again.split(":")[0] in ("mismatch", "aborted"), ("a failed group must stay failed", name, again)
    if rank == 0:
        print(f"  {text}")
    dist.barrier()
    dist.destroy_process_group()


def refuse(rank: int) -> None:
    """What can't work is refused on the rank that asks, before the others hear of it: the group stays usable."""
    ranks.init("convoy", rank, 3)
    f = torch.ones(6)
    here = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    texts = [
        failure(here.allreduce, [torch.ones(3, device="meta")], dist.AllreduceOptions()),
        failure(dist.all_reduce, f.to(torch.float8_e4m3fn)),
        failure(dist.all_gather_into_tensor, torch.ones(7), f),
        failure(dist.all_to_all_single, torch.ones(6), f, [1, 1, 1], [2, 2, 2]),
        failure(dist.all_to_all_single, torch.ones(4), torch.ones(4)),
        failure(dist.distributed_c10d._get_default_group().broadcast, [f], _broadcast_from(7)),
        failure(dist.all_reduce, torch.eye(3).to_sparse()),
    ]
    for text in texts:
        assert "convoy: " in text and ":" in text, text
    dist.all_reduce(f)
    assert torch.equal(f, torch.full((6,), 3.0))
    if rank == 0:
        print(f"  {texts[0]}\n  {texts[1]}")
    dist.destroy_process_group()


def _broadcast_from(root: int):
    opts = dist.BroadcastOptions()
    opts.rootRank = root
    return opts


def stay_away(rank: int) -> None:
    """Rank 2 does not come: the others' timeout names it. The same for a message and for joining a group."""
    ranks.init("convoy", rank, 3)
    slow = dist.new_group([0, 1, 2], timeout=__import__("datetime").timedelta(seconds=1))
    quick = dist.new_group([0, 1, 2], timeout=__import__("datetime").timedelta(seconds=1))
    if rank == 2:
        time.sleep(4)
    else:
        text = failure(dist.all_reduce, torch.ones(5), group=slow)
        assert text.startswith("deadline exceeded: ") and "2" in text, text
        assert "has not joined" in text or "have not joined" in text, text
        message = failure(dist.recv, torch.ones(5), group_src=2, group=quick)
        assert message.startswith("deadline exceeded: ") and "2" in message, message
        if rank == 0:
            print(f"  {text}\n  {message}")
    dist.barrier()
    dist.destroy_process_group()


def wait_limit(rank: int) -> None:
    """work.wait(timeout) gives up waiting; the operation goes on."""
    from datetime import timedelta
    ranks.init("convoy", rank, 2)
    t = torch.ones(5)
    if rank == 1:
        time.sleep(2)
    work = dist.all_reduce(t, async_op=True)
    if rank == 0:
        try:
            work.wait(timedelta(milliseconds=200))
            raise AssertionError("rank 1 sleeps: the wait should have ended")
        except dist.DistBackendError as e:
            assert "deadline exceeded" in str(e) and not work.is_completed(), str(e)
    work.wait()
    assert work.is_completed() and torch.equal(t, torch.full((5,), 2.0))
    dist.barrier()
    dist.destroy_process_group()


def reconfigured(survivors: int, mine: int, uuid: int, ordered: bool) -> None:
    """A new membership of the survivors in these processes; the handles travel through the store."""
    from torch.distributed import distributed_c10d as c10d
    store = c10d._get_default_store()
    store.set(f"handle/{uuid}/{mine}", c10d._get_reconfigure_handle())
    handles = [store.get(f"handle/{uuid}/{i}").decode() for i in range(survivors)]
    c10d._reconfigure(uuid=uuid, handles=handles if ordered else set(handles)).wait()
    group = c10d._get_default_group()
    assert group.size() == survivors and (group.rank() == mine or not ordered), (group.rank(), mine)
    tensors = [torch.full((n,), float(group.rank())) for n in (10, 300_000)]
    for work in [group.allreduce([t]) for t in tensors]:
        work.wait()
    for t in tensors:
        assert torch.all(t == float(sum(range(survivors)))), t[:4]


def kill(rank: int) -> None:
    """Rank 1 is killed inside of a collective. The survivors fail soon, naming it, and go on without it."""
    from torch.distributed import distributed_c10d as c10d
    ranks.init("convoy", rank, 4)
    assert c10d._supports_reconfigure()
    dist.all_reduce(torch.ones(4))
    fired = []
    dist.distributed_c10d._get_default_group().register_abort_hook(7, lambda: fired.append(1))
    if rank == 1:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        time.sleep(60)
    begin = time.monotonic()
    text = failure(dist.all_reduce, torch.ones(1_000_000))
    spent = time.monotonic() - begin - 0.5
    assert "1" in text, text
    assert fired, "the abort hook did not fire"
    assert failure(dist.barrier), "the group must stay failed"
    if rank == 0:
        print(f"  noticed after {max(spent, 0) * 1000:.0f} ms: {text}")
    mine = {0: 0, 2: 1, 3: 2}[rank]
    reconfigured(3, mine, uuid=1, ordered=True)
    reconfigured(3, mine, uuid=2, ordered=False)


def abort(rank: int) -> None:
    """abort() from another thread ends a blocked call, here and on the others; reconfigure() brings all back."""
    ranks.init("convoy", rank, 3)
    group = dist.distributed_c10d._get_default_group()
    if rank == 2:
        time.sleep(0.3)
        threading.Thread(target=group.abort).start()
        text = failure(dist.recv, torch.ones(5), 0)
    elif rank == 1:
        text = failure(dist.all_reduce, torch.ones(5))
    else:
        text = failure(dist.all_reduce, torch.ones(5), async_op=True)
    assert text.startswith("aborted: "), text
    if rank == 0:
        print(f"  {text}")
    reconfigured(3, rank, uuid=5, ordered=True)


def begin_empty(rank: int) -> None:
    """enable_reconfigure: no group until reconfigure(); a uuid counts once; a process that is left out is told."""
    from torch.distributed import distributed_c10d as c10d
    ranks.init("convoy", rank, 3, enable_reconfigure=True)
    text = failure(dist.all_reduce, torch.ones(3))
    assert "not been configured" in text, text
    reconfigured(3, rank, uuid=1, ordered=True)
    handles = [c10d._get_default_store().get(f"handle/1/{i}").decode() for i in range(3)]
    assert "used before" in failure(c10d._reconfigure, uuid=1, handles=handles)
    assert "not among" in failure(c10d._reconfigure, uuid=2, handles=[h for i, h in enumerate(handles) if i != rank])


def hooks(rank: int) -> None:
    """c10d's pre and post hooks fire around our operations, with the tensors and the work."""
    ranks.init("convoy", rank, 2)
    group = dist.distributed_c10d._get_default_group()
    seen = []
    group.register_pre_hook(1, lambda args: seen.append(("pre", args.op_id)))
    group.register_post_hook(2, lambda args: seen.append(("post", args.op_id)))
    dist.all_reduce(torch.ones(3))
    dist.all_reduce(torch.ones(3), async_op=True).wait()
    assert [s[0] for s in seen] == ["pre", "post"] * 2 and seen[0][1] == seen[1][1] != seen[2][1], seen
    group.unregister_pre_hook(1)
    group.unregister_post_hook(2)
    before = group._get_sequence_number_for_group()
    dist.barrier()
    assert len(seen) == 4 and group._get_sequence_number_for_group() == before + 1
    dist.destroy_process_group()


def groups(rank: int) -> None:
    """split_group, groups made again under one name, options, tensors from the backend, an idle exit."""
    for name in ("same", "same"):
        ranks.init("convoy", rank, 4, name=name, pg_options=convoy.Options())
        half = dist.split_group(split_ranks=[[0, 2], [1, 3]])
        t = torch.full((5,), float(rank))
        dist.all_reduce(t, group=half)
        assert torch.equal(t, torch.full((5,), 2.0 if rank % 2 == 0 else 4.0)) and half.size() == 2, t
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        assert backend.is_local and backend.supports_tensor_alloc(torch.device("cpu"))
        x = backend.allocate_tensor(1000, dtype=torch.float32, device=torch.device("cpu"))
        assert convoy.shared_memory.is_shared(x) and not convoy.shared_memory.is_shared(torch.ones(1000))
        dist.barrier()
        dist.destroy_process_group()
    x.fill_(1)  # tensors outlive their group
    with convoy.shared_memory.enabled():
        y = torch.ones(1000)
        assert convoy.shared_memory.is_enabled() and convoy.shared_memory.is_shared(y)
    assert not convoy.shared_memory.is_enabled() and not convoy.shared_memory.is_shared(torch.ones(1000))
    assert float((x + y).sum()) == 2000


CASES = {"disagree": (disagree, 3, set()), "refuse": (refuse, 3, set()), "stay_away": (stay_away, 3, set()),
         "wait_limit": (wait_limit, 2, set()), "kill": (kill, 4, {1}), "abort": (abort, 3, set()),
         "begin_empty": (begin_empty, 3, set()), "hooks": (hooks, 2, set()), "groups": (groups, 4, set())}


def main() -> None:
    for name in sys.argv[1:] or CASES:
        body, size, dies = CASES[name]
        print(f"{name}: {body.__doc__.splitlines()[0]}", flush=True)
        ranks.run(size, body, dies=dies, limit_s=60)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
