#!/usr/bin/env python3
"""train.*: training steps through Convoy beside PyTorch's own parallelism on Gloo, run by run in turn.

  train.py --build build/release [--modes dp4,tp4,pp4,tp2pp2dp2,overhead] [--sizes small,medium] [--runs 5] [--steps 8]

The same model, initial weights, data and optimizer on both sides, float32, one thread a rank; the losses of the last step must agree,
else the benchmark fails. `value` and `peer_value` are tokens/s, medians over the runs of the median step. `limit` is the peer's one-process rate with all cores in
the same run, so `share_of_limit` is the share of it that Convoy keeps. train.overhead: one rank through the runtime beside a plain
libtorch loop.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PEER = HERE / "peers" / "torch_parallel.py"
# mode -> (ranks, mesh, micro-batches of a data-parallel rank)
MODES = {"dp4": (4, "dp=4", 1), "tp4": (4, "tp=4", 1), "pp4": (4, "pp=4", 8), "tp2pp2dp2": (8, "tp=2,pp=2,dp=2", 4)}
LOSS_TOLERANCE = 2e-4
EXPORT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import torch_parallel as peer
out, m = sys.argv[3], peer.make(peer.SIZES[sys.argv[2]])
def put(name, *tensors): torch.cat([t.detach() for t in tensors]).contiguous().numpy().tofile(f"{out}/{name}.f32")
put("embedding", m.embed.weight); put("norm", m.norm.weight); put("head", m.head.weight)
for i, l in m.layers.items():
    p = f"layers.{i}."
    put(p + "attn.norm", l.n1.weight); put(p + "ffn.norm", l.n2.weight)
    put(p + "attn.qkv", l.attn.wq.weight, l.attn.wk.weight, l.attn.wv.weight); put(p + "attn.out", l.attn.wo.weight)
    put(p + "ffn.gate_up", l.mlp.w1.weight, l.mlp.w3.weight); put(p + "ffn.down", l.mlp.w2.weight)
"""


def run_json(command: list, **env) -> dict:
    done = subprocess.run([str(c) for c in command], env=dict(os.environ, **env), capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{") and "tokens_per_s" in line]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1])


class Bench:
    def __init__(self, args):
        self.args, self.build = args, pathlib.Path(args.build).resolve()
        self.weights = tempfile.TemporaryDirectory(prefix="convoy-weights-")

    def weights_of(self, size: str) -> str:
        folder = pathlib.Path(self.weights.name) / size
        if not folder.exists():
            folder.mkdir()
            subprocess.run([sys.executable, "-c", EXPORT, str(PEER.parent), size, str(folder)], check=True)
        return str(folder)

    def ours(self, mode: str, size: str) -> dict:
        ranks, mesh, microbatches = MODES[mode]
        with tempfile.TemporaryDirectory(prefix="convoy-bench-") as folder:
            return run_json([self.build / "src/cli/convoy", "run", "-n", ranks, "--mesh", mesh, "--threads", "1", "--no-prefix", "--output", folder, "--",
                             self.build / "tests/bench/train_bench", size, self.args.steps, microbatches, self.weights_of(size)])

    def peer(self, mode: str, size: str) -> dict:
        return run_json([sys.executable, PEER, mode, size, self.args.steps])

    def compare(self, bench: str, case: str, ours, peer, limit=None) -> None:
        values, peers, limits = [], [], []
        for _ in range(self.args.runs):
            a, b = ours(), peer()
            if abs(a["loss"] - b["loss"]) > LOSS_TOLERANCE:
                sys.exit(f"{bench} {case}: the losses differ: {a['loss']} against the peer's {b['loss']}")
            values.append(a["tokens_per_s"])
            peers.append(b["tokens_per_s"])
            if limit:
                limits.append(limit()["tokens_per_s"])
        value, peer_value = statistics.median(values), statistics.median(peers)
        line = {"bench": bench, "case": case, "metric": "throughput", "value": value, "unit": "tokens/s",
                "peer": "torch on gloo" if limit else "libtorch loop", "peer_value": peer_value, "ratio": round(value / peer_value, 3)}
        if limits:
            one = statistics.median(limits)
            line |= {"limit": one, "limit_name": "torch, one process", "share_of_limit": round(value / one, 3)}
        print(json.dumps(line), flush=True)

    def overhead(self, size: str) -> None:
        steps, weights = self.args.steps, self.weights_of(size)
        self.compare("train.overhead", size,
                     lambda: run_json([self.build / "tests/bench/train_bench", size, steps, 1, weights]),
                     lambda: run_json([self.build / "tests/bench/libtorch_loop", size, steps, weights]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--modes", default="dp4,tp4,pp4,tp2pp2dp2,overhead")
    parser.add_argument("--sizes", default="small,medium")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    bench = Bench(args)
    for mode in args.modes.split(","):
        for size in args.sizes.split(","):
            if mode == "overhead":
                bench.overhead(size)
            else:
                bench.compare(f"train.{mode}", size, lambda: bench.ours(mode, size), lambda: bench.peer(mode, size),
                              lambda: bench.peer("one", size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
