"""What is made to go wrong in a real run, and what the tracer has to say of it.

A Fault is known to all ranks and to the driver. Its hooks are called inside of the ranks; act() is called by the driver once the culprit has
come to the fault's step. proof() is what shows that it has really happened; an empty text: it has not.
"""
import contextlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

SO_MAX_PACING_RATE = 47


class Fault:
    """None: a healthy run."""

    name, classes, layouts = "healthy", (), ("dp8", "tp2pp2dp2", "hosts2")
    spin_s = 0.0  # of a core's time in each piece of work, on all ranks
    saver = 0
    patience_s = 6.0  # until it has to be told
    is_stuck = False  # training does not go on

    def __init__(self, rank: int, step: int, folder: pathlib.Path, random) -> None:
        self.rank, self.step, self.folder, self.random = rank, step, folder, random

    def truth(self) -> dict:
        return {"ranks": [self.rank]}

    def is_on(self, rank: int, step: int) -> bool:
        return rank == self.rank and step >= self.step

    def fired(self, text: str) -> None:
        """Remembers when it began, once, and what shows it."""
        path = self.folder / "fired"
        if not path.exists():
            (self.folder / "fired.new").write_text(f"{time.time()} {text}")
            (self.folder / "fired.new").rename(path)

    def onset(self) -> float:
        path = self.folder / "fired"
        return float(path.read_text().split()[0]) if path.exists() else 0.0

    def proof(self, run) -> str:
        path = self.folder / "fired"
        return path.read_text().split(" ", 1)[1] if path.exists() else ""

    # Inside of the ranks.
    def begin_step(self, rank: int, step: int) -> None: ...
    def compute_factor(self, rank: int, step: int) -> float:
        return 1.0

    def read(self, rank: int, step: int) -> None: ...
    def save(self, rank: int, step: int) -> None: ...
    def skips(self, rank: int, step: int) -> bool:
        return False

    def wrong_size(self, rank: int, step: int) -> int | None:
        return None

    def swaps(self, rank: int, step: int) -> bool:
        return False

    # By the driver.
    def act(self, pids: list[int]) -> None: ...
    def end(self) -> None: ...


class Stopped(Fault):
    """SIGSTOP at any moment of a step."""

    name, classes, is_stuck = "stopped", ("HOST_HANG",), True

    def act(self, pids: list[int]) -> None:
        time.sleep(self.random.uniform(0, 0.1))
        os.kill(pids[self.rank], signal.SIGSTOP)
        self.pid = pids[self.rank]
        self.fired("SIGSTOP")

    def proof(self, run) -> str:
        return "state T" if state_of(self.pid) == "T" else ""


class Killed(Fault):
    name, classes, is_stuck = "killed", ("CRASH",), True

    def act(self, pids: list[int]) -> None:
        time.sleep(self.random.uniform(0, 0.1))
        os.kill(pids[self.rank], signal.SIGKILL)
        self.fired("SIGKILL")

    def proof(self, run) -> str:
        return "killed by signal 9" if run.codes.get(self.rank) == -signal.SIGKILL else ""


class Raises(Fault):
    """An error in the script of one rank, as an exception."""

    name, classes, is_stuck = "raises", ("CRASH",), True

    def begin_step(self, rank: int, step: int) -> None:
        if self.is_on(rank, step):
            self.fired("exception")
            raise RuntimeError("bad sample")


class Hog(Fault):
    """Other processes on the only core that one rank may use."""

    name, classes, spin_s, layouts = "hog", ("SLOW_COMPUTE",), 0.001, ("dp8",)

    def act(self, pids: list[int]) -> None:
        cores = sorted(os.sched_getaffinity(0))
        for rank, pid in enumerate(pids):
            set_affinity(pid, {cores[0]} if rank == self.rank else set(cores[1:]) or {cores[0]})
        self.before = waits_of(pids[self.rank])
        self.pid = pids[self.rank]
        code = f"import os, sys\nos.sched_setaffinity(0, {{{cores[0]}}})\nwhile os.getppid() == {os.getpid()}:\n for i in range(100000): pass"
        self.hogs = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(6)]
        self.fired("hogs")

    def proof(self, run) -> str:
        waited = waits_of(self.pid) - self.before
        return f"waited {waited:.2f} s for its core" if waited > 0.3 else ""

    def end(self) -> None:
        for hog in getattr(self, "hogs", []):
            hog.kill()
            hog.wait()


class Slower(Fault):
    name, classes = "slower", ("SLOW_COMPUTE",)

    def compute_factor(self, rank: int, step: int) -> float:
        if not self.is_on(rank, step):
            return 1.0
        self.fired("computes 30 % longer")
        return 1.3


class Throttled(Fault):
    """Slower from time to time."""

    name, classes, patience_s = "throttled", ("SLOW_COMPUTE_PERIODIC",), 12.0

    def compute_factor(self, rank: int, step: int) -> float:
        if not self.is_on(rank, step) or (step - self.step) % 24 >= 8:
            return 1.0
        self.fired("computes 50 % longer in 8 of 24 steps")
        return 1.5


