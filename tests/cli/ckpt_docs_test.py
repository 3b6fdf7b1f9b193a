"""The sessions in docs/checkpoints.md are real: ckpt_docs_test.py CONVOY MAKE_CHECKPOINT PAGE [--write]

Method: run every line behind "$ " of the page's ```console blocks in one empty folder with a folder of the example's job,
and compare what comes out with what stands there. A line "(exit code 65)" at the end of an output is the code; without it 0.
"""
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

convoy, make, page = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.M | re.S)


def run(session, folder):
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.M):
        env = {**os.environ, "PATH": f"{os.path.dirname(os.path.abspath(convoy))}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        shown += f"$ {command}\n{done.stdout}" + (f"(exit code {done.returncode})\n" if done.returncode else "")
    return shown


with tempfile.TemporaryDirectory() as folder:
    checkpoints = pathlib.Path(folder, "runs/a/checkpoints")
    # A job of 4 ranks that saves incrementally; its first layer changes every 1000 steps only.
    subprocess.run([make, str(checkpoints), "job=pretrain", "incremental=1", "freeze=1000", "600", "800", "1000", "1200"],
                   check=True, timeout=60)
    old = page.read_text()
    new = BLOCK.sub(lambda block: run(block.group(0), folder), old)
if "--write" in sys.argv:
    page.write_text(new)
elif new != old:
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "stands there", "comes out"))
    sys.exit(f"{page} is out of date. Mend it with: python3 tests/cli/ckpt_docs_test.py {convoy} {make} {page} --write")
