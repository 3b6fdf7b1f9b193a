#!/usr/bin/env python3
"""A job on simulated GPUs that goes on: rehearse_recover_test.py CONVOY TRAIN_LLAMA

Method: `train_llama --device cuda` over NCCL groups on the stand-in, once undisturbed and once with SIGKILL of a rank in the middle.
Survivors must abort their communicators, form new ones in the same processes and take no step twice; loss, gradient norm and
validation loss must be those of the undisturbed run to the last digit, and the rehearsal must find nothing: no use of memory that an
aborted communicator may still read, no leak. Says nothing of real NCCL's own behaviour when a peer dies.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

CONVOY, TRAIN = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
STEPS, AT = 24, 6
NUMBERS = ("loss", "grad_norm", "validation_loss")
# mesh, ranks, who is killed, seed of the rehearsal, options of the launcher
CASES = (
    ("tp=2,dp=2", 4, 3, 0, []),
    ("pp=2,dp=2", 4, 0, 0, ["--spares", "1"]),
    ("tp=2,pp=2,dp=2", 8, 5, 2, []),
)


def start(folder: pathlib.Path, name: str, mesh: str, ranks: int, options: list[str]) -> tuple[subprocess.Popen, pathlib.Path]:
    out = folder / name
    with open(folder / f"{name}.events", "w", encoding="utf-8") as events, open(folder / f"{name}.errors", "w", encoding="utf-8") as said:
        job = subprocess.Popen(
            [CONVOY, "run", "-n", str(ranks), "--mesh", mesh, "--output", str(out), "--rehearse", "--json", *options, "--", TRAIN,
             "--device", "cuda", "--data", str(folder / "text.tokens"), "--steps", str(STEPS), "--batch", "8", "--sequence", "24",
             "--json", "--no-baseline", "--sample", "0", "--dtype", "float64"], stdout=events, stderr=said, env=ENVIRONMENT)
    return job, out


def end(job: subprocess.Popen, folder: pathlib.Path, name: str) -> tuple[dict, str]:
    code = job.wait(timeout=180)
    text = (folder / f"{name}.errors").read_text(errors="replace")
    assert code == 0, f"{name}: exit code {code}\n{text}"
    return json.loads(next(line[4:] for line in text.splitlines() if line.startswith("[0] {"))), text


def await_step(out: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        path = out / "metrics.jsonl"
        if path.exists() and f'"step":{step},' in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never came")


def pid_of(events: pathlib.Path, rank: int) -> int:
    start_event = next(e for e in map(json.loads, events.read_text().splitlines()) if e["event"] == "start")
    return start_event["pids"][start_event["ranks"].index(rank)]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
        subprocess.run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")], check=True,
                       capture_output=True)
        for mesh, ranks, victim, seed, options in CASES:
            options = [*options, "--seed", str(seed)]
            job, _ = start(folder, f"quiet-{mesh}", mesh, ranks, options)
            reference, _ = end(job, folder, f"quiet-{mesh}")
            name = f"killed-{mesh}"
            job, out = start(folder, name, mesh, ranks, options)
            await_step(out, AT)
            os.kill(pid_of(folder / f"{name}.events", victim), signal.SIGKILL)
            result, text = end(job, folder, name)
            for key in NUMBERS:
                assert result[key] == reference[key], f"{mesh}: {key}: {result[key]}, undisturbed {reference[key]}\n{text}"
            records = [json.loads(line) for line in (out / "incidents.jsonl").read_text().splitlines()]
            assert len(records) == 1 and records[0]["survived"] and records[0]["steps_lost"] == 0, records
            assert records[0]["processes_kept"] == ranks - 1, records
            assert "rehearsal: nothing found" in text, text
            print(f"  {mesh}, seed {seed}, rank {victim} killed: back in {records[0]['first_step_s']:.2f} s", flush=True)


if __name__ == "__main__":
    main()
