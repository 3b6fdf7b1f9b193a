#!/usr/bin/env python3
"""convoy.steps(): steps.py CONVOY_COMMAND BACKEND [CASE]…

Method: a worker trains a small model with everything that a step changes (parameters, moments, a buffer, a scheduler,
dropout) under `convoy run` and writes what each step gave, in hexadecimal. A run that nobody disturbs is the reference; each case
causes a fault in the middle of another one, which must end well, with the same processes but for those that were lost, and with the
reference's losses and parameters bit for bit. On NCCL with simulated GPUs, which must find nothing. Checks recovery in Python, not the supervisor's decisions.
"""
import ctypes
import functools
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
RANKS, STEPS, AT = 4, 40, 12  # the fault comes once AT steps are done
VICTIM = 2


# --- the worker ---

def model_and_state(device: str = "cpu") -> tuple:
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    class Counted(nn.Module):
        """A buffer that each forward pass changes, and that what comes out depends on."""

        def __init__(self):
            super().__init__()
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.passes += 1
            return x * (1 + 1 / (10 + self.passes))

    model = nn.Sequential(nn.Linear(16, 64), Counted(), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1)).double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.9)
    return model, optimizer, scheduler


def fingerprint(model) -> str:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fail(how: str, folder: pathlib.Path) -> None:
    """What the test wants of this rank, once: the mark stays for the process that takes its place."""
    try:
        os.mkdir(folder / f"failed-{how}")
    except FileExistsError:
        return
    if how == "holds_the_lock":
        ctypes.PyDLL(None).sleep(1000)  # a C call that keeps the interpreter's lock
    elif how == "sleeps":
        time.sleep(1000)
    elif how in ("in_backward", "after_the_update"):
        os.kill(os.getpid(), signal.SIGKILL)


def work(folder: pathlib.Path, backend: str, how: str) -> None:
    import torch
    import torch.distributed as dist

    import convoy

    device = "cuda" if "nccl" in backend else "cpu"
    state: dict = {}

    def make_state() -> dict:
        """Called when this rank knows its GPU."""
        state.update(zip(("model", "optimizer", "scheduler"), model_and_state(device), strict=True))
        return state

    # Gloo adds in an order that depends on the place in a bucket, and DDP lays its buckets out anew after its first step, unless
    # parameters may be unused.
    wrap = functools.partial(torch.nn.parallel.DistributedDataParallel, find_unused_parameters=backend == "gloo")
    wrapped: list = []
    path = folder / "saved.pt"
    if how in ("all_ranks", "torchrun"):
        def restore() -> int:
            if not path.exists():
                return 0
            saved = torch.load(path)
            for name, each in state.items():
                each.load_state_dict(saved[name])
            torch.manual_seed(0)
            return saved["done"]
    else:
        restore = None
    with open(folder / f"pid-{os.getpid()}", "w") as out:
        for step in convoy.steps(STEPS, make_state, make=lambda: wrap(state["model"]), restore=restore, backend=backend,
                                 seed=None if backend == "convoy" else 7):
            with step as ddp:
                if ddp not in wrapped:
                    wrapped.append(ddp)  # a reference to one that has failed must do no harm
                rank, size = dist.get_rank(), dist.get_world_size()
                if step.number == AT and rank == VICTIM and how in ("holds_the_lock", "sleeps"):
                    fail(how, folder)
                x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step.number * size + rank)).double().to(device)
                state["optimizer"].zero_grad()
                loss = (ddp(x) - x.sum(1, keepdim=True)).square().mean()
                if step.number == AT and rank == VICTIM and how == "in_backward":
                    fail(how, folder)
                loss.backward()
                dist.all_reduce(total := loss.detach().clone())
                state["optimizer"].step()
                state["scheduler"].step()
                if step.number == AT and rank == VICTIM and how == "after_the_update":
                    fail(how, folder)
                if how == "after_the_update":
                    dist.barrier()  # all the others have updated, too, and the victim has not come
                time.sleep(0.02)
            if not step.done:
                continue
            print(json.dumps({"step": step.number, "rank": rank, "loss": float(total).hex(), "model": fingerprint(state["model"])}), file=out, flush=True)
            if rank == 0 and restore is not None and (step.number + 1) % 5 == 0:
                torch.save({name: each.state_dict() for name, each in state.items()} | {"done": step.number + 1}, f"{path}.new")
                os.rename(f"{path}.new", path)
            if how == "torchrun" and step.number == AT and rank == VICTIM and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
    dist.destroy_process_group()


