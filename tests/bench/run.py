#!/usr/bin/env python3
"""Runs the benchmarks whose name begins with PREFIX and prints their JSON lines, then a table.

  run.py [PREFIX] --build build/release [--list] [--quick]

Every line is also appended to BUILD/bench/results.jsonl with the date, so that runs can be compared. The table on stderr
shows a ratio above 1 where Convoy is better than the peer.
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# name of a group of benchmarks -> (command, extra arguments for --quick); {build} is the build folder
BENCHES = {
    "comm.tcp": ([sys.executable, HERE / "comm_tcp.py", "--build", "{build}"], ["--sizes", "4KiB,1MiB", "--runs", "3"]),
    "comm": ([sys.executable, HERE / "comm.py"], ["--ranks", "2", "--sizes", "64,1MiB", "--runs", "3"]),
    "train": ([sys.executable, HERE / "train.py", "--build", "{build}"], ["--sizes", "small", "--runs", "1"]),
    "ckpt": (["{build}/tests/bench/ckpt_io", "--folder", "{build}/bench"], ["--mib", "64"]),
    "ckpt.save": ([sys.executable, HERE / "ckpt_save.py", "--build", "{build}"], ["--width", "128", "--runs", "2"]),
    "ckpt.load": (["{build}/tests/bench/ckpt_load", "--folder", "{build}/bench"], ["--mib", "64", "--runs", "3"]),
    "ckpt.remote": ([sys.executable, HERE / "ckpt_remote.py", "--build", "{build}"], ["--mib", "32", "--runs", "2"]),
    "trace.aggregator": (["{build}/tests/bench/trace_aggregator"], ["50", "4"]),
    "trace.record": (["{build}/tests/bench/trace_record"], []),
    "trace.hook": (["{build}/tests/bench/trace_hook"], []),
    "trace.step": ([sys.executable, HERE / "trace_step.py", "--convoy", "{build}/src/cli/convoy"], ["--ranks", "2", "--pairs", "20"]),
    "trace.nccl": (["{build}/tests/bench/trace_nccl"], []),
    "trace.accuracy": (["{build}/tests/sim/diagnoser_accuracy", "--bench"], ["--runs", "1", "--max-ranks", "128"]),
    "trace.real_faults": ([sys.executable, HERE.parent / "trace" / "real" / "real_faults.py", "--convoy", "{build}/src/cli/convoy", "--runs", "5"],
                          ["--runs", "1"]),
    "trace.export": (["{build}/tests/bench/trace_export", "{build}/bench"], ["20"]),
    "rehearse": ([sys.executable, HERE / "rehearse.py", "--build", "{build}"], ["--ranks", "1", "--runs", "3"]),
    "recover": ([sys.executable, HERE / "recover.py", "--build", "{build}"],
                ["--ranks", "4", "--kills", "1", "--rounds", "1", "--steps", "3", "--only", "kill,half,steady"]),
    "ckpt.records": (["{build}/tests/bench/ckpt_records"], ["10", "0.1"]),
    "ckpt.coordinator": (["{build}/tests/bench/ckpt_coordinator", "{build}/bench/coordinator"], ["100", "8", "2"]),
    "ckpt.replica": (["{build}/tests/bench/ckpt_replica"], ["16", "3"]),
    "build": ([sys.executable, HERE / "build.py"], ["--incremental-only"]),
}


def wanted(name: str, prefix: str) -> bool:
    """Whether the group `name` can print a line whose bench begins with `prefix`."""
    if name == "comm" and prefix.startswith("comm.tcp"):
        return False
    elsewhere = ("ckpt.load", "ckpt.records", "ckpt.remote", "ckpt.save", "ckpt.coordinator", "ckpt.replica")
    if name == "ckpt" and prefix.startswith(elsewhere):
        return False
    return name.startswith(prefix) or prefix.startswith(name)


def table(results: list[dict]) -> str:
    lines = [f"{'benchmark':24} {'case':24} {'value':>12} {'peer':>12} {'ratio':>7} {'of limit':>9}"]
    for r in results:
        share = r.get("share_of_limit")
        peer = f"{r['peer_value']:.4g}" if "peer_value" in r else "-"
        lines.append(f"{r['bench']:24} {r['case']:24} {r['value']:12.4g} {peer:>12} {r.get('ratio', float('nan')):7.2f} "
                     f"{f'{share:.0%}' if share is not None else '-':>9}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", default="")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--quick", action="store_true", help="few cases: proves that the benchmarks run")
    args = parser.parse_args()
    chosen = {n: c for n, c in BENCHES.items() if wanted(n, args.prefix)}
    if args.list or not chosen:
        print("\n".join(BENCHES))
        return 0 if args.list else 2
    log = pathlib.Path(args.build) / "bench" / "results.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    results, failed = [], []
    for name, (command, quick) in chosen.items():
        words = [str(w).format(build=args.build) for w in command] + (quick if args.quick else [])
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process, log.open("a") as out:
            for line in process.stdout:
                if not line.startswith("{"):
                    print(line, end="", file=sys.stderr)
                    continue
                result = json.loads(line)
                if not result["bench"].startswith(args.prefix):
                    continue
                print(line, end="", flush=True)
                results.append(result)
                out.write(json.dumps(result | {"date": datetime.datetime.now().isoformat(timespec="seconds")}) + "\n")
        if process.returncode:
            failed.append(name)
    print(table(results), file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
