#!/usr/bin/env python3
"""train_llama as a user starts it: alone and on ranks, with right and with wrong input.

Usage: train_llama_test.py CONVOY TRAIN_LLAMA. A small text is prepared in a temporary folder. Right input: 1 and 4 ranks
report the same loss, the run folder holds what is promised, and with one rank killed in the middle all end. Wrong input:
one paragraph that says what and how to mend it, the documented exit code, no process left. Not checked: the numbers
themselves (the truth sweep does that) and speed.
"""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

CONVOY, TRAIN = sys.argv[1:3]
failures = []


def check(condition: bool, what: str, detail: str = "") -> None:
    print(("ok    " if condition else "WRONG ") + what, flush=True)
    if not condition:
        failures.append(what)
        print(detail, flush=True)


def run(*command: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "CONVOY_MESH")}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=env | {"OMP_NUM_THREADS": "1"})


def train(ranks: int, mesh: str, folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    if ranks == 1:
        return run(TRAIN, *options)
    return run(CONVOY, "run", "-n", str(ranks), "--mesh", mesh, "--no-prefix", "--output", str(folder / "out"), "--",
               TRAIN, *options)


def nothing_left(folder: pathlib.Path) -> bool:
    """No process of this test is alive: all of them have the temporary folder in their command line."""
    for _ in range(50):
        alive = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or entry.name == str(os.getpid()):
                continue
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    alive.append(entry.name)
            except OSError:
                pass
        if not alive:
            return True
        time.sleep(0.1)
    return False


def refused(name: str, code: int, words: list[str], result: subprocess.CompletedProcess, folder: pathlib.Path) -> None:
    text = result.stdout + result.stderr
    detail = f"exit code {result.returncode}, wanted {code}\n{text}"
    check(result.returncode == code, f"{name}: exit code {code}", detail)
    check(all(w in text for w in words), f"{name}: the text has {words}", detail)
    check(len(re.findall(r"^error: ", result.stderr, re.M)) <= 1, f"{name}: said once", detail)
    check(nothing_left(folder), f"{name}: nothing left behind")


def right_input(folder: pathlib.Path, data: str) -> None:
    common = ["--data", data, "--steps", "4", "--batch", "8", "--sequence", "24", "--json", "--sample", "0", "--seed", "3"]
    one = train(1, "", folder, *common)
    check(one.returncode == 0, "one rank trains", one.stderr)
    many = train(4, "tp=2,dp=2", folder, *common, "--sequence-parallel", "--zero", "--run-dir", str(folder / "run"))
    check(many.returncode == 0, "four ranks train", many.stdout + many.stderr)
    if one.returncode or many.returncode:
        return
    a, b = (json.loads(r.stdout.strip().splitlines()[-1]) for r in (one, many))
    for key in ("loss", "validation_loss", "grad_norm"):
        check(abs(a[key] - b[key]) < 1e-3 * abs(a[key]), f"same {key} on 1 and 4 ranks: {a[key]} {b[key]}")
    half = train(4, "tp=2,dp=2", folder, *common, "--zero", "--dtype", "bfloat16", "--no-baseline")
    check(half.returncode == 0, "four ranks train in bfloat16", half.stderr)
    if half.returncode == 0:
        c = json.loads(half.stdout.strip().splitlines()[-1])
        check(abs(a["loss"] - c["loss"]) < 0.03 * a["loss"], f"bfloat16 is near float32: {a['loss']} {c['loss']}")
    run_folder = folder / "run"
    config = json.loads((run_folder / "config.json").read_text())
    check(config["mesh"] == "tp=2,dp=2" and config["zero"] is True, "config.json tells the options", str(config))
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    check(sum("loss" in line for line in lines) == 4, "metrics.jsonl has every step", str(lines))
    check((run_folder / "loss.svg").read_text().startswith("<svg"), "loss.svg is a picture")


def wrong_input(folder: pathlib.Path, data: str) -> None:
    good = ["--data", data, "--steps", "2", "--batch", "8", "--sequence", "24", "--no-baseline"]
    cut = folder / "cut.tokens"
    cut.write_bytes(pathlib.Path(data).read_bytes()[:-7])
    foreign = folder / "foreign.tokens"
    foreign.write_bytes(b"this is no token file" * 20)
    refused("unknown option", 64, ["--fancy"], train(1, "", folder, *good, "--fancy"), folder)
    refused("missing file", 66, ["gone.tokens"], train(1, "", folder, "--data", str(folder / "gone.tokens")), folder)
    refused("truncated file", 65, ["cut.tokens"], train(1, "", folder, "--data", str(cut)), folder)
    refused("foreign file", 64, ["foreign.tokens"], train(1, "", folder, "--data", str(foreign)), folder)
    refused("mesh and ranks differ", 64, ["tp=3"], train(2, "tp=2", folder, *good, "--mesh", "tp=3"), folder)
    refused("batch doesn't divide", 64, ["batch", "multiple of"],
            train(2, "dp=2", folder, *good[:4], "--batch", "7", "--sequence", "24"), folder)
    refused("stages without layers", 64, ["layers"],
            train(2, "pp=2", folder, *good, "--schedule", "interleaved", "--chunks", "4"), folder)
    refused("too little text", 64, ["fewer than one batch"],
            train(1, "", folder, "--data", data, "--sequence", "2000", "--batch", "64"), folder)
    refused("unknown dimension", 64, ["ep"], train(2, "ep=2", folder, *good), folder)


def killed_rank(folder: pathlib.Path, data: str) -> None:
    """SIGKILL one rank in the middle of training: the job ends at once, with the rank in the text."""
    out = folder / "killed"
    command = [CONVOY, "run", "-n", "4", "--mesh", "tp=2,pp=2", "--no-prefix", "--output", str(out), "--", TRAIN,
               "--data", data, "--steps", "100000", "--batch", "8", "--sequence", "24", "--no-baseline"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env=dict(os.environ, OMP_NUM_THREADS="1"))
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.05)
    victim = 0
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"RANK=2\0" in (entry / "environ").read_bytes().replace(b"LOCAL_RANK", b"") \
                    and str(folder).encode() in (entry / "cmdline").read_bytes():
                victim = int(entry.name)
        except OSError:
            pass
    check(victim > 0, "a rank is training")
    begin = time.monotonic()
    if victim:
        os.kill(victim, signal.SIGKILL)
    try:
        text, _ = job.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        job.kill()
        text = "it did not end"
    check(job.returncode == 128 + signal.SIGKILL and "rank 2" in text, "a killed rank ends the job, which names it",
          f"{job.returncode} after {time.monotonic() - begin:.1f} s\n{text}")
    check(nothing_left(folder), "a killed rank: nothing left behind")


def port_in_use(folder: pathlib.Path, data: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = dict(os.environ, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1",
                           MASTER_PORT=str(taken.getsockname()[1]))
        result = subprocess.run([TRAIN, "--data", data], capture_output=True, text=True, timeout=60, env=environment)
    refused("port in use", 69, ["in use", "MASTER_PORT"], result, folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = folder / "text.txt"
        text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        prepared = run(CONVOY, "data", "prepare", str(text), "-o", str(folder / "text.tokens"))
        check(prepared.returncode == 0, "the text is prepared", prepared.stderr)
        data = str(folder / "text.tokens")
        right_input(folder, data)
        wrong_input(folder, data)
        port_in_use(folder, data)
        killed_rank(folder, data)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
