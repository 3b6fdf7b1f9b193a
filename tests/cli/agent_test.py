"""The agent that `convoy run` starts: agent_test.py CONVOY TRAINER

Method: real jobs of tests/ckpt/trainer.cc, whose state follows from the step, so that it proves bit for bit what it finds.
Disks are slow (a bandwidth limit) where something has to happen while a step is being written, and stand still (1 byte/s)
where the launcher has to give up. Trainers, agents, launcher and guardian are killed with SIGKILL; what is in the folder
afterwards is loaded and compared. Does not check other launchers (tests/ckpt/agent_process_test.cc).
"""
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import unittest

from jobs import CONVOY, PATIENCE_S, JobTest, environment

TRAINER = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else "ckpt_trainer"
SLOW = "bandwidth=6000000"  # a step of 4 MiB takes most of a second
STUCK = "bandwidth=1"


class AgentTest(JobTest):
    def trainer(self, ranks, *settings, options=()):
        return [CONVOY, "run", "-n", str(ranks), "--output", "out", *options, "--", TRAINER, "train", "ckpt", "events=events",
                *settings]

    def train(self, ranks, *settings, options=(), **more):
        return subprocess.run(self.trainer(ranks, *settings, options=options), cwd=self.folder,
                              env=environment(MARK=self.mark, **more), text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=PATIENCE_S)

    def start(self, ranks, *settings, options=()):
        job = subprocess.Popen(self.trainer(ranks, *settings, options=options), cwd=self.folder,
                               env=environment(MARK=self.mark), text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(job.stdout.close)
        self.addCleanup(job.stderr.close)
        return job

    def events(self, what):
        """(rank, step) of all events of a kind."""
        file = pathlib.Path(self.folder, "events")
        lines = file.read_text().splitlines() if file.exists() else []
        return [tuple(int(n) for n in line.split()[1:3]) for line in lines if line.split()[0] == what]

    def wait_for_event(self, what, rank, step):
        self.wait_for(f"{what} {rank} {step}", lambda: (rank, step) in self.events(what))

    def newest(self):
        """The newest committed step; every one that counts has been loaded and compared."""
        done = subprocess.run([TRAINER, "check", "ckpt"], cwd=self.folder, text=True, capture_output=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(done.stdout.split()[1])

    def agent(self):
        for pid in self.processes():
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:2] == [b"agent"]:
                return pid
        return None

    # It is there.
    def test_only_a_job_that_saves_has_an_agent(self):
        done = self.run_job(2, "echo $CONVOY_AGENT", "--no-prefix", CONVOY_AGENT="another")
        names = done.stdout.split()
        self.assertEqual((len(names), len(set(names))), (2, 1))
        self.assertTrue(names[0].startswith("convoy-run-"), names)
        self.assertFalse(os.path.exists(f"{self.folder}/out/logs/agent_0.log"))
        done = self.train(2, "steps=3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("checkpoint step 3 is durable", done.stderr)
        self.assertIn("checkpoint step 3 is durable", pathlib.Path(self.folder, "out/logs/agent_0.log").read_text())
        self.assertEqual(self.newest(), 3)

    def test_without_an_agent_a_save_is_refused(self):
        done = self.train(1, options=["--no-agent"])
        self.assertEqual(done.returncode, 3)
        self.assertIn("`convoy run --no-agent`", done.stderr)
        self.assertEqual(self.run_job(1, "echo $CONVOY_AGENT", "--no-agent", "--no-prefix").stdout, "none\n")

    def test_each_machine_has_its_own(self):
        names = [self.run_job(1, "echo $CONVOY_AGENT", "--no-prefix", "--nnodes", "2", "--node-rank", str(node), "--rdzv",
                              "127.0.0.1:29471").stdout for node in range(2)]
        self.assertNotEqual(names[0], names[1])

    def test_the_next_job_goes_on(self):
        self.assertEqual(self.train(2, "steps=3").returncode, 0)
        done = self.train(2, "steps=5")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(self.events("resumed")), [(0, 0), (0, 3), (1, 3)])
        self.assertEqual(self.newest(), 5)

    # It dies.
    def test_a_killed_agent_is_started_again_and_the_next_save_succeeds(self):
        job = self.start(2, "steps=4", "wait=1", "hold=go", "hold_step=3", options=["--json"])
        for rank in range(2):
            self.wait_for_event("durable", rank, 2)
        first = self.agent()
        os.kill(first, signal.SIGKILL)
        self.wait_for("report", lambda: "the agent, which keeps checkpoints, died: SIGKILL" in job.stderr.readline())
        pathlib.Path(self.folder, "go").touch()
        out, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 0, err)
        events = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([(e["pid"], e["signal"]) for e in events if e["event"] == "agent_exit"], [(first, "SIGKILL")])
        self.assertEqual(self.newest(), 4)

    def test_an_agent_that_dies_during_saves_costs_those_saves(self):
        job = self.start(2, "steps=40", "pause=5", "failures=3", "wait=last")
        for step in (5, 15):
            self.wait_for_event("saved", 0, step)
            os.kill(self.agent(), signal.SIGKILL)
            self.wait_for("report", lambda: "died: SIGKILL" in job.stderr.readline())
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 0, err)
        self.assertEqual(self.newest(), 40)

    def test_an_agent_that_dies_with_the_last_save_fails_the_job(self):
        job = self.start(1, "steps=2", "hold=go", STUCK)
        self.wait_for_event("saved", 0, 2)
        os.kill(self.agent(), signal.SIGKILL)
        self.wait_for("report", lambda: "died: SIGKILL" in job.stderr.readline())
        pathlib.Path(self.folder, "go").touch()
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 74, err)
        self.assertIn("a checkpoint is lost: the agent died before it had written checkpoint step 2, and nothing newer", err)
        self.assertEqual(self.newest(), 0)

    def test_an_agent_that_dies_when_all_is_written_costs_nothing(self):
        job = self.start(1, "steps=2", "wait=1", "hold=go")
        self.wait_for_event("durable", 0, 2)
        os.kill(self.agent(), signal.SIGKILL)
        self.wait_for("report", lambda: "died: SIGKILL" in job.stderr.readline())
        pathlib.Path(self.folder, "go").touch()
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 0, err)
        self.assertEqual(self.newest(), 2)

    def test_an_agent_that_can_not_live_is_given_up(self):
        # It dies whenever it takes over a snapshot.
        done = self.train(1, "steps=30", "failures=1000", "wait=1", CONVOY_FAULT="ckpt.tier.data.kill")
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertEqual(done.stderr.count("died: SIGKILL"), 3, done.stderr)
        self.assertIn("3 times in a row and is not started again", done.stderr)

    # The job ends.
    def test_what_was_saved_is_written_before_the_job_ends(self):
        done = self.train(2, "steps=3", SLOW)
        self.assertEqual(done.returncode, 0, done.stderr)
        # The first line may come before the size of what is to be written is known.
        self.assertRegex(done.stderr, r"waiting until it is written: checkpoint step \d")
        self.assertEqual(self.newest(), 3)

    def test_on_a_terminal_a_bar_shows_it(self):
        master, slave = pty.openpty()
        job = subprocess.Popen(self.trainer(1, "steps=2", SLOW), cwd=self.folder, env=environment(MARK=self.mark),
                               stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        seen = self.read_all(master)
        self.assertEqual(job.wait(PATIENCE_S), 0)
        self.assertRegex(seen, rb"\r\x1b\[Kconvoy: \[[#.]{20}\] \d+ %, waiting until")

    def test_a_step_that_was_to_stay_in_memory_is_written_at_the_end(self):
        done = self.train(2, "steps=5", "disk_every=100")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.newest(), 5)

    def test_a_trainer_killed_after_a_save_loses_nothing(self):
        done = self.train(1, "steps=9", "die=3", SLOW)
        self.assertEqual(done.returncode, 137)
        self.assertEqual(self.events("saved")[-1], (0, 3))
        self.assertEqual(self.newest(), 3)

    def test_ctrl_c_loses_nothing(self):
        job = self.start(2, "steps=2", "hold=never", SLOW)
        for rank in range(2):
            self.wait_for_event("saved", rank, 2)
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 130, err)
        self.assertEqual(self.newest(), 2)

    def test_sigkill_of_launcher_processes_loses_nothing(self):
        for victims in (("launcher",), ("guardian",), ("launcher", "guardian")):
            with self.subTest(victims=victims):
                before = max(self.events("saved"), default=(0, 0))[1]
                job = self.start(1, f"steps={before + 3}", "hold=never", SLOW)
                self.wait_for_event("saved", 0, before + 3)
                self.assertIsNotNone(self.agent())
                pids = {"launcher": self.launcher_of(job.pid), "guardian": job.pid}
                for victim in victims:
                    os.kill(pids[victim], signal.SIGKILL)
                _, err = job.communicate(timeout=PATIENCE_S)
                self.wait_for("end of all", lambda: not self.processes())
                self.assertEqual(job.returncode, 137 if victims == ("launcher",) else -signal.SIGKILL)
                if victims == ("launcher",):
                    self.assertIn("all ranks were ended", err)
                    self.assertIn(f"waiting until it is written: checkpoint step {before + 2}", err)
                self.assertEqual(self.newest(), before + 3)

    # It can't be written.
    def test_a_disk_that_stands_still_is_given_up_and_named(self):
        done = self.train(1, "steps=2", STUCK, options=["--drain-timeout", "500ms"])
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn("a checkpoint is lost: nothing was written for 500 ms", done.stderr)
        self.assertRegex(done.stderr, r"given up: checkpoint step 1, .* of 4 MiB, and 1 more\.")
        self.assertEqual(self.newest(), 0)

    def test_the_guardian_gives_up_too(self):
        job = self.start(1, "steps=2", "hold=never", STUCK, options=["--drain-timeout", "500ms"])
        self.wait_for_event("saved", 0, 2)
        os.kill(self.launcher_of(job.pid), signal.SIGKILL)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 137)
        self.assertIn("nothing was written for 500 ms", err)

    def test_ctrl_c_twice_gives_up(self):
        job = self.start(1, "steps=2", STUCK)
        self.wait_for("drain", lambda: "waiting until it is written" in job.stderr.readline())
        job.send_signal(signal.SIGINT)
        self.wait_for("answer", lambda: "a second one gives it up" in job.stderr.readline())
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 130)
        self.assertIn("a checkpoint is lost: given up before this was written: checkpoint step 1", err)

    def test_a_folder_that_can_not_be_written_is_a_failure_at_the_end(self):
        script = f"{TRAINER} train /proc/no events=events steps=1"
        done = self.run_job(1, script)
        self.assertEqual(done.returncode, 3)
        pathlib.Path(self.folder, "ckpt").write_text("a file")
        done = self.train(1, "steps=1", "resume=0")
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn("a checkpoint is lost: checkpoint step 1 is not on the disk", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
