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
from convoy.checkpoint._load import Loaded, load_into, raise_together
from convoy.checkpoint._plan import Plan, make_plan
from convoy.checkpoint._staging import Staging
from convoy.checkpoint._state import flatten

log = logging.getLogger("convoy.checkpoint")
_TURN_S = 0.01  # between two looks at saves that are on their way
_MEMORY_S, _PEERS_S = 10.0, 60.0  # until agents have answered; peers: until all of them are there
_OVERTAKE = {"wait": 0, "skip": 1, "replace": 2}


def _this_machine() -> str:
    """The same on all ranks that reach one agent."""
    given = os.environ.get("CONVOY_HOST_ID")
    if given:
        return given
    # Names may be equal, as in containers; an agent's socket belongs to a network namespace of one kernel.
    with open("/proc/sys/kernel/random/boot_id") as boot:
        return f"{socket.gethostname()} {boot.read().strip()} {os.readlink('/proc/self/ns/net')}"


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
    """Saves a job's state into `folder`, asynchronously, and loads it again. `folder`: a path that all machines see, or the
    URI of an object store.

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
    saves one in so many goes to the folder, the others stay in memory. bandwidth: bytes/s that a machine writes, 0: no limit.
    compress: zstd level, 0: none. incremental: chunks that have not changed are not written again. take_over: the folder, from
    a job that was killed before it could give it back. overtake: what a save does that finds both snapshots in use: "wait",
    "skip" or "replace" the one that waits for the disk. threads: that copy. timeout_s: of every question to the agent.

    remote: URI of an object store that takes what the folder has; remote_*: the same for it. replicas: (k, m), each save is
    also kept in other machines' memory, in k pieces with m more for as many lost machines; (1, 1): a copy. replica_bandwidth:
    bytes/s that a machine sends for it. domain: this machine's rack or power feed; pieces go to others.

    Raises convoy.errors.*, the same on all ranks, if the agent can't be had or the options can't work.
    """

    def __init__(self, folder: str | os.PathLike, *, job: str = "train", keep_newest: int = 2, keep_every: int = 0,
                 disk_every: int = 1, bandwidth: int = 0, compress: int = 0, remote: str = "", remote_every: int = 1,
                 remote_keep_newest: int = 2, remote_keep_every: int = 0, remote_bandwidth: int = 0, remote_compress: int = 0,
                 replicas: tuple[int, int] | None = None, replica_bandwidth: int = 0, domain: str = "", incremental: bool = True,
                 take_over: bool = False, overtake: str = "wait", threads: int = 2, timeout_s: float = 60.0,
                 process_group: "torch.distributed.ProcessGroup | None" = None):
        if overtake not in _OVERTAKE:
            raise errors.InvalidArgument(f"overtake is {overtake!r}; use one of {', '.join(_OVERTAKE)}")
        self.folder = place(folder)
        self.group = Group(process_group)
        fields = {"folder": self.folder, "keep_newest": keep_newest, "keep_every": keep_every, "disk_every": disk_every,
                  "bandwidth": bandwidth, "compress": compress, "remote": remote, "remote_every": remote_every,
                  "remote_keep_newest": remote_keep_newest, "remote_keep_every": remote_keep_every,
                  "remote_bandwidth": remote_bandwidth, "remote_compress": remote_compress}
        if _C.is_store_uri(self.folder):
            if remote:
                raise errors.InvalidArgument(f"{self.folder} is a store; `remote` is for what a folder has")
            fields = {"folder": "", "remote": self.folder, "remote_every": disk_every, "remote_keep_newest": keep_newest,
                      "remote_keep_every": keep_every, "remote_bandwidth": bandwidth, "remote_compress": compress}
        elif remote and not _C.is_store_uri(remote):
            raise errors.InvalidArgument(f"remote is {remote!r}; it must be a URI such as s3://bucket/run")
        replica_k, replica_m = replicas or (1, 0)
        fields |= {"replica_k": replica_k, "replica_m": replica_m, "replica_bandwidth": replica_bandwidth, "domain": domain,
                   "incremental": incremental, "take_over": take_over, "threads": threads, "timeout": timeout_s,
                   "overtake": _OVERTAKE[overtake], "mesh": os.environ.get("CONVOY_MESH", ""), "job": job,
                   "rank": self.group.rank, "world_size": self.group.size}
        self._places = [where for where in (fields["folder"], fields["remote"]) if where]
        self._places_tier = "local" if fields["folder"] else "remote"
        self._default_tier = "staged" if disk_every != 1 else self._places_tier
        self._plan: Plan | None = None
        self._staging: Staging | None = None
        self._staged: concurrent.futures.Future | None = None  # the save whose memory Staging holds
        self._worker: concurrent.futures.ThreadPoolExecutor | None = None
        self._last: SaveFuture | None = None
        self._attached: list[Any] = []
        self._client = self._connect(fields)
        self._watcher = _Watcher(self._client)

    def _connect(self, fields: dict[str, Any]) -> Any:
        host = _this_machine()
        hosts = self.group.gather(host)
        neighbours = [rank for rank, name in enumerate(hosts) if name == host]
        timeout_s = fields["timeout"]
        mine: dict[str, Any] = {}
        try:
            if self.group.rank == neighbours[0]:
                mine["agent"] = _C.ensure_agent(timeout_s)
            if self.group.rank == 0:
                mine["generation"] = self._next_generation(fields["folder"], fields["remote"])
        except (errors.ConvoyError, OSError, ValueError) as error:
            mine["error"] = f"{type(error).__name__}: {error}"
        ranks = self.group.gather(mine)
        failed = [f"rank {rank}: {said['error']}" for rank, said in enumerate(ranks) if "error" in said]
        if failed:
            raise errors.Unavailable(f"checkpoints can't be made in {self.folder}: " + "; ".join(failed))
        self._agent = fields["agent"] = ranks[neighbours[0]]["agent"]
        self._generation = fields["generation"] = ranks[0]["generation"]
        self._coordinator = ""
        fields["local_size"] = len(neighbours)
        if len(neighbours) < self.group.size:
            fields["node"], fields["nodes"], fields["local_size"], self._coordinator = _C.find_nodes(
                self.group.process_group, self._agent, timeout_s)
            fields["coordinator"] = self._coordinator
        client, failure = None, None
        try:
            client = _C.SnapshotClient(fields)
        except errors.ConvoyError as error:
            failure = [errors.kind_of(error), str(error)]
        raise_together(failure, self.group)
        return client

    @staticmethod
    def _next_generation(folder: str, remote: str) -> int:
        """Newer than whatever has written there: this start of the job is the one that counts."""
        owners = [-1]
        if folder:
            os.makedirs(folder, exist_ok=True)
            owners.append(_C.owner_generation(folder))
        if remote:
            try:
                owners.append(_C.owner_generation(remote))
            except (errors.Unavailable, errors.DeadlineExceeded) as error:
                if not folder:
                    raise
                log.warning("nothing is saved to the store until it can be reached: %s", error)
        return max(int(os.environ.get("CONVOY_GENERATION") or 0), *(owner + 1 for owner in owners))

    def _open_memory(self) -> Any:
        """Of this machine's agent, or of all agents together."""
        if self._coordinator:
            return _C.open_peers(self._coordinator, self._generation, _PEERS_S)
        return _C.open_memory(self._agent, _MEMORY_S)

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

    def save_async(self, step: int, state: Any, *, tier: str = "", notes: dict[str, str] | None = None,
                   everywhere: bool = False) -> SaveFuture:
        """Copies this rank's part of `state`; the state may be changed when this returns (tensors on GPUs: after fence()).

        Returns a future that ends when the step is in `tier`: "staged" (whole in the agents' memory), "replicated" (in other
        machines' memory), "local" (committed in the folder; the default, but "staged" where only some saves go there) or
        "remote" (committed in the store; of several machines only the first one's ranks can wait for it). Never raises for what
        befalls a save; all of it is in the future, and logged: a state that changed since the first save (InvalidArgument, names
        what), no memory, a full disk, an agent that is gone. The training goes on.

        notes: texts for `convoy ckpt inspect`; those of one rank count. everywhere: it goes to folder and store, whatever
        disk_every and remote_every say, as the last one of a job should; all ranks alike.
        """
        started = time.monotonic()
        future = SaveFuture(step)
        tier_number = _C.TIERS.get(tier or (self._places_tier if everywhere else self._default_tier))
        try:
            if tier_number is None:
                raise errors.InvalidArgument(f"there is no tier {tier!r}; use one of {', '.join(_C.TIERS)}")
            self._save(future, state, (notes or {}, everywhere), tier_number)
        except (errors.ConvoyError, RuntimeError) as error:
            future._fail(error)
        future.stall_s = time.monotonic() - started
        self._last = future
        return future

    def _save(self, future: SaveFuture, state: Any, how: tuple[dict[str, str], bool], tier: int) -> None:
        flat = flatten(state, self.group.rank)
        if self._plan is None:
            self._plan = make_plan(flat, self.group)
        plan = self._plan
        pieces = plan.pieces(flat)
        texts = {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in flat.texts().items()}
        if flat.problems:
            raise errors.InvalidArgument("; ".join(flat.problems))
        if all(p.view.device.type == "cpu" for p in pieces):
            self._hand_over(future, plan.encode([(p.name, piece(p.view, p.begin, p.extent)) for p in pieces], texts), how, tier)
            return
        staging = self._staging_of_gpus()
        if self._staged is not None:
            self._staged.result()  # its memory is used again
        hosts = staging.start(pieces)
        encoded = plan.encode([(p.name, piece(host, p.begin, p.extent)) for p, host in zip(pieces, hosts, strict=True)], texts)

        def finish(texts: dict[str, torch.Tensor]) -> None:  # `texts` are kept alive by being here
            try:
                staging.wait()
                self._hand_over(future, encoded, how, tier)
            except (errors.ConvoyError, RuntimeError) as error:
                future._fail(error)

        self._staged = self._worker.submit(finish, texts)

    def _staging_of_gpus(self) -> Staging:
        if self._staging is None:
            self._staging = Staging()
            self._worker = concurrent.futures.ThreadPoolExecutor(1, "convoy-staging")
        return self._staging

    def _hand_over(self, future: SaveFuture, encoded: list[tuple], how: tuple[dict[str, str], bool], tier: int) -> None:
        skipped, why, future.bytes = self._client.save(future.step, encoded, *how)
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
        return next((step for step, _, _, problem in _C.steps_in(self.folder) if not problem), None)

    def _next_step(self) -> int:
        """One after the last save of this object, or the folder's newest step. Collective the first time."""
        if self._last is not None:
            return self._last.step + 1
        return self.group.gather((self.latest() or 0) + 1 if self.group.rank == 0 else 0)[0]

    def load(self, state: Any, step: int | None = None, *, strict: bool = True) -> Loaded:
        """convoy.checkpoint.load() from this folder; a newer step that agents have in memory comes first, one that only the
        store has, last. Collective."""
        return load_into(state, self._places, step, strict, self.group, self._open_memory)

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
