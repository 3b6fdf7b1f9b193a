#!/usr/bin/env python3
"""A job on two machines that goes on, as a user sees it: recover_nodes_test.py CONVOY TRAIN_LLAMA [FAULT]…

Method: as recover_test.py, but two launchers on this machine play two machines (CONVOY_HOST_ID), with 4 ranks each. A fault is caused from
outside; both launchers must end with code 0 and the numbers of a run that nobody disturbed, bit for bit, the record must name the
machine, and nothing may be left behind. A machine is lost by killing its guardian, its launcher and all ranks at once.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from certificate import make_certificate  # noqa: E402
from ports import free_port  # noqa: E402
from recover_test import NUMBERS, Run, prepare_text  # noqa: E402

STEPS, AT = 60, 8  # of a run; the fault comes after this one
MESH = "tp=2,pp=2,dp=2"  # each machine has a stage of the pipeline
REPLICAS = "tp=2,pp=2,dp=2,order=tp-pp-dp"  # each machine has all of the model
RANKS = 4  # of a machine
FOR_EVER = 100000  # steps


class Machine(Run):
    """One launcher, and what it says. The first one's `status`, `pid` and `incidents` are the job's."""

    def __init__(self, folder: pathlib.Path, name: str, number: int, port: int, mesh: str, launcher: list[str], options: list[str], steps: int,
                 common: bool = False):
        self.number = number
        self.again = lambda: Machine(folder, name + "-again", number, port, mesh, launcher, options, steps, common)
        # Saving needs a common name.
        environment = {"CONVOY_HOST_ID": f"machine-{number}", "CONVOY_ADDRESS": "127.0.0.1", "MACHINE": str(folder / f"{name}-{number}"),
                       **({"CONVOY_JOB_ID": name.removesuffix("-again")} if options or common else {})}
        super().__init__(folder, f"{name}-{number}", mesh, ["--nnodes", "2", "--node-rank", str(number), "--rdzv", f"127.0.0.1:{port}", *launcher],
                         options, steps, RANKS, environment)

    def mark(self) -> str:
        return str(self.out)

    def processes(self) -> list[int]:
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if f"MACHINE={self.mark()}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def relay(self) -> int:
        for pid in self.processes():
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"supervisor" in words and b"--to" in words:
                return pid
        raise AssertionError("there is no line to the supervisor")

    def supervisor_leads(self) -> bool:
        """It listens where the others' launchers connect."""
        return bool(self.supervisor()) and f"pid={self.supervisor()}," in subprocess.run(
            ["ss", "-ltnp"], capture_output=True, text=True, check=True).stdout

    def kill(self) -> None:
        """As if the power had gone: nobody may see another one die and do something about it."""
        pids = self.processes()
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    pass


