#!/usr/bin/env python3
"""`convoy chaos` as a user meets it: chaos_test.py CONVOY TRAIN_LLAMA PAGE

Method: the page's scenario is done to a real job of 8 ranks, which must end by itself with all invariants held; then the same report
against a reference in which one number is another one must fail. Mistakes get their exit code and a text. The page's tables have the
kinds and invariants that there are.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
from recover_test import prepare_text  # noqa: E402

CONVOY, TRAIN = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
PAGE = pathlib.Path(sys.argv[3]).read_text()
SCENARIO = re.search(r"```json\n(.*?)```", PAGE, re.S).group(1)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
STEPS = 250


def start(folder: pathlib.Path, name: str, steps: int, *launcher: str) -> subprocess.Popen:
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [CONVOY, "run", "-n", "8", "--mesh", "tp=2,pp=2,dp=2", "--output", str(folder / name), *launcher, "--", TRAIN, "--data",
             str(folder / "text.tokens"), "--steps", str(steps), "--batch", "8", "--sequence", "24", "--no-baseline", "--sample", "0",
             "--dtype", "float64"], stdout=log, stderr=log, env=ENVIRONMENT)


def chaos(folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([CONVOY, "chaos", *words], cwd=folder, capture_output=True, text=True, timeout=180, check=False)


def come_up(folder: pathlib.Path, name: str) -> None:
    deadline = time.monotonic() + 60
    while not (folder / name / "control" / "socket").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def survives(folder: pathlib.Path) -> None:
    """The page's scenario, to the end of the job."""
    (folder / "faults.json").write_text(SCENARIO)
    job = start(folder, "job", STEPS, "--spares", "1")
    come_up(folder, "job")
    done = chaos(folder, "job", "--scenario", "faults.json", "--reference", "reference/metrics.jsonl", "--stay", "--json")
    code = job.wait(timeout=60)
    text = (folder / "job.log").read_text()
    assert code == 0 and done.returncode == 0, f"{code}, {done.returncode}: {done.stdout}\n{done.stderr}\n{text}"
    report = json.loads(done.stdout)
    faults = json.loads(SCENARIO)["faults"]
    assert report["held"] and report["happened"] == len(faults) and report["job_has_ended"], report
    assert [f["kind"] for f in report["faults"]] == [f["kind"] for f in faults], report
    assert report["faults"][2]["was_recovering"] and report["incidents"] >= 2 and report["steps_lost"] <= 1, report
    lines = [json.loads(line) for line in (folder / "job" / "chaos.jsonl").read_text().splitlines()]
    assert [f["pids"] for f in lines] == [f["pids"] for f in report["faults"]] and all(f["happened"] for f in lines), lines
    checked = {i["name"]: i["checked"] for i in report["invariants"]}
    assert checked["numbers"] >= 2 * STEPS and checked["no_orphans"] == 1 and checked["every_step"] == STEPS, checked
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Invariants")[1], re.M))
    assert set(checked) <= documented, f"not on the page: {set(checked) - documented}"
    print(f"  {len(faults)} faults survived", flush=True)


def finds(folder: pathlib.Path) -> None:
    """Exit code 1 and the step, where a number is another one."""
    lines = (folder / "reference" / "metrics.jsonl").read_text().splitlines()
    wrong = [json.dumps({**json.loads(line), "loss": 1.5}) if '"step":2,' in line and '"loss"' in line else line for line in lines]
    (folder / "wrong.jsonl").write_text("\n".join(wrong) + "\n")
    job = start(folder, "wrong", 100000)
    come_up(folder, "wrong")
    done = chaos(folder, "wrong", "--seed", "1", "--faults", "1", "--every", "0s", "--reference", "wrong.jsonl")
    assert done.returncode == 1 and "BROKEN" in done.stdout and "loss of step 2 is" in done.stdout, f"{done.stdout}\n{done.stderr}"
    (folder / "bad.json").write_text('{"faults": [{"kind": "kil", "ranks": [1]}]}')
    done = chaos(folder, "wrong", "--scenario", "bad.json")
    assert done.returncode == 64 and "did you mean kill?" in done.stderr, done.stderr
    done = chaos(folder, "wrong", "--dry-run", "--seed", "7", "--faults", "20")
    assert done.returncode == 0 and len(json.loads(done.stdout)["faults"]) == 20, done
    job.terminate()
    job.wait(timeout=60)
    done = chaos(folder, "wrong")
    assert done.returncode == 66 and "no run folder" in done.stderr, done.stderr
    print("  another number is found; mistakes are told", flush=True)


def page_is_right() -> None:
    shown = subprocess.run([CONVOY, "chaos", "--help"], capture_output=True, text=True, check=True).stdout
    kinds = set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Faults")[1].split("## Invariants")[0], re.M))
    told = set(re.findall(r"\w+", re.search(r"Kinds: (.*?)\. docs", shown, re.S).group(1))) - {"ranks", "amount", "seconds"}
    assert kinds == told, kinds ^ told


def main() -> None:
    page_is_right()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        assert start(folder, "reference", STEPS).wait(timeout=180) == 0
        survives(folder)
        finds(folder)


if __name__ == "__main__":
    main()
