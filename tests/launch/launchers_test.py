"""The same worker under convoy run, torchrun, mpirun and srun: launchers_test.py LAUNCHER WORKER CONVOY

Method: start real launchers with N ranks of tests/launch/worker.cc, which prints what read_environment() saw, and
check that every rank found its place, and all the same store. Slurm is started for the test: one machine that declares
8 CPUs, all state in a temporary folder, ended afterwards. Exit code 77 means that the launcher is not installed.
Does not check several machines; the node list's grammar is in environment_test.cc.
"""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402

SKIPPED = 77
RANKS = 3
LINE = re.compile(r"worker rank=(\d+) size=(\d+) local=(\d+)/(\d+) master=([^:]+):(\d+) by=(.+)")
LAUNCHER_VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|CONVOY_(?!VENV)|OMPI_|PMI|SLURM|TORCHELASTIC)")


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def clean_environment(**more):
    kept = {k: v for k, v in os.environ.items() if not LAUNCHER_VARIABLES.match(k)}
    return {**kept, **more}


def run(command, **more):
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, env=clean_environment(**more), text=True, timeout=150, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tempfile.gettempdir())
    print(done.stdout, flush=True)
    assert done.returncode == 0, f"exit code {done.returncode}"
    return done.stdout


def check(output, by, master=None):
    found = sorted(LINE.findall(output), key=lambda f: int(f[0]))
    assert [int(f[0]) for f in found] == list(range(RANKS)), found
    for rank, f in enumerate(found):
        assert f[1:4] == (str(RANKS), str(rank), str(RANKS)), f
        assert f[6].strip() == by, f
    masters = {f[4:6] for f in found}
    assert len(masters) == 1, f"the ranks look for the store in different places: {masters}"
    address, port = masters.pop()
    assert 0 < int(port) < 65536
    assert master is None or address == master, address


def under_convoy(worker, convoy):
    with tempfile.TemporaryDirectory() as folder:
        check(run([convoy, "run", "-n", str(RANKS), "--output", folder, "--", worker]), "convoy run", "127.0.0.1")


def torchrun():
    """The command torchrun."""
    venv = os.environ.get("CONVOY_VENV", os.path.expanduser("~/.cache/convoy/venv"))
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python):
        skip(f"no {python}")
    if subprocess.run([python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"],
                      timeout=60).returncode != 0:
        skip(f"{python} has no torch")
    return [python, "-m", "torch.distributed.run"]


def under_torchrun(worker, _):
    check(run([*torchrun(), "--nproc-per-node", str(RANKS), "--master-addr", "127.0.0.1",
               "--master-port", str(free_port()), "--no-python", worker]), "torchrun", "127.0.0.1")


def under_mpirun(worker, _):
    if shutil.which("mpirun") is None:
        skip("no mpirun")
    check(run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(RANKS), worker]), "mpirun", "127.0.0.1")


class Slurm:
    """A Slurm cluster of this machine alone, with one slurmd for each of its nodes."""

    CONFIG = """ClusterName=convoy_test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
"""  # A requeued job waits for cred_expire, of which 5 s is the least, and for the scheduler.
    NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 State=UNKNOWN\n"
    PARTITION = "PartitionName=test Nodes={names} Default=YES MaxTime=INFINITE State=UP\n"

    def __init__(self, folder, nodes=1):
        self.folder = pathlib.Path(folder)
        self.daemons = []
        self.host = socket.gethostname().split(".")[0]
        self.nodes = [self.host] if nodes == 1 else [f"node{i}" for i in range(nodes)]
        (self.folder / "state").mkdir()
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        os.chmod(self.folder / "munge.key", 0o400)
        self.config = self.folder / "slurm.conf"
        controller = free_port(neighbours=nodes)
        ports = range(controller + 1, controller + 1 + nodes)
        self.config.write_text(self.CONFIG.format(host=self.host, folder=folder, controller_port=controller)
                               + "".join(self.NODE.format(name=n, host=self.host, port=p) for n, p in zip(self.nodes, ports))
                               + self.PARTITION.format(names=",".join(self.nodes)))

    def start(self):
        f = self.folder
        self._daemon("munged", "--foreground", "--force", f"--key-file={f}/munge.key", f"--socket={f}/munge.socket",
                     f"--pid-file={f}/munged.pid", f"--log-file={f}/munged.log", f"--seed-file={f}/munged.seed")
        self._wait("munged's socket", lambda: (f / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-f", str(self.config))
        for node in self.nodes:
            self._daemon("slurmd", "-D", "-f", str(self.config), "-N", node)
        self._wait("idle nodes", lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(self.nodes)))

    def environment(self):
        return clean_environment(SLURM_CONF=str(self.config))

    def ask(self, *command, **more):
        """What one of Slurm's commands says."""
        return subprocess.run(command, env=self.environment() | more, text=True, timeout=60, capture_output=True).stdout

    def _daemon(self, *command):
        log = open(self.folder / f"{command[0]}-{len(self.daemons)}.out", "w")
        self.daemons.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _wait(self, what, holds, seconds=90):
        end = time.monotonic() + seconds
        while not holds():
            dead = [d.args[0] for d in self.daemons if d.poll() is not None]
            if dead or time.monotonic() > end:
                raise RuntimeError(f"no {what}; ended: {dead}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self):
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("*.log"))
                         + sorted(self.folder.glob("*.out")))

    def stop(self):
        # A step lives a little longer than srun; it must not outlive the test.
        self.ask("scancel", "--user", "root")
        self._wait("empty queue", lambda: not self.ask("squeue", "-h").strip())
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in children():
            os.kill(pid, signal.SIGKILL)


def adopt_orphans():
    """Makes this process the parent of what its children leave behind (PR_SET_CHILD_SUBREAPER)."""
    assert ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0


def children():
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def slurm(nodes=1):
    """A running cluster, for as long as the context lasts."""
    missing = [p for p in ("slurmctld", "slurmd", "srun", "sbatch", "sinfo", "munged") if shutil.which(p) is None]
    if missing or os.geteuid() != 0:
        skip(f"Slurm needs {', '.join(missing) or 'root'}")
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="convoy-slurm-") as folder:
        os.chmod(folder, 0o755)  # munge trusts no socket in a folder that others can't search
        cluster = Slurm(folder, nodes)
        try:
            cluster.start()
            yield cluster
        except Exception:
            print(cluster.logs())
            raise
        finally:
            cluster.stop()


def under_srun(worker, _):
    with slurm() as cluster:
        check(run(["srun", "-n", str(RANKS), worker], SLURM_CONF=str(cluster.config)), "srun", "127.0.0.1")


if __name__ == "__main__":
    {"convoy": under_convoy, "torchrun": under_torchrun, "mpirun": under_mpirun,
     "srun": under_srun}[sys.argv[1]](*map(os.path.abspath, sys.argv[2:4]))
    print("ok")
