#!/usr/bin/env python3
"""Real jobs under `convoy chaos`: campaign.py CONVOY TRAIN_LLAMA [--faults 6] [--seed 1] [--steps 4000] [--seconds 0] [--out FOLDER]

Method: a run that nobody disturbs gives the reference: in float64, loss, gradient norm and tokens of each step. Then jobs like it, 8
ranks, tp=2 pp=2 dp=2 with a spare, a tracer and checkpoints, one after the other, each with some faults that its seed draws, those of
the first job with one in the middle of a recovery, until FAULTS faults were survived or SECONDS have passed. Every job must end when it is
asked to, with nothing left behind; `convoy chaos` checks the rest, step by step against the reference.

Exit code 0: everything held; 1: it did not, the seeds that show it again are printed and the folders kept.
"""
import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
RANKS, MESH = 8, "tp=2,pp=2,dp=2"
FAULTS_PER_JOB = 8
DISK_EVERY = 10
# In the folder: what is being written, and two before it. Four are kept, for a flipped bit of one of two replicas sends all back to before
# the 16 steps in which it could have happened.
FOLDER_PROMISE, KEEP = 4 * DISK_EVERY, 4
DISK_MIB = 256
END_S = 60
OWN_MOUNTS = os.environ.get("CHAOS_OWN_MOUNTS") == "1"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convoy")
    parser.add_argument("train")
    parser.add_argument("--faults", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1, help="of the first job; the next has the next one")
    parser.add_argument("--steps", type=int, default=4000, help="of a job, at most")
    parser.add_argument("--seconds", type=float, default=0, help="no new job after these; 0: until all faults are done")
    parser.add_argument("--every", default="1s", help="from a fault to the next, on average")
    parser.add_argument("--out", default="", help="keep all folders here")
    return parser.parse_args()


