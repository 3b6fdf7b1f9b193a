"""`convoy run` with real processes: run_test.py CONVOY

Method: start jobs of small shell programs, cause what can go wrong (exit codes, signals, kill -9 of the launcher, ranks
that ignore signals, ranks that leave processes behind, ports in use, closed outputs), and look at the exit code, the
words, the log files, and at /proc for anything that survived. Every process carries a marker that is unique to its test.
Waits are for states, with a generous limit. Does not check several machines, nor other launchers (tests/launch).
"""
import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import unittest

from jobs import CONVOY, PATIENCE_S, JobTest, environment, make_controlling_terminal

# Leaves a process of its own session behind that ignores SIGTERM, then goes on.
ORPHAN = "setsid sh -c 'trap \"\" TERM INT HUP; while :; do sleep 100; done' $MARK & "


class RunTest(JobTest):
    # Output.
    def test_lines_carry_the_rank_and_are_kept_in_files(self):
        done = self.run_job(3, "echo out $RANK; echo err $RANK >&2; printf 'no newline'")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(done.stdout.splitlines()),
                         sorted(f"[{r}] {t}" for r in range(3) for t in (f"out {r}", "no newline")))
        self.assertEqual(sorted(done.stderr.splitlines()), [f"[{r}] err {r}" for r in range(3)])
        for rank in range(3):
            self.assertEqual(sorted(self.log(rank).splitlines()), sorted([f"out {rank}", f"err {rank}", "no newline"]))

    def test_no_prefix_shows_lines_as_they_are(self):
        done = self.run_job(1, "echo plain; echo '[x] y'", "--no-prefix")
        self.assertEqual(done.stdout, "plain\n[x] y\n")

    def test_no_line_is_torn(self):
        line = "x" * 3000
        done = self.run_job(4, f"for i in $(seq 200); do echo {line}; printf 'a%s' b; echo c; done")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 4 * 400)
        for text in lines:
            self.assertRegex(text, rf"^\[[0-3]\] ({line}|abc)$")

    def test_progress_is_shown_live_on_a_terminal_and_kept_out_of_the_log(self):
        master, slave = pty.openpty()
        script = "echo begin; for i in 1 2 3; do printf 'step %s of rank %s\\r' $i $RANK; sleep 0.1; done; echo end"
        job = subprocess.Popen(self.command(2, script), cwd=self.folder, env=environment(MARK=self.mark),
                               stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        seen = self.read_all(master)
        self.assertEqual(job.wait(PATIENCE_S), 0)
        self.assertEqual(self.log(0), "begin\nend\n")
        self.assertIn(b"\r\x1b[Kstep 3 of rank 0", seen)
        self.assertNotIn(b"of rank 1", seen)
        self.assertIn(b"\x1b[33m[1]\x1b[0m end", seen)

    def test_a_closed_stdout_does_not_end_the_job(self):
        job = subprocess.Popen(self.command(2, "for i in $(seq 2000); do echo $i; done; echo last"), cwd=self.folder,
                               env=environment(MARK=self.mark), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        job.stdout.close()
        job.stderr.close()
        self.assertEqual(job.wait(PATIENCE_S), 0)
        for rank in range(2):
            self.assertTrue(self.log(rank).endswith("2000\nlast\n"))

    def test_json_events(self):
        wait_for_0 = "while [ ! -e ready_0 ]; do sleep 0.05; done"
        done = self.run_job(2, f"echo noise; touch ready_$RANK; test $RANK = 0 || {{ {wait_for_0}; exit 5; }}; sleep 100",
                            "--json")
        self.assertEqual(done.returncode, 5)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([e["event"] for e in events], ["start", "exit", "exit", "end"])
        self.assertEqual(events[0]["ranks"], [0, 1])
        self.assertEqual((events[1]["rank"], events[1]["code"], events[1]["cause"]), (1, 5, True))
        self.assertEqual((events[2]["rank"], events[2]["signal"], events[2]["cause"]), (0, "SIGTERM", False))
        self.assertEqual((events[3]["code"], events[3]["cause_rank"]), (5, 1))
        self.assertIn("[0] noise", done.stderr)

    # What ranks find.
    def test_ranks_find_the_contract(self):
        done = self.run_job(2, "env", "--mesh", "dp=1,tp=2", "--threads", "3", "--env", "MINE=a=b", "--no-prefix",
                            "--env", "CONVOY_TIMEOUT=5s")
        values = [dict(line.split("=", 1) for line in self.log(rank).splitlines()) for rank in range(2)]
        for rank, found in enumerate(values):
            self.assertEqual((found["RANK"], found["LOCAL_RANK"]), (str(rank),) * 2)
            self.assertEqual((found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]), ("2", "2"))
            self.assertEqual((found["MASTER_ADDR"], found["OMP_NUM_THREADS"]), ("127.0.0.1", "3"))
            self.assertEqual((found["CONVOY_MESH"], found["CONVOY_TIMEOUT"]), ("tp=2,dp=1", "5s"))
            self.assertEqual(os.path.realpath(found["CONVOY_RUN_DIR"]), os.path.realpath(self.folder + "/out"))
            self.assertEqual(found["MINE"], "a=b")
        self.assertEqual(values[0]["MASTER_PORT"], values[1]["MASTER_PORT"])
        self.assertEqual(values[0]["CONVOY_JOB_ID"], values[1]["CONVOY_JOB_ID"])
        self.assertEqual(done.returncode, 0)

    def test_what_is_set_already(self):
        done = self.run_job(2, "env", CONVOY_MESH="tp=2", OMP_NUM_THREADS="5", TORCHELASTIC_USE_AGENT_STORE="True")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("CONVOY_MESH=tp=2\n", self.log(1))
        self.assertIn("OMP_NUM_THREADS=5\n", self.log(1))
        self.assertNotIn("TORCHELASTIC", self.log(1), "torchrun's agent is not there")
        self.assertEqual(self.run_job(2, "true", CONVOY_MESH="tp=3").returncode, 64)

    def test_the_second_of_two_machines(self):
        done = self.run_job(2, "echo $RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT", "--nnodes", "3",
                            "--node-rank", "1", "--rdzv", "head:2950", "--no-prefix")
        self.assertEqual(sorted(done.stdout.splitlines()), ["2/6 0 head 2950", "3/6 1 head 2950"])
        self.assertEqual(self.log(3), "3/6 1 head 2950\n")

    def test_files_are_in_the_run_folder_only(self):
        done = self.run_convoy("run", "-n", "1", "--", "true")
        self.assertEqual(done.returncode, 0)
        files = [str(p.relative_to(self.folder)) for p in pathlib.Path(self.folder).rglob("*") if p.is_file()]
        self.assertEqual(len(files), 1, files)
        self.assertRegex(files[0], r"^runs/[0-9]{8}-[0-9]{6}-[0-9]+/logs/rank_0\.log$")

    # Ranks that die.
    def test_a_rank_that_fails_ends_the_others_and_is_named(self):
        done = self.run_job(4, "if [ $RANK = 2 ]; then for i in $(seq 12); do echo line $i; done; exit 7; fi; sleep 1000")
        self.assertEqual(done.returncode, 7)
        self.assertRegex(done.stderr, r"convoy: rank 2 died first: exit code 7, pid \d+\. Its log: .*/out/logs/rank_2\.log")
        self.assertIn("its last 10 lines:\n  | line 3\n", done.stderr)
        self.assertIn("  | line 12\n", done.stderr)
        self.assertIn("of the other ranks 3 ended when asked", done.stderr)

    def test_a_rank_killed_by_a_signal_is_named_with_it(self):
        done = self.run_job(3, "if [ $RANK = 1 ]; then echo bad index >&2; kill -SEGV $$; fi; sleep 1000")
        self.assertEqual(done.returncode, 128 + signal.SIGSEGV)
        self.assertIn("rank 1 died first: SIGSEGV (Segmentation fault", done.stderr)
        self.assertIn("its last line:\n  | bad index\n", done.stderr)

    def test_a_foreign_sigkill_hints_at_memory(self):
        done = self.run_job(2, "if [ $RANK = 1 ]; then kill -KILL $$; fi; sleep 1000")
        self.assertEqual(done.returncode, 137)
        self.assertIn("when memory runs out", done.stderr)
        self.assertIn("it had printed nothing", done.stderr)

    def test_the_first_that_dies_is_the_cause(self):
        script = "trap 'echo late; exit 9' TERM; if [ $RANK = 3 ]; then exit 4; fi; while :; do sleep 0.01; done"
        done = self.run_job(4, script)
        self.assertEqual(done.returncode, 4)
        self.assertIn("rank 3 died first: exit code 4", done.stderr)

    def test_ranks_that_ignore_sigterm_are_killed(self):
        done = self.run_job(3, "trap '' TERM; READY; while [ $RANK != 0 ]; do sleep 0.1; done; exit 3".replace(
            "READY", "touch ready_$RANK; while [ ! -e ready_1 -o ! -e ready_2 ]; do sleep 0.05; done"))
        self.assertEqual(done.returncode, 3)
        self.assertIn("2 had to be killed", done.stderr)

    def test_a_stopped_rank_is_ended_too(self):
        done = self.run_job(2, "if [ $RANK = 0 ]; then kill -STOP $$; fi; sleep 0.3; exit 3")
        self.assertEqual(done.returncode, 3)

    def test_processes_that_ranks_leave_behind_are_ended(self):
        for code in (0, 6):
            with self.subTest(code=code):
                done = self.run_job(2, ORPHAN + f"exit {code}")
                self.assertEqual(done.returncode, code)
                self.assertIn("processes that the ranks had left behind", done.stderr)
                self.assertEqual(self.processes(), [])

    def test_a_rank_that_cannot_be_started_ends_the_started_ones(self):
        done = self.run_job(3, "sleep 1000", CONVOY_FAULT="launch.spawn@2")
        self.assertIn("fault point launch.spawn fires", done.stderr)
        self.assertEqual(done.returncode, 70)
        self.assertIn("convoy: rank 1: forking: ", done.stderr)

    # The launcher ends.
    def test_kill_9_of_either_launcher_process_leaves_nothing(self):
        for victim in ("guardian", "launcher"):
            with self.subTest(victim=victim):
                for name in pathlib.Path(self.folder).glob("ready_*"):
                    name.unlink()
                job = self.start_job(3, ORPHAN + "trap '' TERM; READY; while :; do sleep 100; done")
                self.wait_for("orphans", lambda: len(self.processes()) >= 3 * 4)
                pid = job.pid if victim == "guardian" else self.launcher_of(job.pid)
                os.kill(pid, signal.SIGKILL)
                self.wait_for("end of all", lambda: not self.processes())
                code = job.wait(PATIENCE_S)
                self.assertEqual(code, -signal.SIGKILL if victim == "guardian" else 137)
                if victim == "launcher":
                    self.assertIn("the launcher was killed by SIGKILL", job.stderr.read())

    def test_signals_are_forwarded_and_ranks_may_end_well(self):
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(signal=sent.name):
                for name in pathlib.Path(self.folder).glob("ready_*"):
                    name.unlink()
                job = self.start_job(2, f"trap 'echo saved; exit 0' {sent.name[3:]}; READY; while :; do sleep 0.05; done")
                job.send_signal(sent)
                out, err = job.communicate(timeout=PATIENCE_S)
                self.assertEqual(job.returncode, 128 + sent)
                self.assertEqual(sorted(out.splitlines()), ["[0] saved", "[1] saved"])
                self.assertIn(f"ended by {sent.name}", err)

    def test_ctrl_c_on_a_terminal_counts_once(self):
        master, slave = pty.openpty()
        job = subprocess.Popen(self.command(2, "trap 'sleep 0.3; echo saved; exit 0' INT; touch ready_$RANK; while :; do sleep 0.05; done"),
                               cwd=self.folder, env=environment(MARK=self.mark), stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True, preexec_fn=lambda: make_controlling_terminal(slave))
        os.close(slave)
        self.wait_for_ranks(2)
        os.write(master, b"\x03")
        seen = self.read_all(master)
        self.assertEqual(job.wait(PATIENCE_S), 130)
        self.assertEqual(seen.count(b"saved"), 2, seen)
        self.assertNotIn(b"again", seen)

    def test_sigterm_to_all_processes_counts_once(self):
        """As schedulers send it: to the guardian and to the launcher, its child."""
        job = self.start_job(2, "trap 'sleep 0.3; echo saved; exit 0' TERM; READY; while :; do sleep 0.05; done")
        launcher = int(pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0])
        for pid in (launcher, job.pid):
            os.kill(pid, signal.SIGTERM)
        out, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 143)
        self.assertEqual(sorted(out.splitlines()), ["[0] saved", "[1] saved"])
        self.assertNotIn("again", err)

    def test_after_the_grace_time_ranks_are_killed(self):
        job = self.start_job(2, "trap '' INT; READY; while :; do sleep 0.05; done", "--grace", "300ms")
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 130)
        self.assertIn("SIGKILL in 300 ms", err)

    def test_a_second_ctrl_c_kills_at_once(self):
        job = self.start_job(2, "trap '' INT; READY; while :; do sleep 0.05; done", "--grace", "10h")
        job.send_signal(signal.SIGINT)
        self.wait_for("answer", lambda: "asked 2 ranks" in job.stderr.readline())
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 130)
        self.assertIn("SIGINT again", err)

    # What users get wrong.
    def check_refused(self, words, code, *texts):
        done = self.run_convoy(*words)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for text in texts:
            self.assertIn(text, done.stderr)
        self.assertEqual(os.listdir(self.folder), [], "nothing may be made")

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.check_refused(["run", "-n", "2", "--port", port, "--", "true"], 69, f"Port {port} is in use", "--port")

    def test_bad_mesh(self):
        self.check_refused(["run", "-n", "8", "--mesh", "tp=2,pp=3", "--", "true"], 64, "tp=2,pp=3", "8")
        self.check_refused(["run", "-n", "2", "--mesh", "tp2", "--", "true"], 64, "tp2")

    def test_unknown_words(self):
        self.check_refused(["run", "-n", "2", "--mseh", "tp=2", "--", "true"], 64, "'--mseh'", "Did you mean --mesh?")
        self.check_refused(["rnu"], 64, "no command 'rnu'", "Did you mean run?")
        self.check_refused(["run", "-n", "2", "./prog"], 64, "convoy run -n 2 -- ./prog")
        self.check_refused(["env", "--markdwon"], 64, "Did you mean --markdown?")

    def test_bad_values(self):
        self.check_refused(["run", "--", "true"], 64, "--ranks")
        self.check_refused(["run", "-n", "0", "--", "true"], 64, "--ranks", "0")
        self.check_refused(["run", "-n", "2"], 64, "no program")
        self.check_refused(["run", "-n", "2", "--grace", "soon", "--", "true"], 64, "--grace is 'soon'")
        self.check_refused(["run", "-n", "2", "--env", "X", "--", "true"], 64, "NAME=VALUE")
        self.check_refused(["run", "-n", "2", "--nnodes", "2", "--", "true"], 64, "--rdzv HOST:PORT")
        self.check_refused(["run", "-n", "2", "--nnodes", "2", "--node-rank", "2", "--rdzv", "h:1", "--", "true"], 64,
                           "--node-rank is 2")
        self.check_refused(["run", "-n", "2", "--rdzv", "host", "--", "true"], 64, "HOST:PORT")

    def test_bad_programs(self):
        self.check_refused(["run", "-n", "2", "--", "no-such-program"], 127, "'no-such-program'")
        self.check_refused(["run", "-n", "2", "--", "/etc/passwd"], 126, "not executable")
        self.check_refused(["run", "-n", "2", "--", "/"], 126, "folder")

    def test_a_run_folder_that_cannot_be_made(self):
        self.check_refused(["run", "-n", "2", "--output", "/proc/no", "--", "true"], 64, "/proc/no", "--output")

    def test_unknown_variables_are_reported(self):
        done = self.run_job(1, "true", CONVOY_MEHS="tp=1")
        self.assertEqual(done.returncode, 0)
        self.assertIn("did you mean CONVOY_MESH?", done.stderr)

    def test_env_shows_what_a_rank_finds(self):
        done = self.run_convoy("run", "-n", "2", "--output", "out", "--no-prefix", "--", CONVOY, "env")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("started by convoy run\nRANK=1\nWORLD_SIZE=2\n", self.log(1))
        self.assertEqual(self.run_convoy("env", RANK="3", WORLD_SIZE="2").returncode, 64)

    def test_help_and_version(self):
        self.assertRegex(self.run_convoy("--version").stdout, r"^convoy \d+\.\d+\.\d+\n$")
        text = self.run_convoy("run", "--help").stdout
        for part in ("Usage: convoy run -n N [OPTIONS] -- PROGRAM ARGS...", "Examples:", "Exit codes:"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
