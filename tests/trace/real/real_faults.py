#!/usr/bin/env python3
"""The tracer's verdicts on real runs in which something is made to go wrong.

  real_faults.py --convoy build/release/src/cli/convoy [--part NAME] [--fault NAME]… [--layout NAME] [--seed N] [--runs N] [--json] [--keep FOLDER]

Method: eight ranks train for real, with real collectives over the backend `convoy`, under `convoy trace serve` and `collect`; at a random
step a fault is caused in a random rank (faults.py). A run is named when a verdict has the class and exactly the culprit before the fault's
deadline, and right when that is the surest one, too; a healthy run is right when nothing is told. What else is told counts as `extra`.

With --runs: so many of each fault, and a line with a 95 % interval (Wilson) for each. Without: the test, every fault once. It proves that the
fault has really happened and is named, and that nothing is ever called stuck, dead or wrong that is not.
"""
import argparse
import json
import math
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import faults  # noqa: E402
from session import Ranks, Tracer  # noqa: E402

START_S = 60  # until the first steps
SETTLE_S = 1.5  # a right verdict has to stand for so long
HEALTHY_STEPS = 80
CONTROLS = {"healthy": {}, "jitter": {"jitter": 0.15}, "warm_up": {"warm_up": 10}, "saving": {"save_every": 15}}
READERS = ("loader", "frozen_loader")
# What the test runs, each once: fault, layout.
PARTS = {"healthy": [("healthy", "tp2pp2dp2"), ("warm_up", "dp8"), ("jitter", "hosts2"), ("saving", "dp8")],
         "stuck": [("stopped", "dp8"), ("killed", "tp2pp2dp2"), ("raises", "dp8"), ("frozen_disk", "tp2pp2dp2"), ("frozen_loader", "dp8"),
                   ("wrong_size", "hosts2"), ("skipped", "tp2pp2dp2"), ("swapped", "tp2pp2dp2")],
         "slow": [("hog", "dp8"), ("slower", "tp2pp2dp2"), ("loader", "dp8"), ("paced", "hosts2"), ("slow_save", "dp8")]}


def stretch() -> float:
    """How much longer things take on this machine now: runnable processes for each core."""
    return max(1.0, min(4.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def is_grave(verdict: dict) -> bool:
    """Says that training does not go on."""
    return verdict["cost"] >= 1


def is_right(verdict: dict, fault) -> bool:
    if verdict["class"] not in fault.classes:
        return False
    return all(sorted(verdict["culprit"][kind]) == sorted(who) for kind, who in fault.truth().items())


class Run:
    def __init__(self, name: str, layout: str, seed: int, convoy: str, keep: str) -> None:
        self.name, self.layout, self.seed, self.keep = name, layout, seed, keep
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="convoy-real-"))
        chance = random.Random(f"{name} {layout} {seed}")
        kind = faults.ALL.get(name, faults.Fault)
        self.is_control = kind is faults.Fault
        # Of two pipeline stages only the first reads samples.
        ranks = 4 if layout == "tp2pp2dp2" and name in READERS else 8
        self.fault = kind(chance.randrange(ranks), chance.randint(20, 32), self.folder, chance)
        self.options = argparse.Namespace(**{"layout": layout, "seed": seed, "folder": str(self.folder), "jitter": 0.02, "warm_up": 2,
                                             "save_every": 10 if name in ("slow_save", "frozen_disk") else 10**9,
                                             "steps": HEALTHY_STEPS if self.is_control else 10**6, **CONTROLS.get(name, {})})
        self.tracer = Tracer(convoy, layout, self.folder)
        self.ranks = Ranks(self.fault, self.options, self.folder)

    def result(self) -> dict:
        try:
            self.tracer.collect(self.ranks.pids)
            self.ranks.go()
            right_at = self.healthy() if self.is_control else self.until_told()
            verdicts = self.tracer.verdicts()
            self.ranks.look()
            return self.judge(verdicts, right_at)
        finally:
            self.fault.end()
            self.ranks.end()
            self.tracer.end()
            self.store()

    def wait_until(self, done, limit_s: float, what: str) -> None:
        end = time.monotonic() + limit_s * stretch()
        while not done():
            self.ranks.look()
            self.tracer.look(0.02)
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: {what} has not come; {self.folder}, exit codes {self.ranks.codes}")

    def healthy(self) -> float:
        self.wait_until(lambda: len(self.ranks.codes) == 8, START_S + HEALTHY_STEPS, "the end")
        if any(self.ranks.codes.values()):
            raise RuntimeError(f"{self.name}: ranks have failed, {self.ranks.codes}")
        return 0.0

    def until_told(self) -> float:
        """When the verdict was there; 0: never."""
        self.wait_until(lambda: self.ranks.step() >= self.fault.step - 1, START_S, f"step {self.fault.step}")
        self.fault.act(self.ranks.pids)
        self.wait_until(self.fault.onset, START_S, "the fault")
        end = self.fault.onset() + self.fault.patience_s * stretch()
        right_at = 0.0
        while time.time() < min(end, right_at + SETTLE_S if right_at else end):
            self.ranks.look()
            self.tracer.look(0.2)
            self.tracer.learn()
            right_at = next((v["at"] for v in self.tracer.seen if is_right(v, self.fault)), 0.0)
        return right_at

    def judge(self, verdicts: list[dict], right_at: float) -> dict:
        told = [{"class": v["class"], "culprit": {k: x for k, x in v["culprit"].items() if x and k in ("ranks", "hosts", "links", "stage")},
                 "confidence": round(v["confidence"], 2), "cost": v["cost"], "summary": v["summary"]} for v in verdicts]
        result = {"fault": self.name, "layout": self.layout, "seed": self.seed, "step": self.ranks.step(), "told": told}
        if self.is_control:
            return {**result, "proof": "nothing is wrong", "right": not told, "named": not told, "extra": len(told),
                    "passed": not any(map(is_grave, verdicts))}
        named = any(is_right(v, self.fault) for v in verdicts)
        wrong = [v for v in verdicts if is_grave(v) and not is_right(v, self.fault)]
        return {**result, "truth": {"classes": self.fault.classes, **self.fault.truth()}, "proof": self.fault.proof(self.ranks),
                "right": named and is_right(verdicts[0], self.fault), "named": named, "extra": len(told) - named,
                "passed": named and not wrong, "seconds": round(right_at - self.fault.onset(), 2) if right_at else None}

    def store(self) -> None:
        if self.keep:
            target = pathlib.Path(self.keep)
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / "run.cvts", target / f"{self.name}-{self.layout}-{self.seed}.cvts")
        shutil.rmtree(self.folder)


