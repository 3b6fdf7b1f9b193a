"""Training that goes on when ranks die: `convoy.steps()`. What is survived, and how: docs/recovery.md ("In Python")."""
import datetime
import gc
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d
from torch.nn.parallel import DistributedDataParallel

from convoy import _C, errors
from convoy._recovery_state import State
from convoy.mesh import Mesh

__all__ = ["Step", "steps"]

_log = logging.getLogger("convoy.recovery")
_NEWS_S = 1.0  # who fails because another rank died hears of that within milliseconds
_SLICE_S = 1.0  # of a wait, so that Ctrl-C is noticed
_lines: list[Any] = []  # to this process's supervisor: one, once it is opened


def steps(total: int, state: Mapping[str, Any] | Callable[[], Mapping[str, Any]], *, make: Callable[[], Any] | None = None,
          restore: Callable[[], int] | None = None, backend: str | None = None, seed: int | None = None) -> "Iterator[Step]":
    """The steps of a training loop that survives the loss of ranks:

        model, optimizer = ...                     # alike on all ranks, without process groups
        state = {"model": model, "optimizer": optimizer}
        for step in convoy.steps(1000, state, make=lambda: DistributedDataParallel(model)):
            with step as ddp:                      # what make() has returned
                loss = loss_of(ddp, batch(step.number, dist.get_rank(), dist.get_world_size()))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    Makes the default process group; the program must not. Under `convoy run`, when a rank dies or hangs, the others leave
    their groups, in the same processes, make new ones with the one that takes its place, and go on with the step that
    failed; the process that takes its place starts the program from the top and receives its state here. Without `convoy
    run` errors reach the program as ever, and restore() is what a restart (torchrun's, say) goes on from.

    total: steps; those before the one that is resumed with are not yielded.
    state: what training changes, by name: modules, optimizers, and whatever else has state_dict() and load_state_dict(). All
        ranks along "dp" hold the same values (rank-dependent state has no replica). Or a function that returns it, called
        once, when RANK, LOCAL_RANK and the GPU are known.
    make: called whenever groups have been made and state is there, and returns what depends on groups: a DDP module, say, or a
        tuple with groups of its own and a Checkpointer. Ranks, sizes and mesh may be others each time. What it has made is
        dropped before it is called again; a DDP must be (in) what it returns.
    restore: called on all ranks when none has a state, at the first start too: loads what was saved, and returns how many
        steps that had done; 0 if nothing was. The groups are there, make() has not been called. It may be called in a process
        that has trained.
    backend: of init_process_group(); by default "convoy", with "cuda:nccl" where there are GPUs.
    seed: torch's and Python's random numbers are seeded anew in each step, from it, the step and the rank. Without, a step that
        is done again has the numbers that it had, and a newcomer those of the rank it has its state from.

    In a step: errors that other ranks caused are swallowed by the `with`, and the step comes again: what stands behind the
    `with` in the loop asks `if step.done:` first. Other exceptions pass through. The update must be the last thing that can fail through another rank: a rank that dies between one rank's
    optimizer.step() and the end of its block costs that rank its state, which it then takes from another one; if no rank has a
    whole one, restore() is called, or FailedPrecondition is raised. Collectives outside of the `with`, and after the loop, are not covered.

    Blocks: until all ranks are there; in a recovery as long as the supervisor lets the others come; a spare until it is
    needed. The loop ends on all ranks together. One thread, one loop at a time.

    Raises InvalidArgument (state, a process group that is there), Unavailable (the launcher has gone, with the error that
    ended the step as its cause), FailedPrecondition (state is lost and there is no restore).
    """
    return _Loop(total, state, make, restore, backend, seed).run()


