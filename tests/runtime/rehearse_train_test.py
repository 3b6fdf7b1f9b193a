#!/usr/bin/env python3
"""train_llama on simulated GPUs: rehearse_train_test.py CONVOY TRAIN_LLAMA [--hardware]

Method: the same few steps on the CPU and, in rehearsal, on `cuda`, over meshes and options that take all of the parallel code
through NCCL: losses, gradient norm and validation loss must agree, in float64 to 1e-10 (the GPU path uses other formulas for
norms, attention, loss and AdamW, so not bit for bit), and the rehearsal must find nothing, with several seeds. Then what users
get wrong: no GPU, fewer GPUs than ranks, a device that there is not. The layers' correctness over all meshes is the truth
sweep's business. With --hardware the same on real GPUs and real NCCL, ranks sharing a GPU where there are fewer (make gpu-check).
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

CONVOY, TRAIN = map(os.path.abspath, sys.argv[1:3])
HARDWARE = "--hardware" in sys.argv
VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|MASTER_|CONVOY_|LD_PRELOAD|CUDA_VISIBLE_DEVICES)")
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if not VARIABLES.match(k)}, "OMP_NUM_THREADS": "1"}
if HARDWARE:
    ENVIRONMENT["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
# mesh, options, seed of the rehearsal
CELLS = (
    ("dp=1", [], 0),
    ("dp=1", ["--recompute", "selective", "--dropout", "0.1"], 1),
    ("tp=2,pp=2,dp=2", ["--sequence-parallel", "--zero"], 0),
    ("tp=2,pp=2", ["--sequence-parallel", "--recompute", "full"], 3),
    ("pp=4", ["--microbatches", "4"], 2),
    ("pp=2,dp=2", ["--schedule", "interleaved", "--microbatches", "2", "--zero"], 5),
    ("tp=3", ["--dropout", "0.1"], 7),
)


def run(words: list[str], code: int = 0, **more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=ENVIRONMENT | more, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"{words}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    return done


def result(done: subprocess.CompletedProcess) -> dict:
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"mesh"')))


def job(folder: str, mesh: str, options: list[str], rehearsal: list[str]) -> list[str]:
    ranks = eval(re.sub(r"\w+=", "", mesh).replace(",", "*"))  # noqa: S307  "tp=2,pp=2" to 4
    return [CONVOY, "run", "-n", str(ranks), "--mesh", mesh, "--no-prefix", "--output", folder + "/out", *rehearsal, "--", TRAIN,
            "--data", folder + "/text.tokens", "--steps", "3", "--batch", "8", "--sequence", "24", "--json", "--no-baseline",
            *options]


def rehearsal(seed: int = 0) -> list[str]:
    return [] if HARDWARE else ["--rehearse", "--seed", str(seed)]


def losses_equal_the_cpus(folder: str) -> None:
    for mesh, options, seed in CELLS:
        options = [*options, "--dtype", "float64", "--sample", "5"]
        cpu = result(run(job(folder, mesh, options, [])))
        gpu = result(run(job(folder, mesh, [*options, "--device", "cuda"], rehearsal(seed))))
        for key in ("loss", "validation_loss", "grad_norm"):
            # As they are printed: 9 digits.
            assert abs(cpu[key] - gpu[key]) <= 2e-8 * abs(cpu[key]), (mesh, options, key, cpu[key], gpu[key])
        print(f"  {mesh} {' '.join(options)}: loss {gpu['loss']} on both", flush=True)


def narrow_types_are_near_the_cpus(folder: str) -> None:
    for dtype, bound in (("float32", 2e-5), ("bfloat16", 2e-2)):
        options = ["--dtype", dtype, "--sample", "0", "--zero"]
        cpu = result(run(job(folder, "tp=2,dp=2", options, [])))
        gpu = result(run(job(folder, "tp=2,dp=2", [*options, "--device", "cuda"], rehearsal())))
        assert abs(cpu["loss"] - gpu["loss"]) <= bound * cpu["loss"], (dtype, cpu, gpu)


def nccls_groups_are_those_of_the_mesh(folder: str) -> None:
    """The profiler plugin's, by name, kind and ranks of the job; each operation is complete on all members."""
    if not (pathlib.Path(CONVOY).parents[2] / "libconvoy_cluster.so").exists():
        return  # a build without gRPC
    words = job(folder, "tp=2,dp=2", ["--device", "cuda", "--sample", "0"], [*rehearsal(), "--trace=" + folder + "/trace"])
    done = run(words, NCCL_PROFILER_PLUGIN="STATIC_PLUGIN")
    report = pathlib.Path(folder, "trace", "report.html").read_text()
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', report, re.S)[1])
    found = {}
    for group in data["/api/groups"]["groups"]:
        name = re.sub(r" [0-9a-f]+$", "", group["name"])
        if name.startswith("nccl/"):
            found[name] = (group["kind"], group["first_rank"], group["size"])
            assert group["completed"] == group["latest"] > 0, group
    expected = {"tp[0]": ("tp", 0, 2), "tp[1]": ("tp", 2, 2), "dp[0]": ("dp", 0, 2), "dp[1]": ("dp", 1, 2), "tp×dp[0]": ("world", 0, 4)}
    assert found == {"nccl/convoy/0/" + name: facts for name, facts in expected.items()}, (found, done.stderr)


def what_users_get_wrong_is_said(folder: str) -> None:
    cuda = ["--device", "cuda", "--sample", "0"]
    done = run(job(folder, "dp=2", cuda, []), code=78)
    assert re.search(r"error: rank 0 \(local rank 0\) finds no GPU.*--rehearse", done.stderr), done.stderr
    done = run(job(folder, "dp=2", cuda, ["--rehearse", "--gpus", "1"]), code=78)
    assert "error: rank 1 (local rank 1) needs a GPU of its own, but this machine has 1" in done.stderr, done.stderr
    done = run([TRAIN, "--data", "x", "--device", "tpu"], code=64)
    assert "--device" in done.stderr and "cuda" in done.stderr, done.stderr
    done = run(job(folder, "dp=2", ["--sample", "0"], ["--rehearse"]), code=76)
    assert "nothing rehearsed" in done.stderr, done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="convoy-test-") as folder:
        text = pathlib.Path(folder, "text.txt")
        text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(900)))
        run([CONVOY, "data", "prepare", str(text), "-o", folder + "/text.tokens"])
        checks = [losses_equal_the_cpus, narrow_types_are_near_the_cpus]
        for check in checks if HARDWARE else [*checks, nccls_groups_are_those_of_the_mesh, what_users_get_wrong_is_said]:
            check(folder)
            print("ok:", check.__name__.replace("_", " "), flush=True)


if __name__ == "__main__":
    main()