def wilson(hits: int, of: int) -> tuple[float, float]:
    z, p = 1.959964, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return max(0, (middle - half) / (1 + z * z / of)), min(1, (middle + half) / (1 + z * z / of))


def row(name: str, results: list[dict]) -> dict:
    """A line for tests/bench/run.py."""
    right, of = sum(r["right"] for r in results), len(results)
    low, high = wilson(right, of)
    seconds = sorted(r["seconds"] for r in results if r.get("seconds") is not None)
    return {"bench": "trace.real_faults", "case": name, "metric": "right", "value": round(100 * right / of, 1), "unit": "%",
            "low": round(100 * low, 1), "high": round(100 * high, 1), "runs": of, "named": sum(r["named"] for r in results),
            "extra": sum(r["extra"] for r in results), "median_s": seconds[len(seconds) // 2] if seconds else None}


def one(name: str, layout: str, seed: int, args: argparse.Namespace) -> dict:
    result = Run(name, layout, seed, args.convoy, args.keep).result()
    if not result["proof"]:
        raise RuntimeError(f"{name}, {layout}, seed {seed}: the fault has not happened")
    if args.json:
        print(json.dumps(result), flush=True)
        return result
    text = "right" if result["right"] else "named" if result["named"] else "WRONG"
    print(f"{text}: {name}, {layout}, seed {seed} ({result['proof']}): {result.get('seconds')} s, {result['extra']} extra", file=sys.stderr)
    for v in result["told"] if result["extra"] or not result["right"] else []:
        print(f"    {v['class']} {v['culprit']} {v['confidence']}: {v['summary']}", file=sys.stderr)
    if not result["named"] and "truth" in result:
        print(f"    truth: {result['truth']}", file=sys.stderr, flush=True)
    return result


def main() -> int:
    names = [*faults.ALL, *(c for c in CONTROLS if c != "healthy")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--convoy", required=True, help="the program")
    parser.add_argument("--fault", action="append", choices=names, help="default: each")
    parser.add_argument("--part", choices=PARTS, help="of the test")
    parser.add_argument("--layout", choices=("dp8", "tp2pp2dp2", "hosts2"), help="default: each that the fault can be caused in, in turn")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--runs", type=int, default=0, help="of each fault, and a table")
    parser.add_argument("--json", action="store_true", help="a line for each run")
    parser.add_argument("--keep", default="", help="a folder for the recorded streams")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it has started
    if not args.runs:
        parts = [args.part] if args.part else list(PARTS)
        cases = [(n, args.layout or at) for p in parts for n, at in PARTS[p] if not args.fault or n in args.fault]
        return 0 if all([one(n, at, args.seed, args)["passed"] for n, at in cases]) else 1
    rows = []
    for name in args.fault or names:
        layouts = [args.layout] if args.layout else faults.ALL.get(name, faults.Fault).layouts
        results = [one(name, layouts[i % len(layouts)], args.seed + i, args) for i in range(args.runs)]
        rows += results
        print(json.dumps(row(name, results)), flush=True)
    print(json.dumps(row("all", rows)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
