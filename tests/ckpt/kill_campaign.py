"""Kills processes of a training job at every point where that could cost a checkpoint, and at random:
kill_campaign.py CONVOY TRAINER [--kills N] [--seed S] [--json FILE]

Method: two real trainers (tests/ckpt/trainer.cc; their state follows from the step, so each proves bit for bit what it
resumes from) and a real agent, in one folder for the whole campaign. First SIGKILL strikes at each fault point once: in a
trainer, in the agent, and in the agent with the trainers going down in the same moment (the node). Then victims, points and
moments are drawn at random; part of it runs under `convoy run`, where launcher and guardian are victims too. After each kill:
  - nothing older than what was reported as durable is found: the newest step that counts is at least that;
  - where the agent lives on, nothing that all trainers' save() has returned for is lost either;
  - every step that counts as committed loads, and is bit for bit the state of that step;
  - the trainers go on from it, and save.
Each kill that was ordered at a point is seen in the victim's output; what did not fire fails the campaign. Prints how often
which point was hit. Not here: storage that misbehaves (crash_test.cc).
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

PATIENCE_S = int(os.environ.get("KILL_PATIENCE_S", "120"))
RANKS = 2
SETTINGS = ["rows=256", "steps=1000000000", "failures=1000000000", "events=events"]  # 2 MiB of state
TRAINER_POINTS = [f"ckpt.client.{p}.kill" for p in ("acquired", "copied", "written", "staged")]
AGENT_POINTS = (
    [f"ckpt.agent.{p}.kill" for p in ("hello", "acquire", "staged", "answer", "wait")]
    + [f"ckpt.tier.{p}.kill" for p in ("data", "part", "commit", "collect")]
    + [f"ckpt.io.{p}.kill" for p in ("open", "allocate", "write", "sync")]
    + [f"ckpt.local.{p}.kill" for p in ("write", "fsync", "link", "rename", "fsync_folder", "read", "unlink")]
)
# So often a point is passed before it fires, at most, when it is drawn at random.
PASSAGES_MAX = 12
# What an agent passes less often: once a claim, once a trainer.
RARE = {"ckpt.local.rename.kill": 1, "ckpt.agent.hello.kill": RANKS}


class Failure(Exception):
    pass


def alive(process):
    return process is not None and process.poll() is None


class Campaign:
    def __init__(self, convoy, trainer, seed, folder):
        self.convoy, self.trainer, self.folder = convoy, trainer, folder
        self.random = random.Random(seed)
        self.mark = "mark-" + uuid.uuid4().hex
        self.generation = 0
        self.agent, self.agent_name, self.agents = None, "", 0
        self.ranks = []
        self.durable = 0  # the newest step that was reported so
        self.hits = collections.Counter()
        self.victims = collections.Counter()
        self.resumed_from = collections.Counter()
        self.log = open(f"{folder}/log", "a+")

    # Processes.
    def environment(self, **more):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CONVOY_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_"))}
        return {**clean, "MARK": self.mark, **more}

    def spawn(self, words, **more):
        return subprocess.Popen(words, cwd=self.folder, env=self.environment(**more), stdin=subprocess.DEVNULL,
                                stdout=self.log, stderr=self.log)

    def start_agent(self, fault=""):
        self.agents += 1
        if not self.agent_name:
            self.agent_name = f"convoy-test-{self.mark}"
        self.agent = self.spawn([self.convoy, "agent", "--name", self.agent_name], CONVOY_FAULT=fault)

    def end_agent(self):
        """In order: what it has is durable then."""
        if alive(self.agent):
            self.agent.send_signal(signal.SIGTERM)
            self.wait_for("the agent's end", lambda: not alive(self.agent))
            if self.agent.returncode != 0:
                raise Failure(f"the agent ended with {self.agent.returncode}")
        self.agent = None

    def start_ranks(self, fault="", victim=0, wait=None):
        self.generation += 1
        self.clear_events()
        wait = wait or self.random.choice(["wait=1", "wait=0"])
        self.ranks = [
            self.spawn([self.trainer, "train", "ckpt", *SETTINGS, wait], RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank),
                       LOCAL_WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT="1", CONVOY_AGENT=self.agent_name,
                       CONVOY_GENERATION=str(self.generation), CONVOY_FAULT=fault if rank == victim else "")
            for rank in range(RANKS)]

    def kill(self, *processes):
        for process in processes:
            if alive(process):
                process.kill()
        for process in processes:
            if process is not None:
                process.wait(PATIENCE_S)

    def marked(self):
        """pid -> command line of everything that this campaign has started."""
        found = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
        return found

    # What they say.
    def clear_events(self):
        for old in pathlib.Path(self.folder).glob("events.*"):
            old.unlink()
        pathlib.Path(self.folder, "events").write_text("")

    def events(self):
        lines = pathlib.Path(self.folder, "events").read_text().splitlines()
        found = [line.split() for line in lines if len(line.split()) >= 3]
        for what, _, step, *_ in found:
            if what == "durable":
                self.durable = max(self.durable, int(step))
        return [(what, int(rank), int(step)) for what, rank, step, *_ in found]

    def saved_by_all(self):
        """The newest step that every trainer's save() has returned for. (One of them may have failed where another did not.)"""
        ranks = collections.defaultdict(set)
        for what, rank, step in self.events():
            if what in ("saved", "resumed"):
                ranks[step].add(rank)
        return max((step for step, who in ranks.items() if len(who) == RANKS), default=0)

    def fired(self, point):
        self.log.flush()
        with open(f"{self.folder}/log") as log:
            log.seek(self.log_begin)
            return f"fault point {point} fires" in log.read()

    def wait_for(self, what, holds):
        end = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > end:
                raise Failure(f"{what} did not come in {PATIENCE_S} s")
            time.sleep(0.002)

    def wait_for_saves(self, more=1):
        """Until all trainers have saved steps beyond the newest one."""
        target = self.saved_by_all() + more

        def got_there():
            for rank in self.ranks:
                if not alive(rank):
                    raise Failure(f"a trainer ended with {rank.returncode}")
            return self.saved_by_all() >= target
        self.wait_for(f"the save of step {target}", got_there)

    # Proofs.
    def check_folder(self, least):
        """While no agent writes."""
        self.events()
        least = max(least, self.durable)
        done = subprocess.run([self.trainer, "check", "ckpt"], cwd=self.folder, capture_output=True, text=True,
                              env=self.environment(), timeout=PATIENCE_S)
        if done.returncode != 0 and least > 0:
            raise Failure(f"check: {done.stderr}")
        newest = int(done.stdout.split()[1]) if done.returncode == 0 else 0
        if newest < least:
            raise Failure(f"the newest committed step is {newest}, but step {least} was reported as durable or had to be")
        self.durable = newest
        return newest

    def check_resumed(self, least):
        """The trainers of this generation resumed from a step that is at least `least`."""
        def has():
            if any(not alive(rank) for rank in self.ranks):
                raise Failure("a trainer could not resume")
            return any(what == "resumed" for what, *_ in self.events())
        self.wait_for("resume", has)
        line = next(l for l in pathlib.Path(self.folder, "events").read_text().splitlines() if l.startswith("resumed"))
        step, where = int(line.split()[2]), line.split()[3]
        self.resumed_from[where] += 1
        if step < least:
            raise Failure(f"resumed from step {step}, but step {least} had been saved")

    # One kill each.
    def at_point_of_trainer(self, point, passage):
        if not alive(self.agent):
            self.start_agent()
        victim = self.random.randrange(RANKS)
        self.start_ranks(f"{point}@{passage}", victim)
        self.wait_for(point, lambda: not alive(self.ranks[victim]))
        self.kill(*self.ranks)
        self.restart_and_check(self.saved_by_all())

    def restart_and_check(self, saved):
        """The agent lives: new trainers find what was saved."""
        self.start_ranks()
        self.check_resumed(saved)
        self.wait_for_saves()
        self.kill(*self.ranks)
        if self.random.random() < 0.3:
            saved = self.saved_by_all()
            self.end_agent()
            self.check_folder(saved)

    def at_point_of_agent(self, point, passage, node):
        self.end_agent()
        self.start_agent(f"{point}@{passage}")
        self.start_ranks(wait="wait=1" if "wait" in point else None)
        self.wait_for(point, lambda: not alive(self.agent))
        if node:
            self.kill(*self.ranks)
        self.check_folder(0)
        self.go_on(node)

    def go_on(self, node):
        """The agent is dead; the trainers live, unless the node is dead."""
        self.start_agent()
        if node:
            self.start_ranks()
            self.check_resumed(self.durable)
        self.wait_for_saves(2)
        self.kill(*self.ranks)
        saved = self.saved_by_all()
        if self.random.random() < 0.5:
            self.end_agent()
            self.check_folder(saved)

    def at_random_moment(self, victim):
        if not alive(self.agent):
            self.start_agent()
        self.start_ranks()
        self.wait_for("resume", lambda: any(what == "resumed" for what, *_ in self.events()))
        time.sleep(self.random.random() ** 2 * 0.3)
        if victim == "trainer":
            self.kill(self.ranks[self.random.randrange(RANKS)])
            self.kill(*self.ranks)
            return self.restart_and_check(self.saved_by_all())
        if victim == "node":
            self.kill(self.agent, *self.ranks)
        else:
            self.kill(self.agent)
        self.check_folder(0)
        self.go_on(victim == "node")

    def under_convoy_run(self, victim):
        self.end_agent()
        self.generation += 1
        self.clear_events()
        job = self.spawn([self.convoy, "run", "-n", str(RANKS), "--output", "out", "--", self.trainer, "train", "ckpt", *SETTINGS],
                         CONVOY_GENERATION=str(self.generation))
        self.wait_for("a save", lambda: self.saved_by_all() > 0)
        time.sleep(self.random.random() ** 2 * 0.3)
        pids = self.marked()
        agent = next((pid for pid, words in pids.items() if words[1:2] == [b"agent"]), 0)
        ranks = [pid for pid, words in pids.items() if words[1:2] == [b"train"]]
        launchers = [pid for pid, words in pids.items() if words[1:2] == [b"run"]]
        chosen = {"trainer": ranks[:1], "agent": [agent], "launcher": [p for p in launchers if p != job.pid],
                  "guardian": [job.pid], "node": [job.pid, *launchers, agent, *ranks]}[victim]
        for pid in chosen:
            if pid != 0:
                os.kill(pid, signal.SIGKILL)
        least = 0
        if victim == "agent":  # the job goes on with a new one; then it ends
            self.wait_for("the agent's death", lambda: agent not in self.marked())
            # What the dead one took over is at most a step beyond what is written down here.
            target = max(step for what, _, step in self.events() if what in ("saved", "resumed")) + 3
            self.wait_for("saves after the agent's death", lambda: self.saved_by_all() >= target)
            os.kill(job.pid, signal.SIGTERM)
        self.wait_for("the job's end", lambda: not alive(job))
        self.wait_for("the end of all", lambda: not self.marked())
        if victim != "node":
            least = self.saved_by_all()
        self.check_folder(least)

    def cycle(self, victim, point="", passage=1):
        self.log.flush()
        self.log_begin = os.path.getsize(f"{self.folder}/log")
        if point in TRAINER_POINTS:
            self.at_point_of_trainer(point, passage)
        elif point:
            self.at_point_of_agent(point, passage, victim == "node")
        elif victim.startswith("run:"):
            self.under_convoy_run(victim[4:])
        else:
            self.at_random_moment(victim)
        if point and not self.fired(point):
            raise Failure(f"fault point {point} did not fire")
        self.hits[point or "random moment"] += 1
        self.victims[victim] += 1

    def draw(self):
        r = self.random.random()
        if r < 0.25:
            return ("trainer", self.random.choice(TRAINER_POINTS), self.random.randint(1, PASSAGES_MAX))
        if r < 0.6:
            point = self.random.choice(AGENT_POINTS)
            return (self.random.choice(["agent", "node"]), point, self.random.randint(1, RARE.get(point, PASSAGES_MAX)))
        if r < 0.85:
            return (self.random.choice(["trainer", "agent", "node"]),)
        return ("run:" + self.random.choice(["trainer", "agent", "launcher", "guardian", "node"]),)

    def run(self, kills):
        ordered = [("trainer", p) for p in TRAINER_POINTS] + [("agent", p) for p in AGENT_POINTS] + [("node", p) for p in AGENT_POINTS]
        self.random.shuffle(ordered)
        runs = [("run:" + v,) for v in ("trainer", "agent", "launcher", "guardian", "node")]
        must = ordered + runs if kills >= len(ordered) + len(runs) else self.sample(kills, runs)
        done = 0
        while done < kills:
            what = must[done] if done < len(must) else self.draw()
            try:
                self.cycle(*what)
            except Failure as failure:
                raise Failure(f"kill {done + 1}, {' '.join(map(str, what))}: {failure}") from failure
            done += 1
            if done % 50 == 0:
                print(f"{done} kills, step {self.durable}", flush=True)
        self.end_agent()
        self.check_folder(0)

    def sample(self, kills, runs):
        """Each point once, as one of its victims, and as many of the others as there is room."""
        points = [("trainer", p) for p in TRAINER_POINTS]
        points += [(self.random.choice(["agent", "node"]), p) for p in AGENT_POINTS]
        return (points + runs)[:kills]

    def close(self):
        for pid in self.marked():
            os.kill(pid, signal.SIGKILL)
        self.log.close()

    def report(self):
        print(f"{sum(self.hits.values())} kills; every step that counted was bit-exact, none that was durable was missing; "
              f"newest step {self.durable}, {self.agents} agents and {self.generation} generations of trainers")
        for title, counter in (("victim", self.victims), ("point", self.hits), ("resumed from", self.resumed_from)):
            print(f"{title}:")
            for name, count in sorted(counter.items()):
                print(f"  {count:6} {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("convoy")
    parser.add_argument("trainer")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="a file for the counts")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="convoy-kills-")
    campaign = Campaign(os.path.abspath(arguments.convoy), os.path.abspath(arguments.trainer), arguments.seed, folder)
    try:
        campaign.run(arguments.kills)
    except Exception as failure:
        campaign.close()
        if not isinstance(failure, Failure):
            raise
        print(f"FAILED: {failure}\nseed {arguments.seed}; all is left in {folder}. The log's end:", file=sys.stderr)
        print("".join(open(f"{folder}/log").readlines()[-15:]), file=sys.stderr)
        sys.exit(1)
    campaign.close()
    campaign.report()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"points": campaign.hits, "victims": campaign.victims}))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
