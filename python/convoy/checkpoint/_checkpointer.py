"""Saves that cost the training a copy, and what becomes of them."""
import concurrent.futures
import logging
import os
import socket
import threading
import time
from typing import Any

import torch

from convoy import _C, errors
from convoy.checkpoint._group import Group, place
from convoy.checkpoint._layout import piece
from convoy.checkpoint._load import Loaded, load_into
from convoy.checkpoint._plan import Plan, make_plan
from convoy.checkpoint._staging import Staging
from convoy.checkpoint._state import flatten

log = logging.getLogger("convoy.checkpoint")
_TURN_S = 0.01  # between two looks at saves that are on their way
_OVERTAKE = {"wait": 0, "skip": 1, "replace": 2}


class SaveFuture(concurrent.futures.Future):
    """Of one save. result(): the step, once it has come to the tier that was asked for; None if it was skipped.

    exception(): why it never will. A failed save also logs a warning, so nobody has to look.
    """

    def __init__(self, step: int):
        super().__init__()
        self.step = step
        self.stall_s = 0.0  # for how long save_async() kept the caller
        self.bytes = 0  # that this rank gave

    def _fail(self, error: BaseException) -> None:
        log.warning("checkpoint of step %d failed: %s", self.step, error)
        self.set_exception(error)


class _Watcher:
    """One thread that asks the agent how far saves have come."""

    def __init__(self, client: Any):
        self._client = client
        self._waiting: list[tuple[SaveFuture, int]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="convoy-checkpoint", daemon=True).start()

    def add(self, future: SaveFuture, tier: int) -> None:
        with self._changed:
            self._waiting.append((future, tier))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                waiting = list(self._waiting)
            ended = [(future, tier) for future, tier in waiting if self._ended(future, tier)]
            with self._changed:
                self._waiting = [item for item in self._waiting if item not in ended]
            time.sleep(_TURN_S)

    def _ended(self, future: SaveFuture, tier: int) -> bool:
        try:
            self._client.wait(future.step, tier, 0)
        except errors.DeadlineExceeded:
            return False
        except errors.ConvoyError as error:
            future._fail(error)
        else:
            future.set_result(future.step)
        return True


