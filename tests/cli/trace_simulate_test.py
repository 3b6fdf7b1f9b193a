"""`convoy trace simulate` as a user meets it: files of both forms, what is printed, messages and exit codes.
Usage: trace_simulate_test.py CONVOY"""
import json
import pathlib
import subprocess
import sys
import tempfile

CONVOY = sys.argv[1]


def simulate(*words, code=0):
    done = subprocess.run([CONVOY, "trace", "simulate", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{words}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def test_files(folder):
    cluster = ["--mesh", "tp=2,pp=2,dp=4", "--steps", 6, "--fault", "slow_compute:rank=5,factor=1.5,from=3", "--json"]
    summary = json.loads(simulate(*cluster, "-o", folder / "run.trace"))
    assert summary["steps"] == 6 and not summary["hung"], summary
    assert [(t["class"], t["ranks"], t["step"]) for t in summary["truths"]] == [("slow_compute", [5], 3)], summary
    assert (folder / "run.trace").stat().st_size == summary["bytes"]
    again = simulate(*cluster, "-o", folder / "again.trace")
    assert json.loads(again) == summary and (folder / "again.trace").read_bytes() == (folder / "run.trace").read_bytes()
    simulate(*cluster, "--json-lines", "-o", folder / "run.jsonl")
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    assert len(lines) > summary["batches"]
    assert "slow_compute" not in (folder / "run.jsonl").read_text(), "what is wrong is no part of the trace"


def test_scenarios(folder):
    first = json.loads(simulate("--scenario", "crash", "--seed", 3, "--json", "-o", folder / "crash.trace"))
    assert first["hung"] and first["truths"][0]["class"] == "crash", first


def test_messages(folder):
    out = ["-o", folder / "none.trace"]
    assert "there is no fault 'slow'" in simulate("--fault", "slow", *out, code=64)
    assert "xp" in simulate("--mesh", "xp=3", *out, code=64)
    assert "rank=x" in simulate("--fault", "crash:rank=x", *out, code=64)
    assert "1 to 1000000 steps" in simulate("--steps", 0, *out, code=64)


def main():
    with tempfile.TemporaryDirectory() as name:
        for test in (test_files, test_scenarios, test_messages):
            test(pathlib.Path(name))
            print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
