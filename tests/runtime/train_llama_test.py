#!/usr/bin/env python3
"""train_llama as a user starts it: alone and on ranks, and with ranks that are killed or halted in the middle.

Usage: train_llama_test.py CONVOY TRAIN_LLAMA. A small text is prepared in a temporary folder. 1 and 4 ranks report the
same loss, and the run folder holds what is promised. When one rank is killed, all end; when one is halted, the others
fail after the timeout with texts that name it. Not checked: the numbers themselves (the truth sweep does that), speed,
wrong input (bad_input_test.py).
"""
import json
import os
import pathlib
import re
import signal
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
    final = [line["final_validation_loss"] for line in lines if "final_validation_loss" in line]
    check(len(final) == 1 and abs(final[0] - b["validation_loss"]) < 1e-6, "the result is no point of the curve",
          str(lines))
    check((run_folder / "loss.svg").read_text().startswith("<svg"), "loss.svg is a picture")


def rank_of_job(folder: pathlib.Path, rank: int) -> int:
    """The process of a rank, or 0."""
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0") \
                    and str(folder).encode() in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            pass
    return 0


def disturbed(folder: pathlib.Path, data: str, mesh: str, victim: int, signal_number: int, timeout: str) -> tuple:
    """Sends a signal to one of 4 ranks in the middle of training: (exit code, text, the rank's pid)."""
    out = folder / f"disturbed-{signal_number}"
    command = [CONVOY, "run", "-n", "4", "--no-recover", "--mesh", mesh, "--output", str(out), "--", TRAIN, "--data", data, "--steps",
               "100000", "--batch", "8", "--sequence", "24", "--no-baseline"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env=dict(os.environ, OMP_NUM_THREADS="1", CONVOY_TIMEOUT=timeout))
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.05)
    pid = rank_of_job(folder, victim)
    check(pid > 0, "a rank is training")
    if pid:
        os.kill(pid, signal_number)
    try:
        text, _ = job.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        job.terminate()
        text = job.communicate()[0] + "\nit did not end"
    check(nothing_left(folder), "nothing left behind")
    return job.returncode, text, pid


def killed_rank(folder: pathlib.Path, data: str) -> None:
    code, text, _ = disturbed(folder, data, "tp=2,pp=2", 2, signal.SIGKILL, "300s")
    check(code == 128 + signal.SIGKILL and "rank 2 died first" in text, "a killed rank ends the job, which names it",
          f"{code}\n{text}")


def halted_rank(folder: pathlib.Path, data: str) -> None:
    """SIGSTOP: after the timeout whoever waits for the rank says so, and the job ends with the code for a deadline."""
    code, text, pid = disturbed(folder, data, "pp=4", 2, signal.SIGSTOP, "15s")
    check(code == 75, "a halted rank: exit code 75", f"{code}\n{text}")
    errors = [line for line in text.splitlines() if "error: deadline exceeded" in line]
    waits = r"rank 2 has not (.* after .*stage \d|joined all_reduce .* after)|ranks [\d,]*2[\d,]* have not joined"
    check(any(re.search(waits, line) and f"rank 2 (pid {pid}) is stopped" in line for line in errors),
          "a halted rank: a rank that waited for it names it and what it waited for", text)
    check(f"rank 2 (pid {pid}) was halted then" in text, "a halted rank: the launcher names it", text)


def prepare(folder: pathlib.Path) -> str:
    text = folder / "text.txt"
    text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
    prepared = run(CONVOY, "data", "prepare", str(text), "-o", str(folder / "text.tokens"))
    check(prepared.returncode == 0, "the text is prepared", prepared.stderr)
    return str(folder / "text.tokens")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = prepare(folder)
        right_input(folder, data)
        killed_rank(folder, data)
        halted_rank(folder, data)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