class Checkpointer:
    """Saves a job's state into `folder`, asynchronously, and loads it again.

        checkpointer = convoy.checkpoint.Checkpointer("checkpoints", keep_newest=3)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
        future = checkpointer.save_async(step, state)     # blocks for a copy in memory
        ...
        checkpointer.load(state)                          # the newest step, in place, whatever mesh has written it

    State: nested dicts (and lists) of tensors, DTensors and plain values. Elements that several ranks hold are written
    once, spread evenly. A copy lies in the memory of the node's agent when save_async() returns, or with tensors on GPUs a
    little later; this process may be killed then. An agent is started if `convoy run` has not given one.

    All ranks of `process_group` (default: all) make one together, and save the same steps in the same order. Making it, the
    first save, prepare() and load() are collective; later saves are not. One thread at a time.

    keep_newest, keep_every: which committed steps stay: that many, and each whose number is a multiple. disk_every: of the
    saves that many go to the disk, the others stay in memory. overtake: what a save does that finds both snapshots in
    use: "wait", "skip" or "replace" the one that waits for the disk. bandwidth: bytes/s of the disk, 0: no limit. threads:
    that copy. timeout_s: of every question to the agent.

    Raises convoy.errors.*, the same on all ranks, if the agent can't be had or the options can't work.
    """

    def __init__(self, folder: str | os.PathLike, *, job: str = "train", keep_newest: int = 2, keep_every: int = 0,
                 disk_every: int = 1, overtake: str = "wait", bandwidth: int = 0, incremental: bool = True, threads: int = 2,
                 timeout_s: float = 60.0, process_group: "torch.distributed.ProcessGroup | None" = None):
        if overtake not in _OVERTAKE:
            raise errors.InvalidArgument(f"overtake is {overtake!r}; use one of {', '.join(_OVERTAKE)}")
        self.folder = place(folder)
        self.group = Group(process_group)
        self._disk_every = disk_every
        self._plan: Plan | None = None
        self._staging: Staging | None = None
        self._staged: concurrent.futures.Future | None = None  # the save whose memory Staging holds
        self._worker: concurrent.futures.ThreadPoolExecutor | None = None
        self._last: SaveFuture | None = None
        self._attached: list[Any] = []
        policy = {"keep_newest": keep_newest, "keep_every": keep_every, "disk_every": disk_every, "bandwidth": bandwidth,
                  "incremental": incremental, "threads": threads, "timeout": timeout_s, "overtake": _OVERTAKE[overtake],
                  "mesh": os.environ.get("CONVOY_MESH", "")}
        self._client = self._connect(job, policy, timeout_s)
        self._watcher = _Watcher(self._client)

    def _connect(self, job: str, policy: dict[str, Any], timeout_s: float) -> Any:
        host = os.environ.get("CONVOY_HOST_ID") or socket.gethostname()
        hosts = self.group.gather(host)
        neighbours = [rank for rank, name in enumerate(hosts) if name == host]
        mine: dict[str, Any] = {}
        try:
            if self.group.rank == neighbours[0]:
                mine["agent"] = _C.ensure_agent(timeout_s)
            if self.group.rank == 0:
                os.makedirs(self.folder, exist_ok=True)
                # Newer than whatever has written there: this start of the job is the one that counts.
                mine["generation"] = max(int(os.environ.get("CONVOY_GENERATION") or 0), _C.owner_generation(self.folder) + 1)
        except (errors.ConvoyError, OSError, ValueError) as error:
            mine["error"] = f"{type(error).__name__}: {error}"
        ranks = self.group.gather(mine)
        failed = [f"rank {rank}: {said['error']}" for rank, said in enumerate(ranks) if "error" in said]
        if failed:
            raise errors.Unavailable("checkpoints can't be made in " + self.folder + ": " + "; ".join(failed))
        self._agent = ranks[neighbours[0]]["agent"]
        return _C.SnapshotClient(self._agent, job, ranks[0]["generation"], self.group.rank, self.group.size, len(neighbours),
                                 self.folder, policy)

    def prepare(self, state: Any) -> None:
        """Works out which rank gives what, and reserves memory for snapshots of `state`, so that the first save is as fast as
        later ones. Needed again only if tensors come, go, or change shape. Collective. Raises InvalidArgument on all ranks for
        a state that can't be saved."""
        flat = flatten(state, self.group.rank)
        self._plan = make_plan(flat, self.group)
        texts = {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in flat.texts().items()}
        pieces = self._plan.pieces(flat)
        if any(p.view.device.type != "cpu" for p in pieces):
            self._staging_of_gpus().reserve(pieces)
        self._client.prepare(self._plan.encode([(p.name, piece(p.view, p.begin, p.extent)) for p in pieces], texts))

    def save_async(self, step: int, state: Any, *, tier: str = "", notes: dict[str, str] | None = None) -> SaveFuture:
        """Copies this rank's part of `state`; the state may be changed when this returns (tensors on GPUs: after fence()).

        Returns a future that ends when the step is in `tier`: "staged" (whole in the agent's memory) or "local" (committed in the
        folder; the default, but "staged" where only some saves go to the disk). Never raises for what befalls a save; all of
        it is in the future, and logged: a state that changed since the first save (InvalidArgument, names what), no memory, a
        full disk, an agent that is gone. The training goes on.

        notes: texts for `convoy ckpt inspect`; those of one rank count.
        """
        started = time.monotonic()
        future = SaveFuture(step)
        tier_number = _C.TIERS.get(tier or ("local" if self._disk_every == 1 else "staged"))
        try:
            if tier_number is None:
                raise errors.InvalidArgument(f"there is no tier {tier!r}; use one of {', '.join(_C.TIERS)}")
            self._save(future, state, notes or {}, tier_number)
        except (errors.ConvoyError, RuntimeError) as error:
            future._fail(error)
        future.stall_s = time.monotonic() - started
        self._last = future
        return future

    def _save(self, future: SaveFuture, state: Any, notes: dict[str, str], tier: int) -> None:
        flat = flatten(state, self.group.rank)
        if self._plan is None:
            self._plan = make_plan(flat, self.group)
        plan = self._plan
        pieces = plan.pieces(flat)
        texts = {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in flat.texts().items()}
        if flat.problems:
            raise errors.InvalidArgument("; ".join(flat.problems))
        if all(p.view.device.type == "cpu" for p in pieces):
            self._hand_over(future, plan.encode([(p.name, piece(p.view, p.begin, p.extent)) for p in pieces], texts), notes, tier)
            return
        staging = self._staging_of_gpus()
        if self._staged is not None:
            self._staged.result()  # its memory is used again
        hosts = staging.start(pieces)
        encoded = plan.encode([(p.name, piece(host, p.begin, p.extent)) for p, host in zip(pieces, hosts, strict=True)], texts)

        def finish(texts: dict[str, torch.Tensor]) -> None:  # `texts` are kept alive by being here
            try:
                staging.wait()
                self._hand_over(future, encoded, notes, tier)
            except (errors.ConvoyError, RuntimeError) as error:
                future._fail(error)

        self._staged = self._worker.submit(finish, texts)

    def _staging_of_gpus(self) -> Staging:
        if self._staging is None:
            self._staging = Staging()
            self._worker = concurrent.futures.ThreadPoolExecutor(1, "convoy-staging")
        return self._staging

    def _hand_over(self, future: SaveFuture, encoded: list[tuple], notes: dict[str, str], tier: int) -> None:
        skipped, why, future.bytes = self._client.save(future.step, encoded, notes)
        if skipped:
            log.warning("checkpoint of step %d was skipped: %s", future.step, why)
            future.set_result(None)
        else:
            self._watcher.add(future, tier)

    def fence(self) -> None:
        """Call it before tensors on GPUs that were saved are written to, as the optimizer does: the current streams go on only
        when the copies have been made. Does not block this thread; nothing to do for tensors in CPU memory."""
        if self._staging is not None:
            self._staging.fence()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Calls fence() before each step of `optimizer`."""
        self._attached.append(optimizer.register_step_pre_hook(lambda *_: self.fence()))

    def wait(self, step: int, tier: str = "local", timeout_s: float = 300.0) -> None:
        """Blocks until the step has come to the tier. DeadlineExceeded; Aborted, FailedPrecondition or what the disk said if it
        never will."""
        end = time.monotonic() + timeout_s
        if self._staged is not None:
            self._staged.result(timeout_s)
        while True:
            try:
                return self._client.wait(step, _C.TIERS[tier], 0)
            except errors.DeadlineExceeded:
                if time.monotonic() > end:
                    raise
                time.sleep(_TURN_S)

    def latest(self) -> int | None:
        """The newest committed step of the folder, or None."""
        return next((step for step, _, problem in _C.steps_in(self.folder) if not problem), None)

    def _next_step(self) -> int:
        """One after the last save of this object, or the folder's newest step. Collective the first time."""
        if self._last is not None:
            return self._last.step + 1
        return self.group.gather((self.latest() or 0) + 1 if self.group.rank == 0 else 0)[0]

    def load(self, state: Any, step: int | None = None, *, strict: bool = True) -> Loaded:
        """convoy.checkpoint.load() from this folder; a newer step that the agent has in memory comes first. Collective."""
        return load_into(state, self.folder, step, strict, self.group, self._agent)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = 300.0) -> None:
        """Blocks until the last save has come to its tier or failed. (The agent writes on without it, too.)"""
        for handle in self._attached:
            handle.remove()
        self._attached = []
        if self._worker is not None:
            self._worker.shutdown(wait=True)
        if self._last is not None:
            concurrent.futures.wait([self._last], timeout_s)
