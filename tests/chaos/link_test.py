#!/usr/bin/env python3
"""`convoy chaos` between two machines: link_test.py CONVOY TRAIN_LLAMA

Method: two network namespaces, joined by a veth pair, play two machines; each has a launcher with 4 ranks of one job in float64. Beside the
first one `convoy chaos` cuts and slows the pair's device with the kernel's token bucket. Cut for less than a second and slow: no
recovery, and all numbers are those of an undisturbed run, bit for bit. Cut for long: the second machine is lost, spares of the
first go on with its ranks, without a step lost. Exit code 77: no right to make namespaces, or no tc.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import recover_test  # noqa: E402
from recover_test import CONVOY, Run, prepare_text  # noqa: E402

NAMES = [f"cvychaos{os.getpid()}{side}" for side in "ab"]
ADDRESSES = ["10.231.7.1", "10.231.7.2"]
MESH = "tp=2,pp=2,dp=2,order=tp-pp-dp"  # each machine has all of the model
RANKS = 4
STEPS = 1000000  # more than there is time for: the schedule of the learning rate depends on it
COMPARED = 60  # steps of the undisturbed run
SKIPPED = 77
JOBS: list["Job"] = []


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


def join_namespaces() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        return False
    made = all(ip("netns", "add", name) for name in NAMES)
    made = made and ip("-n", NAMES[0], "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", NAMES[1])
    for name, address in zip(NAMES, ADDRESSES):
        made = made and ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
        made = made and ip("-n", name, "link", "set", "veth0", "up") and ip("-n", name, "link", "set", "lo", "up")
    tc = ["tc", "-n", NAMES[0], "qdisc"]
    return (made and subprocess.run([*tc, "add", "dev", "veth0", "root", "tbf", "rate", "1mbit", "burst", "64kb", "latency", "500ms"],
                                    capture_output=True, check=False).returncode == 0
            and subprocess.run([*tc, "del", "dev", "veth0", "root"], check=False).returncode == 0)


def in_machine(folder: pathlib.Path, number: int) -> str:
    """A `convoy` that runs in that machine's namespace."""
    path = folder / f"convoy-{number}"
    if not path.exists():  # written once: a shell that just starts must not find it empty
        path.write_text(f'#!/bin/sh\nexec ip netns exec {NAMES[number]} {CONVOY} "$@"\n')
        path.chmod(0o755)
    return str(path)


class Job:
    ports = iter(range(29511, 29999, 7))

    def __init__(self, folder: pathlib.Path, name: str, *launcher: str):
        self.machines: list[Run] = []
        rendezvous = f"{ADDRESSES[0]}:{next(self.ports)}"
        JOBS.append(self)
        for number in (0, 1):
            recover_test.CONVOY = in_machine(folder, number)
            environment = {"CONVOY_HOST_ID": f"machine-{number}", "CONVOY_ADDRESS": ADDRESSES[number], "CONVOY_INTERFACE": "veth0"}
            self.machines.append(Run(folder, f"{name}-{number}", MESH, ["--nnodes", "2", "--node-rank", str(number), "--rdzv",
                                                                       rendezvous, *launcher], [], STEPS, RANKS, environment))
        recover_test.CONVOY = in_machine(folder, 0)
        self.first, self.second = self.machines

    def text(self) -> str:
        return "\n".join(f"--- machine {n}\n{m.text()}" for n, m in enumerate(self.machines))

    def stop(self, *codes: int) -> None:
        self.first.job.terminate()
        for machine, code in zip(self.machines, codes):
            ended = machine.job.wait(timeout=120)
            assert ended == code, f"exit code {ended}, not {code}"

    def await_step(self, step: int) -> None:
        path, deadline = self.first.out / "metrics.jsonl", time.monotonic() + 120
        while not (path.exists() and f'"step":{step},' in path.read_text() and self.is_whole()):
            assert time.monotonic() < deadline and self.first.job.poll() is None, f"step {step} never came"
            time.sleep(0.05)

    def is_whole(self) -> bool:
        """Until both machines have reached the supervisor a death ends the job."""
        status = self.first.status()
        return status is not None and all(node["state"] == "there" for node in status["nodes"])


def chaos(folder: pathlib.Path, job: Job, faults: list[dict]) -> dict:
    (folder / "faults.json").write_text(json.dumps({"faults": faults}))
    reference = ["--reference", str(folder / "reference-0" / "metrics.jsonl")]
    done = subprocess.run([in_machine(folder, 0), "chaos", str(job.first.out), "--scenario", str(folder / "faults.json"), "--link", "veth0",
                           "--json", *reference], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}\n{done.stderr}\n{job.text()}"
    report = json.loads(done.stdout)
    assert report["happened"] == len(faults), report
    assert any(i["name"] == "numbers" and i["checked"] > 0 for i in report["invariants"]), report
    return report


def short_cuts(folder: pathlib.Path) -> None:
    job = Job(folder, "short")
    job.await_step(3)
    # Steps are done between a slow link, over which none comes to its end, and a cut: both together would count as a hang.
    report = chaos(folder, job, [{"kind": "cut_link", "seconds": 0.3, "after_s": 0.2}, {"kind": "slow_link", "amount": 20000, "seconds": 1, "after_s": 0.2},
                                 {"kind": "cut_link", "seconds": 0.6, "after_s": 1.5}])
    assert report["incidents"] == 0, report
    job.stop(143, 143)
    print("  cut for a moment, and slow: nothing has to recover", flush=True)


def long_cut(folder: pathlib.Path) -> None:
    job = Job(folder, "long", "--spares", "4")
    job.await_step(3)
    report = chaos(folder, job, [{"kind": "cut_link", "seconds": 12, "after_s": 0.2}])
    assert report["incidents"] >= 1 and report["steps_lost"] == 0, report
    deadline = time.monotonic() + 60
    while "is there again" not in job.text():
        assert time.monotonic() < deadline, f"the machine that was cut off does not come back:\n{job.text()}"
        time.sleep(0.1)
    job.stop(143, 143)
    print(f"  cut for long: back in {report['next_step_s'][0]:.1f} s without the other machine, which has room for spares afterwards", flush=True)


def main() -> int:
    try:
        if not join_namespaces():
            print("skipped: no right to make network namespaces, or no tc")
            return SKIPPED
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = pathlib.Path(name)
            prepare_text(folder)
            reference = Job(folder, "reference")
            reference.await_step(COMPARED)
            reference.stop(143, 143)
            wanted = sys.argv[3:]
            for part in (short_cuts, long_cut):
                if not wanted or part.__name__ in wanted:
                    try:
                        part(folder)
                    except Exception:
                        print(JOBS[-1].text(), file=sys.stderr)
                        raise
    finally:
        for machine in (m for job in JOBS for m in job.machines if m.job.poll() is None):
            machine.job.terminate()
            machine.job.wait()
        for name in NAMES:
            ip("netns", "del", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
