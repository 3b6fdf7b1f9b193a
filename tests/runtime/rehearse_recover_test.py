#!/usr/bin/env python3
"""A job on simulated GPUs that goes on: rehearse_recover_test.py CONVOY TRAIN_LLAMA

Method: `train_llama --device cuda` over NCCL groups on the stand-in, once undisturbed and once with SIGKILL of a rank in the middle.
Survivors must abort their communicators, form new ones in the same processes and take no step twice; loss, gradient norm and
validation loss must be those of the undisturbed run to the last digit, and the rehearsal must find nothing: no use of memory that an
aborted communicator may still read, no leak. Says nothing of real NCCL's own behaviour when a peer dies.
"""
import os
import pathlib
import signal
import tempfile

from recover_test import NUMBERS, Run, prepare_text

STEPS, AT = 24, 6
# mesh, who is killed, seed of the rehearsal, options of the launcher
CASES = (
    ("tp=2,dp=2", 3, 0, []),
    ("pp=2,dp=2", 0, 0, ["--spares", "1"]),
    ("tp=2,pp=2,dp=2", 5, 2, []),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        prepare_text(folder)
        for mesh, victim, seed, options in CASES:
            launcher = ["--rehearse", "--seed", str(seed), *options]
            reference = Run(folder, f"quiet-{mesh}", mesh, launcher, ["--device", "cuda"], STEPS).end()
            run = Run(folder, f"killed-{mesh}", mesh, launcher, ["--device", "cuda"], STEPS)
            run.await_step(AT)
            os.kill(run.pid(victim), signal.SIGKILL)
            result, records = run.end(), run.incidents()
            for key in NUMBERS:
                assert result[key] == reference[key], f"{mesh}: {key}: {result[key]}, undisturbed {reference[key]}\n{run.text()}"
            assert len(records) == 1 and records[0]["survived"] and records[0]["steps_lost"] == 0, records
            assert records[0]["processes_kept"] == run.ranks - 1, records
            assert "rehearsal: nothing found" in run.text(), run.text()
            print(f"  {mesh}, seed {seed}, rank {victim} killed: back in {records[0]['first_step_s']:.2f} s", flush=True)


if __name__ == "__main__":
    main()