class Campaign:
    def __init__(self, arguments: argparse.Namespace, folder: pathlib.Path):
        self.arguments, self.folder = arguments, folder
        self.convoy, self.train = (str(pathlib.Path(path).resolve()) for path in (arguments.convoy, arguments.train))
        self.tokens = str(folder / "text.tokens")
        (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
        subprocess.run([self.convoy, "data", "prepare", str(folder / "text.txt"), "-o", self.tokens], check=True, capture_output=True)
        self.done: list[dict] = []
        self.next_step: list[tuple[float, int]] = []  # seconds, the job's seed
        self.lost = self.recoveries = 0
        self.elapsed = self.trained = 0.0
        self.failed: list[str] = []

    def start(self, out: pathlib.Path, steps: int, launcher: list[str], trainer: list[str]) -> subprocess.Popen:
        with open(f"{out}.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(
                [self.convoy, "run", "-n", str(RANKS), "--mesh", MESH, "--output", str(out), *launcher, "--", self.train, "--data",
                 self.tokens, "--steps", str(steps), "--batch", "8", "--sequence", "24", "--no-baseline", "--sample", "0",
                 "--dtype", "float64", *trainer], stdout=log, stderr=log, env=ENVIRONMENT)

    def reference(self) -> None:
        """Long enough for most jobs; steps behind it are compared with nothing."""
        out = self.folder / "reference"
        began = time.monotonic()
        job = self.start(out, self.arguments.steps, ["--no-recover"], [])
        count = min(self.arguments.faults, FAULTS_PER_JOB)
        while job.poll() is None and time.monotonic() - began < 10 + 2.5 * count:
            time.sleep(0.1)
        end(job)
        print(f"reference: {len((out / 'metrics.jsonl').read_text().splitlines())} steps, nobody disturbs them", flush=True)

    def mount(self, run: pathlib.Path) -> bool:
        """A small disk for the job's checkpoints alone, which may be filled and frozen; in this process's own mount namespace."""
        at = run / "checkpoints"
        at.mkdir(parents=True)
        if not OWN_MOUNTS:
            return False
        image = pathlib.Path(f"{run}.ext4")
        with open(image, "wb") as file:
            file.truncate(DISK_MIB << 20)
        commands = (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(at)])
        if all(quiet(command) for command in commands):
            (at / "lost+found").rmdir()
            return True
        image.unlink()
        return quiet(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(at)])

    def plan(self, seed: int, count: int, run: pathlib.Path, has_disk: bool) -> list[str]:
        """The first job's faults must have one in the middle of a recovery, a flipped bit and a full disk: the seed's plan is made so."""
        words = ["--seed", str(seed), "--faults", str(count), "--every", self.arguments.every]
        if self.done or count < 5:
            return words
        drawn = subprocess.run([self.convoy, "chaos", str(run), *words, "--checkpoints", str(run / "checkpoints"), "--dry-run"],
                               capture_output=True, text=True, check=True).stdout
        faults = json.loads(drawn)["faults"]
        kinds = {f["kind"] for f in faults[:count - 4]}
        samples = []
        if not any(f.get("in_recovery") for f in faults[:count - 4]):
            samples += [{"kind": "kill", "ranks": [3], "after_s": 0.5}, {"kind": "kill", "ranks": [4], "in_recovery": True}]
        if "flip" not in kinds:
            samples += [{"kind": "flip", "ranks": [seed % RANKS], "amount": seed, "after_s": 0.5}]
        if has_disk and "disk_full" not in kinds:
            samples += [{"kind": "disk_full", "seconds": 2, "after_s": 0.5}]
        faults = faults[:count - len(samples)] + samples
        path = self.folder / "first.json"
        path.write_text(json.dumps({"faults": faults}))
        return ["--scenario", str(path)]

    def chaos(self, seed: int, count: int) -> None:
        run = self.folder / f"seed-{seed}"
        memory = ["--checkpoint", str(run / "checkpoints"), "--checkpoint-every", "1", "--checkpoint-disk-every", str(DISK_EVERY),
                  "--checkpoint-keep", str(KEEP)]
        has_disk = self.mount(run)
        job = self.start(run, self.arguments.steps, ["--spares", "1", "--trace"], memory)
        deadline = time.monotonic() + END_S
        while job.poll() is None and time.monotonic() < deadline and not list(run.glob("checkpoints/commits/*")):
            time.sleep(0.05)
        try:
            words = self.plan(seed, count, run, has_disk)
            done = subprocess.run(
                [self.convoy, "chaos", str(run), *words, "--json", "--checkpoints", str(run / "checkpoints"), "--reference",
                 str(self.folder / "reference" / "metrics.jsonl"), "--folder-promise", str(FOLDER_PROMISE), "--before-step",
                 str(self.arguments.steps - 100)], capture_output=True, text=True, env=ENVIRONMENT, check=False)
            went_by_itself = job.poll()
        finally:
            code = end(job)
            if has_disk:
                quiet(["umount", "--lazy", str(run / "checkpoints")])
                pathlib.Path(f"{run}.ext4").unlink(missing_ok=True)
        self.take(seed, run, done, went_by_itself, code)

    def take(self, seed: int, run: pathlib.Path, done: subprocess.CompletedProcess, went: int | None, code: int) -> None:
        broken = []
        if done.returncode not in (0, 1):
            broken.append(f"convoy chaos: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        else:
            report = json.loads(done.stdout)
            self.done += [f for f in report["faults"] if f["happened"]]
            self.next_step += [(seconds, seed) for seconds in report["next_step_s"]]
            self.lost += report["steps_lost"]
            self.recoveries += report["incidents"]
            self.elapsed += report["elapsed_s"]
            self.trained += report["goodput"] * report["elapsed_s"]
            broken += [f"{i['name']}: {text}" for i in report["invariants"] for text in i["broken"]]
        if went not in (None, 0):
            broken.append(f"the job ended by itself with exit code {went}")
        elif went is None and code != 128 + signal.SIGTERM:
            broken.append(f"asked to end, the job ended with exit code {code}")
        left = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True, check=False).stdout.split()
        if left:
            broken.append(f"left behind: {left}")
        print(f"seed {seed}: {len(self.done)} of {self.arguments.faults} faults, {self.recoveries} recoveries, {self.lost} steps lost"
              + "".join(f"\n  BROKEN {text}" for text in broken), flush=True)
        if broken:
            self.failed.append(f"seed {seed}")
        elif not self.arguments.out:
            shutil.rmtree(run)

    def summary(self) -> None:
        kinds = collections.Counter(f["kind"] for f in self.done)
        doubles = [f for f in self.done if f.get("in_recovery")]
        print("\nfault              done  back")
        for kind, count in kinds.most_common():
            back = sum(1 for f in self.done if f["kind"] == kind and f.get("back_s", -1) >= 0)
            print(f"{kind:<18}{count:>5}{back:>6}")
        several = sum(1 for f in self.done if len(f.get("ranks", [])) > 1)
        print(f"{several} struck several ranks; {sum(f['was_recovering'] for f in doubles)} of {len(doubles)} came while the job was recovering")
        most, slowest = max(self.next_step, default=(0.0, 0))
        times = sorted(seconds for seconds, _ in self.next_step) or [0.0]
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        share = self.trained / self.elapsed if self.elapsed else 0
        print(f"{len(self.done)} faults, {self.recoveries} recoveries: median {statistics.median(times):.2f} s, p95 {p95:.2f} s, most "
              f"{most:.2f} s (seed {slowest}) to the next step; {self.lost} steps lost; goodput {100 * share:.1f} % of {self.elapsed:.0f} s")
        print("BROKEN: " + ", ".join(self.failed) if self.failed else "everything held")


def quiet(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def enter_own_mounts() -> None:
    """Starts this program again in a mount namespace of its own, where that may be had."""
    if not OWN_MOUNTS and os.geteuid() == 0 and quiet(["unshare", "--mount", "true"]):
        os.environ["CHAOS_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def end(job: subprocess.Popen) -> int:
    if job.poll() is None:
        job.terminate()
    try:
        return job.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        job.kill()
        return job.wait()


def main() -> int:
    arguments = options()
    enter_own_mounts()
    folder = pathlib.Path(arguments.out or tempfile.mkdtemp(prefix="convoy-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(arguments, folder)
    began = time.monotonic()
    campaign.reference()
    seed = arguments.seed
    while len(campaign.done) < arguments.faults and (not arguments.seconds or time.monotonic() - began < arguments.seconds):
        campaign.chaos(seed, min(FAULTS_PER_JOB, arguments.faults - len(campaign.done)))
        if campaign.failed and not arguments.seconds:
            break
        seed += 1
    campaign.summary()
    if campaign.failed or arguments.out:
        print(f"folders: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if campaign.failed else 0


if __name__ == "__main__":
    sys.exit(main())
