#!/usr/bin/env python3
"""rehearse.start: seconds until ranks have started, computed something small and ended; on simulated GPUs, and on the CPU.

  rehearse.py [--build build/release] [--ranks 1,4] [--runs 7]

Both in turn, medians. The value is what a rehearsal takes longer (target: at most 2 s); the peer is the run on the CPU.
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


def seconds(convoy: str, ranks: int, rehearse: bool, folder: str) -> float:
    options = ["--rehearse"] if rehearse else []
    program = PROGRAM.format(device="cuda" if rehearse else "cpu")
    begin = time.monotonic()
    subprocess.run([convoy, "run", "-n", str(ranks), "--threads", "1", "--output", folder, *options, "--", sys.executable, "-c", program],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
