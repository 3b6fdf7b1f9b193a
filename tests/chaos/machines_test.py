#!/usr/bin/env python3
"""A job on two machines whose parts fail at random: machines_test.py CONVOY TRAIN_LLAMA [--seed S] [--faults N] [--rounds R]

Method: two launchers play two machines (as recover_nodes_test.py), each with a whole replica. Faults are drawn from the seed, with pauses that may be
shorter than a recovery: ranks killed or halted, the line, the supervisor, the second machine lost, drained, and started again. At the end all ranks must
train on both machines again, and the loss of every step that was written must be that of a run nobody disturbed, as far as the order of sums, which
differs while there is one replica, lets it. How far that is, a third run tells, which nobody disturbs either and which has one replica from the beginning:
training doubles a difference of the last bit every six steps or so, whoever made it.
"""
import argparse
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
from recover_nodes_test import FOR_EVER, RANKS, REPLICAS, Job, training  # noqa: E402
from recover_test import CONVOY, Run, prepare_text  # noqa: E402


ONE = "tp=2,pp=2"  # one of the replicas
TIMES = 1000  # of the difference that the order of sums makes; anything but that would be larger by far in the first hundred steps
SMALLEST = 1e-12


def losses(*folders: pathlib.Path) -> dict[int, float]:
    """By step. Each machine has a folder of its own, and the rank that writes may be on any of them."""
    files = [folder / "metrics.jsonl" for folder in folders]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return {m["step"]: m["loss"] for m in map(json.loads, lines) if "loss" in m and "step" in m and m.get("event", "step") == "step"}


class Disturbed:
    """A job, and whether its second machine is there."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.draw = random.Random(seed)
        self.job = Job(folder, f"seed-{seed}", ["--spares", str(self.draw.choice((0, 1, 2)))], mesh=REPLICAS, steps=FOR_EVER)
        self.seen = list(self.job.machines)
        self.is_there = True
        self.done: list[str] = []

    def losses(self) -> dict[int, float]:
        return losses(*{machine.out for machine in self.seen})

    def await_steps(self, count: int) -> None:
        goal = max(self.losses(), default=0) + count
        deadline = time.monotonic() + 120
        while max(self.losses(), default=0) < goal:
            assert time.monotonic() < deadline, f"step {goal} never came:\n{self.job.text()}"
            time.sleep(0.2)

    def strike(self) -> None:
        kinds = [self.rank, self.halt, self.line, self.supervisor, self.machine, self.machine, self.drain] if self.is_there else [
            self.rank, self.halt, self.supervisor, self.back, self.back]
        self.done.append(self.draw.choice(kinds)())
        time.sleep(self.draw.choice((0.05, 0.5, 2, 4)))

    def a_pid(self) -> int:
        status = self.job.first.status()
        ranks = status["ranks"] if status else []
        return self.draw.choice(ranks)["pid"] if ranks else 0

    def send(self, pid: int, sent: int) -> str:
        try:
            if pid:
                os.kill(pid, sent)
        except ProcessLookupError:
            pid = 0
        return "" if pid else " (none there)"

    def rank(self) -> str:
        return "rank" + self.send(self.a_pid(), signal.SIGKILL)

    def halt(self) -> str:
        return "halt" + self.send(self.a_pid(), signal.SIGSTOP)

    def supervisor(self) -> str:
        return "supervisor" + self.send(self.job.first.supervisor(), signal.SIGKILL)

    def line(self) -> str:
        try:
            return "line" + self.send(self.job.second.relay(), signal.SIGKILL)
        except (AssertionError, OSError):
            return "line (none there)"

    def machine(self) -> str:
        self.job.second.kill()
        self.job.second.job.wait()
        self.is_there = False
        return "machine"

    def drain(self) -> str:
        asked = subprocess.run([CONVOY, "drain", "1", str(self.job.first.out)], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            return "drain (refused)"
        self.job.second.job.wait(timeout=90)
        self.is_there = False
        return "drain"

    def back(self) -> str:
        self.job.second = self.job.machines[1] = self.job.second.again()
        self.seen.append(self.job.second)
        self.is_there = True
        return "back"


def undisturbed(folder: pathlib.Path, steps: int) -> tuple[dict[int, float], dict[int, float]]:
    """Losses, and how far those of a disturbed run may be from them."""
    both = Job(folder, "undisturbed", mesh=REPLICAS, steps=FOR_EVER)
    both.await_step(steps)
    both.stop()
    one = Run(folder, "one-replica", ONE, [], [], FOR_EVER, RANKS)
    one.await_step(steps)
    one.job.send_signal(signal.SIGINT)
    one.job.wait(timeout=60)
    reference, other = losses(both.first.out), losses(one.out)
    common = sorted(set(reference) & set(other))
    apart = itertools.accumulate((abs(reference[s] - other[s]) for s in common), max)
    return reference, dict(zip(common, (max(SMALLEST, TIMES * a) for a in apart)))


def disturbed(folder: pathlib.Path, seed: int, faults: int, reference: dict[int, float], bound: dict[int, float]) -> None:
    run = Disturbed(folder, seed)
    job = run.job
    try:
        training(job)
        for _ in range(faults):
            run.strike()
        if not run.is_there:
            run.done.append(run.back())
        job.await_ranks()
        run.await_steps(3)
        job.stop()
        found = run.losses()
        assert set(range(1, max(found) + 1)) == set(found), f"steps without a line: {set(range(1, max(found) + 1)) - set(found)}"
        wrong = [s for s in found if s in bound and abs(found[s] - reference[s]) > bound[s]]
        assert not wrong, f"losses differ from step {wrong[0]} on: {found[wrong[0]]}, undisturbed {reference[wrong[0]]}\n{job.text()}"
        incidents = job.first.incidents()
        lost = sum(i["steps_lost"] for i in incidents)
        print(f"  seed {seed}: {', '.join(run.done)}; {len(incidents)} incidents, {lost} steps lost, {max(found)} steps", flush=True)
    except BaseException:
        print(f"  seed {seed}: {', '.join(run.done)}", flush=True)
        for machine in job.machines:
            machine.kill()
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convoy"), parser.add_argument("train_llama")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="whose losses are compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        reference, bound = undisturbed(folder, arguments.steps)
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            disturbed(folder, seed, arguments.faults, reference, bound)


if __name__ == "__main__":
    main()
