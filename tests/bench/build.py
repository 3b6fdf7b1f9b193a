#!/usr/bin/env python3
"""build.cold and build.incremental: seconds of a build from nothing (no ccache) and after touching one .cc.

  build.py [--incremental-only] [--jobs 2]

The limits are targets of the project (8 minutes cold, 30 s incremental on 2 cores), not peers.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def seconds(command: list[str], env: dict) -> float:
    begin = time.monotonic()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def report(case: str, value: float, target: float) -> None:
    print(json.dumps({"bench": f"build.{case}", "case": "2 jobs", "metric": "time_s", "value": round(value, 1), "unit": "s",
                      "limit": target, "limit_name": "target"}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--incremental-only", action="store_true", help="use build/release as it is")
    parser.add_argument("--jobs", default="2")
    args = parser.parse_args()
    env = dict(os.environ, CCACHE_DISABLE="1")
    folder = ROOT / "build/release" if args.incremental_only else pathlib.Path(tempfile.mkdtemp(prefix="convoy-build-"))
    build = ["cmake", "--build", str(folder), "-j", args.jobs]
    try:
        if not args.incremental_only:
            subprocess.run(["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"], check=True, stdout=subprocess.DEVNULL)
            report("cold", seconds(build, env), 480)
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (ROOT / "src/comm/group.cc").touch()
        report("incremental", seconds(build, env), 30)
    finally:
        if not args.incremental_only:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