class Paced(Fault):
    """One link sends at a limited rate: SO_MAX_PACING_RATE on the sender's sockets to one peer of the other host."""

    name, classes, layouts, patience_s = "paced", ("SLOW_LINK",), ("hosts2",), 8.0

    def __init__(self, rank, step, folder, random) -> None:
        # Counters come once a second; five of them, after the first steps, say what is usual.
        super().__init__(rank, step + 60, folder, random)
        self.peer = random.choice([r for r in range(8) if r // 4 != rank // 4])

    def truth(self) -> dict:
        return {"links": [[self.rank, self.peer]]}

    def begin_step(self, rank: int, step: int) -> None:
        """Ports to peers: each rank tells its own; who has called whom is in the address."""
        if step == 1:
            ports = [s.getsockname()[1] for s in tcp_sockets()]
            (self.folder / f"ports_{rank}").write_text(" ".join(map(str, ports)))
        if step != self.step or rank != self.rank:
            return
        theirs = {int(p) for p in (self.folder / f"ports_{self.peer}").read_text().split()}
        paced = [s for s in tcp_sockets() if s.getpeername()[1] in theirs]
        for s in paced:
            s.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("I", 2 << 20))
        rates = [struct.unpack("I", s.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 4))[0] for s in paced]
        if rates:
            self.fired(f"{len(rates)} connections at {rates[0]} B/s")


class Loader(Fault):
    """One rank's samples come late, in every other step."""

    name, classes = "loader", ("DATALOADER_STALL",)

    def read(self, rank: int, step: int) -> None:
        if self.is_on(rank, step) and step % 2 == 0:
            self.fired("reads for 60 ms more")
            time.sleep(0.06)


class SlowSave(Fault):
    """The rank that saves keeps the others waiting."""

    name, classes = "slow_save", ("CHECKPOINT_STALL",)

    def __init__(self, rank, step, folder, random) -> None:
        super().__init__(rank, step, folder, random)
        self.saver = rank

    def save(self, rank: int, step: int) -> None:
        if step >= self.step:
            self.fired("saves for 0.4 s more")
            time.sleep(0.4)


class FrozenDisk(Fault):
    """A save that the kernel does not let go on: uninterruptible, as on a disk that is gone."""

    name, classes, is_stuck = "frozen_disk", ("STORAGE_STALL",), True

    def __init__(self, rank, step, folder, random) -> None:
        super().__init__(rank, step, folder, random)
        self.saver = rank

    def save(self, rank: int, step: int) -> None:
        if step < self.step:
            return
        fifo = str(self.folder / "nobody_writes")
        os.mkfifo(fifo)
        self.fired(f"pid {os.getpid()}")
        # The parent is held until its child has opened what never opens.
        os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 3, fifo, os.O_RDONLY, 0)])

    def proof(self, run) -> str:
        return "state D" if state_of(run.pids[self.rank]) == "D" else ""

    def end(self) -> None:
        """The child would outlive its parent."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.folder / "nobody_writes", os.O_WRONLY | os.O_NONBLOCK))


class FrozenLoader(Fault):
    """Samples from a pipe that nobody fills."""

    name, classes, is_stuck, patience_s = "frozen_loader", ("HOST_HANG",), True, 22.0

    def read(self, rank: int, step: int) -> None:
        if self.is_on(rank, step):
            self.fired("reads from an empty pipe")
            self.pipe = os.pipe()
            os.read(self.pipe[0], 1)


class WrongSize(Fault):
    name, classes, is_stuck = "wrong_size", ("MISMATCH_SIZE",), True

    def wrong_size(self, rank: int, step: int) -> int | None:
        if not self.is_on(rank, step):
            return None
        self.fired("all_reduce of 5 instead of 4")
        return 5


class Skipped(Fault):
    """A branch around one collective that one rank takes, once."""

    name, classes, is_stuck = "skipped", ("MISSING_CALL",), True

    def skips(self, rank: int, step: int) -> bool:
        if rank != self.rank or step != self.step:
            return False
        self.fired("leaves out one all_reduce")
        return True


class Swapped(Fault):
    """One rank calls two groups in the other order; its partner in the one waits for it in the other."""

    name, classes, is_stuck, layouts = "swapped", ("DEADLOCK_CYCLE",), True, ("tp2pp2dp2",)

    def truth(self) -> dict:
        return {"ranks": sorted([self.rank, self.rank ^ 1])}

    def swaps(self, rank: int, step: int) -> bool:
        if not self.is_on(rank, step):
            return False
        self.fired("calls all ranks before its tp group")
        return True


ALL = {f.name: f for f in (Fault, Stopped, Killed, Raises, Hog, Slower, Throttled, Paced, Loader, SlowSave, FrozenDisk, FrozenLoader,
                           WrongSize, Skipped, Swapped)}


def state_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def waits_of(pid: int) -> float:
    """Seconds that its first thread was ready without a core."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1]) * 1e-9
    except OSError:
        return 0.0


def set_affinity(pid: int, cores: set[int]) -> None:
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def tcp_sockets() -> list[socket.socket]:
    """This process's connections, as duplicates."""
    found = []
    for fd in pathlib.Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(fd).startswith("socket:"):
                continue
            s = socket.socket(fileno=os.dup(int(fd.name)))
            s.getpeername()
            if s.family in (socket.AF_INET, socket.AF_INET6) and s.type & socket.SOCK_STREAM:
                found.append(s)
        except OSError:
            continue
    return found
