#!/usr/bin/env python3
"""The demo: 8 ranks train a small language model on the King James text, one of them is killed, they go on; then 4 ranks go on.

    examples/demo.py CONVOY TRAIN_LLAMA TOKENS-PREFIX [--steps 200] [--output runs/demo-...]

1. A run that nobody disturbs, on mesh tp=2 pp=2 dp=2: the reference.
2. The same once more, which checkpoints while it trains and is traced: a live page, and a report at its end. After a third of the
   steps one rank is killed with SIGKILL: training goes on, and `convoy why` tells how. After two thirds the job is asked to end.
3. Another mesh, tp=1 pp=4 dp=1, goes on from the newest checkpoint. The loss curve is the reference's: loss.svg shows both.
"""
import argparse
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

EVERY = 10  # steps between checkpoints


def losses(metrics: pathlib.Path) -> dict[int, float]:
    """Training loss by step; of a step that was done twice, the later one."""
    if not metrics.exists():
        return {}
    lines = (json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}"))
    return {line["step"]: line["loss"] for line in lines if line.get("loss") is not None}


def rank_process(job: int, rank: int) -> int:
    """The process of a rank of `convoy run`, whose process is `job`; 0 if there is none."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    family = {job}
    for _ in range(3):  # guardian, launcher, rank
        family |= {pid for pid, parent in parents.items() if parent in family}
    for pid in family:
        try:
            if f"RANK={rank}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
        except OSError:
            pass
    return 0


class Demo:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.convoy, self.train, self.data = arguments.convoy, arguments.train_llama, arguments.tokens
        self.steps, self.folder = arguments.steps, pathlib.Path(arguments.output)

    def command(self, mesh: str, output: pathlib.Path, *options: str, launcher: tuple[str, ...] = ()) -> list[str]:
        ranks = math.prod(int(part.split("=")[1]) for part in mesh.split(","))
        return [self.convoy, "run", "-n", str(ranks), "--mesh", mesh, "--no-prefix", "--output", str(output), *launcher, "--", self.train,
                "--config", "demo", "--data", f"{self.data}.train.tokens", "--validation", f"{self.data}.validation.tokens",
                "--steps", str(self.steps), *options]

    def reference(self) -> pathlib.Path:
        print(f"1. {self.steps} steps that nobody disturbs: 8 ranks, tp=2 pp=2 dp=2\n", flush=True)
        subprocess.run(self.command("tp=2,pp=2,dp=2", self.folder / "reference", "--sequence-parallel"), check=True)
        return self.folder / "reference" / "metrics.jsonl"

    def killed(self) -> None:
        third = self.steps // 3
        print(f"\n2. Once more, with a checkpoint every {EVERY} steps. After step {third} rank 5 is killed: a spare takes its place.\n", flush=True)
        trace = self.folder / "trace"
        job = subprocess.Popen(self.command("tp=2,pp=2,dp=2", self.folder / "run", "--sequence-parallel", "--no-baseline",
                                            *self.checkpoint(), launcher=("--spares", "1", f"--trace={trace}")))
        metrics = self.folder / "run" / "metrics.jsonl"
        self.await_step(job, metrics, third)
        victim = rank_process(job.pid, 5)
        if not victim:
            sys.exit(f"the run ended before its rank 5 could be killed: exit code {job.wait()}")
        os.kill(victim, signal.SIGKILL)
        self.await_step(job, metrics, 2 * third)
        print(f"\nStep {2 * third}: the job is asked to end, as a machine that is taken away would.", flush=True)
        job.send_signal(signal.SIGTERM)
        job.wait()
        if not (trace / "report.html").exists():
            sys.exit("the run was not traced")
        print("\n$ convoy why", self.folder / "run", flush=True)
        subprocess.run([self.convoy, "why", str(self.folder / "run")], check=True)

    @staticmethod
    def await_step(job: subprocess.Popen, metrics: pathlib.Path, step: int) -> None:
        while job.poll() is None and max(losses(metrics), default=0) < step:
            time.sleep(0.1)
        if job.poll() is not None:
            sys.exit(f"the run ended before step {step}: exit code {job.returncode}")

    def resumed(self, reference: pathlib.Path) -> None:
        print("\n3. Four ranks go on in another mesh: tp=1 pp=4 dp=1\n", flush=True)
        subprocess.run(self.command("pp=4", self.folder / "run", "--no-baseline", "--reference", str(reference),
                                    *self.checkpoint()), check=True)

    def checkpoint(self) -> list[str]:
        return ["--checkpoint", str(self.folder / "checkpoints"), "--checkpoint-every", str(EVERY)]

    def compare(self, reference: pathlib.Path) -> None:
        expected, found = losses(reference), losses(self.folder / "run" / "metrics.jsonl")
        apart = max(abs(expected[step] - found[step]) for step in expected)
        print(f"\nThe interrupted run's loss is that of the undisturbed one in all {len(expected)} steps; largest difference "
              f"{apart:.1e} (float32 sums in another order).\nBoth curves: {self.folder / 'run' / 'loss.svg'}\nWhere the interrupted run's time went: "
              f"{self.folder / 'trace' / 'report.html'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convoy")
    parser.add_argument("train_llama")
    parser.add_argument("tokens", help="prefix of .train.tokens and .validation.tokens")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", default=time.strftime("runs/demo-%Y%m%d-%H%M%S"))
    demo = Demo(parser.parse_args())
    reference = demo.reference()
    demo.killed()
    demo.resumed(reference)
    demo.compare(reference)


if __name__ == "__main__":
    main()
