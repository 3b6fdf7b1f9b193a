#!/usr/bin/env python3
"""recover.*: how long a job stands still when workers die, and how many steps are lost; beside torchrun and torchft.

  recover.py --build build/release [--ranks 8] [--kills 6] [--rounds 4] [--seed 1] [--only kill,half,hang,steady]

Method: a driver outside of the jobs sends a signal to a worker, at a moment and to a rank (0 too) drawn from the seed, and waits until
ALL ranks have done their first optimizer step after it. One job runs at a time; jobs of the stacks take turns, with two kills in each.
The model is the training benchmark's small one (4 layers, d=128), dp, 8 sequences of 64 tokens a rank, one thread a rank, a
checkpoint every 20 steps.

  recover.kill    SIGKILL to one worker; case spare: Convoy with a process that waits, respawn: without
  recover.half    SIGKILL to half of the ranks at once, without spares
  recover.hang    SIGSTOP to one worker, without spares; torchrun has a collective timeout of 20 s (its default is 30 min)
  recover.lost    steps done before the kill that had to be done again
  recover.steady  what a fault-free job pays for it: seconds and processor time of a step (all ranks, launcher, supervisor), beside jobs
                  with --no-recover, and with that and --check-replicas 0; jobs of all three kinds run at the same time, and are
                  compared by windows of --steps steps. `ratio` is with recovery by without, the mean of the windows; `low` and
                  `high` its 95 % interval, by drawing windows again; `supervisor_s`, `launcher_s`: their processor time of a second

Clocks: `value` and `peer_value` begin at the driver's kill(). torchrun and torchft end where the last rank's own log has its first
step of the new round, by the same monotonic clock. train_llama has no such log on every rank, so Convoy's ends where the driver, which
looks every 2 ms, finds the incident's line in incidents.jsonl: it is written when every rank has reported its first step. That is the
job's own word, and later than the step itself; `proved_s` needs nobody's word: rank 0's metrics have the step after the first one,
which no rank can complete before all ranks have made the first update. `own_s` is the incident's first_step_s, from when the launcher
saw the death. `status` is not used for timing: it is a quarter of a second old.
For torchft the driver starts a process in the victim's place at once; `peer_value` ends where all ranks have committed the first step that
it takes part in, `peer_stall_s` is how long the survivors stood. torchft has a heartbeat limit of 1 s and a timeout of 5 s (defaults: 5 s and 60 s).

The limits: respawn, from the start of one train_llama alone to the end of its first step; spare, one step of the job.
torchft is looked for in CONVOY_VENV's neighbour (its name with -torchft), which is made if pip can; else its lines are left out.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
WORKER = HERE / "peers" / "torch_recover.py"
BATCH, SEQUENCE, SAVE_EVERY = 8, 64, 20
POLL_S = 0.002
START_LIMIT_S = 120.0
RECOVERY_LIMIT_S = 150.0
KILLS_PER_JOB = 2
DRAWS = 2000
WARM_STEPS = 5
WINDOWS = 8
WHO = {b"run": "launcher", b"supervisor": "supervisor"}  # by a process's first argument
# Options of `convoy run` and of the program.
VARIANTS = {"default": ((), ()), "no recovery": (("--no-recover",), ()), "neither": (("--no-recover",), ("--check-replicas", 0))}
TORCHRUN_TIMEOUT_S = {"kill": 1800, "half": 1800, "hang": 20}
TORCHFT = "torchft==0.2.0"
TORCHFT_TIMEOUT_S, TORCHFT_HEARTBEAT_MS = 5, 1000


class Failed(Exception):
    """A job that did not start, or did not recover."""


class Tail:
    """The whole lines that a file has got since the last look."""

    def __init__(self, path: pathlib.Path):
        self.path, self.at = path, 0

    def lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[:data.rfind(b"\n") + 1]
        self.at += len(whole)
        return whole.decode().splitlines()


def wait_for(what: str, limit_s: float, look, process: subprocess.Popen):
    """The first true value of look()."""
    end = time.monotonic() + limit_s
    while True:
        found = look()
        if found:
            return found
        if process.poll() is not None:
            raise Failed(f"{what}: the job has ended with {process.returncode}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit_s:.0f} s")
        time.sleep(POLL_S)


def end(process: subprocess.Popen, first: int, patience_s: float) -> None:
    process.send_signal(first)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def strike(pids: list[int], what: int) -> float:
    """Sends the signal to all of them; the time before."""
    fds = [os.pidfd_open(pid) for pid in pids]
    at = time.monotonic()
    for fd in fds:
        signal.pidfd_send_signal(fd, what)
    for fd in fds:
        os.close(fd)
    return at


def processor_times(launcher: int) -> dict[str, float]:
    """Of a job's processes so far, in seconds: launcher, supervisor, and ranks with their helpers."""

    def tasks(pid: int) -> list[pathlib.Path]:
        return list(pathlib.Path(f"/proc/{pid}/task").iterdir())

    def own(pid: int) -> float:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks(pid)) / 1e9
    times = {"launcher": own(launcher), "supervisor": 0.0, "ranks": 0.0}
    open_ = [int(child) for task in tasks(launcher) for child in (task / "children").read_text().split()]
    while open_:
        pid = open_.pop()
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            times[WHO.get(words[1] if len(words) > 1 else b"", "ranks")] += own(pid)
            open_ += [int(child) for task in tasks(pid) for child in (task / "children").read_text().split()]
    return times


