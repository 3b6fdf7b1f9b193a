"""One real run under the tracer: an aggregator, a collector for each (pretended) host, eight ranks; and what the aggregator tells."""
import ctypes
import json
import mmap
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import traceback
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from ports import free_port  # noqa: E402
from training import MESHES, SIZE, Training  # noqa: E402


def die_with_parent() -> None:
    """Of a child: nothing is left behind when this process is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Tracer:
    """`convoy trace serve`, and `convoy trace collect` for the given processes: those of other jobs on this machine stay out."""

    def __init__(self, convoy: str, layout: str, folder: pathlib.Path) -> None:
        self.convoy, self.layout, self.folder = convoy, layout, folder
        self.mesh = ["--mesh", MESHES[layout], "--world-size", str(SIZE)]
        self.seen: list[dict] = []  # verdicts, each as it was told first and whenever it has changed
        self.told_at: dict[str, float] = {}  # when, by their sentences
        self.processes: list[subprocess.Popen] = []
        self.server = self.start("serve", "--host", "127.0.0.1", "--page", "0", "--run-file", str(folder / "run.cvts"), stdout=subprocess.PIPE)
        self.lines = self.server.stdout
        self.port = self.line().rsplit(" ", 1)[1]
        self.page = self.line().split(" ", 1)[1].rstrip("/")
        os.set_blocking(self.lines.fileno(), False)

    def start(self, what: str, *options: str, stdout=None) -> subprocess.Popen:
        log = (self.folder / "tracer.log").open("a")
        self.processes.append(subprocess.Popen([self.convoy, "trace", what, *options, *self.mesh], stdout=stdout or log, stderr=log,
                                               preexec_fn=die_with_parent))
        return self.processes[-1]

    def line(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            one = self.lines.read(1)
            if not one:
                raise RuntimeError(f"the aggregator has ended: {(self.folder / 'tracer.log').read_text()}")
            text += one
        return text.decode().strip()

    def collect(self, pids: list[int]) -> None:
        hosts = {"one": pids} if self.layout != "hosts2" else {"host0": pids[:SIZE // 2], "host1": pids[SIZE // 2:]}
        for host, its in hosts.items():
            self.start("collect", "--to", f"127.0.0.1:{self.port}", "--host", host, *map(str, its))

    def overview(self) -> dict:
        with urllib.request.urlopen(f"{self.page}/api/overview", timeout=30) as reply:
            return json.load(reply)

    def look(self, wait_s: float) -> None:
        """Waits for lines of the aggregator, so long at most."""
        if not select.select([self.lines], [], [], wait_s)[0]:
            return
        for line in (self.lines.read() or b"").decode().splitlines():
            if line.startswith("found: "):
                self.told_at.setdefault(line.split(": ", 2)[2], time.time())

    def learn(self) -> None:
        """What has been told so far; a view is made once a second."""
        for verdict in self.overview()["verdicts"]:
            if not any(verdict["class"] == v["class"] and verdict["culprit"] == v["culprit"] for v in self.seen):
                self.seen.append({**verdict, "at": self.told_at.get(verdict["summary"], time.time())})

    def verdicts(self) -> list[dict]:
        """As they stand now, surest first; without those about the warm-up."""
        time.sleep(1.1)  # a view is made once a second
        now = [v for v in self.overview()["verdicts"] if v["class"] != "WARMUP"]
        return sorted(now, key=lambda v: -v["confidence"])

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(timeout=60)
        self.lines.close()


class Ranks:
    """Forked from this process, so that torch is imported once."""

    def __init__(self, fault, options, folder: pathlib.Path) -> None:
        self.codes: dict[int, int] = {}  # of those that have ended; -9: by signal 9
        self.pids: list[int] = []
        self.steps = memoryview(mmap.mmap(-1, 8 * SIZE)).cast("q")
        given = {"WORLD_SIZE": SIZE, "LOCAL_WORLD_SIZE": SIZE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
                 "CONVOY_JOB_ID": f"real-{os.getpid()}", "TORCH_FR_BUFFER_SIZE": 0}
        go, gone = os.pipe()
        sys.stdout.flush()
        for rank in range(SIZE):
            pid = os.fork()
            if pid == 0:
                die_with_parent()
                os.environ.update({k: str(v) for k, v in {**given, "RANK": rank, "LOCAL_RANK": rank}.items()})
                os.close(gone)
                os.read(go, 1)  # until all are known to the collectors
                self.be(rank, fault, options, folder)
            self.pids.append(pid)
        os.close(go)
        self.gate = gone

    def be(self, rank: int, fault, options, folder: pathlib.Path) -> None:
        code = 1
        try:
            out = os.open(folder / f"rank_{rank}.log", os.O_CREAT | os.O_WRONLY)
            os.dup2(out, 1)
            os.dup2(out, 2)
            Training(rank, fault, self.steps, options).run()
            code = 0
        except BaseException:  # noqa: BLE001  a rank's end is what is looked at
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def go(self) -> None:
        os.close(self.gate)

    def look(self) -> None:
        for rank, pid in enumerate(self.pids):
            if rank in self.codes:
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.codes[rank] = os.waitstatus_to_exitcode(status)

    def step(self) -> int:
        return min(self.steps)

    def end(self) -> None:
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
