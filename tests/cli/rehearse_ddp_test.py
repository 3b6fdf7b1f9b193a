"""A plain DistributedDataParallel script in rehearsal: rehearse_ddp_test.py CONVOY

Method: examples/rehearse_ddp.py, which knows nothing of Convoy, runs on simulated GPUs and the stand-in for NCCL with several
numbers of ranks and seeds; its losses must be those of one rank. Then it makes each of its mistakes, and the summary must
name it; and the commands of docs/REHEARSAL.md run as they stand, with the exit codes that stand beside them. Not checked: NCCL's
semantics (tests/standin).
"""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

CONVOY = pathlib.Path(sys.argv[1]).resolve()
ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|CONVOY_|LD_PRELOAD|CUDA_VISIBLE_DEVICES)")
# No flight recorder: after a timeout torch would write dumps to /tmp, and wait for them.
QUICK = {"TORCH_FR_BUFFER_SIZE": "0", "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "100", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not VARIABLES.match(k)}, **QUICK, "OMP_NUM_THREADS": "1",
               "PATH": f"{CONVOY.parent}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(words, folder):
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL)


def rehearse(folder, ranks, *arguments, options=(), steps=6):
    """Returns the exit code, the rehearsal's event and the losses."""
    done = run(["convoy", "run", "-n", str(ranks), "--rehearse", "--json", "--output", "out", *options, "--", "python",
                str(ROOT / "examples/rehearse_ddp.py"), "--steps", str(steps), *arguments], folder)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events and events[-2]["event"] == "rehearsal", done.stderr
    losses = [float(x) for x in re.findall(r"loss ([0-9.]+)", done.stderr)]
    assert len(losses) == steps or done.returncode != 0, done.stderr
    return events[-1]["code"], events[-2], losses


def losses_are_those_of_one_rank(folder):
    code, event, alone = rehearse(folder, 1)
    assert code == 0 and not event["findings"], event
    for ranks, seed in ((2, 0), (2, 1), (4, 0), (4, 7)):
        code, event, losses = rehearse(folder, ranks, options=["--seed", str(seed)])
        assert code == 0 and not event["findings"], (ranks, seed, event)
        assert len(event["devices"]) == ranks, event
        assert all(abs(a - b) < 1e-4 for a, b in zip(alone, losses)), (ranks, seed, alone, losses)


def each_mistake_is_named(folder):
    for mistake, kind, words in (("wait", "unsynchronised use", "Record an event on stream"),
                                 ("host", "host access", "in allocation #"),
                                 ("order", "collective mismatch", "AllReduce of 1000 float32.*Broadcast of 1000 float32"),
                                 ("size", "collective mismatch", "AllReduce of 1000 float32.*AllReduce of 500 float32"),
                                 ("skip", "collective never met", "AllReduce of 1000 float32.*rank 1")):
        options = ["--env", "CONVOY_STANDIN_NOTICE_S=1"] if mistake == "skip" else []
        code, event, _ = rehearse(folder, 2, "--mistake", mistake, "--timeout", "5", options=options, steps=1)
        assert code == 76 if mistake == "wait" else code != 0, (mistake, code)
        texts = [f["text"] for f in event["findings"] if f["kind"] == kind]
        assert any(re.search(words, text) for text in texts), (mistake, event)
        others = {f["kind"] for f in event["findings"]} - {kind}
        assert not others, (mistake, event)


def commands_of_the_page_do_what_it_says(folder):
    page = (ROOT / "docs/REHEARSAL.md").read_text()
    pathlib.Path(folder, "examples").symlink_to(ROOT / "examples")
    commands = re.findall(r"^(convoy run .*?) +# (?:.*)exit code (\d+)", page, re.M)
    assert len(commands) >= 3, page
    for command, code in commands:
        done = run(shlex.split(command), folder)
        assert done.returncode == int(code), f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


for check in (losses_are_those_of_one_rank, each_mistake_is_named, commands_of_the_page_do_what_it_says):
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        check(folder)
    print("ok:", check.__name__.replace("_", " "), flush=True)
