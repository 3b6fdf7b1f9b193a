#!/usr/bin/env python3
"""Machines that come and go, as a user sees it: recover_elastic_test.py CONVOY TRAIN_LLAMA [CASE]…

Method: as recover_nodes_test.py. With fewer replicas each has a larger share of the same batch, so the numbers must be those of an
undisturbed run but for the order of sums. With etcd (a real one, where there is one) any machine may be lost, the one that leads, too.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402
from recover_nodes_test import FOR_EVER, RANKS, REPLICAS, Job, Machine, training  # noqa: E402
from recover_test import CONVOY, NUMBERS, prepare_text  # noqa: E402


def near(numbers: dict, reference: dict) -> None:
    """Sums of the same terms in another order, in float64."""
    for key in NUMBERS:
        assert abs(numbers[key] - reference[key]) <= 1e-9 * abs(reference[key]), f"{key}: {numbers[key]}, undisturbed {reference[key]}"


def fewer_replicas(folder: pathlib.Path) -> None:
    """A machine is lost, no spares: the other replica goes on with all of the batch."""
    job = training(Job(folder, "fewer", mesh=REPLICAS))
    job.second.kill()
    job.end((0, -signal.SIGKILL))
    undisturbed = Job(folder, "undisturbed", mesh=REPLICAS)
    undisturbed.end()
    near(job.result(), undisturbed.result())
    (record,) = job.first.incidents()
    assert record["action"] == "shrink" and record["steps_lost"] == 0 and record["processes_kept"] == 4, record
    print(f"  fewer replicas: back in {record['first_step_s']:.2f} s", flush=True)


def uneven(folder: pathlib.Path) -> None:
    """Four replicas on two machines; spares make it three of them afterwards: shares of the batch that differ, one of four micro-batches more."""
    mesh = "tp=2,dp=4"
    undisturbed = Job(folder, "even", mesh=mesh)
    undisturbed.end()
    job = training(Job(folder, "uneven", ["--spares", "2"], mesh=mesh))
    job.second.kill()
    job.first.await_generation(2, "training")
    assert job.status()["mesh"] == "tp=2,dp=3", job.status()
    job.end((0, -signal.SIGKILL))
    near(job.result(), undisturbed.result())
    assert [r["action"] for r in job.first.incidents()] == ["shrink", "grow"], job.first.incidents()
    print("  three replicas of four, with uneven shares", flush=True)


def and_back(folder: pathlib.Path) -> None:
    """The same, and a machine in the place of the lost one comes: all replicas again, and nobody waits for its processes to start."""
    job = training(Job(folder, "back", mesh=REPLICAS, steps=FOR_EVER))
    job.second.kill()
    job.first.await_generation(1, "training")
    assert job.status()["mesh"] == "tp=2,pp=2,dp=1,order=tp-pp-dp", job.status()
    job.second = job.machines[1] = job.second.again()
    job.first.await_generation(2, "training")
    assert [node["ranks"] for node in job.status()["nodes"]] == [4, 4], job.status()
    job.stop()
    lost, back = job.first.incidents()
    assert lost["action"] == "shrink" and back["action"] == "grow" and back["steps_lost"] == 0, (lost, back)
    print(f"  a machine comes back: training stood still for {back['first_step_s']:.2f} s", flush=True)


def by_lead(job: Job) -> list[Machine]:
    """The machine that leads, and the other one."""
    return sorted(job.machines, key=Machine.supervisor_leads, reverse=True)


def await_incident(job: Job, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(len(m.incidents()) for m in job.machines) < count:
        assert time.monotonic() < deadline, f"no incident was recorded:\n{job.text()}"
        time.sleep(0.05)


class EtcdServer:
    """An etcd of one member, in a folder of the test's."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.port = folder / "etcd", free_port(neighbours=1)
        self.peer = self.port + 1
        self.start()

    def start(self) -> None:
        own, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer}"
        self.server = subprocess.Popen(
            ["etcd", "--data-dir", str(self.folder), "--listen-client-urls", own, "--advertise-client-urls", own, "--listen-peer-urls", peer,
             "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--logger", "zap", "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self.server.kill()
        self.server.wait()

    def __enter__(self) -> list[str]:
        self.options = ["--etcd", f"127.0.0.1:{self.port}"]
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def with_etcd(test):
    """Skipped where there is no etcd to run."""

    def run(folder: pathlib.Path) -> None:
        if shutil.which("etcd") is None:
            print(f"  {test.__name__}: skipped, there is no etcd here", flush=True)
            return
        home = folder / test.__name__
        home.mkdir()
        with EtcdServer(home) as etcd:
            test(folder, etcd)

    run.__name__ = test.__name__
    return run


@with_etcd
def the_leading_machine(folder: pathlib.Path, etcd: EtcdServer) -> None:
    """The machine with the supervisor is lost: another machine's leads, and goes on with the replica that it has; then the first one
    comes back, and follows."""
    job = training(Job(folder, "leading", etcd.options, mesh=REPLICAS, steps=FOR_EVER, common=True))
    leads, other = by_lead(job)
    begin = time.monotonic()
    leads.kill()
    other.await_generation(1, "training")
    took = time.monotonic() - begin
    assert other.supervisor_leads() and other.status()["mesh"] == "tp=2,pp=2,dp=1,order=tp-pp-dp", other.status()
    job.machines[leads.number] = leads.again()
    try:
        other.await_generation(2, "training")
    except AssertionError as late:
        raise AssertionError(f"{late}\n{job.machines[leads.number].text()}") from None
    assert [node["ranks"] for node in other.status()["nodes"]] == [4, 4], other.status()
    job.first, job.second = job.machines
    job.stop()
    lost, back = other.incidents()
    assert lost["steps_lost"] == 0 and back["action"] == "grow", (lost, back)
    print(f"  the machine that leads is lost: training again {took:.1f} s after its death, and it comes back", flush=True)


@with_etcd
def etcd_away(folder: pathlib.Path, etcd: EtcdServer) -> None:
    """Nobody leads while etcd is away, and training goes on; then a rank is replaced as before."""
    job = training(Job(folder, "etcd-away", etcd.options, mesh=REPLICAS, steps=FOR_EVER, common=True))
    etcd.stop()
    time.sleep(4)
    assert job.first.status() is None and job.second.status() is None, "somebody leads without etcd"
    etcd.start()
    job.await_ranks()
    job.kill(5)
    await_incident(job, 1)
    job.stop()
    records = next(m for m in job.machines if m.incidents()).incidents()
    assert len(records) == 1, f"{[(r['what'], r['action']) for r in records]}\n{job.text()}"
    record = records[0]
    assert record["survived"] and record["steps_lost"] == 0, record
    print("  etcd away for 4 s: training goes on, and a rank is replaced afterwards", flush=True)


@with_etcd
def supervisor_with_etcd(folder: pathlib.Path, etcd: EtcdServer) -> None:
    """SIGKILL of the supervisor: its own launcher's next one takes over at once."""
    job = training(Job(folder, "etcd-supervisor", etcd.options, mesh=REPLICAS, steps=FOR_EVER, common=True))
    leads, _ = by_lead(job)
    before = leads.supervisor()
    begin = time.monotonic()
    os.kill(before, signal.SIGKILL)
    while (status := leads.status()) is None or len(status["ranks"]) < 8 or leads.supervisor() in (0, before):
        assert time.monotonic() < begin + 30, job.text()
        time.sleep(0.02)
    took = time.monotonic() - begin
    job.kill(6)
    await_incident(job, 1)
    job.stop()
    print(f"  the supervisor is killed: control is back after {took:.1f} s", flush=True)


def drained(folder: pathlib.Path) -> None:
    """A machine is freed for maintenance and comes back; no step is lost, and nobody waits for a deadline."""
    job = training(Job(folder, "drained", mesh=REPLICAS, steps=FOR_EVER))
    refused = subprocess.run([CONVOY, "drain", "0", str(job.first.out)], capture_output=True, text=True, check=False)
    assert refused.returncode == 69 and "leads the job" in refused.stderr, refused
    name = job.status()["nodes"][1]["name"]
    subprocess.run([CONVOY, "drain", name, str(job.first.out)], check=True, capture_output=True)
    assert job.second.job.wait(timeout=60) == 0, job.text()
    assert not job.second.processes(), "left behind"
    assert job.status()["mesh"] == "tp=2,pp=2,dp=1,order=tp-pp-dp", job.status()
    job.second = job.machines[1] = job.second.again()
    job.first.await_generation(2, "training")
    job.stop()
    away, back = job.first.incidents()
    assert away["kind"] == "to be freed" and away["steps_lost"] == 0 and back["action"] == "grow", (away, back)
    print(f"  a machine is drained: training stood still for {away['first_step_s']:.2f} s, and {back['first_step_s']:.2f} s at its return", flush=True)


def drained_to_spares(folder: pathlib.Path) -> None:
    """With room elsewhere its ranks move: the mesh stays, and the numbers are the same bits."""
    undisturbed = Job(folder, "not-drained", mesh=REPLICAS)
    undisturbed.end()
    job = training(Job(folder, "moved", ["--spares", "4"], mesh=REPLICAS))
    subprocess.run([CONVOY, "drain", "1", str(job.first.out)], check=True, capture_output=True)
    job.end()
    for key in NUMBERS:
        assert job.result()[key] == undisturbed.result()[key], f"{key}\n{job.text()}"
    (away,) = job.first.incidents()
    assert away["action"] == "replace" and away["steps_lost"] == 0 and away["spares_used"] == 4, away
    print(f"  and to spares: {away['first_step_s']:.2f} s", flush=True)


STAGES = "tp=2,pp=4"  # each machine has half of the only replica
SAVES = ["--checkpoint", "{folder}/saves", "--checkpoint-every", "2", "--checkpoint-keep", "4"]


def losses(job: Job) -> dict[int, float]:
    """By step, the last time that it was done."""
    lines = (job.first.out / "metrics.jsonl").read_text().splitlines()
    return {m["step"]: m["loss"] for m in map(json.loads, lines) if "loss" in m}


def compare(job: Job, reference: Job, at_least: int) -> None:
    found, expected = losses(job), losses(reference)
    common = sorted(found.keys() & expected.keys())
    assert len(common) >= at_least, f"only {len(common)} steps to compare"
    for step in common:
        assert abs(found[step] - expected[step]) <= 1e-9 * abs(expected[step]), f"step {step}: {found[step]}, undisturbed {expected[step]}"


def another_mesh(folder: pathlib.Path) -> None:
    """Half of the only replica is lost: fewer stages, from what was saved; all of them again when a machine comes, without a step lost."""
    undisturbed = Job(folder, "all-stages", mesh=STAGES, steps=FOR_EVER)
    undisturbed.await_step(120)
    undisturbed.stop()
    job = training(Job(folder, "stages", mesh=STAGES, steps=FOR_EVER, options=SAVES))
    job.second.kill()
    job.first.await_generation(1, "training")
    assert job.status()["mesh"] == "tp=2,pp=2", job.status()
    job.second = job.machines[1] = job.second.again()
    job.first.await_generation(2, "training")
    assert job.await_ranks()["mesh"] == STAGES, job.status()
    assert job.status()["saved"]["folder"] >= 2, job.status()
    shown = subprocess.run([CONVOY, "status", str(job.first.out)], capture_output=True, text=True, check=True).stdout
    lines = [re.sub(r"[.!*?]", "", line).split() for line in shown.splitlines()]
    assert ["mesh", "dp", "0"] in lines and ["pp", "3", "6", "7"] in lines and "saved: step" in shown, shown
    job.await_step(job.status()["step"] + 3)
    job.stop()
    compare(job, undisturbed, 20)
    lost, back = job.first.incidents()
    assert lost["action"] == "reshape" and lost["processes_kept"] == 4 and 0 <= lost["steps_lost"] <= 8, lost  # the newest may not be whole yet
    assert back["action"] == "reshape" and back["processes_kept"] == 4 and back["steps_lost"] == 0, back
    print(f"  another mesh: back in {lost['first_step_s']:.2f} s, {lost['steps_lost']} steps lost; its own again in {back['first_step_s']:.2f} s",
          flush=True)


def drained_only_copies(folder: pathlib.Path) -> None:
    """Whoever is drained has the only copies of two stages: they are saved first, so that no step is lost."""
    for launcher, mesh in (([], "tp=2,pp=2"), (["--spares", "4"], STAGES)):
        job = training(Job(folder, f"only-{mesh}-{len(launcher)}", launcher, mesh=STAGES, steps=FOR_EVER, options=SAVES))
        subprocess.run([CONVOY, "drain", "1", str(job.first.out)], check=True, capture_output=True)
        assert job.second.job.wait(timeout=60) == 0, job.text()
        job.first.await_generation(1, "training")
        assert job.status()["mesh"] == mesh, job.status()
        job.await_step(job.status()["step"] + 3)
        job.stop((130, 0))
        (away,) = job.first.incidents()
        assert away["kind"] == "to be freed" and away["steps_lost"] == 0, away
        print(f"  drained of the only copies, {' '.join(launcher) or 'no spares'}: {away['first_step_s']:.2f} s", flush=True)


def quarantined(folder: pathlib.Path) -> None:
    """Two crashes on one machine: its ranks go elsewhere, and it is checked before it may have ranks again."""
    job = training(Job(folder, "quarantined", ["--spares", "4"], mesh=REPLICAS, steps=FOR_EVER))
    for generation in (1, 2):
        job.kill(7, signal.SIGSEGV)
        job.first.await_generation(generation, "training")
    job.await_ranks()
    assert job.status()["nodes"][1]["state"] == "quarantined", job.status()
    assert job.status()["nodes"][1]["ranks"] < RANKS, job.status()
    deadline = time.monotonic() + 90
    while not any(told in job.text() for told in ("has passed its checks", "gets no ranks: ")):
        assert time.monotonic() < deadline, job.text()
        time.sleep(0.2)
    is_fit = "has passed its checks" in job.text()
    assert job.status()["nodes"][1]["state"] == ("there" if is_fit else "quarantined"), job.status()
    job.stop()
    print(f"  a machine that failed twice is checked before it is used again, and found {'fit' if is_fit else 'unfit'}", flush=True)


@with_etcd
def drained_leader(folder: pathlib.Path, etcd: EtcdServer) -> None:
    """The machine that leads is freed: another one leads then."""
    job = training(Job(folder, "drained-leader", etcd.options, mesh=REPLICAS, steps=FOR_EVER, common=True))
    leads, other = by_lead(job)
    subprocess.run([CONVOY, "drain", str(leads.number), str(other.out)], check=True, capture_output=True)
    assert leads.job.wait(timeout=60) == 0, job.text()
    begin = time.monotonic()
    while not other.supervisor_leads() or (status := other.status()) is None or len(status["ranks"]) < RANKS:
        assert time.monotonic() < begin + 30, job.text()
        time.sleep(0.05)
    (rank, pid) = next((r["rank"], r["pid"]) for r in status["ranks"])
    os.kill(pid, signal.SIGKILL)
    other.await_generation(2, "training")
    job.stop((0, 130) if leads.number == 0 else (130, 0))
    assert [r["what"] for r in other.incidents() if f"rank {rank} " in r["what"]], other.incidents()
    print("  the machine that leads is drained: another one leads, and replaces a rank", flush=True)


CASES = [drained, drained_to_spares, drained_only_copies, drained_leader, fewer_replicas, uneven, and_back, another_mesh, quarantined, the_leading_machine, etcd_away, supervisor_with_etcd]


def main() -> None:
    wanted = sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        try:
            for case in CASES:
                if not wanted or case.__name__ in wanted:
                    case(folder)
        finally:
            Job.end_all()


if __name__ == "__main__":
    main()
