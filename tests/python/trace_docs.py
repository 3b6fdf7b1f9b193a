#!/usr/bin/env python3
"""The script in docs/trace.md is real: trace_docs.py

Method: runs the page's ```python block under torchrun on two ranks; a line behind it prints what was recorded.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

BEHIND = """
import collections, json, time
deadline = time.monotonic() + 20
while True:
    records = convoy.trace.records()
    issued = [r for r in records if r["kind"] == "issued"]
    done = [r for r in records if r["kind"] == "completed"]
    if len(done) == len(issued) or time.monotonic() > deadline:
        break
    time.sleep(0.05)
line = json.dumps({"spans": collections.Counter(r["name"] for r in records if r["kind"] == "end"), "issued": len(issued), "done": len(done),
                   "reduced": sum(r["name"] == "all_reduce/float32/sum" for r in issued)})
print(line + "\\n", end="", flush=True)  # in one write: both ranks have the same pipe
dist.destroy_process_group()
"""

page = pathlib.Path(__file__).resolve().parents[2] / "docs/trace.md"
blocks = re.findall(r"(?<=^```python\n)(.*?)(?=^```$)", page.read_text(), re.M | re.S)
assert len(blocks) == 1, blocks
with tempfile.TemporaryDirectory() as folder:
    script = pathlib.Path(folder) / "train.py"
    script.write_text(blocks[0] + BEHIND)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
                          capture_output=True, text=True, timeout=200)
lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
assert done.returncode == 0 and len(lines) == 2, done.stdout + done.stderr
for line in lines:
    spans = line["spans"]
    assert spans["forward"] == spans["backward"] == spans["optimizer"] == spans["step"] == 10, line
    assert spans["data"] == 11, line
    assert line["issued"] == line["done"] >= 10 and line["reduced"] >= 10, line
print("docs/trace.md: ok")
