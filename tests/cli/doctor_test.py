"""`convoy doctor` as an operator meets it: doctor_test.py CONVOY

Method: run it with right and wrong input and with faults that need no privileges (a lowered limit, a folder that is not
there, a peer that does not answer), look at text, JSON and exit codes, and that nothing is left. What the checks conclude is
checked in tests/resilience. The machine that runs this may itself be unfit, so the code of a whole run is only compared with
its verdict. Does not check how exact the measurements are.
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

CONVOY = os.path.abspath(sys.argv.pop(1))
PATIENCE_S = 60
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # disks may be busy with other tests


class DoctorTest(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="convoy-test-", dir=MEMORY))

    def tearDown(self):
        shutil.rmtree(self.root, ignore_errors=True)

    # What is done.
    def doctor(self, *words, code=None, **more):
        done = subprocess.run([CONVOY, "doctor", *map(str, words)], cwd=self.root, text=True, capture_output=True,
                              timeout=PATIENCE_S, **more)
        if code is not None:
            self.assertEqual(done.returncode, code, f"{words}\n{done.stdout}{done.stderr}")
        if done.returncode in (64, 65, 66, 69):
            self.assertRegex(done.stderr, r"^convoy: [^\n]+\n$")
        return done

    def report(self, *words, **more):
        done = self.doctor("--quick", "--json", *words, **more)
        self.assertEqual(done.stdout.count("\n"), 1, done.stdout)
        report = json.loads(done.stdout)
        self.assertEqual(done.returncode, 75 if report["verdict"] == "fail" else 0, done.stdout)
        return report

    def checks(self, *words, **more):
        return {check["name"]: check for check in self.report(*words, **more)["checks"]}

    def listen(self):
        listening = subprocess.Popen([CONVOY, "doctor", "--listen", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(listening.stdout.close)
        self.addCleanup(listening.stderr.close)
        self.addCleanup(lambda: listening.poll() is None and listening.kill())
        return listening, listening.stdout.readline().split()[-1]

    # Tests.
    def test_a_run_says_what_it_found_and_leaves_nothing(self):
        report = self.report("--node", "n1")
        self.assertEqual((report["node"], report["quick"]), ("n1", True))
        names = {check["name"] for check in report["checks"]}
        self.assertLessEqual({"memory.copy_all_cores", "disk.fsync", "limits.open_files", "kernel.pidfd", "cpu.steal"}, names)
        for check in report["checks"]:
            self.assertEqual("advice" in check, check["verdict"] in ("warn", "fail"), check)
        self.assertEqual(list(self.root.iterdir()), [])
        text = self.doctor("--quick").stdout
        for name in names:
            self.assertIn(name, text)
        self.assertRegex(text.splitlines()[-1], r": (NOT )?fit for a job; \d+ checks in [\d.]+ s, \d+ failed, \d+ with warnings$")

    def test_what_fails_is_named_with_advice(self):
        checks = self.checks("--disk", self.root / "none")
        self.assertEqual(checks["disk.space"]["verdict"], "fail")
        self.assertEqual(checks["disk.space"]["subject"], str(self.root / "none"))
        text = self.doctor("--quick", "--need-space", "1000000TiB", code=75).stdout
        self.assertRegex(text, r"(?m)^fail disk\.space \.: .*\n    expected: at least .* free\n    Free space")
        self.assertIn("NOT fit for a job", text)
        self.assertEqual(self.checks("--need-memory", "1000000TiB")["memory.available"]["verdict"], "fail")

    def test_a_lowered_limit_is_found(self):
        lowered = self.checks(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
        self.assertEqual(lowered["limits.open_files"]["verdict"], "fail")

    def test_two_nodes_measure_each_other(self):
        listening, port = self.listen()
        checks = self.checks("--peer", f"127.0.0.1:{port}", "--need-bandwidth", "0")
        for name in ("network.round_trip", "network.send", "network.receive"):
            self.assertGreater(checks[name]["value"], 0)
            self.assertEqual(checks[name]["subject"], f"127.0.0.1:{port}")
        with socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE_S) as other:
            other.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" * 2)
            try:
                self.assertEqual(other.recv(100), b"")
            except ConnectionResetError:
                pass
        listening.send_signal(signal.SIGTERM)
        self.assertEqual(listening.wait(PATIENCE_S), 0)
        self.assertIn("sends what is no request: 5353482d", listening.stderr.read())

    def test_a_peer_that_does_not_answer_fails_and_the_rest_is_checked(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            checks = self.checks("--peer", f"127.0.0.1:{silent.getsockname()[1]}")
        self.assertEqual(checks["network.round_trip"]["verdict"], "fail")
        self.assertIn("no answer in time", checks["network.round_trip"]["found"])
        self.assertNotIn("network.send", checks)
        self.assertIn("disk.fsync", checks)

    def test_a_slow_node_stands_out(self):
        self.doctor("--quick", "--node", "n1", "--save", "n1.json")
        report = json.loads((self.root / "n1.json").read_text())
        for i in range(2, 5):
            report["node"] = f"n{i}"
            for check in report["checks"]:
                if i == 4 and check["name"] == "memory.copy_one_core":
                    check["value"] /= 3
            (self.root / f"n{i}.json").write_text(json.dumps(report))
        files = [f"n{i}.json" for i in range(1, 5)]
        self.assertIn("n4 stands out: memory.copy_one_core is", self.doctor("--compare", *files, code=75).stdout)
        outliers = json.loads(self.doctor("--json", "--compare", *files, code=75).stdout)["outliers"]
        self.assertEqual([(o["node"], round(o["times_worse"], 3)) for o in outliers], [("n4", 3)])
        self.assertIn("3 nodes, ", self.doctor("--compare", *files[:3], code=0).stdout)

    def test_wrong_input(self):
        self.assertIn("Did you mean --quick?", self.doctor("--quik", code=64).stderr)
        for words in (["--peer", "node1"], ["--peer", "node1:x"], ["--listen", "70000"], ["--need-space", "lots"],
                      ["--listen", "0", "--quick"], ["--compare", "a", "--disk", "."], ["--compare", "a", "--listen", "0"],
                      [word for _ in range(65) for word in ("--peer", "a:1")], [word for _ in range(9) for word in ("--disk", ".")]):
            self.doctor(*words, code=64)
        (self.root / "a.json").write_text("{}")
        self.assertIn("a.json: this is no report", self.doctor("--compare", "a.json", "a.json", code=65).stderr)
        self.doctor("--compare", "none.json", "a.json", code=66)
        self.doctor("--quick", "--save", "none/a.json", code=66)
        with socket.create_server(("", 0)) as taken:
            self.doctor("--listen", taken.getsockname()[1], code=69)


if __name__ == "__main__":
    unittest.main()