class Convoy:
    """`convoy run` of train_llama."""

    def __init__(self, bench, spares: int = 0, options: tuple = (), checkpoint: bool = True, more: tuple = ()):
        self.bench, self.spares = bench, spares
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="convoy-", dir=bench.folder))
        run = self.folder / "run"
        words = [bench.convoy, "run", "-n", bench.ranks, *(("--spares", spares) if spares else ()), "--mesh", f"dp={bench.ranks}", "--threads", 1,
                 "--grace", "100ms", "--output", run, "--json", *options, "--", *bench.train_llama(1_000_000, bench.ranks), *more,
                 *(("--checkpoint", self.folder / "saved", "--checkpoint-every", SAVE_EVERY) if checkpoint else ())]
        self.errors = (self.folder / "stderr").open("w")
        self.process = subprocess.Popen([str(w) for w in words], stdout=subprocess.DEVNULL, stderr=self.errors)
        self.metrics, self.incidents = Tail(run / "metrics.jsonl"), Tail(run / "incidents.jsonl")
        self.run_dir, self.step = run, 0

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.process.returncode is None:
            end(self.process, signal.SIGINT, 30)
        self.errors.close()

    def steps(self) -> list[int]:
        """That rank 0 has written down since the last look."""
        steps = [record["step"] for record in map(json.loads, self.metrics.lines()) if "loss" in record]
        self.step = steps[-1] if steps else self.step
        return steps

    def reaches(self, step: int) -> bool:
        self.steps()
        return self.step >= step

    def status(self) -> dict:
        done = subprocess.run([self.bench.convoy, "status", str(self.run_dir), "--json"], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def ready(self) -> bool:
        status = self.status()
        return status.get("phase") == "training" and status["spares"] >= self.spares and len(status["ranks"]) == self.bench.ranks

    def settle(self) -> None:
        self.steps()
        enough = self.step + WARM_STEPS
        wait_for("first steps", START_LIMIT_S, lambda: self.reaches(enough), self.process)
        wait_for("all ranks and spares", START_LIMIT_S, lambda: self.ready() or time.sleep(0.1), self.process)

    def strike(self, ranks: list[int], what: int, delay_s: float) -> dict:
        self.settle()
        pids = {r["rank"]: r["pid"] for r in self.status()["ranks"]}
        time.sleep(delay_s)
        self.steps()
        self.incidents.lines()
        at, done = strike([pids[rank] for rank in ranks], what), self.step
        line = wait_for("a recovery", RECOVERY_LIMIT_S, self.incidents.lines, self.process)[-1]
        seconds, record = time.monotonic() - at, json.loads(line)
        if not record["survived"]:
            raise Failed(f"no recovery: {record['reason']}")
        new: list[int] = []

        def second() -> bool:
            """Steps that the old generation had done may be in the file once more, or not; it can't have got two further."""
            new.extend(self.steps())
            resumed = record["resumed"]
            again = new[new.index(resumed + 1):] if resumed + 1 in new else []
            return resumed + 2 in again or self.step >= max(resumed, done) + 2
        wait_for("two steps after a recovery", RECOVERY_LIMIT_S, second, self.process)
        return {"s": seconds, "proved": time.monotonic() - at, "own": record["first_step_s"],
                "lost": max(0, done - record["resumed"], record["steps_lost"]), "action": record["action"]}


class Peers:
    """Workers that write logs, of whatever started them."""

    def __init__(self, bench, kind: str):
        self.bench = bench
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=bench.folder))
        self.errors = (self.folder / "stderr").open("w")
        self.tails = [Tail(self.folder / f"rank_{rank}.log") for rank in range(bench.ranks)]
        self.steps: list[list[tuple[int, int, float, int]]] = [[] for _ in self.tails]  # of each rank: round, step, time, pid
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def look(self) -> None:
        for steps, tail in zip(self.steps, self.tails):
            for line in tail.lines():
                around, step, at, pid = line.split()
                steps.append((int(around), int(step), float(at), int(pid)))

    def settled(self, after: int) -> bool:
        self.look()
        return all(steps and steps[-1][1] >= after + WARM_STEPS for steps in self.steps)

    def settle(self, process: subprocess.Popen) -> None:
        self.look()
        newest = max((steps[-1][1] for steps in self.steps if steps), default=0)
        wait_for("first steps", START_LIMIT_S, lambda: self.settled(newest), process)


