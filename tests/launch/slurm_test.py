"""examples/slurm/train.sbatch under a real Slurm: slurm_test.py CONVOY TRAIN_LLAMA SCRIPT

Method: slurmctld and two slurmd run on this machine, as in launchers_test.py, and play two machines with a launcher and 2 ranks each. A
job that nobody disturbs gives the reference. Then a rank is killed, and one job is requeued three times: by `scontrol requeue`, by
the signal before its time limit, and because a machine's launcher was killed with all it had started. Each must end as COMPLETED, with
the reference's loss in every step, having gone on from the newest save; only a lost machine may take one with it.
A program that fails on its own must not be requeued. Exit code 77: Slurm is not installed. Slurm's own discovery of a dead node is
not waited for.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import launchers_test as launchers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402

CONVOY, TRAIN, SCRIPT = map(os.path.abspath, sys.argv[1:4])
PATIENCE_S = 90
STEPS, SAVE_EVERY = 60, 5


def wait_until(what, holds, job):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"{what}: not in {PATIENCE_S} s\n{job.show()}\n{job.text()}"
        time.sleep(0.05)


class Job:
    """One that was given to sbatch."""

    def __init__(self, cluster, folder, name, *program):
        self.cluster, self.folder = cluster, folder / name
        self.folder.mkdir()
        settings = {"RUN_DIR": str(self.folder), "RANKS_PER_NODE": "2", "SPARES": "0", "CONVOY": str(folder / "convoy"),
                    "RDZV": f"127.0.0.1:{free_port(neighbours=2)}", "CONVOY_ADDRESS": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        self.log = self.folder / "log"
        self.id = cluster.ask("sbatch", "--parsable", f"--output={self.log}", SCRIPT, *program,
                              **settings).strip()
        assert self.id.isdigit(), f"sbatch: '{self.id}'\n{cluster.logs()}"

    def show(self):
        return self.cluster.ask("scontrol", "show", "job", self.id)

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else "no output"

    def shown(self, name):
        found = re.search(rf"\b{name}=(\S+)", self.show())
        return found.group(1) if found else ""

    def end(self, state="COMPLETED", code="0:0", restarts=0):
        wait_until("the job's end", lambda: self.shown("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), self)
        assert (self.shown("JobState"), self.shown("ExitCode"), self.shown("Restarts")) == (state, code, str(restarts)), \
            f"{self.show()}\n{self.text()}"

    def metrics(self):
        """step -> loss, the newest one of each. The last line may be under way."""
        path = self.folder / "node-0" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = {}
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                values = json.loads(line)
                if "loss" in values:
                    found[values["step"]] = values["loss"]
        return found

    def await_step(self, step):
        """The newest step that is done."""
        wait_until(f"step {step}", lambda: max(self.metrics(), default=0) >= step or self.shown("JobState") == "FAILED", self)
        newest = max(self.metrics(), default=0)
        assert step <= newest < STEPS, f"step {newest} came first\n{self.text()}"
        return newest

    def resumed_from(self):
        """Of each start but the first."""
        return [int(step) for step in re.findall(r"resumed from step (\d+) ", self.text())]

    def result(self):
        lines = [line for line in self.text().splitlines() if line.startswith("[0] {")]
        return json.loads(lines[-1][4:])

    def ranks(self):
        """rank -> pid."""
        done = subprocess.run([CONVOY, "status", str(self.folder / "node-0"), "--json"], capture_output=True, text=True, timeout=30)
        return {r["rank"]: r["pid"] for r in json.loads(done.stdout)["ranks"]}

    def processes(self, node):
        """All that the step has on a node."""
        marks = [f"SLURMD_NODENAME={node}", f"SLURM_JOB_ID={self.id}", f"SLURM_CONF={self.cluster.config}", "SLURM_STEP_ID=0"]
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes().split(b"\0")
                if all(mark.encode() in environment for mark in marks):
                    found.append(int(entry.name))
        return found


def train(cluster, folder, name):
    return Job(cluster, folder, name, TRAIN, "--data", str(folder / "text.tokens"), "--steps", str(STEPS), "--batch", "8", "--sequence", "24",
               "--json", "--no-baseline", "--sample", "0", "--dtype", "float64", "--checkpoint", str(folder / f"{name}-checkpoints"),
               "--checkpoint-every", str(SAVE_EVERY))


def check_numbers(job, reference):
    """Loss curve and result, bit for bit."""
    assert job.metrics() == reference.metrics(), "\n".join(
        f"step {step}: {loss}, undisturbed {reference.metrics().get(step)}" for step, loss in job.metrics().items()
        if loss != reference.metrics().get(step))
    for name in ("steps", "loss", "grad_norm", "validation_loss"):
        assert job.result()[name] == reference.result()[name], (name, job.result(), reference.result())


def undisturbed(cluster, folder):
    job = train(cluster, folder, "undisturbed")
    job.end()
    assert sorted(job.metrics()) == list(range(1, STEPS + 1)), job.text()
    assert (job.folder / "node-1" / "logs" / "rank_3.log").exists(), "the second machine has no ranks"
    assert (job.folder / "token").stat().st_mode & 0o777 == 0o600
    print("  a job on two machines", flush=True)
    return job


def killed_rank(cluster, folder, reference):
    job = train(cluster, folder, "killed-rank")
    job.await_step(12)
    os.kill(job.ranks()[3], signal.SIGKILL)
    job.end()
    check_numbers(job, reference)
    incidents = (job.folder / "node-0" / "incidents.jsonl").read_text().splitlines()
    assert len(incidents) == 1 and json.loads(incidents[0])["survived"], incidents
    assert not job.resumed_from(), job.text()
    print("  SIGKILL of a rank: recovered within the job", flush=True)


def requeue(job):
    job.cluster.ask("scontrol", "requeue", job.id)


def signal_before_the_limit(job):
    job.cluster.ask("scancel", "--batch", "--signal=USR1", job.id)


def lose_a_machine(job):
    """As if the power had gone: nobody may see another one die and do something about it."""
    pids = job.processes("node1")
    assert len(pids) >= 4, f"launcher, guardian and ranks were expected: {pids}"  # and the agent, the line to the supervisor
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)


def requeued(cluster, folder, reference):
    job = train(cluster, folder, "requeued")
    for number, (disturb, step, lost, says) in enumerate([(requeue, 12, 0, "DUE TO JOB REQUEUE"),
                                                          (signal_before_the_limit, 22, 0, "requeue: the time limit is near"),
                                                          (lose_a_machine, 34, 1, "requeue: exit code ")]):
        newest = job.await_step(step)
        disturb(job)
        wait_until("another start", lambda: len(job.resumed_from()) > number or job.shown("JobState") == "FAILED", job)  # noqa: B023
        assert says in job.text(), job.text()
        resumed = job.resumed_from()
        saved = ((newest - 1) // SAVE_EVERY - lost) * SAVE_EVERY  # - 1: another rank may be at it still
        assert len(resumed) == number + 1 and resumed[-1] >= saved, f"from {resumed}, but step {saved} had been saved\n{job.text()}"
        print(f"  {disturb.__name__} after step {newest}: goes on from step {resumed[-1]}", flush=True)
    job.end(restarts=3)
    check_numbers(job, reference)
    assert len((job.folder / "requeues").read_text().splitlines()) == 2, "Slurm's own requeue is none of the script's"


def own_failure(cluster, folder):
    job = Job(cluster, folder, "own-failure", "bash", "-c", "echo no such luck; exit 3")
    job.end("FAILED", "3:0")
    assert "no such luck" in job.text() and not (job.folder / "requeues").exists(), job.text()
    print("  the program's own failure is not requeued", flush=True)


def prepare(folder):
    (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
    subprocess.run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")], check=True, capture_output=True)
    # Two nodes on one machine: what they share must look as if it were not shared.
    (folder / "convoy").write_text(f'#!/bin/sh\nexport CONVOY_HOST_ID=$SLURMD_NODENAME\nexec {CONVOY} "$@"\n')
    (folder / "convoy").chmod(0o755)


def main():
    with launchers.slurm(nodes=2) as cluster, tempfile.TemporaryDirectory(prefix="convoy-slurm-job-") as name:
        folder = pathlib.Path(name)
        prepare(folder)
        reference = undisturbed(cluster, folder)
        killed_rank(cluster, folder, reference)
        own_failure(cluster, folder)
        requeued(cluster, folder, reference)


if __name__ == "__main__":
    main()
    print("ok")