class Job:
    """Two machines."""

    started: list["Job"] = []

    @classmethod
    def end_all(cls) -> None:
        """What a test leaves behind that has failed would train for ever."""
        for job in cls.started:
            for machine in job.machines:
                machine.kill()

    def __init__(self, folder: pathlib.Path, name: str, launcher: list[str] = (), steps: int = STEPS, mesh: str = MESH, options: list[str] = (),
                 own: tuple = ((), ()), common: bool = False):
        """`own`: options of each launcher; `common`: all know the job by one name."""
        port = free_port(neighbours=2)
        self.machines = [Machine(folder, name, number, port, mesh, [*launcher, *own[number]],
                                 [o.format(folder=folder / name) for o in options], steps, common) for number in (0, 1)]
        self.first, self.second = self.machines
        self.started.append(self)

    def text(self) -> str:
        return "\n".join(f"--- machine {m.number}\n{m.text()}" for m in self.machines)

    def await_step(self, step: int) -> None:
        self.first.await_step(step)

    def status(self) -> dict:
        status = self.first.status()
        assert status is not None, f"nobody leads:\n{self.text()}"
        return status

    def pids(self) -> dict[int, int]:
        return {r["rank"]: r["pid"] for r in self.status()["ranks"]}

    def kill(self, rank: int, sent: int = signal.SIGKILL) -> None:
        pids = self.pids()
        assert rank in pids, f"rank {rank} has no process: {pids}\n{self.text()}"
        os.kill(pids[rank], sent)

    def ranks_after_recovery(self) -> list[int]:
        """Of each machine; none if the job was over first."""
        while self.first.job.poll() is None:
            status = self.first.status()
            if status and status["generation"] > 0 and status["phase"] == "training":
                return [node["ranks"] for node in status["nodes"]]
            time.sleep(0.02)
        return []

    def end(self, codes: tuple = (0, 0)) -> None:
        deadline = time.monotonic() + 90
        for machine, code in zip(self.machines, codes):
            try:
                ended = machine.job.wait(timeout=max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                told = self.first.status()
                for each in self.machines:
                    each.kill()
                raise AssertionError(f"machine {machine.number} hangs: {told}\n{self.text()}") from None
            assert ended == code, f"machine {machine.number}: exit code {ended}, not {code}:\n{self.text()}"
        left = [pid for machine in self.machines for pid in machine.processes()]
        assert not left, f"left behind: {left}"

    def await_ranks(self, ranks: int = 2 * RANKS) -> dict:
        """Until so many train, and nothing is under way; at first: until both machines have reached the supervisor."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            status = next((s for m in self.machines if m.job.poll() is None and (s := m.status())), None)
            if status and status["phase"] == "training" and len(status["ranks"]) == ranks and not any(r["halted"] for r in status["ranks"]):
                return status
            assert any(m.job.poll() is None for m in self.machines), f"the job has ended:\n{self.text()}"
            time.sleep(0.05)
        raise AssertionError(f"{ranks} ranks never trained:\n{self.text()}")

    def stop(self, codes: tuple = (130, 130)) -> None:
        """Ctrl-C on a machine that is there: how many steps were done by then depends on the machine's load."""
        next(m for m, code in zip(self.machines, codes) if code == 130).job.send_signal(signal.SIGINT)
        self.end(codes)

    def result(self) -> dict:
        lines = [line for m in self.machines for line in m.text().splitlines() if line.startswith("[0] {")]
        return json.loads(lines[-1][4:])


# Each: what is done to the job once it has trained AT steps. Returns what its record must say.
def a_rank(job: Job) -> dict:
    """SIGKILL of a rank of the second machine: a process is started there."""
    job.kill(5)
    return {"lost": 0, "kept": 7, "started": 1, "spares": 0, "on": [4, 4]}


def training(job: Job, step: int = AT) -> Job:
    """Once it has done some steps, and both machines have reached the supervisor: until then a death ends the job."""
    job.await_step(step)
    job.await_ranks()
    seen = job.second.status()  # over the line on which it was told before that all are there
    assert seen is not None and len(seen["ranks"]) == 2 * RANKS, f"the second machine is not answered: {seen}\n{job.text()}"
    return job


def rank_zero(job: Job) -> dict:
    """It served the job's first store, on the first machine; a spare there takes its place."""
    job.kill(0)
    return {"lost": 0, "kept": 7, "spares": 1, "on": [4, 4]}


def supervisor_then_rank(job: Job) -> dict:
    """It dies: nobody notices; the next one hears of both machines and replaces a rank of the second one."""
    first = job.first.supervisor()
    os.kill(first, signal.SIGKILL)
    job.await_step(AT + 8)
    assert job.first.supervisor() not in (0, first), "there is no other supervisor"
    job.kill(6)
    return {"lost": 0, "kept": 7, "on": [4, 4]}


def supervisor_and_rank(job: Job) -> dict:
    """Both at once."""
    pid = job.pids()[7]
    os.kill(job.first.supervisor(), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    return {"lost": 0, "kept": 7, "on": [4, 4]}


def the_line(job: Job) -> dict:
    """The process between the second launcher and the supervisor is killed, then a rank."""
    os.kill(job.second.relay(), signal.SIGKILL)
    job.await_step(AT + 5)
    job.kill(4)
    return {"lost": 0, "kept": 7, "on": [4, 4]}


def a_halt(job: Job) -> dict:
    """SIGSTOP of a rank of the second machine."""
    job.kill(6, signal.SIGSTOP)
    return {"lost": 0, "kept": 7, "what": "rank 6 is halted", "on": [4, 4]}


def a_machine(job: Job) -> dict:
    """Launcher and ranks of the second machine are killed: spares of the first one take over."""
    job.second.kill()
    return {"lost": 0, "kept": 4, "spares": 4, "on": [8, 0], "what": "is gone", "codes": (0, -signal.SIGKILL)}


def a_save(job: Job) -> dict:
    """As the first one, while all save: machines agree anew on who saves what."""
    return a_rank(job)


def a_stage(job: Job) -> dict:
    """The second machine, which has the only copies of a stage: back to the newest checkpoint in the folder."""
    job.second.kill()
    return {"lost_most": 8, "kept": 4, "spares": 4, "on": [8, 0], "what": "is gone", "codes": (0, -signal.SIGKILL)}


SAVES = ["--checkpoint", "{folder}-checkpoints", "--checkpoint-every", "1", "--checkpoint-disk-every", "3"]
FAULTS = {a_rank: (MESH, []), rank_zero: (MESH, ["--spares", "1"]), supervisor_then_rank: (MESH, []),
          supervisor_and_rank: (MESH, ["--spares", "1"]), the_line: (MESH, []), a_halt: (MESH, []), a_machine: (REPLICAS, ["--spares", "4"]),
          a_save: (REPLICAS, [], SAVES), a_stage: (MESH, ["--spares", "4"], SAVES)}


def check(fault, folder: pathlib.Path, reference: dict) -> None:
    mesh, launcher, *options = FAULTS[fault]
    job = Job(folder, fault.__name__, launcher, mesh=mesh, options=sum(options, []))
    training(job)
    expected = fault(job)
    counts = job.ranks_after_recovery()
    job.end(expected.get("codes", (0, 0)))
    result = job.result()
    for key in NUMBERS:
        assert result[key] == reference[key], f"{key}: {result[key]}, undisturbed {reference[key]}\n{job.text()}"
    records = job.first.incidents()
    assert len(records) == 1 and records[0]["survived"], f"{records}\n{job.text()}"
    record = records[0]
    assert record["steps_lost"] <= expected.get("lost", expected.get("lost_most")), record
    assert expected.get("what", "") in record["what"], record
    assert record["nodes"], record
    assert counts in ([], expected["on"]), counts
    for name, key in (("started", "processes_started"), ("spares", "spares_used"), ("kept", "processes_kept")):
        assert record[key] == expected.get(name, record[key]), (name, expected, record)
    print(f"  {fault.__name__}: back in {record['first_step_s']:.2f} s: {record['what']}", flush=True)


def no_room(folder: pathlib.Path) -> None:
    """A machine is lost and the other one has no spares: the job ends, and says why."""
    job = training(Job(folder, "no-room", steps=FOR_EVER), 3)
    job.second.kill()
    job.end((69, -signal.SIGKILL))
    assert "no machine that is left has room" in job.first.text(), job.text()
    print("  a machine without a replacement ends the job", flush=True)


def the_first_machine(folder: pathlib.Path) -> None:
    """It has the supervisor: the second one ends, too, after a while, and says so."""
    job = training(Job(folder, "first", steps=FOR_EVER), 3)
    job.first.kill()
    begin = time.monotonic()
    job.end((-signal.SIGKILL, 69))
    assert "the first machine, which leads the job, is gone" in job.second.text(), job.text()
    print(f"  without the first machine the second one ends, after {time.monotonic() - begin:.0f} s", flush=True)


def ended_by_hand(folder: pathlib.Path) -> None:
    """Ctrl-C on one machine ends both."""
    job = training(Job(folder, "by-hand", steps=FOR_EVER), 3)
    begin = time.monotonic()
    job.second.job.send_signal(signal.SIGINT)
    job.end((130, 130))
    print(f"  Ctrl-C on one machine ends both, in {time.monotonic() - begin:.1f} s", flush=True)


def wrong_token(folder: pathlib.Path) -> None:
    """A machine whose token is another one is not heard: the job runs, and a death ends it, as without recovery."""
    for number in (0, 1):
        (folder / f"secret-{number}").write_text(f"secret-{number}\n")
    job = Job(folder, "token", steps=FOR_EVER, own=tuple(("--token-file", str(folder / f"secret-{n}")) for n in (0, 1)))
    job.await_step(3)
    assert "does not take this machine: this server is another job's" in job.second.text(), job.text()
    assert [node["state"] for node in job.status()["nodes"]] == ["there", "away"], job.status()
    start = job.second.event("start")
    os.kill(start["pids"][1], signal.SIGKILL)
    for machine in job.machines:
        machine.job.wait(timeout=60)
    assert job.second.job.returncode == 137 and job.first.job.returncode != 0, job.text()
    print("  a machine with another token is refused", flush=True)


def protected(folder: pathlib.Path) -> None:
    """Token and mutual TLS: a rank of the second machine is replaced."""
    certificate, key = make_certificate(folder)
    (folder / "token").write_text("a-secret\n")
    job = Job(folder, "protected", ["--token-file", str(folder / "token"), "--tls-certificate", certificate, "--tls-key", key,
                                    "--tls-roots", certificate])
    training(job, 3)
    job.kill(4)
    job.end()
    assert job.first.incidents()[0]["survived"], job.text()
    print("  token and TLS", flush=True)


def port_taken(folder: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        job = Job(folder, "port", ["--control-port", str(taken.getsockname()[1])], steps=5)
        job.end()
    assert "no fault will be survived: port" in job.first.text(), job.text()
    print("  a taken port is told, and the job runs", flush=True)


OTHERS = [no_room, the_first_machine, ended_by_hand, wrong_token, protected, port_taken]


def run_all(folder: pathlib.Path, wanted: list[str]) -> None:
    references = {}
    for fault, (mesh, *_) in FAULTS.items():
        if wanted and fault.__name__ not in wanted:
            continue
        if mesh not in references:
            undisturbed = Job(folder, f"reference-{len(references)}", mesh=mesh)
            undisturbed.end()
            references[mesh] = undisturbed.result()
            assert not undisturbed.first.incidents(), undisturbed.text()
        check(fault, folder, references[mesh])
    for other in OTHERS:
        if not wanted or other.__name__ in wanted:
            other(folder)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        try:
            run_all(folder, sys.argv[3:])
        finally:
            Job.end_all()


if __name__ == "__main__":
    main()
