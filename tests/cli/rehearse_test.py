"""`convoy run --rehearse` with real ranks: rehearse_test.py CONVOY

Method: small torch scripts that make one mistake each, and one that makes none, run as a user would start them; the exit
code, the words and the JSON event are checked. Ranks are killed, interrupted, fork and end without exit handlers. Runs
with the Python that has torch. Not checked here: what the stand-in can find at all (tests/standin), collectives
(rehearse_ddp.py), how reports are put together (tests/launch/rehearsal_test.cc).
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
import unittest

CONVOY = os.path.abspath(sys.argv.pop(1))
PATIENCE_S = 120
VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|CONVOY_|LD_PRELOAD|CUDA_VISIBLE_DEVICES)")
BEGIN = """
import ctypes, os, signal, sys, time, torch
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank % torch.cuda.device_count())
"""
NO_WAIT = BEGIN + """
a, b = torch.cuda.Stream(), torch.cuda.Stream()
x, y = torch.empty(4096, device="cuda"), torch.empty(4096, device="cuda")
torch.cuda.synchronize()
with torch.cuda.stream(a): x.zero_()
with torch.cuda.stream(b): y.copy_(x)
torch.cuda.synchronize()
"""


class RehearseTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="convoy-test-")

    def tearDown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, script, ranks, *options):
        pathlib.Path(self.folder, "script.py").write_text(script)
        return [CONVOY, "run", "-n", str(ranks), "--rehearse", "--output", "out", "--threads", "1", *options, "--",
                sys.executable, "script.py"]

    def environment(self, **more):
        return {**{k: v for k, v in os.environ.items() if not VARIABLES.match(k)}, **more}

    def run_words(self, words, code, **more):
        done = subprocess.run(words, cwd=self.folder, env=self.environment(**more), text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def rehearse(self, script, *options, ranks=1, code=0, **more):
        """Runs the script; returns what was printed."""
        return self.run_words(self.command(script, ranks, *options), code, **more)

    def event(self, script, *options, ranks=1, code=0):
        """Runs the script with --json; returns the rehearsal's event and the output."""
        done = self.rehearse(script, "--json", *options, ranks=ranks, code=code)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([e["event"] for e in events[-2:]], ["rehearsal", "end"])
        self.assertEqual(events[-1]["code"], code)
        return events[-2], done.stderr

    def only_finding(self, event, kind):
        self.assertEqual([f["kind"] for f in event["findings"]], [kind], event)
        return event["findings"][0]

    # No mistake.
    def test_a_clean_program(self):
        done = self.rehearse(BEGIN + """
model = torch.nn.Linear(64, 64).cuda()
model(torch.ones(8, 64, device="cuda")).sum().backward()
time.sleep(0.5)  # torch's own autograd thread aborts when Python ends just behind a backward pass
print("cards:", torch.cuda.device_count(), "preloaded:", os.environ["LD_PRELOAD"].split(":")[0])
""", "--gpus", "3", ranks=2, LD_PRELOAD="/lib/x86_64-linux-gnu/libm.so.6", CUDA_VISIBLE_DEVICES="")
        self.assertIn("[0] cards: 3 preloaded: /lib/x86_64-linux-gnu/libm.so.6", done.stdout)
        self.assertRegex(done.stderr.splitlines()[0], "rehearsal: no GPU is used. 3 simulated GPUs of 2 GiB, seed 0.*nothing of speed")
        self.assertIn("rehearsal: nothing found (3 simulated GPUs, seed 0, no hardware)", done.stderr)
        for rank in range(2):
            self.assertRegex(done.stderr, rf"GPU {rank}: .* of 2 GiB at the peak, by rank {rank}\n")
        self.assertNotIn("GPU 2", done.stderr)
        self.assertNotIn("CONVOY_STANDIN", done.stderr)  # no warning of unknown variables
        self.assertEqual(len(list(pathlib.Path(self.folder, "out/rehearsal/rank_1").iterdir())), 1)

    def test_memory_is_as_small_as_said(self):
        event, _ = self.event(BEGIN + """
try: torch.empty(100 << 20, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as e: print(e)
else: sys.exit("there is more")
torch.empty(1, device="cuda")
""", "--gpu-memory", "64MiB")
        self.assertEqual((event["gpus"], event["gpu_memory"], event["findings"]), (1, 64 << 20, []))
        self.assertEqual(event["devices"], [{"device": 0, "capacity": 64 << 20, "peaks": [{"rank": 0, "peak": 2 << 20}]}])

    def test_a_program_that_uses_no_gpu_has_rehearsed_nothing(self):
        event, _ = self.event("import torch; torch.cuda.is_available(); torch.ones(3).sum()", ranks=2, code=76)
        self.assertEqual(self.only_finding(event, "nothing rehearsed")["ranks"], [0, 1])

    # One mistake.
    def test_a_missing_wait_is_one_finding_of_all_ranks(self):
        event, err = self.event(NO_WAIT, ranks=2, code=76)
        finding = self.only_finding(event, "unsynchronised use")
        self.assertEqual((finding["ranks"], finding["count"], finding["texts"]), ([0, 1], 2, 2))
        self.assertIn("Record an event on stream", finding["text"])
        self.assertIn("unsynchronised use (ranks 0-1; 2 times)\n      " + finding["text"], err)
        self.assertIn("and 1 alike with other numbers", err)

    def test_an_unknown_kernel(self):
        event, _ = self.event(BEGIN + """
try: torch.cuda._sleep(1000)
except RuntimeError: pass
""", code=76)
        self.assertIn("spin_kernel", self.only_finding(event, "unknown kernel")["text"])

    def test_a_host_access_ends_the_rank_and_is_in_the_summary(self):
        event, err = self.event(BEGIN + """
x = torch.zeros(1000, device="cuda")
if rank == 1: ctypes.c_float.from_address(x.data_ptr()).value
time.sleep(100)
""", ranks=2, code=139)
        self.assertEqual(self.only_finding(event, "host access")["ranks"], [1])
        self.assertEqual(event["unfinished_ranks"], [0])  # ended when asked, which runs no exit handlers
        self.assertIn("rank 1 died first: SIGSEGV", err)
        self.assertIn("Not complete: rank 0 ended by SIGTERM", err)

    def test_leaks_bounds_and_calls_that_are_not_there(self):
        event, _ = self.event(BEGIN + """
cuda = ctypes.CDLL("libcudart.so.13")
data = ctypes.c_void_p()
assert cuda.cudaMalloc(ctypes.byref(data), ctypes.c_size_t(1000)) == 0
assert cuda.cudaMemset(data, 0, ctypes.c_size_t(1008)) == 0  # past its end
torch.cuda.synchronize()
cuda.cudaMallocManaged(ctypes.byref(data), ctypes.c_size_t(8), 1)
""", code=76)
        texts = {f["kind"]: f["text"] for f in event["findings"]}
        self.assertEqual(sorted(texts), ["leak", "out of bounds", "unsupported call"])
        self.assertRegex(texts["leak"], r"1 allocation of 1000 bytes on device 0 \(cudaMalloc by .*\) were not freed")
        self.assertIn("past the end of allocation", texts["out of bounds"])
        self.assertIn("cudaMallocManaged", texts["unsupported call"])

    def test_the_same_seed_gives_the_same_wrong_data(self):
        script = BEGIN + """
p, d, seen = torch.zeros(4096).pin_memory(), torch.empty(4096, device="cuda"), []
for round in range(64):
    p.fill_(round)
    d.copy_(p, non_blocking=True)
    time.sleep(0.002)
    p.fill_(-1)
    torch.cuda.synchronize()
    if d.cpu()[0] != round: seen.append(round)
print("wrong:", seen)
"""
        wrong = []
        for _ in range(2):
            out = self.rehearse(script, "--seed", "3", "--no-prefix").stdout
            wrong.append(set(json.loads(out.split("wrong: ")[1])))
        self.assertTrue(wrong[0] & wrong[1], wrong)  # a busy machine may add rounds of its own

    # Ranks that don't end as they should.
    def test_what_a_killed_rank_had_found_is_kept(self):
        event, err = self.event(NO_WAIT + """
open(f"found_{rank}", "w").close()
while not os.path.exists("found_0"): time.sleep(0.01)  # its death ends the other one
if rank == 1: os.kill(os.getpid(), signal.SIGKILL)
""", ranks=2, code=137)
        self.assertEqual(self.only_finding(event, "unsynchronised use")["ranks"], [0, 1])
        self.assertIn(1, event["unfinished_ranks"])
        self.assertIn("ended by SIGKILL (Killed) before the last report", err)

    def test_an_interrupted_job_has_its_summary(self):
        job = subprocess.Popen(self.command(NO_WAIT + "open('ready', 'w'); time.sleep(100)", 1), cwd=self.folder,
                               env=self.environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        end = time.monotonic() + PATIENCE_S
        while not os.path.exists(self.folder + "/ready"):
            self.assertLess(time.monotonic(), end, "no ready file")
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=PATIENCE_S)
        self.assertEqual(job.returncode, 130)
        self.assertIn("rehearsal: 1 finding", err)

    def test_an_end_without_exit_handlers_is_told(self):
        event, err = self.event(BEGIN + "torch.ones(3, device='cuda').sum().item(); os._exit(0)")
        self.assertEqual((event["findings"], event["unfinished_ranks"]), ([], [0]))
        self.assertIn("ended without running exit handlers", err)

    def test_children_count_once(self):
        pathlib.Path(self.folder, "inner.py").write_text(NO_WAIT)
        event, _ = self.event(BEGIN + """
import subprocess
x = torch.ones(3, device="cuda")
subprocess.run([sys.executable, "inner.py"], check=True)
if os.fork() == 0: sys.exit(0)  # runs exit handlers with the parent's state
os.wait()
subprocess.run(["sh", "-c", "true"], check=True)
""", code=76)
        self.assertEqual(self.only_finding(event, "unsynchronised use")["count"], 1)
        self.assertEqual(len(list(pathlib.Path(self.folder, "out/rehearsal/rank_0").iterdir())), 2)

    # What users get wrong.
    def check_refused(self, text, *options, ranks=1):
        done = self.rehearse("", *options, ranks=ranks, code=64)
        self.assertEqual((done.stdout, len(done.stderr.splitlines())), ("", 1), done.stderr)
        self.assertIn(text, done.stderr)
        self.assertFalse(os.path.exists(self.folder + "/out"))

    def test_bad_options(self):
        self.check_refused("--gpus", "--gpus", "17")
        self.check_refused("--gpus", "--gpus", "0")
        self.check_refused("at most 16 GPUs, and -n is 17", ranks=17)
        self.check_refused("--gpu-memory is '2 apples'", "--gpu-memory", "2 apples")
        self.check_refused("--gpu-memory is 1000 B, but must be 1 MiB to 160 GiB", "--gpu-memory", "1000")
        self.check_refused("--seed", "--seed", "-1")
        self.check_refused("--seed", "--seed", "x")
        for option in ("--gpus", "--gpu-memory", "--seed"):
            done = self.run_words([CONVOY, "run", "-n", "1", option, "2", "--", "true"], 64)
            self.assertIn(f"{option} requires --rehearse", done.stderr)

    def test_a_build_without_the_stand_in_says_how_to_get_it(self):
        core = next(pathlib.Path(CONVOY).parents[2].glob("libconvoy_core.so.0"))
        shutil.copy(core, self.folder)
        done = self.run_words(self.command("", 1), 64, LD_LIBRARY_PATH=self.folder)
        self.assertIn("has no stand-in for CUDA", done.stderr)
        self.assertIn("make deps", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
