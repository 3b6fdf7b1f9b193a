#!/usr/bin/env python3
"""Another mesh, and a drain, on real GPUs: elastic.py CONVOY TRAIN_LLAMA [--cpu]

Method: as recover_elastic_test.py, with two launchers of two ranks on one machine, tp=2 pp=2 over NCCL. One is killed, comes back and is
drained: the other's processes must stay, be in another mesh each time, and lose no step where the change was planned. Losses are those of
an undisturbed run on the same GPU but for the order of sums. --cpu: the same without a GPU, to try the script.
"""
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import recover_nodes_test  # noqa: E402

recover_nodes_test.RANKS = 2  # of a launcher: more would take turns on one GPU
from recover_elastic_test import CONVOY, SAVES, compare, prepare_text  # noqa: E402
from recover_nodes_test import AT, FOR_EVER, Job  # noqa: E402

MESH, ALONE = "tp=2,pp=2", "tp=2,pp=1"


def run(folder: pathlib.Path, device: list[str]) -> None:
    undisturbed = Job(folder, "undisturbed", mesh=MESH, steps=FOR_EVER, options=device)
    undisturbed.await_step(60)
    undisturbed.stop()
    job = Job(folder, "job", mesh=MESH, steps=FOR_EVER, options=[*device, *SAVES])
    job.await_step(AT)
    job.await_ranks(4)
    job.second.kill()
    job.first.await_generation(1, "training")
    assert job.status()["mesh"] == ALONE, job.status()
    job.second = job.machines[1] = job.second.again()
    job.first.await_generation(2, "training")
    assert job.await_ranks(4)["mesh"] == MESH, job.status()
    job.await_step(job.status()["step"] + 3)
    job.await_ranks(4)
    asked = subprocess.run([CONVOY, "drain", "1", str(job.first.out)], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, f"{asked.stderr}\n{job.text()}"
    assert job.second.job.wait(timeout=60) == 0, job.text()
    job.first.await_generation(3, "training")
    job.await_step(job.status()["step"] + 3)
    job.stop((130, 0))
    compare(job, undisturbed, 15)
    for record, what in zip(job.first.incidents(), ("killed", "back", "drained"), strict=True):
        assert record["action"] == "reshape" and record["processes_kept"] == 2, record
        assert record["steps_lost"] <= (8 if what == "killed" else 0), record
        print(f"  {what}: {record['steps_lost']} steps lost, groups left after {record['ready_s']:.2f} s, back in {record['first_step_s']:.2f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare_text(folder)
        try:
            run(folder, [] if "--cpu" in sys.argv else ["--device", "cuda"])
        finally:
            Job.end_all()


if __name__ == "__main__":
    main()