# --- the test ---


class Run:
    """One job of workers; each of `machines` has its own launcher, on this one."""

    def __init__(self, convoy: str, folder: pathlib.Path, name: str, backend: str, spares: int = 0, machines: int = 1,
                 torchrun: list[str] | None = None, within: bool = True):
        """`torchrun`: what starts the launcher or, if that is not `within` it, the ranks."""
        self.convoy, self.folder = convoy, folder / f"{name}-{backend}-{machines}-{torchrun is None}"
        self.folder.mkdir()
        self.log = self.folder / "log"
        worker = [__file__, "--worker", str(self.folder), backend, name]
        if torchrun and not within:
            self.jobs = [self._start([*torchrun, *worker], 0)]
            return
        launcher = [*(torchrun or []), convoy, "run", "-n", str(RANKS // machines), "--spares", str(spares),
                    *(["--rehearse"] if "nccl" in backend else [])]
        several = ["--nnodes", str(machines), "--rdzv", f"127.0.0.1:{free_port(neighbours=2)}"] if machines > 1 else []
        self.jobs = [self._start([*launcher, *several, *(["--node-rank", str(k)] if several else []), "--output",
                                  str(self.folder / ("out" if k == 0 else f"out{k}")), "--", sys.executable, *worker], k)
                     for k in range(machines)]

    def _start(self, command: list[str], machine: int) -> subprocess.Popen:
        environment = os.environ | {"CONVOY_HOST_ID": f"machine-{machine}", "CONVOY_ADDRESS": "127.0.0.1"}
        return subprocess.Popen(command, stdout=open(self.log, "a"), stderr=subprocess.STDOUT, env=environment)

    def has_ended(self) -> bool:
        return any(job.poll() is not None for job in self.jobs)

    def lines(self) -> dict[int, list[dict]]:
        """By pid: what it has written."""
        found = {}
        for path in self.folder.glob("pid-*"):
            text = path.read_text()
            found[int(path.name[4:])] = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
        return found

    def await_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while not any(lines and lines[-1]["step"] >= step for lines in self.lines().values()):
            assert time.monotonic() < deadline and not self.has_ended(), f"step {step} never came:\n{self.log.read_text()}"
            time.sleep(0.01)

    def pid_of(self, rank: int) -> int:
        done = subprocess.run([self.convoy, "status", str(self.folder / "out"), "--json"], capture_output=True, text=True, check=True)
        return next(r["pid"] for r in json.loads(done.stdout)["ranks"] if r["rank"] == rank)

    def await_generation(self, generation: int) -> None:
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run([self.convoy, "status", str(self.folder / "out"), "--json"], capture_output=True, text=True)
            if done.returncode == 0:
                status = json.loads(done.stdout)
                if status["generation"] >= generation and status["phase"] == "training":
                    return
            assert time.monotonic() < deadline and not self.has_ended(), f"generation {generation} never came:\n{self.log.read_text()}"
            time.sleep(0.02)

    def codes(self) -> list[int]:
        try:
            return [job.wait(timeout=180) for job in self.jobs]
        except subprocess.TimeoutExpired:
            for job in self.jobs:
                job.terminate()
            raise AssertionError(f"the job hangs:\n{self.log.read_text()}") from None

    def end(self) -> dict[int, dict]:
        """What each step gave: the same on all ranks and processes that did it, however often."""
        codes = self.codes()
        assert not any(codes), f"exit codes {codes}:\n{self.log.read_text()}"
        steps: dict[int, dict] = {}
        for lines in self.lines().values():
            for line in lines:
                given = {"loss": line["loss"], "model": line["model"]}
                assert steps.setdefault(line["step"], given) == given, f"{line}, but others: {steps[line['step']]}"
        assert sorted(steps) == list(range(STEPS)), sorted(steps)
        return steps

    def incidents(self) -> list[dict]:
        path = self.folder / "out/incidents.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def killed(run: Run) -> None:
    """SIGKILL of one rank in the middle; a process is started in its place."""
    os.kill(run.pid_of(VICTIM), signal.SIGKILL)


def rank_zero_killed(run: Run) -> None:
    """The rank that served the first store, if that is no file."""
    os.kill(run.pid_of(0), signal.SIGKILL)


def killed_twice(run: Run) -> None:
    """One rank, and when all train again another one: rank 0, which writes; spares take their places."""
    os.kill(run.pid_of(VICTIM), signal.SIGKILL)
    run.await_generation(1)
    os.kill(run.pid_of(0), signal.SIGKILL)


def killed_together(run: Run) -> None:
    """Three of four at once: the last one has the state."""
    for pid in [run.pid_of(rank) for rank in (0, 1, 3)]:
        os.kill(pid, signal.SIGKILL)


def all_ranks(run: Run) -> None:
    """Nobody has a state any more: back to what was saved, at most 5 steps."""
    for pid in [run.pid_of(rank) for rank in range(RANKS)]:
        os.kill(pid, signal.SIGKILL)


def halted(run: Run) -> None:
    """SIGSTOP: found by the missing steps, killed and replaced."""
    os.kill(run.pid_of(VICTIM), signal.SIGSTOP)


def by_itself(run: Run) -> None:
    """The worker does it (fail()): in_backward is SIGKILL before the backward pass, in which the others then fail."""


# Name: what the test does, processes that must be the same before and after, incidents, spares.
CASES = {
    "killed": (killed, 3, 1, 0),
    "in_backward": (by_itself, 3, 1, 0),
    "rank_zero_killed": (rank_zero_killed, 3, 1, 1),
    "killed_twice": (killed_twice, 3, 2, 1),
    "killed_together": (killed_together, 1, 1, 0),
    "all_ranks": (all_ranks, 0, 1, 1),
    "halted": (halted, 3, 1, 1),
    "holds_the_lock": (by_itself, 3, 1, 1),
    "sleeps": (by_itself, 3, 1, 1),
}


def check(convoy: str, folder: pathlib.Path, name: str, backend: str, reference: dict[int, dict], **how) -> None:
    fault, kept, incidents, spares = CASES[name]
    run = Run(convoy, folder, name, backend, spares, **how)
    run.await_step(AT)
    before = set(run.lines())
    fault(run)
    steps = run.end()
    for step in range(STEPS):
        assert steps[step] == reference[step], f"step {step}: {steps[step]}, undisturbed {reference[step]}\n{run.log.read_text()}"
    assert "nccl" not in backend or "rehearsal: nothing found" in run.log.read_text(), run.log.read_text()
    records = run.incidents()
    assert len(records) == incidents, f"{records}\n{run.log.read_text()}"
    lost = 5 if kept == 0 else 0
    assert all(r["survived"] and r["steps_lost"] <= lost and r["processes_kept"] == kept for r in records), f"{records}\n{run.log.read_text()}"
    # Who had not finished the step in which a rank died is given it by one who had: it has not done that step itself.
    done = [[line["step"] for line in run.lines()[pid]] for pid in before]
    whole = [steps for steps in done if len(steps) >= STEPS - incidents]
    assert all(len(steps) == len(set(steps)) for steps in whole), f"a process that was kept has done a step twice: {done}"
    assert len(whole) == max(0, kept - incidents + 1), f"{len(whole)} processes were kept to the end: {done}"
    print(f"  {' '.join([name, 'on', backend, *how])}: back in " + ", ".join(f"{r['first_step_s']:.2f} s" for r in records), flush=True)


def torn_update(convoy: str, folder: pathlib.Path, backend: str) -> None:
    """All that is left have made the update in a step that failed after it: nobody has a whole state, which must be said."""
    run = Run(convoy, folder, "after_the_update", backend)
    run.codes()  # whether the job began anew or ended is the supervisor's decision
    text = run.log.read_text()
    assert "no rank has a whole state" in text, text
    print("  an update that was cut off is not taken for a whole one", flush=True)


def under_torchrun(convoy: str, folder: pathlib.Path, backend: str, reference: dict[int, dict]) -> None:
    """torchrun starts all ranks anew; they go on from what was saved."""
    run = Run(convoy, folder, "torchrun", backend, torchrun=[*TORCHRUN, "--nproc-per-node", str(RANKS), "--max-restarts", "2"], within=False)
    steps = run.end()
    assert steps == reference, f"{steps}\n{run.log.read_text()}"
    assert len(run.lines()) == 2 * RANKS, sorted(run.lines())
    print("  torchrun's restart goes on from what was saved", flush=True)


def alone() -> None:
    """In one process that nobody leads: what is wrong with a program reaches it, and what a step that failed has left is undone."""
    import torch

    import convoy
    from convoy import errors, recovery
    from convoy._recovery_state import State

    def raises(kind, call) -> None:
        try:
            call()
        except kind:
            return
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
        raise AssertionError(f"{kind.__name__} was not raised")

    def mistake() -> None:
        for step in convoy.steps(3, {}):
            with step:
                raise ValueError("of the program")

    raises(ValueError, mistake)
    raises(RuntimeError, lambda: list(convoy.steps(3, {})))  # without `with`
    raises(errors.InvalidArgument, lambda: list(convoy.steps(3, {"model": 5})))
    numbers = []
    for step in convoy.steps(3, {}, restore=lambda: 1):
        with step:
            numbers.append(step.number)
    assert numbers == [1, 2], numbers
    raises(errors.InvalidArgument, lambda: list(convoy.steps(3, {})))  # groups are there
    assert recovery._newest([6, 5, 4, -1]) == 6 and recovery._newest([5, 4, 5]) == 4 and recovery._newest([5, 5, -1]) == 5
    assert recovery._newest([-1, -1]) == -1
    assert recovery._sources([4, -1, 4, 2], 4, "") == [0, 2, 2, 2]  # 1 % 2 of the holders 0 and 2; 3 % 2 likewise
    assert recovery._sources([4, -1, 4, -1], 4, "tp=2,dp=2") is None  # 1 and 3 were each other's replica
    assert recovery._sources([4, -1, 4, 4], 4, "tp=2,dp=2") == [0, 3, 2, 3]

    model, optimizer, scheduler = model_and_state()
    for objects, left in (({"model": model, "optimizer": optimizer}, "updated"),
                          ({"model": model, "optimizer": optimizer, "scheduler": scheduler}, "torn")):
        state = State(objects)
        state.watch_updates(lambda: None)
        state.begin_step()
        before = fingerprint(model), torch.get_rng_state()
        model(torch.randn(8, 16).double()).sum().backward()
        assert fingerprint(model) != before[0]
        assert state.undo_step() == "clean"
        assert fingerprint(model) == before[0] and torch.equal(torch.get_rng_state(), before[1])
        assert all(p.grad is None for p in model.parameters())
        state.begin_step()
        model(torch.randn(8, 16).double()).sum().backward()
        optimizer.step()
        assert state.undo_step() == left
        state.begin_step()
        model(torch.randn(8, 16).double()).sum().backward()
        optimizer.step()
        state.end_step()
        after = fingerprint(model)
        assert state.undo_step() == "clean" and fingerprint(model) == after  # between two steps
    a_failed_ddp_is_retired()
    print("  alone: ok", flush=True)


def a_failed_ddp_is_retired() -> None:
    """A step that failed between forward and backward pass leaves a DDP that waits for gradients, though groups have gone."""
    import torch
    import torch.distributed as dist

    from convoy import recovery

    model, inputs = torch.nn.Linear(4, 4), torch.ones(2, 4)
    for is_new in (False, True):
        dist.init_process_group("convoy", store=dist.HashStore(), rank=0, world_size=1)
        ddp = torch.nn.parallel.DistributedDataParallel(model)
        loss = ddp(inputs).sum()
        if is_new:
            loss.backward()
            assert float(model.weight.grad.sum()) == 32
        else:
            failed = ddp
            recovery._retire((failed, None))
        dist.destroy_process_group()


def main() -> None:
    convoy, backend, wanted = str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2], sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        reference = Run(convoy, folder, "reference", backend).end()
        for case in wanted or CASES:
            if case in CASES:
                check(convoy, folder, case, backend, reference)
        if "alone" in wanted:
            alone()
        if "two_machines" in wanted:
            check(convoy, folder, "killed", backend, reference, machines=2)
            check(convoy, folder, "rank_zero_killed", backend, reference, machines=2)
        if "within_torchrun" in wanted:
            check(convoy, folder, "killed", backend, reference, torchrun=[*TORCHRUN, "--nproc-per-node", "1", "--no-python"])
        if "torchrun" in wanted:
            under_torchrun(convoy, folder, backend, reference)
        if "torn_update" in wanted:
            torn_update(convoy, folder, backend)


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(pathlib.Path(sys.argv[2]), *sys.argv[3:])
    else:
        main()
