#!/usr/bin/env python3
"""What only a GPU can show: check.py --build build/release --out FOLDER [--only NAME …]        (make gpu-check)

CI has no GPU: there the same tests run on the stand-in for CUDA and NCCL. Here they meet the real libraries, on one GPU
or more; ranks share a GPU where there are fewer than ranks (NCCL 2.30 or newer). First the checks, side by side, then the
benchmarks, alone. Each has a limit of its own; its output is in FOLDER/NAME.log, a table comes last. Exit code 1 if a check fails.
The tests of the stand-in's NCCL are run against the real one, too: what fails there is where the two differ. NCCL gets few
blocks a rank (NCCL_MAX_CTAS), since ranks that share a GPU under MPS must all be resident. Under MPS --jobs must be 1: a rank that
is killed takes all clients along.
"""
import argparse
import concurrent.futures
import dataclasses
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Step:
    name: str
    words: list[str]
    limit_s: int = 120
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    compares: bool = False  # with the stand-in: a difference is a finding, not a failure


def real_libraries() -> str:
    """Folders of NCCL and the CUDA runtime that torch would load, in front of the stand-in's."""
    site = pathlib.Path(importlib.util.find_spec("torch").origin).parents[1]
    return ":".join(str(site / "nvidia" / name / "lib") for name in ("nccl", "cu13"))


def checks(build: pathlib.Path, out: pathlib.Path) -> list[Step]:
    convoy, train = str(build / "src/cli/convoy"), str(build / "examples/train_llama")
    tests = build / "tests/standin"
    python = {"PYTHONPATH": str(build / "python")}
    real = {"LD_LIBRARY_PATH": real_libraries()}
    recorded = {"NCCL_PROFILER_PLUGIN": str(tests / "libnccl-profiler-recording.so"), "RECORDING_MASK": "4095"}
    record = f'RECORDING_FILE={out}/profiler-$RANK.txt exec "$@"'
    data = str(out / "text.tokens")
    return [
        Step("train", [sys.executable, str(ROOT / "tests/runtime/rehearse_train_test.py"), convoy, train, "--hardware"], 240),
        Step("resume", [sys.executable, str(ROOT / "tests/runtime/train_resume_test.py"), convoy, train, "--hardware"], 240),
        Step("recover", [sys.executable, str(ROOT / "tests/runtime/rehearse_recover_test.py"), convoy, train, "--hardware"], 240),
        Step("elastic", [sys.executable, str(ROOT / "tests/gpu/elastic.py"), convoy, train], 240),
        Step("checkpoint", [sys.executable, str(ROOT / "tests/python/checkpoint_gpu.py"), convoy], 120, python),
        Step("profiler", [convoy, "run", "-n", "4", "--mesh", "tp=2,pp=2", "--no-prefix", "--output", str(out / "profiled"), "--", "sh", "-c",
                          record, "-", train, "--device", "cuda", "--data", data, "--steps", "3", "--json", "--no-baseline"], 120, recorded),
        *(Step(f"nccl_{name}", [str(tests / f"test_standin_nccl_{name}"), "-d", "yes"], 100, real, compares=True)
          for name in ("operations", "communicator", "children", "profiler", "failure")),
    ]


def benchmarks(build: pathlib.Path, out: pathlib.Path) -> list[Step]:
    python = {"PYTHONPATH": str(build / "python")}
    save = [sys.executable, str(ROOT / "tests/bench/ckpt_save.py"), "--build", str(build), "--runs", "3"]
    train = [str(build / "examples/train_llama"), "--device", "cuda", "--data", str(out / "text.tokens"), "--json", "--no-baseline",
             "--dtype", "bfloat16", "--config", "medium", "--steps", "60", "--batch", "64", "--sequence", "512", "--sample", "0"]
    return [Step("bench_save_gpu", [*save, "--device", "cuda"], 150, python), Step("bench_train", train, 60),
            Step("bench_save_cpu", save, 150, python)]


def run(step: Step, out: pathlib.Path) -> tuple[Step, str, float]:
    started = time.monotonic()
    environment = os.environ | {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_MAX_CTAS": "2", "OMP_NUM_THREADS": "1"} | step.environment
    with open(out / f"{step.name}.log", "w") as log:
        process = subprocess.Popen(step.words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                                   start_new_session=True)
        try:
            code = process.wait(step.limit_s)
            outcome = "ok" if code == 0 else "differs" if step.compares else f"FAILED ({code})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"FAILED (not done after {step.limit_s} s)"
    seconds = time.monotonic() - started
    print(f"{step.name:20} {outcome:10} {seconds:6.1f} s", flush=True)
    return step, outcome, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/release"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/release/gpu"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--jobs", type=int, default=2, help="checks at a time")
    args = parser.parse_args()
    build, out = args.build.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    text = out / "text.txt"
    text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(20000)))
    subprocess.run([str(build / "src/cli/convoy"), "data", "prepare", str(text), "-o", str(out / "text.tokens")], check=True)

    def chosen(steps: list[Step]) -> list[Step]:
        return [step for step in steps if not args.only or step.name in args.only]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda step: run(step, out), chosen(checks(build, out))))
    results += [run(step, out) for step in chosen(benchmarks(build, out))]
    return 1 if any(outcome.startswith("FAILED") for _, outcome, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
