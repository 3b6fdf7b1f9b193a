#!/usr/bin/env python3
"""What a rehearsal costs, against the same on the CPU, in turn, medians. rehearse.py [--build build/release] [--ranks 1,4] [--runs 7]

rehearse.start: seconds until ranks have started, computed something small and ended. The value is what a rehearsal takes
longer (target: at most 2 s); the peer is the run on the CPU.
rehearse.train: tokens/s of the demo's model on simulated GPUs, alone and on 8 ranks; the peer is the CPU (target: half of it).
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAM = "import torch; torch.ones(1000, device='{device}').mul(2).sum().item()"
TARGET_S = 2.0
TARGET_SHARE = 0.5


def seconds(convoy: str, ranks: int, rehearse: bool, folder: str) -> float:
    options = ["--rehearse"] if rehearse else []
    program = PROGRAM.format(device="cuda" if rehearse else "cpu")
    begin = time.monotonic()
    subprocess.run([convoy, "run", "-n", str(ranks), "--threads", "1", "--output", folder, *options, "--", sys.executable, "-c", program],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin


def tokens_per_s(build: pathlib.Path, mesh: str, ranks: int, rehearse: bool, folder: str) -> float:
    options, device = (["--rehearse"], "cuda") if rehearse else ([], "cpu")
    words = [build / "src/cli/convoy", "run", "-n", str(ranks), "--mesh", mesh, "--threads", "1", "--no-prefix", "--output", folder, *options,
             "--", build / "examples/train_llama", "--config", "demo", "--data", f"{folder}/text.tokens", "--steps", "12", "--json",
             "--no-baseline", "--sample", "0", "--device", device]
    done = subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"mesh"')))["tokens_per_s"]


def train(build: pathlib.Path, runs: int, folder: str) -> None:
    text = pathlib.Path(folder, "text.txt")
    text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(20_000)))
    subprocess.run([build / "src/cli/convoy", "data", "prepare", text, "-o", f"{folder}/text.tokens"], check=True, stdout=subprocess.DEVNULL)
    for ranks, mesh in ((1, "dp=1"), (8, "tp=2,pp=2,dp=2")):
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(runs):
            for rehearse, measured in rates.items():
                measured.append(tokens_per_s(build, mesh, ranks, rehearse, folder))
        cpu, rehearsed = (statistics.median(rates[r]) for r in (False, True))
        print(json.dumps({"bench": "rehearse.train", "case": mesh, "metric": "tokens_per_s", "value": round(rehearsed, 1), "unit": "1/s",
                          "peer": "CPU", "peer_value": round(cpu, 1), "ratio": round(rehearsed / cpu, 3), "limit": TARGET_SHARE,
                          "limit_name": "target of the ratio"}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--ranks", default="1,4")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    convoy = str(pathlib.Path(args.build, "src/cli/convoy").resolve())
    with tempfile.TemporaryDirectory(prefix="convoy-bench-") as folder:
        for ranks in (int(n) for n in args.ranks.split(",")):
            times: dict[bool, list[float]] = {False: [], True: []}
            for rehearse in (False, True):  # files into the page cache
                seconds(convoy, ranks, rehearse, folder)
            for _ in range(args.runs):
                for rehearse, taken in times.items():
                    taken.append(seconds(convoy, ranks, rehearse, folder))
            plain, rehearsed = (statistics.median(times[r]) for r in (False, True))
            print(json.dumps({"bench": "rehearse.start", "case": f"{ranks} ranks", "metric": "time_s", "value": round(rehearsed - plain, 3),
                              "unit": "s", "rehearsed_s": round(rehearsed, 3), "peer": "CPU", "peer_value": round(plain, 3),
                              "limit": TARGET_S, "limit_name": "target", "spread_s": [round(min(times[True]), 3), round(max(times[True]), 3)]}),
                  flush=True)
        train(pathlib.Path(args.build).resolve(), args.runs, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
