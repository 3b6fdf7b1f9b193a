"""`convoy data` and `convoy schedule` as a user meets them: results, messages, exit codes, and that failures and
kills leave no file behind. What the commands compute is checked in tests/dataset and tests/parallel/schedule.
Usage: data_schedule_test.py CONVOY"""
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

CONVOY = sys.argv[1]


def convoy(*words, code=0):
    done = subprocess.run([CONVOY, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{words}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def test_schedule(folder):
    text = convoy("schedule", "show", "--schedule", "1f1b", "--ranks", 2, "--microbatches", 2)
    assert text.splitlines()[1] == "rank 0 | F0 F1 .  .  B0 == .  B1 == | peak 2 of 2", text
    svg = folder / "plan.svg"
    args = ["schedule", "show", "--schedule", "interleaved", "--ranks", 2, "--microbatches", 5, "--chunks", 2]
    convoy(*args, "--svg", svg)
    assert xml.parse(svg).getroot().tag.endswith("svg")
    plan = json.loads(convoy(*args, "--json"))
    compute = [a for rank in plan["steps"] for step in rank for a in step if a["kind"] in ("forward", "backward")]
    assert len(compute) == 2 * 5 * 2 * 2 and 0 < plan["bubble_fraction"] < 1
    assert "use gpipe, 1f1b or interleaved" in convoy("schedule", "show", "--schedule", "zb", "--ranks", 2,
                                                      "--microbatches", 2, code=64)
    assert "Did you mean --ranks?" in convoy("schedule", "show", "--rank", 2, code=64)
    convoy(*args, "--svg", folder / "none" / "plan.svg", code=66)
    convoy("schedule", code=64)


def test_data(folder):
    text = folder / "text"
    text.write_text("".join(f"line {i}\n" for i in range(5000)))
    out = json.loads(convoy("data", "prepare", text, "-o", folder / "out", "--split", "train=0.9,validation=0.1", "--json"))
    assert [f["part"] for f in out["files"]] == ["train", "validation"], out
    assert sum(f["tokens"] for f in out["files"]) == text.stat().st_size
    train = folder / "out.train.tokens"
    assert json.loads(convoy("data", "show", train, "--verify", "--json"))["verified"]
    assert "is not a token file" in convoy("data", "show", text, code=64)
    train.write_bytes(train.read_bytes()[:-1])
    assert "is truncated" in convoy("data", "show", train, code=65)
    before = sorted(folder.iterdir())
    assert "No such file" in convoy("data", "prepare", folder / "none", "-o", folder / "new", code=66)
    assert "adds up to" in convoy("data", "prepare", text, "-o", folder / "new", "--split", "train=0.5", code=64)
    assert sorted(folder.iterdir()) == before


def test_killed_preparation_leaves_nothing(folder):
    big = folder / "big"
    big.write_bytes(b"0123456789abcde\n" * (1 << 20) * 8)  # 128 MiB: some 100 ms of work
    before = sorted(folder.iterdir())
    process = subprocess.Popen([CONVOY, "data", "prepare", str(big), "-o", str(folder / "new")],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    # It has opened its output when /proc shows a deleted or hidden file of the folder.
    deadline = 2000
    while process.poll() is None and deadline and not opened(process.pid, folder, big):
        deadline -= 1
    process.send_signal(signal.SIGKILL)
    code = process.wait(30)
    process.communicate()
    left = [p for p in folder.iterdir() if p not in before]
    if code == -signal.SIGKILL:
        assert not left or [p.name for p in left] == ["new"], left  # the kill may come after the rename
    big.unlink()


def opened(pid, folder, other):
    try:
        links = [str(link.readlink()) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith(str(folder)) and link != str(other) for link in links)


for test in (test_schedule, test_data, test_killed_preparation_leaves_nothing):
    with tempfile.TemporaryDirectory() as folder:
        test(pathlib.Path(folder))
        print(f"{test.__name__}: ok")