class Torchrun(Peers):
    def __init__(self, bench, timeout_s: float):
        super().__init__(bench, "torchrun")
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={bench.ranks}", "--max-restarts=50", WORKER,
                 "torchrun", self.folder, timeout_s]
        self.process = subprocess.Popen([str(w) for w in words], stdout=self.errors, stderr=self.errors, env=self.environment)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        end(self.process, signal.SIGKILL, 30)  # its workers die with it
        self.errors.close()

    def strike(self, ranks: list[int], what: int, delay_s: float) -> dict:
        self.settle(self.process)
        time.sleep(delay_s)
        self.look()
        around = max(steps[-1][0] for steps in self.steps)
        at = strike([self.steps[rank][-1][3] for rank in ranks], what)

        def firsts() -> list | None:
            self.look()
            new = [next((s for s in steps if s[0] > around), None) for steps in self.steps]
            return new if all(new) else None
        new = wait_for("a recovery", RECOVERY_LIMIT_S, firsts, self.process)
        done = max(s[1] for steps in self.steps for s in steps if s[0] == around)
        return {"s": max(s[2] for s in new) - at, "lost": done - (new[0][1] - 1)}


class Torchft(Peers):
    def __init__(self, bench, program: pathlib.Path):
        super().__init__(bench, "torchft")
        self.program, self.rounds, self.workers = program, [0] * bench.ranks, {}
        port = 29510 + os.getpid() % 400
        self.environment["TORCHFT_LIGHTHOUSE"] = f"http://localhost:{port}"
        self.process = subprocess.Popen(
            [str(program.parent / "torchft_lighthouse"), "--bind", f"[::]:{port}", "--min_replicas", str(max(1, bench.ranks // 2)),
             "--heartbeat_timeout_ms", str(TORCHFT_HEARTBEAT_MS)], stdout=self.errors, stderr=self.errors)
        for rank in range(bench.ranks):
            self.launch(rank)

    def launch(self, rank: int) -> None:
        more = {"RANK": str(rank), "WORLD_SIZE": str(self.bench.ranks), "PEER_ROUND": str(self.rounds[rank])}
        self.workers[rank] = subprocess.Popen([str(self.program), str(WORKER), "torchft", str(self.folder), str(TORCHFT_TIMEOUT_S)],
                                              stdout=self.errors, stderr=self.errors, env=self.environment | more)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for process in (*self.workers.values(), self.process):
            end(process, signal.SIGKILL, 30)
        self.errors.close()

    def strike(self, ranks: list[int], what: int, delay_s: float) -> dict:
        self.settle(self.process)
        time.sleep(delay_s)
        self.look()
        at = strike([self.workers[rank].pid for rank in ranks], what)
        for rank in ranks:
            self.workers[rank].wait()
            self.rounds[rank] += 1
            self.launch(rank)

        def together() -> list | None:
            """When each rank has done the first step that the newcomers have."""
            self.look()
            new = [next((s for s in self.steps[rank] if s[0] == self.rounds[rank]), None) for rank in ranks]
            if not all(new):
                return None
            first = max(s[1] for s in new)
            ends = [next((s[2] for s in steps if s[1] >= first and s[2] > at), None) for steps in self.steps]
            return ends if all(ends) else None
        back = max(wait_for("a recovery", RECOVERY_LIMIT_S, together, self.process))
        gaps = []
        for rank in set(range(self.bench.ranks)) - set(ranks):
            times = [s[2] for s in self.steps[rank]]
            gaps.append(max(b - a for a, b in zip(times, times[1:]) if b > at and a < back))
        return {"s": back - at, "lost": 0, "stall": max(gaps)}


def torchft_python() -> pathlib.Path | None:
    """Of an environment with torchft and this one's torch; made if there is none yet."""
    venv = pathlib.Path(os.environ.get("CONVOY_VENV", sys.prefix))
    venv = venv.with_name(venv.name + "-torchft")
    python = venv / "bin" / "python"
    check = [str(python), "-c", "import torch, torchft"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if subprocess.run(check, capture_output=True, timeout=120).returncode == 0:
            return python
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True, timeout=120)
        packages = next(venv.glob("lib/python*/site-packages"))
        (packages / "torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TORCHFT], check=True, capture_output=True, timeout=300)
        subprocess.run(check, check=True, capture_output=True, timeout=120)
        return python
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        print(f"no lines of torchft: {TORCHFT} can't be had ({error})", file=sys.stderr)
        return None


class Bench:
    def __init__(self, args, folder: str):
        build = pathlib.Path(args.build).resolve()
        self.args, self.ranks, self.folder, self.random = args, args.ranks, folder, random.Random(args.seed)
        self.convoy, self.program = str(build / "src/cli/convoy"), str(build / "examples/train_llama")
        text = pathlib.Path(folder, "text.txt")
        text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(15_000)))
        self.tokens = f"{folder}/text.tokens"
        subprocess.run([self.convoy, "data", "prepare", text, "-o", self.tokens], check=True, stdout=subprocess.DEVNULL)
        self.results: dict[tuple[str, str], list[dict]] = {}
        self.failures: dict[tuple[str, str], int] = {}
        self.torchft = torchft_python() if {"kill"} & set(args.only) else None

    def train_llama(self, steps: int, ranks: int) -> list:
        return [self.program, "--config", "small", "--batch", BATCH * ranks, "--sequence", SEQUENCE, "--data", self.tokens, "--json",
                "--no-baseline", "--sample", 0, "--steps", steps]

    def strikes(self, fault: str, stack: str, make, draws: list[tuple[list[int], float]]) -> None:
        """A job of `stack` and one fault after another in it; those that it does not survive are counted."""
        results = self.results.setdefault((fault, stack), [])
        try:
            with make() as job:
                for ranks, delay_s in draws:
                    results.append(job.strike(ranks, signal.SIGSTOP if fault == "hang" else signal.SIGKILL, delay_s))
                    print(f"{fault} {stack} ranks {ranks}: {json.dumps(results[-1])}", file=sys.stderr, flush=True)
        except Failed as failure:
            self.failures[fault, stack] = self.failures.get((fault, stack), 0) + 1
            errors = pathlib.Path(job.folder, "stderr").read_text()
            print(f"{fault} {stack} ranks {ranks}: {failure}\n{errors[-3000:]}", file=sys.stderr, flush=True)

    def draw(self, count: int, victims: int) -> list[tuple[list[int], float]]:
        """Ranks, and how long after the job has settled: anywhere between two checkpoints, at a quarter of a second a step."""
        return [(self.random.sample(range(self.ranks), victims), self.random.uniform(0, SAVE_EVERY / 4)) for _ in range(count)]

    def faults(self, fault: str, kills: int, victims: int = 1) -> None:
        makers = {"respawn": lambda: Convoy(self), "torchrun": lambda: Torchrun(self, TORCHRUN_TIMEOUT_S[fault])}
        if fault == "kill":
            makers = {"spare": lambda: Convoy(self, spares=1), **makers}
            if self.torchft:
                makers["torchft"] = lambda: Torchft(self, self.torchft)
        while kills > 0:
            draws = self.draw(min(kills, KILLS_PER_JOB), victims)  # the same for all stacks
            for stack, make in makers.items():
                self.strikes(fault, stack, make, draws)
            kills -= KILLS_PER_JOB

    def start_alone(self) -> float:
        """From the start of a process to the end of its first step, by its metrics."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            metrics = Tail(pathlib.Path(folder, "metrics.jsonl"))
            begin = time.monotonic()
            words = [str(w) for w in [*self.train_llama(1, 1), "--run-dir", folder]]
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
            try:
                wait_for("train_llama alone", START_LIMIT_S, metrics.lines, process)
                return time.monotonic() - begin
            finally:
                process.kill()
                process.wait()

    def fault_free(self) -> float:
        """The median step of a job alone."""
        with Convoy(self, checkpoint=False) as job:
            wait_for("steps", START_LIMIT_S, lambda: job.reaches(WARM_STEPS + 20), job.process)
            ends = [r["seconds"] for r in map(json.loads, (job.run_dir / "metrics.jsonl").read_text().splitlines()) if "seconds" in r]
        return statistics.median(b - a for a, b in zip(ends[WARM_STEPS:], ends[WARM_STEPS + 1:]))

    def steady(self, rounds: int, steps: int) -> list[dict[str, dict[str, float]]]:
        """Windows of jobs of all kinds that run side by side, so that whatever else the machine does strikes all alike."""
        windows = []
        for _ in range(rounds):
            with contextlib.ExitStack() as stack:
                jobs = {name: stack.enter_context(Convoy(self, options=options, checkpoint=False, more=more))
                        for name, (options, more) in self.random.sample(sorted(VARIANTS.items()), len(VARIANTS))}
                for job in jobs.values():
                    wait_for("first steps", START_LIMIT_S, lambda job=job: job.reaches(WARM_STEPS), job.process)
                marks = {name: [] for name in jobs}
                for name, job in jobs.items():  # only from here on do steps count
                    job.next = job.step + 1
                while any(len(m) <= WINDOWS for m in marks.values()):
                    for name, job in jobs.items():
                        if job.process.poll() is not None:
                            raise Failed("a fault-free job has ended: " + pathlib.Path(job.folder, "stderr").read_text()[-3000:])
                        if len(marks[name]) <= WINDOWS and job.reaches(job.next):
                            marks[name].append((job.step, time.monotonic(), processor_times(job.process.pid)))
                            job.next = job.step + steps
                    time.sleep(POLL_S)
            windows += [{name: window(m[i], m[i + 1]) for name, m in marks.items()} for i in range(WINDOWS)]
            print(f"steady: {json.dumps(windows[-WINDOWS:])}", file=sys.stderr, flush=True)
        return windows


def window(before: tuple, after: tuple) -> dict[str, float]:
    """From one mark to the next: seconds and processor time of a step; launcher's and supervisor's of a second."""
    steps, seconds = after[0] - before[0], after[1] - before[1]
    took = {who: after[2][who] - before[2][who] for who in after[2]}
    return {"step": seconds / steps, "processor": sum(took.values()) / steps} | {who: took[who] / seconds for who in ("launcher", "supervisor")}


def line(bench: str, case: str, metric: str, value: float, unit: str, **more) -> None:
    print(json.dumps({"bench": bench, "case": case, "metric": metric, "value": round(value, 4), "unit": unit} | more), flush=True)


def spread(results: list[dict], what: str = "s") -> dict:
    values = [r[what] for r in results]
    return {"value": statistics.median(values), "min": round(min(values), 4), "max": round(max(values), 4), "n": len(values)}


def report_faults(bench: Bench, limits: dict[str, tuple[float, str]]) -> None:
    for (fault, stack), results in bench.results.items():
        if stack in ("torchrun", "torchft") or not results:
            continue
        for peer in ("torchrun", "torchft"):
            peers = bench.results.get((fault, peer))
            if not peers:
                continue
            ours, theirs = spread(results), spread(peers)
            case = f"{stack} by {peer}"
            more = {name: value for name, value in ours.items() if name != "value"}
            more |= {"actions": sorted({r["action"] for r in results}), "failed": bench.failures.get((fault, stack), 0), "own_s": round(spread(results, "own")["value"], 4),
                     "proved_s": round(spread(results, "proved")["value"], 4), "peer": peer, "peer_value": round(theirs["value"], 4),
                     "peer_min": theirs["min"], "peer_max": theirs["max"], "peer_n": theirs["n"], "peer_failed": bench.failures.get((fault, peer), 0),
                     "ratio": round(theirs["value"] / ours["value"], 2)}
            if "stall" in peers[0]:
                more |= {"peer_stall_s": round(spread(peers, "stall")["value"], 4)}
            if stack in limits:
                seconds, name = limits[stack]
                more |= {"limit": round(seconds, 4), "limit_name": name, "share_of_limit": round(seconds / ours["value"], 3)}
            line(f"recover.{fault}", case, "stands_still", ours["value"], "s", **more)
            lost, peer_lost = spread(results, "lost"), spread(peers, "lost")
            line("recover.lost", f"{fault}, {case}", "steps_lost", lost["value"], "steps", min=lost["min"], max=lost["max"], n=lost["n"], peer=peer,
                 peer_value=peer_lost["value"], peer_min=peer_lost["min"], peer_max=peer_lost["max"])


def report_steady(bench: Bench, windows: list[dict[str, dict[str, float]]]) -> None:
    for peer in ("no recovery", "neither"):
        for metric in ("step", "processor"):
            pairs = [(w["default"][metric], w[peer][metric]) for w in windows]
            ratios = [a / b for a, b in pairs]
            drawn = sorted(statistics.fmean(bench.random.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
            more = {who + "_s": round(statistics.median(w["default"][who] for w in windows), 5) for who in ("supervisor", "launcher")}
            line("recover.steady", f"{metric}, dp={bench.ranks}, by {peer}", metric, statistics.median(a for a, _ in pairs), "s", peer=peer,
                 peer_value=round(statistics.median(b for _, b in pairs), 4), ratio=round(statistics.fmean(ratios), 4), low=round(drawn[DRAWS // 40], 4),
                 high=round(drawn[-1 - DRAWS // 40], 4), windows=len(pairs), **more)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4, help=f"of jobs side by side, with {WINDOWS} windows each")
    parser.add_argument("--steps", type=int, default=20, help="of a window")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["kill", "half", "hang", "steady"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convoy-recover-", ignore_cleanup_errors=True) as folder:
        bench = Bench(args, folder)
        if "kill" in args.only:
            bench.faults("kill", args.kills)
        if "half" in args.only:
            bench.faults("half", max(1, args.kills // 3), victims=args.ranks // 2)
        if "hang" in args.only:
            bench.faults("hang", 1)
        if "steady" in args.only:
            report_steady(bench, bench.steady(args.rounds, args.steps))
        if {"kill", "half", "hang"}.isdisjoint(args.only):
            return 0
        bench.start_alone()  # files into the page cache
        start = statistics.median(bench.start_alone() for _ in range(3))
        step = bench.fault_free()
        report_faults(bench, {"spare": (step, "one step"), "respawn": (start, "start of a process, one step")})
    return 1 if any(stack not in ("torchrun", "torchft") for _, stack in bench.failures) else 0


if __name__ == "__main__":
    sys.exit(main())
