#!/usr/bin/env python3
"""Checkpoints of train_llama, as a user sees them: train_resume_test.py CONVOY TRAIN_LLAMA [--rehearse | --hardware]

Method: a run that nobody disturbs gives the reference: in float64, loss, gradient norm and validation loss after the last step, to
the 9 digits that are printed. A second run is killed half-way (SIGKILL to one rank, in no particular moment) and goes on, in
another mesh, with or without ZeRO, another schedule: its numbers must be those of the reference, and it must have resumed, not
begun anew. Then: from the memory of an agent that outlived the trainers; bfloat16 (bit for bit in the same mesh only, other meshes
round differently); a checkpoint that is copied beside the next step; a damaged newest step; and what users get wrong. With
--rehearse the same on simulated GPUs, with --hardware on real ones.
"""
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from rehearse_train_test import CONVOY, ENVIRONMENT, HARDWARE, TRAIN, rehearsal, result, run
from train_llama_test import rank_of_job

GPUS = HARDWARE or "--rehearse" in sys.argv
STEPS = 12
NUMBERS = ("loss", "grad_norm", "validation_loss")


def ranks_of(mesh: str) -> int:
    return math.prod(int(size) for size in re.findall(r"=(\d+)", mesh))


def job(folder: pathlib.Path, mesh: str, *options: str, steps: int = STEPS, dtype: str = "float64") -> list[str]:
    device = ["--device", "cuda"] if GPUS else []
    return [CONVOY, "run", "-n", str(ranks_of(mesh)), "--mesh", mesh, "--no-prefix", "--no-recover", "--output", str(folder / "out"),
            *(rehearsal() if GPUS else []), "--", TRAIN, "--data", str(folder / "text.tokens"), "--steps", str(steps),
            "--batch", "8", "--sequence", "24", "--json", "--no-baseline", "--sample", "0", "--dtype", dtype, *device, *options]


def steps_in(checkpoints: pathlib.Path) -> list[int]:
    """Committed steps, newest first."""
    if not checkpoints.exists():
        return []
    done = subprocess.run([CONVOY, "ckpt", "ls", str(checkpoints), "--json"], capture_output=True, text=True, timeout=60)
    return [step["step"] for step in json.loads(done.stdout)["steps"]] if done.returncode == 0 else []


def killed_run(folder: pathlib.Path, mesh: str, checkpoints: pathlib.Path, *options: str, dtype: str = "float64", **more: str) -> None:
    """Once half of the steps are committed, one rank is killed in the middle of things."""
    started = subprocess.Popen(job(folder, mesh, "--checkpoint", str(checkpoints), "--checkpoint-every", "1", *options, steps=STEPS,
                                   dtype=dtype), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | more)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and max(steps_in(checkpoints), default=0) < STEPS // 2 and started.poll() is None:
        time.sleep(0.02)
    victim = rank_of_job(folder, ranks_of(mesh) - 1)
    assert victim, "the run had ended before its rank could be killed:\n" + started.communicate()[0]
    os.kill(victim, signal.SIGKILL)
    text, _ = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGKILL, text


def same(name: str, a: dict, b: dict, tolerance: float = 2e-9) -> None:
    for key in NUMBERS:
        assert abs(a[key] - b[key]) <= tolerance * abs(a[key]), (name, key, a[key], b[key])
    print(f"  {name}: loss {b['loss']}, resumed from step {b['resumed_from']}", flush=True)


def resumes_in_any_mesh(folder: pathlib.Path) -> None:
    """From one layout to another: tp, pp and dp, ZeRO or not, schedules, sequence parallel."""
    changes = [("tp=2,pp=2,dp=2", ["--zero", "--sequence-parallel"], "pp=4", ["--schedule", "1f1b"]),
               ("pp=4", [], "tp=2,dp=2", ["--zero"]),
               ("tp=3", [], "dp=1", []),
               ("dp=2,pp=2", ["--schedule", "interleaved"], "tp=2", ["--checkpoint-spread"])]
    if GPUS:
        changes = [("tp=2,pp=2", ["--zero"], "dp=2", ["--zero"]), ("dp=2", ["--zero"], "tp=2", [])]
    reference = result(run(job(folder, "dp=1")))
    for index, (old_mesh, old, new_mesh, new) in enumerate(changes):
        checkpoints = folder / f"checkpoints-{index}"
        killed_run(folder, old_mesh, checkpoints, *old)
        newest = steps_in(checkpoints)[0]
        resumed = result(run(job(folder, new_mesh, *new, "--take-over", "--checkpoint", str(checkpoints), "--checkpoint-every", "3")))
        assert resumed["resumed_from"] == newest and resumed["steps"] == STEPS, (resumed, newest)
        tolerance = 2e-8 if GPUS else 2e-9
        same(f"{old_mesh} {' '.join(old)} -> {new_mesh} {' '.join(new)}", reference, resumed, tolerance)
        assert steps_in(checkpoints)[0] == STEPS, "the last step is saved before the program ends"
        # Whoever starts once more finds that all is done.
        again = result(run(job(folder, new_mesh, *new, "--take-over", "--checkpoint", str(checkpoints))))
        assert again["resumed_from"] == STEPS and abs(again["validation_loss"] - reference["validation_loss"]) < 1e-7, again


