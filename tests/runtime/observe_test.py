#!/usr/bin/env python3
"""Who watches a job hears of its faults: observe_test.py CONVOY TRAIN_LLAMA

A webhook is told of each incident, its end and the job's, in this order; one that hangs or answers 500 holds up nothing. Metrics are
read by Prometheus' own rules, where it is installed. What the tracer finds begins a recovery before the job's own hang limit.
"""
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402
from recover_test import CONVOY, Run, kill, prepare_text  # noqa: E402

MESH = "dp=4"


class Listener:
    """A webhook; `answer`: the HTTP status, or None for no answer at all."""

    def __init__(self, answer: int | None):
        self.told, self.attempts, self.released = [], 0, threading.Event()
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.attempts += 1
                if answer is None:
                    listener.released.wait(60)
                    return
                if answer == 200 and self.headers["Content-Type"] == "application/json":
                    listener.told.append(json.loads(body))
                self.send_response(answer)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()


def check_metrics(text: str) -> dict[str, float]:
    """By name and labels but the job's."""
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done
    samples, family = {}, ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            family = line.split()[2]
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'(\w+)\{job_name="[^"]*",?(.*)\} ([-+.e\d]+)', line)
        assert match and match[1].startswith(family), line
        samples[match[1] + ("{" + match[2] + "}" if match[2] else "")] = float(match[3])
    return samples


def scrape(port: int) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                assert "version=0.0.4" in answer.headers["Content-Type"], answer.headers
                return answer.read().decode()
        except OSError:
            assert time.monotonic() < deadline, "nothing answers"
            time.sleep(0.1)


def told_and_counted(folder: pathlib.Path) -> None:
    """Two faults, with the supervisor killed between them: all is told and counted."""
    hook, port = Listener(200), free_port()
    run = Run(folder, "told", MESH, ["--webhook", hook.url, "--metrics", str(port), "--spares", "1"], [], steps=80)
    run.await_step(5)
    kill(run, 2)
    run.await_generation(1, "training")
    os.kill(run.supervisor(), signal.SIGKILL)
    run.await_generation(1, "training")
    kill(run, 1)
    run.await_generation(2, "training")
    asked = subprocess.run([CONVOY, "status", str(run.out), "--prometheus"], capture_output=True, text=True, check=True).stdout
    deadline = time.monotonic() + 10
    while (samples := check_metrics(scrape(port))).get("convoy_job_generation") != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    for metrics in (samples, check_metrics(asked)):
        assert metrics["convoy_job_generation"] == 2, metrics
        assert sum(v for k, v in metrics.items() if k.startswith("convoy_job_incidents_total")) == 2, metrics
        assert metrics["convoy_job_recovery_seconds_count"] == 2 and metrics["convoy_job_replicas"] == 4, metrics
        assert metrics['convoy_job_seconds{part="recovering"}'] > 0 < metrics['convoy_job_seconds{part="starting"}'], metrics
    status = run.status()
    assert abs(sum(status["spent_s"].values()) - status["elapsed_s"]) < 1e-3, status
    run.end()
    hook.close()
    assert [t["event"] for t in hook.told] == ["incident", "survived"] * 2 + ["end"], hook.told
    assert [t["incident"]["id"] for t in hook.told[:4]] == [1, 1, 2, 2] and "rank 2" in hook.told[0]["incident"]["what"], hook.told
    assert hook.told[4]["code"] == 0 and hook.told[4]["reason"] == "all ranks have ended", hook.told[4]
    print("  a webhook is told in order, metrics count, the parts of the time sum up", flush=True)


def nobody_answers(folder: pathlib.Path, answer: int | None) -> None:
    """The job ends as without it."""
    hook = Listener(answer)
    run = Run(folder, f"deaf-{answer}", MESH, ["--webhook", hook.url], [], steps=30)
    run.await_step(5)
    kill(run, 2)
    run.end()
    hook.close()
    assert hook.attempts >= 1 and run.incidents()[0]["survived"], run.text()
    assert run.text().count("--webhook was not told") <= 1, run.text()
    print(f"  a webhook that answers {answer or 'nothing'} holds up nothing", flush=True)


def an_interrupt(folder: pathlib.Path) -> None:
    """Ctrl-C is told, too."""
    hook = Listener(200)
    run = Run(folder, "interrupted", MESH, ["--webhook", hook.url], [], steps=100000)
    run.await_step(3)
    run.job.send_signal(signal.SIGINT)
    assert run.job.wait(timeout=60) == 130, run.text()
    hook.close()
    assert [(t["event"], t["code"]) for t in hook.told] == [("end", 130)] and "SIGINT" in hook.told[0]["reason"], hook.told
    print("  the end by a signal is told", flush=True)


def a_traced_halt(folder: pathlib.Path) -> None:
    """One slow step, of hundreds, makes the job's own hang limit long, which goes by the longest, and not the tracer's, which goes by
    the 99th percentile. Then a rank is halted."""
    run = Run(folder, "traced", MESH, ["--trace", "--spares", "1"], [], steps=500)
    run.await_step(300)
    pids = [r["pid"] for r in run.status()["ranks"]]
    for sent in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, sent)
        time.sleep(0.8)
    run.await_step(305)
    limit = run.status()["hang_limit_s"]
    kill(run, 2, signal.SIGSTOP)
    run.end()
    record = next(r for r in run.incidents() if 2 in r["ranks"])
    assert record["what"].startswith("the tracer found: ") and record["ranks"] == [2] and record["survived"], record
    assert "hang" in record["kind"] and record["processes_kept"] == 3, record
    print(f"  a halted rank, found by the tracer; the own limit was {limit:.1f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        told_and_counted(folder)
        nobody_answers(folder, 500)
        nobody_answers(folder, None)
        an_interrupt(folder)
        a_traced_halt(folder)


if __name__ == "__main__":
    main()
