#!/usr/bin/env python3
"""A job that goes on, as a user sees it: recover_test.py CONVOY TRAIN_LLAMA [FAULT]…

Method: a run that nobody disturbs gives the reference: in float64, loss, gradient norm and validation loss after the last step. Then
the same run once for each fault, caused from outside while it trains on 8 ranks, tp=2 pp=2 dp=2 (or another mesh): the job must end
with code 0 and the reference's numbers bit for bit, its record must say what happened, who stayed alive must be the same processes
before and after, and nothing may be left behind.
"""
import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time

CONVOY, TRAIN = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
STEPS, AT = 60, 12  # of a run; the fault comes after this one
NUMBERS = ("loss", "grad_norm", "validation_loss")


class Run:
    """One job under `convoy run`."""

    def __init__(self, folder: pathlib.Path, name: str, mesh: str, launcher: list[str], options: list[str], steps: int = STEPS,
                 ranks: int = 0, environment: dict | None = None):
        """`ranks`: of this launcher, if not all of the mesh."""
        self.out = folder / name
        self.ranks = ranks = ranks or math.prod(int(part.split("=")[1]) for part in mesh.split(","))
        self.events = open(folder / f"{name}.events", "w+", encoding="utf-8")
        self.errors = open(folder / f"{name}.errors", "w+", encoding="utf-8")
        self.job = subprocess.Popen(
            [CONVOY, "run", "-n", str(ranks), "--mesh", mesh, "--output", str(self.out), "--json", *launcher, "--", TRAIN, "--data",
             str(folder / "text.tokens"), "--steps", str(steps), "--batch", "8", "--sequence", "24", "--json", "--no-baseline",
             "--sample", "0", "--dtype", "float64", *options], stdout=self.events, stderr=self.errors,
            env=ENVIRONMENT | (environment or {}))

    def text(self) -> str:
        return pathlib.Path(self.errors.name).read_text(errors="replace")

    def event(self, kind: str) -> dict | None:
        lines = pathlib.Path(self.events.name).read_text().splitlines()
        return next((e for e in map(json.loads, lines) if e["event"] == kind), None)

    def status(self) -> dict | None:
        done = subprocess.run([CONVOY, "status", str(self.out), "--json"], capture_output=True, text=True, timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def pid(self, rank: int) -> int:
        """Of the process that has the rank now."""
        status = self.status()
        if status is None:
            start = self.event("start")
            return start["pids"][start["ranks"].index(rank)]
        pids = [r["pid"] for r in status["ranks"] if r["rank"] == rank]
        assert pids, f"rank {rank} has no process: {status}\n{self.text()}"
        return pids[0]

    def supervisor(self) -> int:
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if b"supervisor" in words and str(self.out).encode() in words:
                return int(entry.name)
        return 0

    def await_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.job.poll() is None:
            path = self.out / "metrics.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            if any(f'"step":{s},' in line for line in lines[-3:] for s in range(step, step + 50)):
                return
            time.sleep(0.02)
        raise AssertionError(f"step {step} never came:\n{self.text()}")

    def await_generation(self, generation: int, phase: str = "") -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.job.poll() is None:
            status = self.status()
            if status and status["generation"] >= generation and (not phase or status["phase"] == phase):
                return
            time.sleep(0.02)
        raise AssertionError(f"generation {generation} never came:\n{self.text()}")

    def end(self) -> dict:
        """The result that rank 0 prints."""
        try:
            code = self.job.wait(timeout=180)
        except subprocess.TimeoutExpired:
            status = self.status()
            self.job.terminate()
            raise AssertionError(f"the job hangs: {status}\n{self.text()}") from None
        assert code == 0, f"exit code {code}:\n{self.text()}"
        left = subprocess.run(["pgrep", "-f", str(self.out)], capture_output=True, text=True, check=False).stdout.split()
        assert not left, f"left behind: {left}"
        lines = [line for line in self.text().splitlines() if line.startswith("[0] {")]
        return json.loads(lines[-1][4:])

    def incidents(self) -> list[dict]:
        path = self.out / "incidents.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prepare_text(folder: pathlib.Path) -> None:
    """folder/text.tokens, what jobs train on."""
    (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
    subprocess.run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")], check=True, capture_output=True)


def kill(run: Run, rank: int, sent: int = signal.SIGKILL) -> None:
    os.kill(run.pid(rank), sent)


# Each: what is done to the run once it has trained AT steps. Returns what its record must say.
def a_rank(run: Run) -> dict:
    """SIGKILL of one rank, no spare: a process is started in its place."""
    kill(run, 5)
    return {"incidents": 1, "lost": 0, "started": 1, "kept": 7}


def of_an_older_job(run: Run) -> dict:
    """The ranks begin in a later generation than 0: their supervisor counts on from there."""
    return a_rank(run) | {"generation": 7}


def rank_zero(run: Run) -> dict:
    """The rank that writes metrics and served the first store; a spare takes its place."""
    kill(run, 0)
    return {"incidents": 1, "lost": 0, "spares": 1, "kept": 7}


def crash(run: Run) -> dict:
    """SIGSEGV, as a mistake in native code."""
    kill(run, 3, signal.SIGSEGV)
    return {"incidents": 1, "lost": 0, "kept": 7}


def a_halt(run: Run) -> dict:
    """SIGSTOP: nobody ends; found by the missing steps, against the job's own step time."""
    kill(run, 2, signal.SIGSTOP)
    return {"incidents": 1, "lost": 0, "kept": 7, "what": "rank 2 is halted"}


def one_after_another(run: Run) -> dict:
    """Three faults of three ranks, each after the job has recovered."""
    for generation, rank in enumerate((1, 3, 1), start=1):
        kill(run, rank)
        run.await_generation(generation, "training")
    return {"incidents": 3, "lost": 0}


def within_a_recovery(run: Run) -> dict:
    """Two ranks at once, and a third while those are being replaced."""
    pids = [run.pid(rank) for rank in (1, 6, 0)]
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGKILL)
    run.await_generation(1)
    os.kill(pids[2], signal.SIGKILL)
    return {"lost": 0}


def the_supervisor(run: Run) -> dict:
    """It dies: training does not notice, and the next one sees the next fault."""
    first = run.supervisor()
    assert first, "there is no supervisor"
    os.kill(first, signal.SIGKILL)
    run.await_step(AT + 5)
    kill(run, 7)
    return {"incidents": 1, "lost": 0, "kept": 7}


def supervisor_and_rank(run: Run) -> dict:
    """Both at once: the next supervisor finds that a rank is missing."""
    pid = run.pid(6)
    os.kill(run.supervisor(), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    return {"incidents": 1, "lost": 0, "kept": 7}


def a_halted_supervisor(run: Run) -> dict:
    """It hangs, and a rank dies: the launcher replaces it within seconds."""
    pid = run.pid(6)
    os.kill(run.supervisor(), signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    return {"incidents": 1, "lost": 0, "kept": 7}


def both_replicas(run: Run) -> dict:
    """A part of the model dies on all ranks that hold it: back to the newest snapshot in memory, at most one step."""
    pids = [run.pid(rank) for rank in (1, 3)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return {"lost_most": 1}


def half_the_ranks(run: Run) -> dict:
    """4 of 8 at once: the others hold all of the state."""
    pids = [run.pid(rank) for rank in (0, 2, 5, 7)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return {"incidents": 1, "lost": 0, "kept": 4}


def all_ranks(run: Run) -> dict:
    """Nobody is left; the agent's memory is."""
    for entry in run.status()["ranks"]:
        os.kill(entry["pid"], signal.SIGKILL)
    return {"lost_most": 1}


def a_restart(run: Run) -> dict:
    """`convoy restart`: all processes are replaced, the job goes on."""
    before = {r["pid"] for r in run.status()["ranks"]}
    subprocess.run([CONVOY, "restart", str(run.out)], check=True, capture_output=True)
    run.await_generation(1, "training")
    assert not before & {r["pid"] for r in run.status()["ranks"]}, "an old process is still there"
    return {"incidents": 1, "lost_most": 1, "started": 8, "kept": 0}


def poke(run: Run, rank: int, places: int, change) -> None:
    """Changes some of its parameters, float64, from outside: its page of vitals tells where they lie."""
    pid = run.pid(rank)
    line = next(line for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines() if "convoy-vitals" in line)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(int(line.split("-")[0], 16))
        parameters, count = struct.unpack("8x8x4x4x2Q", memory.read(40))
        for place in range(places):
            at = parameters + int(count * (place + 0.5) / places) // 8 * 8
            memory.seek(at)
            changed = change(struct.unpack("Q", memory.read(8))[0])
            memory.seek(at)
            memory.write(struct.pack("Q", changed))


def a_flipped_bit(run: Run) -> dict:
    """Three replicas against one: found within 16 steps, and healed from another replica. What it did to gradients until then stays."""
    poke(run, 4, 1, lambda bits: bits ^ 1 << 51)
    return {"incidents": 1, "lost": 0, "kept": 8, "what": "rank 4 has not the parameters", "within": 16, "tolerance": 0.02}


def not_a_number(run: Run) -> dict:
    """Parameters that are no numbers: so is the loss, and all is compared before the gradients are used. Healed within the step."""
    poke(run, 2, 20, lambda bits: 0x7FF8 << 48)
    return {"incidents": 1, "lost": 0, "kept": 8, "what": "rank 2 has not the parameters", "within": 1}


def one_of_two_replicas(run: Run) -> dict:
    """No majority: all go back to before it could have happened; then it is known who was wrong."""
    poke(run, 6, 1, lambda bits: bits ^ 1 << 51)
    return {"incidents": 1, "kept": 8, "what": "no majority", "within": 16, "said": "rank 6 had held wrong values"}


def wrong_and_then_all(run: Run) -> dict:
    """The same, and all ranks die soon after: what had been saved of wrong values must not be what they find."""
    poke(run, 6, 1, lambda bits: bits ^ 1 << 51)
    run.await_generation(1, "training")
    deadline = time.monotonic() + 30
    while not list(run.out.glob("checkpoints/commits/*-c00000002")) and time.monotonic() < deadline:
        time.sleep(0.005)
    for entry in run.status()["ranks"]:
        os.kill(entry["pid"], signal.SIGKILL)
    return {"incidents": 2, "what": "no majority", "within": 16}


MESH = "tp=2,pp=2,dp=2"
MEMORY = ["--checkpoint", "{out}/checkpoints", "--checkpoint-every", "1", "--checkpoint-disk-every", "1000"]
# fault: mesh, options of the launcher, of the trainer.
FAULTS = {
    a_rank: (MESH, [], []),
    of_an_older_job: (MESH, ["--env", "CONVOY_GENERATION=7"], []),
    rank_zero: (MESH, ["--spares", "1"], []),
    crash: ("dp=8", [], ["--dropout", "0.1"]),
    a_halt: (MESH, ["--spares", "1"], ["--schedule", "interleaved"]),
    one_after_another: ("dp=4", ["--spares", "1"], ["--checkpoint-spread", *MEMORY]),
    within_a_recovery: (MESH, [], []),
    the_supervisor: (MESH, [], []),
    supervisor_and_rank: (MESH, ["--spares", "1"], []),
    a_halted_supervisor: (MESH, ["--spares", "1"], []),
    both_replicas: (MESH, ["--spares", "2"], MEMORY),
    half_the_ranks: ("dp=8", ["--spares", "1"], ["--dropout", "0.1"]),
    all_ranks: (MESH, [], ["--zero", *MEMORY]),
    a_restart: (MESH, [], MEMORY),
    a_flipped_bit: ("tp=2,dp=4", [], []),
    not_a_number: ("tp=2,dp=4", [], []),
    one_of_two_replicas: (MESH, [], ["--checkpoint", "{out}/checkpoints", "--checkpoint-every", "4", "--checkpoint-disk-every", "4"]),
    wrong_and_then_all: (MESH, [], ["--checkpoint", "{out}/checkpoints", "--checkpoint-every", "1", "--checkpoint-disk-every", "3", "--checkpoint-keep", "8"]),
}


def check(fault, folder: pathlib.Path, reference: dict) -> None:
    mesh, launcher, options = FAULTS[fault]
    run = Run(folder, fault.__name__, mesh, launcher, [o.format(out=folder / fault.__name__) for o in options])
    run.await_step(AT)
    before = {r["rank"]: r["pid"] for r in (run.status() or {"ranks": []})["ranks"]}
    expected = fault(run)
    result, records = run.end(), run.incidents()
    for key in NUMBERS:
        bound = expected.get("tolerance", 0) * abs(reference[key])
        assert abs(result[key] - reference[key]) <= bound, f"{key}: {result[key]}, undisturbed {reference[key]}\n{run.text()}"
    assert result["steps"] == STEPS and records, f"{result}, {records}"
    assert before, "nobody had been led"
    for record in records:
        assert record["survived"], record
        if "lost" in expected:
            assert record["steps_lost"] == expected["lost"], record
        assert record["steps_lost"] <= expected.get("lost_most", STEPS), record
    assert len(records) == expected.get("incidents", len(records)), records
    for name, key in (("started", "processes_started"), ("spares", "spares_used"), ("kept", "processes_kept")):
        assert all(r[key] == expected.get(name, r[key]) for r in records), (name, expected, records)
    assert expected.get("what", "") in records[0]["what"], records[0]
    assert records[0]["generation"] == expected.get("generation", 0), records[0]
    assert records[0]["step"] <= AT + 10 + expected.get("within", STEPS), records[0]
    assert expected.get("said", "") in run.text(), run.text()
    story = subprocess.run([CONVOY, "why", str(run.out)], capture_output=True, text=True, check=True).stdout
    assert "decided: " in story and "cost: " in story, story
    seen = {int(json.loads(line)["step"]) for line in (run.out / "metrics.jsonl").read_text().splitlines() if '"loss"' in line}
    assert seen >= set(range(1, STEPS + 1)), f"steps without a line: {set(range(1, STEPS + 1)) - seen}"
    print(f"  {fault.__name__}: back in " + ", ".join(f"{r['first_step_s']:.2f} s" for r in records), flush=True)


def early_deaths(folder: pathlib.Path, reference: dict) -> None:
    """A rank is killed while the job comes up, at several moments: it comes up all the same."""
    for index, delay in enumerate((0.05, 0.2, 0.4, 0.8)):
        run = Run(folder, f"early-{index}", "dp=4", [], [])
        while run.event("start") is None:
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(run.pid(index), signal.SIGKILL)
        try:
            result = run.end()
        except AssertionError:
            # Before the first rank has come it can't be known that the program may go on: the job ends, as it always did.
            assert not run.incidents() and "died first: SIGKILL" in run.text(), run.text()
            print(f"  a death {delay} s after the start ends the job", flush=True)
            continue
        assert all(result[key] == reference[key] for key in NUMBERS), result
        print(f"  a death {delay} s after the start is survived", flush=True)


def hopeless(folder: pathlib.Path) -> None:
    """What the program finds wrong with its input ends the job, with its code, however often one might try."""
    run = Run(folder, "hopeless", "dp=2", [], ["--lr", "1e30", "--clip", "0"])
    code = run.job.wait(timeout=120)
    assert code == 64 and "not a number" in run.text(), f"{code}\n{run.text()}"
    print("  a program that gives up ends the job with its code", flush=True)


def without_recovery(folder: pathlib.Path) -> None:
    run = Run(folder, "without", "dp=4", ["--no-recover"], [], steps=100000)
    run.await_step(3)
    kill(run, 2)
    code = run.job.wait(timeout=60)
    assert code == 128 + signal.SIGKILL and "rank 2 died first" in run.text(), f"{code}\n{run.text()}"
    print("  --no-recover: a death ends the job", flush=True)


def main() -> None:
    wanted = sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        references = {}
        for fault, (mesh, _, options) in FAULTS.items():
            if wanted and fault.__name__ not in wanted:
                continue
            # What changes bits: the mesh, dropout. Checkpoints, ZeRO and schedules do not.
            dropout = options[:2] if "--dropout" in options else []
            key = (mesh, *dropout)
            if key not in references:
                references[key] = Run(folder, f"reference-{len(references)}", mesh, [], dropout).end()
            check(fault, folder, references[key])
        if not wanted:
            early_deaths(folder, references[("dp=4",)])
            hopeless(folder)
            without_recovery(folder)


if __name__ == "__main__":
    main()
