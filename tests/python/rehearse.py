#!/usr/bin/env python3
"""Runs a test on the stand-in for CUDA and NCCL: rehearse.py FOLDER [--expect-findings] PROGRAM [ARGUMENT …]

As `convoy run --rehearse` does for a rank, but for a program that starts its ranks itself: the stand-in's libraries, which lie
in FOLDER, are preloaded into the program, which has 8 simulated GPUs. Ends with the program's exit code; with 76 if
that is 0, but the reports of its processes hold findings, or none of them used a GPU. With --expect-findings the program
judges them itself; it finds the reports' folder in CONVOY_STANDIN_REPORT.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

LIBRARIES = ("libnccl.so.2", "libcudart.so.13", "libcuda.so.1", "libcupti.so.13")
GPUS = 8
FINDINGS = 76


def environment(standin: pathlib.Path, reports: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("CONVOY_STANDIN_") and k != "CUDA_VISIBLE_DEVICES"}
    before = [env["LD_PRELOAD"]] if env.get("LD_PRELOAD") else []
    env["LD_PRELOAD"] = ":".join(before + [str(standin / name) for name in LIBRARIES if (standin / name).exists()])
    return {"CONVOY_STANDIN_GPU_MEMORY": str(2 << 30), **env, "CONVOY_STANDIN_GPUS": str(GPUS), "CONVOY_STANDIN_REPORT": reports,
            "CONVOY_STANDIN_SEED": os.environ.get("CONVOY_STANDIN_SEED", "0")}


def findings(report: pathlib.Path) -> list[tuple[str, str]]:
    """Kind and text of all that the report's process has found so far."""
    return [(f["kind"], f["text"]) for f in json.loads(report.read_text())["findings"]]


def main() -> int:
    standin, words = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    expected = words[0] == "--expect-findings"
    program = words[1:] if expected else words
    if program[0].endswith(".py"):
        program = [sys.executable, *program]
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        code = subprocess.run(program, env=environment(standin, folder)).returncode
        reports = sorted(pathlib.Path(folder).glob("*.json"))
        found = [] if expected else [finding for report in reports for finding in findings(report)]
        used = len(reports)
    if code != 0:
        return code if code > 0 else 128 - code
    for kind, text in found:
        print(f"finding: {kind}: {text}", file=sys.stderr)
    if used == 0:
        print("finding: no process used a GPU", file=sys.stderr)
    return FINDINGS if found or used == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