def resumes_from_memory(folder: pathlib.Path) -> None:
    """The agent outlives the ranks, which are all killed: the next generation takes their newest snapshot."""
    reference = result(run(job(folder, "dp=1")))
    name = f"resume-test-{os.getpid()}"
    agent = subprocess.Popen([CONVOY, "agent", "--name", name], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    environment = {"CONVOY_AGENT": name, "CONVOY_JOB_ID": "memory"}
    checkpoints = folder / "checkpoints-memory"
    try:
        words = job(folder, "tp=2,pp=2", "--checkpoint", str(checkpoints), "--checkpoint-every", "1")
        direct = [sys.executable, str(pathlib.Path(__file__).with_name("start_ranks.py")), *words[words.index("--") + 1:]]
        ranks = subprocess.Popen(direct, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 env=ENVIRONMENT | environment | {"RANKS": "4", "CONVOY_MESH": "tp=2,pp=2"})
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and max(steps_in(checkpoints), default=0) < STEPS // 2:
            time.sleep(0.02)
        os.killpg(ranks.pid, signal.SIGKILL)
        ranks.wait()
        resumed = run(direct, RANKS="2", CONVOY_MESH="tp=2", CONVOY_GENERATION="1", **environment)
        assert "in the memory of this machine, saved by 4 ranks" in resumed.stderr, resumed.stderr
        same("tp=2,pp=2 -> tp=2 from memory", reference, result(resumed))
    finally:
        agent.terminate()
        agent.communicate(timeout=60)


def bfloat16_goes_on_bit_for_bit(folder: pathlib.Path) -> None:
    """Masters, moments and parameters: the same mesh gives the same bits."""
    mesh, options = "tp=2,dp=2", ["--zero"]
    reference = result(run(job(folder, mesh, *options, dtype="bfloat16")))
    checkpoints = folder / "checkpoints-bfloat16"
    killed_run(folder, mesh, checkpoints, *options, dtype="bfloat16")
    resumed = result(run(job(folder, mesh, *options, "--take-over", "--checkpoint", str(checkpoints), dtype="bfloat16")))
    assert all(reference[key] == resumed[key] for key in NUMBERS), (reference, resumed)
    assert 0 < resumed["resumed_from"] <= STEPS
    # What was saved are float32 masters: another mesh, and a float32 run, go on from them too.
    for more, mesh, dtype in ((1, "pp=2", "bfloat16"), (2, "dp=1", "float32")):
        other = result(run(job(folder, mesh, "--checkpoint", str(checkpoints), "--take-over", steps=STEPS + more, dtype=dtype)))
        assert other["resumed_from"] == STEPS + more - 1 and abs(other["loss"] / reference["loss"] - 1) < 0.2, other
    print("  bfloat16: bit for bit", flush=True)


def damaged_newest(folder: pathlib.Path) -> None:
    """A flipped bit in the newest step: the one before is taken, and the run says so."""
    reference = result(run(job(folder, "dp=1")))
    checkpoints = folder / "checkpoints-damaged"
    run(job(folder, "dp=2", "--checkpoint", str(checkpoints), "--checkpoint-every", "3"))
    assert steps_in(checkpoints) == [STEPS, STEPS - 3]
    damaged = max((p for p in checkpoints.rglob("*.chunks") if f"s{STEPS:012}" in str(p)), key=lambda p: p.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    done = run(job(folder, "tp=2", "--checkpoint", str(checkpoints)))
    assert result(done)["resumed_from"] == STEPS - 3, done.stdout
    assert f"step {STEPS}" in done.stderr and "can't be loaded" in done.stderr, done.stderr
    same("a damaged newest step", reference, result(done))


def mistakes(folder: pathlib.Path) -> None:
    checkpoints = folder / "checkpoints-mistakes"
    run(job(folder, "dp=2", "--checkpoint", str(checkpoints), "--checkpoint-every", "3", steps=3))
    other_seed = run(job(folder, "dp=2", "--checkpoint", str(checkpoints), "--seed", "8"), code=64)
    assert "made with --seed 1, not 8" in other_seed.stderr, other_seed.stderr
    other_model = run(job(folder, "dp=2", "--checkpoint", str(checkpoints), "--config", "medium"), code=64)
    assert "model." in other_model.stderr and "shape" in other_model.stderr, other_model.stderr
    assert steps_in(checkpoints) == [3], "nothing was written"
    missing = run(job(folder, "dp=2", "--checkpoint", "/proc/nowhere/checkpoints", steps=2), code=64)
    assert "/proc/nowhere/checkpoints" in missing.stderr, missing.stderr


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text.txt").write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")])
        tests = [resumes_in_any_mesh] if GPUS else \
            [resumes_in_any_mesh, resumes_from_memory, bfloat16_goes_on_bit_for_bit, damaged_newest, mistakes]
        for test in tests:
            print(test.__name__, flush=True)
            test(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
