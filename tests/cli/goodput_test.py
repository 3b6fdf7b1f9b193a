"""`convoy goodput` as a user meets it: results, messages, exit codes. What it computes is checked in tests/resilience.
Usage: goodput_test.py CONVOY"""
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

CONVOY = sys.argv[1]
SMALL = ("goodput", "--ranks", 64, "--mesh", "tp=8,dp=*", "--spares", 2, "--days", 10)


def convoy(*words, code=0):
    done = subprocess.run([CONVOY, *map(str, words)], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, f"{words}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def test_results(folder):
    text = convoy("goodput", "--seeds", 1)
    assert text.startswith("16384 ranks, mesh ") and "\neffective time 9" in text, text
    result = json.loads(convoy(*SMALL, "--json"))
    assert abs(sum(result["share"].values()) - 1) < 1e-9 and result["effective"] == result["share"]["training"], result
    svg = folder / "goodput.svg"
    varied = json.loads(convoy(*SMALL, "--seeds", 1, "--vary", "--svg", svg, "--json"))["varied"]
    assert xml.parse(svg).getroot().tag.endswith("svg") and "groups_s x 10" in {row["what"] for row in varied}
    assert json.loads(convoy(*SMALL, "--json", "--set", "groups_s=7,state_s=2"))["constants"]["groups_s"] == 7


def test_files(folder):
    mix, costs = folder / "mix.json", folder / "costs.json"
    mix.write_text('{"name": "ours", "ranks": 64, "days": 1, "causes": [{"name": "GPU", "count": 4, "kind": "exit", "seen": "end"}]}')
    costs.write_text('{"groups_s": 100}')
    result = json.loads(convoy(*SMALL, "--mix", mix, "--costs", costs, "--json"))
    assert result["mix"] == "ours" and result["share"]["groups"] > 0.002, result
    costs.write_text('{"group_s": 100}')
    assert "costs.json: there is no constant 'group_s'; did you mean groups_s?" in convoy(*SMALL, "--costs", costs, code=64)
    mix.write_text("[]")
    assert "mix.json: no failure mix" in convoy(*SMALL, "--mix", mix, code=64)
    assert "there is no file" in convoy(*SMALL, "--mix", folder / "none.json", code=66)


def test_mistakes(folder):
    assert "measured, gpu, or a file" in convoy(*SMALL, "--costs", "guessed", code=64)
    assert "--set takes name=number" in convoy(*SMALL, "--set", "groups_s", code=64)
    assert "can't hold whole blocks of 16" in convoy("goodput", "--ranks", 64, "--mesh", "tp=16,dp=*", code=64)
    convoy("goodput", "--ranks", 63, code=64)
    convoy("goodput", "--days", 0, code=64)


with tempfile.TemporaryDirectory() as name:
    for test in (test_results, test_files, test_mistakes):
        test(pathlib.Path(name))
