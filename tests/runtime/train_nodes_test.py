#!/usr/bin/env python3
"""train_llama on two machines: train_nodes_test.py CONVOY TRAIN_LLAMA

Method: two `convoy run` on this machine play two machines (CONVOY_HOST_ID, an agent each). Once a save has come as far as the test
wants, everything of one machine is killed at once: launcher, guardian, ranks, agent. Both are started again, the lost one with an
empty agent, and training must go on from the place that it should: the memory of the machine that is left (only the first save goes
to the folder there), or the folder. The numbers after the last step are those of a run of one process that nobody disturbed.
Sending to peers is slowed down, so that a machine is never killed too late.
"""
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402
from train_resume_test import CONVOY, ENVIRONMENT, STEPS, job, result, run, same, steps_in  # noqa: E402

PATIENCE_S = 120
MESH = "tp=2,dp=2"
NODES, RANKS = 2, 2  # ranks: of a machine
FOR_EVER = 100000  # steps
SLOW = ["--checkpoint-replica-bandwidth", "8MiB"]  # some tenths of a second for a save
_numbers = itertools.count()


class Machine:
    """All of its processes carry its mark in their environment. `agent`: it has one that outlives its launchers."""

    def __init__(self, folder: pathlib.Path, number: int, agent: bool):
        self.folder, self.number = folder, number
        self.mark = f"{folder.name}-{os.getpid()}-{next(_numbers)}"
        self.environment = ENVIRONMENT | {"CONVOY_HOST_ID": f"machine-{number}", "CONVOY_ADDRESS": "127.0.0.1",
                                          "CONVOY_JOB_ID": folder.name, "TEST_MACHINE": self.mark}
        self.agent = f"convoy-test-{self.mark}" if agent else ""
        if agent:
            with self.log().open("a") as log:
                subprocess.run([CONVOY, "agent", "--name", self.agent, "--detach"], env=self.environment, stdin=subprocess.DEVNULL,
                               stdout=log, stderr=log, check=True, timeout=PATIENCE_S)

    def log(self) -> pathlib.Path:
        return self.folder / f"agent-{self.mark}.log"

    def start(self, generation: int, port: int, *options: str, launcher: tuple[str, ...] = (), steps: int = STEPS) -> subprocess.Popen:
        given = ["--env", f"CONVOY_AGENT={self.agent}"] if self.agent else []
        words = job(self.folder, MESH, "--checkpoint", str(self.folder / "checkpoints"), "--checkpoint-every", "1", *options, steps=steps)
        command = [CONVOY, "run", "-n", str(RANKS), "--nnodes", str(NODES), "--node-rank", str(self.number), "--rdzv",
                   f"127.0.0.1:{port}", "--mesh", MESH, "--no-prefix", "--output",
                   str(self.folder / f"out-{self.number}-{generation}"), *launcher, *given, *words[words.index("--"):]]
        return subprocess.Popen(command, env=self.environment | {"CONVOY_GENERATION": str(generation)}, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def processes(self) -> list[int]:
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"TEST_MACHINE={self.mark}\0".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def lose(self) -> None:
        pids = self.processes()
        assert len(pids) >= RANKS + 2, f"of {self.number} only {pids} are there"
        for sent in (signal.SIGSTOP, signal.SIGKILL):  # so that no process sees another one die
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def ended(jobs: list[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    """Of each, with what it said."""
    out = []
    for one in jobs:
        stdout, stderr = one.communicate(timeout=PATIENCE_S)
        out.append(subprocess.CompletedProcess(one.args, one.returncode, stdout, stderr))
    return out


def all_went_well(jobs: list[subprocess.Popen]) -> subprocess.CompletedProcess:
    done = ended(jobs)
    assert [one.returncode for one in done] == [0] * NODES, "\n".join(one.stdout + one.stderr for one in done)
    return done[0]


def wait_until(what: str, holds, jobs: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not in time"
        if any(one.poll() is not None for one in jobs):
            raise AssertionError(f"{what}: a job ended before\n" + "\n".join(one.stderr for one in ended(jobs)))
        time.sleep(0.02)


def make_place(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    (folder / "text.tokens").symlink_to(folder.parent / "text.tokens")
    return folder


def lost_machine(folder: pathlib.Path, reference: dict, agents: bool, options: list[str], far_enough, place: str) -> None:
    make_place(folder)
    machines = [Machine(folder, number, agents) for number in range(NODES)]
    try:
        port = free_port(neighbours=2)
        jobs = [machine.start(0, port, *options, *SLOW, launcher=("--no-recover",)) for machine in machines]
        wait_until("a save", lambda: far_enough(machines[0]) >= STEPS // 3, jobs)
        saved = far_enough(machines[0])
        machines[1].lose()
        lost = ended(jobs)
        assert lost[0].returncode not in (0, None) and lost[1].returncode == -signal.SIGKILL, [one.returncode for one in lost]
        assert re.search("lost the connection to rank [23]", lost[0].stderr), lost[0].stderr  # whom it missed
        machines[1].end()
        machines[1] = Machine(folder, 1, agents)
        port = free_port(neighbours=2)
        resumed = all_went_well([machine.start(1, port, *options) for machine in machines])
        assert f"in {place}, saved by {NODES * RANKS} ranks" in resumed.stderr, resumed.stderr
        assert STEPS > result(resumed)["resumed_from"] >= saved, (resumed.stderr, saved)
        same(f"a lost machine, from {place}", reference, result(resumed))
        assert steps_in(folder / "checkpoints")[0] == STEPS, "the last step is in the folder"
    finally:
        for machine in machines:
            machine.end()


def goes_on_with_one_machine(folder: pathlib.Path, reference: dict) -> None:
    """Recovery, where one machine is left of two that keep each other's pieces: it trains on without."""
    place = make_place(folder / "alone")
    machines = [Machine(place, number, False) for number in range(NODES)]
    try:
        port = free_port(neighbours=2)
        jobs = [machine.start(0, port, "--checkpoint-replicas", "1,1", *SLOW) for machine in machines]
        wait_until("a save", lambda: max(steps_in(place / "checkpoints"), default=0) >= STEPS // 3, jobs)
        machines[1].lose()
        left, lost = ended(jobs)
        assert left.returncode == 0 and lost.returncode == -signal.SIGKILL, left.stdout + left.stderr
        assert "is gone" in left.stderr and "ranks 2 and 3" in left.stderr, left.stderr  # whom it missed
        assert "--checkpoint-replicas 1,1 needs 2 machines, one for each piece; this job has 1 now" in left.stderr, left.stderr
        incidents = [json.loads(line) for line in (place / "out-0-0" / "incidents.jsonl").read_text().splitlines()]
        assert [i["kind"] for i in incidents] == ["a node is gone"], left.stderr  # and no hang: that saves are slow is none
        same("one machine is left", reference, result(left))
        assert steps_in(place / "checkpoints")[0] == STEPS, "the last step is in the folder"
    finally:
        for machine in machines:
            machine.end()


def newest_in_peers(machine: Machine) -> int:
    return max(map(int, re.findall(r"checkpoint step (\d+) is in the memory of peers", machine.log().read_text())), default=0)


def copies_again_when_it_is_back(folder: pathlib.Path, _: dict) -> None:
    """As before, and the lost machine comes back: what is saved from then on is in both machines' memory again."""
    place = make_place(folder / "back")
    machines = [Machine(place, number, True) for number in range(NODES)]
    port, options = free_port(neighbours=2), ["--checkpoint-replicas", "1,1"]
    try:
        jobs = [machine.start(0, port, *options, steps=FOR_EVER) for machine in machines]
        wait_until("a copy", lambda: newest_in_peers(machines[0]) > 0, jobs)
        machines[1].lose()
        jobs.pop().communicate()
        # Alone, it saves in the folder, and nothing more comes to peers' memory.
        wait_until("two saves of one machine", lambda: max(steps_in(place / "checkpoints"), default=0) >= newest_in_peers(machines[0]) + 2, jobs)
        alone = max(steps_in(place / "checkpoints"))
        machines.append(Machine(place, 1, True))
        jobs.append(machines[-1].start(0, port, *options, steps=FOR_EVER))
        wait_until("a copy after the return", lambda: newest_in_peers(machines[0]) > alone, jobs)
    finally:
        for machine in machines:
            machine.end()


def goes_on_from_peer_memory(folder: pathlib.Path, reference: dict) -> None:
    """Agents of their own outlive the launchers. Only step 1 goes to the folder."""
    lost_machine(folder / "peers", reference, True, ["--checkpoint-replicas", "1,1", "--checkpoint-disk-every", "1000"], newest_in_peers,
                 "the memory of all machines")


def goes_on_from_the_folder(folder: pathlib.Path, reference: dict) -> None:
    """The launchers' agents end with them."""
    checkpoints = folder / "folder" / "checkpoints"
    lost_machine(folder / "folder", reference, False, ["--checkpoint-replicas", "1,1"],
                 lambda _: max(steps_in(checkpoints), default=0), str(checkpoints))


def too_many_pieces(folder: pathlib.Path, reference: dict) -> None:
    folder = folder / "pieces"
    make_place(folder)
    machines = [Machine(folder, number, False) for number in range(NODES)]
    port = free_port(neighbours=2)
    done = ended([machine.start(0, port, "--checkpoint-replicas", "2,1") for machine in machines])
    assert [one.returncode for one in done] == [64] * NODES, [one.stderr for one in done]
    assert "--checkpoint-replicas 2,1 needs 3 machines" in done[0].stderr, done[0].stderr


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="convoy-nodes-") as name:
        folder = pathlib.Path(name)
        (folder / "text.txt").write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "text.tokens")])
        reference = result(run(job(folder, "dp=1")))
        for test in (too_many_pieces, goes_on_with_one_machine, copies_again_when_it_is_back, goes_on_from_peer_memory, goes_on_from_the_folder):
            print(test.__name__, flush=True)
            test(folder, reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
