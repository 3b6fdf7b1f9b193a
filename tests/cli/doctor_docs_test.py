"""docs/doctor.md says what `convoy doctor` does: doctor_docs_test.py CONVOY PAGE [--write]

Method: run every line behind "$ " of the page's ```console blocks in a folder with made-up reports of four nodes, and compare
what comes out with what stands there. Then run all checks, with a peer, and compare their names with the page's table. Does
not check the limits in the table, nor names of checks that only nodes with GPUs have.
"""
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

convoy, page = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.M | re.S)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "."  # disks may be busy with other tests
NEEDS_GPU = {"gpu.device", "gpu.memory_errors", "gpu.throttling", "gpu.memory_used"}
NODES = {"node1": (100e9, 0.009), "node2": (99e9, 0.0016), "node3": (45e9, 0.0014), "node4": (101e9, 0.0015)}


def write_report(folder, node, bandwidth, fsync):
    checks = [{"name": name, "verdict": "ok", "value": value, "unit": unit, "better": better, "found": "", "expected": ""}
              for name, value, unit, better in (("memory.copy_all_cores", bandwidth, "B/s", "higher"), ("disk.fsync", fsync, "s", "lower"))]
    report = {"version": 1, "node": node, "verdict": "ok", "quick": False, "seconds": 4.5, "checks": checks}
    pathlib.Path(folder, node + ".json").write_text(json.dumps(report))


def run(session, folder):
    shown = ""
    env = {**os.environ, "PATH": f"{os.path.dirname(convoy)}:{os.environ['PATH']}"}
    for command in re.findall(r"^\$ (.*)$", session, re.M):
        done = subprocess.run(command.split(), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=60)
        shown += f"$ {command}\n{done.stdout}" + (f"(exit code {done.returncode})\n" if done.returncode else "")
    return shown


def names_that_come_out(folder):
    with subprocess.Popen([convoy, "doctor", "--listen", "0"], stdout=subprocess.PIPE, text=True) as listening:
        port = listening.stdout.readline().split()[-1]
        done = subprocess.run([convoy, "doctor", "--json", "--disk", MEMORY, "--peer", f"127.0.0.1:{port}"], cwd=folder, text=True,
                              stdout=subprocess.PIPE, timeout=60)
        listening.terminate()
    return {check["name"] for check in json.loads(done.stdout)["checks"]}


with tempfile.TemporaryDirectory() as folder:
    for node, values in NODES.items():
        write_report(folder, node, *values)
    old = page.read_text()
    new = BLOCK.sub(lambda block: run(block.group(0), folder), old)
    found = names_that_come_out(folder)
if "--write" in sys.argv:
    page.write_text(new)
elif new != old:
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "stands there", "comes out"))
    sys.exit(f"{page} is out of date. Mend it with: python3 tests/cli/doctor_docs_test.py {convoy} {page} --write")
rows = re.findall(r"^\| (`[a-z_]+\.[^|]*) \|", new, re.M)
documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
if found - documented or documented - found - NEEDS_GPU:
    sys.exit(f"not in {page}: {sorted(found - documented)}; not a check: {sorted(documented - found - NEEDS_GPU)}")