class Step:
    """One step, to be done in `with step as made:`."""

    def __init__(self, loop: "_Loop"):
        self.number = loop.done  # of steps before it: 0 is the first
        self._loop = loop
        self.done = False  # it was not cut off
        self._entered = False

    def __int__(self) -> int:
        return self.number

    __index__ = __int__

    def __enter__(self) -> Any:
        self._entered = True
        self._loop.begin_step()
        return self._loop.made

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None:
            self.done = True
            self._loop.end_step()
            return False
        return self._loop.failed(error)

    def check_entered(self) -> None:
        if not self._entered:
            raise RuntimeError("write `with step:` around the body of the loop over convoy.steps(): what fails outside of it "
                               "can't be done again")


class _Recalled(errors.Aborted):
    """This rank is asked to leave its groups."""


class _Loop:
    """Where this rank stands, and how it comes into the next generation."""

    def __init__(self, total: int, state: Any, make: Any, restore: Any, backend: str | None, seed: int | None):
        self.total, self.done = total, 0
        self.made: Any = None
        self._make, self._restore, self._seed = make, restore, seed
        self._given, self._state = state, None
        self._backend = backend
        self._generation = 0
        self._mesh = ""
        self._phase = ""  # "": has no state yet; else State.undo_step()'s
        self._error: BaseException | None = None
        self._first: dict[str, Any] | None = None  # the first step of a generation, for the incident's story
        self._gone = self._stepped = 0.0
        self._led: Any = None

    # --- the loop ---

    def run(self) -> Iterator[Step]:
        self._start()
        try:
            while True:
                if self._error is not None or self._is_summoned():
                    self._rejoin()
                if self.done >= self.total:
                    if self._end_together():
                        return
                    continue
                step = Step(self)
                yield step
                step.check_entered()
        finally:
            self._show(training=False)

    def begin_step(self) -> None:
        if self._led is not None:
            self._state.begin_step()
        if self._seed is not None:
            seed = (self._seed * 1_000_003 + self.done) * 65_537 + dist.get_rank()
            torch.manual_seed(seed % 2**63)
            random.seed(seed)

    def end_step(self) -> None:
        self.done += 1
        now = time.monotonic()
        took, self._stepped = now - self._stepped, now
        if self._led is None:
            return
        self._state.end_step()
        self._show(training=True, took=took)
        if self._first is not None:
            self._led.running(self._generation, stepped=now - self._gone, **self._first)
            self._first = None

    def failed(self, error: BaseException) -> bool:
        """Whether the step is to be done again."""
        if self._led is None:
            return False
        if not self._may_be_others(error):
            self._led.trouble(self._generation, str(error), self.done, False, True)  # the last words, should it end
            return False
        self._error = error.with_traceback(None)  # it would keep what the step has made
        return True

    def _end_together(self) -> bool:
        """Nobody leaves before all are through: who fails until then is replaced."""
        try:
            if self._led is not None and dist.get_world_size() > 1:
                self._show(training=False)
                dist.barrier()
            return True
        except RuntimeError as error:
            if not self.failed(error):
                raise
            return False

    # --- other ranks ---

    def _is_summoned(self) -> bool:
        return self._led is not None and self._led.summoned()

    def _may_be_others(self, error: BaseException) -> bool:
        """Errors of collectives; of others those that come with a summons, which takes a moment."""
        if not isinstance(error, RuntimeError) or isinstance(error, errors.FailedPrecondition):
            return False
        if self._is_collective(error):
            return True
        deadline = time.monotonic() + _NEWS_S
        while time.monotonic() < deadline:
            if self._led.summoned():
                return True
            time.sleep(0.01)
        return False

    @staticmethod
    def _is_collective(error: BaseException) -> bool:
        """Gloo's failures have no type of their own."""
        return isinstance(error, dist.DistError | _Recalled) or "/gloo/" in str(error)

    def _check_update(self) -> None:
        """Nothing that an aborted collective has left may go into the update."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if self._is_summoned():
            raise _Recalled("aborted: another rank failed")

    # --- from one generation to the next ---

    def _start(self) -> None:
        if dist.is_initialized():
            raise errors.InvalidArgument("convoy.steps() makes the default process group; take init_process_group() out of the program")
        self._led = _line()
        if self._led is None:
            self._form(*_plain_place(), timeout=None)
            return self._come_together()
        _watch_new_groups(self._led)
        if self._led.is_standby:
            return self._rejoin()
        try:
            self._generation = int(os.environ.get("CONVOY_GENERATION", "0"))
            self._mesh = os.environ.get("CONVOY_MESH", "")
            self._form(self._led.first_store(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timeout=_timeout())
            self._come_together()
        except RuntimeError as error:
            if not self.failed(error):
                raise
            self._rejoin()
        return None

    def _rejoin(self) -> None:
        """Leaves the groups; returns in the next generation that comes about."""
        why, self._error = self._error, None
        self._show(training=False)
        if self._phase == "clean":
            self._phase = self._state.undo_step()
        while True:
            self._leave()
            summons = self._await_summons(why)
            try:
                self._enter(summons)
                return
            except RuntimeError as error:
                if not self.failed(error):
                    raise
                self._error = None
                _log.debug("generation %d does not come about: %s", summons.generation, error)
                why = error.with_traceback(None)

    def _leave(self) -> None:
        self._led.leave()
        _retire(self.made)
        self.made = None
        gc.collect()  # what make() had made may hold connections in cycles
        if dist.is_initialized():
            dist.destroy_process_group()

    def _await_summons(self, why: BaseException | None) -> Any:
        """Tells what it saw if nobody calls: a group may have failed with all ranks alive."""
        told = why is None  # a spare waits as long as the job takes
        deadline = time.monotonic() + (_NEWS_S if why is not None else float("inf"))
        while True:
            try:
                return self._led.await_summons(_SLICE_S)
            except errors.DeadlineExceeded as error:
                if time.monotonic() < deadline:
                    continue
                if told:
                    raise errors.DeadlineExceeded(f"the supervisor has not called this rank within CONVOY_TIMEOUT, after: {why}") from error
                told, deadline = True, time.monotonic() + _timeout()
                self._led.trouble(self._generation, str(why), self.done, errors.kind(why) == "mismatch", False)
            except errors.Unavailable as error:
                raise error from why

    def _enter(self, summons: Any) -> None:
        self._generation, self._mesh = summons.generation, summons.mesh
        for name, value in {"RANK": summons.rank, "WORLD_SIZE": summons.world_size, "LOCAL_RANK": summons.local_rank,
                            "LOCAL_WORLD_SIZE": summons.local_world_size, "CONVOY_GENERATION": summons.generation,
                            "CONVOY_MESH": summons.mesh}.items():
            os.environ[name] = str(value)
        store, _ = self._led.enter(summons)
        self._gone = time.monotonic()
        self._form(store, summons.rank, summons.world_size, timeout=_timeout())
        self._come_together()

    def _form(self, store: Any, rank: int, size: int, timeout: float | None) -> None:
        backend = self._backend or ("cpu:convoy,cuda:nccl" if torch.cuda.is_available() else "convoy")
        if "nccl" in backend:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group(backend, store=store, rank=rank, world_size=size,
                                timeout=datetime.timedelta(seconds=timeout) if timeout else None)

    # --- state ---

    def _come_together(self) -> None:
        """Among the ranks of a new generation: the newest step of which a rank has a whole state."""
        joined = self._since_gone()
        if self._state is None:
            self._state = State(self._given() if callable(self._given) else self._given)
            self._state.watch_updates(self._check_update)
        source = self._bring_state()
        if self.done:
            _log.info("goes on behind step %d, with the state of %s", self.done, source)
        loaded = self._since_gone()
        self.made = self._make() if self._make is not None else None
        self._stepped = time.monotonic()
        self._show(training=False)
        self._first = {"resumed": self.done, "source": source, "joined": joined, "loaded": loaded}

    def _bring_state(self) -> str:
        rank = dist.get_rank()
        standings: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(standings, self._standing())
        target = _newest(standings)
        sources = _sources(standings, target, self._mesh)
        if sources is None:
            return self._load()
        for receiver, source in enumerate(sources):
            if receiver == source:
                continue
            if rank == source:
                self._state.send(receiver)
            elif rank == receiver:
                self._phase = "torn"  # until all of it is there
                self._state.receive(source)
        self.done, self._phase = (target + 1) // 2, "clean"
        if target % 2 and sources[rank] == rank:
            _log.warning("all ranks had made the update of step %d when it failed; what follows that in the step is not done again", self.done)
        return "its own memory" if sources[rank] == rank else f"rank {sources[rank]}"

    def _standing(self) -> int:
        """2 n: it has done n steps; 2 n + 1: and the update of the next one, but not all of that step; -1: no whole state."""
        if self._phase in ("", "torn"):
            return -1
        return 2 * self.done + (self._phase == "updated")

    def _load(self) -> str:
        if self._restore is None and self._phase:
            raise errors.FailedPrecondition("no rank has a whole state any more, and convoy.steps() was given no `restore`")
        if self._restore is not None:
            self._phase = "torn"  # until all of it is there
        saved = int(self._restore()) if self._restore is not None else 0
        all_saved: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(all_saved, saved)
        if len(set(all_saved)) > 1:
            raise errors.FailedPrecondition(f"restore() must bring all ranks to the same step, but returned {all_saved}")
        self.done, self._phase = saved, "clean"
        return "what was saved" if self.done else "the beginning"

    # --- for those who watch ---

    def _since_gone(self) -> float:
        return time.monotonic() - self._gone if self._gone else 0.0

    def _show(self, training: bool, took: float = 0.0) -> None:
        if self._led is not None:
            _C.show_vitals(self.done, int(took * 1e9), training)


def _newest(standings: list[int]) -> int:
    """A step that is done again costs less than one whose rest is missing."""
    whole = [s for s in standings if s >= 0 and s % 2 == 0]
    newest = max(standings)
    return max(whole) if whole and max(whole) >= newest - 1 else newest


def _sources(standings: list[int], target: int, mesh: str) -> list[int] | None:
    """Whose state each rank takes; None: that of some rank is on none of its replicas."""
    if target < 0:
        return None
    arranged = Mesh(mesh or "dp=*", len(standings))
    sources = []
    for rank, standing in enumerate(standings):
        if standing == target:
            sources.append(rank)
            continue
        holders = [r for r in arranged.group_of(rank, ["dp"]) if standings[r] == target]
        if not holders:
            return None
        sources.append(holders[rank % len(holders)])  # several take it from different ones
    return sources


def _line() -> Any:
    """This process's line to its supervisor; None: nobody leads it."""
    if not os.environ.get("CONVOY_CONTROL"):
        return None
    if not _lines:
        _lines.append(_C.Led())
    return _lines[0]


