#!/usr/bin/env python3
"""A job on simulated GPUs that goes on: rehearse_recover_test.py CONVOY TRAIN_LLAMA [--hardware]

Method: `train_llama --device cuda` over NCCL groups on the stand-in, once undisturbed and once with SIGKILL of a rank in the middle.
Survivors must abort their communicators, form new ones in the same processes and take no step twice; loss, gradient norm and
validation loss must be those of the undisturbed run to the last digit, and the rehearsal must find nothing: no use of memory that an
aborted communicator may still read, no leak. That says nothing of real NCCL's own behaviour when a peer dies: with --hardware the
ranks share real GPUs where there are fewer (make gpu-check), one of them is also halted, and numbers may differ in the last digits.
"""
import os
import pathlib
import signal
import sys
import tempfile

from recover_test import NUMBERS, Run, prepare_text

STEPS, AT = 24, 6
HARDWARE = "--hardware" in sys.argv
KILL, HALT = signal.SIGKILL, signal.SIGSTOP
# mesh, who is struck, by what, options of the launcher
CASES = (
    ("tp=2,dp=2", 3, KILL, ["--rehearse"]),
    ("pp=2,dp=2", 0, KILL, ["--rehearse", "--spares", "1"]),
    ("tp=2,pp=2,dp=2", 5, KILL, ["--rehearse", "--seed", "2"]),
)
HARDWARE_CASES = (
    ("dp=2", 1, KILL, []),
    ("dp=2", 0, KILL, ["--spares", "1"]),
    ("dp=2", 1, HALT, ["--spares", "1"]),
    ("tp=2,dp=2", 3, KILL, ["--spares", "1"]),
    ("pp=2,dp=2", 0, KILL, []),
)


def are_same(found: float, expected: float) -> bool:
    return abs(found - expected) <= (1e-9 * abs(expected) if HARDWARE else 0)


def check(folder: pathlib.Path, name: str, mesh: str, victim: int, fault: int, launcher: list[str], reference: dict) -> None:
    run = Run(folder, name, mesh, launcher, ["--device", "cuda"], STEPS)
    run.await_step(AT)
    os.kill(run.pid(victim), fault)
    result, records = run.end(), run.incidents()
    for key in NUMBERS:
        assert are_same(result[key], reference[key]), f"{mesh}: {key}: {result[key]}, undisturbed {reference[key]}\n{run.text()}"
    assert len(records) == 1 and records[0]["survived"] and records[0]["steps_lost"] == 0, records
    assert records[0]["processes_kept"] == run.ranks - 1, records
    assert HARDWARE or "rehearsal: nothing found" in run.text(), run.text()
    print(f"  {mesh} {' '.join(launcher)}: signal {fault} to rank {victim}: the others had left their groups after "
          f"{records[0]['ready_s']:.2f} s, back in {records[0]['first_step_s']:.2f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        prepare_text(folder)
        for number, (mesh, victim, fault, launcher) in enumerate(HARDWARE_CASES if HARDWARE else CASES):
            reference = Run(folder, f"quiet-{number}", mesh, launcher, ["--device", "cuda"], STEPS).end()
            check(folder, f"struck-{number}", mesh, victim, fault, launcher, reference)


if __name__ == "__main__":
    main()
