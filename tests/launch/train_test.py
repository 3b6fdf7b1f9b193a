"""train_llama under torchrun, mpirun and srun: train_test.py LAUNCHER CONVOY TRAIN_LLAMA

Method: prepare a small text and train a few steps with tp=2 dp=2 under `convoy run` and under the launcher named. The
result that rank 0 prints must be the same to the last digit: same mesh, same data, same sums. Slurm is started for the
test, as in launchers_test.py. Exit code 77 means that the launcher is not installed. Several machines are not checked.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

import launchers_test as launchers

RANKS = 4
# One thread a rank; the loopback for the launchers' own traffic.
SETTINGS = {"OMP_NUM_THREADS": "1", "CONVOY_MESH": "tp=2,dp=2", "CONVOY_TIMEOUT": "60s"}
COMPARED = ("mesh", "steps", "loss", "grad_norm", "validation_loss")


def result(output):
    """The JSON line of rank 0; other ranks say nothing, and a second result would mean several jobs."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"mesh"')]
    assert len(found) == 1, f"{len(found)} results"
    return {name: found[0][name] for name in COMPARED}


def under_torchrun(program):
    return launchers.run([*launchers.torchrun(), "--nproc-per-node", str(RANKS), "--master-addr", "127.0.0.1",
                          "--master-port", str(launchers.free_port()), "--no-python", *program], **SETTINGS)


def under_mpirun(program):
    if shutil.which("mpirun") is None:
        launchers.skip("no mpirun")
    return launchers.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(RANKS),
                          *program], **SETTINGS)


def under_srun(program):
    with launchers.slurm() as cluster:
        return launchers.run(["srun", "-n", str(RANKS), *program], SLURM_CONF=str(cluster.config), **SETTINGS)


def main():
    start = {"torchrun": under_torchrun, "mpirun": under_mpirun, "srun": under_srun}[sys.argv[1]]
    convoy, train = map(os.path.abspath, sys.argv[2:4])
    with tempfile.TemporaryDirectory(prefix="convoy-train-") as folder:
        text = pathlib.Path(folder, "text.txt")
        text.write_text("".join(f"{i} sheep and {i * i} stars went by the sea.\n" for i in range(600)))
        data = f"{folder}/text.tokens"
        launchers.run([convoy, "data", "prepare", str(text), "-o", data])
        program = [train, "--data", data, "--steps", "3", "--batch", "8", "--sequence", "24", "--zero",
                   "--sequence-parallel", "--no-baseline", "--sample", "0", "--json"]
        # First, so that a launcher that is missing is told quickly.
        found = result(start(program))
        expected = result(launchers.run([convoy, "run", "-n", str(RANKS), "--no-prefix", "--output", folder + "/out",
                                         "--", *program], **SETTINGS))
        assert found == expected, f"{sys.argv[1]}: {found}\nconvoy run: {expected}"
        assert expected["mesh"] == SETTINGS["CONVOY_MESH"] and expected["steps"] == 3, expected


if __name__ == "__main__":
    main()
    print("ok")