def _timeout() -> float:
    return float(os.environ.get("CONVOY_TIMEOUT") or 300)


def _plain_place() -> tuple[Any, int, int]:
    """Store, rank and size of a process that nobody leads: torchrun's, or one alone."""
    if "RANK" not in os.environ:
        return dist.HashStore(), 0, 1
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun's store may live on through restarts, with the addresses of processes that are dead.
    return dist.PrefixStore(f"convoy/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/", store), rank, size


def _watch_new_groups(led: Any) -> None:
    """From now on each process group of torch's, whoever makes it, can be aborted by a summons."""
    make = c10d._new_process_group_helper
    if hasattr(make, "of_convoy"):
        return

    def watched(*args: Any, **options: Any) -> Any:
        before = _C.tcp_sockets()
        group, store = make(*args, **options)
        if isinstance(group, dist.ProcessGroup):
            led.watch(group, before)
        return group, store

    watched.of_convoy = True
    c10d._new_process_group_helper = watched


def _retire(made: Any) -> None:
    """Takes a DDP's hooks out of the module: after a forward pass without a backward one it would go on reducing gradients."""
    for each in made.values() if isinstance(made, dict) else made if isinstance(made, list | tuple) else [made]:
        if isinstance(each, DistributedDataParallel):
            for name in ("logger", "reducer"):
                each.__dict__.pop(name, None)
