"""`convoy run --trace`: run_trace_test.py CONVOY RECORDING_WORKER [PYTHON]

Method: ranks are small programs that record a known number of collectives, and end, or are killed; what the launcher says and the
files that it leaves are looked at. Two launchers on this machine play two machines. Whatever is done to the tracer, the job must end
as if it were not there. With PYTHON: a PyTorch script, too. Does not check what verdicts are found (tests/trace, tests/sim).
"""
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import unittest
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "cli")]
sys.argv, WORKER, PYTHON = sys.argv[:2], os.path.abspath(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""

from certificate import make_certificate  # noqa: E402
from jobs import CONVOY, PATIENCE_S, JobTest, environment  # noqa: E402
from ports import free_port  # noqa: E402

COUNT = 100  # collectives of a rank, half a second
SCRIPT = """
import torch, torch.distributed as dist
import convoy
convoy.trace.start()
dist.init_process_group("gloo")
for _ in range(30):
    dist.all_reduce(torch.ones(8))
dist.destroy_process_group()
"""


class RunTraceTest(JobTest):
    said = ""  # by the last job

    def words(self, ranks, *options, output="out", program=(WORKER, str(COUNT))):
        return ["run", "-n", str(ranks), "--output", output, *options, "--", *program]

    def traced(self, ranks, *options, code=0, output="out", program=(WORKER, str(COUNT)), **more):
        done = self.run_convoy(*self.words(ranks, *options, output=output, program=program), **more)
        self.assertEqual(done.returncode, code, done.stderr)
        self.said = done.stderr
        return done

    def start(self, *words, **more):
        return subprocess.Popen([CONVOY, *words], cwd=self.folder, env=environment(MARK=self.mark, **more), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def check_files(self, ranks, folder="out/trace", name="run", report="report", count=COUNT):
        """All ranks' collectives are in the stream, to the last one."""
        done = self.run_convoy("trace", "export", f"{folder}/{name}.trace", "--chrome", "x.json")
        self.assertEqual(done.returncode, 0, done.stderr + self.said)
        events = json.loads(pathlib.Path(self.folder, "x.json").read_text())
        events = events["traceEvents"] if isinstance(events, dict) else events
        found = collections.Counter(e["pid"] for e in events if e.get("ph") in ("X", "b") and "all_reduce" in e.get("name", ""))
        self.assertEqual(sorted(found.values()), [count] * ranks, f"{found}\n{self.said}")
        self.assertIn("<html", pathlib.Path(self.folder, folder, report + ".html").read_text()[:2000])

    # What it leaves.
    def test_two_and_four_ranks_leave_a_stream_and_a_report(self):
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                output = f"out{ranks}"
                done = self.traced(ranks, "--trace", "--mesh", f"dp={ranks}", output=output)
                self.check_files(ranks, output + "/trace")
                lines = done.stderr.splitlines()
                self.assertRegex(done.stderr, r"^\[trace\] listening at port \d+\n\[trace\] page: http://127.0.0.1:\d+/\n")
                self.assertRegex(done.stderr, rf"\[trace\] \d+ events of {ranks} ranks .* 0 clients were refused")
                self.assertIn("[trace] verdicts: none", lines)
                self.assertRegex(lines[-1], r"^\[trace\] report: .*/trace/report\.html$")
                log = pathlib.Path(self.folder, output, "logs", "trace_0.log").read_text()
                self.assertEqual(log, "".join(line.removeprefix("[trace] ") + "\n" for line in lines))

    def test_folders_and_earlier_files(self):
        for name, report in (("run", "report"), ("run-2", "report-2")):
            self.traced(2, "--trace=mine/here")
            self.check_files(2, "mine/here", name, report)
        self.assertEqual(len(os.listdir(self.folder + "/mine/here")), 4)

    def test_a_killed_rank_is_a_crash(self):
        """The last one: the others, which the launcher ends at once, come before it wherever ranks have an order."""
        for ranks in (2, 4, 8):
            with self.subTest(ranks=ranks):
                victim = ranks - 1
                done = self.traced(ranks, "--trace", code=137, output=f"out{ranks}", program=(WORKER, str(COUNT), str(victim)))
                self.assertIn(f"convoy: rank {victim} died first: SIGKILL", done.stderr)
                self.assertRegex(done.stderr, rf"\[trace\] found: CRASH: rank {victim}: .*killed by signal 9")
                verdicts = [line for line in done.stderr.splitlines() if line.startswith("[trace] verdict: ")]
                self.assertEqual(len(verdicts), 1, done.stderr)
                self.assertIn(f"verdict: CRASH: rank {victim}: ", verdicts[0])
                replay = self.run_convoy("trace", "replay", "--json", f"out{ranks}/trace/run.trace")
                self.assertEqual(replay.returncode, 2, replay.stdout + replay.stderr)
                self.assertIn('"CRASH"', replay.stdout)

    def test_who_ends_the_job_is_told_of_no_crash(self):
        for program in ((WORKER, "100000"), ("sh", "-c", f"{WORKER} 100000; true")):
            for sent in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(program=program[0], signal=sent.name):
                    job = self.start(*self.words(2, "--trace", program=program))
                    page = next(line for line in job.stderr if "page" in line).split()[-1]
                    ranks = lambda: urllib.request.urlopen(page + "api/ranks", timeout=PATIENCE_S).read()  # noqa: E731
                    self.wait_for("ranks that run", lambda: ranks().count(b'"running"') == 2)
                    job.send_signal(sent)
                    said = job.communicate(timeout=PATIENCE_S)[1]
                    self.assertEqual(job.returncode, 128 + sent, said)
                    self.assertIn("[trace] verdicts: none", said)
                    self.assertIn("[trace] report: ", said)

    def test_ranks_behind_a_script_record_too(self):
        self.traced(2, "--trace", program=("sh", "-c", f"{WORKER} 400; true"))
        self.check_files(2, count=400)

    def test_a_caller_that_records_nothing_is_overruled(self):
        self.traced(2, "--trace", CONVOY_TRACE="off")
        self.check_files(2)

    def test_ranks_that_record_nothing(self):
        done = self.traced(2, "--trace", program=("true",))
        self.assertIn("[trace] nothing was recorded", done.stderr)
        self.assertNotIn("any more", done.stderr)

    @unittest.skipUnless(PYTHON, "no Python package")
    def test_a_pytorch_script(self):
        pathlib.Path(self.folder, "train.py").write_text(SCRIPT)
        self.traced(2, "--trace", program=(PYTHON, "train.py"), GLOO_SOCKET_IFNAME="lo")
        self.check_files(2, count=30)

    # Several machines.
    def two_machines(self, *options, first=()):
        """What each said, the first machine's last, and the port of their store. `first`: its own options."""
        port = free_port(neighbours=1)
        machine = ["--trace", "--nnodes", "2", "--rdzv", f"127.0.0.1:{port}", *options]
        jobs = [self.start(*self.words(2, *machine, *own, "--node-rank", str(k), output=f"node{k}")) for k, own in ((1, ()), (0, first))]
        said = [job.communicate(timeout=PATIENCE_S)[1] for job in jobs]
        self.assertEqual([job.returncode for job in jobs], [0, 0], said)
        return said, port

    def test_two_machines_have_one_aggregator(self):
        said, port = self.two_machines("--mesh", "dp=4")
        self.check_files(4, "node0/trace")
        self.assertIn(f"[trace] listening at port {port + 1}", said[1])
        self.assertIn(" of 4 ranks ", said[1])
        self.assertIn(f"[trace] sending to 127.0.0.1:{port + 1}", said[0])
        self.assertFalse(os.path.exists(self.folder + "/node1/trace"))

    def protection(self, *names):
        certificate, key = make_certificate(self.folder)
        token = os.path.join(self.folder, "token")
        pathlib.Path(token).write_text("a-secret\n")
        files = {"token-file": token, "tls-certificate": certificate, "tls-key": key, "tls-roots": certificate}
        return [word for name in names for word in (f"--trace-{name}", files[name])]

    @unittest.skipUnless(shutil.which("openssl"), "no openssl")
    def test_two_machines_with_token_and_tls(self):
        self.two_machines(*self.protection("token-file", "tls-certificate", "tls-key", "tls-roots"))
        self.check_files(4, "node0/trace")

    @unittest.skipUnless(shutil.which("openssl"), "no openssl")
    def test_a_machine_without_the_token_is_not_heard(self):
        said, _ = self.two_machines(first=self.protection("token-file"))
        self.assertIn(" of 2 ranks ", said[1])

    def test_an_aggregator_elsewhere(self):
        serve = self.start("trace", "serve", "--host", "127.0.0.1", "--run-file", "x/run.trace", "--report", "x/report.html")
        self.addCleanup(serve.stdout.close)
        self.addCleanup(serve.stderr.close)
        os.mkdir(self.folder + "/x")
        port = ""
        try:
            port = re.search(r"port (\d+)", serve.stdout.readline())[1]
            done = self.traced(2, "--trace-to", f"127.0.0.1:{port}")
        finally:
            serve.send_signal(signal.SIGTERM)
            self.assertEqual(serve.wait(PATIENCE_S), 0)
        self.check_files(2, "x")
        self.assertIn(f"[trace] sending to 127.0.0.1:{port}", done.stderr)
        self.assertFalse(os.path.exists(self.folder + "/out/trace"))

    # What goes wrong leaves the job alone.
    def check_untraced(self, done, *texts):
        said = [line for line in done.stderr.splitlines() if "trace" in line]
        self.assertEqual(len(said), 1, done.stderr)
        for text in ("convoy: the job is not traced: ", *texts):
            self.assertIn(text, said[0])

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.check_untraced(self.traced(2, "--trace", "--trace-port", port), port)
            self.check_untraced(self.traced(2, "--trace", "--trace-port", port, program=("sh", "-c", "exit 3"), code=3), port)

    def test_a_folder_that_cannot_be_made(self):
        self.check_untraced(self.traced(2, "--trace=/proc/no"), "/proc/no")

    def test_an_aggregator_that_is_not_there(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            self.traced(2, "--trace-to", f"127.0.0.1:{nobody.getsockname()[1]}")

    def tracer(self):
        for pid in self.processes():
            if b"trace\0serve" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def test_a_tracer_that_dies(self):
        job = self.start(*self.words(2, "--trace", program=("sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 5")))
        next(line for line in job.stderr if "page" in line)
        os.kill(self.tracer(), signal.SIGKILL)
        line = next(line for line in job.stderr if "traced" in line)
        self.assertIn("convoy: the job is not traced any more: its process ended, SIGKILL", line)
        pathlib.Path(self.folder, "go").touch()
        job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 5)

    def test_a_tracer_that_is_stuck_is_given_up_on_demand(self):
        job = self.start(*self.words(2, "--trace", program=("sh", "-c", "while [ ! -e go ]; do sleep 0.02; done")))
        next(line for line in job.stderr if "page" in line)
        os.kill(self.tracer(), signal.SIGSTOP)
        pathlib.Path(self.folder, "go").touch()
        next(line for line in job.stderr if "Ctrl-C gives it up" in line)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=PATIENCE_S)[1]
        self.assertEqual(job.returncode, 0)
        self.assertIn("the trace is not whole: given up", said)

    def test_kill_9_of_the_launcher_leaves_no_tracer(self):
        job = self.start(*self.words(2, "--trace", program=("sleep", "1000")))
        self.wait_for("tracer", self.tracer)
        job.kill()
        job.communicate(timeout=PATIENCE_S)
        self.wait_for("end of all", lambda: not self.processes())

    def test_bad_options(self):
        for options in (["--trace-to", "head"], ["--trace", "--trace-to", "head:7070"], ["--trace-port", "7070"],
                        ["--trace", "--trace-port", "0"], ["--trace", "--trace-token-file", "/no/such"],
                        ["--trace-token-file", "/dev/null"]):
            done = self.traced(2, *options, code=64)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
