"""What tests of `convoy run` share: a folder, jobs of small shell programs, and what is left of them in /proc.

The first argument of the test is the program `convoy`. Every process carries a marker that is unique to its test; one that
survives its test fails it.
"""
import fcntl
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import uuid

CONVOY = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else "convoy"
PATIENCE_S = 60
VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|CONVOY_|OMP_NUM_THREADS|OMPI_|PMI|SLURM)")


def environment(**more):
    return {**{k: v for k, v in os.environ.items() if not VARIABLES.match(k)}, **more}


def make_controlling_terminal(fd):
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


class JobTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="convoy-test-")
        self.mark = "mark-" + uuid.uuid4().hex

    def tearDown(self):
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.assertEqual(left, [], "processes were left behind")

    # What is there.
    def processes(self):
        """Running processes of this test."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                own = self.mark.encode() in (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if own and state != "Z":
                found.append(int(entry.name))
        return found

    def wait_for(self, what, holds):
        end = time.monotonic() + PATIENCE_S
        while not holds():
            self.assertLess(time.monotonic(), end, f"no {what}")
            time.sleep(0.02)

    def log(self, rank, folder="out"):
        return pathlib.Path(self.folder, folder, "logs", f"rank_{rank}.log").read_text()

    # Jobs.
    def command(self, ranks, script, *options):
        return [CONVOY, "run", "-n", str(ranks), "--output", "out", *options, "--", "sh", "-c", script]

    def run_convoy(self, *words, **more):
        return subprocess.run([CONVOY, *words], cwd=self.folder, env=environment(MARK=self.mark, **more), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)

    def run_job(self, ranks, script, *options, **more):
        return self.run_convoy(*self.command(ranks, script, *options)[1:], **more)

    def start_job(self, ranks, script, *options, **more):
        """Starts a job and waits until every rank has made the file `ready_RANK`."""
        job = subprocess.Popen(self.command(ranks, script.replace("READY", "touch ready_$RANK"), *options),
                               cwd=self.folder, env=environment(MARK=self.mark), text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(job.stdout.close)
        self.addCleanup(job.stderr.close)
        self.wait_for_ranks(ranks)
        return job

    def wait_for_ranks(self, ranks):
        self.wait_for("ranks", lambda: all(os.path.exists(f"{self.folder}/ready_{r}") for r in range(ranks)))

    def launcher_of(self, guardian):
        """The launcher proper: the guardian's child."""
        for pid in self.processes():
            if int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == guardian:
                return pid
        self.fail("no launcher")

    def read_all(self, fd):
        seen = b""
        while True:
            try:
                got = os.read(fd, 65536)
            except OSError:  # the other side is closed
                got = b""
            if not got:
                os.close(fd)
                return seen
            seen += got
