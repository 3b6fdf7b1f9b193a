#!/usr/bin/env python3
"""`convoy trace` on running ranks: trace_test.py CONVOY TRAIN_LLAMA

Method: a pipeline of two ranks trains until it is ended; meanwhile its ranks' records are summed up, and the level is switched from
outside. Proves that spans are there, nest, and stop when switched off; not what recording costs (make bench BENCH=trace.record).
"""
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from rehearse_train_test import CONVOY, ENVIRONMENT, job, run
from train_llama_test import rank_of_job

PATIENCE_S = 120
LONG = ["--sample", "0", "--seconds", "600"]


def trace(*words: object, code: int = 0) -> subprocess.CompletedProcess:
    return run([CONVOY, "trace", *map(str, words)], code=code)


def show(*pids: int) -> list[dict]:
    return json.loads(trace("show", "--json", *pids).stdout)["processes"]


@contextlib.contextmanager
def training(folder: str, **environment: str):
    """The process ids of two ranks that train."""
    words = [word for word in job(folder, "pp=2", LONG, [])]
    words[words.index("--steps") + 1] = "1000000"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT | environment)
    try:
        deadline, pids = time.monotonic() + PATIENCE_S, [0, 0]
        while not all(pids):
            assert time.monotonic() < deadline and process.poll() is None, "the ranks don't come up"
            pids = [rank_of_job(pathlib.Path(folder), rank) for rank in (0, 1)]
            time.sleep(0.05)
        yield pids
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def until(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def steps_of(pid: int) -> int:
    done = subprocess.run([CONVOY, "trace", "show", "--json", str(pid)], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        return 0  # it has not begun to record
    return sum(span["count"] for span in json.loads(done.stdout)["processes"][0]["spans"] if span["name"] == "step")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        text = pathlib.Path(folder, "text.txt")
        text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        run([CONVOY, "data", "prepare", str(text), "-o", folder + "/text.tokens"])
        with training(folder) as pids:
            until("no steps are recorded", lambda: all(steps_of(pid) >= 20 for pid in pids))
            for rank, one in enumerate(show(*pids)):
                assert (one["rank"], one["pid"], one["world_size"], one["level"]) == (rank, pids[rank], 2, "spans"), one
                spans = {span["name"]: span for span in one["spans"]}
                assert {"step", "data", "forward", "backward", "await stage", "reduce gradients", "optimizer"} <= spans.keys(), spans
                inner = sum(spans[name]["total_s"] for name in ("data", "reduce gradients", "optimizer"))
                assert 0 < inner < spans["step"]["total_s"] <= one["seconds"], spans
                assert all(0 <= span["p50_s"] <= span["p99_s"] <= span["max_s"] for span in one["spans"]), spans
            human = trace("show", *pids).stdout
            assert human.count("SPAN") == 2 and "rank 1 of 2" in human, human
            trace("level", "off", *pids)
            time.sleep(0.2)  # whoever was in the middle of a record has written it
            off = [one["records"] for one in show(*pids)]
            time.sleep(0.5)  # dozens of steps
            assert [one["records"] for one in show(*pids)] == off, "switched off, they go on to record"
            trace("level", "collectives", pids[1])
            assert [one["level"] for one in show(*pids)] == ["off", "collectives"]
            assert "there is no level" in trace("level", "loud", *pids, code=64).stderr
        assert "is not there" in trace("show", *pids, code=66).stderr
        with training(folder, CONVOY_TRACE="off") as pids:
            assert "records nothing" in trace("show", pids[0], code=66).stderr
        assert "CONVOY_TRACE is 'loud'" in run(job(folder, "dp=1", [], []), code=64, CONVOY_TRACE="loud").stderr


if __name__ == "__main__":
    main()
